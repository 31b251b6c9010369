//! Blocks in the tree: they are cut into parts when they are written, and put together and verified
//! when they are read.

use std::iter::Peekable;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::engine::unreadable;
use super::keys::{self, BlockKey};
use super::touches::Touches;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::block::Block;
use crate::log::stored_block::MAX_PART_BYTES;
use crate::topic::{TopicId, TopicName};

/// The end of a range of sequences without an end.
pub(super) const END: Sequence = Sequence::new(u64::MAX);

/// Returns the keys and values as which `block` is stored.
pub(super) fn parts(topic: TopicId, block: &Block) -> impl Iterator<Item = (BlockKey, &[u8])> {
    let first = block.first_sequence();
    block.bytes().chunks(MAX_PART_BYTES).enumerate().map(move |(part, bytes)| {
        let part = u16::try_from(part).expect("limits keep a block under 2 GiB");
        (keys::block(topic, first, part), bytes)
    })
}

/// A key with its value, or the error why they cannot be read.
pub(super) type TreeEntry = sled::Result<(sled::IVec, sled::IVec)>;

/// The entries of blocks' parts, without fillers.
type TreeEntries = std::iter::Filter<sled::Iter, fn(&TreeEntry) -> bool>;

/// Returns the entries of `found` up to the first error, which is included. After an error sled's
/// iterator does not go on, and returns the same error for ever.
pub(super) fn until_error(found: sled::Iter) -> impl Iterator<Item = TreeEntry> {
    found.scan(false, |is_over, entry| {
        (!std::mem::replace(is_over, entry.is_err())).then_some(entry)
    })
}

/// Returns the entries of the blocks of a topic that begin in `sequences`.
pub(super) fn entries(
    tree: &sled::Tree,
    topic: TopicId,
    sequences: Range<Sequence>,
) -> Peekable<TreeEntries> {
    let is_part: fn(&TreeEntry) -> bool =
        |entry| !matches!(entry, Ok((key, _)) if keys::is_filler(key));
    tree.range(keys::blocks(topic, sequences)).filter(is_part).peekable()
}

/// The blocks of one topic that begin in a range of sequences, in order, each verified.
///
/// For a block that is damaged or missing, yields [`Error::Damaged`], and goes on after it.
pub(super) struct TreeBlocks {
    id: TopicId,
    topic: TopicName,
    tree: sled::Tree,
    touches: Touches,
    /// Whether no more blocks can be read.
    is_over: bool,
    entries: Peekable<TreeEntries>,
    /// The end of the range, beyond which no block is missed; `None` for a range without an end.
    end: Option<Sequence>,
    /// The beginning of the range.
    start: Sequence,
    /// The sequence at which the next block begins, if no block is missing; `None` before the first
    /// block.
    expected: Option<Sequence>,
}

impl TreeBlocks {
    /// Returns the blocks of `topic` that begin in `sequences`. The first block may begin anywhere
    /// in it. Errors about damage have the topic's name.
    pub(super) fn new(
        tree: &sled::Tree,
        id: TopicId,
        topic: TopicName,
        sequences: Range<Sequence>,
    ) -> Self {
        let Range { start, end } = sequences.clone();
        let end = Some(end).filter(|end| *end != END);
        let entries = entries(tree, id, sequences);
        let (tree, touches, is_over, expected) = (tree.clone(), Touches::default(), false, None);
        Self { id, topic, tree, touches, is_over, entries, start, end, expected }
    }

    /// Expects the first block to begin at `first`: if it begins later, a block is missing.
    pub(super) fn beginning_at(self, first: Sequence) -> Self {
        Self { expected: Some(first), ..self }
    }

    /// Returns the bytes of the block that begins with `start`, with its further parts from the
    /// entries.
    fn whole(&mut self, first: Sequence, start: sled::IVec) -> Result<Bytes, String> {
        let size_bytes = Block::size_of(&start)?;
        if size_bytes == start.len() {
            return Ok(Bytes::from_owner(start)); // The usual case: no copy.
        }
        let mut bytes = BytesMut::from(&start[..]);
        let mut expected_part = 1;
        while let Some(Ok((key, part))) = self.entries.next_if(|entry| is_part_of(entry, first)) {
            let number = keys::parse_block(&key).map_or(0, |(_, _, number)| number);
            if number != expected_part {
                return Err(format!("part {expected_part} is missing"));
            }
            self.touches.passed(&self.tree, &key, part.len());
            expected_part += 1;
            bytes.extend_from_slice(&part);
        }
        Ok(bytes.freeze())
    }

    /// Returns the sequence at which the next block that has a key begins.
    fn peek_first(&mut self) -> Option<Sequence> {
        match self.entries.peek() {
            Some(Ok((key, _))) => keys::parse_block(key).map(|(_, first, _)| first),
            _ => None,
        }
    }

    /// Returns the error for damaged events from `first` to the next block, or to the end of the
    /// range. Goes on after them.
    fn damaged(&mut self, first: Sequence, problem: String) -> Error {
        while self.entries.next_if(|entry| is_part_of(entry, first)).is_some() {}
        if let Some(Err(sled::Error::Corruption { .. })) = self.entries.peek() {
            return self.pass_unreadable_page(first);
        }
        let next = self.peek_first().or(self.end);
        self.expected = next;
        let last = next.map(|next| next.previous().max(first));
        Error::Damaged { topic: self.topic.clone(), first, last, problem }
    }

    /// Returns the damage if a block is missing before the next block, or before the end.
    fn missing(&mut self) -> Option<Error> {
        let expected = self.expected?;
        let is_missing = match self.entries.peek() {
            Some(Ok(_)) => self.peek_first().is_some_and(|first| first > expected),
            Some(Err(_)) => false, // The error tells it.
            None => self.end.is_some_and(|end| expected < end),
        };
        is_missing.then(|| self.damaged(expected, "no block holds them".to_owned()))
    }

    /// Goes on after a page that sled cannot read, which sled's own iterator never passes. Returns
    /// the error for the damaged events from `first` on.
    fn pass_unreadable_page(&mut self, first: Sequence) -> Error {
        let end = self.end.unwrap_or(END);
        let next = readable_after(first..end, |from| {
            let next = self.tree.range(keys::blocks(self.id, from..end)).next();
            !matches!(next, Some(Err(sled::Error::Corruption { .. })))
        });
        let next = match next {
            Some(next) => {
                self.entries = entries(&self.tree, self.id, next..end);
                self.peek_first().or(self.end)
            }
            None => self.end,
        };
        self.is_over = next == self.end;
        self.expected = next;
        unreadable_page(&self.topic, first, next.map(Sequence::previous))
    }

    fn next_block(&mut self, first: Sequence, part: u16, value: sled::IVec) -> Result<Block> {
        if part != 0 {
            return Err(self.damaged(first, "part 0 is missing".to_owned()));
        }
        let block = self.whole(first, value).and_then(Block::decode);
        let block = block.and_then(|block| match block.first_sequence() {
            said if said != first => Err(format!("the block says that it begins at {said}")),
            _ if self.expected.is_some_and(|expected| first < expected) => {
                Err("the block before it overlaps it".to_owned())
            }
            _ => Ok(block),
        });
        let block = block.map_err(|problem| self.damaged(first, problem))?;
        self.expected = Some(block.last_sequence().next());
        Ok(block)
    }
}

/// Returns the first of `sequences`, after the very first, from which pages can be read; `None` if
/// none can up to the end. It relies on a page holding neighbours. The steps get larger and larger,
/// so a few readable sequences between unreadable pages may be passed over.
fn readable_after(
    sequences: Range<Sequence>,
    is_readable: impl Fn(Sequence) -> bool,
) -> Option<Sequence> {
    let (mut unreadable, end) = (sequences.start.get(), sequences.end.get());
    let mut step = 1;
    let mut readable = loop {
        let at = unreadable.saturating_add(step).min(end);
        if at == unreadable {
            return None;
        }
        if at < end && is_readable(Sequence::new(at)) {
            break at;
        }
        (unreadable, step) = (at, step.saturating_mul(2));
    };
    while readable - unreadable > 1 {
        let middle = unreadable + (readable - unreadable) / 2;
        match is_readable(Sequence::new(middle)) {
            true => readable = middle,
            false => unreadable = middle,
        }
    }
    Some(Sequence::new(readable))
}

/// Returns the last sequence below `from` up to which pages can be read; `None` if none can down to
/// the first. It works as [`readable_after`], in the other direction.
pub(super) fn readable_before(
    from: Sequence,
    is_readable: impl Fn(Sequence) -> bool,
) -> Option<Sequence> {
    let mirrored = |sequence: Sequence| Sequence::new(u64::MAX - sequence.get());
    let sequences = mirrored(from)..mirrored(Sequence::BEFORE_ALL);
    readable_after(sequences, |sequence| is_readable(mirrored(sequence))).map(mirrored)
}

fn is_part_of(entry: &TreeEntry, first: Sequence) -> bool {
    let Ok((key, _)) = entry else { return false };
    keys::parse_block(key).is_some_and(|(_, owner, part)| owner == first && part > 0)
}

impl Iterator for TreeBlocks {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        if self.is_over {
            return None;
        }
        if let Some(error) = self.missing() {
            return Some(Err(error));
        }
        Some(match self.entries.next()? {
            Ok((key, value)) => match keys::parse_block(&key) {
                Some((_, first, part)) => {
                    self.touches.passed(&self.tree, &key, value.len());
                    self.next_block(first, part, value)
                }
                None => Err(Error::DamagedLog { problem: format!("unknown key {key:?}") }),
            },
            Err(sled::Error::Corruption { .. }) => {
                Err(self.pass_unreadable_page(self.expected.unwrap_or(self.start)))
            }
            Err(error) => {
                self.is_over = true;
                Err(unreadable(error))
            }
        })
    }
}

/// Returns the error for events whose page sled cannot read.
pub(super) fn unreadable_page(topic: &TopicName, first: Sequence, last: Option<Sequence>) -> Error {
    let problem = "the page that holds them is unreadable".to_owned();
    Error::Damaged { topic: topic.clone(), first, last: last.map(|last| last.max(first)), problem }
}
