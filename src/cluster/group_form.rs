//! A group, as the leader sends it through the stream. Blocks and records of topics are as the log
//! stores them, so all nodes hold the same bytes.
//!
//! `name: 4` is a field of 4 bytes: the one byte `format` holds the number 1 ([`FORMAT`]). Numbers
//! are big-endian; `crc32` covers all bytes after it.
//!
//! ```text
//! group      | crc32: 4 | format: 1 | durability: 1 | entries |
//! entry      | kind: 1 | topic: 4 | length: 4 | content: length |
//!            kind 1, a topic's record          its record (log/meta.rs)
//!            kind 2, a removed block           | first: 8 | end: 8 | parts: 4 | size_bytes: 8
//!                                              | events: 8 | flags: 1 |, and with flag 4
//!                                              | position: 8 | time_ms: 8 | clock_ms: 8 |
//!            kind 3, a rewritten block         the block (log/block_header.rs)
//!            kind 4, an appended block         the block
//!            kind 5, a block of ids            the block
//!            kind 6, a forgotten block of ids  | first: 8 |
//! ```
//!
//! `durability`: 0 memory, 1 process, 2 fsync, 3 replicated. Flag 1: the block has ids. Flag 2:
//! events of it can expire. Flag 4: its last event is known. Entries of one kind are in their
//! order.
//!
//! # Versions
//!
//! A node must never store other bytes than the leader. So an older node stops, and says that it
//! must be updated, when it meets another format, a kind below 128 that it does not know, or a
//! topic's record with more numbers or other settings than it knows. An entry of a kind from 128 on
//! is skipped: nothing that is stored may depend on it. A newer node reads what an older leader
//! writes: the numbers that a topic's record does not have are 0.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use bytes::{BufMut, Bytes};

use super::record::RecordProblem;
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::{Block, Group, LastEvent, StoredBlock, decode_foreign_topic, encode_topic};
use crate::topic::TopicId;

pub(super) const FORMAT: u8 = 1;

/// The largest group, in bytes. A group has one batch of 64 MiB at the most, besides those that
/// wait for it, and blocks that a step of maintenance rewrites.
pub(super) const MAX_GROUP_BYTES: usize = 256 << 20;

/// The first kind of entry that a node may skip if it does not know it.
const FIRST_SKIPPED_KIND: u8 = 128;

/// The most parts of a block: their numbers in the log's keys have 2 bytes.
const MAX_BLOCK_PARTS: usize = 1 << 16;

const TOPIC: u8 = 1;
const REMOVED: u8 = 2;
const REWRITTEN: u8 = 3;
const APPENDED: u8 = 4;
const IDS: u8 = 5;
const FORGOTTEN: u8 = 6;

const HEAD_BYTES: usize = 4 + 1 + 1;
const ENTRY_BYTES: usize = 1 + 4 + 4;

const HAS_IDS: u8 = 1;
const HAS_TTL: u8 = 2;
const HAS_LAST: u8 = 4;

/// Encodes `group`.
///
/// # Errors
///
/// [`Error::OverLimit`] for a group that is larger than one may be.
pub(super) fn encode(group: &Group) -> Result<Bytes> {
    let Group { topics, removed, rewritten, appended, ids, forgotten, durability, applied: _ } =
        group; // The place is that of the record, and not in the form.
    let blocks = [(REWRITTEN, rewritten), (APPENDED, appended), (IDS, ids)];
    let in_blocks = blocks.iter().flat_map(|(_, blocks)| blocks.iter());
    let block_bytes: usize = in_blocks.map(|(_, block)| ENTRY_BYTES + block.bytes().len()).sum();
    if block_bytes > MAX_GROUP_BYTES {
        return Err(Error::over("bytes of a group", block_bytes, MAX_GROUP_BYTES));
    }
    let entries = topics.len() + removed.len() + forgotten.len();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + block_bytes + 128 * entries);
    bytes.put_u32(0);
    bytes.put_slice(&[FORMAT, durability_code(*durability)]);
    for topic in topics {
        put_entry(&mut bytes, TOPIC, topic.id, &encode_topic(topic));
    }
    for (topic, block) in removed {
        put_entry(&mut bytes, REMOVED, *topic, &encode_removed(block));
    }
    for (kind, blocks) in blocks {
        for (topic, block) in blocks {
            put_entry(&mut bytes, kind, *topic, block.bytes());
        }
    }
    for (topic, first) in forgotten {
        put_entry(&mut bytes, FORGOTTEN, *topic, &first.get().to_be_bytes());
    }
    if bytes.len() > MAX_GROUP_BYTES {
        return Err(Error::over("bytes of a group", bytes.len(), MAX_GROUP_BYTES));
    }
    let crc = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_be_bytes());
    Ok(bytes.into())
}

fn put_entry(bytes: &mut Vec<u8>, kind: u8, topic: TopicId, content: &[u8]) {
    bytes.put_u8(kind);
    bytes.put_u32(topic.get());
    bytes.put_u32(u32::try_from(content.len()).expect("a block is smaller than 4 GiB"));
    bytes.put_slice(content);
}

fn encode_removed(block: &StoredBlock) -> Vec<u8> {
    let StoredBlock { first, end, parts, size_bytes, events, has_ids, has_ttl, last } = block;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let mut bytes = Vec::with_capacity(37 + 24);
    bytes.put_u64(first.get());
    bytes.put_u64(end.get());
    bytes.put_u32(u32::try_from(*parts).expect("a block has few parts"));
    bytes.put_u64(*size_bytes);
    bytes.put_u64(*events);
    let flags = flag(*has_ids, HAS_IDS) | flag(*has_ttl, HAS_TTL) | flag(last.is_some(), HAS_LAST);
    bytes.put_u8(flags);
    if let Some(LastEvent { position, time, clock }) = last {
        bytes.put_u64(position.get());
        bytes.put_u64(time.as_ms());
        bytes.put_u64(clock.as_ms());
    }
    bytes
}

/// Decodes what [`encode`] encoded. The blocks have memory of their own: a small one must not keep
/// the memory of a whole group for as long as it is cached.
///
/// # Errors
///
/// The group is damaged, or is of a version that this one does not know.
pub(super) fn decode(bytes: &Bytes) -> std::result::Result<Group, RecordProblem> {
    if bytes.len() > MAX_GROUP_BYTES {
        let bytes = bytes.len();
        return Err(format!("the group has {bytes} bytes; {MAX_GROUP_BYTES} is the most").into());
    }
    let (head, mut rest) =
        bytes.split_first_chunk::<HEAD_BYTES>().ok_or("the group has no head")?;
    if head[..4] != crc32fast::hash(&bytes[4..]).to_be_bytes() {
        return Err("the group's checksum does not fit".into());
    }
    if head[4] != FORMAT {
        let problem = format!("the group's format is {}; this version reads {FORMAT}", head[4]);
        return Err(RecordProblem::LaterVersion(problem));
    }
    let mut group = Group { durability: durability(head[5])?, ..Group::default() };
    while !rest.is_empty() {
        let (entry, after) =
            rest.split_first_chunk::<ENTRY_BYTES>().ok_or("an entry of the group is cut")?;
        let [kind, a, b, c, d, length @ ..] = *entry;
        let length = u32::from_be_bytes(length) as usize;
        let (content, after) =
            after.split_at_checked(length).ok_or("an entry of the group is cut")?;
        rest = after;
        if kind < FIRST_SKIPPED_KIND {
            let topic = TopicId::from_stored(u32::from_be_bytes([a, b, c, d]));
            let topic = topic.ok_or("an entry of the group has the topic 0")?;
            add_entry(&mut group, kind, topic, content)?;
        }
    }
    check_order(&group.appended)?;
    Ok(group)
}

fn add_entry(
    group: &mut Group,
    kind: u8,
    topic: TopicId,
    content: &[u8],
) -> std::result::Result<(), RecordProblem> {
    let block = |content| Block::decode_foreign(Bytes::copy_from_slice(content));
    match kind {
        TOPIC => {
            let stored = decode_foreign_topic(topic, content)?;
            if encode_topic(&stored).len() < content.len() {
                let problem = "a topic's record has more than this version knows".to_owned();
                return Err(RecordProblem::LaterVersion(problem));
            }
            group.topics.push(stored);
        }
        REMOVED => group.removed.push((topic, decode_removed(content)?)),
        REWRITTEN => group.rewritten.push((topic, block(content)?)),
        APPENDED => group.appended.push((topic, block(content)?)),
        IDS => group.ids.push((topic, block(content)?)),
        FORGOTTEN => {
            let first = content.try_into().map_err(|_| "a forgotten block is cut")?;
            group.forgotten.push((topic, Sequence::new(u64::from_be_bytes(first))));
        }
        other => {
            let problem = format!("an entry's kind {other} is not known");
            return Err(RecordProblem::LaterVersion(problem));
        }
    }
    Ok(())
}

fn decode_removed(mut content: &[u8]) -> std::result::Result<StoredBlock, String> {
    let content = &mut content;
    let (first, end) = (take_u64(content)?, take_u64(content)?);
    let parts = u32::from_be_bytes(take(content)?) as usize;
    let (size_bytes, events) = (take_u64(content)?, take_u64(content)?);
    let [flags] = take(content)?;
    if first >= end || parts > MAX_BLOCK_PARTS || flags & !(HAS_IDS | HAS_TTL | HAS_LAST) != 0 {
        return Err(format!("a removed block cannot be {first}..{end} in {parts} parts"));
    }
    let last = match flags & HAS_LAST != 0 {
        false => None,
        true => Some(LastEvent {
            position: Position::new(take_u64(content)?),
            time: Timestamp::from_ms(take_u64(content)?),
            clock: Timestamp::from_ms(take_u64(content)?),
        }),
    };
    if !content.is_empty() {
        return Err("a removed block's description is too long".to_owned());
    }
    let (first, end) = (Sequence::new(first), Sequence::new(end));
    let (has_ids, has_ttl) = (flags & HAS_IDS != 0, flags & HAS_TTL != 0);
    Ok(StoredBlock { first, end, parts, size_bytes, events, has_ids, has_ttl, last })
}

fn take<const N: usize>(content: &mut &[u8]) -> std::result::Result<[u8; N], String> {
    let (taken, rest) =
        content.split_first_chunk().ok_or("a removed block's description is cut")?;
    *content = rest;
    Ok(*taken)
}

fn take_u64(content: &mut &[u8]) -> std::result::Result<u64, String> {
    take(content).map(u64::from_be_bytes)
}

/// Checks that the appended blocks of each topic follow one another.
fn check_order(appended: &[(TopicId, Block)]) -> std::result::Result<(), String> {
    let mut ends: HashMap<TopicId, (Sequence, Position)> = HashMap::new();
    for (topic, block) in appended {
        let end = (block.last_sequence().next(), block.last_position());
        let (first, position) = (block.first_sequence(), block.first_position());
        match ends.insert(*topic, end) {
            Some((next, last)) if first != next || position <= last => {
                return Err(format!("after the block up to {next} comes one from {first}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn durability_code(durability: Durability) -> u8 {
    match durability {
        Durability::Memory => 0,
        Durability::Process => 1,
        Durability::Fsync => 2,
        Durability::Replicated => 3,
    }
}

fn durability(code: u8) -> std::result::Result<Durability, String> {
    Ok(match code {
        0 => Durability::Memory,
        1 => Durability::Process,
        2 => Durability::Fsync,
        3 => Durability::Replicated,
        other => return Err(format!("the group's durability {other} is not known")),
    })
}
