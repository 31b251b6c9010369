//! The cleaner: a thread that has sled give back the space of superseded pages. The file is long
//! because a third of it is tests; the thread itself is one loop with its steps.
//!
//! ```text
//! commit ──▶ wrote() ──▶ thread: a turn, a turn, …, a sync; until nothing moves any more
//!                          │
//!                          └─ 10 small writes ──▶ sled replaces their page, and moves one page
//!                                                 out of a segment that is half empty
//! ```
//!
//! # Why
//!
//! - sled uses a segment again when nothing in it is valid any more. From a segment that is less
//!   than half valid it moves the rest elsewhere: one page whenever it replaces some page
//!   (src/pagecache/mod.rs of 0.34.7, `replace`), and more pages in its flusher. The flusher is a
//!   thread that wakes up at intervals, writes out, moves pages, and calls `fsync`, whether there
//!   is work or not. At its default interval, 500 ms, it gives back 16 MiB a second at the most,
//!   and the directory of the soak (benches/soak.rs) grew to eight times the size of its events. At
//!   20 ms the directory stayed below twice that size, and an idle broker called `fsync` 50 times a
//!   second.
//! - So sled runs without its flusher, and this thread makes it move pages: the tenth small change
//!   of a page makes sled replace that page, and with that move another one. The changed page is
//!   one of sled's own default tree, which holds nothing else. A move costs about 400 bytes besides
//!   the moved page.
//! - When the thread has nothing to move, it sleeps until enough was written, because only writing
//!   supersedes pages. Enough is [`PROBE_BYTES`] if something was removed meanwhile, and otherwise
//!   a segment, because pages are moved only out of finished segments. Looking after every
//!   [`PROBE_BYTES`] of appends took 4 % of a machine that did nothing but append. An idle broker
//!   does not wake the thread.
//! - sled's own writing threads do wake up: seven of them look for work once a second, and no
//!   setting of sled changes that (src/threadpool.rs, `DESIRED_WAITING_THREADS`). So some threads
//!   of an idle broker wake up, each once a second at the most.
//! - Moved pages are synced before sled can overwrite their old places: sled uses a segment again
//!   two segments later at the earliest, and the thread moves less than one segment before it
//!   syncs. For the same reason, and to bound the loss when power fails, the thread also syncs
//!   groups that were committed without a sync, within [`INTERVAL`].
//! - sled's flusher ends for ever at the first error that it meets, and tells only sled's own log
//!   (src/flusher.rs). After one damaged page of any topic, no space would come back any more. sled
//!   takes a page off its list before it reads it, so here a damaged page fails once, and the next
//!   page is moved. The damaged page stays where it is, and so does its segment; its readers are
//!   told. All other errors are errors of writing, which sled keeps (`Config::global_error`): they
//!   end the thread and all writing, and are told at once.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::engine::{SEGMENT_BYTES, written_bytes, written_lsn};
use super::mark::LogMark;
use super::snapshot::Snapshots;
use super::space::Space;
use crate::log::failed::WriteFailure;

/// The longest time that a stop waits for the thread, and the time between two looks.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const STOP_STEP: Duration = Duration::from_millis(1);

/// The bytes that must be written, with a removal among them, before looking for pages to move is
/// worth it: a few pages.
const PROBE_BYTES: u64 = 256 << 10;

/// The number of moves in a row, after which the thread checks whether any page moved. A move of a
/// page that sled has written anew meanwhile counts, and moves nothing.
const MOVES: usize = 32;

/// The most bytes that [`MOVES`] moves write if there is nothing to move.
const IDLE_BYTES: u64 = MOVES as u64 * 1_024;

/// The longest time for which the thread moves pages without a pause, and the time between two such
/// starts. So the thread works at most half of the time, as sled's flusher does.
const SPELL: Duration = Duration::from_millis(10);
const INTERVAL: Duration = Duration::from_millis(20);

/// The most bytes that are moved before they are synced: less than one of sled's segments.
const SPELL_BYTES: u64 = 4 << 20;

/// The number of changes of a page after which sled replaces it. Source:
/// `PAGE_CONSOLIDATION_THRESHOLD`.
const CHANGES: u8 = 10;

/// The key that is changed, to make sled replace its page.
const KEY: &[u8] = b"cleaner";

/// The key under which filling for segments is written, and the bytes at a time: so few that sled
/// keeps them in the segment.
const FILLING: &[u8] = b"filling";
const FILLING_BYTES: usize = SEGMENT_BYTES / 32;

/// The number of segments that are finished, so that all moved pages lie in finished ones.
const FINISHED_SEGMENTS: u64 = 3;

/// The number of moves in a row without an effect after which nothing is left to move. A segment
/// holds this many pages, and sled may have written all of them anew meanwhile.
const FRUITLESS_MOVES: usize = 2_048;

/// The handle of the cleaning thread. The thread ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Cleaner {
    shared: Arc<CleanerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct CleanerState {
    database: sled::Db,
    file: File,
    mark: Arc<LogMark>,
    /// The bytes that commits have written.
    committed_bytes: AtomicU64,
    /// The bytes that were written in all when the thread last had nothing left to do.
    seen_bytes: AtomicU64,
    /// Whether something was removed since then.
    has_removed: AtomicBool,
    /// Whether a group was committed without a sync, and is not synced yet.
    is_unsynced: AtomicBool,
    /// The bytes that were written in all when segments were last finished.
    pressed_bytes: AtomicU64,
    is_pressed: AtomicBool,
    is_busy: AtomicBool,
    is_stopping: AtomicBool,
    space: Arc<Space>,
    snapshots: Mutex<Snapshots>,
    failed: Arc<WriteFailure>,
}

/// The effect of one commit on sled.
#[derive(Debug, Clone, Copy)]
pub(super) struct WrittenGroup {
    /// The bytes that sled had written in all before the commit.
    pub(super) before_bytes: u64,
    pub(super) is_synced: bool,
    /// Whether the commit removed anything.
    pub(super) has_removed: bool,
}

impl Cleaner {
    /// Starts the thread for a sled and its directory. The thread notes its syncs in `mark`, and a
    /// failure that ends writing in `failed`.
    pub(super) fn start(
        (database, sled_directory): (&sled::Db, &Path),
        (file, mark): (&File, &Arc<LogMark>),
        space: &Arc<Space>,
        failed: &Arc<WriteFailure>,
    ) -> io::Result<Self> {
        let shared = Arc::new(CleanerState {
            database: database.clone(),
            file: file.try_clone()?,
            mark: mark.clone(),
            committed_bytes: AtomicU64::new(0),
            seen_bytes: AtomicU64::new(0), // Work from before the start shows at the first write.
            has_removed: AtomicBool::new(true), // Before the start, maybe.
            is_unsynced: AtomicBool::new(false),
            pressed_bytes: AtomicU64::new(0),
            is_pressed: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            space: space.clone(),
            snapshots: Mutex::new(Snapshots::new(sled_directory, written_bytes(database))),
            failed: failed.clone(),
        });
        let running = shared.clone();
        let thread = std::thread::Builder::new().name("log cleaner".to_owned());
        let thread = Some(thread.spawn(move || running.run_to_the_end(CleanerState::run))?);
        Ok(Self { shared, thread })
    }

    /// Notes that a commit was written.
    pub(super) fn wrote(&self, written: WrittenGroup) {
        let shared = &self.shared;
        let bytes = written_bytes(&shared.database).saturating_sub(written.before_bytes);
        shared.committed_bytes.fetch_add(bytes, Ordering::Relaxed);
        if written.has_removed {
            shared.has_removed.store(true, Ordering::Relaxed);
        }
        if !written.is_synced {
            shared.is_unsynced.store(true, Ordering::Release);
        }
        if !written.is_synced || shared.is_worth_it() {
            self.wake();
        }
    }

    /// Makes the thread give back all space that it can, because the disk is full. Has no effect if
    /// the thread has done so and nothing was written since.
    pub(super) fn press(&self) {
        let pressed = self.shared.pressed_bytes.load(Ordering::Relaxed);
        let has_changed = written_bytes(&self.shared.database) >= pressed + IDLE_BYTES;
        if has_changed && !self.shared.is_pressed.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    fn wake(&self) {
        if !self.shared.is_busy.swap(true, Ordering::AcqRel)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    /// Ends the thread, after the moves that it is at. On a disk without a free byte sled may wait
    /// for ever for its write: then the thread is left behind, and the log stays locked until the
    /// process ends.
    pub(super) fn stop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let started = Instant::now();
        while !thread.is_finished() {
            if started.elapsed() >= STOP_PATIENCE {
                warn!("the log's cleaner does not end; it is left behind");
                return;
            }
            std::thread::sleep(STOP_STEP);
        }
        let _its_panics_are_noted = thread.join();
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl CleanerState {
    /// Calls `run`, which returns when the log is closed. If it fails or panics, sled cannot go on:
    /// that is noted as the log's failure.
    fn run_to_the_end(&self, run: impl FnOnce(&Self) -> io::Result<()>) {
        let ended = catch_unwind(AssertUnwindSafe(|| run(self)));
        let panicked = |_printed_by_then| Err(io::Error::other("it ended by a panic"));
        if let Err(error) = ended.unwrap_or_else(panicked) {
            let problem = format!("the thread that cleans the log: {error}");
            self.failed.set(io::Error::new(error.kind(), problem).into());
        }
    }

    fn run(&self) -> io::Result<()> {
        let mut last = Instant::now();
        while !self.is_stopping.load(Ordering::Acquire) {
            if !self.is_busy.load(Ordering::Acquire) {
                std::thread::park();
                continue;
            }
            self.rest_until(last + INTERVAL);
            last = Instant::now();
            // Cleared before the thread looks for work: a request from now on wakes it again.
            self.is_busy.store(false, Ordering::Release);
            let has_more = self.work()?;
            self.is_busy.fetch_or(has_more, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Whether enough was written since the thread last had nothing left to do.
    fn is_worth_it(&self) -> bool {
        let seen = self.seen_bytes.load(Ordering::Relaxed);
        let least = match self.has_removed.load(Ordering::Relaxed) {
            true => PROBE_BYTES,
            false => SEGMENT_BYTES as u64,
        };
        written_bytes(&self.database) >= seen.saturating_add(least)
    }

    /// Moves pages for a while, and syncs them. Returns whether there may be more to move.
    fn work(&self) -> io::Result<bool> {
        let is_unsynced = self.is_unsynced.swap(false, Ordering::AcqRel);
        let (moved_bytes, has_more) = if self.is_worth_it() { self.spell()? } else { (0, false) };
        if is_unsynced || moved_bytes > IDLE_BYTES {
            self.sync()?;
        }
        if !has_more && self.is_pressed.load(Ordering::Acquire) {
            self.finish_segments()?;
            self.is_pressed.store(false, Ordering::Release);
        }
        let written = written_bytes(&self.database);
        let mut snapshots = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = snapshots.make_due(&self.database, &self.file, written) {
            warn!(%error, "no snapshot: the log takes longer to open the next time");
        }
        Ok(has_more)
    }

    /// Writes filling until the segments are finished to which pages were moved, and moves all
    /// other pages that can be moved meanwhile.
    fn finish_segments(&self) -> io::Result<()> {
        self.move_all()?;
        let segment = SEGMENT_BYTES as u64;
        let goal = (written_bytes(&self.database) / segment + FINISHED_SEGMENTS) * segment;
        let mut filling = vec![0; FILLING_BYTES];
        let mut seen = written_bytes(&self.database) / segment;
        while written_bytes(&self.database) <= goal && !self.is_stopping.load(Ordering::Acquire) {
            if !self.space.can_finish_segments(&self.database, &self.file)? {
                break;
            }
            filling[0] ^= 1; // sled does not write an equal value again.
            let is_written = self.change(|| self.database.insert(FILLING, &filling[..]));
            self.database.flush()?;
            if !is_written {
                break; // The page is damaged: it cannot fill anything.
            }
            let finished = written_bytes(&self.database) / segment;
            if finished > seen {
                seen = finished;
                self.move_all()?; // Pages can be moved out of the segment now that it is finished.
            }
        }
        self.move_all()?;
        self.pressed_bytes.store(written_bytes(&self.database), Ordering::Relaxed);
        self.space.keep_reserve()
    }

    /// Moves all pages that can be moved, and syncs them.
    fn move_all(&self) -> io::Result<()> {
        // The filling is removed first: it is on the page that each move replaces.
        self.change(|| self.database.remove(FILLING));
        let (mut fruitless, mut unsynced_bytes) = (0, 0);
        while fruitless < FRUITLESS_MOVES && !self.is_stopping.load(Ordering::Acquire) {
            let bytes = self.moves()?;
            unsynced_bytes += bytes;
            fruitless = if bytes > IDLE_BYTES { 0 } else { fruitless + MOVES };
            if unsynced_bytes >= SPELL_BYTES {
                self.sync()?;
                unsynced_bytes = 0;
            }
        }
        self.sync()
    }

    /// Makes all written data durable, and notes that in the mark.
    fn sync(&self) -> io::Result<()> {
        let lsn = written_lsn(&self.database);
        self.file.sync_data()?;
        self.mark.write(None, lsn)
    }

    /// Sleeps until `time`, or until the thread must stop.
    fn rest_until(&self, time: Instant) {
        while !self.is_stopping.load(Ordering::Acquire) {
            let rest = time.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            std::thread::park_timeout(rest);
        }
    }

    /// Moves pages for a while. Returns the bytes that were written for that, and whether there may
    /// be more to move.
    fn spell(&self) -> io::Result<(u64, bool)> {
        let started = Instant::now();
        let mut moved_bytes = 0;
        // Removals from now on count for the next time.
        let has_removed = self.has_removed.swap(false, Ordering::Relaxed);
        while started.elapsed() < SPELL && moved_bytes < SPELL_BYTES {
            let bytes = self.moves()?;
            if bytes <= IDLE_BYTES {
                let written = written_bytes(&self.database);
                self.seen_bytes.store(written, Ordering::Relaxed);
                return Ok((moved_bytes, false));
            }
            moved_bytes += bytes;
        }
        self.has_removed.fetch_or(has_removed, Ordering::Relaxed);
        Ok((moved_bytes, true))
    }

    /// Makes a change, with which sled may move a page. A flush must follow. Returns whether the
    /// change succeeded: if not, a page is damaged, or the flush meets the error.
    fn change(&self, change: impl Fn() -> sled::Result<Option<sled::IVec>>) -> bool {
        change().inspect_err(|error| debug!(%error, "cannot move a page")).is_ok()
    }

    /// Has sled move [`MOVES`] pages. Returns about how many bytes were written for that.
    fn moves(&self) -> io::Result<u64> {
        let before = written_bytes(&self.database);
        let committed = self.committed_bytes.load(Ordering::Relaxed);
        let mut damaged = 0;
        for change in (0..MOVES).flat_map(|_| 0..CHANGES) {
            damaged += usize::from(!self.change(|| self.database.insert(KEY, &[change])));
        }
        self.database.flush()?;
        if damaged > 0 {
            warn!(
                pages = damaged,
                "damaged pages keep segments of the log from being used again; run `leftoff \
                 check`, and go on with what `leftoff check --repair` brings back"
            );
        }
        let written = written_bytes(&self.database).saturating_sub(before);
        let by_others = self.committed_bytes.load(Ordering::Relaxed).saturating_sub(committed);
        Ok(written.saturating_sub(by_others))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::FileExt as _;

    use super::super::engine::{self, used_segments};
    use super::super::forgetful::Forgetful;
    use super::*;

    const VALUE_BYTES: usize = 8 << 10;
    const KEYS: u32 = 8_192;

    fn used(database: &sled::Db) -> u64 {
        used_segments(database).count() as u64 * SEGMENT_BYTES as u64
    }

    /// Opens a database, and its file once more for the thread.
    fn open(directory: &Path) -> (sled::Db, File) {
        let database = engine::open(directory, 1 << 20).unwrap();
        let file = File::options().write(true).open(directory.join("db")).unwrap();
        (database, file)
    }

    /// Starts the thread for the database in `directory`; the reserve and the mark are in `beside`.
    fn start(
        (database, directory): (&sled::Db, &Path),
        file: &File,
        beside: &Path,
        failed: &Arc<WriteFailure>,
    ) -> Cleaner {
        let space = Arc::new(Space::open(beside, 0).unwrap());
        let mark = Arc::new(LogMark::open(beside).unwrap());
        Cleaner::start((database, directory), (file, &mark), &space, failed).unwrap()
    }

    /// Waits until the thread has nothing to do, and returns what it shares.
    fn rested(cleaner: &Cleaner) -> Arc<CleanerState> {
        let (shared, until) = (cleaner.shared.clone(), Instant::now() + Duration::from_secs(60));
        while shared.is_busy.load(Ordering::Acquire) || shared.is_worth_it() {
            assert!(Instant::now() < until, "the thread does not come to rest");
            std::thread::sleep(INTERVAL);
        }
        shared
    }

    /// Goal: the space of removed entries comes back without any further write.
    /// Method: a third of the pages of each segment stays; sled alone does not move these.
    #[test]
    fn segments_that_are_mostly_superseded_are_given_back_while_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (database, file) = open(directory.path());
        let tree = database.open_tree("events").unwrap();
        for key in 0..KEYS {
            tree.insert(key.to_be_bytes(), vec![key as u8; VALUE_BYTES]).unwrap();
        }
        database.flush().unwrap();
        let full = used(&database);
        assert!(full >= u64::from(KEYS) * VALUE_BYTES as u64);
        let failed = Arc::<WriteFailure>::default();
        let cleaner = start((&database, directory.path()), &file, directory.path(), &failed);
        let is_kept = |key: u32| key % 192 < 64;
        for key in (0..KEYS).filter(|key| !is_kept(*key)) {
            let before = written_bytes(&database);
            tree.remove(key.to_be_bytes()).unwrap();
            database.flush().unwrap();
            cleaner.wrote(WrittenGroup {
                before_bytes: before,
                is_synced: true,
                has_removed: true,
            });
        }
        let until = Instant::now() + Duration::from_secs(60);
        while used(&database) > full * 6 / 10 {
            assert!(Instant::now() < until, "{} of {full} bytes are in use", used(&database));
            std::thread::sleep(INTERVAL);
        }
        drop(cleaner);
        let kept = tree.iter().map(Result::unwrap);
        let kept: Vec<_> = kept.map(|(key, value)| (key.to_vec(), value[0], value.len())).collect();
        let wanted = (0..KEYS).filter(|key| is_kept(*key));
        let wanted: Vec<_> =
            wanted.map(|key| (key.to_be_bytes().to_vec(), key as u8, VALUE_BYTES)).collect();
        assert!(kept == wanted, "the tree holds other entries");
        assert!(!failed.is_set());
    }

    /// Goal: moved pages outlive a loss of power, though sled may overwrite their old places next.
    /// Method: in the files that are left after a loss of power, the free segments are cleared.
    #[test]
    fn what_was_moved_outlives_a_loss_of_power_once_its_old_place_is_written_over() {
        let Some(disk) = Forgetful::mount() else { return };
        let (database, file) = open(disk.path());
        let tree = database.open_tree("events").unwrap();
        let is_kept = |key: u32| key % 192 < 64;
        let sync = || {
            database.flush().unwrap();
            file.sync_data().unwrap();
        };
        for key in 0..KEYS {
            tree.insert(key.to_be_bytes(), vec![key as u8; VALUE_BYTES]).unwrap();
        }
        sync();
        let (failed, elsewhere) = (Arc::<WriteFailure>::default(), tempfile::tempdir().unwrap());
        let before = written_bytes(&database);
        for key in (0..KEYS).filter(|key| !is_kept(*key)) {
            tree.remove(key.to_be_bytes()).unwrap();
        }
        sync();
        let removed_bytes = written_bytes(&database);
        let mut cleaner = start((&database, disk.path()), &file, elsewhere.path(), &failed);
        // sled's own threads finish segments when they get to it, and pages are moved only out of
        // finished ones. So the thread looks again until it has moved enough for old places to be
        // filled anew.
        let until = Instant::now() + Duration::from_secs(60);
        while written_bytes(&database) - removed_bytes <= SEGMENT_BYTES as u64 / 2 {
            assert!(Instant::now() < until, "too little was moved");
            cleaner.shared.seen_bytes.store(0, Ordering::Relaxed);
            cleaner.wrote(WrittenGroup {
                before_bytes: before,
                is_synced: true,
                has_removed: true,
            });
            rested(&cleaner);
        }
        cleaner.stop();
        assert!(!failed.is_set());
        let left = tempfile::tempdir().unwrap();
        disk.copy_kept(left.path());
        let path = left.path().join("db");
        let in_use: BTreeSet<u64> = used_segments(&database).collect();
        let segments = std::fs::metadata(&path).unwrap().len().div_ceil(SEGMENT_BYTES as u64);
        let left_file = File::options().write(true).open(&path).unwrap();
        for segment in (0..segments).map(|number| number * SEGMENT_BYTES as u64) {
            if !in_use.contains(&segment) {
                left_file.write_all_at(&vec![0; SEGMENT_BYTES], segment).unwrap();
            }
        }
        let database = engine::open(left.path(), 1 << 20).unwrap();
        let kept = database.open_tree("events").unwrap();
        let missing = (0..KEYS).filter(|key| is_kept(*key)).filter(|key| {
            kept.get(key.to_be_bytes()).unwrap().is_none_or(|value| value[0] != *key as u8)
        });
        assert_eq!(missing.count(), 0, "moved entries are gone");
    }

    /// Goal: when the thread cannot go on, the broker is told at once, with the cause, though
    /// nobody writes; and nothing more is written.
    /// Method: the file that the thread syncs is a pipe, which cannot be synced.
    #[test]
    fn a_failure_of_the_thread_ends_writing_and_is_told_within_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let (database, _) = open(directory.path());
        let (_reader, writer) = io::pipe().unwrap();
        let failed = Arc::<WriteFailure>::default();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        failed.tell(Box::new(move |cause| tell.send(cause.to_string()).unwrap()));
        let unsyncable = File::from(std::os::fd::OwnedFd::from(writer));
        let cleaner = start((&database, directory.path()), &unsyncable, directory.path(), &failed);
        failed.check().unwrap();
        let committed = Instant::now();
        let before_bytes = written_bytes(&database);
        cleaner.wrote(WrittenGroup { before_bytes, is_synced: false, has_removed: false });
        let told = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(told.contains("the thread that cleans the log"), "{told}");
        assert!(committed.elapsed() < Duration::from_secs(1), "after {:?}", committed.elapsed());
        let error = failed.check().unwrap_err();
        assert!(matches!(error, crate::error::Error::ReadOnly(_)), "{error}");
        assert!(error.to_string().contains("`leftoff check --repair`"), "{error}");
        let write: crate::Result<()> = failed.or_fail(|| panic!("the log still writes"));
        assert!(matches!(write, Err(crate::error::Error::ReadOnly(_))), "{write:?}");
    }

    /// Goal: a panic of the thread, as sled panics if its files contradict each other, also ends
    /// writing, and is told.
    #[test]
    fn a_panic_of_the_thread_ends_writing_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (database, file) = open(directory.path());
        let failed = Arc::<WriteFailure>::default();
        let mut cleaner = start((&database, directory.path()), &file, directory.path(), &failed);
        cleaner.stop();
        failed.check().unwrap();
        cleaner.shared.run_to_the_end(|_| panic!("injected"));
        let error = failed.check().unwrap_err();
        assert!(matches!(error, crate::error::Error::ReadOnly(_)), "{error}");
    }

    /// Goal: with nothing to move, the thread comes to rest, after it has synced what was not
    /// synced.
    #[test]
    fn with_nothing_to_move_it_rests() {
        let directory = tempfile::tempdir().unwrap();
        let (database, file) = open(directory.path());
        let failed = Arc::<WriteFailure>::default();
        let mut cleaner = start((&database, directory.path()), &file, directory.path(), &failed);
        let before = written_bytes(&database);
        let tree = database.open_tree("events").unwrap();
        for key in 0..100_u32 {
            tree.insert(key.to_be_bytes(), vec![0; VALUE_BYTES]).unwrap();
        }
        database.flush().unwrap();
        cleaner.wrote(WrittenGroup { before_bytes: before, is_synced: false, has_removed: false });
        let shared = rested(&cleaner);
        assert!(!shared.is_unsynced.load(Ordering::Acquire));
        cleaner.stop();
        assert!(!shared.is_busy.load(Ordering::Acquire));
        assert!(written_bytes(&database) - shared.seen_bytes.load(Ordering::Relaxed) < IDLE_BYTES);
    }
}
