//! Reports of the committer: the outcomes of commands, as plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::event::{Durability, Timestamp};
use crate::log::{Applied, StoredTopic};

/// The place of the log at a moment between two groups.
#[derive(Debug)]
pub(super) struct LogReached {
    /// The position of the newest event. All events up to it can be read.
    pub(super) position: Position,
    /// The place in the fleet's stream up to which exactly the log has applied it.
    pub(super) applied: Result<Option<Applied>>,
    /// All topics as they are at that place, if the log has one.
    pub(super) topics: Vec<StoredTopic>,
}

/// The place and time that one event was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// The event's place in the whole broker.
    pub position: Position,
    /// The time at which the event was appended.
    pub time: Timestamp,
}

/// An event whose id was in the topic's dedup window already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Duplicate {
    /// The index of the event in the publish, from 0.
    pub index: usize,
    /// The receipt of the first publish of the event.
    pub receipt: Receipt,
}

/// The acknowledgement of a publish: every event of it is durable now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ack {
    /// The number of events of the publish.
    pub count: usize,
    /// The receipt of the first appended event; `None` if all events were duplicates. The other
    /// appended events follow without holes, in the order of the publish, all with the same time.
    pub first_appended: Option<Receipt>,
    /// The events that were not appended again, in order.
    pub duplicates: Vec<Duplicate>,
    /// The durability of the events.
    pub durability: Durability,
}

impl Ack {
    /// Returns the receipt of the event with this index.
    ///
    /// # Panics
    ///
    /// If the publish had no such event.
    pub fn receipt(&self, index: usize) -> Receipt {
        assert!(index < self.count, "the publish had {} events", self.count);
        let before = self.duplicates.partition_point(|duplicate| duplicate.index < index);
        if let Some(duplicate) = self.duplicates.get(before)
            && duplicate.index == index
        {
            return duplicate.receipt;
        }
        let first = self.first_appended.expect("an event is appended or a duplicate");
        let appended_before = (index - before) as u64;
        Receipt {
            sequence: first.sequence.plus(appended_before),
            position: first.position.plus(appended_before),
            time: first.time,
        }
    }

    /// Returns the receipt of the first event.
    pub fn first(&self) -> Receipt {
        self.receipt(0)
    }

    /// Returns the receipt of the last event.
    pub fn last(&self) -> Receipt {
        self.receipt(self.count - 1)
    }

    /// Whether every event was a duplicate.
    pub fn is_duplicate(&self) -> bool {
        self.first_appended.is_none()
    }
}

/// The outcome of a step of maintenance.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) report: MaintenanceReport,
    /// Whether there may be more to do right away.
    pub(crate) has_more: bool,
    /// Whether a part of the step was not done.
    pub(crate) is_partial: bool,
    /// The time at which the oldest block becomes older than the topic's limit, if that is known.
    pub(crate) due: Option<Timestamp>,
    /// The time for which the step kept the committer busy. If several steps were taken together,
    /// the step's share of that time.
    pub(crate) took: Duration,
}

/// A count of dropped events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Dropped {
    /// The number of events.
    pub events: u64,
    /// The bytes that they took.
    pub bytes: u64,
}

impl Dropped {
    /// Counts events that take `bytes`.
    pub(crate) fn add(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// The counts of what maintenance has done. Serialized as the answer of the HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct MaintenanceReport {
    /// The topics that were looked at.
    pub topics: u64,
    /// The events that limits on age, events or bytes dropped.
    pub retention: Dropped,
    /// The events that expired and were dropped.
    pub expired: Dropped,
    /// The dropped events that a later event of the same key superseded, and dropped tombstones
    /// past their grace time.
    pub compacted: Dropped,
    /// The events that were purged, or deleted with their topic, and are removed by now.
    pub purged: Dropped,
    /// The blocks that were merged into others.
    pub merged_blocks: u64,
    /// The space that was given back to the log, in bytes.
    pub reclaimed_bytes: u64,
}

impl MaintenanceReport {
    pub(crate) fn add(&mut self, other: &Self) {
        self.topics += other.topics;
        for (dropped, other) in self.dropped_mut().into_iter().zip(other.dropped()) {
            dropped.add(other.1.events, other.1.bytes);
        }
        self.merged_blocks += other.merged_blocks;
        self.reclaimed_bytes += other.reclaimed_bytes;
    }

    /// Returns the dropped events by the reason of the drop.
    pub fn dropped(&self) -> [(&'static str, Dropped); 4] {
        [
            ("retention", self.retention),
            ("expired", self.expired),
            ("compacted", self.compacted),
            ("purged", self.purged),
        ]
    }

    fn dropped_mut(&mut self) -> [&mut Dropped; 4] {
        [&mut self.retention, &mut self.expired, &mut self.compacted, &mut self.purged]
    }

    pub(crate) fn has_done_something(&self) -> bool {
        Self { topics: 0, ..*self } != Self::default()
    }
}

impl MaintenanceReport {
    /// Returns the counts as another node is told them.
    #[cfg(feature = "fleet")]
    pub(crate) fn to_numbers(self) -> Vec<u64> {
        let mut numbers = vec![self.topics, self.merged_blocks, self.reclaimed_bytes];
        numbers.extend(self.dropped().iter().flat_map(|(_, it)| [it.events, it.bytes]));
        numbers
    }

    /// Returns the counts that another node tells. One that it does not tell is 0.
    pub(crate) fn from_numbers(numbers: &[u64]) -> Self {
        let number = |at: usize| numbers.get(at).copied().unwrap_or_default();
        let mut report = Self {
            topics: number(0),
            merged_blocks: number(1),
            reclaimed_bytes: number(2),
            ..Self::default()
        };
        for (at, dropped) in report.dropped_mut().into_iter().enumerate() {
            dropped.add(number(3 + 2 * at), number(4 + 2 * at));
        }
        report
    }
}

impl Serialize for MaintenanceReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("MaintenanceReport", 4)?;
        fields.serialize_field("topics", &self.topics)?;
        fields.serialize_field("dropped", &BTreeMap::from(self.dropped()))?;
        fields.serialize_field("merged_blocks", &self.merged_blocks)?;
        fields.serialize_field("reclaimed_bytes", &self.reclaimed_bytes)?;
        fields.end()
    }
}
