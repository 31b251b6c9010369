//! Blocks that readers of many topics will come to, read along with those that they came to.
//!
//! # Why
//!
//! When many topics take turns, each event is of another topic than the event before, and each read
//! of the log loads a page of one topic for a single block of it. By the time that the topic has
//! its turn again, the page is out of the log's cache: it was loaded once for each of its blocks.
//! The blocks after the wanted one are therefore kept as they are stored, as far as they fit:
//! without wire forms, in one allocation a topic. They are dropped with the last reader that may
//! come to them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::cursor::{Position, Sequence};
use crate::log::Block;
use crate::topic::TopicId;

pub(super) type Key = (TopicId, Sequence);

/// The bytes that a run takes besides its blocks: its place among the others, and its allocation.
/// Measured with 100,000 runs of three small blocks.
const RUN_BYTES: usize = 112;

/// The most bytes of one run: it is copied in some microseconds.
const MAX_RUN_BYTES: usize = 32 << 10;

/// Neighbouring blocks of a topic as they are stored, one after another.
#[derive(Debug)]
pub(super) struct StoredRun {
    bytes: Box<[u8]>,
    /// The sequence after its last one.
    end: Sequence,
    /// The position of the block after them, if it is known.
    following: Option<Position>,
}

/// Blocks that were kept, and where the one after them begins, if that is known.
pub(super) type KeptBlocks = (Vec<Bytes>, Option<Position>);

impl StoredRun {
    /// Returns the run of `blocks`, which are neighbours, and where it begins; `None` if there are
    /// none.
    pub(super) fn of(blocks: &[Block], following: Option<Position>) -> Option<(Sequence, Self)> {
        let (first, last) = blocks.first().zip(blocks.last())?;
        let bytes: Vec<&[u8]> = blocks.iter().map(|block| &block.bytes()[..]).collect();
        let end = last.last_sequence().next();
        Some((first.first_sequence(), Self { bytes: bytes.concat().into(), end, following }))
    }

    /// Returns the position of its first event.
    pub(super) fn first_position(&self) -> Option<Position> {
        Block::beginning(&self.bytes).map(|(_, _, position)| position)
    }

    /// Returns the blocks from the one that begins with `next` on: one, and those after it that
    /// begin before a position, as far as there is room. Returns `None` if no block begins with
    /// `next`.
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

/// The runs that are kept, for all readers.
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
    /// Readers that may come to them.
    readers: usize,
    /// The one that went last to make room. The next one after it goes next, round and round.
    last_gone: Option<Key>,
}

impl Stash {
    /// Keeps so many bytes at the most.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Runs> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps runs for a reader, for as long as what it returns is held.
    pub(super) fn enter(self: &Arc<Self>) -> AheadReader {
        self.kept().readers += 1;
        AheadReader(self.clone())
    }

    /// Returns the bytes that may be kept of each of `topics` topics that take turns.
    pub(super) fn share(&self, topics: usize) -> usize {
        (self.max_bytes / topics.max(1)).saturating_sub(RUN_BYTES).min(MAX_RUN_BYTES)
    }

    /// Blocks of a topic from the one that begins with `next` on, if it is kept: one, and those
    /// after it that begin before a position, as far as there is room.
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

    /// Keeps a run in place of the one before it, if it was read where that ends, at `next`; and
    /// only if `is_current` says so while nothing can be forgotten.
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

    /// Returns whether there was one.
    fn let_one_go(&mut self) -> bool {
        let after = self.last_gone.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.runs.range((after, Bound::Unbounded)).next();
        let next = next.or_else(|| self.runs.first_key_value()).map(|(key, _)| *key);
        self.last_gone = next;
        next.is_some_and(|key| self.remove(key).is_some())
    }
}

/// A reader that may come to what is kept.
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
        // A hundred thousand of them take milliseconds, which are nobody else's to wait.
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
        // It was read along with the block before it.
        stash.put(key(topic, first.get()), first.previous(), run, || true);
    }

    /// Returns the first sequences of what is found, and where the next block begins.
    fn found(stash: &Stash, topic: u32, next: u64, most: usize) -> (Vec<u64>, Option<u64>) {
        let size_bytes = blocks(1..2)[0].bytes().len();
        let found = stash.find(key(topic, next), Position::new(u64::MAX), most * size_bytes);
        let Some((blocks, following)) = found else { return (Vec::new(), None) };
        let first = |bytes| Block::decode(bytes).unwrap().first_sequence().get();
        (blocks.into_iter().map(first).collect(), following.map(|position| position.get()))
    }

    /// Goal: what is kept is what was put there, block by block, for any number of readers.
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
        // The next run takes the place of the one that it goes on from, and of no other.
        put(&stash, 1, 20..23);
        put(&stash, 1, 7..9);
        assert_eq!(stash.kept().runs.len(), 2);
        assert_eq!(found(&stash, 1, 3, 1), (vec![], None));
        assert_eq!(found(&stash, 1, 8, 1), (vec![8], Some(90)));
        assert_eq!(found(&stash, 1, 20, 1), (vec![20], Some(210)));
    }

    /// Goal: however many topics and readers there are, no more is kept than is configured, and
    /// nothing once nobody reads.
    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_goes_with_the_last_reader() {
        let one_bytes = StoredRun::of(&blocks(1..4), None).unwrap().1.charge();
        let stash = Arc::new(Stash::new(10 * one_bytes));
        put(&stash, 1, 1..4);
        assert_eq!(found(&stash, 1, 1, 1), (vec![], None), "nobody reads");
        let readers = [stash.enter(), stash.enter()];
        assert_eq!(stash.share(10), one_bytes - RUN_BYTES);
        assert_eq!((stash.share(0), stash.share(1_000_000)), (10 * one_bytes - RUN_BYTES, 0));
        for topic in 1..=25 {
            put(&stash, topic, 1..4);
            put(&stash, topic, 1..4); // Once more, it takes the place of what is there.
            let kept = stash.kept();
            assert_eq!(kept.used_bytes, kept.runs.len() * one_bytes);
            assert_eq!(
                kept.runs.len(),
                10.min(topic as usize),
                "and no less than there is room for"
            );
        }
        put(&stash, 99, 1..60); // No room for it, ever.
        assert_eq!(found(&stash, 99, 1, 1), (vec![], None));
        let (first, run) = StoredRun::of(&blocks(1..2), None).unwrap();
        stash.put((TopicId::FIRST, first), first, run, || false);
        assert_eq!(found(&stash, 1, 1, 1), (vec![], None), "it was written again meanwhile");
        let some: Vec<Key> = stash.kept().runs.keys().copied().collect();
        stash.forget(some[0].0);
        let is_kept = |key| stash.find(key, Position::FIRST, 0).is_some();
        assert!(!is_kept(some[0]) && is_kept(some[1]));
        drop(readers);
        let kept = stash.kept();
        assert_eq!((kept.runs.len(), kept.used_bytes, kept.readers), (0, 0, 0));
    }
}
