//! The check: reads every block of a log and verifies it, without changing a byte of the log.
//!
//! # Why
//!
//! sled repairs the files that it opens: it cuts its file at the first entry that does not fit. So
//! the check opens a copy, which costs the log's size in space, and the log stays as it is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::blocks::{END, TreeBlocks};
use super::directory::{lock_existing, no_directory, refuse_unfinished};
use super::engine::{self, unreadable};
use super::mark::{self, Loss};
use super::restore::NewLog;
use super::{keys, lost_tail, records, salvage, sled_files};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, OpenReason, Result};
use crate::log::applied::Applied;
use crate::log::block::Block;
use crate::log::block_header::HEADER_BYTES;
use crate::log::extent::Extent;
use crate::log::stored_topic::StoredTopic;
use crate::topic::{TopicId, TopicName};

/// The memory for the copy's page cache, in bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// The bytes that are copied between two reports of progress.
const COPY_STEP_BYTES: usize = 1 << 20;

/// The progress of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checking {
    /// The bytes of the log's files that are copied, and all bytes of these files.
    Copied(u64, u64),
    /// The bytes of blocks that are read, and the most there can be.
    Read(u64, u64),
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct CheckReport {
    /// The number of topics.
    pub topics: u64,
    /// The number of blocks that were verified.
    pub blocks: u64,
    /// The number of events in these blocks.
    pub events: u64,
    /// The bytes of these events as they are stored.
    pub event_bytes: u64,
    /// The position of the newest event.
    pub last_position: u64,
    /// The place in the fleet's stream up to which the log has applied it; `None` if it was never
    /// in a fleet. A repaired log has none, because events of it may be missing.
    pub applied: Option<Applied>,
    /// All damage that was found.
    pub damage: Vec<Error>,
}

/// Verifies the log in `directory`, which no process may have open, on a copy in `scratch`. The
/// caller, who made `scratch`, removes the copy.
///
/// # Errors
///
/// [`Error::Open`]: the log is in use, is no log, or could not be copied. Damage is no error: it is
/// in the report.
pub fn check(
    directory: &Path,
    scratch: &Path,
    progress: impl FnMut(Checking),
) -> Result<CheckReport> {
    Checker::new(None, progress, &mut |_, _| {}).run(directory, scratch)
}

/// Checks as [`check`] does, and calls `look` with each topic, first without a block and then with
/// each of its blocks, in order.
///
/// # Errors
///
/// Those of [`check`].
#[cfg(feature = "http")]
pub(super) fn check_each(
    directory: &Path,
    scratch: &Path,
    progress: impl FnMut(Checking),
    look: &mut dyn FnMut(&StoredTopic, Option<&Block>),
) -> Result<CheckReport> {
    Checker::new(None, progress, look).run(directory, scratch)
}

/// Checks as [`check`] does, and writes all that could be verified into a new log in `repaired`, a
/// directory that is missing or empty. Damaged events, which are in the report, are not in the new
/// log. If a whole block follows them in their topic, their sequences stay unused.
///
/// # Errors
///
/// Those of [`check`], and [`Error::Open`] with `repaired`, which is then no log.
pub fn repair(
    directory: &Path,
    scratch: &Path,
    repaired: &Path,
    progress: impl FnMut(Checking),
) -> Result<CheckReport> {
    let repaired = Some(NewLog::create(repaired)?);
    Checker::new(repaired, progress, &mut |_, _| {}).run(directory, scratch)
}

struct Checker<'a, P> {
    report: CheckReport,
    /// The size of the log's files, and the size of the blocks that were read so far, in bytes.
    copied_bytes: u64,
    read_bytes: u64,
    /// The topics, with the extents that their newest blocks tell.
    topics: Vec<StoredTopic>,
    repaired: Option<NewLog>,
    progress: P,
    /// Called with each topic, and with each of its blocks.
    look: &'a mut dyn FnMut(&StoredTopic, Option<&Block>),
}

impl<'a, P: FnMut(Checking)> Checker<'a, P> {
    fn new(
        repaired: Option<NewLog>,
        progress: P,
        look: &'a mut dyn FnMut(&StoredTopic, Option<&Block>),
    ) -> Self {
        let (report, topics) = (CheckReport::default(), Vec::new());
        Self { report, copied_bytes: 0, read_bytes: 0, topics, repaired, progress, look }
    }

    fn run(mut self, directory: &Path, scratch: &Path) -> Result<CheckReport> {
        let source = directory.join("sled");
        if !source.join("db").is_file() {
            let reason = no_directory(directory).unwrap_or(OpenReason::Missing);
            return Err(Error::open(directory, reason));
        }
        let lock = lock_existing(directory)?;
        refuse_unfinished(directory)?;
        self.copied_bytes = copy(&source, scratch, &mut self.progress).map_err(|error| {
            let what = format!("copying it to {}", scratch.display());
            Error::open(directory, OpenReason::Io { what, cause: error.into() })
        })?;
        match self.verify(directory, scratch) {
            Err(
                error @ (Error::Damaged { .. } | Error::DamagedLog { .. } | Error::ReadFailed(_)),
            ) => {
                self.report.damage.push(error);
            }
            outcome => outcome?,
        }
        drop(lock);
        if let Some(target) = self.repaired {
            target.finish()?;
        }
        Ok(self.report)
    }

    /// Verifies the copy in `scratch` of the log in `directory`.
    ///
    /// # Errors
    ///
    /// Damage after which nothing more can be verified, and failures to write the repaired log.
    fn verify(&mut self, directory: &Path, scratch: &Path) -> Result<()> {
        self.salvage(directory, scratch).map_err(|error| Error::ReadFailed(error.into()))?;
        let database = match engine::open(scratch, CACHE_BYTES) {
            Ok(database) => database,
            Err(error) => {
                // Without its snapshot sled reads its whole file, and leaves out entries that it
                // cannot read.
                self.report.damage.push(unreadable(error));
                sled_files::mend(scratch)
                    .and_then(|()| remove_snapshots(scratch))
                    .map_err(|error| Error::ReadFailed(error.into()))?;
                engine::open(scratch, CACHE_BYTES).map_err(unreadable)?
            }
        };
        let tree = database.open_tree(keys::TREE).map_err(unreadable)?;
        self.read_topics(&tree)?;
        self.read_ids(&tree)?;
        match records::read_applied(&tree) {
            Ok(applied) => self.report.applied = applied,
            Err(error) => self.report.damage.push(error),
        }
        let damaged = |problem: &str| Err(Error::DamagedLog { problem: problem.to_owned() });
        let Some(record) = records::read_log(&tree)? else {
            return damaged("its own record is missing");
        };
        let marked = mark::read(directory).map_err(|error| Error::ReadFailed(error.into()))?;
        let marked = marked.filter(|(epoch, _)| *epoch == record.epoch).map(|(_, marked)| marked);
        let last = Position::new(self.report.last_position);
        match marked {
            Some(marked) if last < marked.position => {
                damaged(&lost_tail::lost_end(last, marked.position))
            }
            Some(_) if self.report.damage.is_empty() => {
                record.check_whole(&self.topics, last).map_or(Ok(()), |problem| damaged(&problem))
            }
            Some(_) => Ok(()),
            None => {
                damaged("the file `mark` is missing or damaged; the next start begins an epoch")
            }
        }
    }

    /// Salvages the copy, as opening the log does.
    fn salvage(&mut self, directory: &Path, scratch: &Path) -> io::Result<()> {
        let marked = mark::read(directory)?.map(|(_, marked)| marked);
        let durable = marked.and_then(|marked| marked.lsn);
        if let Some(found) = sled_files::mend(scratch)
            .and_then(|()| salvage::salvage(scratch, durable, |_| Ok(())))?
            && found.loss() > Loss::None
        {
            let problem = format!(
                "in its newest part, {} pages and {} changes of pages are damaged, and {} entries \
                 that may be of any topic{}",
                found.pages,
                found.changes,
                found.unknown,
                if found.is_cut { "; the end is missing" } else { "" }
            );
            self.report.damage.push(Error::DamagedLog { problem });
        }
        Ok(())
    }

    fn read_topics(&mut self, tree: &sled::Tree) -> Result<()> {
        let (topics, errors): (Vec<_>, Vec<_>) =
            records::read_topics(tree).partition(Result::is_ok);
        let topics: Vec<_> = topics.into_iter().flatten().collect();
        let known: BTreeSet<TopicId> = topics.iter().map(|topic| topic.id).collect();
        let topics = lost_tail::without_abandoned(topics).into_iter().map(Ok);
        for topic in topics.chain(errors) {
            self.report.topics += 1;
            match topic {
                Ok(topic) => self.read_topic(tree, topic)?,
                Err(error) => self.report.damage.push(error),
            }
        }
        self.read_orphans(tree, &known)
    }

    /// Reads the blocks of topics whose records cannot be read, and whose names are therefore
    /// unknown.
    fn read_orphans(&mut self, tree: &sled::Tree, known: &BTreeSet<TopicId>) -> Result<()> {
        let mut next = Some(TopicId::FIRST);
        while let Some(from) = next {
            if known.contains(&from) {
                next = from.next();
                continue; // Also if its blocks cannot be read.
            }
            let mut found = tree.range(keys::block(from, Sequence::new(0), 0)..).keys();
            let found = found.find(|key| !matches!(key, Ok(key) if keys::is_filler(key)));
            let Some(key) = found.transpose().map_err(unreadable)? else { break };
            let Some((id, ..)) = keys::parse_block(&key) else { break };
            next = id.next();
            if known.contains(&id) {
                continue;
            }
            let name = TopicName::new(&format!("recovered.topic-{}", id.get()))?;
            let problem =
                format!("topic {} has blocks and no record: it is {name:?} here", id.get());
            self.report.damage.push(Error::DamagedLog { problem });
            self.report.topics += 1;
            let first =
                TreeBlocks::new(tree, id, name.clone(), Sequence::FIRST..END).find_map(Result::ok);
            let earliest = first.map_or(Sequence::FIRST, |block| block.first_sequence());
            let orphan = StoredTopic::new(id, name);
            let extent = Extent { earliest, ..orphan.extent };
            self.read_topic(tree, StoredTopic { extent, ..orphan })?;
        }
        Ok(())
    }

    fn read_ids(&mut self, tree: &sled::Tree) -> Result<()> {
        for found in records::read_ids(tree) {
            match (found, &mut self.repaired) {
                (Ok((topic, block)), Some(target)) => target.write_ids(topic, &block)?,
                (Ok(_), None) => {}
                (Err(error), _) => self.report.damage.push(error),
            }
        }
        Ok(())
    }

    fn read_topic(&mut self, tree: &sled::Tree, topic: StoredTopic) -> Result<()> {
        let told = topic.clone();
        let StoredTopic { id, name, extent, .. } = topic.clone();
        let last_position = extent.last_position.get();
        self.report.last_position = self.report.last_position.max(last_position);
        if let Some(target) = &mut self.repaired {
            target.begin_topic(topic);
        }
        (self.look)(&told, None);
        let (mut is_first, mut reaches_end) = (true, false);
        let mut extent = extent;
        for block in TreeBlocks::new(tree, id, name.clone(), Sequence::FIRST..END) {
            // Trimmed blocks may still be there, before `earliest`. A first block after `earliest`
            // means that blocks are lost.
            if let Ok(block) = &block
                && std::mem::take(&mut is_first)
                && block.first_sequence() > extent.earliest
            {
                let problem = "no block holds them".to_owned();
                let last = Some(block.first_sequence().previous());
                let topic = name.clone();
                self.report.damage.push(Error::Damaged {
                    topic,
                    first: extent.earliest,
                    last,
                    problem,
                });
            }
            match block {
                Ok(block) => {
                    extent = extent.with(&block);
                    (self.look)(&told, Some(&block));
                    self.take(id, block)?;
                }
                Err(error) => {
                    reaches_end = matches!(error, Error::Damaged { last: None, .. });
                    self.report.damage.push(error);
                }
            }
        }
        if told.extent.is_damaged {
            if !reaches_end {
                let (first, last) = (extent.tail, Some(told.extent.tail.previous()));
                let problem = "they were found damaged before".to_owned();
                self.report.damage.push(Error::Damaged { topic: name, first, last, problem });
            }
            extent = told.extent;
        }
        self.topics.push(StoredTopic { extent, ..told });
        Ok(())
    }

    fn take(&mut self, id: TopicId, block: Block) -> Result<()> {
        let events = block.events().count();
        assert_eq!(events, block.count(), "a verified block holds what its header says");
        self.report.blocks += 1;
        self.report.events += events as u64;
        self.report.event_bytes += (block.bytes().len() - HEADER_BYTES) as u64;
        self.report.last_position = self.report.last_position.max(block.last_position().get());
        self.read_bytes += block.bytes().len() as u64;
        (self.progress)(Checking::Read(self.read_bytes, self.copied_bytes));
        let Some(target) = &mut self.repaired else { return Ok(()) };
        if let Some(next) = target.next_block(id)
            && next < block.first_sequence()
        {
            target.write_hole(id, next, &block)?;
        }
        target.write_block(id, block)
    }
}

/// Removes sled's snapshots, the files with the places of its pages.
fn remove_snapshots(scratch: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(scratch)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Copies the files of a log. Returns the number of bytes.
fn copy(source: &Path, target: &Path, progress: &mut impl FnMut(Checking)) -> io::Result<u64> {
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
    Ok(copied)
}
