//! The HTTP edge of the overview: what those who operate the broker look at first, all topics with
//! their rates, sizes and readers, the consumers of one topic, and the node of a fleet.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::Uri;
use serde_json::{Value, json};

use crate::consumers::TopicReader;
use crate::edge::Edge;
use crate::edge::clients::Peer;
use crate::edge::consumers::answers;
use crate::edge::fleet;
use crate::edge::http::query::Query;
use crate::edge::http::spare::Purpose;
use crate::edge::overview::readers::FoundReaders;
use crate::edge::overview::topic_table::{TopicSearch, TopicSort};
use crate::edge::overview::{readers, report, topics};
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// The rows of a table, if the request names no number, and the most there can be.
const DEFAULT_ROWS: usize = 50;
pub(super) const MAX_ROWS: usize = 200;

/// Returns the routes of the overview.
pub(super) fn routes() -> Router<Edge> {
    Router::new()
        .route("/v1/cluster", get(cluster))
        .route("/v1/overview", get(overview))
        .route("/v1/overview/topics", get(all_topics))
        .route("/v1/overview/consumers", get(consumers))
}

async fn overview(
    State(edge): State<Edge>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    permit.check_administers().await?;
    Query::parse(uri.query(), Purpose::Page)?.finish("")?;
    let clients = peer.as_ref().map(|Extension(peer)| &*peer.clients);
    Ok(axum::Json(report::overview(&edge, clients).await).into_response())
}

/// Returns how the node is in its fleet, or that the broker is alone.
async fn cluster(State(edge): State<Edge>, permit: Permit, uri: Uri) -> Result<Response> {
    permit.check_administers().await?;
    Query::parse(uri.query(), Purpose::Page)?.finish("")?;
    Ok(axum::Json(fleet::told(edge.fleet().map(|it| &**it))).into_response())
}

async fn all_topics(
    State(edge): State<Edge>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    permit.check_administers().await?;
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let sort = query.take("sort").map(|name| TopicSort::named(&name)).transpose()?;
    let prefix = query.take("prefix").unwrap_or_default();
    let contains = query.take("contains").unwrap_or_default();
    let part = part(&mut query)?;
    query.finish("sort, prefix, contains, offset, limit")?;
    let search = TopicSearch { sort: sort.unwrap_or_default(), prefix, contains };
    let clients = peer.map(|Extension(peer)| peer.clients.clone());
    let rows = topics::rows(&edge, clients, search, part).await?;
    Ok(axum::Json(rows).into_response())
}

/// Returns the consumers of one topic, whosever they are.
async fn consumers(State(edge): State<Edge>, permit: Permit, uri: Uri) -> Result<Response> {
    permit.check_administers().await?;
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let topic = query.take("topic").ok_or_else(|| Error::invalid("topic", "is missing"))?;
    let part = part(&mut query)?;
    query.finish("topic, offset, limit")?;
    let FoundReaders { matching, readers, dead_letters } =
        readers::readers(&edge, TopicName::new(&topic)?, part).await?;
    let one = |TopicReader { info, lag }: &TopicReader| {
        let mut told = answers::consumer(info, edge.broker.epoch());
        told["lag"] = json!(lag);
        told
    };
    let consumers: Vec<Value> = readers.iter().map(one).collect();
    let told = json!({
        "consumers": consumers, "matching": matching, "dead_letters": dead_letters,
    });
    Ok(axum::Json(told).into_response())
}

/// Returns the part of a table that is asked for: how many rows to pass over, and how many to tell.
///
/// # Errors
///
/// [`Error::Invalid`]; [`Error::OverLimit`].
fn part(query: &mut Query) -> Result<(usize, usize)> {
    let offset = query.take_number("offset")?.unwrap_or(0);
    match query.take_number("limit")?.unwrap_or(DEFAULT_ROWS) {
        limit if limit > MAX_ROWS => Err(Error::over("limit", limit, MAX_ROWS)),
        limit => Ok((offset, limit)),
    }
}
