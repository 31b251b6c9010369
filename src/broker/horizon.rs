//! Horizons: how far compaction may look while a backup, or a page of a state, is read.
//!
//! What lies beyond a horizon supersedes nothing before it, and no tombstone goes while there is
//! one: whoever reads sees what was true at its position, whatever is rewritten meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cursor::Position;

/// How long whoever holds one may stand still: a client that takes no more of its backup would hold
/// compaction up for ever.
pub(super) const MAX_STANDSTILL: Duration = Duration::from_secs(60);

/// All that are held.
#[derive(Debug, Clone, Default)]
pub(super) struct Horizons(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// By position, and in the order they were taken; when each was used last.
    used: BTreeMap<(Position, u64), Instant>,
    taken: u64,
}

impl Horizons {
    /// The first of them. Those that stand still are let go of.
    pub(super) fn first(&self) -> Option<Position> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.used.retain(|_, used| used.elapsed() < MAX_STANDSTILL);
        held.used.keys().next().map(|(position, _)| *position)
    }

    /// Whether any is held.
    pub(super) fn are_held(&self) -> bool {
        self.first().is_some()
    }

    /// Holds the position that `now` gives, while nobody else looks.
    pub(super) fn hold(&self, now: impl FnOnce() -> Position) -> Horizon {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (now(), held.taken);
        held.taken += 1;
        held.used.insert(place, Instant::now());
        Horizon { horizons: self.clone(), place }
    }
}

/// Holds a position for as long as it lives.
#[derive(Debug)]
pub(super) struct Horizon {
    horizons: Horizons,
    place: (Position, u64),
}

impl Horizon {
    /// The position.
    pub(super) fn position(&self) -> Position {
        self.place.0
    }

    /// Goes on holding it; `false` when it was let go of, for it stood still.
    pub(super) fn touch(&self) -> bool {
        let mut held = self.horizons.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.used.get_mut(&self.place).map(|used| *used = Instant::now()).is_some()
    }
}

impl Drop for Horizon {
    fn drop(&mut self) {
        let mut held = self.horizons.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.used.remove(&self.place);
    }
}
