//! Beyond one machine: the nodes of a fleet, which order their events through one stream.
//!
//! One node leads: it orders, and appends each group to the stream. All nodes apply the groups in
//! the order of the stream, so they hold the same blocks, byte for byte. The stream is replicated
//! by an engine of its own; nothing here is a consensus.
//!
//! ```text
//! leader     committer ──▶ replicated_log ──▶ writer ──▶ stream ──▶ engine
//!                               └─▶ local log, once the stream has the group
//! follower   engine ──▶ stream ──▶ assembler ──▶ committer ──▶ local log
//! ```
//!
//! ```text
//! stream.rs  nats/        the contract of the engine, and the engine in NATS JetStream
//! awaited.rs              a stream that is opened once NATS answers
//! record.rs  group_form.rs   the form of a record of the stream, and of a group
//! chain.rs                which record may follow which
//! writer.rs  sending.rs   the one task that appends, and finds out whether a record is stored
//! replicated_log.rs       the log that the broker of a node has
//! role.rs  role_end.rs    who leads, and why a node takes no part any more
//! founding.rs             how a fleet begins
//! forwarding/             what callers ask of a node that does not lead
//! node.rs  config.rs      a node: its broker and its tasks, and its settings
//! upkeep.rs               what a node does besides its role
//! searching.rs            a node searches its log for damage
//! status.rs  lag.rs  view.rs   how a node is, how far it is behind, and how that is shown
//! messages.rs  peers/     messages that need not be kept, and how the other nodes are
//! signed_messages.rs  signature.rs   what proves that these come from a node of the fleet
//! joining/  giving.rs     a node loads a backup of another one, which gives it
//! choosing.rs             which nodes can help another one, and which of them is asked
//! damage_note.rs          what the next start is told of damage
//! restarting.rs           a node that cannot go on ends, so that its next start repairs it
//! links.rs                how nodes reach each other
//! ephemeral.rs            ephemeral events reach the readers at all nodes
//! trimming.rs             what no node needs any more goes from the stream
//! ```

mod awaited;
mod chain;
mod choosing;
mod clock;
mod config;
mod damage_note;
mod ephemeral;
mod forwarding;
mod founding;
mod giving;
mod group_form;
mod joining;
mod lag;
mod links;
#[cfg(test)]
mod memory_messages;
pub mod messages;
pub mod nats;
mod node;
mod peers;
mod presence;
mod proto;
mod record;
mod replicated_log;
mod restarting;
mod role;
mod role_end;
#[cfg(test)]
mod samples;
mod searching;
mod seldom;
mod sending;
mod signature;
mod signed_messages;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod simulation;
mod status;
pub mod stream;
mod trimming;
mod upkeep;
mod view;
mod writer;

pub use awaited::AwaitedNatsStream;
pub use chain::{Assembler, ChainBreak, StreamPlace, TakenRecord};
pub use clock::{RuntimeClock, SteadyClock};
pub use config::FleetConfig;
pub use ephemeral::RelayCounts;
pub use forwarding::ForwardingService;
pub use giving::JoiningService;
pub use joining::{JoiningState, JoiningStep, open_in};
pub use node::{FleetEngine, FleetNode, NodeConfig, NodeOpenError, open};
pub use peers::{MAX_PEERS, PeerReport, PeerStatus, PeerWatch, SILENT_LEASES, SeenPeer};
pub use record::{FleetLeader, MAX_NODE_ADDRESS_BYTES, MAX_NODE_NAME_BYTES, RecordProblem};
pub use replicated_log::ReplicatedLog;
pub use searching::SearchedLog;
pub use status::{NodeRole, NodeStatus, RepairedLog};
pub use view::{FleetView, ForwardedCommands};
pub use writer::{Leading, NotDecided, StreamWriter, WriterConfig};
