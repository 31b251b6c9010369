//! CloudEvents that are published as protobuf messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use prost::Message;
use prost_types::{Any, Timestamp};

use super::super::wire;
use super::attributes::{Attributes, Value, check_name, locate, shown};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use v1::cloud_event::Data;
use v1::cloud_event::cloud_event_attribute_value::Attr;

/// The messages of the specification.
#[allow(clippy::all, missing_docs, unreachable_pub, reason = "generated; documented in the proto")]
pub(super) mod v1 {
    include!(concat!(env!("OUT_DIR"), "/io.cloudevents.v1.rs"));
}

/// The content type of a protobuf message, if none is named.
const PROTOBUF: &str = "application/protobuf";

/// The seconds of the years 1 to 9999. Source: google/protobuf/timestamp.proto.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Reads `application/cloudevents+protobuf`.
///
/// # Errors
///
/// [`Error::Invalid`] with field `event` if the bytes are not such a message, or with the attribute
/// that is missing or breaks a rule.
pub(in crate::edge) fn protobuf(bytes: &Bytes) -> Result<NewEvent> {
    wire::check_lists(bytes, wire::CLOUDEVENT, 0)?;
    let event = v1::CloudEvent::decode(bytes.clone());
    read(event.map_err(|error| Error::invalid("event", error.to_string()))?)
}

/// Reads `application/cloudevents-batch+protobuf`, of at most `max_events`. The batch may be empty.
///
/// # Errors
///
/// [`Error::Invalid`] with field `events` if the bytes are not such a message. An invalid event is
/// an error in its place, which names the event, from 0, and the field: `events[2].id`.
pub(in crate::edge) fn protobuf_batch(
    bytes: &Bytes,
    max_events: usize,
) -> Result<impl ExactSizeIterator<Item = Result<NewEvent>> + use<>> {
    wire::check_lists(bytes, wire::CLOUDEVENTS, max_events)?;
    let batch = v1::CloudEventBatch::decode(bytes.clone());
    let batch = batch.map_err(|error| Error::invalid("events", error.to_string()))?;
    let read =
        |(index, event): (usize, Bytes)| protobuf(&event).map_err(|error| locate(error, index));
    Ok(batch.events.into_iter().enumerate().map(read))
}

fn read(event: v1::CloudEvent) -> Result<NewEvent> {
    let mut attributes = Attributes::default();
    attributes.put("specversion", event.spec_version)?;
    attributes.put("id", event.id)?;
    attributes.put("source", event.source)?;
    attributes.put("type", event.r#type)?;
    for (name, value) in event.attributes {
        if let Some(attr) = value.attr {
            attributes.put(&name, attribute(&name, attr)?)?;
        }
    }
    let payload = match event.data {
        None => Bytes::new(),
        Some(Data::BinaryData(bytes)) => bytes,
        Some(Data::TextData(text)) => text.into(),
        Some(Data::ProtoData(message)) => take_message(&mut attributes, message)?,
    };
    attributes.into_event(payload)
}

fn attribute(name: &str, attr: Attr) -> Result<Value<'static>> {
    check_name(name)?; // A problem with the value names the attribute.
    Ok(match attr {
        Attr::CeBoolean(value) => Value::Boolean(value),
        Attr::CeInteger(value) => Value::Integer(value),
        Attr::CeString(text) | Attr::CeUri(text) | Attr::CeUriRef(text) => Value::from(text),
        Attr::CeBytes(bytes) => Value::from(BASE64.encode(bytes)),
        Attr::CeTimestamp(time) => Value::from(timestamp(name, time)?),
    })
}

/// Returns a time in RFC 3339, to the nanosecond.
fn timestamp(name: &str, time: Timestamp) -> Result<String> {
    if !TIMESTAMP_SECONDS.contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        let Timestamp { seconds, nanos } = time;
        let problem = format!("{seconds} s and {nanos} ns are outside of the years 1 to 9999");
        return Err(Error::invalid(name, problem));
    }
    Ok(time.to_string())
}

/// Returns the bytes of a message. Its type goes into `dataschema`, as the specification says.
fn take_message(attributes: &mut Attributes, message: Any) -> Result<Bytes> {
    match attributes.text("dataschema") {
        None if message.type_url.is_empty() => {}
        None => attributes.put("dataschema", message.type_url)?,
        Some(schema) if schema == message.type_url => {}
        Some(schema) => {
            let (schema, type_url) = (shown(schema), shown(&message.type_url));
            let problem = format!("{schema:?} is not the type of proto_data, {type_url:?}");
            return Err(Error::invalid("dataschema", problem));
        }
    }
    if attributes.text("datacontenttype").is_none() {
        attributes.put("datacontenttype", PROTOBUF.to_owned())?;
    }
    Ok(message.value.into())
}
