//! The sled tree, and the layout of each of its keys. `name: 4` is a field of 4 bytes. Numbers are
//! big-endian, so keys sort as their numbers do.
//!
//! One tree, `events`:
//!
//! ```text
//! | topic_id: 4 | first_sequence: 8 | part: 2 |   a block, or one part of a large one; ids from 1
//! | as one that goes | number: 1 |                nothing: it keeps its page from being merged
//! | 0: 4 | 'A' |                                  the place in the fleet's stream, if there is one
//! | 0: 4 | 'I' | topic_id: 4 | first_sequence: 8 | ids of events that are gone: a block of them
//! | 0: 4 | 'L' |                                  the log itself: its format and epoch
//! | 0: 4 | 'T' | topic_id: 4 |                    a topic: its name, and what was trimmed from it
//! | 0: 4 | 'a' |                                  the place in the stream before damage was found
//! ```
//!
//! # Why
//!
//! All topics are in one tree, because many trees are known to explode in size
//! (spacejam/sled#1484), and because a batch is atomic only within one tree: a topic's record and
//! its first events are written together. Id 0 names no topic, so its range is free for the log's
//! own records.

use std::ops::Range;

use crate::cursor::Sequence;
use crate::topic::TopicId;

/// The name of the tree.
pub(super) const TREE: &str = "events";

/// The key of the log's own record.
pub(super) const LOG: [u8; 5] = [0, 0, 0, 0, b'L'];

/// The key of the place in the fleet's stream up to which the log has applied it.
pub(super) const APPLIED: [u8; 5] = [0, 0, 0, 0, b'A'];

/// The key of the place that the log had until damage was found: not all up to there is in the log.
pub(super) const LOST_PLACE: [u8; 5] = [0, 0, 0, 0, b'a'];

/// The key of one part of a block.
pub(super) type BlockKey = [u8; 4 + 8 + 2];

/// Returns the key of one part of a block.
pub(super) fn block(topic: TopicId, first: Sequence, part: u16) -> BlockKey {
    let mut key = BlockKey::default();
    key[..4].copy_from_slice(&topic.get().to_be_bytes());
    key[4..12].copy_from_slice(&first.get().to_be_bytes());
    key[12..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Returns a filler: a key right after another one, without a meaning. writing.rs says what fillers
/// are for.
pub(super) fn filler(key: &[u8], number: u8) -> Vec<u8> {
    [key, &[number]].concat()
}

/// Whether a key is a [`filler`] after the key of a block.
pub(super) fn is_filler(key: &[u8]) -> bool {
    key.split_last().is_some_and(|(_, block)| parse_block(block).is_some())
}

/// Parses the key of a block's part; `None` for any other key.
pub(super) fn parse_block(key: &[u8]) -> Option<(TopicId, Sequence, u16)> {
    let key: &BlockKey = key.try_into().ok()?;
    let topic = TopicId::from_stored(u32::from_be_bytes(key[..4].try_into().ok()?))?;
    let first = Sequence::new(u64::from_be_bytes(key[4..12].try_into().ok()?));
    Some((topic, first, u16::from_be_bytes(key[12..].try_into().ok()?)))
}

/// Returns the range of the keys of all blocks of `topic` that begin in `sequences`.
pub(super) fn blocks(topic: TopicId, sequences: Range<Sequence>) -> Range<BlockKey> {
    block(topic, sequences.start, 0)..block(topic, sequences.end, 0)
}

/// The bytes with which the key of every block of ids begins.
pub(super) const IDS: [u8; 5] = [0, 0, 0, 0, b'I'];

/// The key of a block of ids.
pub(super) type IdsKey = [u8; 5 + 4 + 8];

/// Returns the key of a block of ids.
pub(super) fn ids(topic: TopicId, first: Sequence) -> IdsKey {
    let mut key = IdsKey::default();
    key[..5].copy_from_slice(&IDS);
    key[5..9].copy_from_slice(&topic.get().to_be_bytes());
    key[9..].copy_from_slice(&first.get().to_be_bytes());
    key
}

/// Returns the topic in the key of a block of ids; `None` for any other key.
pub(super) fn parse_ids(key: &[u8]) -> Option<TopicId> {
    let (topic, first) = key.strip_prefix(&IDS)?.split_first_chunk()?;
    let _sequence: &[u8; 8] = first.try_into().ok()?;
    TopicId::from_stored(u32::from_be_bytes(*topic))
}

/// Returns the key of a topic's record.
pub(super) fn topic(id: TopicId) -> [u8; 9] {
    let mut key = [0; 9];
    key[4] = b'T';
    key[5..].copy_from_slice(&id.get().to_be_bytes());
    key
}

/// The bytes with which the key of every topic's record begins.
pub(super) const TOPICS: [u8; 5] = [0, 0, 0, 0, b'T'];

/// Returns the id in the key of a topic's record; `None` for any other key.
pub(super) fn parse_topic(key: &[u8]) -> Option<TopicId> {
    let id = key.strip_prefix(&TOPICS)?;
    TopicId::from_stored(u32::from_be_bytes(id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_sort_by_topic_sequence_and_part() {
        let id = |number| TopicId::from_stored(number).unwrap();
        let mut keys = Vec::new();
        for topic in [1, 2, 256, u32::MAX] {
            for first in [1, 255, 256, u64::MAX - 1] {
                for part in [0, 1, 256] {
                    keys.push(block(id(topic), Sequence::new(first), part));
                    let parsed = parse_block(keys.last().unwrap()).unwrap();
                    assert_eq!(parsed, (id(topic), Sequence::new(first), part));
                }
            }
        }
        assert!(keys.is_sorted());
        assert!(topic(id(u32::MAX)).as_slice() < keys[0].as_slice());
        assert_eq!(parse_topic(&topic(id(7))), Some(id(7)));
        assert_eq!((parse_topic(&LOG), parse_topic(&APPLIED)), (None, None));
        assert_eq!(parse_block(&topic(id(7))), None);
        let ids = ids(id(7), Sequence::new(8));
        assert_eq!(
            (parse_ids(&ids), parse_block(&ids), parse_topic(&ids)),
            (Some(id(7)), None, None)
        );
        assert_eq!((parse_ids(&filler(&ids, 1)), parse_ids(&APPLIED)), (None, None));
        assert!(is_filler(&filler(&keys[0], 1)) && !is_filler(&keys[0]));
    }
}
