//! A body of NDJSON that is posted: its events are handed in batch by batch as they arrive.

use std::collections::VecDeque;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde_json::json;

use super::effort::Effort;
use super::http::{Edge, body_error};
use super::json::ReceiptJson;
use super::ndjson::Line;
use super::pace::Pace;
use super::rates::{CallerRates, Rate};
use super::receiving::{self, Received};
use super::status;
use crate::broker::{Ack, Batch, Broker, InOrder, LimitsConfig, Pending, Publish};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::polls;
use crate::topic::TopicName;

/// What a line may take besides its payload: base64, names, headers.
const LINE_SLACK_BYTES: u64 = 64 << 10;

/// The longest line that is taken.
pub(super) fn max_line_bytes(limits: &LimitsConfig) -> u64 {
    2 * limits.max_payload_bytes + LINE_SLACK_BYTES
}

/// Publishes the events of `body`.
///
/// Where it fails, the lines before that are stored and none after it, and the answer says how many
/// and which line is the first that is not.
///
/// # Errors
///
/// [`Error::Invalid`] if there is no event in it.
pub(super) async fn publish(
    edge: &Edge,
    topic: TopicName,
    body: Body,
    (received, rates): (Option<Received>, CallerRates),
) -> Result<Response> {
    let mut lines = Lines {
        broker: &edge.broker,
        received: received.unwrap_or_default(),
        rates,
        topic,
        unsent: Unsent::default(),
        in_flight: VecDeque::new(),
        order: InOrder::default(),
        max_in_flight: edge.config.max_in_flight.max(1) as usize,
        pace: edge.pace(),
        number: 0,
        total: Total::default(),
    };
    let outcome = lines.publish(body).await;
    let Total { count, duplicates, first, last } = lines.total;
    if let Err(Failed { line, error }) = outcome {
        return Ok(status::problem(
            &error,
            [("line", json!(line)), ("stored_events", json!(count))],
        ));
    }
    let Some((first, last)) = first.zip(last) else {
        return Err(Error::invalid("body", "holds no event"));
    };
    let answer = json!({"first": first, "last": last, "count": count, "duplicates": duplicates});
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}

/// The event of a line of a body that is posted to `topic`.
fn event(line: &[u8], topic: &TopicName) -> Result<NewEvent> {
    let line = Line::parse(line)?;
    if line.topic.as_ref().is_some_and(|named| named != topic) {
        let problem = format!("the line names another one than the path, {topic:?}");
        return Err(Error::invalid("topic", problem));
    }
    Ok(line.event)
}

struct Lines<'a> {
    broker: &'a Broker,
    /// What was received and not handed in yet.
    received: Received,
    /// What the publisher has left.
    rates: CallerRates,
    topic: TopicName,
    unsent: Unsent,
    /// The batches that wait for their answer, each with its first line.
    in_flight: VecDeque<(u64, Pending)>,
    /// Nothing is stored after what was refused.
    order: InOrder,
    max_in_flight: usize,
    /// How slowly a line may come in.
    pace: Pace,
    /// The line that is read, from 1.
    number: u64,
    total: Total,
}

/// Events that are not handed in yet.
#[derive(Default)]
struct Unsent {
    events: Batch,
    size_bytes: usize,
    first_line: u64,
}

/// The first line that is not stored, and why.
struct Failed {
    line: u64,
    error: Error,
}

/// What was acknowledged so far.
#[derive(Debug, Default)]
struct Total {
    count: usize,
    duplicates: usize,
    first: Option<ReceiptJson>,
    last: Option<ReceiptJson>,
}

impl Total {
    fn add(&mut self, ack: &Ack) {
        self.count += ack.count;
        self.duplicates += ack.duplicates.len();
        self.first.get_or_insert_with(|| ReceiptJson::of(ack, 0));
        self.last = Some(ReceiptJson::of(ack, ack.count - 1));
    }
}

impl Lines<'_> {
    async fn publish(&mut self, body: Body) -> Result<(), Failed> {
        let read = self.read(body).await;
        // What stands before a bad line is whole, and is stored. A batch that failed is earlier
        // than the line that was read last, and nothing is handed in after it.
        let is_refused = read.as_ref().is_err_and(|failed| failed.line < self.number);
        let flushed = if is_refused { Ok(()) } else { self.flush().await };
        let settled = self.settle_all().await;
        let outcomes = [read, flushed, settled];
        let failures = outcomes.into_iter().filter_map(Result::err);
        failures.min_by_key(|failed| failed.line).map_or(Ok(()), Err)
    }

    /// Reads the lines, and hands in what is whole.
    async fn read(&mut self, body: Body) -> Result<(), Failed> {
        let max_line_bytes = max_line_bytes(self.broker.limits());
        let mut unread = BytesMut::new();
        let mut chunks = body.into_data_stream();
        loop {
            let next = tokio::select! {
                next = self.pace.next(&mut chunks) => next,
                () = self.broker.draining() => {
                    return Err(self.failed(self.number + 1, Error::ShuttingDown));
                }
            };
            let next = next.map_err(|error| self.failed(self.number + 1, error))?;
            let Some(chunk) = next else { break };
            let mut searched = unread.len(); // There is no line end in what was there before.
            let chunk = chunk.map_err(|error| self.failed(self.number + 1, body_error(error)))?;
            unread.extend_from_slice(&chunk);
            while let Some(end) = unread[searched..].iter().position(|byte| *byte == b'\n') {
                let line = unread.split_to(searched + end + 1);
                searched = 0;
                self.push(line.freeze()).await?;
                self.pace.restart(unread.len());
                polls::rest().await;
            }
            if unread.len() as u64 > max_line_bytes {
                let error = Error::over("line bytes", unread.len(), max_line_bytes as usize);
                return Err(self.failed(self.number + 1, error));
            }
            self.flush().await?; // What has arrived does not wait for what has not.
            self.received.keep(unread.len());
        }
        self.push(unread.freeze()).await
    }

    fn failed(&mut self, line: u64, error: Error) -> Failed {
        self.number = self.number.max(line);
        Failed { line, error }
    }

    async fn push(&mut self, line: Bytes) -> Result<(), Failed> {
        self.number += 1;
        let number = self.number;
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let limits = self.broker.limits();
        let size_bytes = line.len(); // At least what its record takes, but for a few bytes.
        let is_full = self.unsent.events.len() as u64 >= limits.max_batch_events
            || (self.unsent.size_bytes + size_bytes) as u64 > limits.max_batch_bytes / 2;
        if is_full {
            self.flush().await?;
        }
        self.add(line).await.map_err(|error| Failed { line: number, error })?;
        if self.unsent.events.len() == 1 {
            self.unsent.first_line = number;
        }
        self.unsent.size_bytes += size_bytes;
        Ok(())
    }

    /// Adds the event of a line to those that are not handed in yet.
    async fn add(&mut self, line: Bytes) -> Result<()> {
        let (broker, topic, rates) = (self.broker.clone(), self.topic.clone(), self.rates.clone());
        let (mut events, effort) =
            (std::mem::take(&mut self.unsent.events), Effort::of_json(&line));
        let work = move || {
            let added = event(&line, &topic).and_then(|event| {
                rates.take(Rate::Publishes, 1)?;
                events.push(&event, broker.limits())
            });
            (events, added)
        };
        let received = Some(self.received.clone());
        let (events, added) = receiving::work_with(received, effort, work).await;
        self.unsent.events = events;
        added
    }

    /// Hands in what is not handed in yet; waits for answers while too many are in flight.
    async fn flush(&mut self) -> Result<(), Failed> {
        if self.unsent.events.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= self.max_in_flight {
            self.settle_oldest().await?;
        }
        let Unsent { events, first_line, .. } = std::mem::take(&mut self.unsent);
        let publish = Publish { topic: self.topic.clone(), events, expected_sequence: None };
        let submitted = self.broker.submit_in_order(publish, &self.order).await;
        let pending = submitted.map_err(|error| Failed { line: first_line, error })?;
        self.in_flight.push_back((first_line, pending));
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), Failed> {
        let Some((line, pending)) = self.in_flight.pop_front() else { return Ok(()) };
        let ack = pending.ack().await.map_err(|error| Failed { line, error })?;
        self.total.add(&ack);
        Ok(())
    }

    /// Waits for every answer; the first failure is returned after the last answer.
    async fn settle_all(&mut self) -> Result<(), Failed> {
        let mut outcome = Ok(());
        while !self.in_flight.is_empty() {
            let settled = self.settle_oldest().await;
            outcome = outcome.and(settled);
        }
        outcome
    }
}
