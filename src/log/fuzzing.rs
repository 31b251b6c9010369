//! Checks of the decoders of files, for any input at all: see [`crate::fuzzing`].

#![allow(clippy::missing_panics_doc, reason = "a check panics when a promise is broken")]

use bytes::Bytes;

use super::backup::{self, BackupEncoder, BackupReader, Frame};
use super::block::Block;
use super::block_header::HEADER_BYTES;
use crate::cursor::Sequence;
use crate::event::Event;

/// Checks the decoder of blocks, with the input as it is, and with the input after its lengths and
/// its checksum are made right.
pub fn blocks(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    if let Err(problem) = Block::size_of(&input) {
        assert!(!problem.is_empty() && Block::beginning(&input).is_none());
    }
    check_block(input.clone());
    check_block(sealed_block(&input));
}

fn check_block(bytes: Bytes) {
    let block = match Block::decode_foreign(bytes.clone()) {
        Ok(block) => block,
        Err(problem) => return assert!(!problem.is_empty()),
    };
    assert_eq!(block.bytes(), &bytes);
    let events = events_of(&block);
    assert_eq!(events.len(), block.count());
    assert!(events.windows(2).all(|pair| {
        pair[0].sequence < pair[1].sequence
            && pair[0].position < pair[1].position
            && pair[0].time <= pair[1].time
    }));
    let _expiry = block.first_expiry();
    // Blocks that are made of this one have the same events.
    let again = reread(&Block::merge(std::slice::from_ref(&block), |_| true));
    assert_eq!(events_of(&again), events);
    assert_eq!(Block::merge(std::slice::from_ref(&again), |_| true).bytes(), again.bytes());
    assert_eq!(reread(&Block::merge(std::slice::from_ref(&block), |_| false)).count(), 0);
    let (first, end) = (block.first_sequence(), block.last_sequence().next());
    let middle = events.get(events.len() / 2).map_or(end, |event| event.sequence);
    let parts = [first..middle, middle..end];
    let parts: Vec<Block> = parts.into_iter().filter_map(|part| block.part(part)).collect();
    let in_parts: Vec<Event> = parts.iter().flat_map(|part| events_of(&reread(part))).collect();
    assert_eq!(in_parts, events);
    assert_eq!(events_of(&reread(&Block::merge(&parts, |_| true))), events);
    assert!(block.part(end..Sequence::new(u64::MAX)).is_none());
}

/// Returns the block, decoded anew from its bytes.
fn reread(block: &Block) -> Block {
    Block::decode_foreign(block.bytes().clone()).expect("what is written can be read")
}

fn events_of(block: &Block) -> Vec<Event> {
    block.events().map(|event| block.to_event(&event)).collect()
}

/// Returns `bytes` with the format, the length and the checksum of a block.
fn sealed_block(bytes: &[u8]) -> Bytes {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES {
        let body_bytes = (bytes.len() - HEADER_BYTES) as u32;
        bytes[4] = 1;
        bytes[10..14].copy_from_slice(&body_bytes.to_be_bytes());
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_be_bytes());
    }
    bytes.into()
}

/// Checks the decoder of backups, with the input as it is, and with the input after its lengths,
/// checksums and end are made right.
pub fn backups(input: &[u8]) {
    if let Err(problem) = read_backup(input) {
        assert!(!problem.is_empty());
    }
    let sealed = sealed_backup(input);
    let Ok((encoder, frames)) = read_backup(&sealed) else { return };
    // The frames are the same when they are written and read again.
    let mut written = encoder.0;
    let mut encoder = encoder.1;
    frames.iter().for_each(|frame| written.extend(encoder.frame(frame)));
    written.extend(encoder.end());
    let (_, again) = read_backup(&written).expect("what is written can be read");
    assert_eq!(format!("{again:?}"), format!("{frames:?}"));
}

/// The beginning of another backup with the same header, and the frames of a backup.
type Backup = ((Vec<u8>, BackupEncoder), Vec<Frame>);

fn read_backup(bytes: &[u8]) -> Result<Backup, String> {
    let mut reader = BackupReader::new(bytes)?;
    let encoder = BackupEncoder::default();
    let header = encoder.header(reader.header());
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame);
    }
    Ok(((header, encoder), frames))
}

/// Returns `bytes` as a backup in which all that can be computed is right.
fn sealed_backup(bytes: &[u8]) -> Vec<u8> {
    let Some((header, mut rest)) = bytes.split_at_checked(backup::HEADER_BYTES) else {
        return bytes.to_vec();
    };
    let mut sealed = header.to_vec();
    sealed[..9].copy_from_slice(b"LEFTOFFB\x02");
    let crc = crc32fast::hash(&sealed[..backup::HEADER_BYTES - 4]);
    sealed[backup::HEADER_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
    let mut encoder = BackupEncoder::default();
    while let Some((head, after)) = rest.split_at_checked(backup::FRAME_BYTES) {
        let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) as usize;
        let (content, after) = after.split_at(length.min(after.len()));
        rest = after;
        let (id, content) = content.split_at(content.len().min(4));
        match head[4] {
            3 => continue,
            2 => sealed.extend(encoder.encode(2, &[id, &sealed_block(content)])),
            kind => sealed.extend(encoder.encode(kind, &[id, &sealed_record(content)])),
        }
    }
    sealed.extend(encoder.end());
    sealed
}

/// Returns `bytes` with the checksum of a topic's record.
fn sealed_record(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((checksum, covered)) = bytes.split_first_chunk_mut::<4>() {
        *checksum = crc32fast::hash(covered).to_be_bytes();
    }
    bytes
}
