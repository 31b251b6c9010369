//! The checks of the settings of access: all of them are read as they are when a server is bound,
//! except for the contents of files.

use super::config::AccessConfig;
use super::credentials::CredentialPlaces;
use super::issuers;
use super::keys::StaticKeys;
use super::prover::anonymous;
use super::roles::Roles;
use crate::error::{Error, Result};

/// The most tickets, and the longest lives of both kinds, in seconds: a ticket is seen by more eyes
/// than a header.
const MAX_TICKETS: u64 = 10_000_000;
const MAX_ONCE_S: u64 = 600;
const MAX_STREAM_S: u64 = 7 * 86_400;

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
        self.validate_tickets()?;
        self.validate_cookie()
    }

    fn validate_tickets(&self) -> Result<()> {
        let tickets = &self.tickets;
        let bounds = [
            ("max_tickets", tickets.max_tickets, MAX_TICKETS),
            ("max_tickets_per_caller", tickets.max_tickets_per_caller, MAX_TICKETS),
            ("once_s", tickets.once_s, MAX_ONCE_S),
            ("stream_s", tickets.stream_s, MAX_STREAM_S),
        ];
        for (name, value, most) in bounds {
            if !(1..=most).contains(&value) {
                let problem = format!("{value} is not from 1 to {most}");
                return Err(Error::invalid(format!("access.tickets.{name}"), problem));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::config::TicketsConfig;
    use super::*;

    #[test]
    fn the_bounds_of_tickets_and_the_name_of_the_cookie_are_checked_by_name() {
        let with = |change: &dyn Fn(&mut AccessConfig)| {
            let mut config = AccessConfig::default();
            change(&mut config);
            config.validate().map_err(|error| error.to_string())
        };
        with(&|it| it.tickets.once_s = MAX_ONCE_S).unwrap();
        with(&|it| it.tickets.stream_s = MAX_STREAM_S).unwrap();
        with(&|it| it.tickets.max_tickets = MAX_TICKETS).unwrap();
        let refused = with(&|it| it.tickets.once_s = MAX_ONCE_S + 1).unwrap_err();
        assert_eq!(refused, "access.tickets.once_s: 601 is not from 1 to 600");
        let tickets = TicketsConfig::default;
        for (wrong, field) in [
            (TicketsConfig { once_s: 0, ..tickets() }, "once_s"),
            (TicketsConfig { stream_s: 0, ..tickets() }, "stream_s"),
            (TicketsConfig { stream_s: MAX_STREAM_S + 1, ..tickets() }, "stream_s"),
            (TicketsConfig { max_tickets: 0, ..tickets() }, "max_tickets"),
            (TicketsConfig { max_tickets: MAX_TICKETS + 1, ..tickets() }, "max_tickets"),
            (TicketsConfig { max_tickets_per_caller: 0, ..tickets() }, "max_tickets_per_caller"),
        ] {
            let refused = with(&|it| it.tickets = wrong.clone()).unwrap_err();
            assert!(refused.starts_with(&format!("access.tickets.{field}: ")), "{refused}");
        }
        with(&|it| it.cookie = Some("__Host-leftoff".to_owned())).unwrap();
        for name in ["", "a b", "a=b", "a;b", "é"] {
            let refused = with(&|it| it.cookie = Some(name.to_owned())).unwrap_err();
            assert!(refused.starts_with("access.cookie: "), "{refused}");
        }
    }
}
