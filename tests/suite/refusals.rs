//! Events that are refused on every way of publishing: with the headers of dead letters, or with
//! JSON that is nested too deep for readers.

use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent, PublishRequest, PublishStreamRequest};
use leftoff::{Publish, TopicName};
use serde_json::{Value, json};

use crate::common::{Frame, Process, Server, Sse, get, run, send, soon, text, to};
use crate::websocket::Client;

const EVENTS: &str = "/v1/topics/t/events";
const JSON: &str = "application/json";

/// Publishes an event on each way that has `headers` and `data`, and returns for each way what the
/// broker says; an empty text if it takes the event.
async fn publish_on_each_way(
    server: &Server,
    headers: &Value,
    data: &str,
) -> Vec<(String, String)> {
    let mut said = Vec::new();
    let fields = format!(r#""headers":{headers},"data":{data}"#);
    let cloud = |id: &str| {
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{data}}}"#)
    };
    let mut bodies = vec![
        (EVENTS.to_owned(), "application/x-ndjson", format!("{{{fields}}}\n")),
        (EVENTS.to_owned(), "application/json-seq", format!("\u{1e}{{{fields}}}\n")),
        (format!("{EVENTS}?atomic=true"), "application/x-ndjson", format!("{{{fields}}}\n")),
        (format!("{EVENTS}?atomic=true"), JSON, format!("[{{{fields}}}]")),
        ("/v1/publish".to_owned(), JSON, format!(r#"{{"topics":["t"],"event":{{{fields}}}}}"#)),
        ("/v1/publish".to_owned(), JSON, format!(r#"{{"topics":["t"],"events":[{{{fields}}}]}}"#)),
    ];
    // These have no headers of ours.
    if headers == &json!({}) {
        bodies.extend([
            (EVENTS.to_owned(), JSON, data.to_owned()),
            (format!("{EVENTS}?ephemeral=true"), "x/y+json", data.to_owned()),
            (EVENTS.to_owned(), "application/cloudevents+json", cloud("1")),
            (EVENTS.to_owned(), "application/cloudevents-batch+json", format!("[{}]", cloud("2"))),
            (format!("{EVENTS}?type=binary"), JSON, data.to_owned()),
        ]);
    }
    for (path, content_type, body) in bodies {
        let request = match path.ends_with("binary") {
            true => to(server.address, "POST", EVENTS)
                .header("ce-specversion", "1.0")
                .header("ce-id", "3")
                .header("ce-source", "/s")
                .header("ce-type", "t"),
            false => to(server.address, "POST", &path),
        };
        let answer = send(request.header("content-type", content_type), body).await;
        let detail = match answer.status.is_success() {
            true => String::new(),
            false => answer.json()["detail"].as_str().unwrap().to_owned(),
        };
        said.push((format!("{path} as {content_type}"), detail));
    }
    let texts = serde_json::from_value(headers.clone()).unwrap();
    let event = NewEvent {
        headers: texts,
        content_type: JSON.to_owned(),
        payload: data.to_owned().into(),
        ..NewEvent::default()
    };
    let mut client = server.grpc().await;
    for ephemeral in [false, true] {
        let (topic, events) = ("t".to_owned(), vec![event.clone()]);
        let request = PublishRequest { topic, events, ephemeral, ..Default::default() };
        let refused = client.publish(request).await.err();
        let words = refused.map_or_else(String::new, |status| status.message().to_owned());
        said.push((format!("gRPC, ephemeral: {ephemeral}"), words));
    }
    let (topic, events) = ("t".to_owned(), vec![event]);
    let request = PublishStreamRequest { topic, events, ..Default::default() };
    let answers = client.publish_stream(futures_util::stream::iter([request])).await;
    let answer = soon(answers.unwrap().into_inner().message()).await.unwrap().unwrap();
    let words = match answer.outcome.unwrap() {
        Outcome::Error(error) => error.message,
        _ => String::new(),
    };
    said.push(("a stream of gRPC".to_owned(), words));
    let mut socket = Client::connect(server.address).await;
    for ephemeral in [false, true] {
        let event = format!("{{{fields}}}");
        let message = format!(
            r#"{{"type":"publish","ref":1,"topic":"t","ephemeral":{ephemeral},"event":{event}}}"#
        );
        socket.say_text(message).await;
        let answer = socket.hear().await;
        let words = answer["error"]["detail"].as_str().unwrap_or_default().to_owned();
        said.push((format!("a WebSocket, ephemeral: {ephemeral}"), words));
    }
    said
}

/// Goal: nobody forges a dead letter, however the header is spelled: whoever puts a dead letter
/// back publishes to the topic that its header names.
#[tokio::test]
async fn the_headers_of_dead_letters_are_refused_on_every_way_of_publishing() {
    let server = Server::start().await;
    for name in ["leftoff-dead-topic", "Leftoff-DEAD-x"] {
        let ways = publish_on_each_way(&server, &json!({ name: "payments" }), "1").await;
        assert_eq!(ways.len(), 11);
        for (way, words) in ways {
            let problem = format!("{name:?} is set by the broker, on dead letters; leave it out");
            assert!(words.contains(&problem), "{way}: {words}");
        }
        let headers = [(name.to_owned(), "payments".to_owned())].into();
        let event = leftoff::NewEvent { headers, ..leftoff::NewEvent::new("x") };
        let topic: TopicName = "t".parse().unwrap();
        let embedded = server.broker.publish(Publish::one(topic.clone(), event.clone())).await;
        assert!(embedded.unwrap_err().to_string().contains("on dead letters"));
        let embedded = server.broker.publish_ephemeral(&topic, vec![event]);
        assert!(embedded.unwrap_err().to_string().contains("on dead letters"));
    }
    assert_eq!(get(server.address, "/v1/topics/t").await.status, 404, "nothing is stored");
    let ways = publish_on_each_way(&server, &json!({"leftoff-deadline": "x"}), "1").await;
    assert!(ways.iter().all(|(_, words)| words.is_empty()), "{ways:?}");
    server.stop().await;
}

fn nested(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

/// Goal: JSON that readers may fail to parse is refused on every way, and what a host stores all
/// the same is told as bytes.
#[tokio::test]
async fn json_that_is_nested_too_deep_is_refused_on_every_way_of_publishing() {
    let server = Server::start().await;
    for levels in [121, 50_000] {
        let ways = publish_on_each_way(&server, &json!({}), &nested(levels)).await;
        assert_eq!(ways.len(), 16);
        for (way, words) in ways {
            let problem =
                format!("levels of JSON in the payload: {levels} is over the limit of 120");
            assert!(words.contains(&problem), "{way}: {words}");
        }
    }
    assert_eq!(get(server.address, "/v1/topics/t").await.status, 404, "nothing is stored");
    let ways = publish_on_each_way(&server, &json!({}), &nested(120)).await;
    assert!(ways.iter().all(|(_, words)| words.is_empty()), "{ways:?}");

    for levels in [120, 121, 50_000] {
        let content_type = JSON.to_owned();
        let event = leftoff::NewEvent { content_type, ..leftoff::NewEvent::new(nested(levels)) };
        crate::common::publish(&server.broker, "host", event).await;
    }
    let is_told_well = |event: &Value, number: usize| match number {
        0 => event["data"].is_array() && event.get("data_base64").is_none(),
        _ => event.get("data").is_none() && event["data_base64"].is_string(),
    };
    let page = get(server.address, "/v1/topics/host/events").await.json();
    let path = "/v1/topics/host/events?from=earliest&format=";
    let mut streams = Vec::new();
    for format in ["envelope", "cloudevents"] {
        let request = to(server.address, "GET", &format!("{path}{format}"));
        streams.push(Sse::open(request).await.unwrap());
    }
    let mut socket = Client::connect(server.address).await;
    let ask =
        json!({"type": "subscribe", "subscription": "s", "topic": "host", "from": "earliest"});
    socket.say(ask).await;
    for number in 0..3 {
        let mut told = vec![page["events"][number].clone()];
        for stream in &mut streams {
            told.push(soon(stream.find(Frame::is_event)).await.json());
        }
        told.push(socket.find("event").await["event"].take());
        for event in told {
            let words = event.to_string();
            assert!(is_told_well(&event, number), "{number}: {}", &words[..words.len().min(300)]);
        }
    }
    server.stop().await;
}

/// Goal: dead letters in a file are published as what they were before.
#[tokio::test]
async fn exported_dead_letters_can_be_published_again() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(&directory.path().join("data"), &[]);
    let file = directory.path().join("letters.ndjson");
    let lines = [
        json!({"data": 1, "headers": {"leftoff-dead-topic": "jobs", "leftoff-publisher": "eve"}}),
        json!({"data": 2, "headers": {"Leftoff-Dead-Reason": "no ink", "color": "red"}}),
        json!({"data": 3}),
    ];
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let url = format!("http://{}", process.address);
    let published =
        run(&["publish", "t", "--file", file.to_str().unwrap(), "--server", &url]).await;
    let said = text(&published.stderr);
    assert!(published.status.success(), "{said}");
    assert!(said.contains("3 events stored"), "{said}");
    assert!(said.contains("2 events had headers that only the broker sets"), "{said}");
    let page = get(process.address, EVENTS).await.json();
    let headers: Vec<_> = (0..3).map(|at| page["events"][at]["headers"].clone()).collect();
    assert_eq!(headers, [json!({}), json!({"color": "red"}), json!({})]);
    process.kill();
}
