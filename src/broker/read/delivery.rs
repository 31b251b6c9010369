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
pub enum Delivery {
    /// Events between the reader's place and the next one are gone. Events go on at `resume`.
    Gap(Gap),
    /// The next events.
    Events(Run),
    /// An event that is not stored; the place stays as it is.
    Ephemeral(Arc<Ephemeral>),
    /// Everything that was there is delivered; what follows is live. Told once.
    CaughtUp,
}

/// The outcome of waiting for a delivery.
#[derive(Debug, Clone)]
pub enum Waited {
    /// A delivery.
    Delivery(Delivery),
    /// Nothing came in the time.
    Silence,
    /// The broker is stopping: nothing will come.
    Stopping,
}

/// The time that a reader waits for a delivery before its caller is told of the silence. It is kept
/// from one wait to the next, because a timer that is set once in a while costs nothing for each
/// event.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    /// For so long from now on.
    pub fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), timer: Box::pin(tokio::time::sleep(limit)) }
    }

    /// For as long again, from now on.
    pub(crate) fn renew(&mut self) {
        self.since = Instant::now();
    }

    /// Returns whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed() >= self.limit
    }

    /// Resolves when it is over.
    pub(crate) async fn ended(&mut self) {
        loop {
            self.timer.as_mut().await;
            let left = self.limit.saturating_sub(self.since.elapsed());
            self.timer.as_mut().reset(Instant::now() + left);
            if left.is_zero() {
                return;
            }
        }
    }
}
