//! The stop signal: each holder can request a stop, and wait for one.

use std::future::IntoFuture;
use std::pin::Pin;

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
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    pub async fn started(&self) {
        self.0.cancelled().await;
    }
}

/// Waits as [`Shutdown::started`] does, so that a server takes the signal itself.
impl IntoFuture for Shutdown {
    type Output = ();
    type IntoFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.cancelled_owned())
    }
}
