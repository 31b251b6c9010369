//! The tails: the newest blocks of all topics in memory, shared by every reader.
//!
//! # Why
//!
//! One bound holds for all topics together, and the oldest block of the whole broker goes first. So
//! a busy broker with many topics cannot take more memory than a quiet one. A reader that is
//! behind the tail reads the log instead and costs nothing here. A wire form is charged when a
//! reader first asks for it, with what it really takes: some payloads grow sevenfold in one. Where
//! there is no room for it, it is made anew for each reader.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::broker::read::filter::Filter;
use crate::broker::topic::topics::Topic;
use crate::cursor::{Position, Sequence};
use crate::event::Event;
use crate::log::{Ages, Block, EventRef};
use crate::topic::TopicName;

/// What a block in a tail takes besides its bytes and its wire forms: its places in the queues, and
/// its allocations. Of 1,000,000 blocks of one small event, about that many bytes each.
const BLOCK_BYTES: usize = 384;

/// Places in the order of all blocks that may be of blocks that are gone.
const MIN_ORDER: usize = 1_024;

/// The wire forms in which a block may be kept, encoded once for all its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Frames of a server-sent event stream, with sequences for ids, and payloads as they are.
    Data,
    /// The same, with envelopes around the payloads.
    Envelope,
    /// The same, with CloudEvents around them.
    CloudEvents,
    /// As [`Self::Data`], with positions for ids.
    PlacedData,
    /// As [`Self::Envelope`], with positions for ids.
    PlacedEnvelope,
    /// As [`Self::CloudEvents`], with positions for ids.
    PlacedCloudEvents,
    /// Messages of a WebSocket, but for what they begin with.
    Message,
    /// The same, with positions for cursors.
    PlacedMessage,
}

/// How many wire forms there are.
pub(in crate::broker) const FORMS: usize = 8;

/// For how many filters a block remembers what they pick.
const MAX_PICKS: usize = 4;

/// A block and its wire forms, shared by all its readers.
#[derive(Debug)]
pub(in crate::broker) struct SharedBlock {
    block: Block,
    forms: [OnceLock<Box<Encoded>>; FORMS],
    /// What filters pick, the sequences of the events.
    picks: Mutex<Vec<(Arc<Filter>, Picked)>>,
    charge: Charge,
}

/// The sequences of the events that a filter picks, in order.
type Picked = Arc<[Sequence]>;

/// What all tails take together, and may take.
#[derive(Debug, Default)]
pub(in crate::broker) struct Account {
    max_bytes: usize,
    used_bytes: AtomicUsize,
    /// Blocks that are in a tail.
    blocks: AtomicUsize,
}

impl Account {
    /// Of blocks that may take so much.
    pub(in crate::broker) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, ..Self::default() })
    }

    pub(in crate::broker) fn is_over(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) > self.max_bytes
    }
}

/// What a block in a tail is charged for, on the account of all tails.
#[derive(Debug, Default)]
struct Charge {
    account: Arc<Account>,
    /// In bytes; `None` for a block in no tail, which costs its reader alone.
    charged: Mutex<Option<usize>>,
}

impl Charge {
    fn open(account: &Arc<Account>, size_bytes: usize) -> Self {
        account.used_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        account.blocks.fetch_add(1, Ordering::Relaxed);
        Self { account: account.clone(), charged: Mutex::new(Some(size_bytes)) }
    }

    /// Whether there is no room for anything more.
    fn is_refused(&self) -> bool {
        let is_charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        is_charged && self.account.is_over()
    }

    fn add(&self, size_bytes: usize) {
        if let Some(charged) = &mut *self.charged.lock().unwrap_or_else(PoisonError::into_inner) {
            *charged += size_bytes;
            self.account.used_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        let charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(size_bytes) = charged {
            self.account.used_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            self.account.blocks.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A block's events in a wire form.
#[derive(Debug)]
struct Encoded {
    bytes: Bytes,
    /// The sequence of each event, and where its bytes begin.
    starts: Vec<(Sequence, usize)>,
}

impl SharedBlock {
    /// Wraps a block that nobody else reads yet.
    pub(in crate::broker) fn new(block: Block) -> Arc<Self> {
        Self::charged(block, Charge::default())
    }

    /// Wraps a block that is kept for others, on an account.
    pub(in crate::broker) fn charged_to(block: Block, account: &Arc<Account>) -> Arc<Self> {
        let charge = Charge::open(account, BLOCK_BYTES + block.bytes().len());
        Self::charged(block, charge)
    }

    /// It is not kept any more.
    pub(in crate::broker) fn let_go(&self) {
        self.charge.close();
    }

    fn charged(block: Block, charge: Charge) -> Arc<Self> {
        Arc::new(Self { block, forms: Default::default(), picks: Mutex::default(), charge })
    }

    /// What `filter` picks of it.
    fn picked(&self, filter: &Arc<Filter>) -> Picked {
        let known = |picks: &[(Arc<Filter>, Picked)]| {
            let known = picks.iter().find(|(known, _)| Arc::ptr_eq(known, filter));
            known.map(|(_, picked)| picked.clone())
        };
        let picks = || self.picks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(picked) = known(&picks()) {
            return picked;
        }
        // Without the lock: others look at the block for filters of their own.
        let events = self.block.events().filter(|event| filter.picks(event));
        let picked: Picked = events.map(|event| event.sequence).collect();
        let mut picks = picks();
        if known(&picks).is_none() && picks.len() < MAX_PICKS && !self.charge.is_refused() {
            self.charge.add(size_of_val(&*picked));
            picks.push((filter.clone(), picked.clone()));
        }
        picked
    }

    pub(in crate::broker) fn block(&self) -> &Block {
        &self.block
    }

    /// What it takes in memory, without its wire forms, in bytes.
    pub(in crate::broker) fn size_bytes(&self) -> usize {
        BLOCK_BYTES + self.block.bytes().len()
    }
}

/// Neighbouring events of one topic, as a reader gets them: part of a block, or all of it.
///
/// What has expired is no part of it. But in a topic that is compacted an event of a key deletes
/// that key when it expires: it comes as a tombstone, which is the same event without its payload,
/// until maintenance drops it. Otherwise the value before it, which may still be there, would be
/// the last that a reader gets of the key.
#[derive(Debug, Clone)]
pub struct Run {
    topic: TopicName,
    shared: Arc<SharedBlock>,
    from: Sequence,
    below: Sequence,
    /// The ages when it was read: that is when an event has expired or not.
    ages: Ages,
    /// Whether an event of a key deletes the key when it expires: its topic is compacted.
    deletes_keys: bool,
    /// Those that the reader's filter picks, if it has one.
    picked: Option<Picked>,
}

impl Run {
    /// The events of `shared`, a block of `topic`, in `sequences` as they are at these ages, and
    /// that `filter` picks; `None` if it holds none of these.
    pub(in crate::broker) fn new(
        topic: &Topic,
        shared: Arc<SharedBlock>,
        sequences: Range<Sequence>,
        ages: Ages,
        filter: Option<&Arc<Filter>>,
    ) -> Option<Self> {
        let picked = filter.map(|filter| shared.picked(filter));
        let Range { start: from, end: below } = sequences;
        let deletes_keys = shared.block.has_ttl() && topic.effective_config().key_limit().is_some();
        let topic = topic.name.clone();
        Self { topic, shared, from, below, ages, deletes_keys, picked }.non_empty()
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The events, in order; one at least.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.seen().map(|(event, _has_expired)| event)
    }

    /// The events as a reader sees them, and whether that is as tombstones for they have expired.
    fn seen(&self) -> impl Iterator<Item = (EventRef<'_>, bool)> {
        let events = self.shared.block.events();
        events
            .skip_while(|event| event.sequence < self.from)
            .take_while(|event| event.sequence < self.below)
            .filter(|event| self.picks(event.sequence))
            .filter_map(|mut event| match self.ages.has_expired(&event) {
                false => Some((event, false)),
                true if self.deletes_keys && !event.key.is_empty() => {
                    event.payload = &[];
                    Some((event, true))
                }
                true => None,
            })
    }

    fn picks(&self, sequence: Sequence) -> bool {
        self.picked.as_ref().is_none_or(|picked| picked.binary_search(&sequence).is_ok())
    }

    /// What it keeps in memory, in bytes: the block that it is a part of.
    pub fn held_bytes(&self) -> usize {
        self.shared.size_bytes()
    }

    /// Shares a part of one of its events, such as a payload, instead of copying it.
    ///
    /// # Panics
    ///
    /// If it is part of none.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.shared.block.bytes().slice_ref(part)
    }

    /// Copies of the events that live on their own.
    pub fn to_events(&self) -> Vec<Event> {
        self.events().map(|event| self.shared.block.to_event(&event)).collect()
    }

    /// The first events only, `count` at the most.
    pub fn first(mut self, count: usize) -> Self {
        let next = self.events().nth(count).map(|event| event.sequence);
        self.below = next.unwrap_or(self.below);
        self
    }

    /// The events below `before` only; `None` if there are none.
    pub(in crate::broker) fn below(mut self, before: Option<Sequence>) -> Option<Self> {
        self.below = before.map_or(self.below, |before| before.min(self.below));
        self.non_empty()
    }

    fn non_empty(self) -> Option<Self> {
        let holds_one = self.events().next().is_some();
        holds_one.then_some(self)
    }

    /// The sequence of the last event.
    pub fn last_sequence(&self) -> Sequence {
        let block = &self.shared.block;
        if self.below > block.last_sequence() {
            return block.last_sequence();
        }
        self.events().last().map_or(self.from, |event| event.sequence)
    }

    /// The events in a wire form. `encode` appends one event; it is called for each event of the
    /// block the first time that anybody asks for this form, and must depend on nothing else.
    pub fn encoded(&self, form: Form, encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>)) -> Bytes {
        self.with_encoded(form, encode, |encoded, encode| self.cut(encoded, encode))
    }

    /// The events in a form of one reader's own, each by itself: nothing of it is kept.
    pub fn encoded_alone(
        &self,
        mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> impl Iterator<Item = Vec<u8>> {
        self.events().map(move |event| {
            let mut bytes = Vec::new();
            encode(&event, &mut bytes);
            bytes
        })
    }

    /// As [`Self::encoded`], each event by itself.
    pub fn encoded_each(
        &self,
        form: Form,
        encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> Vec<Bytes> {
        self.with_encoded(form, encode, |encoded, encode| self.cut_each(encoded, encode))
    }

    fn with_encoded<T, E: FnMut(&EventRef<'_>, &mut Vec<u8>)>(
        &self,
        form: Form,
        mut encode: E,
        cut: impl FnOnce(&Encoded, E) -> T,
    ) -> T {
        let kept = &self.shared.forms[form as usize];
        if kept.get().is_none() && self.shared.charge.is_refused() {
            let encoded = Encoded::new(&self.shared.block, &mut encode);
            return cut(&encoded, encode);
        }
        let encoded = kept.get_or_init(|| {
            let encoded = Encoded::new(&self.shared.block, &mut encode);
            self.shared.charge.add(encoded.size_bytes());
            Box::new(encoded)
        });
        cut(encoded, encode)
    }

    /// What of a block's wire form belongs to this run.
    fn cut(&self, encoded: &Encoded, encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>)) -> Bytes {
        if !self.shared.block.has_ttl() && self.picked.is_none() {
            return encoded
                .bytes
                .slice(encoded.offset_of(self.from)..encoded.offset_of(self.below));
        }
        let is_whole = self.seen().filter(|(_, has_expired)| !has_expired).count()
            == self.shared.block.count();
        if is_whole {
            return encoded.bytes.clone();
        }
        let mut events = self.cut_each(encoded, encode);
        match events.len() {
            1 => events.remove(0),
            _ => events.concat().into(),
        }
    }

    /// As [`Self::cut`], each event by itself. What was encoded when it had not expired yet, or for
    /// readers of a topic that was not compacted, is no tombstone: that is encoded here.
    fn cut_each(
        &self,
        encoded: &Encoded,
        mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> Vec<Bytes> {
        let cut = self.seen().map(|(event, has_expired)| {
            if !has_expired {
                return encoded.of(event.sequence);
            }
            let mut bytes = Vec::new();
            encode(&event, &mut bytes);
            bytes.into()
        });
        cut.collect()
    }
}

impl Encoded {
    fn new(block: &Block, mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>)) -> Self {
        let mut bytes = Vec::with_capacity(block.bytes().len() + block.count() * 64);
        let mut starts = Vec::with_capacity(block.count());
        for event in block.events() {
            starts.push((event.sequence, bytes.len()));
            encode(&event, &mut bytes);
        }
        bytes.shrink_to_fit();
        Self { bytes: bytes.into(), starts }
    }

    /// The bytes of one event.
    fn of(&self, sequence: Sequence) -> Bytes {
        self.bytes.slice(self.offset_of(sequence)..self.offset_of(sequence.next()))
    }

    fn size_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(self.starts.as_slice())
    }

    /// Where the bytes of the first event begin that has this sequence or a later one.
    fn offset_of(&self, sequence: Sequence) -> usize {
        let index = self.starts.partition_point(|(start, _)| *start < sequence);
        self.starts.get(index).map_or(self.bytes.len(), |(_, offset)| *offset)
    }
}

/// The newest blocks of one topic.
#[derive(Debug)]
pub(in crate::broker) struct Tail(Mutex<Newest>);

#[derive(Debug)]
struct Newest {
    /// Oldest first.
    blocks: VecDeque<Arc<SharedBlock>>,
    /// The last position of the events before them.
    before: Position,
}

impl Newest {
    fn let_go(&mut self, count: usize) {
        for shared in self.blocks.drain(..count) {
            self.before = shared.block.last_position();
            shared.let_go();
        }
        if self.blocks.is_empty() {
            self.blocks.shrink_to_fit(); // A hundred thousand quiet topics keep no empty buffers.
        }
    }
}

impl Tail {
    /// Of a topic whose events so far end at this position.
    pub(in crate::broker) fn after(before: Position) -> Self {
        Self(Mutex::new(Newest { blocks: VecDeque::new(), before }))
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, block: Arc<SharedBlock>) {
        self.newest().blocks.push_back(block);
    }

    /// The sequence of the first event after `position`; `None` if it may be older than what is
    /// kept, or is not there yet.
    pub(in crate::broker) fn seek_after(&self, position: Position) -> Option<Sequence> {
        let newest = self.newest();
        if position < newest.before {
            return None;
        }
        let index = newest.blocks.partition_point(|s| s.block.last_position() <= position);
        let block = &newest.blocks.get(index)?.block;
        block.events().find(|event| event.position > position).map(|event| event.sequence)
    }

    /// Whether it holds all events from this position on.
    pub(in crate::broker) fn holds_from(&self, position: Position) -> bool {
        self.newest().before < position
    }

    /// Lets go of the oldest block if it begins at `first`.
    fn pop(&self, first: Sequence) {
        let mut newest = self.newest();
        let oldest = newest.blocks.front();
        if oldest.is_some_and(|shared| shared.block.first_sequence() == first) {
            newest.let_go(1);
        }
    }

    /// Whether a block in it begins there.
    fn begins_one_at(&self, first: Sequence) -> bool {
        let blocks = &self.newest().blocks;
        blocks.binary_search_by_key(&first, |shared| shared.block.first_sequence()).is_ok()
    }

    /// Lets go of the blocks up to `last`: the log holds them in another form now.
    pub(in crate::broker) fn forget_through(&self, last: Sequence) {
        let mut newest = self.newest();
        let end = newest.blocks.partition_point(|shared| shared.block.first_sequence() <= last);
        newest.let_go(end);
    }

    /// Blocks from the one that holds the start of `readable`, `max_bytes` of them at the most but
    /// one at least; `None` when the start is older than what is kept, or newer. Blocks past the
    /// end are left out: they are here before readers may know of them.
    pub(in crate::broker) fn read(
        &self,
        readable: Range<Sequence>,
        max_bytes: usize,
    ) -> Option<Vec<Arc<SharedBlock>>> {
        let from = readable.start;
        let blocks = &self.newest().blocks;
        if blocks.front()?.block.first_sequence() > from {
            return None;
        }
        let first = blocks.partition_point(|shared| shared.block.last_sequence() < from);
        let mut left = max_bytes;
        let read: Vec<_> = blocks
            .range(first..)
            .take_while(|shared| shared.block.first_sequence() < readable.end)
            .enumerate()
            .take_while(|(index, shared)| {
                let size_bytes = shared.block.bytes().len();
                let fits = *index == 0 || size_bytes <= left;
                left = left.saturating_sub(size_bytes);
                fits
            })
            .map(|(_, shared)| shared.clone())
            .collect();
        (!read.is_empty()).then_some(read)
    }
}

/// Which blocks are in memory over all topics, oldest first. Belongs to the committer.
#[derive(Debug)]
pub(in crate::broker) struct Tails {
    account: Arc<Account>,
    /// Every block by its tail and where it begins; it may be gone already.
    order: VecDeque<(Arc<Tail>, Sequence)>,
}

impl Tails {
    /// Tails that take `max_bytes` at the most, wire forms included.
    pub(in crate::broker) fn new(max_bytes: usize) -> Self {
        Self { account: Account::new(max_bytes), order: VecDeque::new() }
    }

    /// Adds a block as the newest of its topic; where there is no room, the oldest of all go.
    pub(in crate::broker) fn push(&mut self, tail: &Arc<Tail>, block: Block) {
        self.order.push_back((tail.clone(), block.first_sequence()));
        tail.push(SharedBlock::charged_to(block, &self.account));
        while self.account.is_over() {
            let Some((tail, first)) = self.order.pop_front() else { return };
            tail.pop(first);
        }
        // Those that maintenance has taken out of their tails are let go of by and by.
        if self.order.len() > 2 * self.account.blocks.load(Ordering::Relaxed) + MIN_ORDER {
            self.order.retain(|(tail, first)| tail.begins_one_at(*first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topic::topics::{TopicDefaults, TopicRef, Topics};
    use crate::event::{NewEvent, Timestamp};
    use crate::log::{BlockBuilder, NewRecords};

    fn block(sequence: u64, payload_bytes: usize) -> Block {
        let records = NewRecords::encode([&NewEvent::new(vec![b'\n'; payload_bytes])]);
        let mut builder = BlockBuilder::new(Sequence::new(sequence));
        builder.push(records.record(0), false, false);
        builder.finish(Position::new(sequence), Timestamp::from_ms(1), 0)
    }

    fn topic() -> TopicRef {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        topics.open(&"a".parse().unwrap()).unwrap()
    }

    #[test]
    fn wire_forms_are_charged_as_they_are_and_everything_is_given_back() {
        let mut tails = Tails::new(100_000);
        let quiet = Arc::new(Tail::after(Position::BEFORE_ALL));
        let read = Arc::new(Tail::after(Position::BEFORE_ALL));
        let topic = topic();
        tails.push(&quiet, block(1, 1_000));
        tails.push(&read, block(1, 10_000));
        let held = read.read(Sequence::FIRST..Sequence::new(2), 1).unwrap().remove(0);
        let used_bytes = |tails: &Tails| tails.account.used_bytes.load(Ordering::Relaxed);
        let before = used_bytes(&tails);
        let sequences = Sequence::FIRST..Sequence::new(2);
        let run = Run::new(&topic, held, sequences, Ages::default(), None).unwrap();
        run.encoded(Form::Data, |_, bytes| bytes.resize(90_000, 0));
        assert!(used_bytes(&tails) >= before + 90_000);
        tails.push(&quiet, block(2, 0));
        assert_eq!(tails.order.len(), 1, "the block with the large form is gone, and one before");
        tails.push(&quiet, block(3, 200_000));
        assert_eq!((used_bytes(&tails), tails.order.len()), (0, 0));
    }

    #[test]
    fn a_wire_form_that_there_is_no_room_for_is_made_anew_for_each_reader() {
        let mut tails = Tails::new(20_000);
        let tail = Arc::new(Tail::after(Position::BEFORE_ALL));
        tails.push(&tail, block(1, 1_000));
        tails.push(&tail, block(2, 1_000));
        let blocks = tail.read(Sequence::FIRST..Sequence::new(3), usize::MAX).unwrap();
        let run = |index: usize| {
            let shared = blocks[index].clone();
            let sequences = Sequence::FIRST..Sequence::new(3);
            Run::new(&topic(), shared, sequences, Ages::default(), None)
        };
        let mut encodings = 0;
        for index in [0, 0, 1, 1] {
            let bytes = run(index).unwrap().encoded(Form::Data, |_, bytes| {
                encodings += 1;
                bytes.resize(30_000, index as u8);
            });
            assert_eq!(bytes, vec![index as u8; 30_000]);
        }
        assert_eq!(encodings, 1 + 2, "the first is kept, the second finds no room");
    }

    #[test]
    fn blocks_that_were_taken_out_leave_nothing_behind() {
        let mut tails = Tails::new(1 << 20);
        let tail = Arc::new(Tail::after(Position::BEFORE_ALL));
        for number in 1..=10 * MIN_ORDER as u64 {
            tails.push(&tail, block(number, 0));
            tail.forget_through(Sequence::new(number));
        }
        assert!(tails.order.len() <= MIN_ORDER + 1, "{}", tails.order.len());
    }

    /// Goal: a read has as many blocks as fit its bytes, one at the least, and none past its end:
    /// what is there and not durable yet is nobody's.
    #[test]
    fn a_read_ends_with_its_bytes_and_before_what_is_not_readable_yet() {
        let mut tails = Tails::new(1 << 20);
        let tail = Arc::new(Tail::after(Position::BEFORE_ALL));
        (1..=6).for_each(|number| tails.push(&tail, block(number, 1_000)));
        let one = block(1, 1_000).bytes().len();
        let read = |from: u64, below: u64, max_bytes: usize| -> Vec<u64> {
            let read = tail.read(Sequence::new(from)..Sequence::new(below), max_bytes);
            let first = |shared: &Arc<SharedBlock>| shared.block.first_sequence().get();
            read.unwrap_or_default().iter().map(first).collect()
        };
        assert_eq!(read(2, 7, 1), [2]);
        assert_eq!(read(2, 7, 3 * one), [2, 3, 4]);
        assert_eq!(read(2, 7, 3 * one - 1), [2, 3]);
        assert_eq!(read(2, 4, usize::MAX), [2, 3]);
        assert!(read(4, 4, usize::MAX).is_empty());
    }
}
