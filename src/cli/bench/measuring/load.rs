//! Clients that publish as fast as their events are acknowledged, and the measured rates.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent, PublishRequest, PublishStreamRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::latency::latency_histogram;
use crate::cli::client::{ServerClient, failed};
use crate::cli::failure::{CliError, CliResult, ExitReason};

/// The result of a run.
pub(in crate::cli::bench) struct Measured {
    pub(in crate::cli::bench) events: u64,
    pub(in crate::cli::bench) elapsed: Duration,
    pub(in crate::cli::bench) latency_us: Histogram<u64>,
}

impl Measured {
    pub(in crate::cli::bench) fn new() -> CliResult<Self> {
        Ok(Self { events: 0, elapsed: Duration::ZERO, latency_us: latency_histogram()? })
    }

    pub(in crate::cli::bench) fn count(&mut self, sent: Instant, events: u64) {
        self.latency_us.saturating_record(sent.elapsed().as_micros() as u64);
        self.events += events;
    }

    pub(in crate::cli::bench) fn add(&mut self, other: &Self) -> CliResult {
        self.events += other.events;
        self.elapsed = self.elapsed.max(other.elapsed);
        let added = self.latency_us.add(&other.latency_us);
        added.map_err(|error| CliError::new(ExitReason::Other, error.to_string()))
    }

    pub(in crate::cli::bench) fn events_per_second(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// One client's work.
pub(in crate::cli::bench) struct Load {
    pub(in crate::cli::bench) client: ServerClient,
    pub(in crate::cli::bench) topic: String,
    pub(in crate::cli::bench) events: Vec<NewEvent>,
    pub(in crate::cli::bench) in_flight: usize,
    pub(in crate::cli::bench) until: Instant,
}

impl Load {
    pub(in crate::cli::bench) async fn stream(mut self) -> CliResult<Measured> {
        let mut measured = Measured::new()?;
        let count = self.events.len() as u64;
        let (requests, sent) = mpsc::channel(self.in_flight);
        let request = PublishStreamRequest {
            topic: self.topic,
            events: self.events,
            expected_sequence: None,
            in_order: false,
            topics: Vec::new(),
        };
        let started = Instant::now();
        let mut sent_at = VecDeque::new();
        for _ in 0..self.in_flight {
            sent_at.push_back(Instant::now());
            let _closed_is_seen_below = requests.send(request.clone()).await;
        }
        let responses = self.client.publisher.publish_stream(ReceiverStream::new(sent)).await;
        let mut responses = responses.map_err(|status| failed(&status))?.into_inner();
        while let Some(sent) = sent_at.pop_front() {
            let response = responses.message().await.map_err(|status| failed(&status))?;
            match response.and_then(|response| response.outcome) {
                Some(Outcome::Ack(_) | Outcome::Acks(_)) => measured.count(sent, count),
                Some(Outcome::Error(error)) => {
                    return Err(CliError::new(ExitReason::Refused, error.message));
                }
                None => return Err(CliError::new(ExitReason::Unreachable, "the stream ended")),
            }
            if Instant::now() < self.until {
                sent_at.push_back(Instant::now());
                let _closed_is_seen_above = requests.send(request.clone()).await;
            }
        }
        measured.elapsed = started.elapsed();
        Ok(measured)
    }

    pub(in crate::cli::bench) async fn unary(mut self) -> CliResult<Measured> {
        let mut measured = Measured::new()?;
        let count = self.events.len() as u64;
        let request = PublishRequest {
            topic: self.topic,
            events: self.events,
            expected_sequence: None,
            ephemeral: false,
            topics: Vec::new(),
        };
        let started = Instant::now();
        while Instant::now() < self.until {
            let sent = Instant::now();
            self.client
                .publisher
                .publish(request.clone())
                .await
                .map_err(|status| failed(&status))?;
            measured.count(sent, count);
        }
        measured.elapsed = started.elapsed();
        Ok(measured)
    }
}
