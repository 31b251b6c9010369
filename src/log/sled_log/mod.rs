//! The log on sled: blocks in one tree, with one atomic batch and one sync for each group. The file
//! is long because opening a log, which finds damage and begins epochs, is one sequence of steps
//! over all of its fields; the other steps have files of their own.
//!
//! ```text
//! DIR/lock    held while the log is open, so that a second process is refused
//! DIR/mark    the place up to which the log is durable (mark.rs)
//! DIR/reserve holds nothing: space for opening the log on a full disk (space.rs)
//! DIR/sled/   sled's own files; only `db` holds events
//! ```
//!
//! # Why
//!
//! - A group is durable after `apply_batch`, `flush`, and `sync_data` on our own handle to sled's
//!   `db`. On Linux sled's `flush` ends in `sync_file_range`, which makes neither the file's size
//!   nor the drive's cache durable (src/pagecache/iobuf.rs of 0.34.7). On a file system that
//!   forgets all unsynced data, `flush` alone lost every acknowledged group.
//! - Values are at most 8 KiB, and segments 8 MiB. sled writes a page larger than a quarter of a
//!   segment to a separate file under `blobs/`, which is never synced (src/pagecache/blob_io.rs). A
//!   leaf holds up to 16 entries and is read and rewritten as a whole, so it stays near 128 KiB
//!   here. With values of 32 KiB the soak (benches/soak.rs) took 470 MiB of memory, with 8 KiB 400
//!   MiB.
//! - sled runs without its flusher: cleaner.rs does the flusher's work, and rests when idle.
//! - A group of one block is inserted without a batch, because sled writes and syncs the frame of a
//!   batch separately. With 64 clients of one event each, a group took 2 `sync_file_range` with a
//!   batch, and 1 without.
//! - writing.rs says which errors of sled end writing, and which do not.

mod blocks;
pub(super) mod check;
mod cleaner;
pub(super) mod config;
#[cfg(feature = "http")]
pub(super) mod digesting;
mod directory;
mod engine;
mod keys;
mod lost_tail;
mod mark;
mod records;
#[cfg(feature = "fleet")]
pub(super) mod replacing;
pub(super) mod restore;
mod salvage;
mod segment;
#[cfg(feature = "fleet")]
pub(super) mod setting_aside;
mod sled_files;
mod snapshot;
mod space;
mod touches;
mod tree_reader;
mod writing;

#[cfg(test)]
#[path = "../../../tests/suite/forgetful.rs"]
#[allow(dead_code, reason = "the rest is for tests of the whole broker")]
mod forgetful;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, info, warn};

use super::applied::Applied;
use super::block::Block;
use super::contract::{self, Log};
use super::failed::{TellFailure, WriteFailure};
use super::group::Group;
use super::log_space::LogSpace;
use super::meta::{self, LogRecord};
use super::read_ahead::ReadAhead;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, OpenReason, PUT_BACK, Result};
use crate::event::{Durability, Timestamp};
use crate::topic::{TopicId, TopicName};
use cleaner::{Cleaner, WrittenGroup};
use config::LogConfig;
use directory::lock;
use engine::{written_bytes, written_lsn};
use mark::{LogMark, Loss, MarkContent};
use space::{Space, WritePurpose};
use touches::Touches;
use tree_reader::TreeReader;

/// About the size on disk of a topic's record, and of the removal of a part, in bytes.
const RECORD_BYTES: u64 = 512;
const REMOVAL_BYTES: u64 = 64;

/// The most records of topics with damaged ends that are written in one batch.
const MAX_NOTED_ENDS: usize = 1_000;

/// The log on disk, in a directory of its own.
#[derive(Debug)]
pub struct SledLog {
    cleaner: Cleaner,
    tree: sled::Tree,
    reader: TreeReader,
    database: sled::Db,
    /// Our own handle to the file that sled writes, for the sync that makes groups durable.
    file: File,
    mark: Arc<LogMark>,
    space: Arc<Space>,
    epoch: Epoch,
    /// The topics as they were found when the log was opened, until they are asked for or something
    /// changes. They are kept because reading the newest block of each topic is most of the work of
    /// opening.
    found: Mutex<Option<Vec<StoredTopic>>>,
    /// The failure after which nothing more may be written, if there was one.
    failed: Arc<WriteFailure>,
    /// The lock of the directory, held as long as the log is open. The system releases it when the
    /// process ends.
    _lock: File,
}

impl SledLog {
    /// Opens the log in `directory`, and creates it if there is none.
    ///
    /// # Errors
    ///
    /// - [`Error::Open`]: another process has the log open, or the directory holds no log.
    /// - [`Error::DamagedLog`]: a page with records is damaged, or the files that sled reads first.
    ///
    /// A topic whose newest block cannot be read is named in a log line, and takes no more events;
    /// its other events are served. If it cannot be told which topics lost their ends, all topics
    /// are treated like that (lost_tail.rs, salvage.rs).
    pub fn open(directory: &Path, config: &LogConfig) -> Result<Self> {
        let io = |error: io::Error| Error::open(directory, error);
        directory::make_directory(directory)?;
        let lock = lock(directory)?;
        directory::refuse_unfinished(directory)?;
        let space = Arc::new(Space::open(directory, config.min_free_bytes).map_err(io)?);
        let mark = Arc::new(LogMark::open(directory).map_err(io)?);
        let noted = salvaged(directory, &mark).map_err(io)?;
        let database = engine::open(&directory.join("sled"), config.cache_bytes)
            .map_err(|error| engine::cannot_open(error, directory))?;
        let tree = database
            .open_tree(keys::TREE)
            .map_err(|error| engine::cannot_open(error, directory))?;
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
            reader: TreeReader::new(&tree),
            tree,
            database,
            file,
            mark,
            space,
            epoch: Epoch::new(0),
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

    /// Reads the epoch and the topics, and compares them with the mark. Begins an epoch if the log
    /// is new, or if durable data may be missing.
    fn begin(&mut self, directory: &Path, noted: Option<(Epoch, MarkContent)>) -> Result<()> {
        let stored = records::read_log(&self.tree)?;
        let marked = match (&stored, noted) {
            (Some(stored), Some((epoch, marked))) if epoch == stored.epoch => Some(marked),
            _ => None,
        };
        self.epoch = stored.map_or(self.epoch, |stored| stored.epoch);
        let topics = records::read_topics(&self.tree).collect::<Result<Vec<_>>>()?;
        let topics = lost_tail::without_abandoned(topics);
        self.reader.take_names(&topics);
        let mut record = stored.unwrap_or_default();
        let mut topics = self.with_heads(topics, &mut record, marked)?;
        if let Some(problem) = lost_events(&topics, &record, marked) {
            self.record_lost_ends(&mut topics, &mut record, marked, &problem)?;
        }
        let lost_ends = stored.is_some_and(|stored| stored != record);
        let last = last_position(&topics);
        *self.found.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(topics);
        match (&stored, &marked) {
            (Some(_), Some(_)) if lost_ends => warn!(
                directory = %directory.display(),
                "the ends of topics are not known for sure: a new epoch begins"
            ),
            (Some(_), Some(marked)) if !marked.has_lost_some() => return Ok(()),
            (Some(_), Some(marked)) if marked.loss > Loss::None => warn!(
                directory = %directory.display(),
                "the log has lost data to damage: a new epoch begins"
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
                let problem = "its tree has entries, but not the record of a log".to_owned();
                return Err(Error::open(directory, OpenReason::NotALog(problem)));
            }
            (None, _) => {}
        }
        record.epoch = Epoch::new(rand::random());
        self.epoch = record.epoch;
        let is_lossy = marked.is_some_and(|marked| marked.loss > Loss::None);
        let fill = |batch: &mut sled::Batch| {
            batch.insert(&keys::LOG, meta::encode_log(&record));
            if is_lossy {
                self.lose_place(batch);
            }
        };
        self.write(fill)
            .and_then(|lsn| self.mark.begin(self.epoch, last, lsn))
            .and_then(|()| self.mark.sync())
            .map_err(|error| Error::open(directory, error))?;
        info!(directory = %directory.display(), epoch = %self.epoch, "began a log");
        Ok(())
    }

    /// Returns `topics` with the extents that their newest blocks tell. For topics whose newest
    /// blocks cannot be read, writes records that say so.
    fn with_heads(
        &self,
        topics: Vec<StoredTopic>,
        record: &mut LogRecord,
        marked: Option<MarkContent>,
    ) -> Result<Vec<StoredTopic>> {
        let mut found = Vec::with_capacity(topics.len());
        let mut damaged = Vec::new();
        for topic in topics {
            found.push(match self.reader.with_head(topic.clone()) {
                Err(Error::Damaged { .. }) => {
                    damaged.push(found.len());
                    self.reader.with_readable_head(topic)?
                }
                topic => topic?,
            });
        }
        if damaged.is_empty() {
            return Ok(found);
        }
        let readable: Vec<Sequence> = damaged.iter().map(|at| found[*at].extent.tail).collect();
        *record =
            lost_tail::record_damage(&mut found, &damaged, record, marked.map(|m| m.position));
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

    /// Writes in the record of every topic that its end is behind its last readable event, because
    /// of `problem`.
    fn record_lost_ends(
        &self,
        topics: &mut [StoredTopic],
        record: &mut LogRecord,
        marked: Option<MarkContent>,
        problem: &str,
    ) -> Result<()> {
        let all: Vec<usize> = (0..topics.len()).collect();
        *record =
            lost_tail::record_damage(topics, &all, record, marked.map(|marked| marked.position));
        error!(
            topics = topics.len(),
            problem,
            "it cannot be told which topics have lost their newest events to damage: each topic is \
             served up to its last readable event, and takes no more events; put back a copy of \
             the data directory from before the damage, go on with what `leftoff check --repair` \
             brings back, or delete topics to go on without their events"
        );
        self.write_ends(topics.iter(), record)
    }

    /// Writes the records of topics whose ends are damaged, and at last that of the log.
    fn write_ends<'a>(
        &self,
        topics: impl Iterator<Item = &'a StoredTopic>,
        record: &LogRecord,
    ) -> Result<()> {
        let topics: Vec<_> = topics.collect();
        // If the process ends in between, the sum of events shows at the next start that some are
        // missing.
        let chunks = topics.chunks(MAX_NOTED_ENDS);
        let last = chunks.len().saturating_sub(1);
        for (number, chunk) in chunks.enumerate() {
            let written = self.write(|batch| {
                chunk.iter().for_each(|t| batch.insert(&keys::topic(t.id), meta::encode_topic(t)));
                if number == last {
                    batch.insert(&keys::LOG, meta::encode_log(record));
                    self.lose_place(batch);
                }
            });
            written.map_err(|error| Error::DamagedLog {
                problem: format!("the damaged ends of topics cannot be noted: {error}"),
            })?;
        }
        Ok(())
    }

    /// Has the log have no place in the fleet's stream any more, because not all up to there is in
    /// it. The place is kept under another key.
    fn lose_place(&self, batch: &mut sled::Batch) {
        if let Ok(Some(place)) = self.tree.get(keys::APPLIED) {
            batch.insert(&keys::LOST_PLACE, place);
        }
        batch.remove(&keys::APPLIED);
    }

    /// Returns the place in the fleet's stream that the log had until it lost events to damage;
    /// `None` if it has lost none, or had no place.
    ///
    /// # Errors
    ///
    /// As [`Log::applied`].
    #[cfg(feature = "fleet")]
    pub(crate) fn lost_place(&self) -> Result<Option<Applied>> {
        records::read_lost_place(&self.tree)
    }

    /// Writes the batch that `fill` makes, and makes it durable. Returns the place in sled's log up
    /// to which all is durable.
    fn write(&self, fill: impl FnOnce(&mut sled::Batch)) -> io::Result<sled::Lsn> {
        let mut batch = sled::Batch::default();
        fill(&mut batch);
        self.tree.apply_batch(batch)?;
        self.sync(Durability::Fsync)
    }

    /// Hands all written data to the system, and, if it must outlive the system, to the disk.
    /// Returns the place in sled's log up to which that is done.
    fn sync(&self, durability: Durability) -> io::Result<sled::Lsn> {
        self.tree.flush()?; // The system has it now, also if the process ends.
        let lsn = written_lsn(&self.database);
        match durability {
            Durability::Fsync => self.file.sync_data()?,
            Durability::Process | Durability::Memory | Durability::Replicated => {}
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

    /// Refuses `group` if too little space is left for its purpose, and then has the cleaner make
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
            + (group.topics.len() + usize::from(group.applied.is_some())) as u64 * RECORD_BYTES
            + removals as u64 * REMOVAL_BYTES;
        let purpose = self.purpose(group);
        self.space.check(&self.database, &self.file, purpose, size_bytes).inspect_err(|_| {
            self.cleaner.press();
        })
    }

    fn purpose(&self, group: &Group) -> WritePurpose {
        let is_new = |topic: &StoredTopic| !self.reader.knows(topic.id);
        if !group.appended.is_empty() || group.topics.iter().any(is_new) {
            return WritePurpose::Grow;
        }
        if !group.rewritten.is_empty() {
            return WritePurpose::Change;
        }
        // A record also changes when its topic is trimmed: that makes room, and must be allowed.
        let has_new_settings = |topic: &StoredTopic| {
            let stored = self.tree.get(keys::topic(topic.id)).ok().flatten();
            let stored = stored.and_then(|bytes| meta::decode_topic(topic.id, &bytes).ok());
            !topic.is_deleted && stored.is_some_and(|stored| stored.config != topic.config)
        };
        match group.removed.is_empty() && group.topics.iter().any(has_new_settings) {
            true => WritePurpose::Change,
            false => WritePurpose::Remove,
        }
    }

    /// Returns the error for a page of a topic to which nothing can be written.
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
}

#[cfg(test)]
impl SledLog {
    /// Notes in the mark that events up to `position` are durable.
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

    fn space(&self) -> Result<Option<LogSpace>> {
        let space = self.space.look(&self.database, &self.file);
        space.map(Some).map_err(|error| Error::ReadFailed(error.into()))
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        found.map_or_else(|| self.reader.read_topics(), Ok)
    }

    fn ids(&self) -> Result<Vec<(TopicId, Block)>> {
        let heed = |found| match found {
            Err(error @ Error::DamagedLog { .. }) => {
                warn!(%error, "a retried event of a damaged id may be stored again");
                None
            }
            found => Some(found),
        };
        records::read_ids(&self.tree).filter_map(heed).collect()
    }

    fn applied(&self) -> Result<Option<Applied>> {
        records::read_applied(&self.tree)
    }

    fn check_writable(&self, group: &Group) -> Result<()> {
        self.failed.check()?; // After a failed write sled cannot read either; that is no damage.
        if writing::has_unreadable_place(&self.tree, group) {
            let problem = "the page with the place in the fleet's stream is unreadable".to_owned();
            return Err(Error::DamagedLog { problem });
        }
        let Some((topic, first)) = writing::first_unreadable(&self.tree, group) else {
            return Ok(());
        };
        let is_it = |stored: &&StoredTopic| stored.id == topic;
        let noted = group.topics.iter().find(is_it).map(|stored| stored.name.clone());
        Err(self.unwritable(&noted.unwrap_or_else(|| self.reader.name(topic)), first))
    }

    fn check_appendable(&self, topic: &StoredTopic) -> Result<()> {
        self.failed.check()?;
        writing::is_readable(&self.tree, topic.id, topic.extent.tail)
            .map_err(|first| self.unwritable(&topic.name, first))
    }

    fn commit(&self, group: &Group) -> Result<()> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.check_space(group)?;
        if matches!(group.durability, Durability::Process | Durability::Replicated) {
            let noted = self.mark.record_unsynced();
            noted.map_err(|error| Error::NotWritten(error.into()))?;
        }
        self.check_writable(group)?;
        self.reader.take_names(&group.topics); // Who finds a topic in the log may read it at once.
        let before_bytes = written_bytes(&self.database);
        let lsn = self.failed.or_fail(|| {
            writing::keep_leaves(&self.tree, group)?;
            writing::write(&self.database, &self.tree, group)?;
            self.sync(group.durability)
        })?;
        writing::settle(&self.tree, group);
        self.cleaner.wrote(WrittenGroup {
            before_bytes,
            is_synced: group.durability == Durability::Fsync,
            has_removed: !group.removed.is_empty() || !group.forgotten.is_empty(),
        });
        self.touch(group);
        let last = group.appended.iter().map(|(_, block)| block.last_position()).max();
        if group.durability == Durability::Fsync
            && let Err(error) = self.mark.write(last, lsn)
        {
            // The group is durable all the same; only the check at the next open is weaker.
            warn!(%error, "cannot write the mark");
        }
        Ok(())
    }

    fn make_durable(&self) -> Result<()> {
        self.failed.check()?;
        self.failed.or_fail(|| self.sync(Durability::Fsync)).map(drop)
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        self.reader.read(topic, from, below, max_bytes)
    }

    fn read_ahead(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        before: Position,
        max_bytes: usize,
        more_bytes: usize,
    ) -> Result<ReadAhead> {
        // The usual case: a block begins there. It takes half the work of a search from the middle
        // of a block.
        match self.reader.read_ahead_from(topic, sequences.clone(), before, max_bytes, more_bytes) {
            Some(found) => Ok(found),
            None => contract::read_ahead(self, topic, sequences, before, max_bytes, more_bytes),
        }
    }

    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        self.reader.stored_blocks(topic, sequences, max_parts)
    }

    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)> {
        self.reader.last_below(topic, sequence)
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.cleaner.stop(); // Its moved pages are synced below.
        if self.failed.is_set() {
            return;
        }
        let closed = self.sync(Durability::Fsync).and_then(|lsn| {
            self.mark.write(None, lsn)?;
            self.mark.record_synced()
        });
        if let Err(error) = closed {
            warn!(%error, "cannot sync while closing; acknowledged events are safe already");
        }
    }
}

/// Looks for damage before sled opens its files. Returns the content of the mark, with the loss
/// that was found.
fn salvaged(directory: &Path, mark: &LogMark) -> io::Result<Option<(Epoch, MarkContent)>> {
    let noted = mark.read()?;
    let sled_directory = directory.join("sled");
    sled_files::mend(&sled_directory)?;
    let durable = noted.and_then(|(_, marked)| marked.lsn);
    let record_loss = |found: salvage::Salvaged| mark.record_loss(found.loss());
    let Some(found) = salvage::salvage(&sled_directory, durable, record_loss)? else {
        return Ok(noted);
    };
    error!(
        pages = found.pages,
        changes = found.changes,
        unknown = found.unknown,
        cut = found.is_cut,
        "the newest part of the log is damaged: readers of the missing events are told"
    );
    Ok(noted.map(|(epoch, marked)| (epoch, marked.with(found.loss()))))
}

/// Returns the newest position of `topics`.
fn last_position(topics: &[StoredTopic]) -> Position {
    topics.iter().map(|topic| topic.extent.last_position).max().unwrap_or_default()
}

/// Returns the reason why the ends of topics are not known; `None` if they are known.
fn lost_events(
    topics: &[StoredTopic],
    record: &LogRecord,
    marked: Option<MarkContent>,
) -> Option<String> {
    let last = last_position(topics);
    match marked {
        Some(MarkContent { position, .. }) if last < position => {
            Some(lost_tail::lost_end(last, position))
        }
        Some(MarkContent { loss: Loss::Unknown, .. }) => {
            Some("damaged entries of its storage engine may be of any topic".to_owned())
        }
        _ => record.check_whole(topics, last),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
