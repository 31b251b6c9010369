//! Client certificates: the caller that one names.
//!
//! # Why
//!
//! The names are those of the certificate's extension for alternative names (SAN), and never the
//! common name of its subject, which has no defined form. Source: RFC 9525, 2. The chain was
//! verified in the handshake. Its dates are returned, because a connection, and a session of TLS
//! that is resumed, may outlive them.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

/// The longest name, in bytes, and the most names of one certificate.
const MAX_NAME_BYTES: usize = 255;
const MAX_NAMES: usize = 64;

/// The caller that a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertifiedCaller {
    /// The first URI of the certificate; without one, its first name of DNS; without one, its first
    /// address of e-mail.
    pub(crate) id: String,
    /// All these names, in the same order.
    pub(crate) sans: Vec<String>,
    /// The time from which the certificate is valid, and the last second of its validity.
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Returns the caller that a certificate in DER names. The dates are not compared with the clock.
///
/// # Errors
///
/// A sentence for the caller, without the names: it is no certificate of X.509, has no name of
/// these kinds or too many, or has one that is too long, or has white space, control characters,
/// letters beyond ASCII, or a wildcard. A wildcard names many callers.
pub(crate) fn caller_of(der: &[u8]) -> Result<CertifiedCaller, String> {
    let wrong = |problem: &str| format!("the client certificate {problem}");
    let parsed = X509Certificate::from_der(der);
    let (_, certificate) = parsed.map_err(|_| wrong("is not one of X.509"))?;
    let extension = certificate.subject_alternative_name();
    let extension = extension.map_err(|_| wrong("has alternative names that cannot be read"))?;
    let names = extension.map(|it| &it.value.general_names[..]).unwrap_or_default();
    let mut sans: Vec<(u8, &str)> = names.iter().filter_map(rank).collect();
    if sans.len() > MAX_NAMES {
        return Err(wrong(&format!("has more than {MAX_NAMES} names")));
    }
    if let Some((_, name)) = sans.iter().find(|(_, name)| !is_plain(name)) {
        let length = name.len();
        return Err(wrong(&format!(
            "has a name of {length} bytes that is not one caller's: it must have 1 to \
             {MAX_NAME_BYTES} visible characters of ASCII, without * and >"
        )));
    }
    sans.sort_by_key(|(rank, _)| *rank); // Keeps the order of names of one kind.
    let sans: Vec<String> = sans.into_iter().map(|(_, name)| name.to_owned()).collect();
    let Some(id) = sans.first().cloned() else {
        return Err(wrong("names no caller: it has no alternative name (URI, DNS, e-mail)"));
    };
    let validity = certificate.validity();
    let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
    Ok(CertifiedCaller { id, sans, not_before, not_after })
}

/// Returns a name and the place of its kind; `None` if names of its kind name no caller.
fn rank<'a>(name: &GeneralName<'a>) -> Option<(u8, &'a str)> {
    match name {
        GeneralName::URI(uri) => Some((0, uri)),
        GeneralName::DNSName(name) => Some((1, name)),
        GeneralName::RFC822Name(address) => Some((2, address)),
        _ => None,
    }
}

fn is_plain(name: &str) -> bool {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b'*' && byte != b'>';
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_visible)
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let found = match seconds {
        0.. => SystemTime::UNIX_EPOCH.checked_add(distance),
        _ => SystemTime::UNIX_EPOCH.checked_sub(distance),
    };
    found.unwrap_or(SystemTime::UNIX_EPOCH) // No year of four digits is so far away.
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn mail(text: &str) -> SanType {
        SanType::Rfc822Name(text.try_into().unwrap())
    }

    fn of(names: Vec<SanType>) -> Result<CertifiedCaller, String> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 1, 2);
        let key = KeyPair::generate().unwrap();
        caller_of(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn the_caller_is_the_first_uri_then_the_first_name_of_dns_then_the_first_address() {
        let spiffe = "spiffe://example.org/orders";
        let all = vec![mail("a@example.org"), dns("b.example.org"), uri(spiffe), uri("urn:c")];
        let caller = of(all).unwrap();
        assert_eq!(caller.id, spiffe);
        assert_eq!(caller.sans, [spiffe, "urn:c", "b.example.org", "a@example.org"]);
        let day = Duration::from_secs(86_400);
        assert_eq!(caller.not_after, caller.not_before + day);
        let begin = Duration::from_secs(1_767_225_600); // 2026-01-01
        assert_eq!(caller.not_before, SystemTime::UNIX_EPOCH + begin);
        let caller = of(vec![mail("a@example.org"), dns("b.example.org")]).unwrap();
        assert_eq!(caller.id, "b.example.org");
        assert_eq!(of(vec![mail("a@example.org")]).unwrap().id, "a@example.org");
    }

    #[test]
    fn a_certificate_that_names_nobody_or_many_is_refused() {
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        for (names, expected) in [
            (vec![], "names no caller"),
            (vec![address], "names no caller"),
            (vec![dns("*.example.org")], "not one caller's"),
            (vec![uri("urn:a"), dns("a b")], "not one caller's"),
            (vec![uri(&"x".repeat(MAX_NAME_BYTES + 1))], "a name of 256 bytes"),
            (vec![uri("")], "not one caller's"),
            ((0..=MAX_NAMES).map(|n| uri(&format!("urn:{n}"))).collect(), "more than 64 names"),
        ] {
            let problem = of(names).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
        let longest = "x".repeat(MAX_NAME_BYTES);
        assert_eq!(of(vec![uri(&longest)]).unwrap().id, longest);
        assert_eq!(of(vec![uri("urn:a"); MAX_NAMES]).unwrap().sans.len(), MAX_NAMES);
        assert!(caller_of(b"no certificate").unwrap_err().contains("is not one of X.509"));
    }
}
