//! The URLs to which webhooks may be sent.

use std::net::IpAddr;

use http::Uri;

use super::guard::AddressGuard;

/// Longest URL, in bytes.
const MAX_URL_BYTES: usize = 2_048;

/// Reads the URL of a receiver. Addresses in it are checked; those of names, each time that a
/// connection is made.
///
/// # Errors
///
/// The problem. It does not have the credentials of a URL that has some.
pub(super) fn parse(text: &str, guard: &AddressGuard, allow_http: bool) -> Result<Uri, String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("has {} bytes, over the limit of {MAX_URL_BYTES}", text.len()));
    }
    if text.contains('#') {
        return Err("has a `#`, which is never sent; leave it out".to_owned());
    }
    let url: Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
    check(&url, guard, allow_http)?;
    Ok(url)
}

/// Checks a URL, of the settings or of a redirect.
///
/// # Errors
///
/// As [`parse`].
pub(super) fn check(url: &Uri, guard: &AddressGuard, allow_http: bool) -> Result<(), String> {
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if allow_http => {}
        Some("http") => return Err("is not https; webhooks.allow_http permits http".to_owned()),
        _ => return Err("does not begin with https://".to_owned()),
    }
    let authority = url.authority().ok_or("has no host")?;
    if authority.as_str().contains('@') {
        return Err("has credentials, and signatures are there in place of them".to_owned());
    }
    let host = authority.host();
    if host.is_empty() || url.port_u16() == Some(0) {
        return Err("has no host, or the port 0".to_owned());
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => guard.check(address).map(drop),
        Err(_) => Ok(()),
    }
}

/// Returns the URL to which a redirect leads; `None` for a form that is not followed.
pub(super) fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    if location.len() > MAX_URL_BYTES {
        return None;
    }
    let to: Uri = location.parse().ok()?;
    if to.scheme().is_some() {
        return Some(to);
    }
    let is_path = location.starts_with('/') && !location.starts_with("//");
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(is_path.then(|| location.parse().ok())??);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_dangerous_or_have_secrets_are_refused_with_the_reason() {
        let guard = AddressGuard::default();
        let check = |text: &str, allow_http| parse(text, &guard, allow_http);
        for url in ["https://a.example", "https://a.example:8443/x?y=1", "https://8.8.8.8/"] {
            check(url, false).unwrap();
        }
        check("http://a.example/", true).unwrap();
        for (url, word) in [
            ("http://a.example/", "webhooks.allow_http"),
            ("ftp://a.example/", "https://"),
            ("a.example/path", "URL"),
            ("/path", "https://"),
            ("https://user:hunter2@a.example/", "credentials"),
            ("https://user@a.example/", "credentials"),
            ("https://a.example/#x", "`#`"),
            ("https://a.example:0/", "port 0"),
            ("https://127.0.0.1/", "loopback"),
            ("https://[::1]:1/", "loopback"),
            ("https://[fd00:ec2::254]/", "metadata"),
            ("https://169.254.169.254/latest", "metadata"),
            ("https:///path", "URL"),
        ] {
            let refused = check(url, false).unwrap_err();
            assert!(refused.contains(word) && !refused.contains("hunter2"), "{url}: {refused}");
        }
        let of_bytes = |bytes: usize| format!("https://a.example/{}", "x".repeat(bytes - 18));
        check(&of_bytes(MAX_URL_BYTES), false).unwrap();
        let refused = check(&of_bytes(MAX_URL_BYTES + 1), false).unwrap_err();
        assert_eq!(refused, "has 2049 bytes, over the limit of 2048");
    }

    #[test]
    fn a_redirect_leads_to_a_url_or_to_a_path_of_the_same_host() {
        let from: Uri = "https://a.example:8443/x?y".parse().unwrap();
        let to = |location| redirected(&from, location).map(|url| url.to_string());
        assert_eq!(to("/b?c").unwrap(), "https://a.example:8443/b?c");
        assert_eq!(to("http://b.example/").unwrap(), "http://b.example/");
        for other in ["//b.example/x", "b", "?x", "", &"/x".repeat(MAX_URL_BYTES)] {
            assert_eq!(to(other), None, "{other}");
        }
    }
}
