//! What a count is asked and what it answers: filters, and the numbers for each of them.

use serde::{Deserialize, Serialize};

use crate::broker::Filter;
use crate::cursor::Position;
use crate::event::Timestamp;

/// The most filters of one request.
pub const MAX_COUNT_FILTERS: usize = 30;

/// The events that are counted, of those that the consumer's own filter picks. The default is all
/// of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct CountFilter {
    /// The filter of events.
    pub filter: Filter,
    /// A second filter, which must pick them too: what the caller is permitted to read.
    pub(crate) permitted: Filter,
}

impl From<Filter> for CountFilter {
    fn from(filter: Filter) -> Self {
        Self { filter, ..Self::default() }
    }
}

impl CountFilter {
    /// Returns this filter for what a caller is permitted to read.
    pub(crate) fn permitted(self, permitted: Filter) -> Self {
        Self { permitted, ..self }
    }

    /// Whether it picks all events.
    pub(super) fn is_empty(&self) -> bool {
        self.filter.is_empty() && self.permitted.is_empty()
    }
}

/// The numbers of a consumer's events. What a reader would not get is not counted: events that were
/// trimmed, that have expired, or that compaction has dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventCounts {
    /// All events.
    pub total: u64,
    /// The events after the checkpoint.
    pub unfinished: u64,
    /// The events after the checkpoint that are before the first one that is kept, whatever took
    /// them: retention, a purge, expiry, or compaction before that. They count whatever the filter
    /// picks: what is gone cannot be looked at. 0 for a consumer without a checkpoint, which begins
    /// with what is there.
    ///
    /// The position of an event that compaction has dropped is not known. So the number of a
    /// consumer of a pattern does not have those events of a topic next to the checkpoint that
    /// compaction had dropped when it was set.
    pub lost: u64,
    /// Whether `lost` is a lower bound. It is exact for a consumer of one topic, and for one of a
    /// pattern that fitted 32 topics or fewer when the checkpoint was set, none of which had lost
    /// events after it by then. Each other topic that lost events counts as one event.
    pub lost_more_than: bool,
    /// The events that are in the inbox: neither archived nor snoozed.
    pub inbox: u64,
    /// The events of the inbox that are not seen.
    pub unseen: u64,
    /// The events of the inbox that are not read.
    pub unread: u64,
    /// The events that are archived.
    pub archived: u64,
    /// The events that are snoozed now, and not archived.
    pub snoozed: u64,
    /// Whether the numbers but `lost` are lower bounds, because more events would have had to be
    /// looked at than `consumers.max_counted`.
    pub more_than: bool,
}

/// The counts of one consumer, all at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlacedCounts {
    /// The count for each filter of the request, in their order.
    pub counts: Vec<EventCounts>,
    /// The position at which they are true: they have every event up to here, and none after it.
    pub position: Position,
    /// The revision of the consumer whose marks and checkpoint they are.
    pub revision: Position,
    /// The time at which a count changes by itself, because an event expires or comes back; `None`
    /// if that does not happen.
    pub until: Option<Timestamp>,
}
