//! Access control as a whole: from a request to the caller, and to what it may do.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use super::config::AccessConfig;
use super::credentials::{Credential, CredentialParts};
use super::identity::{CallerIdentity, Proof, Proved};
use super::keys::hash_of;
use super::prover::Prover;
use super::remembered::RememberedCallers;
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
    pub(crate) async fn open(config: &AccessConfig, _broker: Broker) -> Result<Self> {
        let prover = Prover::open(config).await?;
        if prover.lets_nobody_in() {
            warn!("nobody can get in: access is required, and no key and no issuer is configured");
        }
        let callers = RememberedCallers::default();
        Ok(Self(Arc::new(AccessParts { config: config.clone(), prover, callers })))
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
    pub(crate) async fn identify(&self, request: &Connecting) -> Result<CallerIdentity, Refusal> {
        let found = self.0.prover.places.find(CredentialParts::from(request))?;
        self.caller_of(found, self.now()).await
    }

    /// Returns the caller whom a credential proves at `now`.
    ///
    /// # Errors
    ///
    /// As [`Self::identify`].
    async fn caller_of(
        &self,
        credential: Option<Credential<'_>>,
        now: SystemTime,
    ) -> Result<CallerIdentity, Refusal> {
        let parts = &self.0;
        let text = match &credential {
            Some(Credential::Key(text) | Credential::Token(text)) => text,
            Some(Credential::Ticket(ticket)) => return self.of_ticket(ticket, now),
            Some(Credential::Certificate(_)) | None => {
                return self.admit(parts.prover.anonymous()?, now);
            }
        };
        let hash = hash_of(text);
        if let Some(caller) = parts.callers.get(&hash, now) {
            return self.checked(caller);
        }
        let proved = match &credential {
            Some(Credential::Key(key)) => parts.prover.key(key)?,
            _ => parts.prover.token(text, now).await?,
        };
        let key = proved.key.clone();
        let caller = self.admit(proved, now)?;
        parts.callers.insert(hash, caller.clone(), key);
        Ok(caller)
    }

    /// Returns the caller of a ticket.
    fn of_ticket(&self, _ticket: &str, _now: SystemTime) -> Result<CallerIdentity, Refusal> {
        Err(Refusal::unauthenticated("the ticket is not known, or used, or over"))
    }

    /// Lets a caller in, who was proved: gives it the grant of its credential.
    fn admit(&self, proved: Proved, _now: SystemTime) -> Result<CallerIdentity, Refusal> {
        let Proved { id, proof, issued, expires, permission, key: _ } = proved;
        let mut grant = Grant::new(id.clone(), permission).without_renewal();
        if proof != Proof::Anonymous {
            grant = grant.member(id.clone());
        }
        if let Some(end) = expires {
            grant = grant.until(end);
        }
        self.checked(CallerIdentity { id, proof, issued, expires, grant })
    }

    /// Checks that a caller is not revoked.
    fn checked(&self, caller: CallerIdentity) -> Result<CallerIdentity, Refusal> {
        Ok(caller)
    }
}
