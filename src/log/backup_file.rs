//! A backup as a file, which has its name only when it is complete.
//!
//! ```text
//! FILE.part   created anew, written, synced, read again and verified
//! FILE        after the rename, and the sync of its directory
//! ```
//!
//! # Why
//!
//! A file with the name of a backup can always be restored: a crash leaves `FILE.part` at the most,
//! which the next backup with this name removes. The file is read again before it gets its name,
//! because a backup that cannot be restored is useless. A backup that was given up removes its file
//! some moments later, when another backup may have begun with the same name: it knows its own file
//! by the inode, and leaves any other alone.

use std::fs::{File, Metadata};
use std::io::{BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::backup::{BackupHeader, BackupReader};
use crate::cursor::{Cursor, Place};
use crate::error::{Error, Result};

impl BackupHeader {
    /// Returns the position at which the backup is consistent. A backup of what was added after
    /// this one begins there.
    pub fn cursor(&self) -> Cursor {
        Cursor { after: Place::Position(self.position), since: None, epoch: Some(self.epoch) }
    }
}

/// A backup file that is not complete yet. Dropping it removes the file.
#[derive(Debug)]
pub struct BackupFile {
    /// The name that the file gets when it is complete.
    name: PathBuf,
    /// The name of the file until then; `None` when there is no such file any more.
    part: Option<PathBuf>,
    /// The file itself. Another backup of the same name may have put its own in the place.
    id: FileId,
}

/// The device and the inode of a file.
type FileId = (u64, u64);

fn id_of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

fn at(path: &Path, problem: impl ToString) -> Error {
    Error::Backup { path: path.to_owned(), problem: problem.to_string() }
}

impl BackupFile {
    /// Creates the file for the backup `name`, and returns it with its handle. Until the backup is
    /// complete, the file is called `name` with `.part` at the end. A file that is there already is
    /// taken for what a crash has left of an earlier backup, and is removed.
    ///
    /// # Errors
    ///
    /// [`Error::Backup`]: `name` exists already, or the file cannot be created; nothing was
    /// written.
    pub fn create(name: &Path) -> Result<(Self, File)> {
        let exists = name.try_exists().map_err(|error| at(name, error))?;
        if exists {
            return Err(at(name, "the file exists already"));
        }
        let mut part = name.to_owned().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = match std::fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => File::create_new(&part),
        };
        let file = file.map_err(|error| at(&part, error))?;
        let id = id_of(&file.metadata().map_err(|error| at(&part, error))?);
        Ok((Self { name: name.to_owned(), part: Some(part), id }, file))
    }

    /// Returns the name of the file as long as it is not complete.
    pub fn part(&self) -> &Path {
        self.part.as_deref().unwrap_or(&self.name)
    }

    /// Gives the file its name. Call it after [`sync_and_verify`].
    ///
    /// # Errors
    ///
    /// [`Error::Backup`]: the file could not be renamed, and is removed; or its directory could not
    /// be synced, and a loss of power may take its name.
    pub fn complete(mut self) -> Result<()> {
        if !self.is_there() {
            return Err(at(&self.name, "another backup with this name has taken its place"));
        }
        std::fs::rename(self.part(), &self.name).map_err(|error| at(&self.name, error))?;
        self.part = None;
        let directory = match self.name.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| {
            let problem = format!("the file is complete, but its directory is not synced: {error}");
            at(&self.name, problem)
        })
    }

    /// Removes the file.
    ///
    /// # Errors
    ///
    /// [`Error::Backup`]: the file cannot be removed, and is left behind.
    pub fn discard(mut self) -> Result<()> {
        self.remove()
    }

    /// Returns whether the incomplete file has its name still.
    fn is_there(&self) -> bool {
        let Some(part) = &self.part else { return false };
        part.metadata().is_ok_and(|metadata| id_of(&metadata) == self.id)
    }

    fn remove(&mut self) -> Result<()> {
        let is_there = self.is_there();
        let Some(part) = self.part.take().filter(|_| is_there) else { return Ok(()) };
        std::fs::remove_file(&part)
            .map_err(|error| at(&part, format!("the incomplete file cannot be removed: {error}")))
    }
}

impl Drop for BackupFile {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            warn!(%error, "left an incomplete backup behind");
        }
    }
}

/// Syncs a backup that was written to `path`, reads it again, and verifies all of it. This takes as
/// long as the disk needs for that, so it should have a thread of its own.
///
/// # Errors
///
/// [`Error::Backup`]: the file could not be synced or read, or is not what was written. The file
/// stays as it is.
pub fn sync_and_verify(file: &File, path: &Path) -> Result<BackupHeader> {
    file.sync_all().map_err(|error| at(path, error))?;
    let mut reader = open(path)?;
    while reader.next_frame().map_err(|problem| at(path, problem))?.is_some() {}
    Ok(*reader.header())
}

/// Reads the header of the backup in a file.
///
/// # Errors
///
/// [`Error::Backup`]: the file cannot be read, or is not a backup.
pub fn backup_header(path: &Path) -> Result<BackupHeader> {
    open(path).map(|reader| *reader.header())
}

fn open(path: &Path) -> Result<BackupReader<BufReader<File>>> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    let input = BufReader::with_capacity(1 << 20, file);
    BackupReader::new(input).map_err(|problem| at(path, problem))
}
