//! One call: its deadline, and the memory that its answer holds.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use http::request::Parts as RequestHead;
use http::{Method, Uri, Version};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::edge::Edge;
use crate::edge::budget::{Held, Share};
use crate::edge::clients::{self, Peer};
use crate::edge::permit::Permit;
use crate::error::{Error, Result};

/// The responses of a streaming call.
pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Runs `call`, until the client's deadline.
pub(crate) async fn within<T>(
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

/// Asks the hooks about the caller of a call at `path`, before anything is done for it.
///
/// # Errors
///
/// As [`Permit::ask`].
pub(super) async fn permit<T>(
    edge: &Edge,
    request: &Request<T>,
    path: &'static str,
) -> Result<Permit> {
    Permit::ask(edge, &head(request, path)).await
}

/// Returns the head of a call at `path`.
pub(crate) fn head<T>(request: &Request<T>, path: &'static str) -> RequestHead {
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.method = Method::POST;
    head.version = Version::HTTP_2;
    head.uri = Uri::from_static(path);
    head.headers = request.metadata().clone().into_headers();
    head.extensions = request.extensions().clone();
    head
}

/// Returns the client's share of the memory for clients.
pub(super) fn share<T>(request: &Request<T>) -> Share {
    clients::share(request.extensions().get::<Peer>())
}

/// Returns an answer that holds its memory until it is sent: `held`, and as much as the message
/// takes beyond it.
pub(super) fn holding<M: prost::Message>(
    message: M,
    mut held: Held,
) -> Result<Response<M>, Status> {
    // A page is counted already. The rest of its message is counted even if there is no room.
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
pub(super) fn until<T: Send + 'static>(
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
