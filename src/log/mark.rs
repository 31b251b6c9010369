//! The mark: a small file beside the log that says how far the log was known to be durable.
//!
//! ```text
//! | crc32: 4 | epoch: 4 | position: 8 |      big-endian; crc32 covers all bytes after it
//! ```
//!
//! # Why
//!
//! sled takes the first damaged entry that it meets while it recovers for the end of the log: it
//! drops what follows, without a word (`LogIter::next` in src/pagecache/iterator.rs of 0.34.7).
//! Positions have no holes, so one number from outside of sled unmasks it: a log that ends before
//! its mark has lost events. The mark is written after the sync it speaks of, and is not synced
//! itself: it may lag behind after a power loss, it never runs ahead.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cursor::{Epoch, Position};

const FILE_NAME: &str = "mark";
const CRC_BYTES: usize = 4;
const MARK_BYTES: usize = CRC_BYTES + 4 + 8;

/// The open file.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// Opens the file in `directory`, creating it where it is missing.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self(file))
    }

    /// Notes that everything up to `position` is durable.
    pub(super) fn write(&self, epoch: Epoch, position: Position) -> io::Result<()> {
        let mut bytes = [0; MARK_BYTES];
        bytes[4..8].copy_from_slice(&epoch.get().to_be_bytes());
        bytes[8..].copy_from_slice(&position.get().to_be_bytes());
        let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
        bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    /// Makes what was written survive a power loss, the file's existence included.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    /// The position that was noted in `epoch`; `None` where there is none.
    pub(super) fn read(&self, epoch: Epoch) -> io::Result<Option<Position>> {
        let mut bytes = [0; MARK_BYTES];
        match self.0.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(decode(&bytes, epoch))
    }
}

/// Reads the mark in `directory` without creating anything.
pub(super) fn read(directory: &Path, epoch: Epoch) -> io::Result<Option<Position>> {
    match std::fs::read(directory.join(FILE_NAME)) {
        Ok(bytes) => Ok(bytes.as_slice().try_into().ok().and_then(|bytes| decode(bytes, epoch))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode(bytes: &[u8; MARK_BYTES], epoch: Epoch) -> Option<Position> {
    let crc = u32::from_be_bytes(bytes[..CRC_BYTES].try_into().expect("4 bytes"));
    let noted = u32::from_be_bytes(bytes[4..8].try_into().expect("4 bytes"));
    let position = u64::from_be_bytes(bytes[8..].try_into().expect("8 bytes"));
    let holds = crc == crc32fast::hash(&bytes[CRC_BYTES..]) && noted == epoch.get();
    holds.then_some(Position::new(position))
}
