//! The one credential of a request.
//!
//! | where | what | when |
//! |---|---|---|
//! | `Authorization: Bearer` | a key or a token | always |
//! | `?ticket=` | a ticket | always |
//! | `?access_token=` | a token | if `access.tokens_in_urls` |
//! | the cookie that `access.cookie` names | a token | else |
//! | the connection's client certificate | a name | else |
//!
//! The first three are chosen for the request. Two of them are refused: they may speak of two
//! callers. The last two come with every request of a browser or a connection by themselves, so one
//! that was chosen goes before them, and a cookie before a certificate. A credential that is wrong
//! is refused, whatever else comes with it, and also where callers without credentials are let in.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use super::keys::KEY_PREFIX;
use crate::edge::hooks::{Connecting, Refusal};

/// The longest credential, in bytes. A longer one is refused before anything is done with it.
pub(super) const MAX_CREDENTIAL_BYTES: usize = 16 << 10;

/// The names by which tokens are put into URLs elsewhere.
const TOKEN_NAMES: [&str; 8] =
    ["access_token", "api_key", "apikey", "auth", "authorization", "bearer", "jwt", "token"];

const IN_URL: &str = "tokens in URLs are refused, because URLs are logged and kept: send \
                      `Authorization: Bearer`, or ask POST /v1/tickets for a ticket and send \
                      ?ticket=";
const SEVERAL: &str = "the request has several credentials: send one";

/// A credential as it was sent. Nothing is known of it yet.
#[derive(PartialEq, Eq)]
pub(super) enum SentCredential<'a> {
    Key(Cow<'a, str>),
    Token(Cow<'a, str>),
    Ticket(Cow<'a, str>),
    /// The client's certificate, in DER.
    Certificate(&'a [u8]),
}

/// The parts of a request that may hold a credential.
#[derive(Clone, Copy)]
pub(super) struct CredentialParts<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) query: Option<&'a str>,
    pub(super) certificate: Option<&'a [u8]>,
}

impl<'a> From<&'a Connecting<'_>> for CredentialParts<'a> {
    fn from(request: &'a Connecting<'_>) -> Self {
        Self {
            headers: request.headers(),
            query: request.uri().query(),
            certificate: request.certificate(),
        }
    }
}

/// The places where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct CredentialPlaces {
    pub(super) cookie: Option<String>,
    pub(super) tokens_in_urls: bool,
}

impl CredentialPlaces {
    /// Finds the credential of a request; `None` if it has none.
    ///
    /// # Errors
    ///
    /// A refusal without any part of a credential in it.
    pub(super) fn find<'a>(
        &self,
        parts: CredentialParts<'a>,
    ) -> Result<Option<SentCredential<'a>>, Refusal> {
        let mut chosen = bearer(parts.headers)?.into_iter().collect::<Vec<_>>();
        chosen.extend(self.in_url(parts.query)?);
        if chosen.len() > 1 {
            return Err(Refusal::unauthenticated(SEVERAL));
        }
        let found = match chosen.pop() {
            Some(chosen) => Some(chosen),
            None => match self.in_cookie(parts.headers)? {
                Some(token) => Some(token),
                None => parts.certificate.map(SentCredential::Certificate),
            },
        };
        match &found {
            Some(
                SentCredential::Key(text)
                | SentCredential::Token(text)
                | SentCredential::Ticket(text),
            ) if text.len() > MAX_CREDENTIAL_BYTES => {
                Err(Refusal::unauthenticated("the credential is longer than 16 KiB"))
            }
            _ => Ok(found),
        }
    }

    /// Returns the credentials in the query of a URL.
    fn in_url<'a>(&self, query: Option<&'a str>) -> Result<Vec<SentCredential<'a>>, Refusal> {
        let mut found = Vec::new();
        for part in query.unwrap_or_default().split('&') {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
            let value = || {
                let value = percent_decode_str(value).decode_utf8();
                value.map_err(|_| Refusal::unauthenticated("the credential in the URL is no text"))
            };
            if name == "ticket" {
                found.push(SentCredential::Ticket(value()?));
            } else if name == "access_token" && self.tokens_in_urls {
                let token = value()?;
                if token.starts_with(KEY_PREFIX) {
                    // A key has no end: it would be good for ever to whoever reads a log.
                    return Err(Refusal::unauthenticated(IN_URL));
                }
                found.push(SentCredential::Token(token));
            } else if TOKEN_NAMES.contains(&name.as_str()) {
                return Err(Refusal::unauthenticated(IN_URL));
            }
        }
        Ok(found)
    }

    /// Returns the token in the cookie.
    fn in_cookie<'a>(&self, headers: &'a HeaderMap) -> Result<Option<SentCredential<'a>>, Refusal> {
        let Some(wanted) = &self.cookie else { return Ok(None) };
        let mut found: Option<&str> = None;
        for header in headers.get_all(COOKIE) {
            // Another's cookie may be any bytes. It is not looked at.
            for pair in header.as_bytes().split(|byte| *byte == b';') {
                let pair = pair.trim_ascii();
                let rest = pair.strip_prefix(wanted.as_bytes());
                let Some(value) = rest.and_then(|rest| rest.strip_prefix(b"=")) else { continue };
                let value = value.strip_prefix(b"\"").unwrap_or(value);
                let value = value.strip_suffix(b"\"").unwrap_or(value);
                let value = std::str::from_utf8(value)
                    .map_err(|_| Refusal::unauthenticated("the token in the cookie is no text"))?;
                // A page of another host of the domain can set a second cookie of the name.
                if found.is_some_and(|other| other != value) {
                    return Err(Refusal::unauthenticated("the cookie with the token came twice"));
                }
                found = Some(value);
            }
        }
        match found {
            None | Some("") => Ok(None),
            Some(key) if key.starts_with(KEY_PREFIX) => {
                Err(Refusal::unauthenticated("the cookie holds a key, and no token"))
            }
            Some(token) => Ok(Some(SentCredential::Token(token.into()))),
        }
    }
}

/// Returns the key or the token of the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Result<Option<SentCredential<'_>>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::unauthenticated(SEVERAL));
    }
    let text = bearer_text(value).ok_or_else(|| {
        Refusal::unauthenticated("send `Authorization: Bearer`, with a key or a token behind it")
    })?;
    Ok(Some(match text.starts_with(KEY_PREFIX) {
        true => SentCredential::Key(text.into()),
        false => SentCredential::Token(text.into()),
    }))
}

fn bearer_text(value: &HeaderValue) -> Option<&str> {
    let (scheme, rest) = value.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim_start();
    let is_one = !rest.is_empty() && !rest.contains([' ', ',']);
    (scheme.eq_ignore_ascii_case("bearer") && is_one).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the kind and the text of the credential that is found, or the reason of a refusal.
    fn found(
        places: &CredentialPlaces,
        headers: &[(http::HeaderName, &str)],
        query: Option<&str>,
        certificate: Option<&[u8]>,
    ) -> Result<(&'static str, String), String> {
        let headers = headers.iter().map(|(name, value)| {
            (name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        let headers: HeaderMap = headers.collect();
        let parts = CredentialParts { headers: &headers, query, certificate };
        match places.find(parts) {
            Ok(None) => Ok(("none", String::new())),
            Ok(Some(SentCredential::Key(text))) => Ok(("key", text.into_owned())),
            Ok(Some(SentCredential::Token(text))) => Ok(("token", text.into_owned())),
            Ok(Some(SentCredential::Ticket(text))) => Ok(("ticket", text.into_owned())),
            Ok(Some(SentCredential::Certificate(der))) => Ok(("certificate", format!("{der:?}"))),
            Err(refusal) => {
                assert!(refusal.is_unauthenticated());
                Err(refusal.reason().to_owned())
            }
        }
    }

    #[test]
    fn a_bearer_is_a_key_or_a_token() {
        let places = CredentialPlaces::default();
        let of = |value: &str| found(&places, &[(AUTHORIZATION, value)], None, None);
        assert_eq!(of("Bearer lok_abc").unwrap(), ("key", "lok_abc".to_owned()));
        assert_eq!(of("bearer  a.b.c ").unwrap(), ("token", "a.b.c".to_owned()));
        let bad = ["", "Bearer", "Bearer ", "Basic YTpi", "lok_abc", "Bearer a b", "Bearer a,b"];
        for value in bad.into_iter().chain(["Bearer é"]) {
            let refused = of(value).unwrap_err();
            assert!(refused.starts_with("send `Authorization: Bearer`"), "{value}: {refused}");
        }
        let long = format!("Bearer {}", "x".repeat(MAX_CREDENTIAL_BYTES + 1));
        assert!(of(&long).unwrap_err().contains("16 KiB"));
        of(&long[..long.len() - 1]).unwrap();
        let twice = [(AUTHORIZATION, "Bearer lok_a"), (AUTHORIZATION, "Bearer lok_a")];
        assert_eq!(found(&places, &twice, None, None).unwrap_err(), SEVERAL);
    }

    #[test]
    fn tokens_in_urls_are_refused_under_all_their_names() {
        let strict = CredentialPlaces::default();
        let of = |places: &CredentialPlaces, query: &str| found(places, &[], Some(query), None);
        for name in TOKEN_NAMES.into_iter().chain(["Access_Token", "%74oken"]) {
            let refused = of(&strict, &format!("from=1&{name}=secret-value")).unwrap_err();
            assert!(refused.contains("/v1/tickets") && !refused.contains("secret"), "{refused}");
        }
        assert!(of(&strict, "token").unwrap_err().contains("/v1/tickets"));
        assert_eq!(of(&strict, "from=1&page_token=x&key=y").unwrap().0, "none");

        let lax = CredentialPlaces { tokens_in_urls: true, ..CredentialPlaces::default() };
        assert_eq!(of(&lax, "access_token=a%2Eb.c").unwrap(), ("token", "a.b.c".to_owned()));
        assert!(of(&lax, "access_token=lok_abc").is_err(), "a key never");
        assert!(of(&lax, "token=a.b.c").is_err());
        assert!(of(&lax, "access_token=%ff").is_err());
        assert_eq!(of(&lax, "access_token=a&access_token=a").unwrap_err(), SEVERAL);
    }

    #[test]
    fn a_credential_that_was_chosen_goes_before_those_that_come_by_themselves() {
        let places = CredentialPlaces { cookie: Some("sid".to_owned()), tokens_in_urls: true };
        let der: &[u8] = &[1, 2];
        let certificate = ("certificate", "[1, 2]".to_owned());
        let key = (AUTHORIZATION, "Bearer lok_k");
        let cookie = (COOKIE, "other=1; sid=c.o.o; sidx=2");
        let with = |headers: &[_], query| found(&places, headers, query, Some(der));
        assert_eq!(with(&[], None).unwrap(), certificate);
        assert_eq!(with(&[(COOKIE, "asid=1; sid=")], None).unwrap(), certificate);
        assert_eq!(with(std::slice::from_ref(&cookie), None).unwrap().1, "c.o.o");
        assert_eq!(with(&[key.clone(), cookie.clone()], None).unwrap().0, "key");
        assert_eq!(with(&[cookie], Some("ticket=t%3D1")).unwrap(), ("ticket", "t=1".to_owned()));
        for query in ["ticket=1", "access_token=1"] {
            assert_eq!(with(std::slice::from_ref(&key), Some(query)).unwrap_err(), SEVERAL);
        }
        for query in ["ticket=1&ticket=1", "ticket=1&access_token=1"] {
            assert_eq!(with(&[], Some(query)).unwrap_err(), SEVERAL);
        }
        let wrong = (AUTHORIZATION, "Basic x");
        assert!(with(&[wrong, (COOKIE, "sid=c")], None).is_err(), "it does not fall back");
        assert_eq!(found(&places, &[], None, None).unwrap().0, "none");
    }

    #[test]
    fn a_cookie_holds_one_token_and_never_a_key() {
        let places = CredentialPlaces { cookie: Some("sid".to_owned()), tokens_in_urls: false };
        let of = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| (COOKIE, *value)).collect();
            found(&places, &headers, None, None)
        };
        assert_eq!(of(&["a=1", "sid=\"t.o.k\""]).unwrap(), ("token", "t.o.k".to_owned()));
        assert_eq!(of(&["sid=t; sid=t"]).unwrap().1, "t");
        assert!(of(&["sid=t; sid=u"]).unwrap_err().contains("twice"));
        assert!(of(&["sid=t", "sid=u"]).unwrap_err().contains("twice"));
        assert!(of(&["sid=lok_abc"]).is_err());
        assert_eq!(of(&["SID=t"]).unwrap().0, "none", "names of cookies have one case");
        let none = CredentialPlaces::default();
        assert_eq!(found(&none, &[(COOKIE, "sid=t")], None, None).unwrap().0, "none");
    }
}
