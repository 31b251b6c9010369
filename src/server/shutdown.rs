//! The stop signal: each holder can request a stop, and wait for one.

use tokio_util::sync::CancellationToken;

/// A signal that is set once, and seen by all holders. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Requests a stop.
    pub fn start(&self) {
        self.0.cancel();
    }

    /// Waits until a stop is requested.
    pub async fn started(&self) {
        self.0.cancelled().await;
    }
}
