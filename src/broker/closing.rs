//! The progress of closing a broker, which its callers wait for. `ending.rs` does the closing.
//!
//! # Why
//!
//! Callers of `close` may give up waiting, and call again. So a thread of its own, the closer, does
//! the work: callers only wait for its end, and may come and go.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::busy::{Busy, BusyToken};

/// The threads of a broker.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) committer: JoinHandle<()>,
    pub(super) maintenance: JoinHandle<()>,
    pub(super) waker: JoinHandle<()>,
    pub(super) usher: JoinHandle<()>,
}

/// The progress of closing a broker. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Closing(Arc<ClosingInner>);

#[derive(Debug)]
struct ClosingInner {
    /// The threads, until somebody begins to close.
    threads: Mutex<Option<Threads>>,
    /// Whether all is closed, for callers that block, and for callers that do not.
    is_closed: Mutex<bool>,
    changed: Condvar,
    closed: CancellationToken,
}

impl Closing {
    pub(super) fn new(threads: Threads) -> Self {
        Self(Arc::new(ClosingInner {
            threads: Mutex::new(Some(threads)),
            is_closed: Mutex::new(false),
            changed: Condvar::new(),
            closed: CancellationToken::new(),
        }))
    }

    /// Has a thread of its own call `end`, which closes the broker. Does nothing if closing has
    /// begun already. If the system has no thread for that, `end` is called here, and all is closed
    /// when this returns.
    pub(super) fn begin(&self, busy: &Busy, end: impl FnOnce(Threads) + Send + 'static) {
        let threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        let told = ClosingEnd(self.clone(), busy.begin());
        let work = Arc::new(Mutex::new(Some(move || {
            let _told = told;
            end(threads);
        })));
        let work_once = {
            let work = work.clone();
            move || {
                let end = work.lock().unwrap_or_else(PoisonError::into_inner).take();
                end.into_iter().for_each(|end| end());
            }
        };
        let closer = std::thread::Builder::new().name("closer".to_owned());
        if let Err(error) = closer.spawn(work_once.clone()) {
            warn!(%error, "no thread to close the broker: its caller does so, and waits");
            work_once();
        }
    }

    /// Waits until all is closed.
    pub(super) async fn ended(&self) {
        self.0.closed.cancelled().await;
    }

    /// Blocks the thread until all is closed.
    pub(super) fn wait(&self) {
        let is_closed = self.0.is_closed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_while(is_closed, |is_closed| !*is_closed);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A guard that tells the callers, also if the closing ends by a panic.
struct ClosingEnd(Closing, BusyToken);

impl Drop for ClosingEnd {
    fn drop(&mut self) {
        let Self(Closing(closing), _ends_after_them) = self;
        closing.closed.cancel(); // First: after `wait`, nobody who calls `ended` has to wait.
        *closing.is_closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        closing.changed.notify_all();
    }
}
