//! Filters: which events of its topics a reader wants.
//!
//! # Why
//!
//! Readers with equal filters share one, and a block in a tail remembers which of its events a few
//! filters pick. So with a thousand readers of one filter, an event is looked at once, and not a
//! thousand times.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::lists::MAX_ENTRIES;
use crate::log::EventRef;

/// The most values in one filter.
const MAX_VALUES: usize = MAX_ENTRIES;

/// The conditions on events that are delivered. An event has one of the types, one of the keys, one
/// of the key prefixes, and each of the headers. An empty condition holds for every event.
///
/// ```
/// use leftoff::Filter;
///
/// // Events of either type, of one tenant.
/// let filter = Filter::default().of_type("paid").of_type("sent").with_header("tenant", "acme");
/// assert_eq!(filter.types.len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Event types.
    pub types: BTreeSet<String>,
    /// Keys.
    pub keys: BTreeSet<String>,
    /// Prefixes of keys.
    pub key_prefixes: BTreeSet<String>,
    /// Headers with their values.
    pub headers: BTreeMap<String, String>,
}

impl Filter {
    /// Returns this filter with one more type that it picks.
    #[must_use]
    pub fn of_type(mut self, event_type: impl Into<String>) -> Self {
        self.types.insert(event_type.into());
        self
    }

    /// Returns this filter with one more key that it picks.
    #[must_use]
    pub fn of_key(mut self, key: impl Into<String>) -> Self {
        self.keys.insert(key.into());
        self
    }

    /// Returns this filter with one more prefix of keys that it picks.
    #[must_use]
    pub fn of_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefixes.insert(prefix.into());
        self
    }

    /// Returns this filter with one more header that events must have, with this value.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Returns whether the filter has no condition, so that it picks every event.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    fn count(&self) -> usize {
        self.types.len() + self.keys.len() + self.key_prefixes.len() + self.headers.len()
    }

    /// Returns the bytes that the filter takes in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        let words = self.types.iter().chain(&self.keys).chain(&self.key_prefixes);
        let words = words.map(|word| size_of::<String>() + word.len());
        let headers = self.headers.iter();
        let headers =
            headers.map(|(name, value)| 2 * size_of::<String>() + name.len() + value.len());
        words.sum::<usize>() + headers.sum::<usize>()
    }

    /// Checks that the filter has no more values than allowed.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`]: the filter has more than 1,024 values.
    pub fn validate(&self) -> Result<()> {
        match self.count() {
            count if count > MAX_VALUES => Err(Error::over("filter values", count, MAX_VALUES)),
            _ => Ok(()),
        }
    }

    /// Returns whether the filter picks `event`.
    pub fn picks(&self, event: &EventRef<'_>) -> bool {
        let EventRef { event_type, key, .. } = event;
        self.picks_words(event_type, key) && self.picks_headers(|| event.headers())
    }

    /// Returns whether the filter picks `event`, which is not stored.
    pub(crate) fn picks_new(&self, event: &NewEvent) -> bool {
        let headers = || event.headers.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        self.picks_words(&event.event_type, &event.key) && self.picks_headers(headers)
    }

    fn picks_words(&self, event_type: &str, key: &str) -> bool {
        let Self { types, keys, key_prefixes, .. } = self;
        (types.is_empty() || types.contains(event_type))
            && (keys.is_empty() || keys.contains(key))
            && (key_prefixes.is_empty() || has_prefix_in(key, key_prefixes))
    }

    fn picks_headers<'a, I: Iterator<Item = (&'a str, &'a str)>>(
        &self,
        headers: impl FnOnce() -> I,
    ) -> bool {
        let wanted = &self.headers;
        let is_wanted = |(name, text): &(&str, &str)| wanted.get(*name).is_some_and(|t| t == text);
        wanted.is_empty() || headers().filter(is_wanted).count() == wanted.len()
    }
}

/// The filters of one reader, all of which must pick an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Conditions(Vec<Filter>);

impl Conditions {
    /// Returns these conditions and one more filter.
    ///
    /// # Errors
    ///
    /// As [`Filter::validate`].
    pub(crate) fn and(mut self, filter: Filter) -> Result<Self> {
        filter.validate()?;
        if !filter.is_empty() && !self.0.contains(&filter) {
            self.0.push(filter);
        }
        Ok(self)
    }

    /// Returns whether there is no filter, so that every event is picked.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether all filters pick `event`.
    pub(crate) fn picks(&self, event: &EventRef<'_>) -> bool {
        self.0.iter().all(|filter| filter.picks(event))
    }

    /// Returns whether all filters pick `event`, which is not stored.
    pub(crate) fn picks_new(&self, event: &NewEvent) -> bool {
        self.0.iter().all(|filter| filter.picks_new(event))
    }
}

/// Returns whether `text` begins with one of `prefixes`.
///
/// Take the last of the prefixes that do not sort after `text`. Either `text` begins with it, or
/// each prefix of `text` in the set is no longer than the beginning that the two have in common.
/// The search goes on with this beginning, so it takes a few looks, however many prefixes there
/// are.
fn has_prefix_in(mut text: &str, prefixes: &BTreeSet<String>) -> bool {
    while let Some(last) =
        prefixes.range::<str, _>((Bound::Unbounded, Bound::Included(text))).next_back()
    {
        if text.starts_with(last) {
            return true;
        }
        let both = text.chars().zip(last.chars()).take_while(|(one, other)| one == other);
        text = &text[..both.map(|(one, _)| one.len_utf8()).sum()];
    }
    false
}

/// The filters of all readers, each held once, by their hashes.
///
/// # Why
///
/// A filter may have a thousand values, and there may be thousands of filters. So the reader that
/// brings a filter hashes it once, before the lock is held, and the last reader that has it drops
/// it. The map holds a hash and a pointer for each filter, so going through thousands takes
/// microseconds.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    hasher: RandomState,
    known: Mutex<KnownFilters>,
}

#[derive(Debug, Default)]
struct KnownFilters {
    filters: HashMap<u64, Weak<Conditions>>,
    /// The number of filters at which filters that no reader holds are removed next.
    sweep_at: usize,
}

impl Filters {
    /// Returns the shared conditions that are equal to these; `None` if there are none.
    pub(crate) fn share(&self, conditions: Conditions) -> Option<Arc<Conditions>> {
        if conditions.0.is_empty() {
            return None;
        }
        let (hash, new) = (self.hasher.hash_one(&conditions), Arc::new(conditions));
        let shared = self.known.lock().unwrap_or_else(PoisonError::into_inner).share(hash, &new);
        // Two different ones that have the same hash by chance are held apart.
        Some(if *shared == *new { shared } else { new })
    }
}

impl KnownFilters {
    /// Returns the filter with this hash that some reader holds. If there is none, adds `new` and
    /// returns it.
    fn share(&mut self, hash: u64, new: &Arc<Conditions>) -> Arc<Conditions> {
        if let Some(shared) = self.filters.get(&hash).and_then(Weak::upgrade) {
            return shared;
        }
        if self.filters.len() >= self.sweep_at {
            self.filters.retain(|_, filter| filter.strong_count() > 0);
            self.sweep_at = 16 + 2 * self.filters.len();
        }
        self.filters.insert(hash, Arc::downgrade(new));
        new.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_has_a_prefix_in_a_set_if_it_begins_with_any(
            text in "[abé]{0,6}",
            prefixes in proptest::collection::btree_set("[abé]{0,4}", 0..20),
        ) {
            let expected = prefixes.iter().any(|prefix| text.starts_with(prefix));
            prop_assert_eq!(has_prefix_in(&text, &prefixes), expected);
        }
    }

    #[test]
    fn equal_filters_are_one_and_those_that_nobody_has_are_let_go_of() {
        let filters = Filters::default();
        let of = |key: &str| Conditions(vec![Filter::default().of_key(key)]);
        let none = Conditions::default().and(Filter::default()).unwrap();
        assert!(filters.share(none).is_none());
        let one = filters.share(of("a")).unwrap();
        assert!(Arc::ptr_eq(&one, &filters.share(of("a")).unwrap()));
        for number in 0..1_000 {
            filters.share(of(&number.to_string())).unwrap();
        }
        assert!(filters.known.lock().unwrap().filters.len() < 40);
        assert!(Arc::ptr_eq(&one, &filters.share(of("a")).unwrap()));
        let gone = Arc::downgrade(&one);
        drop(one);
        assert!(gone.upgrade().is_none(), "the filter is dropped with its last reader");
        let keys = (0..=MAX_VALUES).map(|number| number.to_string()).collect();
        let many = Filter { keys, ..Filter::default() };
        let error = Conditions::default().and(many).unwrap_err().to_string();
        assert!(error.contains("filter values: 1025 is over the limit of 1024"), "{error}");
    }

    #[test]
    fn two_filters_with_one_hash_are_held_apart() {
        let of = |key: &str| Conditions(vec![Filter::default().of_key(key)]);
        let filters = Filters::default();
        let wanted = of("b");
        let other = Arc::new(of("a"));
        let hash = filters.hasher.hash_one(&wanted);
        filters.known.lock().unwrap().share(hash, &other);
        assert_eq!(*filters.share(wanted.clone()).unwrap(), wanted);
        drop(other);
        let first = filters.share(wanted.clone()).unwrap();
        assert!(Arc::ptr_eq(&first, &filters.share(wanted).unwrap()));
    }
}
