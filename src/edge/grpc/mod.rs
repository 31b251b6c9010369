//! The gRPC edge: three services over the broker, for those who publish, those who read, and those
//! who look after it.
//!
//! # Why
//!
//! A proxy that knows paths alone can let a client publish and not read, or read and not delete:
//! each service has a path of its own.

mod admin;
mod listing;
mod pages;
mod publisher;
mod subscriber;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status};

use super::budget::{Held, Share};
use super::clients::{self, Peer};
use super::served::admin_service_server::AdminServiceServer;
use super::served::publisher_service_server::PublisherServiceServer;
use super::served::subscriber_service_server::SubscriberServiceServer;
use super::{FollowConfig, wire};
use crate::broker::{Broker, LimitsConfig};
use crate::error::{Error, Result};

pub use self::admin::GrpcAdmin;
pub use self::publisher::GrpcPublisher;
pub use self::subscriber::GrpcSubscriber;

/// What a message may take besides its events' bytes: names, lengths, the topic.
const MESSAGE_SLACK_BYTES: u64 = 1 << 20;

/// The descriptors of the protos, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/leftoff_descriptor.bin"));

/// The full names of the services, as the health service knows them.
pub const NAMES: [&str; 3] = [
    <PublisherServiceServer<GrpcPublisher> as NamedService>::NAME,
    <SubscriberServiceServer<GrpcSubscriber> as NamedService>::NAME,
    <AdminServiceServer<GrpcAdmin> as NamedService>::NAME,
];

/// The path of `PublishStream`.
pub(crate) const PUBLISH_STREAM: &str = "/leftoff.v1.PublisherService/PublishStream";

/// What a service streams.
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The largest message that is taken.
pub(super) fn max_message_bytes(limits: &LimitsConfig) -> u64 {
    limits.max_batch_bytes + MESSAGE_SLACK_BYTES
}

/// All three services, ready to be served by tonic, or to be mounted in an axum router.
pub fn routes(broker: Broker, config: FollowConfig) -> Routes {
    Routes::new(publisher(broker.clone(), config.clone()))
        .add_service(subscriber(broker.clone(), config))
        .add_service(admin(broker))
}

/// The service of those who publish, for a server that mounts it by itself.
pub fn publisher(broker: Broker, config: FollowConfig) -> PublisherServiceServer<GrpcPublisher> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    wire::allow_events(broker.limits().max_batch_events);
    PublisherServiceServer::new(GrpcPublisher { broker, config })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// The service of those who read, for a server that mounts it by itself.
pub fn subscriber(broker: Broker, config: FollowConfig) -> SubscriberServiceServer<GrpcSubscriber> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    SubscriberServiceServer::new(GrpcSubscriber { broker, config })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// The service of those who look after the broker, for a server that mounts it by itself.
pub fn admin(broker: Broker) -> AdminServiceServer<GrpcAdmin> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    AdminServiceServer::new(GrpcAdmin { broker })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// What tonic answers before a service is asked, in our words.
pub(crate) fn mend(response: axum::response::Response) -> axum::response::Response {
    let status = Status::from_header_map(response.headers());
    let Some(status) = status.filter(|status| status.code() == Code::OutOfRange) else {
        return response;
    };
    let mended = super::codec::mend(status);
    if mended.code() == Code::OutOfRange { response } else { mended.into_http() }
}

/// Runs `call` for as long as the client said that it waits.
async fn within<T>(
    deadline: Option<Duration>,
    call: impl Future<Output = Result<T>>,
) -> Result<T, Status> {
    let Some(limit) = deadline else { return call.await.map_err(Status::from) };
    let outcome = tokio::time::timeout(limit, call).await;
    outcome.unwrap_or(Err(deadline_exceeded(limit))).map_err(Status::from)
}

fn deadline_exceeded(limit: Duration) -> Error {
    Error::DeadlineExceeded { limit_ms: limit.as_millis() as u64 }
}

/// The share of the client that asks, of the memory for clients.
fn share<T>(request: &Request<T>) -> Share {
    clients::share(request.extensions().get::<Peer>())
}

/// An answer that holds its memory until it is sent: what it holds already, or as much as its bytes
/// take if that is more.
fn holding<M: prost::Message>(message: M, mut held: Held) -> Result<Response<M>, Status> {
    // A page is counted already; with events that are much in their messages, for more.
    let missing = message.encoded_len().saturating_sub(held.size_bytes());
    match held.size_bytes() {
        0 => held.grow(missing)?,
        _ => held.count(missing),
    }
    let mut response = Response::new(message);
    response.extensions_mut().insert(Arc::new(held));
    Ok(response)
}

/// Ends `responses` when the call's deadline passes.
fn until<T: Send + 'static>(
    deadline: Option<Duration>,
    responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Responses<T> {
    let Some(limit) = deadline else { return Box::pin(responses) };
    let at = Instant::now() + limit;
    let responses = Box::pin(responses);
    Box::pin(stream::unfold(Some(responses), move |responses| async move {
        let mut responses = responses?;
        let next = tokio::time::timeout_at(at, futures_util::StreamExt::next(&mut responses));
        match next.await {
            Ok(Some(response)) => Some((response, Some(responses))),
            Ok(None) => None,
            Err(_elapsed) => Some((Err(deadline_exceeded(limit).into()), None)),
        }
    }))
}
