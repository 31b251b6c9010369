//! What caches are told: the tag of a body, and for how long an answer may be kept.
//!
//! # Why
//!
//! A page that is asked for again may have the same end and another body: events are purged, expire
//! and are superseded, and a topic that is deleted begins anew. So a tag is made of the bytes of
//! the body, and of nothing else, and two bodies never share one. It is strong: each coding of a
//! body has a tag of its own. Source: RFC 9110, 8.8.3 and 13.1.2; RFC 9111, 5.2.
//!
//! Whatever has no tag says `no-store`: many statuses may be kept by a cache that is told nothing,
//! such as 404, 410 and 501.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};

use super::offered::Coding;

/// What of a request an answer with events depends on.
const VARY: HeaderValue = HeaderValue::from_static("accept, accept-encoding, last-event-id");

/// It may be kept, and is only used again once the broker was asked.
pub(in crate::edge) const ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");

/// It is true now, and kept by nobody.
pub(in crate::edge) const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// Bytes of the digest that are in a tag.
const DIGEST_BYTES: usize = 16;

/// The name of one body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::edge) struct Tag(String);

impl Tag {
    /// The tag of a body of these bytes.
    pub(in crate::edge) fn of(body: &[u8]) -> Self {
        let digest = Sha256::digest(body);
        let hex = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}"));
        Self(hex.collect())
    }

    /// The tag of that body in a coding.
    pub(in crate::edge) fn coded(self, coding: Option<Coding>) -> Self {
        match coding {
            Some(coding) => Self(format!("{}-{}", self.0, coding.name())),
            None => self,
        }
    }

    /// Whether a request says that its client holds this body. `*` names none, and so no client
    /// is told by it that it holds the right one.
    pub(in crate::edge) fn is_held(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::IF_NONE_MATCH).into_iter();
        let mut tags = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
        // Weak where a cache on the way has made it so: it means as much to a GET.
        tags.any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag) == format!("\"{}\"", self.0)
        })
    }

    /// The tag as the value of `ETag`.
    pub(in crate::edge) fn value(&self) -> HeaderValue {
        HeaderValue::try_from(format!("\"{}\"", self.0)).expect("digits and letters")
    }
}

/// Says that other requests for the same resource may have another answer.
pub(in crate::edge) fn vary(response: &mut Response) {
    response.headers_mut().append(header::VARY, VARY);
}

/// Has an answer kept by none, and without a tag: one to a POST, which is the same to no other.
pub(in crate::edge) fn not_kept(response: &mut Response) {
    let headers = response.headers_mut();
    headers.remove(header::ETAG);
    headers.insert(header::CACHE_CONTROL, NOT_KEPT);
}

/// Has an answer that says nothing of caches kept by none.
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
