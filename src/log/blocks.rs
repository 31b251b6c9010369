//! Blocks in the tree: cut into parts when they are written, put together and verified when read.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::block::Block;
use super::keys::{self, BlockKey};
use super::touches::Touches;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::topic::{TopicId, TopicName};

/// Largest value in the tree, in bytes. A larger block is stored in parts of this size.
const MAX_PART_BYTES: usize = 32 << 10;

/// Whether `block` is stored as a single value.
pub(super) fn is_one_part(block: &Block) -> bool {
    block.bytes().len() <= MAX_PART_BYTES
}

/// The keys and values that `block` is stored as.
pub(super) fn parts(topic: TopicId, block: &Block) -> impl Iterator<Item = (BlockKey, &[u8])> {
    let first = block.first_sequence();
    block.bytes().chunks(MAX_PART_BYTES).enumerate().map(move |(part, bytes)| {
        let part = u16::try_from(part).expect("limits keep a block under 2 GiB");
        (keys::block(topic, first, part), bytes)
    })
}

/// The blocks of one topic that begin in a range of sequences, in order, each verified.
///
/// Yields [`Error::Damaged`] in place of a block that does not fit, and goes on after it.
pub(super) struct Blocks {
    topic: TopicName,
    tree: sled::Tree,
    touches: Touches,
    /// Whether nothing can be read after an unreadable page.
    is_over: bool,
    entries: Peekable<sled::Iter>,
    /// The end of the range: damage is not looked for beyond.
    end: Sequence,
    /// The sequence after the last block that was read, to say what an unreadable page held.
    expected: Sequence,
}

impl Blocks {
    /// Reads the blocks of `topic`, whose name is told with any damage.
    pub(super) fn new(
        tree: &sled::Tree,
        topic: TopicId,
        name: TopicName,
        sequences: Range<Sequence>,
    ) -> Self {
        let (expected, end) = (sequences.start, sequences.end);
        let entries = tree.range(keys::blocks(topic, sequences)).peekable();
        let (tree, touches) = (tree.clone(), Touches::default());
        Self { topic: name, tree, touches, is_over: false, entries, end, expected }
    }

    /// Takes the parts that follow the first one of the same block.
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

    fn damaged(&mut self, first: Sequence, problem: String) -> Error {
        while self.entries.next_if(|entry| is_part_of(entry, first)).is_some() {}
        let next = match self.entries.peek() {
            Some(Ok((key, _))) => keys::parse_block(key).map(|(_, next, _)| next),
            _ => None,
        };
        // With nothing behind it, the range's end says where it ends; an open range does not.
        let open_end = self.end.get() == u64::MAX;
        let last = next.or((!open_end).then_some(self.end)).unwrap_or(first.next());
        let last = last.previous().max(first);
        self.expected = last.next();
        Error::Damaged { topic: self.topic.clone(), first, last, problem }
    }
}

fn is_part_of(entry: &sled::Result<(sled::IVec, sled::IVec)>, first: Sequence) -> bool {
    let Ok((key, _)) = entry else { return false };
    keys::parse_block(key).is_some_and(|(_, owner, part)| owner == first && part > 0)
}

impl Iterator for Blocks {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        if self.is_over {
            return None;
        }
        let (key, start) = match self.entries.next()? {
            Ok(entry) => entry,
            Err(sled::Error::Corruption { .. }) => {
                self.is_over = true; // sled's iterator stays there, and says the same for ever.
                let problem = "the page that holds them is unreadable".to_owned();
                return Some(Err(self.damaged(self.expected, problem)));
            }
            Err(error) => {
                self.is_over = true;
                return Some(Err(read_failed(error)));
            }
        };
        let Some((_, first, part)) = keys::parse_block(&key) else {
            let problem = format!("unknown key {key:?}");
            return Some(Err(self.damaged(self.expected, problem)));
        };
        if part != 0 {
            return Some(Err(self.damaged(first, "part 0 is missing".to_owned())));
        }
        self.touches.passed(&self.tree, &key, start.len());
        let block = self.whole(first, start).and_then(Block::decode);
        let block = block.and_then(|block| match block.first_sequence() == first {
            true => Ok(block),
            false => Err(format!("the block says that it begins at {}", block.first_sequence())),
        });
        Some(match block {
            Ok(block) => {
                self.expected = block.last_sequence().next();
                Ok(block)
            }
            Err(problem) => Err(self.damaged(first, problem)),
        })
    }
}

/// A sled error that is no damage, as ours.
pub(super) fn read_failed(error: sled::Error) -> Error {
    Error::ReadFailed(Arc::new(error))
}

/// A sled error as a sentence for people.
pub(super) fn in_words(error: &sled::Error) -> String {
    match error {
        sled::Error::Corruption { .. } => {
            "its files are damaged, so that not even their structure can be read; put back a copy \
             of the whole directory"
                .to_owned()
        }
        other => other.to_string(),
    }
}
