//! The data directory and its lock, so that one process at a time has a log open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

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
    let (path, problem) = in_the_way.unwrap_or_else(|| (directory, error.to_string()));
    Err(Error::Open { path: path.to_owned(), problem })
}

/// Returns a sentence about what is in the place of a directory; `None` for nothing, or a
/// directory.
pub(super) fn no_directory(path: &Path) -> Option<String> {
    if let Ok(found) = path.metadata() {
        let problem = "it is a file, and no directory; name a directory";
        return (!found.is_dir()).then(|| problem.to_owned());
    }
    let target = std::fs::read_link(path).ok()?;
    Some(format!(
        "it is a symbolic link to {}, which is not there; make that directory, mount what it is \
         on, or remove the link",
        target.display()
    ))
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
    let problem = "a restore into it was interrupted; delete it, and restore again";
    Err(Error::Open { path: directory.to_owned(), problem: problem.to_owned() })
}

fn hold(directory: &Path, file: io::Result<File>) -> Result<File> {
    let at = |problem: String| Error::Open { path: directory.to_owned(), problem };
    let file = file.map_err(|error| at(format!("its lock file: {error}")))?;
    patiently(|| file.try_lock(), |error| matches!(error, TryLockError::WouldBlock)).map_err(
        |error| match error {
            TryLockError::WouldBlock => {
                at("another process has it open; stop that one, or name another directory".into())
            }
            TryLockError::Error(error) => at(error.to_string()),
        },
    )?;
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
