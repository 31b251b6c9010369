//! The stored block: a run of neighbouring events of one topic, which is written, cached and served
//! as one.
//!
//! The layout of a block is in block_header.rs, that of its records in record.rs.

#[cfg(test)]
pub(super) mod tests;

use std::ops::Range;

use bytes::Bytes;

use super::block_header::{
    CLOCK_BYTES, CRC_BYTES, HAS_CLOCK, HAS_IDS, HAS_TTL, HEADER_BYTES, Header, MAX_PLACE,
    body_bytes,
};
use super::new_records::NewRecords;
use super::placed_id::PlacedId;
use super::record::{self, EventRef, RecordStart, Records};
use crate::cursor::{Position, Sequence};
use crate::event::{Event, NewEvent, Timestamp};

/// Encodes a block with these events, over the sequences, positions and times that `header` spans.
/// If `header` has the flag for it, the records have the readings of the clock.
fn encode<'a>(mut header: Header, events: impl Iterator<Item = EventRef<'a>>) -> Block {
    let mut bytes = vec![0; HEADER_BYTES];
    let (mut next_sequence, mut next_position) = (header.first_sequence, header.first_position);
    let mut time = header.first_time;
    let has_clock = header.has_clock();
    (header.flags, header.count) = (header.flags & HAS_CLOCK, 0);
    if has_clock {
        bytes.extend_from_slice(&header.last_clock.as_ms().to_be_bytes());
    }
    for event in events {
        let skips = [
            event.sequence.get() - next_sequence.get(),
            event.position.get() - next_position.get(),
            event.time.as_ms() - time.as_ms(),
            event.time.as_ms() - event.clock.as_ms(),
        ];
        let skips = if has_clock { &skips[..] } else { &skips[..3] };
        record::encode_again(&event, skips, &mut bytes);
        (next_sequence, next_position) = (event.sequence.next(), event.position.next());
        time = event.time;
        header.count += 1;
        header.flags |= if event.id.is_empty() { 0 } else { HAS_IDS };
        header.flags |= if event.ttl_ms.is_none() { 0 } else { HAS_TTL };
    }
    header.body_bytes = body_bytes(&bytes);
    Block::seal(header, bytes)
}

/// A stored block whose checksum was verified. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Block {
    header: Header,
    bytes: Bytes,
}

impl Block {
    /// Writes the header and the checksum to the start of `bytes`.
    pub(super) fn seal(header: Header, mut bytes: Vec<u8>) -> Block {
        header.encode(&mut bytes);
        let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
        bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        Block { header, bytes: bytes.into() }
    }

    /// Verifies the checksum of `bytes`, and returns them as a block.
    ///
    /// # Errors
    ///
    /// A sentence that says whether the length, the format or the checksum does not fit.
    pub fn decode(bytes: Bytes) -> Result<Self, String> {
        let header = Header::decode(&bytes)?;
        if bytes.len() != header.block_bytes() {
            return Err(format!("{} bytes where {} belong", bytes.len(), header.block_bytes()));
        }
        let (stored, covered) = bytes.split_at(CRC_BYTES);
        if stored != crc32fast::hash(covered).to_be_bytes() {
            return Err("its checksum does not fit".to_owned());
        }
        Ok(Self { header, bytes })
    }

    /// Decodes a block from a source that is not trusted: verifies the checksum, and every record.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`], and if the records do not fit the header.
    pub fn decode_foreign(bytes: Bytes) -> Result<Self, String> {
        let block = Self::decode(bytes)?;
        if block.is_consistent() {
            Ok(block)
        } else {
            Err("its records are not what its header says".to_owned())
        }
    }

    fn is_consistent(&self) -> bool {
        let header = &self.header;
        let places = [header.last_sequence.get(), header.last_position.get()];
        let is_ordered = header.first_sequence >= Sequence::FIRST
            && header.first_sequence <= header.last_sequence
            && header.first_position <= header.last_position
            && header.first_time <= header.last_time
            && header.last_clock <= header.last_time;
        if !is_ordered || places.into_iter().any(|place| place > MAX_PLACE) {
            return false;
        }
        let mut records = self.records();
        for _ in 0..header.count {
            let is_within = |event: EventRef<'_>| {
                event.sequence <= header.last_sequence
                    && event.position <= header.last_position
                    && event.time <= header.last_time
            };
            if !records.read_checked().is_some_and(is_within) {
                return false;
            }
        }
        records.is_over() && header.flags & !(HAS_IDS | HAS_TTL | HAS_CLOCK) == 0
    }

    /// Returns the size in bytes of the block that begins with `start`, by its header, which is not
    /// verified.
    ///
    /// # Errors
    ///
    /// A sentence that says why `start` begins no block.
    pub fn size_of(start: &[u8]) -> Result<usize, String> {
        Header::decode(start).map(|header| header.block_bytes())
    }

    /// Returns the size in bytes of the block that begins with `start`, and the sequence and the
    /// position of its first event; `None` if `start` begins no block. The header is not verified.
    pub fn beginning(start: &[u8]) -> Option<(usize, Sequence, Position)> {
        let header = Header::decode(start).ok()?;
        Some((header.block_bytes(), header.first_sequence, header.first_position))
    }

    /// Returns the header of the block that begins with `start`, not verified; `None` if `start`
    /// begins no block.
    pub(super) fn header_of(start: &[u8]) -> Option<Header> {
        Header::decode(start).ok()
    }

    /// Returns the bytes of the block, as they are stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the number of events in the block.
    pub fn count(&self) -> usize {
        self.header.count as usize
    }

    /// Merges neighbouring blocks into one, with the events that `keep` accepts.
    ///
    /// # Panics
    ///
    /// If `blocks` is empty, or they are no neighbours.
    pub fn merge(blocks: &[Block], mut keep: impl FnMut(&EventRef<'_>) -> bool) -> Block {
        let (first, last) = blocks.first().zip(blocks.last()).expect("a block at least");
        let are_neighbours =
            |pair: &[Block]| pair[0].last_sequence().next() == pair[1].first_sequence();
        assert!(blocks.windows(2).all(are_neighbours), "blocks that are merged are neighbours");
        let spanned = Header {
            first_sequence: first.header.first_sequence,
            first_position: first.header.first_position,
            first_time: first.header.first_time,
            flags: blocks.iter().fold(0, |flags, block| flags | block.header.flags),
            ..last.header.clone()
        };
        encode(spanned, blocks.iter().flat_map(Block::events).filter(|event| keep(event)))
    }

    /// Returns the block with `end_bytes` as the size of the topic up to its end.
    pub fn ending_at(&self, end_bytes: u64) -> Block {
        Block::seal(Header { end_bytes, ..self.header.clone() }, self.bytes.to_vec())
    }

    /// Returns the block with `clock` as the reading of the system clock for all its events. The
    /// reading is before the events' times, because times never go backwards.
    pub fn with_clock(&self, clock: Timestamp) -> Block {
        let start_bytes = self.end_bytes() - self.bytes.len() as u64;
        let header = Header { flags: HAS_CLOCK, last_clock: clock, ..self.header.clone() };
        let block = encode(header, self.events().map(|event| event.with_clock(clock)));
        let end_bytes = start_bytes + block.bytes.len() as u64;
        block.ending_at(end_bytes)
    }

    /// Returns the part of the block in these sequences; `None` if the block spans none of them.
    pub fn part(&self, sequences: Range<Sequence>) -> Option<Block> {
        let first = self.first_sequence().max(sequences.start);
        let end = self.last_sequence().next().min(sequences.end);
        if first >= end {
            return None;
        }
        let is_whole = first == self.first_sequence() && end > self.last_sequence();
        if is_whole {
            return Some(self.clone());
        }
        let mut kept = self.events().filter(|event| (first..end).contains(&event.sequence));
        let (mut position, mut time) = (self.first_position(), self.first_time());
        if first > self.first_sequence()
            && let Some(event) = kept.next()
        {
            // The sequences between `first` and this event have no events, so no reader looks for
            // their positions.
            let skipped = event.sequence.get() - first.get();
            position = Position::new(event.position.get().saturating_sub(skipped));
            time = event.time;
        }
        let last = self.events().take_while(|event| event.sequence < end).last();
        let spanned = Header {
            first_sequence: first,
            last_sequence: end.previous(),
            first_position: position,
            last_position: last.as_ref().map_or(position, |event| event.position.max(position)),
            first_time: time,
            last_time: last.as_ref().map_or(time, |event| event.time.max(time)),
            last_clock: last.as_ref().map_or(time, |event| event.clock),
            ..self.header.clone()
        };
        Some(encode(spanned, self.events().filter(|e| (first..end).contains(&e.sequence))))
    }

    /// Returns a block without events, for sequences whose events are lost.
    pub fn hole(sequences: Range<Sequence>, position: Position, time: Timestamp) -> Block {
        let header = Header {
            flags: 0,
            count: 0,
            body_bytes: 0,
            first_sequence: sequences.start,
            last_sequence: sequences.end.previous(),
            first_position: position,
            last_position: position,
            first_time: time,
            last_time: time,
            last_clock: time,
            end_bytes: 0,
        };
        encode(header, std::iter::empty())
    }

    /// Returns a block of ids: of each event only the id and the places are left. `ids` are in the
    /// order of their sequences.
    ///
    /// # Panics
    ///
    /// If `ids` is empty.
    pub(super) fn of_ids(ids: &[PlacedId<'_>]) -> Block {
        let (first, last) = ids.first().zip(ids.last()).expect("an id at least");
        let is_behind = ids.iter().any(|id| id.clock < id.time);
        let header = Header {
            flags: if is_behind { HAS_CLOCK } else { 0 },
            count: 0,
            body_bytes: 0,
            first_sequence: first.sequence,
            last_sequence: last.sequence,
            first_position: first.position,
            last_position: last.position,
            first_time: first.time,
            last_time: last.time,
            last_clock: last.clock,
            end_bytes: 0,
        };
        let event = |id: &PlacedId<'_>| NewEvent { id: id.id.to_owned(), ..NewEvent::new("") };
        let events: Vec<NewEvent> = ids.iter().map(event).collect();
        let records = NewRecords::encode(&events);
        let records =
            Records::new(&records.bytes, first.sequence, first.position, first.time, false);
        encode(header, records.zip(ids).map(|(event, id)| event.at(id)))
    }

    /// Whether any event of the block can expire.
    pub fn has_ttl(&self) -> bool {
        self.header.has_ttl()
    }

    /// Returns the first expiry among the events, if any can expire, by the clock at which they
    /// were appended.
    pub fn first_expiry(&self) -> Option<Timestamp> {
        let expiry = |event: EventRef<'_>| event.ttl_ms.map(|ttl_ms| event.clock.plus_ms(ttl_ms));
        if self.has_ttl() { self.events().filter_map(expiry).min() } else { None }
    }

    /// Whether any event of the block has an id from its publisher.
    pub fn has_ids(&self) -> bool {
        self.header.has_ids()
    }

    /// Returns the first sequence that the block spans.
    pub fn first_sequence(&self) -> Sequence {
        self.header.first_sequence
    }

    /// Returns the last sequence that the block spans.
    pub fn last_sequence(&self) -> Sequence {
        self.header.last_sequence
    }

    /// Returns the first position that the block spans.
    pub fn first_position(&self) -> Position {
        self.header.first_position
    }

    /// Returns the last position that the block spans.
    pub fn last_position(&self) -> Position {
        self.header.last_position
    }

    /// Returns the time of the first event that the block spans.
    pub fn first_time(&self) -> Timestamp {
        self.header.first_time
    }

    /// Returns the time of the last event that the block spans.
    pub fn last_time(&self) -> Timestamp {
        self.header.last_time
    }

    /// Returns the reading of the system clock at the last event that the block spans.
    pub fn last_clock(&self) -> Timestamp {
        self.header.last_clock
    }

    /// Returns the size of all blocks of the topic that were ever appended, up to the end of this
    /// one.
    pub fn end_bytes(&self) -> u64 {
        self.header.end_bytes
    }

    /// Returns the events of the block, in order.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.records()
    }

    /// Returns where the records begin of the events that `picks` picks, in order. With them the
    /// events can be read in any order.
    pub(crate) fn starts(&self, mut picks: impl FnMut(&EventRef<'_>) -> bool) -> Vec<RecordStart> {
        let (mut records, mut starts) = (self.records(), Vec::new());
        loop {
            let start = records.start(&self.bytes);
            let Some(event) = records.next() else { return starts };
            if picks(&event) {
                starts.push(start);
            }
        }
    }

    /// Returns the event whose record begins at `start`, which is from this block.
    ///
    /// # Panics
    ///
    /// If no record begins there.
    pub(crate) fn event_at(&self, start: &RecordStart) -> EventRef<'_> {
        let mut records = start.records(&self.bytes, self.header.has_clock());
        records.next().expect("a record begins there")
    }

    fn records(&self) -> Records<'_> {
        let header = &self.header;
        let has_clock = header.has_clock();
        let clock_bytes = if has_clock { CLOCK_BYTES } else { 0 };
        Records::new(
            &self.bytes[HEADER_BYTES + clock_bytes..],
            header.first_sequence,
            header.first_position,
            header.first_time,
            has_clock,
        )
    }

    /// Returns a copy of one of the block's events. The payload shares the bytes of the block.
    pub fn to_event(&self, event: &EventRef<'_>) -> Event {
        event.to_event(&self.bytes)
    }
}
