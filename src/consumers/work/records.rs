//! The stored state of work sharing, as records of the topic of the consumers.
//!
//! ```text
//! w<number>.f                  the floor: all up to its cursor is finished; the totals
//! w<number>.<topic>.<bucket>   the events <bucket> * 64 to <bucket> * 64 + 63 of one topic
//! ```
//!
//! `<number>` is the consumer's in base 36, `<topic>` and `<bucket>` are decimal. A record is the
//! whole state of its events, as JSON: those that are finished although the floor is below them,
//! the leased ones, and those that wait after a failure. An event in no record, above the floor,
//! was never leased. An empty record takes the one before it away.
//!
//! # Why
//!
//! Work goes on near the floor, so a pull or an acknowledgement of neighbouring events writes few
//! records. Each record is whole, so reading the topic again needs no order between records: the
//! last one of each key wins. A lease has the position of its event and a hash of its key, because
//! the event may be gone after a restart, and still holds back later events of its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::places::{BUCKET_EVENTS, Bucket, KEY_PREFIX, base36};
use super::requests::{MAX_SHOWN_WORKERS, WorkStatus};
use super::totals::WorkTotals;
use crate::cursor::{Cursor, Sequence};
use crate::topic::TopicId;

/// The end of the key of a floor.
const FLOOR: &str = "f";

/// The type of the events that hold these records.
pub(super) const EVENT_TYPE: &str = "consumer.work";

/// Returns the key of the record of a consumer's floor.
pub(super) fn floor_key(consumer: u64) -> String {
    format!("{KEY_PREFIX}{}.{FLOOR}", base36(consumer))
}

/// The record of a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BucketRecord {
    /// The sequences of finished events above the floor, as ranges: `65-80,90`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) finished: String,
    /// The leased events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) leased: Vec<LeasedRecord>,
    /// The events that were not finished by their last worker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failed: Vec<FailedRecord>,
}

/// A leased event in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeasedRecord {
    pub(super) sequence: u64,
    pub(super) position: u64,
    /// The deliveries so far.
    pub(super) tries: u32,
    /// The end of the lease, in milliseconds since 1970.
    pub(super) until: u64,
    /// The length of the lease, in milliseconds.
    pub(super) length: u64,
    pub(super) worker: String,
    /// The hash of the event's key, in base 36; empty for an event without a key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
}

/// An event in a record that was leased before, and waits for its next worker, or for its end as a
/// dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailedRecord {
    pub(super) sequence: u64,
    pub(super) position: u64,
    /// The deliveries so far.
    pub(super) tries: u32,
    /// The time before which the event is not leased again, in milliseconds since 1970.
    pub(super) from: u64,
    /// The length of the wait, in milliseconds.
    pub(super) length: u64,
    /// The hash of the event's key, as in [`LeasedRecord`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    /// The reason that the worker gave.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) reason: String,
    /// Whether the last lease ran out, so that its worker may still finish the event.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) ran_out: bool,
    /// Whether the event becomes a dead letter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) dead: bool,
}

impl BucketRecord {
    /// Whether the record says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.finished.is_empty() && self.leased.is_empty() && self.failed.is_empty()
    }

    /// Adds finished events.
    pub(super) fn add_finished(&mut self, sequences: impl Iterator<Item = Sequence>) {
        let mut more = sequences.map(Sequence::get).peekable();
        if more.peek().is_some() {
            let all: BTreeSet<u64> = self.finished_sequences().chain(more).collect();
            self.finished = ranges(all.into_iter());
        }
    }

    /// Returns the sequences of the finished events.
    pub(super) fn finished_sequences(&self) -> impl Iterator<Item = u64> {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?)
        };
        let ranges = self.finished.split(',').filter_map(range);
        ranges.flat_map(|range| range.take(BUCKET_EVENTS as usize))
    }
}

/// Returns sequences, which rise, as ranges.
pub(super) fn ranges(sequences: impl Iterator<Item = u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for sequence in sequences {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == sequence => *last = sequence,
            _ => ranges.push((sequence, sequence)),
        }
    }
    let text = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// The record of a floor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FloorRecord {
    /// The cursor of the floor: every event up to it is finished.
    pub(super) cursor: Cursor,
    /// The totals of the consumer.
    #[serde(flatten)]
    pub(super) totals: WorkTotals,
    /// The lost events above the floor that are counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) counted: Vec<CountedRange>,
}

/// Lost events of one topic that are counted: a range of sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CountedRange {
    /// The id of the topic.
    pub(super) topic: u32,
    pub(super) first: u64,
    /// The end, exclusive.
    pub(super) end: u64,
}

impl CountedRange {
    /// Returns whether some of the sequences from `first` up to `end`, exclusive, are in the range.
    pub(super) fn overlaps(&self, first: u64, end: u64) -> bool {
        self.first < end && first < self.end
    }
}

/// The stored records of one consumer.
#[derive(Debug, Clone, Default)]
pub(super) struct ConsumerRecords {
    pub(super) floor: Option<FloorRecord>,
    /// The payloads of the records of buckets.
    pub(super) buckets: HashMap<Bucket, Bytes>,
}

impl ConsumerRecords {
    /// Returns how the consumer stands while nobody uses it.
    pub(super) fn status(&self) -> WorkStatus {
        let (mut in_flight, mut delayed, mut dying) = (0, 0, 0);
        let mut workers = BTreeMap::<String, u64>::new();
        for record in self.read().into_values() {
            let dead = record.failed.iter().filter(|failed| failed.dead).count() as u64;
            let waits = record.failed.iter().filter(|failed| failed.length > 0).count() as u64;
            in_flight += record.leased.len() as u64;
            for leased in record.leased {
                *workers.entry(leased.worker).or_default() += 1;
            }
            delayed += waits;
            dying += dead;
        }
        let floor = self.floor.as_ref();
        WorkStatus {
            checkpoint: floor.map(|floor| floor.cursor),
            totals: floor.map(|floor| floor.totals).unwrap_or_default(),
            in_flight,
            delayed,
            dying,
            workers: workers.into_iter().take(MAX_SHOWN_WORKERS).collect(),
            ..WorkStatus::default()
        }
    }

    /// Returns the records, read. One that cannot be read is passed over: its events are as if
    /// they had never been leased.
    pub(super) fn read(&self) -> HashMap<Bucket, BucketRecord> {
        let read = |(bucket, payload): (&Bucket, &Bytes)| match serde_json::from_slice(payload) {
            Ok(record) => Some((*bucket, record)),
            Err(problem) => {
                warn!(topic = bucket.topic.get(), bucket = bucket.number, %problem, "no record");
                None
            }
        };
        self.buckets.iter().filter_map(read).collect()
    }
}

/// The stored records of all shared consumers, by the consumers' numbers.
///
/// A tree, because a table that grows moves all that it has at once, under a lock.
#[derive(Debug, Default)]
pub(crate) struct WorkRecords(BTreeMap<u64, ConsumerRecords>);

impl WorkRecords {
    /// Returns the numbers of the consumers that have sent dead letters.
    pub(super) fn with_dead_letters(&self) -> Vec<u64> {
        let has_some = |records: &ConsumerRecords| {
            records.floor.as_ref().is_some_and(|floor| floor.totals.dead > 0)
        };
        let having = self.0.iter().filter(|(_, records)| has_some(records));
        having.map(|(number, _)| *number).collect()
    }

    /// Applies a stored event: a record, or the end of one. Returns whether the key is that of a
    /// record of work sharing.
    pub(crate) fn apply(&mut self, key: &str, payload: &Bytes) -> bool {
        let Some((consumer, part)) = parse(key) else { return false };
        let records = self.0.entry(consumer).or_default();
        match part {
            KeyPart::Floor if payload.is_empty() => records.floor = None,
            KeyPart::Floor => match serde_json::from_slice(payload) {
                Ok(floor) => records.floor = Some(floor),
                Err(problem) => warn!(key, %problem, "no record of a floor"),
            },
            KeyPart::Bucket(bucket) if payload.is_empty() => {
                records.buckets.remove(&bucket);
            }
            KeyPart::Bucket(bucket) => {
                records.buckets.insert(bucket, payload.clone());
            }
        }
        if records.floor.is_none() && records.buckets.is_empty() {
            self.0.remove(&consumer);
        }
        true
    }

    /// Returns the cursor up to which all events of a shared consumer are finished; `None` if no
    /// event of it was leased yet.
    pub(crate) fn floor(&self, consumer: u64) -> Option<Cursor> {
        self.0.get(&consumer)?.floor.as_ref().map(|floor| floor.cursor)
    }

    /// Returns the keys of a consumer's records.
    pub(crate) fn keys_of(&self, consumer: u64) -> Vec<String> {
        let Some(records) = self.0.get(&consumer) else { return Vec::new() };
        let floor = records.floor.iter().map(|_| floor_key(consumer));
        floor.chain(records.buckets.keys().map(|bucket| bucket.key(consumer))).collect()
    }

    /// Forgets the records of a consumer.
    pub(super) fn forget(&mut self, consumer: u64) {
        self.0.remove(&consumer);
    }

    /// Returns the records of a consumer.
    pub(super) fn of(&self, consumer: u64) -> Option<&ConsumerRecords> {
        self.0.get(&consumer)
    }
}

/// What the key of a record names.
#[derive(Debug, PartialEq, Eq)]
enum KeyPart {
    Floor,
    Bucket(Bucket),
}

/// Returns the consumer of a record's key, and what the key names; `None` for any other key.
fn parse(key: &str) -> Option<(u64, KeyPart)> {
    let (consumer, part) = key.strip_prefix(KEY_PREFIX)?.split_once('.')?;
    let consumer = u64::from_str_radix(consumer, 36).ok()?;
    if part == FLOOR {
        return Some((consumer, KeyPart::Floor));
    }
    let (topic, number) = part.split_once('.')?;
    let topic = TopicId::from_stored(topic.parse().ok()?)?;
    let number: u64 = number.parse().ok()?;
    Some((consumer, KeyPart::Bucket(Bucket { topic, number })))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::places::WorkPlace;
    use super::*;

    fn topic(id: u32) -> TopicId {
        TopicId::from_stored(id).unwrap()
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_it_was_written(
            consumer: u64,
            id in 1..u32::MAX,
            sequence in 0..u64::MAX,
        ) {
            let place = WorkPlace { topic: topic(id), sequence: Sequence::new(sequence) };
            let bucket = place.bucket();
            let (first, last) = bucket.places();
            prop_assert!(first <= place && place <= last);
            prop_assert_eq!(last.sequence.get() - first.sequence.get(), 63);
            let read = parse(&bucket.key(consumer));
            prop_assert_eq!(read, Some((consumer, KeyPart::Bucket(bucket))));
            prop_assert_eq!(parse(&floor_key(consumer)), Some((consumer, KeyPart::Floor)));
        }

        #[test]
        fn ranges_read_back_as_they_were_written(
            sequences in proptest::collection::btree_set(640_u64..704, 0..64),
        ) {
            let finished = ranges(sequences.iter().copied());
            let record = BucketRecord { finished, ..BucketRecord::default() };
            let read: Vec<u64> = record.finished_sequences().collect();
            prop_assert_eq!(read, sequences.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_record_of_a_key_wins_and_an_empty_one_takes_it_away() {
        let mut records = WorkRecords::default();
        let apply = |records: &mut WorkRecords, key: &str, payload: &str| {
            records.apply(key, &Bytes::copy_from_slice(payload.as_bytes()))
        };
        let floor = r#"{"cursor":"41-0000000a","finished":40,"dead":1,"lost":0}"#;
        for (key, payload) in [
            ("wz.f", floor),
            ("wz.7.0", r#"{"finished":"50"}"#),
            ("wz.7.0", r#"{"finished":"50-51"}"#),
            ("w10.7.1", r#"{"finished":"70"}"#),
        ] {
            assert!(apply(&mut records, key, payload), "{key}");
        }
        for other in ["c1", "m1", "w", "w1", "w1.", "w1.x", "w1.0.1", "w1.1", "w1.1.x", "w!.f"] {
            assert!(!apply(&mut records, other, "{}"), "{other}");
        }
        assert_eq!(records.floor(35).unwrap().to_string(), "41-0000000a");
        let of = records.of(35).unwrap();
        let totals = WorkTotals { finished: 40, dead: 1, lost: 0 };
        let stored = of.floor.as_ref().unwrap();
        assert_eq!(stored.totals, totals);
        assert_eq!(serde_json::to_string(stored).unwrap(), floor);
        let bucket = Bucket { topic: topic(7), number: 0 };
        assert_eq!(of.read()[&bucket].finished, "50-51");
        let mut keys = records.keys_of(35);
        keys.sort();
        assert_eq!(keys, ["wz.7.0", "wz.f"]);
        assert_eq!((records.floor(36), records.keys_of(36)), (None, vec!["w10.7.1".to_owned()]));
        for key in keys {
            apply(&mut records, &key, "");
        }
        assert!(records.of(35).is_none() && records.of(36).is_some());
        records.forget(36);
        assert!(records.of(36).is_none());
    }
}
