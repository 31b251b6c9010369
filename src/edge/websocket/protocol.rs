//! The messages of `leftoff.v1.json`, each a JSON object with a `type`.
//!
//! ```text
//! ▶ {"type":"subscribe","subscription":"s","topic":"orders.eu","from":"earliest"}
//! ▶ {"type":"subscribe","subscription":"t","topics":["users.42.>"],"filter":{"types":["note"]}}
//! ◀ {"type":"subscribed","subscription":"s","cursor":"0-9f3c2a1b","earliest":1,"tail":3}
//! ◀ {"type":"event","subscription":"s","cursor":"1-9f3c2a1b","event":{"topic":"orders.eu",…}}
//! ◀ {"type":"caught_up","subscription":"s","cursor":"2-9f3c2a1b"}
//! ◀ {"type":"gap","subscription":"s","cursor":"7-9f3c2a1b","gap":{"reason":"retention",…}}
//! ◀ {"type":"cursor","subscription":"t","cursor":"@90-9f3c2a1b"}
//! ◀ {"type":"ended","subscription":"s","error":{…}}
//! ▶ {"type":"unsubscribe","subscription":"s"}
//! ◀ {"type":"unsubscribed","subscription":"s"}
//! ▶ {"type":"publish","ref":"p1","topic":"orders.eu","event":{"key":"7","data":{"total":9}}}
//! ◀ {"type":"ack","ref":"p1","sequence":3,"position":91,"time":"…","duplicate":false,…}
//! ◀ {"type":"error","ref":"p1","error":{"status":400,"detail":"…",…}}
//! ▶ {"type":"publish","ref":"p3","topics":["users.1","users.2"],"event":{"data":"hello"}}
//! ◀ {"type":"ack","ref":"p3","topics":[{"topic":"users.1","sequence":8,…},{"topic":"users.2",…}]}
//! ▶ {"type":"publish","ephemeral":true,"ref":"p2","topic":"room","event":{"type":"typing"}}
//! ◀ {"type":"ack","ref":"p2","ephemeral":true,"receivers":3}
//! ◀ {"type":"ephemeral","subscription":"s","event":{"topic":"room","ephemeral":true,…}}
//! ◀ {"type":"denied","subscription":"t","topics":["orders.us"],"error":{…}}
//! ◀ {"type":"counts","subscription":"t","total":9,"unread":2,…,"revision":"@95-9f3c2a1b"}
//! ◀ {"type":"marked","subscription":"t","mark":["read"],"events":{"users.42.a":"17"},…}
//! ▶ {"type":"checkpoint","ref":"c1","topic":"users.42.>","consumer":"inbox","cursor":"@90-…"}
//! ◀ {"type":"checkpointed","ref":"c1","checkpoint":"@90-…","moved":true,"revision":"@96-…"}
//! ▶ {"type":"mark","ref":"m1","topic":"users.42.>","consumer":"inbox","mark":["seen"],…}
//! ◀ {"type":"ack","ref":"m1","revision":"@97-…","changed":true,"gone":0}
//! ▶ {"type":"work",…}                            shared work: see working.rs
//! ▶ {"type":"refresh","ref":"r1","token":"…"}
//! ◀ {"type":"refreshed","ref":"r1","until":"2026-01-31T00:00:00.000Z"}
//! ▶ {"type":"ping","ref":1}
//! ◀ {"type":"pong","ref":1,"heartbeat_ms":15000}
//! ```
//!
//! A `ref` is a text of up to 255 bytes, or a number. The answer has the same value.
//!
//! A `subscribe` may have a `member`, `{"id":"…","info":{…}}`. The member is present in the topics
//! that are named, until the subscription ends.
//!
//! A published `event` has the fields of a line of NDJSON (`ndjson.rs`). `events` is a list of such
//! objects, stored all or none. With `topics`, each of these topics gets the events: all of them
//! store all events, or none does.

#![doc = include_str!("protocol.md")]

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::super::event_lines::EventLines;
use super::super::json_problem;
use super::super::publishing::PublishTopics;
use super::super::subscriptions::asked::{Subscribe, SubscribeJson, name};
use super::keeping::Keep;
use super::reference::Reference;
use super::working::WorkMessage;
use crate::broker::LimitsConfig;
use crate::error::{Error, Result};
use crate::lists::List;
use crate::topic::TopicName;

/// The types of messages, for people.
const TYPES: &str = "subscribe, unsubscribe, publish, checkpoint, mark, work, settle, credit, \
                     stop, refresh, ping";

/// The request of a client.
#[derive(Debug)]
pub(super) enum Request {
    Subscribe(Subscribe),
    Unsubscribe {
        subscription: String,
    },
    Publish {
        reference: Option<Reference>,
        publish: ToStore,
    },
    PublishEphemeral {
        reference: Option<Reference>,
        topic: TopicName,
        lines: EventLines,
    },
    Refresh {
        reference: Option<Reference>,
        token: NewToken,
    },
    /// Asks whether the connection is alive.
    Ping {
        reference: Option<Reference>,
    },
    /// A checkpoint, or marks.
    Keep(Keep),
    /// Shared work.
    Work(WorkMessage),
}

/// A token with which the client proves anew who it is. Not shown anywhere.
pub(super) struct NewToken(pub(super) String);

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NewToken").finish_non_exhaustive()
    }
}

/// Events to store, for one topic or for each topic of a list.
#[derive(Debug)]
pub(super) struct ToStore {
    pub(super) topics: PublishTopics,
    pub(super) lines: EventLines,
    pub(super) expected_sequence: Option<u64>,
}

/// The reason to refuse a message, with the names in it that could be read.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reference: Option<Reference>,
    pub(super) subscription: Option<String>,
    pub(super) error: Error,
}

/// The fields that every message has, or may have.
#[derive(Deserialize)]
struct Head<'a> {
    r#type: String,
    #[serde(borrow)]
    r#ref: Option<&'a RawValue>,
    subscription: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefreshJson<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    token: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PingJson<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnsubscribeJson {
    #[serde(rename = "type")]
    _type: String,
    subscription: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishJson<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    topic: Option<String>,
    topics: Option<List<String>>,
    expected_sequence: Option<u64>,
    #[serde(default)]
    ephemeral: bool,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    events: Option<&'a RawValue>,
}

impl Request {
    /// Reads a message that publishes within `limits`.
    pub(super) fn parse(text: &Utf8Bytes, limits: &LimitsConfig) -> Result<Self, Refused> {
        let invalid =
            |error: serde_json::Error| Error::invalid("message", json_problem::words(&error));
        let nobody = |error| Refused { reference: None, subscription: None, error };
        let head: Head<'_> = serde_json::from_str(text).map_err(|error| nobody(invalid(error)))?;
        let request = match head.r#type.as_str() {
            "subscribe" => serde_json::from_str(text).map_err(invalid).and_then(subscribe),
            "unsubscribe" => serde_json::from_str(text).map_err(invalid).and_then(unsubscribe),
            "refresh" => serde_json::from_str(text).map_err(invalid).and_then(refresh),
            "ping" => serde_json::from_str(text).map_err(invalid).and_then(ping),
            "checkpoint" => keep(Keep::checkpoint(text)),
            "mark" => keep(Keep::mark(text)),
            "publish" => {
                let json = serde_json::from_str(text).map_err(invalid);
                json.and_then(|json| publish(json, text.as_ref(), limits))
            }
            other if let Some(read) = WorkMessage::read(other, text) => {
                read.map_err(invalid).and_then(|read| read.map(Request::Work))
            }
            other => {
                let shown: String = other.chars().take(64).collect();
                let problem = format!("{shown:?} is not one of {TYPES}");
                Err(Error::invalid("type", problem))
            }
        };
        let Head { r#ref: reference, subscription, .. } = head;
        let reference = reference.and_then(|json| Reference::read(json).ok());
        request.map_err(|error| Refused { reference, subscription, error })
    }
}

fn subscribe(json: SubscribeJson) -> Result<Request> {
    json.subscribe().map(Request::Subscribe)
}

fn keep(read: serde_json::Result<Result<Keep>>) -> Result<Request> {
    let read = read.map_err(|error| Error::invalid("message", json_problem::words(&error)))?;
    read.map(Request::Keep)
}

fn unsubscribe(json: UnsubscribeJson) -> Result<Request> {
    Ok(Request::Unsubscribe { subscription: name("subscription", json.subscription)? })
}

fn refresh(json: RefreshJson<'_>) -> Result<Request> {
    let reference = json.reference.map(Reference::read).transpose()?;
    Ok(Request::Refresh { reference, token: NewToken(json.token) })
}

fn ping(json: PingJson<'_>) -> Result<Request> {
    Ok(Request::Ping { reference: json.reference.map(Reference::read).transpose()? })
}

fn publish(json: PublishJson<'_>, text: &Bytes, limits: &LimitsConfig) -> Result<Request> {
    let max_events = limits.max_batch_events as usize;
    let lines = EventLines::of(json.event, json.events, text, max_events)?;
    let reference = json.reference.map(Reference::read).transpose()?;
    let PublishJson { topic, topics, expected_sequence, ephemeral, .. } = json;
    let topic = topic.map(|topic| TopicName::new(&topic)).transpose()?;
    let topics = topics.map(|topics| topics.entries("topics")).transpose()?;
    let topics = PublishTopics::of(topic, topics, limits)?;
    topics.checked_count(lines.len(), limits)?;
    if ephemeral {
        return Ok(Request::PublishEphemeral { reference, topic: topics.one()?, lines });
    }
    Ok(Request::Publish { reference, publish: ToStore { topics, lines, expected_sequence } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_wrong_is_refused_with_the_reason_and_whom_it_is_about() {
        let limits = LimitsConfig::default();
        let long = format!(r#"{{"type":"unsubscribe","subscription":"{}"}}"#, "x".repeat(256));
        let refusals = [
            ("", "the JSON ends before", None),
            ("[]", "a list is not an object", None),
            (r#"{"type":"dance","ref":"r"}"#, "not one of subscribe", Some("r")),
            (r#"{"type":"subscribe","subscription":"s"}"#, "either topic or topics", Some("s")),
            (r#"{"type":"subscribe","subscription":"s","topic":"a b"}"#, "topic: holds", Some("s")),
            (r#"{"type":"subscribe","topic":"a"}"#, "subscription is missing", None),
            (r#"{"type":"subscribe","subscription":"","topic":"a"}"#, "is empty", Some("")),
            (
                r#"{"type":"subscribe","subscription":"s","topic":"a","frm":"1"}"#,
                "\"frm\" is not a known name",
                Some("s"),
            ),
            (
                r#"{"type":"subscribe","subscription":"s","topics":["a.>.b"]}"#,
                "topic pattern",
                Some("s"),
            ),
            (r#"{"type":"refresh","ref":"r"}"#, "token is missing", Some("r")),
            (r#"{"type":"refresh","token":"t","tok":1}"#, "\"tok\" is not a known name", None),
            (r#"{"type":"ping","ref":"r","at":1}"#, "\"at\" is not a known name", Some("r")),
            (r#"{"type":"publish","ref":"r","topic":"a"}"#, "either event or events", Some("r")),
            (r#"{"type":"publish","ref":7,"topic":"a"}"#, "either event or events", Some("7")),
            (r#"{"type":"publish","ref":[7],"topic":"a","event":{}}"#, "ref: is neither", None),
            (r#"{"type":"publish","ref":true,"topic":"a","event":{}}"#, "ref: is neither", None),
            (r#"{"type":"publish","ref":"","topic":"a","event":{}}"#, "ref: is empty", None),
            (
                r#"{"type":"publish","ref":98765432109876543210,"topic":"a","event":{}}"#,
                "ref: is a number of more than 64 bits",
                None,
            ),
            (r#"{"type":"publish","ref":-1e400,"topic":"a","event":{}}"#, "out of the range", None),
            (
                r#"{"type":"publish","ref":5,"ref":6,"topic":"a","event":{}}"#,
                "ref is given twice",
                None,
            ),
            (
                r#"{"type":"publish","ref":"\ud800","topic":"a","event":{}}"#,
                "ref: unexpected end of hex escape, at column 8",
                None,
            ),
            (
                r#"{"type":"publish","ref":"r","topic":"a","topics":["b"],"event":{}}"#,
                "topic: write either topic or topics",
                Some("r"),
            ),
            (
                r#"{"type":"publish","ref":"r","topics":[],"event":{}}"#,
                "topics: is empty",
                Some("r"),
            ),
            (r#"{"type":"publish","topics":["a","b c"],"event":{}}"#, "topic", None),
            (
                r#"{"type":"publish","ref":"r","topics":["a"],"ephemeral":true,"event":{}}"#,
                "ephemeral: is for one topic",
                Some("r"),
            ),
            (&long, "256 is over the limit of 255", Some(&*"x".repeat(256))),
        ];
        for (text, reason, whom) in refusals {
            let refused = Request::parse(&text.into(), &limits).unwrap_err();
            let message = refused.error.to_string();
            assert!(message.contains(reason), "{text}: {message}");
            let reference = refused.reference.map(|reference| match reference {
                Reference::Text(text) => text,
                Reference::Number(number) => number.to_string(),
            });
            assert_eq!(reference.or(refused.subscription).as_deref(), whom, "{text}");
        }
        let text = r#"{"type":"refresh","ref":1,"token":"secret"}"#;
        let request = Request::parse(&text.into(), &limits).unwrap();
        let Request::Refresh { token: NewToken(token), .. } = &request else { panic!() };
        assert!(token == "secret" && !format!("{request:?}").contains("secret"));
        for (event, reason) in [
            (r#"{"dat":1}"#, "\"dat\" is not a known name"),
            (r#"{"topic":"b"}"#, "topic: belongs beside the event"),
        ] {
            let text = format!(r#"{{"type":"publish","topic":"a","events":[{{}},{event},{{}}]}}"#);
            let request = Request::parse(&text.into(), &limits).unwrap();
            let Request::Publish { publish, .. } = request else { panic!("{request:?}") };
            let events: Vec<_> = publish.lines.events().collect();
            assert!(matches!(&events[..], [Ok(_), Err(_), Ok(_)]), "{events:?}");
            let refused = events[1].as_ref().unwrap_err().to_string();
            assert!(refused.contains(reason), "{event}: {refused}");
        }
    }
}
