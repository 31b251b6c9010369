//! A block as it lies in the log: known by its key and its header alone, without its events.

use super::block::Block;
use super::block_header::Header;
use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

/// Largest value in the tree, in bytes. A larger block is stored in parts of this size.
pub(super) const MAX_PART_BYTES: usize = 8 << 10;

/// How many values a block of so many bytes is stored as.
pub fn parts_in(size_bytes: usize) -> usize {
    size_bytes.div_ceil(MAX_PART_BYTES)
}

/// How many values `block` is stored as.
pub(super) fn parts_of(block: &Block) -> usize {
    parts_in(block.bytes().len())
}

/// What can be told of a stored block without reading it. Nothing of it is verified, so it serves
/// for dropping blocks, and not for reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredBlock {
    /// The first sequence that it spans.
    pub first: Sequence,
    /// Where the next block begins, or the range that was looked at ends.
    pub end: Sequence,
    /// How many parts it is stored in.
    pub parts: usize,
    /// What it takes, in bytes.
    pub size_bytes: u64,
    /// How many events it holds; as many as it spans, if its header does not say.
    pub events: u64,
    /// Whether any of them has an id, as far as its header says.
    pub has_ids: bool,
    /// The last event that it spans, if its header says.
    pub last: Option<LastEvent>,
}

/// The last event that a block spans, whether it holds that or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEvent {
    /// Its position.
    pub position: Position,
    /// When it was appended; never goes backwards in a topic.
    pub time: Timestamp,
    /// What the system clock said then.
    pub clock: Timestamp,
}

impl StoredBlock {
    /// How `block` is stored.
    pub fn of(block: &Block) -> Self {
        Self {
            first: block.first_sequence(),
            end: block.last_sequence().next(),
            parts: parts_of(block),
            size_bytes: block.bytes().len() as u64,
            events: block.count() as u64,
            has_ids: block.has_ids(),
            last: Some(LastEvent {
                position: block.last_position(),
                time: block.last_time(),
                clock: block.last_clock(),
            }),
        }
    }

    /// The block that begins at `first` with these bytes, as far as its first part shows it.
    pub(super) fn begin(first: Sequence, start: &[u8]) -> Self {
        let header = Block::header_of(start).filter(|header| header.first_sequence == first);
        Self {
            first,
            end: header.as_ref().map_or(first.next(), |header| header.last_sequence.next()),
            parts: 1,
            size_bytes: start.len() as u64,
            events: header.as_ref().map_or(u64::MAX, |header| u64::from(header.count)),
            has_ids: header.as_ref().is_some_and(Header::has_ids),
            last: header.map(|header| LastEvent {
                position: header.last_position,
                time: header.last_time,
                clock: header.last_clock,
            }),
        }
    }

    /// Its end is known: a header that says otherwise is damaged.
    pub(super) fn ending_at(self, end: Sequence) -> Self {
        let spanned = end.get().saturating_sub(self.first.get());
        let events = self.events.min(spanned);
        let last = self.last.filter(|_| self.end == end);
        Self { end, events: if last.is_some() { events } else { spanned }, last, ..self }
    }
}
