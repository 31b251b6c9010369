//! The HTTP edge: one resource for a topic's events, in the form that `Accept` asks for.

pub(in crate::edge) mod accept;
pub(in crate::edge) mod asked;
mod coding;
mod events;
pub(in crate::edge) mod ignored;
mod lines;
mod listing;
mod many;
mod offered;
mod openapi;
pub(in crate::edge) mod page_body;
mod publish;
pub(in crate::edge) mod query;
pub(in crate::edge) mod request;
pub(in crate::edge) mod spare;
pub(in crate::edge) mod tag;
mod topics;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use http::{HeaderMap, StatusCode, Uri};
use tonic::Status;
use tower::util::MapResponseLayer;

use self::request::Edge;
use crate::broker::Broker;
use crate::edge::config::FollowConfig;
use crate::edge::counters::Counters;
use crate::edge::{status, websocket};

/// Returns the routes, ready to be mounted in any axum router.
pub fn router(broker: Broker, config: FollowConfig) -> Router {
    counted(broker, config, Arc::default())
}

/// Returns the routes as [`router`] does, with the server's counters.
pub(crate) fn counted(broker: Broker, config: FollowConfig, counters: Arc<Counters>) -> Router {
    let document = openapi::routes(broker.limits(), &config);
    let edge = Edge { broker, config, counters };
    let coded = middleware::from_fn_with_state(edge.clone(), coding::serve);
    Router::new()
        .route(
            "/v1/topics/{topic}/events",
            get(events::read).post(publish::publish).delete(topics::purge),
        )
        .route("/v1/events", get(many::read).post(many::read_posted))
        .route("/v1/ws", get(websocket::open))
        .merge(topics::routes())
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

/// Answers requests with an unknown path. A gRPC call gets 200, with the status in the head.
/// Source: the gRPC protocol over HTTP/2.
pub(crate) async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    if status::is_grpc(&headers) {
        let call = uri.path().trim_start_matches('/');
        return Status::unimplemented(format!("{call:?} is not a call of this server")).into_http();
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
