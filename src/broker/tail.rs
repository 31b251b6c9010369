//! The tails: the newest blocks of all topics in memory, shared by every reader.
//!
//! # Why
//!
//! One bound holds for all topics together, and the oldest block of the whole broker goes first. So
//! a busy broker with many topics cannot take more memory than a quiet one. A reader that is
//! behind the tail reads the log instead and costs nothing here. A wire form is charged when a
//! reader first asks for it, with what it really takes: some payloads grow sevenfold in one. What
//! that goes over the bound is made up for by the next block.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::cursor::Sequence;
use crate::event::{Event, Timestamp};
use crate::log::{Block, EventRef};
use crate::topic::TopicName;

/// What a block in a tail takes besides its bytes and its wire forms: its places in the queues, and
/// its allocations. Of 1,000,000 blocks of one small event, about that many bytes each.
const BLOCK_BYTES: usize = 384;

/// The wire forms in which a block may be kept, encoded once for all its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Frames of a server-sent event stream of one topic.
    Sse,
}

/// How many wire forms there are.
const FORMS: usize = 1;

/// A block and its wire forms, shared by all its readers.
#[derive(Debug)]
pub(super) struct SharedBlock {
    block: Block,
    forms: [OnceLock<Encoded>; FORMS],
    charge: Charge,
}

/// What a block in a tail is charged for, on the account of all tails.
#[derive(Debug, Default)]
struct Charge {
    account: Arc<AtomicUsize>,
    /// In bytes; `None` for a block in no tail, which costs its reader alone.
    charged: Mutex<Option<usize>>,
}

impl Charge {
    fn open(account: &Arc<AtomicUsize>, size_bytes: usize) -> Self {
        account.fetch_add(size_bytes, Ordering::Relaxed);
        Self { account: account.clone(), charged: Mutex::new(Some(size_bytes)) }
    }

    fn add(&self, size_bytes: usize) {
        if let Some(charged) = &mut *self.charged.lock().unwrap_or_else(PoisonError::into_inner) {
            *charged += size_bytes;
            self.account.fetch_add(size_bytes, Ordering::Relaxed);
        }
    }

    fn close(&self) {
        let charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.account.fetch_sub(charged.unwrap_or(0), Ordering::Relaxed);
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
    pub(super) fn new(block: Block) -> Arc<Self> {
        Arc::new(Self { block, forms: Default::default(), charge: Charge::default() })
    }

    /// Wraps a block for a tail, on the account of all tails.
    fn in_tail(block: Block, account: &Arc<AtomicUsize>) -> Arc<Self> {
        let charge = Charge::open(account, BLOCK_BYTES + block.bytes().len());
        Arc::new(Self { block, forms: Default::default(), charge })
    }

    pub(super) fn block(&self) -> &Block {
        &self.block
    }
}

/// Neighbouring events of one topic, as a reader gets them: part of a block, or all of it.
#[derive(Debug, Clone)]
pub struct Run {
    topic: TopicName,
    shared: Arc<SharedBlock>,
    from: Sequence,
    below: Sequence,
    /// When it was read: what has expired by then is no part of it.
    now: Timestamp,
}

impl Run {
    /// The events of `shared` from `from`, and below `below`, that have not expired at `now`;
    /// `None` if it holds none of these.
    pub(super) fn new(
        topic: TopicName,
        shared: Arc<SharedBlock>,
        from: Sequence,
        below: Sequence,
        now: Timestamp,
    ) -> Option<Self> {
        let run = Self { topic, shared, from, below, now };
        run.non_empty()
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The events, in order; one at least.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        let events = self.shared.block.events();
        events
            .skip_while(|event| event.sequence < self.from)
            .take_while(|event| event.sequence < self.below)
            .filter(|event| !event.is_expired(self.now))
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
    pub(super) fn below(mut self, before: Option<Sequence>) -> Option<Self> {
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
    pub fn encoded(
        &self,
        form: Form,
        mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> Bytes {
        let encoded = self.shared.forms[form as usize].get_or_init(|| {
            let block = &self.shared.block;
            let mut bytes = Vec::with_capacity(block.bytes().len() + block.count() * 64);
            let mut starts = Vec::with_capacity(block.count());
            for event in block.events() {
                starts.push((event.sequence, bytes.len()));
                encode(&event, &mut bytes);
            }
            self.shared.charge.add(bytes.capacity() + size_of_val(starts.as_slice()));
            Encoded { bytes: bytes.into(), starts }
        });
        if !self.shared.block.has_ttl() {
            return encoded
                .bytes
                .slice(encoded.offset_of(self.from)..encoded.offset_of(self.below));
        }
        let bytes_of = |event: EventRef<'_>| {
            let start = encoded.offset_of(event.sequence);
            encoded.bytes.slice(start..encoded.offset_of(event.sequence.next()))
        };
        let whole = self.shared.block.events().count();
        let mut events = self.events().map(bytes_of).collect::<Vec<_>>();
        match events.len() {
            1 => events.remove(0),
            count if count == whole => encoded.bytes.clone(),
            _ => events.concat().into(),
        }
    }
}

impl Encoded {
    /// Where the bytes of the first event begin that has this sequence or a later one.
    fn offset_of(&self, sequence: Sequence) -> usize {
        let index = self.starts.partition_point(|(start, _)| *start < sequence);
        self.starts.get(index).map_or(self.bytes.len(), |(_, offset)| *offset)
    }
}

/// The newest blocks of one topic, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<VecDeque<Arc<SharedBlock>>>);

impl Tail {
    fn push(&self, block: Arc<SharedBlock>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(block);
    }

    /// Lets go of the oldest block if it begins at `first`.
    fn pop(&self, first: Sequence) {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_oldest = |shared: &Arc<SharedBlock>| shared.block.first_sequence() == first;
        if blocks.front().is_some_and(is_oldest)
            && let Some(oldest) = blocks.pop_front()
        {
            oldest.charge.close();
        }
        if blocks.is_empty() {
            blocks.shrink_to_fit(); // A hundred thousand quiet topics keep no empty buffers.
        }
    }

    /// Lets go of the blocks up to `last`: the log holds them in another form now.
    pub(super) fn forget_through(&self, last: Sequence) {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = blocks.partition_point(|shared| shared.block.first_sequence() <= last);
        blocks.drain(..end).for_each(|shared| shared.charge.close());
    }

    /// Blocks from the one that holds the start of `readable`, `max_bytes` of them at the most but
    /// one at least; `None` when the start is older than what is kept, or newer. Blocks past the
    /// end are left out: they are here before readers may know of them.
    pub(super) fn read(
        &self,
        readable: Range<Sequence>,
        max_bytes: usize,
    ) -> Option<Vec<Arc<SharedBlock>>> {
        let from = readable.start;
        let blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
pub(super) struct Tails {
    max_bytes: usize,
    /// What all of them take, in bytes.
    account: Arc<AtomicUsize>,
    /// Every block by its tail and where it begins; it may be gone already.
    order: VecDeque<(Arc<Tail>, Sequence)>,
}

impl Tails {
    /// Tails that take `max_bytes` at the most, wire forms included.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, account: Arc::default(), order: VecDeque::new() }
    }

    /// Adds a block as the newest of its topic; where there is no room, the oldest of all go.
    pub(super) fn push(&mut self, tail: &Arc<Tail>, block: Block) {
        self.order.push_back((tail.clone(), block.first_sequence()));
        tail.push(SharedBlock::in_tail(block, &self.account));
        while self.account.load(Ordering::Relaxed) > self.max_bytes {
            let Some((tail, first)) = self.order.pop_front() else { return };
            tail.pop(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Position;
    use crate::event::NewEvent;
    use crate::log::{BlockBuilder, NewRecords};

    fn block(sequence: u64, payload_bytes: usize) -> Block {
        let records = NewRecords::encode([&NewEvent::new(vec![b'\n'; payload_bytes])]);
        let mut builder = BlockBuilder::new(Sequence::new(sequence));
        builder.push(records.record(0), false, false);
        builder.finish(Position::new(sequence), Timestamp::from_ms(1), 0)
    }

    #[test]
    fn wire_forms_are_charged_as_they_are_and_everything_is_given_back() {
        let mut tails = Tails::new(100_000);
        let quiet: Arc<Tail> = Arc::default();
        let read: Arc<Tail> = Arc::default();
        let topic = TopicName::new("a").unwrap();
        tails.push(&quiet, block(1, 1_000));
        tails.push(&read, block(1, 10_000));
        let held = read.read(Sequence::FIRST..Sequence::new(2), 1).unwrap().remove(0);
        let before = tails.account.load(Ordering::Relaxed);
        let run = Run::new(topic, held, Sequence::FIRST, Sequence::new(2), Timestamp::default());
        let run = run.unwrap();
        run.encoded(Form::Sse, |_, bytes| bytes.resize(90_000, 0));
        assert!(tails.account.load(Ordering::Relaxed) >= before + 90_000);
        tails.push(&quiet, block(2, 0));
        assert_eq!(tails.order.len(), 1, "the block with the large form is gone, and one before");
        tails.push(&quiet, block(3, 200_000));
        assert_eq!((tails.account.load(Ordering::Relaxed), tails.order.len()), (0, 0));
    }
}
