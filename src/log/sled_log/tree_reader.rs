//! The reader of topics' blocks in the tree, some of which may be unreadable.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use super::blocks::{self, END, TreeBlocks};
use super::engine::unreadable;
use super::touches::Touches;
use super::{keys, lost_tail, records};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::block::Block;
use crate::log::extent::Extent;
use crate::log::read_ahead::ReadAhead;
use crate::log::stored_block::StoredBlock;
use crate::log::stored_topic::StoredTopic;
use crate::topic::{TopicId, TopicName};

/// The most times that a read is tried if it finds damage or a missing block.
const MAX_READ_ATTEMPTS: usize = 3;

/// The tree, and the names of the topics in it, for errors about damage.
#[derive(Debug)]
pub(super) struct TreeReader {
    tree: sled::Tree,
    names: RwLock<HashMap<TopicId, TopicName>>,
}

impl TreeReader {
    /// Returns a reader of `tree` that knows no topic yet.
    pub(super) fn new(tree: &sled::Tree) -> Self {
        Self { tree: tree.clone(), names: RwLock::default() }
    }

    /// Takes in the names of `topics`, which may have blocks from now on.
    pub(super) fn take_names(&self, topics: &[StoredTopic]) {
        if !topics.is_empty() {
            let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
            names.extend(topics.iter().map(|topic| (topic.id, topic.name.clone())));
        }
    }

    /// Whether the reader knows the topic.
    pub(super) fn knows(&self, topic: TopicId) -> bool {
        self.names.read().unwrap_or_else(PoisonError::into_inner).contains_key(&topic)
    }

    pub(super) fn name(&self, topic: TopicId) -> TopicName {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&topic).expect("a topic is named before it is read").clone()
    }

    fn blocks(&self, topic: TopicId, sequences: Range<Sequence>) -> TreeBlocks {
        TreeBlocks::new(&self.tree, topic, self.name(topic), sequences)
    }

    /// Returns the first sequence of the last block of `topic` that begins below `below`.
    fn last_block_below(&self, topic: TopicId, below: Sequence) -> Result<Option<Sequence>> {
        let entries = self.tree.range(..keys::block(topic, below, 0)).rev();
        let mut blocks = entries.skip_while(|e| matches!(e, Ok((key, _)) if keys::is_filler(key)));
        let found = blocks.next().transpose().map_err(|error| match error {
            sled::Error::Corruption { .. } => {
                let last = Some(below.previous()).filter(|_| below != END);
                blocks::unreadable_page(&self.name(topic), last.unwrap_or(Sequence::FIRST), last)
            }
            other => unreadable(other),
        })?;
        let parsed = found.and_then(|(key, _value)| keys::parse_block(&key));
        Ok(parsed.filter(|(owner, ..)| *owner == topic).map(|(_, first, _)| first))
    }

    /// Returns the first sequence of the last block of `topic` before the page that holds `from`,
    /// which sled cannot read. That block may reach as far as `from`.
    fn last_block_readable(&self, topic: TopicId, from: Sequence) -> Result<Option<Sequence>> {
        let below = blocks::readable_before(from.next(), |below| {
            !matches!(self.last_block_below(topic, below), Err(Error::Damaged { .. }))
        });
        below.map_or(Ok(None), |below| self.last_block_below(topic, below))
    }

    pub(super) fn read_topics(&self) -> Result<Vec<StoredTopic>> {
        let topics = records::read_topics(&self.tree).collect::<Result<Vec<_>>>()?;
        let topics = lost_tail::without_abandoned(topics).into_iter();
        topics.map(|topic| self.with_head(topic)).collect()
    }

    /// Returns a topic with the end that its newest block tells.
    pub(super) fn with_head(&self, topic: StoredTopic) -> Result<StoredTopic> {
        // When a deleted topic is published to again, its record changes.
        if topic.extent.is_damaged || topic.is_deleted {
            return Ok(topic);
        }
        let newest = match self.last_block_below(topic.id, END)? {
            Some(first) => self.blocks(topic.id, first..END).next().transpose()?,
            None => None,
        };
        let extent = newest.map_or(topic.extent, |block| topic.extent.with(&block));
        Ok(StoredTopic { extent, ..topic })
    }

    /// Returns a topic that ends with its last readable block.
    pub(super) fn with_readable_head(&self, topic: StoredTopic) -> Result<StoredTopic> {
        let mut below = END;
        let newest = loop {
            let first = match self.last_block_below(topic.id, below) {
                Err(Error::Damaged { .. }) => {
                    self.last_block_readable(topic.id, below.previous())?
                }
                found => found?,
            };
            let Some(first) = first else { break None };
            match self.blocks(topic.id, first..below).next().transpose() {
                Err(Error::Damaged { .. }) => below = first,
                block => break block?,
            }
        };
        // The end in the record is from a time without blocks, or older than the blocks.
        let head = newest.map_or(topic.extent, |block| topic.extent.with(&block));
        let tail = head.tail.max(topic.extent.tail).max(topic.extent.earliest);
        let last_position = head.last_position.max(topic.extent.last_position);
        let extent = Extent { tail, last_position, ..head };
        Ok(StoredTopic { extent, ..topic })
    }

    /// Reads blocks, as [`Log::read`] does.
    pub(super) fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        // A block that is rewritten while it is read may look damaged or missing for a moment: so
        // the read is tried again.
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.read_now(topic, from, below, max_bytes) {
                Err(Error::Damaged { .. }) if attempts < MAX_READ_ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    /// Reads blocks, as [`Log::read`] does, in one try.
    fn read_now(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        let first = match self.last_block_below(topic, from.next()) {
            Err(Error::Damaged { .. }) => self.last_block_readable(topic, from)?,
            found => found?,
        };
        let first = first.unwrap_or(from);
        let mut blocks = Vec::new();
        let mut size_bytes = 0;
        for block in self.blocks(topic, first..below).beginning_at(first) {
            let block = match block {
                Ok(block) if block.last_sequence() < from => continue,
                Ok(block) => block,
                Err(Error::Damaged { last: Some(last), .. }) if last < from => continue,
                Err(error) if blocks.is_empty() => return Err(error),
                Err(_reported_when_it_is_reached) => break,
            };
            size_bytes += block.bytes().len();
            if size_bytes > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(block);
            if size_bytes >= max_bytes {
                break;
            }
        }
        Ok(blocks)
    }

    /// Reads ahead, as [`Log::read_ahead`] does, in one go, if a block begins at the first of
    /// `sequences`. `None` if none does, or if it cannot be read.
    pub(super) fn read_ahead_from(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        before: Position,
        max_bytes: usize,
        more_bytes: usize,
    ) -> Option<ReadAhead> {
        let first = sequences.start;
        let mut found = ReadAhead { blocks: Vec::new(), wanted: 0, following: None };
        let (mut wanted_bytes, mut left_bytes) = (0, more_bytes);
        for block in self.blocks(topic, sequences).beginning_at(first) {
            let Ok(block) = block else { break };
            let size_bytes = block.bytes().len();
            wanted_bytes += size_bytes;
            let fits = block.first_position() < before && wanted_bytes <= max_bytes;
            if found.blocks.is_empty() || (fits && found.wanted == found.blocks.len()) {
                found.wanted += 1;
            } else if let Some(left) = left_bytes.checked_sub(size_bytes) {
                left_bytes = left;
            } else {
                found.following = Some(block.first_position());
                break;
            }
            found.blocks.push(block);
        }
        (!found.blocks.is_empty()).then_some(found)
    }

    /// Lists blocks, as [`Log::stored_blocks`] does.
    pub(super) fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        let Range { start, end } = sequences;
        let mut found: Vec<StoredBlock> = Vec::new();
        let mut current: Option<StoredBlock> = None;
        let mut parts = 0;
        let mut touches = Touches::default();
        for entry in blocks::entries(&self.tree, topic, sequences) {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(sled::Error::Corruption { .. }) => {
                    let first = found.last().map_or(start, |block| block.end);
                    return Err(blocks::unreadable_page(
                        &self.name(topic),
                        first,
                        Some(end.previous()),
                    ));
                }
                Err(error) => return Err(unreadable(error)),
            };
            let Some((_, first, part)) = keys::parse_block(&key) else { continue };
            match current {
                None => touches.alone(&self.tree, &key, value.len()),
                Some(_) => touches.passed(&self.tree, &key, value.len()),
            }
            match &mut current {
                Some(block) if block.first == first => {
                    block.parts = usize::from(part) + 1;
                    block.size_bytes += value.len() as u64;
                }
                _ => {
                    if let Some(block) = current.replace(StoredBlock::begin(first, &value)) {
                        parts += block.parts;
                        found.push(block.ending_at(first));
                        if parts >= max_parts {
                            return Ok(found);
                        }
                    }
                }
            }
        }
        found.extend(current.map(|block| block.ending_at(end)));
        Ok(found)
    }

    /// Finds the last event below a sequence, as [`Log::last_below`] does.
    pub(super) fn last_below(
        &self,
        topic: &StoredTopic,
        sequence: Sequence,
    ) -> Result<(Position, Timestamp)> {
        let extent = &topic.extent;
        let block = match self.last_block_below(topic.id, sequence) {
            Ok(Some(first)) => self.blocks(topic.id, first..sequence).next().transpose(),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let before = |block: Block| (block.first_position().previous(), block.first_time());
        match block {
            Ok(Some(block)) => {
                let below = block.events().take_while(|event| event.sequence < sequence).last();
                let below = below.map(|event| (event.position, event.time));
                Ok(below.unwrap_or_else(|| before(block)))
            }
            Ok(None) => Ok((extent.trimmed_position, extent.trimmed_time)),
            Err(Error::Damaged { .. }) => {
                let next = self.blocks(topic.id, sequence..END).find_map(Result::ok);
                Ok(next.map_or((extent.last_position, extent.last_time), before))
            }
            Err(error) => Err(error),
        }
    }
}
