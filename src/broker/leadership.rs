//! Whether the broker decides what is written. A broker alone always does. Of a fleet's nodes one
//! leads; the others take the groups that it has decided (`order/apply.rs`).
//!
//! # Why
//!
//! The committer alone changes the leadership, between two groups, so that no group is half decided
//! here. Maintenance decides in threads of its own: a visit may read blocks while this node leads,
//! and have its step written when the node has followed in between, and another one has rewritten
//! the blocks. So each such step carries the number of changes from before its first read, and a
//! step with an earlier number is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Who decides what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Leadership {
    /// This broker does: it is alone, or leads its fleet.
    #[default]
    Leads,
    /// Another node of the fleet does.
    Follows,
}

/// The leadership as the committer has it, and as everybody else sees it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedLeadership {
    /// The number of changes of the leadership. An even number leads: it begins at 0, or, for a
    /// broker that begins as a follower, at 1.
    changes: Arc<AtomicU64>,
}

impl SharedLeadership {
    /// Returns the value of a broker that begins with `leadership`.
    pub(crate) fn new(leadership: Leadership) -> Self {
        let shared = Self::default();
        shared.set(leadership);
        shared
    }

    /// Returns who decides at this moment.
    pub(crate) fn now(&self) -> Leadership {
        if self.changes().is_multiple_of(2) { Leadership::Leads } else { Leadership::Follows }
    }

    /// Whether another node decides at this moment.
    pub(crate) fn follows(&self) -> bool {
        self.now() == Leadership::Follows
    }

    /// Returns the number of changes so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Sets who decides. Only the committer calls this. Returns whether that is a change.
    pub(crate) fn set(&self, leadership: Leadership) -> bool {
        let is_new = self.now() != leadership;
        if is_new {
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        is_new
    }
}
