//! How far a node is that is being opened, as plain data.

use serde::Serialize;

/// What a node does before it serves anybody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JoiningStep {
    /// It opens its log.
    #[default]
    Opening,
    /// It waits for a peer that it can load a backup from.
    Choosing,
    /// It loads the backup of a peer.
    Loading {
        /// The name of the peer.
        peer: String,
        /// The bytes that have come.
        done_bytes: u64,
        /// About all bytes of the backup.
        expected_bytes: u64,
    },
    /// It makes a log of the backup.
    Making {
        /// The bytes that are done; the backup is read twice.
        done_bytes: u64,
        /// The bytes that are to be done.
        total_bytes: u64,
    },
    /// It applies the stream up to where the peer was.
    CatchingUp {
        /// The record up to which it has applied the stream.
        applied: u64,
        /// The record from which on it serves.
        until: u64,
    },
    /// It serves.
    Open,
}

/// How far a node is that is being opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct JoiningState {
    /// What it does.
    #[serde(flatten)]
    pub step: JoiningStep,
    /// The backups that could not be loaded.
    pub failures: u32,
    /// Why the last one could not be loaded.
    pub problem: Option<String>,
}
