//! Blocks of a topic up to a position, and the position at which the next block begins. A reader of
//! many topics needs that to know which topic comes next.

use super::block::Block;
use crate::cursor::Position;

/// Blocks that were read, and the position at which the topic goes on after them.
#[derive(Debug, Clone)]
pub struct ReadAhead {
    /// The blocks, in order, without a hole between them.
    pub blocks: Vec<Block>,
    /// The number of wanted blocks, which come first. The others were read together with them.
    pub wanted: usize,
    /// The position at which the block after all of these begins. `None` if there is no such block,
    /// or if it was not looked at because it cannot be read.
    pub following: Option<Position>,
}
