//! Pages of a topic's state, and the events that fill one.

use bytes::Bytes;

use crate::broker::read::page::{EVENT_BYTES, HEADER_BYTES};
use crate::cursor::Sequence;
use crate::event::Event;
use crate::log::{Ages, Block, EventRef};
use crate::topic::TopicId;

/// The bytes of blocks that are read at a time.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// A page of a topic's state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatePage {
    /// The latest event of each key, in the order of their sequences, without tombstones.
    pub events: Vec<Event>,
    /// The sequence at which the state is true. A reader that follows the state begins after it.
    pub at: Sequence,
    /// The start of the next page; `None` after the last one.
    pub next: Option<Sequence>,
}

impl StatePage {
    /// Returns the bytes that the page's events take.
    pub(crate) fn size_bytes(&self) -> usize {
        self.events.iter().map(size_of).sum()
    }
}

/// A request for a page of a topic's state. The default is the first page of the state as it is
/// now.
///
/// ```
/// use leftoff::StateRequest;
///
/// let request = StateRequest::default().key_prefix("user.").limit(20);
/// assert_eq!(request.at, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateRequest {
    /// The page has only keys that begin with this.
    pub key_prefix: String,
    /// The first sequence of the page.
    pub from: Sequence,
    /// The sequence at which the state is read; `None` for the state as it is now.
    pub at: Option<Sequence>,
    /// The most events; 1 or more.
    pub limit: usize,
    /// The most bytes of events, if that is less than the broker's own bound. The first event fits,
    /// however large it is.
    pub max_bytes: usize,
}

impl Default for StateRequest {
    fn default() -> Self {
        let (key_prefix, from, at) = (String::new(), Sequence::FIRST, None);
        Self { key_prefix, from, at, limit: 100, max_bytes: usize::MAX }
    }
}

impl From<Sequence> for StateRequest {
    /// Returns a request for the page that begins at this sequence, such as [`StatePage::next`].
    fn from(from: Sequence) -> Self {
        Self { from, ..Self::default() }
    }
}

impl StateRequest {
    /// Returns this request for keys that begin with `prefix`.
    #[must_use]
    pub fn key_prefix(self, prefix: impl Into<String>) -> Self {
        Self { key_prefix: prefix.into(), ..self }
    }

    /// Returns this request for the state at `sequence`. All pages of one state are read at the
    /// [`StatePage::at`] of the first one.
    #[must_use]
    pub fn at(self, sequence: Sequence) -> Self {
        Self { at: Some(sequence), ..self }
    }

    /// Returns this request with `limit` as the most events; 1 or more.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Returns this request with `max_bytes` as the most bytes of events.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }
}

/// The page that is read, and the terms on which events are in it.
#[derive(Debug, Clone)]
pub(super) struct StateRead {
    pub(super) id: TopicId,
    /// The range of sequences in which the page is looked for. The state is true at its end.
    pub(super) from: Sequence,
    pub(super) below: Sequence,
    pub(super) key_prefix: String,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
    /// Whether compaction drops superseded events. Then an expired event still supersedes others,
    /// because these may be dropped already. Without compaction, expired events count for nothing.
    pub(super) is_compacted: bool,
    /// The ages of the topic's events.
    pub(super) ages: Ages,
}

impl StateRead {
    /// Returns whether an event may be in the page, or may supersede an event of the page.
    pub(super) fn concerns(&self, event: &EventRef<'_>) -> bool {
        event.sequence >= self.from
            && !event.key.is_empty()
            && event.key.starts_with(&self.key_prefix)
            && (self.is_compacted || !self.ages.has_expired(event))
    }
}

/// Returns a copy of an event, so that a page does not hold a whole block for each of its events.
pub(in crate::broker::read) fn own(block: &Block, event: &EventRef<'_>) -> Event {
    let mut event = block.to_event(event);
    event.content.payload = Bytes::copy_from_slice(&event.content.payload);
    event
}

/// Returns the bytes that an event takes in a page.
pub(in crate::broker::read) fn size_of(event: &Event) -> usize {
    EVENT_BYTES + HEADER_BYTES * event.content.headers.len() + event.content.content_bytes()
}
