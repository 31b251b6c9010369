//! The cleaner: a thread that has sled give back the space of what is superseded.
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
//! - sled takes a segment again when nothing in it is valid any more. From a segment that is less
//!   than half valid it moves what is left elsewhere: one page whenever it replaces some page
//!   (src/pagecache/mod.rs of 0.34.7, `replace`), and more of them in its flusher, a thread that
//!   wakes up at intervals, writes out, moves pages, and calls `fsync`, whether there is anything
//!   to do or not. Every 500 ms, as is its default, it gives back 16 MiB a second at the most, and
//!   the directory of the soak (benches/soak.rs) grew to eight times what it held; every 20 ms it
//!   stayed below twice, and an idle broker called `fsync` 50 times a second.
//! - So sled runs without its flusher, and this thread makes it move pages: the tenth small change
//!   of a page makes sled replace that page, and so move one other. The page is one of sled's own
//!   default tree, which holds nothing else. A move costs about 400 bytes on top of what is moved.
//! - The thread sleeps until enough was written since it found nothing to do, for only what is
//!   written supersedes anything: [`PROBE_BYTES`] where something was removed meanwhile, and else a
//!   segment, for until one is finished there is none to move from. Looking for something to move
//!   after each [`PROBE_BYTES`] that were appended took 4 % of a machine that did nothing but
//!   append. What is idle does not wake it.
//! - The threads with which sled itself writes are another matter: seven of them look once a second
//!   whether there is something to do, idle or not, and no setting of sled's says otherwise
//!   (src/threadpool.rs, `DESIRED_WAITING_THREADS`). So an idle broker's threads wake up once a
//!   second each at the most, and some of them do.
//! - What was moved is synced before sled can write over the place that it was moved from: sled
//!   takes a segment again two segments later at the earliest, and a spell moves less than one.
//!   For the same reason, and to bound what a loss of power takes, the thread syncs what was
//!   committed without a sync, within [`INTERVAL`].
//! - sled's flusher ends for ever at the first error that it meets, and tells nobody but sled's own
//!   log (src/flusher.rs): one damaged page, of whatever topic, and no space comes back any more.
//!   sled takes a page off its list before it reads it, so here a page that is damaged fails once,
//!   and the next one is moved. It stays where it is, and so does its segment; whoever reads it is
//!   told. Other errors are those of writing, which sled keeps (`Config::global_error`): they end
//!   the thread and all writing, and are told at once.

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
use super::mark::Mark;
use super::snapshot::Snapshots;
use super::space::Space;
use crate::log::failed::WriteFailure;

/// The longest wait of a stop for the thread, and the time between two looks.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const STOP_STEP: Duration = Duration::from_millis(1);

/// Bytes that are written, with a removal among them, until it is worth looking for something to
/// move: a few pages.
const PROBE_BYTES: u64 = 256 << 10;

/// Moves in a row, after which it is looked at whether anything moved at all. A page that has
/// moved by itself counts as one, and moves nothing.
const MOVES: usize = 32;

/// Bytes that [`MOVES`] write at the most when there is nothing to move.
const IDLE_BYTES: u64 = MOVES as u64 * 1_024;

/// The longest time that the thread moves pages without a pause, and the time between two begins:
/// the thread takes at most half of the time, as sled's flusher does.
const SPELL: Duration = Duration::from_millis(10);
const INTERVAL: Duration = Duration::from_millis(20);

/// Bytes that a spell moves at the most, before they are synced: less than one of sled's segments.
const SPELL_BYTES: u64 = 4 << 20;

/// Changes of a page that make sled replace it. Source: `PAGE_CONSOLIDATION_THRESHOLD`.
const CHANGES: u8 = 10;

/// The key that is changed.
const KEY: &[u8] = b"cleaner";

/// The key that what fills segments is written to, and how much at a time: so little that sled
/// keeps it in the segment.
const FILLING: &[u8] = b"filling";
const FILLING_BYTES: usize = SEGMENT_BYTES / 32;

/// Segments that are finished, so that what was moved lies in finished ones.
const FINISHED_SEGMENTS: u64 = 3;

/// Moves in a row that move nothing, after which there is nothing left. A segment holds so many
/// pages, of which all may have moved by themselves.
const FRUITLESS_MOVES: usize = 2_048;

/// The cleaning thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Cleaner {
    shared: Arc<CleanerState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct CleanerState {
    database: sled::Db,
    file: File,
    mark: Arc<Mark>,
    /// Bytes that commits have written.
    committed_bytes: AtomicU64,
    /// The bytes that were written in all when nothing was left to do.
    seen_bytes: AtomicU64,
    /// Whether something was removed since nothing was left to do.
    has_removed: AtomicBool,
    /// Whether something was committed without a sync.
    is_unsynced: AtomicBool,
    /// The bytes that were written in all when segments were finished last.
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
    /// Starts the thread, for the sled in a directory. What it syncs is noted in `mark`, and what
    /// keeps sled from writing in `failed`.
    pub(super) fn start(
        (database, sled_directory): (&sled::Db, &Path),
        (file, mark): (&File, &Arc<Mark>),
        space: &Arc<Space>,
        failed: &Arc<WriteFailure>,
    ) -> io::Result<Self> {
        let shared = Arc::new(CleanerState {
            database: database.clone(),
            file: file.try_clone()?,
            mark: mark.clone(),
            committed_bytes: AtomicU64::new(0),
            seen_bytes: AtomicU64::new(0), // What was left to do before shows at the first write.
            has_removed: AtomicBool::new(true), // It may have been, before.
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

    /// Notes that a commit has written.
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

    /// Makes the thread give back what it can, because the disk is full. Nothing happens if the
    /// thread did so before and nothing was written since.
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

    /// Ends the thread, after the spell that it is at. On a disk without a byte left sled may wait
    /// for ever for what it could not write: then the thread is left behind, and the log is not
    /// free before the process ends.
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
    /// Runs `run` until the log is closed. An earlier end means that sled has given up, and is
    /// noted.
    fn run_to_the_end(&self, run: impl FnOnce(&Self) -> io::Result<()>) {
        let ended = catch_unwind(AssertUnwindSafe(|| run(self)));
        let panicked = |_printed_by_then| Err(io::Error::other("it ended by a panic"));
        if let Err(error) = ended.unwrap_or_else(panicked) {
            self.failed.set(Arc::new(io::Error::new(
                error.kind(),
                format!("the thread that cleans the log: {error}"),
            )));
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
            // Before it is looked for more to do: who asks from now on wakes the thread again.
            self.is_busy.store(false, Ordering::Release);
            let has_more = self.work()?;
            self.is_busy.fetch_or(has_more, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Whether enough was written since nothing was left to do.
    fn is_worth_it(&self) -> bool {
        let seen = self.seen_bytes.load(Ordering::Relaxed);
        let least = match self.has_removed.load(Ordering::Relaxed) {
            true => PROBE_BYTES,
            false => SEGMENT_BYTES as u64,
        };
        written_bytes(&self.database) >= seen.saturating_add(least)
    }

    /// Moves pages for a while, and syncs. Returns whether there may be more to move.
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

    /// Writes until the segments are finished that something was moved to, and cleans all there is
    /// meanwhile.
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
            filling[0] ^= 1; // sled does not write what is there already.
            let is_written = self.change(|| self.database.insert(FILLING, &filling[..]));
            self.database.flush()?;
            if !is_written {
                break; // Its page is damaged: nothing is filled by it.
            }
            let finished = written_bytes(&self.database) / segment;
            if finished > seen {
                seen = finished;
                self.move_all()?; // A segment that is finished can be one to move from.
            }
        }
        self.move_all()?;
        self.pressed_bytes.store(written_bytes(&self.database), Ordering::Relaxed);
        self.space.keep_reserve()
    }

    /// Moves all there is to move, and syncs.
    fn move_all(&self) -> io::Result<()> {
        // The filling is on the page that is replaced for each move.
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

    /// Makes durable what is written, and notes that.
    fn sync(&self) -> io::Result<()> {
        let lsn = written_lsn(&self.database);
        self.file.sync_data()?;
        self.mark.write(None, lsn)
    }

    /// Sleeps until `time`, or until the thread is to stop.
    fn rest_until(&self, time: Instant) {
        while !self.is_stopping.load(Ordering::Acquire) {
            let rest = time.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            std::thread::park_timeout(rest);
        }
    }

    /// Moves pages for a while. Returns how much was written for that, and whether there may be
    /// more to move.
    fn spell(&self) -> io::Result<(u64, bool)> {
        let started = Instant::now();
        let mut moved_bytes = 0;
        // What is removed from now on is looked at the next time.
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

    /// Changes something, by which sled may move a page; a flush has to follow. Returns whether
    /// sled could: otherwise the page is damaged, or the flush meets what keeps sled from writing.
    fn change(&self, change: impl Fn() -> sled::Result<Option<sled::IVec>>) -> bool {
        change().inspect_err(|error| debug!(%error, "cannot move a page")).is_ok()
    }

    /// Has sled move [`MOVES`] pages. Returns how much was written for that, about.
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

    /// Goal: what was removed gives its space back without any further write.
    /// Method: in each segment a third of the pages stays, which sled alone does not move.
    #[test]
    fn segments_that_are_mostly_superseded_are_given_back_while_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let database = engine::open(directory.path(), 1 << 20).unwrap();
        let tree = database.open_tree("events").unwrap();
        for key in 0..KEYS {
            tree.insert(key.to_be_bytes(), vec![key as u8; VALUE_BYTES]).unwrap();
        }
        database.flush().unwrap();
        let full = used(&database);
        assert!(full >= u64::from(KEYS) * VALUE_BYTES as u64);
        let file = File::options().write(true).open(directory.path().join("db")).unwrap();
        let failed = Arc::<WriteFailure>::default();
        let space = Arc::new(Space::open(directory.path(), 0).unwrap());
        let mark = Arc::new(Mark::open(directory.path()).unwrap());
        let cleaner =
            Cleaner::start((&database, directory.path()), (&file, &mark), &space, &failed).unwrap();
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
        assert!(kept == wanted, "something else is stored");
        assert!(!failed.is_set());
    }

    /// Goal: what the thread has moved outlives a loss of power, though sled may write over the
    /// places that it was moved from next: all else that it stands for was synced before.
    /// Method: of what is left after a loss of power, the segments that are free are cleared.
    #[test]
    fn what_was_moved_outlives_a_loss_of_power_once_its_old_place_is_written_over() {
        let Some(disk) = Forgetful::mount() else { return };
        let database = engine::open(disk.path(), 1 << 20).unwrap();
        let tree = database.open_tree("events").unwrap();
        let file = File::options().write(true).open(disk.path().join("db")).unwrap();
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
        let space = Arc::new(Space::open(elsewhere.path(), 0).unwrap());
        let mark = Arc::new(Mark::open(elsewhere.path()).unwrap());
        let before = written_bytes(&database);
        for key in (0..KEYS).filter(|key| !is_kept(*key)) {
            tree.remove(key.to_be_bytes()).unwrap();
        }
        sync();
        let removed_bytes = written_bytes(&database);
        let mut cleaner =
            Cleaner::start((&database, disk.path()), (&file, &mark), &space, &failed).unwrap();
        cleaner.wrote(WrittenGroup { before_bytes: before, is_synced: true, has_removed: true });
        let until = Instant::now() + Duration::from_secs(60);
        let shared = cleaner.shared.clone();
        while shared.is_busy.load(Ordering::Acquire) || shared.is_worth_it() {
            assert!(Instant::now() < until, "it goes round");
            std::thread::sleep(INTERVAL);
        }
        cleaner.stop();
        let moved_bytes = written_bytes(&database) - removed_bytes;
        // How much depends on where sled has put what; it is enough to fill places anew.
        assert!(moved_bytes > SEGMENT_BYTES as u64 / 2, "{moved_bytes} bytes were moved");
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
        assert_eq!(missing.count(), 0, "what was moved is gone");
    }

    /// Goal: when the thread cannot go on, whoever asks is told at once, and why, though nobody
    /// writes; and nothing more is written.
    /// Method: what it syncs is a pipe, which cannot be synced.
    #[test]
    fn a_failure_of_the_thread_ends_writing_and_is_told_within_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let database = engine::open(directory.path(), 1 << 20).unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        let failed = Arc::<WriteFailure>::default();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        failed.tell(Box::new(move |cause| tell.send(cause.to_string()).unwrap()));
        let space = Arc::new(Space::open(directory.path(), 0).unwrap());
        let mark = Arc::new(Mark::open(directory.path()).unwrap());
        let unsyncable = File::from(std::os::fd::OwnedFd::from(writer));
        let cleaner =
            Cleaner::start((&database, directory.path()), (&unsyncable, &mark), &space, &failed)
                .unwrap();
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
        let write: crate::Result<()> = failed.or_fail(|| panic!("it is written"));
        assert!(matches!(write, Err(crate::error::Error::ReadOnly(_))), "{write:?}");
    }

    /// Goal: a thread that panics, as sled does where its files contradict each other, ends writing
    /// as well, and is told.
    #[test]
    fn a_panic_of_the_thread_ends_writing_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let database = engine::open(directory.path(), 1 << 20).unwrap();
        let file = File::options().write(true).open(directory.path().join("db")).unwrap();
        let failed = Arc::<WriteFailure>::default();
        let space = Arc::new(Space::open(directory.path(), 0).unwrap());
        let mark = Arc::new(Mark::open(directory.path()).unwrap());
        let mut cleaner =
            Cleaner::start((&database, directory.path()), (&file, &mark), &space, &failed).unwrap();
        cleaner.stop();
        failed.check().unwrap();
        cleaner.shared.run_to_the_end(|_| panic!("injected"));
        let error = failed.check().unwrap_err();
        assert!(matches!(error, crate::error::Error::ReadOnly(_)), "{error}");
    }

    /// Goal: with nothing to move, the thread does not go round; what was not synced is synced.
    #[test]
    fn with_nothing_to_move_it_rests() {
        let directory = tempfile::tempdir().unwrap();
        let database = engine::open(directory.path(), 1 << 20).unwrap();
        let file = File::options().write(true).open(directory.path().join("db")).unwrap();
        let failed = Arc::<WriteFailure>::default();
        let space = Arc::new(Space::open(directory.path(), 0).unwrap());
        let mark = Arc::new(Mark::open(directory.path()).unwrap());
        let mut cleaner =
            Cleaner::start((&database, directory.path()), (&file, &mark), &space, &failed).unwrap();
        let before = written_bytes(&database);
        let tree = database.open_tree("events").unwrap();
        for key in 0..100_u32 {
            tree.insert(key.to_be_bytes(), vec![0; VALUE_BYTES]).unwrap();
        }
        database.flush().unwrap();
        cleaner.wrote(WrittenGroup { before_bytes: before, is_synced: false, has_removed: false });
        let until = Instant::now() + Duration::from_secs(30);
        let shared = cleaner.shared.clone();
        while shared.is_busy.load(Ordering::Acquire) || shared.is_worth_it() {
            assert!(Instant::now() < until, "it goes round");
            std::thread::sleep(INTERVAL);
        }
        assert!(!shared.is_unsynced.load(Ordering::Acquire));
        cleaner.stop();
        assert!(!shared.is_busy.load(Ordering::Acquire));
        assert!(written_bytes(&database) - shared.seen_bytes.load(Ordering::Relaxed) < IDLE_BYTES);
    }
}
