//! A topic with events for a feed, and the blocks that are held of it.

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
    /// The sequence that comes next in the topic.
    pub(super) next: Sequence,
    /// The blocks that were read, from `next` on.
    pub(super) blocks: SourceBlocks,
    /// A lower bound on the positions of the events after these blocks, if it is known.
    pub(super) following: Option<Position>,
    /// Whether the reader holds no key of the topic: it came before all the topic's events, and has
    /// read none of them.
    pub(super) is_unread: bool,
}

impl Source {
    /// Returns the bytes of the blocks that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.blocks.iter().map(|shared| shared.size_bytes()).sum()
    }

    /// Moves to the next event of the blocks, and returns its position; `None` if the blocks have
    /// no more events.
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

    /// Takes the events of the first block at positions below `limit`. Returns the block, the range
    /// of their sequences, and the position of the last of them; `None` if no block is held.
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

    /// Lets go of the blocks, and returns the topic as one that waits, with no event before `at`.
    pub(super) fn waiting(self, at: Position) -> WaitingTopic {
        let Self { id, topic, next, is_unread, .. } = self;
        WaitingTopic { at, id, topic, next: Some(next), is_unread }
    }
}
