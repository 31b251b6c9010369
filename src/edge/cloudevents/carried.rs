//! The events that a request, or an event, carries as CloudEvents.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::mode::{Mode, VERSION_HEADER};
use super::protobuf::{protobuf, protobuf_batch};
use super::read::{batched, binary, structured};
use crate::error::{Error, Result};
use crate::event::NewEvent;

/// The events of a request, each parsed when the iterator reaches it.
pub(in crate::edge) type CarriedEvents<'a> =
    Box<dyn ExactSizeIterator<Item = Result<NewEvent>> + 'a>;

/// Returns the events of a request, at most `max_events`.
///
/// # Errors
///
/// - [`Error::Invalid`] if the request breaks a rule. An invalid event of a batch is an error in
///   its place.
/// - [`Error::OverLimit`] with the number of events, or of the attributes of one.
pub(in crate::edge) fn read<'a>(
    mode: Mode,
    headers: &HeaderMap,
    body: &'a Bytes,
    max_events: usize,
) -> Result<CarriedEvents<'a>> {
    let one = |event| Box::new(std::iter::once(Ok(event)));
    Ok(match mode {
        Mode::Binary => Box::new(binary(headers, body.clone())?.into_iter().map(Ok)),
        Mode::Structured => one(structured(body)?),
        Mode::Batched => Box::new(batched(body, max_events)?),
        Mode::Protobuf => one(protobuf(body)?),
        Mode::ProtobufBatch => Box::new(protobuf_batch(body, max_events)?),
    })
}

/// Returns the CloudEvent in the payload or the headers of `event`, which came over gRPC. Any other
/// event is returned unchanged.
///
/// # Errors
///
/// As [`read`]; [`Error::Invalid`] for a batch of any number but one.
pub(in crate::edge) fn carried(event: NewEvent) -> Result<NewEvent> {
    let may_be = event.content_type.contains("cloudevents")
        || event.headers.keys().any(|name| name.eq_ignore_ascii_case(VERSION_HEADER));
    if !may_be {
        return Ok(event);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &event.headers {
        let name: HeaderName = name.parse().map_err(|_| invalid_header(name))?;
        let value = HeaderValue::try_from(value).map_err(|_| invalid_header(name.as_str()))?;
        headers.append(name, value);
    }
    let content_type = HeaderValue::try_from(&event.content_type);
    headers.extend(content_type.ok().map(|value| (header::CONTENT_TYPE, value)));
    let Some(mode) = Mode::of(&event.content_type, &headers) else { return Ok(event) };
    let mut carried = read(mode, &headers, &event.payload, 1)?;
    match (carried.next(), carried.len()) {
        (Some(carried), 0) => Ok(NewEvent { ttl_ms: event.ttl_ms, ..carried? }),
        _ => Err(Error::invalid("payload", "is a batch of CloudEvents; send each by itself")),
    }
}

fn invalid_header(name: &str) -> Error {
    Error::invalid("headers", format!("{name:?} or its value is not valid in a CloudEvent"))
}
