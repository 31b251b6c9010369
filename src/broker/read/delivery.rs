//! Deliveries of readers, and the time for which callers wait for one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio::time::Sleep;

use crate::broker::tail::run::Run;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::cursor::Gap;

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
    /// `None` for a reader that waits for ever.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Returns a patience that is over in `limit` from now. With a limit that no clock can show,
    /// such as [`Duration::MAX`], the patience is never over, and needs no timer.
    pub fn new(limit: Duration) -> Self {
        let since = Instant::now();
        let timer = since.checked_add(limit).map(|end| Box::pin(tokio::time::sleep_until(end)));
        Self { limit, since, timer }
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
    pub(crate) async fn ended(&mut self) {
        let Some(timer) = &mut self.timer else { return std::future::pending().await };
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
        assert!(patience.timer.is_none());
        patience.renew();
        assert!(futures_util::poll!(Box::pin(patience.ended())).is_pending());
        assert!(!patience.is_over());
    }
}
