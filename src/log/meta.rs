//! The log's own records in the tree. Numbers are big-endian; `crc32` covers all bytes after it.
//!
//! ```text
//! the log     | crc32: 4 | format: 1 | epoch: 4 |
//! a topic     | crc32: 4 | format: 1 | earliest: 8 | tail: 8 | last_position: 8 | last_time_ms: 8
//!             | appended_bytes: 8 | dropped_bytes: 8 | dropped_events: 8 | trimmed_position: 8
//!             | name: the rest |
//! ```
//!
//! A topic's `tail`, `last_position`, `last_time_ms` and `appended_bytes` are as they were at its
//! last trim; they speak only while the topic has no blocks. While it has, the newest block is the
//! head.

use super::blocks::unreadable;
use super::{Extent, keys};
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::{TopicId, TopicName};

const FORMAT: u8 = 1;
const CRC_BYTES: usize = 4;

/// How many numbers a topic's record begins with.
const NUMBERS: usize = 8;

/// The log's record.
pub(super) fn encode_epoch(epoch: Epoch) -> Vec<u8> {
    seal(&epoch.get().to_be_bytes())
}

/// The epoch in the log's record; `None` where there is no such record.
///
/// # Errors
///
/// [`Error::DamagedLog`], [`Error::ReadFailed`].
pub(super) fn read_epoch(tree: &sled::Tree) -> Result<Option<Epoch>> {
    let Some(value) = tree.get(keys::LOG).map_err(unreadable)? else { return Ok(None) };
    let decode = || -> Result<u32, String> {
        let epoch = unseal(&value)?.try_into().map_err(|_| "it is cut".to_owned())?;
        Ok(u32::from_be_bytes(epoch))
    };
    let epoch = decode().map_err(|problem| Error::DamagedLog {
        problem: format!("the log's own record: {problem}"),
    })?;
    Ok(Some(Epoch::new(epoch)))
}

/// A topic's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicRecord {
    /// What the topic held at its last trim.
    pub extent: Extent,
    /// The topic's name.
    pub name: TopicName,
}

impl TopicRecord {
    /// The record of a topic that has no events yet.
    pub(super) fn new(name: TopicName) -> Self {
        Self { extent: Extent::EMPTY, name }
    }

    /// The record's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let numbers: [u64; NUMBERS] = [
            self.extent.earliest.get(),
            self.extent.tail.get(),
            self.extent.last_position.get(),
            self.extent.last_time.as_ms(),
            self.extent.appended_bytes,
            self.extent.dropped_bytes,
            self.extent.dropped_events,
            self.extent.trimmed_position.get(),
        ];
        let mut content: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        content.extend_from_slice(self.name.as_str().as_bytes());
        seal(&content)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let content = unseal(bytes)?;
        let (numbers, name) = content.split_at_checked(NUMBERS * 8).ok_or("it is cut")?;
        let number = |index: usize| {
            let bytes = &numbers[8 * index..8 * (index + 1)];
            u64::from_be_bytes(bytes.try_into().expect("8 bytes"))
        };
        let name = std::str::from_utf8(name).map_err(|error| error.to_string())?;
        let extent = Extent {
            earliest: Sequence::new(number(0)),
            tail: Sequence::new(number(1)),
            last_position: Position::new(number(2)),
            last_time: Timestamp::from_ms(number(3)),
            appended_bytes: number(4),
            dropped_bytes: number(5),
            dropped_events: number(6),
            trimmed_position: Position::new(number(7)),
        };
        Ok(Self { extent, name: TopicName::new(name).map_err(|error| error.to_string())? })
    }
}

/// Every topic's record, in the order of the ids: [`Error::DamagedLog`] in place of one that does
/// not fit.
pub(super) fn read_topics(
    tree: &sled::Tree,
) -> impl Iterator<Item = Result<(TopicId, TopicRecord)>> {
    // After an error sled's iterator stays where it is, and says the same for ever.
    let until_error = tree.scan_prefix(keys::TOPICS).scan(false, |is_over, entry| {
        (!std::mem::replace(is_over, entry.is_err())).then_some(entry)
    });
    until_error.map(|entry| {
        let (key, value) = entry.map_err(unreadable)?;
        let id = keys::parse_topic(&key).ok_or_else(|| "unknown key".to_owned());
        id.and_then(|id| Ok((id, TopicRecord::decode(&value)?))).map_err(|problem| {
            Error::DamagedLog { problem: format!("the topic's record at {key:?}: {problem}") }
        })
    })
}

fn seal(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; CRC_BYTES];
    bytes.push(FORMAT);
    bytes.extend_from_slice(content);
    let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn unseal(bytes: &[u8]) -> Result<&[u8], String> {
    let (crc, sealed) = bytes.split_at_checked(CRC_BYTES).ok_or("it is cut")?;
    if crc != crc32fast::hash(sealed).to_be_bytes() {
        return Err("its checksum does not fit".to_owned());
    }
    match sealed.split_first() {
        Some((&FORMAT, content)) => Ok(content),
        Some((format, _)) => Err(format!("format {format} where {FORMAT} is known")),
        None => Err("it is cut".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_record_reads_back_and_every_flipped_bit_is_found() {
        let extent = Extent {
            earliest: Sequence::new(3),
            tail: Sequence::new(9),
            last_position: Position::new(90),
            last_time: Timestamp::from_ms(900),
            appended_bytes: 9_000,
            dropped_bytes: 3_000,
            dropped_events: 2,
            trimmed_position: Position::new(30),
        };
        let record = TopicRecord { extent, name: TopicName::new("quakes.us").unwrap() };
        let bytes = record.encode();
        assert_eq!(TopicRecord::decode(&bytes).unwrap(), record);
        for index in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[index / 8] ^= 1 << (index % 8);
            assert!(TopicRecord::decode(&flipped).is_err(), "bit {index}");
        }
    }
}
