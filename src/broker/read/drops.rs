//! The drops that are a loss to the reader of a feed: events that it could have had, and was not
//! told of.
//!
//! ```text
//!  drops of the log    1 ──── 17 │ 18 ──── 20 │ 21 …
//!                      no loss:  │ to be told │ told when they are met
//!                      the cursor says 17     │ the reader came when there were 20
//! ```
//!
//! Drops from before the reader came are told before anything else. From then on the reader's
//! cursors say so, as long as they stand below dropped events.

use std::collections::HashMap;

use super::gaps::WantedPlace;
use crate::cursor::{Cursor, GapReason, Place, Position, Since, StartPoint};
use crate::log::Extent;
use crate::topic::TopicId;

/// The drops of the log, as far as a feed knows them.
#[derive(Debug)]
pub(crate) struct Drops {
    /// The newest drop that is no loss to the reader, and all before it; `None`: the reader's
    /// cursor does not say.
    since: Option<u64>,
    /// Whether the reader has read nothing yet, so that it holds no key.
    is_new: bool,
    /// The state once all is told that was dropped before the reader came; `None` when it has been
    /// told.
    then: Option<Since>,
    /// The drops that the reader's cursors carry by now.
    now: Since,
    /// Topics of which more was told meanwhile: the number of the newest drop.
    told: HashMap<TopicId, u64>,
}

impl Drops {
    /// Returns the state of a reader that comes when the log has had this many drops.
    pub(crate) fn of(start: StartPoint, drops: u64) -> Self {
        let came = Since::drop(drops);
        let (since, is_new, is_told) = match start {
            // All that is kept is what there was for them.
            StartPoint::Earliest | StartPoint::Latest | StartPoint::Last(_) => {
                (Some(drops), true, true)
            }
            // Events that are missing after the time they ask for are told.
            StartPoint::Time(_) => (None, true, false),
            StartPoint::After(Cursor { since, .. }) => {
                (since.filter(|drop| *drop <= drops), false, false)
            }
            StartPoint::Unknown => (None, false, false),
        };
        let then = (!is_told).then_some(came);
        Self { since, is_new, then, now: came, told: HashMap::new() }
    }

    /// Notes up to where something was dropped from topics with something after the place.
    pub(crate) fn raise(&mut self, dropped: Position, after: Position) {
        if dropped > after {
            self.then.as_mut().unwrap_or(&mut self.now).note(dropped.get());
        }
    }

    /// Returns the drop that the reader's cursor at this place carries.
    pub(crate) fn at(&self, place: Place) -> Option<u64> {
        if self.then.is_some() { self.since } else { self.now.at(place) }
    }

    /// All that was dropped before the reader came is told.
    pub(crate) fn were_told(&mut self) {
        if let Some(then) = self.then.take() {
            self.now = then;
            self.since = Some(then.number());
        }
        self.is_new = false;
    }

    /// The reader's place is after everything that there is.
    pub(crate) fn have_passed_all(&mut self) {
        self.told.clear();
    }

    /// Notes that the reader is told what a topic has lost.
    pub(crate) fn tell(&mut self, id: TopicId, extent: &Extent) {
        self.told.insert(id, extent.newest_drop());
    }

    fn since(&self, id: TopicId) -> Option<u64> {
        self.since.max(self.told.get(&id).copied())
    }

    /// Returns whether something after the reader's place was trimmed since it came.
    pub(crate) fn has_lost(&self, id: TopicId, after: Position, extent: &Extent) -> bool {
        WantedPlace::Position(after.next()).is_trimmed(extent, self.since(id))
    }

    /// Why the reader is to be told of a topic, whose events from `wanted` on it has not seen.
    pub(crate) fn reason(
        &self,
        id: TopicId,
        wanted: WantedPlace,
        extent: &Extent,
    ) -> Option<GapReason> {
        if wanted.is_trimmed(extent, self.since(id)) {
            return Some(extent.trim_reason.into());
        }
        self.misses_deletions(id, wanted, extent).then_some(GapReason::Tombstones)
    }

    /// Returns whether it is to be told that deletions of keys were dropped.
    pub(crate) fn misses_deletions(
        &self,
        id: TopicId,
        wanted: WantedPlace,
        extent: &Extent,
    ) -> bool {
        !self.is_new && wanted.misses_deletions(extent, self.since(id))
    }
}
