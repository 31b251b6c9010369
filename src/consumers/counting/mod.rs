//! Counts of a consumer's events: how many there are, are unfinished, unseen, unread.
//!
//! ```text
//! classes.rs   the marks of a topic's events, as ranges of sequences with equal marks
//! tally.rs     the counter of one consumer: how many events of each class
//! lost.rs      how many unfinished events are gone
//! stamps.rs    what tells that no count has changed
//! ```
//!
//! # Why
//!
//! Counts are asked for more often than anything else, and a badge that is wrong is noticed by
//! everybody. So they are computed from what is there, and not kept: nothing can drift. Marks are
//! watermarks and exceptions, so events with equal marks lie in ranges; the events of a range are
//! counted by the sequences, or by the headers of blocks. Where events must be decoded, the number
//! of them is bounded, and the answer says when the bound was reached.

mod classes;
mod lost;
mod stamps;
mod tally;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::lost::Lost;
pub use self::stamps::CountsTag;
pub(super) use self::stamps::KnownExpiries;
use self::tally::{CLASSES, MarkTally};
use super::Consumers;
use super::id::ConsumerId;
use super::requests::ConsumerState;
use crate::broker::{Filter, Selected};
use crate::cursor::Position;
use crate::error::Result;
use crate::event::Timestamp;
use crate::lists;

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

    fn is_empty(&self) -> bool {
        self.filter.is_empty() && self.permitted.is_empty()
    }
}

/// The numbers of a consumer's events. What a reader would not get is not counted: events that were
/// trimmed, that have expired, or that compaction has dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Count {
    /// All events.
    pub total: u64,
    /// The events after the checkpoint.
    pub unfinished: u64,
    /// The events after the checkpoint that retention or a purge has taken, whatever the filter
    /// picks: what is gone cannot be looked at. 0 for a consumer without a checkpoint, which begins
    /// with what is there.
    pub lost: u64,
    /// Whether `lost` is a lower bound. It is exact for a consumer of one topic, and for one of a
    /// pattern that fitted 32 topics or fewer when the checkpoint was set, none of which had lost
    /// events after it by then.
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
pub struct Counts {
    /// The count for each filter of the request, in their order.
    pub counts: Vec<Count>,
    /// The position at which they are true: they have every event up to here, and none after it.
    pub position: Position,
    /// The revision of the consumer whose marks and checkpoint they are.
    pub revision: Position,
    /// The time at which a count changes by itself, because an event expires or comes back; `None`
    /// if that does not happen.
    pub until: Option<Timestamp>,
}

impl Consumers {
    /// Counts the events of a consumer, for each filter; without filters, all events.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownConsumer`](crate::Error::UnknownConsumer);
    /// [`Error::OverLimit`](crate::Error::OverLimit): there are more than [`MAX_COUNT_FILTERS`]
    /// filters; [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::ReadFailed`](crate::Error::ReadFailed): events cannot be counted.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub async fn counts(&self, id: &ConsumerId, filters: &[CountFilter]) -> Result<Counts> {
        self.get(id)?;
        lists::check("filters", filters.len(), MAX_COUNT_FILTERS)?;
        filters.iter().try_for_each(|of| of.filter.validate().and(of.permitted.validate()))?;
        // The state is taken first: it has no mark of an event that the selection does not have.
        let state = self.state(id);
        let selected = self.0.broker.select(&id.selection).await?;
        let all = [CountFilter::default()];
        self.counted(state, selected, if filters.is_empty() { &all } else { filters }).await
    }

    /// Counts what was selected.
    async fn counted(
        &self,
        state: ConsumerState,
        selected: Selected,
        filters: &[CountFilter],
    ) -> Result<Counts> {
        let Lost { events: lost, more_than: lost_more_than } = lost::lost(&state, &selected);
        let (position, now, revision) = (selected.position, selected.now, state.info.revision);
        let own = &state.info.settings.filter;
        let is_whole = |of: &CountFilter| own.is_empty() && of.is_empty();
        // Without a filter few events have to be decoded. So these are counted apart.
        let mut whole = None;
        let mut until = state.marks.next_return(now);
        let mut add_until = |time| until = until.into_iter().chain(time).min();
        if filters.iter().any(is_whole) {
            let tally = MarkTally::new(state.clone(), now, Vec::new());
            let max_counted = self.0.config.max_counted;
            let (tally, is_cut) =
                self.0.broker.count(selected.clone(), [], max_counted, tally).await?;
            add_until(tally.until());
            whole = Some((tally.counted()[0], is_cut));
        }
        let picked: Vec<_> = filters.iter().filter(|of| !is_whole(of)).cloned().collect();
        let (mut of_filters, mut is_cut) = (Vec::new(), false);
        if !picked.is_empty() {
            let tally = MarkTally::new(state.clone(), now, picked);
            let max_counted = self.0.config.max_counted;
            let counted = self.0.broker.count(selected, [own.clone()], max_counted, tally);
            let (tally, cut) = counted.await?;
            add_until(tally.until());
            (of_filters, is_cut) = (tally.counted().to_vec(), cut);
        }
        let mut of_filters = of_filters.into_iter();
        let counts = filters.iter().map(|of| {
            let (events, more_than) = match whole {
                Some((events, is_cut)) if is_whole(of) => (events, is_cut),
                _ => (of_filters.next().unwrap_or([0; CLASSES]), is_cut),
            };
            Count { lost, lost_more_than, more_than, ..tally::count_of(&events) }
        });
        Ok(Counts { counts: counts.collect(), position, revision, until })
    }

    /// Counts the events of many consumers, as [`Self::counts`] does for each.
    ///
    /// # Errors
    ///
    /// Each item may be an error, as of [`Self::counts`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::counts`].
    pub async fn counts_of_many(
        &self,
        of: &[(ConsumerId, Vec<CountFilter>)],
    ) -> Vec<Result<Counts>> {
        let mut counts = Vec::with_capacity(of.len());
        for (id, filters) in of {
            // With all events in memory this loop never waits, and other tasks would wait for all.
            tokio::task::coop::consume_budget().await;
            counts.push(self.counts(id, filters).await);
        }
        counts
    }
}

/// The text of an identity for a hash.
fn text_of(id: &ConsumerId) -> Arc<str> {
    super::entry::text_of(&id.owner, id.selection.as_str(), id.name.as_str())
}
