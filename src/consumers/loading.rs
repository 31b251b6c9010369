//! Reading the records of the log: all of them, when consumers are opened, and those of other nodes
//! as they come.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};

use super::aside::Aside;
use super::entry::ConsumerEntry;
use super::marks::Marks;
use super::records::{RecordPiece, consumer_of, marks_of};
use super::view::View;
use super::work::WorkRecords;
use crate::broker::{Broker, Delivery, EventRef};
use crate::cursor::{OnGap, Position, StartPoint};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::own_topics::OwnReader;
use crate::polls;
use crate::topic::TopicName;

/// One record. Each is the whole of its piece, so the last one of a piece holds.
pub(super) enum ReadRecord {
    /// A consumer, without marks.
    Consumer(ConsumerEntry),
    ConsumerGone(u64),
    Marks(u64, ReadMarks),
    MarksGone(u64),
    /// A record of shared work, and whether it is one that this version knows.
    Work {
        key: String,
        payload: Bytes,
    },
}

/// The marks of a record, with the time of their last change and the place of the record.
pub(super) struct ReadMarks {
    marks: Marks,
    updated: Timestamp,
    position: Position,
}

/// All that the records say at one moment.
pub(super) struct LoadedConsumers {
    pub(super) view: View,
    /// The records of shared work, which has views of its own.
    pub(super) work: WorkRecords,
    /// Goes on after the last record that was loaded.
    pub(super) reader: OwnReader,
}

/// The records that were read so far. The pieces of a consumer may come in any order.
///
/// The maps are trees: a table that grows moves all that it has, up to a million, in one poll.
#[derive(Default)]
struct Loading {
    consumers: BTreeMap<u64, ConsumerEntry>,
    marks: BTreeMap<u64, ReadMarks>,
    work: WorkRecords,
    /// The keys whose last record cannot be read, and why.
    unread: BTreeMap<String, Error>,
    last_number: u64,
}

/// Returns what all records say.
///
/// # Errors
///
/// As [`Broker::subscribe`] and [`Reader::next`](crate::broker::Reader::next);
/// [`Error::ShuttingDown`]; [`Error::Invalid`]: the last record of a key is none that this version
/// can read.
pub(super) async fn load(broker: &Broker, topic: &TopicName) -> Result<LoadedConsumers> {
    let started = std::time::Instant::now();
    let mut loading = Aside::new(Loading::default());
    let mut reader = broker.subscribe(topic, StartPoint::Earliest, OnGap::Resume).await?;
    loop {
        match reader.next().await? {
            Some(Delivery::CaughtUp) => break,
            Some(Delivery::Events(run)) => {
                for event in run.events() {
                    loading.take(&event);
                    polls::rest().await;
                }
            }
            Some(_) => {}
            None => return Err(Error::ShuttingDown),
        }
    }
    if let Some((_, error)) = loading.unread.pop_first() {
        return Err(error);
    }
    let (view, work) = loading.built(Loading::finished).await;
    info!(
        consumers = view.len(),
        elapsed_ms = started.elapsed().as_millis(),
        "the consumers are loaded"
    );
    Ok(LoadedConsumers { view, work, reader: OwnReader::after(reader) })
}

/// Returns the record of an event; `None` for an event that is none.
///
/// # Errors
///
/// [`Error::Invalid`]: the record is none that this version can read.
pub(super) fn read_record(event: &EventRef<'_>) -> Result<Option<ReadRecord>> {
    let Some(piece) = RecordPiece::of(event.key) else {
        warn!(sequence = %event.sequence, "a record of no consumer is passed over");
        return Ok(None);
    };
    let is_gone = event.payload.is_empty();
    Ok(Some(match piece {
        RecordPiece::Consumer(number) if is_gone => ReadRecord::ConsumerGone(number),
        RecordPiece::Consumer(number) => {
            ReadRecord::Consumer(consumer_of(number, event.payload, event.position)?)
        }
        RecordPiece::Marks(number) if is_gone => ReadRecord::MarksGone(number),
        RecordPiece::Marks(number) => {
            let (marks, updated) = marks_of(event.payload)?;
            let position = event.position;
            ReadRecord::Marks(number, ReadMarks { marks, updated, position })
        }
        RecordPiece::Work(_) => {
            let payload = Bytes::copy_from_slice(event.payload);
            ReadRecord::Work { key: event.key.to_owned(), payload }
        }
    }))
}

impl ReadMarks {
    /// Returns a consumer with these marks.
    pub(super) fn given_to(self, entry: ConsumerEntry) -> ConsumerEntry {
        let Self { marks, updated, position } = self;
        let marks = Marks { has_positions: entry.has_positions(), ..marks };
        let revision = Position::new(entry.revision).max(position);
        let (created, updated) = (entry.created(), entry.updated().max(updated));
        let marked = entry.with_marks(Arc::new(marks));
        marked.with_times(created, updated).with_revision(revision)
    }
}

impl Loading {
    fn take(&mut self, event: &EventRef<'_>) {
        self.unread.remove(event.key);
        if let Err(error) = self.apply(event) {
            self.unread.insert(event.key.to_owned(), error);
        }
    }

    fn apply(&mut self, event: &EventRef<'_>) -> Result<()> {
        if let Some(piece) = RecordPiece::of(event.key) {
            self.last_number = self.last_number.max(piece.number());
        }
        match read_record(event)? {
            None => {}
            Some(ReadRecord::Consumer(entry)) => {
                self.consumers.insert(entry.number, entry);
            }
            Some(ReadRecord::ConsumerGone(number)) => drop(self.consumers.remove(&number)),
            Some(ReadRecord::Marks(number, marks)) => {
                self.marks.insert(number, marks);
            }
            Some(ReadRecord::MarksGone(number)) => drop(self.marks.remove(&number)),
            Some(ReadRecord::Work { key, payload }) if self.work.apply(&key, &payload) => {}
            Some(ReadRecord::Work { key, .. }) => {
                warn!(key, "a record of no shared work is passed over");
            }
        }
        Ok(())
    }

    /// Returns the view, and the records of shared work. Marks without their consumer are of one
    /// that was deleted.
    fn finished(mut self) -> (View, WorkRecords) {
        let mut entries: Vec<ConsumerEntry> = self.consumers.into_values().collect();
        for entry in &mut entries {
            if let Some(marks) = self.marks.remove(&entry.number) {
                *entry = marks.given_to(entry.clone());
            }
        }
        (View::of(entries, self.last_number), self.work)
    }
}
