//! Publishing: what is handed in, and the acknowledgement that comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, NewEvent, Timestamp};
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

/// One publisher, which hands in one publish after another: none of them is stored after one that
/// failed, whatever was in flight by then. Those before a failure are stored all the same.
///
/// What it hands in for several topics gets rising positions, too, in the order of its publishes.
#[derive(Debug, Clone, Default)]
pub struct InOrder {
    order: Arc<Order>,
    /// Whether its publishes are stored whatever becomes of one another.
    is_independent: bool,
}

/// What all handles of one [`InOrder`] share.
#[derive(Debug)]
struct Order {
    /// The number of the publish that is handed in next, from 0.
    next: AtomicU64,
    /// The lowest number of those that failed; [`NONE_FAILED`] while none did.
    failed: AtomicU64,
}

/// No publish gets this number.
const NONE_FAILED: u64 = u64::MAX;

impl Default for Order {
    fn default() -> Self {
        Self { next: AtomicU64::new(0), failed: AtomicU64::new(NONE_FAILED) }
    }
}

impl InOrder {
    /// The same publisher, for publishes that are stored whatever becomes of those before them:
    /// they fail after none, and none fails after them.
    pub fn independent(&self) -> Self {
        Self { order: self.order.clone(), is_independent: true }
    }

    /// Gives the next publish its number.
    pub(super) fn next(&self) -> Turn {
        let number = || self.order.next.fetch_add(1, Ordering::Relaxed);
        let number = (!self.is_independent).then(number);
        Turn { order: self.order.clone(), number }
    }

    /// Notes that the next publish was refused for `error` before it could be handed in.
    pub fn refuse(&self, error: Error) -> Error {
        self.next().fail();
        error
    }
}

/// The number of one publish among those of its publisher.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    order: Arc<Order>,
    /// `None` where it comes after nothing.
    number: Option<u64>,
}

/// Tells publishers apart while they have something in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PublisherId(usize);

impl Turn {
    /// Whose it is.
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

/// The place and time that one event was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its place in its topic.
    pub sequence: Sequence,
    /// Its place in the whole broker.
    pub position: Position,
    /// When it was appended.
    pub time: Timestamp,
}

/// An event that was in the topic's window already, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duplicate {
    /// Which event of the publish, from 0.
    pub index: usize,
    /// What its first publish was given.
    pub receipt: Receipt,
}

/// The answer to a publish: every event of it is durable now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// How many events the publish had.
    pub count: usize,
    /// The place of the first event that was appended; `None` if all were duplicates. The others
    /// follow it without holes, in the order of the publish, all with the same time.
    pub first_appended: Option<Receipt>,
    /// The events that were not appended again, in order.
    pub duplicates: Vec<Duplicate>,
    /// What the events outlive.
    pub durability: Durability,
}

impl Ack {
    /// What the event with this index was given.
    ///
    /// # Panics
    ///
    /// If the publish had no such event.
    pub fn receipt(&self, index: usize) -> Receipt {
        assert!(index < self.count, "the publish had {} events", self.count);
        let before = self.duplicates.partition_point(|duplicate| duplicate.index < index);
        if let Some(duplicate) = self.duplicates.get(before)
            && duplicate.index == index
        {
            return duplicate.receipt;
        }
        let first = self.first_appended.expect("an event is appended or a duplicate");
        let offset = (index - before) as u64;
        Receipt {
            sequence: first.sequence.plus(offset),
            position: first.position.plus(offset),
            time: first.time,
        }
    }

    /// What the first event was given.
    pub fn first(&self) -> Receipt {
        self.receipt(0)
    }

    /// What the last event was given.
    pub fn last(&self) -> Receipt {
        self.receipt(self.count - 1)
    }

    /// Whether every event was a duplicate.
    pub fn is_duplicate(&self) -> bool {
        self.first_appended.is_none()
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
