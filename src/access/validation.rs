//! The checks of the settings of access: all of them are read as they are when a server is bound,
//! except for the contents of files.

use super::config::AccessConfig;
use super::credentials::CredentialPlaces;
use super::issuers;
use super::keys::StaticKeys;
use super::prover::anonymous;
use super::roles::Roles;
use crate::error::{Error, Result};

impl AccessConfig {
    /// Checks each setting by itself. Files are read when a server is bound.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the value, and the expected form;
    /// [`Error::OverLimit`] with the limit.
    pub fn validate(&self) -> Result<()> {
        self.origins()?;
        StaticKeys::parse(&self.keys)?;
        issuers::parse(&self.issuers)?;
        Roles::parse(&self.roles)?;
        self.anonymous.as_ref().map(anonymous).transpose()?;
        self.validate_cookie()
    }

    fn validate_cookie(&self) -> Result<()> {
        let Some(name) = &self.cookie else { return Ok(()) };
        // RFC 6265: the name of a cookie is a token of HTTP.
        let is_sign = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_sign(byte))
        {
            let problem = format!("{name:?} is no name of a cookie; write one like __Host-leftoff");
            return Err(Error::invalid("access.cookie", problem));
        }
        Ok(())
    }

    /// Returns the places where credentials are looked for.
    pub(super) fn places(&self) -> CredentialPlaces {
        CredentialPlaces { cookie: self.cookie.clone(), tokens_in_urls: self.tokens_in_urls }
    }
}
