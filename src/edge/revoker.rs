//! What ends grants before their time.

use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

/// Ends grants before their time. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Revoker(Arc<CancellationToken>);

/// A [`Revoker`] that does not keep the grants' share of it alive.
#[derive(Debug, Clone)]
pub(crate) struct WeakRevoker(Weak<CancellationToken>);

impl WeakRevoker {
    /// Returns the revoker; `None` if no grant and nobody else has it any more.
    pub(crate) fn upgrade(&self) -> Option<Revoker> {
        self.0.upgrade().map(Revoker)
    }
}

impl Revoker {
    /// Ends all grants that name this, now and later.
    pub fn revoke(&self) {
        self.0.cancel();
    }

    /// Returns a handle that does not keep the revoker.
    pub(crate) fn downgrade(&self) -> WeakRevoker {
        WeakRevoker(Arc::downgrade(&self.0))
    }

    /// Returns whether the grants are revoked.
    pub fn is_revoked(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the grants are revoked.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + Sync + use<> {
        CancellationToken::clone(&self.0).cancelled_owned()
    }

    /// Returns the token that is cancelled when the grants are revoked.
    pub(in crate::edge) fn token(&self) -> &CancellationToken {
        &self.0
    }
}
