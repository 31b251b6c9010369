//! Waiting for a place that this node of a fleet has not applied yet: a client that comes from
//! another node may bring a cursor that is ahead of this one.
//!
//! # Why
//!
//! Nodes apply the same groups a few milliseconds apart. A cursor of the same epoch that is ahead
//! is no gap, then: its events are on their way. The wait has an end, because a cursor may be ahead
//! of everybody, and because a node may have lost its fleet. The node that leads has all events, so
//! nobody waits there, nor at a broker alone.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::shared::Shared;
use crate::cursor::{Cursor, Place, StartPoint};
use crate::topic::TopicName;

/// The signal that a group of another node was applied, or that this node leads. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ArrivingGroups {
    applied: watch::Sender<()>,
    /// The longest wait for a place.
    pub(crate) max_wait: Duration,
}

impl ArrivingGroups {
    pub(crate) fn new(max_wait: Duration) -> Self {
        Self { applied: watch::Sender::new(()), max_wait }
    }

    /// Gives the signal.
    pub(crate) fn give(&self) {
        self.applied.send_replace(());
    }
}

impl Shared {
    /// Waits until the place that a reader of `topic`, or of many topics, comes with has been
    /// applied here, for a bounded time.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(in crate::broker) async fn arrive(&self, topic: Option<&TopicName>, start: StartPoint) {
        let StartPoint::After(cursor) = start else { return };
        if !self.leadership.follows() || !self.is_ahead(topic, cursor) {
            return;
        }
        let mut applied = self.arriving.applied.subscribe();
        let deadline = Instant::now() + self.arriving.max_wait;
        while self.leadership.follows() && self.is_ahead(topic, cursor) {
            tokio::select! {
                _ = applied.changed() => {}
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep_until(deadline) => return,
            }
        }
    }

    /// Whether a cursor of this log names a place after the last one.
    fn is_ahead(&self, topic: Option<&TopicName>, cursor: Cursor) -> bool {
        if cursor.epoch.is_some_and(|epoch| epoch != self.log.epoch()) {
            return false;
        }
        match cursor.after {
            Place::Position(position) => position.get() > self.last_position(),
            Place::Sequence(sequence) => {
                let known = topic.and_then(|name| self.topics.known(name));
                let last = known.map(|topic| topic.state().extent.tail.previous());
                last.map_or(sequence.get() > 0, |last| sequence > last)
            }
        }
    }
}
