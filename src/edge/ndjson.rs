//! Events as lines of JSON: the form in which people and scripts publish many at once.
//!
//! ```text
//! {"topic":"quakes.us","id":"a1","type":"quake","key":"us1","headers":{"a":"b"},"data":{"mag":5}}
//! {"content_type":"text/plain","data":"any text"}
//! {"content_type":"image/png","data_base64":"iVBORw0KGgo="}
//! ```
//!
//! `data` is stored as the JSON that it is, with content type `application/json`. If the line names
//! a content type that is not JSON, `data` must be a string, and its text is stored.
//!
//! Some programs write a byte order mark at the start of a UTF-8 file, which may be in the middle
//! of a body. A mark before a line is ignored.

#![doc = include_str!("ndjson.md")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::hooks::PUBLISHER_HEADER;
use super::media::{self, essence};
use super::{json_problem, proto};
use crate::error::{Error, Result, with_causes};
use crate::event::{NewEvent, Timestamp, is_of_dead_letters};
use crate::lists::{self, List};
use crate::topic::TopicName;

const JSON: &str = "application/json";

/// The field of an error about a line as a whole.
const LINE: &str = "line";

/// The byte order mark of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The topic, if the line names one.
    pub topic: Option<TopicName>,
    /// The event.
    pub event: NewEvent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LineJson<'a> {
    topic: Option<String>,
    id: Option<String>,
    r#type: Option<String>,
    key: Option<String>,
    #[serde(default, deserialize_with = "lists::members")]
    headers: List<(String, String)>,
    content_type: Option<String>,
    /// An alias for files that were written when this field was called `time_ms`.
    #[serde(alias = "time_ms")]
    publisher_time_ms: Option<u64>,
    ttl_ms: Option<u64>,
    #[serde(borrow, default, deserialize_with = "some")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// Reads `"data": null` as a payload, unlike an absent `data`.
fn some<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

/// Returns a text without a byte order mark.
pub(super) fn unmarked(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Whether a text has nothing but white space.
pub(super) fn is_blank(text: &[u8]) -> bool {
    unmarked(text).iter().all(u8::is_ascii_whitespace)
}

/// The place of a text in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinePlace {
    /// The line in which the text begins, from 1.
    pub(super) line: u64,
    /// Bytes of that line before the text.
    before: u64,
}

impl LinePlace {
    /// The start of a body.
    pub(super) const START: Self = Self { line: 1, before: 0 };

    /// Returns the place after `bytes`, which are at this place.
    pub(super) fn after(self, bytes: &[u8]) -> Self {
        let size_bytes = bytes.len() as u64;
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => {
                let ends = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
                Self { line: self.line + ends, before: size_bytes - last as u64 - 1 }
            }
            None => Self { line: self.line, before: self.before + size_bytes },
        }
    }
}

/// An error for a text that is not an event, with its place.
#[derive(Debug)]
pub(super) struct NoEvent {
    /// The line of the body, from 1.
    pub(super) line: u64,
    /// The column in that line, from 1, if the error has a single place.
    pub(super) column: Option<u64>,
    pub(super) error: Error,
}

impl NoEvent {
    /// Returns the error of a JSON parser for a text at this place of the body.
    pub(super) fn of(error: &serde_json::Error, text: LinePlace) -> Self {
        let (line, column) = (error.line() as u64, error.column() as u64);
        let message = json_problem::without_place(error);
        let before = if line <= 1 { text.before } else { 0 };
        let line = text.line + line.saturating_sub(1);
        Self::at(LinePlace { line, before: before + column.saturating_sub(1) }, &message)
    }

    pub(super) fn at(place: LinePlace, message: &str) -> Self {
        let column = place.before + 1;
        let error = Error::invalid(LINE, format!("{message}, at column {column}"));
        Self { line: place.line, column: Some(column), error }
    }
}

/// Returns the message of an error at a line, from 1, for people. The line is named once.
pub fn at_line(line: u64, error: &Error) -> String {
    match error {
        Error::Invalid { field, problem } if field == LINE => format!("line {line}: {problem}"),
        other => format!("line {line}: {}", with_causes(other)),
    }
}

/// Returns the kind of a JSON text that begins with this byte, unless the text is an object.
fn kind(first: u8) -> Option<&'static str> {
    match first {
        b'[' => Some("a list"),
        b'"' => Some("a string"),
        b'-' | b'0'..=b'9' => Some("a number"),
        b't' | b'f' => Some("true or false"),
        b'n' => Some("null"),
        _ => None,
    }
}

impl Line {
    /// Reads one line, without its end.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the problem and its place in the line; [`Error::OverLimit`] with the
    /// number of its headers.
    pub fn parse(line: &[u8]) -> Result<Self> {
        Self::read(line, LinePlace::START).map_err(|no_event| no_event.error)
    }

    /// Reads a text at `place` of a body as [`Self::parse`] does. The text may have many lines.
    pub(super) fn read(text: &[u8], place: LinePlace) -> Result<Self, NoEvent> {
        let text = unmarked(text);
        let begin = text.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
        // The parser would take an array for an object's values, in the order of its fields.
        if let Some(kind) = text.get(begin).and_then(|first| kind(*first)) {
            let message = format!("{kind} is not an event; write an object, like {{\"data\": 1}}");
            return Err(NoEvent::at(place.after(&text[..begin]), &message));
        }
        let json: LineJson<'_> =
            serde_json::from_slice(text).map_err(|error| NoEvent::of(&error, place))?;
        Self::of(json).map_err(|error| NoEvent { line: place.line, column: None, error })
    }

    /// Takes out the headers that only the broker sets, which exported events may have, and with
    /// which an event is refused: the publisher's, and those of dead letters. Returns how many they
    /// were.
    pub fn take_own_headers(&mut self) -> usize {
        let headers = &mut self.event.headers;
        let count = headers.len();
        headers.retain(|name, _| {
            !name.eq_ignore_ascii_case(PUBLISHER_HEADER) && !is_of_dead_letters(name)
        });
        count - headers.len()
    }

    fn of(json: LineJson<'_>) -> Result<Self> {
        let (payload, content_type) = payload(&json)?;
        let event = NewEvent {
            id: json.id.unwrap_or_default(),
            event_type: json.r#type.unwrap_or_default(),
            key: json.key.unwrap_or_default(),
            headers: json.headers.members("headers")?.into_iter().collect(),
            content_type,
            payload,
            publisher_time: json.publisher_time_ms.map(Timestamp::from_ms),
            ttl_ms: json.ttl_ms,
        };
        let topic = json.topic.as_deref().map(TopicName::new).transpose()?;
        Ok(Self { topic, event })
    }
}

/// Returns the line with which an event can be published again, without a line end.
///
/// # Errors
///
/// None, for an event from a broker.
pub fn line(topic: &str, event: &proto::Event) -> serde_json::Result<String> {
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut line = serde_json::Map::new();
    let mut put = |name: &str, value: serde_json::Value| line.insert(name.to_owned(), value);
    put("topic", topic.into());
    for (name, value) in [("id", &event.id), ("type", &event.r#type), ("key", &event.key)] {
        text(value).map(|value| put(name, value.into()));
    }
    if !event.headers.is_empty() {
        put("headers", serde_json::to_value(&event.headers)?);
    }
    text(&event.content_type).map(|value| put("content_type", value.into()));
    event.publisher_time_ms.map(|ms| put("publisher_time_ms", ms.into()));
    event.ttl_ms.map(|ms| put("ttl_ms", ms.into()));
    let mut line = serde_json::to_string(&line)?;
    line.pop();
    let as_text = std::str::from_utf8(&event.payload).ok();
    let as_json = as_text.filter(|text| {
        is_json(&event.content_type)
            && !event.content_type.is_empty()
            && serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get() == *text)
    });
    match (as_json, as_text) {
        // JSON has line ends only between tokens; they are part of the payload.
        (Some(json), _) if !json.contains(['\n', '\r']) => {
            line.push_str(&format!(",\"data\":{json}}}"));
        }
        (None, Some(text)) if !is_json(&event.content_type) => {
            line.push_str(&format!(",\"data\":{}}}", serde_json::to_string(text)?));
        }
        _ if event.payload.is_empty() => line.push('}'),
        _ => {
            let data = BASE64.encode(&event.payload);
            line.push_str(&format!(",\"data_base64\":\"{data}\"}}"));
        }
    }
    Ok(line)
}

fn payload(json: &LineJson<'_>) -> Result<(Bytes, String)> {
    let content_type = json.content_type.clone().unwrap_or_default();
    match (json.data, &json.data_base64) {
        (Some(_), Some(_)) => Err(Error::invalid("data", "is given with data_base64; give one")),
        (None, None) => Ok((Bytes::new(), content_type)),
        (None, Some(text)) => {
            let bytes = BASE64.decode(text);
            let bytes = bytes.map_err(|error| {
                Error::invalid("data_base64", format!("is not base64 of RFC 4648: {error}"))
            })?;
            Ok((bytes.into(), content_type))
        }
        (Some(data), None) if is_json(&content_type) => {
            let content_type = if content_type.is_empty() { JSON.to_owned() } else { content_type };
            Ok((Bytes::copy_from_slice(data.get().as_bytes()), content_type))
        }
        (Some(data), None) => {
            let text: String = serde_json::from_str(data.get()).map_err(|_| {
                let problem = format!("must be a string, as the content type is {content_type:?}");
                Error::invalid("data", problem)
            })?;
            Ok((text.into(), content_type))
        }
    }
}

/// Whether `data` under this content type is JSON, and not a string with the payload.
fn is_json(content_type: &str) -> bool {
    essence(content_type).is_empty() || media::is_json(content_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_becomes_the_event_it_describes() {
        let line = br#"{"topic":"a.b","id":"1","type":"t","key":"k","headers":{"h":"v"},
            "publisher_time_ms":5,"ttl_ms":60000,"data":{"x": [1, null]}}"#;
        let expected = NewEvent {
            id: "1".into(),
            event_type: "t".into(),
            key: "k".into(),
            headers: [("h".into(), "v".into())].into(),
            content_type: JSON.into(),
            payload: r#"{"x": [1, null]}"#.into(),
            publisher_time: Some(Timestamp::from_ms(5)),
            ttl_ms: Some(60_000),
        };
        let topic = Some(TopicName::new("a.b").unwrap());
        assert_eq!(Line::parse(line).unwrap(), Line { topic, event: expected });
        let payload = |line: &str| Line::parse(line.as_bytes()).unwrap().event.payload;
        assert_eq!(payload(r#"{"data":null}"#), "null");
        assert_eq!(payload(r#"{"data":"x"}"#), "\"x\"");
        assert_eq!(payload(r#"{"content_type":"text/plain","data":"x\n"}"#), "x\n");
        assert_eq!(payload(r#"{"data_base64":"AP8="}"#), &[0, 255][..]);
        assert_eq!(payload("{}"), "");
        assert_eq!(payload("\u{feff}{\"data\":1}"), "1");
    }

    #[test]
    fn the_place_of_what_is_wrong_is_told_as_a_line_and_a_column_in_it() {
        let place = |text: &str| {
            let place = LinePlace::START.after(b"\n\n1234");
            let NoEvent { line, column, error } = Line::read(text.as_bytes(), place).unwrap_err();
            (line, column, error.to_string())
        };
        let (line, column, message) = place("{\n \"data\": 1,\n  \"x\": 2}");
        assert_eq!((line, column), (5, Some(5)));
        assert!(message.ends_with("at column 5") && !message.contains("at line"), "{message}");
        assert_eq!((place("\n []").0, place("\n []").1), (4, Some(2)));
        assert_eq!((place(" []").0, place("{]").1), (3, Some(6)), "after the text before it");
        assert_eq!(place(r#"{"topic":"a b"}"#).1, None, "this error has no single place");
    }

    #[test]
    fn a_stored_event_reads_back_from_its_line() {
        let payloads: [&[u8]; 8] =
            [b"", b"null", b"{\"a\": 1}", b"{\n\"a\":1}", b"text\n", b"\xff\0", b" 1", b"\"s\""];
        for content_type in ["", JSON, "application/x+json", "text/plain", "image/png"] {
            for payload in payloads {
                let content = NewEvent {
                    id: "i\"".into(),
                    key: "k".into(),
                    headers: [("h".into(), "v".into())].into(),
                    content_type: content_type.into(),
                    payload: payload.into(),
                    publisher_time: Some(Timestamp::from_ms(5)),
                    ttl_ms: Some(9),
                    ..NewEvent::default()
                };
                let new = proto::NewEvent::from(content.clone());
                let event = proto::Event {
                    id: new.id,
                    key: new.key,
                    headers: new.headers,
                    content_type: new.content_type,
                    payload: new.payload,
                    publisher_time_ms: new.publisher_time_ms,
                    ttl_ms: new.ttl_ms,
                    ..proto::Event::default()
                };
                let line = line("a.b", &event).unwrap();
                assert!(!line.contains('\n'), "{line}");
                let back = Line::parse(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
                assert_eq!(back.event, content, "{line}");
                assert_eq!(back.topic, Some(TopicName::new("a.b").unwrap()));
            }
        }
    }

    #[test]
    fn a_line_that_is_wrong_is_refused_with_the_reason() {
        let refusals = [
            ("", "the JSON ends before"),
            (
                "[]",
                "line: a list is not an event; write an object, like {\"data\": 1}, at column 1",
            ),
            (r#"["t", "id"]"#, "a list is not an event"),
            (" 7", "a number is not an event; write an object, like {\"data\": 1}, at column 2"),
            ("null", "null is not an event"),
            (r#"{"dat":1}"#, "\"dat\" is not a known name"),
            (r#"{"id":"a", "id":"a"}"#, "line: id is given twice, at column 15"),
            (r#"{"ttl_ms":"5"}"#, "\"5\" is not a whole number from 0, at column 13"),
            (r#"{"headers":{"a":"1","b":"2","a":"1"}}"#, "headers: \"a\" is given twice"),
            (r#"{"data":1"#, "the JSON ends before"),
            (r#"{"data":1,"data_base64":""}"#, "data: is given with data_base64"),
            (r#"{"data_base64":"?"}"#, "data_base64: "),
            (r#"{"content_type":"text/plain","data":1}"#, "must be a string"),
            (r#"{"topic":"a b"}"#, "topic: "),
            (r#"{"headers":{"a":1}}"#, "1 is not a string"),
        ];
        for (line, reason) in refusals {
            let message = Line::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(reason), "{line}: {message}");
        }
        Line::parse(b"{\"id\":\"\xff\"}").unwrap_err();
    }
}
