//! Counts of a consumer's events: how many there are, are unfinished, unseen, unread.
//!
//! ```text
//! count.rs     what is asked and answered
//! classes.rs   the marks of a topic's events, as ranges of sequences with equal marks
//! tally.rs     the counter of one consumer: how many events of each class
//! lost.rs      how many unfinished events are gone
//! stamps.rs    what tells that no count has changed; tag.rs has the stamp itself
//! ```
//!
//! # Why
//!
//! Counts are asked for more often than anything else, and a badge that is wrong is noticed by
//! everybody. So they are computed from what is there, and not kept: nothing can drift. Marks are
//! watermarks and exceptions, so events with equal marks lie in ranges; the events of a range are
//! counted by the sequences, or by the headers of blocks. Where events must be decoded, the number
//! of them is bounded, and the answer says when the bound was reached.
//!
//! With 100,000 topics of 50 events, counts of one topic take 0.03 ms over HTTP, p99 0.7 ms, beside
//! a busy machine; those of 100 topics in one request take 1.1 ms (`cargo bench --bench inbox`).

mod classes;
pub(super) mod count;
mod lost;
mod stamps;
pub(super) mod tag;
mod tally;

use std::sync::Arc;

use self::count::{CountFilter, EventCounts, MAX_COUNT_FILTERS, PlacedCounts};
use self::lost::Lost;
use self::tally::{CLASSES, MarkTally};
use super::Consumers;
use super::id::ConsumerId;
use super::requests::{ConsumerInfo, ConsumerState};
use super::work::FinishedWork;
use crate::broker::Selected;
use crate::error::Result;
use crate::lists;

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
    pub async fn counts(&self, id: &ConsumerId, filters: &[CountFilter]) -> Result<PlacedCounts> {
        self.get(id)?;
        lists::check("filters", filters.len(), MAX_COUNT_FILTERS)?;
        filters.iter().try_for_each(|of| of.filter.validate().and(of.permitted.validate()))?;
        // The state is taken first: it has no mark of an event that the selection does not have.
        let (state, finished) = self.worked(id, self.state(id)).await;
        let selected = self.0.broker.select(&id.selection).await?;
        let all = [CountFilter::default()];
        let filters = if filters.is_empty() { &all } else { filters };
        self.counted((state, Arc::new(finished)), selected, filters).await
    }

    /// Returns the state of a consumer with the checkpoint of its work, if it shares its events,
    /// and what its workers have finished beyond it, both at one moment.
    async fn worked(&self, id: &ConsumerId, state: ConsumerState) -> (ConsumerState, FinishedWork) {
        let entry = self.view().get(id).map(|entry| (entry.number, entry.checkpoint()));
        let is_shared = state.info.settings.shared.is_some();
        let Some((number, begun)) = entry.filter(|_| is_shared) else {
            return (state, FinishedWork::default());
        };
        let Some((floor, finished)) = self.0.work.finished(number).await else {
            return (state, FinishedWork::default());
        };
        let info = ConsumerInfo { checkpoint: Some(floor), ..(*state.info).clone() };
        // The sequences are known at the place where it began, and at no later one.
        let has_moved = begun.is_none_or(|begun| begun.after != floor.after);
        let reach = if has_moved { None } else { state.reach.clone() };
        (ConsumerState { info: Arc::new(info), reach, ..state }, finished)
    }

    /// Counts what was selected.
    async fn counted(
        &self,
        (state, finished): (ConsumerState, Arc<FinishedWork>),
        selected: Selected,
        filters: &[CountFilter],
    ) -> Result<PlacedCounts> {
        let Lost { events: lost, more_than: lost_more_than } =
            lost::lost(&state, &finished, &selected);
        let (position, now, revision) = (selected.position, selected.now, state.info.revision);
        let own = &state.info.settings.filter;
        let is_whole = |of: &CountFilter| own.is_empty() && of.is_empty();
        // Without a filter few events have to be decoded. So these are counted apart.
        let mut whole = None;
        let mut until = state.marks.next_return(now);
        let mut add_until = |time| until = until.into_iter().chain(time).min();
        if filters.iter().any(is_whole) {
            let tally = MarkTally::new((state.clone(), finished.clone()), now, Vec::new());
            let max_counted = self.0.config.max_counted;
            let (tally, is_cut) =
                self.0.broker.count(selected.clone(), [], max_counted, tally).await?;
            add_until(tally.until());
            whole = Some((tally.counted()[0], is_cut));
        }
        let picked: Vec<_> = filters.iter().filter(|of| !is_whole(of)).cloned().collect();
        let (mut of_filters, mut is_cut) = (Vec::new(), false);
        if !picked.is_empty() {
            let tally = MarkTally::new((state.clone(), finished), now, picked);
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
            EventCounts { lost, lost_more_than, more_than, ..tally::count_of(&events) }
        });
        Ok(PlacedCounts { counts: counts.collect(), position, revision, until })
    }
}
