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

use crate::cursor::Position;
use crate::event::Timestamp;
use crate::log::{EventRef, Extent};

/// The events of a topic whose times were found to be ahead of the system clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ahead {
    /// The newest event that was there then; 0 if that never happened.
    pub position: Position,
    /// What the system clock said.
    pub clock: Timestamp,
}

impl Ahead {
    /// When an event was appended, as far as that can be told at `now`.
    pub fn appended(self, position: Position, clock: Timestamp, now: Timestamp) -> Timestamp {
        match clock {
            clock if clock <= now => clock,
            _ if position <= self.position => self.clock.min(now),
            _ => now,
        }
    }
}

/// The ages of the events of one topic at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ages {
    /// The moment.
    pub now: Timestamp,
    /// The events that the clock may not have reached.
    pub ahead: Ahead,
}

impl Ages {
    /// Of a topic that holds this.
    pub fn of(extent: &Extent, now: Timestamp) -> Self {
        Self { now, ahead: extent.ahead }
    }

    /// When `event` was appended, as far as that can be told.
    pub fn appended(&self, event: &EventRef<'_>) -> Timestamp {
        self.ahead.appended(event.position, event.clock, self.now)
    }

    /// When `event` expires: from then on nobody gets it. `None` if it never does.
    pub fn expires(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        event.ttl_ms.map(|ttl_ms| self.appended(event).plus_ms(ttl_ms))
    }

    /// Whether `event` has expired.
    pub fn has_expired(&self, event: &EventRef<'_>) -> bool {
        self.expires(event).is_some_and(|expires| expires <= self.now)
    }
}

impl Extent {
    /// Notes, once, that the newest event is ahead of the system clock, which says `now`.
    pub fn note_ahead(&mut self, now: Timestamp) {
        if self.is_ahead(now) {
            self.ahead = Ahead { position: self.last_position, clock: now };
        }
    }

    /// Whether the newest event is ahead of the system clock, and that is not noted.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.last_clock > now && self.ahead.position < self.last_position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn an_event_that_the_clock_has_not_reached_ages_from_when_that_was_noticed() {
        let newest = Position::new(7);
        let mut extent = Extent { last_position: newest, last_clock: at(9_000), ..Extent::EMPTY };
        let appended = |extent: &Extent, position, clock, now| {
            extent.ahead.appended(Position::new(position), at(clock), at(now)).as_ms()
        };
        assert_eq!(appended(&extent, 7, 9_000, 9_500), 9_000, "the clock has reached it");
        assert_eq!(appended(&extent, 7, 9_000, 100), 100, "it is as young as can be");
        extent.note_ahead(at(9_000));
        assert_eq!(extent.ahead, Ahead::default(), "it is not ahead of a clock that is there");
        extent.note_ahead(at(100));
        extent.note_ahead(at(200));
        assert_eq!(extent.ahead, Ahead { position: newest, clock: at(100) }, "noted once");
        assert_eq!(appended(&extent, 7, 9_000, 300), 100);
        assert_eq!(appended(&extent, 7, 9_000, 50), 50, "the clock went back again");
        assert_eq!(appended(&extent, 8, 9_000, 300), 300, "a later one was not there then");
        assert_eq!(appended(&extent, 7, 9_000, 9_001), 9_000, "the clock was wrong, and not it");
    }
}
