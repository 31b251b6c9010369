//! The group: the changes that the broker has the log write in one go.

use super::applied::Applied;
use super::block::Block;
use super::stored_block::StoredBlock;
use super::stored_topic::StoredTopic;
use crate::cursor::Sequence;
use crate::event::Durability;
use crate::topic::TopicId;

/// The most parts that a group may remove, in addition to as many as it writes. sled keeps all
/// changes of a batch in memory until the batch is over. A batch of 40,000 removals leaked
/// gigabytes; batches of a few hundred take tens of megabytes and give them back (benches/soak.rs).
pub const MAX_REMOVED_PARTS: usize = 512;

/// The changes that the log writes in one go, over all topics: all of them, or none.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The topics whose records change: a new topic, new settings, another `earliest`, or a drop.
    /// Each record is as it is before the blocks that this group appends.
    pub topics: Vec<StoredTopic>,
    /// The blocks that are removed. The records of their topics above count them as dropped.
    pub removed: Vec<(TopicId, StoredBlock)>,
    /// The blocks that take the place of removed ones.
    pub rewritten: Vec<(TopicId, Block)>,
    /// The blocks that are appended. Those of one topic are in their order.
    pub appended: Vec<(TopicId, Block)>,
    /// The blocks of ids that are added, for events that are not stored any more, but whose ids
    /// must still be known. Only the id and the places are left of each event.
    pub ids: Vec<(TopicId, Block)>,
    /// The blocks of ids that are removed, each by its first sequence.
    pub forgotten: Vec<(TopicId, Sequence)>,
    /// The failures that the group must outlive once it is stored. With [`Durability::Process`],
    /// and with [`Durability::Replicated`], nothing is synced.
    pub durability: Durability,
    /// The place in the fleet's stream up to which the log has applied it with this group. `None`
    /// leaves the log's place as it is, and is right outside of a fleet.
    pub applied: Option<Applied>,
}

impl Group {
    /// Returns a group that only writes the record of `topic`.
    pub fn noting(topic: StoredTopic) -> Self {
        Self { topics: vec![topic], ..Self::default() }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let Self { topics, removed, rewritten, appended, ids, forgotten, .. } = self;
        let has_no_blocks = removed.is_empty() && rewritten.is_empty() && appended.is_empty();
        let has_no_ids = ids.is_empty() && forgotten.is_empty();
        topics.is_empty() && has_no_blocks && has_no_ids && self.applied.is_none()
    }
}
