//! Which events later ones of their keys supersede: what compaction needs to know.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

use super::VISITORS;
use super::rewriting::{STEP_BYTES, Visit};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::EventRef;

/// What a key takes besides its bytes: its place in the map, two allocations, the first sequences.
const KEY_BYTES: usize = 192;

/// A share of all keys, by a hash of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    index: u64,
    of: u64,
}

impl Share {
    /// All keys.
    pub(super) const ALL: Share = Share { index: 0, of: 1 };

    /// The first of twice as many shares.
    pub(super) fn halved(self) -> Self {
        Self { index: 0, of: 2 * self.of }
    }

    /// The share after this one.
    pub(super) fn next(self) -> Option<Self> {
        let index = self.index + 1;
        (index < self.of).then_some(Self { index, ..self })
    }
}

/// Which events of a share of the keys later ones supersede.
pub(super) struct Superseded {
    /// The latest events of each key, as many as are kept, and none before one that deletes it.
    keys: HashMap<Box<str>, Latest>,
    kept: usize,
    /// Where the events end that were looked at.
    pub(super) below: Sequence,
    /// Whether a horizon is there, and more events beyond it.
    pub(super) is_cut: bool,
}

#[derive(Default)]
struct Latest {
    sequences: VecDeque<Sequence>,
    /// Whether the first of them supersedes all before it, however few there are.
    is_deleted: bool,
    /// Whether there was any before the first of them.
    has_older: bool,
}

impl Superseded {
    pub(super) fn none() -> Self {
        Self { keys: HashMap::new(), kept: 1, below: Sequence::new(u64::MAX), is_cut: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Reads the keys of the events from `from` on; `None` if those of `share` are more than memory
    /// is for.
    pub(super) fn find(
        visit: &Visit<'_>,
        from: Sequence,
        kept: u64,
        share: Share,
    ) -> Result<Option<Self>> {
        let tail = visit.topic.state().extent.tail;
        // In this order: a backup that begins now is at the tail, or beyond it.
        let horizon = visit.maintenance.horizons.first(visit.id);
        let mut found = Self { kept: kept as usize, below: tail, ..Self::none() };
        let max_bytes = visit.maintenance.config.max_key_bytes as usize / VISITORS;
        let hasher = &visit.maintenance.key_hasher;
        let is_shared = |key: &str| share.of == 1 || hasher.hash_one(key) % share.of == share.index;
        let (mut at, mut size_bytes) = (from, 0);
        while at < tail {
            visit.check_stop()?;
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
                    (found.below, found.is_cut) = (block.first_sequence(), true);
                    return Ok(Some(found));
                }
                at = block.last_sequence().next();
                for event in block.events() {
                    if !event.key.is_empty() && is_shared(event.key) {
                        size_bytes += found.note(&event, visit.is_deletion(&event));
                    }
                }
                // A share of one key is as small as it gets.
                if size_bytes > max_bytes && found.keys.len() > 1 {
                    return Ok(None);
                }
            }
        }
        Ok(Some(found))
    }

    /// Notes an event of a key, which may delete it; what that takes more, in bytes.
    fn note(&mut self, event: &EventRef<'_>, is_deletion: bool) -> usize {
        let mut taken = 0;
        if !self.keys.contains_key(event.key) {
            self.keys.insert(event.key.into(), Latest::default());
            taken += KEY_BYTES + event.key.len();
        }
        let Some(latest) = self.keys.get_mut(event.key) else { return taken };
        if is_deletion {
            latest.has_older |= !latest.sequences.is_empty();
            latest.sequences.clear();
            latest.is_deleted = true;
        }
        latest.sequences.push_back(event.sequence);
        if latest.sequences.len() > self.kept {
            latest.sequences.pop_front();
            latest.has_older = true;
        }
        taken + size_of::<Sequence>()
    }

    /// Whether it is the first of its key there is.
    pub(super) fn has_nothing_before(&self, event: &EventRef<'_>) -> bool {
        self.keys.get(event.key).is_some_and(|latest| {
            let is_first = latest.sequences.front().is_some_and(|first| event.sequence <= *first);
            is_first && !latest.has_older
        })
    }

    pub(super) fn holds(&self, event: &EventRef<'_>) -> bool {
        let Some(latest) = self.keys.get(event.key) else { return false };
        let is_complete = latest.is_deleted || latest.sequences.len() >= self.kept;
        is_complete && latest.sequences.front().is_some_and(|oldest| event.sequence < *oldest)
    }
}
