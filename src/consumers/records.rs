//! The records of consumers in the log: events of [`TOPIC`], whose payloads are JSON.
//!
//! ```text
//! key      payload
//! c1z      {"owner":"u42","selection":"users.42.>","name":"inbox","filter":{"types":["mention"]},
//!           "checkpoint":"@1042~17","reach":{"users.42.a":17},"created":"2026-…Z",
//!           "updated":"2026-…Z"}
//! m1z      {"seen":{"up_to":900,"marked":{"users.42.a":"17-19,23"},"unmarked":{…}},"read":{…},
//!           "archived":{…},"snoozed":{"users.42.a":{"21":"2026-…Z"}},"by":"u42",
//!           "change":{"mark":["read"],"events":{"named":{"users.42.a":"23"}}},"updated":"2026-…Z"}
//! c1z      empty: the consumer was deleted
//! ```
//!
//! `1z` is the number of the consumer in base 36: it is given once, and not again while any record
//! of it is kept. Each record is the whole of its piece, so the last one of a key holds. Fields
//! that are not known are passed over: a later version may add some.
//!
//! Places have no epoch. A record was written after the events that it names, into the same log. So
//! a log that went back to an earlier state, and got another epoch, has no record that names an
//! event it does not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::changes::MarksChange;
use super::entry::ConsumerEntry;
use super::id::{ConsumerId, ConsumerSettings};
use super::marks::{Exceptions, MarkLine, Marks};
use super::name::ConsumerName;
use super::ranges::set_of;
use super::work::WorkSettings;
use crate::broker::Filter;
use crate::cursor::{Cursor, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::topic::{TopicName, TopicPattern};

/// The topic of the records.
pub const TOPIC: &str = "$consumers";

/// The type of the events of a consumer's settings and checkpoint, and of its marks.
const CONSUMER_TYPE: &str = "consumer";
const MARKS_TYPE: &str = "consumer.marks";

/// The base of the numbers in keys.
const BASE: u32 = 36;

/// A piece of a consumer's state, which has a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordPiece {
    /// Identity, settings and checkpoint.
    Consumer(u64),
    /// The marks.
    Marks(u64),
    /// The state of shared work.
    Work(u64),
}

impl RecordPiece {
    /// Returns the piece with this key; `None` if the key is of none.
    pub(super) fn of(key: &str) -> Option<Self> {
        let (kind, rest) = key.split_at_checked(1)?;
        let digits = rest.split('.').next().unwrap_or_default();
        let number = u64::from_str_radix(digits, BASE).ok()?;
        match kind {
            "c" if digits == rest => Some(Self::Consumer(number)),
            "m" if digits == rest => Some(Self::Marks(number)),
            "w" => Some(Self::Work(number)),
            _ => None,
        }
    }

    /// Returns the number of the consumer.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Consumer(number) | Self::Marks(number) | Self::Work(number) => number,
        }
    }

    /// Returns the key; for shared work, its beginning.
    pub(super) fn key(self) -> String {
        let kind = match self {
            Self::Consumer(_) => 'c',
            Self::Marks(_) => 'm',
            Self::Work(_) => 'w',
        };
        let (mut number, mut digits) = (self.number(), Vec::new());
        loop {
            let digit = u32::try_from(number % u64::from(BASE)).unwrap_or_default();
            digits.extend(char::from_digit(digit, BASE));
            number /= u64::from(BASE);
            if number == 0 {
                break;
            }
        }
        std::iter::once(kind).chain(digits.into_iter().rev()).collect()
    }
}

/// The payload of a `c` record.
#[derive(Debug, Serialize, Deserialize)]
struct ConsumerRecord {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    owner: String,
    selection: TopicPattern,
    name: ConsumerName,
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    filter: Filter,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shared: Option<WorkSettings>,
    /// The checkpoint, without an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Cursor>,
    /// The sequences of topics at the checkpoint, if they were few; null where events after it were
    /// gone by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reach: Option<BTreeMap<TopicName, Option<Sequence>>>,
    created: Timestamp,
    updated: Timestamp,
}

/// The payload of an `m` record.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct MarksRecord {
    #[serde(skip_serializing_if = "LineRecord::is_empty")]
    seen: LineRecord,
    #[serde(skip_serializing_if = "LineRecord::is_empty")]
    read: LineRecord,
    #[serde(skip_serializing_if = "LineRecord::is_empty")]
    archived: LineRecord,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    snoozed: BTreeMap<TopicName, BTreeMap<u64, Timestamp>>,
    /// The caller who changed the marks last.
    #[serde(skip_serializing_if = "String::is_empty")]
    by: String,
    /// The change with which the record was written, for who reads the records as they come;
    /// absent if there were several.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    change: Option<Box<RawValue>>,
    updated: Timestamp,
}

/// One mark: the number of its watermark's place, and the exceptions, as ranges of sequences.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct LineRecord {
    up_to: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    marked: BTreeMap<TopicName, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unmarked: BTreeMap<TopicName, String>,
}

impl LineRecord {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn of(line: &MarkLine) -> Self {
        let (marked, unmarked) = (line.marked_ranges(), line.unmarked_ranges());
        Self { up_to: line.up_to, marked, unmarked }
    }

    fn line(self) -> Result<MarkLine> {
        let sets = |texts: BTreeMap<TopicName, String>| {
            let sets = texts.into_iter().map(|(topic, text)| Ok((topic, set_of(&text)?)));
            sets.collect::<Result<Exceptions>>()
        };
        let (marked, unmarked) = (sets(self.marked)?, sets(self.unmarked)?);
        Ok(MarkLine { up_to: self.up_to, marked, unmarked })
    }
}

/// Returns the event with a consumer's identity, settings and checkpoint.
///
/// # Errors
///
/// As [`NewEvent::json`].
pub(super) fn consumer_event(entry: &ConsumerEntry) -> Result<NewEvent> {
    let ConsumerId { owner, selection, name } = entry.id();
    let record = ConsumerRecord {
        owner,
        selection,
        name,
        filter: entry.settings().filter.clone(),
        shared: entry.settings().shared.clone(),
        checkpoint: entry.checkpoint(),
        reach: entry.reach().map(|reach| reach.iter().cloned().collect()),
        created: entry.created(),
        updated: entry.updated(),
    };
    let key = RecordPiece::Consumer(entry.number).key();
    Ok(NewEvent::json(&record)?.with_key(key).with_type(CONSUMER_TYPE))
}

/// Returns the event with the marks of a consumer, and the bytes that the marks take in it.
/// `change` is what changed, if it is one change.
///
/// # Errors
///
/// As [`NewEvent::json`].
pub(super) fn marks_event(
    entry: &ConsumerEntry,
    by: &str,
    change: Option<&MarksChange>,
) -> Result<(NewEvent, usize)> {
    let marks = entry.marks();
    let change = change.map(serde_json::value::to_raw_value).transpose().map_err(unreadable)?;
    let change_bytes = change.as_ref().map_or(0, |change| change.get().len());
    let times = |times: &BTreeMap<u64, u64>| {
        times.iter().map(|(sequence, until)| (*sequence, Timestamp::from_ms(*until))).collect()
    };
    let snoozed = marks.snoozed.iter();
    let record = MarksRecord {
        seen: LineRecord::of(&marks.seen),
        read: LineRecord::of(&marks.read),
        archived: LineRecord::of(&marks.archived),
        snoozed: snoozed.map(|(topic, of_topic)| (topic.clone(), times(of_topic))).collect(),
        by: by.to_owned(),
        change,
        updated: entry.updated(),
    };
    let event = NewEvent::json(&record)?;
    let bytes = event.payload.len() - change_bytes;
    let key = RecordPiece::Marks(entry.number).key();
    Ok((event.with_key(key).with_type(MARKS_TYPE), bytes))
}

/// Returns the consumer of a `c` record, without marks.
///
/// # Errors
///
/// [`Error::Invalid`]: the payload is none that this version can read.
pub(super) fn consumer_of(
    number: u64,
    payload: &[u8],
    revision: Position,
) -> Result<ConsumerEntry> {
    let record: ConsumerRecord = serde_json::from_slice(payload).map_err(unreadable)?;
    let ConsumerRecord { owner, selection, name, filter, shared, .. } = record;
    let ConsumerRecord { checkpoint, reach, created, updated, .. } = record;
    let id = ConsumerId { owner, selection, name };
    id.check()?;
    Ok(ConsumerEntry::new(&id, number)
        .with_settings(ConsumerSettings { filter, shared })
        .with_checkpoint(checkpoint, reach.map(|reach| reach.into_iter().collect()))
        .with_times(created, updated)
        .with_revision(revision))
}

/// The marks of an `m` record, and the time of their last change.
///
/// # Errors
///
/// [`Error::Invalid`]: the payload is none that this version can read.
pub(super) fn marks_of(payload: &[u8]) -> Result<(Marks, Timestamp)> {
    let record: MarksRecord = serde_json::from_slice(payload).map_err(unreadable)?;
    let times = |times: BTreeMap<u64, Timestamp>| {
        times.into_iter().map(|(sequence, until)| (sequence, until.as_ms())).collect()
    };
    let snoozed = record.snoozed.into_iter();
    let marks = Marks {
        has_positions: false,
        seen: record.seen.line()?,
        read: record.read.line()?,
        archived: record.archived.line()?,
        snoozed: snoozed.map(|(topic, of_topic)| (topic, times(of_topic))).collect(),
    };
    Ok((marks, record.updated))
}

/// Returns who made the change with which an `m` record was written, and what changed: something,
/// if there were several changes.
///
/// # Errors
///
/// [`Error::Invalid`]: the payload is none that this version can read.
pub(super) fn marks_change_of(payload: &[u8]) -> Result<(Arc<str>, MarksChange)> {
    #[derive(Deserialize)]
    struct MarksTold {
        #[serde(default)]
        by: String,
        change: Option<MarksChange>,
    }
    let MarksTold { by, change } = serde_json::from_slice(payload).map_err(unreadable)?;
    Ok((by.into(), change.unwrap_or_else(MarksChange::of_many)))
}

fn unreadable(problem: serde_json::Error) -> Error {
    Error::invalid("record", format!("is none of consumers: {problem}"))
}
