//! How far a node is that is being opened, as plain data.

use std::fmt;

use serde::Serialize;

/// What a node does before it serves anybody.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[non_exhaustive]
pub enum JoiningStep {
    /// The node opens its log, or asks for the stream of its fleet for the first time.
    #[default]
    Opening,
    /// The node waits until the engine of the fleet answers: its log is empty.
    Waiting {
        /// Why the engine does not answer.
        engine_problem: String,
    },
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

impl fmt::Display for JoiningStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opening => {
                f.write_str("this node opens its log, or asks for the stream of its fleet")
            }
            Self::Waiting { engine_problem } => {
                write!(f, "this node waits for the stream of its fleet: {engine_problem}")
            }
            Self::Choosing => {
                f.write_str("this node waits for another one that it can load a backup from")
            }
            Self::Loading { peer, done_bytes, expected_bytes } => write!(
                f,
                "this node loads a backup of {peer}: {done_bytes} of about {expected_bytes} bytes"
            ),
            Self::Making { done_bytes, total_bytes } => write!(
                f,
                "this node makes a log of a backup: {done_bytes} of {total_bytes} bytes are read"
            ),
            Self::CatchingUp { applied, until } => {
                write!(f, "this node catches up: it has applied record {applied} of {until}")
            }
            Self::Open => f.write_str("this node begins to serve"),
        }
    }
}

impl fmt::Display for JoiningState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, failures, problem } = self;
        write!(f, "{step}")?;
        match problem {
            Some(problem) => {
                write!(f, "; {failures} attempts have failed, the last one: {problem}")
            }
            None => Ok(()),
        }
    }
}
