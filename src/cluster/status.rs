//! How a node of a fleet is, as plain data.

use super::record::FleetLeader;
use super::stream::StreamSequence;

/// What a node does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeRole {
    /// It applies what the leader decides, and serves readers. It stores nothing of its own.
    #[default]
    Following,
    /// It decides what is stored.
    Leading,
    /// It takes no part in the fleet any more, until it is opened again. It still serves readers
    /// what it has. [`NodeStatus::problem`] says why; there is none if the node was closed.
    Stopped,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeStatus {
    /// What the node does.
    pub role: NodeRole,
    /// The term of the last record that the node has read; 0 before the first leader.
    pub term: u64,
    /// The node that leads, as far as this one knows; `None` if nobody seems to.
    pub leader: Option<FleetLeader>,
    /// The last record that the node has read.
    pub read: StreamSequence,
    /// The record up to which the node's log has applied the stream. Records that change no log may
    /// follow: it moves over them every few seconds.
    pub applied: StreamSequence,
    /// The last record of the stream, as the node knows it: the engine is asked now and then.
    pub tail: StreamSequence,
    /// What went wrong last in following or leading, until it is over.
    pub problem: Option<String>,
    /// Why the engine does not answer; `None` if it does.
    pub engine_problem: Option<String>,
}
