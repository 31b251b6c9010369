//! The error of a log or of a backup that cannot be opened, made or written, with its reason.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;

use crate::cause::Cause;

/// A directory or a file that cannot be opened.
#[derive(Debug, Clone)]
pub struct OpenError {
    /// The data directory, or the file of a backup; empty for a broker without a directory.
    pub path: PathBuf,
    /// Why it cannot be opened.
    pub reason: OpenReason,
}

/// Why a directory or a file cannot be opened. The message also says what to do.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OpenReason {
    /// Another process has the log open, or another broker of this process.
    Locked,
    /// There is no log in the directory, where one must be.
    Missing,
    /// Something else is in the place of the directory.
    NoDirectory(String),
    /// A restore into the directory was interrupted.
    Unfinished,
    /// A restore needs a new directory, and this one is not empty.
    NotEmpty,
    /// The log is that of a node of a fleet, and a broker that is alone would go another way.
    OfFleet,
    /// The directory holds something, but no log.
    NotALog(String),
    /// A backup is cut or altered, or does not follow the backup before it.
    BadBackup(String),
    /// The system refused an access to a file.
    Io {
        /// The access, if it is not plain from the path; otherwise empty.
        what: String,
        /// The error of the system, an [`io::Error`](std::io::Error).
        cause: Cause,
    },
    /// The storage engine failed to open its files.
    Engine(Cause),
    /// The system has no thread to give.
    NoThread {
        /// The thread that could not be started.
        name: String,
        /// The error of the system, an [`io::Error`](std::io::Error).
        cause: Cause,
    },
}

impl OpenReason {
    /// Returns the cause below the reason, if there is one.
    fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Io { cause, .. } | Self::Engine(cause) | Self::NoThread { cause, .. } => {
                Some(cause)
            }
            _ => None,
        }
    }
}

impl From<std::io::Error> for OpenReason {
    fn from(error: std::io::Error) -> Self {
        Self::Io { what: String::new(), cause: error.into() }
    }
}

impl fmt::Display for OpenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked => {
                f.write_str("another process has it open; stop that one, or name another directory")
            }
            Self::Missing => f.write_str("there is no log in it"),
            Self::Unfinished => {
                f.write_str("a restore into it was interrupted; delete it, and restore again")
            }
            Self::NotEmpty => f.write_str("it is not empty; name a new directory"),
            Self::OfFleet => f.write_str(
                "it is of a node of a fleet; start the node with its fleet, or restore a backup of \
                 it into a new directory for a broker that is alone",
            ),
            Self::NoDirectory(problem) | Self::NotALog(problem) | Self::BadBackup(problem) => {
                f.write_str(problem)
            }
            Self::Io { what, cause } if what.is_empty() => write!(f, "{cause}"),
            Self::Io { what, cause } => write!(f, "{what}: {cause}"),
            Self::Engine(cause) => write!(f, "{cause}"),
            Self::NoThread { name, cause } => write!(f, "no thread for the {name}: {cause}"),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot open {}: {}", self.path.display(), self.reason)
    }
}

impl StdError for OpenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let cause: &(dyn StdError + Send + Sync) = &**self.reason.cause()?;
        Some(cause)
    }
}
