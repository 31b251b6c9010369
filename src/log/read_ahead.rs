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
    /// How many of them are wanted, the first ones; the others were read along with these.
    pub wanted: usize,
    /// Where the block after all of them begins: no event after them has a lower position. `None`
    /// if they are the last, or the next one cannot be read.
    pub following: Option<Position>,
}

/// As [`Log::read_ahead`], by several reads.
pub(super) fn read_ahead<L: Log + ?Sized>(
    log: &L,
    topic: TopicId,
    sequences: Range<Sequence>,
    before: Position,
    max_bytes: usize,
    more_bytes: usize,
) -> Result<ReadAhead> {
    let Range { start, end } = sequences;
    let mut blocks = log.read(topic, start, end, max_bytes)?;
    let wanted = blocks.partition_point(|block| block.first_position() < before).max(1);
    blocks.truncate(wanted);
    let mut left_bytes = more_bytes;
    // Damage further on is reported when it is reached.
    while let Some(next) = blocks.last().map(|block| block.last_sequence().next())
        && next < end
        && let Ok(more) = log.read(topic, next, end, left_bytes.max(1))
        && !more.is_empty()
    {
        for block in more {
            let Some(left) = left_bytes.checked_sub(block.bytes().len()) else {
                let following = Some(block.first_position());
                return Ok(ReadAhead { blocks, wanted, following });
            };
            left_bytes = left;
            blocks.push(block);
        }
    }
    Ok(ReadAhead { blocks, wanted, following: None })
}
