//! Stored events as CloudEvents in requests that the broker sends itself.
//!
//! Source: CloudEvents 1.0.2, bindings/http-protocol-binding.md, 3.1 and 3.2.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

use super::attributes::PREFIX;
use super::write::{Stored, append};
use crate::cursor::Epoch;
use crate::event::Event;
use crate::topic::TopicName;

/// The characters that are encoded in the value of an attribute in a header, besides those that are
/// no ASCII. Source: the same, 3.1.3.2.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Returns one event as `application/cloudevents+json`.
pub(crate) fn structured(topic: &TopicName, epoch: Epoch, event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(topic.as_str(), epoch, &event.into(), &mut bytes);
    bytes
}

/// Returns the headers of an event in binary mode. The body is the payload.
pub(crate) fn binary_headers(topic: &TopicName, epoch: Epoch, event: &Event) -> HeaderMap {
    // The same attributes as in the other mode: without a payload they are all that there is.
    let mut bytes = Vec::new();
    let attributes = Stored { payload: &[], ..Stored::from(event) };
    append(topic.as_str(), epoch, &attributes, &mut bytes);
    let attributes: Map<String, Value> =
        serde_json::from_slice(&bytes).expect("what was written is an object");
    let mut headers = HeaderMap::new();
    for (name, value) in attributes {
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let (name, text) = match name.as_str() {
            "datacontenttype" => (Some(header::CONTENT_TYPE), text),
            _ => {
                let name = HeaderName::try_from(format!("{PREFIX}{name}")).ok();
                (name, utf8_percent_encode(&text, ENCODED).to_string())
            }
        };
        // A content type may be no value of a header; names and all other values are.
        if let (Some(name), Ok(value)) = (name, HeaderValue::try_from(text)) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::read::{binary, structured as read_structured};
    use super::*;
    use crate::cursor::{Position, Sequence};
    use crate::event::{NewEvent, Timestamp};

    /// Goal: whoever reads CloudEvents gets the same event in both modes.
    #[test]
    fn both_modes_have_the_same_event() {
        let content = NewEvent::new("{\"n\": 1}")
            .with_type("order.paid")
            .with_key("Zürich 100% \"7\"")
            .with_header("ce-count", "7")
            .with_header("ce-types", "count:integer")
            .with_header("tenant", "é")
            .with_content_type("application/json");
        let (sequence, position) = (Sequence::new(7), Position::new(9));
        let event = Event { sequence, position, time: Timestamp::from_ms(1), content };
        let (topic, epoch) = ("orders".parse().unwrap(), Epoch::new(1));
        let headers = binary_headers(&topic, epoch, &event);
        assert_eq!(headers["ce-subject"], "Z%C3%BCrich%20100%25%20%227%22");
        assert_eq!(headers["ce-count"], "7");
        assert_eq!(headers["content-type"], "application/json");
        let payload = Bytes::copy_from_slice(&event.content.payload);
        let mut from_binary = binary(&headers, payload).unwrap().unwrap();
        let from_json = read_structured(&structured(&topic, epoch, &event)).unwrap();
        // Types are not told in headers.
        assert!(from_json.headers.contains_key("ce-types"));
        from_binary.headers.insert("ce-types".into(), from_json.headers["ce-types"].clone());
        assert_eq!(from_binary, from_json);
    }
}
