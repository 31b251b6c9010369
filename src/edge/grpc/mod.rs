//! The gRPC edge: three services over the broker, for publishers, for readers, and for
//! administrators.
//!
//! # Why
//!
//! Each service has its own path. So a proxy that knows only paths can let a client publish and not
//! read, or read and not delete.

mod admin;
mod call;
pub(in crate::edge) mod codec;
mod listing;
mod messages;
mod pages;
pub(in crate::edge) mod paths;
mod publisher;
mod subscriber;

use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};

use super::served::admin_service_server::AdminServiceServer;
use super::served::publisher_service_server::PublisherServiceServer;
use super::served::subscriber_service_server::SubscriberServiceServer;
use crate::broker::Broker;
use crate::edge::bounds::max_message_bytes;
use crate::edge::config::FollowConfig;
use crate::edge::wire;

pub use self::admin::GrpcAdmin;
pub use self::publisher::GrpcPublisher;
pub use self::subscriber::GrpcSubscriber;

/// The descriptors of the protos, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/leftoff_descriptor.bin"));

/// The full names of the services, for the health service.
pub const NAMES: [&str; 3] = [
    <PublisherServiceServer<GrpcPublisher> as NamedService>::NAME,
    <SubscriberServiceServer<GrpcSubscriber> as NamedService>::NAME,
    <AdminServiceServer<GrpcAdmin> as NamedService>::NAME,
];

/// Returns all three services, ready to be served by tonic, or to be mounted in an axum router.
pub fn routes(broker: Broker, config: FollowConfig) -> Routes {
    Routes::new(publisher(broker.clone(), config.clone()))
        .add_service(subscriber(broker.clone(), config))
        .add_service(admin(broker))
}

/// Returns the service of publishers, for a server that mounts it by itself.
pub fn publisher(broker: Broker, config: FollowConfig) -> PublisherServiceServer<GrpcPublisher> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    wire::allow_events(broker.limits().max_batch_events);
    PublisherServiceServer::new(GrpcPublisher { broker, config })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Returns the service of readers, for a server that mounts it by itself.
pub fn subscriber(broker: Broker, config: FollowConfig) -> SubscriberServiceServer<GrpcSubscriber> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    SubscriberServiceServer::new(GrpcSubscriber { broker, config })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// Returns the service of administrators, for a server that mounts it by itself.
pub fn admin(broker: Broker) -> AdminServiceServer<GrpcAdmin> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    AdminServiceServer::new(GrpcAdmin { broker })
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
