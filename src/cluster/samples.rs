//! Blocks, groups and records for tests.

use bytes::Bytes;

use super::record::FleetLeader;
use crate::cursor::{Position, Sequence};
use crate::event::{NewEvent, Timestamp};
use crate::log::{Block, BlockBuilder, Group, Log, NewRecords, StoredTopic};
use crate::topic::{TopicId, TopicName};

/// Returns the topic with this number, before its first event.
pub(super) fn topic(number: u32) -> StoredTopic {
    let id = TopicId::from_stored(number).expect("a number from 1");
    StoredTopic::new(id, TopicName::new(&format!("topic.{number}")).expect("a name"))
}

/// Returns a block with one event for each of `payloads`. `first` is the sequence and the position
/// of the first event.
pub(super) fn block(first: u64, start_bytes: u64, payloads: &[&[u8]]) -> Block {
    let mut builder = BlockBuilder::new(Sequence::new(first));
    for payload in payloads {
        let event = NewEvent::new(payload.to_vec());
        builder.push(NewRecords::encode([&event]).record(0), false, false);
    }
    builder.finish(Position::new(first), Timestamp::from_ms(1_000 + first), start_bytes)
}

/// Returns a group that appends one event to `topic`, whose next sequence is `first`. The topic is
/// created with its first event.
pub(super) fn appending(
    topic: &StoredTopic,
    first: u64,
    start_bytes: u64,
    payload: &[u8],
) -> Group {
    let block = block(first, start_bytes, &[payload]);
    let topics = if first == 1 { vec![topic.clone()] } else { Vec::new() };
    Group { topics, appended: vec![(topic.id, block)], ..Group::default() }
}

/// Returns a record or a group with another byte at an offset, and the checksum made right: as a
/// later version may write it, or somebody who forges it.
pub(super) fn resealed(bytes: &[u8], at: usize, byte: u8) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] = byte;
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// Returns all that `log` holds, but for its place in the stream.
pub(super) fn content(log: &dyn Log) -> String {
    let topics = log.topics().expect("the topics");
    let blocks: Vec<_> = topics
        .iter()
        .flat_map(|topic| {
            let (id, end) = (topic.id, topic.extent.tail);
            let stored = log.stored_blocks(id, Sequence::FIRST..end, usize::MAX).expect("blocks");
            stored.into_iter().map(move |block| log.read(id, block.first, end, 1).expect("a block"))
        })
        .collect();
    format!("{topics:?} {blocks:?} {:?}", log.ids().expect("the ids"))
}

/// Returns a node that wants to lead.
pub(super) fn node(name: &str, incarnation: u64) -> FleetLeader {
    FleetLeader { node: name.to_owned(), incarnation, address: String::new() }
}
