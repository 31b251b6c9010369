//! The mark: a small file beside the log that says how far the log was known to be durable.
//!
//! ```text
//! | crc32: 4 | epoch: 4 | position: 8 | boot: 16 | lsn: 8 | loss: 1 |
//! ```
//!
//! Numbers are big-endian; `crc32` covers all after it. A mark of an older version ends after
//! `boot`.
//!
//! `boot` is 0 as long as everything that was acknowledged was synced before. Otherwise it is the
//! id of the system's start in which it was not: `/proc/sys/kernel/random/boot_id`. `lsn` is the
//! last place in sled's own log that is durable. `loss` is 0 unless it was found that something up
//! to there is missing, until an epoch begins: 1, or 2 where any topic may be concerned.
//!
//! # Why
//!
//! sled takes the first damaged entry that it meets while it recovers for the end of the log: it
//! drops what follows, without a word (`LogIter::next` in src/pagecache/iterator.rs of 0.34.7).
//! Positions have no holes, so one number from outside of sled unmasks it: a log that ends before
//! its mark has lost events. A deletion or a setting has no position, but a place in sled's log:
//! what is damaged up to `lsn` was durable, and what does not fit after it was never finished
//! (salvage.rs). The mark is written after the sync it speaks of, and is not synced itself: it may
//! lag behind after a power loss, it never runs ahead.
//!
//! Events of topics that are content to outlive the process are seen by readers before they are
//! synced. When the system goes down, some of them may be gone, and their sequences would be given
//! out again: a reader who saw the first ones would miss the others in silence. So the mark notes,
//! and syncs, that there are such events before the first of them is acknowledged; a log that is
//! opened in another start of the system then begins an epoch.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cursor::{Epoch, Position};

const FILE_NAME: &str = "mark";
const CRC_BYTES: usize = 4;
const MARK_BYTES: usize = OLD_MARK_BYTES + 8 + 1;

/// The length of a mark without a place in sled's log.
const OLD_MARK_BYTES: usize = CRC_BYTES + 4 + 8 + 16;

/// The open file, and what it says.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    noted: Mutex<NotedMark>,
}

/// The content of the file, and its epoch.
#[derive(Debug, Clone, Copy, Default)]
struct NotedMark {
    /// `None` until something is read or written.
    epoch: Option<Epoch>,
    marked: MarkContent,
}

/// The content of a mark, without the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MarkContent {
    /// Every event up to here is durable.
    pub(super) position: Position,
    /// sled's own log is durable up to here; `None` where that was not noted.
    pub(super) lsn: Option<i64>,
    /// The loss that was found and that no new epoch tells of yet.
    pub(super) loss: Loss,
    boot: u128,
}

/// The loss of something that was durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// Nothing.
    #[default]
    None,
    /// Something: what it was shows where it is missing.
    Some,
    /// Something of any topic, which may not show.
    Unknown,
}

impl MarkContent {
    /// Whether something that was acknowledged may be gone: it was found, or the system went down.
    pub(super) fn has_lost_some(&self) -> bool {
        self.loss > Loss::None || self.boot != 0 && self.boot != current_boot()
    }

    /// Returns the content with `loss` added.
    pub(super) fn with(self, loss: Loss) -> Self {
        Self { loss: self.loss.max(loss), ..self }
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

    /// Begins an epoch. Everything up to these places is durable in it.
    pub(super) fn begin(&self, epoch: Epoch, position: Position, lsn: i64) -> io::Result<()> {
        let marked = MarkContent { position, lsn: Some(lsn), ..MarkContent::default() };
        self.change(|noted| *noted = NotedMark { epoch: Some(epoch), marked })
    }

    /// Notes that everything up to these places is durable; every event up to the last one that was
    /// noted if there is no position.
    pub(super) fn write(&self, position: Option<Position>, lsn: i64) -> io::Result<()> {
        self.change(|NotedMark { marked, .. }| {
            marked.position = position.unwrap_or(marked.position);
            marked.lsn = marked.lsn.max(Some(lsn));
        })
    }

    /// Notes what is missing, and makes that survive a power loss.
    pub(super) fn note_loss(&self, loss: Loss) -> io::Result<()> {
        self.change(|NotedMark { marked, .. }| *marked = marked.with(loss))?;
        self.file.sync_all()
    }

    /// Notes that there are events that are not synced, and makes that survive a power loss.
    pub(super) fn note_unsynced(&self) -> io::Result<()> {
        if self.lock().marked.boot != 0 {
            return Ok(());
        }
        self.change(|NotedMark { marked, .. }| marked.boot = current_boot())?;
        self.file.sync_all()
    }

    /// Notes that all events are synced.
    pub(super) fn note_synced(&self) -> io::Result<()> {
        if self.lock().marked.boot == 0 {
            return Ok(());
        }
        self.change(|NotedMark { marked, .. }| marked.boot = 0)
    }

    /// Makes what was written survive a power loss, the file's existence included.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Goes on with the content that the file has. Returns it, with its epoch; `None` where there
    /// is nothing.
    pub(super) fn read(&self) -> io::Result<Option<(Epoch, MarkContent)>> {
        let mut bytes = Vec::new();
        (&self.file).read_to_end(&mut bytes)?;
        let Some((epoch, marked)) = decode(&bytes) else { return Ok(None) };
        let boot = if marked.boot == current_boot() { marked.boot } else { 0 };
        *self.lock() = NotedMark { epoch: Some(epoch), marked: MarkContent { boot, ..marked } };
        Ok(Some((epoch, marked)))
    }

    /// Writes what `change` makes of what is noted; nothing where there is no epoch.
    fn change(&self, change: impl FnOnce(&mut NotedMark)) -> io::Result<()> {
        let mut noted = self.lock();
        let mut changed = *noted;
        change(&mut changed);
        if let Some(epoch) = changed.epoch {
            self.file.write_all_at(&encode(epoch, changed.marked), 0)?;
        }
        *noted = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, NotedMark> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the mark in `directory`, with its epoch, without creating anything.
pub(super) fn read(directory: &Path) -> io::Result<Option<(Epoch, MarkContent)>> {
    match std::fs::read(directory.join(FILE_NAME)) {
        Ok(bytes) => Ok(decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(epoch: Epoch, marked: MarkContent) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[4..8].copy_from_slice(&epoch.get().to_be_bytes());
    bytes[8..16].copy_from_slice(&marked.position.get().to_be_bytes());
    bytes[16..32].copy_from_slice(&marked.boot.to_be_bytes());
    bytes[32..40].copy_from_slice(&marked.lsn.unwrap_or(-1).to_be_bytes());
    bytes[40] = marked.loss as u8;
    let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
    bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Epoch, MarkContent)> {
    let (crc, content) = bytes.split_first_chunk()?;
    if u32::from_be_bytes(*crc) != crc32fast::hash(content) {
        return None;
    }
    let (epoch, rest) = content.split_first_chunk()?;
    let (position, rest) = rest.split_first_chunk()?;
    let (boot, rest) = rest.split_first_chunk()?;
    let lsn = rest.first_chunk().map(|lsn| i64::from_be_bytes(*lsn));
    let marked = MarkContent {
        position: Position::new(u64::from_be_bytes(*position)),
        lsn: lsn.filter(|lsn| *lsn >= 0),
        loss: match rest.get(8) {
            None | Some(0) => Loss::None,
            Some(1) => Loss::Some,
            Some(_) => Loss::Unknown,
        },
        boot: u128::from_be_bytes(*boot),
    };
    let is_it = [MARK_BYTES, OLD_MARK_BYTES].contains(&bytes.len());
    is_it.then_some((Epoch::new(u32::from_be_bytes(*epoch)), marked))
}

#[cfg(test)]
mod tests {
    use super::super::forgetful::Forgetful;
    use super::*;

    #[test]
    fn events_that_were_not_synced_are_remembered_until_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let epoch = Epoch::new(7);
        let mark = Mark::open(directory.path()).unwrap();
        mark.begin(epoch, Position::new(3), 30).unwrap();
        let marked = || read(directory.path()).unwrap().unwrap().1;
        assert_eq!(marked().boot, 0);
        mark.note_unsynced().unwrap();
        let boot = marked().boot;
        assert_ne!(boot, 0, "it says in which start of the system they were not");
        mark.write(Some(Position::new(4)), 40).unwrap();
        assert_eq!(marked().boot, boot, "they are not synced because others are");
        assert_eq!((marked().position, marked().has_lost_some()), (Position::new(4), false));
        let elsewhere = MarkContent { boot: marked().boot ^ 1, ..marked() };
        assert!(elsewhere.has_lost_some(), "the system was started again since");
        mark.note_synced().unwrap();
        assert_eq!((marked().boot, marked().position), (0, Position::new(4)));
        assert_eq!(read(directory.path()).unwrap().unwrap().0, epoch);
    }

    /// Goal: that there are events that are not synced is known after a loss of power, too: that is
    /// what it is noted for.
    #[test]
    fn a_note_of_events_that_are_not_synced_outlives_a_loss_of_power() {
        let Some(disk) = Forgetful::mount() else { return };
        let left = || {
            let left = tempfile::tempdir().unwrap();
            disk.copy_kept(left.path());
            read(left.path()).unwrap().unwrap().1
        };
        let mark = Mark::open(disk.path()).unwrap();
        mark.begin(Epoch::new(7), Position::new(3), 30).unwrap();
        mark.sync().unwrap();
        assert_eq!(left().boot, 0);
        mark.note_unsynced().unwrap();
        assert_ne!(left().boot, 0, "nobody is told that events may be gone");
        mark.write(Some(Position::new(4)), 40).unwrap();
        assert_eq!(left().position, Position::new(3), "this disk forgets nothing");
    }

    #[test]
    fn what_was_found_missing_is_remembered_until_an_epoch_begins() {
        let directory = tempfile::tempdir().unwrap();
        let mark = Mark::open(directory.path()).unwrap();
        mark.write(Some(Position::new(9)), 90).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None, "nothing is noted before an epoch");
        mark.begin(Epoch::new(1), Position::new(3), 30).unwrap();
        mark.note_loss(Loss::Unknown).unwrap();
        mark.note_loss(Loss::Some).unwrap();
        mark.write(None, 20).unwrap();
        let mark = Mark::open(directory.path()).unwrap();
        let (epoch, marked) = mark.read().unwrap().unwrap();
        let told = (epoch.get(), marked.position.get(), marked.lsn);
        assert_eq!(told, (1, 3, Some(30)), "what is durable goes up alone");
        assert_eq!((marked.loss, marked.has_lost_some()), (Loss::Unknown, true));
        mark.begin(Epoch::new(2), Position::new(3), 10).unwrap();
        let (epoch, marked) = read(directory.path()).unwrap().unwrap();
        assert_eq!((epoch.get(), marked.lsn, marked.has_lost_some()), (2, Some(10), false));
    }

    #[test]
    fn a_mark_of_the_version_before_is_read() {
        let marked = MarkContent { position: Position::new(8), ..MarkContent::default() };
        let mut bytes = encode(Epoch::new(5), marked)[..OLD_MARK_BYTES].to_vec();
        let crc = crc32fast::hash(&bytes[CRC_BYTES..]);
        bytes[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(decode(&bytes), Some((Epoch::new(5), marked)));
        assert_eq!(decode(&[bytes, vec![0]].concat()), None, "a cut one is none");
    }

    /// Goal: a mark that is opened again goes on where it was: how far it is, and whether something
    /// is not synced in this start of the system. In another one, all there is was found on disk.
    #[test]
    fn a_mark_that_is_opened_again_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (epoch, position) = (Epoch::new(7), Position::new(3));
        let on_disk = || read(directory.path()).unwrap().unwrap().1;
        let open = || Mark::open(directory.path()).unwrap();
        assert_eq!(open().read().unwrap(), None);
        open().begin(epoch, position, 1).unwrap();

        let mark = open();
        assert_eq!(mark.read().unwrap().unwrap().1.position, position);
        mark.note_unsynced().unwrap();
        assert_eq!(on_disk().position, position, "what was durable still is");

        let mark = open();
        assert!(!mark.read().unwrap().unwrap().1.has_lost_some(), "the system did not go down");
        mark.note_synced().unwrap();
        assert_eq!((on_disk().position, on_disk().boot), (position, 0));

        let boot = current_boot() ^ 2;
        let elsewhere = encode(epoch, MarkContent { position, boot, ..MarkContent::default() });
        std::fs::write(directory.path().join(FILE_NAME), elsewhere).unwrap();
        let mark = open();
        assert!(mark.read().unwrap().unwrap().1.has_lost_some());
        mark.note_unsynced().unwrap();
        assert_eq!(on_disk().boot, current_boot(), "these are of this start");
    }
}
