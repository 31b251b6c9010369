//! The mark: a small file beside the log that says how far the log was known to be durable.
//!
//! ```text
//! | crc32: 4 | epoch: 4 | position: 8 | boot: 16 |    big-endian; crc32 covers all after it
//! ```
//!
//! `boot` is 0 as long as everything that was acknowledged was synced before. Otherwise it is the
//! id of the system's start in which it was not: `/proc/sys/kernel/random/boot_id`.
//!
//! # Why
//!
//! sled takes the first damaged entry that it meets while it recovers for the end of the log: it
//! drops what follows, without a word (`LogIter::next` in src/pagecache/iterator.rs of 0.34.7).
//! Positions have no holes, so one number from outside of sled unmasks it: a log that ends before
//! its mark has lost events. The mark is written after the sync it speaks of, and is not synced
//! itself: it may lag behind after a power loss, it never runs ahead.
//!
//! Events of topics that are content to outlive the process are seen by readers before they are
//! synced. When the system goes down, some of them may be gone, and their sequences would be given
//! out again: a reader who saw the first ones would miss the others in silence. So the mark notes,
//! and syncs, that there are such events before the first of them is acknowledged; a log that is
//! opened in another start of the system then begins an epoch.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::cursor::{Epoch, Position};

const FILE_NAME: &str = "mark";
const CRC_BYTES: usize = 4;
const MARK_BYTES: usize = CRC_BYTES + 4 + 8 + 16;

/// The open file.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    noted: Mutex<Noted>,
}

/// What the file says besides the epoch.
#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    position: Position,
    boot: u128,
}

/// What a mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    /// Everything up to here is durable.
    pub(super) position: Position,
    boot: u128,
}

impl Marked {
    /// Whether events that were acknowledged may be gone, for the system went down.
    pub(super) fn has_lost_some(&self) -> bool {
        self.boot != 0 && self.boot != current_boot()
    }
}

/// The id of the system's start; one of its own where the system does not tell.
fn current_boot() -> u128 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).unwrap_or(0);
    if id == 0 { rand::random::<u128>() | 1 } else { id }
}

impl Mark {
    /// Opens the file in `directory`, creating it where it is missing.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, noted: Mutex::default() })
    }

    /// Notes that everything up to `position` is durable.
    pub(super) fn write(&self, epoch: Epoch, position: Position) -> io::Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.position = position;
        self.file.write_all_at(&encode(epoch, *noted), 0)
    }

    /// Notes that there are events that are not synced, and makes that survive a power loss.
    pub(super) fn note_unsynced(&self, epoch: Epoch) -> io::Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.boot != 0 {
            return Ok(());
        }
        let unsynced = Noted { boot: current_boot(), ..*noted };
        self.file.write_all_at(&encode(epoch, unsynced), 0)?;
        self.file.sync_all()?;
        *noted = unsynced;
        Ok(())
    }

    /// Notes that there are none any more.
    pub(super) fn note_synced(&self, epoch: Epoch) -> io::Result<()> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.boot == 0 {
            return Ok(());
        }
        noted.boot = 0;
        self.file.write_all_at(&encode(epoch, *noted), 0)
    }

    /// Makes what was written survive a power loss, the file's existence included.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// What was noted in `epoch`, and goes on from there; `None` where there is nothing.
    pub(super) fn read(&self, epoch: Epoch) -> io::Result<Option<Marked>> {
        let mut bytes = [0; MARK_BYTES];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let marked = decode(&bytes, epoch);
        if let Some(Marked { position, boot }) = marked {
            let boot = if boot == current_boot() { boot } else { 0 };
            *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = Noted { position, boot };
        }
        Ok(marked)
    }
}

/// Reads the mark in `directory` without creating anything.
pub(super) fn read(directory: &Path, epoch: Epoch) -> io::Result<Option<Marked>> {
    match std::fs::read(directory.join(FILE_NAME)) {
        Ok(bytes) => Ok(bytes.as_slice().try_into().ok().and_then(|bytes| decode(bytes, epoch))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(epoch: Epoch, noted: Noted) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[4..8].copy_from_slice(&epoch.get().to_be_bytes());
    bytes[8..16].copy_from_slice(&noted.position.get().to_be_bytes());
    bytes[16..].copy_from_slice(&noted.boot.to_be_bytes());
    let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8; MARK_BYTES], epoch: Epoch) -> Option<Marked> {
    let crc = u32::from_be_bytes(bytes[..CRC_BYTES].try_into().expect("4 bytes"));
    let noted = u32::from_be_bytes(bytes[4..8].try_into().expect("4 bytes"));
    let position = u64::from_be_bytes(bytes[8..16].try_into().expect("8 bytes"));
    let boot = u128::from_be_bytes(bytes[16..].try_into().expect("16 bytes"));
    let holds = crc == crc32fast::hash(&bytes[CRC_BYTES..]) && noted == epoch.get();
    holds.then_some(Marked { position: Position::new(position), boot })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_were_not_synced_are_remembered_until_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let epoch = Epoch::new(7);
        let mark = Mark::open(directory.path()).unwrap();
        mark.write(epoch, Position::new(3)).unwrap();
        let marked = || read(directory.path(), epoch).unwrap().unwrap();
        assert_eq!(marked().boot, 0);
        mark.note_unsynced(epoch).unwrap();
        let boot = marked().boot;
        assert_ne!(boot, 0, "it says in which start of the system they were not");
        mark.write(epoch, Position::new(4)).unwrap();
        assert_eq!(marked().boot, boot, "they are not synced because others are");
        assert_eq!((marked().position, marked().has_lost_some()), (Position::new(4), false));
        let elsewhere = Marked { boot: marked().boot ^ 1, ..marked() };
        assert!(elsewhere.has_lost_some(), "the system was started again since");
        mark.note_synced(epoch).unwrap();
        assert_eq!((marked().boot, marked().position), (0, Position::new(4)));
        assert_eq!(read(directory.path(), Epoch::new(8)).unwrap(), None);
    }

    /// Goal: a mark that is opened again goes on where it was: how far it is, and whether something
    /// is not synced in this start of the system. In another one, all there is was found on disk.
    #[test]
    fn a_mark_that_is_opened_again_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (epoch, position) = (Epoch::new(7), Position::new(3));
        let on_disk = || read(directory.path(), epoch).unwrap().unwrap();
        let open = || Mark::open(directory.path()).unwrap();
        assert_eq!(open().read(epoch).unwrap(), None);
        open().write(epoch, position).unwrap();

        let mark = open();
        assert_eq!(mark.read(epoch).unwrap().unwrap().position, position);
        mark.note_unsynced(epoch).unwrap();
        assert_eq!(on_disk().position, position, "what was durable still is");

        let mark = open();
        assert!(!mark.read(epoch).unwrap().unwrap().has_lost_some(), "the system did not go down");
        mark.note_synced(epoch).unwrap();
        assert_eq!((on_disk().position, on_disk().boot), (position, 0));

        let elsewhere = encode(epoch, Noted { position, boot: current_boot() ^ 2 });
        std::fs::write(directory.path().join(FILE_NAME), elsewhere).unwrap();
        let mark = open();
        assert!(mark.read(epoch).unwrap().unwrap().has_lost_some());
        mark.note_unsynced(epoch).unwrap();
        assert_eq!(on_disk().boot, current_boot(), "these are of this start");
    }
}
