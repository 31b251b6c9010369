//! The upkeep of a topic: what maintenance knows of it from one round to the next
//! (`maintenance/mod.rs` has a table).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::cursor::Sequence;
use crate::event::Timestamp;
use crate::log::{Block, Extent};

/// The number of small blocks that a topic gets before they are rolled up, and the number of blocks
/// that have to fit into one to make it worth it. A block is small if as many of its size fit into
/// one.
pub(crate) const ROLL_UP_BLOCKS: u32 = 64;

pub(crate) const MIN_MERGED_BLOCKS: usize = 8;

/// An alarm: the time at which something is to be looked at next.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// Whether that is at once.
    rings: AtomicBool,
    /// The time of the next look in any case, in milliseconds since 1970.
    due_ms: AtomicU64,
}

impl Alarm {
    fn ringing() -> Self {
        Self { rings: AtomicBool::new(true), due_ms: AtomicU64::new(u64::MAX) }
    }

    fn ring(&self) {
        self.rings.store(true, Ordering::Release);
    }

    /// Sets it to this time, unless it is due before.
    pub(crate) fn set(&self, time: Timestamp) {
        self.due_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
    }

    /// Returns whether the time has come.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.rings.load(Ordering::Acquire) || self.due_ms.load(Ordering::Relaxed) <= now.as_ms()
    }

    /// Turns it off.
    pub(crate) fn reset(&self) {
        self.rings.store(false, Ordering::Release);
        self.due_ms.store(u64::MAX, Ordering::Relaxed);
    }
}

/// The upkeep of a topic: what maintenance knows of it.
#[derive(Debug)]
pub(crate) struct Upkeep {
    /// For what its limits do not keep.
    pub(crate) retention: Alarm,
    /// For what is worth rewriting.
    pub(crate) rewriting: Alarm,
    /// Small blocks that were appended since the last roll-up.
    small_blocks: AtomicU32,
    /// The time of the next sweep for events that go because of their age, in milliseconds since
    /// 1970.
    sweep_ms: AtomicU64,
    /// The time at which the first event expires that was appended since the last sweep, in
    /// milliseconds since 1970.
    expires_ms: AtomicU64,
    /// Compaction has looked at no event from here on.
    looked_at: AtomicU64,
}

impl Upkeep {
    /// Returns the upkeep of a topic that holds `extent` when the broker is opened. The topic is
    /// looked at in the first round.
    pub(crate) fn of(extent: &Extent) -> Self {
        // Each of the events that were not looked at yet may be a small block.
        let unseen =
            extent.tail.get() - extent.rewritten.max(extent.earliest).get().min(extent.tail.get());
        let small_blocks = unseen.min(u64::from(ROLL_UP_BLOCKS)) as u32;
        // When those expire that were not looked at yet is not known.
        let is_unknown = extent.may_expire && extent.compacted.seen < extent.tail;
        Self {
            retention: Alarm::ringing(),
            rewriting: Alarm::ringing(),
            small_blocks: AtomicU32::new(small_blocks),
            sweep_ms: AtomicU64::new(0),
            expires_ms: AtomicU64::new(if is_unknown { 0 } else { u64::MAX }),
            // Before the start it may have looked at all there was.
            looked_at: AtomicU64::new(extent.tail.get()),
        }
    }

    /// Notes when an event expires that can be read by now: it is looked at then.
    pub(crate) fn expires(&self, time: Timestamp) {
        self.expires_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
        self.rewriting.set(time);
    }

    /// Returns the time at which the first event expires that was appended since the last sweep.
    pub(crate) fn expiry(&self) -> Timestamp {
        Timestamp::from_ms(self.expires_ms.load(Ordering::Relaxed))
    }

    /// Takes what [`Self::expiry`] tells, for all that can be read by now is looked at.
    pub(crate) fn take_expiry(&self) -> Timestamp {
        Timestamp::from_ms(self.expires_ms.swap(u64::MAX, Ordering::AcqRel))
    }

    /// Compaction has looked at no event from here on: none was dropped because of one of these.
    pub(crate) fn looked_at(&self) -> Sequence {
        Sequence::new(self.looked_at.load(Ordering::SeqCst))
    }

    /// Notes that compaction is about to drop what events below `below` supersede.
    pub(crate) fn raise_looked_at(&self, below: Sequence) {
        self.looked_at.fetch_max(below.get(), Ordering::SeqCst);
    }

    /// Notes a block that was appended.
    pub(crate) fn appended(&self, block: &Block, max_block_bytes: usize) {
        if block.bytes().len() <= max_block_bytes / MIN_MERGED_BLOCKS {
            self.small_blocks.fetch_add(1, Ordering::Relaxed);
        }
        self.rewriting.ring();
    }

    /// Notes that what its limits do not keep is trimmed; the rest is due then, at the latest.
    pub(crate) fn retained(&self, due: Timestamp) {
        self.retention.set(due);
    }

    /// Notes that there is something in front of it that was not looked at: how long it is to be
    /// kept, or whether it is to be removed.
    pub(crate) fn has_front(&self) {
        self.retention.ring();
    }

    /// Asks for a look in the next round.
    pub(crate) fn touch(&self) {
        self.retention.ring();
        self.rewriting.ring();
    }

    /// Returns whether there are enough small blocks to roll them up.
    pub(crate) fn has_small_blocks(&self) -> bool {
        self.small_blocks.load(Ordering::Relaxed) >= ROLL_UP_BLOCKS
    }

    /// Notes that a pass begins, which rolls up the small blocks.
    pub(crate) fn begin_pass(&self) {
        self.small_blocks.store(0, Ordering::Relaxed);
    }

    /// Returns the earliest time of the next sweep for events that go because of their age.
    pub(crate) fn next_sweep(&self) -> Timestamp {
        Timestamp::from_ms(self.sweep_ms.load(Ordering::Relaxed))
    }

    /// Sets when it may be gone through next.
    pub(crate) fn set_sweep(&self, time: Timestamp) {
        self.sweep_ms.store(time.as_ms(), Ordering::Relaxed);
    }
}
