//! The way back over a topic's events, for a reader that wants the last so many of them.

use super::contract::Log;
use super::extent::Extent;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::topic::TopicId;

/// A way back over the events of a topic, from its end or from any place in it, block by block, so
/// that whoever goes it can rest, or give up, after each block.
#[derive(Debug)]
pub struct WayBack {
    topic: TopicId,
    extent: Extent,
    /// All events from here on are passed.
    at: Sequence,
    /// How many events are still to be passed.
    left: u64,
    is_begun: bool,
}

impl WayBack {
    /// The way over the last `count` events before `below` of a topic that holds `extent`.
    pub fn new(topic: TopicId, extent: Extent, below: Sequence, count: u64) -> Self {
        Self { topic, extent, at: below, left: count, is_begun: false }
    }

    /// Goes on by a block. Returns the sequence of the `count`th event before `below`, or the
    /// topic's earliest where there are fewer, once it is there. Where no event was dropped in
    /// between, it is there at once.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`]: the place stays where it is. Damaged blocks are passed over.
    pub fn step(&mut self, log: &dyn Log) -> Result<Option<Sequence>> {
        let earliest = self.extent.earliest;
        // Looked at once: removing what was trimmed can make it look whole later.
        if !self.is_begun && log.is_whole(self.topic, &self.extent)? {
            let found = Sequence::new(self.at.get().saturating_sub(self.left));
            return Ok(Some(found.max(earliest)));
        }
        self.is_begun = true;
        if self.left == 0 {
            return Ok(Some(self.at));
        }
        if self.at <= earliest {
            return Ok(Some(earliest));
        }
        self.pass_block(log)
    }

    fn pass_block(&mut self, log: &dyn Log) -> Result<Option<Sequence>> {
        let (topic, at, earliest) = (self.topic, self.at, self.extent.earliest);
        let block = match log.read(topic, at.previous(), at, 1) {
            Ok(blocks) => blocks.into_iter().next(),
            // The damage says where it begins, unless there is nothing before it at all.
            Err(Error::Damaged { first, .. }) if first < at.previous() => {
                self.at = first;
                return Ok(None);
            }
            Err(Error::Damaged { .. }) => {
                return match log.stored_blocks(topic, Sequence::FIRST..at.previous(), 1) {
                    Ok(before) if before.is_empty() => Ok(Some(earliest)),
                    Ok(_) | Err(Error::Damaged { .. }) => {
                        self.at = at.previous();
                        Ok(None)
                    }
                    Err(error) => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let Some(block) = block else { return Ok(Some(earliest)) };
        let sequences: Vec<_> =
            block.events().map(|event| event.sequence).take_while(|s| *s < at).collect();
        if let Some(found) = (sequences.len() as u64).checked_sub(self.left) {
            return Ok(Some(sequences.get(found as usize).map_or(at, |s| (*s).max(earliest))));
        }
        self.left -= sequences.len() as u64;
        self.at = block.first_sequence();
        Ok(None)
    }
}
