//! Requests of a connection that go on by themselves.
//!
//! # Why
//!
//! A request may read the log, and holds a turn at the disk meanwhile. The task of its connection
//! polls nothing while it writes to a client that takes nothing, and a stream that answers in order
//! looks at its oldest request alone. A request that is not polled would keep its turn, and others
//! from the disk. So a request that is not done at once has a task of its own. Connections bound
//! the number of their requests in flight by `follow.max_in_flight`.

use std::pin::Pin;
use std::task::Poll;

use futures_util::poll;
use tokio_util::task::AbortOnDropHandle;

use crate::polls::{self, Task, timed};

/// A request in flight.
pub(in crate::edge) type BegunChange<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Begins a request: when this returns, the request is in line before all that are begun later. It
/// is given up when what this returns is dropped.
pub(in crate::edge) async fn begin<T: Send + 'static>(
    task: Task,
    request: impl Future<Output = T> + Send + 'static,
) -> BegunChange<T> {
    let mut request = Box::pin(request);
    if let Poll::Ready(done) = poll!(request.as_mut()) {
        return Box::pin(std::future::ready(done));
    }
    Box::pin(polls::joined(AbortOnDropHandle::new(tokio::spawn(timed(task, request)))))
}
