//! Chunks of topics with neighbouring ids. Each chunk knows the position at which its topics begin.
//!
//! ```text
//! ids         1 … 4,096   4,097 … 8,192   8,193 …
//! lowest          1           60,213       971,008      no event of the chunk is before that
//! dropped         0           70,000             0      nothing was dropped after that
//! ```
//!
//! # Why
//!
//! A reader of a hundred thousand topics from the first event on begins with a few of them. It need
//! not look at a topic before it comes to the topic's first position. Ids are given out as topics
//! are created, so the topics of a chunk begin at about the same position: one number says for
//! thousands of topics that it is not their turn yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use crate::cursor::Position;
use crate::log::Extent;
use crate::topic::TopicId;

/// The number of ids of one chunk. It is small in unit tests, so that a few topics make several
/// chunks.
const CHUNK_IDS: u32 = if cfg!(test) { 2 } else { 4_096 };

/// The topics that are copied while the lock of their chunk is held: some microseconds.
const TOPICS_PER_LOCK: usize = 64;

/// All topics that have an id, in chunks.
#[derive(Debug)]
pub(crate) struct TopicChunks<T> {
    by_number: RwLock<BTreeMap<u32, Arc<TopicChunk<T>>>>,
}

/// A chunk: topics with neighbouring ids.
#[derive(Debug)]
pub(crate) struct TopicChunk<T> {
    pub(crate) number: u32,
    topics: RwLock<Vec<Weak<T>>>,
    lowest: AtomicU64,
    dropped: AtomicU64,
}

/// Returns the number of the chunk that a topic is in.
pub(crate) fn chunk_of(id: TopicId) -> u32 {
    (id.get() - TopicId::FIRST.get()) / CHUNK_IDS
}

impl<T> Default for TopicChunks<T> {
    fn default() -> Self {
        Self { by_number: RwLock::default() }
    }
}

impl<T> TopicChunks<T> {
    /// Adds a topic that has got its id.
    pub(crate) fn add(&self, topic: &Arc<T>, id: TopicId, extent: &Extent) {
        let number = chunk_of(id);
        let chunk = self.chunk(number).unwrap_or_else(|| {
            let mut by_number = self.by_number.write().unwrap_or_else(PoisonError::into_inner);
            by_number.entry(number).or_insert_with(|| Arc::new(TopicChunk::new(number))).clone()
        });
        chunk.lowest.fetch_min(extent.lowest_position().get(), Ordering::AcqRel);
        chunk.raise_dropped(extent);
        chunk.topics.write().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(topic));
    }

    /// Notes that events were dropped from a topic.
    pub(crate) fn raise_dropped(&self, id: TopicId, extent: &Extent) {
        if let Some(chunk) = self.chunk(chunk_of(id)) {
            chunk.raise_dropped(extent);
        }
    }

    fn chunk(&self, number: u32) -> Option<Arc<TopicChunk<T>>> {
        let by_number = self.by_number.read().unwrap_or_else(PoisonError::into_inner);
        by_number.get(&number).cloned()
    }

    /// Returns all chunks, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<TopicChunk<T>>> {
        let by_number = self.by_number.read().unwrap_or_else(PoisonError::into_inner);
        by_number.values().cloned().collect()
    }
}

impl<T> TopicChunk<T> {
    fn new(number: u32) -> Self {
        let (lowest, dropped) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { number, topics: RwLock::default(), lowest, dropped }
    }

    /// Returns a position before which none of these topics has an event.
    pub(crate) fn lowest(&self) -> Position {
        Position::new(self.lowest.load(Ordering::Acquire))
    }

    /// Returns a position after which nothing was dropped from these topics.
    pub(crate) fn dropped(&self) -> Position {
        Position::new(self.dropped.load(Ordering::Acquire))
    }

    fn raise_dropped(&self, extent: &Extent) {
        self.dropped.fetch_max(extent.dropped_position().get(), Ordering::AcqRel);
    }

    /// Returns the number of topics.
    pub(crate) fn len(&self) -> usize {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns some topics of the chunk, after the first `count` of them; `None` if there are no
    /// more.
    pub(crate) fn after(&self, count: usize) -> Option<Vec<Arc<T>>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let rest = topics.get(count..).filter(|rest| !rest.is_empty())?;
        // The registry holds a topic that has an id for ever.
        Some(rest.iter().take(TOPICS_PER_LOCK).filter_map(Weak::upgrade).collect())
    }

    /// Raises the chunk's lowest position to `lowest`, the lowest of all its topics, for a caller
    /// who has looked at each of them. As topics are trimmed, the remembered position becomes too
    /// low.
    ///
    /// A topic that is added meanwhile may begin below `lowest`. So this changes only a chunk that
    /// takes no more topics.
    pub(crate) fn raise_lowest(&self, lowest: Position) {
        if self.len() == CHUNK_IDS as usize {
            self.lowest.fetch_max(lowest.get(), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::topics::{TopicRef, Topics};
    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::entry::Topic;
    use crate::broker::topic::state::TopicState;
    use crate::cursor::Sequence;

    fn born(topics: &Arc<Topics>, id: u32, first_position: u64) -> TopicRef {
        let topic = topics.open(&format!("t.{id}").parse().unwrap()).unwrap();
        let id = TopicId::from_stored(id);
        let (first_position, tail) = (Position::new(first_position), Sequence::new(9));
        let extent = Extent { first_position, tail, ..Extent::EMPTY };
        topic.set_state(TopicState { id, extent, ..TopicState::default() });
        topic
    }

    fn trim(topic: &Arc<Topic>, through: u64) {
        let mut state = topic.state();
        state.extent.trimmed_position = Position::new(through);
        topic.set_state(state);
    }

    /// Returns for each chunk its lowest position, and the position up to which something was
    /// dropped from it.
    fn numbers(topics: &Topics) -> Vec<(u64, u64)> {
        let chunks = topics.chunks().all();
        chunks.iter().map(|chunk| (chunk.lowest().get(), chunk.dropped().get())).collect()
    }

    #[test]
    fn a_chunk_begins_with_its_lowest_topic_and_a_full_one_can_begin_later() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let one = born(&topics, 1, 7);
        assert_eq!(numbers(&topics), [(7, 0)]);
        topics.chunks().all()[0].raise_lowest(Position::new(70));
        assert_eq!(numbers(&topics), [(7, 0)], "a topic may come that begins before it");
        let (_two, _three) = (born(&topics, 2, 5), born(&topics, 3, 90));
        assert_eq!(numbers(&topics), [(5, 0), (90, 0)]);
        trim(&one, 80);
        trim(&one, 60); // As if two threads noted it in the other order.
        assert_eq!(numbers(&topics), [(5, 80), (90, 0)]);
        topics.chunks().all()[0].raise_lowest(Position::new(81));
        topics.chunks().all()[0].raise_lowest(Position::new(50));
        assert_eq!(numbers(&topics), [(81, 80), (90, 0)]);
    }

    #[test]
    fn a_chunk_has_each_of_its_topics_once_however_often_they_change() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let born: Vec<_> = (1..=3).map(|id| born(&topics, id, u64::from(id))).collect();
        born.iter().for_each(|topic| trim(topic, 1));
        let chunks = topics.chunks().all();
        let names = |chunk: &TopicChunk<Topic>, count| {
            let some = chunk.after(count)?;
            Some(some.iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(&chunks[0], 0).unwrap(), ["t.1", "t.2"]);
        assert_eq!(names(&chunks[0], 1).unwrap(), ["t.2"]);
        assert_eq!(names(&chunks[0], 2), None);
        assert_eq!(names(&chunks[1], 0).unwrap(), ["t.3"]);
        assert_eq!((chunks[0].len(), chunks[1].len(), chunks.len()), (2, 1, 2));
    }
}
