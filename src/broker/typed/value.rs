//! An event with its payload as a value.

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::event::{Event, NewEvent};
use crate::topic::TopicName;

/// An event of a typed topic.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Typed<T> {
    /// The event: its places, its time, and what was published.
    pub event: Event,
    /// The payload as a value. [`Error::Invalid`], with the topic and the sequence: the payload is
    /// no `T`. A tombstone has no payload, and so no value: see [`Typed::is_tombstone`].
    pub value: Result<T>,
}

impl<T> Typed<T> {
    /// Whether the event deletes its key: it has a key, and no payload.
    pub fn is_tombstone(&self) -> bool {
        self.event.content.is_tombstone()
    }
}

impl<T: DeserializeOwned> Typed<T> {
    pub(super) fn of(topic: &TopicName, event: Event) -> Self {
        let value = value(topic, &format!(", sequence {}", event.sequence), &event.content);
        Self { event, value }
    }
}

/// Returns the value of a payload. `at` says in the error which event of the topic has it.
pub(super) fn value<T: DeserializeOwned>(
    topic: &TopicName,
    at: &str,
    content: &NewEvent,
) -> Result<T> {
    let refused = |problem: String| {
        Error::invalid("payload", format!("of topic {topic:?}{at} does not fit: {problem}"))
    };
    if content.is_tombstone() {
        return Err(refused(format!("there is none, the event deletes the key {:?}", content.key)));
    }
    serde_json::from_slice(&content.payload).map_err(|error| refused(error.to_string()))
}
