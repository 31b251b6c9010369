//! Publishing of numbered events that contain the time of their publish: all at once, or at a rate.

use std::time::Duration;

use bytes::Bytes;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent, PublishRequest, PublishStreamRequest};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::latency::wall_ns;
use crate::cli::client::{ServerClient, failed};
use crate::cli::failure::{CliError, CliResult, ExitReason};

/// The smallest payload: a time and a number, with a space after each.
pub(in crate::cli::bench) const MIN_PAYLOAD_BYTES: u64 = 42;

/// The most events and bytes of one request, well within a broker's default limits.
const MAX_REQUEST_EVENTS: u64 = 1_000;
const MAX_REQUEST_BYTES: u64 = 1 << 20;

/// Requests that wait for their acknowledgement.
const MAX_IN_FLIGHT: usize = 64;

/// The time to wait for the last published events, beyond the time that was asked for.
pub(in crate::cli::bench) const GRACE: Duration = Duration::from_secs(10);

/// Events to publish, and their rate.
#[derive(Debug, Clone)]
pub(in crate::cli::bench) struct PacedLoad {
    pub(in crate::cli::bench) topic: String,
    /// Events per second.
    pub(in crate::cli::bench) rate: u64,
    /// Bytes of one payload, at least [`MIN_PAYLOAD_BYTES`].
    pub(in crate::cli::bench) size: u64,
    /// Events in all.
    pub(in crate::cli::bench) events: u64,
}

/// The events that were acknowledged, and the time they took.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli::bench) struct Published {
    pub(in crate::cli::bench) events: u64,
    pub(in crate::cli::bench) elapsed: Duration,
}

impl PacedLoad {
    /// Publishes at the rate until all events are acknowledged. After `stop`, no more events are
    /// sent, and those that were sent are waited for. Events that are late are sent together.
    pub(in crate::cli::bench) async fn publish(
        self,
        mut client: ServerClient,
        stop: CancellationToken,
    ) -> CliResult<Published> {
        let (requests, sent) = mpsc::channel(MAX_IN_FLIGHT);
        let started = Instant::now();
        let answers = async {
            let responses = client.publisher.publish_stream(ReceiverStream::new(sent)).await;
            let mut responses = responses.map_err(|status| failed(&status))?.into_inner();
            while let Some(response) = responses.message().await.map_err(|s| failed(&s))? {
                if let Some(Outcome::Error(error)) = response.outcome {
                    return Err(CliError::new(ExitReason::Refused, error.message));
                }
            }
            Ok(())
        };
        let (events, ()) = tokio::try_join!(self.send(requests, started, stop), answers)?;
        Ok(Published { events, elapsed: started.elapsed() })
    }

    async fn send(
        &self,
        requests: mpsc::Sender<PublishStreamRequest>,
        started: Instant,
        stop: CancellationToken,
    ) -> CliResult<u64> {
        let mut sent = 0;
        while sent < self.events {
            let at = started + Duration::from_secs_f64(sent as f64 / self.rate as f64);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(at) => {}
            }
            // The event that was waited for, and those that became due in the meantime.
            let due = (started.elapsed().as_secs_f64() * self.rate as f64) as u64 + 1;
            let end = due.min(self.events).clamp(sent + 1, sent + max_events(self.size));
            let events = (sent..end).map(|number| event(number, self.size)).collect();
            let topic = self.topic.clone();
            let request = PublishStreamRequest {
                topic,
                events,
                expected_sequence: None,
                in_order: false,
                topics: Vec::new(),
            };
            let is_sent = tokio::select! {
                sent = requests.send(request) => sent.is_ok(),
                () = stop.cancelled() => false,
            };
            if !is_sent {
                break;
            }
            sent = end;
        }
        Ok(sent)
    }
}

/// Publishes this number of events as fast as possible.
pub(in crate::cli::bench) async fn publish_all(
    client: &mut ServerClient,
    topic: &str,
    events: u64,
    size: u64,
) -> CliResult {
    let mut published = 0;
    while published < events {
        let end = events.min(published + max_events(size));
        let batch = (published..end).map(|number| event(number, size)).collect();
        let request = PublishRequest {
            topic: topic.to_owned(),
            events: batch,
            expected_sequence: None,
            ephemeral: false,
            topics: Vec::new(),
        };
        client.publisher.publish(request).await.map_err(|status| failed(&status))?;
        published = end;
    }
    Ok(())
}

fn max_events(size: u64) -> u64 {
    (MAX_REQUEST_BYTES / size).clamp(1, MAX_REQUEST_EVENTS)
}

fn event(number: u64, size: u64) -> NewEvent {
    let mut payload = format!("{} {number} ", wall_ns()).into_bytes();
    payload.resize(size as usize, b'x');
    NewEvent { payload: Bytes::from(payload), ..NewEvent::default() }
}

/// Returns the name of a topic that no other run uses.
pub(in crate::cli::bench) fn fresh_topic(purpose: &str) -> String {
    format!("bench.{purpose}.{}", wall_ns())
}
