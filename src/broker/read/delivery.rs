//! Deliveries of readers, and the time for which callers wait for one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use crate::broker::tail::run::Run;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::cursor::Gap;
use crate::error::{Error, Result};

/// A delivery of a reader.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Delivery {
    /// Events between the reader's place and the next event are gone. Events go on at `resume`.
    Gap(Gap),
    /// The next events.
    Events(Run),
    /// An event that is not stored. The reader's place stays as it is.
    Ephemeral(Arc<Ephemeral>),
    /// Everything that was there is delivered; events that follow are live. A reader says so once.
    CaughtUp,
}

/// The outcome of waiting for a delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Waited {
    /// A delivery.
    Delivery(Delivery),
    /// Nothing was delivered in the time.
    Silence,
    /// The broker is stopping: there are no more deliveries.
    Stopping,
}

/// The time that a reader waits for a delivery before its caller is told of the silence. The caller
/// keeps the value from one wait to the next: its timer is set once in a while, and not for each
/// event.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    since: Instant,
    /// Whether the limit is one that no clock can show.
    is_endless: bool,
    /// Set at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Returns a patience that is over in `limit` from now. With a limit that no clock can show,
    /// such as [`Duration::MAX`], the patience is never over, and needs no timer.
    pub fn new(limit: Duration) -> Self {
        let since = Instant::now();
        Self { limit, since, is_endless: since.checked_add(limit).is_none(), timer: None }
    }

    /// Refuses a wait that needs a timer where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NoRuntime`].
    pub(crate) fn check_runtime(&self) -> Result<()> {
        if self.is_endless || self.timer.is_some() {
            return Ok(());
        }
        Handle::try_current().map(drop).map_err(|_outside| Error::NoRuntime)
    }

    /// Returns the whole time.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Begins the whole time again, from now on.
    pub(crate) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Returns whether the time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed() >= self.limit
    }

    /// Waits until the time is over.
    ///
    /// # Panics
    ///
    /// Outside of a runtime: see [`Self::check_runtime`].
    pub(crate) async fn ended(&mut self) {
        if self.is_endless {
            return std::future::pending().await;
        }
        let end = self.since + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            timer.as_mut().await;
            let left = self.limit.saturating_sub(self.since.elapsed());
            timer.as_mut().reset(Instant::now() + left);
            if left.is_zero() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a wait without an end needs no timer, which would overflow the clock when it rings.
    #[tokio::test]
    async fn a_wait_for_ever_has_no_timer_and_is_never_over() {
        let mut patience = Patience::new(Duration::MAX);
        patience.renew();
        assert!(futures_util::poll!(Box::pin(patience.ended())).is_pending());
        assert!(patience.timer.is_none() && !patience.is_over());
    }
}
