//! Places in the log: sequences, positions, epochs, and the one string that names a resume point.
//!
//! All forms of a cursor, as it travels:
//!
//! ```text
//!  42-9f3c2a1b         after sequence 42 of one topic, in epoch 9f3c2a1b
//!  @1042-9f3c2a1b      after position 1042 of the whole broker, in that epoch
//!  42~17-9f3c2a1b      after sequence 42; the log's drops up to 17 are no loss to its reader
//!  @1042~17-9f3c2a1b   after position 1042; likewise
//!  42  @1042  42~17    each form without its epoch, as a person may type it
//! ```
//!
//! A start point is a cursor or one of these words:
//!
//! ```text
//!  earliest  latest  last:100  time:2026-01-31T00:00:00+01:00  time:1517363399650
//! ```
//!
//! The broker always writes the epoch. People who type a cursor may leave it out. Clients keep a
//! cursor as a text, and send it back unchanged.
//!
//! # Why
//!
//! A cursor has a place. A place does not tell which of the events after it were dropped before the
//! reader began. These events are no loss to the reader. For example, a reader of many topics that
//! begins at the earliest event may have a place below events that were trimmed long before.
//!
//! So the log numbers its drops, one number for each commit that drops events. While dropped events
//! lie after a reader's place, its cursor also has the number of the last drop that is no loss to
//! the reader: the reader began after that drop, or was told of it. Past those events, the cursor
//! has no number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::text_form::serde_as_text;
use crate::timestamp::Timestamp;

pub use crate::gap::{Gap, GapReason, Requested, TrimReason};
pub use crate::place::{Epoch, ParseEpochError, Place, Position, Sequence};

/// A resume point, as clients get it and send it back. The module's page shows all its forms, which
/// are those of serde, too.
///
/// ```
/// let cursor: leftoff::cursor::Cursor = serde_json::from_str(r#""42-9f3c2a1b""#)?;
/// assert_eq!(cursor.to_string(), "42-9f3c2a1b");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The place of the last event that the reader has seen; 0 is before the first.
    pub after: Place,
    /// The number of the last drop of the log that is no loss to the reader, though dropped events
    /// lie after the reader's place. `None` if there is no such drop.
    pub since: Option<u64>,
    /// The epoch in which that event was seen; `None` if a person typed the cursor without it.
    pub epoch: Option<Epoch>,
}

impl Cursor {
    /// Returns the cursor after `sequence` in `epoch`.
    pub fn after(sequence: Sequence, epoch: Epoch) -> Self {
        Self { after: Place::Sequence(sequence), since: None, epoch: Some(epoch) }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after {
            Place::Sequence(sequence) => write!(f, "{sequence}")?,
            Place::Position(position) => write!(f, "@{position}")?,
        }
        if let Some(since) = self.since {
            write!(f, "~{since}")?;
        }
        match self.epoch {
            Some(epoch) => write!(f, "-{epoch}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            let shown: String = text.chars().take(64).collect();
            Error::invalid(
                "cursor",
                format!("{shown:?} is not a cursor; write 42, 42-9f3c2a1b or @1042-9f3c2a1b"),
            )
        };
        let (is_position, rest) = match text.strip_prefix('@') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (numbers, epoch) = match rest.split_once('-') {
            Some((numbers, epoch)) => (numbers, Some(epoch.parse().map_err(|_| malformed())?)),
            None => (rest, None),
        };
        let parse = |digits: &str| match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u64>().map_err(|_| malformed()),
            false => Err(malformed()), // `u64::from_str` would take a leading `+`.
        };
        let (number, since) = match numbers.split_once('~') {
            Some((number, since)) => (parse(number)?, Some(parse(since)?)),
            None => (parse(numbers)?, None),
        };
        if number == u64::MAX {
            return Err(malformed()); // There is no place after this one.
        }
        let after = if is_position {
            Place::Position(Position::new(number))
        } else {
            Place::Sequence(Sequence::new(number))
        };
        Ok(Self { after, since, epoch })
    }
}

serde_as_text!(Cursor);

/// The place at which a reader begins. The form of serde is that of the start points above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StartPoint {
    /// At the first event that can be read.
    Earliest,
    /// After the newest event: only what is published from now on.
    #[default]
    Latest,
    /// This many events before the tail.
    Last(u64),
    /// At the first event appended at this time or later.
    Time(Timestamp),
    /// After the event that the reader has seen last.
    After(Cursor),
    /// A place that the broker does not know: the reader came back with something that is no
    /// cursor. The reader is told a gap for [`GapReason::Unknown`].
    Unknown,
}

impl From<Cursor> for StartPoint {
    fn from(cursor: Cursor) -> Self {
        Self::After(cursor)
    }
}

impl Serialize for StartPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StartPoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "unknown" => Ok(Self::Unknown), // People cannot ask for it.
            text => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

impl FromStr for StartPoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(count) = text.strip_prefix("last:") {
            let count = count.parse().map_err(|_| {
                Error::invalid("start point", format!("{count:?} in last:N is not a number"))
            })?;
            return Ok(Self::Last(count));
        }
        if let Some(time) = text.strip_prefix("time:") {
            return time.parse().map(Self::Time);
        }
        text.parse().map(Self::After).map_err(|_| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid(
                "start point",
                format!(
                    "{shown:?} is not a start point; write earliest, latest, last:100, \
                     time:2026-01-31T00:00:00Z or a cursor like 42-9f3c2a1b"
                ),
            )
        })
    }
}

impl fmt::Display for StartPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("earliest"),
            Self::Latest => f.write_str("latest"),
            Self::Last(count) => write!(f, "last:{count}"),
            Self::Time(time) => write!(f, "time:{time}"),
            Self::After(cursor) => write!(f, "{cursor}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The drops of the log that are no loss to a reader, because it began after them or was told of
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Since {
    /// The number of the last of these drops.
    drop: u64,
    /// The place of the last event that went with these drops. A cursor at this place or after it
    /// needs no number of a drop.
    until: u64,
}

impl Since {
    /// Returns the value for a reader to whom all drops up to this number are no loss.
    pub(crate) fn drop(drop: u64) -> Self {
        Self { drop, until: 0 }
    }

    /// Returns the number of the last of these drops.
    pub(crate) fn number(&self) -> u64 {
        self.drop
    }

    /// Notes that events up to this place went with these drops.
    pub(crate) fn extend_to(&mut self, until: u64) {
        self.until = self.until.max(until);
    }

    /// Returns the number of the drop that the reader's cursor at this place must carry, if it must
    /// carry one.
    pub(crate) fn at(&self, place: Place) -> Option<u64> {
        (place.number() < self.until).then_some(self.drop)
    }
}

/// The way in which a reader goes on after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Tell the gap, then go on at the nearest event that follows the reader's place: at `tail`
    /// after [`GapReason::Ahead`], at the same place after [`GapReason::Tombstones`], at `earliest`
    /// after any other reason.
    #[default]
    Resume,
    /// Tell the gap, then go on at the first event that can be read.
    Earliest,
    /// Tell the gap, then go on after the newest event.
    Latest,
    /// Stop the reader with [`Error::Gap`].
    Fail,
}

impl OnGap {
    /// Returns the word for the way on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Earliest => "earliest",
            Self::Latest => "latest",
            Self::Fail => "fail",
        }
    }
}

impl fmt::Display for OnGap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OnGap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "resume" => Ok(Self::Resume),
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            "fail" => Ok(Self::Fail),
            _ => Err(Error::invalid(
                "on_gap",
                format!("{text:?} is not one of resume, earliest, latest, fail"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_as_it_was_written(
            number in 0..u64::MAX,
            since in proptest::option::of(any::<u64>()),
            epoch in proptest::option::of(any::<u32>()),
            wide: bool,
        ) {
            let after = if wide {
                Place::Position(Position::new(number))
            } else {
                Place::Sequence(Sequence::new(number))
            };
            let cursor = Cursor { after, since, epoch: epoch.map(Epoch::new) };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _outcome = text.parse::<StartPoint>();
        }
    }

    #[test]
    fn every_start_point_reads_back_and_nonsense_is_refused_by_name() {
        let cursors =
            ["7", "@7", "42-9f3c2a1b", "@1042-0000000a", "@10~17-9f3c2a1b", "4~0", "@4~1"];
        for text in ["earliest", "latest", "last:100"].into_iter().chain(cursors) {
            assert_eq!(text.parse::<StartPoint>().unwrap().to_string(), text);
        }
        let time = "time:2026-01-31T00:00:00.000Z";
        assert_eq!(time.parse::<StartPoint>().unwrap().to_string(), time);
        let bad = [
            "",
            "-",
            "@",
            "+1",
            "1-",
            "1-xyz",
            "1-9f3c2a1",
            "1-+f3c2a1b",
            "-1",
            "1 ",
            "last:",
            "last:x",
            "time:",
            "time:yesterday",
            "18446744073709551615",
            "99999999999999999999",
            "1\0",
            "1~",
            "~1",
            "1~-9f3c2a1b",
            "1~+2",
            "1~2~3",
            "1~18446744073709551616",
            "1-9f3c2a1b~2",
        ];
        for text in bad {
            let error = text.parse::<StartPoint>().unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{text:?}: {error}");
        }
    }
}
