//! The way of commands into the keeper's queue, and of their outcomes back.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Consumers;
use super::deciding::{Act, Changeable};
use super::id::ConsumerId;
use super::keeper_command::{COMMAND_BYTES, KeeperCommand, KeeperOutcome};
use super::line::ChangeTurn;
use super::marking::Marking;
use crate::error::{Error, Result};

impl Consumers {
    pub(super) async fn ask_mark(
        &self,
        id: &ConsumerId,
        marking: Marking,
        turn: ChangeTurn<'_>,
    ) -> Result<KeeperOutcome> {
        let bytes = marking.size_bytes();
        self.ask(id, Act::Mark(Box::new(marking)), bytes, turn).await
    }

    /// Has the keeper decide on a command, and returns its outcome when it is durable. The turn
    /// ends when the command is queued, and that of a change of settings, which others read, when
    /// it is answered.
    pub(super) async fn ask(
        &self,
        id: &ConsumerId,
        act: Act,
        bytes: usize,
        mut turn: ChangeTurn<'_>,
    ) -> Result<KeeperOutcome> {
        id.check()?;
        // One that an earlier version let somebody else make can be deleted.
        if self.1 != Changeable::OfWebhooks && !matches!(act, Act::Delete) {
            id.name.check_of_no_webhook()?;
        }
        let is_of_settings = !matches!(act, Act::Checkpoint { .. } | Act::Mark(_));
        let answered = self.queue(id.clone(), act, (self.1, false), bytes).await?;
        let _unanswered = turn.queued();
        let _held = is_of_settings.then_some(turn);
        answered.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Puts a command into the keeper's queue: one of a caller who may change what is `changeable`,
    /// here or on another node.
    pub(super) async fn queue(
        &self,
        id: ConsumerId,
        act: Act,
        (changeable, is_of_another_node): (Changeable, bool),
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<KeeperOutcome>>> {
        let parts = &self.0;
        let bytes = (COMMAND_BYTES + bytes).min(parts.config.max_queue_bytes);
        let wait_ms = parts.config.max_queue_wait_ms;
        let (answer, answered) = oneshot::channel();
        let enter = async {
            let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
            let space = parts.space.clone().acquire_many_owned(permits).await;
            let space = space.map_err(|_closed| Error::ShuttingDown)?;
            let queued = Instant::now();
            let command =
                KeeperCommand { id, act, changeable, is_of_another_node, queued, answer, space };
            parts.commands.send(command).await.map_err(|_ended| Error::ShuttingDown)
        };
        let entered = tokio::time::timeout(Duration::from_millis(wait_ms), enter).await;
        entered.unwrap_or(Err(Error::Busy { waited_ms: wait_ms }))?;
        Ok(answered)
    }
}
