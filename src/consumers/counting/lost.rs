//! The number of a consumer's unfinished events that are gone.

use crate::broker::{Extent, Selected};
use crate::consumers::requests::ConsumerState;
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
pub(super) fn lost(state: &ConsumerState, selected: &Selected) -> Lost {
    let mut lost = Lost::default();
    let Some(checkpoint) = state.info.checkpoint else { return lost };
    let kept = selected.topics.iter().map(|topic| (topic.name(), &topic.extent));
    let deleted = selected.deleted.iter().map(|(name, extent)| (name, extent));
    for (name, extent) in kept.chain(deleted) {
        match checkpoint.after {
            Place::Sequence(finished) => {
                lost.events += extent.earliest.previous().get().saturating_sub(finished.get());
            }
            Place::Position(finished) => lost.add(state, finished, (name, extent)),
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
        (name, extent): (&TopicName, &Extent),
    ) {
        if extent.trimmed_position <= finished {
            return;
        }
        let trimmed = extent.earliest.previous().get();
        let known = state.reach.iter().find(|(topic, _)| topic == name);
        match known {
            Some((_, reached)) => self.events += trimmed.saturating_sub(reached.get()),
            // The checkpoint knows all topics that there were, so this one came later.
            None if !state.reach.is_empty() => self.events += trimmed,
            None => {
                self.events += 1;
                self.more_than = true;
            }
        }
    }
}
