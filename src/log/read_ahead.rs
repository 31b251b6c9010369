//! Blocks of a topic up to a position, and where the events after them begin: what a reader of many
//! topics needs to know which of them comes next.

use std::ops::Range;

use super::{Block, Log};
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::topic::TopicId;

/// Blocks, and what comes after them.
#[derive(Debug, Clone)]
pub struct ReadAhead {
    /// The blocks, in order, without a hole between them.
    pub blocks: Vec<Block>,
    /// Where the block after them begins: no event after them has a lower position. `None` if they
    /// are the last, or the next one cannot be read.
    pub following: Option<Position>,
}

/// As [`Log::read_ahead`], by two reads.
pub(super) fn read_ahead<L: Log + ?Sized>(
    log: &L,
    topic: TopicId,
    sequences: Range<Sequence>,
    before: Position,
    max_bytes: usize,
) -> Result<ReadAhead> {
    let Range { start, end } = sequences;
    let mut blocks = log.read(topic, start, end, max_bytes)?;
    let wanted = blocks.partition_point(|block| block.first_position() < before).max(1);
    let mut following = blocks.get(wanted).map(Block::first_position);
    blocks.truncate(wanted);
    if following.is_none()
        && let Some(next) = blocks.last().map(|block| block.last_sequence().next())
        && next < end
    {
        // Damage further on is reported when it is reached.
        let next = log.read(topic, next, end, 1).ok();
        following = next.and_then(|blocks| blocks.first().map(Block::first_position));
    }
    Ok(ReadAhead { blocks, following })
}
