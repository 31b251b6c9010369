//! The WebSocket and each of its messages, by every kind of credential.

use std::collections::BTreeSet;

use leftoff::permission::Action;
use serde_json::{Value, json};

use super::credentials::Sent;
use super::kinds::{Credentials, KINDS, Kind, Use};
use super::{CANARY, Outcome, Rule, SECRET, config};
use crate::common::Server;
use crate::websocket::Client;

/// Returns the types of all messages to the broker, from the page of the protocol.
fn messages() -> BTreeSet<String> {
    let page = include_str!("../../../src/edge/websocket/protocol.md");
    let table = page.split("## Messages to the broker").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap().to_owned()).filter(|it| it != "type").collect()
}

/// A message with what it needs, and the type of the answer of success, and of refusal.
struct Spoken {
    rule: Rule,
    message: Value,
    done: &'static str,
    refused: &'static str,
}

/// Returns the messages of a type, each for a topic of the owner.
fn spoken(kind: &str, sent: &Sent) -> Vec<Spoken> {
    use Action::{Presence, Publish, Subscribe};
    use Rule::{Inside, Needs};
    let subscribe = |others: Value| {
        let mut message = json!({"type": "subscribe", "subscription": "s", "from": "earliest"});
        message.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        message
    };
    let of = |rule, message, done, refused| Spoken { rule, message, done, refused };
    let event = || json!({"data": "said"});
    match kind {
        "subscribe" => vec![
            of(Needs(Subscribe), subscribe(json!({"topic": SECRET})), "event", "ended"),
            of(Needs(Subscribe), subscribe(json!({"topics": ["secret.*"]})), "event", "ended"),
            of(Needs(Subscribe), subscribe(json!({"topics": [SECRET]})), "event", "ended"),
            of(
                Needs(Subscribe),
                subscribe(json!({"topics": ["secret.>"], "consumer": "c", "counts": true})),
                "event",
                "ended",
            ),
            of(
                Needs(Presence),
                subscribe(json!({"topic": SECRET, "member": {"info": {}}})),
                "event",
                "ended",
            ),
        ],
        "checkpoint" => vec![of(
            Needs(Subscribe),
            json!({"type": "checkpoint", "ref": 1, "topic": SECRET, "consumer": "c",
                "cursor": "1"}),
            "checkpointed",
            "error",
        )],
        "mark" => vec![of(
            Needs(Subscribe),
            json!({"type": "mark", "ref": 1, "topic": SECRET, "consumer": "c", "mark": ["seen"],
                "events": [1]}),
            "ack",
            "error",
        )],
        // There is no such consumer, which is told to those who may know.
        "work" => vec![of(
            Needs(Subscribe),
            json!({"type": "work", "ref": 1, "work": "w", "topic": SECRET, "consumer": "c",
                "worker": "w", "credit": 1}),
            "error",
            "error",
        )],
        "settle" => vec![of(
            Inside,
            json!({"type": "settle", "ref": 1, "work": "w", "ack": ["1-1-1-1"]}),
            "error",
            "error",
        )],
        "credit" => vec![of(
            Inside,
            json!({"type": "credit", "ref": 1, "work": "w", "credit": 1}),
            "error",
            "error",
        )],
        "stop" => {
            vec![of(Inside, json!({"type": "stop", "ref": 1, "work": "w"}), "error", "error")]
        }
        "ping" => vec![of(Inside, json!({"type": "ping", "ref": 1}), "pong", "error")],
        "unsubscribe" => vec![of(
            Inside,
            json!({"type": "unsubscribe", "subscription": "none"}),
            "error",
            "error",
        )],
        "publish" => vec![
            of(
                Needs(Publish),
                json!({"type": "publish", "ref": 1, "topic": SECRET, "event": event()}),
                "ack",
                "error",
            ),
            of(
                Needs(Publish),
                json!({"type": "publish", "ref": 1, "topic": SECRET, "ephemeral": true,
                    "event": event()}),
                "ack",
                "error",
            ),
        ],
        "refresh" => match sent {
            // The same caller may renew what it has, by what it has.
            Sent::Bearer(token) | Sent::Cookie(token) => vec![of(
                Inside,
                json!({"type": "refresh", "ref": 1, "token": token}),
                "refreshed",
                "error",
            )],
            _ => vec![of(
                Inside,
                json!({"type": "refresh", "ref": 1, "token": "not.a-token"}),
                "error",
                "error",
            )],
        },
        _ => panic!("{kind} has no rule"),
    }
}

/// Goal: a WebSocket opens for callers who are known, and each message does what its rule says. A
/// refused message does not end the connection.
#[tokio::test]
async fn every_message_of_a_web_socket_by_every_kind_of_credential() {
    let server = Server::with(config()).await;
    server.publish(SECRET, CANARY).await;
    let credentials = Credentials::make(&server).await;
    let messages = messages();
    assert!(messages.len() >= 3, "{messages:?}");
    for kind in KINDS {
        let sent = credentials.one(&server, kind).await;
        let opened = Client::try_connect(server.address, &sent.path("/v1/ws"), sent.header()).await;
        let outcome = Rule::Inside.outcome(kind.standing(Use::WebSocket));
        let mut client = match opened {
            Ok(client) => client,
            Err(status) => {
                let expected = (401, Outcome::Unauthenticated);
                assert_eq!((status, outcome), expected, "{kind:?}");
                continue;
            }
        };
        assert_eq!(outcome, Outcome::Done, "{kind:?}");
        for message in &messages {
            for spoken in spoken(message, &sent) {
                check(&mut client, kind, spoken).await;
            }
        }
    }
    server.stop().await;
}

async fn check(client: &mut Client, kind: Kind, spoken: Spoken) {
    let Spoken { rule, message, done, refused } = spoken;
    let context = format!("{message} by {kind:?}");
    client.say(message.clone()).await;
    let is_done = rule.outcome(kind.standing(Use::WebSocket)) == Outcome::Done;
    let wanted = if is_done { done } else { refused };
    let mut heard = String::new();
    loop {
        let answer = client.hear().await;
        heard.push_str(&answer.to_string());
        let answered = answer["type"].as_str().unwrap();
        if !is_done && answered == refused {
            let error = &answer["error"];
            let told = (error["status"].as_u64(), error["type"].as_str());
            assert_eq!(told, (Some(403), Some("urn:leftoff:problem:denied")), "{context}: {heard}");
            break;
        }
        if is_done && answered == done {
            break;
        }
        assert!(!["ended", "error", "ack"].contains(&answered), "{context}: {heard}, not {wanted}");
    }
    assert_eq!(heard.contains(CANARY), is_done && wanted == "event", "{context}: {heard}");
    if message["type"] == "subscribe" && is_done {
        client.say(json!({"type": "unsubscribe", "subscription": "s"})).await;
        client.find("unsubscribed").await;
    }
}
