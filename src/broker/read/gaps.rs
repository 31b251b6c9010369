//! Gaps: the rules by which a reader is told that events are gone, of what, and why.
//!
//! Readers of one topic (`subscription.rs`) and of many (`feed/`) ask these rules when they begin
//! and when they look for the next events. No other file makes a gap.

use std::collections::VecDeque;

use crate::broker::topic::state::TopicState;
use crate::cursor::{
    Cursor, Epoch, Gap, GapReason, OnGap, Place, Position, Requested, Sequence, Since,
};
use crate::event::Timestamp;
use crate::log::Extent;
use crate::topic::TopicName;

/// Returns the drops that are no loss to a reader of one topic from now on. The reader begins, or
/// goes on after a gap, when the log has had `drops` drops and the topic holds `extent`.
pub(crate) fn since(drops: u64, extent: &Extent) -> Since {
    let mut since = Since::drop(drops);
    since.extend_to(extent.buried_sequence.get());
    since
}

/// The place of the event that a reader wants next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WantedPlace {
    Sequence(Sequence),
    /// As [`Self::Sequence`], for a reader that has read nothing of the topic, so that it holds no
    /// key.
    First(Sequence),
    Position(Position),
    /// The first event that was appended at this time, or later.
    Time(Timestamp),
}

impl WantedPlace {
    /// Returns the place of the first event after a cursor.
    pub(crate) fn after(place: Place) -> Self {
        match place {
            Place::Sequence(sequence) => Self::Sequence(sequence.next()),
            Place::Position(position) => Self::Position(position.next()),
        }
    }

    /// Returns the place as a gap for `reason` names it.
    fn requested(self, reason: GapReason) -> Requested {
        match self {
            _ if reason == GapReason::Unknown => Requested::Unknown,
            Self::Sequence(next) | Self::First(next) => Requested::Place(Place::Sequence(next)),
            Self::Position(next) => Requested::Place(Place::Position(next)),
            Self::Time(time) => Requested::Time(time),
        }
    }

    /// Returns the reason for a gap of a topic that holds `extent`, from this place on, if there is
    /// one. Drops up to the drop `since` are no loss to the reader, if it is known.
    pub(crate) fn reason(self, extent: &Extent, since: Option<u64>) -> Option<GapReason> {
        if self.is_trimmed(extent, since) {
            return Some(extent.trim_reason.into());
        }
        self.misses_deletions(extent, since).then_some(GapReason::Tombstones)
    }

    /// Returns whether events at the place or after it were trimmed. Up to the drop `since`, if
    /// that is known, such events are no loss to a reader by position.
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

    /// Returns whether deletions of keys at the place or after it were dropped, in a drop after
    /// `since`, if that is known. A reader that has read nothing holds no key, and needs none of
    /// them.
    pub(crate) fn misses_deletions(self, extent: &Extent, since: Option<u64>) -> bool {
        let is_before = match self {
            Self::Sequence(next) => next > Sequence::FIRST && next <= extent.buried_sequence,
            Self::Position(next) => extent.had_some_before(next) && next <= extent.buried_position,
            Self::First(_) | Self::Time(_) => false,
        };
        is_before && Some(extent.buried_drop) > since
    }
}

/// Returns the reason why a cursor names no place of the log: it is of another epoch, or ahead of
/// `tail`, the place that is given next.
pub(crate) fn misplaced(cursor: Cursor, epoch: Epoch, tail: Place) -> Option<GapReason> {
    if cursor.epoch.is_some_and(|given| given != epoch) {
        return Some(GapReason::Epoch);
    }
    let is_ahead = cursor.after.next().number() > tail.number();
    is_ahead.then_some(GapReason::Ahead)
}

/// Returns the gap of all topics that a reader of many is told when its whole place is gone. Places
/// are positions.
pub(crate) fn gap_of_all(
    requested: Requested,
    (earliest, tail): (Place, Place),
    reason: GapReason,
    on_gap: OnGap,
) -> Gap {
    let resume = match on_gap {
        OnGap::Resume | OnGap::Fail if reason == GapReason::Ahead => tail,
        OnGap::Resume | OnGap::Fail | OnGap::Earliest => earliest,
        OnGap::Latest => tail,
    };
    Gap { topic: None, requested, earliest, tail, lost: None, reason, resume }
}

/// Returns the gap of a reader that wants `wanted` next, and the sequence at which the reader goes
/// on in the topic.
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
        // The number of this topic's events in between is not known any more.
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

/// The gaps that a reader has found, and that are not told to its client yet.
#[derive(Debug, Default)]
pub(crate) struct UntoldGaps {
    gaps: VecDeque<Gap>,
    /// The reader's cursor before the first of these gaps. A client that comes back with this
    /// cursor is told the gaps again.
    before: Option<Cursor>,
}

impl UntoldGaps {
    /// Adds a gap that the reader found at its cursor `before`.
    pub(crate) fn add(&mut self, gap: Gap, before: Cursor) {
        self.gaps.push_back(gap);
        self.before.get_or_insert(before);
    }

    /// Returns whether all gaps are told.
    pub(crate) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Returns the gap that is told next.
    pub(crate) fn first(&self) -> Option<&Gap> {
        self.gaps.front()
    }

    /// Returns the cursor before the first gap, as long as some gap is untold.
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

    /// Drops all gaps, for a reader that begins again with all events.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
