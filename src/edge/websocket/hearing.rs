//! The handling of a client's message: it is parsed, counted by the client's rates, and published
//! if it has events.
//!
//! # Why
//!
//! Large work is done away from the workers, and may have to wait for a place there. Meanwhile the
//! session continues to deliver and to ping. It takes no further message, because messages are
//! handled in the order in which they were sent.

use std::time::SystemTime;

use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::super::effort::Effort;
use super::super::rates::{CallerRates, Rate};
use super::keeping::{Keep, KeepAnswer};
use super::protocol::{NewToken, Refused, Request, ToStore};
use super::reference::Reference;
use super::working::{HeardWork, WorkMessage};
use crate::broker::{Broker, InOrder};
use crate::edge::consumers::begun::begin;
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::edge::publishing::{EncodedPublish, Submitted};
use crate::edge::receiving;
use crate::edge::subscriptions::asked::Subscribe;
use crate::error::Error;
use crate::permission::Action;
use crate::polls::Task;

/// The outcome of a message.
pub(super) enum Heard {
    Subscribe(Subscribe),
    Unsubscribe(String),
    /// Submitted under this reference. The acknowledgement comes later.
    Publish(Option<Reference>, Submitted),
    /// Not submitted: the broker has no room, or is stopping.
    Unpublished(Option<Reference>, Error),
    /// Delivered, and not stored; with the number of subscriptions to the topic, if the caller may
    /// know it.
    Ephemeral(Option<Reference>, Option<usize>),
    /// A checkpoint or marks, submitted under this reference. The acknowledgement comes later.
    Keeping(Option<Reference>, KeepAnswer),
    /// A request about shared work, of the worker with this name.
    Work(Option<Reference>, String, HeardWork),
    /// The caller has proved anew who it is, until this time; `None` if there is no end.
    Refreshed(Option<Reference>, Option<SystemTime>),
    /// The client asks whether the connection is alive.
    Ping(Option<Reference>),
    /// Refused by a rate of the client.
    OverRate(Refused),
    /// Refused, because the message breaks a rule.
    Refused(Refused),
}

/// The resources for handling one client's messages. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Hearing {
    pub(super) broker: Broker,
    pub(super) consumers: Option<EdgeConsumers>,
    /// The remaining allowance of the client.
    pub(super) rates: CallerRates,
    pub(super) permit: Permit,
    /// The order of the client's publishes: positions rise in the order of its messages.
    pub(super) publisher: InOrder,
}

impl Hearing {
    /// Handles a message, up to the point where the session has to continue.
    ///
    /// # Cancel safety
    ///
    /// If this is dropped before it returns, no event was submitted. Ephemeral events may have been
    /// delivered.
    pub(super) async fn hear(self, text: Utf8Bytes) -> Heard {
        let (broker, effort) = (self.broker.clone(), Effort::of_json(text.as_bytes()));
        let size_bytes = text.len();
        let parsed = effort.spend(move || Request::parse(&text, broker.limits())).await;
        let request = match self.rated(parsed, size_bytes) {
            Ok(Ok(request)) => request,
            Ok(Err(refused)) => return Heard::Refused(refused),
            Err(over_rate) => return Heard::OverRate(over_rate),
        };
        match request {
            Request::Subscribe(subscribe) => Heard::Subscribe(subscribe),
            Request::Unsubscribe { subscription } => Heard::Unsubscribe(subscription),
            Request::Publish { reference, publish } => self.publish(reference, publish).await,
            Request::Refresh { reference, token: NewToken(token) } => {
                match self.permit.refresh(&token).await {
                    Ok(until) => Heard::Refreshed(reference, until),
                    // Counted, so that nobody tries tokens without an end.
                    Err(error) => Heard::Refused(Refused { reference, subscription: None, error }),
                }
            }
            Request::Ping { reference } => Heard::Ping(reference),
            Request::Keep(keep) => self.keep(keep).await,
            Request::Work(mut work) => {
                let reference = work.reference.take();
                match work.heard(&self.permit, self.consumers.as_ref()).await {
                    Ok((work, heard)) => Heard::Work(reference, work, heard),
                    Err(error) => refused(reference, error),
                }
            }
            Request::PublishEphemeral { reference, topic, lines } => {
                if let Err(denied) = self.permit.check(Action::Publish, &topic).await {
                    return refused(reference, denied);
                }
                let (broker, effort) = (self.broker.clone(), lines.effort().twice());
                let permit = self.permit.clone();
                let work = move || {
                    receiving::deliver_ephemeral(&permit, &topic, || lines.events(), &broker)
                };
                match effort.spend(work).await {
                    Ok(receivers) => Heard::Ephemeral(reference, receivers),
                    Err(error) => refused(reference, error),
                }
            }
        }
    }

    /// Refuses a binary message of `size_bytes`, which is counted all the same.
    pub(super) fn binary(&self, size_bytes: usize) -> Heard {
        let error = Error::invalid("message", "is binary; write JSON in text messages");
        let refused = Refused { reference: None, subscription: None, error };
        match self.rated(Err(refused), size_bytes) {
            Ok(Err(refused)) => Heard::Refused(refused),
            Ok(Ok(_)) => unreachable!("the message was refused"),
            Err(over_rate) => Heard::OverRate(over_rate),
        }
    }

    async fn publish(self, reference: Option<Reference>, publish: ToStore) -> Heard {
        let ToStore { topics, lines, expected_sequence } = publish;
        if let Err(denied) = topics.check(&self.permit).await {
            return refused(reference, denied);
        }
        let (broker, permit) = (self.broker.clone(), self.permit.clone());
        let effort = topics.effort(lines.effort(), &permit);
        let work = move || {
            EncodedPublish::of((&permit, topics), expected_sequence, || lines.events(), &broker)
        };
        let encoded = match effort.spend(work).await {
            Ok(encoded) => encoded,
            Err(error) => return refused(reference, error),
        };
        match encoded.submit(&self.broker, &self.publisher).await {
            Ok(submitted) => Heard::Publish(reference, submitted),
            Err(error) => Heard::Unpublished(reference, error),
        }
    }

    async fn keep(self, mut keep: Keep) -> Heard {
        let reference = keep.reference.take();
        let (named, selection) = (keep.named.clone(), keep.selection.clone());
        let found = named.find(selection, keep.how(), &self.permit, self.consumers.as_ref());
        let begun = match found.await {
            Ok(found) => keep.begin(found, self.permit.filter(), self.broker.epoch()),
            Err(error) => Err(error),
        };
        match begun {
            Ok(keeping) => Heard::Keeping(reference, begin(Task::WebSocket, keeping).await),
            Err(error) => refused(reference, error),
        }
    }

    /// Takes from the client's rates, as `request` needs.
    fn rated(
        &self,
        request: Result<Request, Refused>,
        size_bytes: usize,
    ) -> Result<Result<Request, Refused>, Refused> {
        let rated = match &request {
            Ok(Request::Publish { publish, .. }) => {
                self.rates.publish(publish.topics.count(publish.lines.len()), || size_bytes)
            }
            Ok(Request::PublishEphemeral { lines, .. }) => {
                self.rates.publish(lines.len(), || size_bytes)
            }
            Ok(Request::Subscribe(_)) => self.rates.other(Rate::Subscriptions, size_bytes),
            Ok(Request::Work(work)) if work.is_start() => {
                self.rates.other(Rate::Subscriptions, size_bytes)
            }
            Ok(
                Request::Unsubscribe { .. }
                | Request::Refresh { .. }
                | Request::Ping { .. }
                | Request::Keep(_)
                | Request::Work(_),
            )
            | Err(_) => self.rates.other(Rate::Requests, size_bytes),
        };
        let Err(error) = rated else { return Ok(request) };
        let (reference, subscription) = match request {
            Ok(
                Request::Publish { reference, .. }
                | Request::PublishEphemeral { reference, .. }
                | Request::Refresh { reference, .. }
                | Request::Ping { reference }
                | Request::Keep(Keep { reference, .. })
                | Request::Work(WorkMessage { reference, .. }),
            ) => (reference, None),
            Ok(Request::Subscribe(Subscribe { subscription, .. }))
            | Ok(Request::Unsubscribe { subscription }) => (None, Some(subscription)),
            Err(Refused { reference, subscription, .. }) => (reference, subscription),
        };
        Err(Refused { reference, subscription, error })
    }
}

fn refused(reference: Option<Reference>, error: Error) -> Heard {
    // A message that breaks no rule does not count among those that do.
    if let Error::Denied { .. } | Error::Unauthenticated { .. } = error {
        return Heard::Unpublished(reference, error);
    }
    Heard::Refused(Refused { reference, subscription: None, error })
}
