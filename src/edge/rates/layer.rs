//! Rate limits on requests, checked before a request is served and while its body comes in.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::Either;
use tower::{Layer, Service};

use super::{CallerRates, Rate};
use crate::edge::checked_body::checked;
use crate::edge::clients::Peer;
use crate::edge::grpc::paths::{CLIENT_STREAMS, FLEET_STREAM};
use crate::edge::refused::RefusalForm;
use crate::error::Result;

/// A layer that serves requests within their caller's rates, and refuses others with a time to
/// retry.
#[derive(Debug, Clone)]
pub(crate) struct LimitLayer;

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
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
        let form = RefusalForm::of(&request);
        match admit(request) {
            Ok(request) => Either::Left(self.inner.call(request)),
            Err(error) => Either::Right(ready(Ok(form.answer(error)))),
        }
    }
}

/// Counts a request and its body. A body of known length is counted as a whole.
fn admit(request: Request) -> Result<Request> {
    let Some(peer) = request.extensions().get::<Peer>() else { return Ok(request) };
    if !peer.rates().is_on() {
        return Ok(request);
    }
    let rates = peer.rates().clone();
    rates.take(Rate::Requests, 1)?;
    // A client's stream counts its messages one by one, and refuses each alone. The callers of
    // another node have had their rates there.
    let path = request.uri().path();
    let has_own_count = CLIENT_STREAMS.contains(&path) || path == FLEET_STREAM;
    if has_own_count || request.body().is_end_stream() || !rates.has(Rate::Bytes) {
        return Ok(request);
    }
    match request.body().size_hint().exact() {
        Some(size_bytes) => {
            rates.take(Rate::Bytes, usize::try_from(size_bytes).unwrap_or(usize::MAX))?;
            Ok(request)
        }
        None => Ok(request.map(|body| counted(body, rates))),
    }
}

/// Returns a body of unknown length whose bytes are counted as they arrive.
fn counted(body: Body, rates: CallerRates) -> Body {
    let mut arrived_bytes = 0;
    checked(body, move |size_bytes| {
        let all_bytes = arrived_bytes + size_bytes;
        if size_bytes > 0 && rates.take(Rate::Bytes, size_bytes).is_err() {
            // The client has to send the whole body again, so there must be room for the whole.
            rates.take(Rate::Bytes, all_bytes)?;
        }
        arrived_bytes = all_bytes;
        Ok(())
    })
}
