//! Events that are encoded for appending, before they have sequences and positions.

use super::record;
#[cfg(feature = "fleet")]
use super::record::Records;
#[cfg(feature = "fleet")]
use crate::cursor::{Position, Sequence};
use crate::event::NewEvent;
#[cfg(feature = "fleet")]
use crate::event::Timestamp;

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

    /// Reads records that [`Self::encode`] made; `None` if the bytes are none.
    #[cfg(feature = "fleet")]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, position) = (Sequence::FIRST, Position::BEFORE_ALL.next());
        let mut read = Records::new(bytes, first, position, Timestamp::default(), false);
        let mut records = Self::default();
        while !read.is_over() {
            let event = read.read_checked()?;
            let has_place = event.sequence.get() != first.get() + records.len() as u64
                || event.position.get() != position.get() + records.len() as u64
                || event.time != Timestamp::default();
            if has_place {
                return None; // It was taken out of a block.
            }
            if !event.id.is_empty() {
                records.ids.push((records.ends.len(), event.id.into()));
            }
            records.has_ttl |= event.ttl_ms.is_some();
            records.ends.push(read.offset(bytes));
        }
        records.bytes = bytes.to_vec();
        Some(records)
    }

    /// Returns the records, one after another.
    #[cfg(feature = "fleet")]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
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

    /// Whether the publisher gave each event an id.
    pub fn all_have_ids(&self) -> bool {
        self.ids.len() == self.len()
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
