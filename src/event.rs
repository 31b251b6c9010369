//! Events: what publishers hand in, and what readers get back. Plain types, no I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};

/// A time in whole milliseconds since 1970 in UTC. Written as RFC 3339: `2026-01-31T00:00:00.000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last time that RFC 3339 can write, in the year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// The time this many milliseconds after the start of 1970.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the start of 1970.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// The time this many milliseconds later.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// The time this many milliseconds before.
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// The system's clock.
    pub fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_millis((*self).min(Self::MAX).0);
        fmt::Display::fmt(&humantime::format_rfc3339_millis(time), f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339, or a count of milliseconds since 1970.
    fn from_str(text: &str) -> Result<Self> {
        let refused = || {
            let shown: String = text.chars().take(64).collect();
            Error::invalid("time", format!("{shown:?} is neither RFC 3339 nor milliseconds"))
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let time = if digits {
            Self(text.parse().map_err(|_| refused())?)
        } else {
            let time = humantime::parse_rfc3339(text).map_err(|_| refused())?;
            let since_1970 = time.duration_since(UNIX_EPOCH).map_err(|_| refused())?;
            Self(u64::try_from(since_1970.as_millis()).map_err(|_| refused())?)
        };
        if time > Self::MAX { Err(refused()) } else { Ok(time) }
    }
}

/// What an acknowledged event outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing: it is kept in memory, because the broker was opened so.
    Memory,
    /// A crash of the process. What the system has not written yet, half a second's worth or so, is
    /// gone with a loss of power.
    Process,
    /// A crash of the process, of the system, and a loss of power.
    #[default]
    Fsync,
}

impl Durability {
    /// The word for it on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Fsync => "fsync",
        }
    }
}

/// An event as its publisher hands it in. An empty text means that there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewEvent {
    /// The publisher's own id, by which a repeated publish is recognised.
    pub id: String,
    /// What kind of event it is; the `event:` of an SSE frame.
    pub event_type: String,
    /// What it is about; compaction keeps the latest of each key.
    pub key: String,
    /// Names and values that travel with it.
    pub headers: BTreeMap<String, String>,
    /// The media type of the payload.
    pub content_type: String,
    /// The content, as it is.
    pub payload: Bytes,
    /// The publisher's own time.
    pub publisher_time: Option<Timestamp>,
    /// How long after it is appended it expires, in milliseconds, from 1: from then on nobody gets
    /// it. `None`: never. In a topic that is compacted it deletes its key then, if it has one:
    /// readers get it without its payload until it is dropped, soon after the events that it
    /// superseded.
    pub ttl_ms: Option<u64>,
}

/// What a header takes in memory besides its two texts, in bytes: their places in the map, which is
/// filled by half, and the least that two pieces of memory take.
const HEADER_BYTES: usize = 128;

impl NewEvent {
    /// About what its texts, its headers and its payload take in memory, in bytes.
    pub(crate) fn content_bytes(&self) -> usize {
        let Self { id, event_type, key, headers, content_type, payload, .. } = self;
        let texts = [id, event_type, key, content_type].map(String::len).iter().sum::<usize>();
        let header = |(name, value): (&String, &String)| HEADER_BYTES + name.len() + value.len();
        texts + headers.iter().map(header).sum::<usize>() + payload.len()
    }

    /// Whether it says that its key is gone: it has a key, and no payload.
    pub fn is_tombstone(&self) -> bool {
        !self.key.is_empty() && self.payload.is_empty()
    }

    /// An event with this payload and nothing else.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }
}

/// One stored event: what was published, and the places it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its place in its topic.
    pub sequence: Sequence,
    /// Its place in the whole broker.
    pub position: Position,
    /// When it was appended.
    pub time: Timestamp,
    /// What was published.
    pub content: NewEvent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_as_it_was_written() {
        for ms in [0, 1, 1_517_363_399_650, Timestamp::MAX.as_ms()] {
            let time = Timestamp::from_ms(ms);
            assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            assert_eq!(ms.to_string().parse::<Timestamp>().unwrap(), time);
        }
        for bad in
            ["", "now", "-1", "1969-12-31T23:59:59Z", "253402300800000", "99999999999999999999"]
        {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad:?}");
        }
    }
}
