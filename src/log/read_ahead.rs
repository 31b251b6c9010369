//! Blocks of a topic up to a position, and where the events after them begin: what a reader of many
//! topics needs to know which of them comes next.

use super::block::Block;
use crate::cursor::Position;

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
