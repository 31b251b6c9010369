//! Ages of events, told in a way that heals when the system clock was wrong.
//!
//! An event has a time, which never goes backwards in its topic, and beside it what the system
//! clock said when it was appended. Its age counts from the latter:
//!
//! ```text
//! the clock has reached it            appended = what the clock said
//! the clock has not, and somebody     appended = what the clock said when that was noticed
//!   noticed that before
//! the clock has not, as is seen now   appended = now
//! ```
//!
//! # Why
//!
//! A clock that is wrong for a moment must not change what is kept for ever. A time that the clock
//! has not reached yet is wrong, or the clock is: nobody can tell which. Whichever it is, the event
//! was appended before it was noticed. So it ages from there on, and as soon as the clock has
//! reached its time, by that again: a machine that starts in the year 1970 drops nothing.

use super::extent::{Ahead, Extent};
use super::record::EventRef;
use crate::event::Timestamp;

/// The ages of the events of one topic at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ages {
    /// The moment.
    pub(crate) now: Timestamp,
    /// The events that the clock may not have reached.
    pub(crate) ahead: Ahead,
}

impl Ages {
    /// Returns the ages at `now` in a topic with this extent.
    pub(crate) fn of(extent: &Extent, now: Timestamp) -> Self {
        Self { now, ahead: extent.ahead }
    }

    /// When `event` was appended, as far as that can be told.
    pub(crate) fn appended(&self, event: &EventRef<'_>) -> Timestamp {
        self.ahead.appended(event.position, event.clock, self.now)
    }

    /// When `event` expires: from then on nobody gets it. `None` if it never does.
    pub(crate) fn expires(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        event.ttl_ms.map(|ttl_ms| self.appended(event).plus_ms(ttl_ms))
    }

    /// Whether `event` has expired.
    pub(crate) fn has_expired(&self, event: &EventRef<'_>) -> bool {
        self.expires(event).is_some_and(|expires| expires <= self.now)
    }
}
