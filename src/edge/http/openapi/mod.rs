//! The OpenAPI 3.1 document of HTTP, served at `/openapi.json`: each path, parameter, header and
//! answer.
//!
//! # Why
//!
//! The document is built by the code, from the same limits that requests are checked against.
//! Macros at the handlers would not work: several handlers serve one operation. A test compares its
//! paths and methods with those of the router. Schemathesis sends requests that the document allows
//! or forbids, and compares the answers (`tests/suite/openapi.rs`).

mod access;
mod consumers;
mod follow;
mod inboxes;
mod limits;
mod operations;
mod overview;
mod parameters;
mod shapes;
mod webhooks;
mod work;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::header;
use utoipa::openapi::path::PathItemBuilder;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder, tag::TagBuilder};

use self::limits::Limits;
use crate::edge::Edge;

const DESCRIPTION: &str = "An event log with replay: publish durably, follow, and resume from any \
    place. A `HEAD` is answered as the `GET` of its path, without the body. A body may have a \
    `Content-Encoding` of `gzip`, `deflate`, `br` or `zstd`; the limits hold for the decoded body. \
    JSON of a kilobyte or more is sent as `zstd` or `gzip` if `Accept-Encoding` lists one of them \
    (`zstd` where it is compiled in); streams are never compressed. Names in a query that only \
    make a URL unique are ignored: where something is read, `_`, `_dc`, `cachebust`, \
    `cachebuster`, `cache_buster`, `cb`, `nocache`, `no_cache`, `rand`, `random` and `rnd`; on a \
    stream `_`, `r`, `padding` and `evs_preamble`; on a publish `_`; on any other change none. Any \
    other name that is not described is refused with 400, except on a stream, which tells it in \
    `Leftoff-Ignored`.";

/// Returns the route of the document.
pub(in crate::edge) fn routes(edge: &Edge) -> Router<Edge> {
    let (publish, follow) = (edge.broker.limits(), &edge.config);
    let has_access = edge.has_access_control();
    let has_consumers = edge.consumers_if_any().is_some();
    let has_webhooks = edge.has_webhooks();
    let limits = Limits { publish, follow, has_access, has_consumers, has_webhooks };
    let document = document(&limits);
    let text = Bytes::from(document.to_json().unwrap_or_default());
    let serve = async move || ([(header::CONTENT_TYPE, "application/json")], text);
    Router::new().route("/openapi.json", get(serve))
}

fn document(limits: &Limits<'_>) -> OpenApi {
    let mut paths = PathsBuilder::new();
    let of_access = limits.has_access.then(access::all).unwrap_or_default();
    let of_consumers = limits.has_consumers.then(consumers::all).unwrap_or_default();
    let of_work = limits.has_consumers.then(work::all).unwrap_or_default();
    let of_webhooks = limits.has_webhooks.then(webhooks::all).unwrap_or_default();
    let of_consumers = of_consumers.into_iter().chain(of_work);
    let of_some = of_consumers.chain(of_access).chain(of_webhooks);
    let all = operations::all(limits).into_iter().chain(follow::all(limits));
    let all = all.chain(overview::all()).chain(of_some);
    for (path, operations) in all {
        let item = operations
            .into_iter()
            .fold(PathItemBuilder::new(), |item, (method, what)| item.operation(method, what));
        paths = paths.path(path, item.build());
    }
    let mut components = shapes::components(limits);
    let of_all = follow::shapes(limits).into_iter().chain(overview::shapes());
    components.schemas.extend(of_all.map(|(name, shape)| (name.to_owned(), shape.into())));
    let mut tags = operations::TAGS.to_vec();
    if limits.has_access {
        tags.push(access::TAG);
        let shapes = access::shapes().map(|(name, shape)| (name.to_owned(), shape.into()));
        components.schemas.extend(shapes);
    }
    if limits.has_consumers {
        tags.extend([consumers::TAG, work::TAG]);
        let shapes = consumers::shapes().into_iter().chain(work::shapes());
        components.schemas.extend(shapes.map(|(name, shape)| (name.to_owned(), shape.into())));
    }
    if limits.has_webhooks {
        tags.push(webhooks::TAG);
        let shapes = webhooks::shapes().into_iter();
        components.schemas.extend(shapes.map(|(name, shape)| (name.to_owned(), shape.into())));
    }
    let info = InfoBuilder::new()
        .title("Leftoff")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION));
    let tag =
        |(name, text): (&str, &str)| TagBuilder::new().name(name).description(Some(text)).build();
    OpenApiBuilder::new()
        .info(info.build())
        .paths(paths.build())
        .components(Some(components))
        .tags(Some(tags.into_iter().map(tag)))
        .build()
}
