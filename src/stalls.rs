//! The answers on one HTTP/2 connection, and whether the client takes them.
//!
//! # Why
//!
//! Each stream has a window of its own: a client can leave one closed for ever while its connection
//! is well. Hyper asks a body for more only when there is room for it, so a body that has given
//! something, and is asked for nothing for long, belongs to a stream that has stalled.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Not since any time.
const NEVER: u64 = u64::MAX;

/// The answers on one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    start: Instant,
    open: Arc<Mutex<Vec<Weak<AtomicU64>>>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { start: Instant::now(), open: Arc::default() }
    }
}

impl Streams {
    /// Watches whether `body` is taken.
    pub(crate) fn watch(&self, body: Body) -> Body {
        let given_ms = Arc::new(AtomicU64::new(NEVER));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&given_ms));
        Body::new(Watched { body, start: self.start, given_ms })
    }

    /// Whether one of them was given something, and then asked for nothing for so long.
    pub(crate) fn have_stalled(&self, limit: Duration) -> bool {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(Weak::upgrade).any(|given_ms| {
            let since_ms = now_ms.saturating_sub(given_ms.load(Ordering::Relaxed));
            u128::from(since_ms) > limit.as_millis()
        })
    }
}

/// A body that notes when it last gave something and was not asked for more since.
struct Watched {
    body: Body,
    start: Instant,
    given_ms: Arc<AtomicU64>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let given_ms = match &polled {
            Poll::Ready(Some(_)) => self.start.elapsed().as_millis() as u64,
            Poll::Ready(None) | Poll::Pending => NEVER,
        };
        self.given_ms.store(given_ms, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
