//! Replacing the log in a data directory by one that was made from the backup of a peer.
//!
//! ```text
//! DIR/joining/backup   the peer's backup, as it comes
//! DIR/joining/log/     the log that is made from it
//! DIR/joining/aside    where the old log goes, if it is kept (setting_aside.rs)
//! DIR/joining/whole    once all of this is complete: a number of the caller's
//! DIR/restoring        while the files of the one log take the place of the other's
//! DIR/joined           afterwards: the same number, until the caller forgets it
//! DIR/fleet            the epoch of the fleet that the log is of
//! ```
//!
//! All is within the data directory, which may be a mount point: that cannot be renamed itself, and
//! what is beside it is on another disk. Until `whole` is there, the log in the directory is as it
//! was, and the attempt is removed at the next start. From then on each start completes what an
//! earlier one began, before the log is opened. Each step may be done twice.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{self, UNFINISHED, lock};
use super::setting_aside::{self, AsideNote, read_text, remove, sync, take_away, take_note_away};
use crate::cursor::Epoch;
use crate::error::{Error, Result};

const JOINING: &str = "joining";
const WHOLE: &str = "whole";
const JOINED: &str = "joined";
const ASIDE: &str = "aside";
const FLEET: &str = "fleet";

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

    /// Replaces the log in the directory by the one that was made. `number` is kept beside it. The
    /// old log is removed, or kept with `note` ([`set_aside`](setting_aside::set_aside)).
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: writing failed. If the log counts as complete already, the next start goes
    /// on; else the directory is as it was.
    pub(crate) fn complete(self, number: u64, note: Option<&AsideNote>) -> Result<()> {
        let io = |error: io::Error| Error::open(&self.directory, error);
        let prepare = |note| {
            let name = setting_aside::prepare(&self.directory, note)?;
            setting_aside::write_synced(&self.part(ASIDE), &name)
        };
        note.map_or(Ok(()), prepare).map_err(io)?;
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
            setting_aside::remove_empty(&self.directory)?;
            sync(&self.directory)
        };
        work().map_err(io)
    }

    fn put_in_place(&self, number: u64) -> io::Result<()> {
        let unfinished = self.directory.join(UNFINISHED);
        File::create(&unfinished)?.sync_all()?;
        write_synced(&self.directory.join(JOINED), number)?;
        let aside = read_text(&self.part(ASIDE))?.map(|name| self.directory.join(name));
        for name in REPLACED {
            let new = self.log().join(name);
            // What is in its place is the old one: the new one is moved once.
            if new.exists() {
                take_away(&self.directory, name, aside.as_deref())?;
                fs::rename(new, self.directory.join(name))?;
            }
        }
        take_note_away(&self.directory, aside.as_deref())?;
        sync(&self.directory)?;
        fs::remove_file(unfinished)?;
        sync(&self.directory)?;
        if let Some(aside) = &aside {
            setting_aside::remove_older(&self.directory, aside)?;
        }
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

/// Notes the epoch of the fleet that the log in `directory` is of, if that is not noted yet. It can
/// be read also if the log does not open any more.
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn note_fleet(directory: &Path, epoch: Epoch) -> Result<()> {
    if noted_fleet(directory) == Some(epoch) {
        return Ok(());
    }
    let written = write_synced(&directory.join(FLEET), epoch.get().into());
    written.map_err(|error| Error::open(directory, error))
}

/// Returns the epoch of the fleet that the log in `directory` is of; `None` if that is not known.
pub(crate) fn noted_fleet(directory: &Path) -> Option<Epoch> {
    let number = read_number(&directory.join(FLEET)).ok().flatten()?;
    number.try_into().ok().map(Epoch::new)
}

fn write_synced(path: &Path, number: u64) -> io::Result<()> {
    setting_aside::write_synced(path, &number.to_string())
}

fn read_number(path: &Path) -> io::Result<Option<u64>> {
    let text = read_text(path)?;
    text.map(|text| text.parse().map_err(io::Error::other)).transpose()
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
        replacement.complete(42, None).unwrap();
        assert_eq!(log_of(path), ["new", "new"]);
        assert_eq!(names(path), ["joined", "lock", "mark", "of somebody", "sled"]);
        assert_eq!(joined_number(path).unwrap(), Some(42));
        forget_joined_number(path).unwrap();
        forget_joined_number(path).unwrap();
        assert_eq!(joined_number(path).unwrap(), None);
        assert_eq!(noted_fleet(path), None);
        for epoch in [7, 7, u32::MAX] {
            note_fleet(path, Epoch::new(epoch)).unwrap();
            assert_eq!(noted_fleet(path), Some(Epoch::new(epoch)));
        }
    }

    fn note(at_ms: u64) -> AsideNote {
        AsideNote { at_ms, why: "a page".to_owned(), peer: Some("n1".to_owned()) }
    }

    /// Goal: a damaged log is kept when another one replaces it, whole and with the reason; one
    /// that was kept before goes only once the new log is in place.
    #[test]
    fn a_damaged_log_is_kept_until_the_next_one_is_replaced() {
        /// More than a day after 7.
        const LATER: u64 = 86_400_012;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for at_ms in [7, LATER] {
            let replacement = begun(path);
            write_log(path, &format!("damaged at {at_ms}"));
            setting_aside::note_damage(path, "found while reading").unwrap();
            if at_ms == LATER {
                // An attempt that fails before it is whole keeps all that there is.
                setting_aside::prepare(path, &note(11)).unwrap();
                drop(replacement);
                finish_replacing(path).unwrap();
                assert_eq!(names(path)[..2], ["damage", "damaged-7"]);
                let text = format!("damaged at {LATER}");
                assert_eq!(log_of(path), [&*text, &text]);
                let replacement = begun(path);
                write_log(path, &format!("damaged at {LATER}"));
                replacement.complete(42, Some(&note(at_ms))).unwrap();
            } else {
                replacement.complete(42, Some(&note(at_ms))).unwrap();
            }
            assert_eq!(log_of(path), ["new", "new"]);
            let aside = format!("damaged-{at_ms}");
            assert_eq!(names(path), [&aside, "joined", "lock", "mark", "of somebody", "sled"]);
            let kept = setting_aside::set_aside(path).unwrap().unwrap();
            assert_eq!((kept.note, kept.directory), (note(at_ms), path.join(aside)));
            let text = format!("damaged at {at_ms}");
            assert_eq!(log_of(&path.join(format!("damaged-{at_ms}"))), [&*text, &text]);
            assert!((50..300).contains(&kept.size_bytes), "{}", kept.size_bytes);
            assert_eq!(setting_aside::noted_damage(path).unwrap(), None);
        }
        // Within a day, the first one stays, too.
        for at_ms in [LATER + 1, LATER + 2] {
            begun(path).complete(42, Some(&note(at_ms))).unwrap();
            let kept = [format!("damaged-{LATER}"), format!("damaged-{at_ms}")];
            assert_eq!(names(path)[..2], kept);
        }
        for at_ms in [LATER, LATER + 2] {
            fs::remove_dir_all(path.join(format!("damaged-{at_ms}"))).unwrap();
        }
        assert_eq!(setting_aside::set_aside(path).unwrap(), None);
    }

    /// Goal: wherever a replacement is interrupted that keeps the old log, the next start completes
    /// it, and the old log is whole.
    #[test]
    fn an_interrupted_replacement_keeps_the_damaged_log() {
        let steps: [fn(&Path); 5] = [
            |_| {},
            |path| fs::rename(path.join("sled"), path.join("damaged-9/sled")).unwrap(),
            |path| fs::rename(path.join("joining/log/sled"), path.join("sled")).unwrap(),
            |path| fs::rename(path.join("mark"), path.join("damaged-9/mark")).unwrap(),
            |path| fs::rename(path.join("joining/log/mark"), path.join("mark")).unwrap(),
        ];
        for count in 1..=steps.len() {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path();
            let replacement = begun(path);
            let name = setting_aside::prepare(path, &note(9)).unwrap();
            setting_aside::write_synced(&replacement.part(ASIDE), &name).unwrap();
            write_synced(&replacement.part(WHOLE), 42).unwrap();
            drop(replacement);
            steps[..count].iter().for_each(|step| step(path));
            finish_replacing(path).unwrap();
            assert_eq!(log_of(path), ["new", "new"], "after {count} steps");
            assert_eq!(log_of(&path.join("damaged-9")), ["old", "old"], "after {count} steps");
        }
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
