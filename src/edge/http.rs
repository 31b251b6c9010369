//! The HTTP edge: one resource for a topic's events, in the form that `Accept` asks for.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode, Uri, header};
use serde_json::json;

use super::json::{self, ReceiptJson};
use super::ndjson::Line;
use super::query::Query;
use super::{FollowConfig, sse, status};
use crate::broker::{Ack, Broker, PageRequest, Pending, Publish};
use crate::cursor::{OnGap, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::topic::TopicName;

/// Events of a page, and topics of a list, when none are asked for.
const DEFAULT_PAGE_EVENTS: u64 = 100;
const DEFAULT_LISTED_TOPICS: usize = 1_000;
const MAX_LISTED_TOPICS: usize = 10_000;

/// Where a reader says what it saw last. Browsers' own `EventSource` sends the header; polyfills
/// and people spell the query in many ways. The first that is there and not empty counts.
const CURSOR_HEADER: &str = "last-event-id";
const CURSOR_QUERIES: [&str; 8] = [
    "last_event_id",
    "lastEventId",
    "lastEventID",
    "Last-Event-ID",
    "last-event-id",
    "evs_last_event_id",
    "after",
    "since",
];

/// What a line of NDJSON may take besides its payload: base64, names, headers.
const LINE_SLACK_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone)]
struct Edge {
    broker: Broker,
    config: FollowConfig,
}

/// The routes, ready to be mounted in any axum router.
pub fn router(broker: Broker, config: FollowConfig) -> Router {
    Router::new()
        .route("/v1/topics", get(list_topics))
        .route("/v1/topics/{topic}/events", get(read).post(publish))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(async || {
            status::plain_problem(StatusCode::METHOD_NOT_ALLOWED, "no such method on this resource")
        })
        .with_state(Edge { broker, config })
}

/// The answer where there is nothing, for a whole server.
pub(crate) async fn not_found(uri: Uri) -> Response {
    let detail = format!("there is nothing at {}", uri.path());
    status::plain_problem(StatusCode::NOT_FOUND, &detail)
}

async fn ready(State(edge): State<Edge>) -> Response {
    if edge.broker.is_draining() {
        return Error::ShuttingDown.into_response();
    }
    "ready\n".into_response()
}

async fn list_topics(State(edge): State<Edge>, uri: Uri) -> Result<Response> {
    let mut query = Query::parse(uri.query())?;
    let limit = query.take_number("limit")?.unwrap_or(DEFAULT_LISTED_TOPICS);
    let after = query.take("after");
    query.finish("after, limit")?;
    if limit > MAX_LISTED_TOPICS {
        return Err(Error::over("limit", limit, MAX_LISTED_TOPICS));
    }
    let topics = edge.broker.topics(after.as_deref(), limit);
    Ok(axum::Json(json::topics(&topics)).into_response())
}

/// The topic in the path.
fn topic(path: Result<Path<String>, axum::extract::rejection::PathRejection>) -> Result<TopicName> {
    let Path(name) = path.map_err(|rejection| Error::invalid("topic", rejection.body_text()))?;
    TopicName::new(&name)
}

async fn read(
    State(edge): State<Edge>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response> {
    let topic = topic(path)?;
    let mut query = Query::parse(uri.query())?;
    let cursor = cursor(&headers, &mut query)?;
    let from = query.take("from").map(|from| from.parse()).transpose()?;
    let start: Option<StartPoint> = cursor.or(from);
    let on_gap = query.take("on_gap").map(|on_gap| on_gap.parse()).transpose()?;
    match accepted(&headers) {
        // Other names in the query are let through: polyfills of `EventSource` add some of their
        // own, and a browser that is refused never comes back.
        Some(Accepted::Stream) => edge.follow(&topic, start, on_gap).await,
        Some(Accepted::Page) => edge.page(&topic, start, on_gap, query).await,
        None => Ok(status::plain_problem(
            StatusCode::NOT_ACCEPTABLE,
            "this resource comes as text/event-stream or application/json",
        )),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    Stream,
    Page,
}

/// The form that the client asks for: the stream only by its name.
fn accepted(headers: &HeaderMap) -> Option<Accepted> {
    let values = headers.get_all(header::ACCEPT);
    let text: Vec<&str> = values.iter().filter_map(|value| value.to_str().ok()).collect();
    if text.is_empty() {
        return Some(Accepted::Page);
    }
    let media = |range: &str| {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let media = parts.next().unwrap_or_default();
        let is_refused =
            parts.any(|part| matches!(part.as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        (!is_refused).then_some(media)
    };
    let ranges: Vec<String> = text.iter().flat_map(|t| t.split(',')).filter_map(media).collect();
    let has = |names: &[&str]| ranges.iter().any(|range| names.contains(&range.as_str()));
    if has(&["text/event-stream"]) {
        return Some(Accepted::Stream);
    }
    has(&["application/json", "application/*", "*/*"]).then_some(Accepted::Page)
}

/// What the reader saw last, if it says so. An empty value is none: a browser's first request.
fn cursor(headers: &HeaderMap, query: &mut Query) -> Result<Option<StartPoint>> {
    let header = match headers.get(CURSOR_HEADER) {
        Some(value) => {
            let text = std::str::from_utf8(value.as_bytes());
            Some(text.map_err(|_| Error::invalid("Last-Event-ID", "is not UTF-8"))?.to_owned())
        }
        None => None,
    };
    // Every spelling is taken, so that none is left over as unknown.
    let queries = CURSOR_QUERIES.map(|name| query.take(name));
    let text = header.into_iter().chain(queries.into_iter().flatten()).find(|t| !t.is_empty());
    text.map(|text| text.parse().map(StartPoint::After)).transpose()
}

impl Edge {
    async fn follow(
        &self,
        topic: &TopicName,
        start: Option<StartPoint>,
        on_gap: Option<OnGap>,
    ) -> Result<Response> {
        let (start, on_gap) = (start.unwrap_or_default(), on_gap.unwrap_or_default());
        match self.broker.subscribe(topic, start, on_gap).await {
            Ok(subscription) => Ok(sse::response(subscription, self.config.clone())),
            Err(Error::ShuttingDown) => Ok(sse::come_back(&self.config)),
            Err(error) => Err(error),
        }
    }

    async fn page(
        &self,
        topic: &TopicName,
        start: Option<StartPoint>,
        on_gap: Option<OnGap>,
        mut query: Query,
    ) -> Result<Response> {
        let before = query.take_number("before")?.map(Sequence::new);
        let limit = query.take_number("limit")?.unwrap_or(DEFAULT_PAGE_EVENTS);
        let wait = query.take("wait").map(|wait| {
            let parsed = humantime::parse_duration(&wait);
            parsed.map_err(|error| Error::invalid("wait", format!("{wait:?}: {error}; write 30s")))
        });
        let wait = wait.transpose()?.unwrap_or_default();
        query.finish("after, before, from, limit, on_gap, wait")?;
        let (wait_ms, max_wait_ms) = (wait.as_millis() as usize, self.config.max_wait_ms as usize);
        if wait_ms > max_wait_ms {
            return Err(Error::over("wait ms", wait_ms, max_wait_ms));
        }
        if limit == 0 || limit > self.config.max_page_events {
            let problem = format!("{limit} is not within 1 to {}", self.config.max_page_events);
            return Err(Error::invalid("limit", problem));
        }
        let otherwise = if before.is_some() { StartPoint::Latest } else { StartPoint::Earliest };
        let request = PageRequest {
            start: start.unwrap_or(otherwise),
            before,
            limit: limit as usize,
            wait,
            on_gap: on_gap.unwrap_or(OnGap::Fail),
        };
        let page = self.broker.read(topic, request).await?;
        let body = json::page(&page).map_err(|e| Error::ReadFailed(std::sync::Arc::new(e)))?;
        let headers =
            [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")];
        let mut response = (headers, body).into_response();
        if let Some(gap) = &page.gap {
            response.headers_mut().insert(status::GAP_HEADER, status::gap_header(gap));
        }
        Ok(response)
    }

    async fn publish_one(
        &self,
        topic: TopicName,
        mut query: Query,
        content_type: String,
        body: Body,
    ) -> Result<Response> {
        let event = NewEvent {
            id: query.take("id").unwrap_or_default(),
            event_type: query.take("type").unwrap_or_default(),
            key: query.take("key").unwrap_or_default(),
            content_type,
            publisher_time: query.take_number("time_ms")?.map(Timestamp::from_ms),
            ..NewEvent::default()
        };
        let expected_sequence = query.take_number("expected_sequence")?;
        query.finish("id, type, key, time_ms, expected_sequence")?;
        let payload = whole(body, self.broker.limits().max_payload_bytes).await?;
        let events = vec![NewEvent { payload, ..event }];
        let ack = self.broker.publish(Publish { topic, events, expected_sequence }).await?;
        Ok((StatusCode::CREATED, axum::Json(ReceiptJson::of(&ack, 0))).into_response())
    }

    async fn publish_lines(&self, topic: TopicName, query: Query, body: Body) -> Result<Response> {
        query.finish("none with NDJSON: each line has its own")?;
        let mut lines = Lines::new(self, topic);
        if let Err(error) = lines.publish(body).await {
            // The lines before it are whole, and are stored; how many is told with the error.
            let flushed = lines.flush().await;
            let settled = lines.settle(0).await.and(flushed);
            let line = lines.number;
            let extra = [("line", json!(line)), ("stored_events", json!(lines.total.count))];
            return Ok(status::problem(&settled.err().unwrap_or(error), extra));
        }
        let Total { count, duplicates, first, last } = lines.total;
        let Some((first, last)) = first.zip(last) else {
            return Err(Error::invalid("body", "holds no event"));
        };
        let answer =
            json!({"first": first, "last": last, "count": count, "duplicates": duplicates});
        Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
    }
}

async fn publish(
    State(edge): State<Edge>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let topic = topic(path)?;
    let query = Query::parse(uri.query())?;
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => {
            let text = std::str::from_utf8(value.as_bytes());
            text.map_err(|_| Error::invalid("Content-Type", "is not UTF-8"))?.to_owned()
        }
        None => String::new(),
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/x-ndjson") {
        return edge.publish_lines(topic, query, body).await;
    }
    edge.publish_one(topic, query, content_type, body).await
}

/// The whole body, if it is no larger than `limit`.
async fn whole(body: Body, limit: u64) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| Error::invalid("body", error.to_string()))?;
        let size_bytes = bytes.len() + chunk.len();
        if size_bytes as u64 > limit {
            return Err(Error::over("payload bytes (at least)", size_bytes, limit as usize));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// A body of NDJSON: handed in batch by batch as it arrives, with a bounded number in flight.
struct Lines<'a> {
    edge: &'a Edge,
    topic: TopicName,
    batch: Vec<NewEvent>,
    batch_bytes: usize,
    in_flight: std::collections::VecDeque<Pending>,
    /// The line that is read, from 1.
    number: u64,
    total: Total,
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

impl<'a> Lines<'a> {
    fn new(edge: &'a Edge, topic: TopicName) -> Self {
        Self {
            edge,
            topic,
            batch: Vec::new(),
            batch_bytes: 0,
            in_flight: Default::default(),
            number: 0,
            total: Total::default(),
        }
    }

    async fn publish(&mut self, body: Body) -> Result<()> {
        let max_line_bytes = 2 * self.edge.broker.limits().max_payload_bytes + LINE_SLACK_BYTES;
        let mut unread = BytesMut::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| Error::invalid("body", error.to_string()))?;
            unread.extend_from_slice(&chunk);
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line = unread.split_to(end + 1);
                self.push(&line[..end]).await?;
            }
            if unread.len() as u64 > max_line_bytes {
                return Err(Error::over("line bytes", unread.len(), max_line_bytes as usize));
            }
            self.flush().await?; // What has arrived does not wait for what has not.
        }
        self.push(&unread).await?;
        self.flush().await?;
        self.settle(0).await
    }

    async fn push(&mut self, line: &[u8]) -> Result<()> {
        self.number += 1;
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let Line { topic, event } = Line::parse(line)?;
        if topic.as_ref().is_some_and(|topic| *topic != self.topic) {
            let problem = format!("the line names another one than the path, {:?}", self.topic);
            return Err(Error::invalid("topic", problem));
        }
        let limits = self.edge.broker.limits();
        limits.check(std::slice::from_ref(&event))?;
        let size_bytes = line.len(); // At least what its record takes, but for a few bytes.
        let is_full = self.batch.len() as u64 >= limits.max_batch_events
            || (self.batch_bytes + size_bytes) as u64 > limits.max_batch_bytes / 2;
        if is_full {
            self.flush().await?;
        }
        self.batch_bytes += size_bytes;
        self.batch.push(event);
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.settle(self.edge.config.max_in_flight.saturating_sub(1) as usize).await?;
        let events = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let publish = Publish { topic: self.topic.clone(), events, expected_sequence: None };
        self.in_flight.push_back(self.edge.broker.submit(publish).await?);
        Ok(())
    }

    /// Waits until `left` batches at the most are not acknowledged.
    async fn settle(&mut self, left: usize) -> Result<()> {
        while self.in_flight.len() > left {
            let Some(pending) = self.in_flight.pop_front() else { break };
            let ack = pending.ack().await?;
            self.total.add(&ack);
        }
        Ok(())
    }
}
