//! Publishing: the publish that a caller hands in, the order of one publisher's publishes, and the
//! handle that waits for the acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use crate::broker::report::Ack;
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::topic::TopicName;

/// Events for one topic, which are stored all or none.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Publish<E = Vec<NewEvent>> {
    /// The topic. It is created if it does not exist, unless the configuration forbids that.
    pub topic: TopicName,
    /// The events, in their order; at least one.
    pub events: E,
    /// If given, the events are stored only if this is the last sequence that the topic ever gave
    /// to an event; 0 for a topic that never had an event. A topic that was emptied, or deleted and
    /// created again, keeps its last sequence: a publisher that decided on an event that is gone by
    /// now must not be taken for the first. Events that are stored already are not checked, so a
    /// repeated publish succeeds.
    pub expected_sequence: Option<u64>,
}

impl<E> Publish<E> {
    /// Returns a publish of these events, whatever sequence the topic is at.
    ///
    /// ```
    /// use leftoff::{NewEvent, Publish};
    ///
    /// let topic: leftoff::TopicName = "orders".parse()?;
    /// let publish = Publish::new(topic, vec![NewEvent::new("one"), NewEvent::new("two")]);
    /// assert_eq!(publish.expecting(0).expected_sequence, Some(0));
    /// # Ok::<(), leftoff::Error>(())
    /// ```
    pub fn new(topic: TopicName, events: E) -> Self {
        Self { topic, events, expected_sequence: None }
    }

    /// Returns this publish with the last sequence that the topic must have: see
    /// [`Publish::expected_sequence`]. 0 is for a topic that never had an event.
    #[must_use]
    pub fn expecting(self, sequence: u64) -> Self {
        Self { expected_sequence: Some(sequence), ..self }
    }
}

impl Publish {
    /// Returns a publish of one event.
    pub fn one(topic: TopicName, event: NewEvent) -> Self {
        Self::new(topic, vec![event])
    }
}

/// The order of one publisher, which hands in one publish after another. After a failed publish no
/// later one is stored, also if it was on its way already. Publishes before the failure are stored
/// all the same.
///
/// The positions of its events rise in the order of its publishes, also over several topics.
#[derive(Debug, Clone, Default)]
pub struct InOrder {
    order: Arc<PublisherOrder>,
    /// Whether its publishes are stored even if earlier ones fail.
    is_independent: bool,
}

/// The state that all handles of one [`InOrder`] share.
#[derive(Debug)]
struct PublisherOrder {
    /// The number of the publish that is handed in next, from 0.
    next: AtomicU64,
    /// The lowest number of a failed publish; [`NONE_FAILED`] if none has failed.
    failed: AtomicU64,
}

/// The value of `failed` while no publish has failed. No publish gets this number.
const NONE_FAILED: u64 = u64::MAX;

impl Default for PublisherOrder {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), failed: AtomicU64::new(NONE_FAILED) }
    }
}

impl InOrder {
    /// Returns a handle of the same publisher for independent publishes: they do not fail after an
    /// earlier one, and later ones do not fail after them.
    pub fn independent(&self) -> Self {
        Self { order: self.order.clone(), is_independent: true }
    }

    /// Gives the next publish its number.
    pub(super) fn next(&self) -> PublishTurn {
        let number = || self.order.next.fetch_add(1, Ordering::Relaxed);
        let number = (!self.is_independent).then(number);
        PublishTurn { order: self.order.clone(), number }
    }

    /// Notes that the next publish was refused with `error` before it was handed in. Returns
    /// `error`.
    pub fn refuse(&self, error: Error) -> Error {
        self.next().fail();
        error
    }
}

/// The place of one publish in its publisher's order.
#[derive(Debug, Clone)]
pub(super) struct PublishTurn {
    order: Arc<PublisherOrder>,
    /// The number of the publish; `None` for an independent one.
    number: Option<u64>,
}

/// The identity of a publisher, for as long as a publish of it is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PublisherId(usize);

impl PublishTurn {
    /// Returns the publisher.
    pub(super) fn publisher(&self) -> PublisherId {
        PublisherId(Arc::as_ptr(&self.order).addr())
    }

    /// Whether the publish is stored even if an earlier one fails.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "the nodes of a fleet use it"))]
    pub(super) fn is_independent(&self) -> bool {
        self.number.is_none()
    }

    /// Notes that the publish failed.
    pub(super) fn fail(&self) {
        if let Some(number) = self.number {
            self.order.failed.fetch_min(number, Ordering::AcqRel);
        }
    }

    /// Refuses the publish if an earlier one failed.
    pub(super) fn check(&self) -> Result<()> {
        let failed = self.order.failed.load(Ordering::Acquire);
        let comes_after = self.number.is_some_and(|number| failed < number);
        if comes_after { Err(Error::AfterFailure) } else { Ok(()) }
    }
}

/// The answer of the committer to a publish, which comes once the publish is durable.
#[derive(Debug)]
pub(super) struct Answer(pub(super) oneshot::Receiver<Result<Vec<Ack>>>);

impl Answer {
    async fn ready(&mut self) -> Result<Vec<Ack>> {
        (&mut self.0).await.unwrap_or_else(|_| {
            let cause = std::io::Error::other("the committer ended without an answer");
            Err(Error::OutcomeUnknown(cause.into()))
        })
    }
}

/// An accepted publish, which is answered once it is durable.
#[derive(Debug)]
pub struct Pending(pub(super) Answer);

impl Pending {
    /// Waits for the acknowledgement.
    ///
    /// # Errors
    ///
    /// The variant says whether the events are stored: see [`Error::outcome_unknown`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives up the answer, not the publish.
    pub async fn ack(mut self) -> Result<Ack> {
        self.ready().await
    }

    /// As [`Self::ack`], but cancelling it does not give up the answer. Call it until it returns,
    /// and not again after that.
    ///
    /// # Errors
    ///
    /// As [`Self::ack`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the next call returns the answer.
    pub async fn ready(&mut self) -> Result<Ack> {
        let acks = self.0.ready().await?;
        let ended =
            || Error::OutcomeUnknown(std::io::Error::other("nothing was acknowledged").into());
        acks.into_iter().next().ok_or_else(ended)
    }
}

/// Accepted publishes that are stored all or none, and are answered once they are durable.
#[derive(Debug)]
pub struct PendingAll(pub(super) Answer);

impl PendingAll {
    /// Waits for the acknowledgements, in the order of the publishes.
    ///
    /// # Errors
    ///
    /// As [`Pending::ack`]: one error for all.
    ///
    /// # Cancel safety
    ///
    /// As [`Pending::ack`].
    pub async fn acks(mut self) -> Result<Vec<Ack>> {
        self.ready().await
    }

    /// As [`Self::acks`], but cancelling it does not give up the answer. Call it until it returns,
    /// and not again after that.
    ///
    /// # Errors
    ///
    /// As [`Self::acks`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the next call returns the answer.
    pub async fn ready(&mut self) -> Result<Vec<Ack>> {
        self.0.ready().await
    }
}
