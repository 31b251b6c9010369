//! Space on the disk: which groups may still be written when it runs out, and the reserve for those
//! that make room.
//!
//! ```text
//! free on the file system  +  segments of sled's own file that hold nothing  +  the reserve file
//! |------------------------------- what is left -------------------------------------------|
//!
//! left:  ... min_free_bytes .................. 16 MiB ..................... 8 MiB ....... 0
//!            └─ appends, new topics stop       └─ rewriting, settings stop   └─ removing stops
//! ```
//!
//! # Why
//!
//! - sled does not survive a full disk: after a failed write it writes no more. And it must write
//!   to give space back: a removal is an entry of its log, and the rest of a page or a segment is
//!   written again elsewhere. So making room needs room, and other groups must not take it.
//! - sled gives back segments of its own file, not space on the file system: only segments at the
//!   end of the file are cut off. It writes into free segments before its file grows, so they count
//!   as free. A broker that counted only the file system's space stayed "full" after everything was
//!   purged: on disks of 160 MB, and of 190 to 192 MB, until it was opened again.
//! - sled uses a segment again only when the segments are finished that hold the pages moved out of
//!   it. So up to three segments, 24 MiB, are written before the first one comes back
//!   (src/pagecache/segment.rs of 0.34.7, `stabilize`). A disk that is full to `min_free_bytes` has
//!   that space, and the cleaner writes these segments (cleaner.rs, `press`).
//! - Opening writes, too: sled overwrites the rest of its last segment, and writes a snapshot.
//!   Another program may have taken the last byte meanwhile. So a part of the free space is kept in
//!   a file, [`RESERVE_BYTES`] long, which is removed when the space is needed. Then a log on a
//!   full disk can be opened, read, and trimmed, and the file is made again when there is room.
//! - Some file systems, of FUSE and of networks, do not say how much is free: they report that they
//!   have no blocks at all. Such a file system is not taken for full.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use tracing::{info, warn};

use super::config::{LEAST_FREE_BYTES, RESERVE_BYTES};
use super::engine::{SEGMENT_BYTES, used_segments};
use crate::error::{Error, Result};
use crate::log::log_space::LogSpace;

const SEGMENT: u64 = SEGMENT_BYTES as u64;

/// The space, in bytes, that must be left for a group that writes first and makes room in the end.
const REWRITE_FLOOR_BYTES: u64 = 2 * SEGMENT;

/// The space, in bytes, that must be left for a removal: the segment that sled takes next.
const REMOVE_FLOOR_BYTES: u64 = SEGMENT;

/// The space, in bytes, that must be free when sled is opened: for the rest of a segment, and a
/// snapshot.
const OPEN_BYTES: u64 = 2 * SEGMENT;

/// The space that finishing segments takes, in bytes.
const FINISH_BYTES: u64 = 4 * SEGMENT;

/// The most bytes on disk for each byte of a group, before sled gives space back: the entry itself,
/// and the rewriting of its leaf. Measured: 1.4 to 1.8.
const WRITTEN_PER_BYTE: u64 = 3;

/// The time for which a count of free segments is valid.
const COUNTED_FOR: Duration = Duration::from_millis(100);

/// The time between two tries to make the reserve file again.
const RESERVE_EVERY: Duration = Duration::from_secs(1);

const RESERVE_FILE: &str = "reserve";

/// The purpose of a group: it decides how long the group is still written when space runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WritePurpose {
    /// The log is larger afterwards.
    Grow,
    /// The log is not larger afterwards, but is written to first.
    Change,
    /// The group only removes.
    Remove,
}

/// The space of one log.
#[derive(Debug)]
pub(super) struct Space {
    /// The log's directory, for asking the file system.
    directory: File,
    reserve_path: PathBuf,
    min_free_bytes: u64,
    state: Mutex<SpaceState>,
}

#[derive(Debug, Default)]
struct SpaceState {
    /// The length of the reserve file; 0 if there is none.
    reserve_bytes: u64,
    /// The time of the last try to make the file.
    tried: Option<Instant>,
    /// Whether the file system cannot reserve space.
    is_impossible: bool,
    /// The time at which free segments were counted, their bytes, and the bytes granted since.
    counted: Option<(Instant, u64, u64)>,
}

impl Space {
    /// Returns the space of the log in `directory`. Removes the reserve file if the disk is too
    /// full to open the log.
    pub(super) fn open(directory: &Path, min_free_bytes: u64) -> io::Result<Self> {
        let reserve_path = directory.join(RESERVE_FILE);
        let reserve_bytes = std::fs::metadata(&reserve_path).map_or(0, |file| file.len());
        let state = Mutex::new(SpaceState { reserve_bytes, ..SpaceState::default() });
        let space = Self { directory: File::open(directory)?, reserve_path, min_free_bytes, state };
        if space.file_system_bytes()?.is_some_and(|free| free < OPEN_BYTES) {
            space.let_go(&mut space.lock());
        }
        Ok(space)
    }

    /// Refuses a write of `size_bytes` if too little space is left for its purpose.
    ///
    /// # Errors
    ///
    /// [`Error::DiskFull`]; [`Error::NotWritten`] if the system does not answer.
    pub(super) fn check(
        &self,
        database: &sled::Db,
        file: &File,
        purpose: WritePurpose,
        size_bytes: u64,
    ) -> Result<()> {
        let not_written = |error: std::io::Error| Error::NotWritten(error.into());
        let Some(free_bytes) = self.file_system_bytes().map_err(not_written)? else {
            return Ok(());
        };
        let floor_bytes = match purpose {
            WritePurpose::Grow => self.min_free_bytes,
            WritePurpose::Change => self.min_free_bytes.min(REWRITE_FLOOR_BYTES),
            WritePurpose::Remove => self.min_free_bytes.min(REMOVE_FLOOR_BYTES),
        };
        let wanted_bytes = WRITTEN_PER_BYTE.saturating_mul(size_bytes);
        let needed_bytes = floor_bytes.saturating_add(wanted_bytes);
        let mut state = self.lock();
        self.reserve(&mut state, free_bytes);
        if free_bytes >= needed_bytes.max(REWRITE_FLOOR_BYTES) {
            return Ok(());
        }
        let writable_bytes = state.free_segments(database, file).map_err(not_written)? + free_bytes;
        let left_bytes = writable_bytes + state.reserve_bytes;
        if left_bytes < needed_bytes {
            return Err(Error::DiskFull { free_bytes: left_bytes, needed_bytes });
        }
        if let Some((_, _, granted)) = &mut state.counted {
            *granted += wanted_bytes;
        }
        if writable_bytes < REWRITE_FLOOR_BYTES.saturating_add(wanted_bytes) {
            self.let_go(&mut state);
        }
        Ok(())
    }

    /// Whether there is room for the cleaner to finish segments. Removes the reserve file if that
    /// is needed.
    pub(super) fn can_finish_segments(&self, database: &sled::Db, file: &File) -> io::Result<bool> {
        let Some(free_bytes) = self.file_system_bytes()? else { return Ok(true) };
        let mut state = self.lock();
        state.counted = None;
        let writable_bytes = state.free_segments(database, file)? + free_bytes;
        let left_bytes = writable_bytes + state.reserve_bytes;
        if writable_bytes < FINISH_BYTES {
            self.let_go(&mut state);
        }
        Ok(left_bytes >= REWRITE_FLOOR_BYTES)
    }

    /// Returns the space of the log. Free segments of sled's file are counted only where the file
    /// system has little left: counting takes a while.
    pub(super) fn look(&self, database: &sled::Db, file: &File) -> io::Result<LogSpace> {
        let (free_bytes, file_bytes) = (self.file_system_bytes()?, file.metadata()?.len());
        let mut state = self.lock();
        let free_bytes = match free_bytes {
            Some(free) if free < self.min_free_bytes.saturating_mul(2) => {
                Some(free + state.free_segments(database, file)? + state.reserve_bytes)
            }
            free => free,
        };
        Ok(LogSpace::new(file_bytes + state.reserve_bytes, free_bytes, self.min_free_bytes))
    }

    /// Makes the reserve file, if it is missing and there is room enough.
    pub(super) fn keep_reserve(&self) -> io::Result<()> {
        if let Some(free_bytes) = self.file_system_bytes()? {
            self.reserve(&mut self.lock(), free_bytes);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SpaceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the free space of the file system in bytes; `None` if the file system does not say.
    fn file_system_bytes(&self) -> io::Result<Option<u64>> {
        let space = rustix::fs::fstatvfs(&self.directory)?;
        let is_known = space.f_blocks > 0;
        Ok(is_known.then(|| space.f_bavail.saturating_mul(space.f_frsize)))
    }

    fn reserve(&self, state: &mut SpaceState, free_bytes: u64) {
        let is_wanted = state.reserve_bytes == 0 && self.min_free_bytes >= LEAST_FREE_BYTES;
        let has_room = free_bytes >= RESERVE_BYTES + LEAST_FREE_BYTES;
        let was_tried = state.tried.is_some_and(|tried| tried.elapsed() < RESERVE_EVERY);
        if !is_wanted || !has_room || was_tried || state.is_impossible {
            return;
        }
        state.tried = Some(Instant::now());
        let made = File::create(&self.reserve_path).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES)?;
            file.sync_all()
        });
        match made {
            Ok(()) => state.reserve_bytes = RESERVE_BYTES,
            // Without the reserve, only opening the log on a disk that another program fills may
            // fail.
            Err(error) => {
                warn!(%error, path = %self.reserve_path.display(), "cannot make the reserve file");
                state.is_impossible = error.kind() != io::ErrorKind::StorageFull;
                let _it_may_not_be_there = std::fs::remove_file(&self.reserve_path);
            }
        }
    }

    fn let_go(&self, state: &mut SpaceState) {
        if state.reserve_bytes == 0 {
            return;
        }
        match std::fs::remove_file(&self.reserve_path) {
            Ok(()) => {
                info!(bytes = state.reserve_bytes, "the disk is full: removed the reserve file");
                *state = SpaceState { tried: Some(Instant::now()), ..SpaceState::default() };
            }
            Err(error) => {
                warn!(%error, path = %self.reserve_path.display(), "cannot remove the reserve");
            }
        }
    }
}

impl SpaceState {
    /// Returns the free segments of sled's file, in bytes, without the bytes that were granted
    /// since they were counted.
    fn free_segments(&mut self, database: &sled::Db, file: &File) -> io::Result<u64> {
        if let Some((counted, free, granted)) = self.counted
            && counted.elapsed() < COUNTED_FOR
            && granted < free / 2
        {
            return Ok(free - granted);
        }
        let segments = file.metadata()?.len() / SEGMENT;
        let used: BTreeSet<u64> = used_segments(database).map(|offset| offset / SEGMENT).collect();
        let used = used.range(..segments).count() as u64;
        let free = (segments - used) * SEGMENT;
        self.counted = Some((Instant::now(), free, 0));
        Ok(free)
    }
}
