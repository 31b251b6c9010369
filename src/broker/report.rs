//! Reports of the committer: the outcomes of what it was asked, as plain data.

use std::time::Duration;

use crate::cursor::{Position, Sequence};
use crate::event::{Durability, Timestamp};

/// The place and time that one event was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// The event's place in the whole broker.
    pub position: Position,
    /// The time at which the event was appended.
    pub time: Timestamp,
}

/// An event that was in the topic's window already, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Which event of the publish, from 0.
    pub index: usize,
    /// The receipt of the first publish of the event.
    pub receipt: Receipt,
}

/// The answer to a publish: every event of it is durable now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The number of events of the publish.
    pub count: usize,
    /// The place of the first event that was appended; `None` if all were duplicates. The others
    /// follow it without holes, in the order of the publish, all with the same time.
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
        let offset = (index - before) as u64;
        Receipt {
            sequence: first.sequence.plus(offset),
            position: first.position.plus(offset),
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

    /// Returns whether every event was a duplicate.
    pub fn is_duplicate(&self) -> bool {
        self.first_appended.is_none()
    }
}

/// The outcome of a step of maintenance.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) report: MaintenanceReport,
    /// Whether there may be more to do at once.
    pub(crate) has_more: bool,
    /// Whether some of what was asked for was not done.
    pub(crate) is_partial: bool,
    /// The time at which the oldest block becomes older than the limit.
    pub(crate) due: Option<Timestamp>,
    /// The time for which the step kept the committer busy: its share, if several steps were taken
    /// together.
    pub(crate) took: Duration,
}

/// Events that were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The number of events.
    pub events: u64,
    /// The bytes that they took.
    pub bytes: u64,
}

impl Dropped {
    /// Counts events that take so many bytes.
    pub(crate) fn add(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// A report of maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaintenanceReport {
    /// Topics that were looked at.
    pub topics: u64,
    /// Events that limits on age, events or bytes dropped.
    pub retention: Dropped,
    /// Events that expired.
    pub expired: Dropped,
    /// Events that a later event of the same key superseded, and tombstones past their grace.
    pub compacted: Dropped,
    /// Events that were purged, or deleted with their topic, and are removed by now.
    pub purged: Dropped,
    /// Blocks that were written again as part of a larger one.
    pub merged_blocks: u64,
    /// Space that was given back to the log, in bytes.
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
