//! The keys that have newer events. They tell whether an event is the latest of its key, without a
//! read of all that comes after it.
//!
//! ```text
//!  from                          covered
//!   |..............................|        below `from` each key has one event at the most;
//!   each key as a hash, with the           whether one of the others is newer, the hashes say
//!   sequence of each of its events
//! ```
//!
//! # Why
//!
//! A compacted topic has each key once, but for the newest part, which its compaction has not come
//! to yet. That part is less than half of the rest in a topic that is up to date, so its keys are
//! read once and shared by all pages. A key takes 128 bits, hashed with secrets of the process, and
//! not its text: two keys are not taken for one. Topics with more of them than there is memory for
//! are read without (`scan.rs`).

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

/// Bytes of blocks read at a time.
const STEP_BYTES: usize = 256 << 10;

/// The bytes that an event of a key takes: 24 in a tree whose nodes are about two thirds full.
const ENTRY_BYTES: usize = 40;

/// A key's hash, and the sequence of one of its events.
type KeyEntry = (u64, u64, Sequence);

/// The keys of the newest events of topics, within a bound on memory.
pub(crate) struct StateKeys {
    memory: Arc<Memory>,
    hashers: (RandomState, RandomState),
    /// With the time that each was used last.
    topics: Mutex<HashMap<TopicId, (Arc<Keys>, Instant)>>,
}

/// The memory for all keys.
#[derive(Debug)]
struct Memory {
    max_bytes: usize,
    used_bytes: AtomicUsize,
}

impl Memory {
    /// Takes room for `entries` entries, if there is so much.
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
    /// Whether the topic was compacted: then an expired event supersedes others.
    is_compacted: bool,
    noted: RwLock<NotedKeys>,
    /// Held by the caller that reads on.
    reading: tokio::sync::Mutex<()>,
    hashers: (RandomState, RandomState),
    memory: Arc<Memory>,
}

struct NotedKeys {
    entries: BTreeSet<KeyEntry>,
    /// All events from `from` to here are noted.
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
    /// No keys yet; never more than `max_bytes` of them.
    pub(crate) fn new(max_bytes: usize) -> Self {
        let memory = Arc::new(Memory { max_bytes, used_bytes: AtomicUsize::new(0) });
        Self { memory, hashers: Default::default(), topics: Mutex::default() }
    }

    /// Returns the keys of `topic`, read as far as `to`, or as far as compaction may have looked
    /// beyond it, and that end. Below `unique`, the topic has at most one event of a key. Returns
    /// `None` if the keys need more memory than there is.
    ///
    /// # Errors
    ///
    /// As [`Log::read`]. What is damaged has no keys.
    ///
    /// # Cancel safety
    ///
    /// What was noted stays: the next caller goes on there.
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

    /// Returns whether there is memory for so many more entries of `topic`; lets go of those of
    /// other topics for it, the ones first that were not used for longest.
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

    /// Returns whether compaction, or retention, has come so far that most of it is of no use any
    /// more.
    fn is_outdated(&self, unique: Sequence) -> bool {
        let covered = self.covered();
        let useless = unique.min(covered).get().saturating_sub(self.from.get());
        useless > covered.get().saturating_sub(unique.get())
    }

    /// Notes the keys of the next blocks; breaks when all up to `to` are noted, with `true`, or
    /// when there is no memory for more.
    fn read_next(&self, log: &dyn Log, topic: &Topic, to: Sequence) -> Result<ControlFlow<bool>> {
        let TopicState { extent, .. } = topic.state();
        let at = self.covered().max(extent.earliest);
        if at >= to {
            self.raise_covered(at); // What was trimmed has no keys any more.
            return Ok(ControlFlow::Break(true));
        }
        let covered = match log.read(self.id, at, to, STEP_BYTES) {
            Ok(blocks) => {
                if !self.add_keys(&blocks, at) {
                    return Ok(ControlFlow::Break(false));
                }
                blocks.last().map_or(to, |block| block.last_sequence().next())
            }
            // Trimmed meanwhile, and no damage.
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
        // A step that was given up may end after the next one.
        noted.covered = noted.covered.max(covered);
    }

    /// Notes the keys of events from `from` on; `false` if there is no memory for them.
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
        // A step that was given up may have noted the same.
        let twice = count - (noted.entries.len() - before);
        self.memory.used_bytes.fetch_sub(twice * ENTRY_BYTES, Ordering::Relaxed);
        true
    }
}
