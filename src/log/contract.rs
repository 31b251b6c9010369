//! The contract: the promises of every log. Its tests run over each implementation.
//!
//! A log of a program's own implements [`Log`]. The types that its calls take and give are here,
//! and nobody else needs them.

#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;

pub use super::applied::Applied;
pub use super::block::Block;
pub use super::block_builder::BlockBuilder;
pub use super::extent::{Ahead, Compacted, Extent};
pub use super::failed::TellFailure;
pub use super::group::{Group, MAX_REMOVED_PARTS};
pub use super::log_space::LogSpace;
pub use super::new_records::NewRecords;
pub use super::read_ahead::ReadAhead;
pub use super::stored_block::{LastEvent, StoredBlock};
pub use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::topic::TopicId;

/// The most parts of trimmed blocks that are looked at to find out whether a topic is whole.
const MAX_FRONT_PARTS: usize = 64;

/// A place that a reader looks for by time or by position.
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

/// Durable storage of blocks in order, with one writer and any number of readers at the same time.
pub trait Log: Send + Sync + 'static {
    /// Returns the epoch of the log. It is fixed while the log is open.
    fn epoch(&self) -> Epoch;

    /// Returns what an acknowledged event outlives, if its topic asks for `asked`.
    fn durability(&self, asked: Durability) -> Durability {
        asked
    }

    /// Registers `tell`, which is called when a failure between two commits ends all writing. A
    /// failure inside of a commit is the error of that commit.
    fn tell_failure(&self, tell: TellFailure) {
        drop(tell); // A log that fails only in commits never calls it.
    }

    /// Returns the space that the log takes and has; `None` for a log without a disk.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`]: the system does not answer.
    ///
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn space(&self) -> Result<Option<LogSpace>> {
        Ok(None)
    }

    /// Returns every topic with its extent, in the order of the ids. Called when a broker is
    /// opened.
    ///
    /// # Errors
    ///
    /// As [`Log::read`], for the newest block of each topic.
    fn topics(&self) -> Result<Vec<StoredTopic>>;

    /// Returns every block of ids, by topic and sequence. Damaged blocks are left out, and a log
    /// line names them. Called when a broker is opened.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`].
    ///
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn ids(&self) -> Result<Vec<(TopicId, Block)>>;

    /// Returns the place in the fleet's stream up to which the log has applied it: that of the last
    /// committed group with a place. `None` for a log that was never in a fleet, for one that has
    /// lost data to damage since, and for one that keeps no place and cannot serve in a fleet.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedLog`], [`Error::ReadFailed`].
    ///
    /// [`Error::DamagedLog`]: crate::Error::DamagedLog
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn applied(&self) -> Result<Option<Applied>> {
        Ok(None)
    }

    /// Checks whether [`Log::commit`] would refuse `group` because of damage. With it a committer
    /// finds the request that must be refused, and need not refuse the whole group.
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

    /// Checks whether events can be appended to `topic`, as [`Log::check_writable`] does.
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

    /// Whether the log takes groups again, without being opened anew, after a commit that failed
    /// with `error`, and whose outcome is unknown.
    fn goes_on_after(&self, error: &Error) -> bool {
        let _outcome_unknown = error;
        false
    }

    /// Writes `group`: all of it or nothing, also across a crash. The group is durable when this
    /// returns. From then on, events below a topic's `earliest` do not belong to the topic. A group
    /// removes at most [`MAX_REMOVED_PARTS`] parts more than it writes.
    ///
    /// # Errors
    ///
    /// - [`Error::NotWritten`], [`Error::DiskFull`]: nothing was written; the log goes on. When
    ///   space runs out, groups that make the log larger are refused first, then groups that
    ///   rewrite or change settings. Groups that only remove are refused last, for they make room.
    /// - [`Error::Damaged`], [`Error::DamagedLog`]: nothing was written, because the group belongs
    ///   to a page that cannot be read; the log goes on.
    /// - [`Error::OutcomeUnknown`]: the group may be stored; later commits fail until the log is
    ///   reopened, unless [`Log::goes_on_after`] says otherwise.
    /// - [`Error::ReadOnly`]: nothing was written, because of such a failure before.
    ///
    /// [`Error::NotWritten`]: crate::Error::NotWritten
    /// [`Error::DiskFull`]: crate::Error::DiskFull
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::DamagedLog`]: crate::Error::DamagedLog
    /// [`Error::OutcomeUnknown`]: crate::Error::OutcomeUnknown
    /// [`Error::ReadOnly`]: crate::Error::ReadOnly
    ///
    /// [`MAX_REMOVED_PARTS`]: crate::log::MAX_REMOVED_PARTS
    fn commit(&self, group: &Group) -> Result<()>;

    /// Makes all groups durable that were committed, also those that an earlier process has left to
    /// the system. A log that promises nothing for a loss of power does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`]: the disk failed; later commits fail, as after a failed commit.
    /// [`Error::ReadOnly`], because of such a failure before.
    ///
    /// [`Error::OutcomeUnknown`]: crate::Error::OutcomeUnknown
    /// [`Error::ReadOnly`]: crate::Error::ReadOnly
    fn make_durable(&self) -> Result<()> {
        Ok(())
    }

    /// Reads blocks of `topic`, beginning with the block that holds `from`: in order, each
    /// verified, without a hole between them. Returns at least one block, then as many as fit
    /// `max_bytes`. `from` must be within the topic's `earliest..tail`. `below`, above `from`, is
    /// the tail as the caller knows it: blocks that begin there or later are not read.
    ///
    /// # Errors
    ///
    /// - [`Error::Damaged`]: the first block does not fit its checksum, or is missing. A block that
    ///   was trimmed in the meantime is missing, too. Damage in a later block is not reported here:
    ///   the blocks before it are returned.
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

    /// Reads blocks as [`Log::read`] does: at least one, then those that begin before the position
    /// `before`. After them come further blocks that fit `more_bytes`. The answer also has the
    /// position at which the next block begins.
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
        read_ahead(self, topic, sequences, before, max_bytes, more_bytes)
    }

    /// Lists the blocks of `topic` that begin in `sequences`, in order, whether they can be read or
    /// not: at least one, if there is one, then as many as have `max_parts` parts together.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`], [`Error::DamagedLog`]; [`Error::Damaged`] where the page with the
    /// blocks cannot be read.
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

    /// Returns position and time of the last event of `topic` below `sequence`. `sequence` is
    /// within `earliest..=tail`. If the block of that event is damaged, returns the highest values
    /// that are possible.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`].
    ///
    /// [`Error::ReadFailed`]: crate::Error::ReadFailed
    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)>;

    /// Returns the sequence of the first event in `earliest..tail` of `topic` that reaches `seek`;
    /// `tail` if no event does. A binary search, which reads about `log2(tail - earliest)` blocks.
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
        let (mut low, mut high) = (earliest, tail); // The answer is `low`, `high`, or between.
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

    /// Whether `topic` holds every event of its `earliest..tail`, so that none was dropped in
    /// between. `false` may also mean that finding out takes too long.
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
        // Trimmed events count as dropped only when their whole block is removed.
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

/// Does the work of [`Log::read_ahead`] by several calls of [`Log::read`].
pub(super) fn read_ahead<L: Log + ?Sized>(
    log: &L,
    topic: TopicId,
    sequences: Range<Sequence>,
    before: Position,
    max_bytes: usize,
    more_bytes: usize,
) -> Result<ReadAhead> {
    let Range { start, end } = sequences;
    let mut blocks = log.read(topic, start, end, max_bytes)?;
    let wanted = blocks.partition_point(|block| block.first_position() < before).max(1);
    blocks.truncate(wanted);
    let mut left_bytes = more_bytes;
    // Damage in these blocks is reported when a reader reaches it.
    while let Some(next) = blocks.last().map(|block| block.last_sequence().next())
        && next < end
        && let Ok(more) = log.read(topic, next, end, left_bytes.max(1))
        && !more.is_empty()
    {
        for block in more {
            let Some(left) = left_bytes.checked_sub(block.bytes().len()) else {
                let following = Some(block.first_position());
                return Ok(ReadAhead { blocks, wanted, following });
            };
            left_bytes = left;
            blocks.push(block);
        }
    }
    Ok(ReadAhead { blocks, wanted, following: None })
}
