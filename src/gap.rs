//! Gaps: the report to a reader that the event it wants next is gone.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::place::Place;
use crate::timestamp::Timestamp;
use crate::topic_name::TopicName;

/// The reason for which events were trimmed from the front of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TrimReason {
    /// The topic was over its limits on age, events or bytes.
    #[default]
    Retention,
    /// The time to live of the events was over.
    Expired,
    /// A caller asked for it.
    Purged,
    /// The topic was deleted.
    Deleted,
}

/// The reason for which a reader cannot go on exactly where it left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GapReason {
    /// Events were trimmed from the front, because the topic was over its limits.
    Retention,
    /// Events expired.
    Expired,
    /// Events were purged.
    Purged,
    /// The topic was deleted, with the events that it had.
    Deleted,
    /// The cursor was given by another incarnation of the log.
    Epoch,
    /// The cursor is beyond the newest event.
    Ahead,
    /// The reader came back with something that is not a cursor, for example an id of another
    /// server.
    Unknown,
    /// Deletions of keys that come next were dropped, because their grace time is over. The reader
    /// may hold keys that are deleted. No other event is missing.
    Tombstones,
}

impl GapReason {
    /// Returns the word for the reason on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Expired => "expired",
            Self::Purged => "purged",
            Self::Deleted => "deleted",
            Self::Epoch => "epoch",
            Self::Ahead => "ahead",
            Self::Unknown => "unknown",
            Self::Tombstones => "tombstones",
        }
    }
}

impl fmt::Display for TrimReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        GapReason::from(*self).fmt(f)
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<TrimReason> for GapReason {
    fn from(reason: TrimReason) -> Self {
        match reason {
            TrimReason::Retention => Self::Retention,
            TrimReason::Expired => Self::Expired,
            TrimReason::Purged => Self::Purged,
            TrimReason::Deleted => Self::Deleted,
        }
    }
}

/// The start that a reader asked for, and cannot have. Serialized as [`Requested::number`], so it
/// cannot be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Requested {
    /// The sequence or the position of the first event that the reader wants.
    Place(Place),
    /// The first event that was appended at this time, or later.
    Time(Timestamp),
    /// Something that is not a cursor, as [`GapReason::Unknown`] says.
    Unknown,
}

impl Requested {
    /// Returns the number on the wire: the sequence, the position, the milliseconds since 1970, or
    /// 0 for an unknown start.
    pub fn number(self) -> u64 {
        match self {
            Self::Place(place) => place.number(),
            Self::Time(time) => time.as_ms(),
            Self::Unknown => 0,
        }
    }
}

impl Serialize for Requested {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number())
    }
}

/// The report that the event a reader wants next is gone. All fields are of one moment.
///
/// `earliest`, `tail` and `resume` are sequences of the gap's topic. In a gap of all topics they
/// are positions.
///
/// Serialized as clients get it: places are numbers, so a gap cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Gap {
    /// The topic; `None` for all topics of a reader of many.
    pub topic: Option<TopicName>,
    /// The place or the time at which the reader wanted to go on.
    pub requested: Requested,
    /// The first place that can be read.
    pub earliest: Place,
    /// The place that the next event gets.
    pub tail: Place,
    /// The number of sequences that are lost to the reader; `None` if it is unknown.
    pub lost: Option<u64>,
    /// The reason for the gap.
    pub reason: GapReason,
    /// The place at which the reader goes on after the gap.
    pub resume: Place,
}

impl Gap {
    /// Returns one gap that stands for this gap and for `next`, which follows it without an event
    /// in between.
    pub(crate) fn joined(self, next: Self) -> Self {
        let reason = match self.reason {
            // The whole place was wrong, which matters more than a drop after it.
            GapReason::Epoch | GapReason::Ahead | GapReason::Unknown => self.reason,
            _ => next.reason,
        };
        let lost = self.lost.zip(next.lost).map(|(first, second)| first + second);
        Self { requested: self.requested, lost, reason, ..next }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { earliest, tail, .. } = self;
        let requested = self.requested.number();
        let topic = self.topic.as_ref().map_or("all topics", TopicName::as_str);
        match self.reason {
            GapReason::Retention => write!(f, "events of {topic:?} below {earliest} were trimmed"),
            GapReason::Expired => write!(f, "events of {topic:?} below {earliest} have expired"),
            GapReason::Purged => write!(f, "events of {topic:?} below {earliest} were purged"),
            GapReason::Deleted => write!(f, "topic {topic:?} was deleted at {earliest}"),
            GapReason::Epoch => write!(f, "the cursor is of another epoch of {topic:?}"),
            GapReason::Ahead => write!(f, "the cursor is ahead of the tail of {topic:?}"),
            GapReason::Unknown => write!(f, "the cursor does not belong to {topic:?}"),
            GapReason::Tombstones => {
                write!(f, "deletions of keys of {topic:?} that come next were dropped")
            }
        }?;
        write!(f, "; requested {requested}, readable is {earliest} up to, not including, {tail}")
    }
}
