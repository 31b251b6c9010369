//! Gaps: whether a reader is told that events are gone, of what, and why.
//!
//! Readers of one topic and of many decide it here alone.

use std::collections::VecDeque;

use crate::broker::topic::state::TopicState;
use crate::cursor::{Cursor, Gap, GapReason, OnGap, Place, Position, Requested, Sequence, Since};
use crate::event::Timestamp;
use crate::log::Extent;
use crate::topic::TopicName;

/// Returns the drops that the cursors carry of a reader of one topic that begins, or goes on after
/// a gap, when the topic holds `extent`.
pub(crate) fn since(drops: u64, extent: &Extent) -> Since {
    let mut since = Since::drop(drops);
    since.note(extent.buried_sequence.get());
    since
}

/// The place of the event that a reader wants next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WantedPlace {
    Sequence(Sequence),
    /// As [`Self::Sequence`], of a topic of which the reader has read nothing, so that it holds no
    /// key.
    First(Sequence),
    Position(Position),
    /// The first event that was appended at this time, or later.
    Time(Timestamp),
}

impl WantedPlace {
    /// Returns the place as a gap for this reason names it.
    fn requested(self, reason: GapReason) -> Requested {
        match self {
            _ if reason == GapReason::Unknown => Requested::Unknown,
            Self::Sequence(next) | Self::First(next) => Requested::Place(Place::Sequence(next)),
            Self::Position(next) => Requested::Place(Place::Position(next)),
            Self::Time(time) => Requested::Time(time),
        }
    }

    /// Returns whether it was never given out.
    pub(super) fn is_ahead(self, extent: &Extent, last_position: u64) -> bool {
        match self {
            Self::Sequence(next) | Self::First(next) => next > extent.tail,
            Self::Position(next) => next.previous().get() > last_position,
            Self::Time(_) => false,
        }
    }

    /// Returns whether some of it was trimmed, after the drop `since`, if that is known.
    pub(crate) fn is_trimmed(self, extent: &Extent, since: Option<u64>) -> bool {
        let was_trimmed = extent.trimmed_position > Position::BEFORE_ALL;
        match self {
            Self::Sequence(next) | Self::First(next) => next < extent.earliest,
            Self::Position(next) => {
                next <= extent.trimmed_position && Some(extent.trimmed_drop) > since
            }
            Self::Time(time) => was_trimmed && time <= extent.trimmed_time,
        }
    }

    /// Returns whether deletions of keys that it follows were dropped, after the drop `since`, if
    /// that is known. Whoever has read nothing has no key, and needs none.
    pub(crate) fn misses_deletions(self, extent: &Extent, since: Option<u64>) -> bool {
        let is_before = match self {
            Self::Sequence(next) => next > Sequence::FIRST && next <= extent.buried_sequence,
            Self::Position(next) => extent.had_some_before(next) && next <= extent.buried_position,
            Self::First(_) | Self::Time(_) => false,
        };
        is_before && Some(extent.buried_drop) > since
    }
}

/// Returns the gap of a reader that wants `wanted` next, and the sequence at which the reader goes
/// on.
pub(crate) fn gap(
    topic: &TopicName,
    state: &TopicState,
    wanted: WantedPlace,
    reason: GapReason,
    on_gap: OnGap,
) -> (Gap, Sequence) {
    let Extent { earliest, tail, .. } = state.extent;
    let nearest = match (reason, wanted) {
        (GapReason::Ahead, _) => tail,
        (GapReason::Tombstones, WantedPlace::Sequence(next)) => next,
        _ => earliest,
    };
    let was_trimmed = match reason {
        GapReason::Retention | GapReason::Expired | GapReason::Purged | GapReason::Deleted => true,
        GapReason::Ahead | GapReason::Epoch | GapReason::Unknown | GapReason::Tombstones => false,
    };
    let lost = match wanted {
        WantedPlace::Sequence(next) | WantedPlace::First(next) => {
            was_trimmed.then_some(earliest.get().saturating_sub(next.get()))
        }
        // The number of events in between that were of this topic is not known any more.
        WantedPlace::Position(_) | WantedPlace::Time(_) => None,
    };
    let resume = match on_gap {
        OnGap::Resume | OnGap::Fail => nearest,
        OnGap::Earliest => earliest,
        OnGap::Latest => tail,
    };
    let gap = Gap {
        topic: Some(topic.clone()),
        requested: wanted.requested(reason),
        earliest: Place::Sequence(earliest),
        tail: Place::Sequence(tail),
        lost,
        reason,
        resume: Place::Sequence(resume),
    };
    (gap, resume)
}

/// The gaps that a reader has found, and that it was not told of yet.
#[derive(Debug, Default)]
pub(crate) struct UntoldGaps {
    gaps: VecDeque<Gap>,
    /// The reader's cursor before the first of them. A reader that comes back with this cursor is
    /// told of them again.
    before: Option<Cursor>,
}

impl UntoldGaps {
    /// Adds a gap that was found by a reader at the cursor `before`.
    pub(crate) fn add(&mut self, gap: Gap, before: Cursor) {
        self.gaps.push_back(gap);
        self.before.get_or_insert(before);
    }

    /// Returns whether the reader was told of all.
    pub(crate) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Returns the gap that is told next.
    pub(crate) fn first(&self) -> Option<&Gap> {
        self.gaps.front()
    }

    /// Returns the reader's cursor, as long as some of them are untold.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.before
    }

    /// Takes the gap that is told next.
    pub(crate) fn take(&mut self) -> Option<Gap> {
        let gap = self.gaps.pop_front()?;
        if self.gaps.is_empty() {
            self.before = None;
        }
        Some(gap)
    }

    /// Forgets all of them: the reader begins again with everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
