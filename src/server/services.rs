//! The gRPC services that only a server has: health and reflection; and the services of a host.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use futures_util::StreamExt;
use http_body_util::Limited;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::util::MapRequestLayer;

use crate::broker::Broker;
use crate::edge::grpc;
use crate::error::{Error, Result};

/// The paths of the reflection service, and the bytes that one call may send to it. Questions are
/// short, but a stream of them may last as long as the client likes.
pub(super) const REFLECTION: &str = "/grpc.reflection.";
const MAX_REFLECTION_BYTES: usize = 256 << 10;

/// The health of the server and of each service, as `grpc.health.v1` tells it.
#[derive(Debug)]
pub(super) struct Health {
    reporter: HealthReporter,
    /// The names of the host's own services.
    others: Vec<&'static str>,
}

impl Health {
    /// Returns the names in the health service: the server as a whole (""), and each service.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once("").chain(grpc::NAMES).chain(self.others.iter().copied())
    }

    /// Sets whether the server and all its services serve.
    pub(super) async fn set(&self, status: ServingStatus) {
        for name in self.names() {
            self.reporter.set_service_status(name, status).await;
        }
    }

    /// Says that nothing is served any more. Watchers are told, and their calls end.
    pub(super) async fn end(mut self) {
        self.set(ServingStatus::NotServing).await;
        let names: Vec<&str> = self.names().collect();
        for name in names {
            self.reporter.clear_service_status(name).await;
        }
    }
}

/// Returns the services of health and reflection, for a server that serves the broker and `others`,
/// which `descriptors` describe.
///
/// # Errors
///
/// [`Error::Invalid`]: a descriptor is none.
pub(super) async fn operations(
    broker: &Broker,
    others: Vec<&'static str>,
    descriptors: &[&'static [u8]],
) -> Result<(Health, Router)> {
    let (reporter, service) = tonic_health::server::health_reporter();
    let health = Health { reporter, others };
    health.set(ServingStatus::Serving).await;
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(grpc::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        descriptors.iter().fold(builder, |builder, described| {
            builder.register_encoded_file_descriptor_set(described)
        })
    };
    let invalid = |error: tonic_reflection::server::Error| {
        Error::invalid("descriptors", format!("the reflection service refuses them: {error}"))
    };
    let current = reflection().build_v1().map_err(invalid)?;
    // Widely used clients, such as grpcui and older grpcurl, know only this version.
    let former = reflection().build_v1alpha().map_err(invalid)?;
    let broker = broker.clone();
    let end = move |request| end_when_draining(request, broker.clone());
    let reflection = routes_of(Routes::new(current).add_service(former));
    let reflection = reflection.layer(MapRequestLayer::new(end));
    Ok((health, routes_of(Routes::new(service)).merge(reflection)))
}

/// Returns gRPC services as routes.
pub(super) fn routes_of(routes: Routes) -> Router {
    routes.prepare().into_axum_router().reset_fallback()
}

/// Ends the body of a request when the broker stops. Otherwise a client of the reflection service
/// that keeps its stream open would delay the stop.
fn end_when_draining(request: Request, broker: Broker) -> Request {
    let draining = async move { broker.draining().await };
    request.map(|body| {
        let body = Body::new(Limited::new(body, MAX_REFLECTION_BYTES));
        Body::from_stream(body.into_data_stream().take_until(Box::pin(draining)))
    })
}
