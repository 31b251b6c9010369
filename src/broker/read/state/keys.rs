//! The keys of the newest events. They tell whether an event is the latest of its key, without a
//! read of all events after it.
//!
//! ```text
//!  from                          covered
//!   |..............................|        below `from`, each key has at most one event;
//!   each key as a hash, with the           the hashes tell whether a newer one is above
//!   sequence of each of its events
//! ```
//!
//! # Why
//!
//! A compacted topic has each key once, except in the newest part, which compaction has not come to
//! yet. When compaction is up to date, that part is less than half as large as the rest. Its keys
//! are read once and shared by all pages. Instead of its text a key takes a hash of 128 bits, made
//! with secrets of the process, so that two keys are not taken for one. Topics with more keys than
//! there is memory for are read without them (`scan.rs`).

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::broker::turns::Turns;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::{Block, Log};
use crate::topic::TopicId;

/// The bytes of blocks that are read at a time.
const STEP_BYTES: usize = 256 << 10;

/// The bytes of memory for one event of a key: an entry of 24 bytes, in a tree whose nodes are
/// about two thirds full.
const ENTRY_BYTES: usize = 40;

/// A key's hash, and the sequence of one of its events.
type KeyEntry = (u64, u64, Sequence);

/// The keys of the newest events of topics, within a bound on memory.
pub(crate) struct StateKeys {
    memory: Arc<Memory>,
    hashers: (RandomState, RandomState),
    /// The keys of each topic, with the time at which they were used last.
    topics: Mutex<HashMap<TopicId, (Arc<Keys>, Instant)>>,
}

/// The memory for all keys.
#[derive(Debug)]
struct Memory {
    max_bytes: usize,
    used_bytes: AtomicUsize,
}

impl Memory {
    /// Takes the memory for `entries` entries. Returns whether there was enough.
    fn take(&self, entries: usize) -> bool {
        let within = |used: usize| {
            let next = used.checked_add(entries.checked_mul(ENTRY_BYTES)?)?;
            (next <= self.max_bytes).then_some(next)
        };
        self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }
}

/// The keys of a topic's events from some sequence on.
pub(crate) struct Keys {
    id: TopicId,
    from: Sequence,
    /// Whether compaction drops superseded events. Then an expired event still supersedes others.
    is_compacted: bool,
    noted: RwLock<NotedKeys>,
    /// Held by the caller that reads on.
    reading: tokio::sync::Mutex<()>,
    hashers: (RandomState, RandomState),
    memory: Arc<Memory>,
}

struct NotedKeys {
    entries: BTreeSet<KeyEntry>,
    /// The keys of all events from `from` up to here, exclusive, are noted.
    covered: Sequence,
}

impl Drop for Keys {
    fn drop(&mut self) {
        let noted = self.noted.get_mut().unwrap_or_else(PoisonError::into_inner);
        let size_bytes = noted.entries.len() * ENTRY_BYTES;
        self.memory.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }
}

impl StateKeys {
    /// Returns a value without keys, which never takes more than `max_bytes` bytes for them.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let memory = Arc::new(Memory { max_bytes, used_bytes: AtomicUsize::new(0) });
        Self { memory, hashers: Default::default(), topics: Mutex::default() }
    }

    /// Returns the keys of `topic`, and the end up to which they were read. This end is `to`, or
    /// the end of the events that compaction may have looked at, if that is higher. Below `unique`,
    /// the topic has at most one event of a key. Returns `None` if the keys need more memory than
    /// there is.
    ///
    /// # Errors
    ///
    /// As [`Log::read`], but damaged events are passed over, and have no keys.
    ///
    /// # Cancel safety
    ///
    /// Keys that were noted stay. The next caller goes on after them.
    pub(super) async fn cover(
        &self,
        turns: &Turns,
        (topic, is_compacted): (&Arc<Topic>, bool),
        unique: Sequence,
        to: Sequence,
    ) -> Result<Option<(Arc<Keys>, Sequence)>> {
        let Some(id) = topic.state().id else { return Ok(None) };
        let keys = self.of(id, is_compacted, unique);
        let _alone = keys.reading.lock().await;
        let mut to = to;
        loop {
            // Events that compaction has dropped by now are superseded by events below this.
            to = to.max(keys.looked_at(topic));
            let missing = to.get().saturating_sub(keys.covered().get()) as usize;
            if missing == 0 {
                return Ok(Some((keys.clone(), to)));
            }
            if !self.has_room_for(missing, id) {
                return Ok(None);
            }
            let (noting, topic) = (keys.clone(), topic.clone());
            let step = move |log: &dyn Log| noting.read_next(log, &topic, to);
            if !turns.read_long(step).await? {
                return Ok(None);
            }
        }
    }

    fn of(&self, id: TopicId, is_compacted: bool, unique: Sequence) -> Arc<Keys> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((keys, used)) = topics.get_mut(&id)
            && keys.is_compacted == is_compacted
            && !keys.is_outdated(unique)
        {
            *used = Instant::now();
            return keys.clone();
        }
        let noted = NotedKeys { entries: BTreeSet::new(), covered: unique };
        let keys = Arc::new(Keys {
            id,
            from: unique,
            is_compacted,
            noted: RwLock::new(noted),
            reading: tokio::sync::Mutex::default(),
            hashers: self.hashers.clone(),
            memory: self.memory.clone(),
        });
        topics.insert(id, (keys.clone(), Instant::now()));
        keys
    }

    /// Returns whether there is memory for `entries` more entries of `topic`. To make room, drops
    /// the keys of other topics, first those that were not used for the longest time.
    fn has_room_for(&self, entries: usize, topic: TopicId) -> bool {
        let needed_bytes = entries.saturating_mul(ENTRY_BYTES);
        if needed_bytes > self.memory.max_bytes {
            return false;
        }
        let room = self.memory.max_bytes - needed_bytes;
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        while self.memory.used_bytes.load(Ordering::Relaxed) > room {
            let others = topics.iter().filter(|(id, _)| **id != topic);
            let Some(oldest) = others.min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id) else {
                return false;
            };
            topics.remove(&oldest);
        }
        true
    }

    /// Returns the bytes that all keys take.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.memory.used_bytes.load(Ordering::Relaxed)
    }
}

impl Keys {
    /// Returns the end of the events that compaction may have looked at. An earlier event may be
    /// gone because of one of these.
    fn looked_at(&self, topic: &Topic) -> Sequence {
        match self.is_compacted {
            true => topic.upkeep.looked_at().min(topic.state().extent.tail),
            false => Sequence::BEFORE_ALL,
        }
    }

    /// Returns the first event of `key` after `sequence`, of those that are noted.
    pub(super) fn next_of(&self, key: &str, sequence: Sequence) -> Option<Sequence> {
        let (high, low) = self.hash(key);
        let noted = self.noted.read().unwrap_or_else(PoisonError::into_inner);
        let newer = (high, low, sequence.next())..=(high, low, Sequence::new(u64::MAX));
        noted.entries.range(newer).next().map(|(_, _, next)| *next)
    }

    fn hash(&self, key: &str) -> (u64, u64) {
        (self.hashers.0.hash_one(key), self.hashers.1.hash_one(key))
    }

    fn covered(&self) -> Sequence {
        self.noted.read().unwrap_or_else(PoisonError::into_inner).covered
    }

    /// Returns whether most of the noted keys have become useless, because compaction or retention
    /// has passed them.
    fn is_outdated(&self, unique: Sequence) -> bool {
        let covered = self.covered();
        let useless = unique.min(covered).get().saturating_sub(self.from.get());
        useless > covered.get().saturating_sub(unique.get())
    }

    /// Notes the keys of the next blocks. Breaks with `true` when all keys up to `to` are noted,
    /// and with `false` when there is no memory for more.
    fn read_next(&self, log: &dyn Log, topic: &Topic, to: Sequence) -> Result<ControlFlow<bool>> {
        let TopicState { extent, .. } = topic.state();
        let at = self.covered().max(extent.earliest);
        if at >= to {
            self.raise_covered(at); // Trimmed events have no keys any more.
            return Ok(ControlFlow::Break(true));
        }
        let covered = match log.read(self.id, at, to, STEP_BYTES) {
            Ok(blocks) => {
                if !self.add_keys(&blocks, at) {
                    return Ok(ControlFlow::Break(false));
                }
                blocks.last().map_or(to, |block| block.last_sequence().next())
            }
            // Events were trimmed meanwhile, which is no damage.
            Err(Error::Damaged { .. }) if topic.state().extent.earliest > at => at,
            Err(Error::Damaged { last, .. }) => last.map_or(to, Sequence::next),
            Err(error) => return Err(error),
        };
        self.raise_covered(covered);
        Ok(ControlFlow::Continue(()))
    }

    /// Notes that all keys below `covered` are noted.
    fn raise_covered(&self, covered: Sequence) {
        let mut noted = self.noted.write().unwrap_or_else(PoisonError::into_inner);
        // A step of a caller that gave up may end after the next step.
        noted.covered = noted.covered.max(covered);
    }

    /// Notes the keys of the events of `blocks` from `from` on. Returns `false` if there is no
    /// memory for them.
    fn add_keys(&self, blocks: &[Block], from: Sequence) -> bool {
        let events = blocks.iter().flat_map(Block::events);
        let keyed = events.filter(|event| event.sequence >= from && !event.key.is_empty());
        let entries: Vec<KeyEntry> = keyed
            .map(|event| {
                let (high, low) = self.hash(event.key);
                (high, low, event.sequence)
            })
            .collect();
        if !self.memory.take(entries.len()) {
            return false;
        }
        let mut noted = self.noted.write().unwrap_or_else(PoisonError::into_inner);
        let before = noted.entries.len();
        let count = entries.len();
        noted.entries.extend(entries);
        // A step of a caller that gave up may have noted the same keys.
        let twice = count - (noted.entries.len() - before);
        self.memory.used_bytes.fetch_sub(twice * ENTRY_BYTES, Ordering::Relaxed);
        true
    }
}
