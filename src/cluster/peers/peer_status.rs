//! How a node says that it is, and what another one makes of it: plain data.
//!
//! A status is told as JSON. A field that a node does not know is skipped, and one that is missing
//! has the value of its type's default: so nodes of two neighbouring versions understand each
//! other.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::group_form;
use super::super::record::{self, FleetLeader, MAX_NODE_ADDRESS_BYTES, MAX_NODE_NAME_BYTES};
use super::super::status::{NodeRole, NodeStatus};

/// The largest status, in bytes as it is told.
const MAX_STATUS_BYTES: usize = 8 << 10;

/// The longest problem in a status, in bytes. It is cut there.
const MAX_PROBLEM_BYTES: usize = 512;

/// How a node says that it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// The name of the node.
    pub name: String,
    /// The number that the process has drawn when it started, as 16 hexadecimal digits in JSON.
    #[serde(with = "hexadecimal")]
    pub incarnation: u64,
    /// The URL at which other nodes reach the node; empty if it has told none.
    pub address: String,
    /// The version of the program.
    pub version: String,
    /// The newest form of records and of groups that the program writes and reads.
    pub record_form: u8,
    /// See [`Self::record_form`].
    pub group_form: u8,
    /// What the node does.
    pub role: NodeRole,
    /// The term of the last record that the node has read.
    pub term: u64,
    /// The record up to which the node's log has applied the stream.
    pub applied: u64,
    /// The record up to which the node has the stream even after a loss of power; `None` if it
    /// needs nothing of the stream.
    pub synced: Option<u64>,
    /// The records of the stream that the node has not read yet; 0 for a leader.
    pub lag: u64,
    /// What is wrong, if anything is.
    pub problem: Option<String>,
    /// Whether damage of the node's log was found.
    pub damaged: bool,
}

impl PeerStatus {
    /// Returns the status of this node, which says nothing of its role yet.
    pub(in crate::cluster) fn of_program(node: &FleetLeader) -> Self {
        Self {
            name: node.node.clone(),
            incarnation: node.incarnation,
            address: node.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            record_form: record::FORMAT,
            group_form: group_form::FORMAT,
            ..Self::default()
        }
    }

    /// Returns this status with what `status` says. `synced` is the record up to which the log is
    /// synced.
    pub(in crate::cluster) fn with(self, status: &NodeStatus, synced: u64) -> Self {
        let NodeStatus { role, term, read, applied, tail, problem, .. } = status;
        let is_stopped = *role == NodeRole::Stopped;
        let problem = problem.as_deref().or(status.peers_problem.as_deref());
        let problem = problem.or(status.damage.as_deref());
        Self {
            role: *role,
            term: *term,
            applied: applied.get(),
            // Who stopped reads nothing before it is opened anew, and may need a backup then.
            synced: (!is_stopped).then_some(synced),
            // A leader has no need to read its own records.
            lag: match role {
                NodeRole::Leading => 0,
                _ => tail.get().saturating_sub(read.get()),
            },
            problem: problem.map(|problem| cut(problem).to_owned()),
            damaged: status.damage.is_some(),
            ..self
        }
    }

    /// Returns the status as it is told.
    pub(in crate::cluster) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a status has no maps").into()
    }

    /// Returns the status that was told; `None` if it cannot be one.
    pub(super) fn decode(told: &[u8]) -> Option<Self> {
        if told.len() > MAX_STATUS_BYTES {
            return None;
        }
        let status: Self = serde_json::from_slice(told).ok()?;
        let has_name = (1..=MAX_NODE_NAME_BYTES).contains(&status.name.len());
        (has_name && status.address.len() <= MAX_NODE_ADDRESS_BYTES).then_some(status)
    }
}

/// Returns the beginning of a problem.
fn cut(problem: &str) -> &str {
    let end = (0..=MAX_PROBLEM_BYTES.min(problem.len())).rev();
    let end = end.into_iter().find(|end| problem.is_char_boundary(*end)).unwrap_or(0);
    &problem[..end]
}

/// A node of the fleet, as another one knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenPeer {
    /// How the node said last that it is.
    #[serde(flatten)]
    pub status: PeerStatus,
    /// Whether this is the node that tells it.
    pub is_self: bool,
    /// Whether the node was heard lately.
    pub is_live: bool,
    /// The time since the node was heard last, in milliseconds.
    pub heard_ms_ago: u64,
}

/// The nodes of a fleet, as one of them knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The nodes, sorted by name. Two processes with one name are two nodes.
    pub nodes: Vec<SeenPeer>,
    /// Whether there are more nodes than can be listed.
    pub is_cut_off: bool,
}

/// A number as 16 hexadecimal digits: as a number, programs that take all numbers for 64-bit floats
/// would change it.
mod hexadecimal {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
