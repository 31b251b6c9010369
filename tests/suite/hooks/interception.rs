//! Interceptors: they see, change and refuse each event, on every way of publishing.

use leftoff::TopicConfig;
use leftoff::edge::hooks::Grant;
use leftoff::edge::proto;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{NewEvent, PublishRequest, PublishStreamRequest, SubscribeRequest};
use leftoff::permission::{Action, Permission};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{CALLER, Host, by, call};
use crate::common::{Sse, grpc, send, soon};
use crate::websocket::Client;

/// The ways of publishing over HTTP: query, content type, and body, where `TYPE` and `ID` are
/// replaced.
const WAYS: [(&str, &str, &str); 8] = [
    ("?type=TYPE", "text/plain", "x"),
    ("", "application/x-ndjson", "{\"type\":\"TYPE\",\"data\":1}\n"),
    ("?atomic=true", "application/x-ndjson", "{\"type\":\"TYPE\",\"data\":1}\n"),
    ("?atomic=true", "application/json", "[{\"type\":\"TYPE\",\"data\":1}]"),
    ("", "application/cloudevents+json", CLOUD_EVENT),
    ("", "application/cloudevents-batch+json", CLOUD_EVENTS),
    ("", "application/json-seq", "\u{1e}{\"type\":\"TYPE\",\"data\":1}\n"),
    ("?ephemeral=true&type=TYPE", "text/plain", "x"),
];

const CLOUD_EVENT: &str = r#"{"specversion":"1.0","id":"ID","source":"/s","type":"TYPE","data":1}"#;
const CLOUD_EVENTS: &str =
    r#"[{"specversion":"1.0","id":"ID","source":"/s","type":"TYPE","data":1}]"#;

/// The outcome of a publish: its status as over HTTP.
type Outcome = Vec<(String, u64)>;

/// Publishes an event of this type on each way, and returns the outcomes.
async fn publish_on_each_way(host: &Host, event_type: &str) -> Outcome {
    let mut outcomes = Vec::new();
    for (number, (query, content_type, body)) in WAYS.into_iter().enumerate() {
        let query = query.replace("TYPE", event_type);
        let id = format!("{event_type}-{number}");
        let body = body.replace("TYPE", event_type).replace("ID", &id);
        let request = by("publisher", host, "POST", &format!("/v1/topics/t/events{query}"));
        let answer = send(request.header("content-type", content_type), body).await;
        outcomes.push((format!("{query} {content_type}"), u64::from(answer.status.as_u16())));
    }
    let event = || NewEvent { r#type: event_type.to_owned(), ..NewEvent::default() };
    let mut client = grpc(host.address).await;
    for ephemeral in [false, true] {
        let (topic, events) = ("t".to_owned(), vec![event()]);
        let request = PublishRequest { topic, events, ephemeral, ..Default::default() };
        let outcome = client.publish(call("publisher", request)).await;
        outcomes.push((format!("gRPC, {ephemeral}"), of_code(outcome.err().map(|it| it.code()))));
    }
    let (topic, events) = ("t".to_owned(), vec![event()]);
    let request = PublishStreamRequest { topic, events, ..Default::default() };
    let requests = call("publisher", futures_util::stream::iter([request]));
    let mut answers = client.publish_stream(requests).await.unwrap().into_inner();
    let answer = soon(answers.message()).await.unwrap().unwrap().outcome.unwrap();
    let code = match answer {
        proto::publish_stream_response::Outcome::Ack(_)
        | proto::publish_stream_response::Outcome::Acks(_) => None,
        proto::publish_stream_response::Outcome::Error(error) => Some(error.code.into()),
    };
    outcomes.push(("PublishStream".to_owned(), of_code(code)));
    let mut socket = Client::connect_as(host.address, "publisher").await;
    for what in [
        json!({"event": {"type": event_type}}),
        json!({"events": [{"type": event_type}]}),
        json!({"event": {"type": event_type}, "ephemeral": true}),
    ] {
        let mut publish = json!({"type": "publish", "topic": "t"});
        publish.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        socket.say(publish).await;
        let answer = socket.hear().await;
        let status = answer["error"]["status"].as_u64().unwrap_or(200);
        outcomes.push((format!("WebSocket {what}"), status));
    }
    outcomes
}

/// Returns the status over HTTP for a code of gRPC.
fn of_code(code: Option<tonic::Code>) -> u64 {
    match code {
        None => 200,
        Some(tonic::Code::PermissionDenied) => 403,
        Some(tonic::Code::InvalidArgument) => 413,
        Some(other) => panic!("{other:?}"),
    }
}

/// Goal: the interceptor changes and refuses events on each way of publishing, and the limits hold
/// for what it makes of them.
#[tokio::test]
async fn an_interceptor_changes_and_refuses_events_on_every_way_of_publishing() {
    let host = Host::start().await;
    host.decisions.grant(Grant::new("publisher", Permission::all()));
    let mut client = grpc(host.address).await;
    let subscribe = SubscribeRequest { topic: "t".to_owned(), ..Default::default() };
    let mut live = client.subscribe(call("publisher", subscribe)).await.unwrap().into_inner();
    for (event_type, refusal) in [("bad", 403), ("large", 413)] {
        for (way, status) in publish_on_each_way(&host, event_type).await {
            assert_eq!(status, refusal, "{event_type}: {way}");
        }
    }
    let topic = host.broker.topic(&"t".parse().unwrap());
    assert!(topic.is_err() || topic.unwrap().extent.tail.get() == 1, "nothing is stored");
    host.decisions.told();
    let outcomes = publish_on_each_way(&host, "good").await;
    assert!(outcomes.iter().all(|(_, status)| *status < 300), "{outcomes:?}");
    let stored = outcomes.len() - 3; // Three ways are ephemeral.
    let page = by("publisher", &host, "GET", "/v1/topics/t/events?limit=100");
    let page = send(page.header("accept", "application/json"), "").await.json();
    let events = page["events"].as_array().unwrap();
    assert_eq!(events.len(), stored, "{page}");
    let is_marked = |event: &Value| event["headers"]["by"] == "publisher to t";
    assert!(events.iter().all(is_marked), "{page}");
    let told = host.decisions.told();
    let acknowledged = told.iter().filter(|line| *line == "acknowledged t 1").count();
    assert_eq!(acknowledged, stored, "{told:?}");
    let intercepted = told.iter().filter(|line| *line == "intercepted t").count();
    assert_eq!(intercepted, outcomes.len(), "each event is asked about once: {told:?}");
    let mut ephemeral = 0;
    while ephemeral < 3 {
        let response = soon(live.message()).await.unwrap().unwrap().message.unwrap();
        if let Message::Ephemeral(heard) = response {
            let event = heard.event.unwrap();
            assert_eq!(event.headers["by"], "publisher to t", "{event:?}");
            ephemeral += 1;
        }
    }
    host.stop().await;
}

/// Goal: no publisher names itself: the header that the broker sets is refused on every way of
/// publishing, however it is spelled, before the interceptor sees the event. The interceptor may
/// set it.
#[tokio::test]
async fn nobody_but_the_interceptor_names_the_publisher() {
    const NAME: &str = "leftoff-publisher";
    let host = Host::start().await;
    host.decisions.grant(Grant::new("publisher", Permission::all()));
    let headers = |name: &str| json!({ name: "somebody else" });
    let events = "/v1/topics/t/events";
    for name in [NAME, "Leftoff-Publisher"] {
        let line = json!({"data": 1, "headers": headers(name)});
        for (query, content_type, body) in [
            ("", "application/x-ndjson", format!("{line}\n")),
            ("?atomic=true", "application/x-ndjson", format!("{line}\n")),
            ("?atomic=true", "application/json", json!([line]).to_string()),
        ] {
            let request = by("publisher", &host, "POST", &format!("{events}{query}"));
            let answer = send(request.header("content-type", content_type), body).await;
            assert_eq!(answer.status, 400, "{query} {content_type}: {answer:?}");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(NAME), "{detail}");
        }
        let event = || NewEvent {
            headers: [(name.to_owned(), "somebody else".to_owned())].into(),
            ..NewEvent::default()
        };
        let mut client = grpc(host.address).await;
        for ephemeral in [false, true] {
            let (topic, events) = ("t".to_owned(), vec![event()]);
            let request = PublishRequest { topic, events, ephemeral, ..Default::default() };
            let refused = client.publish(call("publisher", request)).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        }
        let (topic, events) = ("t".to_owned(), vec![event()]);
        let request = PublishStreamRequest { topic, events, ..Default::default() };
        let requests = call("publisher", futures_util::stream::iter([request]));
        let mut answers = client.publish_stream(requests).await.unwrap().into_inner();
        let answer = soon(answers.message()).await.unwrap().unwrap().outcome.unwrap();
        let is_refused = matches!(&answer,
            proto::publish_stream_response::Outcome::Error(error) if error.message.contains(NAME));
        assert!(is_refused, "{answer:?}");
        let mut socket = Client::connect_as(host.address, "publisher").await;
        for ephemeral in [false, true] {
            let event = json!({"headers": headers(name)});
            let publish =
                json!({"type": "publish", "topic": "t", "event": event, "ephemeral": ephemeral});
            socket.say(publish).await;
            let answer = socket.hear().await;
            assert_eq!(answer["error"]["status"], 400, "{answer}");
        }
    }
    let told = host.decisions.told();
    assert!(!told.iter().any(|line| line.starts_with("intercepted")), "{told:?}");
    assert!(host.broker.topic(&"t".parse().unwrap()).is_err(), "nothing is stored");
    let request = by("publisher", &host, "POST", &format!("{events}?type=named"));
    assert_eq!(send(request, "x").await.status, 201);
    let page = by("publisher", &host, "GET", events).header("accept", "application/json");
    let page = send(page, "").await.json();
    assert_eq!(page["events"][0]["headers"][NAME], "publisher", "{page}");
    host.stop().await;

    let open = crate::common::Server::start().await;
    for query in ["", "?atomic=true"] {
        let request = crate::common::to(open.address, "POST", &format!("{events}{query}"));
        let request = request.header("content-type", "application/x-ndjson");
        let answer = send(request, format!("{}\n", json!({"headers": headers(NAME)}))).await;
        assert_eq!(answer.status, 400, "without hooks, too: {answer:?}");
    }
    let mut socket = Client::connect(open.address).await;
    let event = json!({"headers": headers(NAME)});
    socket.say(json!({"type": "publish", "topic": "t", "event": event, "ephemeral": true})).await;
    assert_eq!(socket.hear().await["error"]["status"], 400);
    open.stop().await;
}

/// Goal: a publisher of ephemeral events is told how many read the topic only if it may read it.
#[tokio::test]
async fn the_readers_are_counted_for_those_who_may_read() {
    let host = Host::start().await;
    host.decisions.grant(Grant::new("reader", Permission::all()));
    let _reading = Sse::open(by("reader", &host, "GET", "/v1/topics/t/events")).await.unwrap();
    for (caller, expected) in [("reader", Some(1)), ("publisher", None)] {
        if expected.is_none() {
            host.grant_one(caller, Action::Publish, "t");
        }
        let path = "/v1/topics/t/events?ephemeral=true";
        let answer = send(by(caller, &host, "POST", path), "x").await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json().get("receivers"), expected.map(Value::from).as_ref());

        let (topic, events) = ("t".to_owned(), vec![NewEvent::default()]);
        let request = PublishRequest { topic, events, ephemeral: true, ..Default::default() };
        let answer = grpc(host.address).await.publish(call(caller, request)).await.unwrap();
        assert_eq!(answer.into_inner().receivers, expected.unwrap_or(0));

        let mut socket = Client::connect_as(host.address, caller).await;
        socket.say(json!({"type": "publish", "topic": "t", "event": {}, "ephemeral": true})).await;
        let answer = socket.hear().await;
        assert_eq!(answer["ephemeral"], true, "{answer}");
        assert_eq!(answer.get("receivers"), expected.map(Value::from).as_ref());
    }
    host.stop().await;
}

/// Goal: a topic that names its publishers from now on names them also in a body that has begun.
#[tokio::test]
async fn publishers_are_named_in_the_middle_of_a_body() {
    let host = Host::start().await;
    host.decisions.grant(Grant::new("publisher", Permission::all()));
    let mut upload = TcpStream::connect(host.address).await.unwrap();
    let head = format!(
        "POST /v1/topics/t/events HTTP/1.1\r\nhost: localhost\r\n{CALLER}: publisher\r\n\
         content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    let mut sse = Sse::open(by(
        "publisher",
        &host,
        "GET",
        "/v1/topics/t/events?from=earliest&format=envelope",
    ))
    .await
    .unwrap();
    let mut named = Vec::new();
    for stamp_publisher in [None, Some(true), None] {
        let mut config = TopicConfig::default();
        config.stamp_publisher = stamp_publisher;
        host.broker.set_topic(&"t".parse().unwrap(), config).await.unwrap();
        upload.write_all(b"b\r\n{\"data\":1}\n\r\n").await.unwrap();
        let event = sse.find(|frame| frame.is_event()).await.json();
        named.push(event["headers"].get("leftoff-publisher").cloned());
    }
    assert_eq!(named, [None, Some(json!("publisher")), None]);
    host.stop().await;
}
