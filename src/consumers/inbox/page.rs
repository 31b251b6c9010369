//! What a page of an inbox is asked and what it answers.

use crate::broker::{EventOrder, Filter};
use crate::consumers::marks::{EventMarks, MarkFilter};
use crate::cursor::{Cursor, Position};
use crate::event::Event;
use crate::topic::TopicName;

/// The most events of a page whose caller names no limit.
const DEFAULT_EVENTS: usize = 100;

/// A request for a page of a consumer's events. The default is the newest 100 events of the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxRequest {
    /// The order of the events.
    pub order: EventOrder,
    /// The place at which the page before ended: [`InboxPage::next`]. The page has the events
    /// before it, from the newest, or after it, from the oldest.
    pub from: Option<Cursor>,
    /// The most events; 1 or more.
    pub limit: usize,
    /// The most bytes of events, if that is less than the broker's own bound. The first event fits,
    /// however large it is.
    pub max_bytes: usize,
    /// The marks that the page's events have.
    pub marks: MarkFilter,
    /// The filter that picks the page's events, of those that the consumer's own filter picks.
    pub filter: Filter,
    /// A second filter, which must pick them too: what the caller is permitted to read.
    pub(crate) permitted: Filter,
}

impl Default for InboxRequest {
    fn default() -> Self {
        Self {
            order: EventOrder::Newest,
            from: None,
            limit: DEFAULT_EVENTS,
            max_bytes: usize::MAX,
            marks: MarkFilter::INBOX,
            filter: Filter::default(),
            permitted: Filter::default(),
        }
    }
}

impl InboxRequest {
    /// Returns this request in another order.
    #[must_use]
    pub fn order(self, order: EventOrder) -> Self {
        Self { order, ..self }
    }

    /// Returns this request for the page after the one that ended at `place`.
    #[must_use]
    pub fn from(self, place: Cursor) -> Self {
        Self { from: Some(place), ..self }
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

    /// Returns this request for events with these marks.
    #[must_use]
    pub fn marks(self, marks: MarkFilter) -> Self {
        Self { marks, ..self }
    }

    /// Returns this request for the events that `filter` picks.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }

    /// Returns this request for what a caller is permitted to read.
    pub(crate) fn permitted(self, permitted: Filter) -> Self {
        Self { permitted, ..self }
    }
}

/// An event with its topic and its marks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxEvent {
    /// The topic.
    pub topic: TopicName,
    /// The event.
    pub event: Event,
    /// The marks of the event.
    pub marks: EventMarks,
}

/// Some of a consumer's events, with their marks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxPage {
    /// The events, in the order that was asked for.
    pub events: Vec<InboxEvent>,
    /// The place at which the next page begins; `None` if no event is left. A page may have fewer
    /// events than its limit, or none, although there is a next page: then the search took too
    /// long, and it came as far as this place.
    pub next: Option<Cursor>,
    /// The position at which the page is true. A reader that follows the topics from here on gets
    /// every event that is newer.
    pub position: Position,
    /// The revision of the consumer whose marks these are.
    pub revision: Position,
}
