//! The gRPC edge: five services over the broker, for publishers, for readers, for what is kept for
//! readers, for shared work, and for administrators.
//!
//! # Why
//!
//! Each service has its own path. So a proxy that knows only paths can let a client publish and not
//! read, or read and not delete.

mod admin;
mod call;
mod checkpoints;
pub(in crate::edge) mod codec;
mod consumed;
mod consumers;
mod inboxes;
mod keeping;
mod listing;
mod messages;
mod paced;
mod pages;
pub(in crate::edge) mod paths;
mod publisher;
mod requests;
mod status;
mod subscriber;
mod work;
mod work_settings;
mod working;

use axum::middleware::from_fn_with_state;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};

use super::served::admin_service_server::AdminServiceServer;
use super::served::consumer_service_server::ConsumerServiceServer;
use super::served::publisher_service_server::PublisherServiceServer;
use super::served::subscriber_service_server::SubscriberServiceServer;
use super::served::work_service_server::WorkServiceServer;
use crate::edge::bounds::max_message_bytes;
use crate::edge::{Edge, Parts, permit};

pub use self::admin::GrpcAdmin;
pub(crate) use self::call::{head as call_head, within};
pub use self::consumers::GrpcConsumers;
pub(crate) use self::listing::limit as list_size;
pub(crate) use self::messages::deadline;
#[cfg(feature = "webhooks")]
pub(crate) use self::messages::filter;
pub(crate) use self::paced::paced;
pub(crate) use self::paths::FLEET_STREAM;
pub use self::publisher::GrpcPublisher;
pub use self::subscriber::GrpcSubscriber;
pub use self::work::GrpcWork;

/// The descriptors of the protos, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/leftoff_descriptor.bin"));

/// The descriptors of the service that a server with access control has besides.
pub(crate) const ACCESS_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/leftoff_access_descriptor.bin"));

/// The descriptors of the service that a server with webhooks has besides.
#[cfg(feature = "webhooks")]
pub(crate) const WEBHOOKS_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/leftoff_webhooks_descriptor.bin"));

/// The full names of the services, for the health service. Those of consumers and of shared work
/// are there if the [`Edge`] has consumers.
pub const NAMES: [&str; 5] = [
    <PublisherServiceServer<GrpcPublisher> as NamedService>::NAME,
    <SubscriberServiceServer<GrpcSubscriber> as NamedService>::NAME,
    <AdminServiceServer<GrpcAdmin> as NamedService>::NAME,
    <ConsumerServiceServer<GrpcConsumers> as NamedService>::NAME,
    <WorkServiceServer<GrpcWork> as NamedService>::NAME,
];

/// Returns all services, ready to be served by tonic, or to be mounted in an axum router.
pub fn routes(edge: &Edge) -> Routes {
    parts(edge, Parts::ALL)
}

/// Returns the services of some parts, as [`routes`] does: those of publishers and readers for
/// [`Parts::EVENTS`], that of administrators for [`Parts::ADMINISTRATION`], and those of consumers
/// and of shared work for [`Parts::CONSUMERS`], if the edge has consumers.
pub fn parts(edge: &Edge, parts: Parts) -> Routes {
    let mut routes = Routes::default();
    if parts.has(Parts::EVENTS) {
        routes = routes.add_service(publisher(edge)).add_service(subscriber(edge));
    }
    if parts.has(Parts::ADMINISTRATION) {
        routes = routes.add_service(admin(edge));
    }
    let has_consumers = parts.has(Parts::CONSUMERS) && edge.consumers_if_any().is_some();
    if has_consumers {
        routes = routes.add_service(consumers(edge)).add_service(work(edge));
    }
    let has_services =
        parts.has(Parts::EVENTS) || parts.has(Parts::ADMINISTRATION) || has_consumers;
    if has_services { guarded(edge, routes) } else { routes }
}

/// Returns services with the question around them who the caller is, before the body is read. There
/// must be one: a layer around no route at all would panic.
pub(crate) fn guarded(edge: &Edge, routes: Routes) -> Routes {
    if !edge.has_hooks() {
        return routes;
    }
    let asking = from_fn_with_state(edge.clone(), permit::before_body);
    routes.into_axum_router().route_layer(asking).into()
}

/// Returns the service of publishers, for a server that mounts it by itself. Then hooks are asked
/// when the first message has come; with [`routes`] and [`parts`], before any is read.
pub fn publisher(edge: &Edge) -> PublisherServiceServer<GrpcPublisher> {
    let limits = edge.broker.limits();
    let max_bytes = max_message_bytes(limits) as usize;
    requests::allow_events(limits.max_batch_events);
    PublisherServiceServer::new(GrpcPublisher { edge: edge.clone() })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Returns the service of readers, for a server that mounts it by itself, as [`publisher`].
pub fn subscriber(edge: &Edge) -> SubscriberServiceServer<GrpcSubscriber> {
    let max_bytes = max_message_bytes(edge.broker.limits()) as usize;
    SubscriberServiceServer::new(GrpcSubscriber { edge: edge.clone() })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Returns the service of administrators, for a server that mounts it by itself, as [`publisher`].
pub fn admin(edge: &Edge) -> AdminServiceServer<GrpcAdmin> {
    let max_bytes = max_message_bytes(edge.broker.limits()) as usize;
    AdminServiceServer::new(GrpcAdmin { edge: edge.clone() })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Returns the service of consumers, for a server that mounts it by itself, as [`publisher`].
pub fn consumers(edge: &Edge) -> ConsumerServiceServer<GrpcConsumers> {
    let max_bytes = max_message_bytes(edge.broker.limits()) as usize;
    ConsumerServiceServer::new(GrpcConsumers { edge: edge.clone() })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Returns the service of shared work, for a server that mounts it by itself, as [`publisher`].
pub fn work(edge: &Edge) -> WorkServiceServer<GrpcWork> {
    let max_bytes = max_message_bytes(edge.broker.limits()) as usize;
    WorkServiceServer::new(GrpcWork { edge: edge.clone() })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Replaces tonic's own answer to a message that is too large by the broker's.
pub(crate) fn mend(response: axum::response::Response) -> axum::response::Response {
    let status = Status::from_header_map(response.headers());
    let Some(status) = status.filter(|status| status.code() == Code::OutOfRange) else {
        return response;
    };
    let mended = crate::edge::grpc::codec::mend(status);
    if mended.code() == Code::OutOfRange { response } else { mended.into_http() }
}
