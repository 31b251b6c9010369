//! Publishing: what is handed in, and the acknowledgement that comes back.

use crate::broker::report::Ack;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::topic::TopicName;

/// Events for one topic, stored all or not at all.
#[derive(Debug, Clone)]
pub struct Publish<E = Vec<NewEvent>> {
    /// The topic; it is created if there is none.
    pub topic: TopicName,
    /// The events, in their order; one at least.
    pub events: E,
    /// Store them only if this is the last sequence that the topic ever gave to an event; 0: it
    /// never had one. A topic that was emptied, or deleted and created again, is where it was:
    /// whoever decided on an event that is gone since must not be taken for the first. Not asked of
    /// events that are stored already, so a repeated publish succeeds.
    pub expected_sequence: Option<u64>,
}

/// One publisher, which hands in one publish after another. No publish is stored after one that
/// failed, whatever was in flight by then. Publishes before a failure are stored all the same.
///
/// What it hands in for several topics gets rising positions, too, in the order of its publishes.
#[derive(Debug, Clone, Default)]
pub struct InOrder {
    order: Arc<PublisherOrder>,
    /// Whether its publishes are stored whatever becomes of one another.
    is_independent: bool,
}

/// The state that all handles of one [`InOrder`] share.
#[derive(Debug)]
struct PublisherOrder {
    /// The number of the publish that is handed in next, from 0.
    next: AtomicU64,
    /// The lowest number of those that failed; [`NONE_FAILED`] while none did.
    failed: AtomicU64,
}

/// No publish gets this number.
const NONE_FAILED: u64 = u64::MAX;

impl Default for PublisherOrder {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), failed: AtomicU64::new(NONE_FAILED) }
    }
}

impl InOrder {
    /// Returns the same publisher for publishes that are stored whatever becomes of those before
    /// them: they fail after none, and none fails after them.
    pub fn independent(&self) -> Self {
        Self { order: self.order.clone(), is_independent: true }
    }

    /// Gives the next publish its number.
    pub(super) fn next(&self) -> PublishTurn {
        let number = || self.order.next.fetch_add(1, Ordering::Relaxed);
        let number = (!self.is_independent).then(number);
        PublishTurn { order: self.order.clone(), number }
    }

    /// Notes that the next publish was refused for `error` before it could be handed in.
    pub fn refuse(&self, error: Error) -> Error {
        self.next().fail();
        error
    }
}

/// The number of one publish among those of its publisher.
#[derive(Debug, Clone)]
pub(super) struct PublishTurn {
    order: Arc<PublisherOrder>,
    /// `None` where it comes after nothing.
    number: Option<u64>,
}

/// Tells publishers apart while they have something in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PublisherId(usize);

impl PublishTurn {
    /// Returns the publisher.
    pub(super) fn publisher(&self) -> PublisherId {
        PublisherId(Arc::as_ptr(&self.order).addr())
    }

    /// Notes that the publish failed.
    pub(super) fn fail(&self) {
        if let Some(number) = self.number {
            self.order.failed.fetch_min(number, Ordering::AcqRel);
        }
    }

    /// Refuses the publish if one before it failed.
    pub(super) fn check(&self) -> Result<()> {
        let failed = self.order.failed.load(Ordering::Acquire);
        let comes_after = self.number.is_some_and(|number| failed < number);
        if comes_after { Err(Error::AfterFailure) } else { Ok(()) }
    }
}

/// A publish that was accepted, and is answered once it is durable.
#[derive(Debug)]
pub struct Pending(pub(super) oneshot::Receiver<Result<Ack>>);

impl Pending {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    ///
    /// What became of the events is said by the variant: see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives up the answer, not the publish.
    pub async fn ack(mut self) -> Result<Ack> {
        self.ready().await
    }

    /// As [`Self::ack`], without giving the answer up when it is cancelled. To be called until it
    /// returns, and not again.
    ///
    /// # Errors
    ///
    /// As [`Self::ack`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the next call returns the answer.
    pub async fn ready(&mut self) -> Result<Ack> {
        (&mut self.0).await.unwrap_or_else(|_| {
            let cause = std::io::Error::other("the committer ended without an answer");
            Err(Error::OutcomeUnknown(std::sync::Arc::new(cause)))
        })
    }
}
