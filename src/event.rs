//! Events: what publishers hand in, and what readers get back. Plain types, no I/O.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::place::{Position, Sequence};

pub use crate::timestamp::Timestamp;

/// The failures that an acknowledged event outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
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
}

impl Durability {
    /// Returns the word for the durability on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Process => "process",
            Self::Fsync => "fsync",
        }
    }
}

/// An event as its publisher hands it in. An empty text means that there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }
}

/// One stored event: the published event, with the places and the time that it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
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
