//! What a rate refuses before a request is served, or while its body comes in.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::Either;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tower::Service;
use tower::layer::layer_fn;

use super::{CallerRates, Rate};
use crate::edge::clients::Peer;
use crate::edge::status;
use crate::error::{Error, Result};

/// A stream of publishes counts its messages one by one: each is refused alone.
const PUBLISH_STREAM: &str = "/leftoff.v1.BrokerService/PublishStream";

/// Serves only what the rates of its caller have room for; the rest is told when to come back.
pub(crate) fn limited(routes: Router) -> Router {
    routes.layer(layer_fn(|inner| Limited { inner }))
}

#[derive(Debug, Clone)]
struct Limited<S> {
    inner: S,
}

impl<S> Service<Request> for Limited<S>
where
    S: Service<Request, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let is_grpc = status::is_grpc(request.headers());
        match admit(request) {
            Ok(request) => Either::Left(self.inner.call(request)),
            Err(error) => Either::Right(ready(Ok(status::refused(is_grpc, error)))),
        }
    }
}

/// Counts a request, and its body: as a whole if it says how long it is.
fn admit(request: Request) -> Result<Request> {
    let Some(peer) = request.extensions().get::<Peer>() else { return Ok(request) };
    if !peer.rates().is_on() {
        return Ok(request);
    }
    let rates = peer.rates().clone();
    rates.take(Rate::Requests, 1)?;
    let has_own_count = request.uri().path() == PUBLISH_STREAM;
    if has_own_count || request.body().is_end_stream() || !rates.has(Rate::Bytes) {
        return Ok(request);
    }
    match request.body().size_hint().exact() {
        Some(size_bytes) => {
            rates.take(Rate::Bytes, usize::try_from(size_bytes).unwrap_or(usize::MAX))?;
            Ok(request)
        }
        None => Ok(request.map(|body| Body::new(Counted { body, rates, size_bytes: 0 }))),
    }
}

/// Why a body ended early, in the words of both protocols.
#[derive(Debug, thiserror::Error)]
#[error("{1}")]
struct Refused(#[source] Status, Error);

/// Whether a body ended because of a rate.
pub(in crate::edge) fn refusal(error: &axum::Error) -> Option<Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Refused(_, error)) = error.downcast_ref() {
            return Some(error.clone());
        }
        cause = error.source();
    }
    None
}

/// A body of unknown length, whose bytes are counted as they arrive.
struct Counted {
    body: Body,
    rates: CallerRates,
    /// Those that have arrived.
    size_bytes: usize,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        let size_bytes = frame.data_ref().map_or(0, Bytes::len);
        if size_bytes == 0 || self.rates.take(Rate::Bytes, size_bytes).is_ok() {
            self.size_bytes += size_bytes;
            return Poll::Ready(Some(Ok(frame)));
        }
        // It has to come again as a whole, so there has to be room for the whole.
        let whole = self.size_bytes + size_bytes;
        Poll::Ready(Some(match self.rates.take(Rate::Bytes, whole) {
            Ok(()) => {
                self.size_bytes = whole;
                Ok(frame)
            }
            Err(error) => Err(axum::Error::new(Refused(Status::from(error.clone()), error))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
