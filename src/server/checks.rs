//! The checks around all routes of a listener: host and origin, rates, and the memory of bodies.

use std::convert::Infallible;

use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::Route;
use tower::util::{MapRequestLayer, option_layer};
use tower::{Layer, Service};

use super::services::REFLECTION;
use crate::access::AccessConfig;
use crate::edge::grpc::FLEET_STREAM;
use crate::edge::rates::layer::LimitLayer;
use crate::edge::receiving;
use crate::error::Result;

/// Returns the checks of a listener as one layer: each further layer adds allocations to each
/// request, and more of them than the layer before. `is_local` says whether only programs of the
/// same machine reach the listener, `is_rated` whether its callers have rates.
///
/// # Errors
///
/// As [`AccessConfig::validate`].
pub(super) fn checks(
    access: &AccessConfig,
    is_local: bool,
    is_rated: bool,
) -> Result<impl RouteLayer + use<>> {
    let limit = option_layer(is_rated.then_some(LimitLayer));
    Ok((access.origins()?.guard(is_local), limit, MapRequestLayer::new(count)))
}

/// Counts the bytes of a request's body. Those of reflection are bounded by its service, and those
/// of another node by the broker's queue.
fn count(request: Request) -> Request {
    let path = request.uri().path();
    let is_counted = !path.starts_with(REFLECTION) && path != FLEET_STREAM;
    if is_counted { receiving::count(request) } else { request }
}

/// A layer that axum can put around routes. Every layer of tower that axum takes is one; the trait
/// is the name of axum's bounds.
pub trait RouteLayer:
    Layer<
        Route,
        Service: Service<
            Request,
            Response: IntoResponse + 'static,
            Error: Into<Infallible> + 'static,
            Future: Send + 'static,
        > + Clone
                     + Send
                     + Sync
                     + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<L> RouteLayer for L
where
    L: Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: Service<Request> + Clone + Send + Sync + 'static,
    <L::Service as Service<Request>>::Response: IntoResponse + 'static,
    <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
    <L::Service as Service<Request>>::Future: Send + 'static,
{
}
