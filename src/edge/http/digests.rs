//! The HTTP edge of digests: hashes of a topic's events, by which `leftoff check --against`
//! compares two logs.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::Uri;
use serde_json::{Value, json};

use crate::cursor::{Position, Sequence};
use crate::edge::Edge;
use crate::edge::http::query::Query;
use crate::edge::http::spare::Purpose;
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// Returns the route of digests.
pub(super) fn routes() -> Router<Edge> {
    Router::new().route("/v1/digests", get(digests))
}

async fn digests(State(edge): State<Edge>, permit: Permit, uri: Uri) -> Result<Response> {
    permit.check_administers().await?;
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let topic = query.take("topic").ok_or_else(|| Error::invalid("topic", "is missing"))?;
    let from = query.take_number("from")?.unwrap_or(1);
    let through = query.take_number("through")?.unwrap_or(u64::MAX);
    query.finish("topic, from, through")?;
    let (from, through) = (Sequence::new(from), Position::new(through));
    let part = edge.broker.digests(&TopicName::new(&topic)?, from, through).await?;
    let digests = part
        .digests
        .iter()
        .map(|it| json!({ "first": it.first, "events": it.events, "sha256": it.hexadecimal() }));
    let digests: Vec<Value> = digests.collect();
    let extent = part.topic.extent;
    let told = json!({
        "topic": topic,
        "earliest": extent.earliest,
        "tail": extent.tail,
        "digests": digests,
        "next": part.next,
    });
    Ok(axum::Json(told).into_response())
}
