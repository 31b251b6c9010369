//! The proof of callers: what a credential says, without a look at who is revoked.

use std::time::SystemTime;

use super::config::{AccessConfig, AnonymousConfig};
use super::credentials::CredentialPlaces;
use super::identity::{ANONYMOUS, Proof, Proved};
use super::keys::StaticKeys;
use super::rights::WrittenRights;
use crate::edge::hooks::Refusal;
use crate::error::Result;

/// The means to prove callers: the static keys, the issuers of tokens, the roles.
#[derive(Debug)]
pub(super) struct Prover {
    pub(super) places: CredentialPlaces,
    keys: StaticKeys,
    anonymous: Option<Proved>,
}

impl Prover {
    /// Reads the settings, and the files that they name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::OverLimit`](crate::Error::OverLimit)
    /// with the setting, the value and the expected form.
    pub(super) async fn open(config: &AccessConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            places: config.places(),
            keys: StaticKeys::parse(&config.keys)?,
            anonymous: config.anonymous.as_ref().map(anonymous).transpose()?,
        })
    }

    /// Returns whether no credential and nobody without one can get in.
    pub(super) fn lets_nobody_in(&self) -> bool {
        self.keys.is_empty() && self.anonymous.is_none()
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
    pub(super) async fn token(&self, token: &str, now: SystemTime) -> Result<Proved, Refusal> {
        let _no_issuer = (token, now);
        Err(Refusal::unauthenticated("the token is not of an issuer that is accepted here"))
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
