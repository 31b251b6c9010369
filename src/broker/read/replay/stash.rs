//! Blocks that readers of many topics will need later, read along with the blocks that they need
//! now.
//!
//! # Why
//!
//! When many topics take turns, each event is of another topic than the event before, and each read
//! of the log loads a page of one topic for a single block. When the topic has its turn again, the
//! log's cache has dropped the page, so each page would be loaded once for each of its blocks.
//! Therefore the blocks after the wanted one are kept, as far as they fit: as they are stored,
//! without wire forms, in one allocation a topic. They are dropped with the last reader that may
//! need them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::cursor::{Position, Sequence};
use crate::log::Block;
use crate::topic::TopicId;

pub(super) type Key = (TopicId, Sequence);

/// The bytes that a run takes besides its blocks: its entry in the map, and its allocation.
/// Measured with 100,000 runs of three small blocks.
const RUN_BYTES: usize = 112;

/// The most bytes of one run, which is copied in some microseconds.
const MAX_RUN_BYTES: usize = 32 << 10;

/// Neighbouring blocks of a topic as they are stored, one after another.
#[derive(Debug)]
pub(super) struct StoredRun {
    bytes: Box<[u8]>,
    /// The sequence after the last event of the run.
    end: Sequence,
    /// The position of the block after the run, if it is known.
    following: Option<Position>,
}

/// Blocks that were kept, and the position of the block after them, if it is known.
pub(super) type KeptBlocks = (Vec<Bytes>, Option<Position>);

impl StoredRun {
    /// Returns the first sequence of `blocks`, and the run of them; `None` if there are no blocks.
    /// The blocks are neighbours.
    pub(super) fn of(blocks: &[Block], following: Option<Position>) -> Option<(Sequence, Self)> {
        let (first, last) = blocks.first().zip(blocks.last())?;
        let bytes: Vec<&[u8]> = blocks.iter().map(|block| &block.bytes()[..]).collect();
        let end = last.last_sequence().next();
        Some((first.first_sequence(), Self { bytes: bytes.concat().into(), end, following }))
    }

    /// Returns the position of the first event of the run.
    pub(super) fn first_position(&self) -> Option<Position> {
        Block::beginning(&self.bytes).map(|(_, _, position)| position)
    }

    /// Returns the block that begins with `next`, and the blocks after it that begin before the
    /// position `before` and fit `max_bytes`. Returns `None` if no block begins with `next`.
    fn from(&self, next: Sequence, before: Position, max_bytes: usize) -> Option<KeptBlocks> {
        let (mut rest, mut blocks, mut left_bytes) = (&self.bytes[..], Vec::new(), max_bytes);
        while let Some((size_bytes, first, position)) = Block::beginning(rest) {
            if !blocks.is_empty() && (position >= before || size_bytes > left_bytes) {
                return Some((blocks, Some(position)));
            }
            let (block, after) = rest.split_at_checked(size_bytes)?;
            if first == next || !blocks.is_empty() {
                left_bytes = left_bytes.saturating_sub(size_bytes);
                blocks.push(Bytes::copy_from_slice(block));
            }
            rest = after;
        }
        (!blocks.is_empty()).then_some((blocks, self.following))
    }

    fn charge(&self) -> usize {
        RUN_BYTES + self.bytes.len()
    }
}

/// The runs that are kept for all readers of many topics.
#[derive(Debug, Default)]
pub(super) struct Stash {
    max_bytes: usize,
    kept: Mutex<Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    /// The runs by their topic and their first sequence.
    runs: BTreeMap<Key, StoredRun>,
    used_bytes: usize,
    /// The number of readers that may need the runs.
    readers: usize,
    /// The key of the run that was dropped last to make room. The run after it is dropped next;
    /// after the last run comes the first.
    last_gone: Option<Key>,
}

impl Stash {
    /// Returns a stash that keeps `max_bytes` bytes at the most.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Runs> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a reader: runs are kept until the last registration is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> AheadReader {
        self.kept().readers += 1;
        AheadReader(self.clone())
    }

    /// Returns the bytes that may be kept of each of `topics` topics that take turns.
    pub(super) fn share(&self, topics: usize) -> usize {
        (self.max_bytes / topics.max(1)).saturating_sub(RUN_BYTES).min(MAX_RUN_BYTES)
    }

    /// Returns the block of a topic that begins with `next`, if it is kept, and the blocks after it
    /// that begin before the position `before` and fit `max_bytes`.
    pub(super) fn find(
        &self,
        (id, next): Key,
        before: Position,
        max_bytes: usize,
    ) -> Option<KeptBlocks> {
        let kept = self.kept();
        let (_, run) = kept.runs.range((id, Sequence::BEFORE_ALL)..=(id, next)).next_back()?;
        run.from(next, before, max_bytes)
    }

    /// Keeps a run that was read along with the event `next`. The run of the topic that ends at
    /// `next` is used up and dropped. Keeps nothing unless `is_current` holds, which is asked while
    /// no run can be forgotten.
    pub(super) fn put(
        &self,
        (id, first): Key,
        next: Sequence,
        run: StoredRun,
        is_current: impl FnOnce() -> bool,
    ) {
        let mut kept = self.kept();
        if kept.readers == 0 || run.charge() > self.max_bytes || !is_current() {
            return;
        }
        let key = (id, first);
        let before = kept.runs.range((id, Sequence::BEFORE_ALL)..key).next_back();
        let before = before.filter(|(_, run)| run.end == next).map(|(key, _)| *key);
        before.and_then(|key| kept.remove(key));
        kept.remove(key);
        kept.used_bytes += run.charge();
        kept.runs.insert(key, run);
        while kept.used_bytes > self.max_bytes && kept.let_one_go() {}
    }

    /// Forgets the runs of a topic.
    pub(super) fn forget(&self, id: TopicId) {
        let mut kept = self.kept();
        let keys = (id, Sequence::BEFORE_ALL)..=(id, Sequence::new(u64::MAX));
        while let Some((key, _)) = kept.runs.range(keys.clone()).next() {
            let key = *key;
            kept.remove(key);
        }
    }
}

impl Runs {
    fn remove(&mut self, key: Key) -> Option<StoredRun> {
        let run = self.runs.remove(&key)?;
        self.used_bytes -= run.charge();
        Some(run)
    }

    /// Drops one run to make room. Returns whether there was one.
    fn let_one_go(&mut self) -> bool {
        let after = self.last_gone.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.runs.range((after, Bound::Unbounded)).next();
        let next = next.or_else(|| self.runs.first_key_value()).map(|(key, _)| *key);
        self.last_gone = next;
        next.is_some_and(|key| self.remove(key).is_some())
    }
}

/// The registration of a reader that may need the runs.
#[derive(Debug)]
pub(crate) struct AheadReader(Arc<Stash>);

impl Drop for AheadReader {
    fn drop(&mut self) {
        let mut kept = self.0.kept();
        kept.readers -= 1;
        if kept.readers > 0 {
            return;
        }
        let gone = std::mem::take(&mut *kept);
        drop(kept);
        // Dropping a hundred thousand runs takes milliseconds, in which this thread serves others.
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && gone.runs.len() > 1_000
        {
            runtime.spawn_blocking(move || drop(gone));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NewEvent, Timestamp};
    use crate::log::{BlockBuilder, NewRecords};

    fn blocks(firsts: std::ops::Range<u64>) -> Vec<Block> {
        let block = |first: u64| {
            let records = NewRecords::encode([&NewEvent::new("x".repeat(100))]);
            let mut builder = BlockBuilder::new(Sequence::new(first));
            builder.push(records.record(0), false, false);
            builder.finish(Position::new(10 * first), Timestamp::from_ms(1), 0)
        };
        firsts.map(block).collect()
    }

    fn key(topic: u32, first: u64) -> Key {
        (TopicId::from_stored(topic).unwrap(), Sequence::new(first))
    }

    fn put(stash: &Stash, topic: u32, firsts: std::ops::Range<u64>) {
        let following = Some(Position::new(10 * firsts.end));
        let (first, run) = StoredRun::of(&blocks(firsts), following).unwrap();
        // The run was read along with the block before it.
        stash.put(key(topic, first.get()), first.previous(), run, || true);
    }

    /// Returns the first sequences of the blocks that are found, and the position of the next
    /// block.
    fn found(stash: &Stash, topic: u32, next: u64, most: usize) -> (Vec<u64>, Option<u64>) {
        let size_bytes = blocks(1..2)[0].bytes().len();
        let found = stash.find(key(topic, next), Position::new(u64::MAX), most * size_bytes);
        let Some((blocks, following)) = found else { return (Vec::new(), None) };
        let first = |bytes| Block::decode(bytes).unwrap().first_sequence().get();
        (blocks.into_iter().map(first).collect(), following.map(|position| position.get()))
    }

    /// Goal: a run returns the blocks that were put into it, from any block on, to any number of
    /// readers.
    #[test]
    fn a_run_gives_its_blocks_from_any_on_to_each_who_comes() {
        assert!(StoredRun::of(&[], None).is_none());
        let stash = Arc::new(Stash::new(1 << 20));
        let _reader = stash.enter();
        put(&stash, 1, 3..6);
        for _reader in 0..2 {
            assert_eq!(found(&stash, 1, 3, 1), (vec![3], Some(40)));
            assert_eq!(found(&stash, 1, 4, 9), (vec![4, 5], Some(60)));
            assert_eq!(found(&stash, 1, 5, 0), (vec![5], Some(60)), "one at the least");
        }
        let before = Position::new(40);
        assert_eq!(stash.find(key(1, 3), before, 1 << 20).unwrap().0.len(), 1);
        for next in [1, 2, 6, 7] {
            assert_eq!(found(&stash, 1, next, 1), (vec![], None), "{next}");
        }
        assert_eq!(found(&stash, 2, 3, 1), (vec![], None), "of another topic");
        // The next run replaces the run that it goes on from, and no other.
        put(&stash, 1, 20..23);
        put(&stash, 1, 7..9);
        assert_eq!(stash.kept().runs.len(), 2);
        assert_eq!(found(&stash, 1, 3, 1), (vec![], None));
        assert_eq!(found(&stash, 1, 8, 1), (vec![8], Some(90)));
        assert_eq!(found(&stash, 1, 20, 1), (vec![20], Some(210)));
    }

    /// Goal: no more bytes are kept than are configured, however many topics and readers there are,
    /// and none without a reader.
    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_goes_with_the_last_reader() {
        let one_bytes = StoredRun::of(&blocks(1..4), None).unwrap().1.charge();
        let stash = Arc::new(Stash::new(10 * one_bytes));
        put(&stash, 1, 1..4);
        assert_eq!(found(&stash, 1, 1, 1), (vec![], None), "a run is kept without a reader");
        let readers = [stash.enter(), stash.enter()];
        assert_eq!(stash.share(10), one_bytes - RUN_BYTES);
        assert_eq!((stash.share(0), stash.share(1_000_000)), (10 * one_bytes - RUN_BYTES, 0));
        for topic in 1..=25 {
            put(&stash, topic, 1..4);
            put(&stash, topic, 1..4); // The same run replaces the one that is there.
            let kept = stash.kept();
            assert_eq!(kept.used_bytes, kept.runs.len() * one_bytes);
            assert_eq!(
                kept.runs.len(),
                10.min(topic as usize),
                "fewer runs are kept than there is room for"
            );
        }
        put(&stash, 99, 1..60); // There is never room for this run.
        assert_eq!(found(&stash, 99, 1, 1), (vec![], None));
        let (first, run) = StoredRun::of(&blocks(1..2), None).unwrap();
        stash.put((TopicId::FIRST, first), first, run, || false);
        assert_eq!(found(&stash, 1, 1, 1), (vec![], None), "the topic was rewritten meanwhile");
        let some: Vec<Key> = stash.kept().runs.keys().copied().collect();
        stash.forget(some[0].0);
        let is_kept = |key| stash.find(key, Position::FIRST, 0).is_some();
        assert!(!is_kept(some[0]) && is_kept(some[1]));
        drop(readers);
        let kept = stash.kept();
        assert_eq!((kept.runs.len(), kept.used_bytes, kept.readers), (0, 0, 0));
    }
}
