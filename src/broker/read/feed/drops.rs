//! Which drops are a loss to the reader of a feed: what it could have had, and was not told of.
//!
//! ```text
//!  drops of the log    1 ──── 17 │ 18 ──── 20 │ 21 …
//!                      no loss:  │ to be told │ told when they are met
//!                      the cursor says 17     │ the reader came when there were 20
//! ```
//!
//! What was dropped up to when the reader came is told before anything else; from then on its
//! cursors say so, as long as they stand below some of it.

use std::collections::HashMap;

use crate::broker::read::subscription::Wanted;
use crate::cursor::{Cursor, GapReason, Place, Position, Since, StartPoint};
use crate::log::Extent;
use crate::topic::TopicId;

/// What a feed knows of the drops of the log.
#[derive(Debug)]
pub(super) struct Drops {
    /// Up to this one they are no loss to the reader; `None`: it does not say.
    since: Option<u64>,
    /// Whether the reader has read nothing yet, so that it holds no key.
    is_new: bool,
    /// What it is like once all is told that was dropped before the reader came; `None` when that
    /// is so.
    then: Option<Since>,
    /// What its cursors say by now.
    now: Since,
    /// Topics of which more was told meanwhile: the number of the newest drop.
    told: HashMap<TopicId, u64>,
}

impl Drops {
    /// Of a reader that comes when there were so many.
    pub(super) fn of(start: StartPoint, drops: u64) -> Self {
        let came = Since::drop(drops);
        let (since, is_new, is_told) = match start {
            // All that is kept is what there was for them.
            StartPoint::Earliest | StartPoint::Latest | StartPoint::Last(_) => {
                (Some(drops), true, true)
            }
            // What is missing of what they ask for is told.
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
    pub(super) fn note(&mut self, dropped: Position, after: Position) {
        if dropped > after {
            self.then.as_mut().unwrap_or(&mut self.now).note(dropped.get());
        }
    }

    /// What the reader's cursor at this place carries.
    pub(super) fn at(&self, place: Place) -> Option<u64> {
        if self.then.is_some() { self.since } else { self.now.at(place) }
    }

    /// All that was dropped before the reader came is told.
    pub(super) fn were_told(&mut self) {
        if let Some(then) = self.then.take() {
            self.now = then;
            self.since = Some(then.number());
        }
        self.is_new = false;
    }

    /// The reader's place is after everything that there is.
    pub(super) fn have_passed_all(&mut self) {
        self.told.clear();
    }

    /// Notes that the reader is told what a topic has lost.
    pub(super) fn tell(&mut self, id: TopicId, extent: &Extent) {
        self.told.insert(id, extent.newest_drop());
    }

    fn since(&self, id: TopicId) -> Option<u64> {
        self.since.max(self.told.get(&id).copied())
    }

    /// Whether something after the reader's place was trimmed since it came.
    pub(super) fn has_lost(&self, id: TopicId, after: Position, extent: &Extent) -> bool {
        Wanted::Position(after.next()).is_trimmed(extent, self.since(id))
    }

    /// Why the reader is to be told of a topic, whose events from `wanted` on it has not seen.
    pub(super) fn reason(&self, id: TopicId, wanted: Wanted, extent: &Extent) -> Option<GapReason> {
        if wanted.is_trimmed(extent, self.since(id)) {
            return Some(extent.trim_reason.into());
        }
        self.misses_deletions(id, wanted, extent).then_some(GapReason::Tombstones)
    }

    /// Whether it is to be told that deletions of keys were dropped.
    pub(super) fn misses_deletions(&self, id: TopicId, wanted: Wanted, extent: &Extent) -> bool {
        !self.is_new && wanted.misses_deletions(extent, self.since(id))
    }
}
