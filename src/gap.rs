//! Gaps: what a reader is told when the event it wants next is not there.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::place::Place;
use crate::timestamp::Timestamp;
use crate::topic_name::TopicName;

/// Why events were taken out at the front of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrimReason {
    /// The topic's limits on age, events or bytes.
    #[default]
    Retention,
    /// Their own time to live was over.
    Expired,
    /// Somebody asked for it.
    Purged,
    /// The topic was deleted.
    Deleted,
}

/// Why a reader cannot go on exactly where it left off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum GapReason {
    /// The events were trimmed from the front, by the topic's limits.
    Retention,
    /// The events expired.
    Expired,
    /// The events were purged.
    Purged,
    /// The topic was deleted since.
    Deleted,
    /// The cursor was given by another incarnation of the log.
    Epoch,
    /// The cursor is beyond the newest event.
    Ahead,
    /// The reader came back with something that is no cursor, such as another server's.
    Unknown,
    /// Deletions of keys that come next were dropped, past their grace: the reader may hold keys
    /// that are deleted. Events go on where it is.
    Tombstones,
}

impl GapReason {
    /// The word for it on the wire.
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

/// The start that a reader asked for, and cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// The sequence or the position of the first event that the reader wants.
    Place(Place),
    /// The first event that was appended at this time, or later.
    Time(Timestamp),
    /// Something that is no cursor, as [`GapReason::Unknown`] says.
    Unknown,
}

impl Requested {
    /// The number on the wire: the sequence, the position or the milliseconds since 1970, and 0 for
    /// what is unknown.
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

/// The news that the event a reader wants next is not there. All fields are of one moment.
///
/// `earliest`, `tail` and `resume` are sequences of the gap's topic, or positions where the gap is
/// one of all topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The topic; `None` for all topics of a reader of many.
    pub topic: Option<TopicName>,
    /// The start that the reader wanted.
    pub requested: Requested,
    /// The first place that can be read.
    pub earliest: Place,
    /// The place that will be given next.
    pub tail: Place,
    /// The number of events that are lost to the reader; `None` if it is unknown.
    pub lost: Option<u64>,
    /// Why.
    pub reason: GapReason,
    /// The place that is read next, after the gap.
    pub resume: Place,
}

impl Gap {
    /// One gap for this one and the one that follows it at once, with nothing read in between.
    pub(crate) fn joined(self, next: Self) -> Self {
        let reason = match self.reason {
            // The whole place was wrong: what was dropped after that is the lesser news.
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
            GapReason::Unknown => write!(f, "the cursor is none of {topic:?}"),
            GapReason::Tombstones => {
                write!(f, "deletions of keys of {topic:?} that come next were dropped")
            }
        }?;
        write!(f, "; requested {requested}, readable is {earliest} up to, not including, {tail}")
    }
}
