//! A damaged log that another one has replaced, and is kept; the note that a log is damaged; and
//! the note that a process has ended for its next start to repair that.
//!
//! ```text
//! DIR/damage           why the log is damaged, once that was found while it was open
//! DIR/ended            when a process ended last for its next start to repair the log, and why
//! DIR/damaged-TIME/    the damaged log that was replaced last: its files, and
//! DIR/damaged-TIME/about    what is known of it, as lines
//! ```
//!
//! `TIME` is in milliseconds since 1970. One such log is kept: when the next one is replaced, and
//! the new log is in place, the older one goes, unless it is the first one of the last day. Whoever
//! runs the broker may remove it at any time.
//! It can be checked and repaired like any log (`leftoff check`).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const DAMAGE: &str = "damage";
const ENDED: &str = "ended";
const PREFIX: &str = "damaged-";
const ABOUT: &str = "about";

/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// The most bytes of a reason that are kept.
const MAX_REASON_BYTES: usize = 1 << 10;

/// Why a log is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AsideNote {
    /// The time, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// What is damaged.
    pub(crate) why: String,
    /// The node whose backup takes the place of the log; `None` if it is made from the stream.
    pub(crate) peer: Option<String>,
}

/// A damaged log that was replaced, and is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AsideLog {
    pub(crate) note: AsideNote,
    /// The directory in which it is.
    pub(crate) directory: PathBuf,
    /// The size of its files.
    pub(crate) size_bytes: u64,
}

/// Notes that the log in `directory` is damaged, so that the next start knows it.
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn note_damage(directory: &Path, why: &str) -> Result<()> {
    let written = write_synced(&directory.join(DAMAGE), one_line(why));
    written.map_err(|error| Error::open(directory, error))
}

/// Returns why the log in `directory` is damaged, as noted by [`note_damage`].
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn noted_damage(directory: &Path) -> Result<Option<String>> {
    let text = read_text(&directory.join(DAMAGE));
    text.map_err(|error| Error::open(directory, error))
}

/// The end of a process whose next start was to repair the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotedEnd {
    /// The time, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// What was to be repaired.
    pub(crate) why: String,
}

/// Notes that the process with the log in `directory` ends, so that later ones know it.
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn note_end(directory: &Path, end: &NotedEnd) -> Result<()> {
    let text = format!("{} {}", end.at_ms, one_line(&end.why));
    let written = write_synced(&directory.join(ENDED), &text);
    written.map_err(|error| Error::open(directory, error))
}

/// Returns the last end of a process, as noted by [`note_end`].
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn noted_end(directory: &Path) -> Result<Option<NotedEnd>> {
    let text = read_text(&directory.join(ENDED));
    let text = text.map_err(|error| Error::open(directory, error))?;
    Ok(text.as_deref().and_then(|text| {
        let (at_ms, why) = text.split_once(' ')?;
        Some(NotedEnd { at_ms: at_ms.parse().ok()?, why: why.to_owned() })
    }))
}

/// Returns the damaged log that was replaced last in `directory`, if it is still there.
///
/// # Errors
///
/// [`Error::Open`].
pub(crate) fn set_aside(directory: &Path) -> Result<Option<AsideLog>> {
    let look = || -> io::Result<Option<AsideLog>> {
        let newest = asides(directory)?.into_iter().filter(|(_, path)| holds_log(path)).max();
        let Some((at_ms, directory)) = newest else { return Ok(None) };
        let about = read_text(&directory.join(ABOUT))?.unwrap_or_default();
        let line = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
        let note = AsideNote {
            at_ms,
            why: line("why ").unwrap_or("unknown").to_owned(),
            peer: line("from ").map(str::to_owned),
        };
        let size_bytes = size_of(&directory)?;
        Ok(Some(AsideLog { note, directory, size_bytes }))
    };
    look().map_err(|error| Error::open(directory, error))
}

/// Makes the directory for a log that is replaced. Returns its name.
pub(super) fn prepare(directory: &Path, note: &AsideNote) -> io::Result<String> {
    let name = format!("{PREFIX}{}", note.at_ms);
    let aside = directory.join(&name);
    fs::create_dir_all(&aside)?;
    let mut about = format!("why {}\n", one_line(&note.why));
    if let Some(peer) = &note.peer {
        about += &format!("from {}\n", one_line(peer));
    }
    write_synced(&aside.join(ABOUT), &about)?;
    File::create(aside.join("lock"))?; // So that it can be checked.
    sync(directory)?;
    Ok(name)
}

/// Moves one file or directory of the log in `directory` to `aside`, or removes it without one.
/// Does nothing if it is not there.
pub(super) fn take_away(directory: &Path, name: &str, aside: Option<&Path>) -> io::Result<()> {
    let old = directory.join(name);
    match aside {
        Some(aside) if old.exists() => {
            fs::rename(&old, aside.join(name))?;
            sync(aside)
        }
        _ => remove(&old),
    }
}

/// As [`take_away`], for the note that the log is damaged.
pub(super) fn take_note_away(directory: &Path, aside: Option<&Path>) -> io::Result<()> {
    take_away(directory, DAMAGE, aside)
}

/// Removes the logs that were replaced before the one in `aside`, but the first one of the last
/// day: a log that replaced it may turn out to be damaged before anybody has looked.
pub(super) fn remove_older(directory: &Path, aside: &Path) -> io::Result<()> {
    let mut all = asides(directory)?;
    all.sort();
    let newest_ms = all.iter().find(|(_, path)| path == aside).map_or(0, |(at_ms, _)| *at_ms);
    let is_recent = |(at_ms, _): &&(u64, PathBuf)| at_ms.saturating_add(DAY_MS) > newest_ms;
    let spared = all.iter().find(is_recent).map(|(_, path)| path.clone());
    let older = all.into_iter().map(|(_, path)| path).filter(|path| path != aside);
    older.filter(|path| Some(path) != spared.as_ref()).try_for_each(|path| remove(&path))
}

/// Removes the directories for logs that were not replaced after all.
pub(super) fn remove_empty(directory: &Path) -> io::Result<()> {
    let empty = asides(directory)?.into_iter().filter(|(_, path)| !holds_log(path));
    empty.map(|(_, path)| path).try_for_each(|path| remove(&path))
}

/// Removes a file, or a directory with all that is in it. Does nothing if there is none.
pub(super) fn remove(path: &Path) -> io::Result<()> {
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

/// Writes a file so that it is complete once it is there.
pub(super) fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent().map_or(Ok(()), sync)
}

/// Reads a file; `None` if there is none.
pub(super) fn read_text(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Returns the directories of logs that were replaced, each with its time.
fn asides(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let time = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        found.extend(time.map(|time| (time, entry.path())));
    }
    Ok(found)
}

fn holds_log(aside: &Path) -> bool {
    aside.join("sled").exists()
}

fn size_of(directory: &Path) -> io::Result<u64> {
    let mut size_bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        size_bytes += if found.is_dir() { size_of(&entry.path())? } else { found.len() };
    }
    Ok(size_bytes)
}

/// Returns the first line of a reason, or the beginning of it.
fn one_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    let end = (0..=MAX_REASON_BYTES.min(line.len())).rev();
    let end = end.into_iter().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_noted_in_one_line_until_its_log_is_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(noted_damage(path).unwrap(), None);
        note_damage(path, &format!("a page{}\nand more", "ü".repeat(2_000))).unwrap();
        let noted = noted_damage(path).unwrap().unwrap();
        assert!(noted.starts_with("a pageü") && (1_000..=1_024).contains(&noted.len()));
        take_note_away(path, None).unwrap();
        assert_eq!(noted_damage(path).unwrap(), None);
    }

    #[test]
    fn the_last_end_of_a_process_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(noted_end(path).unwrap(), None);
        for at_ms in [5, 1_800_000_000_000] {
            note_end(path, &NotedEnd { at_ms, why: "a page\nand more".to_owned() }).unwrap();
            let expected = NotedEnd { at_ms, why: "a page".to_owned() };
            assert_eq!(noted_end(path).unwrap(), Some(expected));
        }
        fs::write(path.join(ENDED), "nothing").unwrap();
        assert_eq!(noted_end(path).unwrap(), None);
    }
}
