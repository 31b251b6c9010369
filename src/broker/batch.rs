//! The events of one publish. Each event is checked and encoded when it is added.
//!
//! # Why
//!
//! An event of a hundred bytes may take a thousand bytes in memory, because each header is two
//! texts and a place in a map. An encoded event takes about as much as its publisher has sent. A
//! caller with many events makes them one after the other, so that only one is in memory at a time.

use std::sync::Arc;

use crate::broker::limits::{LimitsConfig, locate};
use crate::error::Result;
use crate::event::NewEvent;
use crate::log::NewRecords;

/// Events that are checked and encoded, in their order. Cheap to clone: clones share the encoded
/// events, until one of them is added to.
#[derive(Debug, Clone, Default)]
pub struct Batch(Arc<NewRecords>);

impl Batch {
    /// Checks and encodes all events of a publish.
    ///
    /// # Errors
    ///
    /// Those of `events`, and those of [`LimitsConfig::check`].
    pub fn of<I>(events: I, limits: &LimitsConfig) -> Result<Self>
    where
        I: IntoIterator<Item = Result<NewEvent>, IntoIter: ExactSizeIterator>,
    {
        let events = events.into_iter();
        let count = events.len();
        limits.check_count(count)?;
        let mut batch = Self::default();
        for (index, event) in events.enumerate() {
            batch.push(&event?, limits).map_err(|error| locate(error, index, count))?;
        }
        Ok(batch)
    }

    /// Adds an event.
    ///
    /// # Errors
    ///
    /// Those of [`LimitsConfig::check`], without the index of the event. The event is not added.
    pub fn push(&mut self, event: &NewEvent, limits: &LimitsConfig) -> Result<()> {
        limits.check_event(event)?;
        Arc::make_mut(&mut self.0).push(event);
        Ok(())
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the size of the events as they are stored, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.0.size_bytes()
    }

    /// Returns this batch; the other one if it has the same events, so that they are in memory
    /// once.
    pub(crate) fn or_same(self, other: &Self) -> Self {
        if self.0 == other.0 { other.clone() } else { self }
    }

    /// Whether the batch has no events.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The events of a [`Publish`](crate::broker::Publish), in any form that can be stored.
pub trait Events {
    /// Checks and encodes the events, unless that is done already.
    ///
    /// # Errors
    ///
    /// As [`Batch::of`].
    fn into_batch(self, limits: &LimitsConfig) -> Result<Batch>;
}

impl Events for Vec<NewEvent> {
    fn into_batch(self, limits: &LimitsConfig) -> Result<Batch> {
        Batch::of(self.into_iter().map(Ok), limits)
    }
}

impl Events for Batch {
    fn into_batch(self, _checked_one_by_one: &LimitsConfig) -> Result<Batch> {
        Ok(self)
    }
}

/// The sizes of the batches of a publish, all topics together.
#[derive(Debug, Default)]
pub(super) struct BatchSizes {
    events: usize,
    bytes: usize,
    /// The address of the records that were counted last.
    last: usize,
    /// The size of the records in memory, in bytes. Neighbours that share their records count once.
    pub(super) memory_bytes: usize,
}

impl BatchSizes {
    /// Counts the records of a batch and returns them, if the publish is within the limits with
    /// them.
    ///
    /// # Errors
    ///
    /// [`OverLimit`](crate::Error::OverLimit), and [`Invalid`](crate::Error::Invalid) for an empty
    /// batch.
    pub(super) fn add(&mut self, batch: Batch, limits: &LimitsConfig) -> Result<Arc<NewRecords>> {
        let Batch(records) = batch;
        limits.check_count(records.len())?;
        self.events += records.len();
        self.bytes += records.size_bytes();
        limits.check_batch(self.events, self.bytes)?;
        let address = Arc::as_ptr(&records).addr();
        if std::mem::replace(&mut self.last, address) != address {
            self.memory_bytes += records.size_bytes();
        }
        Ok(records)
    }
}
