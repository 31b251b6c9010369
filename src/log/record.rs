//! The stored form of one event in a block. Every number is a varint: seven bits in each byte, the
//! lowest first, with the eighth bit set on all bytes but the last.
//!
//! ```text
//! | length of the rest
//! | sequence_skip | position_skip | time_skip_ms        what the block's order does not imply
//! | ahead_ms                                            only in a block that has it: flag 4
//! | publisher_time: ms + 1, or 0 for none
//! | ttl: ms + 1, or 0 for none                         from the time of appending
//! | id | type | key | content type                      each: length, then UTF-8; empty is none
//! | header count | (name | value) ...                   each: length, then UTF-8
//! | payload                                             all that is left of the length
//! ```
//!
//! # Why
//!
//! A record holds only distances to the event before it, and in a new block these are mostly 0. So
//! a record does not depend on the place that its event gets: publishers' tasks encode at the same
//! time, and the one committer only copies bytes. In a rewritten block, from which events were
//! dropped, the distances are above 0, in the same format. `ahead_ms` is the distance from the
//! reading of the system clock to the event's time: the clock had been set back when the event was
//! appended, and times never go backwards.

use bytes::Bytes;
use serde::Deserialize;

use super::placed_id::PlacedId;
use crate::cursor::{Position, Sequence};
use crate::event::{Event, NewEvent, Timestamp, from_json_at};

/// The most bytes that a varint of 64 bits takes.
const MAX_VARINT_BYTES: usize = 10;

/// Appends `event` to `bytes` as one record, with the sequence and the position right after the
/// event before it.
pub(super) fn encode(event: &NewEvent, bytes: &mut Vec<u8>) {
    let time = event.publisher_time.map_or(0, |time| time.as_ms() + 1);
    let ttl = event.ttl_ms.map_or(0, |ms| ms.saturating_add(1));
    let texts = [&event.id, &event.event_type, &event.key, &event.content_type];
    let headers = event.headers.iter().flat_map(|(name, value)| [name, value]);
    let length = 3
        + varint_bytes(time)
        + varint_bytes(ttl)
        + texts.iter().map(|text| text_bytes(text)).sum::<usize>()
        + varint_bytes(event.headers.len() as u64)
        + headers.clone().map(|text| text_bytes(text)).sum::<usize>()
        + event.payload.len();
    bytes.reserve(MAX_VARINT_BYTES + length);
    put_varint(bytes, length as u64);
    let start = bytes.len();
    bytes.extend_from_slice(&[0, 0, 0]);
    put_varint(bytes, time);
    put_varint(bytes, ttl);
    for text in texts {
        put_text(bytes, text);
    }
    put_varint(bytes, event.headers.len() as u64);
    for text in headers {
        put_text(bytes, text);
    }
    bytes.extend_from_slice(&event.payload);
    assert_eq!(bytes.len() - start, length, "a record is as long as it says");
}

/// Appends `event` to `bytes` with these distances to the event before it.
pub(super) fn encode_again(event: &EventRef<'_>, skips: &[u64], bytes: &mut Vec<u8>) {
    let length = skips.iter().map(|skip| varint_bytes(*skip)).sum::<usize>() + event.rest.len();
    put_varint(bytes, length as u64);
    skips.iter().for_each(|skip| put_varint(bytes, *skip));
    bytes.extend_from_slice(event.rest);
}

/// Appends a record that [`encode`] made to `bytes`, with `position_skip` as the number of
/// positions between it and the record before it.
pub(super) fn append_apart(record: &[u8], position_skip: u64, bytes: &mut Vec<u8>) {
    let mut record = RecordBytes(record);
    let length = record.varint().expect("a new record begins with its length");
    let implied = record.take(3);
    assert_eq!(implied, Some(&[0, 0, 0][..]), "a new record has no distances yet");
    put_varint(bytes, length - 1 + varint_bytes(position_skip) as u64);
    bytes.push(0);
    put_varint(bytes, position_skip);
    bytes.push(0);
    bytes.extend_from_slice(record.0);
}

fn varint_bytes(number: u64) -> usize {
    let bits = (u64::BITS - number.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}

fn text_bytes(text: &str) -> usize {
    varint_bytes(text.len() as u64) + text.len()
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

/// One stored event, borrowed from its block. An empty text means that there is none.
#[derive(Debug, Clone)]
pub struct EventRef<'a> {
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// The event's place in the whole broker.
    pub position: Position,
    /// The time at which the event was appended. It never goes backwards in a topic.
    pub time: Timestamp,
    /// The reading of the system clock at that moment: `time`, or less if the clock had been set
    /// back.
    pub clock: Timestamp,
    /// The publisher's own time.
    pub publisher_time: Option<Timestamp>,
    /// The publisher's own id.
    pub id: &'a str,
    /// The type of the event.
    pub event_type: &'a str,
    /// The thing that the event is about.
    pub key: &'a str,
    /// The media type of the payload.
    pub content_type: &'a str,
    /// The content, as it was published.
    pub payload: &'a [u8],
    /// The time to live in milliseconds, from appending on.
    pub ttl_ms: Option<u64>,
    headers: Headers<'a>,
    /// The record from the publisher's time on: the part that does not depend on the event's place.
    rest: &'a [u8],
}

impl<'a> EventRef<'a> {
    /// Returns the names and values of the headers, in the order of the names.
    pub fn headers(&self) -> Headers<'a> {
        self.headers.clone()
    }

    /// Whether the event deletes its key: it has a key, and no payload.
    pub fn is_tombstone(&self) -> bool {
        !self.key.is_empty() && self.payload.is_empty()
    }

    /// Returns the payload, read as JSON. The value may borrow from the event's block. The content
    /// type is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) with field `payload`, and the event's sequence:
    /// the payload is not JSON, or no `T`.
    pub fn json<T: Deserialize<'a>>(&self) -> crate::error::Result<T> {
        from_json_at(self.sequence, self.payload)
    }

    /// Returns the size of texts, headers and payload together, in bytes.
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self.headers().map(|(name, value)| name.len() + value.len()).sum();
        let texts = [self.id, self.event_type, self.key, self.content_type];
        texts.iter().map(|text| text.len()).sum::<usize>() + headers + self.payload.len()
    }

    /// Returns the part of the record that does not depend on the event's place.
    #[cfg(feature = "http")]
    pub(super) fn placeless(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns the event with `clock` as the reading of the system clock.
    pub(super) fn with_clock(self, clock: Timestamp) -> Self {
        Self { clock, ..self }
    }

    /// Returns the event with the sequence, position and times of `place`.
    pub(super) fn at(self, place: &PlacedId<'_>) -> Self {
        let PlacedId { sequence, position, time, clock, id: _ } = *place;
        Self { sequence, position, time, clock, ..self }
    }

    /// Returns a copy that owns its texts. Its payload shares `block`, from which the event must be
    /// borrowed.
    pub(super) fn to_event(&self, block: &Bytes) -> Event {
        Event {
            sequence: self.sequence,
            position: self.position,
            time: self.time,
            content: NewEvent {
                id: self.id.to_owned(),
                event_type: self.event_type.to_owned(),
                key: self.key.to_owned(),
                headers: self
                    .headers()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
                content_type: self.content_type.to_owned(),
                payload: block.slice_ref(self.payload),
                publisher_time: self.publisher_time,
                ttl_ms: self.ttl_ms,
            },
        }
    }
}

/// The names and values of an event's headers, in the order of the names.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    left: u64,
    texts: RecordBytes<'a>,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (name, value) = (self.texts.text(), self.texts.text());
        Some(name.zip(value).expect("a verified header is two texts"))
    }
}

/// An iterator over the records of a block, which counts their places.
#[derive(Debug, Clone)]
pub(super) struct Records<'a> {
    bytes: RecordBytes<'a>,
    next_sequence: u64,
    next_position: u64,
    time_ms: u64,
    has_clock: bool,
}

impl<'a> Records<'a> {
    /// Returns the records in `bytes`. The first event is at these places, or later.
    pub(super) fn new(
        bytes: &'a [u8],
        first: Sequence,
        position: Position,
        time: Timestamp,
        has_clock: bool,
    ) -> Self {
        Self {
            has_clock,
            bytes: RecordBytes(bytes),
            next_sequence: first.get(),
            next_position: position.get(),
            time_ms: time.as_ms(),
        }
    }
}

/// The place of one record in its block, with all that the records before it tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordStart {
    /// The offset of the record in the bytes of the block.
    offset: u32,
    next_sequence: u64,
    next_position: u64,
    time_ms: u64,
}

impl RecordStart {
    /// Returns the records from this one on. `block` has the bytes of the whole block.
    pub(super) fn records<'a>(&self, block: &'a [u8], has_clock: bool) -> Records<'a> {
        let Self { offset, next_sequence, next_position, time_ms } = *self;
        let bytes = RecordBytes(&block[offset as usize..]);
        Records { bytes, next_sequence, next_position, time_ms, has_clock }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = EventRef<'a>;

    /// Returns the next event. The block was verified, so a record that does not fit is a bug of
    /// ours.
    fn next(&mut self) -> Option<EventRef<'a>> {
        match self.bytes.0 {
            [] => None,
            _ => Some(self.read().expect("a verified record is whole")),
        }
    }
}

impl<'a> Records<'a> {
    /// Returns the place of the next record in its block, whose bytes are `block`.
    pub(super) fn start(&self, block: &[u8]) -> RecordStart {
        let Self { next_sequence, next_position, time_ms, .. } = *self;
        // A block is smaller than 4 GiB.
        let offset = (block.len() - self.bytes.0.len()) as u32;
        RecordStart { offset, next_sequence, next_position, time_ms }
    }

    /// Returns the next event, with its headers verified; `None` if the bytes are no record.
    pub(super) fn read_checked(&mut self) -> Option<EventRef<'a>> {
        let event = self.read()?;
        let mut texts = event.headers.texts.clone();
        (0..event.headers.left)
            .try_for_each(|_| texts.text().and_then(|_| texts.text()).map(drop))?;
        Some(event)
    }

    /// Returns the number of bytes of `all`, the bytes that this began with, that were read.
    #[cfg(feature = "fleet")]
    pub(super) fn offset(&self, all: &[u8]) -> usize {
        all.len() - self.bytes.0.len()
    }

    /// Whether all records were read.
    pub(super) fn is_over(&self) -> bool {
        self.bytes.0.is_empty()
    }

    /// Returns the next event. Of its headers only the lengths are verified.
    fn read(&mut self) -> Option<EventRef<'a>> {
        let length = self.bytes.varint()?;
        let mut record = RecordBytes(self.bytes.take(length)?);
        let sequence = self.next_sequence.checked_add(record.varint()?)?;
        let position = self.next_position.checked_add(record.varint()?)?;
        self.time_ms = self.time_ms.checked_add(record.varint()?)?;
        let ahead_ms = if self.has_clock { record.varint()? } else { 0 };
        self.next_sequence = sequence.checked_add(1)?;
        self.next_position = position.checked_add(1)?;
        let rest = record.0;
        let publisher_time = record.varint()?.checked_sub(1).map(Timestamp::from_ms);
        let ttl_ms = record.varint()?.checked_sub(1);
        let (id, event_type, key) = (record.text()?, record.text()?, record.text()?);
        let content_type = record.text()?;
        let count = record.varint()?;
        let headers = Headers { left: count, texts: record.clone() };
        for _ in 0..count.checked_mul(2)? {
            let length = record.varint()?;
            record.take(length)?;
        }
        Some(EventRef {
            sequence: Sequence::new(sequence),
            position: Position::new(position),
            time: Timestamp::from_ms(self.time_ms),
            clock: Timestamp::from_ms(self.time_ms).minus_ms(ahead_ms),
            publisher_time,
            id,
            event_type,
            key,
            content_type,
            payload: record.0,
            ttl_ms,
            headers,
            rest,
        })
    }
}

/// The bytes of records that are not read yet.
#[derive(Debug, Clone)]
struct RecordBytes<'a>(&'a [u8]);

impl<'a> RecordBytes<'a> {
    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (index, byte) in self.0.iter().take(MAX_VARINT_BYTES).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.varint()?;
        std::str::from_utf8(self.take(length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn events_read_back_as_they_were_encoded(
            texts in proptest::array::uniform4(".{0,40}"),
            headers in proptest::collection::btree_map(".{0,9}", ".{0,200}", 0..5),
            payload in proptest::collection::vec(any::<u8>(), 0..2000),
            publisher_time in proptest::option::of(0..Timestamp::MAX.as_ms()),
            ttl_ms in proptest::option::of(0..u64::MAX - 1),
        ) {
            let [id, event_type, key, content_type] = texts;
            let content = NewEvent {
                id, event_type, key, headers, content_type, payload: payload.into(),
                publisher_time: publisher_time.map(Timestamp::from_ms), ttl_ms,
            };
            let mut bytes = Vec::new();
            encode(&content, &mut bytes);
            encode(&content, &mut bytes);
            let bytes = Bytes::from(bytes);
            let time = Timestamp::from_ms(9);
            let read: Vec<Event> =
                Records::new(&bytes, Sequence::new(7), Position::new(70), time, false)
                    .map(|event| event.to_event(&bytes))
                    .collect();
            let expected: Vec<Event> = (0..2)
                .map(|index| Event {
                    sequence: Sequence::new(7 + index),
                    position: Position::new(70 + index),
                    time,
                    content: content.clone(),
                })
                .collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn varints_read_back(number: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            prop_assert_eq!(bytes.len(), varint_bytes(number));
            let mut reader = RecordBytes(&bytes);
            prop_assert_eq!(reader.varint(), Some(number));
            prop_assert!(reader.0.is_empty());
        }
    }
}
