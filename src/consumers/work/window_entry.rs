//! One event in the window of a shared consumer, and the times of its lease.

use std::sync::Arc;

use super::places::WorkPlace;
use crate::event::Event;
use crate::topic::TopicName;

/// One moment by both clocks, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WorkTime {
    /// Since 1970, by the broker's clock.
    pub(super) wall_ms: u64,
    /// By a clock that never jumps; its beginning means nothing.
    pub(super) steady_ms: u64,
}

/// The state of an event in the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryState {
    /// It can be leased, once it is the first of its key.
    Waiting,
    /// A worker has it.
    Leased(Span, Arc<str>),
    /// It failed, and is not leased before the end of the span.
    Delayed(Span),
    /// It becomes a dead letter: at once, or at this time of the steady clock.
    Dead(Option<u64>),
    /// It came to an end, and goes when the floor passes it.
    Finished,
}

/// A time that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The end by the wall clock, in milliseconds since 1970.
    pub(super) until_ms: u64,
    /// The end by the steady clock.
    pub(super) due_ms: u64,
    pub(super) length_ms: u64,
}

impl Span {
    pub(super) fn from(time: WorkTime, length_ms: u64) -> Self {
        let due_ms = time.steady_ms.saturating_add(length_ms);
        Self { until_ms: time.wall_ms.saturating_add(length_ms), due_ms, length_ms }
    }

    /// Returns a span that was stored, as it is at `time`. What is left of it is never longer than
    /// the whole of it, wherever the wall clock is.
    pub(super) fn stored(until_ms: u64, length_ms: u64, time: WorkTime) -> Self {
        let left_ms = until_ms.saturating_sub(time.wall_ms).min(length_ms);
        Self { length_ms, ..Self::from(time, left_ms) }
    }

    /// Returns a lease that was stored, as it is at `time`. A node of a fleet that has led since
    /// `led_since_ms`, by the steady clock, may have it from a former leader, whose clock may be
    /// another one. The lease began before this node led, so it holds for its whole length from
    /// then on, or longer if this node's own clock says so.
    pub(super) fn stored_lease(
        until_ms: u64,
        length_ms: u64,
        time: WorkTime,
        led_since_ms: Option<u64>,
    ) -> Self {
        let stored = Self::stored(until_ms, length_ms, time);
        let end_ms = led_since_ms.map_or(0, |since_ms| since_ms.saturating_add(length_ms));
        let left_ms = end_ms.saturating_sub(time.steady_ms).min(length_ms);
        let whole = Self { length_ms, ..Self::from(time, left_ms) };
        if stored.due_ms < whole.due_ms { whole } else { stored }
    }
}

/// An event in the window.
#[derive(Debug, Clone)]
pub(super) struct WindowEntry {
    pub(super) place: WorkPlace,
    /// The event's topic; `None` if the event is gone.
    pub(super) topic: Option<TopicName>,
    /// The hash of the event's topic and key; 0 for an event without a key.
    pub(super) key: u64,
    /// The event's bytes, about as stored.
    pub(super) size_bytes: usize,
    /// The deliveries so far.
    pub(super) tries: u32,
    pub(super) state: EntryState,
    /// Whether the last lease ran out, so that its worker may still finish the event.
    pub(super) ran_out: bool,
    /// The reason of the last worker that did not finish the event.
    pub(super) reason: Box<str>,
    /// The event, as long as there is room for it in memory.
    pub(super) held: Option<Arc<Event>>,
}

/// How an event came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Dead,
    Lost,
}

/// The bounds on leases at the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseBounds {
    pub(super) in_all: u32,
    pub(super) per_worker: u32,
}
