//! The log's own records in the tree. `name: 4` is a field of 4 bytes. Numbers are big-endian;
//! `crc32` covers all bytes after it. The one byte `format` holds the number 4 ([`FORMAT`]), or, in
//! a record of an older version, 3.
//!
//! ```text
//! the log     | crc32: 4 | format: 1 | epoch: 4 | lost_positions: 8, signed |
//! the place in the fleet's stream
//!             | crc32: 4 | format: 1 | stream: 8 | term: 8 | number: 8 | chain: 4 | epoch: 4 |
//! a topic     | crc32: 4 | format: 1 | flags: 1 | trim_reason: 1 | numbers: 1
//!             | earliest: 8 | tail: 8 | last_position: 8 | last_time_ms: 8 | appended_bytes: 8
//!             | dropped_bytes: 8 | dropped_events: 8 | trimmed_position: 8 | rewritten: 8
//!             | buried_position: 8 | trimmed_time_ms: 8 | last_clock_ms: 8
//!             | ahead_position: 8 | ahead_clock_ms: 8 | trimmed_drop: 8 | buried_drop: 8
//!             | buried_sequence: 8
//!             | compacted_kept: 8 | compacted_below: 8 | compacted_seen: 8 | compacted_due_ms: 8
//!             | first_position: 8 | purged: 8
//!             | config_bytes: 4 | config: JSON | name: the rest |
//! ```
//!
//! `numbers` says how many numbers of 8 bytes follow. A record with fewer numbers is of an older
//! version: those that are missing count as 0. A record of format 3 has 11 numbers, and no byte
//! `numbers`.
//!
//! Flag 1: the topic is deleted. Flag 2: it may have events that expire. Flag 4: its newest blocks
//! are damaged. `trim_reason`: 0 retention, 1 expired, 2 purged, 3 deleted.
//!
//! A topic's `tail`, `last_position`, `last_time_ms`, `last_clock_ms` and `appended_bytes` are from
//! the time when the record was last written. Use these five values only if the topic has no
//! blocks, is deleted, or has damaged newest blocks. Otherwise take them from the newest block.

use thiserror::Error;

use super::applied::Applied;
use super::block_header::MAX_PLACE;
use super::extent::{Ahead, Compacted, Extent};
use super::stored_topic::{StoredTopic, sequences};
use crate::cursor::{Epoch, Position, Sequence, TrimReason};
use crate::event::Timestamp;
use crate::topic::{TopicId, TopicName};

const FORMAT: u8 = 4;

/// The format of an older version, in which a topic's record has 11 numbers. This version still
/// reads it.
const FIXED_NUMBERS_FORMAT: u8 = 3;
const FIXED_NUMBERS: u8 = 11;
const CRC_BYTES: usize = 4;

const DAMAGED: u8 = 4;

/// The number of numbers in a topic's record.
const NUMBERS: usize = 23;

const DELETED: u8 = 1;
const MAY_EXPIRE: u8 = 2;

/// Why one of these records cannot be decoded, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum DecodeProblem {
    /// The record is damaged, or says what cannot be.
    #[error("{0}")]
    Damaged(String),
    /// The record says what this version does not know.
    #[error("{0}")]
    LaterVersion(String),
}

impl From<String> for DecodeProblem {
    fn from(problem: String) -> Self {
        Self::Damaged(problem)
    }
}

impl From<DecodeProblem> for String {
    fn from(problem: DecodeProblem) -> Self {
        problem.to_string()
    }
}

/// The record of the log itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogRecord {
    pub(super) epoch: Epoch,
    /// The number of positions that were given out, less the number of sequences in all topics: the
    /// events that a repair could not bring back. Below 0 if a restored topic begins later.
    lost_positions: i64,
}

impl Default for LogRecord {
    fn default() -> Self {
        Self { epoch: Epoch::new(0), lost_positions: 0 }
    }
}

impl LogRecord {
    /// Returns the record of a log whose topics have given out this many sequences, up to position
    /// `last`.
    pub(super) fn new(epoch: Epoch, sequences: u64, last: Position) -> Self {
        Self { epoch, lost_positions: last.get().wrapping_sub(sequences) as i64 }
    }

    /// Checks that no events are missing from `topics`, whose newest position is `last`. Returns
    /// the problem if they hold fewer sequences than positions were given out, or more.
    pub(super) fn check_whole(&self, topics: &[StoredTopic], last: Position) -> Option<String> {
        let missing = self.missing_from(topics, last);
        (missing != 0).then(|| {
            format!(
                "its topics end {missing} events before position {last}: blocks at the end of one \
                 of them are missing"
            )
        })
    }

    /// Returns how many events up to position `last` are missing from `topics`; 0 if there are too
    /// many.
    pub(super) fn missing(&self, topics: &[StoredTopic], last: Position) -> u64 {
        u64::try_from(self.missing_from(topics, last)).unwrap_or(0)
    }

    fn missing_from(&self, topics: &[StoredTopic], last: Position) -> i64 {
        let found = Self::new(self.epoch, sequences(topics), last);
        found.lost_positions.wrapping_sub(self.lost_positions)
    }
}

/// Encodes the record of the log.
pub(super) fn encode_log(record: &LogRecord) -> Vec<u8> {
    let mut content = record.epoch.get().to_be_bytes().to_vec();
    content.extend_from_slice(&record.lost_positions.to_be_bytes());
    seal(&content)
}

/// Decodes what [`encode_log`] encoded.
///
/// # Errors
///
/// A sentence that says what does not fit.
pub(super) fn decode_log(bytes: &[u8]) -> Result<LogRecord, String> {
    let bytes: [u8; 12] = unseal(bytes)?.1.try_into().map_err(|_| "it is cut".to_owned())?;
    let [a, b, c, d, lost @ ..] = bytes;
    let epoch = Epoch::new(u32::from_be_bytes([a, b, c, d]));
    Ok(LogRecord { epoch, lost_positions: i64::from_be_bytes(lost) })
}

/// Encodes the record of the place in the fleet's stream.
pub(super) fn encode_applied(applied: &Applied) -> Vec<u8> {
    let Applied { stream, term, number, chain, epoch } = applied;
    let mut content = [stream, term, number].map(|number| number.to_be_bytes()).concat();
    content.extend_from_slice(&chain.to_be_bytes());
    content.extend_from_slice(&epoch.get().to_be_bytes());
    seal(&content)
}

/// Decodes what [`encode_applied`] encoded.
///
/// # Errors
///
/// A sentence that says what does not fit.
pub(super) fn decode_applied(bytes: &[u8]) -> Result<Applied, String> {
    let bytes: &[u8; 32] = unseal(bytes)?.1.try_into().map_err(|_| "it is cut".to_owned())?;
    let (numbers, rest) = bytes.split_at(24);
    let (numbers, _) = numbers.as_chunks::<8>();
    let number = |index: usize| u64::from_be_bytes(numbers[index]);
    let [a, b, c, d, epoch @ ..] = rest else { unreachable!("8 bytes are left") };
    let epoch = epoch.try_into().expect("4 bytes");
    Ok(Applied {
        stream: number(0),
        term: number(1),
        number: number(2),
        chain: u32::from_be_bytes([*a, *b, *c, *d]),
        epoch: Epoch::new(u32::from_be_bytes(epoch)),
    })
}

/// Encodes the record of a topic: all about the topic that its blocks do not say.
pub(crate) fn encode_topic(topic: &StoredTopic) -> Vec<u8> {
    let StoredTopic { extent, config, .. } = topic;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let flags = flag(topic.is_deleted, DELETED)
        | flag(extent.may_expire, MAY_EXPIRE)
        | flag(extent.is_damaged, DAMAGED);
    let mut content = vec![flags, trim_code(extent.trim_reason), NUMBERS as u8];
    let numbers: [u64; NUMBERS] = [
        extent.earliest.get(),
        extent.tail.get(),
        extent.last_position.get(),
        extent.last_time.as_ms(),
        extent.appended_bytes,
        extent.dropped_bytes,
        extent.dropped_events,
        extent.trimmed_position.get(),
        extent.rewritten.get(),
        extent.buried_position.get(),
        extent.trimmed_time.as_ms(),
        extent.last_clock.as_ms(),
        extent.ahead.position.get(),
        extent.ahead.clock.as_ms(),
        extent.trimmed_drop,
        extent.buried_drop,
        extent.buried_sequence.get(),
        extent.compacted.kept,
        extent.compacted.below.get(),
        extent.compacted.seen.get(),
        extent.compacted.due.as_ms(),
        extent.first_position.get(),
        extent.purged.get(),
    ];
    numbers.iter().for_each(|number| content.extend_from_slice(&number.to_be_bytes()));
    let config = serde_json::to_vec(config).expect("plain settings are JSON");
    content.extend_from_slice(&u32::try_from(config.len()).expect("a few settings").to_be_bytes());
    content.extend_from_slice(&config);
    content.extend_from_slice(topic.name.as_str().as_bytes());
    seal(&content)
}

/// Decodes what [`encode_topic`] encoded, for the topic with this id.
pub(super) fn decode_topic(id: TopicId, bytes: &[u8]) -> Result<StoredTopic, DecodeProblem> {
    let cut = || "it is cut".to_owned();
    let (format, content) = unseal(bytes)?;
    let ([flags, reason], content) = content.split_first_chunk().ok_or_else(cut)?;
    let (count, content) = match format {
        FIXED_NUMBERS_FORMAT => (FIXED_NUMBERS, content),
        _ => content.split_first().map(|(count, rest)| (*count, rest)).ok_or_else(cut)?,
    };
    let (numbers, content) = content.split_at_checked(usize::from(count) * 8).ok_or_else(cut)?;
    let (numbers, _) = numbers.as_chunks::<8>();
    let number = |index: usize| numbers.get(index).map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let (config_bytes, content) = content.split_first_chunk().ok_or_else(cut)?;
    let config_bytes = u32::from_be_bytes(*config_bytes) as usize;
    let (config, name) = content.split_at_checked(config_bytes).ok_or_else(cut)?;
    let extent = Extent {
        earliest: Sequence::new(number(0)),
        tail: Sequence::new(number(1)),
        last_position: Position::new(number(2)),
        last_time: Timestamp::from_ms(number(3)),
        appended_bytes: number(4),
        dropped_bytes: number(5),
        dropped_events: number(6),
        trimmed_position: Position::new(number(7)),
        rewritten: Sequence::new(number(8)),
        buried_position: Position::new(number(9)),
        trimmed_time: Timestamp::from_ms(number(10)),
        last_clock: Timestamp::from_ms(number(11)),
        ahead: Ahead { position: Position::new(number(12)), clock: Timestamp::from_ms(number(13)) },
        trimmed_drop: number(14),
        buried_drop: number(15),
        buried_sequence: Sequence::new(number(16)),
        first_position: Position::new(number(21)),
        purged: Sequence::new(number(22)),
        trim_reason: trim_reason(*reason).map_err(DecodeProblem::LaterVersion)?,
        may_expire: flags & MAY_EXPIRE != 0,
        is_damaged: flags & DAMAGED != 0,
        compacted: Compacted {
            kept: number(17),
            below: Sequence::new(number(18)),
            seen: Sequence::new(number(19)),
            due: Timestamp::from_ms(number(20)),
        },
    };
    let name = std::str::from_utf8(name).map_err(|error| error.to_string())?;
    Ok(StoredTopic {
        id,
        name: TopicName::new(name).map_err(|error| error.to_string())?,
        extent,
        config: serde_json::from_slice(config).map_err(|error| settings_problem(&error))?,
        is_deleted: flags & DELETED != 0,
    })
}

/// Returns what is wrong with settings that cannot be read. Those that are JSON have a name or a
/// value that this version does not know.
fn settings_problem(error: &serde_json::Error) -> DecodeProblem {
    match error.is_data() {
        true => DecodeProblem::LaterVersion(format!("a topic has unknown settings: {error}")),
        false => DecodeProblem::Damaged(error.to_string()),
    }
}

/// Decodes a topic's record from a source that is not trusted. Refuses settings that a topic cannot
/// have, and places that leave no room for more events.
///
/// # Errors
///
/// The record is damaged, or says what cannot be, or what this version does not know.
pub(crate) fn decode_foreign_topic(
    id: TopicId,
    record: &[u8],
) -> Result<StoredTopic, DecodeProblem> {
    let topic = decode_topic(id, record)?;
    topic.config.validate().map_err(|error| error.to_string())?;
    match topic.extent.places().into_iter().find(|place| *place > MAX_PLACE) {
        Some(place) => Err(format!("topic {:?} has the place {place}", topic.name.as_str()).into()),
        None => Ok(topic),
    }
}

fn trim_code(reason: TrimReason) -> u8 {
    match reason {
        TrimReason::Retention => 0,
        TrimReason::Expired => 1,
        TrimReason::Purged => 2,
        TrimReason::Deleted => 3,
    }
}

fn trim_reason(code: u8) -> Result<TrimReason, String> {
    Ok(match code {
        0 => TrimReason::Retention,
        1 => TrimReason::Expired,
        2 => TrimReason::Purged,
        3 => TrimReason::Deleted,
        other => return Err(format!("trim reason {other} is not known")),
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

/// Returns the format and the content of a record.
fn unseal(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeProblem> {
    let cut = || "it is cut".to_owned();
    let (crc, sealed) = bytes.split_at_checked(CRC_BYTES).ok_or_else(cut)?;
    if crc != crc32fast::hash(sealed).to_be_bytes() {
        return Err("its checksum does not fit".to_owned().into());
    }
    match sealed.split_first() {
        Some((&format @ (FORMAT | FIXED_NUMBERS_FORMAT), content)) => Ok((format, content)),
        Some((format, _)) => {
            let formats = format!("{FIXED_NUMBERS_FORMAT} and {FORMAT}");
            let problem = format!("format {format}; this version reads {formats}");
            Err(DecodeProblem::LaterVersion(problem))
        }
        None => Err(cut().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_config::TopicConfig;

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
            trimmed_time: Timestamp::from_ms(300),
            last_clock: Timestamp::from_ms(800),
            ahead: Ahead { position: Position::new(60), clock: Timestamp::from_ms(700) },
            trim_reason: TrimReason::Purged,
            rewritten: Sequence::new(4),
            buried_position: Position::new(50),
            trimmed_drop: 12,
            buried_drop: 13,
            buried_sequence: Sequence::new(6),
            first_position: Position::new(20),
            purged: Sequence::new(2),
            may_expire: true,
            is_damaged: true,
            compacted: Compacted {
                kept: 1,
                below: Sequence::new(5),
                seen: Sequence::new(6),
                due: Timestamp::from_ms(1_000),
            },
        };
        let config = TopicConfig { max_events: Some(7), ..TopicConfig::default() };
        let name = TopicName::new("quakes.us").unwrap();
        let id = TopicId::FIRST;
        let topic = StoredTopic { id, name, extent, config, is_deleted: true };
        let bytes = encode_topic(&topic);
        assert_eq!(decode_topic(id, &bytes).unwrap(), topic);
        for index in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[index / 8] ^= 1 << (index % 8);
            assert!(decode_topic(id, &flipped).is_err(), "bit {index}");
        }
        for length in 0..bytes.len() {
            assert!(decode_topic(id, &bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn the_place_in_a_stream_reads_back_and_every_flipped_bit_is_found() {
        let (stream, epoch) = (u64::MAX - 1, Epoch::new(0x0102_0304));
        let applied = Applied { stream, term: 3, number: 7, chain: 0xdead_beef, epoch };
        let bytes = encode_applied(&applied);
        assert_eq!(decode_applied(&bytes), Ok(applied));
        for index in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[index / 8] ^= 1 << (index % 8);
            decode_applied(&flipped).unwrap_err();
        }
        decode_applied(&[&bytes[..], b"x"].concat()).unwrap_err();
    }

    /// Goal: a log of an older version opens, and numbers that its records do not have are 0.
    #[test]
    fn a_topic_record_of_the_format_before_reads_back() {
        let name = TopicName::new("a").unwrap();
        let zero = Sequence::new(0);
        let compacted = Compacted { kept: 0, below: zero, seen: zero, due: Timestamp::from_ms(0) };
        let extent = Extent { tail: Sequence::new(9), compacted, ..Extent::EMPTY };
        let topic = StoredTopic { extent, ..StoredTopic::new(TopicId::FIRST, name) };
        let mut bytes = encode_topic(&topic);
        let numbers_at = CRC_BYTES + 1 + 2;
        bytes[CRC_BYTES] = FIXED_NUMBERS_FORMAT;
        bytes.drain(numbers_at + 1 + 8 * usize::from(FIXED_NUMBERS)..numbers_at + 1 + 8 * NUMBERS);
        bytes.remove(numbers_at);
        let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
        bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(decode_topic(TopicId::FIRST, &bytes).unwrap(), topic);
    }
}
