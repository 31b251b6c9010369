//! Names and values in the query of a stream that mean nothing, and how the stream says so: a page
//! would refuse them, and a browser that is refused a stream never comes back.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use crate::error::Error;

/// The names that a stream knows, for people.
pub(in crate::edge) const KNOWN: &str = "topic, type, key, key_prefix, header, from, on_gap, \
                                         format, member, member_info, last_event_id, after";

/// The header that names what of the query of a stream means nothing.
pub(in crate::edge) const IGNORED_HEADER: HeaderName = HeaderName::from_static("leftoff-ignored");

/// Names in the query of a stream that mean nothing to it, and names with values that do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::edge) struct Ignored {
    /// Each once, percent-encoded, up to [`Self::MAX_NAME_BYTES`] of each and
    /// [`Self::MAX_NAMES`] in all. Names that begin in one way for so long are one.
    names: Vec<String>,
    /// The first of `names` in a sentence, where its value is what means nothing.
    detail: Option<String>,
}

impl Ignored {
    /// Most names that are noted, as many as the query of a page may have.
    const MAX_NAMES: usize = 64;
    /// Most names that are told, and most bytes that are told of one.
    const MAX_TOLD: usize = 8;
    const MAX_NAME_BYTES: usize = 64;

    /// What stays as it is in a string of a header. Source: RFC 9651, 3.3.3.
    const ENCODED: &AsciiSet = &CONTROLS.add(b'"').add(b'\\').add(b'%');

    /// Notes a name, unless it is noted, or as many are as there may be.
    pub(in crate::edge) fn note(&mut self, name: &str) {
        if self.names.len() == Self::MAX_NAMES {
            return;
        }
        let mut noted = String::new();
        for part in utf8_percent_encode(name, Self::ENCODED) {
            let room = Self::MAX_NAME_BYTES - noted.len();
            noted.push_str(part.get(..room).unwrap_or(part)); // All of it is ASCII.
            if noted.len() == Self::MAX_NAME_BYTES {
                break;
            }
        }
        if !self.names.contains(&noted) {
            self.names.push(noted);
        }
    }

    /// Notes a value of a name that is known, with what is wrong with it.
    pub(in crate::edge) fn note_value(&mut self, name: &str, value: &str, error: &Error) {
        if self.names.is_empty() {
            self.detail = Some(format!("{error}; the stream is as if it was not given"));
        }
        self.note(&format!("{name}={value}"));
    }

    /// The names that are told, and how many others are noted.
    fn told(&self) -> (&[String], usize) {
        let (told, more) = self.names.split_at(self.names.len().min(Self::MAX_TOLD));
        (told, more.len())
    }

    /// The value of [`IGNORED_HEADER`], a list of strings: `"form", "limit"`; `more=2` of the last
    /// says how many others are noted. `None` where there is nothing to tell.
    pub(in crate::edge) fn header(&self) -> Option<HeaderValue> {
        let (told, more) = self.told();
        if told.is_empty() {
            return None;
        }
        let names = told.iter().map(|name| format!("\"{name}\""));
        let mut text = names.collect::<Vec<_>>().join(", ");
        if more > 0 {
            let _never_fails = write!(text, ";more={more}");
        }
        HeaderValue::try_from(text).ok()
    }

    /// The same, for a block of the stream.
    pub(in crate::edge) fn json(&self) -> Option<Value> {
        let (told, more) = self.told();
        let first = told.first()?;
        let unknown = || format!("{first:?} means nothing to a stream; known are {KNOWN}");
        let detail = self.detail.clone().unwrap_or_else(unknown);
        Some(json!({"ignored": told, "more": more, "detail": detail}))
    }
}
