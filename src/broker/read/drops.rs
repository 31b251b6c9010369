//! The drops that are a loss to a reader of many topics: they took events that the reader could
//! have got, and it was not told of them.
//!
//! ```text
//!  drops of the log    1 ──── 17 │ 18 ──── 20 │ 21 …
//!                      no loss:  │ to be told │ told when the reader meets them
//!                      the cursor says 17     │ the log had had 20 when the reader came
//! ```
//!
//! Drops from before the reader came are told before anything else. From then on the reader's
//! cursors carry the number of the last of these drops, as long as their place is below dropped
//! events.

use std::collections::HashMap;

use super::gaps::WantedPlace;
use crate::cursor::{Cursor, GapReason, Place, Position, Since, StartPoint};
use crate::log::Extent;
use crate::topic::TopicId;

/// The drops of the log, as a feed knows them: no loss, to be told, and told.
#[derive(Debug)]
pub(crate) struct Drops {
    /// The newest drop that is no loss to the reader, as are all before it. `None` if the reader's
    /// cursor carries no number of a drop.
    since: Option<u64>,
    /// Whether the reader has read nothing yet, so that it holds no key of any topic.
    is_new: bool,
    /// The drops that the reader's cursors carry once it is told of all drops from before it came.
    /// `None` when it has been told.
    then: Option<Since>,
    /// The drops that the reader's cursors carry now, if `then` is `None`.
    now: Since,
    /// The topics of which later drops were told, each with the number of the newest of them.
    told: HashMap<TopicId, u64>,
}

impl Drops {
    /// Returns the state of a reader that begins at `start` when the log has had `drops` drops.
    pub(crate) fn of(start: StartPoint, drops: u64) -> Self {
        let came = Since::drop(drops);
        let (since, is_new, is_told) = match start {
            // These readers want events that are kept: no earlier drop took one from them.
            StartPoint::Earliest | StartPoint::Latest | StartPoint::Last(_) => {
                (Some(drops), true, true)
            }
            // Events that are missing after the time that is asked for are told.
            StartPoint::Time(_) => (None, true, false),
            StartPoint::After(Cursor { since, .. }) => {
                (since.filter(|drop| *drop <= drops), false, false)
            }
            StartPoint::Unknown => (None, false, false),
        };
        let then = (!is_told).then_some(came);
        Self { since, is_new, then, now: came, told: HashMap::new() }
    }

    /// Notes that events up to the position `dropped` were dropped, from a topic that has events
    /// after the place `after`.
    pub(crate) fn raise(&mut self, dropped: Position, after: Position) {
        if dropped > after {
            self.then.as_mut().unwrap_or(&mut self.now).extend_to(dropped.get());
        }
    }

    /// Returns the number of the drop that the reader's cursor at `place` carries, if it carries
    /// one.
    pub(crate) fn at(&self, place: Place) -> Option<u64> {
        if self.then.is_some() { self.since } else { self.now.at(place) }
    }

    /// Notes that all drops from before the reader came were told.
    pub(crate) fn were_told(&mut self) {
        if let Some(then) = self.then.take() {
            self.now = then;
            self.since = Some(then.number());
        }
        self.is_new = false;
    }

    /// Notes that the reader's place is after all events.
    pub(crate) fn have_passed_all(&mut self) {
        self.told.clear();
    }

    /// Notes that the reader is told of all drops of a topic.
    pub(crate) fn tell(&mut self, id: TopicId, extent: &Extent) {
        self.told.insert(id, extent.newest_drop());
    }

    fn since(&self, id: TopicId) -> Option<u64> {
        self.since.max(self.told.get(&id).copied())
    }

    /// Returns whether events of the topic after the reader's place were trimmed, and this is a
    /// loss to the reader.
    pub(crate) fn has_lost(&self, id: TopicId, after: Position, extent: &Extent) -> bool {
        WantedPlace::Position(after.next()).is_trimmed(extent, self.since(id))
    }

    /// Returns the reason for which the reader must be told a gap of the topic; `None` if no gap
    /// must be told. The reader has not seen the topic's events from `wanted` on.
    pub(crate) fn reason(
        &self,
        id: TopicId,
        wanted: WantedPlace,
        extent: &Extent,
    ) -> Option<GapReason> {
        let reason = wanted.reason(extent, self.since(id))?;
        // A reader that has read nothing holds no key.
        (reason != GapReason::Tombstones || !self.is_new).then_some(reason)
    }

    /// Returns whether the reader must be told that deletions of keys were dropped.
    pub(crate) fn misses_deletions(
        &self,
        id: TopicId,
        wanted: WantedPlace,
        extent: &Extent,
    ) -> bool {
        !self.is_new && wanted.misses_deletions(extent, self.since(id))
    }
}
