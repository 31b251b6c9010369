//! The number of a consumer's unfinished events that are gone.

use crate::broker::{Extent, Selected};
use crate::consumers::requests::ConsumerState;
use crate::consumers::work::FinishedWork;
use crate::cursor::{Place, Position, Sequence};
use crate::topic::TopicName;

/// Events that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lost {
    pub(super) events: u64,
    /// Whether there may be more.
    pub(super) more_than: bool,
}

/// Returns how many events after the checkpoint were trimmed, whether the filter picked them or
/// not.
pub(super) fn lost(state: &ConsumerState, work: &FinishedWork, selected: &Selected) -> Lost {
    let mut lost = Lost::default();
    let Some(checkpoint) = state.info.checkpoint else { return lost };
    let kept = selected.topics.iter().map(|topic| {
        // Events that workers have finished beyond the checkpoint are not lost.
        let finished = work.below(topic.id(), topic.extent.earliest.get());
        (topic.name(), &topic.extent, finished)
    });
    let deleted = selected.deleted.iter().map(|(name, extent)| (name, extent, 0));
    for (name, extent, known) in kept.chain(deleted) {
        match checkpoint.after {
            Place::Sequence(finished) => {
                let trimmed = extent.earliest.previous().get();
                lost.events += trimmed.saturating_sub(finished.get()).saturating_sub(known);
            }
            Place::Position(finished) => lost.add(state, finished, (name, extent, known)),
        }
    }
    lost
}

impl Lost {
    /// Adds the events of one of many topics.
    fn add(
        &mut self,
        state: &ConsumerState,
        finished: Position,
        (name, extent, finished_ahead): (&TopicName, &Extent, u64),
    ) {
        if extent.trimmed_position <= finished {
            return;
        }
        let trimmed = extent.earliest.previous().get();
        let reached = state.reach.as_ref().map(|reach| reach.iter().find(|(of, _)| of == name));
        let reached = match reached {
            Some(Some((_, reached))) => *reached,
            // The checkpoint knows all topics that there were, so this one came later.
            Some(None) => Some(Sequence::BEFORE_ALL),
            None => None,
        };
        let (least, most) = match reached {
            Some(reached) => {
                let after = trimmed.saturating_sub(reached.get());
                (after, after)
            }
            // The newest trimmed event is after the checkpoint. No two have one position.
            None => (1, trimmed.min(extent.trimmed_position.get() - finished.get())),
        };
        let (least, most) =
            (least.saturating_sub(finished_ahead), most.saturating_sub(finished_ahead));
        self.events += least;
        self.more_than |= most > least;
    }
}
