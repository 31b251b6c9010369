//! One of the topics that a feed has something to deliver of.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::waiting::WaitingTopic;
use crate::broker::tail::block::SharedBlock;
use crate::broker::topic::entry::Topic;
use crate::cursor::{Position, Sequence};
use crate::topic::TopicId;

/// Blocks of a topic, in their order.
pub(super) type SourceBlocks = VecDeque<Arc<SharedBlock>>;

/// A topic with something after the feed's place, and blocks of it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) topic: Arc<Topic>,
    pub(super) id: TopicId,
    /// The sequence that comes next in it.
    pub(super) next: Sequence,
    /// The blocks that were read, from `next` on.
    pub(super) blocks: SourceBlocks,
    /// No event after these has a lower position, if that is known.
    pub(super) following: Option<Position>,
    /// Whether the reader holds no key of it: it came before all there is, and has read nothing.
    pub(super) is_unread: bool,
}

impl Source {
    /// Returns the bytes of the blocks that it holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.blocks.iter().map(|shared| shared.size_bytes()).sum()
    }

    /// Goes to its next event, and tells its position, as far as that was read.
    pub(super) fn skip_to_next(&mut self) -> Option<Position> {
        while let Some(shared) = self.blocks.front() {
            let block = shared.block();
            let found = block.events().find(|event| event.sequence >= self.next);
            if let Some((sequence, position)) = found.map(|e| (e.sequence, e.position)) {
                self.next = sequence;
                return Some(position);
            }
            self.next = self.next.max(block.last_sequence().next());
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
        let (shared, next) = (self.blocks.front()?.clone(), self.next);
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
        self.next = below;
        self.is_unread = false;
        Some((shared, next..below, last))
    }

    /// As one of which nothing is held, and nothing comes before `at`.
    pub(super) fn waiting(self, at: Position) -> WaitingTopic {
        let Self { id, topic, next, is_unread, .. } = self;
        WaitingTopic { at, id, topic, next: Some(next), is_unread }
    }
}
