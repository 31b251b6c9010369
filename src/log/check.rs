//! The check: reads every block of a log and verifies it, without changing a byte.
//!
//! # Why
//!
//! sled mends what it opens: it cuts its file at the first entry that does not fit. So the check
//! opens a copy. It costs the log's size in space; it leaves what it examines as it was.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::block::HEADER_BYTES;
use super::blocks::{Blocks, in_words};
use super::{keys, mark, meta, sled_log};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};

/// Memory for the copy's page cache, in bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// Bytes copied between two reports of progress.
const COPY_STEP_BYTES: usize = 1 << 20;

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checking {
    /// This many bytes of the log's files are copied, of so many.
    Copied(u64, u64),
    /// This many topics are read, of so many.
    Read(u64, u64),
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// How many topics there are.
    pub topics: u64,
    /// How many blocks fit their checksum.
    pub blocks: u64,
    /// How many events these hold.
    pub events: u64,
    /// The bytes of these events as they are stored.
    pub event_bytes: u64,
    /// The position of the newest event.
    pub last_position: u64,
    /// Everything that does not fit.
    pub damage: Vec<Error>,
}

/// Verifies the log in `directory`, which no process may have open, on a copy inside `scratch`.
/// The copy is removed by whoever made `scratch`.
///
/// # Errors
///
/// [`Error::Open`]: the log is in use, is none, or could not be copied. Damage is no error: it is
/// in the report.
pub fn check(
    directory: &Path,
    scratch: &Path,
    mut progress: impl FnMut(Checking),
) -> Result<CheckReport> {
    let at = |problem: String| Error::Open { path: directory.to_owned(), problem };
    let source = directory.join("sled");
    if !source.join("db").is_file() {
        return Err(at("there is no log in it".to_owned()));
    }
    let lock = sled_log::lock_existing(directory)?;
    copy(&source, scratch, &mut progress)
        .map_err(|error| at(format!("copying it to {}: {error}", scratch.display())))?;
    let marked = |epoch| mark::read(directory, epoch).map_err(|error| at(error.to_string()));
    let mut report = CheckReport::default();
    let damaged = |error: &sled::Error| at(in_words(error));
    let database = match sled_log::open_sled(scratch, CACHE_BYTES) {
        Ok(database) => database,
        Err(error) => {
            report.damage.push(damaged(&error));
            return Ok(report);
        }
    };
    let tree = database.open_tree(keys::TREE).map_err(|error| damaged(&error))?;
    read_topics(&tree, &mut report, &mut progress);
    match meta::read_epoch(&tree).map_err(at)? {
        Some(epoch) => match marked(epoch)? {
            Some(marked) if report.last_position < marked.get() => {
                let last = Position::new(report.last_position);
                report.damage.push(at(sled_log::lost_end(last, marked)));
            }
            Some(_) => {}
            None => report.damage.push(at("the file `mark` is missing or damaged".to_owned())),
        },
        None => report.damage.push(at("the record of the log is missing".to_owned())),
    }
    drop(lock);
    Ok(report)
}

fn read_topics(tree: &sled::Tree, report: &mut CheckReport, progress: &mut impl FnMut(Checking)) {
    let topics: Vec<_> = meta::read_topics(tree).collect();
    let count = topics.len() as u64;
    for (index, topic) in topics.into_iter().enumerate() {
        report.topics += 1;
        match topic {
            Ok((id, record)) => {
                report.last_position = report.last_position.max(record.extent.last_position.get());
                let all = Sequence::FIRST..Sequence::new(u64::MAX);
                for block in Blocks::new(tree, id, record.name, all) {
                    note(report, block);
                }
            }
            Err(error) => report.damage.push(error),
        }
        progress(Checking::Read(index as u64 + 1, count));
    }
}

fn note(report: &mut CheckReport, block: Result<super::Block>) {
    match block {
        Ok(block) => {
            let events = block.events().count();
            assert_eq!(events, block.count(), "a verified block holds what its header says");
            report.blocks += 1;
            report.events += events as u64;
            report.event_bytes += (block.bytes().len() - HEADER_BYTES) as u64;
            report.last_position = report.last_position.max(block.last_position().get());
        }
        Err(error) => report.damage.push(error),
    }
}

fn copy(source: &Path, target: &Path, progress: &mut impl FnMut(Checking)) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(source)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.path(), entry.file_name(), entry.metadata()?.len()));
        }
    }
    let total = files.iter().map(|(.., size_bytes)| size_bytes).sum();
    let mut copied = 0;
    std::fs::create_dir_all(target)?;
    let mut buffer = vec![0; COPY_STEP_BYTES];
    for (path, name, _) in files {
        let (mut from, mut to) = (File::open(path)?, File::create(target.join(name))?);
        loop {
            let count = from.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            to.write_all(&buffer[..count])?;
            copied += count as u64;
            progress(Checking::Copied(copied, total));
        }
    }
    Ok(())
}
