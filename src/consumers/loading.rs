//! Building the view from the records of the log, when consumers are opened.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};

use super::entry::ConsumerEntry;
use super::marks::Marks;
use super::records::{RecordPiece, consumer_of, marks_of};
use super::view::View;
use super::work::WorkRecords;
use crate::broker::{Broker, Delivery, EventRef};
use crate::cursor::{OnGap, Position, StartPoint};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::polls;
use crate::topic::TopicName;

/// The records that were read so far. Each record is the whole of its piece, so the last one holds,
/// and the pieces of a consumer may come in any order.
#[derive(Default)]
struct Loading {
    consumers: HashMap<u64, ConsumerEntry>,
    marks: HashMap<u64, (Marks, Timestamp, Position)>,
    work: WorkRecords,
    last_number: u64,
}

/// Returns the view of all records, and the records of shared work, which has views of its own.
///
/// # Errors
///
/// As [`Broker::subscribe`] and [`Reader::next`](crate::broker::Reader::next);
/// [`Error::ShuttingDown`]; [`Error::Invalid`]: a record is none that this version can read.
pub(super) async fn load(broker: &Broker, topic: &TopicName) -> Result<(View, WorkRecords)> {
    let started = std::time::Instant::now();
    let mut loading = Loading::default();
    let mut reader = broker.subscribe(topic, StartPoint::Earliest, OnGap::Resume).await?;
    loop {
        match reader.next().await? {
            Some(Delivery::CaughtUp) => break,
            Some(Delivery::Events(run)) => {
                for event in run.events() {
                    loading.apply(&event)?;
                    polls::rest().await;
                }
            }
            Some(_) => {}
            None => return Err(Error::ShuttingDown),
        }
    }
    let work = std::mem::take(&mut loading.work);
    let view = loading.view();
    info!(
        consumers = view.len(),
        elapsed_ms = started.elapsed().as_millis(),
        "the consumers are loaded"
    );
    Ok((view, work))
}

impl Loading {
    fn apply(&mut self, event: &EventRef<'_>) -> Result<()> {
        let Some(piece) = RecordPiece::of(event.key) else {
            warn!(sequence = %event.sequence, "a record of no consumer is passed over");
            return Ok(());
        };
        self.last_number = self.last_number.max(piece.number());
        let (number, is_gone) = (piece.number(), event.payload.is_empty());
        match piece {
            RecordPiece::Consumer(_) if is_gone => drop(self.consumers.remove(&number)),
            RecordPiece::Consumer(_) => {
                let entry = consumer_of(number, event.payload, event.position)?;
                self.consumers.insert(number, entry);
            }
            RecordPiece::Marks(_) if is_gone => drop(self.marks.remove(&number)),
            RecordPiece::Marks(_) => {
                let (marks, updated) = marks_of(event.payload)?;
                self.marks.insert(number, (marks, updated, event.position));
            }
            RecordPiece::Work(_) => {
                let payload = Bytes::copy_from_slice(event.payload);
                if !self.work.apply(event.key, &payload) {
                    warn!(key = event.key, "a record of no shared work is passed over");
                }
            }
        }
        Ok(())
    }

    /// Returns the view. Marks without their consumer are of one that was deleted.
    fn view(mut self) -> View {
        let mut entries: Vec<ConsumerEntry> = self.consumers.into_values().collect();
        for entry in &mut entries {
            let Some((marks, updated, position)) = self.marks.remove(&entry.number) else {
                continue;
            };
            let marks = Marks { has_positions: entry.has_positions(), ..marks };
            let revision = Position::new(entry.revision).max(position);
            let (created, updated) = (entry.created(), entry.updated().max(updated));
            let marked = entry.clone().with_marks(Arc::new(marks));
            *entry = marked.with_times(created, updated).with_revision(revision);
        }
        View::of(entries, self.last_number)
    }
}
