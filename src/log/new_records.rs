//! Events encoded for appending, before they have a place.

use super::record;
use crate::event::NewEvent;

/// The records of new events, one after another, before the events have a place.
#[derive(Debug, Clone, Default)]
pub struct NewRecords {
    pub(super) bytes: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
    /// The publisher-given ids, by the index of their event.
    ids: Vec<(usize, Box<str>)>,
    has_ttl: bool,
}

impl NewRecords {
    /// Encodes `events`, in this order.
    pub fn encode<'a>(events: impl IntoIterator<Item = &'a NewEvent>) -> Self {
        let mut records = Self::default();
        events.into_iter().for_each(|event| records.push(event));
        records
    }

    /// Encodes one more event.
    pub fn push(&mut self, event: &NewEvent) {
        record::encode(event, &mut self.bytes);
        if !event.id.is_empty() {
            self.ids.push((self.ends.len(), event.id.as_str().into()));
        }
        self.ends.push(self.bytes.len());
        self.has_ttl |= event.ttl_ms.is_some();
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The size of the records in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The publisher-given ids, each with the index of its event, in order.
    pub fn ids(&self) -> &[(usize, Box<str>)] {
        &self.ids
    }

    /// Whether any of the events can expire.
    pub fn has_ttl(&self) -> bool {
        self.has_ttl
    }

    /// The record of the event with this index.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn record(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}
