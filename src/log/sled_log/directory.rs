//! The data directory and its lock, so that one process at a time has a log open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, OpenReason, Result};

/// The file that exists while a log is being made, by a restore or a repair.
pub(super) const UNFINISHED: &str = "restoring";

/// The longest wait for a lock that another process holds, and the time between two tries. A child
/// process holds its parent's locks for a moment, until it executes its own program. Without the
/// wait, a program that reopens its log at that moment would be refused.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_STEP: Duration = Duration::from_millis(5);

/// Creates the data directory if it is missing.
///
/// # Errors
///
/// [`Error::Open`] says what is in the place of the directory, and what to do.
pub(super) fn make_directory(directory: &Path) -> Result<()> {
    let Err(error) = std::fs::create_dir_all(directory) else { return Ok(()) };
    let in_the_way = directory.ancestors().find_map(|path| Some((path, no_directory(path)?)));
    Err(match in_the_way {
        Some((path, reason)) => Error::open(path, reason),
        None => Error::open(directory, error),
    })
}

/// Returns what is in the place of a directory; `None` for nothing, or a directory.
pub(super) fn no_directory(path: &Path) -> Option<OpenReason> {
    if let Ok(found) = path.metadata() {
        let problem = "it is a file, and no directory; name a directory";
        return (!found.is_dir()).then(|| OpenReason::NoDirectory(problem.to_owned()));
    }
    let target = std::fs::read_link(path).ok()?;
    Some(OpenReason::NoDirectory(format!(
        "it is a symbolic link to {}, which is not there; make that directory, mount what it is \
         on, or remove the link",
        target.display()
    )))
}

/// Takes the lock of `directory`, and creates its file if it is missing.
///
/// # Errors
///
/// [`Error::Open`] if another process holds the lock.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    hold(directory, file)
}

/// Takes the lock of an existing log, and creates nothing.
///
/// # Errors
///
/// [`Error::Open`] if another process holds the lock, or its file is missing.
pub(super) fn lock_existing(directory: &Path) -> Result<File> {
    hold(directory, File::open(directory.join("lock")))
}

/// Refuses a directory in which the making of a log was interrupted.
///
/// # Errors
///
/// [`Error::Open`].
pub(super) fn refuse_unfinished(directory: &Path) -> Result<()> {
    if !directory.join(UNFINISHED).exists() {
        return Ok(());
    }
    Err(Error::open(directory, OpenReason::Unfinished))
}

fn hold(directory: &Path, file: io::Result<File>) -> Result<File> {
    let file = file.map_err(|error| {
        let what = "its lock file".to_owned();
        Error::open(directory, OpenReason::Io { what, cause: error.into() })
    })?;
    let is_held = |error: &TryLockError| matches!(error, TryLockError::WouldBlock);
    patiently(|| file.try_lock(), is_held).map_err(|error| match error {
        TryLockError::WouldBlock => Error::open(directory, OpenReason::Locked),
        TryLockError::Error(error) => Error::open(directory, error),
    })?;
    Ok(file)
}

/// Calls `open` again as long as a lock refuses it, for half a second at the most.
pub(super) fn patiently<T, E>(
    open: impl Fn() -> Result<T, E>,
    is_locked: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let started = Instant::now();
    loop {
        match open() {
            Err(error) if is_locked(&error) && started.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_STEP);
            }
            outcome => return outcome,
        }
    }
}
