//! The events in a JSON message that publishes: `event`, or the list `events`.

use bytes::Bytes;
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use super::effort::Effort;
use super::json_problem;
use super::ndjson::Line;
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::lists::UpTo;

/// Published events as they were received, each a slice of its message: JSON that is not parsed
/// yet.
#[derive(Debug)]
pub(super) struct EventLines(Vec<Bytes>);

impl EventLines {
    /// Returns the events of a message, of which either `event` or `events` is given. Both are
    /// slices of the message's `text`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: none of the two is given, or both; `events` is no list.
    /// [`Error::OverLimit`]: there are more than `max_events`.
    pub(super) fn of(
        event: Option<&RawValue>,
        events: Option<&RawValue>,
        text: &Bytes,
        max_events: usize,
    ) -> Result<Self> {
        let lines = match (event, events) {
            (Some(event), None) => vec![event],
            (None, Some(events)) => {
                let mut events = serde_json::Deserializer::from_str(events.get());
                let events = UpTo::<&RawValue>::new(max_events).deserialize(&mut events);
                let invalid = |error: serde_json::Error| {
                    Error::invalid("events", json_problem::words(&error))
                };
                events.map_err(invalid)?.entries("events in a batch")?
            }
            _ => return Err(Error::invalid("event", "write either event or events")),
        };
        let lines = lines.iter().map(|line| text.slice_ref(line.get().as_bytes()));
        Ok(Self(lines.collect()))
    }

    /// Returns the number of events.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the effort of reading the events, and of encoding them.
    pub(super) fn effort(&self) -> Effort {
        Effort::of_lines(&self.0)
    }

    /// Returns the events. Each is parsed when the iterator reaches it.
    pub(super) fn events(&self) -> impl ExactSizeIterator<Item = Result<NewEvent>> {
        self.0.iter().map(|line| match Line::parse(line)? {
            Line { topic: Some(_), .. } => Err(Error::invalid("topic", "belongs beside the event")),
            Line { topic: None, event } => Ok(event),
        })
    }
}
