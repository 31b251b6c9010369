//! The first reading of a compaction: the latest events of each key, and with them the answer which
//! events later ones supersede. `rewriting.rs` fills this in, `merging.rs` asks it.

use std::collections::{HashMap, VecDeque};

use crate::cursor::Sequence;
use crate::log::EventRef;

/// The bytes that a key takes besides its text: its place in the map, two allocations, and the
/// first sequences.
const KEY_BYTES: usize = 192;

/// A share of all keys, by the hashes of the keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyShare {
    pub(super) index: u64,
    pub(super) of: u64,
}

impl KeyShare {
    /// All keys.
    pub(super) const ALL: KeyShare = KeyShare { index: 0, of: 1 };

    /// Returns the first share of twice as many.
    pub(super) fn halved(self) -> Self {
        Self { index: 0, of: 2 * self.of }
    }

    /// Returns the share after this one; `None` after the last.
    pub(super) fn next(self) -> Option<Self> {
        let index = self.index + 1;
        (index < self.of).then_some(Self { index, ..self })
    }
}

/// The latest events of a share of the keys. All events of these keys before them are superseded.
pub(super) struct Superseded {
    /// The latest events of each key, as many as are kept, and none from before the last deletion
    /// of the key.
    pub(super) keys: HashMap<Box<str>, Latest>,
    /// The number of events of a key that are kept.
    pub(super) key_limit: usize,
    /// The end, exclusive, of the events whose keys were read.
    pub(super) below: Sequence,
    /// Whether the reading ended at a horizon, with more events beyond it.
    pub(super) is_cut: bool,
}

#[derive(Default)]
pub(super) struct Latest {
    sequences: VecDeque<Sequence>,
    /// Whether the first of these sequences is a deletion, which supersedes all events before it.
    is_deleted: bool,
    /// Whether the key has an event before the first of these sequences.
    has_older: bool,
}

impl Superseded {
    pub(super) fn none() -> Self {
        Self { keys: HashMap::new(), key_limit: 1, below: Sequence::new(u64::MAX), is_cut: false }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Notes an event with a key, which may delete that key. Returns the bytes of memory that this
    /// takes.
    pub(super) fn add(&mut self, event: &EventRef<'_>, is_deletion: bool) -> usize {
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
        if latest.sequences.len() > self.key_limit {
            latest.sequences.pop_front();
            latest.has_older = true;
        }
        taken + size_of::<Sequence>()
    }

    /// Whether the event is the first of its key.
    pub(super) fn has_nothing_before(&self, event: &EventRef<'_>) -> bool {
        self.keys.get(event.key).is_some_and(|latest| {
            let is_first = latest.sequences.front().is_some_and(|first| event.sequence <= *first);
            is_first && !latest.has_older
        })
    }

    pub(super) fn holds(&self, event: &EventRef<'_>) -> bool {
        let Some(latest) = self.keys.get(event.key) else { return false };
        let is_complete = latest.is_deleted || latest.sequences.len() >= self.key_limit;
        is_complete && latest.sequences.front().is_some_and(|oldest| event.sequence < *oldest)
    }
}
