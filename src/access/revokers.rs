//! The revokers of the callers who have grants now: what ends all that a caller has open.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::edge::hooks::{Revoker, WeakRevoker};

/// The parts of the map. Each has a lock of its own and is swept by itself, so that no sweep holds
/// a lock for long, also with a million callers.
const SHARDS: usize = 64;

/// The number of callers of a shard up to which it is not swept.
const UNSWEPT: usize = 16;

/// The revokers of callers, as long as a grant has them.
#[derive(Debug)]
pub(super) struct Revokers {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    by_caller: HashMap<Arc<str>, WeakRevoker>,
    /// The number of callers that the last sweep left.
    left: usize,
}

impl Default for Revokers {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl Revokers {
    fn shard(&self, caller: &str) -> MutexGuard<'_, Shard> {
        let place = self.hasher.hash_one(caller) as usize % SHARDS;
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the revoker of a caller: the same one for all of its grants, until it is used.
    pub(super) fn of(&self, caller: &str) -> Revoker {
        let mut shard = self.shard(caller);
        if let Some(known) = shard.by_caller.get(caller).and_then(WeakRevoker::upgrade) {
            return known;
        }
        if shard.by_caller.len() > UNSWEPT + 2 * shard.left {
            shard.by_caller.retain(|_, revoker| revoker.upgrade().is_some());
            shard.left = shard.by_caller.len();
        }
        let revoker = Revoker::default();
        shard.by_caller.insert(caller.into(), revoker.downgrade());
        revoker
    }

    /// Ends all grants of a caller. Its next grants have another revoker.
    pub(super) fn revoke(&self, caller: &str) {
        let found = self.shard(caller).by_caller.remove(caller);
        // Thousands of streams may be woken: without the lock.
        if let Some(revoker) = found.and_then(|found| found.upgrade()) {
            revoker.revoke();
        }
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        let count = |shard: &Mutex<Shard>| shard.lock().unwrap().by_caller.len();
        self.shards.iter().map(count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_grants_have_one_revoker_until_it_is_used() {
        let revokers = Revokers::default();
        let (first, second, other) = (revokers.of("a"), revokers.of("a"), revokers.of("b"));
        revokers.revoke("a");
        assert!(first.is_revoked() && second.is_revoked() && !other.is_revoked());
        let next = revokers.of("a");
        assert!(!next.is_revoked(), "a newer credential is let in");
        revokers.revoke("a");
        assert!(next.is_revoked());
    }

    /// Goal: callers that have no grant any more take no memory, and those that have one keep it.
    #[test]
    fn callers_that_are_gone_are_forgotten() {
        let revokers = Revokers::default();
        let kept: Vec<Revoker> = (0..1_000).map(|n| revokers.of(&format!("kept.{n}"))).collect();
        for n in 0..100_000 {
            revokers.of(&format!("gone.{n}"));
        }
        let most = 2 * (kept.len() + 2 * SHARDS * UNSWEPT);
        assert!(revokers.count() < most, "{} of {most}", revokers.count());
        (0..1_000).for_each(|n| revokers.revoke(&format!("kept.{n}")));
        assert!(kept.iter().all(Revoker::is_revoked));
    }
}
