//! The window of publisher-given ids: recognises an event that was published before.
//!
//! An id is in the window while its event is kept, among the topic's last `max_events`, and not
//! older than `max_age_ms`. Over all topics together the ids take `max_bytes` at the most; past
//! that the oldest go first, and the window is shorter.
//!
//! # Why
//!
//! The window is derived: it holds nothing that the log does not. After a restart a topic's part is
//! recalled from its newest blocks when the first id for it arrives, so it cannot disagree with the
//! log, and opening costs nothing for topics that nobody publishes to. Whoever hands in that id
//! waits for it; the committer, and so everybody else, does not. Ids are kept whole, not as hashes:
//! two ids taken for one would be an event lost.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::publish::Receipt;
use super::turns::Turns;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, Extent, Log, Seek};
use crate::topic::TopicId;

/// What an id takes besides its bytes: its places in the map and in the order, and the allocation.
const ENTRY_BYTES: usize = 128;

/// What a topic's part of the window takes, besides its ids.
const TOPIC_BYTES: usize = 256;

/// Bytes of blocks read at a time while a topic's part is recalled.
const STEP_BYTES: usize = 1 << 20;

/// How far back an id is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedupConfig {
    /// Events of a topic whose ids are remembered. Default: 100,000.
    pub max_events: u64,
    /// Age of an event, in milliseconds, up to which its id is remembered. Default: 600,000.
    pub max_age_ms: u64,
    /// Memory for all ids of all topics, in bytes. Default: 64 MiB.
    pub max_bytes: u64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self { max_events: 100_000, max_age_ms: 600_000, max_bytes: 64 << 20 }
    }
}

/// How far the ids that a topic held before the start were recalled.
#[derive(Debug)]
pub(super) struct Recall {
    /// Set when all are.
    done: OnceCell<()>,
    /// The first sequence whose id is not in the window yet.
    next: AtomicU64,
    /// The topic's tail at the start: from there on, ids are noted as they are stored.
    below: Sequence,
}

impl Recall {
    /// Of a topic that held this when the broker was opened.
    pub(super) fn of(extent: &Extent) -> Self {
        let is_empty = extent.earliest >= extent.tail;
        let next = AtomicU64::new(extent.earliest.get());
        Self { done: OnceCell::new_with(is_empty.then_some(())), next, below: extent.tail }
    }

    /// Whether there is nothing to recall any more.
    pub(super) fn is_done(&self) -> bool {
        self.done.initialized()
    }

    /// Reads the ids that the window can hold at `now`, step by step, and hands each step to
    /// `note`. Those that come while it reads wait for it. What is damaged has no ids.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`], and those of `note`; the next call goes on where this one ended.
    ///
    /// # Cancel safety
    ///
    /// As after an error.
    pub(super) async fn finish<N: Future<Output = Result<()>>>(
        &self,
        (turns, id): (&Turns, TopicId),
        config: &DedupConfig,
        now: Timestamp,
        note: impl Fn(Vec<Block>) -> N,
    ) -> Result<()> {
        let read = || async {
            let oldest = self.below.get().saturating_sub(config.max_events);
            let first = Sequence::new(oldest.max(self.next.load(Ordering::Relaxed)));
            let fresh = Timestamp::from_ms(now.as_ms().saturating_sub(config.max_age_ms));
            let below = self.below;
            let seek = move |log: &dyn Log| log.seek(id, Seek::Time(fresh), first, below);
            let mut next = match turns.read(seek).await {
                Err(Error::Damaged { .. }) => first, // Read what can be read instead.
                found => found?,
            };
            while next < below {
                let read = move |log: &dyn Log| log.read(id, next, below, STEP_BYTES);
                next = match turns.read(read).await {
                    Ok(mut blocks) => {
                        let last = blocks.last().map_or(below, |b| b.last_sequence().next());
                        blocks.retain(Block::has_ids);
                        note(blocks).await?;
                        last
                    }
                    Err(Error::Damaged { last, .. }) => last.map_or(below, Sequence::next),
                    Err(error) => return Err(error),
                };
                self.next.store(next.get(), Ordering::Relaxed);
            }
            Ok(())
        };
        self.done.get_or_try_init(read).await.copied()
    }
}

/// The ids of all topics. Belongs to the committer, which alone knows the order.
#[derive(Debug)]
pub(super) struct DedupWindow {
    config: DedupConfig,
    topics: HashMap<TopicId, HashMap<Arc<str>, Receipt>>,
    /// Every id in the order it was noted, for letting the oldest go.
    order: VecDeque<(TopicId, Arc<str>, Sequence)>,
    size_bytes: usize,
}

impl DedupWindow {
    /// A window without ids.
    pub(super) fn new(config: DedupConfig) -> Self {
        Self { config, topics: HashMap::new(), order: VecDeque::new(), size_bytes: 0 }
    }

    /// Remembers the ids of a stored block.
    pub(super) fn note_block(&mut self, topic: TopicId, block: &Block) {
        for event in block.events().filter(|event| !event.id.is_empty()) {
            let receipt =
                Receipt { sequence: event.sequence, position: event.position, time: event.time };
            self.note(topic, event.id, receipt);
        }
    }

    /// What the event with this id was given, if it is in the window of a topic that holds the
    /// sequences `kept`.
    pub(super) fn find(
        &self,
        topic: TopicId,
        id: &str,
        kept: Range<Sequence>,
        now: Timestamp,
    ) -> Option<Receipt> {
        let receipt = self.topics.get(&topic)?.get(id)?;
        let last_events = receipt.sequence.get().saturating_add(self.config.max_events);
        let is_recent = last_events >= kept.end.get() && receipt.sequence >= kept.start;
        (is_recent && self.is_fresh(receipt.time, now)).then_some(*receipt)
    }

    /// Remembers an id that was stored.
    pub(super) fn note(&mut self, topic: TopicId, id: &str, receipt: Receipt) {
        let known = self.topics.get(&topic).and_then(|ids| ids.get(id));
        if known.is_some_and(|known| known.sequence >= receipt.sequence) {
            return; // A step that was recalled twice.
        }
        let id: Arc<str> = id.into();
        self.size_bytes += ENTRY_BYTES + id.len();
        self.order.push_back((topic, id.clone(), receipt.sequence));
        let ids = self.topics.entry(topic).or_insert_with(|| {
            self.size_bytes += TOPIC_BYTES;
            HashMap::new()
        });
        ids.insert(id, receipt);
        while self.size_bytes as u64 > self.config.max_bytes {
            self.forget_oldest();
        }
    }

    /// Forgets what is too old at `now`.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((topic, id, sequence)) = self.order.front() {
            let noted = self.topics.get(topic).and_then(|ids| ids.get(id));
            let current = noted.filter(|receipt| receipt.sequence == *sequence);
            if current.is_some_and(|receipt| self.is_fresh(receipt.time, now)) {
                return;
            }
            self.forget_oldest();
        }
    }

    fn is_fresh(&self, time: Timestamp, now: Timestamp) -> bool {
        time.as_ms().saturating_add(self.config.max_age_ms) >= now.as_ms()
    }

    fn forget_oldest(&mut self) {
        let Some((topic, id, sequence)) = self.order.pop_front() else { return };
        self.size_bytes -= ENTRY_BYTES + id.len();
        let Some(ids) = self.topics.get_mut(&topic) else { return };
        // An id that was noted again since then stays, for its later event.
        if ids.get(&id).is_some_and(|receipt| receipt.sequence == sequence) {
            ids.remove(&id);
        }
        if ids.is_empty() {
            self.topics.remove(&topic);
            self.size_bytes -= TOPIC_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Position;

    fn receipt(sequence: u64, time_ms: u64) -> Receipt {
        Receipt {
            sequence: Sequence::new(sequence),
            position: Position::new(sequence),
            time: Timestamp::from_ms(time_ms),
        }
    }

    fn kept(earliest: u64, tail: u64) -> Range<Sequence> {
        Sequence::new(earliest)..Sequence::new(tail)
    }

    fn window(max_events: u64, max_age_ms: u64, max_bytes: u64) -> DedupWindow {
        DedupWindow::new(DedupConfig { max_events, max_age_ms, max_bytes })
    }

    #[test]
    fn an_id_is_known_up_to_the_exact_ends_of_the_window() {
        let mut window = window(100, 1_000, 1 << 20);
        window.note(TopicId::FIRST, "a", receipt(7, 50));
        let find =
            |tail, now| window.find(TopicId::FIRST, "a", kept(1, tail), Timestamp::from_ms(now));
        assert_eq!(find(8, 50), Some(receipt(7, 50)));
        assert_eq!(
            find(107, 1_050),
            Some(receipt(7, 50)),
            "the last of 100 events, and of 1,000 ms"
        );
        assert_eq!(find(108, 1_050), None, "101 events ago");
        assert_eq!(find(107, 1_051), None, "1,001 ms ago");
        let other = TopicId::FIRST.next().unwrap();
        let now = Timestamp::from_ms(50);
        assert_eq!(window.find(other, "a", kept(1, 8), now), None);
        assert_eq!(window.find(TopicId::FIRST, "a", kept(7, 8), now), Some(receipt(7, 50)));
        assert_eq!(window.find(TopicId::FIRST, "a", kept(8, 8), now), None, "it was trimmed");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let entry = ENTRY_BYTES + 4;
        let mut window = window(u64::MAX, u64::MAX, (TOPIC_BYTES + 10 * entry) as u64);
        for sequence in 1000..2000 {
            window.note(TopicId::FIRST, &sequence.to_string(), receipt(sequence, 1));
            assert!(window.size_bytes <= TOPIC_BYTES + 10 * entry);
        }
        let kept: Vec<u64> = (1000..2000)
            .filter(|s| {
                let now = Timestamp::from_ms(1);
                window.find(TopicId::FIRST, &s.to_string(), kept(1, 2000), now).is_some()
            })
            .collect();
        assert_eq!(kept, (1990..2000).collect::<Vec<_>>());
        window.expire(Timestamp::from_ms(u64::MAX));
        assert_eq!(window.order.len(), 10, "ages without end never expire");
    }

    #[test]
    fn what_expired_takes_no_memory_and_an_id_noted_again_stays() {
        let mut window = window(100, 1_000, 1 << 20);
        window.note(TopicId::FIRST, "a", receipt(1, 0));
        window.note(TopicId::FIRST, "b", receipt(2, 0));
        window.note(TopicId::FIRST, "a", receipt(3, 900));
        window.expire(Timestamp::from_ms(1_001));
        let find = |id| window.find(TopicId::FIRST, id, kept(1, 4), Timestamp::from_ms(1_001));
        assert_eq!((find("a"), find("b")), (Some(receipt(3, 900)), None));
        assert_eq!(window.size_bytes, TOPIC_BYTES + ENTRY_BYTES + 1);
    }
}
