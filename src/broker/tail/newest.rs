//! The tails: the newest blocks of all topics in memory, shared by every reader.
//!
//! # Why
//!
//! One bound holds for all topics together, and the oldest block of the whole broker goes first. So
//! a busy broker with many topics takes no more memory than a quiet one. A reader that is behind
//! the tail reads the log instead and costs nothing here. A wire form is charged when a reader
//! first asks for it, with the bytes that it really takes, because some payloads grow sevenfold. If
//! there is no room for a form, it is encoded anew for each reader.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::{Account, SharedBlock};
use crate::cursor::{Position, Sequence};
use crate::log::Block;

/// The entries in the order of all blocks that may be left over from blocks that are gone.
const MIN_ORDER: usize = 1_024;

/// The newest blocks of one topic.
#[derive(Debug)]
pub(crate) struct Tail(Mutex<Newest>);

#[derive(Debug)]
struct Newest {
    /// The blocks, the oldest first.
    blocks: VecDeque<Arc<SharedBlock>>,
    /// The position of the last event before these blocks.
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
    /// Returns the empty tail of a topic whose events so far end at this position.
    pub(crate) fn after(before: Position) -> Self {
        Self(Mutex::new(Newest { blocks: VecDeque::new(), before }))
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, block: Arc<SharedBlock>) {
        self.newest().blocks.push_back(block);
    }

    /// Returns the sequence of the first event after `position`; `None` if that event may be older
    /// than the blocks here, or does not exist yet.
    pub(crate) fn seek_after(&self, position: Position) -> Option<Sequence> {
        let newest = self.newest();
        if position < newest.before {
            return None;
        }
        let index = newest.blocks.partition_point(|s| s.block.last_position() <= position);
        let block = &newest.blocks.get(index)?.block;
        block.events().find(|event| event.position > position).map(|event| event.sequence)
    }

    /// Whether the tail holds all events from this position on.
    pub(crate) fn holds_from(&self, position: Position) -> bool {
        self.newest().before < position
    }

    /// Whether the tail holds all events from this sequence on.
    pub(crate) fn holds(&self, sequence: Sequence) -> bool {
        let newest = self.newest();
        newest.blocks.front().is_some_and(|shared| shared.block.first_sequence() <= sequence)
    }

    /// Lets go of the oldest block if it begins at `first`.
    fn pop(&self, first: Sequence) {
        let mut newest = self.newest();
        let oldest = newest.blocks.front();
        if oldest.is_some_and(|shared| shared.block.first_sequence() == first) {
            newest.let_go(1);
        }
    }

    /// Whether a block of the tail begins at this sequence.
    fn begins_one_at(&self, first: Sequence) -> bool {
        let blocks = &self.newest().blocks;
        blocks.binary_search_by_key(&first, |shared| shared.block.first_sequence()).is_ok()
    }

    /// Lets go of the blocks up to `last`: the log holds them in another form now.
    pub(crate) fn forget_through(&self, last: Sequence) {
        let mut newest = self.newest();
        let end = newest.blocks.partition_point(|shared| shared.block.first_sequence() <= last);
        newest.let_go(end);
    }

    /// Returns the block that holds the event before `below`; `None` if it is not here.
    pub(crate) fn before(&self, below: Sequence) -> Option<Arc<SharedBlock>> {
        let last = below.previous();
        let blocks = &self.newest().blocks;
        let index = blocks.partition_point(|shared| shared.block.last_sequence() < last);
        let found = blocks.get(index).filter(|shared| shared.block.first_sequence() <= last);
        found.cloned()
    }

    /// Returns the blocks from the one that holds the start of `readable` on: up to `max_bytes`,
    /// but at least one block. `None` if the start is older than the blocks here, or newer. Blocks
    /// past the end are left out, because they are here before readers may see them.
    pub(crate) fn read(
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

/// The order of the blocks in memory over all topics, the oldest first. The committer owns it.
#[derive(Debug)]
pub(crate) struct Tails {
    account: Arc<Account>,
    /// Each block, by its tail and its first sequence. The block may be gone already.
    order: VecDeque<(Arc<Tail>, Sequence)>,
}

impl Tails {
    /// Returns the order of tails that together take `max_bytes` at the most, wire forms included.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { account: Account::new(max_bytes), order: VecDeque::new() }
    }

    /// Adds a block as the newest of its topic. If there is no room, the oldest blocks of all
    /// topics go.
    pub(crate) fn push(&mut self, tail: &Arc<Tail>, block: Block) {
        self.order.push_back((tail.clone(), block.first_sequence()));
        tail.push(SharedBlock::charged_to(block, &self.account));
        while self.account.is_over() {
            let Some((tail, first)) = self.order.pop_front() else { return };
            tail.pop(first);
        }
        // Entries of blocks that maintenance has removed from their tails are dropped now and then.
        if self.order.len() > 2 * self.account.blocks.load(Ordering::Relaxed) + MIN_ORDER {
            self.order.retain(|(tail, first)| tail.begins_one_at(*first));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::WireForm;
    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::topics::{TopicRef, Topics};
    use crate::event::{NewEvent, Timestamp};
    use crate::log::Ages;
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
        let run = topic.run(held, sequences, Ages::default(), None).unwrap();
        run.encoded(WireForm::in_slot(0), |_, bytes| bytes.resize(90_000, 0));
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
            topic().run(shared, sequences, Ages::default(), None)
        };
        let mut encodings = 0;
        for index in [0, 0, 1, 1] {
            let bytes = run(index).unwrap().encoded(WireForm::in_slot(0), |_, bytes| {
                encodings += 1;
                bytes.resize(30_000, index as u8);
            });
            assert_eq!(bytes, vec![index as u8; 30_000]);
        }
        assert_eq!(encodings, 1 + 2, "the first form is kept, the second has no room");
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

    /// Goal: a read returns as many blocks as fit into its bytes, at least one, and none past its
    /// end: no reader gets events that are not readable yet.
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
