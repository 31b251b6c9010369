//! The note in a node's data directory that the log in it is damaged, for the next start.

use std::path::PathBuf;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};
use crate::log::note_damage;

/// The note that the log of a node is damaged. The next start replaces such a log.
#[derive(Debug, Clone)]
pub(super) struct DamageNote {
    /// The data directory.
    pub(super) directory: PathBuf,
    /// The first damage that was found while the node was open.
    pub(super) found: watch::Receiver<Option<String>>,
}

impl DamageNote {
    /// Writes the damage that was found. If none was, writes `other`: why the next start is to
    /// replace the log all the same. Writes nothing if there is neither. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub(super) fn write(&self, other: Option<String>) -> Result<()> {
        let found = self.found.borrow().clone();
        found.or(other).map_or(Ok(()), |why| note_damage(&self.directory, &why))
    }

    /// Waits until damage is found, and writes it.
    pub(super) async fn write_when_found(mut self) {
        if self.found.wait_for(Option::is_some).await.is_err() {
            return; // The node is gone.
        }
        let written = spawn_blocking(move || self.write(None)).await;
        if let Err(error) = written.unwrap_or(Err(Error::ShuttingDown)) {
            tracing::warn!(%error, "the damage of the log cannot be noted");
        }
    }
}
