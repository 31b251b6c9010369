//! Appending with a fence: what is sent, in which order, and what each answer means.
//!
//! # Why
//!
//! One task sends the records in the order in which they were appended, so that several may be in
//! flight: JetStream compares the fence of each with what its stream's leader has accepted so far,
//! and the first one that it refuses makes it refuse all that were sent behind.
//!
//! There is no `Nats-Msg-Id`: one replica looks at the fence first, three look at the id first, so
//! the same second attempt would be refused by the one and acknowledged by the other.

use std::sync::Arc;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::api::{
    ApiError, ApiRefusal, MESSAGE_TOO_LARGE, OTHER_STREAM, PubAck, SEALED, WRONG_LAST_SEQUENCE,
    parse,
};
use super::connection::NatsConnection;
use super::pending::{AwaitedAnswer, NoAnswer};
use super::settings::StreamNames;
use crate::cluster::stream::{AppendError, MAX_RECORD_BYTES, StreamSequence};

/// Appends that wait for their answer at one time. Each holds up to [`MAX_RECORD_BYTES`]. Beyond
/// it, more are no faster: measured with 1 KiB records.
pub(super) const MAX_APPENDS_IN_FLIGHT: usize = 32;

/// Takes records and hands them to the task that sends them.
pub(super) struct Appends {
    connection: NatsConnection,
    names: StreamNames,
    queue: mpsc::Sender<Outgoing>,
    permits: Arc<Semaphore>,
}

/// A record on its way.
struct Outgoing {
    token: u64,
    after: StreamSequence,
    record: Bytes,
    deadline: Instant,
}

/// An append that was handed over, or why it was not.
pub(super) struct Appending {
    stream: String,
    after: StreamSequence,
    waiting: Result<(AwaitedAnswer, OwnedSemaphorePermit), String>,
    deadline: Instant,
}

impl Appends {
    /// Starts the task that sends. The task ends when this is dropped.
    pub(super) fn start(connection: NatsConnection, names: StreamNames) -> Self {
        let (queue, outgoing) = mpsc::channel(MAX_APPENDS_IN_FLIGHT);
        tokio::spawn(send_all(connection.clone(), names.clone(), outgoing));
        let permits = Arc::new(Semaphore::new(MAX_APPENDS_IN_FLIGHT));
        Self { connection, names, queue, permits }
    }

    /// Hands the record over; records are sent in the order of these calls.
    pub(super) fn append(
        &self,
        after: StreamSequence,
        record: Bytes,
        deadline: Instant,
    ) -> Appending {
        let waiting = self.hand_over(after, record, deadline);
        Appending { stream: self.names.stream.clone(), after, waiting, deadline }
    }

    fn hand_over(
        &self,
        after: StreamSequence,
        record: Bytes,
        deadline: Instant,
    ) -> Result<(AwaitedAnswer, OwnedSemaphorePermit), String> {
        if record.is_empty() {
            return Err("the record is empty".to_owned());
        }
        if record.len() > MAX_RECORD_BYTES {
            let bytes = record.len();
            return Err(format!("the record has {bytes} bytes of at most {MAX_RECORD_BYTES}"));
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            format!("{MAX_APPENDS_IN_FLIGHT} appends are in flight: wait for one of them")
        })?;
        let waiting = self.connection.wait();
        let outgoing = Outgoing { token: waiting.token(), after, record, deadline };
        let sent = self.queue.try_send(outgoing);
        sent.map_err(|_| "the task that sends records lags behind or has ended".to_owned())?;
        Ok((waiting, permit))
    }
}

impl Appending {
    /// Waits for the outcome.
    pub(super) async fn outcome(self) -> Result<StreamSequence, AppendError> {
        let (waiting, _permit) = self.waiting.map_err(AppendError::Refused)?;
        outcome(&self.stream, self.after, waiting.answer(self.deadline).await)
    }
}

/// Sends each record, in order, until the queue's end.
async fn send_all(
    connection: NatsConnection,
    names: StreamNames,
    mut queue: mpsc::Receiver<Outgoing>,
) {
    while let Some(Outgoing { token, after, record, deadline }) = queue.recv().await {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Sequence", after.get().to_string());
        headers.insert("Nats-Expected-Stream", names.stream.as_str());
        connection.send(token, names.subject.clone(), Some(headers), record, deadline).await;
    }
}

/// Returns what an answer means.
///
/// Only what the stream's leader refuses before it shows the record to its replicas is surely not
/// stored. It does not say when it refused; of some errors (no space, a store that fails) it tells
/// also after the others have stored the record.
fn outcome(
    stream: &str,
    after: StreamSequence,
    answer: Result<Message, NoAnswer>,
) -> Result<StreamSequence, AppendError> {
    let message = match answer {
        Ok(message) => message,
        Err(NoAnswer::NotSent(problem)) => return Err(AppendError::Away(problem)),
        Err(NoAnswer::Unknown(problem)) => return Err(AppendError::Unknown(problem)),
    };
    match parse::<PubAck>(&message) {
        Ok(ack) if ack.stream == stream && ack.seq == after.next().get() && !ack.duplicate => {
            Ok(after.next())
        }
        Ok(ack) => Err(AppendError::Unknown(format!(
            "acknowledged as {} of {:?}, not as {} of {stream:?}",
            ack.seq,
            ack.stream,
            after.next()
        ))),
        Err(ApiError::Refused(refusal)) => Err(refused(&refusal)),
        Err(ApiError::NoAnswer(no_answer)) => Err(AppendError::Unknown(no_answer.into_text())),
    }
}

/// Returns what a refusal of JetStream means.
fn refused(refusal: &ApiRefusal) -> AppendError {
    match refusal.err_code {
        WRONG_LAST_SEQUENCE => AppendError::Fenced,
        MESSAGE_TOO_LARGE | OTHER_STREAM | SEALED => AppendError::Refused(refusal.text()),
        _ => AppendError::Unknown(refusal.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> Result<StreamSequence, AppendError> {
        let message = Message {
            subject: "x".into(),
            reply: None,
            payload: Bytes::copy_from_slice(text.as_bytes()),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        outcome("S", StreamSequence::new(6), Ok(message))
    }

    #[test]
    fn only_the_next_sequence_of_this_stream_is_an_acknowledgement() {
        assert_eq!(answered(r#"{"stream":"S","seq":7}"#), Ok(StreamSequence::new(7)));
        for other in [
            r#"{"stream":"S","seq":8}"#,
            r#"{"stream":"T","seq":7}"#,
            r#"{"stream":"S","seq":7,"duplicate":true}"#,
            "{}",
            "",
            "[]",
        ] {
            assert!(matches!(answered(other), Err(AppendError::Unknown(_))), "{other}");
        }
    }

    #[test]
    fn what_may_have_been_shown_to_replicas_is_not_called_refused() {
        let error = |code: u64| {
            answered(&format!(
                r#"{{"error":{{"code":400,"err_code":{code},"description":"d"}},"seq":0}}"#
            ))
        };
        assert_eq!(error(10071), Err(AppendError::Fenced));
        for code in [10054, 10060, 10109] {
            assert!(matches!(error(code), Err(AppendError::Refused(_))), "{code}");
        }
        // Not available, not the leader, no resources, the store failed, one that is not known.
        for code in [10008, 10009, 10023, 10077, 19999] {
            assert!(matches!(error(code), Err(AppendError::Unknown(_))), "{code}");
        }
    }
}
