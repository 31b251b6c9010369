//! A bound on what is being received: bytes of requests that are not whole yet, of all connections.
//!
//! # Why
//!
//! The queue of the broker is bounded, but a request takes its place in it only once it is whole. A
//! client that opens many streams and sends each of them all but the end would take as much memory
//! as it likes. Over the bound a request is refused at once, as if the queue were full, rather than
//! kept waiting: those that are half there could wait for one another.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::broker::{Ack, Broker, InOrder, Publish};
use crate::error::{Error, Result};

/// What may be being received, of all requests.
#[derive(Debug, Clone)]
pub(crate) struct Receiving(Arc<Semaphore>);

/// What one request has received, and not handed in yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Received(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Receiving {
    /// Up to this many bytes.
    pub(crate) fn new(max_bytes: u64) -> Self {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(max_bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// Has the body of a request counted.
    pub(crate) fn count(&self, mut request: Request) -> Request {
        let received = Received::default();
        request.extensions_mut().insert(received.clone());
        request.extensions_mut().insert(self.clone()); // For what it becomes.
        let budget = self.0.clone();
        request.map(|body| Body::new(Counted { body, budget, received }))
    }
}

impl Received {
    /// All that was received so far but for the last `size_bytes` is handed in, and counted
    /// elsewhere.
    pub(super) fn keep(&self, size_bytes: usize) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = held.as_mut().and_then(|held| held.split(size_bytes.min(held.num_permits())));
        *held = kept.filter(|kept| kept.num_permits() > 0);
    }

    fn add(&self, permit: OwnedSemaphorePermit) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(held) => held.merge(permit),
            none => *none = Some(permit),
        }
    }
}

/// A connection whose messages are counted as they arrive, until [`Self::release`].
#[derive(Debug)]
pub(super) struct CountedSocket<S> {
    socket: S,
    budget: Option<Receiving>,
    received: Received,
}

impl<S> CountedSocket<S> {
    /// Counts what `socket` receives, if there is a bound.
    pub(super) fn new(socket: S, budget: Option<Receiving>) -> Self {
        Self { socket, budget, received: Received::default() }
    }

    /// A message is whole, and counted elsewhere.
    pub(super) fn release(&self) {
        self.received.keep(0);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CountedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        let permits = u32::try_from(buffer.filled().len() - before).unwrap_or(u32::MAX);
        let Some(budget) = &self.budget else { return Poll::Ready(Ok(())) };
        match budget.0.clone().try_acquire_many_owned(permits) {
            Ok(permit) => {
                self.received.add(permit);
                Poll::Ready(Ok(()))
            }
            Err(_full) => Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A body whose bytes are counted as they arrive.
struct Counted {
    body: Body,
    budget: Arc<Semaphore>,
    received: Received,
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
        let permits = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        Poll::Ready(Some(match self.budget.clone().try_acquire_many_owned(permits) {
            Ok(permit) => {
                self.received.add(permit);
                Ok(frame)
            }
            Err(_full) => Err(axum::Error::new(Status::from(Error::Busy { waited_ms: 0 }))),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Publishes what was received as a whole: it counts as received until it has its place in the
/// queue.
///
/// # Errors
///
/// As [`Broker::publish`].
pub(super) async fn handed_in(
    broker: &Broker,
    publish: Publish,
    received: Option<Received>,
) -> Result<Ack> {
    let pending = broker.submit_in_order(publish, &InOrder::default()).await?;
    drop(received);
    pending.ack().await
}

/// Whether a body ended because too much was being received.
pub(super) fn busy(error: &axum::Error) -> Option<Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<Status>() {
            return Some(Error::Busy { waited_ms: 0 });
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_is_over_the_bound_is_refused_and_what_was_handed_in_makes_room() {
        let receiving = Receiving::new(100);
        let request = |size_bytes: usize| {
            let body = Body::from(vec![0; size_bytes]);
            receiving.count(Request::new(body))
        };
        let (first, body) = request(80).into_parts();
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 80);
        let error = request(30).into_body().collect().await.unwrap_err();
        assert!(matches!(busy(&error), Some(Error::Busy { .. })), "{error}");
        let received = first.extensions.get::<Received>().unwrap();
        received.keep(30);
        let error = request(80).into_body().collect().await.unwrap_err();
        assert!(matches!(busy(&error), Some(Error::Busy { .. })), "30 are held: {error}");
        received.keep(0);
        let (second, body) = request(100).into_parts();
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 100);
        drop(second);
        assert_eq!(receiving.0.available_permits(), 100, "it is given back with the request");
    }
}
