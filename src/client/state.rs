//! The state of a client's connection, for those who show it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

/// The state of a client's connection, as of its last use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientState {
    /// There is no connection, and nobody needs one.
    Idle,
    /// A connection is being made.
    Connecting,
    /// The connection stands.
    Connected,
    /// The connection broke, or was not made. The next try comes by itself.
    Waiting {
        /// The failures in a row, from 1.
        failures: u32,
        /// The reason for the last failure.
        reason: Arc<str>,
        /// The time of the next try.
        next_try: Instant,
    },
}

/// The states of a client's connection. A state that is followed by another one at once may be left
/// out; the last one never is.
#[derive(Debug)]
pub struct ClientStates {
    pub(super) states: watch::Receiver<ClientState>,
    pub(super) is_new: bool,
}

impl ClientStates {
    /// Returns the present state at the first call, and then each next one. `None` when the client
    /// is gone.
    ///
    /// # Cancel safety
    ///
    /// No state is lost.
    pub async fn next(&mut self) -> Option<ClientState> {
        if !self.is_new {
            self.states.changed().await.ok()?;
        }
        self.is_new = false;
        Some(self.states.borrow_and_update().clone())
    }
}
