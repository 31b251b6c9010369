//! Events, pages, topics and acknowledgements as JSON.
//!
//! The payload of an event has one of three forms in JSON:
//!
//! | content type | member | value |
//! |---|---|---|
//! | JSON | `data`, a value | the text of the payload from its first to its last token, unchanged |
//! | text, or none | `data`, a string | the payload |
//! | any other, not valid, or nested too deep | `data_base64` | the payload in base64 |
//!
//! `data_base64` also stands beside a value that is not the whole payload: if there is white space
//! before or after the value, or if the value has line ends that the carrier changes. So the bytes
//! of a payload, which may be signed, are those of `data_base64` if it is present, and those of
//! `data` otherwise.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::media::Media;
use crate::broker::{Ack, Ephemeral, EventRef, MaintenanceReport, Page, Receipt, Run, TopicInfo};
use crate::cursor::{Cursor, Place, Position, Sequence};
use crate::event::{Event, Timestamp};
use crate::json_levels::{self, MAX_JSON_LEVELS};
use crate::topic::{TopicName, TopicPattern};

/// A payload, in the form for its content type.
enum Content<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Content<'a> {
    /// Returns the form of a payload. Invalid JSON is shown as bytes, because as a text it would be
    /// taken for a JSON string. So is JSON that is nested so deep that readers may fail to parse
    /// it, and text that is not UTF-8.
    fn of(payload: &'a [u8], content_type: &str) -> Self {
        let Ok(text) = std::str::from_utf8(payload) else { return Self::Bytes(payload) };
        match Media::of(content_type) {
            Media::Json if json_levels::are_more_than(MAX_JSON_LEVELS, payload) => {
                Self::Bytes(payload)
            }
            Media::Json => serde_json::from_str(text).map_or(Self::Bytes(payload), Self::Json),
            Media::Text => Self::Text(text),
            Media::Bytes => Self::Bytes(payload),
        }
    }
}

/// One event, as it is written in a page, from any source.
#[derive(Debug)]
pub struct EventJson<'a> {
    topic: &'a str,
    sequence: u64,
    position: u64,
    time: Timestamp,
    publisher_time: Option<Timestamp>,
    ttl_ms: Option<u64>,
    id: &'a str,
    event_type: &'a str,
    key: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    content_type: &'a str,
    payload: &'a [u8],
    /// Whether the event is ephemeral: it has no places then, and `"ephemeral": true` instead.
    is_ephemeral: bool,
    carrier: Carrier,
}

/// The medium into which an event's JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A body, or a message: line ends are unchanged.
    Whole,
    /// Lines of server-sent events: every line end becomes a line feed.
    DataLines,
    /// One line: each line end is written as a blank.
    OneLine,
}

impl Carrier {
    /// Whether the medium leaves this JSON unchanged.
    fn carries(self, json: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::DataLines => !json.contains('\r'),
            Self::OneLine => !json.contains(['\n', '\r']),
        }
    }
}

impl<'a> EventJson<'a> {
    /// Returns the same event, for output with one event a line.
    #[must_use]
    pub fn in_one_line(self) -> Self {
        Self { carrier: Carrier::OneLine, ..self }
    }

    fn stored(topic: &'a TopicName, event: &EventRef<'a>) -> Self {
        Self {
            topic: topic.as_str(),
            sequence: event.sequence.get(),
            position: event.position.get(),
            time: event.time,
            publisher_time: event.publisher_time,
            ttl_ms: event.ttl_ms,
            id: event.id,
            event_type: event.event_type,
            key: event.key,
            headers: event.headers().collect(),
            content_type: event.content_type,
            payload: event.payload,
            is_ephemeral: false,
            carrier: Carrier::Whole,
        }
    }

    /// Returns an event of `topic`.
    pub fn own(topic: &'a TopicName, event: &'a Event) -> Self {
        let Event { sequence, position, time, content } = event;
        let text = |(name, value): (&'a String, &'a String)| (name.as_str(), value.as_str());
        Self {
            topic: topic.as_str(),
            sequence: sequence.get(),
            position: position.get(),
            time: *time,
            publisher_time: content.publisher_time,
            ttl_ms: content.ttl_ms,
            id: &content.id,
            event_type: &content.event_type,
            key: &content.key,
            headers: content.headers.iter().map(text).collect(),
            content_type: &content.content_type,
            payload: &content.payload,
            is_ephemeral: false,
            carrier: Carrier::Whole,
        }
    }
}

impl Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let present = |text| Some(text).filter(|text: &&str| !text.is_empty());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("topic", self.topic)?;
        if self.is_ephemeral {
            map.serialize_entry("ephemeral", &true)?;
        } else {
            map.serialize_entry("sequence", &self.sequence)?;
            map.serialize_entry("position", &self.position)?;
        }
        map.serialize_entry("time", &time(self.time))?;
        map.serialize_entry("id", &present(self.id))?;
        map.serialize_entry("type", &present(self.event_type))?;
        map.serialize_entry("key", &present(self.key))?;
        map.serialize_entry("headers", &HeadersJson(&self.headers))?;
        map.serialize_entry("content_type", &present(self.content_type))?;
        if let Some(publisher_time) = self.publisher_time {
            map.serialize_entry("publisher_time", &time(publisher_time))?;
        }
        if let Some(ttl_ms) = self.ttl_ms {
            map.serialize_entry("ttl_ms", &ttl_ms)?;
        }
        match Content::of(self.payload, self.content_type) {
            Content::Json(value) => self.serialize_json(value, &mut map)?,
            Content::Text(text) => map.serialize_entry("data", text)?,
            Content::Bytes(bytes) => map.serialize_entry("data_base64", &BASE64.encode(bytes))?,
        }
        map.end()
    }
}

impl EventJson<'_> {
    /// Writes a payload that is JSON. Adds its bytes, if they differ from the value.
    fn serialize_json<M: SerializeMap>(
        &self,
        value: &RawValue,
        map: &mut M,
    ) -> Result<(), M::Error> {
        let text = value.get();
        let is_carried = self.carrier.carries(text);
        match self.carrier {
            Carrier::OneLine if !is_carried => {
                // In JSON, line ends occur only between tokens.
                let line = text.replace(['\n', '\r'], " ");
                let line = RawValue::from_string(line).map_err(serde::ser::Error::custom)?;
                map.serialize_entry("data", &line)?;
            }
            _ => map.serialize_entry("data", value)?,
        }
        if !is_carried || text.len() < self.payload.len() {
            map.serialize_entry("data_base64", &BASE64.encode(self.payload))?;
        }
        Ok(())
    }
}

struct HeadersJson<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for HeadersJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

fn time(time: Timestamp) -> String {
    time.to_string()
}

/// Appends an event that is not stored. The event has no places.
pub(super) fn write_ephemeral(ephemeral: &Ephemeral, carrier: Carrier, bytes: &mut Vec<u8>) {
    let Ephemeral { topic, time, event, .. } = ephemeral;
    let event = Event {
        sequence: Sequence::BEFORE_ALL,
        position: Position::BEFORE_ALL,
        time: *time,
        content: event.clone(),
    };
    let event = EventJson { is_ephemeral: true, carrier, ..EventJson::own(topic, &event) };
    serde_json::to_writer(bytes, &event).expect("texts and numbers are JSON");
}

/// Appends an event of `topic`.
pub(super) fn write_event(
    topic: &TopicName,
    event: &EventRef<'_>,
    carrier: Carrier,
    bytes: &mut Vec<u8>,
) {
    let event = EventJson { carrier, ..EventJson::stored(topic, event) };
    let written = serde_json::to_writer(bytes, &event);
    written.expect("texts and numbers are JSON");
}

/// The beginning of a page. Its events follow, separated by commas, and then its end.
pub(super) const PAGE_BEGIN: &[u8] = b"{\"events\":[";

/// Returns the events of a run, separated by commas.
pub(super) fn events(run: &Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in run.events() {
        if !bytes.is_empty() {
            bytes.push(b',');
        }
        write_event(run.topic(), &event, Carrier::Whole, &mut bytes);
    }
    bytes
}

/// Upper bound for the names, numbers and punctuation of one written event, in bytes.
const FRAME_BYTES: usize = 512;

/// Returns an upper bound for the events of a run as JSON, in any form, in bytes. A control
/// character in a text takes six bytes. A payload may occur twice: as a value, and as base64.
pub(super) fn max_written_bytes(run: &Run) -> usize {
    let topic_bytes = run.topic().as_str().len();
    let of_event = |event: EventRef<'_>| {
        let payload = event.payload;
        let escapes = payload.iter().map(|byte| match byte {
            0..0x20 => 5,
            b'"' | b'\\' => 1,
            _ => 0_usize,
        });
        let value_bytes = payload.len() + escapes.sum::<usize>();
        let base64_bytes = payload.len().div_ceil(3) * 4;
        // In a CloudEvent, a field may occur as an attribute, too.
        let texts_bytes = topic_bytes + event.size_bytes().saturating_sub(payload.len());
        let headers_bytes = 8 * event.headers().count();
        value_bytes + base64_bytes + 12 * texts_bytes + headers_bytes + FRAME_BYTES
    };
    run.events().map(of_event).sum()
}

/// Returns an event of `topic` that is no longer in a block, as JSON.
pub(crate) fn event(topic: &TopicName, event: &Event) -> Vec<u8> {
    serde_json::to_vec(&EventJson::own(topic, event)).expect("texts and numbers are JSON")
}

/// Returns the part of a page after its events. `denied` are the topics that were named, and are
/// not permitted.
pub(super) fn page_end(page: &Page, denied: &[TopicPattern]) -> Vec<u8> {
    #[derive(Serialize)]
    struct EndJson<'a> {
        cursor: String,
        earliest: u64,
        tail: u64,
        caught_up: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        gap: Option<Value>,
        /// For a reader of many topics: each of them may have a gap.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gaps: Vec<Value>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        denied: &'a [TopicPattern],
    }
    let is_of_many = matches!(page.cursor.after, Place::Position(_));
    let gaps: Vec<Value> = page.gaps.iter().map(super::gaps::json).collect();
    end(&EndJson {
        cursor: page.cursor.to_string(),
        earliest: page.earliest.number(),
        tail: page.tail.number(),
        caught_up: page.caught_up,
        gap: gaps.first().filter(|_| !is_of_many).cloned(), // One topic has at most one gap.
        gaps: if is_of_many { gaps } else { Vec::new() },
        denied,
    })
}

/// Closes the list of events, and writes these fields after it.
pub(super) fn end(fields: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(fields).expect("texts and numbers are JSON");
    bytes.splice(..1, *b"],"); // Replaces the opening brace.
    bytes
}

/// The receipt of one event.
#[derive(Debug, Serialize)]
pub(super) struct ReceiptJson {
    sequence: u64,
    position: u64,
    time: String,
    duplicate: bool,
    durability: &'static str,
}

impl ReceiptJson {
    /// Returns the receipt of the event with this index in a publish.
    pub(super) fn of(ack: &Ack, index: usize) -> Self {
        let Receipt { sequence, position, time: appended } = ack.receipt(index);
        Self {
            sequence: sequence.get(),
            position: position.get(),
            time: time(appended),
            duplicate: ack.duplicates.iter().any(|duplicate| duplicate.index == index),
            durability: ack.durability.as_str(),
        }
    }
}

/// The receipt of a publish in one of its topics.
#[derive(Debug, Serialize)]
pub(super) struct TopicReceiptJson<'a> {
    topic: &'a TopicName,
    #[serde(flatten)]
    receipt: PublishedJson,
}

/// The receipts of a publish of one event, or of several.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum PublishedJson {
    One(ReceiptJson),
    Several { first: ReceiptJson, last: ReceiptJson, count: usize, duplicates: usize },
}

/// Returns the receipts of a publish to a list of topics, in the order of the topics.
pub(super) fn topic_receipts(acks: &[(TopicName, Ack)]) -> Vec<TopicReceiptJson<'_>> {
    let receipt = |ack: &Ack| match ack.count {
        1 => PublishedJson::One(ReceiptJson::of(ack, 0)),
        count => PublishedJson::Several {
            first: ReceiptJson::of(ack, 0),
            last: ReceiptJson::of(ack, count - 1),
            count,
            duplicates: ack.duplicates.len(),
        },
    };
    acks.iter().map(|(topic, ack)| TopicReceiptJson { topic, receipt: receipt(ack) }).collect()
}

/// Returns one topic as JSON.
pub(super) fn topic(topic: &TopicInfo) -> Value {
    serde_json::to_value(topic).expect("texts and numbers are JSON")
}

/// Returns the part of a page of a topic's state after its events.
pub(super) fn state_end(cursor: &Cursor, next_page_token: &str) -> Vec<u8> {
    end(&json!({"cursor": cursor.to_string(), "next_page_token": next_page_token}))
}

/// Returns a report of maintenance as JSON.
pub(super) fn maintained(report: &MaintenanceReport) -> Value {
    serde_json::to_value(report).expect("numbers are JSON")
}
