//! The callers who were proved, by the hashes of their credentials, so that a credential is
//! verified once and not with every request.
//!
//! # Why
//!
//! Two generations: what is found in the old one moves to the young one, and when the young one is
//! full, the old one is forgotten whole. So the memory is bounded, what is used stays, and no
//! request pays for putting the oldest in order.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use subtle::ConstantTimeEq as _;

use super::identity::CallerIdentity;
use super::keys::CredentialHash;
use super::verification::VerificationKey;
use crate::edge::hooks::Revoker;
use crate::permission::{Action, Permission, Permitted};

/// The most callers of one generation, and the most memory of their permissions, in bytes.
const MAX_CALLERS: usize = 32_768;
const MAX_BYTES: usize = 16 << 20;

/// The memory of one caller besides its permission, and of one pattern besides its text.
const CALLER_BYTES: usize = 384;
const PATTERN_BYTES: usize = 40;

/// The callers who were proved. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct RememberedCallers(Arc<Mutex<Generations>>);

#[derive(Default)]
struct Generations {
    young: HashMap<[u8; 16], Remembered>,
    old: HashMap<[u8; 16], Remembered>,
    young_bytes: usize,
}

/// A caller who was proved, and what must hold for that to be true.
#[derive(Clone)]
struct Remembered {
    hash: CredentialHash,
    caller: CallerIdentity,
    key: Option<Weak<VerificationKey>>,
}

impl fmt::Debug for RememberedCallers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RememberedCallers").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Remembered {
    /// Returns whether the credential proves the caller still.
    fn holds(&self, now: SystemTime) -> bool {
        let caller = &self.caller;
        caller.expires.is_none_or(|end| now < end)
            && self.key.as_ref().is_none_or(|key| key.strong_count() > 0)
            && !caller.grant.revoker().is_some_and(Revoker::is_revoked)
    }

    fn bytes(&self) -> usize {
        CALLER_BYTES + 2 * self.caller.id.len() + bytes_of(self.caller.grant.permission())
    }
}

fn bytes_of(permission: &Permission) -> usize {
    let actions = [Action::Publish, Action::Subscribe, Action::Presence, Action::Manage];
    let of = |action| match permission.of(action) {
        Permitted::Patterns(all) => all.iter().map(|it| PATTERN_BYTES + it.as_str().len()).sum(),
        _ => 0,
    };
    actions.into_iter().map(of).sum()
}

fn place_of(hash: &CredentialHash) -> [u8; 16] {
    let mut place = [0; 16];
    place.copy_from_slice(&hash[..16]);
    place
}

impl RememberedCallers {
    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        let generations = self.generations();
        generations.young.len() + generations.old.len()
    }

    /// Returns the caller whom a credential proves at `now`; `None` if it must be verified (again).
    pub(super) fn get(&self, hash: &CredentialHash, now: SystemTime) -> Option<CallerIdentity> {
        let mut generations = self.generations();
        let place = place_of(hash);
        let is_it = |it: &&Remembered| bool::from(it.hash.ct_eq(hash)) && it.holds(now);
        if let Some(found) = generations.young.get(&place).filter(is_it) {
            return Some(found.caller.clone());
        }
        let found = generations.old.get(&place).filter(is_it)?.clone();
        let caller = found.caller.clone();
        let forgotten = generations.insert(place, found);
        drop(generations); // Thousands of callers are freed without the lock.
        drop(forgotten);
        Some(caller)
    }

    /// Remembers whom a credential proves. `key` is the key that verified it.
    pub(super) fn insert(
        &self,
        hash: CredentialHash,
        caller: CallerIdentity,
        key: Option<Weak<VerificationKey>>,
    ) {
        let forgotten =
            self.generations().insert(place_of(&hash), Remembered { hash, caller, key });
        drop(forgotten);
    }
}

impl Generations {
    /// Adds a caller to the young generation. Returns the callers who are forgotten for it.
    fn insert(
        &mut self,
        place: [u8; 16],
        caller: Remembered,
    ) -> Option<HashMap<[u8; 16], Remembered>> {
        let bytes = caller.bytes();
        let is_full = self.young.len() >= MAX_CALLERS || self.young_bytes + bytes > MAX_BYTES;
        let forgotten = is_full.then(|| {
            self.young_bytes = 0;
            mem::replace(&mut self.old, mem::take(&mut self.young))
        });
        self.young_bytes += bytes;
        if let Some(before) = self.young.insert(place, caller) {
            self.young_bytes = self.young_bytes.saturating_sub(before.bytes());
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::identity::Proof;
    use super::super::keys::hash_of;
    use super::*;
    use crate::edge::hooks::Grant;

    fn caller(id: &str, expires: Option<SystemTime>, patterns: usize) -> CallerIdentity {
        let names: Vec<String> = (0..patterns).map(|n| format!("topic.number.{n}")).collect();
        let names = names.iter().map(String::as_str);
        let permission = Permission::default().with(Action::Publish, names).unwrap();
        let grant = Grant::new(id, permission);
        CallerIdentity { id: id.into(), proof: Proof::Key, issued: None, expires, grant }
    }

    #[test]
    fn what_a_credential_proves_ends_with_it_and_with_its_key_and_with_a_revocation() {
        let callers = RememberedCallers::default();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let before = end - Duration::from_nanos(1);
        let hash = hash_of("a");
        callers.insert(hash, caller("a", Some(end), 1), None);
        assert_eq!(&*callers.get(&hash, before).unwrap().id, "a");
        assert!(callers.get(&hash, end).is_none());
        assert!(callers.get(&hash_of("b"), before).is_none());

        let key = Arc::new(VerificationKey::for_tests());
        callers.insert(hash, caller("a", None, 1), Some(Arc::downgrade(&key)));
        assert!(callers.get(&hash, end).is_some());
        drop(key);
        assert!(callers.get(&hash, end).is_none(), "the key is gone");

        let revoker = Revoker::default();
        let mut revoked = caller("a", None, 1);
        revoked.grant = revoked.grant.revoked_by(revoker.clone());
        callers.insert(hash, revoked, None);
        assert!(callers.get(&hash, end).is_some());
        revoker.revoke();
        assert!(callers.get(&hash, end).is_none(), "the caller is asked about again");
    }

    /// Goal: only the whole hash is the credential, also where the map looks at a part of it.
    #[test]
    fn a_hash_that_begins_alike_is_another_credential() {
        let callers = RememberedCallers::default();
        let hash = hash_of("a");
        callers.insert(hash, caller("a", None, 1), None);
        let mut other = hash;
        other[31] ^= 1;
        assert!(callers.get(&other, SystemTime::UNIX_EPOCH).is_none());
    }

    #[test]
    fn the_memory_is_bounded_in_callers_and_bytes_and_who_comes_again_stays() {
        let (callers, now) = (RememberedCallers::default(), SystemTime::UNIX_EPOCH);
        let hash = |n: usize| hash_of(n.to_string());
        let shared = caller("a", None, 1);
        for n in 0..3 * MAX_CALLERS {
            callers.insert(hash(n), shared.clone(), None);
            if n % 1_000 == 0 {
                assert!(callers.get(&hash(0), now).is_some(), "it is used");
            }
        }
        assert!(callers.count() <= 2 * MAX_CALLERS);
        assert!(callers.get(&hash(1), now).is_none());
        assert!(callers.get(&hash(3 * MAX_CALLERS - 1), now).is_some());

        let callers = RememberedCallers::default();
        let large = caller("a", None, 1_000);
        let bytes = bytes_of(large.grant.permission());
        assert!(bytes > 1_000 * 50, "{bytes}");
        for n in 0..3 * MAX_BYTES / bytes {
            callers.insert(hash(n), large.clone(), None);
        }
        let count = callers.count();
        assert!(count * bytes <= 2 * MAX_BYTES && count * bytes > MAX_BYTES / 2, "{count}");
        callers.insert(hash(0), large.clone(), None);
        let before = callers.generations().young_bytes;
        callers.insert(hash(0), large, None);
        assert_eq!(callers.generations().young_bytes, before, "once for each credential");
    }
}
