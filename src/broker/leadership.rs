//! Whether the broker decides what is written. A broker alone always does. Of a fleet's nodes one
//! leads; the others take the groups that it has decided (`order/apply.rs`).
//!
//! # Why
//!
//! The committer alone changes the leadership, between two groups, so that no group is half decided
//! here. Maintenance decides in threads of its own: a visit may read blocks while this node leads,
//! and have its step written when the node has followed in between, and another one has rewritten
//! the blocks. So each such step carries the number of changes from before its first read, and a
//! step with an earlier number is refused. The same number, as a [`LeadTerm`], goes with what the
//! broker's own parts decide on what they have in memory, such as the checkpoints of consumers:
//! stored is only what was decided in the present term.

use tokio::sync::watch;

use crate::error::{Error, Result};

/// Who decides what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Leadership {
    /// This broker does: it is alone, or leads its fleet.
    #[default]
    Leads,
    /// Another node of the fleet does.
    Follows,
}

/// The time for which this node leads, from one change of the leadership to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeadTerm(u64);

/// The leadership as the committer has it, and as everybody else sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SharedLeadership {
    /// The number of changes of the leadership. An even number leads: it begins at 0, or, for a
    /// broker that begins as a follower, at 1.
    changes: watch::Sender<u64>,
}

impl SharedLeadership {
    /// Returns the value of a broker that begins with `leadership`.
    pub(crate) fn new(leadership: Leadership) -> Self {
        let begins = match leadership {
            Leadership::Leads => 0,
            Leadership::Follows => 1,
        };
        Self { changes: watch::Sender::new(begins) }
    }

    /// Whether another node decides at this moment.
    pub(crate) fn follows(&self) -> bool {
        !leads(self.changes())
    }

    /// Returns the number of changes so far.
    pub(crate) fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Returns the present term; `None` if another node decides.
    pub(crate) fn term(&self) -> Option<LeadTerm> {
        Some(self.changes()).filter(|changes| leads(*changes)).map(LeadTerm)
    }

    /// Whether the broker is alone, and decides for ever: the nodes of a fleet begin as followers.
    pub(crate) fn is_alone(&self) -> bool {
        self.changes() == 0
    }

    /// Refuses what was decided in another term than the present one.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`].
    pub(crate) fn check(&self, term: LeadTerm) -> Result<()> {
        if self.term() == Some(term) { Ok(()) } else { Err(Error::NotLeading) }
    }

    /// Returns the leadership, for somebody who waits for its changes.
    pub(crate) fn watch(&self) -> LeadershipWatch {
        LeadershipWatch(self.changes.subscribe())
    }

    /// Sets who decides. Only the committer calls this. Returns whether that is a change.
    pub(crate) fn set(&self, leadership: Leadership) -> bool {
        let leads_now = leadership == Leadership::Leads;
        self.changes.send_if_modified(|changes| {
            let is_new = leads(*changes) != leads_now;
            *changes += u64::from(is_new);
            is_new
        })
    }
}

fn leads(changes: u64) -> bool {
    changes.is_multiple_of(2)
}

/// The leadership, as somebody sees it who waits for its changes.
#[derive(Debug, Clone)]
pub(crate) struct LeadershipWatch(watch::Receiver<u64>);

impl LeadershipWatch {
    /// Whether this node decides, as it was when this was called last.
    #[cfg_attr(not(feature = "webhooks"), allow(dead_code, reason = "webhooks use it"))]
    pub(crate) fn leads(&mut self) -> bool {
        leads(*self.0.borrow_and_update())
    }

    /// Returns the term in which this node leads, as it was when this was called last; `None` if
    /// another node decides.
    pub(crate) fn term(&mut self) -> Option<LeadTerm> {
        Some(*self.0.borrow_and_update()).filter(|changes| leads(*changes)).map(LeadTerm)
    }

    /// Waits until the leadership has changed since [`Self::leads`] or [`Self::term`] was called
    /// last. Between the two it may have changed more than once. Waits for ever once the broker has
    /// ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
