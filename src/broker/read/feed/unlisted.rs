//! The topics that a feed from the earliest event on has not looked at yet, in the order in which
//! it looks at them.

use std::collections::HashSet;
use std::sync::Arc;

use crate::broker::topic::chunks::{TopicChunk, TopicChunks, chunk_of};
use crate::broker::topic::entry::Topic;
use crate::cursor::Position;
use crate::topic::TopicId;

/// The number of topics that are looked at before other tasks have a turn on the thread.
const TOPICS_PER_TURN: usize = 256;

/// Chunks of topics, each with a lower bound on the positions of its events.
#[derive(Debug)]
pub(super) struct Unlisted {
    /// The chunks with their bounds. The chunk with the lowest bound is the last of the list.
    chunks: Vec<(Position, Arc<TopicChunk<Topic>>)>,
    /// The numbers of the chunks.
    numbers: HashSet<u32>,
    /// The number of topics of the first chunk that were looked at, and the lowest position of
    /// their events.
    looked: usize,
    lowest: Position,
    /// The number of topics that are not looked at yet, that were looked at, and that were looked
    /// at and are followed.
    left: usize,
    seen: usize,
    followed: usize,
    /// An upper bound on the positions of events that had been dropped, from any topic, at the
    /// beginning.
    dropped: Position,
}

impl Unlisted {
    /// Returns all topics that may have something up to `known`.
    pub(super) fn of(chunks: &TopicChunks<Topic>, known: Position) -> Self {
        let all = chunks.all();
        // Chunks without any event left count, too.
        let dropped = all.iter().map(|chunk| chunk.dropped()).max();
        let dropped = dropped.unwrap_or(Position::BEFORE_ALL);
        let chunks = all.into_iter().map(|chunk| (chunk.lowest(), chunk));
        let mut chunks: Vec<_> = chunks.filter(|(lowest, _)| *lowest <= known).collect();
        chunks.sort_by(|(one, _), (other, _)| other.cmp(one));
        let numbers = chunks.iter().map(|(_, chunk)| chunk.number).collect();
        let left = chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        let lowest = Position::new(u64::MAX);
        Self { chunks, numbers, looked: 0, lowest, left, seen: 0, followed: 0, dropped }
    }

    /// Returns a lower bound on the positions of all events of these topics; `None` when there are
    /// no more topics.
    pub(super) fn first(&self) -> Option<Position> {
        self.chunks.last().map(|(lowest, _)| *lowest)
    }

    /// Returns an upper bound on the positions of events that had been dropped at the beginning.
    pub(super) fn dropped(&self) -> Position {
        self.dropped
    }

    /// Returns whether the chunk of a topic is among these. The topic may be a new one.
    pub(super) fn holds(&self, id: TopicId) -> bool {
        self.numbers.contains(&chunk_of(id))
    }

    /// Returns an estimate of the number of followed topics that are left.
    pub(super) fn expected(&self) -> usize {
        match self.seen {
            0 => self.left,
            seen => (self.left as u64 * self.followed as u64 / seen as u64) as usize,
        }
    }

    /// Looks at the next topics, some hundreds at the most, and returns those that are `followed`.
    pub(super) fn take(&mut self, followed: impl Fn(&Topic) -> bool) -> Vec<Arc<Topic>> {
        let mut taken = Vec::new();
        let enough = self.seen + TOPICS_PER_TURN;
        while self.seen < enough
            && let Some((_, chunk)) = self.chunks.last()
        {
            let Some(some) = chunk.after(self.looked) else {
                chunk.raise_lowest(self.lowest);
                self.numbers.remove(&chunk.number);
                self.chunks.pop();
                (self.looked, self.lowest) = (0, Position::new(u64::MAX));
                break;
            };
            let lowest = some.iter().map(|topic| topic.state().extent.lowest_position());
            self.lowest = lowest.fold(self.lowest, Position::min);
            self.looked += some.len();
            self.seen += some.len();
            self.left = self.left.saturating_sub(some.len());
            let before = taken.len();
            taken.extend(some.into_iter().filter(|topic| followed(topic)));
            self.followed += taken.len() - before;
        }
        taken
    }
}
