//! The lines of changes that are begun before the answers to earlier ones are there.
//!
//! ```text
//! one line per consumer:  ── mark by id ────── unmark 5 ───── archive what is read ──▶ keeper
//!                           reads the log      waits for      waits for its turn, and
//!                           in its turn        its turn       for the answers before it
//! ```
//!
//! # Why
//!
//! The keeper decides on changes in the order of its queue. Some changes read the log before they
//! are queued, and others do not: without a line, the second of two changes could be decided first.
//! The turn lasts only until the change is queued, so changes that wait for the disk still share
//! one write.
//!
//! A line is of one handle, such as that of one connection. If all callers shared the line of a
//! consumer, one of them that polls its futures no more would hold up the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{self, RwLock, RwLockReadGuard};

use super::id::ConsumerId;

/// The lines of one handle, by their consumers. A line is kept for as long as a change is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct ChangeOrder(Arc<Mutex<HashMap<ConsumerId, ConsumerLine>>>);

/// A line, and the number of changes that are in it.
#[derive(Debug, Default)]
struct ConsumerLine {
    line: Arc<ChangeLine>,
    changes: usize,
}

/// The line of the changes of one consumer.
#[derive(Debug, Default)]
struct ChangeLine {
    /// The number of changes that were queued. Whoever holds the lock has its turn; tokio gives it
    /// in the order in which it was asked for.
    queued: sync::Mutex<u64>,
    /// Read by each change that is queued and not answered. Only a change that has its turn locks
    /// it for writing.
    unanswered: RwLock<()>,
}

/// The place of one change in its line. The default is the place in a line of its own.
#[derive(Debug, Default)]
pub(super) struct InLine {
    line: Arc<ChangeLine>,
    /// The handle's lines, and the consumer; `None` for a line of its own.
    kept: Option<(ChangeOrder, ConsumerId)>,
}

/// The turn of one change: no other of its line is queued meanwhile.
#[derive(Debug)]
pub(super) struct ChangeTurn<'a> {
    queued: sync::MutexGuard<'a, u64>,
    line: &'a ChangeLine,
}

impl ChangeOrder {
    /// Returns a place in the line of a consumer.
    pub(super) fn in_line(&self, id: &ConsumerId) -> InLine {
        let mut lines = self.lines();
        let kept = lines.entry(id.clone()).or_default();
        kept.changes += 1;
        let line = kept.line.clone();
        InLine { line, kept: Some((self.clone(), id.clone())) }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<ConsumerId, ConsumerLine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of lines with a change in them.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lines().len()
    }
}

impl InLine {
    /// Waits until all changes that asked for their turn before are queued, or were given up.
    ///
    /// # Cancel safety
    ///
    /// The change leaves the line.
    pub(super) async fn turn(&self) -> ChangeTurn<'_> {
        ChangeTurn { queued: self.line.queued.lock().await, line: &self.line }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let Some((order, id)) = &self.kept else { return };
        if let Entry::Occupied(mut line) = order.lines().entry(id.clone()) {
            line.get_mut().changes -= 1;
            if line.get().changes == 0 {
                line.remove();
            }
        }
    }
}

impl<'a> ChangeTurn<'a> {
    /// Returns the number of changes of the line that were queued before.
    pub(super) fn number(&self) -> u64 {
        *self.queued
    }

    /// Waits until all changes before this one are answered: what is read then has them.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(super) async fn all_answered(&self) {
        drop(self.line.unanswered.write().await);
    }

    /// Notes that the change is queued. It is unanswered until the guard is dropped.
    pub(super) fn queued(&mut self) -> RwLockReadGuard<'a, ()> {
        *self.queued += 1;
        let unanswered = self.line.unanswered.try_read();
        unanswered.expect("only the change that has its turn locks it for writing")
    }
}
