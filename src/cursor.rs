//! Places in the log: sequences, positions, epochs, and the one string that names a resume point.
//!
//! ```text
//!  42-9f3c2a1b      after sequence 42 of one topic, in epoch 9f3c2a1b
//!  @1042-9f3c2a1b   after position 1042 of the whole broker
//!  42~17-9f3c2a1b   either kind, with `~17`: drops up to the 17th are no loss to this reader
//!  earliest  latest  last:100  time:2026-01-31T00:00:00+01:00  time:1517363399650
//! ```
//!
//! The epoch may be left out by people who type a cursor; the broker always writes it. Clients take
//! a cursor as it is, and give it back as it is.
//!
//! # Why
//!
//! A place alone does not say whether its reader could have had what is missing after it: a reader
//! that begins at the earliest event of many topics stands below what was trimmed of them long
//! before. So the log numbers its drops, and a cursor that stands below some of these carries the
//! number of the last one that its reader has nothing to do with, because the reader began after it
//! or was told of it. Once the reader has passed them, its cursors are plain again.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::timestamp::Timestamp;

pub use crate::gap::{Gap, GapReason, Requested, TrimReason};
pub use crate::place::{Epoch, Place, Position, Sequence};

/// A resume point as it travels: `42-9f3c2a1b`, `@1042-9f3c2a1b` or `@1042~17-9f3c2a1b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The last event that was seen; 0 is before the first.
    pub after: Place,
    /// The number of the last drop of the log that is no loss to the reader, though what went then
    /// lies after its place; `None` where there is no such drop.
    pub since: Option<u64>,
    /// The incarnation it was seen in; `None` when a person typed it.
    pub epoch: Option<Epoch>,
}

impl Cursor {
    /// The cursor after `sequence` in `epoch`.
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
                format!("{shown:?} is none; write 42, 42-9f3c2a1b or @1042-9f3c2a1b"),
            )
        };
        let (is_position, rest) = match text.strip_prefix('@') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (numbers, epoch) = match rest.split_once('-') {
            Some((numbers, epoch)) => (numbers, Some(epoch.parse().map_err(|()| malformed())?)),
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
            return Err(malformed()); // The place after it does not exist.
        }
        let after = if is_position {
            Place::Position(Position::new(number))
        } else {
            Place::Sequence(Sequence::new(number))
        };
        Ok(Self { after, since, epoch })
    }
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartPoint {
    /// At the first event that is kept.
    Earliest,
    /// After the newest event: only what is published from now on.
    #[default]
    Latest,
    /// This many events before the end.
    Last(u64),
    /// At the first event appended at this time or later.
    Time(Timestamp),
    /// Right after what was seen last.
    After(Cursor),
    /// After a place that the broker does not know: what the reader came back with is no cursor.
    /// The reader is told a gap for [`GapReason::Unknown`].
    Unknown,
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
                Error::invalid("start point", format!("{count:?} in last:N is no number"))
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
                    "{shown:?} is none; write earliest, latest, last:100, \
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

/// From where on a reader began to care: the drops of the log that are no loss to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Since {
    /// The number of the last of them.
    drop: u64,
    /// The place up to which some of what went with them lay; at it, and after it, a plain cursor
    /// says as much.
    until: u64,
}

impl Since {
    /// Begins with a reader to whom all drops up to this number are no loss.
    pub(crate) fn drop(drop: u64) -> Self {
        Self { drop, until: 0 }
    }

    /// The number of the last of them.
    pub(crate) fn number(&self) -> u64 {
        self.drop
    }

    /// Notes that something that went with them lay up to this place.
    pub(crate) fn note(&mut self, until: u64) {
        self.until = self.until.max(until);
    }

    /// Returns the number of a drop that the reader's cursor at this place must carry.
    pub(crate) fn at(&self, place: Place) -> Option<u64> {
        (place.number() < self.until).then_some(self.drop)
    }
}

/// The way in which a reader goes on after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnGap {
    /// Tell it, then go on at the nearest event that follows its place: `tail` after
    /// [`GapReason::Ahead`], where it is after [`GapReason::Tombstones`], `earliest` after any
    /// other.
    #[default]
    Resume,
    /// Tell it, then go on at the first event that is kept.
    Earliest,
    /// Tell it, then go on after the newest event.
    Latest,
    /// Refuse with [`Error::Gap`].
    Fail,
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
                format!("{text:?} is none of resume, earliest, latest, fail"),
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
