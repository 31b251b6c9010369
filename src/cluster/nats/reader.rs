//! Reading the stream in order, whatever happens to the consumer that gives the records.
//!
//! ```text
//!             silence, a hole, a lost connection
//!   consumer ------------------------------------> one by one from the stream's leader
//!            <------------------------------------
//!                     a new consumer is there
//! ```
//!
//! A consumer lives in the memory of one server, chosen by JetStream, and dies with it. It says
//! four times a second that it is there; after 0.8 s of silence it is given up. A new one must be
//! made by the cluster's own leader, and if that was lost too, only after the 4 to 9 s of an
//! election. Until then each record is asked for by its sequence. That is slower (one round trip
//! each), and needs the stream's leader alone, without which there are no new records anyway.
//!
//! What is unread is bounded by the consumer's flow control: at most 32 MiB (`consumer.go`,
//! `JsFlowControlMaxPending`) are under way to a reader that does not read.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::address::{StreamAddress, first_of};
use super::api;
use crate::cluster::stream::{StreamError, StreamFuture, StreamReader, StreamSequence};

/// How often a consumer that has nothing to give says so.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// The silence after which a consumer is given up.
const SILENCE: Duration = Duration::from_millis(800);

/// How long the making of a consumer may take; one that comes later goes by itself.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause between two attempts to make one.
const BUILD_PAUSE: Duration = Duration::from_millis(200);

/// The pause after one whose replica was behind.
const LAG_PAUSE: Duration = Duration::from_secs(1);

/// The pause before the next record is asked for again, while there is no consumer.
const GET_PAUSE: Duration = Duration::from_millis(50);

/// How long the stream's leader may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// The time without a record after which the stream's leader is asked whether there is one.
const LAG_CHECK: Duration = Duration::from_secs(2);

/// The time out of touch after which the reader gives up: an election of 9 s, and room for two
/// attempts after it.
const PATIENCE: Duration = Duration::from_secs(15);

/// The status of what a consumer says about itself.
const CONTROL: u16 = 100;

/// Attempts to get a record that the stream must have, until it is called missing.
const HOLE_ATTEMPTS: u32 = 20;

/// A reader of the fleet's stream.
pub(super) struct NatsReader {
    at: Arc<StreamAddress>,
    /// The record to give next.
    next: StreamSequence,
    source: RecordSource,
    /// When a record, or a word that there is none, came last.
    in_touch: Instant,
    /// When a record came last, or the stream's leader said that there is none.
    known: Instant,
    /// What was wrong last, for messages.
    problem: String,
    /// When the stream's leader is asked for the next record, while there is no consumer.
    look: Instant,
    /// How often in a row the next record was not there, though later ones are.
    holes: u32,
    /// An answer that the consumer's flow control waits for.
    owed: Option<String>,
}

/// Where records come from.
enum RecordSource {
    Consumer(Consumer),
    /// None is there: it is being made, or will be at that time.
    Building(Building),
    Pausing(Instant),
}

type Building = Pin<Box<dyn Future<Output = Result<Consumer, String>> + Send>>;

/// A consumer in JetStream; removed there when dropped here, as nobody listens any more.
struct Consumer {
    subscriber: Subscriber,
    heard: Instant,
}

/// What a message of the consumer is.
enum HeardMessage {
    Record(Bytes),
    /// Nothing to return; go on.
    Nothing,
    /// The consumer is of no use any more.
    Lost(String),
    /// A later record than the next one.
    Hole,
}

impl NatsReader {
    /// Starts before `next`; nothing is asked for yet.
    pub(super) fn new(at: Arc<StreamAddress>, next: StreamSequence) -> Self {
        let now = Instant::now();
        Self {
            at,
            next,
            source: RecordSource::Pausing(now),
            in_touch: now,
            known: now,
            problem: String::new(),
            look: now,
            holes: 0,
            owed: None,
        }
    }

    /// Returns the record, and goes on to the next one. Nothing is awaited between taking a record
    /// and returning it, so that none is lost when the future is dropped.
    fn give(&mut self, record: Bytes) -> (StreamSequence, Bytes) {
        let sequence = self.next;
        self.next = sequence.next();
        self.in_touch = Instant::now();
        self.known = self.in_touch;
        self.holes = 0;
        (sequence, record)
    }

    /// Gives the consumer up. Another one is made after the pause; until it is there, records are
    /// got one by one.
    fn lose(&mut self, problem: String, pause: Duration) {
        tracing::debug!(problem, sequence = self.next.get(), "consumer of the fleet's stream lost");
        self.problem = problem;
        self.owed = None;
        self.look = Instant::now();
        self.source = RecordSource::Pausing(self.look + pause);
    }

    /// Takes a step with the consumer; returns a record if one came.
    async fn step_with_consumer(&mut self) -> Result<Option<(StreamSequence, Bytes)>, StreamError> {
        if let Some(reply) = &self.owed {
            self.at.connection.tell(reply.clone(), Bytes::new()).await;
            self.owed = None;
        }
        let RecordSource::Consumer(consumer) = &mut self.source else { return Ok(None) };
        let silent = consumer.heard + SILENCE;
        // What has come is looked at before the time, so that a caller who was busy for long does
        // not lose a consumer that spoke.
        let message = match timeout_at(silent, consumer.subscriber.next()).await {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.lose("the subscription ended".to_owned(), Duration::ZERO);
                return Ok(None);
            }
            Err(_) => {
                self.lose(format!("the consumer was silent for {SILENCE:?}"), Duration::ZERO);
                return Ok(None);
            }
        };
        consumer.heard = Instant::now();
        self.in_touch = consumer.heard;
        match self.look_at(message) {
            HeardMessage::Record(record) => Ok(Some(self.give(record))),
            HeardMessage::Nothing => {
                if self.known.elapsed() > LAG_CHECK {
                    self.check_lag().await?;
                }
                Ok(None)
            }
            HeardMessage::Lost(problem) => {
                self.lose(problem, Duration::ZERO);
                Ok(None)
            }
            HeardMessage::Hole => {
                self.lose(format!("the consumer left out record {}", self.next), BUILD_PAUSE);
                Ok(None)
            }
        }
    }

    fn look_at(&mut self, message: Message) -> HeardMessage {
        if message.status.is_some_and(|status| status.as_u16() == CONTROL) {
            return self.control(&message);
        }
        if let Some(status) = message.status.filter(|status| *status != StatusCode::OK) {
            return HeardMessage::Lost(format!("the consumer says {status}"));
        }
        let reply = message.reply.as_deref().unwrap_or_default();
        match stream_sequence(reply) {
            Some(sequence) if sequence == self.next => HeardMessage::Record(message.payload),
            // A consumer on a replica that is behind begins before the wanted record.
            Some(sequence) if sequence < self.next => HeardMessage::Nothing,
            Some(_) => HeardMessage::Hole,
            None => HeardMessage::Lost(format!(
                "the consumer gives a message without sequence: {reply}"
            )),
        }
    }

    /// Reads what the consumer says about itself: that it is there, or that it waits for an answer.
    fn control(&mut self, message: &Message) -> HeardMessage {
        let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str());
        if let Some(reply) = message.reply.as_deref().or_else(|| header("Nats-Consumer-Stalled")) {
            self.owed = Some(reply.to_owned());
        }
        let last = header("Nats-Last-Stream").and_then(|last| last.parse::<u64>().ok());
        // It gave a record that never came, and will not give it again.
        match last.filter(|last| *last >= self.next.get()) {
            Some(last) => {
                HeardMessage::Lost(format!("the consumer gave {last}, which did not come"))
            }
            None => HeardMessage::Nothing,
        }
    }

    /// Asks the stream's leader whether the consumer should have given something by now.
    async fn check_lag(&mut self) -> Result<(), StreamError> {
        match self.at.info(ASK_TIMEOUT).await {
            Ok(info) => {
                self.known = Instant::now();
                if info.state.last_seq >= self.next.get() {
                    // It is on a replica that is behind, and so may be another one at once.
                    self.lose("the consumer lags behind the stream".to_owned(), LAG_PAUSE);
                }
                Ok(())
            }
            Err(StreamError::Away(_)) => Ok(()), // Nobody knows, and the consumer is there.
            Err(error) => Err(error),
        }
    }

    /// Takes a step without consumer: has one made, and asks for the next record in the meantime.
    async fn step_without_consumer(
        &mut self,
    ) -> Result<Option<(StreamSequence, Bytes)>, StreamError> {
        if self.in_touch.elapsed() > PATIENCE {
            return Err(StreamError::Away(self.problem.clone()));
        }
        if matches!(self.source, RecordSource::Pausing(until) if until <= Instant::now()) {
            self.source = RecordSource::Building(Box::pin(build(Arc::clone(&self.at), self.next)));
        }
        let look = self.look;
        let at = Arc::clone(&self.at);
        let next = self.next;
        let source = &mut self.source;
        tokio::select! {
            biased;
            built = built(source) => {
                match built {
                    Ok(consumer) => {
                        self.in_touch = Instant::now();
                        self.source = RecordSource::Consumer(consumer);
                    }
                    Err(problem) => {
                        self.problem = problem;
                        self.source = RecordSource::Pausing(Instant::now() + BUILD_PAUSE);
                    }
                }
                Ok(None)
            }
            got = get_after(&at, next, look) => self.got(got).await,
        }
    }

    async fn got(
        &mut self,
        got: Result<Option<Bytes>, StreamError>,
    ) -> Result<Option<(StreamSequence, Bytes)>, StreamError> {
        match got {
            Ok(Some(record)) => return Ok(Some(self.give(record))),
            Ok(None) => {
                self.in_touch = Instant::now();
                self.look = self.in_touch + GET_PAUSE;
            }
            Err(error) => {
                self.problem = error.to_string();
                self.look = Instant::now() + GET_PAUSE;
                return Ok(None);
            }
        }
        // It is not there: not yet, not any more, or it is missing.
        match self.at.info(ASK_TIMEOUT).await {
            Ok(info) if first_of(&info) > self.next => {
                Err(StreamError::Trimmed { first: first_of(&info) })
            }
            Ok(info) if info.state.last_seq > self.next.get() => {
                self.holes += 1;
                if self.holes < HOLE_ATTEMPTS {
                    return Ok(None);
                }
                let (next, last) = (self.next, info.state.last_seq);
                Err(StreamError::Broken(format!("record {next} is missing, the last is {last}")))
            }
            Ok(_) | Err(StreamError::Away(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Waits for the consumer that is being made; for ever, if none is.
async fn built(source: &mut RecordSource) -> Result<Consumer, String> {
    match source {
        RecordSource::Building(building) => building.await,
        RecordSource::Consumer(_) | RecordSource::Pausing(_) => std::future::pending().await,
    }
}

/// Asks for a record at that time.
async fn get_after(
    at: &StreamAddress,
    sequence: StreamSequence,
    look: Instant,
) -> Result<Option<Bytes>, StreamError> {
    sleep_until(look).await;
    at.get(sequence, ASK_TIMEOUT).await
}

/// Makes a consumer that begins at `from`.
async fn build(at: Arc<StreamAddress>, from: StreamSequence) -> Result<Consumer, String> {
    at.connection.connected(Instant::now() + BUILD_TIMEOUT).await?;
    let (inbox, subscriber) = at.connection.subscribe().await?;
    let stream = &at.names.stream;
    // The inbox ends with an id of its own, which makes a good name.
    let name = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
    let body: Value = api::consumer(stream, &name, &inbox, from.get(), HEARTBEAT);
    let what = format!("CONSUMER.CREATE.{stream}.{name}");
    let made = api::call::<IgnoredAny>(&at.connection, what, &body, BUILD_TIMEOUT).await;
    made.map_err(|error| error.into_text())?;
    Ok(Consumer { subscriber, heard: Instant::now() })
}

/// Returns the sequence in the stream out of a message's reply subject: `$JS.ACK`, stream,
/// consumer, deliveries, **sequence in the stream**, sequence of the consumer, time, pending. Newer
/// servers may have two more parts before the stream, and one behind.
fn stream_sequence(reply: &str) -> Option<StreamSequence> {
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let parts: Vec<&str> = rest.split('.').collect();
    let place = match parts.len() {
        7 => 3,
        9.. => 5,
        _ => return None,
    };
    parts[place].parse().ok().map(StreamSequence::new)
}

impl StreamReader for NatsReader {
    fn next(&mut self) -> StreamFuture<'_, Result<(StreamSequence, Bytes), StreamError>> {
        Box::pin(async {
            loop {
                let record = match self.source {
                    RecordSource::Consumer(_) => self.step_with_consumer().await?,
                    RecordSource::Building(_) | RecordSource::Pausing(_) => {
                        self.step_without_consumer().await?
                    }
                };
                if let Some(record) = record {
                    return Ok(record);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_read_from_both_forms_of_the_reply() {
        let sequence = |reply| stream_sequence(reply).map(StreamSequence::get);
        assert_eq!(sequence("$JS.ACK.S.C.1.42.7.1700000000.3"), Some(42));
        assert_eq!(sequence("$JS.ACK.hub.ACC.S.C.1.42.7.1700000000.3"), Some(42));
        assert_eq!(sequence("$JS.ACK.hub.ACC.S.C.1.42.7.1700000000.3.x"), Some(42));
        for other in ["", "$JS.ACK.S.C.1", "_INBOX.x", "$JS.ACK.S.C.1.x.7.8.9"] {
            assert_eq!(sequence(other), None, "{other}");
        }
    }
}
