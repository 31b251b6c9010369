//! Pages of a topic's state, and what is read to fill one.

use bytes::Bytes;

use crate::broker::read::page::{EVENT_BYTES, HEADER_BYTES};
use crate::cursor::Sequence;
use crate::event::Event;
use crate::log::{Ages, Block, EventRef};
use crate::topic::TopicId;

/// Bytes of blocks read at a time.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// A page of a topic's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePage {
    /// The latest event of each key, in the order of their sequences, without tombstones.
    pub events: Vec<Event>,
    /// The last sequence that the state is true at: what to follow after.
    pub at: Sequence,
    /// The start of the next page; `None` after the last one.
    pub next: Option<Sequence>,
}

impl StatePage {
    /// Returns the bytes that the page's events take.
    pub fn size_bytes(&self) -> usize {
        self.events.iter().map(size_of).sum()
    }
}

/// A request for a page of a topic's state.
#[derive(Debug, Clone)]
pub struct StateRequest {
    /// Only keys that begin with it.
    pub key_prefix: String,
    /// The start of the page.
    pub from: Sequence,
    /// The last sequence of the topic when its state was what is read; `None` reads it as it is.
    pub at: Option<Sequence>,
    /// The most events; 1 at the least.
    pub limit: usize,
    /// The most bytes of events, if that is less than the broker's own bound. One event fits,
    /// however large it is.
    pub max_bytes: usize,
}

impl Default for StateRequest {
    fn default() -> Self {
        let (key_prefix, from, at) = (String::new(), Sequence::FIRST, None);
        Self { key_prefix, from, at, limit: 100, max_bytes: usize::MAX }
    }
}

/// Which page.
#[derive(Debug, Clone)]
pub(super) struct StateRead {
    pub(super) id: TopicId,
    /// The sequences that the page is looked for in; the state is true at the end.
    pub(super) from: Sequence,
    pub(super) below: Sequence,
    pub(super) key_prefix: String,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
    /// Whether superseded events are dropped: then one that has expired supersedes others all the
    /// same, for these may be gone. Otherwise it is as if it had never been.
    pub(super) is_compacted: bool,
    /// The ages of the topic's events.
    pub(super) ages: Ages,
}

impl StateRead {
    /// Returns whether an event is in the page, or supersedes one that is.
    pub(super) fn concerns(&self, event: &EventRef<'_>) -> bool {
        event.sequence >= self.from
            && !event.key.is_empty()
            && event.key.starts_with(&self.key_prefix)
            && (self.is_compacted || !self.ages.has_expired(event))
    }
}

/// Returns an event of its own: a page must not hold on to as many blocks as it has events.
pub(super) fn own(block: &Block, event: &EventRef<'_>) -> Event {
    let mut event = block.to_event(event);
    event.content.payload = Bytes::copy_from_slice(&event.content.payload);
    event
}

/// Returns the bytes that an event takes in a page.
pub(super) fn size_of(event: &Event) -> usize {
    EVENT_BYTES + HEADER_BYTES * event.content.headers.len() + event.content.content_bytes()
}
