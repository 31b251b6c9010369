//! The contract: what every log promises. The tests of it run over each log there is.

#[cfg(test)]
pub(super) mod tests;

use std::ops::Range;

use super::block::Block;
use super::extent::Extent;
use super::failed::TellFailure;
use super::group::Group;
use super::read_ahead::ReadAhead;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicId;

/// Parts of what was trimmed that are looked at to find out whether the rest is whole.
const MAX_FRONT_PARTS: usize = 64;

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
        read_ahead(self, topic, sequences, before, max_bytes, more_bytes)
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

/// As [`Log::read_ahead`], by several reads.
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
    // Damage further on is reported when it is reached.
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
