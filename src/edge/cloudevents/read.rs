//! CloudEvents that are published over HTTP: as headers and a body, or as JSON.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::percent_decode;
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use super::super::json_problem;
use super::attributes::{Attributes, PREFIX, Value, check_name, locate, shown};
use super::mode::VERSION_HEADER;
use crate::edge::media::is_json;
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::lists::{self, UpTo};

/// The content type of `data`, if none is named.
const JSON: &str = "application/json";

/// Reads an event in binary mode: its attributes are headers, and `body` is its data, unchanged.
/// `None` if the request is not a CloudEvent.
///
/// # Errors
///
/// [`Error::Invalid`] names the attribute that is missing or breaks a rule.
pub(in crate::edge) fn binary(headers: &HeaderMap, body: Bytes) -> Result<Option<NewEvent>> {
    if !headers.contains_key(VERSION_HEADER) {
        return Ok(None);
    }
    let mut attributes = Attributes::default();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        if name == "datacontenttype" {
            return Err(Error::invalid(name, "goes into the header content-type"));
        }
        if name.is_empty() {
            return Err(Error::invalid(PREFIX, "is a header without the name of an attribute"));
        }
        attributes.put(name, header_text(name, value.as_bytes())?)?;
    }
    if let Some(content_type) = headers.get(CONTENT_TYPE).filter(|value| !value.is_empty()) {
        let text = content_type.to_str();
        let text = text.map_err(|error| Error::invalid("datacontenttype", error.to_string()))?;
        attributes.put("datacontenttype", text.to_owned())?;
    }
    attributes.into_event(body).map(Some)
}

/// Reads `application/cloudevents+json`.
///
/// # Errors
///
/// [`Error::Invalid`] with field `event` if the body is not a JSON object, or with the attribute
/// that is missing or breaks a rule.
pub(in crate::edge) fn structured(body: &[u8]) -> Result<NewEvent> {
    let invalid = |error: serde_json::Error| Error::invalid("event", json_problem::words(&error));
    let mut json = serde_json::Deserializer::from_slice(body);
    // The members are read as a list: a map would hide that a name is given twice.
    let members = lists::members::<_, &RawValue>(&mut json).map_err(invalid)?;
    json.end().map_err(invalid)?;
    let mut attributes = Attributes::default();
    let (mut data, mut base64) = (None, None);
    for (name, json) in members.entries("attributes")? {
        let place = match name.as_str() {
            "data" => &mut data,
            "data_base64" => &mut base64,
            _ => {
                if let Some(value) = attribute(&name, json)? {
                    attributes.put(&name, value)?;
                }
                continue;
            }
        };
        if place.replace(json).is_some() {
            return Err(Error::invalid(name, "is given twice"));
        }
    }
    if data.is_some() && attributes.text("datacontenttype").is_none() {
        // In other formats a missing content type has no meaning, so the default of JSON is written
        // out.
        attributes.put("datacontenttype", JSON.to_owned())?;
    }
    let content_type = attributes.text("datacontenttype").unwrap_or_default();
    let payload = payload(content_type, data, base64.filter(|json| !is_null(json)))?;
    attributes.into_event(payload)
}

/// Reads `application/cloudevents-batch+json`, of at most `max_events`. The batch may be empty.
///
/// # Errors
///
/// [`Error::Invalid`] with field `events` if the body is not a JSON array. An invalid event is an
/// error in its place, which names the event, from 0, and the field: `events[2].id`.
pub(in crate::edge) fn batched(
    body: &[u8],
    max_events: usize,
) -> Result<impl ExactSizeIterator<Item = Result<NewEvent>>> {
    let invalid = |error: serde_json::Error| Error::invalid("events", json_problem::words(&error));
    let mut json = serde_json::Deserializer::from_slice(body);
    let events = UpTo::<&RawValue>::new(max_events).deserialize(&mut json).map_err(invalid)?;
    json.end().map_err(invalid)?;
    let events = events.entries("events in a batch")?;
    let read = |(index, json): (usize, &RawValue)| {
        structured(json.get().as_bytes()).map_err(|error| locate(error, index))
    };
    Ok(events.into_iter().enumerate().map(read))
}

fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

/// Returns the value of an attribute; `None` if it is `null`, and so unset.
fn attribute(name: &str, json: &RawValue) -> Result<Option<Value<'static>>> {
    if is_null(json) {
        return Ok(None);
    }
    check_name(name)?; // A problem with the value names the attribute.
    let text = json.get();
    let value = match text.as_bytes().first() {
        Some(b'"') => Value::from(string(name, json)?),
        Some(b't' | b'f') => Value::Boolean(text == "true"),
        Some(b'-' | b'0'..=b'9') => Value::Integer(text.parse().map_err(|_| {
            Error::invalid(name, format!("{} is not an integer of 32 bits", shown(text)))
        })?),
        _ => return Err(Error::invalid(name, "must be a string, an integer or a boolean")),
    };
    Ok(Some(value))
}

fn string(name: &str, json: &RawValue) -> Result<String> {
    serde_json::from_str(json.get())
        .map_err(|error| Error::invalid(name, json_problem::words(&error)))
}

fn payload(
    content_type: &str,
    data: Option<&RawValue>,
    base64: Option<&RawValue>,
) -> Result<Bytes> {
    match (data, base64) {
        (Some(_), Some(_)) => Err(Error::invalid("data", "is given with data_base64; give one")),
        (None, None) => Ok(Bytes::new()),
        (None, Some(json)) => {
            let bytes = BASE64.decode(string("data_base64", json)?);
            let bytes = bytes.map_err(|error| {
                Error::invalid("data_base64", format!("is not base64 of RFC 4648: {error}"))
            })?;
            Ok(bytes.into())
        }
        (Some(json), None) if is_json(content_type) => {
            Ok(Bytes::copy_from_slice(json.get().as_bytes()))
        }
        (Some(json), None) if json.get().starts_with('"') => Ok(string("data", json)?.into()),
        (Some(_), None) => {
            let content_type = shown(content_type);
            let problem = format!("must be a string, as datacontenttype is {content_type:?}");
            Err(Error::invalid("data", problem))
        }
    }
}

/// Returns the text of an attribute's header: unquoted, then percent-decoded, once. Source:
/// CloudEvents 1.0.2, HTTP protocol binding, 3.1.3.2.
fn header_text(name: &str, value: &[u8]) -> Result<String> {
    let unquoted = unquote(name, value)?;
    let text = percent_decode(&unquoted).decode_utf8();
    let text = text.map_err(|_| Error::invalid(name, "is not UTF-8, once percent-decoded"))?;
    Ok(text.into_owned())
}

/// Returns the text in double quotes, as older publishers write it, or else the value unchanged.
fn unquote<'a>(name: &str, value: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let [b'"', rest @ ..] = value else { return Ok(Cow::Borrowed(value)) };
    let mut inside = Vec::with_capacity(rest.len());
    let mut bytes = rest.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' if bytes.as_slice().is_empty() => return Ok(Cow::Owned(inside)),
            b'"' => break,
            b'\\' => inside.extend(bytes.next()),
            _ => inside.push(byte),
        }
    }
    Err(Error::invalid(name, "begins with a double quote, and does not end with the next one"))
}
