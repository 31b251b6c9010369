//! Connections that were upgraded from HTTP to another protocol.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of upgraded connections, so that a stop can wait for them, and cut them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upgrades {
    pub(crate) tasks: TaskTracker,
    pub(crate) cut: CancellationToken,
}
