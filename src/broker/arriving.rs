//! The signal of a node of a fleet that a group is shown. Readers wait for it who come with a place
//! that the node has not applied yet (`read/arriving.rs`).

use std::time::Duration;

use tokio::sync::watch;

/// The signal that a group is shown. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ArrivingGroups {
    shown: watch::Sender<()>,
    /// The longest wait for a place; zero for a broker alone.
    pub(crate) max_wait: Duration,
}

impl ArrivingGroups {
    pub(crate) fn new(max_wait: Duration) -> Self {
        Self { shown: watch::Sender::new(()), max_wait }
    }

    /// Gives the signal.
    pub(crate) fn give(&self) {
        if !self.max_wait.is_zero() {
            self.shown.send_replace(());
        }
    }

    /// Returns the signals from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        self.shown.subscribe()
    }
}
