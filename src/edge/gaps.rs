//! Gaps as clients are told them: in JSON, in a header, and as a message of gRPC. On the wire, all
//! places are numbers.
//!
//! The broker decides what is a gap (`broker/read/gaps.rs`). The file decides nothing.

use axum::response::Response;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::proto;
use crate::cursor::{Cursor, Gap};
use crate::topic::TopicName;

/// Returns a gap as JSON, for every protocol with JSON.
pub(super) fn json(gap: &Gap) -> Value {
    serde_json::to_value(gap).unwrap_or_default()
}

/// The header with a gap, for clients that look before they read the body.
pub(super) const HEADER: HeaderName = HeaderName::from_static("leftoff-gap");

/// Returns gaps as the value of [`HEADER`]: `reason=retention, requested=3, earliest=6,
/// tail=10, resume=6, lost=3, more=2`. The numbers are those of the first gap. `more` is the number
/// of other gaps, which only the body has: a header has no room for all of them. Source: a
/// dictionary of RFC 9651.
fn header(gap: &Gap, more: usize) -> HeaderValue {
    let Gap { earliest, tail, resume, .. } = gap;
    let requested = gap.requested.number();
    let reason = gap.reason.as_str();
    let lost = gap.lost.map(|lost| format!(", lost={lost}")).unwrap_or_default();
    let more = if more > 0 { format!(", more={more}") } else { String::new() };
    let text = format!(
        "reason={reason}, requested={requested}, earliest={earliest}, tail={tail}, \
         resume={resume}{lost}{more}"
    );
    HeaderValue::try_from(text).expect("words and numbers make a header")
}

/// Sets [`HEADER`] on an answer, if there are gaps.
pub(super) fn tell(response: &mut Response, gaps: &[Gap]) {
    if let [first, more @ ..] = gaps {
        response.headers_mut().insert(HEADER, header(first, more.len()));
    }
}

/// Returns a gap as a message of gRPC; `cursor` is the reader's place after it.
pub(super) fn message(gap: &Gap, cursor: Cursor) -> proto::Gap {
    proto::Gap {
        topic: gap.topic.as_ref().map(TopicName::to_string).unwrap_or_default(),
        requested: gap.requested.number(),
        earliest: gap.earliest.number(),
        tail: gap.tail.number(),
        lost: gap.lost,
        reason: gap.reason.as_str().to_owned(),
        cursor: cursor.to_string(),
    }
}
