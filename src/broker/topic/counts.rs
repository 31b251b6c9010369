//! The numbers of topics of each kind, and their bounds.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::state::TopicState;
use crate::broker::limits::{LimitsConfig, at_most};
use crate::error::Result;

/// The number of topics of each kind, and the bound of each kind.
///
/// # Why
///
/// Each kind has a bound of its own: topics that readers only name, and deleted topics, must not
/// stop publishers from creating topics. The committer alone creates topics and deletes them, so
/// the bounds on these two kinds are exact.
#[derive(Debug)]
pub(super) struct Counts {
    limits: LimitsConfig,
    existing: AtomicUsize,
    deleted: AtomicUsize,
    /// The number of topics that are known only by their names, because somebody uses them.
    unborn: AtomicUsize,
}

impl Counts {
    pub(super) fn new(limits: &LimitsConfig) -> Self {
        let [existing, deleted, unborn] = [0; 3].map(AtomicUsize::new);
        Self { limits: limits.clone(), existing, deleted, unborn }
    }

    /// Returns the number of topics of the kind that `state` is of.
    pub(super) fn of(&self, state: &TopicState) -> &AtomicUsize {
        match (state.id, state.is_deleted) {
            (None, _) => &self.unborn,
            (Some(_), false) => &self.existing,
            (Some(_), true) => &self.deleted,
        }
    }

    /// Returns the number of topics that exist.
    pub(super) fn existing(&self) -> usize {
        self.existing.load(Ordering::Acquire)
    }

    pub(super) fn add(&self, state: &TopicState) {
        self.of(state).fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove(&self, state: &TopicState) {
        self.of(state).fetch_sub(1, Ordering::AcqRel);
    }

    /// Refuses one more topic, if there are `limit` of the kind already.
    pub(super) fn check(name: &str, count: usize, limit: u64) -> Result<()> {
        at_most(name, count + 1, limit)
    }

    pub(super) fn check_existing(&self, more: isize) -> Result<()> {
        let count = self.existing.load(Ordering::Acquire).saturating_add_signed(more);
        Self::check("topics", count, self.limits.max_topics)
    }

    pub(super) fn check_deleted(&self, more: isize) -> Result<()> {
        let count = self.deleted.load(Ordering::Acquire).saturating_add_signed(more);
        Self::check("deleted topics", count, self.limits.max_deleted_topics)
    }

    pub(super) fn check_unborn(&self) -> Result<()> {
        let count = self.unborn.load(Ordering::Acquire);
        let name = "topics that do not exist yet and are followed";
        Self::check(name, count, self.limits.max_unborn_topics)
    }
}
