//! Blocks of ids: the ids of events that a limit dropped, for as long as these ids must be
//! recognised.
//!
//! # Why
//!
//! A publisher may retry an event for minutes, even if the topic has dropped the event by then. The
//! id of a stored event is in its block. When that block is removed, the same batch writes its ids
//! into a block of ids, so that a start finds either the one or the other. A block of ids has the
//! format of a block, and with it a checksum and the places of each event.

use super::block::Block;
use super::placed_id::PlacedId;

/// The largest block of ids, in bytes. It is as small as one part of a block, so that no block of
/// ids has several parts.
const MAX_BLOCK_BYTES: usize = 8 << 10;

/// The most bytes that an id takes besides its text.
const ENTRY_BYTES: usize = 48;

/// Puts `ids`, which are in the order of their sequences, into blocks.
pub(crate) fn blocks_of_ids<'a>(ids: impl Iterator<Item = PlacedId<'a>>) -> Vec<Block> {
    let (mut blocks, mut some, mut size_bytes) = (Vec::new(), Vec::new(), 0);
    for id in ids {
        let id_bytes = ENTRY_BYTES + id.id.len();
        if size_bytes + id_bytes > MAX_BLOCK_BYTES && !some.is_empty() {
            blocks.push(Block::of_ids(&some));
            some.clear();
            size_bytes = 0;
        }
        size_bytes += id_bytes;
        some.push(id);
    }
    if !some.is_empty() {
        blocks.push(Block::of_ids(&some));
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Position, Sequence};
    use crate::event::Timestamp;

    #[test]
    fn ids_read_back_with_their_places_from_blocks_that_need_no_parts() {
        let texts: Vec<String> = (0..1_000).map(|n| format!("{n}").repeat(1 + n % 80)).collect();
        let placed = |(n, id): (usize, &'static str)| {
            let n = n as u64;
            PlacedId {
                id,
                sequence: Sequence::new(7 + 3 * n),
                position: Position::new(70 + 30 * n),
                time: Timestamp::from_ms(900 + n / 10),
                clock: Timestamp::from_ms(900 + n / 10 - n % 2),
            }
        };
        let texts: Vec<&'static str> = texts.into_iter().map(|text| &*text.leak()).collect();
        let ids: Vec<_> = texts.into_iter().enumerate().map(placed).collect();
        let blocks = blocks_of_ids(ids.iter().copied());
        assert!(blocks.len() > 3);
        let blocks: Vec<Block> =
            blocks.iter().map(|block| Block::decode(block.bytes().clone()).unwrap()).collect();
        assert!(blocks.iter().all(|b| b.has_ids() && b.bytes().len() <= MAX_BLOCK_BYTES + 100));
        let read = blocks.iter().flat_map(Block::events);
        let read = read.map(|event| PlacedId {
            id: event.id,
            sequence: event.sequence,
            position: event.position,
            time: event.time,
            clock: event.clock,
        });
        assert_eq!(read.collect::<Vec<_>>(), ids);
        assert_eq!(blocks[0].first_sequence(), ids[0].sequence);
        assert_eq!(blocks.last().unwrap().last_sequence(), ids[999].sequence);
        assert!(blocks_of_ids(std::iter::empty()).is_empty());
    }
}
