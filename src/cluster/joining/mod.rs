//! Joining: a node whose records the stream does not have any more loads a backup of a peer.
//!
//! ```text
//! open_in ── the log can follow the stream ─────────────────────────────▶ node
//!    └─ records are missing, or the log is damaged: choose a peer ─▶ load its backup
//!          ─▶ make a log of it ─▶ put it in place, and keep a damaged log beside it
//!          ─▶ follow the stream up to where the peer was ─▶ node
//! ```
//!
//! | file | what |
//! |---|---|
//! | `opening.rs` | the steps above |
//! | `replacing.rs` | the log is replaced by a peer's backup, tried with one peer after the other |
//! | `damage.rs` | whether the log is damaged, or does not fit the stream |
//! | `wanted.rs` | which backup may take the place of the log |
//! | `loading.rs` | the peer's backup comes into a file |
//! | `joining_state.rs` | how far the node is, as plain data |
//!
//! Which peer is asked is in `choosing.rs`, the peer's end in `giving.rs`, and `restarting.rs` says
//! when the process of a node ends, so that its next start repairs it.
//!
//! # Why
//!
//! Nothing of a half-loaded log is ever served. The log is made beside the one in use, and takes
//! its place when it is whole (`log/sled_log/replacing.rs`). The peer goes on while its backup is
//! made, so blocks may be as they are after later records. Until the node has applied these, which
//! it is told by a number beside the log, nobody gets its broker, also after a restart.
//!
//! A node that falls behind while it runs, or whose log turns out to be damaged, serves what it
//! has. It loads a backup when its process is started again, because a log cannot be replaced under
//! its readers: the process ends once another node can help, and its supervisor starts it.
//!
//! A damaged log may be the only one that has some events. So it is never removed for a backup: it
//! is kept beside the new log (`log/sled_log/setting_aside.rs`), and a backup takes its place only
//! if it is of the same fleet, and the stream reaches as far as the damaged log did: then the
//! backup and the stream have all that it had. If no peer can give one, nothing is changed.
//!
//! Damage in the middle of a log is found when it is read: the node says so, and notes it, and the
//! next start repairs it.

mod damage;
mod joining_state;
mod loading;
mod opening;
mod replacing;
mod wanted;

pub use joining_state::{JoiningState, JoiningStep};
pub use opening::open_in;
