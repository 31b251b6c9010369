//! The upkeep of a topic: the notes that maintenance keeps from one round to the next.
//! `maintenance/mod.rs` has a table of who sets and clears them.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::cursor::Sequence;
use crate::event::Timestamp;
use crate::log::{Block, Extent};

/// The number of small blocks that a topic gets before they are rolled up, and the least number of
/// blocks that are merged into one. A block is small if that many of its size fit into one block.
pub(crate) const ROLL_UP_BLOCKS: u32 = 64;

pub(crate) const MIN_MERGED_BLOCKS: usize = 8;

/// An alarm: says when a topic is to be looked at next.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// Whether the topic is to be looked at in the next round.
    rings: AtomicBool,
    /// The time from which the topic is to be looked at in any case, in milliseconds since 1970.
    due_ms: AtomicU64,
}

impl Alarm {
    fn ringing() -> Self {
        Self { rings: AtomicBool::new(true), due_ms: AtomicU64::new(u64::MAX) }
    }

    fn ring(&self) {
        self.rings.store(true, Ordering::Release);
    }

    /// Sets the alarm to this time, unless it is due earlier.
    pub(crate) fn set(&self, time: Timestamp) {
        self.due_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
    }

    /// Whether the alarm rings, or its time has come.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.rings.load(Ordering::Acquire) || self.due_ms.load(Ordering::Relaxed) <= now.as_ms()
    }

    /// Turns the alarm off.
    pub(crate) fn reset(&self) {
        self.rings.store(false, Ordering::Release);
        self.due_ms.store(u64::MAX, Ordering::Relaxed);
    }
}

/// The upkeep of a topic: the notes that maintenance keeps.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// The alarm for events that the topic's limits do not keep.
    pub(crate) retention: Alarm,
    /// The alarm for blocks that are worth rewriting.
    pub(crate) rewriting: Alarm,
    /// The number of small blocks that were appended since the last roll-up.
    small_blocks: AtomicU32,
    /// The earliest time of the next sweep for events that go because of their age, in milliseconds
    /// since 1970.
    sweep_ms: AtomicU64,
    /// The first expiry among the events that were appended since the last sweep, in milliseconds
    /// since 1970.
    expires_ms: AtomicU64,
    /// The first sequence at which compaction has looked at no event.
    looked_at: AtomicU64,
}

impl Upkeep {
    /// Returns the upkeep of a topic whose extent is `extent` when the broker is opened. The topic
    /// is looked at in the first round.
    pub(crate) fn of(extent: &Extent) -> Self {
        // Each event that no pass has looked at may be a small block.
        let unseen =
            extent.tail.get() - extent.rewritten.max(extent.earliest).get().min(extent.tail.get());
        let small_blocks = unseen.min(u64::from(ROLL_UP_BLOCKS)) as u32;
        // The expiry of events that compaction has not looked at is not known.
        let is_unknown = extent.may_expire && extent.compacted.seen < extent.tail;
        Self {
            retention: Alarm::ringing(),
            rewriting: Alarm::ringing(),
            small_blocks: AtomicU32::new(small_blocks),
            sweep_ms: AtomicU64::new(0),
            expires_ms: AtomicU64::new(if is_unknown { 0 } else { u64::MAX }),
            // Before the start, compaction may have looked at all events.
            looked_at: AtomicU64::new(extent.tail.get()),
        }
    }

    /// Notes the time at which an event expires, and sets the alarm to it. The event must be
    /// readable by now.
    pub(crate) fn expires(&self, time: Timestamp) {
        self.expires_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
        self.rewriting.set(time);
    }

    /// Returns the first expiry among the events that were appended since the last sweep.
    pub(crate) fn expiry(&self) -> Timestamp {
        Timestamp::from_ms(self.expires_ms.load(Ordering::Relaxed))
    }

    /// Takes [`Self::expiry`] out. The caller then looks at all events that can be read by now.
    pub(crate) fn take_expiry(&self) -> Timestamp {
        Timestamp::from_ms(self.expires_ms.swap(u64::MAX, Ordering::AcqRel))
    }

    /// Returns the first sequence at which compaction has looked at no event. No event was dropped
    /// because of the events from there on.
    pub(crate) fn looked_at(&self) -> Sequence {
        Sequence::new(self.looked_at.load(Ordering::SeqCst))
    }

    /// Notes that compaction is about to drop events that events below `below` supersede.
    pub(crate) fn raise_looked_at(&self, below: Sequence) {
        self.looked_at.fetch_max(below.get(), Ordering::SeqCst);
    }

    /// Notes a block that was appended, and rings the alarm for rewriting.
    pub(crate) fn appended(&self, block: &Block, max_block_bytes: usize) {
        if block.bytes().len() <= max_block_bytes / MIN_MERGED_BLOCKS {
            self.small_blocks.fetch_add(1, Ordering::Relaxed);
        }
        self.rewriting.ring();
    }

    /// Notes that the topic was trimmed to its limits, and that the next look is needed at `due`.
    pub(crate) fn retained(&self, due: Timestamp) {
        self.retention.set(due);
    }

    /// Notes that the front of the topic must be looked at: a block may have to be removed, or the
    /// time is unknown at which the first event gets too old.
    pub(crate) fn has_front(&self) {
        self.retention.ring();
    }

    /// Has the topic looked at in the next round, for both alarms.
    pub(crate) fn touch(&self) {
        self.retention.ring();
        self.rewriting.ring();
    }

    /// Whether there are enough small blocks to roll them up.
    pub(crate) fn has_small_blocks(&self) -> bool {
        self.small_blocks.load(Ordering::Relaxed) >= ROLL_UP_BLOCKS
    }

    /// Notes that a pass begins: it rolls up the small blocks.
    pub(crate) fn begin_pass(&self) {
        self.small_blocks.store(0, Ordering::Relaxed);
    }

    /// Returns the earliest time of the next sweep for events that go because of their age.
    pub(crate) fn next_sweep(&self) -> Timestamp {
        Timestamp::from_ms(self.sweep_ms.load(Ordering::Relaxed))
    }

    /// Sets the earliest time of the next sweep.
    pub(crate) fn set_sweep(&self, time: Timestamp) {
        self.sweep_ms.store(time.as_ms(), Ordering::Relaxed);
    }
}
