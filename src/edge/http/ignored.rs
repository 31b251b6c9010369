//! Names and values in the query of a stream that have no meaning, and the report of them. A page
//! refuses them; a browser that is refused a stream never comes back.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use crate::edge::cut_topics::{self, CUT_HEADER, ENCODED, cut_header};
use crate::error::Error;
use crate::topic::TopicPattern;

/// The names that a stream knows, for people.
pub(in crate::edge) const KNOWN: &str = "topic, type, key, key_prefix, header, from, on_gap, \
     format, consumer, owner, counts, marks_after, member, member_info, strict, last_event_id, \
     after";

/// The names that mean nothing without `consumer`.
const OF_CONSUMERS: [&str; 3] = ["owner", "counts", "marks_after"];

/// The header that names the ignored parts of a stream's query.
pub(in crate::edge) const IGNORED_HEADER: HeaderName = HeaderName::from_static("leftoff-ignored");

/// The ignored names in the query of a stream, and names with ignored values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::edge) struct Ignored {
    /// Each once, percent-encoded, up to [`Self::MAX_NAME_BYTES`] of each and [`Self::MAX_NAMES`]
    /// in all. Names with the same first bytes up to that bound count as one.
    names: Vec<String>,
    /// A sentence about the first of `names`, if its value is ignored.
    detail: Option<String>,
    /// The topics that the stream follows, if they are less than the client asked for: the first
    /// of them, and all as a header.
    cut_to: Vec<String>,
    cut_header: Option<HeaderValue>,
}

impl Ignored {
    /// Most names that are noted, as many as the query of a page may have.
    const MAX_NAMES: usize = 64;
    /// Most names that are reported, and most bytes of one.
    const MAX_TOLD: usize = 8;
    const MAX_NAME_BYTES: usize = 64;

    /// Notes a name, unless it is noted already, or the bound is reached.
    pub(in crate::edge) fn add(&mut self, name: &str) {
        if self.names.len() == Self::MAX_NAMES {
            return;
        }
        let mut noted = String::new();
        for part in utf8_percent_encode(name, ENCODED) {
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

    /// Notes an invalid value of a known name, with its error.
    pub(in crate::edge) fn add_value(&mut self, name: &str, value: &str, error: &Error) {
        if self.names.is_empty() {
            self.detail = Some(format!("{error}; the stream is as if it was not given"));
        }
        self.add(&format!("{name}={value}"));
    }

    /// Notes the patterns of which the caller may not read all, and the topics that the stream
    /// follows. Topics that were named and are not permitted are told apart from these.
    pub(in crate::edge) fn add_cut(&mut self, cut: &[TopicPattern], cut_to: &[TopicPattern]) {
        self.cut_header = cut_header(cut_to);
        if cut.is_empty() {
            return;
        }
        if self.names.is_empty() {
            let text = "topic: the stream follows only the topics that the caller may read";
            self.detail = Some(text.to_owned());
        }
        cut.iter().for_each(|pattern| self.add(&format!("topic={pattern}")));
        let told = cut_to.iter().take(cut_topics::MAX_TOLD);
        self.cut_to = told.map(ToString::to_string).collect();
    }

    /// Returns the headers of the answer.
    pub(in crate::edge) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let ignored = self.header().map(|names| (IGNORED_HEADER, names));
        let cut = self.cut_header.clone().map(|topics| (CUT_HEADER, topics));
        ignored.into_iter().chain(cut)
    }

    /// Returns the reported names, and the number of others.
    fn told(&self) -> (&[String], usize) {
        let (told, more) = self.names.split_at(self.names.len().min(Self::MAX_TOLD));
        (told, more.len())
    }

    /// Returns the value of [`IGNORED_HEADER`], a list of strings: `"form", "limit"`. The last one
    /// has `more=2` if two others are not listed. `None` if nothing was ignored.
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

    /// Returns the same as JSON, for a block of the stream.
    pub(in crate::edge) fn json(&self) -> Option<Value> {
        let (told, more) = self.told();
        let first = told.first()?;
        let unknown = || match OF_CONSUMERS.contains(&first.as_str()) {
            true => format!("{first:?} needs consumer=NAME, whose state is told"),
            false => format!("{first:?} means nothing to a stream; known are {KNOWN}"),
        };
        let detail = self.detail.clone().unwrap_or_else(unknown);
        let mut told = json!({"ignored": told, "more": more, "detail": detail});
        if !self.cut_to.is_empty() {
            told["topics"] = json!(self.cut_to);
        }
        Some(told)
    }
}
