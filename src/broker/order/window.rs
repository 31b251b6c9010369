//! The dedup window: the ids of all topics by which repeated events are recognised, and the rule
//! which ids go when there are too many.
//!
//! # Why
//!
//! Each topic has its own order, so that a busy topic pushes out its own ids and no others. Ids of
//! events before a topic's last `max_events` go at once, and are not counted. When all ids together
//! take more than `max_bytes`, the topic that takes most gives up its oldest ids. These are
//! counted, because this is the one case in which the window is shorter than promised.
//!
//! The file is long, because its tests look at what the window has inside.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::broker::dedup::DedupConfig;
use crate::broker::report::Receipt;
use crate::cursor::Sequence;
use crate::event::Timestamp;
use crate::log::{Block, EventRef, PlacedId, StoredBlock, StoredTopic};
use crate::topic::TopicId;

/// The bytes that an id takes besides its text: its places in the map and in the order, and the
/// allocation.
const ENTRY_BYTES: usize = 128;

/// The bytes that a topic's part of the window takes besides its ids.
const TOPIC_BYTES: usize = 512;

/// The step in which sizes of topics are compared, in bytes. With steps, not every id that comes or
/// goes moves its topic in the order of sizes.
const SIZE_STEP_BYTES: usize = 4 << 10;

/// The ids of all topics. The committer owns the window, because it alone knows the order of
/// publishes.
#[derive(Debug)]
pub(crate) struct DedupWindow {
    config: DedupConfig,
    /// The most milliseconds by which times in the log may be off.
    clocks_ms: u64,
    topics: HashMap<TopicId, TopicIds>,
    /// Each topic, with the time at which its oldest id was stored, or an earlier time.
    by_age: BTreeSet<(Timestamp, TopicId)>,
    /// Each topic, with its size in steps.
    by_size: BTreeSet<(usize, TopicId)>,
    size_bytes: usize,
    /// The blocks of ids in the log of which every id is forgotten, each by its first sequence.
    forgotten: VecDeque<(TopicId, Sequence)>,
    /// The number of ids that were given up for lack of memory.
    cut: Arc<AtomicU64>,
}

/// The ids of one topic.
#[derive(Debug)]
struct TopicIds {
    /// The receipt of each id, with the clock's time at which it was stored.
    receipts: HashMap<Arc<str>, (Receipt, Timestamp)>,
    /// Every id, in the order of sequences.
    order: VecDeque<(Arc<str>, Sequence)>,
    size_bytes: usize,
    /// The first and the last sequence of each block of ids in the log, in this order.
    stored: VecDeque<(Sequence, Sequence)>,
    /// The topic's keys in `by_age` and in `by_size`.
    age: Timestamp,
    size_step: usize,
}

impl TopicIds {
    fn new(age: Timestamp) -> Self {
        let (receipts, order, stored) = Default::default();
        Self { receipts, order, stored, size_bytes: TOPIC_BYTES, age, size_step: 0 }
    }

    /// Adds an id. Returns the bytes that it takes.
    fn add(&mut self, id: &str, receipt: Receipt, clock: Timestamp) -> usize {
        let id: Arc<str> = id.into();
        let size_bytes = ENTRY_BYTES + id.len();
        let sequence = receipt.sequence;
        let place = match self.order.back() {
            Some((_, last)) if *last > sequence => {
                self.order.partition_point(|(_, other)| *other <= sequence)
            }
            _ => self.order.len(),
        };
        self.order.insert(place, (id.clone(), sequence));
        self.receipts.insert(id, (receipt, clock));
        self.size_bytes += size_bytes;
        size_bytes
    }

    /// Takes the oldest id out. Returns the bytes that it took.
    fn forget_oldest(&mut self) -> usize {
        let Some((id, sequence)) = self.order.pop_front() else { return 0 };
        // An id that a later event had again stays, for that event.
        if self.receipts.get(&id).is_some_and(|(receipt, _)| receipt.sequence == sequence) {
            self.receipts.remove(&id);
        }
        self.size_bytes -= ENTRY_BYTES + id.len();
        ENTRY_BYTES + id.len()
    }

    /// Returns an id with its event's places; `None` if a later event has the id.
    fn placed<'a>(&self, id: &'a str, sequence: Sequence) -> Option<PlacedId<'a>> {
        let (Receipt { sequence: known, position, time }, clock) = *self.receipts.get(id)?;
        // The clock of this node may be ahead of that of the node that stored the event. The form
        // of a block has no such time.
        let clock = clock.min(time);
        (known == sequence).then_some(PlacedId { id, sequence, position, time, clock })
    }

    /// Takes out the blocks of ids of which every id is forgotten. Returns the first sequence of
    /// each.
    fn forgotten(&mut self) -> impl Iterator<Item = Sequence> {
        let oldest = self.order.front().map(|(_, sequence)| *sequence);
        let is_over = |(_, last): &(Sequence, Sequence)| oldest.is_none_or(|oldest| *last < oldest);
        let count = self.stored.partition_point(is_over);
        self.stored.drain(..count).map(|(first, _)| first)
    }

    /// Returns the sequence of the oldest id, and the time at which it was stored: `None` as the
    /// time if a later event has the id.
    fn oldest(&self) -> Option<(Sequence, Option<Timestamp>)> {
        let (id, sequence) = self.order.front()?;
        let noted = self.receipts.get(id).filter(|(receipt, _)| receipt.sequence == *sequence);
        Some((*sequence, noted.map(|(_, clock)| *clock)))
    }
}

impl DedupWindow {
    /// Returns a window without ids. In `cut` it counts the ids that it gives up for lack of
    /// memory.
    pub(crate) fn new(config: DedupConfig, cut: Arc<AtomicU64>) -> Self {
        let topics = HashMap::new();
        let (by_age, by_size, forgotten) = Default::default();
        Self { config, clocks_ms: 0, topics, by_age, by_size, size_bytes: 0, forgotten, cut }
    }

    /// Returns this window for a log whose times may be off by so much, because other nodes have
    /// written them.
    pub(crate) fn with_clocks(self, clocks_ms: u64) -> Self {
        Self { clocks_ms, ..self }
    }

    /// Remembers the ids of a block of the log that was stored before `now`, from the sequence
    /// `first` on.
    pub(crate) fn remember_stored(
        &mut self,
        topic: TopicId,
        block: &Block,
        first: Sequence,
        now: Timestamp,
    ) {
        if self.clocks_ms == 0 {
            return self.remember_block(topic, block, first, |clock| clock.min(now));
        }
        // Those that are over whatever the clocks were are no news; all others may be new.
        let is_over = !self.may_be_fresh(block.last_clock(), now);
        let clock = if is_over { block.last_clock() } else { now };
        self.remember_block(topic, block, first, |_| clock);
    }

    /// Remembers the ids of a block, from the sequence `first` on. `stored_at` is given the clock's
    /// time that an event has, and returns the one at which the event counts as stored.
    pub(crate) fn remember_block(
        &mut self,
        topic: TopicId,
        block: &Block,
        first: Sequence,
        stored_at: impl Fn(Timestamp) -> Timestamp,
    ) {
        let is_wanted = |event: &EventRef<'_>| !event.id.is_empty() && event.sequence >= first;
        for event in block.events().filter(is_wanted) {
            let EventRef { sequence, position, time, .. } = event;
            let receipt = Receipt { sequence, position, time };
            self.remember(topic, event.id, receipt, stored_at(event.clock));
        }
    }

    /// Remembers the blocks of ids that the log holds when it is opened at `now`. `topics` are in
    /// the order of their ids.
    pub(crate) fn load(
        &mut self,
        topics: &[StoredTopic],
        blocks: Vec<(TopicId, Block)>,
        now: Timestamp,
    ) {
        for (id, block) in blocks {
            let topic = topics.binary_search_by_key(&id, |topic| topic.id);
            if let Ok(StoredTopic { extent, .. }) = topic.map(|index| &topics[index]) {
                self.remember_stored(id, &block, extent.purged, now);
                self.were_stored(id, &block);
                self.advance(id, extent.tail);
            } else {
                self.forgotten.push_back((id, block.first_sequence()));
            }
        }
        self.expire(now);
    }

    /// Whether ids of this block can be in the window of a topic that ends at `tail`.
    pub(crate) fn reaches(&self, block: &StoredBlock, tail: Sequence, now: Timestamp) -> bool {
        let is_fresh = block.last.is_some_and(|last| self.may_be_fresh(last.clock, now));
        is_fresh && self.is_recent(block.end.previous(), tail)
    }

    /// Returns the ids of `topic` that the window holds for these sequences, in their order.
    pub(crate) fn ids(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
    ) -> impl Iterator<Item = PlacedId<'_>> {
        let ids = self.topics.get(&topic);
        ids.into_iter().flat_map(move |ids| {
            let below = |end: Sequence| ids.order.partition_point(|(_, other)| *other < end);
            let places = below(sequences.start)..below(sequences.end);
            ids.order.range(places).filter_map(|(id, sequence)| ids.placed(id, *sequence))
        })
    }

    /// Notes that the log holds this block of ids now.
    pub(crate) fn were_stored(&mut self, topic: TopicId, block: &Block) {
        let first = block.first_sequence();
        match self.topics.get_mut(&topic) {
            Some(ids) => {
                ids.stored.push_back((first, block.last_sequence()));
                self.forgotten.extend(ids.forgotten().map(|first| (topic, first)));
            }
            None => self.forgotten.push_back((topic, first)),
        }
    }

    /// Returns blocks of ids that can be removed from the log, up to `max`.
    pub(crate) fn forgotten(&self, max: usize) -> Vec<(TopicId, Sequence)> {
        self.forgotten.iter().take(max).copied().collect()
    }

    /// Notes that the log holds these blocks of ids no more. The node that has removed them has
    /// taken the first of `forgotten`; the window of another node may still know some of the ids.
    pub(crate) fn were_removed(&mut self, removed: &[(TopicId, Sequence)]) {
        for gone in removed {
            if let Some(place) = self.forgotten.iter().position(|known| known == gone) {
                self.forgotten.remove(place);
            } else if let Some(ids) = self.topics.get_mut(&gone.0) {
                ids.stored.retain(|(first, _)| *first != gone.1);
            }
        }
    }

    /// Returns the receipt of the event with this id, if it is in the window of a topic whose next
    /// event gets the sequence `tail`.
    pub(crate) fn find(
        &self,
        topic: TopicId,
        id: &str,
        tail: Sequence,
        now: Timestamp,
    ) -> Option<Receipt> {
        let (receipt, clock) = self.topics.get(&topic)?.receipts.get(id)?;
        let is_known = self.is_recent(receipt.sequence, tail) && self.is_fresh(*clock, now);
        is_known.then_some(*receipt)
    }

    /// Remembers an id that was stored at the clock's time `clock`.
    pub(crate) fn remember(
        &mut self,
        topic: TopicId,
        id: &str,
        receipt: Receipt,
        clock: Timestamp,
    ) {
        let by_age = &mut self.by_age;
        let ids = self.topics.entry(topic).or_insert_with(|| {
            self.size_bytes += TOPIC_BYTES;
            by_age.insert((clock, topic));
            TopicIds::new(clock)
        });
        if ids.receipts.get(id).is_some_and(|(known, _)| known.sequence >= receipt.sequence) {
            return; // The block was recalled before.
        }
        self.size_bytes += ids.add(id, receipt, clock);
        if clock < ids.age {
            by_age.remove(&(ids.age, topic));
            by_age.insert((clock, topic));
            ids.age = clock;
        }
        self.sort(topic);
        while self.size_bytes as u64 > self.config.max_bytes {
            let Some((_, largest)) = self.by_size.last().copied() else { return };
            self.cut.fetch_add(1, Ordering::Relaxed);
            self.forget_oldest(largest);
        }
    }

    /// Forgets the ids of `topic` whose events are not among its last `max_events` any more. The
    /// topic's next event gets the sequence `tail`.
    pub(crate) fn advance(&mut self, topic: TopicId, tail: Sequence) {
        while self.oldest(topic).is_some_and(|oldest| !self.is_recent(oldest, tail)) {
            self.forget_oldest(topic);
        }
    }

    /// Forgets the ids of `topic` below the sequence `first`: these events were purged, and may be
    /// published again.
    pub(crate) fn forget_below(&mut self, topic: TopicId, first: Sequence) {
        while self.oldest(topic).is_some_and(|oldest| oldest < first) {
            self.forget_oldest(topic);
        }
    }

    /// Forgets the ids that are too old at `now`.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((age, topic)) = self.by_age.first().copied()
            && !self.is_fresh(age, now)
        {
            let Some(ids) = self.topics.get_mut(&topic) else { return };
            match ids.oldest() {
                Some((_, Some(clock))) if clock > age => {
                    self.by_age.remove(&(age, topic));
                    self.by_age.insert((clock, topic));
                    ids.age = clock;
                }
                _ => self.forget_oldest(topic),
            }
        }
    }

    fn oldest(&self, topic: TopicId) -> Option<Sequence> {
        self.topics.get(&topic)?.oldest().map(|(sequence, _)| sequence)
    }

    fn is_recent(&self, sequence: Sequence, tail: Sequence) -> bool {
        sequence.get().saturating_add(self.config.max_events) >= tail.get()
    }

    fn is_fresh(&self, clock: Timestamp, now: Timestamp) -> bool {
        clock.as_ms().saturating_add(self.config.max_age_ms) >= now.as_ms()
    }

    /// Whether an id may be in the window that was stored at `clock`, as the log says.
    fn may_be_fresh(&self, clock: Timestamp, now: Timestamp) -> bool {
        self.is_fresh(clock.plus_ms(self.clocks_ms), now)
    }

    /// Takes the oldest id of `topic` out. With its last id the topic goes, too.
    fn forget_oldest(&mut self, topic: TopicId) {
        let Some(ids) = self.topics.get_mut(&topic) else { return };
        self.size_bytes -= ids.forget_oldest();
        self.forgotten.extend(ids.forgotten().map(|first| (topic, first)));
        if ids.order.is_empty() {
            self.by_age.remove(&(ids.age, topic));
            self.by_size.remove(&(ids.size_step, topic));
            self.size_bytes -= TOPIC_BYTES;
            self.topics.remove(&topic);
        } else {
            self.sort(topic);
        }
    }

    /// Puts `topic` at its place in the order of sizes.
    fn sort(&mut self, topic: TopicId) {
        let Some(ids) = self.topics.get_mut(&topic) else { return };
        let step = 1 + ids.size_bytes / SIZE_STEP_BYTES; // 0: not in the order yet.
        if step != ids.size_step {
            self.by_size.remove(&(ids.size_step, topic));
            self.by_size.insert((step, topic));
            ids.size_step = step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Position;
    use crate::log::blocks_of_ids;

    const A: TopicId = TopicId::FIRST;

    fn receipt(sequence: u64, time_ms: u64) -> Receipt {
        Receipt {
            sequence: Sequence::new(sequence),
            position: Position::new(sequence),
            time: Timestamp::from_ms(time_ms),
        }
    }

    fn window(max_events: u64, max_age_ms: u64, max_bytes: u64) -> DedupWindow {
        DedupWindow::new(DedupConfig { max_events, max_age_ms, max_bytes }, Arc::default())
    }

    fn remember(window: &mut DedupWindow, topic: TopicId, id: &str, receipt: Receipt) {
        window.remember(topic, id, receipt, receipt.time);
    }

    /// Returns those of `ids` that the window knows.
    fn known(window: &DedupWindow, topic: TopicId, ids: std::ops::Range<u64>) -> Vec<u64> {
        let (tail, now) = (Sequence::new(ids.end), Timestamp::from_ms(1));
        ids.filter(|id| window.find(topic, &id.to_string(), tail, now).is_some()).collect()
    }

    #[test]
    fn an_id_is_known_up_to_the_exact_ends_of_the_window() {
        let mut window = window(100, 1_000, 1 << 20);
        remember(&mut window, A, "a", receipt(7, 50));
        let find = |tail, now| window.find(A, "a", Sequence::new(tail), Timestamp::from_ms(now));
        assert_eq!(find(8, 50), Some(receipt(7, 50)));
        let last = find(107, 1_050);
        assert_eq!(last, Some(receipt(7, 50)), "100 events and 1,000 ms ago");
        assert_eq!(find(108, 1_050), None, "101 events ago");
        assert_eq!(find(107, 1_051), None, "1,001 ms ago");
        let (other, now) = (A.next().unwrap(), Timestamp::from_ms(50));
        assert_eq!(window.find(other, "a", Sequence::new(8), now), None);
        window.advance(A, Sequence::new(107));
        assert!(window.find(A, "a", Sequence::new(107), now).is_some());
        window.advance(A, Sequence::new(108));
        assert_eq!(window.size_bytes, 0, "ids that are too far back take no memory");
        assert!(window.by_age.is_empty() && window.by_size.is_empty());
    }

    /// Goal: when memory is short, the topic that takes most gives up its oldest ids, and no other
    /// topic does. The number of these ids is counted.
    #[test]
    fn memory_is_bounded_and_the_largest_topic_gives_up_its_oldest() {
        let entry = ENTRY_BYTES + 4;
        let max_bytes = 2 * TOPIC_BYTES + 300 * entry;
        let mut window = window(u64::MAX, u64::MAX, max_bytes as u64);
        let quiet = A.next().unwrap();
        for sequence in 1_000..1_050 {
            remember(&mut window, quiet, &sequence.to_string(), receipt(sequence, 1));
        }
        for sequence in 1_000..3_000 {
            remember(&mut window, A, &sequence.to_string(), receipt(sequence, 1));
            assert!(window.size_bytes <= max_bytes);
        }
        assert_eq!(known(&window, quiet, 1_000..1_050), (1_000..1_050).collect::<Vec<_>>());
        assert_eq!(known(&window, A, 1_000..3_000), (2_750..3_000).collect::<Vec<_>>());
        assert_eq!(window.cut.load(Ordering::Relaxed), 1_750);
        window.expire(Timestamp::from_ms(u64::MAX));
        assert_eq!(window.topics.len(), 2, "ids of an endless window never expire");
        window.forget_below(quiet, Sequence::new(1_049));
        assert_eq!(known(&window, quiet, 1_000..1_050), [1_049]);
    }

    #[test]
    fn what_expired_takes_no_memory_and_an_id_noted_again_stays() {
        let mut window = window(100, 1_000, 1 << 20);
        let other = A.next().unwrap();
        remember(&mut window, A, "a", receipt(1, 0));
        remember(&mut window, A, "b", receipt(2, 0));
        remember(&mut window, other, "b", receipt(1, 500));
        remember(&mut window, A, "a", receipt(3, 900));
        let at = |time_ms| Timestamp::from_ms(time_ms);
        window.expire(at(1_001));
        let find = |window: &DedupWindow, topic, id| {
            window.find(topic, id, Sequence::new(4), at(1_001)).map(|r| r.sequence.get())
        };
        assert_eq!((find(&window, A, "a"), find(&window, A, "b")), (Some(3), None));
        assert_eq!(find(&window, other, "b"), Some(1));
        assert_eq!(window.size_bytes, 2 * (TOPIC_BYTES + ENTRY_BYTES + 1));
        window.expire(at(1_501));
        assert_eq!(window.size_bytes, TOPIC_BYTES + ENTRY_BYTES + 1);
        window.expire(at(1_901));
        assert_eq!(window.size_bytes, 0);
        assert!(window.by_age.is_empty() && window.by_size.is_empty());
    }

    #[test]
    fn ids_that_are_recalled_late_come_before_those_that_are_newer() {
        let mut window = window(100, 1_000, 1 << 20);
        for sequence in [5, 3, 4, 3] {
            remember(&mut window, A, &sequence.to_string(), receipt(sequence, 10 * sequence));
        }
        let order: Vec<u64> = window.topics[&A].order.iter().map(|(_, s)| s.get()).collect();
        assert_eq!(order, [3, 4, 5]);
        window.expire(Timestamp::from_ms(1_041));
        let left: Vec<u64> = window.topics[&A].order.iter().map(|(_, s)| s.get()).collect();
        assert_eq!(left, [5]);
    }

    /// Goal: ids can be stored of events that another node has stored, whose clock was behind.
    #[test]
    fn an_id_is_stored_with_a_clock_that_is_not_after_its_event() {
        let mut window = window(100, u64::MAX, 1 << 20);
        for sequence in [1, 2] {
            let (id, receipt) = (sequence.to_string(), receipt(sequence, 50));
            window.remember(A, &id, receipt, Timestamp::from_ms(40 + 20 * sequence));
        }
        let ids = || window.ids(A, Sequence::new(1)..Sequence::new(3));
        assert!(ids().all(|id| id.clock == id.time));
        let stored: Vec<_> = blocks_of_ids(ids()).into_iter().collect();
        let clocks = stored.iter().flat_map(|block| block.events().map(|event| event.clock));
        assert_eq!(clocks.collect::<Vec<_>>(), [Timestamp::from_ms(50); 2]);
    }

    /// Goal: ids of the log are remembered from the moment on at which they are read, if the clocks
    /// of other nodes may have been wrong; and those that are over in any case are not.
    #[test]
    fn times_of_other_nodes_shorten_no_id() {
        let stored = |time_ms| {
            let place = receipt(1, time_ms);
            let Receipt { sequence, position, time } = place;
            let id = PlacedId { id: "a", sequence, position, time, clock: time };
            blocks_of_ids([id].into_iter()).into_iter().next().unwrap()
        };
        let knows = |time_ms, read_ms, now_ms| {
            let mut window = window(100, 1_000, 1 << 20).with_clocks(500);
            let read = Timestamp::from_ms(read_ms);
            window.remember_stored(A, &stored(time_ms), Sequence::FIRST, read);
            window.expire(read);
            window.find(A, "a", Sequence::new(2), Timestamp::from_ms(now_ms)).is_some()
        };
        assert!(knows(0, 1_500, 2_500), "a clock was behind");
        assert!(knows(9_000, 1_500, 2_500), "a clock was ahead");
        assert!(!knows(9_000, 1_500, 2_501));
        assert!(!knows(0, 1_501, 1_501), "it is over");
    }
}
