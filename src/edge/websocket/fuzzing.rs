//! A check of WebSocket messages, for any input at all: see [`crate::fuzzing`].

#![allow(clippy::missing_panics_doc, reason = "a check panics when a promise is broken")]

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::consumers::asking::ReadAs;
use super::super::event_lines::EventLines;
use super::super::fuzzing::written_line;
use super::super::publishing::PublishTopics;
use super::super::selection::{TopicSelection, Wanted};
use super::super::subscriptions::asked::Subscribe;
use super::protocol::{NewToken, Request, ToStore};
use super::reference::Reference;
use crate::broker::LimitsConfig;
use crate::error::Result;
use crate::event::NewEvent;
use crate::fuzzing::refusal::check_refusal;

/// The most events in one message. Few, so that code that keeps a list before it counts the list
/// exceeds the memory that the input allows.
const EVENTS: u64 = 64;

/// Checks one message: its request, written as a message again, is the same request.
pub fn messages(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let limits = LimitsConfig { max_batch_events: EVENTS, ..LimitsConfig::default() };
    let request = match Request::parse(&text.into(), &limits) {
        // Serde has read it alone, and nothing of it is raw.
        Ok(Request::Keep(_) | Request::Work(_)) => return,
        Ok(request) => request,
        Err(refused) => return check_refusal(&refused.error),
    };
    let written = match written(&request) {
        Ok(written) => written,
        Err(refused) => return check_refusal(&refused),
    };
    let again = Request::parse(&written.as_str().into(), &limits);
    let again = again.unwrap_or_else(|error| panic!("{written}: {error:?}"));
    assert_eq!(shown(&again), shown(&request), "{written}");
}

/// Returns a request in words, however its events were written.
fn shown(request: &Request) -> String {
    let shown = |lines: &EventLines, rest: &dyn std::fmt::Debug| {
        let events = lines.events().collect::<Result<Vec<_>>>();
        format!("{rest:?} {events:?}")
    };
    match request {
        Request::Publish { reference, publish } => {
            let ToStore { topics, lines, expected_sequence } = publish;
            shown(lines, &(reference, topics, expected_sequence))
        }
        Request::PublishEphemeral { reference, topic, lines } => shown(lines, &(reference, topic)),
        Request::Refresh { reference, token: NewToken(token) } => format!("{reference:?} {token}"),
        other => format!("{other:?}"),
    }
}

/// Returns the message for a request, or the error of its first invalid event.
fn written(request: &Request) -> Result<String> {
    let events = |lines: &EventLines| lines.events().collect::<Result<Vec<NewEvent>>>();
    Ok(match request {
        Request::Subscribe(subscribe) => written_subscribe(subscribe).to_string(),
        Request::Unsubscribe { subscription } => {
            json!({"type": "unsubscribe", "subscription": subscription}).to_string()
        }
        Request::Publish { reference, publish } => {
            let ToStore { topics, lines, expected_sequence } = publish;
            let expected = ("expected_sequence", json!(expected_sequence));
            written_publish(reference.as_ref(), topics, &events(lines)?, expected)
        }
        Request::PublishEphemeral { reference, topic, lines } => {
            let ephemeral = ("ephemeral", json!(true));
            let topic = PublishTopics::One(topic.clone());
            written_publish(reference.as_ref(), &topic, &events(lines)?, ephemeral)
        }
        Request::Refresh { reference, token: NewToken(token) } => {
            let (reference, token) = (json!(reference), json!(token));
            format!(r#"{{"type":"refresh","ref":{reference},"token":{token}}}"#)
        }
        Request::Ping { reference } => {
            format!(r#"{{"type":"ping","ref":{}}}"#, json!(reference))
        }
        Request::Keep(keep) => unreachable!("{keep:?} is not written"),
        Request::Work(work) => unreachable!("{work:?} is not written"),
    })
}

fn written_publish(
    reference: Option<&Reference>,
    topics: &PublishTopics,
    events: &[NewEvent],
    (name, value): (&str, Value),
) -> String {
    // Written as text, so that the payloads stay unchanged.
    let events = serde_json::to_string(&lines(events)).expect("lines are JSON");
    let (named, topics) = match topics {
        PublishTopics::One(topic) => ("topic", json!(topic)),
        PublishTopics::Each(topics) => ("topics", json!(topics)),
    };
    let reference = json!(reference);
    let head = format!(r#"{{"type":"publish","ref":{reference},"{named}":{topics}"#);
    format!(r#"{head},"{name}":{value},"events":{events}}}"#)
}

fn written_subscribe(subscribe: &Subscribe) -> Value {
    let Subscribe { subscription, wanted } = subscribe;
    let Wanted { topics, start, on_gap, filter, member, is_strict, consumer } = wanted;
    let mut message = json!({
        "type": "subscribe", "subscription": subscription, "from": start,
        "on_gap": format!("{on_gap:?}").to_lowercase(), "filter": filter, "member": member,
        "strict": is_strict,
    });
    if let Some(consumer) = consumer {
        let ReadAs { named, counts, marks_after } = &**consumer;
        let (name, owner) = named.parts();
        message["consumer"] = json!(name);
        message["owner"] = json!(owner);
        message["counts"] = json!(counts);
        message["marks_after"] = json!(marks_after);
    }
    match topics {
        TopicSelection::One(topic) => message["topic"] = json!(topic),
        TopicSelection::Many(patterns) => message["topics"] = json!(patterns),
    }
    message
}

/// Returns the lines of events, without topics.
fn lines(events: &[NewEvent]) -> Vec<BTreeMap<String, Box<RawValue>>> {
    let line = |event| {
        let line = written_line("a", event);
        let mut line: BTreeMap<_, _> = serde_json::from_str(&line).expect("a line is an object");
        line.remove("topic");
        line
    };
    events.iter().map(line).collect()
}
