//! What of the query of a stream means nothing, and how the stream says so: a page would refuse it,
//! and a browser that is refused a stream never comes back.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

/// The names that a stream knows, for people.
pub(super) const KNOWN: &str = "topic, type, key, key_prefix, header, from, on_gap, format, \
                                member, member_info, last_event_id, after";

/// The header that names what of the query of a stream means nothing.
pub(super) const IGNORED_HEADER: HeaderName = HeaderName::from_static("leftoff-ignored");

/// Names in the query of a stream that mean nothing to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ignored {
    /// The first of them, percent-encoded, up to [`Self::MAX_NAME_BYTES`] of each.
    names: Vec<String>,
    /// How many more there are.
    more: usize,
}

impl Ignored {
    /// Most names that are told, and most bytes that are told of one.
    const MAX_NAMES: usize = 8;
    const MAX_NAME_BYTES: usize = 64;

    /// What stays as it is in a string of a header. Source: RFC 9651, 3.3.3.
    const ENCODED: &AsciiSet = &CONTROLS.add(b'"').add(b'\\').add(b'%');

    /// Notes a name.
    pub(super) fn note(&mut self, name: &str) {
        let name: String = name.chars().take(Self::MAX_NAME_BYTES).collect();
        let mut name = utf8_percent_encode(&name, Self::ENCODED).to_string();
        name.truncate(Self::MAX_NAME_BYTES); // All of it is ASCII.
        match self.names.len() {
            _ if self.names.contains(&name) => {}
            Self::MAX_NAMES => self.more += 1,
            _ => self.names.push(name),
        }
    }

    /// The value of [`IGNORED_HEADER`], a list of strings: `"form", "limit"`; `more=2` of the last
    /// says how many others there are. `None` where there is nothing to tell.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        if self.names.is_empty() {
            return None;
        }
        let names = self.names.iter().map(|name| format!("\"{name}\""));
        let mut text = names.collect::<Vec<_>>().join(", ");
        if self.more > 0 {
            let _never_fails = write!(text, ";more={}", self.more);
        }
        HeaderValue::try_from(text).ok()
    }

    /// The same, for a block of the stream.
    pub(super) fn json(&self) -> Option<Value> {
        let first = self.names.first()?;
        let detail = format!("{first:?} means nothing to a stream; known are {KNOWN}");
        Some(json!({"ignored": self.names, "more": self.more, "detail": detail}))
    }
}
