//! Which events later ones of their keys supersede: what compaction needs to know.

use std::collections::{HashMap, VecDeque};

use super::rewriting::{STEP_BYTES, Visit};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::EventRef;

/// What a key takes besides its bytes in the map of a compaction.
const KEY_BYTES: usize = 96;

/// Which events later ones of their keys supersede.
pub(super) struct Superseded {
    /// The latest events of each key, as many as are kept, and none before a tombstone.
    keys: HashMap<Box<str>, Latest>,
    kept: usize,
    /// Where the events end that were looked at.
    pub(super) below: Sequence,
    /// Whether that was all there is.
    pub(super) is_whole: bool,
}

#[derive(Default)]
struct Latest {
    sequences: VecDeque<Sequence>,
    /// Whether the first of them supersedes all before it, however few there are.
    is_deleted: bool,
}

impl Superseded {
    pub(super) fn none() -> Self {
        Self { keys: HashMap::new(), kept: 1, below: Sequence::new(u64::MAX), is_whole: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Reads the keys of the events from `from` on, as many as memory is for.
    pub(super) fn find(visit: &Visit<'_>, from: Sequence, kept: u64) -> Result<Self> {
        let tail = visit.topic.state().extent.tail;
        // In this order: a backup that begins now is at the tail, or beyond it.
        let horizon = visit.maintenance.horizons.first();
        let mut found = Self { kept: kept as usize, below: tail, ..Self::none() };
        let max_bytes = visit.maintenance.config.max_key_bytes as usize;
        let (mut at, mut size_bytes) = (from, 0);
        while at < tail {
            let blocks = match visit.log().read(visit.id, at, tail, STEP_BYTES) {
                Ok(blocks) => blocks,
                Err(Error::Damaged { last: Some(last), .. }) => {
                    at = last.next();
                    continue;
                }
                Err(Error::Damaged { last: None, .. }) => break,
                Err(error) => return Err(error),
            };
            for block in blocks {
                if horizon.is_some_and(|horizon| block.last_position() > horizon) {
                    found.below = block.first_sequence();
                    return Ok(found);
                }
                at = block.last_sequence().next();
                for event in block.events().filter(|event| !event.key.is_empty()) {
                    size_bytes += found.note(&event);
                }
                if size_bytes > max_bytes && at < tail {
                    (found.below, found.is_whole) = (at, false);
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Notes an event of a key; what that takes more, in bytes.
    fn note(&mut self, event: &EventRef<'_>) -> usize {
        let mut taken = 0;
        if !self.keys.contains_key(event.key) {
            self.keys.insert(event.key.into(), Latest::default());
            taken += KEY_BYTES + event.key.len();
        }
        let Some(latest) = self.keys.get_mut(event.key) else { return taken };
        if event.is_tombstone() {
            latest.sequences.clear();
            latest.is_deleted = true;
        }
        latest.sequences.push_back(event.sequence);
        if latest.sequences.len() > self.kept {
            latest.sequences.pop_front();
        }
        taken + size_of::<Sequence>()
    }

    /// Whether it is the first of its key that is left.
    pub(super) fn leaves_first(&self, event: &EventRef<'_>) -> bool {
        let first = self.keys.get(event.key).and_then(|latest| latest.sequences.front());
        first.is_some_and(|first| event.sequence <= *first)
    }

    pub(super) fn holds(&self, event: &EventRef<'_>) -> bool {
        let Some(latest) = self.keys.get(event.key) else { return false };
        let is_complete = latest.is_deleted || latest.sequences.len() >= self.kept;
        is_complete && latest.sequences.front().is_some_and(|oldest| event.sequence < *oldest)
    }
}
