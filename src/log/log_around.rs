//! A log for tests that does something of its own, and otherwise what the log inside of it does.

use std::ops::Range;

use super::applied::Applied;
use super::block::Block;
use super::contract::Log;
use super::group::Group;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicId;

/// A log for tests around another one. It is a [`Log`] by that. What a test does not write itself
/// is done by the log inside; what [`Log`] makes of other methods is made of these.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use leftoff::log::contract::Group;
/// use leftoff::log::{Log, MemoryLog};
/// use leftoff::testing::LogAround;
///
/// /// A log that counts its groups.
/// #[derive(Default)]
/// struct CountingLog {
///     inside: MemoryLog,
///     groups: AtomicU64,
/// }
///
/// impl LogAround for CountingLog {
///     fn inside(&self) -> &dyn Log {
///         &self.inside
///     }
///
///     fn commit(&self, group: &Group) -> leftoff::Result<()> {
///         self.groups.fetch_add(1, Ordering::SeqCst);
///         self.inside.commit(group)
///     }
/// }
/// ```
pub trait LogAround: Send + Sync + 'static {
    /// The log inside.
    fn inside(&self) -> &dyn Log;

    /// As [`Log::epoch`].
    fn epoch(&self) -> Epoch {
        self.inside().epoch()
    }

    /// As [`Log::goes_on_after`].
    fn goes_on_after(&self, error: &Error) -> bool {
        self.inside().goes_on_after(error)
    }

    /// As [`Log::commit`].
    ///
    /// # Errors
    ///
    /// Those of the log inside.
    fn commit(&self, group: &Group) -> Result<()> {
        self.inside().commit(group)
    }

    /// As [`Log::make_durable`].
    ///
    /// # Errors
    ///
    /// Those of the log inside.
    fn make_durable(&self) -> Result<()> {
        self.inside().make_durable()
    }

    /// As [`Log::read`].
    ///
    /// # Errors
    ///
    /// Those of the log inside.
    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        self.inside().read(topic, from, below, max_bytes)
    }
}

impl<L: LogAround> Log for L {
    fn epoch(&self) -> Epoch {
        LogAround::epoch(self)
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        self.inside().topics()
    }

    fn ids(&self) -> Result<Vec<(TopicId, Block)>> {
        self.inside().ids()
    }

    fn applied(&self) -> Result<Option<Applied>> {
        self.inside().applied()
    }

    fn goes_on_after(&self, error: &Error) -> bool {
        LogAround::goes_on_after(self, error)
    }

    fn commit(&self, group: &Group) -> Result<()> {
        LogAround::commit(self, group)
    }

    fn make_durable(&self) -> Result<()> {
        LogAround::make_durable(self)
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        LogAround::read(self, topic, from, below, max_bytes)
    }

    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        self.inside().stored_blocks(topic, sequences, max_parts)
    }

    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)> {
        self.inside().last_below(topic, sequence)
    }
}
