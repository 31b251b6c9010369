//! Blocks of a topic up to a position, and where the events after them begin: what a reader of many
//! topics needs to know which of them comes next.

use super::block::Block;
use crate::cursor::Position;

/// Blocks that were read, and where the topic goes on after them.
#[derive(Debug, Clone)]
pub struct ReadAhead {
    /// The blocks, in order, without a hole between them.
    pub blocks: Vec<Block>,
    /// The number of wanted blocks, which come first. The others were read along with them.
    pub wanted: usize,
    /// The position at which the block after all of these begins. `None` if there is no such block,
    /// or it cannot be read.
    pub following: Option<Position>,
}
