//! The events that later ones of their keys supersede, as compaction needs to know them.

use std::collections::{HashMap, VecDeque};

use crate::cursor::Sequence;
use crate::log::EventRef;

/// The bytes that a key takes besides its text: its place in the map, two allocations, the first
/// sequences.
const KEY_BYTES: usize = 192;

/// A share of all keys, by a hash of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyShare {
    pub(super) index: u64,
    pub(super) of: u64,
}

impl KeyShare {
    /// All keys.
    pub(super) const ALL: KeyShare = KeyShare { index: 0, of: 1 };

    /// Returns the first of twice as many shares.
    pub(super) fn halved(self) -> Self {
        Self { index: 0, of: 2 * self.of }
    }

    /// Returns the share after this one.
    pub(super) fn next(self) -> Option<Self> {
        let index = self.index + 1;
        (index < self.of).then_some(Self { index, ..self })
    }
}

/// Which events of a share of the keys later ones supersede.
pub(super) struct Superseded {
    /// The latest events of each key, as many as are kept, and none before one that deletes it.
    pub(super) keys: HashMap<Box<str>, Latest>,
    pub(super) kept: usize,
    /// The end of the events whose keys were read.
    pub(super) below: Sequence,
    /// Whether a horizon is there, and more events beyond it.
    pub(super) is_cut: bool,
}

#[derive(Default)]
pub(super) struct Latest {
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

    /// Notes an event of a key, which may delete it; what that takes more, in bytes.
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
        if latest.sequences.len() > self.kept {
            latest.sequences.pop_front();
            latest.has_older = true;
        }
        taken + size_of::<Sequence>()
    }

    /// Returns whether it is the first of its key there is.
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
