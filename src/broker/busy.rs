//! The work that the threads of a broker have been given and have not done yet: watched in tests,
//! and nowhere else.
//!
//! # Why
//!
//! A test with a paused clock gets the time of the next timer as soon as all tasks of its runtime
//! wait. The runtime does not know of the broker's threads: a publish that waits for the committer
//! would see every timeout around it pass. The runtime leaves its clock alone while a blocking task
//! runs. So as long as any work is left, a blocking task runs that waits for its end.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;

/// The longest time for which a clock is held, by the real clock. A thread that hangs must not hang
/// the whole test.
const HOLD_PATIENCE: Duration = Duration::from_secs(60);

/// The work that is left to the threads of a broker, if it is watched. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Busy(Option<Arc<BusyInner>>);

struct BusyInner {
    /// The pieces of work that are left.
    pieces: Mutex<usize>,
    done: Condvar,
    /// The runtime whose clock is held by work that begins outside of any runtime.
    runtime: Option<Handle>,
}

impl fmt::Debug for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = self.0.as_ref().map(|inner| *inner.pieces());
        f.debug_tuple("Busy").field(&pieces).finish()
    }
}

/// A piece of work. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct BusyToken(Busy);

impl Busy {
    /// Returns work that is watched, and holds the clock of the runtime in which it begins.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        allow(dead_code, reason = "no broker is watched but in tests")
    )]
    pub(crate) fn watched() -> Self {
        let (pieces, done) = (Mutex::new(0), Condvar::new());
        let runtime = Handle::try_current().ok();
        Self(Some(Arc::new(BusyInner { pieces, done, runtime })))
    }

    /// Notes a piece of work.
    pub(super) fn begin(&self) -> BusyToken {
        if let Some(inner) = &self.0 {
            inner.begin();
        }
        BusyToken(self.clone())
    }

    /// Notes that pieces of work are done that were handed over.
    pub(super) fn end(&self, pieces: usize) {
        if let Some(inner) = &self.0 {
            let mut left = inner.pieces();
            *left = left.checked_sub(pieces).expect("only work that has begun ends");
            if *left == 0 {
                inner.done.notify_all();
            }
        }
    }

    /// Blocks the thread until no work is left, for `limit` at the most. Returns whether none is.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.wait(limit))
    }
}

impl BusyInner {
    fn pieces(&self) -> MutexGuard<'_, usize> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>) {
        let mut pieces = self.pieces();
        *pieces += 1;
        if *pieces > 1 {
            return; // The clock is held already.
        }
        let runtime = Handle::try_current().ok().or_else(|| self.runtime.clone());
        if let Some(runtime) = runtime {
            let inner = self.clone();
            drop(runtime.spawn_blocking(move || inner.wait(HOLD_PATIENCE)));
        }
    }

    fn wait(&self, limit: Duration) -> bool {
        let waited = self.done.wait_timeout_while(self.pieces(), limit, |pieces| *pieces > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }
}

impl BusyToken {
    /// Hands the piece of work over to a thread, which ends it by [`Busy::end`].
    pub(super) fn hand_over(mut self) {
        self.0 = Busy(None);
    }
}

impl Drop for BusyToken {
    fn drop(&mut self) {
        self.0.end(1);
    }
}
