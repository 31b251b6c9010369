//! Who is present at the other nodes of a fleet: each node tells the others which members it has.
//!
//! ```text
//! members here ──▶ what changed, at once ──▶ ┐            ┌─▶ members elsewhere, as if here
//!             └──▶ all, again and again ───▶ ┴─ messages ─┘
//! ```
//!
//! | file | what |
//! |---|---|
//! | `members_message.rs` | the wire form |
//! | `own_members.rs` | the members at this node, and what is to be told of them |
//! | `other_members.rs` | the members at other nodes, as they were heard |
//! | `telling.rs` | the task that tells and hears |
//!
//! # Why
//!
//! Messages may be lost, so all is told anew in passes, and what a whole pass has not named is
//! gone. A member of whom a message was lost is shown too late, or too long, until the next pass. A
//! node that says nothing for some leases has no members any more.

mod members_message;
mod other_members;
mod own_members;
mod telling;
#[cfg(test)]
mod tests;

pub(super) use own_members::OwnMembers;
pub(super) use telling::{MembersTask, PresenceCounts};
