//! The log in memory: for tests, and for programs that embed a broker and need no disk. Its events
//! are gone with the process, so acknowledgements say the durability `memory`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::applied::Applied;
use super::block::Block;
use super::contract::Log;
use super::group::Group;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::topic::TopicId;

/// A log that keeps its blocks in an ordered map.
#[derive(Debug)]
pub struct MemoryLog {
    epoch: Epoch,
    state: RwLock<MemoryState>,
}

#[derive(Debug, Default)]
struct MemoryState {
    topics: BTreeMap<TopicId, StoredTopic>,
    blocks: BTreeMap<(TopicId, Sequence), Block>,
    ids: BTreeMap<(TopicId, Sequence), Block>,
    applied: Option<Applied>,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self { epoch: Epoch::new(rand::random()), state: RwLock::default() }
    }
}

impl MemoryLog {
    fn state(&self) -> RwLockReadGuard<'_, MemoryState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, MemoryState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for MemoryLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn durability(&self, _asked: Durability) -> Durability {
        Durability::Memory
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        Ok(self.state().topics.values().cloned().collect())
    }

    fn ids(&self) -> Result<Vec<(TopicId, Block)>> {
        let state = self.state();
        Ok(state.ids.iter().map(|((id, _), block)| (*id, block.clone())).collect())
    }

    fn applied(&self) -> Result<Option<Applied>> {
        Ok(self.state().applied)
    }

    fn commit(&self, group: &Group) -> Result<()> {
        let mut state = self.state_mut();
        state.applied = group.applied.or(state.applied);
        for topic in &group.topics {
            state.topics.insert(topic.id, topic.clone());
        }
        for (id, block) in &group.removed {
            state.blocks.remove(&(*id, block.first));
        }
        for (id, block) in &group.appended {
            let topic = state.topics.get_mut(id).expect("a topic is noted with its first block");
            topic.extent = topic.extent.with(block);
        }
        for (id, block) in group.rewritten.iter().chain(&group.appended) {
            state.blocks.insert((*id, block.first_sequence()), block.clone());
        }
        for forgotten in &group.forgotten {
            state.ids.remove(forgotten);
        }
        for (id, block) in &group.ids {
            state.ids.insert((*id, block.first_sequence()), block.clone());
        }
        Ok(())
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        let state = self.state();
        let holds_from = state.blocks.range((topic, Sequence::new(0))..=(topic, from)).next_back();
        let holding = holds_from.filter(|(_, block)| block.last_sequence() >= from);
        let Some(((_, first), _)) = holding else {
            let next = state.blocks.range((topic, from)..(topic, below.max(from))).next();
            let last = Some(next.map_or(below, |((_, first), _)| *first).previous());
            let topic = state.topics.get(&topic).expect("a topic is noted before it is read");
            let (topic, problem) = (topic.name.clone(), "no block holds them".to_owned());
            return Err(Error::Damaged { topic, first: from, last, problem });
        };
        let first = *first;
        let mut left = max_bytes;
        let blocks = state.blocks.range((topic, first)..(topic, below.max(first)));
        let blocks = blocks.map(|(_, block)| block);
        let fitting = blocks.enumerate().take_while(|(index, block)| {
            let fits = *index == 0 || block.bytes().len() <= left;
            left = left.saturating_sub(block.bytes().len());
            fits
        });
        Ok(fitting.map(|(_, block)| block.clone()).collect())
    }

    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        let state = self.state();
        let blocks = state.blocks.range((topic, sequences.start)..(topic, sequences.end));
        let stored = blocks.take(max_parts.max(1)).map(|((_, first), block)| {
            let stored = StoredBlock::begin(*first, block.bytes());
            stored.ending_at(block.last_sequence().next())
        });
        Ok(stored.collect())
    }

    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)> {
        let state = self.state();
        let blocks = state.blocks.range((topic.id, Sequence::new(0))..(topic.id, sequence));
        let events = blocks.flat_map(|(_, block)| block.events());
        let last = events.take_while(|event| event.sequence < sequence).last();
        let trimmed = (topic.extent.trimmed_position, topic.extent.trimmed_time);
        Ok(last.map_or(trimmed, |event| (event.position, event.time)))
    }
}
