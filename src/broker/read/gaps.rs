//! Gaps: whether a reader is told that events are gone, of what, and why.
//!
//! Readers of one topic and of many decide it here alone.

use crate::broker::topic::state::TopicState;
use crate::cursor::{Gap, GapReason, OnGap, Position, Sequence, Since};
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

/// Returns the gap of a reader that wants `wanted` next.
pub(crate) fn gap(
    topic: &TopicName,
    state: &TopicState,
    wanted: WantedPlace,
    reason: GapReason,
    on_gap: OnGap,
) -> Gap {
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
    let (requested, lost) = match wanted {
        WantedPlace::Sequence(next) | WantedPlace::First(next) => {
            let lost = earliest.get().saturating_sub(next.get());
            (next.get(), was_trimmed.then_some(lost))
        }
        // The number of events in between that were of this topic is not known any more.
        WantedPlace::Position(next) => (next.get(), None),
        WantedPlace::Time(time) => (time.as_ms(), None),
    };
    let resume = match on_gap {
        OnGap::Resume | OnGap::Fail => nearest,
        OnGap::Earliest => earliest,
        OnGap::Latest => tail,
    };
    Gap { topic: Some(topic.clone()), requested, earliest, tail, lost, reason, resume }
}
