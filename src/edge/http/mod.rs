//! The HTTP edge: one resource for a topic's events, in the form that `Accept` asks for.

pub(in crate::edge) mod accept;
pub(in crate::edge) mod asked;
mod coding;
pub(crate) mod connections;
mod consumers;
pub(in crate::edge) mod counts;
mod digests;
mod events;
mod fan_out;
mod follow;
pub(in crate::edge) mod ignored;
mod inbox;
mod lines;
mod listing;
mod many;
mod offered;
mod openapi;
mod overview;
mod own_readers;
pub(in crate::edge) mod page_body;
mod publish;
pub(in crate::edge) mod query;
pub(in crate::edge) mod request;
pub(in crate::edge) mod spare;
mod static_file;
pub(in crate::edge) mod tag;
mod topics;
mod web;
mod work;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use http::{HeaderMap, StatusCode, Uri};
use tower::util::MapResponseLayer;

use crate::edge::permit::Permit;
use crate::edge::{Edge, Parts, error_form, status, websocket};
use crate::error::Result;

pub use self::own_readers::{AnswerOptions, page, sse};
pub(crate) use self::page_body::{answer, list};
pub(crate) use self::query::Query;
pub(crate) use self::request::whole;
pub(crate) use self::spare::Purpose;
pub(crate) use self::topics::list_limit;
pub use crate::edge::selection_forms::Format;

/// Returns all routes, ready to be mounted in a router with any state.
///
/// axum panics when two routers with the same path are merged. If the host has one of these paths,
/// make these routes the `fallback_service` of its router, or mount [`parts`] alone.
pub fn router<S: Clone + Send + Sync + 'static>(edge: &Edge) -> Router<S> {
    parts(edge, Parts::ALL)
}

/// Returns the routes of some parts, as [`router`] does.
pub fn parts<S: Clone + Send + Sync + 'static>(edge: &Edge, parts: Parts) -> Router<S> {
    let mut routes = Router::new();
    if parts.has(Parts::EVENTS) {
        routes = routes
            .route("/v1/topics/{topic}/events", get(events::read).post(publish::publish))
            .route("/v1/events", get(many::read).post(many::read_posted))
            .route("/v1/follow", post(follow::follow))
            .route("/v1/publish", post(fan_out::publish))
            .route("/v1/ws", get(websocket::open))
            .merge(topics::events());
    }
    if parts.has(Parts::CONSUMERS) && edge.consumers_if_any().is_some() {
        routes = routes.merge(consumers::routes()).merge(counts::routes()).merge(work::routes());
    }
    if parts.has(Parts::ADMINISTRATION) {
        routes = routes.merge(topics::administration()).merge(digests::routes());
    }
    if parts.has(Parts::OPERATIONS) {
        routes = routes
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .merge(topics::operations())
            .merge(connections::routes())
            .merge(overview::routes());
    }
    if parts.has(Parts::ALL) {
        routes = routes.merge(openapi::routes(edge)).merge(web::routes(edge));
    }
    mounted(edge, routes)
}

/// Returns routes with what all routes of the broker have around them: codings of bodies, answers
/// to other methods, and headers for caches.
pub(crate) fn mounted<S: Clone + Send + Sync + 'static>(
    edge: &Edge,
    routes: Router<Edge>,
) -> Router<S> {
    let coded = middleware::from_fn_with_state(edge.clone(), coding::serve);
    routes
        .method_not_allowed_fallback(other_method)
        .layer(coded)
        .layer(MapResponseLayer::new(tag::or_not_kept))
        .with_state(edge.clone())
}

/// Answers a method that a resource does not have. For a gRPC call there is no resource at all.
async fn other_method(uri: Uri, headers: HeaderMap) -> Response {
    error_form::of_unknown_call(&uri, &headers).unwrap_or_else(|| {
        status::plain_problem(StatusCode::METHOD_NOT_ALLOWED, "no such method on this resource")
    })
}

async fn ready(State(edge): State<Edge>, request: Request) -> Result<Response> {
    if edge.hooks.as_ref().is_some_and(|hooks| hooks.guards_readyz()) {
        let (head, _body) = request.into_parts();
        Permit::ask(&edge, &head).await?; // Whatever is granted is enough.
    }
    edge.broker.check_ready()?;
    match edge.fleet().map(|node| node.check_ready()) {
        Some(Err(reason)) => {
            Ok(status::plain_problem(StatusCode::SERVICE_UNAVAILABLE, &reason).into_response())
        }
        _ => Ok("ready\n".into_response()),
    }
}
