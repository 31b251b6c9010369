//! A backup file: the events and topics that a log held at one position, or those that were added
//! since an earlier one. `name: 4` is a field of 4 bytes: the one byte `format` holds the
//! number 2 ([`FORMAT`]), and no other number is read.
//!
//! ```text
//! header   | "LEFTOFFB": 8 | format: 1 | epoch: 4 | from: 8 | position: 8 | time_ms: 8
//!          | crc32: 4 |
//! frame    | crc32: 4 | kind: 1 | length: 4 | content: length |
//!            kind 1, a topic: | id: 4 | its record (meta.rs) |      before its blocks
//!            kind 2, a block: | id of its topic: 4 | the block (block.rs) |
//!            kind 3, the end: | frames before it: 8 | crc32 of all their crc32s: 4 |
//!            kind 4, a whole topic: as kind 1; blocks of it in earlier backups do not count
//!            kind 5, the place in the fleet's stream: | its record (meta.rs) |   first, if any
//!            kind 6, a block of ids: as kind 2 (ids.rs); after the place
//! ```
//!
//! Numbers are big-endian. A header's `crc32` covers all bytes before it, a frame's all bytes after
//! it. `from` is the position that the backup follows, 0 for a backup of everything. The end counts
//! the frames and covers their checksums: a backup without its end, or with a frame that is
//! altered, missing or moved, is refused.

use std::io::{self, Read};

use bytes::Bytes;

use super::applied::Applied;
use super::block::Block;
use super::meta;
use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position};
use crate::event::Timestamp;
use crate::topic::TopicId;

const MAGIC: &[u8; 8] = b"LEFTOFFB";
const FORMAT: u8 = 2;
/// The bytes of the header, and of the head of each frame.
pub(super) const HEADER_BYTES: usize = 8 + 1 + 4 + 3 * 8 + 4;
pub(super) const FRAME_BYTES: usize = 4 + 1 + 4;

/// The largest content of a frame, in bytes: a block with an event of the largest size, which the
/// limit on a batch bounds to 64 MiB, and some more.
const MAX_CONTENT_BYTES: usize = 80 << 20;

/// The message for a backup that ends too early.
const CUT: &str = "it is cut: its end is missing";

/// The header of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupHeader {
    /// The epoch of the log that was backed up.
    pub epoch: Epoch,
    /// The position that the backup follows; 0 for a backup of everything.
    pub from: Position,
    /// The position at which the backup is consistent.
    pub position: Position,
    /// The time at which the backup was begun.
    pub time: Timestamp,
}

/// A frame of a backup, decoded.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A topic's record. The blocks that follow go on where those of the earlier backup end.
    Topic(StoredTopic),
    /// A topic's record. The blocks that follow are all blocks of the topic.
    WholeTopic(StoredTopic),
    /// A block of a topic whose record came before.
    Block(TopicId, Block),
    /// The place in the fleet's stream up to which everything is in the backup.
    Applied(Applied),
    /// A block of ids of events that a topic has dropped. Only a backup with a place has them.
    Ids(TopicId, Block),
}

/// An encoder of a backup, frame by frame.
#[derive(Debug, Default)]
pub(crate) struct BackupEncoder {
    frames: u64,
    checksums: crc32fast::Hasher,
}

impl BackupEncoder {
    /// Encodes the header.
    pub(crate) fn header(&self, header: &BackupHeader) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(FORMAT);
        bytes.extend_from_slice(&header.epoch.get().to_be_bytes());
        for number in [header.from.get(), header.position.get(), header.time.as_ms()] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Encodes the next frame.
    pub(crate) fn frame(&mut self, frame: &Frame) -> Vec<u8> {
        let (kind, id, content) = match frame {
            Frame::Applied(applied) => return self.encode(5, &[&meta::encode_applied(applied)]),
            Frame::Topic(topic) => (1, topic.id, Bytes::from(meta::encode_topic(topic))),
            Frame::WholeTopic(topic) => (4, topic.id, Bytes::from(meta::encode_topic(topic))),
            Frame::Block(id, block) => (2, *id, block.bytes().clone()),
            Frame::Ids(id, block) => (6, *id, block.bytes().clone()),
        };
        self.encode(kind, &[&id.get().to_be_bytes(), &content])
    }

    /// Encodes the end, which counts the frames and covers their checksums.
    pub(crate) fn end(mut self) -> Vec<u8> {
        let (frames, checksum) = (self.frames, self.checksums.clone().finalize());
        self.encode(3, &[&frames.to_be_bytes(), &checksum.to_be_bytes()])
    }

    pub(super) fn encode(&mut self, kind: u8, contents: &[&[u8]]) -> Vec<u8> {
        let length: usize = contents.iter().map(|content| content.len()).sum();
        let length = u32::try_from(length).expect("a block is smaller than 4 GiB");
        let mut bytes = vec![0; 4];
        bytes.push(kind);
        bytes.extend_from_slice(&length.to_be_bytes());
        contents.iter().for_each(|content| bytes.extend_from_slice(content));
        let crc = crc32fast::hash(&bytes[4..]).to_be_bytes();
        bytes[..4].copy_from_slice(&crc);
        self.frames += 1;
        self.checksums.update(&crc);
        bytes
    }
}

/// A reader of a backup, which verifies it frame by frame.
#[derive(Debug)]
pub struct BackupReader<R> {
    input: R,
    header: BackupHeader,
    frames: u64,
    checksums: crc32fast::Hasher,
    is_over: bool,
}

impl<R: Read> BackupReader<R> {
    /// Reads the header of a backup.
    ///
    /// # Errors
    ///
    /// A sentence that says why the input is not a backup, or that its header was altered.
    pub fn new(mut input: R) -> Result<Self, String> {
        let mut bytes = [0; HEADER_BYTES];
        read_exact(&mut input, &mut bytes)?;
        let header = decode_header(&bytes)?;
        let checksums = crc32fast::Hasher::default();
        Ok(Self { input, header, frames: 0, checksums, is_over: false })
    }

    /// Returns the header of the backup.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// Reads the next frame; `None` after the end, which is verified.
    ///
    /// # Errors
    ///
    /// A sentence that says that the backup was cut or altered, or cannot be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, String> {
        if self.is_over {
            return Ok(None);
        }
        let mut head = [0; FRAME_BYTES];
        read_exact(&mut self.input, &mut head)?;
        let [.., a, b, c, d] = head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_CONTENT_BYTES {
            return Err(self.altered());
        }
        let content = self.read_content(length)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[4..]);
        crc.update(&content);
        if head[..4] != crc.finalize().to_be_bytes() {
            return Err(self.altered());
        }
        let frame = self.decode(head[4], content)?;
        self.frames += 1;
        self.checksums.update(&head[..4]);
        Ok(frame)
    }

    /// Reads the content of a frame. It takes memory for the bytes that come, not for the length
    /// that the frame's head claims.
    fn read_content(&mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut content = Vec::new();
        let mut input = self.input.by_ref().take(length as u64);
        input.read_to_end(&mut content).map_err(|error| error.to_string())?;
        if content.len() < length { Err(CUT.to_owned()) } else { Ok(content) }
    }

    fn decode(&mut self, kind: u8, content: Vec<u8>) -> Result<Option<Frame>, String> {
        let content = Bytes::from(content);
        if kind == 3 {
            let mut expected = self.frames.to_be_bytes().to_vec();
            expected.extend_from_slice(&self.checksums.clone().finalize().to_be_bytes());
            let mut more = [0];
            let is_last = self.input.read(&mut more).map_err(|e| e.to_string())? == 0;
            if content != expected || !is_last {
                return Err("parts of it are missing, moved or added".to_owned());
            }
            self.is_over = true;
            return Ok(None);
        }
        if kind == 5 {
            return Ok(Some(Frame::Applied(meta::decode_applied(&content)?)));
        }
        let id = content.first_chunk().map(|id| u32::from_be_bytes(*id));
        let id = id.and_then(TopicId::from_stored).ok_or_else(|| self.altered())?;
        let rest = content.slice(4..);
        match kind {
            1 => Ok(Some(Frame::Topic(meta::decode_foreign_topic(id, &rest)?))),
            2 => Ok(Some(Frame::Block(id, Block::decode_foreign(rest)?))),
            4 => Ok(Some(Frame::WholeTopic(meta::decode_foreign_topic(id, &rest)?))),
            6 => Ok(Some(Frame::Ids(id, Block::decode_foreign(rest)?))),
            other => Err(format!("it has a part of kind {other}, which is not known")),
        }
    }

    fn altered(&self) -> String {
        format!("its part {} was altered", self.frames + 1)
    }
}

fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<BackupHeader, String> {
    let (covered, crc) = bytes.split_at(HEADER_BYTES - 4);
    if !covered.starts_with(MAGIC) {
        return Err("it is not a backup of a log".to_owned());
    }
    if crc != crc32fast::hash(covered).to_be_bytes() {
        return Err("its header was altered".to_owned());
    }
    if covered[8] != FORMAT {
        return Err(format!("its format is {}; this version reads {FORMAT}", covered[8]));
    }
    let number = |at: usize| u64::from_be_bytes(covered[at..at + 8].try_into().expect("8 bytes"));
    let epoch = u32::from_be_bytes(covered[9..13].try_into().expect("4 bytes"));
    Ok(BackupHeader {
        epoch: Epoch::new(epoch),
        from: Position::new(number(13)),
        position: Position::new(number(21)),
        time: Timestamp::from_ms(number(29)),
    })
}

fn read_exact(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), String> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => CUT.to_owned(),
        _ => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Sequence;
    use crate::log::block::tests::block;
    use crate::log::extent::Extent;
    use crate::topic::TopicName;
    use crate::topic_config::TopicConfig;

    fn backup() -> Vec<u8> {
        let mut encoder = BackupEncoder::default();
        let header = BackupHeader {
            epoch: Epoch::new(7),
            from: Position::new(0),
            position: Position::new(2),
            time: Timestamp::from_ms(5),
        };
        let id = TopicId::FIRST;
        let topic = StoredTopic::new(id, TopicName::new("a").unwrap());
        let mut bytes = encoder.header(&header);
        bytes.extend(encoder.frame(&Frame::Topic(topic.clone())));
        bytes.extend(encoder.frame(&Frame::Block(id, block((1, 1, 1), 0, &[b"one"]))));
        bytes.extend(encoder.frame(&Frame::WholeTopic(topic)));
        bytes.extend(encoder.frame(&Frame::Block(id, block((2, 2, 1), 0, &[b"two"]))));
        bytes.extend(encoder.end());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<usize, String> {
        let mut reader = BackupReader::new(bytes)?;
        let mut frames = 0;
        while reader.next_frame()?.is_some() {
            frames += 1;
        }
        Ok(frames)
    }

    #[test]
    fn a_backup_reads_back_and_one_that_is_cut_or_altered_is_refused() {
        let whole = backup();
        assert_eq!(read(&whole), Ok(4));
        for length in 0..whole.len() {
            read(&whole[..length]).unwrap_err();
        }
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            read(&altered).unwrap_err();
        }
        let longer = [&whole[..], b"x"].concat();
        read(&longer).unwrap_err();
    }

    #[test]
    fn a_backup_without_one_of_its_parts_or_with_two_of_them_exchanged_is_refused() {
        let whole = backup();
        let mut ends = vec![HEADER_BYTES];
        while let Some(head) = whole.get(ends[ends.len() - 1]..).filter(|rest| !rest.is_empty()) {
            let length = u32::from_be_bytes(head[5..9].try_into().unwrap()) as usize;
            ends.push(ends[ends.len() - 1] + FRAME_BYTES + length);
        }
        let part = |index: usize| &whole[ends[index]..ends[index + 1]];
        let parts = |order: &[usize]| -> Vec<u8> {
            let parts = order.iter().map(|index| part(*index));
            [&whole[..HEADER_BYTES]].into_iter().chain(parts).collect::<Vec<_>>().concat()
        };
        assert_eq!(read(&parts(&[0, 1, 2, 3, 4])), Ok(4));
        for order in
            [&[0, 1, 2, 4][..], &[0, 3, 2, 1, 4], &[0, 1, 1, 2, 3, 4], &[0, 1, 2, 3, 4, 4], &[4]]
        {
            read(&parts(order)).unwrap_err();
        }
    }

    /// Goal: a forged backup with right checksums is refused with a sentence.
    #[test]
    fn a_backup_of_blocks_and_topics_that_cannot_be_is_refused_and_takes_no_more_than_its_bytes() {
        let id = TopicId::FIRST.get().to_be_bytes();
        let refused = |kind: u8, content: &[u8], problem: &str| {
            let mut encoder = BackupEncoder::default();
            let mut bytes = backup()[..HEADER_BYTES].to_vec();
            bytes.extend(encoder.encode(kind, &[&id, content]));
            bytes.extend(encoder.end());
            let error = read(&bytes).unwrap_err();
            assert!(error.contains(problem), "{error}");
        };
        let whole = block((1, 1, 1), 0, &[b"one"]).bytes().to_vec();
        let resealed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            let crc = crc32fast::hash(&bytes[4..]);
            bytes[..4].copy_from_slice(&crc.to_be_bytes());
            bytes
        };
        // These bytes make: a record longer than the block, a count of one event too many,
        // sequences up to 2^64, a last sequence before the first, and an unknown flag.
        for (at, byte) in [(70, 200), (9, 2), (22, 255), (29, 0), (5, 128)] {
            refused(2, &resealed(at, byte), "its records are not what its header says");
        }
        let topic = StoredTopic::new(TopicId::FIRST, TopicName::new("a").unwrap());
        let extent = Extent { tail: Sequence::new(u64::MAX), ..topic.extent };
        let far = StoredTopic { extent, ..topic.clone() };
        refused(1, &meta::encode_topic(&far), "topic \"a\" has the place 18446744073709551615");
        let config = TopicConfig { max_events_per_key: Some(0), ..TopicConfig::default() };
        let wrong = StoredTopic { config, ..topic };
        refused(4, &meta::encode_topic(&wrong), "max_events_per_key: is 0");
        // The head of a frame that claims to have 80 MiB.
        let mut cut = backup()[..HEADER_BYTES].to_vec();
        cut.extend([0, 0, 0, 0, 2]);
        cut.extend((MAX_CONTENT_BYTES as u32).to_be_bytes());
        let taken = allocation_counter::measure(|| assert_eq!(read(&cut).unwrap_err(), CUT));
        assert!(taken.bytes_max < 64 << 10, "{taken:?}");
    }
}
