//! Cache headers: the tag of a body, and for how long an answer may be kept.
//!
//! # Why
//!
//! A page that is asked for again may have the same end and another body: events are purged, expire
//! and are superseded, and a topic that is deleted begins anew. So a tag is a digest of the bytes
//! of the body and of nothing else: another body has another tag. The tag is strong: each coding of
//! a body has a tag of its own. Source: RFC 9110, 8.8.3 and 13.1.2; RFC 9111, 5.2.
//!
//! An answer without a tag says `no-store`: without it, a cache may keep answers of many statuses,
//! such as 404, 410 and 501.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};

use super::offered::Coding;
use crate::edge::status::NOT_KEPT;

/// The request headers on which an answer with events depends.
const VARY: HeaderValue = HeaderValue::from_static("accept, accept-encoding, last-event-id");

/// The answer may be kept, but is used again only after the broker was asked.
pub(in crate::edge) const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// Bytes of the digest in a tag.
const DIGEST_BYTES: usize = 16;

/// The tag of one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::edge) struct Tag(String);

impl Tag {
    /// Returns the tag of a body of these bytes.
    pub(in crate::edge) fn of(body: &[u8]) -> Self {
        let digest = Sha256::digest(body);
        let hex = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}"));
        Self(hex.collect())
    }

    /// Returns the tag of the same body in a coding.
    pub(in crate::edge) fn coded(self, coding: Option<Coding>) -> Self {
        match coding {
            Some(coding) => Self(format!("{}-{}", self.0, coding.name())),
            None => self,
        }
    }

    /// Whether the request says that its client holds this body. `*` names no body, so it is never
    /// taken to mean this one.
    pub(in crate::edge) fn is_held(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::IF_NONE_MATCH).into_iter();
        let mut tags = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        // A cache on the way may have made the tag weak. For a GET it means the same.
        tags.any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag) == format!("\"{}\"", self.0)
        })
    }

    /// Returns the tag as the value of `ETag`.
    pub(in crate::edge) fn value(&self) -> HeaderValue {
        HeaderValue::try_from(format!("\"{}\"", self.0)).expect("digits and letters")
    }
}

/// Sets `Vary`: other requests for the same resource may get another answer.
pub(in crate::edge) fn vary(response: &mut Response) {
    response.headers_mut().append(header::VARY, VARY);
}

/// Marks an answer as not to be kept, and removes its tag: the answer to a POST is valid for no
/// other request.
pub(in crate::edge) fn not_kept(response: &mut Response) {
    let headers = response.headers_mut();
    headers.remove(header::ETAG);
    headers.insert(header::CACHE_CONTROL, NOT_KEPT);
}

/// Marks an answer without cache headers as not to be kept.
pub(in crate::edge) fn or_not_kept(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(NOT_KEPT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_names_one_body_and_is_known_in_every_form_that_caches_give_it() {
        let tag = Tag::of(b"{}");
        assert_ne!(tag, Tag::of(b"{ }"));
        let value = tag.value().to_str().unwrap().to_owned();
        assert_eq!(value.len(), 2 + 2 * DIGEST_BYTES);
        let held = |value: &str| {
            let value = HeaderValue::try_from(value).unwrap();
            tag.is_held(&HeaderMap::from_iter([(header::IF_NONE_MATCH, value)]))
        };
        assert!(held(&value) && held(&format!("\"other\" , W/{value}")));
        for other in ["*", "", "\"\"", value.trim_matches('"'), &value.to_uppercase()] {
            assert!(!held(other), "{other}");
        }
        assert!(!tag.is_held(&HeaderMap::new()));
    }
}
