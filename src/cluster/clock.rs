//! The clock of a node: how long something takes. It is never compared with that of another node.

use std::time::Duration;

use super::stream::StreamFuture;

/// A steady clock. In tests a simulation has its own.
pub trait SteadyClock: Send + Sync + 'static {
    /// Returns the time since the clock began.
    fn now(&self) -> Duration;

    /// Waits until the clock shows `time`; not at all if it does so already.
    fn sleep_until(&self, time: Duration) -> StreamFuture<'static, ()>;
}

/// The clock of the runtime.
#[derive(Debug, Clone, Copy)]
pub struct RuntimeClock {
    began: tokio::time::Instant,
}

impl Default for RuntimeClock {
    fn default() -> Self {
        Self { began: tokio::time::Instant::now() }
    }
}

impl SteadyClock for RuntimeClock {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn sleep_until(&self, time: Duration) -> StreamFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(self.began + time))
    }
}

/// Waits for `future` until the clock shows `deadline`; `None` if that comes first.
pub(super) async fn until<T>(
    clock: &dyn SteadyClock,
    deadline: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = clock.sleep_until(deadline) => None,
    }
}
