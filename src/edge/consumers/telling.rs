//! The state of the consumer as which a stream reads, told while the stream lives.
//!
//! ```text
//! connect ─▶ counts, if asked ─▶ all marks, unless the client has them ─┬▶ each change of marks
//!                                                                       └▶ counts that changed
//! ```
//!
//! # Why
//!
//! A mark must reach the other devices at once, so that it is told as soon as it is stored. Counts
//! are computed, so that they are told at most once in [`COUNTS_EVERY`]: the first change is told
//! at once, and those that follow it together. They change with marks, with events that come or go,
//! and with time: a snooze ends, an event expires.
//!
//! What is told here moves no cursor of events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::asking::Found;
use super::counting::PlacedCount;
use super::revision::known;
use crate::broker::Filter;
use crate::consumers::{
    Changed, ChangedEvents, ConsumerState, CountFilter, CountsTag, MarksChange, StateChange,
    StateChanges, StateFollower,
};
use crate::cursor::{Cursor, Epoch, StartPoint};
use crate::edge::hooks::Grant;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicPattern;

/// The most changes of marks that wait for the client. With more, it is told all marks.
const MAX_UNTOLD: usize = 256;

/// The least time between two counts of one stream.
const COUNTS_EVERY: Duration = Duration::from_millis(100);

/// News of a consumer.
#[derive(Debug)]
pub(in crate::edge) enum News {
    /// Its marks.
    Marked(MarksNews),
    /// Its counts.
    Counts(PlacedCount, Epoch),
}

/// Marks of a consumer that changed.
#[derive(Debug)]
pub(in crate::edge) enum MarksNews {
    /// All of them, which replace what the client has.
    Whole(Box<ConsumerState>, Epoch),
    /// One change of them.
    Change(Arc<StateChange>, MarksChange, Epoch),
}

/// The state of one stream's consumer.
#[derive(Debug)]
pub(in crate::edge) struct StateTelling {
    found: Found,
    /// The state when the stream began.
    begun: ConsumerState,
    epoch: Epoch,
    follower: StateFollower,
    /// The changes of marks that are not told yet.
    changes: VecDeque<MarksNews>,
    counting: Option<Counting>,
}

/// The counts of one stream.
#[derive(Debug)]
struct Counting {
    filters: CountFilter,
    told: Option<(CountsTag, PlacedCount)>,
    /// Whether the counts may have changed since they were told.
    is_due: bool,
    /// The time before which no counts are told.
    not_before: Instant,
    /// The time at which they change by themselves: a snooze ends, or an event expires.
    until: Option<Instant>,
}

impl StateTelling {
    /// Returns the state of a consumer for a stream that begins. The client has its marks up to
    /// `marks_after`, if that is a revision of the present epoch.
    ///
    /// # Errors
    ///
    /// As [`Consumers::get`](crate::consumers::Consumers::get).
    pub(in crate::edge) fn new(
        found: Found,
        counts: bool,
        marks_after: Option<Cursor>,
        epoch: Epoch,
    ) -> Result<Self> {
        found.consumers.get(&found.id)?; // Refused, if nothing reads as one that is not there.
        let mut follower = found.consumers.follow(&found.id);
        if let Some(revision) = marks_after.and_then(|cursor| known(cursor, epoch)) {
            follower.knows(revision);
        }
        let begun = found.consumers.state(&found.id);
        let counting = counts.then(|| Counting {
            filters: CountFilter::default(),
            told: None,
            is_due: true,
            not_before: Instant::now(),
            until: None,
        });
        Ok(Self { found, begun, epoch, follower, changes: VecDeque::new(), counting })
    }

    /// Returns the place at which the stream begins if it brings none: after the checkpoint.
    pub(in crate::edge) fn start(&self) -> StartPoint {
        self.begun.info.checkpoint.map_or(StartPoint::Earliest, StartPoint::After)
    }

    /// Returns the consumer's own filter, as it was when the stream began.
    pub(in crate::edge) fn filter(&self) -> &Filter {
        &self.begun.info.settings.filter
    }

    /// Returns the selection of the consumer.
    pub(in crate::edge) fn selection(&self) -> &TopicPattern {
        &self.found.id.selection
    }

    /// Sets the filter of the stream, and that of its caller's grant, which hold for counts, too.
    pub(in crate::edge) fn counting(mut self, filter: Filter, permitted: Filter) -> Self {
        if let Some(counting) = &mut self.counting {
            counting.filters = CountFilter::from(filter).permitted(permitted);
        }
        self
    }

    /// Notes that events have come or gone.
    pub(in crate::edge) fn events_changed(&mut self) {
        if let Some(counting) = &mut self.counting {
            counting.is_due = true;
        }
    }

    /// Checks that the caller may follow the consumer under its new grant.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]: it is another caller, or no administrator any more.
    pub(in crate::edge) fn check_still(&self, grant: &Grant) -> Result<()> {
        let may_name_it = !self.found.is_of_another || grant.permission().administers();
        if grant.caller() == self.found.caller && may_name_it {
            return Ok(());
        }
        let reason = format!("consumer {:?} is not the caller's any more", self.found.id.name);
        Err(Error::Denied { reason })
    }

    /// Waits until there may be news.
    async fn due(&mut self) {
        if !self.changes.is_empty() {
            return;
        }
        let at = self.counting.as_ref().and_then(Counting::at);
        let counts = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = self.follower.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await; // The reader says that the broker stops.
                }
            }
            () = counts => {}
        }
    }

    /// Returns the next news, if there are any.
    ///
    /// # Errors
    ///
    /// As [`Consumers::counts`](crate::consumers::Consumers::counts).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call returns the same.
    pub(in crate::edge) async fn news(&mut self) -> Result<Option<News>> {
        self.take_changes();
        let is_first = self.counting.as_ref().is_some_and(|counting| counting.told.is_none());
        if is_first && let Some(counts) = self.counts().await? {
            return Ok(Some(counts));
        }
        if let Some(marked) = self.changes.pop_front() {
            return Ok(Some(News::Marked(marked)));
        }
        self.counts().await
    }

    fn take_changes(&mut self) {
        let Found { consumers, id, .. } = &self.found;
        let changes = match consumers.changes(id, &mut self.follower) {
            StateChanges::These(changes) => changes,
            StateChanges::Whole(state) => {
                self.events_changed();
                return self.tell_whole(state);
            }
        };
        for change in changes {
            self.events_changed();
            let marks = match &change.what {
                Changed::Marks(marks) => marks.clone(),
                Changed::Deleted => return self.tell_present(),
                _ => continue,
            };
            if marks.events == ChangedEvents::Whole || self.changes.len() >= MAX_UNTOLD {
                // The present state has this change and all others that were returned.
                return self.tell_present();
            }
            self.changes.push_back(MarksNews::Change(change, marks, self.epoch));
        }
    }

    fn tell_present(&mut self) {
        let Found { consumers, id, .. } = &self.found;
        let state = consumers.whole(id, &mut self.follower);
        self.tell_whole(state);
    }

    /// Puts the whole state in the place of all that is not told yet.
    fn tell_whole(&mut self, state: ConsumerState) {
        self.changes.clear();
        self.changes.push_back(MarksNews::Whole(Box::new(state), self.epoch));
    }

    /// Returns the counts, if they may be told now, and differ from those that were.
    async fn counts(&mut self) -> Result<Option<News>> {
        let Found { consumers, id, .. } = &self.found;
        let Some(counting) = &mut self.counting else { return Ok(None) };
        let now = Instant::now();
        if counting.at().is_none_or(|at| at > now) {
            return Ok(None);
        }
        let tag = consumers.counts_tag(id).await?;
        let mut news = None;
        if counting.told.as_ref().is_none_or(|(told, _)| *told != tag) {
            let filters = std::slice::from_ref(&counting.filters);
            let counts = consumers.counts(id, filters).await?;
            counting.not_before = now + COUNTS_EVERY;
            counting.until = counts.until.and_then(instant_after);
            if let Some(placed) = PlacedCount::each(&counts).next() {
                let is_new =
                    counting.told.as_ref().is_none_or(|(_, told)| told.count != placed.count);
                news = is_new.then_some(News::Counts(placed, self.epoch));
                counting.told = Some((tag, placed));
            }
        }
        counting.is_due = false;
        Ok(news)
    }
}

impl Counting {
    /// Returns the time at which the counts are to be looked at; `None` if nothing has changed.
    fn at(&self) -> Option<Instant> {
        match (self.is_due, self.until) {
            (true, _) => Some(self.not_before),
            (false, until) => until.map(|at| at.max(self.not_before)),
        }
    }
}

/// Waits until there may be news of a stream's consumer. Never ready without one.
///
/// # Cancel safety
///
/// Nothing is lost.
pub(in crate::edge) async fn due(telling: &mut Option<Box<StateTelling>>) {
    match telling {
        // Boxed: a stream without a consumer needs no memory for it.
        Some(telling) => Box::pin(telling.due()).await,
        None => std::future::pending().await,
    }
}

/// Returns the first moment after a time.
fn instant_after(time: Timestamp) -> Option<Instant> {
    // One millisecond later, whatever the clocks round.
    let left_ms = time.as_ms().saturating_sub(Timestamp::now().as_ms()) + 1;
    Instant::now().checked_add(Duration::from_millis(left_ms))
}
