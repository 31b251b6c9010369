//! The failure after which the broker stores nothing more. Each publish is refused with it, and
//! checks for readiness report it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::error::{Cause, Error, with_causes};

/// The broker's failure. The committer sets it after a failed write, and any thread of the broker
/// when it panics. It is set once, and everybody sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct BrokerFailure {
    cause: Arc<OnceLock<Cause>>,
    happened: CancellationToken,
    /// The publishes that were refused for lack of room in the queue, or by storage.
    refused: Arc<AtomicU64>,
}

impl BrokerFailure {
    /// Notes the error of a commit, if the log takes no more writes after it.
    pub(super) fn stop_writes_after(&self, error: &Error) {
        if let Error::OutcomeUnknown(cause) | Error::ReadOnly(cause) = error {
            self.set(cause.clone());
        }
    }

    fn set(&self, cause: Cause) {
        if self.cause.set(cause.clone()).is_ok() {
            error!(
                cause = with_causes(&*cause),
                "nothing more is stored until the log is opened again; if that fails, too, go on \
                 with what `leftoff check --repair` brings back"
            );
        }
        self.happened.cancel();
    }

    /// Counts publishes that were refused although nothing is wrong with them.
    pub(super) fn count_refused(&self, publishes: u64) {
        self.refused.fetch_add(publishes, Ordering::Relaxed);
    }

    /// Returns how many publishes were counted.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the error for publishers, if there was a failure.
    pub(super) fn error(&self) -> Option<Error> {
        self.cause.get().map(|cause| Error::ReadOnly(cause.clone()))
    }

    /// Waits until there is a failure.
    pub(super) async fn happened(&self) {
        self.happened.cancelled().await;
    }
}

/// A guard that a thread holds: if the thread panics, it sets the broker's failure.
pub(super) struct PanicGuard {
    failure: BrokerFailure,
    thread: &'static str,
}

impl PanicGuard {
    /// Returns a guard for the thread with this name.
    pub(super) fn new(failure: &BrokerFailure, thread: &'static str) -> Self {
        Self { failure: failure.clone(), thread }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let problem = format!("the thread of the {} ended by a panic", self.thread);
            self.failure.set(std::io::Error::other(problem).into());
        }
    }
}
