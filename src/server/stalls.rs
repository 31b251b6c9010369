//! The answers on one HTTP/2 connection, and whether the client takes them.
//!
//! # Why
//!
//! Each stream has a window of its own: a client can leave one closed for ever while its connection
//! is well. Hyper asks a body for more only when there is room for it, so a body that is asked for
//! nothing for long, since it gave something or since its head was given, belongs to a stream that
//! has stalled. Hyper has no
//! word to end such a stream: it waits for room before anything else. But it has each stream served
//! by a task of its own, which is started here; the end of the task is the end of the stream, with
//! `CANCEL`, and of nothing else on the connection.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use tokio::task::AbortHandle;

use crate::polls::{Task, timed};

/// Not since any time.
const NEVER: u64 = u64::MAX;

/// Ends the task that serves a stream; empty for the moment in which the task is started.
type StreamEnd = Arc<OnceLock<AbortHandle>>;

tokio::task_local! {
    /// Of the stream that the task serves.
    static STREAM: StreamEnd;
}

/// Starts a task for each stream, which can be ended alone.
#[derive(Debug, Clone)]
pub(crate) struct StreamTasks;

impl<F> Executor<F> for StreamTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, serve: F) {
        let end = StreamEnd::default();
        let task = tokio::spawn(STREAM.scope(end.clone(), timed(Task::Stream, serve)));
        end.get_or_init(|| task.abort_handle());
    }
}

/// The answers on one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    start: Instant,
    open: Arc<Mutex<Open>>,
}

/// Those that are open, and some that were.
#[derive(Debug, Default)]
struct Open {
    given: Vec<Weak<Given>>,
    /// How many there may be before those that have ended are looked for: twice as many as were
    /// open then, so that a request costs a look at two of them.
    max_len: usize,
}

impl Open {
    fn add(&mut self, given: Weak<Given>) {
        if self.given.len() >= self.max_len {
            self.given.retain(|other| other.strong_count() > 0);
            self.max_len = 2 * self.given.len() + 1;
        }
        self.given.push(given);
    }
}

/// When a stream was given something that it did not ask for more after since, and how to end it.
#[derive(Debug)]
struct Given {
    at_ms: AtomicU64,
    stream: Option<StreamEnd>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { start: Instant::now(), open: Arc::default() }
    }
}

impl Streams {
    /// Watches whether `body` is taken, in the task that serves its stream.
    pub(crate) fn watch(&self, body: Body) -> Body {
        let stream = STREAM.try_with(StreamEnd::clone).ok();
        // Its head is given already: with a window of nothing, no more is ever asked for.
        let at_ms = AtomicU64::new(self.start.elapsed().as_millis() as u64);
        let given = Arc::new(Given { at_ms, stream });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).add(Arc::downgrade(&given));
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
        let given = open.given.iter().filter_map(Weak::upgrade);
        let stalled: Vec<_> = given.filter(has_stalled).collect();
        drop(open);
        stalled
            .iter()
            .filter_map(|given| given.stream.as_ref()?.get())
            .for_each(AbortHandle::abort);
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
