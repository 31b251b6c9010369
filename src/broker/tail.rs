//! The tails: the newest blocks of all topics in memory, shared by every reader.
//!
//! # Why
//!
//! One bound holds for all topics together, and the oldest block of the whole broker goes first. So
//! a busy broker with many topics cannot take more memory than a quiet one. A reader that is
//! behind the tail reads the log instead and costs nothing here.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::cursor::Sequence;
use crate::event::Event;
use crate::log::{Block, EventRef};
use crate::topic::TopicName;

/// What a block in a tail is counted for, in its stored size: the block itself, and one wire form
/// of about the same size that its readers share.
const BLOCK_SHARES: usize = 2;

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
        Arc::new(Self { block, forms: Default::default() })
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
}

impl Run {
    /// The events of `shared` from `from`, and below `below`; `None` if it holds none of these.
    pub(super) fn new(
        topic: TopicName,
        shared: Arc<SharedBlock>,
        from: Sequence,
        below: Sequence,
    ) -> Option<Self> {
        let run = Self { topic, shared, from, below };
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

    /// What it takes as it is stored, in bytes; an upper bound for part of a block.
    pub fn size_bytes(&self) -> usize {
        self.shared.block.bytes().len()
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
            Encoded { bytes: bytes.into(), starts }
        });
        let offset_of = |sequence: Sequence| {
            let index = encoded.starts.partition_point(|(start, _)| *start < sequence);
            encoded.starts.get(index).map_or(encoded.bytes.len(), |(_, offset)| *offset)
        };
        encoded.bytes.slice(offset_of(self.from)..offset_of(self.below))
    }
}

/// The newest blocks of one topic, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<VecDeque<Arc<SharedBlock>>>);

impl Tail {
    fn push(&self, block: Arc<SharedBlock>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(block);
    }

    fn pop_oldest(&self) {
        let mut blocks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.pop_front();
        if blocks.is_empty() {
            blocks.shrink_to_fit(); // A hundred thousand quiet topics keep no empty buffers.
        }
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
    size_bytes: usize,
    order: VecDeque<(Arc<Tail>, usize)>,
}

impl Tails {
    /// Tails that take `max_bytes` at the most, wire forms included.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, size_bytes: 0, order: VecDeque::new() }
    }

    /// Adds a block as the newest of its topic; where there is no room, the oldest of all go.
    pub(super) fn push(&mut self, tail: &Arc<Tail>, block: Block) {
        let charged = BLOCK_SHARES * block.bytes().len();
        tail.push(SharedBlock::new(block));
        self.order.push_back((tail.clone(), charged));
        self.size_bytes += charged;
        while self.size_bytes > self.max_bytes {
            let Some((tail, charged)) = self.order.pop_front() else { return };
            tail.pop_oldest();
            self.size_bytes -= charged;
        }
    }
}
