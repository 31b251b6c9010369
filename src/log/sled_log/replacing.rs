//! Replacing the log in a data directory by one that was made from the backup of a peer.
//!
//! ```text
//! DIR/joining/backup   the peer's backup, as it comes
//! DIR/joining/log/     the log that is made from it
//! DIR/joining/whole    once both are complete: a number of the caller's
//! DIR/restoring        while the files of the one log take the place of the other's
//! DIR/joined           afterwards: the same number, until the caller forgets it
//! ```
//!
//! All is within the data directory, which may be a mount point: that cannot be renamed itself, and
//! what is beside it is on another disk. Until `whole` is there, the log in the directory is as it
//! was, and the attempt is removed at the next start. From then on each start completes what an
//! earlier one began, before the log is opened. Each step may be done twice.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::directory::{self, UNFINISHED, lock};
use crate::error::{Error, Result};

const JOINING: &str = "joining";
const WHOLE: &str = "whole";
const JOINED: &str = "joined";

/// The files and directories of a log that are replaced.
const REPLACED: [&str; 2] = ["sled", "mark"];

/// A log that is made to replace the one in a data directory. No log is open there meanwhile.
#[derive(Debug)]
pub(crate) struct Replacement {
    directory: PathBuf,
    _lock: File,
}

impl Replacement {
    /// Begins anew. What an interrupted attempt has left is removed.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: another process has the directory open, or it cannot be written.
    pub(crate) fn begin(directory: &Path) -> Result<Self> {
        directory::make_directory(directory)?;
        let lock = lock(directory)?;
        let replacement = Self { directory: directory.to_owned(), _lock: lock };
        replacement.complete_or_remove()?;
        let io = |error: io::Error| Error::open(directory, error);
        fs::create_dir(replacement.part("")).map_err(io)?;
        Ok(replacement)
    }

    /// Returns the path for the peer's backup.
    pub(crate) fn backup(&self) -> PathBuf {
        self.part("backup")
    }

    /// Returns the path for the log that is made from it.
    pub(crate) fn log(&self) -> PathBuf {
        self.part("log")
    }

    /// Replaces the log in the directory by the one that was made. `number` is kept beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: writing failed. If the log counts as complete already, the next start goes
    /// on; else the directory is as it was.
    pub(crate) fn complete(self, number: u64) -> Result<()> {
        let io = |error: io::Error| Error::open(&self.directory, error);
        write_synced(&self.part(WHOLE), number).map_err(io)?;
        self.complete_or_remove()
    }

    fn part(&self, name: &str) -> PathBuf {
        self.directory.join(JOINING).join(name)
    }

    /// Completes an attempt whose log is complete, and removes any other one.
    fn complete_or_remove(&self) -> Result<()> {
        let io = |error: io::Error| Error::open(&self.directory, error);
        let work = || -> io::Result<()> {
            if let Some(number) = read_number(&self.part(WHOLE))? {
                self.put_in_place(number)?;
            }
            remove(&self.part(""))?;
            sync(&self.directory)
        };
        work().map_err(io)
    }

    fn put_in_place(&self, number: u64) -> io::Result<()> {
        let unfinished = self.directory.join(UNFINISHED);
        File::create(&unfinished)?.sync_all()?;
        write_synced(&self.directory.join(JOINED), number)?;
        for name in REPLACED {
            let (new, old) = (self.log().join(name), self.directory.join(name));
            if new.exists() {
                remove(&old)?;
                fs::rename(new, old)?;
            }
        }
        sync(&self.directory)?;
        fs::remove_file(unfinished)?;
        sync(&self.directory)?;
        // From here on there is nothing to be done again.
        fs::remove_file(self.part(WHOLE))?;
        sync(&self.part(""))
    }
}

/// Completes or removes what an interrupted attempt has left in a data directory. Does nothing if
/// there is none.
///
/// # Errors
///
/// As [`Replacement::begin`].
pub(crate) fn finish_replacing(directory: &Path) -> Result<()> {
    if !directory.join(JOINING).exists() {
        return Ok(());
    }
    let lock = lock(directory)?;
    Replacement { directory: directory.to_owned(), _lock: lock }.complete_or_remove()
}

/// Returns the number that is kept beside a log that has replaced another one.
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn joined_number(directory: &Path) -> Result<Option<u64>> {
    let number = read_number(&directory.join(JOINED));
    number.map_err(|error| Error::open(directory, error))
}

/// Forgets the number that is kept beside the log.
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn forget_joined_number(directory: &Path) -> Result<()> {
    remove(&directory.join(JOINED)).map_err(|error| Error::open(directory, error))
}

fn write_synced(path: &Path, number: u64) -> io::Result<()> {
    // Renamed once it is written: a file that is there is complete.
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    write!(file, "{number}")?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), sync)
}

fn read_number(path: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(path) {
        Ok(text) => text.parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Removes a file, or a directory with all that is in it. Does nothing if there is none.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::OpenReason;
    use crate::log::{LogConfig, SledLog};

    /// The log of a directory is the text of its files here.
    fn write_log(directory: &Path, text: &str) {
        fs::create_dir_all(directory.join("sled")).unwrap();
        fs::write(directory.join("sled/db"), text).unwrap();
        fs::write(directory.join("mark"), text).unwrap();
    }

    fn log_of(directory: &Path) -> [String; 2] {
        ["sled/db", "mark"].map(|name| fs::read_to_string(directory.join(name)).unwrap())
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn is_open(error: &Error, is: impl Fn(&OpenReason) -> bool) -> bool {
        matches!(error, Error::Open(error) if is(&error.reason))
    }

    fn begun(directory: &Path) -> Replacement {
        write_log(directory, "old");
        fs::write(directory.join("of somebody"), "else").unwrap();
        let replacement = Replacement::begin(directory).unwrap();
        fs::write(replacement.backup(), "backup").unwrap();
        write_log(&replacement.log(), "new");
        fs::write(replacement.log().join("lock"), "").unwrap();
        replacement
    }

    #[test]
    fn a_log_replaces_another_one_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        finish_replacing(path).unwrap();
        assert!(names(path).is_empty());
        drop(begun(path));
        assert_eq!(log_of(path), ["old", "old"]);
        finish_replacing(path).unwrap();
        assert_eq!(log_of(path), ["old", "old"]);
        assert_eq!(names(path), ["lock", "mark", "of somebody", "sled"]);
        let replacement = begun(path);
        let held = Replacement::begin(path).unwrap_err();
        assert!(is_open(&held, |reason| matches!(reason, OpenReason::Locked)), "{held}");
        replacement.complete(42).unwrap();
        assert_eq!(log_of(path), ["new", "new"]);
        assert_eq!(names(path), ["joined", "lock", "mark", "of somebody", "sled"]);
        assert_eq!(joined_number(path).unwrap(), Some(42));
        forget_joined_number(path).unwrap();
        forget_joined_number(path).unwrap();
        assert_eq!(joined_number(path).unwrap(), None);
    }

    /// Goal: wherever a replacement is interrupted, the next start completes it, and no log is
    /// opened before that.
    #[test]
    fn an_interrupted_replacement_is_completed_at_the_next_start() {
        let steps: [fn(&Path); 7] = [
            |_| {},
            |path| drop(File::create(path.join(UNFINISHED)).unwrap()),
            |path| fs::remove_dir_all(path.join("sled")).unwrap(),
            |path| fs::rename(path.join("joining/log/sled"), path.join("sled")).unwrap(),
            |path| fs::remove_file(path.join("mark")).unwrap(),
            |path| fs::rename(path.join("joining/log/mark"), path.join("mark")).unwrap(),
            |path| fs::remove_file(path.join(UNFINISHED)).unwrap(),
        ];
        for count in 1..=steps.len() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            let replacement = begun(path);
            write_synced(&replacement.part(WHOLE), 42).unwrap();
            drop(replacement);
            steps[..count].iter().for_each(|step| step(path));
            if path.join(UNFINISHED).exists() {
                let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
                let refused = SledLog::open(path, &config).unwrap_err();
                let is_refused = is_open(&refused, |why| matches!(why, OpenReason::Unfinished));
                assert!(is_refused, "{refused}");
            }
            finish_replacing(path).unwrap();
            assert_eq!(log_of(path), ["new", "new"], "after {count} steps");
            assert_eq!(names(path), ["joined", "lock", "mark", "of somebody", "sled"]);
            assert_eq!(joined_number(path).unwrap(), Some(42));
        }
    }
}
