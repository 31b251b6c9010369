//! The conditions of a publish, `expected_sequence` and `ttl_ms`, mean the same over each protocol.

use leftoff::edge::proto::{NewEvent as WireEvent, PublishRequest};
use leftoff::{TopicConfig, cursor::Sequence};
use serde_json::{Value, json};
use tonic::Code;

use crate::common::{PATIENCE, Server, get, name, post, send, to};
use crate::websocket::Client;

/// A way in which a topic loses its events.
#[derive(Debug, Clone, Copy)]
enum Emptied {
    Purged,
    Deleted,
    Aged,
}

async fn empty(server: &Server, topic: &str, how: Emptied) {
    let (broker, topic) = (&server.broker, name(topic));
    match how {
        Emptied::Purged => broker.purge(&topic, Sequence::new(u64::MAX)).await.unwrap(),
        Emptied::Deleted => broker.delete_topic(&topic).await.unwrap(),
        Emptied::Aged => {
            let config = TopicConfig::with(|config| config.max_age_ms = Some(1));
            broker.set_topic(&topic, config).await.unwrap();
            let is_empty = async {
                while !broker.topic(&topic).unwrap().extent.is_empty() {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    broker.maintain(Some(&topic)).await.unwrap();
                }
            };
            tokio::time::timeout(PATIENCE, is_empty).await.unwrap();
            broker.set_topic(&topic, TopicConfig::default()).await.unwrap();
        }
    }
}

/// Publishes over `transport`. Returns the event's sequence, or else the topic's last sequence.
async fn publish(server: &Server, transport: &str, topic: &str, expected: u64) -> Result<u64, u64> {
    let sequence = |json: &Value| json.as_u64().unwrap();
    match transport {
        "http" => {
            let path = format!("/v1/topics/{topic}/events?expected_sequence={expected}");
            let answer = post(server.address, &path, "x").await;
            let json = answer.json();
            match answer.status.as_u16() {
                201 => Ok(sequence(&json["sequence"])),
                412 => Err(sequence(&json["actual_sequence"])),
                other => panic!("{other}: {json}"),
            }
        }
        "grpc" => {
            let request = PublishRequest {
                topic: topic.to_owned(),
                events: vec![WireEvent::default()],
                expected_sequence: Some(expected),
                ephemeral: false,
                topics: Vec::new(),
            };
            match server.grpc().await.publish(request).await {
                Ok(answer) => Ok(answer.into_inner().ack.unwrap().first.unwrap().sequence),
                Err(status) => {
                    use tonic_types::StatusExt;
                    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
                    let info = status.get_details_error_info().unwrap();
                    Err(info.metadata["actual_sequence"].parse().unwrap())
                }
            }
        }
        "websocket" => {
            let mut client = Client::connect(server.address).await;
            let event = json!({"data": "x"});
            client
                .say(json!({
                    "type": "publish", "topic": topic, "event": event,
                    "expected_sequence": expected,
                }))
                .await;
            let answer = client.hear().await;
            match answer["type"].as_str() {
                Some("ack") => Ok(sequence(&answer["sequence"])),
                Some("error") => Err(sequence(&answer["error"]["actual_sequence"])),
                other => panic!("{other:?}: {answer}"),
            }
        }
        other => panic!("{other} is no transport"),
    }
}

/// Goal: a publisher whose knowledge is out of date is refused. A topic that was emptied keeps its
/// last sequence; 0 is expected only of a topic that never had an event.
#[tokio::test]
async fn an_expected_sequence_is_the_last_that_the_topic_ever_gave() {
    let server = Server::start().await;
    for transport in ["http", "grpc", "websocket"] {
        for how in [Emptied::Purged, Emptied::Deleted, Emptied::Aged] {
            let topic = format!("{transport}-{how:?}");
            let publish = |expected| publish(&server, transport, &topic, expected);
            assert_eq!(publish(1).await, Err(0), "{topic} never had an event");
            assert_eq!(publish(0).await, Ok(1), "{topic}");
            assert_eq!(publish(1).await, Ok(2), "{topic}");
            empty(&server, &topic, how).await;
            assert_eq!(publish(0).await, Err(2), "{topic} had events");
            assert_eq!(publish(1).await, Err(2), "{topic}");
            assert_eq!(publish(2).await, Ok(3), "{topic}");
        }
    }
}

/// Goal: an event that nobody could ever read is refused over each protocol.
#[tokio::test]
async fn a_ttl_of_zero_is_refused_on_each_way_in() {
    let server = Server::start().await;
    let mut refusals = Vec::new();
    for query in ["?ttl_ms=0", "?ttl_ms=0&ephemeral=true"] {
        let answer = post(server.address, &format!("/v1/topics/a/events{query}"), "x").await;
        refusals.push((answer.status.as_u16(), answer.json()["detail"].to_string()));
    }
    let bodies = [
        ("application/x-ndjson", "", "{\"data\":1}\n{\"data\":2,\"ttl_ms\":0}\n".to_owned()),
        (
            "application/cloudevents+json",
            "?ttl_ms=0",
            json!({"specversion": "1.0", "id": "i", "source": "s", "type": "t"}).to_string(),
        ),
    ];
    for (content_type, query, body) in bodies {
        let request = to(server.address, "POST", &format!("/v1/topics/a/events{query}"));
        let answer = send(request.header("content-type", content_type), body).await;
        refusals.push((answer.status.as_u16(), answer.json()["detail"].to_string()));
    }
    let events = vec![WireEvent { ttl_ms: Some(0), ..WireEvent::default() }];
    let request = PublishRequest {
        topic: "a".into(),
        events,
        expected_sequence: None,
        ephemeral: false,
        topics: Vec::new(),
    };
    let status = server.grpc().await.publish(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    refusals.push((400, status.message().to_owned()));
    let mut client = Client::connect(server.address).await;
    let event = json!({"data": 1, "ttl_ms": 0});
    client.say(json!({"type": "publish", "topic": "a", "event": event})).await;
    let error = client.find("error").await["error"].clone();
    refusals.push((error["status"].as_u64().unwrap() as u16, error["detail"].to_string()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"data\":1,\"ttl_ms\":0}\n").unwrap();
    let (path, url) = (file.path().to_str().unwrap(), format!("http://{}", server.address));
    let output = crate::common::run(&["publish", "b", "-f", path, "--server", &url]).await;
    assert_eq!(output.status.code(), Some(5));
    refusals.push((400, crate::common::text(&output.stderr)));
    for (status, message) in refusals {
        assert_eq!(status, 400, "{message}");
        assert!(message.contains("ttl_ms: is 0, and nobody could ever read"), "{message}");
    }
    let stored = get(server.address, "/v1/topics/a/events").await.json();
    let data: Vec<_> = stored["events"].as_array().unwrap().iter().map(|e| &e["data"]).collect();
    assert_eq!(data, [&json!(1)], "only the line before the refused one is stored");
}
