//! The HTTP edge: one resource for a topic's events, in the form that `Accept` asks for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router, middleware};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use http_body::Body as _;
use serde_json::json;
use tonic::Status;
use tower::util::MapResponseLayer;

use super::accept::{Accepted, accepted};
use super::asked::{self, Asked};
use super::checked_body::refusal;
use super::clients::{Peer, share};
use super::coding::{self, Coding, MIN_ENCODED_BYTES};
use super::counters::Counters;
use super::effort::Effort;
use super::http_lines::Posted;
use super::ignored::Ignored;
use super::json::ReceiptJson;
use super::media::{Framing, Texts, essence, is_joined};
use super::pace::Pace;
use super::page_body::{PageBody, PageForm};
use super::query::Query;
use super::rates::{CallerRates, Rate};
use super::receiving::{self, Received};
use super::selection::{self, Format, Topics, Wanted};
use super::spare::Purpose;
use super::tag::{self, Tag};
use super::{
    FollowConfig, cloudevents, http_events, http_lines, http_topics, max_request_bytes, openapi,
    page_body, sse, status, websocket,
};
use crate::broker::{Batch, Broker, PageRequest, Publish};
use crate::cursor::{OnGap, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::topic::TopicName;

/// When a client that polls without waiting may ask again that has got everything, in seconds.
const POLL_SECONDS: u64 = 1;

/// The names in the query of a page.
const PAGE_NAMES: &str =
    "after, before, from, format, limit, on_gap, wait, type, key, key_prefix, header";

/// How long the head of a page is held back that is waited for: as long as that, it may still be
/// another status. Browsers do not send a second request for the same URL before they have the
/// head of the first answer, and know that it is kept by nobody.
const HEAD_AFTER: Duration = Duration::from_millis(250);

/// Events of a page, when none are asked for.
const DEFAULT_PAGE_EVENTS: u64 = 100;

#[derive(Debug, Clone)]
pub(super) struct Edge {
    pub(super) broker: Broker,
    pub(super) config: FollowConfig,
    pub(super) counters: Arc<Counters>,
}

/// The topic's name in a path, as axum found it.
pub(super) type PathResult = Result<Path<String>, PathRejection>;

/// The routes, ready to be mounted in any axum router.
pub fn router(broker: Broker, config: FollowConfig) -> Router {
    counted(broker, config, Arc::default())
}

/// As [`router`], for a server that counts, too.
pub(crate) fn counted(broker: Broker, config: FollowConfig, counters: Arc<Counters>) -> Router {
    let document = openapi::routes(broker.limits(), &config);
    let edge = Edge { broker, config, counters };
    let coded = middleware::from_fn_with_state(edge.clone(), coding::serve);
    Router::new()
        .route("/v1/topics/{topic}/events", get(read).post(publish).delete(http_topics::purge))
        .route("/v1/events", get(http_events::read).post(http_events::read_posted))
        .route("/v1/ws", get(websocket::open))
        .merge(http_topics::routes())
        .merge(document)
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .method_not_allowed_fallback(async || {
            status::plain_problem(StatusCode::METHOD_NOT_ALLOWED, "no such method on this resource")
        })
        .layer(coded)
        .layer(MapResponseLayer::new(tag::or_not_kept))
        .with_state(edge)
}

/// The answer where there is nothing, for a whole server. Source: the gRPC protocol over HTTP/2, of
/// a service or a method that there is not: 200, with the status in the head.
pub(crate) async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    if status::is_grpc(&headers) {
        let call = uri.path().trim_start_matches('/');
        return Status::unimplemented(format!("{call:?} is no call of this server")).into_http();
    }
    let detail = format!("there is nothing at {}", uri.path());
    status::plain_problem(StatusCode::NOT_FOUND, &detail)
}

async fn ready(State(edge): State<Edge>) -> Response {
    match edge.broker.check_ready() {
        Ok(()) => "ready\n".into_response(),
        Err(error) => error.into_response(),
    }
}

/// The topic in the path.
pub(super) fn topic(path: PathResult) -> Result<TopicName> {
    let Path(name) = path.map_err(|rejection| Error::invalid("topic", rejection.body_text()))?;
    TopicName::new(&name)
}

async fn read(
    State(edge): State<Edge>,
    path: PathResult,
    headers: HeaderMap,
    peer: Option<Extension<Peer>>,
    uri: Uri,
) -> Result<Response> {
    let (topic, form) = (topic(path)?, accepted(&headers));
    let mut query = asked::query(uri.query(), form)?;
    let asked = Asked::of(Topics::One(topic), form, &headers, peer, &mut query)?;
    edge.answer(form, &headers, asked, query).await
}

impl Edge {
    /// How slowly a body may come in.
    pub(super) fn pace(&self) -> Pace {
        Pace::new(&self.config, self.counters.clone())
    }

    /// Answers in the form that the client asks for.
    pub(super) async fn answer(
        &self,
        form: Option<Accepted>,
        headers: &HeaderMap,
        asked: Asked,
        query: Query,
    ) -> Result<Response> {
        let mut response = match form {
            Some(Accepted::Stream) => self.follow(asked, query.into_ignored()).await?,
            Some(Accepted::Page) => self.page(headers, asked, query).await?,
            None => status::plain_problem(
                StatusCode::NOT_ACCEPTABLE,
                "this resource comes as text/event-stream or application/json",
            ),
        };
        tag::vary(&mut response);
        Ok(response)
    }

    /// A browser gives up for good on any status but 200, so whoever is refused for a while is told
    /// so in a stream.
    async fn follow(&self, asked: Asked, ignored: Ignored) -> Result<Response> {
        match self.opened(asked, ignored).await {
            Err(Error::ShuttingDown) => Ok(sse::come_back(&self.config)),
            Err(error) => sse::refused(&error).ok_or(error),
            opened => opened,
        }
    }

    async fn opened(&self, asked: Asked, mut ignored: Ignored) -> Result<Response> {
        let Asked { topics, mut start, on_gap, filter, format, member, peer } = asked;
        CallerRates::of(peer.as_ref()).take(Rate::Subscriptions, 1)?;
        let otherwise = match topics {
            Topics::One(_) => Format::Data,
            Topics::Many(_) => Format::Envelope,
        };
        if let Some(StartPoint::Time(time)) = start
            && let Err(error) = self.broker.check_start(StartPoint::Time(time))
        {
            ignored.note_value("from", &time.to_string(), &error);
            start = Some(StartPoint::Latest); // There is nothing of that time or later.
        }
        let (start, on_gap) = (start.unwrap_or_default(), on_gap.unwrap_or_default());
        let wanted = Wanted { topics, start, on_gap, filter, member };
        let opened = wanted.open(&self.broker, &share(peer.as_ref())).await?;
        let format = format.unwrap_or(otherwise);
        Ok(sse::response(opened, format, &self.config, peer.as_ref(), ignored))
    }

    async fn page(&self, headers: &HeaderMap, asked: Asked, mut query: Query) -> Result<Response> {
        let Asked { topics, start, on_gap, filter, format, member, peer } = asked;
        if member.is_some() {
            let problem = "is present for as long as a stream is open, and this is a page";
            return Err(Error::invalid("member", problem));
        }
        let form = PageForm::of(format, self.broker.epoch())?;
        let share = share(peer.as_ref());
        let before = query.take_number("before")?.map(Sequence::new);
        let limit = query.take_number("limit")?.unwrap_or(DEFAULT_PAGE_EVENTS);
        let wait = query.take("wait").map(|wait| {
            let parsed = humantime::parse_duration(&wait);
            parsed.map_err(|error| Error::invalid("wait", format!("{wait:?}: {error}; write 30s")))
        });
        let wait = wait.transpose()?.unwrap_or_default();
        query.finish(PAGE_NAMES)?;
        if wait > Duration::from_millis(self.config.max_wait_ms) {
            let wait_ms = usize::try_from(wait.as_millis()).unwrap_or(usize::MAX);
            return Err(Error::over("wait ms", wait_ms, self.config.max_wait_ms as usize));
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
            on_gap: on_gap.unwrap_or(match topics {
                Topics::One(_) => OnGap::Fail,
                // What one of them has lost is no reason to keep back the others.
                Topics::Many(_) => OnGap::Resume,
            }),
            filter,
        };
        let (reader, held) = selection::page(topics, request, &self.broker, &share).await?;
        let (now, has_gap) = (reader.page(), reader.has_gap());
        let page = async move { page_body::page(reader, form, &share, held).await };
        let mut page = Box::pin(page);
        // A gap is told in the head, which waits for it.
        let is_head_early = !wait.is_zero() && !has_gap;
        let begun = if is_head_early {
            match tokio::time::timeout(HEAD_AFTER, &mut page).await {
                Ok(begun) => begun?,
                Err(_elapsed) => {
                    let body = page_body::waited_for(page, now);
                    let media = [(header::CONTENT_TYPE, "application/json")];
                    return Ok((media, body).into_response());
                }
            }
        } else {
            page.await?
        };
        let page_body::Begun { page, held, body } = begun;
        // Of a page that is not whole yet, nobody knows the body. A gap is told each time.
        let tag = match &body {
            PageBody::Whole(bytes) if page.gaps.is_empty() => {
                let (bytes, is_long) = (bytes.clone(), bytes.len() >= MIN_ENCODED_BYTES);
                let tag = Effort::of_bytes(bytes.len()).spend(move || Tag::of(&bytes)).await;
                Some(tag.coded(Coding::wanted(headers).filter(|_| is_long)))
            }
            _ => None,
        };
        let is_whole = matches!(body, PageBody::Whole(_));
        let mut response = if tag.as_ref().is_some_and(|tag| tag.is_held(headers)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, "application/json")], body.into_body()).into_response()
        };
        response.extensions_mut().insert(held);
        let more = response.headers_mut();
        if let Some(tag) = tag {
            more.insert(header::ETAG, tag.value());
            more.insert(header::CACHE_CONTROL, tag::ASK_AGAIN);
        }
        if is_whole && page.caught_up {
            // There is nothing more now; who does not wait here need not ask at once.
            more.insert(header::RETRY_AFTER, HeaderValue::from(POLL_SECONDS));
        }
        status::tell_gaps(&mut response, &page.gaps);
        Ok(response)
    }

    async fn publish_cloudevents(
        &self,
        topic: TopicName,
        mut query: Query,
        (mode, headers): (cloudevents::Mode, HeaderMap),
        body: Body,
        (received, rates): (Option<Received>, CallerRates),
    ) -> Result<Response> {
        let ttl_ms = query.take_number("ttl_ms")?;
        let expected_sequence = query.take_number("expected_sequence")?;
        query.finish("ttl_ms, expected_sequence; all else is in the CloudEvent")?;
        let body = whole(body, max_request_bytes(self.broker.limits()), self.pace()).await?;
        rates.take(Rate::Publishes, 1)?; // Whoever has nothing left makes no work.
        let (broker, effort) = (self.broker.clone(), mode.effort(&body));
        let work = move || {
            let limits = broker.limits();
            let events = cloudevents::read(mode, &headers, &body, limits.max_batch_events as usize);
            Batch::of(events?.map(|event| Ok(NewEvent { ttl_ms, ..event? })), limits)
        };
        let events = receiving::work_with(received.clone(), effort, work).await?;
        if events.len() > 1 {
            rates.take(Rate::Publishes, events.len() - 1)?;
        }
        let publish = Publish { topic, events, expected_sequence };
        let ack = receiving::handed_in(&self.broker, publish, received).await?;
        let answer = match mode {
            cloudevents::Mode::Batched | cloudevents::Mode::ProtobufBatch => json!({
                "first": ReceiptJson::of(&ack, 0),
                "last": ReceiptJson::of(&ack, ack.count - 1),
                "count": ack.count,
                "duplicates": ack.duplicates.len(),
            }),
            _ => json!(ReceiptJson::of(&ack, 0)),
        };
        Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
    }

    async fn publish_one(
        &self,
        topic: TopicName,
        mut query: Query,
        content_type: String,
        body: Body,
        (received, rates): (Option<Received>, CallerRates),
    ) -> Result<Response> {
        let event = NewEvent {
            id: query.take("id").unwrap_or_default(),
            event_type: query.take("type").unwrap_or_default(),
            key: query.take("key").unwrap_or_default(),
            content_type,
            publisher_time: query.take_number("publisher_time_ms")?.map(Timestamp::from_ms),
            ttl_ms: query.take_number("ttl_ms")?,
            ..NewEvent::default()
        };
        let expected_sequence = query.take_number("expected_sequence")?;
        let is_ephemeral = query.take_flag("ephemeral")?;
        query.finish("id, type, key, publisher_time_ms, ttl_ms, expected_sequence, ephemeral")?;
        let payload = whole(body, self.broker.limits().max_payload_bytes, self.pace()).await?;
        rates.take(Rate::Publishes, 1)?;
        let event = NewEvent { payload, ..event };
        if is_ephemeral {
            let receivers = self.broker.publish_ephemeral(&topic, vec![event])?;
            let answer = json!({"ephemeral": true, "receivers": receivers});
            return Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response());
        }
        let (broker, effort) = (self.broker.clone(), Effort::of_payload(event.payload.len()));
        let work = move || Batch::of([Ok(event)], broker.limits());
        let events = receiving::work_with(received.clone(), effort, work).await?;
        let publish = Publish { topic, events, expected_sequence };
        let ack = receiving::handed_in(&self.broker, publish, received).await?;
        Ok((StatusCode::CREATED, axum::Json(ReceiptJson::of(&ack, 0))).into_response())
    }
}

/// What a POST carries.
async fn publish(
    State(edge): State<Edge>,
    path: PathResult,
    headers: HeaderMap,
    uri: Uri,
    received: Option<Extension<Received>>,
    rates: CallerRates,
    body: Body,
) -> Result<Response> {
    let topic = topic(path)?;
    let received = received.map(|Extension(received)| received);
    let mut query = Query::parse(uri.query(), Purpose::Publish)?;
    if headers.get_all(header::CONTENT_TYPE).iter().count() > 1 {
        return Err(Error::invalid("Content-Type", "is given twice; a body is of one type"));
    }
    let content_type = match headers.get(header::CONTENT_TYPE) {
        Some(value) => {
            let text = std::str::from_utf8(value.as_bytes());
            text.map_err(|_| Error::invalid("Content-Type", "is not UTF-8"))?.to_owned()
        }
        None => String::new(),
    };
    if is_joined(&content_type) {
        let problem = format!("{content_type:?} names several types; a body is of one type");
        return Err(Error::invalid("Content-Type", problem));
    }
    let is_atomic = query.take_flag("atomic")?;
    // First: the data of a CloudEvent may be of any type, lines and lists too.
    if let Some(mode) = cloudevents::Mode::of(&content_type, &headers) {
        if is_atomic {
            let problem = "is for lines and lists of events, and a request with CloudEvents is \
                           one publish in any case; leave it out";
            return Err(Error::invalid("atomic", problem));
        }
        let carried = (mode, headers);
        return edge.publish_cloudevents(topic, query, carried, body, (received, rates)).await;
    }
    let framing = match Texts::of(&content_type) {
        Texts::Ours(framing) => Some(framing),
        Texts::One => None,
        Texts::Foreign => {
            let detail = format!(
                "{:?} holds many texts that are no events of this broker; post lines of events as \
                 application/x-ndjson, or the whole as the payload of one event, with this \
                 content_type, in such a line",
                essence(&content_type)
            );
            return Ok(status::plain_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, &detail));
        }
    };
    if framing.is_some() || is_atomic {
        let expected_sequence = query.take_number("expected_sequence")?;
        query.finish("atomic, and with that expected_sequence: each line has its own names")?;
        let posted = Posted { topic, body, received, rates };
        if is_atomic {
            if framing.is_none() && !is_array(&content_type) {
                let problem = "is for lines of JSON, and for an array of such objects that is \
                               posted as application/json";
                return Err(Error::invalid("atomic", problem));
            }
            return http_lines::publish_at_once(&edge, framing, expected_sequence, posted).await;
        }
        if expected_sequence.is_some() {
            let problem = "is for one publish, and lines are stored as they arrive; with \
                           atomic=true they are one publish";
            return Err(Error::invalid("expected_sequence", problem));
        }
        return http_lines::publish(&edge, framing.unwrap_or(Framing::Lines), posted).await;
    }
    edge.publish_one(topic, query, content_type, body, (received, rates)).await
}

/// Whether a body of this type may be a list of events.
fn is_array(content_type: &str) -> bool {
    matches!(essence(content_type).as_str(), "application/json" | "text/json")
}

/// What went wrong with a body.
pub(super) fn body_error(error: axum::Error) -> Error {
    refusal(&error).unwrap_or_else(|| Error::invalid("body", error.to_string()))
}

/// The whole body, if it is no larger than `limit`, and does not come in too slowly. One that is
/// said to be too large is not read at all: its client, which may have asked before sending it with
/// `Expect: 100-continue`, is spared that.
pub(super) async fn whole(body: Body, limit: u64, mut pace: Pace) -> Result<Bytes> {
    let told_bytes = body.size_hint().lower();
    if told_bytes > limit {
        return Err(Error::over("payload bytes", told_bytes as usize, limit as usize));
    }
    let mut bytes = BytesMut::new();
    let mut chunks = body.into_data_stream();
    loop {
        let Some(chunk) = pace.next(&mut chunks).await? else { return Ok(bytes.freeze()) };
        let chunk = chunk.map_err(body_error)?;
        let size_bytes = bytes.len() + chunk.len();
        if size_bytes as u64 > limit {
            return Err(Error::over("payload bytes (at least)", size_bytes, limit as usize));
        }
        bytes.extend_from_slice(&chunk);
    }
}
