//! The log of a broker, as the parts have it that outlive the broker's threads: it can be let go of
//! while readers, pages and backups still exist.
//!
//! # Why
//!
//! Clones of the broker and its readers may live on after the broker is closed, in a session that
//! nobody ended, for example. The data directory must be free all the same. So none of them has the
//! log itself: each step of a read borrows it. Closing waits for the steps that have begun, which
//! take milliseconds. The committer and the thread of maintenance have the log itself, because they
//! end before it is closed.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::cursor::Epoch;
use crate::error::{Error, Result};
use crate::log::Log;

/// The log for as long as it is open. Cheap to clone.
#[derive(Clone)]
pub(super) struct OpenLog(Arc<OpenLogInner>);

struct OpenLogInner {
    epoch: Epoch,
    /// The log; `None` once it is closed.
    log: RwLock<Option<Arc<dyn Log>>>,
}

impl fmt::Debug for OpenLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLog").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

impl OpenLog {
    pub(super) fn new(log: Arc<dyn Log>) -> Self {
        let epoch = log.epoch();
        Self(Arc::new(OpenLogInner { epoch, log: RwLock::new(Some(log)) }))
    }

    /// Returns the epoch of the log, also once it is closed.
    pub(super) fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// Does one short step of a read. A step must not begin another one.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`] once the log is closed, and those of `step`.
    pub(super) fn step<T>(&self, step: impl FnOnce(&dyn Log) -> Result<T>) -> Result<T> {
        let log = self.0.log.read().unwrap_or_else(PoisonError::into_inner);
        step(&**log.as_ref().ok_or(Error::ShuttingDown)?)
    }

    /// Refuses if the log is closed.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`].
    pub(super) fn check(&self) -> Result<()> {
        self.step(|_log| Ok(()))
    }

    /// Waits for the steps that have begun, and closes the log, unless its owner has kept it.
    pub(super) fn close(&self) {
        let log = self.0.log.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(log); // Without the lock: the last sync may take a while.
    }
}
