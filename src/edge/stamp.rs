//! The stamp of the publisher: the header that names the caller who published an event. The broker
//! sets it where a topic's settings say so (`stamp_publisher`); publishers cannot set it.

use std::sync::Arc;

use super::hooks::PUBLISHER_HEADER;
use super::permit::Permit;
use crate::broker::Broker;
use crate::event::NewEvent;
use crate::topic::TopicName;

/// The stamp for the events of one publish, by the topic's settings when its first event is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamp(Option<Arc<str>>);

impl Stamp {
    /// Returns the stamp for what a caller publishes to a topic. Without hooks nobody knows the
    /// caller, and nothing is stamped.
    pub(super) fn of(broker: &Broker, permit: &Permit, topic: &TopicName) -> Self {
        let Some(grant) = permit.grant() else { return Self(None) };
        let is_stamped = broker.effective_config(topic).stamps_publisher();
        Self(is_stamped.then(|| grant.shared_caller()))
    }

    /// Sets the header of an event.
    pub(super) fn on(&self, mut event: NewEvent) -> NewEvent {
        if let Some(caller) = &self.0 {
            event.headers.insert(PUBLISHER_HEADER.to_owned(), caller.to_string());
        }
        event
    }
}
