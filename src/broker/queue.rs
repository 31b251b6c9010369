//! The committer's queue: commands, each with its topic, the channel for its outcome, and its share
//! of the queue.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::busy::Busy;
use super::command::{Append, Change, RecalledIds, Work};
use super::leadership::{LeadTerm, Leadership};
use super::publish::PublishTurn;
use super::report::{Ack, Done, LogReached};
use super::topic::entry::Topic;
use super::topic::topics::TopicRef;
use crate::error::Result;
use crate::log::Group;

/// The bytes of the queue that a command takes besides its events.
pub(super) const COMMAND_BYTES: usize = 512;

/// A command in the queue, with the handles that it needs there.
#[derive(Debug)]
pub(super) enum Queued {
    /// Store events.
    Publish(QueuedPublish),
    /// Create a topic, change its settings, or delete it.
    Change(QueuedChange),
    /// Trim a topic, remove trimmed blocks, or replace blocks by merged ones.
    Step(QueuedStep),
    /// Remember ids from before the start in the window.
    Recall { topic: Arc<Topic>, recalled: RecalledIds, reply: oneshot::Sender<()> },
    /// Reply when all commands before this one are done.
    Barrier { reply: oneshot::Sender<LogReached> },
    /// Write a group that another node of the fleet has decided.
    Apply { group: Box<Group>, reply: oneshot::Sender<Result<()>> },
    /// Decide what is written from here on, or have another node decide.
    Lead { leadership: Leadership, reply: oneshot::Sender<()> },
    /// Answer the commands that are queued already, then end.
    Stop,
}

/// The committer's end of the queue.
#[derive(Debug)]
pub(crate) struct CommandReceiver {
    received: mpsc::Receiver<Queued>,
    /// The number of commands that were taken out, and are not known to be done.
    taken: usize,
    busy: Busy,
}

impl CommandReceiver {
    pub(super) fn new(received: mpsc::Receiver<Queued>, busy: Busy) -> Self {
        Self { received, taken: 0, busy }
    }

    /// Waits for a command; `None` when every handle is gone, or when the queue is closed and
    /// empty. All commands before it are done.
    pub(super) fn blocking_recv(&mut self) -> Option<Queued> {
        self.busy.end(std::mem::take(&mut self.taken));
        let next = self.received.blocking_recv();
        self.taken += usize::from(next.is_some());
        next
    }

    /// Takes out a command, if there is one.
    pub(super) fn try_recv(&mut self) -> Result<Queued, TryRecvError> {
        self.received.try_recv().inspect(|_taken| self.taken += 1)
    }

    /// Returns the number of commands that wait.
    pub(super) fn len(&self) -> usize {
        self.received.len()
    }

    /// Takes no more commands into the queue.
    pub(super) fn close(&mut self) {
        self.received.close();
    }
}

impl Drop for CommandReceiver {
    fn drop(&mut self) {
        self.received.close();
        while self.try_recv().is_ok() {}
        self.busy.end(self.taken);
    }
}

/// Who asks for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedBy {
    /// A caller of this broker. If another node leads, the command is for that one.
    Caller,
    /// Another node of the fleet, which takes this one for the leader. If it is none, the command
    /// is refused, so that no command goes in circles.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "the nodes of a fleet use it"))]
    Node,
    /// A part of this broker, which has decided it while this node led in a term. It is stored in
    /// that term, or not at all.
    Leader(LeadTerm),
}

/// A publish in the queue. All its events are stored, or none.
#[derive(Debug)]
pub(super) struct QueuedPublish {
    /// The events, by topic; at least one entry. A topic may stand in several entries.
    pub(super) appends: Vec<(TopicRef, Append)>,
    pub(super) asked_by: AskedBy,
    /// Whether nobody knows what became of an earlier attempt to store it.
    pub(super) may_be_stored: bool,
    /// When it was left to another node first.
    pub(super) left: Option<Instant>,
    /// The place of the publish in its publisher's order.
    pub(super) turn: PublishTurn,
    /// The channel for the acknowledgements, one for each entry.
    pub(super) reply: oneshot::Sender<Result<Vec<Ack>>>,
    /// The share of the queue, which is given back when the publish is answered.
    pub(super) _space: OwnedSemaphorePermit,
}

/// A change of a topic in the queue.
#[derive(Debug)]
pub(super) struct QueuedChange {
    pub(super) topic: TopicRef,
    pub(super) change: Change,
    pub(super) asked_by: AskedBy,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

/// A step of maintenance in the queue.
#[derive(Debug)]
pub(super) struct QueuedStep {
    pub(super) topic: Arc<Topic>,
    pub(super) work: Work,
    pub(super) asked_by: AskedBy,
    pub(super) reply: oneshot::Sender<Result<Done>>,
}
