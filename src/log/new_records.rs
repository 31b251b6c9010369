//! Events that are encoded for appending, before they have sequences and positions.

use super::record;
use crate::event::NewEvent;

/// The records of new events, one after another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewRecords {
    pub(super) bytes: Vec<u8>,
    /// The end of each record in `bytes`.
    ends: Vec<usize>,
    /// The ids that the publisher gave, each with the index of its event.
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

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no events.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the size of the records in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the ids that the publisher gave, each with the index of its event, in order.
    pub fn ids(&self) -> &[(usize, Box<str>)] {
        &self.ids
    }

    /// Whether any of the events can expire.
    pub fn has_ttl(&self) -> bool {
        self.has_ttl
    }

    /// Returns the record of the event with this index.
    ///
    /// # Panics
    ///
    /// If there is no event with this index.
    pub fn record(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}
