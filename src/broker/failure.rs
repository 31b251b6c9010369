//! The failure that ended publishing, which every check for readiness reports.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::error::{Cause, Error, with_causes};

/// Set once, by the committer; seen by everybody.
#[derive(Debug, Clone, Default)]
pub(super) struct BrokerFailure {
    cause: Arc<OnceLock<Cause>>,
    happened: CancellationToken,
}

impl BrokerFailure {
    /// Notes an append's error, if it is one after which nothing more is taken.
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

    /// Returns the error that publishers are told, if there was a failure.
    pub(super) fn error(&self) -> Option<Error> {
        self.cause.get().map(|cause| Error::ReadOnly(cause.clone()))
    }

    /// Resolves when there is one.
    pub(super) async fn happened(&self) {
        self.happened.cancelled().await;
    }
}

/// Notes a panic of the thread that holds it.
pub(super) struct PanicGuard {
    failure: BrokerFailure,
    thread: &'static str,
}

impl PanicGuard {
    /// Guards the thread with this name.
    pub(super) fn new(failure: &BrokerFailure, thread: &'static str) -> Self {
        Self { failure: failure.clone(), thread }
    }
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let problem = format!("the thread of the {} ended by a panic", self.thread);
            self.failure.set(Arc::new(std::io::Error::other(problem)));
        }
    }
}
