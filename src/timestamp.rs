//! A time, in milliseconds since 1970.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time in whole milliseconds since 1970 in UTC. Written as RFC 3339, also by serde:
/// `2026-01-31T00:00:00.000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last time that RFC 3339 can express, in the year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// Returns the time this many milliseconds after the start of 1970.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Returns the milliseconds since the start of 1970.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// Returns the time this many milliseconds later.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Returns the time this many milliseconds earlier.
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Returns the current time of the system's clock; 1970 if the clock is before it.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    /// Returns the time in whole milliseconds; 1970 for a time before it.
    fn from(time: SystemTime) -> Self {
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    /// Returns the time; that of [`Timestamp::MAX`] for a later one.
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_millis(time.min(Timestamp::MAX).0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_rfc3339_millis((*self).into()), f)
    }
}
