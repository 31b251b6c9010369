//! The HTTP edge of connections: who is connected, at this node or at another one of its fleet.

#[cfg(feature = "fleet")]
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Router};
use bytes::Bytes;
use http::{StatusCode, Uri, header};
use serde::{Deserialize, Serialize};

#[cfg(feature = "fleet")]
use crate::broker::Broker;
use crate::edge::Edge;
#[cfg(feature = "fleet")]
use crate::edge::clients::Clients;
use crate::edge::clients::{Peer, share};
use crate::edge::http::listing;
use crate::edge::http::page_body;
use crate::edge::http::query::Query;
use crate::edge::http::spare::Purpose;
use crate::edge::http::topics::list_limit;
use crate::edge::permit::Permit;
use crate::edge::status;
use crate::error::{Error, Result};

/// The kind of the questions that nodes ask each other about connections.
const QUESTIONS: &str = "connections";

/// The longest list that one node tells another.
#[cfg(feature = "fleet")]
const MAX_TOLD_BYTES: usize = 8 << 20;

/// What a node asks another one. Written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ConnectionQuestion {
    List { after: u64, limit: usize },
    End(u64),
}

/// Returns the routes.
pub(in crate::edge) fn routes() -> Router<Edge> {
    Router::new()
        .route("/v1/connections", get(connections))
        .route("/v1/connections/{connection}", delete(end_connection))
}

/// The connections that other nodes of the fleet are told of, for as long as this value lives.
#[cfg(feature = "fleet")]
pub(crate) struct ToldConnections {
    clients: Arc<Clients>,
    broker: Broker,
}

/// Has other nodes of the fleet told of these connections, if callers of this one may be, and nodes
/// know each other: whoever is told may end them, too.
#[cfg(feature = "fleet")]
pub(crate) fn tell_other_nodes(edge: &Edge, clients: Arc<Clients>) -> Option<Arc<ToldConnections>> {
    let is_open = edge.config.list_connections && !edge.has_hooks();
    let may_tell = is_open || (are_listed(edge) && edge.fleet()?.has_secret());
    if edge.fleet().is_none() || !may_tell {
        return None;
    }
    let told = Arc::new(ToldConnections { clients, broker: edge.broker.clone() });
    // The broker keeps what answers, and must not keep itself alive.
    let answering = Arc::downgrade(&told);
    edge.broker.answer_for_node(
        QUESTIONS,
        Arc::new(move |question| {
            let told = answering.upgrade();
            Box::pin(async move {
                let told = told.ok_or(Error::ShuttingDown)?;
                answer(&told.clients, told.broker.clone(), &question).await
            })
        }),
    );
    Some(told)
}

/// Answers a question of another node.
#[cfg(feature = "fleet")]
async fn answer(clients: &Arc<Clients>, broker: Broker, question: &[u8]) -> Result<Bytes> {
    let question = serde_json::from_slice(question)
        .map_err(|error| Error::invalid("question", error.to_string()))?;
    match question {
        ConnectionQuestion::End(id) => Ok(Bytes::from(clients.end(id).to_string())),
        ConnectionQuestion::List { after, limit } => {
            let mut text = Vec::new();
            for piece in listing::connections(clients, broker, after, limit) {
                text.extend(piece);
                if text.len() > MAX_TOLD_BYTES {
                    let what = "bytes of connections; ask for fewer at a time";
                    return Err(Error::over(what, text.len(), MAX_TOLD_BYTES));
                }
                tokio::task::yield_now().await;
            }
            Ok(text.into())
        }
    }
}

/// Lists the connections, with their addresses. Off unless `follow.list_connections` is set, or
/// hooks say who administers.
async fn connections(
    State(edge): State<Edge>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    permit.check_administers().await?;
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let limit = list_limit(&mut query)?;
    let after = query.take_number("after")?.unwrap_or(0);
    let node = query.take("node");
    query.finish("after, limit, node")?;
    let Some(peer) = listing_peer(&edge, peer) else { return Ok(list_is_off()) };
    if let Some(node) = another(&edge, node)? {
        let answer = ask(&edge, &node, ConnectionQuestion::List { after, limit }).await;
        return Ok(answer.map_or_else(unanswered, |list| {
            ([(header::CONTENT_TYPE, "application/json")], list).into_response()
        }));
    }
    let connections = listing::connections(&peer.clients, edge.broker, after, limit);
    page_body::answer(connections, &share(Some(&peer))).await
}

/// Ends a connection. Its client may come back: a WebSocket is told so.
async fn end_connection(
    State(edge): State<Edge>,
    path: std::result::Result<Path<u64>, PathRejection>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    permit.check_administers().await?;
    let mut query = Query::parse(uri.query(), Purpose::Change)?;
    let node = query.take("node");
    query.finish("node")?;
    let Path(id) = path.map_err(|error| Error::invalid("connection", error.body_text()))?;
    let Some(peer) = listing_peer(&edge, peer) else { return Ok(list_is_off()) };
    let has_ended = match another(&edge, node)? {
        None => peer.clients.end(id),
        Some(node) => match ask(&edge, &node, ConnectionQuestion::End(id)).await {
            Ok(answer) => &*answer == b"true",
            Err(problem) => return Ok(unanswered(problem)),
        },
    };
    if !has_ended {
        let detail = format!("there is no connection {id}");
        return Ok(status::plain_problem(StatusCode::NOT_FOUND, &detail));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Whether callers may see connections at all.
fn are_listed(edge: &Edge) -> bool {
    edge.config.list_connections || edge.has_hooks()
}

/// Returns the peer of a caller who may see connections; `None` if nobody may.
fn listing_peer(edge: &Edge, peer: Option<Extension<Peer>>) -> Option<Peer> {
    peer.filter(|_| are_listed(edge)).map(|Extension(peer)| peer)
}

fn list_is_off() -> Response {
    let detail = "the list is off; set follow.list_connections to turn it on";
    status::plain_problem(StatusCode::FORBIDDEN, detail)
}

/// Returns the name of the node that a request is about; `None` if that is this one.
///
/// # Errors
///
/// [`Error::Invalid`]: this broker is no node of a fleet.
fn another(edge: &Edge, node: Option<String>) -> Result<Option<String>> {
    match (node, edge.fleet()) {
        (Some(node), Some(fleet)) => Ok(Some(node).filter(|node| node != fleet.name())),
        (Some(_), None) => Err(Error::invalid("node", "this broker is no node of a fleet")),
        (None, _) => Ok(None),
    }
}

/// Asks another node.
async fn ask(
    edge: &Edge,
    node: &str,
    question: ConnectionQuestion,
) -> std::result::Result<Bytes, String> {
    let Some(fleet) = edge.fleet() else { return Err("there are no other nodes".to_owned()) };
    let question = serde_json::to_vec(&question).map_err(|error| error.to_string())?;
    fleet.ask(node, QUESTIONS, question.into()).await
}

fn unanswered(problem: String) -> Response {
    status::plain_problem(StatusCode::BAD_GATEWAY, &problem)
}
