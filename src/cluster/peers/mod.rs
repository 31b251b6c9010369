//! What the nodes of a fleet know of each other.
//!
//! | file | what |
//! |---|---|
//! | `peer_status.rs` | how a node says that it is |
//! | `list.rs` | the nodes that were heard, and who is live |
//! | `telling.rs` | the task that tells and hears |

mod list;
mod peer_status;
mod telling;
#[cfg(test)]
mod tests;

pub use list::{MAX_PEERS, PeerWatch, SILENT_LEASES};
pub(super) use list::{OwnStatus, PeersProblem};
pub use peer_status::{PeerReport, PeerStatus, SeenPeer};
pub(super) use telling::{PeersTask, TellProblem};
