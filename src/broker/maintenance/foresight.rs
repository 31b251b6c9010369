//! The look ahead: what limits would drop from a topic, before the topic has them. Nothing is
//! changed.

use super::retention::{Added, Retention};
use crate::broker::report::Dropped;
use crate::cursor::Sequence;
use crate::error::Result;
use crate::event::Timestamp;
use crate::log::{Extent, Log};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// The parts of blocks that are looked at in a step.
const STEP_PARTS: usize = 64;

/// A look at the blocks of a topic from the front on, up to the first one that stays.
pub(crate) struct Foresight {
    id: TopicId,
    /// The topic without the blocks that are gone or would go.
    left: Extent,
    limits: TopicConfig,
    now: Timestamp,
    /// The sequence from which blocks are not looked at yet.
    next: Sequence,
    dropped: Dropped,
}

impl Foresight {
    /// Begins a look at a topic with this extent, as if it had these limits.
    pub(crate) fn new(id: TopicId, extent: Extent, limits: TopicConfig, now: Timestamp) -> Self {
        let (next, dropped) = (Sequence::FIRST, Dropped::default());
        Self { id, left: extent, limits, now, next, dropped }
    }

    /// Looks at a few blocks more. Returns what would be dropped, exact to a block, once all of
    /// that is known.
    ///
    /// # Errors
    ///
    /// As [`Log::stored_blocks`].
    pub(crate) fn step(&mut self, log: &dyn Log) -> Result<Option<Dropped>> {
        if !Retention::is_limited(&self.limits) || self.next >= self.left.tail {
            return Ok(Some(self.dropped));
        }
        let mut gone = log.stored_blocks(self.id, self.next..self.left.tail, STEP_PARTS)?;
        let Some(last) = gone.last() else { return Ok(Some(self.dropped)) };
        self.next = last.end;
        let earliest = self.left.earliest;
        let kept = gone.split_off(gone.partition_point(|block| block.end <= earliest));
        gone.iter().for_each(|block| self.left.drop_block(block));
        let (limits, now) = (self.limits, self.now);
        let retention = Retention { log, limits, published: earliest, now, max_parts: STEP_PARTS };
        let over = retention.over_limits(&kept, &self.left, Added::default());
        for (block, _reason) in &over {
            self.dropped.add(block.events, block.size_bytes);
            self.left.drop_block(block);
        }
        Ok((over.len() < kept.len()).then_some(self.dropped))
    }
}
