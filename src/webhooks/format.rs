//! The forms in which events are sent.
//!
//! | format | body | batch |
//! |---|---|---|
//! | `envelope` | the event as JSON, as a page has it | a JSON array of them |
//! | `payload` | the payload, unchanged; what else the event has is in headers `leftoff-…` | none |
//! | `cloudevents` | `application/cloudevents+json` | `application/cloudevents-batch+json` |
//! | `cloudevents_binary` | the payload; attributes are in headers `ce-…` | none |
//!
//! With batches, a request with one event has an array of it: a receiver sees one form.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use crate::cursor::Epoch;
use crate::edge::{cloudevents, json};
use crate::event::Event;
use crate::topic::TopicName;

/// The content type of a payload that has none.
const BYTES: &str = "application/octet-stream";

/// The characters of a text that are encoded in a header, besides those that are no ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The form in which events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFormat {
    /// The event as JSON, with its places, as in a page.
    #[default]
    Envelope,
    /// The payload alone.
    Payload,
    /// A CloudEvent in JSON.
    Cloudevents,
    /// A CloudEvent in headers and body.
    CloudeventsBinary,
}

impl WebhookFormat {
    /// Returns whether a request can have more than one event.
    pub fn can_batch(self) -> bool {
        matches!(self, Self::Envelope | Self::Cloudevents)
    }

    /// Returns the word for the format on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Payload => "payload",
            Self::Cloudevents => "cloudevents",
            Self::CloudeventsBinary => "cloudevents_binary",
        }
    }
}

/// What is sent of events: the headers that depend on them, and the body.
#[derive(Debug, Clone)]
pub(super) struct SentBody {
    pub(super) headers: HeaderMap,
    pub(super) bytes: Bytes,
}

impl SentBody {
    /// Returns the body with these events; `in_batches` if a request may have several.
    ///
    /// # Panics
    ///
    /// If there is no event, or there are several although the format has one.
    pub(super) fn of(
        format: WebhookFormat,
        in_batches: bool,
        events: &[(&TopicName, &Event)],
        epoch: Epoch,
    ) -> Self {
        let [(topic, event), rest @ ..] = events else { panic!("a request has events") };
        assert!(in_batches || rest.is_empty(), "one event in a request that is no batch");
        let payload = event.content.payload.clone();
        match format {
            WebhookFormat::Envelope => {
                let one = |(topic, event): &(&TopicName, &Event)| json::event(topic, event);
                Self::json("application/json", in_batches, events.iter().map(one))
            }
            WebhookFormat::Cloudevents => {
                let media = match in_batches {
                    true => "application/cloudevents-batch+json",
                    false => "application/cloudevents+json",
                };
                let one = |(topic, event): &(&TopicName, &Event)| {
                    cloudevents::structured(topic, epoch, event)
                };
                Self::json(media, in_batches, events.iter().map(one))
            }
            WebhookFormat::Payload => Self { headers: own_headers(topic, event), bytes: payload },
            WebhookFormat::CloudeventsBinary => {
                let headers = cloudevents::binary_headers(topic, epoch, event);
                Self { headers, bytes: payload }
            }
        }
    }

    fn json(media: &'static str, in_batches: bool, events: impl Iterator<Item = Vec<u8>>) -> Self {
        let joined = events.collect::<Vec<_>>().join(&b","[..]);
        let bytes = match in_batches {
            true => [&b"["[..], &joined, b"]"].concat(),
            false => joined,
        };
        let media = HeaderValue::from_static(media);
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media)]);
        Self { headers, bytes: bytes.into() }
    }
}

/// Returns what an event has beside its payload, as headers. Texts are percent-encoded.
fn own_headers(topic: &TopicName, event: &Event) -> HeaderMap {
    let content = &event.content;
    let mut headers = HeaderMap::new();
    let mut put = |name: &'static str, text: &str| {
        if text.is_empty() {
            return;
        }
        let encoded = utf8_percent_encode(text, ENCODED).to_string();
        if let Ok(value) = HeaderValue::try_from(encoded) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    put("leftoff-topic", topic.as_str());
    put("leftoff-sequence", &event.sequence.to_string());
    put("leftoff-position", &event.position.to_string());
    put("leftoff-time", &event.time.to_string());
    put("leftoff-id", &content.id);
    put("leftoff-type", &content.event_type);
    put("leftoff-key", &content.key);
    let media = HeaderValue::try_from(content.content_type.as_str()).ok();
    let media = media.filter(|it| !it.is_empty()).unwrap_or(HeaderValue::from_static(BYTES));
    headers.insert(header::CONTENT_TYPE, media);
    headers
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cursor::{Position, Sequence};
    use crate::event::{NewEvent, Timestamp};

    fn body(format: WebhookFormat, in_batches: bool, events: &[Event]) -> SentBody {
        let topic = "orders".parse().unwrap();
        let events: Vec<_> = events.iter().map(|event| (&topic, event)).collect();
        SentBody::of(format, in_batches, &events, Epoch::new(1))
    }

    fn event(sequence: u64) -> Event {
        let content = NewEvent::new("{\"n\": 1}")
            .with_type("paid")
            .with_key("ö 7")
            .with_content_type("application/json");
        let (position, time) = (Position::new(sequence + 10), Timestamp::from_ms(0));
        Event { sequence: Sequence::new(sequence), position, time, content }
    }

    #[test]
    fn each_format_has_the_event_and_batches_are_arrays_of_any_number() {
        let json = |body: &SentBody| serde_json::from_slice::<Value>(&body.bytes).unwrap();
        let one = body(WebhookFormat::Envelope, false, &[event(1)]);
        assert_eq!(one.headers[header::CONTENT_TYPE], "application/json");
        let told = json(&one);
        assert_eq!(
            (&told["topic"], &told["sequence"], &told["position"], &told["data"]),
            (&json!("orders"), &json!(1), &json!(11), &json!({ "n": 1 }))
        );
        let single = json(&body(WebhookFormat::Envelope, true, &[event(1)]));
        assert_eq!(single, json!([told]));
        let two = body(WebhookFormat::Cloudevents, true, &[event(1), event(2)]);
        assert_eq!(two.headers[header::CONTENT_TYPE], "application/cloudevents-batch+json");
        assert_eq!(json(&two)[1]["leftoffsequence"], "2");
        let structured = body(WebhookFormat::Cloudevents, false, &[event(1)]);
        assert_eq!(structured.headers[header::CONTENT_TYPE], "application/cloudevents+json");
        assert_eq!(json(&structured)["type"], "paid");
    }

    #[test]
    fn payloads_are_unchanged_and_the_rest_is_in_headers() {
        let plain = body(WebhookFormat::Payload, false, &[event(1)]);
        let binary = body(WebhookFormat::CloudeventsBinary, false, &[event(1)]);
        for body in [&plain, &binary] {
            assert_eq!(&body.bytes[..], b"{\"n\": 1}");
            assert_eq!(body.headers[header::CONTENT_TYPE], "application/json");
        }
        let shown: Vec<_> = ["topic", "sequence", "position", "time", "type", "key"]
            .map(|name| plain.headers[format!("leftoff-{name}")].to_str().unwrap().to_owned())
            .into();
        let time = "1970-01-01T00:00:00.000Z";
        assert_eq!(shown, ["orders", "1", "11", time, "paid", "%C3%B6%207"]);
        assert!(!plain.headers.contains_key("leftoff-id"), "there is none");
        assert_eq!(binary.headers["ce-subject"], "%C3%B6%207");
        let bare = Event { content: NewEvent::new(vec![0xff]), ..event(1) };
        let bare = body(WebhookFormat::Payload, false, &[bare]);
        assert_eq!(bare.headers[header::CONTENT_TYPE], BYTES);
    }
}
