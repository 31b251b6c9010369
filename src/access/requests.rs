//! What HTTP and gRPC ask of access control, done once for both: tickets and revocations, with the
//! checks of the caller and the entries of the audit.

use http::request::Parts as RequestHead;

use super::audit::entry;
use super::control::AccessControl;
use super::revocations::Revocation;
use super::tickets::{IssuedTicket, TicketRequest};
use crate::edge::PeerAddress;
use crate::edge::hooks::{Connecting, Refusal, RefusalContext};
use crate::edge::permit::{Permit, connecting};
use crate::error::{Error, Result};
use crate::event::Timestamp;

/// The caller of a request to access control.
pub(super) struct AskingCaller {
    permit: Permit,
    request: Connecting<'static>,
}

impl AskingCaller {
    /// Returns the caller of a request, who is permitted something. `head` is that of the request.
    pub(super) fn new(permit: Permit, head: &RequestHead) -> Self {
        Self { permit, request: connecting(head).owned() }
    }

    fn address(&self) -> Option<PeerAddress> {
        self.request.address()
    }

    /// Returns the id of the caller.
    fn id(&self) -> Option<String> {
        self.permit.grant().as_ref().map(|grant| grant.caller().to_owned())
    }

    /// Makes a ticket for the caller.
    ///
    /// # Errors
    ///
    /// As [`Tickets::issue`](super::tickets::Tickets::issue).
    pub(super) async fn ticket(
        &self,
        control: &AccessControl,
        asked: &TicketRequest,
    ) -> Result<IssuedTicket> {
        let caller = control.identify(&self.request).await?;
        let issued = control.tickets().issue(&caller, asked, control.now()).await;
        match &issued {
            Ok(_) => control.audit().ticket_made(&caller.id, self.address()),
            Err(Error::Denied { reason }) => self.refused(control, Refusal::denied(reason)),
            Err(Error::Unauthenticated { reason }) => {
                self.refused(control, Refusal::unauthenticated(reason));
            }
            Err(_) => {}
        }
        issued
    }

    fn refused(&self, control: &AccessControl, refusal: Refusal) {
        let grant = self.permit.grant();
        control.audit().refused(&RefusalContext {
            refusal: &refusal,
            grant: grant.as_ref(),
            address: self.address(),
            path: Some(self.request.uri().path()),
        });
    }

    /// Revokes another caller. What was begun is done and told, also if the client goes away.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]: the caller does not administer the broker. As
    /// [`Revocations::revoke`](super::revocations::Revocations::revoke).
    pub(super) async fn revoke(
        &self,
        control: &AccessControl,
        sub: &str,
        before: Option<Timestamp>,
    ) -> Result<Revocation> {
        self.permit.check_administers().await?;
        let (control, sub) = (control.clone(), sub.to_owned());
        let entry = entry("access.revoked", self.id().as_deref(), "revoke", self.address());
        let work = tokio::spawn(async move {
            let outcome = control.revocations().revoke(&sub, before, control.now().into()).await;
            let (word, reason) = match &outcome {
                Ok(revocation) => ("done", format!("{sub:?} before {}", revocation.before)),
                Err(error) => ("failed", format!("{sub:?}: {error}")),
            };
            control.audit().tell(entry.with(None, word, Some(reason)));
            control.tickets().forget_revoked(&sub);
            outcome
        });
        work.await.unwrap_or_else(|broken| match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Error::ShuttingDown),
        })
    }

    /// Returns up to `limit` revocations in the order of the callers' ids, after the id `after`.
    ///
    /// # Errors
    ///
    /// [`Error::Denied`]: the caller does not administer the broker.
    pub(super) async fn revocations(
        &self,
        control: &AccessControl,
        after: &str,
        limit: usize,
    ) -> Result<Vec<Revocation>> {
        self.permit.check_administers().await?;
        Ok(control.revocations().list(after, limit))
    }
}
