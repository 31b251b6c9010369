//! Publishing to a list of topics by `POST`: each topic gets the events, all or none.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::query::Query;
use super::request::whole;
use super::spare::Purpose;
use crate::broker::LimitsConfig;
use crate::edge::Edge;
use crate::edge::bounds::max_request_bytes;
use crate::edge::effort::Effort;
use crate::edge::event_lines::EventLines;
use crate::edge::json::{ReceiptJson, topic_receipts};
use crate::edge::json_problem;
use crate::edge::object::Object;
use crate::edge::permit::Permit;
use crate::edge::publishing::{Acknowledged, EncodedPublish, PublishTopics};
use crate::edge::rates::{CallerRates, Rate};
use crate::edge::receiving::{self, Received};
use crate::error::{Error, Result};
use crate::lists::List;

/// A posted body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PostedJson<'a> {
    topics: List<String>,
    expected_sequence: Option<u64>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    events: Option<&'a RawValue>,
}

/// A posted body whose events are not parsed yet.
struct FanOut {
    topics: PublishTopics,
    lines: EventLines,
    expected_sequence: Option<u64>,
}

impl FanOut {
    fn read(body: &Bytes, limits: &LimitsConfig) -> Result<Self> {
        let invalid =
            |error: serde_json::Error| Error::invalid("body", json_problem::words(&error));
        let Object(PostedJson { topics, expected_sequence, event, events }) =
            serde_json::from_slice(body).map_err(invalid)?;
        let lines = EventLines::of(event, events, body, limits.max_batch_events as usize)?;
        let topics = PublishTopics::each(&topics.entries("topics")?, limits)?;
        Ok(Self { topics, lines, expected_sequence })
    }
}

/// Answers `POST`.
pub(super) async fn publish(
    State(edge): State<Edge>,
    uri: Uri,
    received: Option<Extension<Received>>,
    (rates, permit): (CallerRates, Permit),
    body: Body,
) -> Result<Response> {
    Query::parse(uri.query(), Purpose::Publish)?.finish("none; all is in the body")?;
    let received = received.map(|Extension(received)| received);
    let broker = &edge.broker;
    let body = whole(body, max_request_bytes(broker.limits()), edge.pace()).await?;
    rates.take(Rate::Publishes, 1)?; // A caller over its rate causes no work.
    let (reads, effort) = (broker.clone(), Effort::of_json(&body));
    let read = move || FanOut::read(&body, reads.limits());
    let FanOut { topics, lines, expected_sequence } =
        receiving::work_with(received.clone(), effort, read).await?;
    let count = topics.checked_count(lines.len(), broker.limits())?;
    rates.take(Rate::Publishes, count - 1)?;
    topics.hold(received.as_ref())?;
    topics.check(&permit).await?;
    let effort = topics.effort(lines.effort(), &permit);
    let (permitted, checks) = (permit.clone(), broker.clone());
    let check = move || {
        EncodedPublish::of((&permitted, topics), expected_sequence, || lines.events(), &checks)
    };
    let encoded = receiving::work_with(received.clone(), effort, check).await?;
    let answer = match encoded.hand_in(broker, &permit, received).await? {
        Acknowledged::Each(acks) => json!({"topics": topic_receipts(&acks)}),
        Acknowledged::One(ack) => json!(ReceiptJson::of(&ack, 0)),
    };
    Ok((StatusCode::CREATED, axum::Json(answer)).into_response())
}
