//! One record of the stream, as the nodes of a fleet write and read it.
//!
//! `name: 4` is a field of 4 bytes: the one byte `format` holds the number 1 ([`FORMAT`]). Numbers
//! are big-endian; `crc32` covers all bytes after it.
//!
//! ```text
//! | crc32: 4 | format: 1 | kind: 1 | term: 8 | number: 8 | chain: 4 | part: 2 | parts: 2 | body |
//!
//! kind 1, found         | epoch: 4 |                 the first record of a fleet, in term 0
//! kind 2, announce      | epoch: 4 | incarnation: 8 | name_bytes: 1 | name
//!                       | address_bytes: 2 | address |
//!                                                    the first record of a term: its leader
//! kind 3, heartbeat     | |                          the leader is there, and has nothing to say
//! kind 4, group         a part of a group (group_form.rs)
//! kind 129, resigned    | |                          the leader leads no longer: wait for nobody
//! ```
//!
//! `number` counts the records of a term, from 0. `chain` is the `crc32` of the record before in
//! the stream, and 0 in the first record. That checksum covers the `chain` before it, so the chain
//! covers the whole stream up to there. `part`, from 1, and `parts` say which part of a group the
//! body is; both are 0 in other records. `incarnation` is a number that a node draws when it
//! starts: two processes with one name are two nodes. `address` is the URL at which other nodes
//! reach the node; empty if it has told none.
//!
//! # Versions
//!
//! Nodes of two neighbouring versions read the same stream. What an older node does with what it
//! does not know:
//!
//! ```text
//! another format                it stops, and says that it must be updated
//! a kind below 128              it stops, and says that it must be updated
//! a kind from 128 on            it skips the record: its state does not depend on it
//! more at the end of a body     it skips that; in a group, see group_form.rs
//! ```
//!
//! So a later version can add what only informs. What every node must understand gets a new kind
//! or format, which is written only after all nodes of the fleet can read it.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use super::stream::MAX_RECORD_BYTES;
use crate::cursor::Epoch;
use crate::log::DecodeProblem;

/// The number of this layout.
pub(super) const FORMAT: u8 = 1;

/// The bytes before the body.
pub(super) const HEAD_BYTES: usize = 4 + 1 + 1 + 8 + 8 + 4 + 2 + 2;
const _: () = assert!(HEAD_BYTES == 30, "a changed head is a new FORMAT");

/// The most bytes of a group that one record has.
pub(super) const MAX_PART_BYTES: usize = MAX_RECORD_BYTES - HEAD_BYTES;

/// The longest name of a node, in bytes.
pub const MAX_NODE_NAME_BYTES: usize = 128;

/// The longest address of a node, in bytes.
pub const MAX_NODE_ADDRESS_BYTES: usize = 512;

/// The first kind that a node may skip if it does not know it.
const FIRST_SKIPPED_KIND: u8 = 128;

const FOUND: u8 = 1;
const ANNOUNCE: u8 = 2;
const HEARTBEAT: u8 = 3;
const GROUP: u8 = 4;
/// A node that does not know it waits for the end of the lease.
const RESIGNED: u8 = 129;

/// The place of a record among the records of its stream, besides its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    /// The term in which the record was written.
    pub(super) term: u64,
    /// The number of the record in its term, from 0.
    pub(super) number: u64,
    /// The checksum of the record before in the stream; 0 for the first record.
    pub(super) chain: u32,
}

/// A node that leads a fleet, or wants to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetLeader {
    /// The name of the node.
    pub node: String,
    /// The number that the node has drawn when it started.
    pub incarnation: u64,
    /// The URL at which other nodes reach the node; empty if it has told none.
    pub address: String,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecordBody {
    /// The first record of a fleet, with the epoch of the logs of all its nodes.
    Found(Epoch),
    /// The first record of a term.
    Announce {
        /// The node that wants to lead.
        leader: FleetLeader,
        /// The epoch of the logs of all nodes, as in the first record, which may be trimmed.
        epoch: Epoch,
    },
    /// A sign that the leader is there.
    Heartbeat,
    /// A part of a group.
    Part {
        /// The number of the part, from 1.
        part: u16,
        /// The number of parts of the group.
        parts: u16,
        /// The bytes of the part.
        bytes: Bytes,
    },
    /// A sign that the leader leads no longer.
    Resigned,
    /// A record of a later version, which only informs.
    Skipped,
}

/// Why a node cannot take a record of the stream, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordProblem {
    /// The record, or the group that it ends, is damaged, or does not belong where it is.
    #[error("{0}")]
    Unfit(String),
    /// The record, or the group that it ends, is of a version that this one does not know: nothing
    /// is wrong with the stream.
    #[error("{0}: update this node")]
    LaterVersion(String),
}

impl From<String> for RecordProblem {
    fn from(problem: String) -> Self {
        Self::Unfit(problem)
    }
}

impl From<&str> for RecordProblem {
    fn from(problem: &str) -> Self {
        Self::Unfit(problem.to_owned())
    }
}

impl From<DecodeProblem> for RecordProblem {
    fn from(problem: DecodeProblem) -> Self {
        match problem {
            DecodeProblem::Damaged(problem) => Self::Unfit(problem),
            DecodeProblem::LaterVersion(problem) => Self::LaterVersion(problem),
        }
    }
}

/// A record, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamRecord {
    pub(super) head: RecordHead,
    pub(super) body: RecordBody,
    /// The record's own checksum, which is the `chain` of the next record.
    pub(super) crc: u32,
}

/// Encodes a record.
///
/// # Panics
///
/// If a node's name or address, or a part, is longer than it may be.
pub(super) fn encode(head: &RecordHead, body: &RecordBody) -> Bytes {
    let (kind, part, parts) = match body {
        RecordBody::Found(_) => (FOUND, 0, 0),
        RecordBody::Announce { .. } => (ANNOUNCE, 0, 0),
        RecordBody::Heartbeat => (HEARTBEAT, 0, 0),
        RecordBody::Part { part, parts, .. } => (GROUP, *part, *parts),
        RecordBody::Resigned => (RESIGNED, 0, 0),
        RecordBody::Skipped => (FIRST_SKIPPED_KIND, 0, 0),
    };
    let body_bytes = if let RecordBody::Part { bytes, .. } = body { bytes.len() } else { 0 };
    let mut record = BytesMut::with_capacity(HEAD_BYTES + body_bytes.max(64));
    record.put_u32(0);
    record.put_slice(&[FORMAT, kind]);
    record.put_u64(head.term);
    record.put_u64(head.number);
    record.put_u32(head.chain);
    record.put_u16(part);
    record.put_u16(parts);
    match body {
        RecordBody::Found(epoch) => record.put_u32(epoch.get()),
        RecordBody::Announce { leader: FleetLeader { node, incarnation, address }, epoch } => {
            assert!(node.len() <= MAX_NODE_NAME_BYTES, "a node's name is short");
            record.put_u32(epoch.get());
            record.put_u64(*incarnation);
            record.put_u8(node.len() as u8);
            record.put_slice(node.as_bytes());
            assert!(address.len() <= MAX_NODE_ADDRESS_BYTES, "a node's address is short");
            record.put_u16(address.len() as u16);
            record.put_slice(address.as_bytes());
        }
        RecordBody::Part { bytes, .. } => record.put_slice(bytes),
        RecordBody::Heartbeat | RecordBody::Resigned | RecordBody::Skipped => {}
    }
    assert!(record.len() <= MAX_RECORD_BYTES, "a record fits the engine");
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_be_bytes());
    record.freeze()
}

/// Decodes a record.
///
/// # Errors
///
/// The record is damaged, or is of a version that this one does not know.
pub(super) fn decode(record: &Bytes) -> Result<StreamRecord, RecordProblem> {
    if record.len() > MAX_RECORD_BYTES {
        let problem = format!("it has {} bytes; {MAX_RECORD_BYTES} is the most", record.len());
        return Err(problem.into());
    }
    let cut = || RecordProblem::from("it is too short to be a record");
    let (head, _) = record.split_first_chunk::<HEAD_BYTES>().ok_or_else(cut)?;
    let crc = u32_at(head, 0);
    if crc != crc32fast::hash(&record[4..]) {
        return Err("its checksum does not fit".into());
    }
    if head[4] != FORMAT {
        let problem = format!("its format is {}; this version reads {FORMAT}", head[4]);
        return Err(RecordProblem::LaterVersion(problem));
    }
    let body = record.slice(HEAD_BYTES..);
    let (part, parts) = (u16_at(head, 26), u16_at(head, 28));
    let fits = match head[5] {
        GROUP => (1..=parts).contains(&part),
        kind if kind < FIRST_SKIPPED_KIND || kind == RESIGNED => (part, parts) == (0, 0),
        _ => true,
    };
    if !fits {
        return Err(format!("it is part {part} of {parts}").into());
    }
    let body = match head[5] {
        FOUND => {
            let epoch = body.first_chunk().ok_or_else(cut)?;
            RecordBody::Found(Epoch::new(u32::from_be_bytes(*epoch)))
        }
        ANNOUNCE => {
            let (epoch, rest) = body.split_first_chunk().ok_or_else(cut)?;
            let (incarnation, rest) = rest.split_first_chunk().ok_or_else(cut)?;
            let (node, rest) = text::<1>(rest, "name", MAX_NODE_NAME_BYTES)?;
            let (address, _later) = text::<2>(rest, "address", MAX_NODE_ADDRESS_BYTES)?;
            let epoch = Epoch::new(u32::from_be_bytes(*epoch));
            let incarnation = u64::from_be_bytes(*incarnation);
            RecordBody::Announce { leader: FleetLeader { node, incarnation, address }, epoch }
        }
        HEARTBEAT => RecordBody::Heartbeat,
        GROUP => RecordBody::Part { part, parts, bytes: body },
        RESIGNED => RecordBody::Resigned,
        FIRST_SKIPPED_KIND.. => RecordBody::Skipped,
        other => {
            return Err(RecordProblem::LaterVersion(format!("its kind {other} is not known")));
        }
    };
    let (term, number) = (u64_at(head, 6), u64_at(head, 14));
    Ok(StreamRecord { head: RecordHead { term, number, chain: u32_at(head, 22) }, body, crc })
}

/// Returns a text that has its length, of `N` bytes, before it, and what comes after.
fn text<'a, const N: usize>(
    body: &'a [u8],
    what: &str,
    most: usize,
) -> Result<(String, &'a [u8]), String> {
    let (length, rest) =
        body.split_first_chunk::<N>().ok_or_else(|| format!("it has no {what}"))?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    if length > most {
        return Err(format!("its {what} has {length} bytes"));
    }
    let (text, rest) = rest.split_at_checked(length).ok_or_else(|| format!("its {what} is cut"))?;
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    Ok((text.to_owned(), rest))
}

fn u16_at(head: &[u8; HEAD_BYTES], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

fn u32_at(head: &[u8; HEAD_BYTES], at: usize) -> u32 {
    u32::from_be_bytes(head[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(head: &[u8; HEAD_BYTES], at: usize) -> u64 {
    u64::from_be_bytes(head[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::super::samples::resealed;
    use super::*;

    fn announce(node: &str, address: &str) -> RecordBody {
        let (node, address) = (node.to_owned(), address.to_owned());
        let leader = FleetLeader { node, incarnation: 0x0a0b_0c0d, address };
        RecordBody::Announce { leader, epoch: Epoch::new(8) }
    }

    fn bodies() -> Vec<RecordBody> {
        let bytes = Bytes::from_static(b"some of a group");
        vec![
            RecordBody::Found(Epoch::new(0x0102_0304)),
            announce("n1", "https://n1:4280"),
            announce("", ""),
            announce(&"n".repeat(MAX_NODE_NAME_BYTES), &"a".repeat(MAX_NODE_ADDRESS_BYTES)),
            RecordBody::Heartbeat,
            RecordBody::Resigned,
            RecordBody::Part { part: 1, parts: 1, bytes: Bytes::new() },
            RecordBody::Part { part: 2, parts: 300, bytes },
            RecordBody::Skipped,
        ]
    }

    #[test]
    fn a_record_reads_back_and_one_that_is_cut_or_altered_is_refused() {
        let head = RecordHead { term: 7, number: 1 << 40, chain: 0xdead_beef };
        for body in bodies() {
            let whole = encode(&head, &body);
            let read = decode(&whole).unwrap();
            assert_eq!((read.head, &read.body), (head, &body));
            assert_eq!(read.crc.to_be_bytes(), whole[..4]);
            for length in 0..whole.len() {
                decode(&whole.slice(..length)).unwrap_err();
            }
            for bit in 0..whole.len() * 8 {
                let mut altered = whole.to_vec();
                altered[bit / 8] ^= 1 << (bit % 8);
                decode(&altered.into()).unwrap_err();
            }
        }
    }

    /// Goal: a forged record with a right checksum is refused with a sentence.
    #[test]
    fn a_record_that_cannot_be_is_refused_whatever_byte_is_wrong() {
        let head = RecordHead { term: 1, number: 1, chain: 1 };
        for body in bodies() {
            let whole = encode(&head, &body);
            for at in 4..whole.len() {
                for byte in 0..=255 {
                    match decode(&resealed(&whole, at, byte)) {
                        Ok(read) if read.body == RecordBody::Skipped => {}
                        // Each other record has one form alone, but for what it has at its end.
                        Ok(read) => {
                            let again = encode(&read.head, &read.body);
                            let bytes = resealed(&whole, at, byte);
                            assert_eq!(again[4..], bytes[4..again.len()], "{body:?} {at} {byte}");
                        }
                        Err(problem) => assert!(!problem.to_string().is_empty()),
                    }
                }
            }
        }
        let part = RecordBody::Part { part: 1, parts: 1, bytes: Bytes::new() };
        let part = encode(&head, &part);
        for (at, byte, problem) in [
            (4, 2, "its format is 2; this version reads 1: update this node"),
            (5, 9, "its kind 9 is not known: update this node"),
            (5, 3, "it is part 1 of 1"),
            (27, 0, "it is part 0 of 1"),
            (27, 2, "it is part 2 of 1"),
        ] {
            // A kind that is not known has no parts.
            let bytes = resealed(&part, at, byte);
            let bytes = if byte == 9 { resealed(&resealed(&bytes, 27, 0), 29, 0) } else { bytes };
            assert_eq!(decode(&bytes).unwrap_err().to_string(), problem);
        }
        let large = decode(&Bytes::from(vec![0; MAX_RECORD_BYTES + 1])).unwrap_err();
        assert_eq!(large.to_string(), "it has 1044481 bytes; 1044480 is the most");
    }

    #[test]
    fn what_a_later_version_adds_to_inform_is_skipped() {
        let head = RecordHead { term: 2, number: 5, chain: 9 };
        let longer = |body: &RecordBody| {
            let mut bytes = encode(&head, body).to_vec();
            bytes.extend_from_slice(b"and more");
            resealed(&bytes, 4, FORMAT)
        };
        for body in [RecordBody::Found(Epoch::new(3)), announce("n1", ""), RecordBody::Heartbeat] {
            assert_eq!(decode(&longer(&body)).unwrap().body, body);
        }
        let later = resealed(&encode(&head, &RecordBody::Heartbeat), 5, 200);
        let read = decode(&later).unwrap();
        assert_eq!((read.head, read.body), (head, RecordBody::Skipped));
    }
}
