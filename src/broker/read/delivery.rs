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
    /// The time at which the patience is over in any case.
    deadline: Option<Instant>,
    /// Set at the first wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Returns a patience that is over in `limit` from now. With a limit that no clock can show,
    /// such as [`Duration::MAX`], the patience is never over, and needs no timer.
    pub fn new(limit: Duration) -> Self {
        let since = Instant::now();
        let is_endless = since.checked_add(limit).is_none();
        Self { limit, since, is_endless, deadline: None, timer: None }
    }

    /// Sets the time at which the patience is over in any case, however often it is renewed. One
    /// timer is enough for both.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
        // The timer is looked at only when it rings.
        if let (Some(timer), Some(deadline)) = (&mut self.timer, deadline)
            && timer.deadline() > deadline
        {
            timer.as_mut().reset(deadline);
        }
    }

    /// Returns whether the deadline has come.
    pub(crate) fn is_past_deadline(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns the time at which the patience is over; `None` if it never is.
    fn end(&self) -> Option<Instant> {
        let silence = if self.is_endless { None } else { self.since.checked_add(self.limit) };
        silence.into_iter().chain(self.deadline).min()
    }

    /// Refuses a wait that needs a timer where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NoRuntime`].
    pub(crate) fn check_runtime(&self) -> Result<()> {
        if self.end().is_none() || self.timer.is_some() {
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
        self.since.elapsed() >= self.limit || self.is_past_deadline()
    }

    /// Waits until the time is over.
    ///
    /// # Panics
    ///
    /// Outside of a runtime: see [`Self::check_runtime`].
    pub(crate) async fn ended(&mut self) {
        loop {
            let Some(end) = self.end() else { return std::future::pending().await };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
            timer.as_mut().await;
            // The timer is set anew here alone: it rings too early if the time began again.
            timer.as_mut().reset(end.max(Instant::now()));
            if end <= Instant::now() {
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

    /// Goal: the deadline ends a patience that was renewed, one that never ends by itself, and one
    /// whose timer is set to a later time already.
    #[tokio::test]
    async fn a_deadline_ends_the_patience_however_often_it_is_renewed() {
        const LEFT: Duration = Duration::from_millis(50);
        for limit in [Duration::from_secs(3_600), Duration::MAX] {
            let mut patience = Patience::new(limit);
            assert!(futures_util::poll!(Box::pin(patience.ended())).is_pending());
            patience.set_deadline(Some(Instant::now() + LEFT));
            patience.renew();
            let waited = Instant::now();
            let ended = tokio::time::timeout(Duration::from_secs(60), patience.ended()).await;
            ended.expect("the deadline ends the wait");
            assert!(waited.elapsed() >= LEFT && patience.is_over());
            assert!(patience.is_past_deadline());
            patience.set_deadline(None);
            patience.renew();
            assert!(!patience.is_over(), "a later deadline, or none, begins the time again");
        }
    }
}
