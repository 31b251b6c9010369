//! What a reader is told if its caller may not read all that it asked for: the header, and the
//! metadata of gRPC, that name the topics that are read; and the topics that were named in vain.

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
#[cfg(feature = "http")]
use serde_json::{Value, json};

#[cfg(feature = "http")]
use crate::edge::status::problem_json;
#[cfg(feature = "http")]
use crate::error::Error;
use crate::topic::TopicPattern;

/// The name of the header, and of the metadata.
pub(in crate::edge) const CUT_HEADER: HeaderName = HeaderName::from_static(CUT_NAME);
pub(in crate::edge) const CUT_NAME: &str = "leftoff-topics";

/// Most patterns that are named.
pub(in crate::edge) const MAX_TOLD: usize = 8;

/// The characters that are encoded in a string of a header. Source: RFC 9651, 3.3.3.
pub(in crate::edge) const ENCODED: &AsciiSet = &CONTROLS.add(b'"').add(b'\\').add(b'%');

/// Returns the value of [`CUT_HEADER`], a list of percent-encoded strings: `"a.>", "b"`. The last
/// one has `more=2` if two others are not listed. `None` if there are none.
pub(in crate::edge) fn cut_header(cut_to: &[TopicPattern]) -> Option<HeaderValue> {
    let (told, more) = cut_to.split_at(cut_to.len().min(MAX_TOLD));
    let encoded = |it: &TopicPattern| utf8_percent_encode(it.as_str(), ENCODED).to_string();
    let told: Vec<String> = told.iter().map(|it| format!("\"{}\"", encoded(it))).collect();
    if told.is_empty() {
        return None;
    }
    let mut text = told.join(", ");
    if !more.is_empty() {
        text.push_str(&format!(";more={}", more.len()));
    }
    HeaderValue::try_from(text).ok()
}

/// Returns the topics that were named and are not permitted, with the problem. All of them are
/// told: they are the client's own words.
#[cfg(feature = "http")]
pub(in crate::edge) fn denied_json(denied: &[TopicPattern]) -> Value {
    let reason = "the caller may not subscribe to these topics; the others are read".to_owned();
    let mut told = problem_json(&Error::Denied { reason });
    told["topics"] = json!(denied);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_patterns_are_named_and_the_others_are_counted() {
        let patterns = |count: usize| -> Vec<TopicPattern> {
            (0..count).map(|at| TopicPattern::new(&format!("ä.{at}.>")).unwrap()).collect()
        };
        assert_eq!(cut_header(&[]), None);
        assert_eq!(cut_header(&patterns(1)).unwrap(), "\"%C3%A4.0.>\"");
        let all = cut_header(&patterns(MAX_TOLD)).unwrap();
        assert!(!all.to_str().unwrap().contains("more"), "{all:?}");
        let most = cut_header(&patterns(MAX_TOLD + 2)).unwrap();
        let most = most.to_str().unwrap();
        assert!(most.ends_with("\"%C3%A4.7.>\";more=2"), "{most}");
    }
}
