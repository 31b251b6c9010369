//! Publishing by `POST`: one event, lines, an array, or CloudEvents, by the content type.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};
use serde_json::json;

use super::lines::{self, Posted, PublishingClient};
use super::query::Query;
use super::request::{PathResult, permitted, whole};
use super::spare::Purpose;
use crate::broker::Publish;
use crate::edge::Edge;
use crate::edge::bounds::max_request_bytes;
use crate::edge::effort::Effort;
use crate::edge::json::ReceiptJson;
use crate::edge::media::{Framing, Texts, essence, is_joined};
use crate::edge::permit::Permit;
use crate::edge::rates::{CallerRates, Rate};
use crate::edge::receiving::{self, Received};
use crate::edge::{cloudevents, status};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::permission::Action;
use crate::topic::TopicName;

/// Answers `POST` to the events of one topic.
pub(super) async fn publish(
    State(edge): State<Edge>,
    path: PathResult,
    headers: HeaderMap,
    uri: Uri,
    received: Option<Extension<Received>>,
    (rates, permit): (CallerRates, Permit),
    body: Body,
) -> Result<Response> {
    let topic = permitted(path, &permit, Action::Publish).await?;
    let received = received.map(|Extension(received)| received);
    let publisher = PublishingClient { received, rates, permit };
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
    // CloudEvents are checked first: their data may be of any type, also lines and lists.
    if let Some(mode) = cloudevents::Mode::of(&content_type, &headers) {
        if is_atomic {
            let problem = "is for lines and lists of events, and a request with CloudEvents is \
                           one publish in any case; leave it out";
            return Err(Error::invalid("atomic", problem));
        }
        let carried = (mode, headers);
        return edge.publish_cloudevents(topic, query, carried, body, publisher).await;
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
        let posted = Posted { topic, body, publisher };
        if is_atomic {
            if framing.is_none() && !is_array(&content_type) {
                let problem = "is for lines of JSON, and for an array of such objects that is \
                               posted as application/json";
                return Err(Error::invalid("atomic", problem));
            }
            return lines::publish_at_once(&edge, framing, expected_sequence, posted).await;
        }
        if expected_sequence.is_some() {
            let problem = "is for one publish, and lines are stored as they arrive; with \
                           atomic=true they are one publish";
            return Err(Error::invalid("expected_sequence", problem));
        }
        return lines::publish(&edge, framing.unwrap_or(Framing::Lines), posted).await;
    }
    edge.publish_one(topic, query, content_type, body, publisher).await
}

/// Whether a body of this type may be a list of events.
fn is_array(content_type: &str) -> bool {
    matches!(essence(content_type).as_str(), "application/json" | "text/json")
}

impl Edge {
    async fn publish_cloudevents(
        &self,
        topic: TopicName,
        mut query: Query,
        (mode, headers): (cloudevents::Mode, HeaderMap),
        body: Body,
        PublishingClient { received, rates, permit }: PublishingClient,
    ) -> Result<Response> {
        let ttl_ms = query.take_number("ttl_ms")?;
        let expected_sequence = query.take_number("expected_sequence")?;
        query.finish("ttl_ms, expected_sequence; all else is in the CloudEvent")?;
        let body = whole(body, max_request_bytes(self.broker.limits()), self.pace()).await?;
        rates.take(Rate::Publishes, 1)?; // A caller over its rate causes no work.
        let (broker, effort) = (self.broker.clone(), Effort::of_request(mode, &body));
        let (permitted, name) = (permit.clone(), topic.clone());
        let work = move || {
            let limits = broker.limits();
            let events = cloudevents::read(mode, &headers, &body, limits.max_batch_events as usize);
            let events = events?.map(|event| Ok(NewEvent { ttl_ms, ..event? }));
            receiving::batch(&permitted, &name, events, &broker)
        };
        let events = receiving::work_with(received.clone(), effort, work).await?;
        if events.len() > 1 {
            rates.take(Rate::Publishes, events.len() - 1)?;
        }
        let publish = Publish { topic, events, expected_sequence };
        let ack = receiving::handed_in(&self.broker, publish, &permit, received).await?;
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
        PublishingClient { received, rates, permit }: PublishingClient,
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
            // The body may have taken longer than its sender's grant.
            permit.check(Action::Publish, &topic).await?;
            let (broker, effort) =
                (self.broker.clone(), Effort::of_payload(event.payload.len()).twice());
            let work = move || {
                let events = || std::iter::once(Ok(event.clone()));
                receiving::deliver_ephemeral(&permit, &topic, events, &broker)
            };
            let receivers = receiving::work_with(received, effort, work).await?;
            let mut answer = json!({"ephemeral": true});
            if let Some(receivers) = receivers {
                answer["receivers"] = receivers.into();
            }
            return Ok((StatusCode::ACCEPTED, axum::Json(answer)).into_response());
        }
        let (broker, effort) = (self.broker.clone(), Effort::of_payload(event.payload.len()));
        let (permitted, name) = (permit.clone(), topic.clone());
        let work = move || receiving::batch(&permitted, &name, [Ok(event)], &broker);
        let events = receiving::work_with(received.clone(), effort, work).await?;
        let publish = Publish { topic, events, expected_sequence };
        let ack = receiving::handed_in(&self.broker, publish, &permit, received).await?;
        Ok((StatusCode::CREATED, axum::Json(ReceiptJson::of(&ack, 0))).into_response())
    }
}
