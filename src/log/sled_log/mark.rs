//! The mark: a small file beside the log that says up to where the log is durable.
//!
//! ```text
//! | crc32: 4 | epoch: 4 | position: 8 | boot: 16 | lsn: 8 | loss: 1 |
//! ```
//!
//! `name: 4` is a field of 4 bytes. Numbers are big-endian; `crc32` covers all bytes after it. The
//! file has no format number: its length, 41 bytes, tells its form. A mark of an older version ends
//! after `boot`, at 32 bytes; this version reads it.
//!
//! `boot` is 0 as long as all acknowledged events are synced. Otherwise it is the id of the
//! system's start in which some were not synced: `/proc/sys/kernel/random/boot_id`. `lsn` is the
//! last place in sled's own log that is durable. `loss` is 0, unless data up to that place was
//! found missing and no new epoch has begun since: then it is 1, or 2 if any topic may be
//! concerned.
//!
//! # Why
//!
//! When sled recovers, it takes the first damaged entry for the end of the log, and drops all that
//! follows without a message (`LogIter::next` in src/pagecache/iterator.rs of 0.34.7). Positions
//! have no holes, so one number from outside of sled shows that: a log that ends before its mark
//! has lost events. A deletion or a setting has no position, but a place in sled's log: an entry up
//! to `lsn` that is damaged was durable, and one after `lsn` that does not fit was never finished
//! (salvage.rs). The mark is written after the sync that it notes, and is not synced itself: after
//! a loss of power it may be too low, never too high.
//!
//! Readers see events of topics with the durability `process` before they are synced. When the
//! system goes down, some of these events may be gone, and their sequences would be given out
//! again: a reader who saw the first events would miss the later ones without being told. So before
//! the first such event is acknowledged, the mark notes that there are unsynced events, and is
//! synced. A log that is opened in another start of the system then begins an epoch.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cursor::{Epoch, Position};

const FILE_NAME: &str = "mark";
const CRC_BYTES: usize = 4;
const MARK_BYTES: usize = OLD_MARK_BYTES + 8 + 1;

/// The length of a mark of an older version, without `lsn` and `loss`.
const OLD_MARK_BYTES: usize = CRC_BYTES + 4 + 8 + 16;

/// The open file of the mark, with its content.
#[derive(Debug)]
pub(super) struct LogMark {
    file: File,
    noted: Mutex<NotedMark>,
}

/// The content of the file, with its epoch.
#[derive(Debug, Clone, Copy, Default)]
struct NotedMark {
    /// The epoch; `None` until the file is read or written.
    epoch: Option<Epoch>,
    marked: MarkContent,
}

/// The content of a mark, without the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MarkContent {
    /// The position up to which every event is durable.
    pub(super) position: Position,
    /// The place up to which sled's own log is durable; `None` if that was not noted.
    pub(super) lsn: Option<i64>,
    /// The loss that was found, and that no new epoch has told yet.
    pub(super) loss: Loss,
    boot: u128,
}

/// The loss of data that was durable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Loss {
    /// Nothing is lost.
    #[default]
    None,
    /// Some data is lost. The places where it is missing show which.
    Some,
    /// Some data is lost. It may be of any topic, and its places may not show it.
    Unknown,
}

impl MarkContent {
    /// Whether acknowledged data may be gone: a loss was found, or the system went down.
    pub(super) fn has_lost_some(&self) -> bool {
        self.loss > Loss::None || self.boot != 0 && self.boot != current_boot()
    }

    /// Returns the content with `loss` added.
    pub(super) fn with(self, loss: Loss) -> Self {
        Self { loss: self.loss.max(loss), ..self }
    }
}

/// Returns the id of the system's start; a random one if the system does not tell it.
fn current_boot() -> u128 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).unwrap_or(0);
    if id == 0 { rand::random::<u128>() | 1 } else { id }
}

impl LogMark {
    /// Opens the file in `directory`, and creates it if it is missing.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { file, noted: Mutex::default() })
    }

    /// Begins an epoch, in which all up to these places is durable.
    pub(super) fn begin(&self, epoch: Epoch, position: Position, lsn: i64) -> io::Result<()> {
        let marked = MarkContent { position, lsn: Some(lsn), ..MarkContent::default() };
        self.change(|noted| *noted = NotedMark { epoch: Some(epoch), marked })
    }

    /// Notes that all up to these places is durable. Without a position, the noted position stays.
    pub(super) fn write(&self, position: Option<Position>, lsn: i64) -> io::Result<()> {
        self.change(|NotedMark { marked, .. }| {
            marked.position = position.unwrap_or(marked.position);
            marked.lsn = marked.lsn.max(Some(lsn));
        })
    }

    /// Notes a loss, and makes the note survive a loss of power.
    pub(super) fn record_loss(&self, loss: Loss) -> io::Result<()> {
        self.change(|NotedMark { marked, .. }| *marked = marked.with(loss))?;
        self.file.sync_all()
    }

    /// Notes that some events are not synced, and makes the note survive a loss of power.
    pub(super) fn record_unsynced(&self) -> io::Result<()> {
        if self.lock().marked.boot != 0 {
            return Ok(());
        }
        self.change(|NotedMark { marked, .. }| marked.boot = current_boot())?;
        self.file.sync_all()
    }

    /// Notes that all events are synced.
    pub(super) fn record_synced(&self) -> io::Result<()> {
        if self.lock().marked.boot == 0 {
            return Ok(());
        }
        self.change(|NotedMark { marked, .. }| marked.boot = 0)
    }

    /// Makes the file and its content survive a loss of power.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Takes over the content of the file. Returns it, with its epoch; `None` if the file has no
    /// valid mark.
    pub(super) fn read(&self) -> io::Result<Option<(Epoch, MarkContent)>> {
        let mut bytes = Vec::new();
        (&self.file).read_to_end(&mut bytes)?;
        let Some((epoch, marked)) = decode(&bytes) else { return Ok(None) };
        let boot = if marked.boot == current_boot() { marked.boot } else { 0 };
        *self.lock() = NotedMark { epoch: Some(epoch), marked: MarkContent { boot, ..marked } };
        Ok(Some((epoch, marked)))
    }

    /// Changes the noted content, and writes it to the file, unless no epoch is known yet.
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

/// Reads the mark in `directory`, with its epoch. Creates nothing.
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
        let mark = LogMark::open(directory.path()).unwrap();
        mark.begin(epoch, Position::new(3), 30).unwrap();
        let marked = || read(directory.path()).unwrap().unwrap().1;
        assert_eq!(marked().boot, 0);
        mark.record_unsynced().unwrap();
        let boot = marked().boot;
        assert_ne!(boot, 0, "the mark has the start of the system in which they were not synced");
        mark.write(Some(Position::new(4)), 40).unwrap();
        assert_eq!(marked().boot, boot, "these events are still not synced");
        assert_eq!((marked().position, marked().has_lost_some()), (Position::new(4), false));
        let elsewhere = MarkContent { boot: marked().boot ^ 1, ..marked() };
        assert!(elsewhere.has_lost_some(), "the system was started again since");
        mark.record_synced().unwrap();
        assert_eq!((marked().boot, marked().position), (0, Position::new(4)));
        assert_eq!(read(directory.path()).unwrap().unwrap().0, epoch);
    }

    /// Goal: the note that some events are not synced outlives a loss of power, because it is made
    /// for that.
    #[test]
    fn a_note_of_events_that_are_not_synced_outlives_a_loss_of_power() {
        let Some(disk) = Forgetful::mount() else { return };
        let left = || {
            let left = tempfile::tempdir().unwrap();
            disk.copy_kept(left.path());
            read(left.path()).unwrap().unwrap().1
        };
        let mark = LogMark::open(disk.path()).unwrap();
        mark.begin(Epoch::new(7), Position::new(3), 30).unwrap();
        mark.sync().unwrap();
        assert_eq!(left().boot, 0);
        mark.record_unsynced().unwrap();
        assert_ne!(left().boot, 0, "nobody is told that events may be gone");
        mark.write(Some(Position::new(4)), 40).unwrap();
        assert_eq!(left().position, Position::new(3), "this disk keeps unsynced data");
    }

    #[test]
    fn what_was_found_missing_is_remembered_until_an_epoch_begins() {
        let directory = tempfile::tempdir().unwrap();
        let mark = LogMark::open(directory.path()).unwrap();
        mark.write(Some(Position::new(9)), 90).unwrap();
        assert_eq!(read(directory.path()).unwrap(), None, "nothing is noted before an epoch");
        mark.begin(Epoch::new(1), Position::new(3), 30).unwrap();
        mark.record_loss(Loss::Unknown).unwrap();
        mark.record_loss(Loss::Some).unwrap();
        mark.write(None, 20).unwrap();
        let mark = LogMark::open(directory.path()).unwrap();
        let (epoch, marked) = mark.read().unwrap().unwrap();
        let told = (epoch.get(), marked.position.get(), marked.lsn);
        assert_eq!(told, (1, 3, Some(30)), "the durable places only go up");
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
        assert_eq!(decode(&[bytes, vec![0]].concat()), None, "a mark of another length is refused");
    }

    /// Goal: a mark that is opened again goes on with its places, and knows whether events are not
    /// synced in this start of the system. In another start, all events that are found are on disk.
    #[test]
    fn a_mark_that_is_opened_again_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (epoch, position) = (Epoch::new(7), Position::new(3));
        let on_disk = || read(directory.path()).unwrap().unwrap().1;
        let open = || LogMark::open(directory.path()).unwrap();
        assert_eq!(open().read().unwrap(), None);
        open().begin(epoch, position, 1).unwrap();

        let mark = open();
        assert_eq!(mark.read().unwrap().unwrap().1.position, position);
        mark.record_unsynced().unwrap();
        assert_eq!(on_disk().position, position, "the durable position stays");

        let mark = open();
        assert!(!mark.read().unwrap().unwrap().1.has_lost_some(), "the system did not go down");
        mark.record_synced().unwrap();
        assert_eq!((on_disk().position, on_disk().boot), (position, 0));

        let boot = current_boot() ^ 2;
        let elsewhere = encode(epoch, MarkContent { position, boot, ..MarkContent::default() });
        std::fs::write(directory.path().join(FILE_NAME), elsewhere).unwrap();
        let mark = open();
        assert!(mark.read().unwrap().unwrap().1.has_lost_some());
        mark.record_unsynced().unwrap();
        assert_eq!(on_disk().boot, current_boot(), "the unsynced events are of this start");
    }
}
