//! Joining: a node whose records the stream does not have any more loads a backup of a peer.
//!
//! ```text
//! open_in ── the log can follow the stream ─────────────────────────────▶ node
//!    └─ records are missing: choose a peer ─▶ load its backup ─▶ make a log of it
//!          ─▶ put it in place ─▶ follow the stream up to where the peer was ─▶ node
//! ```
//!
//! | file | what |
//! |---|---|
//! | `opening.rs` | the steps above, tried again with other peers |
//! | `choosing.rs` | which peer is asked |
//! | `loading.rs` | the peer's backup comes into a file |
//! | `joining_state.rs` | how far the node is, as plain data |
//!
//! The peer's end is `giving.rs`.
//!
//! # Why
//!
//! Nothing of a half-loaded log is ever served. The log is made beside the one in use, and takes
//! its place when it is whole (`log/sled_log/replacing.rs`). The peer goes on while its backup is
//! made, so blocks may be as they are after later records. Until the node has applied these, which
//! it is told by a number beside the log, nobody gets its broker, also after a restart.
//!
//! A node that falls behind while it runs stops following, and serves what it has
//! ([`NodeStatus::fell_behind`](super::NodeStatus::fell_behind)). It loads a backup when its
//! process is started again, because a log cannot be replaced under its readers: the process ends,
//! and its supervisor starts it.

mod choosing;
mod joining_state;
mod loading;
mod opening;

pub use joining_state::{JoiningState, JoiningStep};
pub use opening::open_in;
