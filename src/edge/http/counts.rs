//! The HTTP edge of counts: those of one consumer, for badges that poll, and those of many at once.
//!
//! # Why
//!
//! Thousands of browsers ask for the same few numbers again and again. The tag of an answer names
//! the state that is counted, so an unchanged state is told by 304, and nothing is counted for it.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde_json::{Value, json};

use super::consumers::{found, read_json};
use super::query::Query;
use super::request::PathResult;
use super::spare::Purpose;
use super::tag::Tag;
use crate::edge::Edge;
use crate::edge::consumers::answers;
use crate::edge::consumers::asking::{ConsumerUse, Named};
use crate::edge::consumers::counting::{MAX_COUNTED_CONSUMERS, of_filters};
use crate::edge::consumers::requests::CountsJson;
use crate::edge::object::Object;
use crate::edge::permit::Permit;
use crate::edge::selection_forms::{self, FilterJson};
use crate::error::Result;
use crate::lists::{self, List};
use crate::topic::TopicPattern;

/// The answer may be kept by its own client, and is used again only after the broker was asked.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("private, no-cache");

/// The time after which a request for many counts lets other tasks run.
const LONGEST_TURN: Duration = Duration::from_millis(1);

/// The names of a filter in a query.
const FILTER_NAMES: [&str; 4] = ["type", "key", "key_prefix", "header"];

/// Returns the routes.
pub(in crate::edge) fn routes() -> Router<Edge> {
    Router::new()
        .route("/v1/consumers/{consumer}/counts", get(of_one))
        .route("/v1/counts", post(of_many))
}

/// Answers `GET` of the counts of one consumer.
async fn of_one(
    State(edge): State<Edge>,
    path: PathResult,
    headers: HeaderMap,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    let mut query = Query::parse_lists(uri.query(), Purpose::Page, &FILTER_NAMES)?;
    let found = found(path, &mut query, ConsumerUse::Read, (&permit, &edge)).await?;
    let filter = selection_forms::filter(&mut query)?;
    query.finish("topic, owner, shared, type, key, key_prefix, header")?;
    let permitted = permit.filter();
    // Taken before the counts: they may be newer than the tag, and never older.
    let stamp = found.consumers.counts_tag(&found.id).await?;
    let tag = Tag::of(format!("{stamp} {}", json!([filter, permitted])).as_bytes());
    let mut response = match tag.is_held(&headers) {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => {
            let counts = of_filters(&found, vec![filter], &permitted).await?;
            let counts = counts.first().map(|counts| answers::counts(counts, edge.broker.epoch()));
            Json(counts).into_response()
        }
    };
    response.headers_mut().insert(header::ETAG, tag.value());
    response.headers_mut().insert(header::CACHE_CONTROL, ASK_AGAIN);
    Ok(response)
}

/// Answers `POST` of the counts of many consumers, each by several filters. Refused as a whole if
/// one of them is.
async fn of_many(
    State(edge): State<Edge>,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    Query::parse(uri.query(), Purpose::Page)?.finish("")?;
    let asked = read_json::<List<Object<CountsJson>>>(body, &edge).await?;
    let asked = asked.entries("consumers")?;
    lists::check("consumers", asked.len(), MAX_COUNTED_CONSUMERS)?;
    let consumers = edge.consumers_if_any();
    let mut counted = Vec::with_capacity(asked.len());
    let mut turn = Instant::now();
    for Object(CountsJson { consumer, topic, owner, shared, filters }) in asked {
        let named = match shared {
            true => Named::shared(&consumer)?,
            false => Named::of_own(&consumer, owner)?,
        };
        let found =
            named.find(TopicPattern::new(&topic)?, ConsumerUse::Read, &permit, consumers).await?;
        let filters = filters.entries("filters")?;
        let filters = filters.into_iter().map(FilterJson::filter).collect::<Result<Vec<_>>>()?;
        let counts = of_filters(&found, filters, &permit.filter()).await?;
        let counts = counts.iter().map(|it| answers::counts(it, edge.broker.epoch()));
        let counts: Vec<Value> = counts.collect();
        counted.push(json!({"consumer": consumer, "topic": topic, "counts": counts}));
        if turn.elapsed() >= LONGEST_TURN {
            // With all events in memory no count waits, and other tasks would wait for all of them.
            tokio::task::yield_now().await;
            turn = Instant::now();
        }
    }
    Ok(Json(json!({"consumers": counted})).into_response())
}
