//! The HTTP edge of the overview: what those who operate the broker look at first, and all topics
//! with their rates, sizes and readers.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::Uri;

use crate::edge::Edge;
use crate::edge::clients::Peer;
use crate::edge::http::query::Query;
use crate::edge::http::spare::Purpose;
use crate::edge::overview::topic_table::{TopicSearch, TopicSort};
use crate::edge::overview::{report, topics};
use crate::edge::permit::Permit;
use crate::error::{Error, Result};

/// The rows of the table of topics, if the request names no number, and the most there can be.
const DEFAULT_ROWS: usize = 50;
pub(super) const MAX_ROWS: usize = 200;

/// Returns the routes of the overview.
pub(super) fn routes() -> Router<Edge> {
    Router::new().route("/v1/overview", get(overview)).route("/v1/overview/topics", get(all_topics))
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
    let offset = query.take_number("offset")?.unwrap_or(0);
    let limit = match query.take_number("limit")?.unwrap_or(DEFAULT_ROWS) {
        limit if limit > MAX_ROWS => return Err(Error::over("limit", limit, MAX_ROWS)),
        limit => limit,
    };
    query.finish("sort, prefix, contains, offset, limit")?;
    let search = TopicSearch { sort: sort.unwrap_or_default(), prefix, contains };
    let clients = peer.map(|Extension(peer)| peer.clients.clone());
    let rows = topics::rows(&edge, clients, search, (offset, limit)).await?;
    Ok(axum::Json(rows).into_response())
}
