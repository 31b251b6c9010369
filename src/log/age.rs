//! The ages of events. They become right again by themselves after the system clock was wrong.
//!
//! An event has a time, which never goes backwards in its topic, and a *reading*: the time that the
//! system clock showed when the event was appended. The age counts from `appended`:
//!
//! ```text
//! the clock has reached the reading        appended = the reading
//! the clock is behind the reading, as      appended = what the clock showed when that was noticed
//!   was noticed before
//! the clock is behind, as is seen now      appended = now
//! ```
//!
//! # Why
//!
//! If an event's reading is later than the clock, the event ages from the moment at which this was
//! noticed, until the clock reaches the reading. From then on it ages from the reading.
//!
//! Either the reading or the clock is wrong, and nobody can tell which. In both cases the event was
//! appended before somebody noticed. A clock that is wrong for a moment must not change for ever
//! which events are kept: a machine that starts in the year 1970 drops nothing.

use super::extent::{Ahead, Extent};
use super::record::EventRef;
use crate::event::Timestamp;

/// The ages of the events of one topic at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ages {
    /// The moment of these ages.
    pub(crate) now: Timestamp,
    /// The events of the topic that were found to be ahead of the clock.
    pub(crate) ahead: Ahead,
}

impl Ages {
    /// Returns the ages at `now` in a topic with this extent.
    pub(crate) fn of(extent: &Extent, now: Timestamp) -> Self {
        Self { now, ahead: extent.ahead }
    }

    /// Returns the best known time at which `event` was appended.
    pub(crate) fn appended(&self, event: &EventRef<'_>) -> Timestamp {
        self.ahead.appended(event.position, event.clock, self.now)
    }

    /// Returns the time at which `event` expires. From then on nobody gets it. `None` if it never
    /// expires.
    pub(crate) fn expires(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        event.ttl_ms.map(|ttl_ms| self.appended(event).plus_ms(ttl_ms))
    }

    /// Whether `event` has expired.
    pub(crate) fn has_expired(&self, event: &EventRef<'_>) -> bool {
        self.expires(event).is_some_and(|expires| expires <= self.now)
    }
}
