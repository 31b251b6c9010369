//! The header of a stored block, and the layout of the whole block.
//!
//! A block is a header of fixed size, then the records (`record.rs`). `name: 4` is a field of 4
//! bytes: the one byte `format` holds the number 1 ([`FORMAT`]). Numbers are big-endian; `crc32`
//! covers every byte after itself.
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
//! Flag 1: at least one event has an id from its publisher. Flag 2: at least one event can expire.
//! Flag 4: the system clock was behind the times of some events when they were appended; each
//! record says by how much, and the body has the reading of the clock at the last event. Other
//! flags are 0.
//!
//! A new block holds one event for each of its sequences. The positions rise, and positions of
//! other topics may lie between them. A rewritten block may lack events, but spans the same
//! sequences, positions and times. So the blocks of a topic have no hole between them, and a
//! missing block is noticed.

use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

const FORMAT: u8 = 1;
pub(super) const HAS_IDS: u8 = 1;
pub(super) const HAS_TTL: u8 = 2;
pub(super) const HAS_CLOCK: u8 = 4;

/// The size of `last_clock_ms` in the body of a block with flag 4.
pub(super) const CLOCK_BYTES: usize = 8;

/// The offset of the time of the last event in the header.
const LAST_TIME_AT: usize = 54;

/// The highest sequence or position that is taken from a backup: later events must have room, too.
pub(super) const MAX_PLACE: u64 = u64::MAX >> 1;

/// The size of the checksum, after which the checksummed part begins.
pub(super) const CRC_BYTES: usize = 4;

/// The bytes before the body.
pub(crate) const HEADER_BYTES: usize = CRC_BYTES + 1 + 1 + 4 + 4 + 7 * 8;
const _: () = assert!(HEADER_BYTES == 70, "a changed header is a new FORMAT");

pub(super) fn body_bytes(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len() - HEADER_BYTES).expect("limits keep a block under 4 GiB")
}

/// The header of a block, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) count: u32,
    pub(super) body_bytes: u32,
    pub(super) first_sequence: Sequence,
    pub(super) last_sequence: Sequence,
    pub(super) first_position: Position,
    pub(super) last_position: Position,
    pub(super) first_time: Timestamp,
    pub(super) last_time: Timestamp,
    /// The reading of the system clock when the last event was appended: `last_time`, or before it.
    pub(super) last_clock: Timestamp,
    pub(super) end_bytes: u64,
}

impl Header {
    pub(super) fn has_ids(&self) -> bool {
        self.flags & HAS_IDS != 0
    }

    pub(super) fn has_ttl(&self) -> bool {
        self.flags & HAS_TTL != 0
    }

    pub(super) fn has_clock(&self) -> bool {
        self.flags & HAS_CLOCK != 0
    }

    pub(super) fn block_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// Writes the header, without the checksum, to the start of `bytes`.
    pub(super) fn encode(&self, bytes: &mut [u8]) {
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

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let has_clock = bytes.get(5).is_some_and(|flags| flags & HAS_CLOCK != 0);
        let header_bytes = HEADER_BYTES + if has_clock { CLOCK_BYTES } else { 0 };
        let Some(bytes) = bytes.get(..header_bytes) else {
            return Err(format!("{} bytes are too short for a block", bytes.len()));
        };
        if bytes[4] != FORMAT {
            return Err(format!("block format {}; this version reads {FORMAT}", bytes[4]));
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
