//! Forwarding: what callers ask a node for that does not lead goes to the node that does.
//!
//! ```text
//! node that follows                                         node that leads
//! committer ──▶ forward queue ──▶ forwarder ══ one stream ══▶ service ──▶ queue of its committer
//! caller ◀── once this node has applied it ◀── outcomes ◀═════ outcomes ◀── acknowledged
//! ```
//!
//! ```text
//! forwarder.rs  pending.rs   what was asked for here, until it is answered, whoever leads
//! link.rs  attempts.rs       one connection to the leader, and the attempts until there is one
//! service.rs  handing_in.rs  the leader's end
//! asking.rs                  questions to the leader, besides, and to others
//! messages.rs  failures.rs   the form of commands, outcomes and errors between nodes
//! ```
//!
//! # Why
//!
//! There is one stream for each pair of nodes, so commands keep their order, and HTTP/2 holds back
//! a node that sends more than the leader takes. A caller is answered when its own node has applied
//! what it changed, so that it reads there what it wrote.
//!
//! When the leader is lost, a command that it surely did not carry out goes to the next leader. A
//! publish whose outcome nobody knows goes there, too, if each of its events has an id, by which
//! the next leader recognises what is stored. Any other caller is told that nobody knows.

mod asking;
mod attempts;
mod failures;
mod forwarder;
mod handing_in;
mod link;
mod messages;
mod pending;
mod service;

pub(super) use self::asking::{ask_node, leader_asker};
pub(super) use self::forwarder::{ForwardCounts, Forwarder, ForwarderHandle, ForwarderParts};
pub use self::service::ForwardingService;
