//! The newest ephemeral events of one topic, in the order in which they were published.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde::Deserialize;

use crate::broker::tail::form::{FORMS, WireForm};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::topic::TopicName;

/// An ephemeral event on its way to readers.
#[derive(Debug)]
pub struct Ephemeral {
    /// The number of the event among all ephemeral events since the start.
    pub number: u64,
    /// The topic.
    pub topic: TopicName,
    /// The time at which the event was published.
    pub time: Timestamp,
    /// The event as it was published.
    pub event: NewEvent,
    forms: [OnceLock<Bytes>; FORMS],
}

impl Ephemeral {
    /// Returns an event that no reader has been given yet.
    pub(crate) fn new(number: u64, topic: TopicName, time: Timestamp, event: NewEvent) -> Self {
        Self { number, topic, time, event, forms: Default::default() }
    }

    /// Returns the payload, read as JSON. The content type is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `payload`, and the topic: the payload is not JSON, or no `T`.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.event.payload).map_err(|error| {
            let problem =
                format!("of an ephemeral event of {:?} does not fit: {error}", self.topic);
            Error::invalid("payload", problem)
        })
    }

    /// Returns the event in a wire form. Each form is encoded once, for all readers.
    pub(crate) fn encoded(&self, form: WireForm, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.forms[form.slot()].get_or_init(|| encode(self)).clone()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.event.content_bytes()
    }
}

/// The newest ephemeral events of one topic. The queue is made for the first event.
#[derive(Debug, Default)]
pub(crate) struct EphemeralQueue(OnceLock<Box<Mutex<VecDeque<Arc<Ephemeral>>>>>);

impl EphemeralQueue {
    pub(crate) fn events(&self) -> MutexGuard<'_, VecDeque<Arc<Ephemeral>>> {
        let events = self.0.get_or_init(Box::default);
        events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the first event after the one with this number, and its number.
    pub(crate) fn after(&self, number: u64) -> Option<(Arc<Ephemeral>, u64)> {
        self.0.get()?; // Most topics never have an ephemeral event.
        let events = self.events();
        let index = events.partition_point(|event| event.number <= number);
        events.get(index).map(|event| (event.clone(), event.number))
    }
}
