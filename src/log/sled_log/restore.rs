//! Restoring: makes a new log from backups, or from the undamaged part of a damaged log.
//!
//! The record of the log is written last, and until then there is a file `restoring`: after an
//! interruption the directory is not taken for a log. A new log begins a new epoch, so that readers
//! with an earlier cursor are told of a gap.
//!
//! A node that joins a fleet is different: its log must become that of the other nodes, byte for
//! byte. So it keeps the epoch, the blocks, the blocks of ids and all sizes as they are in a peer's
//! backup. The records are as they are at the backup's place in the stream. The peer goes on while
//! the backup is made: blocks may already be as they are after later records of the stream. Once
//! the node has applied the stream up to where the peer was at the backup's end, nothing of that is
//! left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek as _};
use std::path::{Path, PathBuf};

use super::blocks;
use super::directory::{self, UNFINISHED, lock};
use super::engine::{self, written_lsn};
use super::keys;
use super::mark::LogMark;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, OpenReason, Result};
use crate::event::Timestamp;
use crate::log::applied::Applied;
use crate::log::backup::{BackupReader, Frame};
use crate::log::block::Block;
use crate::log::extent::{Compacted, Extent};
use crate::log::group::MAX_REMOVED_PARTS;
use crate::log::meta::{self, LogRecord};
use crate::log::stored_topic::StoredTopic;
use crate::topic::TopicId;

/// The memory for the new log's page cache, in bytes.
const CACHE_BYTES: u64 = 64 << 20;

/// The bytes of blocks from which a batch is written.
const BATCH_BYTES: usize = 1 << 20;

/// The progress of a restore, in bytes of all backups, which are read twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restoring {
    /// The bytes that are read.
    pub done_bytes: u64,
    /// All bytes that are to be read.
    pub total_bytes: u64,
}

/// The result of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestoreReport {
    /// The number of topics.
    pub topics: u64,
    /// The number of events.
    pub events: u64,
    /// The position of the newest event.
    pub last_position: u64,
}

/// Makes a new log in `directory` from a backup of everything and the backups that follow it.
///
/// # Errors
///
/// [`Error::Open`]: the directory is not empty, or a backup is cut, altered, or does not follow the
/// one before it; nothing was written. Or writing failed: the directory then holds no log.
pub fn restore(
    directory: &Path,
    backups: &[PathBuf],
    mut progress: impl FnMut(Restoring),
) -> Result<RestoreReport> {
    let total: u64 = backups.iter().filter_map(|path| path.metadata().ok()).map(|m| m.len()).sum();
    let mut done_bytes = 0;
    let mut last: Option<(Epoch, Position)> = None;
    let mut report = |bytes: u64| {
        done_bytes += bytes;
        progress(Restoring { done_bytes, total_bytes: 2 * total });
    };
    for path in backups {
        let bad = |problem: String| Error::open(path, OpenReason::BadBackup(problem));
        let reader = read(path, |_| Ok(()), &mut report)?;
        let header = reader.header();
        match last {
            None if header.from.get() > 0 => {
                return Err(bad(format!(
                    "it follows position {}; name the backup that it follows before it",
                    header.from
                )));
            }
            Some(last) if last != (header.epoch, header.from) => {
                return Err(bad(format!(
                    "it follows position {} of epoch {}, and not {} of {}, where the one before \
                     it ends",
                    header.from, header.epoch, last.1, last.0
                )));
            }
            _ => last = Some((header.epoch, header.position)),
        }
    }
    let mut target = NewLog::create(directory)?;
    for path in backups {
        read(path, |frame| target.take(frame), &mut report)?;
    }
    target.finish()
}

/// Makes the log of a node that joins a fleet, in `directory`, from the backup of a peer. The log
/// goes on from the backup's place in the fleet's stream, which is returned.
///
/// # Errors
///
/// As [`restore`]. The backup must be one of everything, made by a node of a fleet.
#[cfg(any(test, feature = "fleet"))]
pub(crate) fn load_peer(
    directory: &Path,
    backup: &Path,
    mut progress: impl FnMut(Restoring),
) -> Result<Applied> {
    let bad = |problem: &str| Error::open(backup, OpenReason::BadBackup(problem.to_owned()));
    let total = backup.metadata().map_or(0, |metadata| metadata.len());
    let mut done_bytes = 0;
    let mut report = |bytes: u64| {
        done_bytes += bytes;
        progress(Restoring { done_bytes, total_bytes: 2 * total });
    };
    let mut applied = None;
    let note = |frame| {
        if let Frame::Applied(place) = frame {
            applied = Some(place);
        }
        Ok(())
    };
    let header = *read(backup, note, &mut report)?.header();
    if header.from.get() > 0 {
        return Err(bad("it follows another backup, and a node needs one of everything"));
    }
    let applied = applied.ok_or_else(|| bad("it is not from a node of a fleet"))?;
    let mut target = NewLog::create(directory)?;
    target.peer = Some((header.epoch, applied));
    read(backup, |frame| target.take(frame), &mut report)?;
    target.finish()?;
    Ok(applied)
}

/// Reads a whole backup, and hands its frames to `take`.
fn read(
    path: &Path,
    mut take: impl FnMut(Frame) -> Result<()>,
    report: &mut impl FnMut(u64),
) -> Result<BackupReader<BufReader<File>>> {
    let bad = |problem: String| Error::open(path, OpenReason::BadBackup(problem));
    let file = File::open(path).map_err(|error| Error::open(path, error))?;
    let mut place = file.try_clone().map_err(|error| Error::open(path, error))?;
    let mut reader = BackupReader::new(BufReader::with_capacity(1 << 20, file)).map_err(bad)?;
    let mut reported = 0;
    loop {
        let frame = reader.next_frame().map_err(bad)?;
        let done = place.stream_position().unwrap_or(reported);
        report(done - reported);
        reported = done;
        match frame {
            Some(frame) => take(frame)?,
            None => return Ok(reader),
        }
    }
}

/// A new log that is being made.
pub(super) struct NewLog {
    directory: PathBuf,
    database: sled::Db,
    tree: sled::Tree,
    topics: BTreeMap<TopicId, (StoredTopic, WrittenTopic)>,
    batch: sled::Batch,
    batch_bytes: usize,
    /// The epoch of the peer whose log this becomes, and the place in the fleet's stream up to
    /// which all is in it. `None` for a log of its own.
    peer: Option<(Epoch, Applied)>,
    _lock: File,
}

/// The part of a topic that is written already.
#[derive(Debug, Clone, Copy, Default)]
struct WrittenTopic {
    /// The first sequence of its blocks, and their end; `None` if there are no blocks.
    sequences: Option<(Sequence, Sequence)>,
    end_bytes: u64,
    events: u64,
    last_position: Position,
    last_time: Timestamp,
    last_clock: Timestamp,
    may_expire: bool,
}

impl NewLog {
    /// Begins a log in `directory`, which is created if it is missing, and must be empty.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: nothing was written.
    pub(super) fn create(directory: &Path) -> Result<Self> {
        let io = |error: io::Error| Error::open(directory, error);
        directory::make_directory(directory)?;
        let mut entries = std::fs::read_dir(directory).map_err(io)?;
        if entries.next().is_some() {
            return Err(Error::open(directory, OpenReason::NotEmpty));
        }
        let lock = lock(directory)?;
        let begun = File::create(directory.join(UNFINISHED)).and_then(|file| file.sync_all());
        begun.and_then(|()| File::open(directory)?.sync_all()).map_err(io)?;
        let database = engine::open(&directory.join("sled"), CACHE_BYTES);
        let database = database.map_err(|error| Error::open(directory, error))?;
        let tree = database.open_tree(keys::TREE);
        let tree = tree.map_err(|error| Error::open(directory, error))?;
        Ok(Self {
            directory: directory.to_owned(),
            database,
            tree,
            topics: BTreeMap::new(),
            batch: sled::Batch::default(),
            batch_bytes: 0,
            peer: None,
            _lock: lock,
        })
    }

    fn bad(&self, problem: String) -> Error {
        self.failed(OpenReason::BadBackup(problem))
    }

    fn failed(&self, reason: impl Into<OpenReason>) -> Error {
        Error::open(&self.directory, reason)
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::Topic(topic) => {
                self.begin_topic(topic);
                Ok(())
            }
            Frame::WholeTopic(topic) => {
                self.remove_blocks(topic.id)?;
                self.begin_topic(topic);
                Ok(())
            }
            Frame::Block(id, block) => self.write_block(id, block),
            Frame::Ids(id, block) if self.peer.is_some() => self.write_ids(id, &block),
            // A log of its own is in no fleet, and knows the ids of its events alone.
            Frame::Ids(..) | Frame::Applied(_) => Ok(()),
        }
    }

    /// Takes a topic's record, or a later record of it.
    pub(super) fn begin_topic(&mut self, topic: StoredTopic) {
        let written = self.topics.get(&topic.id).map(|(_, written)| *written);
        self.topics.insert(topic.id, (topic, written.unwrap_or_default()));
    }

    /// Returns the sequence at which the next block of a topic begins, if no block is missing;
    /// `None` before its first block.
    pub(super) fn next_block(&self, id: TopicId) -> Option<Sequence> {
        self.topics.get(&id)?.1.sequences.map(|(_, end)| end)
    }

    /// Writes the next block of a topic. If sequences are missing before it, they were either
    /// trimmed between two backups, with all earlier ones, or their events were dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: the block does not fit the blocks before it, or writing failed.
    pub(super) fn write_block(&mut self, id: TopicId, block: Block) -> Result<()> {
        match self.next_block(id) {
            // The peer has rewritten blocks meanwhile: this one takes their place.
            Some(next) if self.peer.is_some() && block.first_sequence() < next => {
                self.remove_blocks_from(id, block.first_sequence())?;
            }
            // The peer has removed blocks meanwhile, and the stream says so.
            _ if self.peer.is_some() => {}
            Some(next) if block.first_sequence() < next => {
                return Err(self.bad(format!("sequence {} comes twice", block.first_sequence())));
            }
            Some(next) if block.first_sequence() > next => {
                let earliest = self.topics.get(&id).map(|(topic, _)| topic.extent.earliest);
                if earliest.is_some_and(|earliest| earliest > next) {
                    self.remove_blocks(id)?;
                } else {
                    self.write_hole(id, next, &block)?;
                }
            }
            _ => {}
        }
        let Some((_, written)) = self.topics.get_mut(&id) else {
            return Err(self.bad(format!("a block is of topic {}, which has no record", id.get())));
        };
        let block = match self.peer {
            Some(_) => block,
            None => block.ending_at(written.end_bytes + block.bytes().len() as u64),
        };
        let first = written.sequences.map_or(block.first_sequence(), |(first, _)| first);
        written.may_expire |= block.has_ttl();
        *written = WrittenTopic {
            may_expire: written.may_expire,
            sequences: Some((first, block.last_sequence().next())),
            end_bytes: block.end_bytes(),
            events: written.events + block.count() as u64,
            last_position: block.last_position(),
            last_time: block.last_time(),
            last_clock: block.last_clock(),
        };
        for (key, bytes) in blocks::parts(id, &block) {
            self.batch.insert(&key, bytes);
        }
        self.batch_bytes += block.bytes().len();
        if self.batch_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes a block of ids of a topic's dropped events.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: writing failed.
    pub(super) fn write_ids(&mut self, id: TopicId, block: &Block) -> Result<()> {
        self.batch.insert(&keys::ids(id, block.first_sequence()), block.bytes().to_vec());
        self.batch_bytes += block.bytes().len();
        if self.batch_bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes a block without events for the sequences from `next` to `block`.
    pub(super) fn write_hole(&mut self, id: TopicId, next: Sequence, block: &Block) -> Result<()> {
        let (position, time) = (block.first_position().previous(), block.first_time());
        self.write_block(id, Block::hole(next..block.first_sequence(), position, time))
    }

    fn flush(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.tree.apply_batch(batch).map_err(|error| self.failed(error))
    }

    fn remove_blocks(&mut self, id: TopicId) -> Result<()> {
        self.remove_blocks_from(id, Sequence::FIRST)?;
        if let Some((_, written)) = self.topics.get_mut(&id) {
            *written = WrittenTopic::default();
        }
        Ok(())
    }

    /// Removes the blocks of a topic that begin at `first` or later.
    fn remove_blocks_from(&mut self, id: TopicId, first: Sequence) -> Result<()> {
        self.flush()?;
        loop {
            let all = self.tree.range(keys::blocks(id, first..blocks::END));
            let found: Vec<_> = all.keys().take(MAX_REMOVED_PARTS).collect();
            if found.is_empty() {
                break;
            }
            for key in found {
                self.batch.remove(key.map_err(|error| self.failed(error))?);
            }
            self.flush()?;
        }
        Ok(())
    }

    /// Writes a block without events at the end of each topic whose newest blocks the peer has
    /// removed meanwhile: the topic has its end in its newest block. The stream has the removal,
    /// and with it this block goes, too.
    fn close_ends(&mut self) -> Result<()> {
        let missing = |(id, (topic, written)): (&TopicId, &(StoredTopic, WrittenTopic))| {
            let Extent { tail, last_position, last_time, appended_bytes, .. } = topic.extent;
            let (_, end) = written.sequences.filter(|(_, end)| *end < tail)?;
            let hole = Block::hole(end..tail, last_position, last_time);
            Some((*id, hole.ending_at(appended_bytes)))
        };
        let missing: Vec<_> = self.topics.iter().filter_map(missing).collect();
        missing.into_iter().try_for_each(|(id, hole)| self.write_block(id, hole))
    }

    /// Completes the log.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: writing failed; the directory holds no log.
    pub(super) fn finish(mut self) -> Result<RestoreReport> {
        let mut report = RestoreReport::default();
        let ends = |(topic, written): &(StoredTopic, WrittenTopic)| {
            written.sequences.filter(|(_, end)| topic.extent.earliest >= *end).map(|_| topic.id)
        };
        let is_own = self.peer.is_none();
        if !is_own {
            self.close_ends()?;
        }
        let trimmed: Vec<_> = self.topics.values().filter_map(ends).filter(|_| is_own).collect();
        trimmed.into_iter().try_for_each(|id| self.remove_blocks(id))?;
        let mut sequences: u64 = 0;
        for (id, (topic, written)) in std::mem::take(&mut self.topics) {
            let extent = if is_own { extent(&topic.extent, &written) } else { topic.extent };
            let topic = StoredTopic { extent, ..topic };
            let record = meta::encode_topic(&topic);
            self.batch_bytes += record.len();
            self.batch.insert(&keys::topic(id), record);
            report.topics += u64::from(!topic.is_deleted);
            report.events += written.events;
            sequences = sequences
                .checked_add(topic.extent.tail.previous().get())
                .ok_or_else(|| self.bad("its topics have more than 2^64 sequences".to_owned()))?;
            report.last_position = report.last_position.max(topic.extent.last_position.get());
            if self.batch_bytes >= BATCH_BYTES {
                self.flush()?;
            }
        }
        let epoch = self.peer.map_or_else(|| Epoch::new(rand::random()), |(epoch, _)| epoch);
        let record = LogRecord::new(epoch, sequences, Position::new(report.last_position));
        self.batch.insert(&keys::LOG, meta::encode_log(&record));
        if let Some((_, applied)) = &self.peer {
            self.batch.insert(&keys::APPLIED, meta::encode_applied(applied));
        }
        self.flush()?;
        self.database.flush().map_err(|error| self.failed(error))?;
        let lsn = written_lsn(&self.database);
        let sync = || -> std::io::Result<()> {
            File::open(self.directory.join("sled/db"))?.sync_all()?;
            let mark = LogMark::open(&self.directory)?;
            mark.begin(epoch, Position::new(report.last_position), lsn)?;
            mark.sync()?;
            File::open(self.directory.join("sled"))?.sync_all()?;
            File::open(&self.directory)?.sync_all()?;
            std::fs::remove_file(self.directory.join(UNFINISHED))?;
            File::open(&self.directory)?.sync_all()
        };
        sync().map_err(|error| self.failed(error))?;
        Ok(report)
    }
}

/// Returns the extent of a topic of which only `written` exists: all other events count as dropped.
fn extent(told: &Extent, written: &WrittenTopic) -> Extent {
    let Some((first, tail)) = written.sequences else {
        let dropped_events = told.tail.previous().get();
        let (rewritten, compacted) = (Sequence::FIRST, Compacted::NOTHING);
        let empty =
            Extent { earliest: told.tail, rewritten, compacted, is_damaged: false, ..*told };
        return Extent { appended_bytes: 0, dropped_bytes: 0, dropped_events, ..empty };
    };
    let may_expire = told.may_expire || written.may_expire;
    // The progress of compaction in the record does not hold for blocks of an earlier backup.
    let due = if may_expire { Timestamp::from_ms(0) } else { Timestamp::MAX };
    Extent {
        earliest: told.earliest.max(first).min(tail),
        tail,
        last_position: written.last_position,
        last_time: written.last_time,
        last_clock: written.last_clock,
        appended_bytes: written.end_bytes,
        dropped_bytes: 0,
        dropped_events: tail.previous().get().saturating_sub(written.events),
        rewritten: Sequence::FIRST,
        may_expire,
        purged: told.purged.min(tail),
        is_damaged: false,
        compacted: Compacted { due, ..Compacted::NOTHING },
        ..*told
    }
}
