//! What the leader answers to the other nodes of its fleet.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Consumers;
use super::deciding::Act;
use super::to_leader::{ChangeAnswers, ChangeForm, LeaderRequest, request_of};
use crate::error::{Error, Result};

impl Consumers {
    /// Answers the request of another node, which believes that this one leads.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`], [`Error::Invalid`]: nothing was done.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, what is asked for may be done all the same.
    pub(crate) async fn answer(&self, request: Bytes) -> Result<Bytes> {
        if !self.0.work.leads() {
            return Err(Error::NotLeading); // Or the keeper has not noticed yet.
        }
        match request_of(&request)? {
            LeaderRequest::Change(changes) => self.answer_changes(changes).await,
            LeaderRequest::Work(id, request) => self.work(&id.into()).answer(request).await,
        }
    }

    /// Has the keeper decide on commands in their order.
    async fn answer_changes(&self, changes: Vec<ChangeForm>) -> Result<Bytes> {
        let mut queued = Vec::with_capacity(changes.len());
        for change in changes {
            queued.push(match change.parts() {
                Ok((id, act, changeable)) => {
                    let bytes = match &act {
                        Act::Put { settings, .. } => settings.size_bytes(),
                        Act::Mark(marking) => marking.size_bytes(),
                        _ => 0,
                    };
                    self.queue(id, act, (changeable, true), bytes).await
                }
                Err(error) => Err(error),
            });
        }
        let mut answers = Vec::with_capacity(queued.len());
        for command in queued {
            answers.push(match command {
                Ok(answered) => {
                    let outcome = answered.await.unwrap_or(Err(Error::ShuttingDown));
                    outcome.map(|outcome| outcome.changed)
                }
                Err(error) => Err(error),
            });
        }
        let reached = self.0.reached.load(Ordering::Acquire);
        ChangeAnswers { reached, answers }.to_bytes()
    }
}
