//! The group: what the broker has the log write in one go.

use super::block::Block;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::Sequence;
use crate::event::Durability;
use crate::topic::TopicId;

/// Most parts that a group removes, besides as many as it writes. sled holds on to what one batch
/// changes until the batch is over: one of 40,000 removals leaked gigabytes, those of a few hundred
/// take tens of megabytes and give them back (benches/soak.rs).
pub const MAX_REMOVED_PARTS: usize = 512;

/// What is written in one go: all of it is stored, or nothing, over all topics.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Topics of which something is to be noted that their blocks do not say: they are new, or
    /// their settings, their `earliest` or what was dropped changes. Each as it is before the
    /// blocks that this group appends to it.
    pub topics: Vec<StoredTopic>,
    /// Blocks that go. The topics of them are noted above, and count them as dropped.
    pub removed: Vec<(TopicId, StoredBlock)>,
    /// Blocks that take the place of those that go.
    pub rewritten: Vec<(TopicId, Block)>,
    /// Blocks that are appended, those of one topic in their order.
    pub appended: Vec<(TopicId, Block)>,
    /// Ids of events that are not stored any more, which are still to be recognised: blocks of
    /// events of which nothing but the id and the places is left.
    pub ids: Vec<(TopicId, Block)>,
    /// Blocks of ids that go, each by its first sequence.
    pub forgotten: Vec<(TopicId, Sequence)>,
    /// What it must outlive once it is stored: [`Durability::Process`] saves the sync.
    pub durability: Durability,
}

impl Group {
    /// A group that notes what `topic` is.
    pub fn noting(topic: StoredTopic) -> Self {
        Self { topics: vec![topic], ..Self::default() }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let Self { topics, removed, rewritten, appended, ids, forgotten, durability: _ } = self;
        let has_no_blocks = removed.is_empty() && rewritten.is_empty() && appended.is_empty();
        topics.is_empty() && has_no_blocks && ids.is_empty() && forgotten.is_empty()
    }
}
