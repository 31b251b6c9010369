//! The log on sled: blocks in one tree, one atomic batch and one sync a group.
//!
//! ```text
//! DIR/lock    held while the log is open, so that a second process is refused
//! DIR/mark    how far the log was durable (mark.rs)
//! DIR/reserve holds nothing: space to open a log with on a disk that is full (space.rs)
//! DIR/sled/   sled's own files; only `db` holds events
//! ```
//!
//! # Why
//!
//! - Durable means `apply_batch`, `flush`, then `sync_data` on our own handle to sled's `db`. On
//!   Linux sled's `flush` ends in `sync_file_range`, which makes neither the file's size nor the
//!   drive's cache durable (src/pagecache/iobuf.rs of 0.34.7). On a file system that forgets what
//!   was not synced, `flush` alone lost every acknowledged group.
//! - Values are at most 8 KiB, and segments 8 MiB. sled writes a page larger than a quarter of a
//!   segment to a file of its own under `blobs/`, which is never synced (src/pagecache/blob_io.rs);
//!   a leaf holds up to 16 entries and is read and rewritten whole, so it stays near 128 KiB here.
//!   With values of 32 KiB the soak (benches/soak.rs) took 470 MiB of memory, with 8 KiB 400.
//! - sled runs without its flusher: cleaner.rs does what it is needed for, and nothing when idle.
//! - A group of one block is inserted without a batch: sled writes and syncs a batch's frame by
//!   itself. 64 clients with one event each: 2 `sync_file_range` a group with it, 1 without.
//! - Which errors of sled end writing, and which do not: writing.rs.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::block::Block;
use super::blocks::{self, Blocks, END, unreadable, unreadable_page};
use super::cleaner::{Cleaner, Written, written_bytes, written_lsn};
use super::failed::{Failed, TellFailure};
use super::lock::{self, lock, patiently};
use super::lost_tail;
use super::mark::{Loss, Mark, Marked};
use super::meta::{self, LogRecord};
use super::space::{Purpose, SEGMENT_BYTES, Space};
use super::touches::Touches;
use super::{
    Extent, Group, Log, ReadAhead, StoredBlock, StoredTopic, ids, keys, read_ahead, restore,
    salvage, sled_files, writing,
};
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, PUT_BACK, Result};
use crate::event::{Durability, Timestamp};
use crate::topic::{TopicId, TopicName};

/// What the record of a topic takes, and what the removal of a part does, in bytes, about.
const RECORD_BYTES: u64 = 512;
const REMOVAL_BYTES: u64 = 64;

/// How many topics are noted at a time whose ends are damaged.
const MAX_NOTED_ENDS: usize = 1_000;

/// How much of a panic of sled is told.
const MAX_PANIC_CHARS: usize = 200;

/// How often a read begins anew that found something missing.
const MAX_READ_ATTEMPTS: usize = 3;

/// How the log uses the disk and the memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Memory for sled's page cache, in bytes, 1 MiB or more. Default: 32 MiB.
    pub cache_bytes: u64,
    /// Free space, in bytes, below which nothing more is appended and no topic is created. Space
    /// in the log's own file that was given back counts as free. Reading goes on, and so does
    /// appending once there is room again: what is removed makes room. At least
    /// [`LEAST_FREE_BYTES`](super::LEAST_FREE_BYTES), for removing writes first; with so much, 32
    /// MiB of it are kept in the file `reserve`. Default: 64 MiB.
    pub min_free_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, min_free_bytes: 64 << 20 }
    }
}

/// The log in a directory of its own.
#[derive(Debug)]
pub struct SledLog {
    cleaner: Cleaner,
    tree: sled::Tree,
    database: sled::Db,
    /// Our own handle to the file that sled writes, for the sync that counts.
    file: File,
    mark: Arc<Mark>,
    space: Arc<Space>,
    epoch: Epoch,
    names: RwLock<HashMap<TopicId, TopicName>>,
    /// The topics as they were found when it was opened, until something changes or they are asked
    /// for: reading the newest block of each takes most of the time that opening takes.
    found: Mutex<Option<Vec<StoredTopic>>>,
    /// Why nothing more may be written.
    failed: Arc<Failed>,
    /// Held for as long as the log is open; the system lets go of it when the process ends.
    _lock: File,
}

impl SledLog {
    /// Opens the log in `directory`, creating it where there is none.
    ///
    /// # Errors
    ///
    /// - [`Error::Open`]: another process has it open, or it is no log.
    /// - [`Error::DamagedLog`]: a page with records does not fit, or what sled begins with.
    ///
    /// A topic whose newest block cannot be read is named in the log, and takes no more events; the
    /// rest is served. So are all topics where it cannot be told which ones lost their ends
    /// (lost_tail.rs, salvage.rs).
    pub fn open(directory: &Path, config: &LogConfig) -> Result<Self> {
        let at = |problem: String| Error::Open { path: directory.to_owned(), problem };
        let io = |error: io::Error| at(error.to_string());
        lock::make_directory(directory)?;
        let lock = lock(directory)?;
        restore::refuse_unfinished(directory)?;
        let space = Arc::new(Space::open(directory, config.min_free_bytes).map_err(io)?);
        let mark = Arc::new(Mark::open(directory).map_err(io)?);
        let noted = salvaged(directory, &mark).map_err(io)?;
        let database = open_sled(&directory.join("sled"), config.cache_bytes)
            .map_err(|error| cannot_open(error, at))?;
        let tree = database.open_tree(keys::TREE).map_err(|error| cannot_open(error, at))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(directory.join("sled/db"))
            .map_err(io)?;
        let failed = Arc::default();
        let sled_directory = directory.join("sled");
        let cleaner = Cleaner::start((&database, &sled_directory), (&file, &mark), &space, &failed)
            .map_err(io)?;
        let mut log = Self {
            cleaner,
            tree,
            database,
            file,
            mark,
            space,
            epoch: Epoch::new(0),
            names: RwLock::default(),
            found: Mutex::default(),
            failed,
            _lock: lock,
        };
        log.begin(directory, noted)?;
        log.space.keep_reserve().map_err(io)?;
        sync_directory(&directory.join("sled")).map_err(io)?;
        sync_directory(directory).map_err(io)?;
        Ok(log)
    }

    /// Reads the epoch and the names, and holds what is found against what the mark says.
    fn begin(&mut self, directory: &Path, noted: Option<(Epoch, Marked)>) -> Result<()> {
        let at = |problem: String| Error::Open { path: directory.to_owned(), problem };
        let stored = meta::read_log(&self.tree)?;
        let marked = match (&stored, noted) {
            (Some(stored), Some((epoch, marked))) if epoch == stored.epoch => Some(marked),
            _ => None,
        };
        self.epoch = stored.map_or(self.epoch, |stored| stored.epoch);
        let topics = meta::read_topics(&self.tree).collect::<Result<Vec<_>>>()?;
        let topics = lost_tail::without_abandoned(topics);
        *self.names.get_mut().unwrap_or_else(PoisonError::into_inner) =
            topics.iter().map(|topic| (topic.id, topic.name.clone())).collect();
        let mut record = stored.unwrap_or_default();
        let mut topics = self.with_heads(topics, &mut record, marked)?;
        if let Some(problem) = lost_events(&topics, &record, marked) {
            self.note_lost_ends(&mut topics, &mut record, marked, &problem)?;
        }
        let lost_ends = stored.is_some_and(|stored| stored != record);
        let last = last_position(&topics);
        *self.found.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(topics);
        match (&stored, &marked) {
            (Some(_), Some(_)) if lost_ends => warn!(
                directory = %directory.display(),
                "where topics end is not known for sure: a new epoch begins"
            ),
            (Some(_), Some(marked)) if !marked.has_lost_some() => return Ok(()),
            (Some(_), Some(marked)) if marked.loss > Loss::None => warn!(
                directory = %directory.display(),
                "the log has lost something to damage: a new epoch begins"
            ),
            (Some(_), Some(_)) => warn!(
                directory = %directory.display(),
                "the system went down with events that were not synced: a new epoch begins"
            ),
            (Some(_), None) => warn!(
                directory = %directory.display(),
                "no mark beside the log: a new epoch begins"
            ),
            (None, _) if !self.tree.is_empty() => {
                return Err(at("its tree has entries, but not the record of a log".to_owned()));
            }
            (None, _) => {}
        }
        record.epoch = Epoch::new(rand::random());
        self.epoch = record.epoch;
        self.write(|batch| batch.insert(&keys::LOG, meta::encode_log(&record)))
            .and_then(|lsn| self.mark.begin(self.epoch, last, lsn))
            .and_then(|()| self.mark.sync())
            .map_err(|error| at(error.to_string()))?;
        info!(directory = %directory.display(), epoch = %self.epoch, "began a log");
        Ok(())
    }

    /// The topics as they are. Notes, in the log, those whose newest blocks cannot be read.
    fn with_heads(
        &self,
        topics: Vec<StoredTopic>,
        record: &mut LogRecord,
        marked: Option<Marked>,
    ) -> Result<Vec<StoredTopic>> {
        let mut found = Vec::with_capacity(topics.len());
        let mut damaged = Vec::new();
        for topic in topics {
            found.push(match self.with_head(topic.clone()) {
                Err(Error::Damaged { .. }) => {
                    damaged.push(found.len());
                    self.with_readable_head(topic)?
                }
                topic => topic?,
            });
        }
        if damaged.is_empty() {
            return Ok(found);
        }
        let readable: Vec<Sequence> = damaged.iter().map(|at| found[*at].extent.tail).collect();
        *record = lost_tail::note(&mut found, &damaged, record, marked.map(|m| m.position));
        for (at, first) in damaged.iter().zip(readable) {
            error!(
                topic = %found[*at].name, %first,
                "the newest events of a topic are damaged, from this sequence on: it is served up \
                 to there, and takes no more events; delete it to go on without them, or go on \
                 with what `leftoff check --repair` brings back"
            );
        }
        self.write_ends(damaged.iter().map(|at| &found[*at]), record)?;
        Ok(found)
    }

    /// Notes in every topic that it ends somewhere behind what can be read of it, for `problem`.
    fn note_lost_ends(
        &self,
        topics: &mut [StoredTopic],
        record: &mut LogRecord,
        marked: Option<Marked>,
        problem: &str,
    ) -> Result<()> {
        let all: Vec<usize> = (0..topics.len()).collect();
        *record = lost_tail::note(topics, &all, record, marked.map(|marked| marked.position));
        error!(
            topics = topics.len(),
            problem,
            "which topics have lost their newest events to damage cannot be told: each is served \
             up to where it can be read, and takes no more events; put back a copy of the data \
             directory from before the damage, go on with what `leftoff check --repair` brings \
             back, or delete topics to go on without what they had"
        );
        self.write_ends(topics.iter(), record)
    }

    /// Writes the records of topics whose ends are damaged, and that of the log at last.
    fn write_ends<'a>(
        &self,
        topics: impl Iterator<Item = &'a StoredTopic>,
        record: &LogRecord,
    ) -> Result<()> {
        let topics: Vec<_> = topics.collect();
        // Each chunk that is there without the log's record shows that events are missing.
        let chunks = topics.chunks(MAX_NOTED_ENDS);
        let last = chunks.len().saturating_sub(1);
        for (number, chunk) in chunks.enumerate() {
            let written = self.write(|batch| {
                chunk.iter().for_each(|t| batch.insert(&keys::topic(t.id), meta::encode_topic(t)));
                if number == last {
                    batch.insert(&keys::LOG, meta::encode_log(record));
                }
            });
            written.map_err(|error| Error::DamagedLog {
                problem: format!("what is damaged at the end of topics cannot be noted: {error}"),
            })?;
        }
        Ok(())
    }

    /// A topic that ends with its last block that can be read.
    fn with_readable_head(&self, topic: StoredTopic) -> Result<StoredTopic> {
        let mut below = END;
        let newest = loop {
            let first = match self.last_block_below(topic.id, below) {
                Err(Error::Damaged { .. }) => {
                    self.last_block_readable(topic.id, below.previous())?
                }
                found => found?,
            };
            let Some(first) = first else { break None };
            match self.blocks(topic.id, first..below).next().transpose() {
                Err(Error::Damaged { .. }) => below = first,
                block => break block?,
            }
        };
        // What its record says is of the time when it had no blocks, or older than these.
        let head = newest.map_or(topic.extent, |block| topic.extent.with(&block));
        let tail = head.tail.max(topic.extent.tail).max(topic.extent.earliest);
        let last_position = head.last_position.max(topic.extent.last_position);
        let extent = Extent { tail, last_position, ..head };
        Ok(StoredTopic { extent, ..topic })
    }

    /// Writes what `fill` puts into a batch, and makes it durable. Returns up to which place in
    /// sled's log that is.
    fn write(&self, fill: impl FnOnce(&mut sled::Batch)) -> io::Result<sled::Lsn> {
        let mut batch = sled::Batch::default();
        fill(&mut batch);
        self.tree.apply_batch(batch)?;
        self.sync(Durability::Fsync)
    }

    /// Hands what is written to the system, up to the place in sled's log that is returned; and to
    /// the disk, if it must outlive the system.
    fn sync(&self, durability: Durability) -> io::Result<sled::Lsn> {
        self.tree.flush()?; // To the system, which keeps it when the process ends.
        let lsn = written_lsn(&self.database);
        match durability {
            Durability::Fsync => self.file.sync_data()?,
            Durability::Process | Durability::Memory => {}
        }
        Ok(lsn)
    }

    /// Touches the pages that `group` has changed.
    fn touch(&self, group: &Group) {
        let mut touches = Touches::default();
        for blocks in [&group.rewritten, &group.appended] {
            for of_topic in blocks.chunk_by(|(topic, _), (next, _)| topic == next) {
                let mut rest_bytes = 0;
                for (key, bytes) in writing::all_parts(of_topic) {
                    let is_first = rest_bytes == 0;
                    rest_bytes = bytes.len();
                    if is_first {
                        touches.alone(&self.tree, &key, bytes.len());
                    } else {
                        touches.passed(&self.tree, &key, bytes.len());
                    }
                }
            }
        }
    }

    /// Refuses `group` where too little space is left for what it is for, and has the cleaner make
    /// room.
    fn check_space(&self, group: &Group) -> Result<()> {
        let bytes_of = |blocks: &[(TopicId, Block)]| -> u64 {
            blocks.iter().map(|(_, block)| block.bytes().len() as u64).sum()
        };
        let removed_parts: usize = group.removed.iter().map(|(_, block)| block.parts).sum();
        let removals = removed_parts + group.forgotten.len();
        let size_bytes = bytes_of(&group.appended)
            + bytes_of(&group.rewritten)
            + bytes_of(&group.ids)
            + group.topics.len() as u64 * RECORD_BYTES
            + removals as u64 * REMOVAL_BYTES;
        let purpose = self.purpose(group);
        self.space.check(&self.database, &self.file, purpose, size_bytes).inspect_err(|_| {
            self.cleaner.press();
        })
    }

    fn purpose(&self, group: &Group) -> Purpose {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let is_new = |topic: &StoredTopic| !names.contains_key(&topic.id);
        if !group.appended.is_empty() || group.topics.iter().any(is_new) {
            return Purpose::Grow;
        }
        if !group.rewritten.is_empty() {
            return Purpose::Change;
        }
        // A topic that is trimmed is noted, too: that makes room.
        let has_new_settings = |topic: &StoredTopic| {
            let stored = self.tree.get(keys::topic(topic.id)).ok().flatten();
            let stored = stored.and_then(|bytes| meta::decode_topic(topic.id, &bytes).ok());
            !topic.is_deleted && stored.is_some_and(|stored| stored.config != topic.config)
        };
        match group.removed.is_empty() && group.topics.iter().any(has_new_settings) {
            true => Purpose::Change,
            false => Purpose::Remove,
        }
    }

    /// What is said of a topic's page that nothing can be written to.
    fn unwritable(&self, topic: &TopicName, first: Option<Sequence>) -> Error {
        match first {
            Some(first) => {
                let problem = "the page that they belong to is unreadable".to_owned();
                Error::Damaged { topic: topic.clone(), first, last: None, problem }
            }
            None => Error::DamagedLog {
                problem: format!(
                    "the page with the record of topic {topic:?} is unreadable; {PUT_BACK}, or go \
                     on with what `leftoff check --repair` brings back"
                ),
            },
        }
    }

    fn name(&self, topic: TopicId) -> TopicName {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&topic).expect("a topic is named before it is read").clone()
    }

    fn blocks(&self, topic: TopicId, sequences: Range<Sequence>) -> Blocks {
        Blocks::new(&self.tree, topic, self.name(topic), sequences)
    }

    /// Where the last block of `topic` begins that begins below `below`.
    fn last_block_below(&self, topic: TopicId, below: Sequence) -> Result<Option<Sequence>> {
        let entries = self.tree.range(..keys::block(topic, below, 0)).rev();
        let mut blocks = entries.skip_while(|e| matches!(e, Ok((key, _)) if keys::is_filler(key)));
        let found = blocks.next().transpose().map_err(|error| match error {
            sled::Error::Corruption { .. } => {
                let last = Some(below.previous()).filter(|_| below != END);
                unreadable_page(&self.name(topic), last.unwrap_or(Sequence::FIRST), last)
            }
            other => unreadable(other),
        })?;
        let parsed = found.and_then(|(key, _value)| keys::parse_block(&key));
        Ok(parsed.filter(|(owner, ..)| *owner == topic).map(|(_, first, _)| first))
    }

    /// Where the last block of `topic` begins before the page that holds `from`, which sled cannot
    /// read: it may reach as far as `from`.
    fn last_block_readable(&self, topic: TopicId, from: Sequence) -> Result<Option<Sequence>> {
        let below = blocks::readable_before(from.next(), |below| {
            !matches!(self.last_block_below(topic, below), Err(Error::Damaged { .. }))
        });
        below.map_or(Ok(None), |below| self.last_block_below(topic, below))
    }

    fn read_topics(&self) -> Result<Vec<StoredTopic>> {
        let topics = meta::read_topics(&self.tree).collect::<Result<Vec<_>>>()?;
        let topics = lost_tail::without_abandoned(topics).into_iter();
        topics.map(|topic| self.with_head(topic)).collect()
    }

    /// A topic as it is: what its record says, with its newest block for the head.
    fn with_head(&self, topic: StoredTopic) -> Result<StoredTopic> {
        // A deleted topic that is published to again has a record that says so.
        if topic.extent.is_damaged || topic.is_deleted {
            return Ok(topic);
        }
        let newest = match self.last_block_below(topic.id, END)? {
            Some(first) => self.blocks(topic.id, first..END).next().transpose()?,
            None => None,
        };
        let extent = newest.map_or(topic.extent, |block| topic.extent.with(&block));
        Ok(StoredTopic { extent, ..topic })
    }

    /// As [`Log::read`], from the blocks as they are at this moment.
    fn read_now(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        let first = match self.last_block_below(topic, from.next()) {
            Err(Error::Damaged { .. }) => self.last_block_readable(topic, from)?,
            found => found?,
        };
        let first = first.unwrap_or(from);
        let mut blocks = Vec::new();
        let mut size_bytes = 0;
        for block in self.blocks(topic, first..below).beginning_at(first) {
            let block = match block {
                Ok(block) if block.last_sequence() < from => continue,
                Ok(block) => block,
                Err(Error::Damaged { last: Some(last), .. }) if last < from => continue,
                Err(error) if blocks.is_empty() => return Err(error),
                Err(_reported_when_it_is_reached) => break,
            };
            size_bytes += block.bytes().len();
            if size_bytes > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(block);
            if size_bytes >= max_bytes {
                break;
            }
        }
        Ok(blocks)
    }

    /// As [`Log::read_ahead`], in one go, where a block begins at the first of `sequences`: `None`
    /// where none does, or it cannot be read.
    fn read_ahead_from(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        before: Position,
        max_bytes: usize,
        more_bytes: usize,
    ) -> Option<ReadAhead> {
        let first = sequences.start;
        let mut found = ReadAhead { blocks: Vec::new(), wanted: 0, following: None };
        let (mut wanted_bytes, mut left_bytes) = (0, more_bytes);
        for block in self.blocks(topic, sequences).beginning_at(first) {
            let Ok(block) = block else { break };
            let size_bytes = block.bytes().len();
            wanted_bytes += size_bytes;
            let fits = block.first_position() < before && wanted_bytes <= max_bytes;
            if found.blocks.is_empty() || (fits && found.wanted == found.blocks.len()) {
                found.wanted += 1;
            } else if let Some(left) = left_bytes.checked_sub(size_bytes) {
                left_bytes = left;
            } else {
                found.following = Some(block.first_position());
                break;
            }
            found.blocks.push(block);
        }
        (!found.blocks.is_empty()).then_some(found)
    }
}

#[cfg(test)]
impl SledLog {
    /// Has the mark say that events up to `position` are durable.
    pub(super) fn mark_durable(&self, position: Position) {
        self.mark.write(Some(position), written_lsn(&self.database)).unwrap();
    }
}

impl Log for SledLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn tell_failure(&self, tell: TellFailure) {
        self.failed.tell(tell);
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        found.map_or_else(|| self.read_topics(), Ok)
    }

    fn ids(&self) -> Result<Vec<(TopicId, Block)>> {
        let heed = |found| match found {
            Err(error @ Error::DamagedLog { .. }) => {
                warn!(%error, "events that were dropped may be stored again if they are retried");
                None
            }
            found => Some(found),
        };
        ids::read(&self.tree).filter_map(heed).collect()
    }

    fn check_writable(&self, group: &Group) -> Result<()> {
        self.failed.check()?; // What sled could not write it cannot read: that is no damage.
        let Some((topic, first)) = writing::first_unreadable(&self.tree, group) else {
            return Ok(());
        };
        let is_it = |stored: &&StoredTopic| stored.id == topic;
        let noted = group.topics.iter().find(is_it).map(|stored| stored.name.clone());
        Err(self.unwritable(&noted.unwrap_or_else(|| self.name(topic)), first))
    }

    fn check_appendable(&self, topic: &StoredTopic) -> Result<()> {
        self.failed.check()?;
        writing::is_readable(&self.tree, topic.id, topic.extent.tail)
            .map_err(|first| self.unwritable(&topic.name, first))
    }

    fn commit(&self, group: &Group) -> Result<()> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.check_space(group)?;
        if group.durability == Durability::Process {
            let noted = self.mark.note_unsynced();
            noted.map_err(|error| Error::NotWritten(Arc::new(error)))?;
        }
        self.check_writable(group)?;
        let before_bytes = written_bytes(&self.database);
        let lsn = self.failed.or_fail(|| {
            writing::keep_leaves(&self.tree, group)?;
            writing::write(&self.database, &self.tree, group)?;
            self.sync(group.durability)
        })?;
        writing::settle(&self.tree, group);
        self.cleaner.wrote(Written {
            before_bytes,
            is_synced: group.durability == Durability::Fsync,
            has_removed: !group.removed.is_empty() || !group.forgotten.is_empty(),
        });
        self.touch(group);
        if !group.topics.is_empty() {
            let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
            names.extend(group.topics.iter().map(|topic| (topic.id, topic.name.clone())));
        }
        let last = group.appended.iter().map(|(_, block)| block.last_position()).max();
        if group.durability == Durability::Fsync
            && let Err(error) = self.mark.write(last, lsn)
        {
            // What is written is durable all the same; only the check at the next open is weaker.
            warn!(%error, "cannot write the mark");
        }
        Ok(())
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        // A block that is written again while it is read is there in one form or the other; what
        // was found in between is not what is stored.
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.read_now(topic, from, below, max_bytes) {
                Err(Error::Damaged { .. }) if attempts < MAX_READ_ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    fn read_ahead(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        before: Position,
        max_bytes: usize,
        more_bytes: usize,
    ) -> Result<ReadAhead> {
        // The usual case: half of what it takes to find a block by a sequence in the middle of it.
        match self.read_ahead_from(topic, sequences.clone(), before, max_bytes, more_bytes) {
            Some(found) => Ok(found),
            None => read_ahead::read_ahead(self, topic, sequences, before, max_bytes, more_bytes),
        }
    }

    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        let Range { start, end } = sequences;
        let mut found: Vec<StoredBlock> = Vec::new();
        let mut current: Option<StoredBlock> = None;
        let mut parts = 0;
        let mut touches = Touches::default();
        for entry in blocks::entries(&self.tree, topic, sequences) {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(sled::Error::Corruption { .. }) => {
                    let first = found.last().map_or(start, |block| block.end);
                    return Err(unreadable_page(&self.name(topic), first, Some(end.previous())));
                }
                Err(error) => return Err(unreadable(error)),
            };
            let Some((_, first, part)) = keys::parse_block(&key) else { continue };
            match current {
                None => touches.alone(&self.tree, &key, value.len()),
                Some(_) => touches.passed(&self.tree, &key, value.len()),
            }
            match &mut current {
                Some(block) if block.first == first => {
                    block.parts = usize::from(part) + 1;
                    block.size_bytes += value.len() as u64;
                }
                _ => {
                    if let Some(block) = current.replace(StoredBlock::begin(first, &value)) {
                        parts += block.parts;
                        found.push(block.ending_at(first));
                        if parts >= max_parts {
                            return Ok(found);
                        }
                    }
                }
            }
        }
        found.extend(current.map(|block| block.ending_at(end)));
        Ok(found)
    }

    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)> {
        let extent = &topic.extent;
        let block = match self.last_block_below(topic.id, sequence) {
            Ok(Some(first)) => self.blocks(topic.id, first..sequence).next().transpose(),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let before = |block: Block| (block.first_position().previous(), block.first_time());
        match block {
            Ok(Some(block)) => {
                let below = block.events().take_while(|event| event.sequence < sequence).last();
                let below = below.map(|event| (event.position, event.time));
                Ok(below.unwrap_or_else(|| before(block)))
            }
            Ok(None) => Ok((extent.trimmed_position, extent.trimmed_time)),
            Err(Error::Damaged { .. }) => {
                let next = self.blocks(topic.id, sequence..END).find_map(Result::ok);
                Ok(next.map_or((extent.last_position, extent.last_time), before))
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.cleaner.stop(); // Whatever it has moved is synced below.
        if self.failed.is_set() {
            return;
        }
        let closed = self.sync(Durability::Fsync).and_then(|lsn| {
            self.mark.write(None, lsn)?;
            self.mark.note_synced()
        });
        if let Err(error) = closed {
            warn!(%error, "cannot sync while closing; what was acknowledged is safe already");
        }
    }
}

/// Opens sled the one way this log uses it.
pub(super) fn open_sled(path: &Path, cache_bytes: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput);
    // sled locks its file as well, and tells it in words alone.
    let is_locked = |error: &sled::Error| error.to_string().contains("could not acquire lock");
    patiently(|| contained(|| config.open()), is_locked)
}

/// What `open` returns. sled takes its files for its own, and panics where they contradict each
/// other.
fn contained<T>(open: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        let short: String = text.chars().take(MAX_PANIC_CHARS).collect();
        Err(sled::Error::ReportableBug(format!("its files contradict each other: {short}")))
    })
}

/// Why sled cannot open its files.
fn cannot_open(error: sled::Error, at: impl FnOnce(String) -> Error) -> Error {
    match error {
        sled::Error::Corruption { .. } => unreadable(error),
        sled::Error::ReportableBug(problem) => {
            Error::DamagedLog { problem: format!("{problem}; {PUT_BACK}") }
        }
        other => at(other.to_string()),
    }
}

/// Looks for damage before sled does. Returns what the mark says, with what is missing.
fn salvaged(directory: &Path, mark: &Mark) -> io::Result<Option<(Epoch, Marked)>> {
    let noted = mark.read()?;
    let sled_directory = directory.join("sled");
    sled_files::mend(&sled_directory)?;
    let durable = noted.and_then(|(_, marked)| marked.lsn);
    let note = |found: salvage::Salvaged| mark.note_loss(found.loss());
    let Some(found) = salvage::salvage(&sled_directory, durable, note)? else { return Ok(noted) };
    error!(
        pages = found.pages,
        changes = found.changes,
        unknown = found.unknown,
        cut = found.is_cut,
        "the newest part of the log is damaged: what is missing is told where it is missed"
    );
    Ok(noted.map(|(epoch, marked)| (epoch, marked.with(found.loss()))))
}

/// The newest position of `topics`.
fn last_position(topics: &[StoredTopic]) -> Position {
    topics.iter().map(|topic| topic.extent.last_position).max().unwrap_or_default()
}

/// Why it cannot be told where topics end, if so.
fn lost_events(
    topics: &[StoredTopic],
    record: &LogRecord,
    marked: Option<Marked>,
) -> Option<String> {
    let last = last_position(topics);
    match marked {
        Some(Marked { position, .. }) if last < position => Some(lost_end(last, position)),
        Some(Marked { loss: Loss::Unknown, .. }) => {
            Some("entries of its storage engine are damaged that may be of any topic".to_owned())
        }
        _ => record.check_whole(topics, last),
    }
}

/// What is said of a log that ends before its mark.
pub(super) fn lost_end(last: Position, marked: Position) -> String {
    format!(
        "it ends at position {last}, but was durable up to position {marked}: positions {} to \
         {marked} are damaged or missing",
        last.next()
    )
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
