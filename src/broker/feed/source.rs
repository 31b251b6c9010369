//! One of the topics that a feed has something to deliver of.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::super::tail::SharedBlock;
use super::super::topics::Topic;
use crate::cursor::{Position, Sequence};

/// A topic with something after the feed's place.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) topic: Arc<Topic>,
    /// The sequence that comes next in it; `None` when it is not looked up yet.
    pub(super) next: Option<Sequence>,
    /// What was read of it, from `next` on.
    pub(super) blocks: VecDeque<Arc<SharedBlock>>,
}

impl Source {
    /// What it holds, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        self.blocks.iter().map(|shared| shared.block().bytes().len()).sum()
    }

    /// Goes to its next event, and tells its position, as far as that was read.
    pub(super) fn skip_to_next(&mut self) -> Option<Position> {
        let next = self.next?;
        while let Some(shared) = self.blocks.front() {
            let block = shared.block();
            let found = block.events().find(|event| event.sequence >= next);
            if let Some((sequence, position)) = found.map(|e| (e.sequence, e.position)) {
                self.next = Some(sequence);
                return Some(position);
            }
            self.next = Some(next.max(block.last_sequence().next()));
            self.blocks.pop_front();
        }
        None
    }

    /// Takes the events of its first block below `limit`: the block, their sequences, and the
    /// position of the last of them.
    pub(super) fn cut(
        &mut self,
        limit: Position,
    ) -> Option<(Arc<SharedBlock>, Range<Sequence>, Position)> {
        let (shared, next) = (self.blocks.front()?.clone(), self.next?);
        let events = shared.block().events().skip_while(|event| event.sequence < next);
        let mut below = shared.block().last_sequence().next();
        let mut last = Position::BEFORE_ALL;
        for event in events {
            if event.position >= limit {
                below = event.sequence;
                break;
            }
            last = event.position;
        }
        if below > shared.block().last_sequence() {
            self.blocks.pop_front();
        }
        self.next = Some(below);
        Some((shared, next..below, last))
    }
}
