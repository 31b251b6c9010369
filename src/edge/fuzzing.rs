//! Checks of input from clients, for any input at all: see [`crate::fuzzing`].

#![allow(clippy::missing_panics_doc, reason = "a check panics when a promise is broken")]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use super::cloudevents::{self, EventPlace, Mode, Stored};
use super::ndjson::{self, Line};
use super::page_token::StateToken;
use super::proto;
use super::selection::TopicSelection;
use super::selection_forms::LISTS;
use crate::broker::Filter;
use crate::cursor::{Epoch, Position, Sequence};
use crate::edge::http::accept::Accepted;
use crate::edge::http::asked::{self, Asked};
use crate::edge::http::query::Query;
use crate::edge::http::spare::Purpose;
use crate::event::{NewEvent, Timestamp};
use crate::fuzzing::refusal::check_refusal;
use crate::topic::TopicName;

/// The most events in one message. Few, so that code that keeps a list before it counts the list
/// exceeds the memory that the input allows.
const EVENTS: usize = 64;

pub use super::websocket::fuzzing::messages;

/// Checks the query of a URL: a query that is read and written again is the same request.
pub fn queries(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(error) = text.parse::<StateToken>() {
        check_refusal(&error);
    }
    if let Err(error) = of_stream(text) {
        check_refusal(&error);
    }
    let (asked, rest) = match asked(text) {
        Ok(asked) => asked,
        Err(error) => return check_refusal(&error),
    };
    if let Err(error) = rest.finish("none that are left") {
        check_refusal(&error);
    }
    let (again, rest) = self::asked(&written(&asked)).expect("a written query can be read");
    rest.finish("all").expect("nothing else was written");
    assert_eq!(again.start, asked.start);
    assert_eq!(again.filter, asked.filter);
    assert_eq!(again.member, asked.member);
}

fn asked(query: &str) -> crate::Result<(Asked, Query)> {
    let mut query = Query::parse_lists(Some(query), Purpose::Page, &LISTS)?;
    let topics = TopicSelection::many(&query.take_all("topic"))?;
    let asked = Asked::of(topics, None, &HeaderMap::new(), Default::default(), &mut query)?;
    Ok((asked, query))
}

/// Checks the query of a stream: the ignored names can be reported.
fn of_stream(text: &str) -> crate::Result<()> {
    let form = Some(Accepted::Stream);
    let mut query = asked::query(Some(text), form)?;
    let topics = TopicSelection::many(&query.take_all("topic"))?;
    let asked = Asked::of(topics, form, &HeaderMap::new(), Default::default(), &mut query);
    let ignored = query.into_ignored();
    assert_eq!(ignored.header().is_some(), ignored.json().is_some(), "{ignored:?}");
    asked.map(|_| ())
}

/// Returns the query for a request.
fn written(asked: &Asked) -> String {
    let Filter { types, keys, key_prefixes, headers } = &asked.filter;
    let mut pairs: Vec<(&str, String)> = Vec::new();
    pairs.extend(asked.start.map(|start| ("from", start.to_string())));
    pairs.extend(types.iter().map(|text| ("type", text.clone())));
    pairs.extend(keys.iter().map(|text| ("key", text.clone())));
    pairs.extend(key_prefixes.iter().map(|text| ("key_prefix", text.clone())));
    pairs.extend(headers.iter().map(|(name, text)| ("header", format!("{name}:{text}"))));
    if let Some(member) = &asked.member {
        pairs.push(("member", member.id.clone()));
        let info = serde_json::to_string(&member.info).expect("texts are JSON");
        pairs.push(("member_info", info));
    }
    let pair = |(name, value): (&str, String)| {
        format!("{name}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC))
    };
    pairs.into_iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Checks a line of NDJSON: its event, written as a line again, is the same event.
pub fn lines(input: &[u8]) {
    match Line::parse(input) {
        Ok(Line { topic, event }) => {
            let name = topic.map_or_else(|| "a".to_owned(), String::from);
            let line = written_line(&name, &event);
            assert!(!line.contains('\n'), "{line}");
            let again = Line::parse(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
            let topic = Some(name.parse::<TopicName>().expect("the name was valid before"));
            assert_eq!(again, Line { topic, event }, "{line}");
        }
        Err(error) => check_refusal(&error),
    }
}

/// Returns the line that publishes `event` again.
pub(super) fn written_line(topic: &str, event: &NewEvent) -> String {
    let event = event.clone();
    let stored = proto::Event {
        id: event.id,
        r#type: event.event_type,
        key: event.key,
        headers: event.headers,
        content_type: event.content_type,
        payload: event.payload,
        publisher_time_ms: event.publisher_time.map(Timestamp::as_ms),
        ttl_ms: event.ttl_ms,
        ..proto::Event::default()
    };
    ndjson::line(topic, &stored).expect("an event can be written")
}

/// Checks CloudEvents. The first byte of the input chooses the mode. The rest is the body; in
/// binary mode and over gRPC, lines of headers and an empty line come before it.
pub fn cloudevents(input: &[u8]) {
    let Some((mode, body)) = input.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    let read = |mode, headers: &HeaderMap, body: &Bytes| {
        cloudevents::read(mode, headers, body, EVENTS)?.collect::<crate::Result<Vec<NewEvent>>>()
    };
    let read = match mode {
        b'b' => {
            let (headers, body) = split_headers(&body);
            read(Mode::Binary, &headers, &body)
        }
        b's' => read(Mode::Structured, &HeaderMap::new(), &body),
        b'S' => read(Mode::Batched, &HeaderMap::new(), &body),
        b'p' => read(Mode::Protobuf, &HeaderMap::new(), &body),
        b'P' => read(Mode::ProtobufBatch, &HeaderMap::new(), &body),
        _ => {
            let (headers, payload) = split_headers(&body);
            let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let content_type = headers.get("content-type").map(text).unwrap_or_default();
            let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), text(value));
            let headers = headers.iter().map(pair).collect();
            let event = NewEvent { headers, content_type, payload, ..NewEvent::default() };
            let carried = cloudevents::carried(event.clone());
            if carried.as_ref().is_ok_and(|carried| *carried == event) {
                return; // An event like any other.
            }
            carried.map(|event| vec![event])
        }
    };
    match read {
        Ok(events) => events.iter().for_each(check_cloudevent),
        Err(error) => check_refusal(&error),
    }
}

/// Reads `name: value` lines, up to an empty one. Invalid headers are skipped.
fn split_headers(input: &Bytes) -> (HeaderMap, Bytes) {
    let end = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) =
        end.map_or((&input[..], Bytes::new()), |end| (&input[..end], input.slice(end + 2..)));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (headers, body)
}

/// Checks that a CloudEvent, written as one, reads the same.
fn check_cloudevent(event: &NewEvent) {
    let stored = Stored {
        place: EventPlace::Stored(Sequence::new(7), Position::new(70)),
        time: Timestamp::from_ms(700),
        publisher_time: event.publisher_time,
        event_type: &event.event_type,
        key: &event.key,
        headers: event.headers.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect(),
        content_type: &event.content_type,
        payload: &event.payload,
    };
    let mut written = Vec::new();
    cloudevents::append("a.b", Epoch::new(7), &stored, &mut written);
    let shown = String::from_utf8_lossy(&written);
    let body = written.clone().into();
    let again = cloudevents::read(Mode::Structured, &HeaderMap::new(), &body, EVENTS);
    let again = again.and_then(|mut events| events.next().expect("an event was written"));
    let again = again.unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(again.id, event.id, "{shown}");
    assert_eq!(again.event_type, event.event_type, "{shown}");
    assert_eq!(again.key, event.key, "{shown}");
    assert_eq!(again.content_type, event.content_type, "{shown}");
    // A time that the publisher did not give is set by the broker.
    let time = event.publisher_time.unwrap_or(stored.time);
    assert_eq!(again.publisher_time, Some(time), "{shown}");
    // White space around JSON is not part of the data.
    let is_json = serde_json::from_slice::<&RawValue>(&again.payload).is_ok();
    let is_trimmed = is_json && again.payload == event.payload.trim_ascii();
    assert!(again.payload == event.payload || is_trimmed, "{:?}: {shown}", event.payload);
    let own = ["ce-time", "ce-leftofftopic", "ce-leftoffsequence", "ce-leftoffposition"];
    for (name, text) in event.headers.iter().filter(|(name, _)| !own.contains(&name.as_str())) {
        assert_eq!(again.headers.get(name), Some(text), "{name} of {shown}");
    }
}
