//! The number of a consumer's unfinished events that are gone.

use crate::broker::{Extent, Selected};
use crate::consumers::requests::ConsumerState;
use crate::consumers::work::FinishedWork;
use crate::cursor::{Place, Position};
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
        // What workers have finished beyond the checkpoint is not lost.
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
        let known = state.reach.iter().find(|(topic, _)| topic == name);
        match known {
            Some((_, reached)) => {
                let after = trimmed.saturating_sub(reached.get());
                self.events += after.saturating_sub(finished_ahead);
            }
            // The checkpoint knows all topics that there were, so this one came later.
            None if !state.reach.is_empty() => self.events += trimmed,
            None => {
                self.events += 1;
                self.more_than = true;
            }
        }
    }
}
