//! The head of a request with a new token, for a client that proves anew who it is.

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, header};
use percent_encoding::percent_decode_str;

use super::hooks::Connecting;
use crate::error::{Error, Result};

/// The longest token that a client may send, in bytes: as much as most servers take of one header.
pub(super) const MAX_TOKEN_BYTES: usize = 8 << 10;

/// The names of a query whose values are credentials.
const CREDENTIALS: [&str; 2] = ["ticket", "access_token"];

/// Returns the head of `request` with `token` as its one credential: in `Authorization`, and
/// without the credentials in cookies and in the query. A client certificate stays.
///
/// # Errors
///
/// [`Error::OverLimit`], [`Error::Invalid`]: the token is too long, empty, or has characters that
/// no header has. The error does not show it.
pub(super) fn with_token(
    request: &Connecting<'static>,
    token: &str,
) -> Result<Connecting<'static>> {
    match token.len() {
        0 => return Err(Error::invalid("token", "is empty")),
        size_bytes if size_bytes > MAX_TOKEN_BYTES => {
            return Err(Error::over("token bytes", size_bytes, MAX_TOKEN_BYTES));
        }
        _ => {}
    }
    let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    let value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| is_visible);
    let Some(mut value) = value else {
        return Err(Error::invalid("token", "has characters besides visible ASCII"));
    };
    value.set_sensitive(true);
    let mut renewed = request.clone();
    let head = renewed.head.to_mut();
    head.headers.remove(header::COOKIE);
    head.headers.insert(header::AUTHORIZATION, value);
    head.uri = without_credentials(&head.uri);
    renewed.is_renewal = true;
    Ok(renewed)
}

/// Returns `uri` without the credentials in its query.
fn without_credentials(uri: &Uri) -> Uri {
    let Some(query) = uri.query() else { return uri.clone() };
    let is_credential = |part: &&str| {
        let name = part.split_once('=').map_or(*part, |(name, _)| name);
        let name = percent_decode_str(name).decode_utf8_lossy();
        // Hooks may read names without regard to case, as access control does.
        CREDENTIALS.iter().any(|credential| name.eq_ignore_ascii_case(credential))
    };
    let kept: Vec<&str> = query.split('&').filter(|part| !is_credential(part)).collect();
    let path = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    // A part of a valid path and query is valid. If not, the query is left out as a whole.
    parts.path_and_query = PathAndQuery::try_from(path).or(uri.path().try_into()).ok();
    Uri::from_parts(parts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn head(uri: &str) -> Connecting<'static> {
        let request = http::Request::get(uri)
            .header("cookie", "session=old")
            .header("authorization", "Bearer old")
            .header("x-other", "kept");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let head = Cow::Owned(head);
        Connecting { head, address: None, certificate: None, is_renewal: false }
    }

    /// Goal: the hooks see the new token alone, and everything else of the request.
    #[test]
    fn a_new_token_replaces_every_other_credential() {
        for (uri, expected) in [
            ("/v1/ws", "/v1/ws"),
            ("/v1/ws?ticket=old", "/v1/ws"),
            ("/v1/ws?a=1&%74icket=old&b=2&ticket=x", "/v1/ws?a=1&b=2"),
            ("/v1/ws?access_token=old&a=%20", "/v1/ws?a=%20"),
            ("/v1/ws?Ticket=old&Access_Token=old&a=1", "/v1/ws?a=1"),
            ("http://broker:1/v1/ws?ticket=old", "http://broker:1/v1/ws"),
        ] {
            let renewed = with_token(&head(uri), "new").unwrap();
            assert_eq!(renewed.uri(), expected, "{uri}");
            let headers = renewed.headers();
            assert_eq!(headers.get_all("authorization").iter().count(), 1);
            assert_eq!(headers["authorization"], "Bearer new");
            assert_eq!(
                (headers.get("cookie"), &headers["x-other"]),
                (None, &"kept".parse().unwrap())
            );
            assert!(renewed.is_renewal());
            assert!(!format!("{:?}", renewed.headers()).contains("new"), "logs do not show it");
        }
    }

    #[test]
    fn a_token_that_no_header_takes_is_refused_and_not_shown() {
        let refused = |token: &str| with_token(&head("/v1/ws"), token).unwrap_err().to_string();
        assert_eq!(refused(""), "token: is empty");
        for token in ["secret token", "secret\n", "secr\u{e9}t"] {
            assert_eq!(refused(token), "token: has characters besides visible ASCII");
        }
        with_token(&head("/v1/ws"), &"x".repeat(MAX_TOKEN_BYTES)).unwrap();
        let long = refused(&"x".repeat(MAX_TOKEN_BYTES + 1));
        assert_eq!(long, "token bytes: 8193 is over the limit of 8192");
    }
}
