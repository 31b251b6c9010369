//! Stored events as CloudEvents in JSON, whether they were published as such or not.
//!
//! An attribute that an event lacks gets a default: `id` is `{sequence}-{epoch}`, `source` is
//! `/v1/topics/{topic}`, `type` is `leftoff.event`, and `subject` is the key. Every stored event
//! has the extensions `leftofftopic`, `leftoffsequence` and `leftoffposition`, which give its
//! place. If the event came from another broker, that broker's values are replaced. The extension
//! `leftoffpublisher` is the broker's own, too: the header `leftoff-publisher`, if there is one.
//!
//! # Why
//!
//! A payload is written as base64 if it has no content type, is not valid for its content type, or
//! is JSON that is nested too deep for readers. In this format a string without `datacontenttype`
//! is a JSON string, so a reader would take it for another payload than the published one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::super::media::Media;
use super::attributes::{CORE, PREFIX, TYPES, VERSION, Value, check_name, check_value, read_time};
use crate::broker::{Ephemeral, EventRef};
use crate::cursor::{Epoch, Position, Sequence};
use crate::edge::hooks::PUBLISHER_HEADER;
use crate::edge::media::{essence, is_json};
use crate::event::{Event, Timestamp};
use crate::json_levels::{self, MAX_JSON_LEVELS};

/// The type of an event that has none. No publisher can choose a type with this prefix.
const NO_TYPE: &str = "leftoff.event";

/// The extensions that give an event's place.
const PLACES: [&str; 3] = ["leftofftopic", "leftoffsequence", "leftoffposition"];

/// The extension that names the publisher. No publisher can set it.
const PUBLISHER: &str = "leftoffpublisher";

/// The characters that are not allowed in a segment of a URI's path. Source: RFC 3986, 3.3,
/// `pchar`.
const NOT_IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The place of an event.
#[derive(Debug, Clone, Copy)]
pub(in crate::edge) enum EventPlace {
    /// The place in its topic, and in the broker.
    Stored(Sequence, Position),
    /// No place: the number of an ephemeral event.
    Ephemeral(u64),
}

/// The parts of an event that are written, borrowed.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Stored<'a> {
    pub(in crate::edge) place: EventPlace,
    /// The time at which the event was appended.
    pub(in crate::edge) time: Timestamp,
    pub(in crate::edge) publisher_time: Option<Timestamp>,
    pub(in crate::edge) event_type: &'a str,
    pub(in crate::edge) key: &'a str,
    pub(in crate::edge) headers: Vec<(&'a str, &'a str)>,
    pub(in crate::edge) content_type: &'a str,
    pub(in crate::edge) payload: &'a [u8],
}

impl<'a> From<&EventRef<'a>> for Stored<'a> {
    fn from(event: &EventRef<'a>) -> Self {
        Self {
            place: EventPlace::Stored(event.sequence, event.position),
            time: event.time,
            publisher_time: event.publisher_time,
            event_type: event.event_type,
            key: event.key,
            headers: event.headers().collect(),
            content_type: event.content_type,
            payload: event.payload,
        }
    }
}

impl<'a> From<&'a Event> for Stored<'a> {
    fn from(event: &'a Event) -> Self {
        let Event { sequence, position, time, content } = event;
        let text = |(name, value): (&'a String, &'a String)| (name.as_str(), value.as_str());
        Self {
            place: EventPlace::Stored(*sequence, *position),
            time: *time,
            publisher_time: content.publisher_time,
            event_type: &content.event_type,
            key: &content.key,
            headers: content.headers.iter().map(text).collect(),
            content_type: &content.content_type,
            payload: &content.payload,
        }
    }
}

impl<'a> From<&'a Ephemeral> for Stored<'a> {
    fn from(ephemeral: &'a Ephemeral) -> Self {
        let Ephemeral { number, time, event, .. } = ephemeral;
        let text = |(name, value): (&'a String, &'a String)| (name.as_str(), value.as_str());
        Self {
            place: EventPlace::Ephemeral(*number),
            time: *time,
            publisher_time: event.publisher_time,
            event_type: &event.event_type,
            key: &event.key,
            headers: event.headers.iter().map(text).collect(),
            content_type: &event.content_type,
            payload: &event.payload,
        }
    }
}

/// Appends one event as `application/cloudevents+json`.
///
/// A payload that is JSON is written unchanged, with the line ends between its tokens.
pub(in crate::edge) fn append(topic: &str, epoch: Epoch, event: &Stored<'_>, bytes: &mut Vec<u8>) {
    let epoch = epoch.to_string();
    let envelope = Envelope { topic, epoch: &epoch, event };
    serde_json::to_writer(bytes, &envelope).expect("texts and numbers are JSON");
}

struct Envelope<'a> {
    topic: &'a str,
    epoch: &'a str,
    event: &'a Stored<'a>,
}

impl Serialize for Envelope<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event;
        let mut map = serializer.serialize_map(None)?;
        self.serialize_core(&mut map)?;
        for (name, value) in event.extensions() {
            map.serialize_entry(name, &value)?;
        }
        if let Some(publisher) = event.publisher() {
            map.serialize_entry(PUBLISHER, publisher)?;
        }
        map.serialize_entry("leftofftopic", self.topic)?;
        if let EventPlace::Stored(sequence, position) = event.place {
            map.serialize_entry("leftoffsequence", &sequence.to_string())?;
            map.serialize_entry("leftoffposition", &position.to_string())?;
        }
        match DataMember::of(event.payload, event.content_type) {
            DataMember::None => {}
            DataMember::Json(value) => map.serialize_entry("data", value)?,
            DataMember::Text(text) => map.serialize_entry("data", text)?,
            DataMember::Bytes(bytes) => {
                map.serialize_entry("data_base64", &BASE64.encode(bytes))?
            }
        }
        map.end()
    }
}

impl Envelope<'_> {
    /// Writes the attributes that the specification defines.
    fn serialize_core<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self { topic, epoch, event } = self;
        let id = || match event.place {
            EventPlace::Stored(sequence, _) => format!("{sequence}-{epoch}"),
            EventPlace::Ephemeral(number) => format!("ephemeral-{number}-{epoch}"),
        };
        let source = || format!("/v1/topics/{}", utf8_percent_encode(topic, NOT_IN_A_SEGMENT));
        let time = || event.publisher_time.unwrap_or(event.time).to_string();
        let present = |text| Some(text).filter(|text: &&str| !text.is_empty());
        map.serialize_entry("specversion", VERSION)?;
        map.serialize_entry("id", &event.core("id").unwrap_or_else(|| id().into()))?;
        map.serialize_entry("source", &event.core("source").unwrap_or_else(|| source().into()))?;
        map.serialize_entry("type", present(event.event_type).unwrap_or(NO_TYPE))?;
        if let Some(subject) = event.core("subject").or(present(event.key).map(Cow::Borrowed)) {
            map.serialize_entry("subject", &subject)?;
        }
        map.serialize_entry("time", &event.core("time").unwrap_or_else(|| time().into()))?;
        if let Some(content_type) = present(event.content_type) {
            map.serialize_entry("datacontenttype", content_type)?;
        }
        if let Some(schema) = event.core("dataschema") {
            map.serialize_entry("dataschema", &schema)?;
        }
        Ok(())
    }
}

impl<'a> Stored<'a> {
    /// Returns an attribute from the headers. Any publisher may set a header, so an invalid value
    /// counts as none.
    fn core(&self, name: &str) -> Option<Cow<'a, str>> {
        let is_it = |header: &str| header.strip_prefix(PREFIX) == Some(name);
        let (_, text) = *self.headers.iter().find(|(header, _)| is_it(header))?;
        let is_valid = match name {
            "source" => !text.contains(char::is_whitespace),
            "time" => read_time(text).is_ok(),
            _ => true,
        };
        (is_valid && !text.is_empty()).then_some(Cow::Borrowed(text))
    }

    /// Returns the publisher, if the broker or its host has named it.
    fn publisher(&self) -> Option<&'a str> {
        let named = self.headers.iter().find(|(header, _)| *header == PUBLISHER_HEADER);
        named.map(|(_, publisher)| *publisher)
    }

    /// Returns the extensions in the headers, and other headers whose names are valid extensions.
    fn extensions(&self) -> BTreeMap<&'a str, Value<'a>> {
        let types = self.types();
        let mut extensions = BTreeMap::new();
        for &(header, text) in &self.headers {
            let attribute = header.strip_prefix(PREFIX);
            let name = attribute.unwrap_or(header);
            let kind = attribute.and_then(|name| types.get(name).copied());
            let value = Value::read(text, kind);
            if !is_extension(name) || check_value(name, &value).is_err() {
                continue;
            }
            if attribute.is_some() {
                extensions.insert(name, value);
            } else {
                extensions.entry(name).or_insert(value);
            }
        }
        extensions
    }

    /// Returns the attributes that are not text, with their types.
    fn types(&self) -> BTreeMap<&'a str, &'a str> {
        let is_it = |header: &str| header.strip_prefix(PREFIX) == Some(TYPES);
        let header = self.headers.iter().find(|(header, _)| is_it(header));
        let types = header.map(|(_, types)| *types).unwrap_or_default();
        types.split(' ').filter_map(|one| one.split_once(':')).collect()
    }
}

/// Whether an extension may have this name.
fn is_extension(name: &str) -> bool {
    let is_own = name == PUBLISHER || PLACES.contains(&name);
    check_name(name).is_ok() && !CORE.contains(&name) && !is_own
}

/// A payload, in the form for its content type.
#[derive(Debug)]
enum DataMember<'a> {
    None,
    Json(&'a RawValue),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> DataMember<'a> {
    fn of(payload: &'a [u8], content_type: &str) -> Self {
        let Ok(text) = std::str::from_utf8(payload) else { return Self::Bytes(payload) };
        if text.is_empty() {
            Self::None
        } else if is_json(content_type) {
            if json_levels::are_more_than(MAX_JSON_LEVELS, payload) {
                return Self::Bytes(payload);
            }
            serde_json::from_str(text).map_or(Self::Bytes(payload), Self::Json)
        } else if !essence(content_type).is_empty() && Media::of(content_type) == Media::Text {
            Self::Text(text)
        } else {
            Self::Bytes(payload)
        }
    }
}
