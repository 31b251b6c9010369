//! A log whose groups go through the stream: a group is stored once the stream has it.
//!
//! ```text
//! commit of a leader     encode ─▶ writer ─▶ stream has it ─▶ local log, with its place
//! commit of a follower   a group from the stream, with its place ─▶ local log
//! ```
//!
//! The two are told apart by [`Group::applied`]: a group that has a place was decided before.
//!
//! # Why
//!
//! The stream makes a group durable, so the local log does not sync each of them, but one in
//! [`SYNC_EVERY`]: what a node loses when its machine stops, it reads again from the stream.
//!
//! An outcome that is unknown is never told as certain. A group that the stream has is stored, even
//! if the local log then fails: that is told as unknown, too, and this node leads no longer, for
//! its log does not have what it decided. The broker goes on in both cases, as a node that follows,
//! unless the local log takes nothing more ([`Log::goes_on_after`]).

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::chain::StreamPlace;
use super::clock::SteadyClock;
use super::group_form;
use super::writer::{GroupToDecide, NotDecided, StreamWriter};
use crate::cursor::{Epoch, Position, Sequence};
use crate::error::{Cause, Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::contract::{ReadAhead, TellFailure};
use crate::log::{Applied, Block, Extent, Group, Log, LogSpace, Seek, StoredBlock, StoredTopic};
use crate::topic::{TopicId, TopicName};

/// The time after which the local log is synced again, if something was written.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A log whose groups go through the stream of a fleet. The blocks are in a local log.
pub struct ReplicatedLog {
    local: Arc<dyn Log>,
    epoch: Epoch,
    writer: StreamWriter,
    clock: Arc<dyn SteadyClock>,
    kept: Mutex<LocalPlace>,
    /// The first damage that was found.
    damage: watch::Sender<Option<String>>,
    /// What looked damaged to a reader, until that is looked at.
    suspect: watch::Sender<Option<SuspectEvents>>,
}

/// Events that looked damaged to a reader. They may have been trimmed or rewritten meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SuspectEvents {
    pub(super) topic: TopicName,
    /// The first one.
    pub(super) first: Sequence,
}

/// How far the local log is.
#[derive(Debug, Clone, Copy)]
struct LocalPlace {
    applied: Option<Applied>,
    synced: Option<Applied>,
    /// The time of the last sync.
    synced_at: Duration,
}

impl ReplicatedLog {
    /// Returns the log of a node, on its local log. `epoch` is that of the fleet: the local log
    /// begins a new one of its own when it loses events that were not synced, and these come again
    /// from the stream.
    ///
    /// # Errors
    ///
    /// As [`Log::applied`].
    pub fn new(
        local: Arc<dyn Log>,
        epoch: Epoch,
        writer: StreamWriter,
        clock: Arc<dyn SteadyClock>,
    ) -> Result<Self> {
        let applied = local.applied()?;
        // What a killed process has left to the system is applied, and may not be on the disk.
        let synced = match local.make_durable() {
            Ok(()) => applied,
            Err(error) => {
                tracing::error!(%error, "the local log cannot be synced");
                None
            }
        };
        let kept = LocalPlace { applied, synced, synced_at: clock.now() };
        let (damage, suspect) = (watch::Sender::new(None), watch::Sender::new(None));
        Ok(Self { local, epoch, writer, clock, kept: Mutex::new(kept), damage, suspect })
    }

    /// Returns the first damage of the local log, once some is found.
    pub(super) fn damage(&self) -> watch::Receiver<Option<String>> {
        self.damage.subscribe()
    }

    /// Returns what looks damaged to readers. Only the first is told until it is forgotten.
    pub(super) fn suspects(&self) -> watch::Receiver<Option<SuspectEvents>> {
        self.suspect.subscribe()
    }

    /// Forgets what looked damaged to a reader.
    pub(super) fn forget_suspect(&self) {
        self.suspect.send_replace(None);
    }

    /// Returns what a reader gets, and tells what looks damaged.
    fn seen<T>(&self, read: Result<T>) -> Result<T> {
        let Err(Error::Damaged { topic, first, .. }) = &read else { return self.noted(read) };
        if self.damage.borrow().is_none() {
            self.suspect.send_if_modified(|suspect| {
                let is_new = suspect.is_none();
                if is_new {
                    *suspect = Some(SuspectEvents { topic: topic.clone(), first: *first });
                }
                is_new
            });
        }
        read
    }

    /// Returns the outcome of a call, and keeps in mind that the local log is damaged, if it is.
    pub(super) fn noted<T>(&self, read: Result<T>) -> Result<T> {
        if let Err(error @ (Error::Damaged { .. } | Error::DamagedLog { .. })) = &read {
            self.damage.send_if_modified(|damage| {
                let is_new = damage.is_none();
                if is_new {
                    *damage = Some(error.to_string());
                }
                is_new
            });
        }
        read
    }

    /// Returns the place up to which the local log has applied the stream, and would still have
    /// after a loss of power. The stream must not be trimmed beyond it.
    pub fn synced(&self) -> Option<Applied> {
        self.kept().synced
    }

    /// Returns the place up to which the local log has applied the stream.
    pub(super) fn place(&self) -> StreamPlace {
        self.kept().applied.map_or(StreamPlace::START, StreamPlace::from)
    }

    fn kept(&self) -> MutexGuard<'_, LocalPlace> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `group` in the form in which the stream takes it.
    pub(super) fn to_decide(&self, group: &Group) -> Result<GroupToDecide> {
        self.noted(self.local.check_writable(group))?;
        let bytes = group_form::encode(group)?;
        Ok(GroupToDecide { bytes, base: self.place().stream })
    }

    /// Ends the commit of a group of this node's own, about which the stream has decided.
    pub(super) fn settle(
        &self,
        group: &Group,
        decided: std::result::Result<StreamPlace, NotDecided>,
    ) -> Result<()> {
        let place = decided.map_err(|error| match error {
            NotDecided::Unknown(_) => Error::OutcomeUnknown(error.into()),
            NotDecided::NotStored(_) => Error::NotWritten(error.into()),
            NotDecided::NotLeading(_) => Error::NotLeading,
        })?;
        let applied = place.applied().expect("a fleet is founded before somebody leads it");
        self.keep(group, applied).map_err(|error| {
            self.writer.begin_step_down(format!("its own log failed: {error}"));
            Error::OutcomeUnknown(match error {
                Error::OutcomeUnknown(cause) => cause,
                error => Cause::from(error),
            })
        })
    }

    /// Writes a group that the stream has to the local log.
    fn keep(&self, group: &Group, applied: Applied) -> Result<()> {
        // One thread commits, so nothing changes this in between; the lock is not held meanwhile,
        // because the role's task asks how far the log is.
        let LocalPlace { applied: last, synced_at, .. } = *self.kept();
        if last.is_some_and(|last| last.stream >= applied.stream) {
            let again = std::io::Error::other(format!(
                "record {} of the stream is applied already",
                applied.stream
            ));
            return Err(Error::NotWritten(again.into()));
        }
        let is_synced = self.clock.now() >= synced_at + SYNC_EVERY;
        let durability = if is_synced { Durability::Fsync } else { Durability::Process };
        let placed = Group { durability, applied: Some(applied), ..group.clone() };
        self.noted(self.local.commit(&placed))?;
        let mut kept = self.kept();
        kept.applied = Some(applied);
        if is_synced {
            (kept.synced, kept.synced_at) = (Some(applied), self.clock.now());
        }
        Ok(())
    }
}

impl Log for ReplicatedLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn durability(&self, _asked: Durability) -> Durability {
        Durability::Replicated
    }

    fn tell_failure(&self, tell: TellFailure) {
        self.local.tell_failure(tell);
    }

    fn space(&self) -> Result<Option<LogSpace>> {
        self.local.space()
    }

    fn topics(&self) -> Result<Vec<StoredTopic>> {
        self.local.topics()
    }

    fn ids(&self) -> Result<Vec<(TopicId, Block)>> {
        self.local.ids()
    }

    fn applied(&self) -> Result<Option<Applied>> {
        self.local.applied()
    }

    fn goes_on_after(&self, error: &Error) -> bool {
        let Error::OutcomeUnknown(cause) = error else { return false };
        // The local log's own failure is for good only if it does not know the outcome itself.
        let is_refusal = |error: &Error| !matches!(error, Error::ReadOnly(_));
        let cause = &**cause;
        cause.is::<NotDecided>() || cause.downcast_ref::<Error>().is_some_and(is_refusal)
    }

    fn check_writable(&self, group: &Group) -> Result<()> {
        self.noted(self.local.check_writable(group))
    }

    fn make_durable(&self) -> Result<()> {
        self.local.make_durable()
    }

    fn check_appendable(&self, topic: &StoredTopic) -> Result<()> {
        self.noted(self.local.check_appendable(topic))
    }

    /// Writes `group`, as the contract says. A group without a place is appended to the stream
    /// first, which only the leader may do.
    ///
    /// # Errors
    ///
    /// Besides those of the contract:
    ///
    /// - [`Error::NotLeading`]: this node does not lead, or no longer. The stream does not have the
    ///   group, and never will.
    /// - [`Error::NotWritten`], with [`NotDecided`] as the cause: the engine refused the group, for
    ///   example because the stream is full. This node goes on leading.
    /// - [`Error::OutcomeUnknown`]: the stream may have the group, or has it and the local log does
    ///   not. Later commits of this node fail with [`Error::NotLeading`] until it leads again.
    fn commit(&self, group: &Group) -> Result<()> {
        if let Some(applied) = group.applied {
            return self.keep(group, applied);
        }
        let decided = self.writer.blocking_decide(self.to_decide(group)?);
        self.settle(group, decided)
    }

    fn read(
        &self,
        topic: TopicId,
        from: Sequence,
        below: Sequence,
        max_bytes: usize,
    ) -> Result<Vec<Block>> {
        self.seen(self.local.read(topic, from, below, max_bytes))
    }

    fn read_ahead(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        before: Position,
        max_bytes: usize,
        more_bytes: usize,
    ) -> Result<ReadAhead> {
        self.seen(self.local.read_ahead(topic, sequences, before, max_bytes, more_bytes))
    }

    fn stored_blocks(
        &self,
        topic: TopicId,
        sequences: Range<Sequence>,
        max_parts: usize,
    ) -> Result<Vec<StoredBlock>> {
        self.seen(self.local.stored_blocks(topic, sequences, max_parts))
    }

    fn last_below(&self, topic: &StoredTopic, sequence: Sequence) -> Result<(Position, Timestamp)> {
        self.seen(self.local.last_below(topic, sequence))
    }

    fn seek(
        &self,
        topic: TopicId,
        seek: Seek,
        earliest: Sequence,
        tail: Sequence,
    ) -> Result<Sequence> {
        self.seen(self.local.seek(topic, seek, earliest, tail))
    }

    fn is_whole(&self, topic: TopicId, extent: &Extent) -> Result<bool> {
        self.seen(self.local.is_whole(topic, extent))
    }
}
