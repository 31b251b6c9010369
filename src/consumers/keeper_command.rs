//! A command to the keeper, and its outcome.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::deciding::{Act, Changeable};
use super::entry::ConsumerEntry;
use super::id::ConsumerId;
use crate::error::{Error, Result};

/// The bytes that a command takes in the queue besides its texts.
pub(super) const COMMAND_BYTES: usize = 512;

/// A command that waits for its decision.
#[derive(Debug)]
pub(super) struct KeeperCommand {
    pub(super) id: ConsumerId,
    pub(super) act: Act,
    pub(super) changeable: Changeable,
    /// Whether another node has sent the command here, because this one leads. It is not sent on.
    pub(super) is_of_another_node: bool,
    /// The time at which the command was queued.
    pub(super) queued: Instant,
    pub(super) answer: oneshot::Sender<Result<KeeperOutcome>>,
    /// The room that the command takes in the queue.
    pub(super) space: OwnedSemaphorePermit,
}

/// What became of a command: durable.
#[derive(Debug, Clone)]
pub(super) struct KeeperOutcome {
    /// The consumer after the command; `None` if it does not exist.
    pub(super) entry: Option<Arc<ConsumerEntry>>,
    /// Whether the command changed something.
    pub(super) changed: bool,
}

impl KeeperCommand {
    /// Answers the command: `changed` says whether it changed something, and `entry` returns the
    /// consumer after it.
    pub(super) fn answer(
        self,
        changed: Result<bool>,
        entry: impl FnOnce() -> Option<Arc<ConsumerEntry>>,
    ) {
        let outcome = changed.map(|changed| KeeperOutcome { entry: entry(), changed });
        let _gone = self.answer.send(outcome);
    }

    /// Answers the command with an error.
    pub(super) fn refuse(self, error: Error) {
        let _gone = self.answer.send(Err(error));
    }
}
