//! A stored block, known by its key and its header alone, without its events.

use super::block::Block;
use super::block_header::Header;
use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

/// The largest value in the tree, in bytes. A larger block is stored in parts of this size.
pub(super) const MAX_PART_BYTES: usize = 8 << 10;

/// Returns the number of parts in which a block of this size is stored.
pub(crate) fn parts_in(size_bytes: usize) -> usize {
    size_bytes.div_ceil(MAX_PART_BYTES)
}

/// Returns the number of parts in which `block` is stored.
pub(super) fn parts_of(block: &Block) -> usize {
    parts_in(block.bytes().len())
}

/// A stored block, as its key and its header describe it. Nothing is verified: this is enough to
/// remove a block, and not to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock {
    /// The first sequence of the block.
    pub first: Sequence,
    /// The first sequence after the block: the next block begins there, or the range ends there.
    pub end: Sequence,
    /// The number of parts in which the block is stored.
    pub parts: usize,
    /// The size of the block, in bytes.
    pub size_bytes: u64,
    /// The number of events in the block; the number of its sequences, if the header is damaged.
    pub events: u64,
    /// Whether any event has an id, according to the header.
    pub has_ids: bool,
    /// Whether any event can expire, according to the header; also if the header is damaged.
    pub has_ttl: bool,
    /// The last event that the block spans; `None` if the header is damaged.
    pub last: Option<LastEvent>,
}

/// The last event that a block spans. A rewritten block may not hold it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEvent {
    /// The position of the event.
    pub position: Position,
    /// The time at which it was appended. It never goes backwards in a topic.
    pub time: Timestamp,
    /// The reading of the system clock at that moment.
    pub clock: Timestamp,
}

impl StoredBlock {
    /// Returns the description of `block`.
    pub fn of(block: &Block) -> Self {
        Self {
            first: block.first_sequence(),
            end: block.last_sequence().next(),
            parts: parts_of(block),
            size_bytes: block.bytes().len() as u64,
            events: block.count() as u64,
            has_ids: block.has_ids(),
            has_ttl: block.has_ttl(),
            last: Some(LastEvent {
                position: block.last_position(),
                time: block.last_time(),
                clock: block.last_clock(),
            }),
        }
    }

    /// Returns the description of the block that begins at `first` with these bytes, as far as its
    /// first part shows it.
    pub(super) fn begin(first: Sequence, start: &[u8]) -> Self {
        let header = Block::header_of(start).filter(|header| header.first_sequence == first);
        Self {
            first,
            end: header.as_ref().map_or(first.next(), |header| header.last_sequence.next()),
            parts: 1,
            size_bytes: start.len() as u64,
            events: header.as_ref().map_or(u64::MAX, |header| u64::from(header.count)),
            has_ids: header.as_ref().is_some_and(Header::has_ids),
            has_ttl: header.as_ref().is_none_or(Header::has_ttl),
            last: header.map(|header| LastEvent {
                position: header.last_position,
                time: header.last_time,
                clock: header.last_clock,
            }),
        }
    }

    /// Returns the description with the known end of the block. A header with another end is
    /// damaged.
    pub(super) fn ending_at(self, end: Sequence) -> Self {
        let spanned = end.get().saturating_sub(self.first.get());
        let events = self.events.min(spanned);
        let last = self.last.filter(|_| self.end == end);
        let has_ttl = self.has_ttl || last.is_none();
        Self { end, events: if last.is_some() { events } else { spanned }, has_ttl, last, ..self }
    }
}
