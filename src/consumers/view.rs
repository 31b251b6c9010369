//! All consumers in memory, as the records of the log say: by identity, by selection and by number.
//!
//! # Why
//!
//! There may be a million consumers, most of them idle. So each is one compact entry, and the three
//! ways to find it hold a pointer to it. `tests` measure that an idle one takes less than 256
//! bytes.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::entry::{ConsumerEntry, text_of};
use super::id::ConsumerId;
use super::requests::ConsumerList;

/// An entry, in the order of owner, selection and name.
#[derive(Debug)]
struct ByOwner(Arc<ConsumerEntry>);

/// An entry, in the order of selection, owner and name.
#[derive(Debug)]
struct BySelection(Arc<ConsumerEntry>);

/// All consumers.
#[derive(Debug, Default)]
pub(super) struct View {
    by_owner: BTreeSet<ByOwner>,
    by_selection: BTreeSet<BySelection>,
    by_number: HashMap<u64, Arc<ConsumerEntry>>,
    /// The highest number that any consumer had.
    last_number: u64,
}

impl View {
    /// Returns the view of these consumers.
    pub(super) fn of(entries: Vec<ConsumerEntry>, last_number: u64) -> Self {
        let entries: Vec<Arc<ConsumerEntry>> = entries.into_iter().map(Arc::new).collect();
        // Sets that are made of a list are packed as tightly as they can be.
        Self {
            by_owner: entries.iter().cloned().map(ByOwner).collect(),
            by_selection: entries.iter().cloned().map(BySelection).collect(),
            by_number: entries.into_iter().map(|entry| (entry.number, entry)).collect(),
            last_number,
        }
    }

    /// Returns the number of consumers.
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Returns the highest number that any consumer had.
    pub(super) fn last_number(&self) -> u64 {
        self.last_number
    }

    /// Returns a consumer.
    pub(super) fn get(&self, id: &ConsumerId) -> Option<&Arc<ConsumerEntry>> {
        self.of_text(&text_of(&id.owner, id.selection.as_str(), id.name.as_str()))
    }

    /// Returns the consumer with this number.
    pub(super) fn numbered(&self, number: u64) -> Option<&Arc<ConsumerEntry>> {
        self.by_number.get(&number)
    }

    /// Returns up to `limit` consumers in the order of their texts, after `last`.
    pub(super) fn some_after(
        &self,
        last: Option<&Arc<ConsumerEntry>>,
        limit: usize,
    ) -> Vec<Arc<ConsumerEntry>> {
        let start = last.map_or(Bound::Unbounded, |last| Bound::Excluded(last.text()));
        let from = self.by_owner.range::<str, _>((start, Bound::Unbounded));
        from.take(limit).map(|ByOwner(entry)| entry.clone()).collect()
    }

    /// Returns the consumer with this text of an identity.
    pub(super) fn of_text(&self, text: &str) -> Option<&Arc<ConsumerEntry>> {
        self.by_owner.get(text).map(|ByOwner(entry)| entry)
    }

    /// Adds a consumer, or puts it in the place of the one with its number.
    pub(super) fn put(&mut self, entry: Arc<ConsumerEntry>) {
        self.last_number = self.last_number.max(entry.number);
        if let Some(ByOwner(before)) = self.by_owner.replace(ByOwner(entry.clone()))
            && before.number != entry.number
        {
            self.by_number.remove(&before.number); // It was deleted, and made anew.
        }
        self.by_selection.replace(BySelection(entry.clone()));
        self.by_number.insert(entry.number, entry);
    }

    /// Removes the consumer with this number.
    pub(super) fn remove(&mut self, number: u64) {
        if let Some(entry) = self.by_number.remove(&number) {
            self.by_owner.remove(entry.text());
            self.by_selection.remove(&BySelection(entry));
        }
    }

    /// Returns the number of consumers of an owner, counted up to `limit`.
    pub(super) fn count_of(&self, owner: &str, limit: usize) -> usize {
        let first = text_of(owner, "", "");
        let from = self.by_owner.range::<str, _>((Bound::Included(&*first), Bound::Unbounded));
        from.take(limit).take_while(|ByOwner(entry)| entry.owner() == owner).count()
    }

    /// Returns the consumers of a list, at most `limit` of them.
    pub(super) fn list(&self, list: &ConsumerList, limit: usize) -> Vec<Arc<ConsumerEntry>> {
        let ConsumerList { owner, selection, after, .. } = list;
        let after = after.as_ref().map(|id| Arc::new(ConsumerEntry::new(id, 0)));
        match (owner, selection) {
            (None, Some(selection)) => self.of_selection(selection.as_str(), after, limit),
            (owner, selection) => {
                let selection = selection.as_ref().map(|selection| selection.as_str());
                self.of_owner(owner.as_deref(), selection, after, limit)
            }
        }
    }

    fn of_owner(
        &self,
        owner: Option<&str>,
        selection: Option<&str>,
        after: Option<Arc<ConsumerEntry>>,
        limit: usize,
    ) -> Vec<Arc<ConsumerEntry>> {
        let first = text_of(owner.unwrap_or_default(), selection.unwrap_or_default(), "");
        let start = match &after {
            Some(after) if after.text() >= &*first => Bound::Excluded(after.text()),
            _ => Bound::Included(&*first),
        };
        let from = self.by_owner.range::<str, _>((start, Bound::Unbounded));
        let is_wanted = |entry: &&Arc<ConsumerEntry>| {
            owner.is_none_or(|owner| entry.owner() == owner)
                && selection.is_none_or(|selection| entry.selection() == selection)
        };
        from.map(|ByOwner(entry)| entry).take_while(is_wanted).take(limit).cloned().collect()
    }

    fn of_selection(
        &self,
        selection: &str,
        after: Option<Arc<ConsumerEntry>>,
        limit: usize,
    ) -> Vec<Arc<ConsumerEntry>> {
        let first: &dyn IdentityParts = &[selection, "", ""];
        let after = after.map(BySelection);
        let start = match &after {
            Some(after) if after.parts() >= first.parts() => {
                let after: &dyn IdentityParts = after;
                Bound::Excluded(after)
            }
            _ => Bound::Included(first),
        };
        let from = self.by_selection.range::<dyn IdentityParts, _>((start, Bound::Unbounded));
        let of_selection = from.map(|BySelection(entry)| entry);
        let is_wanted = |entry: &&Arc<ConsumerEntry>| entry.selection() == selection;
        of_selection.take_while(is_wanted).take(limit).cloned().collect()
    }
}

impl PartialEq for ByOwner {
    fn eq(&self, other: &Self) -> bool {
        self.0.text() == other.0.text()
    }
}

impl Eq for ByOwner {}

impl PartialOrd for ByOwner {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByOwner {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.text().cmp(other.0.text())
    }
}

impl Borrow<str> for ByOwner {
    fn borrow(&self) -> &str {
        self.0.text()
    }
}

/// Anything with a selection, an owner and a name, which are compared in this order.
trait IdentityParts {
    fn parts(&self) -> [&str; 3];
}

impl IdentityParts for BySelection {
    fn parts(&self) -> [&str; 3] {
        [self.0.selection(), self.0.owner(), self.0.name()]
    }
}

impl IdentityParts for [&str; 3] {
    fn parts(&self) -> [&str; 3] {
        *self
    }
}

impl PartialEq for dyn IdentityParts + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn IdentityParts + '_ {}

impl PartialOrd for dyn IdentityParts + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn IdentityParts + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl<'a> Borrow<dyn IdentityParts + 'a> for BySelection {
    fn borrow(&self) -> &(dyn IdentityParts + 'a) {
        self
    }
}

impl PartialEq for BySelection {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for BySelection {}

impl PartialOrd for BySelection {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BySelection {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}
