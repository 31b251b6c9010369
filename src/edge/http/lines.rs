//! Many events in one JSON body: lines, texts between record separators, or an array.
//!
//! ```text
//! {"data":1}                  as it arrives, in batches, in order: each batch all or nothing,
//! {"data":2}                  and no batch after one that is refused
//! ?atomic=true                as one publish: all or nothing, under `expected_sequence`
//! ```
//!
//! # Why
//!
//! The length of a body of lines is not bounded, but the part of it in memory is. So such a body
//! cannot be one publish. A body that is one publish has the bounds of a publish.

use std::collections::VecDeque;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde::de::DeserializeSeed as _;
use serde_json::json;
use serde_json::value::RawValue;

use crate::broker::{Ack, Batch, Broker, InOrder, Pending, Publish};
use crate::edge::Edge;
use crate::edge::bounds::{max_line_bytes, max_request_bytes};
use crate::edge::effort::Effort;
use crate::edge::http::request::{body_error, whole};
use crate::edge::json::ReceiptJson;
use crate::edge::media::Framing;
use crate::edge::ndjson::{self, Line, LinePlace, NoEvent};
use crate::edge::pace::Pace;
use crate::edge::permit::Permit;
use crate::edge::rates::{CallerRates, Rate};
use crate::edge::receiving::{self, Received};
use crate::edge::stamp::Stamp;
use crate::edge::status;
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::lists::{List, UpTo};
use crate::permission::Action;
use crate::polls;
use crate::topic::TopicName;

/// The client that publishes: its memory, its rates and its permit.
pub(in crate::edge) struct PublishingClient {
    pub(in crate::edge) received: Option<Received>,
    pub(in crate::edge) rates: CallerRates,
    pub(in crate::edge) permit: Permit,
}

/// A posted body, its topic, and its publisher.
pub(in crate::edge) struct Posted {
    pub(in crate::edge) topic: TopicName,
    pub(in crate::edge) body: Body,
    pub(in crate::edge) publisher: PublishingClient,
}

/// Publishes the events of a body as they arrive.
///
/// If a line fails, the lines before it are stored, and no line after it. The answer says how many
/// are stored, and names the first line that is not.
///
/// # Errors
///
/// [`Error::Invalid`] if the body has no event.
pub(in crate::edge) async fn publish(
    edge: &Edge,
    framing: Framing,
    posted: Posted,
) -> Result<Response> {
    let Posted { topic, body, publisher: PublishingClient { received, rates, permit } } = posted;
    let mut lines = Lines {
        stamp: Stamp::default(),
        framing,
        place: LinePlace::START,
        broker: &edge.broker,
        received: received.unwrap_or_default(),
        rates,
        permit,
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
    if let Err(failed) = outcome {
        return Ok(failed.answer(lines.total.count));
    }
    lines.total.answer()
}

/// Publishes the events of a body as one publish: all of them, or none.
///
/// # Errors
///
/// As [`publish`]; [`Error::OverLimit`] for more events than one publish may have.
pub(in crate::edge) async fn publish_at_once(
    edge: &Edge,
    framing: Option<Framing>,
    expected_sequence: Option<u64>,
    posted: Posted,
) -> Result<Response> {
    let Posted { topic, body, publisher: PublishingClient { received, rates, permit } } = posted;
    let limits = edge.broker.limits();
    let body = whole(body, max_request_bytes(limits), edge.pace()).await?;
    rates.take(Rate::Publishes, 1)?; // A caller over its rate causes no work.
    let effort = Effort::of_json(&body);
    let (broker, named, permitted) = (edge.broker.clone(), topic.clone(), permit.clone());
    let read = move || {
        let (mut events, limits) = (Batch::default(), broker.limits());
        let stamp = Stamp::of(&broker, &permitted, &named);
        let max_events = limits.max_batch_events as usize;
        let mut add = |(place, text): (LinePlace, &[u8])| {
            let count = events.len() + 1;
            if count > max_events {
                return Err(Failed::at(place.line, Error::over("events", count, max_events)));
            }
            let added = events.push(&event(text, place, &named, (&permitted, &stamp))?, limits);
            added.map_err(|error| Failed::at(place.line, error))
        };
        match framing {
            Some(framing) => texts(&body, framing).try_for_each(&mut add)?,
            None => elements(&body, max_events)?.into_iter().try_for_each(&mut add)?,
        }
        Ok::<_, Failed>(events)
    };
    let events = match receiving::work_with(received.clone(), effort, read).await {
        Ok(events) => events,
        Err(failed) => return Ok(failed.answer(0)),
    };
    if events.is_empty() {
        return Err(Error::invalid("body", NO_EVENT));
    }
    if events.len() > 1 {
        rates.take(Rate::Publishes, events.len() - 1)?;
    }
    let publish = Publish { topic, events, expected_sequence };
    let mut total = Total::default();
    total.add(&receiving::handed_in(&edge.broker, publish, &permit, received).await?);
    total.answer()
}

const NO_EVENT: &str = "holds no event";

/// Returns the texts of a body that are not empty, each with its place. An iterator, because a list
/// of them may take many times the memory of the body.
fn texts(body: &[u8], framing: Framing) -> impl Iterator<Item = (LinePlace, &[u8])> {
    let mut place = LinePlace::START;
    let texts = body.split_inclusive(move |byte| *byte == framing.separator()).map(move |text| {
        let here = place;
        place = place.after(text);
        (here, framing.trimmed(text))
    });
    texts.filter(|(_, text)| !ndjson::is_blank(text))
}

/// Returns the elements of an array, at most `max_events`, each with its place.
fn elements(body: &[u8], max_events: usize) -> Result<Vec<(LinePlace, &[u8])>, Failed> {
    let text = ndjson::unmarked(body);
    let failed = |error: serde_json::Error| Failed::from(NoEvent::of(&error, LinePlace::START));
    let begin = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    if text.get(begin) != Some(&b'[') {
        let message = "a list is expected, like [{\"data\": 1}, {\"data\": 2}]";
        return Err(NoEvent::at(LinePlace::START.after(&text[..begin]), message).into());
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let list: List<&RawValue> = UpTo::new(max_events).deserialize(&mut json).map_err(failed)?;
    json.end().map_err(failed)?;
    let elements = list.entries("events").map_err(|error| Failed::at(1, error))?;
    let (mut place, mut at) = (LinePlace::START, 0);
    let located = elements.into_iter().map(|element| {
        // The element is a slice of the body, and the elements are in order.
        let begin = element.get().as_ptr() as usize - text.as_ptr() as usize;
        place = place.after(&text[at..begin]);
        at = begin;
        (place, element.get().as_bytes())
    });
    Ok(located.collect())
}

/// Returns the event of a text at `place` in a body that is posted to `topic`, as the hooks let it
/// through.
fn event(
    text: &[u8],
    place: LinePlace,
    topic: &TopicName,
    (permit, stamp): (&Permit, &Stamp),
) -> Result<NewEvent, Failed> {
    let line = Line::read(text, place)?;
    if line.topic.as_ref().is_some_and(|named| named != topic) {
        let problem = format!("the line names another topic than the path, {topic:?}");
        return Err(Failed::at(place.line, Error::invalid("topic", problem)));
    }
    let event = permit.intercept(topic, line.event);
    event.map(|it| stamp.on(it)).map_err(|error| Failed::at(place.line, error))
}

struct Lines<'a> {
    broker: &'a Broker,
    /// The bytes that were received and not published yet.
    received: Received,
    /// The rates of the publisher.
    rates: CallerRates,
    permit: Permit,
    /// The stamp for the events that are not published yet.
    stamp: Stamp,
    topic: TopicName,
    unsent: Unsent,
    /// The batches that wait for their acknowledgement, each with its first line.
    in_flight: VecDeque<(u64, Pending)>,
    /// The order of the batches: nothing is stored after a refused one.
    order: InOrder,
    max_in_flight: usize,
    /// The lowest rate at which a line must come in.
    pace: Pace,
    framing: Framing,
    /// The place of the next text.
    place: LinePlace,
    /// The first line of the last text that was read.
    number: u64,
    total: Total,
}

/// Events that are not published yet.
#[derive(Default)]
struct Unsent {
    events: Batch,
    size_bytes: usize,
    first_line: u64,
}

/// The first line that is not stored, and why.
struct Failed {
    line: u64,
    /// The column, if the error has a single place.
    column: Option<u64>,
    error: Error,
}

impl Failed {
    fn at(line: u64, error: Error) -> Self {
        Self { line, column: None, error }
    }

    /// Returns the answer, after `stored_events` were stored.
    fn answer(&self, stored_events: usize) -> Response {
        let Self { line, column, error } = self;
        let detail = ndjson::at_line(*line, error);
        let more = [
            ("detail", json!(detail)),
            ("line", json!(line)),
            ("stored_events", json!(stored_events)),
        ];
        let column = column.map(|column| ("column", json!(column)));
        status::problem(error, more.into_iter().chain(column))
    }
}

impl From<NoEvent> for Failed {
    fn from(NoEvent { line, column, error }: NoEvent) -> Self {
        Self { line, column, error }
    }
}

/// A summary of the events acknowledged so far.
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

    fn answer(self) -> Result<Response> {
        let Self { count, duplicates, first, last } = self;
        let Some((first, last)) = first.zip(last) else {
            return Err(Error::invalid("body", NO_EVENT));
        };
        let answer =
            json!({"first": first, "last": last, "count": count, "duplicates": duplicates});
        Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
    }
}

impl Lines<'_> {
    async fn publish(&mut self, body: Body) -> Result<(), Failed> {
        let read = self.read(body).await;
        // The lines before a bad line are complete, and are published. If the failed line is
        // earlier than the last one read, its batch has failed, and nothing is published after it.
        let is_refused = read.as_ref().is_err_and(|failed| failed.line < self.number);
        let flushed = if is_refused { Ok(()) } else { self.flush().await };
        let settled = self.settle_all().await;
        let outcomes = [read, flushed, settled];
        let failures = outcomes.into_iter().filter_map(Result::err);
        failures.min_by_key(|failed| failed.line).map_or(Ok(()), Err)
    }

    /// Reads the lines, and publishes those that are complete.
    async fn read(&mut self, body: Body) -> Result<(), Failed> {
        let max_line_bytes = max_line_bytes(self.broker.limits());
        let separator = self.framing.separator();
        let mut unread = BytesMut::new();
        let mut chunks = body.into_data_stream();
        loop {
            let next = tokio::select! {
                next = self.pace.next(&mut chunks) => next,
                () = self.broker.draining() => {
                    return Err(self.failed(self.place.line, Error::ShuttingDown));
                }
                error = self.permit.clone().over() => {
                    return Err(self.failed(self.place.line, error));
                }
            };
            let next = next.map_err(|error| self.failed(self.place.line, error))?;
            let Some(chunk) = next else { break };
            let mut searched = unread.len(); // The bytes before have no line end.
            let chunk = chunk.map_err(|error| self.failed(self.place.line, body_error(error)))?;
            unread.extend_from_slice(&chunk);
            while let Some(end) = unread[searched..].iter().position(|byte| *byte == separator) {
                let line = unread.split_to(searched + end + 1);
                searched = 0;
                self.push(line.freeze()).await?;
                self.pace.restart(unread.len());
                polls::rest().await;
            }
            if unread.len() as u64 > max_line_bytes {
                let error = Error::over("line bytes", unread.len(), max_line_bytes as usize);
                return Err(self.failed(self.place.line, error));
            }
            self.flush().await?; // Complete lines do not wait for the next ones.
            self.received.keep(unread.len());
        }
        self.push(unread.freeze()).await
    }

    fn failed(&mut self, line: u64, error: Error) -> Failed {
        self.number = self.number.max(line);
        Failed::at(line, error)
    }

    async fn push(&mut self, text: Bytes) -> Result<(), Failed> {
        let place = self.place;
        self.place = place.after(&text);
        self.number = place.line;
        let line = text.slice(..self.framing.trimmed(&text).len());
        if ndjson::is_blank(&line) {
            return Ok(());
        }
        let limits = self.broker.limits();
        let size_bytes = line.len(); // At least the size of its record, less a few bytes.
        let is_full = self.unsent.events.len() as u64 >= limits.max_batch_events
            || (self.unsent.size_bytes + size_bytes) as u64 > limits.max_batch_bytes / 2;
        if is_full {
            self.flush().await?;
        }
        self.add(line, place).await?;
        if self.unsent.events.len() == 1 {
            self.unsent.first_line = place.line;
        }
        self.unsent.size_bytes += size_bytes;
        Ok(())
    }

    /// Adds the event of a line to those that are not published yet.
    async fn add(&mut self, line: Bytes, place: LinePlace) -> Result<(), Failed> {
        if self.unsent.events.is_empty() {
            // A body may go on for hours, and the topic's settings may change meanwhile.
            self.stamp = Stamp::of(self.broker, &self.permit, &self.topic);
        }
        let (broker, topic, rates) = (self.broker.clone(), self.topic.clone(), self.rates.clone());
        let (permit, stamp) = (self.permit.clone(), self.stamp.clone());
        let (mut events, effort) =
            (std::mem::take(&mut self.unsent.events), Effort::of_json(&line));
        let work = move || {
            let added = event(&line, place, &topic, (&permit, &stamp)).and_then(|event| {
                let taken = rates.take(Rate::Publishes, 1);
                let added = taken.and_then(|()| events.push(&event, broker.limits()));
                added.map_err(|error| Failed::at(place.line, error))
            });
            (events, added)
        };
        let received = Some(self.received.clone());
        let (events, added) = receiving::work_with(received, effort, work).await;
        self.unsent.events = events;
        added
    }

    /// Publishes the events that are not published yet. Waits while too many batches are in flight.
    async fn flush(&mut self) -> Result<(), Failed> {
        if self.unsent.events.is_empty() {
            return Ok(());
        }
        while self.in_flight.len() >= self.max_in_flight {
            self.settle_oldest().await?;
        }
        let Unsent { events, first_line, .. } = std::mem::take(&mut self.unsent);
        // A body may take longer than its sender's grant.
        let permitted = self.permit.check(Action::Publish, &self.topic).await;
        permitted.map_err(|error| Failed::at(first_line, error))?;
        let publish = Publish { topic: self.topic.clone(), events, expected_sequence: None };
        let submitted = self.broker.submit_in_order(publish, &self.order).await;
        let pending = submitted.map_err(|error| Failed::at(first_line, error))?;
        self.in_flight.push_back((first_line, pending));
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), Failed> {
        let Some((line, pending)) = self.in_flight.pop_front() else { return Ok(()) };
        let ack = pending.ack().await.map_err(|error| Failed::at(line, error))?;
        self.permit.acknowledged(&self.topic, &ack);
        self.total.add(&ack);
        Ok(())
    }

    /// Waits for every acknowledgement, and then returns the first failure.
    async fn settle_all(&mut self) -> Result<(), Failed> {
        let mut outcome = Ok(());
        while !self.in_flight.is_empty() {
            let settled = self.settle_oldest().await;
            outcome = outcome.and(settled);
        }
        outcome
    }
}
