//! What maintenance knows of a topic from one round to the next.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::rewriting::{MIN_MERGED_BLOCKS, ROLL_UP_BLOCKS};
use crate::cursor::Sequence;
use crate::event::Timestamp;
use crate::log::{Block, Compacted, Extent};

/// Says when something is to be looked at next.
#[derive(Debug)]
pub(super) struct Alarm {
    /// Whether that is at once.
    rings: AtomicBool,
    /// When it is, whatever happens, in milliseconds since 1970.
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
    pub(super) fn set(&self, time: Timestamp) {
        self.due_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
    }

    /// Whether the time has come.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.rings.load(Ordering::Acquire) || self.due_ms.load(Ordering::Relaxed) <= now.as_ms()
    }

    /// Turns it off.
    pub(super) fn reset(&self) {
        self.rings.store(false, Ordering::Release);
        self.due_ms.store(u64::MAX, Ordering::Relaxed);
    }
}

/// What maintenance knows of a topic.
#[derive(Debug)]
pub(in crate::broker) struct Upkeep {
    /// For what its limits do not keep.
    pub(super) retention: Alarm,
    /// For what is worth rewriting.
    pub(super) rewriting: Alarm,
    /// Small blocks that were appended since the last roll-up.
    small_blocks: AtomicU32,
    /// When it may be gone through next, for what has an age to go at.
    sweep_ms: AtomicU64,
    /// When the first of those expires that were appended since it was gone through.
    expires_ms: AtomicU64,
    /// Compaction has looked at no event from here on.
    looked_at: AtomicU64,
}

impl Compacted {
    /// What is left to do for those that `pass` went through, too.
    pub(super) fn and(self, pass: Self) -> Self {
        Self {
            kept: self.kept,
            below: self.below.min(pass.below),
            seen: self.seen.min(pass.seen),
            due: self.due.min(pass.due),
        }
    }
}

impl Upkeep {
    /// Of a topic that holds this when the broker is opened: it is looked at in the first round.
    pub(in crate::broker) fn of(extent: &Extent) -> Self {
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
    pub(in crate::broker) fn expires(&self, time: Timestamp) {
        self.expires_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
        self.rewriting.set(time);
    }

    /// When the first event expires that was appended since the topic was gone through.
    pub(super) fn expiry(&self) -> Timestamp {
        Timestamp::from_ms(self.expires_ms.load(Ordering::Relaxed))
    }

    /// Takes what [`Self::expiry`] tells, for all that can be read by now is looked at.
    pub(super) fn take_expiry(&self) -> Timestamp {
        Timestamp::from_ms(self.expires_ms.swap(u64::MAX, Ordering::AcqRel))
    }

    /// Compaction has looked at no event from here on: none was dropped because of one of these.
    pub(in crate::broker) fn looked_at(&self) -> Sequence {
        Sequence::new(self.looked_at.load(Ordering::SeqCst))
    }

    /// Notes that compaction is about to drop what events below `below` supersede.
    pub(super) fn note_looked_at(&self, below: Sequence) {
        self.looked_at.fetch_max(below.get(), Ordering::SeqCst);
    }

    /// Notes a block that was appended.
    pub(in crate::broker) fn appended(&self, block: &Block, max_block_bytes: usize) {
        if block.bytes().len() <= max_block_bytes / MIN_MERGED_BLOCKS {
            self.small_blocks.fetch_add(1, Ordering::Relaxed);
        }
        self.rewriting.ring();
    }

    /// Notes that what its limits do not keep is trimmed; the rest is due then, at the latest.
    pub(in crate::broker) fn retained(&self, due: Timestamp) {
        self.retention.set(due);
    }

    /// Notes that there is something in front of it that was not looked at: how long it is to be
    /// kept, or whether it is to be removed.
    pub(in crate::broker) fn has_front(&self) {
        self.retention.ring();
    }

    /// Asks for a look in the next round.
    pub(in crate::broker) fn touch(&self) {
        self.retention.ring();
        self.rewriting.ring();
    }

    /// Whether there are enough small blocks to roll them up.
    pub(super) fn has_small_blocks(&self) -> bool {
        self.small_blocks.load(Ordering::Relaxed) >= ROLL_UP_BLOCKS
    }

    /// Notes that a pass begins, which rolls up the small blocks.
    pub(super) fn begin_pass(&self) {
        self.small_blocks.store(0, Ordering::Relaxed);
    }

    /// When it may be gone through next, for what has an age to go at.
    pub(super) fn next_sweep(&self) -> Timestamp {
        Timestamp::from_ms(self.sweep_ms.load(Ordering::Relaxed))
    }

    /// Sets when it may be gone through next.
    pub(super) fn set_sweep(&self, time: Timestamp) {
        self.sweep_ms.store(time.as_ms(), Ordering::Relaxed);
    }
}
