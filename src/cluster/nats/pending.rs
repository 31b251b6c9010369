//! Who waits for which answer of NATS.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Message, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It was not sent to anybody, for sure.
    NotSent(String),
    /// It may have been received.
    Unknown(String),
}

impl NoAnswer {
    /// Returns why, without whether it was sent.
    pub(super) fn into_text(self) -> String {
        let (Self::NotSent(text) | Self::Unknown(text)) = self;
        text
    }
}

/// Those who wait for an answer, by the token in its subject.
#[derive(Default)]
pub(super) struct PendingAnswers {
    waiting: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    next: u64,
    by_token: HashMap<u64, Waiter>,
}

struct Waiter {
    /// Whether the message was handed to the client.
    sent: bool,
    sender: oneshot::Sender<Result<Message, NoAnswer>>,
}

impl PendingAnswers {
    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, sender: oneshot::Sender<Result<Message, NoAnswer>>) -> u64 {
        let mut waiting = self.lock();
        waiting.next += 1;
        let token = waiting.next;
        waiting.by_token.insert(token, Waiter { sent: false, sender });
        token
    }

    /// Notes that the message is sent now. Returns false if nobody waits for its answer any more.
    pub(super) fn mark_sent(&self, token: u64) -> bool {
        match self.lock().by_token.get_mut(&token) {
            Some(waiter) => {
                waiter.sent = true;
                true
            }
            None => false,
        }
    }

    /// Hands the answer to the one who waits for it, if somebody does.
    pub(super) fn answer(&self, token: u64, message: Message) {
        if let Some(waiter) = self.lock().by_token.remove(&token) {
            let _gave_up = waiter.sender.send(Ok(message));
        }
    }

    /// Answers that the message was not sent.
    pub(super) fn refuse(&self, token: u64, problem: String) {
        if let Some(waiter) = self.lock().by_token.remove(&token) {
            let _gave_up = waiter.sender.send(Err(NoAnswer::NotSent(problem)));
        }
    }

    /// Answers all whose messages were sent that the connection was lost. The others still wait
    /// for a connection.
    pub(super) fn lose_all(&self) {
        let lost = self.lock().by_token.extract_if(|_, waiter| waiter.sent).collect::<Vec<_>>();
        for (_, waiter) in lost {
            let problem = "the connection to NATS was lost before the answer".to_owned();
            let _gave_up = waiter.sender.send(Err(NoAnswer::Unknown(problem)));
        }
    }

    /// Forgets the one who waits. Returns whether the message was sent.
    fn give_up(&self, token: u64) -> bool {
        self.lock().by_token.remove(&token).is_some_and(|waiter| waiter.sent)
    }
}

/// One who waits for an answer; forgotten when dropped.
pub(super) struct AwaitedAnswer {
    pending: Arc<PendingAnswers>,
    token: u64,
    answer: oneshot::Receiver<Result<Message, NoAnswer>>,
}

impl AwaitedAnswer {
    /// Registers one who waits.
    pub(super) fn register(pending: &Arc<PendingAnswers>) -> Self {
        let (sender, answer) = oneshot::channel();
        let token = pending.add(sender);
        Self { pending: Arc::clone(pending), token, answer }
    }

    /// Returns what the answer's subject ends with.
    pub(super) fn token(&self) -> u64 {
        self.token
    }

    /// Waits for the answer.
    pub(super) async fn answer(mut self, deadline: Instant) -> Result<Message, NoAnswer> {
        let message = match timeout_at(deadline, &mut self.answer).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) | Err(_) => {
                if self.pending.give_up(self.token) {
                    return Err(NoAnswer::Unknown("NATS has not answered in time".to_owned()));
                }
                // An answer that came in this very moment is there.
                match self.answer.try_recv() {
                    Ok(answer) => answer?,
                    Err(_) => return Err(NoAnswer::NotSent("no connection to NATS".to_owned())),
                }
            }
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            // The server sends this instead of delivering the message to anybody.
            let problem = "nobody answers for the stream: it has no leader, or is not there";
            return Err(NoAnswer::NotSent(problem.to_owned()));
        }
        Ok(message)
    }
}

impl Drop for AwaitedAnswer {
    fn drop(&mut self) {
        self.pending.give_up(self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_nobody_waits_for_is_not_sent() {
        let pending = PendingAnswers::default();
        let (sender, _receiver) = oneshot::channel();
        let token = pending.add(sender);
        assert!(!pending.give_up(token), "nothing was sent");
        assert!(!pending.mark_sent(token));
    }
}
