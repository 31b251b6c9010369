//! The log: events in order, on disk. Knows bytes and fsync; knows no tasks and no network.
//! Synchronous on purpose: the caller picks the thread.
//!
//! ```text
//!  one topic
//!  1   2   3 | 4   5   .   7 | 8
//!  trimmed   | ^ earliest    | ^ tail, assigned next      "." was dropped by a rewrite
//! ```
//!
//! A [`Log`] stores what it is given, where it is told to: sequences, positions and times are the
//! broker's decisions. Every implementation passes the one suite in `contract.rs`.

mod age;
pub mod backup;
mod block;
mod blocks;
mod check;
mod cleaner;
mod failed;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod ids;
mod keys;
mod lock;
mod lost_tail;
mod mark;
mod memory_log;
mod meta;
mod read_ahead;
mod record;
mod restore;
mod salvage;
mod segment;
mod sled_files;
mod sled_log;
mod snapshot;
mod space;
mod stored_block;
mod touches;
mod way_back;
mod writing;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod faulty_log;
#[cfg(test)]
#[path = "../../tests/suite/forgetful.rs"]
#[allow(dead_code, reason = "the rest is for tests of the whole broker")]
mod forgetful;

#[cfg(test)]
pub use faulty_log::{Fault, FaultyLog, Held};

pub use age::{Ages, Ahead};
pub use block::{Block, BlockBuilder, HEADER_BYTES, NewRecords};
pub use blocks::parts_in;
pub use check::{CheckReport, Checking, check, repair};
pub use failed::TellFailure;
pub use ids::{PlacedId, blocks_of_ids};
pub use memory_log::MemoryLog;
pub use read_ahead::ReadAhead;
pub use record::{EventRef, Headers};
pub use restore::{RestoreReport, Restoring, restore};
pub use sled_log::{LogConfig, SledLog};
pub use space::LEAST_FREE_BYTES;
pub use stored_block::{LastEvent, StoredBlock};
pub use way_back::WayBack;

use std::ops::Range;

use crate::cursor::{Epoch, Position, Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::topic::{TopicId, TopicName};
use crate::topic_config::TopicConfig;

/// Most parts that a group removes, besides as many as it writes. sled holds on to what one batch
/// changes until the batch is over: one of 40,000 removals leaked gigabytes, those of a few hundred
/// take tens of megabytes and give them back (benches/soak.rs).
pub const MAX_REMOVED_PARTS: usize = 512;

/// Parts of what was trimmed that are looked at to find out whether the rest is whole.
const MAX_FRONT_PARTS: usize = 64;

/// What is written in one go: all of it is stored, or nothing, over all topics.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Topics of which something is to be noted that their blocks do not say: they are new, or
    /// their settings, their `earliest` or what was dropped changes. Each as it is before the
    /// blocks that this group appends to it.
    pub topics: Vec<StoredTopic>,
    /// Blocks that go. The topics of them are noted above, and count them as dropped.
    pub removed: Vec<(TopicId, StoredBlock)>,
    /// Blocks that take the place of those that go.
    pub rewritten: Vec<(TopicId, Block)>,
    /// Blocks that are appended, those of one topic in their order.
    pub appended: Vec<(TopicId, Block)>,
    /// Ids of events that are not stored any more, which are still to be recognised: blocks of
    /// events of which nothing but the id and the places is left.
    pub ids: Vec<(TopicId, Block)>,
    /// Blocks of ids that go, each by its first sequence.
    pub forgotten: Vec<(TopicId, Sequence)>,
    /// What it must outlive once it is stored: [`Durability::Process`] saves the sync.
    pub durability: Durability,
}

impl Group {
    /// A group that notes what `topic` is.
    pub fn noting(topic: StoredTopic) -> Self {
        Self { topics: vec![topic], ..Self::default() }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let Self { topics, removed, rewritten, appended, ids, forgotten, durability: _ } = self;
        let has_no_blocks = removed.is_empty() && rewritten.is_empty() && appended.is_empty();
        topics.is_empty() && has_no_blocks && ids.is_empty() && forgotten.is_empty()
    }
}

/// A topic as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTopic {
    /// Its id in the keys.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// What it holds.
    pub extent: Extent,
    /// Its settings, as far as they are its own.
    pub config: TopicConfig,
    /// Whether it was deleted. Its name and its places are kept: created again, it goes on there.
    pub is_deleted: bool,
}

impl StoredTopic {
    /// A topic before its first event.
    pub fn new(id: TopicId, name: TopicName) -> Self {
        let (extent, config) = (Extent::EMPTY, TopicConfig::default());
        Self { id, name, extent, config, is_deleted: false }
    }
}

/// What a topic holds, all of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first sequence that can be read.
    pub earliest: Sequence,
    /// The sequence that the next event gets.
    pub tail: Sequence,
    /// The position of the newest event; 0 if it never had one.
    pub last_position: Position,
    /// When the newest event was appended.
    pub last_time: Timestamp,
    /// What the system clock said then: the same, or less where it had been set back.
    pub last_clock: Timestamp,
    /// The events that were found to be ahead of the system clock.
    pub ahead: Ahead,
    /// All blocks that were ever appended, in bytes.
    pub appended_bytes: u64,
    /// The blocks of these that were dropped again, in bytes.
    pub dropped_bytes: u64,
    /// How many events were dropped with them.
    pub dropped_events: u64,
    /// The position of the last event that was trimmed; 0 if none was.
    pub trimmed_position: Position,
    /// When that was appended.
    pub trimmed_time: Timestamp,
    /// The number of the drop in which it was trimmed, of all drops of the log; 0 if none was.
    pub trimmed_drop: u64,
    /// The position of the newest tombstone, or event of a key that had expired, that was dropped;
    /// 0 if none was. A backup from before may still hold what it had superseded.
    pub buried_position: Position,
    /// Its sequence.
    pub buried_sequence: Sequence,
    /// The number of the drop in which it went, of all drops of the log; 0 if none did.
    pub buried_drop: u64,
    /// The position of the first event that came when it was empty; what is there to read begins
    /// there or later. 0 if that is not known.
    pub first_position: Position,
    /// Events below were purged, or deleted: their ids are not recognised any more.
    pub purged: Sequence,
    /// Why events were trimmed last.
    pub trim_reason: TrimReason,
    /// Blocks below were looked at for rolling up, and need not be again.
    pub rewritten: Sequence,
    /// Whether there may be events that are to be dropped once they have an age.
    pub may_expire: bool,
    /// Whether its newest events are damaged, so that it takes no more. Its tail is behind any
    /// sequence that it can have given out.
    pub is_damaged: bool,
    /// How far compaction has come.
    pub compacted: Compacted,
}

/// How far compaction of a topic has come, and when there is something to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// How many events of a key are kept; 0: all.
    pub kept: u64,
    /// Below it a key has no more than these.
    pub below: Sequence,
    /// Below it they were looked at; what is over is left for its id.
    pub seen: Sequence,
    /// When the first of those that were looked at is to be dropped, for its age or its id's.
    pub due: Timestamp,
}

impl Compacted {
    /// Nothing was looked at yet, and there is nothing to drop.
    pub const NOTHING: Compacted =
        Compacted { kept: 0, below: Sequence::FIRST, seen: Sequence::FIRST, due: Timestamp::MAX };
}

impl Default for Extent {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Extent {
    /// What a topic holds before its first event.
    pub const EMPTY: Extent = Extent {
        earliest: Sequence::FIRST,
        tail: Sequence::FIRST,
        last_position: Position::new(0),
        last_time: Timestamp::from_ms(0),
        last_clock: Timestamp::from_ms(0),
        ahead: Ahead { position: Position::BEFORE_ALL, clock: Timestamp::from_ms(0) },
        appended_bytes: 0,
        dropped_bytes: 0,
        dropped_events: 0,
        trimmed_position: Position::new(0),
        trimmed_time: Timestamp::from_ms(0),
        trimmed_drop: 0,
        buried_position: Position::new(0),
        buried_sequence: Sequence::new(0),
        buried_drop: 0,
        first_position: Position::new(0),
        purged: Sequence::new(0),
        trim_reason: TrimReason::Retention,
        rewritten: Sequence::FIRST,
        may_expire: false,
        is_damaged: false,
        compacted: Compacted::NOTHING,
    };

    /// All that it says of places, and of drops, which are numbered like these.
    fn places(&self) -> [u64; 12] {
        [
            self.earliest.get(),
            self.tail.get(),
            self.last_position.get(),
            self.ahead.position.get(),
            self.trimmed_position.get(),
            self.trimmed_drop,
            self.buried_position.get(),
            self.buried_sequence.get(),
            self.buried_drop,
            self.first_position.get(),
            self.purged.get(),
            self.rewritten.get(),
        ]
    }

    /// The number of the newest drop of the log that took something from the topic.
    pub(crate) fn newest_drop(&self) -> u64 {
        self.trimmed_drop.max(self.buried_drop)
    }

    /// The last position of what was dropped: a reader behind it may miss something.
    pub(crate) fn dropped_position(&self) -> Position {
        self.trimmed_position.max(self.buried_position)
    }

    /// Numbers the drop by which it begins later than `before`, if it does.
    pub(crate) fn number_trim(&mut self, before: &Self, number: u64) {
        if self.earliest != before.earliest {
            self.trimmed_drop = number;
        }
    }

    /// The blocks that are stored, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.appended_bytes.saturating_sub(self.dropped_bytes)
    }

    /// Whether there is nothing in it to read.
    pub fn is_empty(&self) -> bool {
        self.earliest == self.tail
    }

    /// A position that no event there is to read is before: that of the first one, as far as it is
    /// known without reading.
    pub fn lowest_position(&self) -> Position {
        let known = self.first_position.max(self.trimmed_position.next());
        let is_last_alone = self.earliest.next() == self.tail;
        if is_last_alone { known.max(self.last_position) } else { known }
    }

    /// Whether there may ever have been an event before this position. Until something is trimmed
    /// it is known where the very first one is.
    pub(crate) fn had_some_before(&self, position: Position) -> bool {
        let was_trimmed = self.earliest > Sequence::FIRST;
        position > Position::FIRST && (was_trimmed || self.first_position < position)
    }

    /// The events that are stored; those of the first block that were trimmed count, too.
    pub fn events(&self) -> u64 {
        self.tail.previous().get().saturating_sub(self.dropped_events)
    }

    /// Counts `block` as dropped.
    pub(crate) fn drop_block(&mut self, block: &StoredBlock) {
        self.dropped_bytes += block.size_bytes;
        self.dropped_events += block.events;
    }

    /// Takes `block` for what is left of blocks that were counted as dropped.
    pub(crate) fn keep_block(&mut self, block: &Block) {
        self.dropped_bytes = self.dropped_bytes.saturating_sub(block.bytes().len() as u64);
        self.dropped_events = self.dropped_events.saturating_sub(block.count() as u64);
    }

    /// As it is once `block` is appended.
    pub(crate) fn with(self, block: &Block) -> Self {
        Self {
            tail: block.last_sequence().next(),
            last_position: block.last_position(),
            last_time: block.last_time(),
            last_clock: block.last_clock(),
            appended_bytes: block.end_bytes(),
            may_expire: self.may_expire || block.has_ttl(),
            ..self
        }
    }
}

/// What a reader looks for by something other than the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The first event appended at this time or later.
    Time(Timestamp),
    /// The first event after this position.
    AfterPosition(Position),
}

impl Seek {
    fn reached(self, position: Position, time: Timestamp) -> bool {
        match self {
            Self::Time(wanted) => time >= wanted,
            Self::AfterPosition(seen) => position > seen,
        }
    }
}

/// Durable storage of blocks in order. One writer; any number of readers at the same time.
pub trait Log: Send + Sync + 'static {
    /// The incarnation: fixed while the log is open.
    fn epoch(&self) -> Epoch;

    /// Whether what was appended outlives the process and a loss of power.
    fn is_durable(&self) -> bool {
        true
    }

    /// Has `tell` told why nothing more can be written, when that shows between two commits. A
    /// failure that a commit meets is that commit's error.
    fn tell_failure(&self, tell: TellFailure) {
        drop(tell); // No failure but those of commits.
    }

    /// Every topic with its newest places, in the order of the ids. Read when a broker is opened.
    ///
    /// # Errors
    ///
    /// As [`Log::read`], of the newest block of each topic.
    fn topics(&self) -> Result<Vec<StoredTopic>>;

    /// Every block of ids, by topic and sequence; but for those that are damaged, which are told in
    /// the program's log. Read when a broker is opened.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`].
    ///
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn ids(&self) -> Result<Vec<(TopicId, Block)>>;

    /// Whether [`Log::commit`] could write `group`, or would refuse it for what is damaged. What is
    /// refused alone need not be refused together with what others want.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::DamagedLog`].
    ///
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::DamagedLog`]: crate::Error::DamagedLog
    fn check_writable(&self, group: &Group) -> Result<()> {
        let _nothing_is_damaged = group;
        Ok(())
    }

    /// Whether `topic` can be appended to, as [`Log::check_writable`].
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`].
    ///
    /// [`Error::Damaged`]: crate::Error::Damaged
    fn check_appendable(&self, topic: &StoredTopic) -> Result<()> {
        let _nothing_is_damaged = topic;
        Ok(())
    }

    /// Writes `group`, all or nothing, also across a crash. Durable when this returns. From that
    /// moment events below a topic's `earliest` are no part of it any more. What goes is removed
    /// with it, so no more than [`MAX_REMOVED_PARTS`] parts besides as many as are written.
    ///
    /// # Errors
    ///
    /// - [`Error::NotWritten`], [`Error::DiskFull`]: nothing was written; the log goes on. When
    ///   space runs out, a group that makes the log hold more is refused first, then one that
    ///   rewrites or changes settings; one that only removes as late as can be, for by it space
    ///   comes back.
    /// - [`Error::Damaged`], [`Error::DamagedLog`]: nothing was written, for it belongs to what
    ///   cannot be read; the log goes on.
    /// - [`Error::OutcomeUnknown`]: it may be stored; later appends fail until reopened.
    /// - [`Error::ReadOnly`]: nothing was written, because of such a failure before.
    ///
    /// [`Error::NotWritten`]: crate::Error::NotWritten
    /// [`Error::DiskFull`]: crate::Error::DiskFull
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::DamagedLog`]: crate::Error::DamagedLog
    /// [`Error::OutcomeUnknown`]: crate::Error::OutcomeUnknown
    /// [`Error::ReadOnly`]: crate::Error::ReadOnly
    fn commit(&self, group: &Group) -> Result<()>;

    /// Blocks of `topic` from the one that holds `from`, in order, each verified, without a hole
    /// between them: at least one, then as many as fit `max_bytes`. `from` is within the topic's
    /// `earliest..tail`, and `below`, above `from`, is the caller's snapshot of that tail: blocks
    /// that begin there are not looked at.
    ///
    /// # Errors
    ///
    /// - [`Error::Damaged`]: the first block does not fit its checksum, or is missing; that is also
    ///   said of one that was trimmed since the caller's snapshot. Damage further on is not
    ///   reported before it is reached: the blocks before it are returned.
    /// - [`Error::ReadFailed`]: the disk failed.
    ///
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>>;

    /// As [`Log::read`], of the blocks whose events begin before `before`, but one at the least;
    /// then those after them that fit `more_bytes`, and where the block after all these begins.
    ///
    /// # Errors
    ///
    /// As [`Log::read`].
    fn read_ahead(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        before: Position,
        max_bytes: usize,
        more_bytes: usize,
    ) -> Result<ReadAhead> {
        read_ahead::read_ahead(self, topic, sequences, before, max_bytes, more_bytes)
    }

    /// The blocks of `topic` that begin in `sequences`, in order, whether they can be read or not:
    /// at least one, if there is one, then as many as have `max_parts` parts together.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`], [`Error::DamagedLog`]; [`Error::Damaged`]: where they are kept cannot
    /// be read.
    ///
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    /// [`Error::DamagedLog`]: crate::Error::DamagedLog
    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>>;

    /// The position of the last event of `topic` below `sequence`, which it holds or ends with, and
    /// when it was appended. Where its block is damaged, the last that these can have been.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`].
    ///
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)>;

    /// The sequence of the first event in `earliest..tail` of `topic` that `seek` looks for; `tail`
    /// if none is. A binary search: it reads about `log2(tail - earliest)` blocks.
    ///
    /// # Errors
    ///
    /// As [`Log::read`].
    fn seek(
        &self,
        topic: TopicId,
        seek: Seek,
        earliest: Sequence,
        tail: Sequence,
    ) -> Result<Sequence> {
        let (mut low, mut high) = (earliest, tail); // The answer is within, both included.
        while low < high {
            let middle = Sequence::new(low.get() + (high.get() - low.get()) / 2);
            let Some(block) = self.read(topic, middle, tail, 1)?.into_iter().next() else {
                high = middle;
                continue;
            };
            if !seek.reached(block.last_position(), block.last_time()) {
                low = block.last_sequence().next();
            } else if seek.reached(block.first_position(), block.first_time()) {
                high = block.first_sequence().min(middle);
            } else {
                let found = block.events().find(|e| seek.reached(e.position, e.time));
                return Ok(found.map_or(block.last_sequence(), |event| event.sequence));
            }
        }
        Ok(low.max(earliest))
    }

    /// Whether `topic` holds every event of its `earliest..tail`: none was dropped in between. It
    /// may also say no where that takes long to find out.
    ///
    /// # Errors
    ///
    /// As [`Log::stored_blocks`].
    fn is_whole(&self, topic: TopicId, extent: &Extent) -> Result<bool> {
        let earliest = extent.earliest;
        let front = match self.stored_blocks(topic, Sequence::FIRST..earliest, MAX_FRONT_PARTS) {
            Err(Error::Damaged { .. }) => return Ok(false),
            front => front?,
        };
        // What was trimmed is counted as dropped only when its whole block is removed.
        let mut undropped = 0;
        if let Some((reaching, below)) = front.split_last() {
            let read = self.read(topic, reaching.first, extent.tail, 1);
            let Some(block) = read.ok().and_then(|blocks| blocks.into_iter().next()) else {
                return Ok(false);
            };
            if block.last_sequence() < earliest.previous() {
                return Ok(false);
            }
            undropped = block.events().take_while(|event| event.sequence < earliest).count() as u64;
            undropped += below.iter().map(|block| block.events).sum::<u64>();
        }
        Ok(extent.dropped_events + undropped == earliest.previous().get())
    }
}
