//! The hooks as one client's requests ask them: with the client's address, which they are told with
//! each refusal and each act of administration.

use std::ops::Deref;
use std::sync::Arc;

use super::hooks::{ActKind, ActOutcome, AdminAct, Grant, Hooks, Refusal, RefusalContext};
use super::peer_address::PeerAddress;
use crate::topic::TopicName;

/// The hooks, and the address of the client that they are asked about.
pub(super) struct PlacedHooks {
    pub(super) hooks: Arc<dyn Hooks>,
    pub(super) address: Option<PeerAddress>,
}

impl PlacedHooks {
    /// Tells the hooks of a refusal, in place of [`Hooks::refused`].
    pub(super) fn refused(&self, grant: Option<&Grant>, refusal: &Refusal) {
        let address = self.address;
        self.hooks.refused(&RefusalContext { refusal, grant, address, path: None });
    }

    /// Tells the hooks of an act of administration.
    pub(super) fn administered(
        &self,
        grant: &Grant,
        kind: ActKind,
        (topic, webhook): (Option<&TopicName>, Option<&str>),
        outcome: ActOutcome<'_>,
    ) {
        let address = self.address;
        self.hooks.administered(grant, &AdminAct { kind, topic, webhook, address, outcome });
    }
}

impl Deref for PlacedHooks {
    type Target = dyn Hooks;

    fn deref(&self) -> &Self::Target {
        &*self.hooks
    }
}
