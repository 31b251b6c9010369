//! The builder of new blocks. It puts encoded records one after another.

use super::block::Block;
use super::block_header::{HAS_IDS, HAS_TTL, HEADER_BYTES, Header, body_bytes};
use super::record;
use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

/// A new block, to which records are added.
#[derive(Debug)]
pub struct BlockBuilder {
    bytes: Vec<u8>,
    count: u32,
    flags: u8,
    first_sequence: Sequence,
    /// The number of positions between the events that belong to other topics.
    skipped: u64,
}

impl BlockBuilder {
    /// Returns an empty block whose first event gets this sequence.
    pub fn new(first_sequence: Sequence) -> Self {
        Self { bytes: vec![0; HEADER_BYTES], count: 0, flags: 0, first_sequence, skipped: 0 }
    }

    /// Adds a record at the next sequence and the next position.
    pub fn push(&mut self, record: &[u8], has_id: bool, has_ttl: bool) {
        self.push_apart(record, 0, has_id, has_ttl);
    }

    /// Adds a record at the next sequence, `skip` positions after the record before it: the
    /// positions between the two belong to other topics. The first record has no `skip`.
    pub fn push_apart(&mut self, record: &[u8], skip: u64, has_id: bool, has_ttl: bool) {
        match skip {
            0 => self.bytes.extend_from_slice(record),
            _ => record::append_apart(record, skip, &mut self.bytes),
        }
        self.skipped += skip;
        self.count += 1;
        self.flags |= if has_id { HAS_IDS } else { 0 } | if has_ttl { HAS_TTL } else { 0 };
    }

    /// Returns the number of events that were added.
    pub fn count(&self) -> u64 {
        u64::from(self.count)
    }

    /// Whether any of the added events can expire.
    pub fn has_ttl(&self) -> bool {
        self.flags & HAS_TTL != 0
    }

    /// Returns the size of the block so far, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the sequence that the next record would get.
    pub fn next_sequence(&self) -> Sequence {
        self.first_sequence.plus(u64::from(self.count))
    }

    /// Ends the block. The first event gets `first_position`, and all events get `time`. The blocks
    /// that were appended to the topic before take `start_bytes`.
    ///
    /// # Panics
    ///
    /// If no record was added: no block is appended without events.
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
        Block::seal(header, self.bytes)
    }
}
