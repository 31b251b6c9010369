//! The stamp of counts, and the times of expiries that are kept for stamps.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::event::Timestamp;

/// A stamp of a consumer's counts: while it is the same, so are the counts, for each filter. Its
/// text is 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CountsTag(u128);

impl CountsTag {
    /// Returns the stamp with this hash.
    pub(super) fn new(hash: u128) -> Self {
        Self(hash)
    }
}

impl fmt::Display for CountsTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The times of the next expiries, by the stamps of what they depend on. Those that were used least
/// recently go first.
#[derive(Debug)]
pub(in crate::consumers) struct KnownExpiries {
    max_kept: usize,
    kept: Mutex<TwoGenerations>,
}

/// Times that were used lately, and those that were used before them.
#[derive(Debug, Default)]
struct TwoGenerations {
    newer: HashMap<u128, Timestamp>,
    older: HashMap<u128, Timestamp>,
}

impl KnownExpiries {
    /// Returns a value that keeps `max_kept` times at the most.
    pub(in crate::consumers) fn new(max_kept: usize) -> Self {
        Self { max_kept, kept: Mutex::default() }
    }

    /// Returns the time that is kept for `stamp`, if it is after `now`.
    pub(super) fn get(&self, stamp: u128, now: Timestamp) -> Option<Timestamp> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.newer.get(&stamp).or_else(|| kept.older.get(&stamp)).copied();
        drop(kept);
        let found = found.filter(|until| *until > now)?;
        self.put(stamp, found);
        Some(found)
    }

    /// Keeps the time for `stamp`.
    pub(super) fn put(&self, stamp: u128, until: Timestamp) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.newer.len() >= (self.max_kept / 2).max(1) && !kept.newer.contains_key(&stamp) {
            kept.older = std::mem::take(&mut kept.newer);
        }
        kept.newer.insert(stamp, until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_that_are_kept_are_bounded_and_those_that_are_used_stay() {
        let kept = KnownExpiries::new(10);
        let at = Timestamp::from_ms;
        for stamp in 0..100 {
            kept.put(stamp, at(50));
            assert_eq!(kept.get(0, at(7)), Some(at(50)), "it is used all the time");
        }
        let held = kept.kept.lock().unwrap();
        assert!(held.newer.len() + held.older.len() <= 10);
        drop(held);
        assert_eq!(kept.get(1, at(7)), None, "it was not used");
        assert_eq!(kept.get(0, at(50)), None, "its time is over");
    }
}
