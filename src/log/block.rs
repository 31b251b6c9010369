//! The stored block: a run of neighbouring events of one topic, written, cached and served as one.
//!
//! A header of fixed size, then the records (`record.rs`). Numbers are big-endian; `crc32` covers
//! every byte after itself.
//!
//! ```text
//! | crc32: 4 | format: 1 | flags: 1 | count: 4 | body_bytes: 4
//! | first_sequence: 8 | last_sequence: 8
//! | first_position: 8 | last_position: 8
//! | first_time_ms: 8  | last_time_ms: 8
//! | end_bytes: 8
//! | body: body_bytes       | records |, or with flag 4 | last_clock_ms: 8 | records |
//! ```
//!
//! `end_bytes` is the size of all blocks of the topic that were ever appended, up to the end of
//! this one: with it, a topic's size is known without reading the topic.
//!
//! Flag 1: at least one event has a publisher-given id; 2: at least one can expire; 4: the system
//! clock was behind the times of some events when they were appended, so that the records say by
//! how much, and the body what it said of the last one. Others are 0.
//!
//! As it is appended, a block holds all the events of its sequences; their positions rise, and may
//! have those of other topics between them. A block that was written again
//! without some of them still spans the same sequences, positions and times: so the blocks of a
//! topic have no hole between them, and one that is missing is found.

use std::ops::Range;

use bytes::Bytes;

use crate::cursor::{Position, Sequence};
use crate::event::{Event, NewEvent, Timestamp};
use crate::log::ids::PlacedId;
use crate::log::record::{self, EventRef, Records};

const FORMAT: u8 = 1;
const HAS_IDS: u8 = 1;
const HAS_TTL: u8 = 2;
const HAS_CLOCK: u8 = 4;

/// What the reading of the clock takes in the body of a block that has it.
const CLOCK_BYTES: usize = 8;

/// Where the header has the time of the last event.
const LAST_TIME_AT: usize = 54;

/// The highest sequence, or position, that is taken from others: the next ones must fit, too.
pub(super) const MAX_PLACE: u64 = u64::MAX >> 1;

/// Where the checksummed part begins.
const CRC_BYTES: usize = 4;

/// Bytes before the records.
pub const HEADER_BYTES: usize = CRC_BYTES + 1 + 1 + 4 + 4 + 7 * 8;
const _: () = assert!(HEADER_BYTES == 70, "a changed header is a new FORMAT");

/// Events encoded for appending: records one after another, not yet given a place.
#[derive(Debug, Clone, Default)]
pub struct NewRecords {
    bytes: Vec<u8>,
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

    /// Encodes one event more.
    pub fn push(&mut self, event: &NewEvent) {
        record::encode(event, &mut self.bytes);
        if !event.id.is_empty() {
            self.ids.push((self.ends.len(), event.id.as_str().into()));
        }
        self.ends.push(self.bytes.len());
        self.has_ttl |= event.ttl_ms.is_some();
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes they take.
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

/// Puts records one after another into a block.
#[derive(Debug)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    count: u32,
    flags: u8,
    first_sequence: Sequence,
    /// Positions between its events that are those of other topics.
    skipped: u64,
}

impl BlockBuilder {
    /// Begins a block whose first event gets this sequence.
    pub fn new(first_sequence: Sequence) -> Self {
        Self { bytes: vec![0; HEADER_BYTES], count: 0, flags: 0, first_sequence, skipped: 0 }
    }

    /// Adds a record in the place after the one before it.
    pub fn push(&mut self, record: &[u8], has_id: bool, has_ttl: bool) {
        self.push_apart(record, 0, has_id, has_ttl);
    }

    /// Adds a record in the place after the one before it, but so many positions later: those in
    /// between are of other topics. The first record is never apart.
    pub fn push_apart(&mut self, record: &[u8], skip: u64, has_id: bool, has_ttl: bool) {
        match skip {
            0 => self.bytes.extend_from_slice(record),
            _ => record::append_apart(record, skip, &mut self.bytes),
        }
        self.skipped += skip;
        self.count += 1;
        self.flags |= if has_id { HAS_IDS } else { 0 } | if has_ttl { HAS_TTL } else { 0 };
    }

    /// How many events were added.
    pub fn count(&self) -> u64 {
        u64::from(self.count)
    }

    /// Whether any of them can expire.
    pub fn has_ttl(&self) -> bool {
        self.flags & HAS_TTL != 0
    }

    /// What the block takes so far, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The sequence that the next record would get.
    pub fn next_sequence(&self) -> Sequence {
        self.first_sequence.plus(u64::from(self.count))
    }

    /// Ends the block: its first event gets this position, all of them get this time. The topic's
    /// blocks before it took `start_bytes`.
    ///
    /// # Panics
    ///
    /// If nothing was added: there are no empty blocks.
    pub fn finish(self, first_position: Position, time: Timestamp, start_bytes: u64) -> Block {
        assert!(self.count > 0, "a block is appended with at least one event");
        let header = Header {
            flags: self.flags,
            count: self.count,
            body_bytes: body_bytes(&self.bytes),
            first_sequence: self.first_sequence,
            last_sequence: self.next_sequence().previous(),
            first_position,
            last_position: first_position.plus(u64::from(self.count - 1) + self.skipped),
            first_time: time,
            last_time: time,
            last_clock: time,
            end_bytes: start_bytes + self.bytes.len() as u64,
        };
        seal(header, self.bytes)
    }
}

fn body_bytes(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len() - HEADER_BYTES).expect("limits keep a block under 4 GiB")
}

/// Writes the header and the checksum to the start of `bytes`.
fn seal(header: Header, mut bytes: Vec<u8>) -> Block {
    header.encode(&mut bytes);
    let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
    Block { header, bytes: bytes.into() }
}

/// A block that spans what `header` says, with these events, which are within it. Its records say
/// what the clock said if `header` has that flag.
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
    seal(header, bytes)
}

/// A block whose checksum holds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Block {
    header: Header,
    bytes: Bytes,
}

impl Block {
    /// Verifies `bytes` and takes them as a block.
    ///
    /// # Errors
    ///
    /// What does not fit, in words: the length, the format, the checksum.
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

    /// As [`Self::decode`], of bytes that may be anybody's: every record is verified, too.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`]; the records, or what the header says of them.
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

    /// How many bytes the block takes that begins with `start`: how many parts belong to it.
    ///
    /// # Errors
    ///
    /// What does not fit, in words.
    pub fn size_of(start: &[u8]) -> Result<usize, String> {
        Header::decode(start).map(|header| header.block_bytes())
    }

    /// How many bytes the block takes that begins with `start`, and the sequence and the position
    /// of its first event; `None` if it is none. Nothing of it is verified.
    pub fn beginning(start: &[u8]) -> Option<(usize, Sequence, Position)> {
        let header = Header::decode(start).ok()?;
        Some((header.block_bytes(), header.first_sequence, header.first_position))
    }

    /// The header of the block that begins with `start`, if it is one; it is not verified.
    pub(super) fn header_of(start: &[u8]) -> Option<Header> {
        Header::decode(start).ok()
    }

    /// The block as it is stored.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many events it holds.
    pub fn count(&self) -> usize {
        self.header.count as usize
    }

    /// Neighbouring blocks as one, with those of their events that `keep` takes.
    ///
    /// # Panics
    ///
    /// If there is no block, or they are no neighbours.
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

    /// As it is, but for the size of the topic up to its end.
    pub fn ending_at(&self, end_bytes: u64) -> Block {
        seal(Header { end_bytes, ..self.header.clone() }, self.bytes.to_vec())
    }

    /// The block as it is when the system clock said `clock` while its events got their time, which
    /// is later, for it never goes backwards.
    pub fn with_clock(&self, clock: Timestamp) -> Block {
        let start_bytes = self.end_bytes() - self.bytes.len() as u64;
        let header = Header { flags: HAS_CLOCK, last_clock: clock, ..self.header.clone() };
        let block = encode(header, self.events().map(|event| event.with_clock(clock)));
        let end_bytes = start_bytes + block.bytes.len() as u64;
        block.ending_at(end_bytes)
    }

    /// The part of it in these sequences; `None` if it spans none of them.
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
            // The events between were not there, and no reader finds them by these places.
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

    /// A block without events, which spans these sequences: what was between is lost.
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

    /// A block of events of which nothing is left but these ids and places, in the order of their
    /// sequences.
    ///
    /// # Panics
    ///
    /// If there are none.
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

    /// Whether any of its events can expire.
    pub fn has_ttl(&self) -> bool {
        self.header.flags & HAS_TTL != 0
    }

    /// When the first of its events expires, if any can, by the clock that it was appended by.
    pub fn first_expiry(&self) -> Option<Timestamp> {
        let expiry = |event: EventRef<'_>| event.ttl_ms.map(|ttl_ms| event.clock.plus_ms(ttl_ms));
        if self.has_ttl() { self.events().filter_map(expiry).min() } else { None }
    }

    /// Whether any of its events has a publisher-given id.
    pub fn has_ids(&self) -> bool {
        self.header.has_ids()
    }

    /// The sequence of its first event.
    pub fn first_sequence(&self) -> Sequence {
        self.header.first_sequence
    }

    /// The sequence of its last event.
    pub fn last_sequence(&self) -> Sequence {
        self.header.last_sequence
    }

    /// The position of its first event.
    pub fn first_position(&self) -> Position {
        self.header.first_position
    }

    /// The position of its last event.
    pub fn last_position(&self) -> Position {
        self.header.last_position
    }

    /// When its first event was appended.
    pub fn first_time(&self) -> Timestamp {
        self.header.first_time
    }

    /// When its last event was appended.
    pub fn last_time(&self) -> Timestamp {
        self.header.last_time
    }

    /// When its last event was appended, as the system clock had it.
    pub fn last_clock(&self) -> Timestamp {
        self.header.last_clock
    }

    /// The size of all of the topic's blocks that were ever appended, up to the end of this one.
    pub fn end_bytes(&self) -> u64 {
        self.header.end_bytes
    }

    /// Its events, in order.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.records()
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

    /// A copy of one of its events that lives on its own; the payload is shared.
    pub fn to_event(&self, event: &EventRef<'_>) -> Event {
        event.to_event(&self.bytes)
    }
}

/// What a block says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    flags: u8,
    pub(super) count: u32,
    body_bytes: u32,
    pub(super) first_sequence: Sequence,
    pub(super) last_sequence: Sequence,
    first_position: Position,
    pub(super) last_position: Position,
    first_time: Timestamp,
    pub(super) last_time: Timestamp,
    /// When the last event was appended, as the system clock had it: `last_time`, or before it.
    pub(super) last_clock: Timestamp,
    end_bytes: u64,
}

impl Header {
    pub(super) fn has_ids(&self) -> bool {
        self.flags & HAS_IDS != 0
    }

    fn has_clock(&self) -> bool {
        self.flags & HAS_CLOCK != 0
    }

    fn block_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// Writes all but the checksum to the start of `bytes`.
    fn encode(&self, bytes: &mut [u8]) {
        bytes[4] = FORMAT;
        bytes[5] = self.flags;
        bytes[6..10].copy_from_slice(&self.count.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.body_bytes.to_be_bytes());
        let places = [
            self.first_sequence.get(),
            self.last_sequence.get(),
            self.first_position.get(),
            self.last_position.get(),
            self.first_time.as_ms(),
            self.last_time.as_ms(),
            self.end_bytes,
        ];
        for (slot, place) in bytes[14..HEADER_BYTES].chunks_exact_mut(8).zip(places) {
            slot.copy_from_slice(&place.to_be_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let has_clock = bytes.get(5).is_some_and(|flags| flags & HAS_CLOCK != 0);
        let header_bytes = HEADER_BYTES + if has_clock { CLOCK_BYTES } else { 0 };
        let Some(bytes) = bytes.get(..header_bytes) else {
            return Err(format!("{} bytes are too short for a block", bytes.len()));
        };
        if bytes[4] != FORMAT {
            return Err(format!("block format {} where {FORMAT} is known", bytes[4]));
        }
        let last_clock_at = if has_clock { HEADER_BYTES } else { LAST_TIME_AT };
        let half = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let whole = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        Ok(Self {
            flags: bytes[5],
            count: half(6),
            body_bytes: half(10),
            first_sequence: Sequence::new(whole(14)),
            last_sequence: Sequence::new(whole(22)),
            first_position: Position::new(whole(30)),
            last_position: Position::new(whole(38)),
            first_time: Timestamp::from_ms(whole(46)),
            last_time: Timestamp::from_ms(whole(LAST_TIME_AT)),
            last_clock: Timestamp::from_ms(whole(last_clock_at)),
            end_bytes: whole(62),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Goal: positions may lie apart in a new block, by any distance, and nothing else changes.
    #[test]
    fn events_that_are_positions_apart_read_back() {
        let (event, ends) = (NewEvent::new("payload"), [0, 1, 127, 128, 16_384, 1 << 40]);
        let records = NewRecords::encode([&event]);
        let mut builder = BlockBuilder::new(Sequence::new(7));
        let (mut expected, mut position) = (Vec::new(), 70);
        builder.push(records.record(0), false, false);
        expected.push((7, 70));
        for (index, skip) in ends.into_iter().enumerate() {
            builder.push_apart(records.record(0), skip, false, false);
            position += 1 + skip;
            expected.push((8 + index as u64, position));
        }
        let block = builder.finish(Position::new(70), Timestamp::from_ms(9), 0);
        assert_eq!(block.last_position(), Position::new(position));
        let block = Block::decode(block.bytes().clone()).unwrap();
        let read: Vec<_> = block.events().map(|e| (e.sequence.get(), e.position.get())).collect();
        assert_eq!(read, expected);
        assert!(
            block.events().all(|read| *read.payload == event.payload && read.time.as_ms() == 9)
        );
    }

    /// A block of events with these payloads: its sequence, position and time, and the bytes of the
    /// topic's blocks before it.
    pub(crate) fn block(places: (u64, u64, u64), start_bytes: u64, payloads: &[&[u8]]) -> Block {
        let (first, position, time_ms) = places;
        let mut builder = BlockBuilder::new(Sequence::new(first));
        for payload in payloads {
            let event = NewEvent::new(payload.to_vec());
            builder.push(NewRecords::encode([&event]).record(0), false, false);
        }
        builder.finish(Position::new(position), Timestamp::from_ms(time_ms), start_bytes)
    }

    #[test]
    fn a_block_reads_back_and_says_what_it_holds() {
        let built = block((5, 50, 500), 5_000, &[b"a", b"", b"ccc"]);
        let read = Block::decode(built.bytes().clone()).unwrap();
        assert_eq!(read.header, built.header);
        assert_eq!((read.first_sequence().get(), read.last_sequence().get()), (5, 7));
        assert_eq!((read.first_position().get(), read.last_position().get()), (50, 52));
        assert_eq!(read.end_bytes(), 5_000 + read.bytes().len() as u64);
        let events: Vec<_> = read
            .events()
            .map(|event| (event.sequence.get(), event.position.get(), event.payload.to_vec()))
            .collect();
        assert_eq!(
            events,
            [(5, 50, b"a".to_vec()), (6, 51, b"".to_vec()), (7, 52, b"ccc".to_vec())]
        );
    }

    #[test]
    fn merged_blocks_hold_what_is_kept_and_span_what_they_spanned() {
        let parts = [
            block((5, 50, 500), 1_000, &[b"5", b"6", b"7"]),
            block((8, 90, 600), 2_000, &[b"8"]),
            block((9, 95, 600), 3_000, &[b"9", b"10"]),
        ];
        type Place = (u64, u64, u64);
        let places = |block: &Block| -> Vec<(Place, Vec<u8>)> {
            let place = |e: &EventRef<'_>| (e.sequence.get(), e.position.get(), e.time.as_ms());
            block.events().map(|event| (place(&event), event.payload.to_vec())).collect()
        };
        let all: Vec<_> = parts.iter().flat_map(places).collect();
        for kept in 0..1_u32 << 6 {
            let is_kept = |sequence: u64| kept & (1 << (sequence - 5)) != 0;
            let merged = Block::merge(&parts, |event| is_kept(event.sequence.get()));
            let merged = Block::decode(merged.bytes().clone()).unwrap();
            let expected: Vec<_> = all.iter().filter(|((s, ..), _)| is_kept(*s)).cloned().collect();
            assert_eq!(places(&merged), expected);
            assert_eq!(merged.count(), expected.len());
            // Merged again, with nothing left out, it is the same.
            assert_eq!(
                Block::merge(std::slice::from_ref(&merged), |_| true).bytes(),
                merged.bytes()
            );
            let whole = Header { first_sequence: Sequence::new(5), ..parts[2].header.clone() };
            let spans = |h: &Header| (h.first_sequence, h.last_sequence, h.last_position);
            assert_eq!(spans(&merged.header), spans(&whole));
            assert_eq!(merged.end_bytes(), parts[2].end_bytes());
        }
    }

    #[test]
    fn a_part_of_a_block_holds_what_is_in_it_and_nothing_else() {
        let parts = [
            block((5, 50, 500), 0, &[b"5", b"6", b"7"]),
            block((8, 90, 600), 0, &[b"8", b"9", b"10"]),
        ];
        let whole = Block::merge(&parts, |event| ![5, 7, 10].contains(&event.sequence.get()));
        let places = |block: &Block| -> Vec<(u64, u64, u64)> {
            let place = |e: EventRef<'_>| (e.sequence.get(), e.position.get(), e.time.as_ms());
            block.events().map(place).collect()
        };
        for first in 1..13 {
            for end in first..14 {
                let part = whole.part(Sequence::new(first)..Sequence::new(end));
                let span = (first.max(5), end.min(11));
                assert_eq!(part.is_some(), span.0 < span.1, "{first}..{end}");
                let Some(part) = part else { continue };
                let part = Block::decode(part.bytes().clone()).unwrap();
                let spans = (part.first_sequence().get(), part.last_sequence().get() + 1);
                assert_eq!(spans, span);
                let mut expected = places(&whole);
                expected.retain(|(sequence, ..)| (first..end).contains(sequence));
                assert_eq!(places(&part), expected, "{first}..{end}");
                assert!(part.first_position() <= part.last_position());
            }
        }
        let hole =
            Block::hole(Sequence::new(3)..Sequence::new(9), Position::new(4), whole.last_time());
        assert_eq!((hole.count(), hole.last_sequence().get()), (0, 8));
        Block::decode(hole.bytes().clone()).unwrap();
    }

    /// Goal: the readings of a clock that was set back go with their events, whatever is made of
    /// the blocks.
    #[test]
    fn a_block_keeps_what_the_clock_said_of_each_event() {
        let clocks = |block: &Block| -> Vec<(u64, u64)> {
            let clock = |event: EventRef<'_>| (event.time.as_ms(), event.clock.as_ms());
            let read = Block::decode(block.bytes().clone()).unwrap();
            assert_eq!(read.header, block.header);
            read.events().map(clock).collect()
        };
        let right = block((1, 1, 900), 0, &[b"1", b"2"]);
        assert_eq!(right.last_clock().as_ms(), 900);
        let behind = block((3, 3, 900), right.end_bytes(), &[b"3", b"4"]);
        let behind = behind.with_clock(Timestamp::from_ms(500));
        assert_eq!(behind.end_bytes(), right.end_bytes() + behind.bytes().len() as u64);
        assert_eq!(clocks(&behind), [(900, 500); 2]);
        let later = block((5, 5, 950), behind.end_bytes(), &[b"5"]);
        let merged = Block::merge(&[right, behind.clone(), later], |_| true);
        let all = [(900, 900), (900, 900), (900, 500), (900, 500), (950, 950)];
        assert_eq!(clocks(&merged), all);
        assert_eq!(merged.last_clock().as_ms(), 950);
        let part = merged.part(Sequence::new(2)..Sequence::new(5)).unwrap();
        assert_eq!((clocks(&part), part.last_clock().as_ms()), (all[1..4].to_vec(), 500));
        let emptied = Block::merge(&[behind], |_| false);
        assert_eq!((emptied.count(), emptied.last_clock().as_ms()), (0, 500));
        assert_eq!(clocks(&emptied), []);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let whole = block((1, 1, 1), 0, &[b"payload"]).bytes().to_vec();
        for index in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[index / 8] ^= 1 << (index % 8);
            assert!(Block::decode(bytes.into()).is_err(), "bit {index}");
        }
        for length in 0..whole.len() {
            assert!(Block::decode(whole[..length].to_vec().into()).is_err(), "length {length}");
        }
        // The end of a large block is looked at as its beginning is.
        let payload = vec![b'x'; 100_000];
        let large = block((1, 1, 1), 0, &[&payload]).bytes().to_vec();
        for index in (HEADER_BYTES..large.len()).step_by(997).chain([large.len() - 1]) {
            let mut bytes = large.clone();
            bytes[index] ^= 1;
            assert!(Block::decode(bytes.into()).is_err(), "byte {index}");
        }
    }
}
