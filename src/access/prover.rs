//! The proof of callers: what a credential says, without a look at who is revoked.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::claims::Claims;
use super::config::{AccessConfig, AnonymousConfig};
use super::credentials::CredentialPlaces;
use super::identity::{ANONYMOUS, Proof, Proved};
use super::issuers::{self, Issuer};
use super::jwks::MAX_START;
use super::keys::StaticKeys;
use super::rights::{Rights, WrittenRights};
use super::roles::{RoleRights, Roles};
use super::tokens::{self, TokenProblem, VerifiedToken};
use crate::edge::hooks::Refusal;
use crate::error::Result;

/// The means to prove callers: the static keys, the issuers of tokens, the roles.
#[derive(Debug)]
pub(super) struct Prover {
    pub(super) places: CredentialPlaces,
    pub(super) issuers: Vec<Issuer>,
    keys: StaticKeys,
    roles: Roles,
    anonymous: Option<Proved>,
}

/// The rights of a caller, and where each of them comes from.
#[derive(Debug, Default)]
pub(super) struct FoundRights {
    /// Those of the claim `leftoff`; `None` if there is none, or it does not count.
    pub(super) own: Option<Rights>,
    pub(super) roles: RoleRights,
}

impl FoundRights {
    /// Returns all of them together.
    ///
    /// # Errors
    ///
    /// The problem: they are more than one caller may have.
    fn all(self) -> Result<Rights, String> {
        let mut rights = self.own.unwrap_or_default();
        rights.add(self.roles.rights);
        rights.check_counts().map_err(|error| error.to_string())?;
        Ok(rights)
    }
}

impl Prover {
    /// Reads the settings, and the files that they name, and begins to fetch the keys of issuers.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::OverLimit`](crate::Error::OverLimit)
    /// with the setting, the value and the expected form.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(super) async fn open(config: &AccessConfig) -> Result<Self> {
        config.validate()?;
        let mut issuers = Vec::new();
        for rules in issuers::parse(&config.issuers)? {
            issuers.push(rules.open().await?);
        }
        let deadline = Instant::now() + MAX_START;
        for issuer in &issuers {
            issuer.started(deadline).await; // All of them are fetching already.
        }
        Ok(Self {
            places: config.places(),
            issuers,
            keys: StaticKeys::parse(&config.keys)?,
            roles: Roles::parse(&config.roles)?,
            anonymous: config.anonymous.as_ref().map(anonymous).transpose()?,
        })
    }

    /// Returns whether no credential and nobody without one can get in.
    pub(super) fn lets_nobody_in(&self) -> bool {
        self.keys.is_empty()
            && self.issuers.is_empty()
            && self.anonymous.is_none()
            && !self.roles.has_certificates()
    }

    /// Returns what a static key proves.
    ///
    /// # Errors
    ///
    /// A refusal that does not tell whether there is such a key.
    pub(super) fn key(&self, key: &str) -> Result<Proved, Refusal> {
        let known = self.keys.prove(key).cloned();
        known.ok_or_else(|| Refusal::unauthenticated("the key is not known"))
    }

    /// Returns what a token proves at `now`.
    ///
    /// # Errors
    ///
    /// A refusal that tells nothing of the keys.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn token(&self, token: &str, now: SystemTime) -> Result<Proved, Refusal> {
        let proved = match tokens::verify(&self.issuers, token, now).await {
            Ok(verified) => self.proved(verified),
            Err(problem) => Err(problem),
        };
        proved.map_err(|problem| Refusal::unauthenticated(problem.told()))
    }

    /// Returns what a verified token proves.
    ///
    /// # Errors
    ///
    /// [`TokenProblem::Claim`]: the claim `leftoff` is wrong, or there are too many rights.
    fn proved(&self, token: VerifiedToken) -> Result<Proved, TokenProblem> {
        let rights = self.rights_of_token(&token)?.all().map_err(TokenProblem::Claim)?;
        Ok(Proved {
            id: token.id.into(),
            proof: Proof::Token { issuer: token.issuer },
            issued: token.issued,
            expires: Some(token.expires),
            permission: rights.permission(),
            key: token.key.as_ref().map(Arc::downgrade),
        })
    }

    /// Returns the rights of the caller of a verified token, and where they come from.
    ///
    /// # Errors
    ///
    /// [`TokenProblem::Claim`]: the claim `leftoff` is wrong.
    pub(super) fn rights_of_token(
        &self,
        token: &VerifiedToken,
    ) -> Result<FoundRights, TokenProblem> {
        let permits = self.issuers[token.issuer].rules.config.permits;
        let own = match permits {
            true => token.claims.own_rights().map_err(TokenProblem::Claim)?,
            false => None,
        };
        Ok(FoundRights { own, roles: self.roles.of(&token.id, &token.claims) })
    }

    /// Returns what a client certificate proves, whose caller was read from it.
    ///
    /// # Errors
    ///
    /// A refusal: the caller has more rights than one may have.
    pub(super) fn certificate(
        &self,
        id: String,
        issued: SystemTime,
        expires: SystemTime,
    ) -> Result<Proved, Refusal> {
        let roles = self.roles.of(&id, &Claims::of_certificate(&id));
        let rights = FoundRights { own: None, roles }.all().map_err(Refusal::unauthenticated)?;
        Ok(Proved {
            id: id.into(),
            proof: Proof::Certificate,
            issued: Some(issued),
            expires: Some(expires),
            permission: rights.permission(),
            key: None,
        })
    }

    /// Returns what is proved of a caller without a credential.
    ///
    /// # Errors
    ///
    /// A refusal: a credential is needed.
    pub(super) fn anonymous(&self) -> Result<Proved, Refusal> {
        self.anonymous.clone().ok_or_else(|| {
            Refusal::unauthenticated(
                "send `Authorization: Bearer`, with a key or a token behind it",
            )
        })
    }
}

/// Returns what callers without credentials may do.
///
/// # Errors
///
/// As [`Prover::open`].
pub(super) fn anonymous(config: &AnonymousConfig) -> Result<Proved> {
    let (publish, subscribe) = (&config.publish, &config.subscribe);
    let written = WrittenRights { publish, subscribe, ..WrittenRights::default() };
    let permission = written.parse("access.anonymous")?.permission_without_presence();
    Ok(Proved {
        id: ANONYMOUS.into(),
        proof: Proof::Anonymous,
        issued: None,
        expires: None,
        permission,
        key: None,
    })
}
