//! Events as lines of JSON: how people and scripts hand in many at once.
//!
//! ```text
//! {"topic":"quakes.us","id":"a1","type":"quake","key":"us1","headers":{"a":"b"},"data":{"mag":5}}
//! {"content_type":"text/plain","data":"any text"}
//! {"content_type":"image/png","data_base64":"iVBORw0KGgo="}
//! ```
//!
//! `data` is stored as the JSON it is, with content type `application/json`, unless the line names
//! a content type that is not JSON: then it must be a string, and its text is stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::media::essence;
use super::{json_problem, proto};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::lists::{self, List};
use crate::topic::TopicName;

const JSON: &str = "application/json";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The topic, where the line names one.
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
    /// Files that were written before it had this name say `time_ms`.
    #[serde(alias = "time_ms")]
    publisher_time_ms: Option<u64>,
    ttl_ms: Option<u64>,
    #[serde(borrow, default, deserialize_with = "some")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

/// Tells `"data": null`, which is a payload, from no `data` at all.
fn some<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(json).map(Some)
}

impl Line {
    /// Reads one line, without its end.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with what is wrong and where in the line; [`Error::OverLimit`] with the
    /// number of its headers.
    pub fn parse(line: &[u8]) -> Result<Self> {
        let invalid = |problem: String| Error::invalid("line", problem);
        let json: LineJson<'_> =
            serde_json::from_slice(line).map_err(|error| invalid(json_problem::words(&error)))?;
        let (payload, content_type) = payload(&json)?;
        let event = NewEvent {
            id: json.id.unwrap_or_default(),
            event_type: json.r#type.unwrap_or_default(),
            key: json.key.unwrap_or_default(),
            headers: json.headers.entries("headers")?.into_iter().collect(),
            content_type,
            payload,
            publisher_time: json.publisher_time_ms.map(Timestamp::from_ms),
            ttl_ms: json.ttl_ms,
        };
        let topic = json.topic.as_deref().map(TopicName::new).transpose()?;
        Ok(Self { topic, event })
    }
}

/// An event as the line that it can be published with again, without its end.
///
/// # Errors
///
/// None that a broker's event can have.
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
        // Between its tokens alone JSON has line ends as they are; they are part of the payload.
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
        (Some(_), Some(_)) => Err(Error::invalid("data", "stands beside data_base64; give one")),
        (None, None) => Ok((Bytes::new(), content_type)),
        (None, Some(text)) => {
            let bytes = BASE64.decode(text);
            let bytes = bytes.map_err(|error| {
                Error::invalid("data_base64", format!("is no base64 of RFC 4648: {error}"))
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

/// Whether `data` under this content type is the JSON itself.
fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence.is_empty() || essence == JSON || essence.ends_with("+json")
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
            ("[]", "a list is not an object"),
            (r#"{"dat":1}"#, "\"dat\" is no name"),
            (r#"{"data":1"#, "the JSON ends before"),
            (r#"{"data":1,"data_base64":""}"#, "data: stands beside data_base64"),
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
