//! Snapshots of the places of sled's pages, taken while the log is open. The file is long because
//! 40 percent of it are tests, which need a whole sled each.
//!
//! ```text
//! snap.L  | stable_lsn | active_segment | page 0 | page 1 | … | length: 8 | crc32: 4 |
//!
//! sled's log    ──────────────── L ───────────────▶  written in all
//!               in the snapshot  │ read when the log is opened
//! ```
//!
//! # Why
//!
//! - When sled is opened, it finds its pages by reading its log from the newest snapshot on. It
//!   writes a snapshot only then: after a crash, or a stop, it reads all that was written since it
//!   was last opened (src/pagecache/snapshot.rs of 0.34.7). For a log that was open for long, that
//!   is nearly the whole log.
//! - So this code makes a snapshot whenever [`LEAST_BYTES`] were written since the last one, or
//!   [`TIMES`] times the length of a snapshot, whichever is more. Opening then reads no more than
//!   twice that, and snapshots are no more than 1/[`TIMES`] of all written bytes.
//! - The log is read as sled reads it (segment.rs), and the result is written to the file that sled
//!   would have written, had it been opened at that moment. The end, L, is the beginning of a
//!   segment, and all before it is synced first. A batch that began before L is complete by then:
//!   sled does not call it stable earlier.
//! - If sled uses a segment again before it is read here, nothing in it was valid any more: its
//!   pages were written again since, and entries after L are read when the log is opened. If a page
//!   was only in such a segment, its place at L is not known. Then L is moved to the present end of
//!   the log, until all places are known. A segment that is in use and cannot be read to its end is
//!   damaged: then no snapshot is made.
//! - The file gets its name when it is complete and synced, because sled takes any file whose name
//!   begins with `snap.`.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sled::{DiskPtr, LogKind, Lsn, Serialize as _};

use super::engine::SEGMENT_BYTES;
use super::segment::{self, SegmentEntry};

/// The least number of bytes that are written between two snapshots.
const LEAST_BYTES: u64 = 1 << 30;

/// The least number of bytes between two snapshots, as a multiple of a snapshot's length.
const TIMES: u64 = 32;

/// The message for a snapshot that is not made, because sled could not read it.
const NOT_KNOWN: &str = "a page is not known yet";

/// The most times that the end is moved, to find pages that are not known.
const MAX_ROUNDS: u32 = 16;

/// The name of a snapshot that is not complete yet.
const UNFINISHED: &str = "unfinished-snapshot";

const CRC_BYTES: usize = 4;
const TRAILER_BYTES: usize = 8 + CRC_BYTES;

pub(super) const SEGMENT: Lsn = SEGMENT_BYTES as Lsn;

/// The place of a part of a page: in sled's log, in the file, and its length in bytes.
pub(super) type LogPlace = (Lsn, DiskPtr, u64);

/// The place of a page.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PageState {
    /// The place is not known yet.
    Unknown,
    /// sled has freed the page.
    Free(Lsn, DiskPtr),
    /// The places of the page as it was last written as a whole, and of each change since.
    Present(Vec<LogPlace>),
}

/// The places of all pages, up to a place in sled's log.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Snapshot {
    /// The first place in sled's log that is not included.
    pub(super) end: Lsn,
    pub(super) pages: Vec<PageState>,
}

/// The state that decides when the next snapshot is made.
#[derive(Debug)]
pub(super) struct Snapshots {
    /// sled's own directory.
    directory: PathBuf,
    /// The number of bytes written in all at which the next snapshot is due.
    due_bytes: u64,
    least_bytes: u64,
}

impl Snapshots {
    /// Returns the state for the sled in `directory`, which has written this many bytes and has a
    /// snapshot of them.
    pub(super) fn new(directory: &Path, written_bytes: u64) -> Self {
        Self::every(directory, written_bytes, LEAST_BYTES)
    }

    fn every(directory: &Path, written_bytes: u64, least_bytes: u64) -> Self {
        let due_bytes = written_bytes + least_bytes;
        Self { directory: directory.to_owned(), due_bytes, least_bytes }
    }

    /// Makes a snapshot, if one is due at this number of written bytes.
    ///
    /// # Errors
    ///
    /// The snapshot could not be made; the last one stays. The next try follows after the least
    /// distance between two snapshots.
    pub(super) fn make_due(
        &mut self,
        database: &sled::Db,
        file: &File,
        written_bytes: u64,
    ) -> io::Result<Option<u64>> {
        if written_bytes < self.due_bytes {
            return Ok(None);
        }
        self.due_bytes = written_bytes + self.least_bytes;
        let length = make(database, file, &self.directory)?;
        let pause_bytes = self.least_bytes.max(TIMES.saturating_mul(length.unwrap_or(0)));
        self.due_bytes = written_bytes + pause_bytes;
        Ok(length)
    }
}

/// Makes a snapshot. Returns its length in bytes; `None` if nothing new was written.
fn make(database: &sled::Db, file: &File, directory: &Path) -> io::Result<Option<u64>> {
    let log = &database.context.pagecache.log;
    let (old, mut snapshot) = match newest(directory)? {
        Some(path) => {
            let bytes = std::fs::read(&path)?;
            (Some(path), Snapshot::decode(&bytes)?)
        }
        None => (None, Snapshot::default()),
    };
    let mut rounds = 0;
    while rounds == 0 || !snapshot.is_known() {
        let end = log.stable_offset() / SEGMENT * SEGMENT;
        match rounds {
            _ if end > snapshot.end => snapshot.advance(database, file, end)?,
            0 => return Ok(None),
            // The end does not move, so the pages stay unknown.
            _ => return Err(io::Error::other(NOT_KNOWN)),
        }
        rounds += 1;
        if rounds > MAX_ROUNDS {
            return Err(io::Error::other(NOT_KNOWN));
        }
    }
    file.sync_data()?; // The snapshot must not outlive the entries that it tells of.
    snapshot.store(directory, old).map(Some)
}

/// Returns the newest snapshot in `directory`.
pub(super) fn newest(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest: Option<PathBuf> = None;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            newest = newest.max(Some(entry.path()));
        }
    }
    Ok(newest)
}

/// Returns the newest snapshot in `directory`, if it is damaged.
pub(super) fn newest_damaged(directory: &Path) -> io::Result<Option<PathBuf>> {
    if !directory.exists() {
        return Ok(None);
    }
    let Some(path) = newest(directory)? else { return Ok(None) };
    let is_whole = Snapshot::decode(&std::fs::read(&path)?).is_ok();
    Ok((!is_whole).then_some(path))
}

impl Snapshot {
    /// Whether the place of every page is known.
    fn is_known(&self) -> bool {
        !self.pages.contains(&PageState::Unknown)
    }

    /// Takes in the log from the snapshot's end up to `end`, the beginning of a segment.
    fn advance(&mut self, database: &sled::Db, file: &File, end: Lsn) -> io::Result<()> {
        let log = &database.context.pagecache.log;
        let begin = self.end;
        let mut reader = segment::SegmentReader::new();
        // sled reads nothing here: its iterator begins with a list of the segments in use.
        for (lsn, offset) in log.iter_from(begin).segments {
            // A snapshot that sled has written may end anywhere in a segment.
            if lsn + SEGMENT <= begin || lsn >= end {
                continue;
            }
            let read = reader.read(file, offset, lsn).and_then(|mut entries| {
                entries.try_for_each(|entry| match entry? {
                    known if known.lsn < begin => Ok(()),
                    new => self.apply(&new),
                })
            });
            let is_in_use = || log.iter_from(lsn).segments.get(&lsn) == Some(&offset);
            if let Err(error) = read
                && is_in_use()
            {
                let problem = format!("the segment at {offset} of the log's file: {error}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
        }
        self.end = end;
        Ok(())
    }

    /// Takes in an entry of a page.
    pub(super) fn apply(&mut self, entry: &SegmentEntry) -> io::Result<()> {
        let index = usize::try_from(entry.page).map_err(io::Error::other)?;
        let place = (entry.lsn, DiskPtr::Inline(entry.offset), entry.size_bytes);
        let known = self.pages.len();
        match entry.kind {
            LogKind::Replace | LogKind::Free => {
                self.pages.resize(known.max(index + 1), PageState::Unknown);
                self.pages[index] = match entry.kind {
                    LogKind::Free => PageState::Free(place.0, place.1),
                    _ => PageState::Present(vec![place]),
                };
            }
            // Entries come in the order of the log. A change of an unknown page is left out, as
            // sled does: the page was written again as a whole later.
            LogKind::Link => {
                if let Some(PageState::Present(places)) = self.pages.get_mut(index) {
                    places.push(place);
                }
            }
            LogKind::Skip | LogKind::Corrupted => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown entry"));
            }
        }
        Ok(())
    }

    /// Stores the snapshot durably, in the place of `old`. Returns its length in bytes.
    pub(super) fn store(&self, directory: &Path, old: Option<PathBuf>) -> io::Result<u64> {
        let bytes = self.encode()?;
        let unfinished = directory.join(UNFINISHED);
        let written = File::create(&unfinished).and_then(|mut written| {
            written.write_all(&bytes)?;
            written.sync_all()
        });
        if let Err(error) = written {
            std::fs::remove_file(&unfinished)?; // The disk may be full.
            return Err(error);
        }
        let path = directory.join(format!("snap.{:016X}", self.end));
        std::fs::rename(unfinished, &path)?;
        File::open(directory)?.sync_all()?;
        if let Some(old) = old.filter(|old| *old != path) {
            std::fs::remove_file(old)?;
        }
        Ok(bytes.len() as u64)
    }

    /// Returns the bytes of the snapshot, in sled's format.
    fn encode(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Some(self.end).serialize();
        bytes.extend(None::<u64>.serialize()); // No segment is begun.
        for page in &self.pages {
            match page {
                PageState::Free(lsn, place) => {
                    bytes.push(0);
                    bytes.extend(lsn.serialize());
                    bytes.extend(place.serialize());
                }
                PageState::Present(places) => {
                    bytes.push(u8::try_from(places.len()).map_err(io::Error::other)?);
                    for (lsn, place, size_bytes) in places {
                        bytes.extend(lsn.serialize());
                        bytes.extend(place.serialize());
                        bytes.extend(size_bytes.serialize());
                    }
                }
                // The page was written again after the end, and its segment is reused. A later
                // snapshot has it.
                PageState::Unknown => return Err(io::Error::other(NOT_KNOWN)),
            }
        }
        let length = bytes.len() as u64;
        let crc32 = crc32fast::hash(&bytes);
        bytes.extend(length.to_le_bytes());
        bytes.extend(crc32.to_le_bytes());
        Ok(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the last snapshot is damaged");
        let (body, trailer) = bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .map(|at| bytes.split_at(at))
            .ok_or_else(invalid)?;
        if trailer[8..] != crc32fast::hash(body).to_le_bytes() {
            return Err(invalid());
        }
        let mut rest = body;
        let end = Option::<Lsn>::deserialize(&mut rest)?.unwrap_or(0);
        Option::<u64>::deserialize(&mut rest)?;
        let mut pages = Vec::new();
        while let Some((places, after)) = rest.split_first() {
            rest = after;
            pages.push(match places {
                0 => {
                    PageState::Free(Lsn::deserialize(&mut rest)?, DiskPtr::deserialize(&mut rest)?)
                }
                _ => {
                    let place = |rest: &mut &[u8]| -> sled::Result<LogPlace> {
                        let (lsn, place) = (Lsn::deserialize(rest)?, DiskPtr::deserialize(rest)?);
                        Ok((lsn, place, u64::deserialize(rest)?))
                    };
                    let places = (0..*places).map(|_| place(&mut rest));
                    PageState::Present(places.collect::<sled::Result<_>>()?)
                }
            });
        }
        Ok(Self { end, pages })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::engine::{self, written_bytes};
    use super::super::forgetful::Forgetful;
    use super::*;

    type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

    fn entries(tree: &sled::Tree) -> Entries {
        tree.iter().map(Result::unwrap).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// Returns the entries that are found in a copy of `directory`, as after a crash, with or
    /// without snapshots.
    fn reopened(directory: &Path, with_snapshots: bool) -> Entries {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            let is_snapshot = name.to_string_lossy().starts_with("snap.");
            if entry.file_type().unwrap().is_file() && (with_snapshots || !is_snapshot) {
                std::fs::copy(entry.path(), copy.path().join(name)).unwrap();
            }
        }
        let database = engine::open(copy.path(), 1 << 20).unwrap();
        let found = entries(&database.open_tree("events").unwrap());
        // Writing goes on after the end, over free segments.
        for key in 0..2_000_u32 {
            database.insert(key.to_be_bytes(), vec![1; 8_192]).unwrap();
        }
        drop(database);
        let database = engine::open(copy.path(), 1 << 20).unwrap();
        assert!(entries(&database.open_tree("events").unwrap()) == found);
        found
    }

    /// Changes random keys in one batch, and has sled move pages.
    fn change(database: &sled::Db, tree: &sled::Tree, random: &mut StdRng) {
        let mut batch = sled::Batch::default();
        for _ in 0..random.random_range(1..12) {
            let key = random.random_range(0..2_000_u32).to_be_bytes();
            match random.random_range(0..3) {
                0 => batch.remove(&key),
                _ => {
                    let mut value = vec![0; random.random_range(0..8_192)];
                    random.fill(&mut value[..]);
                    batch.insert(&key, value);
                }
            }
        }
        tree.apply_batch(batch).unwrap();
        (0..20).for_each(|n| drop(database.insert("cleaner", &[n]).unwrap()));
        database.flush().unwrap();
    }

    /// Goal: a log that is opened with a snapshot that was made during writes has the same entries
    /// as without it, and as before.
    /// Method: keys are added, changed and removed at random, while sled uses segments again and
    /// another thread makes snapshots. Copies of the directory are opened with and without the
    /// snapshots.
    #[test]
    fn a_log_opens_the_same_from_a_snapshot_as_from_its_beginning() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let database = engine::open(directory.path(), 4 << 20).unwrap();
        let tree = database.open_tree("events").unwrap();
        let file =
            File::options().read(true).write(true).open(directory.path().join("db")).unwrap();
        let mut snapshots = Snapshots::every(directory.path(), 0, SEGMENT_BYTES as u64);
        let (mut made, mut late) = (0, 0);
        for phase in 0..6 {
            let is_over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Acquire) {
                        snapshots.due_bytes = 0; // As often as possible.
                        match snapshots.make_due(&database, &file, written_bytes(&database)) {
                            Ok(length) => made += u32::from(length.is_some()),
                            Err(error) => {
                                assert_eq!(error.to_string(), NOT_KNOWN);
                                late += 1;
                            }
                        }
                    }
                });
                for _ in 0..700 {
                    change(&database, &tree, &mut random);
                }
                is_over.store(true, Ordering::Release);
            });
            // Entries after the snapshot must be read, too.
            (0..phase * 10).for_each(|_| change(&database, &tree, &mut random));
            let now = entries(&tree);
            assert!(reopened(directory.path(), true) == now, "with snapshots, seed {seed}");
            assert!(reopened(directory.path(), false) == now, "without, seed {seed}");
        }
        println!("{made} snapshots; {late} times a page was not known yet");
        assert!(made > 6, "{made} snapshots");
        let kept = std::fs::read_dir(directory.path()).unwrap();
        let names = kept.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        assert_eq!(names.filter(|name| name.starts_with("snap.")).count(), 1);
    }

    /// Goal: the first snapshot after a start has all entries since the one that sled wrote at the
    /// start, which ends within a segment.
    #[test]
    fn a_snapshot_goes_on_within_the_segment_that_the_last_one_ended_in() {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let database = engine::open(directory.path(), 4 << 20).unwrap();
            let tree = database.open_tree("events").unwrap();
            (database, tree)
        };
        let write = |tree: &sled::Tree, keys: std::ops::Range<u32>, value: u8| {
            for key in keys {
                tree.insert(key.to_be_bytes(), vec![value; 4_096]).unwrap();
            }
            tree.flush().unwrap();
        };
        let (database, tree) = open();
        write(&tree, 0..500, 1);
        drop((database, tree));
        let (database, tree) = open(); // sled reads the log, and writes a snapshot.
        let of_sled = newest(directory.path()).unwrap().unwrap();
        let end = Snapshot::decode(&std::fs::read(&of_sled).unwrap()).unwrap().end;
        assert!(end % SEGMENT > 0, "sled's snapshot ends with a segment, at {end}");
        write(&tree, 0..250, 2);
        write(&tree, 500..4_000, 3);
        let file = File::open(directory.path().join("db")).unwrap();
        let mut snapshots = Snapshots::every(directory.path(), 0, 1);
        let made = snapshots.make_due(&database, &file, written_bytes(&database)).unwrap();
        assert!(made.is_some() && newest(directory.path()).unwrap().unwrap() != of_sled);
        let now = entries(&tree);
        assert!(reopened(directory.path(), true) == now, "with the snapshot");
        assert!(reopened(directory.path(), false) == now, "without");
    }

    /// Goal: when a snapshot has its name, it and all entries that it tells of outlive a loss of
    /// power.
    #[test]
    fn a_snapshot_outlives_a_loss_of_power_with_what_it_tells_of() {
        let Some(disk) = Forgetful::mount() else { return };
        let database = engine::open(disk.path(), 4 << 20).unwrap();
        let tree = database.open_tree("events").unwrap();
        for key in 0..4_000_u32 {
            tree.insert(key.to_be_bytes(), vec![1; 4_096]).unwrap();
        }
        database.flush().unwrap();
        let file = File::options().read(true).write(true).open(disk.path().join("db")).unwrap();
        let mut snapshots = Snapshots::every(disk.path(), 0, 1);
        let made = snapshots.make_due(&database, &file, written_bytes(&database)).unwrap();
        assert!(made.is_some());
        tree.insert("later", "not synced").unwrap();
        database.flush().unwrap();
        let left = tempfile::tempdir().unwrap();
        disk.copy_kept(left.path());
        let snapshot = std::fs::read(newest(left.path()).unwrap().unwrap()).unwrap();
        assert!(Snapshot::decode(&snapshot).unwrap().end > 0);
        let database = engine::open(left.path(), 4 << 20).unwrap();
        let found = entries(&database.open_tree("events").unwrap());
        assert!(!found.contains_key(&b"later"[..]), "this disk keeps unsynced data");
        tree.remove("later").unwrap();
        assert!(found == entries(&tree), "{} entries are left", found.len());
    }

    /// Goal: while a segment in use is damaged, no snapshot is made: sled would rely on it, and
    /// nobody would be told of the entries that it lacks.
    #[test]
    fn of_a_segment_that_is_damaged_no_snapshot_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let (database, file) = engine::filled(directory.path());
        let mut reader = segment::SegmentReader::new();
        let entry = reader.read(&file, 0, 0).unwrap().nth(100).unwrap().unwrap();
        let mut byte = [0];
        let at = entry.offset + entry.size_bytes - 1;
        file.read_exact_at(&mut byte, at).unwrap();
        let mut snapshots = Snapshots::every(directory.path(), 0, 1);
        let mut make = || {
            snapshots.due_bytes = 0;
            snapshots.make_due(&database, &file, written_bytes(&database))
        };
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let error = make().unwrap_err().to_string();
        assert_eq!(error, "the segment at 0 of the log's file: an entry is damaged");
        assert_eq!(newest(directory.path()).unwrap(), None);
        file.write_all_at(&byte, at).unwrap();
        assert!(make().unwrap().is_some() && newest(directory.path()).unwrap().is_some());
    }

    #[test]
    fn a_snapshot_is_written_as_sled_reads_it() {
        let place = |number: u64| (number as Lsn, DiskPtr::Inline(number), number);
        let pages = vec![
            PageState::Free(7, DiskPtr::Inline(300)),
            PageState::Present(vec![place(1)]),
            PageState::Present(vec![place(2), place(70_000), place(1 << 40)]),
        ];
        let snapshot = Snapshot { end: 3 * SEGMENT, pages };
        let bytes = snapshot.encode().unwrap();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), snapshot);
        for at in 0..bytes.len() - TRAILER_BYTES {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Snapshot::decode(&damaged).is_err(), "byte {at}");
        }
        let unknown = Snapshot { pages: vec![PageState::Unknown], ..snapshot };
        assert!(unknown.encode().is_err(), "sled has no form for such a page");
    }
}
