//! The group: what the broker has the log write in one go.

use super::block::Block;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::Sequence;
use crate::event::Durability;
use crate::topic::TopicId;

/// The most parts that a group may remove, besides as many as it writes. sled keeps all changes of
/// a batch in memory until the batch is over. A batch of 40,000 removals leaked gigabytes; batches
/// of a few hundred take tens of megabytes and give them back (benches/soak.rs).
pub const MAX_REMOVED_PARTS: usize = 512;

/// The changes that the log writes in one go, over all topics: all of them, or none.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Topics whose record changes: a new topic, new settings, another `earliest`, or a drop. Each
    /// stands here as it is before the blocks that this group appends.
    pub topics: Vec<StoredTopic>,
    /// Blocks that are removed. Their topics are noted above, and count them as dropped.
    pub removed: Vec<(TopicId, StoredBlock)>,
    /// Blocks that take the place of the removed ones.
    pub rewritten: Vec<(TopicId, Block)>,
    /// Blocks that are appended. The blocks of one topic stand in their order.
    pub appended: Vec<(TopicId, Block)>,
    /// Blocks of ids: of events that are not stored any more, but whose ids must still be known.
    /// Only the id and the places are left of each event.
    pub ids: Vec<(TopicId, Block)>,
    /// Blocks of ids that are removed, each by its first sequence.
    pub forgotten: Vec<(TopicId, Sequence)>,
    /// The failures that the group must outlive once it is stored. [`Durability::Process`] saves
    /// the sync.
    pub durability: Durability,
}

impl Group {
    /// Makes a group that only notes `topic`.
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
