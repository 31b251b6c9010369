//! The answers on one HTTP/2 connection, and whether the client takes them.
//!
//! # Why
//!
//! Each stream has a window of its own: a client can leave one closed for ever while its connection
//! is well. Hyper asks a body for more only when there is room for it, so a body that has given
//! something, and is asked for nothing for long, belongs to a stream that has stalled. Hyper has no
//! word to end such a stream: it waits for room before anything else. But it has each stream served
//! by a task of its own, which is started here; the end of the task is the end of the stream, with
//! `CANCEL`, and of nothing else on the connection.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

use crate::polls::{Task, timed};

/// Not since any time.
const NEVER: u64 = u64::MAX;

tokio::task_local! {
    /// Ends the task that serves a stream: held by it.
    static STREAM: CancellationToken;
}

/// Starts a task for each stream, which can be ended alone.
#[derive(Debug, Clone)]
pub(crate) struct StreamTasks;

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, serve: F) {
        let ended = CancellationToken::new();
        let serve = timed(Task::Stream, serve);
        tokio::spawn(STREAM.scope(ended.clone(), async move {
            ended.run_until_cancelled_owned(serve).await;
        }));
    }
}

/// The answers on one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    start: Instant,
    open: Arc<Mutex<Vec<Weak<Given>>>>,
}

/// When a stream was given something that it did not ask for more after since, and how to end it.
#[derive(Debug)]
struct Given {
    at_ms: AtomicU64,
    stream: Option<CancellationToken>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { start: Instant::now(), open: Arc::default() }
    }
}

impl Streams {
    /// Watches whether `body` is taken, in the task that serves its stream.
    pub(crate) fn watch(&self, body: Body) -> Body {
        let stream = STREAM.try_with(CancellationToken::clone).ok();
        let given = Arc::new(Given { at_ms: AtomicU64::new(NEVER), stream });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(&given));
        Body::new(Watched { body, start: self.start, given })
    }

    /// Ends those that were given something, and then asked for nothing for so long. Returns how
    /// many there were.
    pub(crate) fn end_stalled(&self, limit: Duration) -> usize {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let has_stalled = |given: &Arc<Given>| {
            let since_ms = now_ms.saturating_sub(given.at_ms.load(Ordering::Relaxed));
            u128::from(since_ms) > limit.as_millis()
        };
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let stalled: Vec<_> = open.iter().filter_map(Weak::upgrade).filter(has_stalled).collect();
        drop(open);
        stalled
            .iter()
            .filter_map(|given| given.stream.as_ref())
            .for_each(CancellationToken::cancel);
        stalled.len()
    }
}

/// A body that notes when it last gave something and was not asked for more since.
struct Watched {
    body: Body,
    start: Instant,
    given: Arc<Given>,
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
        self.given.at_ms.store(given_ms, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
