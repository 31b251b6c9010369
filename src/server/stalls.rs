//! The answers on one HTTP/2 connection, and whether the client takes them.
//!
//! # Why
//!
//! Each stream has its own window. A client can leave one closed for ever while its connection
//! works. Hyper polls a body only when there is room for its next bytes. So if a body is not polled
//! for a long time after its head or its last bytes, its stream has stalled.
//!
//! Hyper has no call to end such a stream, and waits for room before anything else. But it serves
//! each stream in a task of its own, which is started here. Aborting the task ends the stream with
//! `CANCEL`, and nothing else on the connection.

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

/// The value of `at_ms` while the broker has nothing to send.
const NEVER: u64 = u64::MAX;

/// The handle that aborts a stream's task; empty while the task is being started.
type StreamEnd = Arc<OnceLock<AbortHandle>>;

tokio::task_local! {
    /// The handle of the task that runs.
    static STREAM: StreamEnd;
}

/// An executor that starts a task for each stream, which can be aborted alone.
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
    open: Arc<Mutex<OpenStreams>>,
}

/// The open answers, and some that have ended.
#[derive(Debug, Default)]
struct OpenStreams {
    given: Vec<Weak<Given>>,
    /// The length at which ended answers are removed: twice the number that was open the last time,
    /// so that a request costs a look at two of them.
    max_len: usize,
}

impl OpenStreams {
    fn add(&mut self, given: Weak<Given>) {
        if self.given.len() >= self.max_len {
            self.given.retain(|other| other.strong_count() > 0);
            self.max_len = 2 * self.given.len() + 1;
        }
        self.given.push(given);
    }
}

/// The time at which a body last gave data, if it was not polled since, and the stream's handle.
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
    /// Watches whether the client takes `body`. Must be called in the task that serves the stream.
    pub(crate) fn watch(&self, body: Body) -> Body {
        let stream = STREAM.try_with(StreamEnd::clone).ok();
        // The head counts as given: with a closed window, the body is never polled.
        let at_ms = AtomicU64::new(self.start.elapsed().as_millis() as u64);
        let given = Arc::new(Given { at_ms, stream });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).add(Arc::downgrade(&given));
        Body::new(Watched { body, start: self.start, given })
    }

    /// Ends the streams whose body gave data and was then not polled for longer than `limit`.
    /// Returns the number of ended streams.
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

/// A body that notes when it last gave data, until it is polled again.
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
