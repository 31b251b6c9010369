//! Access control as a whole: from a request to the caller, and to what it may do.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use super::audit::Audit;
use super::config::AccessConfig;
use super::credentials::{CredentialParts, SentCredential};
use super::identity::{CallerIdentity, Proof, Proved};
use super::keys::hash_of;
use super::prover::Prover;
use super::remembered::RememberedCallers;
use super::revocations::Revocations;
use super::tickets::{TicketUse, Tickets};
use crate::broker::Broker;
use crate::edge::hooks::{Connecting, Grant, Refusal};
use crate::error::Result;

/// Access control: the hooks of a server whose `access.mode` is `required`. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AccessControl(Arc<AccessParts>);

#[derive(Debug)]
struct AccessParts {
    config: AccessConfig,
    prover: Prover,
    callers: RememberedCallers,
    /// The callers of tickets for streams, apart from the others: the text of a ticket is no token.
    ticketed: RememberedCallers,
    revocations: Revocations,
    tickets: Tickets,
    audit: Audit,
}

impl AccessControl {
    /// Opens access control for the server of `broker`. Reads the files that the settings name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::OverLimit`](crate::Error::OverLimit)
    /// with the setting, the value and the expected form.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(crate) async fn open(config: &AccessConfig, broker: Broker) -> Result<Self> {
        let prover = Prover::open(config).await?;
        if prover.lets_nobody_in() {
            warn!("nobody can get in: access is required, and no key and no issuer is configured");
        }
        let (callers, ticketed) = Default::default();
        let revocations = Revocations::open(&broker).await?;
        let tickets = Tickets::open(&config.tickets, &broker, &revocations).await?;
        let audit = Audit::open(&broker).await?;
        let config = config.clone();
        let parts = AccessParts { config, prover, callers, ticketed, revocations, tickets, audit };
        Ok(Self(Arc::new(parts)))
    }

    /// Returns the means to prove callers.
    pub(super) fn prover(&self) -> &Prover {
        &self.0.prover
    }

    /// Returns the callers who are revoked.
    pub(super) fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// Returns the tickets.
    pub(super) fn tickets(&self) -> &Tickets {
        &self.0.tickets
    }

    /// Returns the audit.
    pub(super) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// Returns the settings.
    pub(super) fn config(&self) -> &AccessConfig {
        &self.0.config
    }

    /// Returns the time by which credentials are judged.
    pub(super) fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    /// Returns the caller of a request.
    ///
    /// # Errors
    ///
    /// A refusal, which tells neither the credential nor which ones there are.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(crate) async fn identify(
        &self,
        request: &Connecting<'_>,
    ) -> Result<CallerIdentity, Refusal> {
        let found = self.0.prover.places.find(CredentialParts::from(request))?;
        self.caller_of(found, TicketUse::of(request), self.now()).await
    }

    /// Returns the caller whom a credential proves at `now`.
    ///
    /// # Errors
    ///
    /// As [`Self::identify`].
    async fn caller_of(
        &self,
        credential: Option<SentCredential<'_>>,
        purpose: TicketUse,
        now: SystemTime,
    ) -> Result<CallerIdentity, Refusal> {
        let parts = &self.0;
        let bytes = match &credential {
            Some(SentCredential::Key(text) | SentCredential::Token(text)) => text.as_bytes(),
            Some(SentCredential::Certificate(der)) => der,
            Some(SentCredential::Ticket(ticket)) => {
                parts.tickets.fetch(ticket, purpose, now).await;
                return self.caller_of_ticket(ticket, purpose, now);
            }
            None => return self.admit(parts.prover.anonymous()?),
        };
        let hash = hash_of(bytes);
        if let Some(caller) = parts.callers.get(&hash, now) {
            return Ok(caller); // One that was revoked since is not remembered.
        }
        let proved = match &credential {
            Some(SentCredential::Key(key)) => parts.prover.key(key)?,
            Some(SentCredential::Token(token)) => parts.prover.token(token, now).await?,
            #[cfg(feature = "tls")]
            Some(SentCredential::Certificate(der)) => parts.prover.certificate(der, now)?,
            // They have returned above, or need TLS to be there.
            _ => return self.admit(parts.prover.anonymous()?),
        };
        let key = proved.key.clone();
        let caller = self.admit(proved)?;
        parts.callers.insert(hash, caller.clone(), key);
        Ok(caller)
    }

    /// Returns the caller of a ticket, which is looked up each time. All streams of one ticket have
    /// one grant in memory: it may have a thousand patterns.
    ///
    /// # Errors
    ///
    /// A refusal, which is the same whatever is wrong with the ticket.
    fn caller_of_ticket(
        &self,
        ticket: &str,
        purpose: TicketUse,
        now: SystemTime,
    ) -> Result<CallerIdentity, Refusal> {
        let parts = &self.0;
        let proved = parts.tickets.redeem(ticket, purpose, now)?;
        if purpose != TicketUse::Read {
            return self.admit(proved); // A ticket for one use has no other stream.
        }
        let hash = hash_of(ticket.as_bytes());
        if let Some(caller) = parts.ticketed.get(&hash, now) {
            return Ok(caller);
        }
        let caller = self.admit(proved)?;
        parts.ticketed.insert(hash, caller.clone(), None);
        Ok(caller)
    }

    /// Lets a caller in, who was proved: gives it the grant of its credential.
    ///
    /// # Errors
    ///
    /// A refusal: the credential is revoked.
    fn admit(&self, proved: Proved) -> Result<CallerIdentity, Refusal> {
        let Proved { id, proof, issued, expires, permission, key: _ } = proved;
        let mut grant = Grant::new(id.clone(), permission).without_renewal();
        if proof == Proof::Anonymous {
            grant = grant.of_strangers();
        } else {
            let revoker = self.0.revocations.admit(&id, issued)?;
            grant = grant.member(id.clone()).revoked_by(revoker);
        }
        if let Some(end) = expires {
            grant = grant.until(end);
        }
        Ok(CallerIdentity { id, proof, issued, expires, grant })
    }
}

#[cfg(test)]
mod tests {
    use super::super::ticket_table::TicketKind;
    use super::super::tickets::TicketRequest;
    use super::*;
    use crate::broker::OpenConfig;
    use crate::permission::{Action, Permission};

    /// Goal: thousands of streams of one ticket have one grant in memory, and all of them end with
    /// it; and a ticket is no token.
    #[tokio::test]
    async fn streams_of_one_ticket_share_a_grant_until_it_is_revoked() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let control = AccessControl::open(&AccessConfig::default(), broker.clone()).await.unwrap();
        let now = SystemTime::now();
        let permission = Permission::default().with(Action::Subscribe, ["news.>"]).unwrap();
        let grant = Grant::new("u", permission);
        let (proof, issued) = (Proof::Key, Some(now));
        let caller = CallerIdentity { id: "u".into(), proof, issued, expires: None, grant };
        let subscribe = Some(vec!["news.*".parse().unwrap()]);
        let kind = TicketKind::Stream;
        let request = TicketRequest { kind, subscribe, publish: None, expires_s: None };
        let text = control.tickets().issue(&caller, &request, now).await.unwrap().ticket;
        let redeem = |purpose| {
            let ticket = Some(SentCredential::Ticket(text.as_str().into()));
            control.caller_of(ticket, purpose, now)
        };
        let [first, second] = [redeem(TicketUse::Read).await, redeem(TicketUse::Read).await];
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(std::ptr::eq(first.grant.permission(), second.grant.permission()));
        for purpose in [TicketUse::WebSocket, TicketUse::Other] {
            assert!(redeem(purpose).await.is_err(), "{purpose:?}");
        }
        let token = Some(SentCredential::Token(text.as_str().into()));
        assert!(control.caller_of(token, TicketUse::Read, now).await.is_err());
        control.revocations().revoke("u", None, now.into()).await.unwrap();
        assert!(second.grant.revoker().unwrap().is_revoked());
        assert!(redeem(TicketUse::Read).await.is_err());
        broker.close().await;
    }
}
