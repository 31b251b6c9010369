//! The way back over a topic's events, for a reader that wants a number of the last ones.

use super::contract::Log;
use super::extent::Extent;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::topic::TopicId;

/// A walk back over the events of a topic, from its end or from any place in it. Each step passes
/// one block, so that the caller can rest or give up in between.
#[derive(Debug)]
pub(crate) struct WayBack {
    topic: TopicId,
    extent: Extent,
    /// All events from this sequence on are passed.
    at: Sequence,
    /// The number of events that must still be passed.
    left: u64,
    is_begun: bool,
}

impl WayBack {
    /// Begins a walk back over `count` events before `below`, in a topic with this extent.
    pub(crate) fn new(topic: TopicId, extent: Extent, below: Sequence, count: u64) -> Self {
        Self { topic, extent, at: below, left: count, is_begun: false }
    }

    /// Passes one block. Returns the sequence of the `count`th event before `below` once the walk
    /// is there, or the topic's earliest if there are fewer events. If no event was dropped in
    /// between, the first step arrives.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`]: the place stays where it is. Damaged blocks are passed over.
    pub(crate) fn step(&mut self, log: &dyn Log) -> Result<Option<Sequence>> {
        let earliest = self.extent.earliest;
        // Asked only once: when trimmed blocks are removed, the topic can look whole later.
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
            // The error has the first damaged sequence, unless no block lies before it.
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
