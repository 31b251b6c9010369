//! Rules for the head of a request, checked before the request is served, and the headers of an
//! answer that describe the connection. Hyper leaves both to its user. Source: RFC 9112, 3.2, 6.1
//! and 9.3.

use std::time::Duration;

use axum::response::Response;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};

use crate::edge::status::plain_problem;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Returns the answer to a request that is refused because of its head; `None` if it may be served.
pub(crate) fn refusal<B>(request: &Request<B>) -> Option<Response> {
    let (version, headers) = (request.version(), request.headers());
    if let Some(coding) = unknown_coding(headers) {
        let detail = format!("Transfer-Encoding is {coding:?}; only \"chunked\" is supported");
        let mut answer = plain_problem(StatusCode::NOT_IMPLEMENTED, &detail);
        // The end of the body is unknown, so no request can follow.
        tell_close(&mut answer);
        return Some(answer);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let detail = match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => "Host is missing: HTTP/1.1 requires it",
        (_, Some(_)) => "Host is given more than once",
        (Some(host), None) if !is_host(host) => "Host is not a host with an optional port",
        _ => return None,
    };
    Some(plain_problem(StatusCode::BAD_REQUEST, detail))
}

/// Whether a value is valid for `Host`: `localhost`, `[::1]:4280`, or empty.
fn is_host(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let port = |authority: Authority| {
        let rest = authority.as_str().strip_prefix(authority.host())?;
        let digits = if rest.is_empty() { rest } else { rest.strip_prefix(':')? };
        Some(digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // User information stands before the host, so a text with it does not begin with the host.
    text.is_empty() || text.parse().ok().and_then(port) == Some(true)
}

/// Returns the transfer codings of a request, unless there is none, or only `chunked`.
fn unknown_coding(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
    let codings = codings.collect::<Vec<_>>().join(", ");
    let mut elements = codings.split(',').map(str::trim).filter(|element| !element.is_empty());
    let is_chunked = elements.next().is_some_and(|first| first.eq_ignore_ascii_case("chunked"));
    let is_known = headers.get(header::TRANSFER_ENCODING).is_none() || is_chunked;
    (!is_known || elements.next().is_some()).then_some(codings)
}

/// Whether the client keeps the connection open after the answer to this request.
pub(crate) fn keeps_alive<B>(request: &Request<B>) -> bool {
    let values = request.headers().get_all(header::CONNECTION).iter();
    let mut options = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    match request.version() {
        Version::HTTP_11 => !options.any(|option| option.trim().eq_ignore_ascii_case("close")),
        Version::HTTP_10 => options.any(|option| option.trim().eq_ignore_ascii_case("keep-alive")),
        _ => false,
    }
}

/// Sets the header that ends the connection after this answer.
pub(crate) fn tell_close(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Sets the header that tells how long the connection may be without a request.
pub(crate) fn tell_idle(response: &mut Response, idle: Duration) {
    // An answer with `Connection` ends the connection, or changes its protocol.
    let is_last = response.headers().contains_key(header::CONNECTION);
    let seconds = idle.as_secs();
    if !is_last && seconds > 0 {
        let value = HeaderValue::try_from(format!("timeout={seconds}"));
        response.headers_mut().insert(KEEP_ALIVE, value.expect("a word and a number"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        let refused = |version, fields: &[(&str, &str)]| {
            refusal(&request(version, fields)).map(|answer| answer.status().as_u16())
        };
        let (host, chunked) = (("host", "a"), ("transfer-encoding", "chunked"));
        assert_eq!(refused(Version::HTTP_11, &[host]), None);
        assert_eq!(refused(Version::HTTP_10, &[]), None);
        assert_eq!(refused(Version::HTTP_2, &[]), None);
        assert_eq!(refused(Version::HTTP_11, &[]), Some(400));
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(refused(version, &[host, host]), Some(400), "{version:?}");
            assert_eq!(refused(version, &[host, ("host", "b")]), Some(400), "{version:?}");
            for odd in ["a b", "a/b", "a, b", "me@a", "a:b", "a:1:2", "[::1", "::1", "ä"] {
                assert_eq!(refused(version, &[("host", odd)]), Some(400), "{odd} {version:?}");
            }
            for plain in ["", "a:", "a.example:80", "[::1]:4280", "192.0.2.1", "a_b-c"] {
                assert_eq!(refused(version, &[("host", plain)]), None, "{plain} {version:?}");
            }
        }
        assert_eq!(refused(Version::HTTP_11, &[host, chunked]), None);
        assert_eq!(refused(Version::HTTP_11, &[host, ("transfer-encoding", " Chunked ")]), None);
        assert_eq!(refused(Version::HTTP_11, &[host, ("transfer-encoding", ", chunked,")]), None);
        for codings in ["gzip, chunked", "chunked, chunked", "identity", "gzip", "", ","] {
            let field = ("transfer-encoding", codings);
            assert_eq!(refused(Version::HTTP_11, &[host, field]), Some(501), "{codings}");
        }
        let two = [host, ("transfer-encoding", "gzip"), chunked];
        assert_eq!(refused(Version::HTTP_11, &two), Some(501));
    }

    #[test]
    fn a_connection_stays_open_unless_its_client_says_otherwise() {
        let keeps = |version, fields: &[(&str, &str)]| keeps_alive(&request(version, fields));
        assert!(keeps(Version::HTTP_11, &[]));
        assert!(keeps(Version::HTTP_10, &[("connection", "Keep-Alive")]));
        assert!(!keeps(Version::HTTP_10, &[]));
        assert!(!keeps(Version::HTTP_11, &[("connection", "te, Close")]));
        assert!(!keeps(Version::HTTP_2, &[]));
    }
}
