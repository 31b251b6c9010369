//! Events: what publishers hand in, and what readers get back. Plain types, no I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::place::{Position, Sequence};

pub use crate::timestamp::Timestamp;

/// The failures that an acknowledged event outlives.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// None: the event is kept in memory only, because the broker was opened in memory.
    Memory,
    /// A crash of the process. A loss of power takes the events of about the last half second,
    /// which the system has not written yet.
    Process,
    /// A crash of the process, of the system, and a loss of power.
    #[default]
    Fsync,
    /// The loss of a node: the stream of the broker's fleet has the event. What the stream itself
    /// outlives, its engine's settings say. A topic cannot ask for it.
    Replicated,
}

impl Durability {
    /// Returns the word for the durability on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Fsync => "fsync",
            Self::Replicated => "replicated",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Memory, Self::Process, Self::Fsync, Self::Replicated];
        all.into_iter().find(|durability| durability.as_str() == text).ok_or_else(|| {
            let words = "memory, process, fsync, replicated";
            Error::invalid("durability", format!("{text:?} is not one of {words}"))
        })
    }
}

/// The beginning of the headers that say of a dead letter where it comes from, and why. Only the
/// broker sets them: whoever puts a dead letter back publishes to the topic that they name.
pub(crate) const DEAD_LETTER_PREFIX: &str = "leftoff-dead-";

/// Whether a header is one of [`DEAD_LETTER_PREFIX`]. Readers may compare the names of headers
/// without regard to case.
pub(crate) fn is_of_dead_letters(name: &str) -> bool {
    let begin = name.as_bytes().get(..DEAD_LETTER_PREFIX.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(DEAD_LETTER_PREFIX.as_bytes()))
}

/// An event as its publisher hands it in. An empty text means that there is none.
///
/// The struct can be written as a literal: new fields come with a new major version only, because
/// an event is what publishers write most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct NewEvent {
    /// The publisher's own id, by which a repeated publish is recognised.
    pub id: String,
    /// The type of the event; the `event:` of an SSE frame.
    pub event_type: String,
    /// The thing that the event is about; compaction keeps the latest event of each key.
    pub key: String,
    /// Names and values that travel with the event.
    pub headers: BTreeMap<String, String>,
    /// The media type of the payload.
    pub content_type: String,
    /// The content. The broker does not look into it.
    pub payload: Bytes,
    /// The publisher's own time.
    pub publisher_time: Option<Timestamp>,
    /// The time to live in milliseconds, 1 or more, from appending on. After that time nobody gets
    /// the event. `None`: the event never expires. In a compacted topic, an event with a key
    /// deletes the key when it expires: readers get the event without its payload until it is
    /// dropped, soon after the events that it superseded.
    pub ttl_ms: Option<u64>,
}

/// The memory that a header takes besides its two texts, in bytes: the places of both in the map,
/// which is half full, and the overhead of two allocations.
const HEADER_BYTES: usize = 128;

impl NewEvent {
    /// Returns about how much memory the texts, headers and payload take, in bytes.
    pub(crate) fn content_bytes(&self) -> usize {
        let Self { id, event_type, key, headers, content_type, payload, .. } = self;
        let texts = [id, event_type, key, content_type].map(String::len).iter().sum::<usize>();
        let header = |(name, value): (&String, &String)| HEADER_BYTES + name.len() + value.len();
        texts + headers.iter().map(header).sum::<usize>() + payload.len()
    }

    /// Whether the event deletes its key: the event has a key, and no payload.
    pub fn is_tombstone(&self) -> bool {
        !self.key.is_empty() && self.payload.is_empty()
    }

    /// Returns an event with this payload and nothing else.
    ///
    /// ```
    /// use leftoff::NewEvent;
    ///
    /// let event = NewEvent::new("paid").with_id("41-7").with_key("order.41").with_type("paid");
    /// assert_eq!(event.key, "order.41");
    /// ```
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Returns an event whose payload is `value` as JSON, with the content type
    /// `application/json`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `payload`: the value is not JSON, for example a map whose keys
    /// are no texts.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let payload = serde_json::to_vec(value)
            .map_err(|error| Error::invalid("payload", format!("cannot be JSON: {error}")))?;
        Ok(Self::new(payload).with_content_type(JSON))
    }

    /// Returns the event that deletes `key` in a compacted topic: it has no payload.
    pub fn tombstone(key: impl Into<String>) -> Self {
        Self::default().with_key(key)
    }

    /// Returns this event with the publisher's own id, by which a repeated publish is recognised.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: id.into(), ..self }
    }

    /// Returns this event with the thing that it is about.
    #[must_use]
    pub fn with_key(self, key: impl Into<String>) -> Self {
        Self { key: key.into(), ..self }
    }

    /// Returns this event with its type.
    #[must_use]
    pub fn with_type(self, event_type: impl Into<String>) -> Self {
        Self { event_type: event_type.into(), ..self }
    }

    /// Returns this event with one more header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Returns this event with the media type of its payload.
    #[must_use]
    pub fn with_content_type(self, content_type: impl Into<String>) -> Self {
        Self { content_type: content_type.into(), ..self }
    }

    /// Returns this event with the publisher's own time.
    #[must_use]
    pub fn with_time(self, time: Timestamp) -> Self {
        Self { publisher_time: Some(time), ..self }
    }

    /// Returns this event with a time to live, from appending on. Part of a millisecond counts as a
    /// whole one, so that a time that is not zero never becomes zero.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Self {
        let ms = ttl.as_nanos().div_ceil(1_000_000);
        Self { ttl_ms: Some(u64::try_from(ms).unwrap_or(u64::MAX)), ..self }
    }
}

/// The media type of payloads that are JSON.
const JSON: &str = "application/json";

/// One stored event: the published event, with the places and the time that it was given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// The event's place in the whole broker.
    pub position: Position,
    /// The time at which the event was appended.
    pub time: Timestamp,
    /// The event as it was published.
    pub content: NewEvent,
}

impl Event {
    /// Returns the payload, read as JSON. The content type is not looked at.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `payload`, and the event's sequence: the payload is not JSON,
    /// or no `T`.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        from_json_at(self.sequence, &self.content.payload)
    }
}

/// Returns the payload of the event with this sequence, read as JSON.
pub(crate) fn from_json_at<'a, T: Deserialize<'a>>(
    sequence: Sequence,
    payload: &'a [u8],
) -> Result<T> {
    serde_json::from_slice(payload).map_err(|error| {
        Error::invalid("payload", format!("of sequence {sequence} does not fit: {error}"))
    })
}
