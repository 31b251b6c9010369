//! The HTTP edge of shared work: pulls, which are long polls, settlements, and how work stands.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::Uri;
use serde_json::Value;

use super::consumers::read;
use super::page_body;
use super::query::Query;
use super::request::PathResult;
use super::spare::Purpose;
use crate::edge::Edge;
use crate::edge::clients::{Peer, share};
use crate::edge::permit::Permit;
use crate::edge::work::answers;
use crate::edge::work::asking::PermittedQueue;
use crate::edge::work::requests::{PullJson, SettleJson};
use crate::error::{Error, Result};
use crate::topic::TopicPattern;

/// The leases that are written at once.
const WRITTEN_AT_ONCE: usize = 16;

/// Returns the routes.
pub(in crate::edge) fn routes() -> Router<Edge> {
    Router::new()
        .route("/v1/consumers/{consumer}/pull", post(pull))
        .route("/v1/consumers/{consumer}/settle", post(settle))
        .route("/v1/consumers/{consumer}/work", get(status))
}

/// Returns the queue that a path and a query name, if the caller may work for it.
async fn queue(
    path: PathResult,
    uri: &Uri,
    purpose: Purpose,
    (permit, edge): (&Permit, &Edge),
) -> Result<PermittedQueue> {
    let Path(name) = path.map_err(|rejection| Error::invalid("consumer", rejection.body_text()))?;
    let mut query = Query::parse(uri.query(), purpose)?;
    let missing = || Error::invalid("topic", "is missing; write the consumer's topic or pattern");
    let selection = TopicPattern::new(&query.take("topic").ok_or_else(missing)?)?;
    let _goes_without_saying = query.take_flag("shared")?;
    query.finish("topic, shared")?;
    PermittedQueue::find(&name, selection, permit, edge.consumers_if_any()).await
}

async fn pull(
    State(edge): State<Edge>,
    path: PathResult,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let queue = queue(path, &uri, Purpose::Change, (&permit, &edge)).await?;
    let request = read::<PullJson>(body, &edge).await?;
    let request = request.request(&edge.config, edge.broker.max_page_bytes());
    let share = share(peer.as_deref());
    let mut leased = queue.pull(request).await?.into_iter().peekable();
    let written = std::iter::from_fn(move || {
        leased.peek()?;
        let mut bytes = Vec::new();
        for leased in leased.by_ref().take(WRITTEN_AT_ONCE) {
            if !bytes.is_empty() {
                bytes.push(b',');
            }
            answers::write_lease(&leased, &mut bytes);
        }
        Some(bytes)
    });
    let text = page_body::list(b"{\"leases\":[".to_vec(), written, b"]}".to_vec());
    page_body::answer(text, &share).await
}

async fn settle(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let queue = queue(path, &uri, Purpose::Change, (&permit, &edge)).await?;
    let settlement = read::<SettleJson>(body, &edge).await?.settlement()?;
    let settled = queue.settle(settlement).await?;
    Ok(Json(Value::Object(answers::settled(&settled))).into_response())
}

async fn status(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    let queue = queue(path, &uri, Purpose::Page, (&permit, &edge)).await?;
    Ok(Json(answers::status(&queue.queue().status()?, edge.broker.epoch())).into_response())
}
