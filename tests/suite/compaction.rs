//! Compaction as its users see it: the events that a topic holds afterwards, and the events that
//! readers get.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use leftoff::NewEvent;
use leftoff::config::Config;
use leftoff::edge::proto::subscribe_response::Message as Answer;
use leftoff::edge::proto::{Event, ReadRequest, SubscribeRequest};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::common::{
    Process, Server, Sse, get, post, publish, read_all, run, send, soon, text, to,
};

/// Arguments with which maintenance runs only when a test asks for it.
const BY_HAND: [&str; 2] = ["--set", "maintenance.interval_ms=3600000"];

/// Publishes events with these keys and payloads as one batch.
async fn publish_batch(address: SocketAddr, topic: &str, events: &[(&str, &str)]) -> Value {
    let line = |(key, data): &(&str, &str)| {
        let event = json!({"key": key, "content_type": "text/plain", "data": data});
        format!("{event}\n")
    };
    let request = to(address, "POST", &format!("/v1/topics/{topic}/events"));
    let request = request.header("content-type", "application/x-ndjson");
    let answer = send(request, events.iter().map(line).collect::<String>()).await;
    assert_eq!(answer.status, 201, "{}", text(&answer.body));
    answer.json()
}

/// Compacts a topic, and returns the number of events that were dropped.
async fn compact(address: SocketAddr, topic: &str) -> u64 {
    let answer = post(address, &format!("/v1/maintenance?topic={topic}"), "").await;
    assert_eq!(answer.status, 200, "{}", text(&answer.body));
    answer.json()["dropped"]["compacted"]["events"].as_u64().unwrap()
}

async fn configure(address: SocketAddr, topic: &str, config: Value) {
    let request = to(address, "PUT", &format!("/v1/topics/{topic}"));
    let answer = send(request, config.to_string()).await;
    assert!(answer.status.is_success(), "{}", text(&answer.body));
}

/// Goal: a compaction by hand includes the last batch, and no reader loses its place.
/// Method: publish five events of one key in one batch; compact; then check a follower, a reader in
/// the middle, a late reader, and a restart after a crash.
#[tokio::test]
async fn a_compaction_by_hand_takes_in_the_last_batch_and_says_what_it_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &BY_HAND);
    let address = process.address;
    for topic in ["a", "emptied"] {
        configure(address, topic, json!({"compact": true, "tombstone_grace_ms": 0})).await;
    }
    let five = ["1", "2", "3", "4", "5"].map(|data| ("k", data));
    assert_eq!(publish_batch(address, "a", &five).await["last"]["sequence"], 5);
    publish_batch(address, "emptied", &[("k", "1"), ("k", "")]).await;
    let mut follower = Sse::follow(address, "a", "?from=earliest").await;
    assert_eq!(follower.events(5).await.last(), Some(&(5, "5".to_owned())));

    assert_eq!(compact(address, "a").await, 4);
    assert_eq!(compact(address, "a").await, 0, "a second compaction dropped something");
    assert_eq!(compact(address, "emptied").await, 2, "the deleted event and the tombstone");
    let kept = |sequence: u64| vec![(sequence, sequence.to_string())];
    assert_eq!(read_all(address, "a").await, kept(5));
    assert_eq!(read_all(address, "emptied").await, []);
    let page = get(address, "/v1/topics/a/events?after=2&on_gap=fail").await;
    assert_eq!((page.status.as_u16(), &page.json()["events"][0]["sequence"]), (200, &5.into()));
    let info = get(address, "/v1/topics/a").await.json();
    assert_eq!(
        (&info["events"], &info["tail"], &info["earliest"]),
        (&1.into(), &6.into(), &1.into())
    );
    publish_batch(address, "a", &[("k", "6")]).await;
    assert_eq!(follower.events(1).await, kept(6));
    assert_eq!(compact(address, "a").await, 1);
    process.kill();

    let process = Process::serve(directory.path(), &BY_HAND);
    let address = process.address;
    assert_eq!(read_all(address, "a").await, kept(6));
    let state = get(address, "/v1/topics/a/state").await.json();
    assert_eq!(state["events"].as_array().unwrap().len(), 1, "{state}");
    for (topic, next) in [("a", 7), ("emptied", 3)] {
        let batch = publish_batch(address, topic, &[("k", "7")]).await;
        assert_eq!(batch["last"]["sequence"], next, "{topic}: sequences go on");
    }
    process.kill();
    let check = run(&["check", "--data-dir", directory.path().to_str().unwrap()]).await;
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
}

/// The events that a reader gets: the sequence, the key and the payload of each, if it has one.
type Got = Vec<(u64, String, Option<String>)>;

fn got(event: &Value) -> (u64, String, Option<String>) {
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let data = Some(text("data")).filter(|data| !data.is_empty());
    (event["sequence"].as_u64().unwrap(), text("key"), data)
}

fn got_over_grpc(event: &Event) -> (u64, String, Option<String>) {
    let data = Some(text(&event.payload)).filter(|data| !data.is_empty());
    (event.sequence, event.key.clone(), data)
}

async fn page(server: &Server, path: &str) -> Got {
    let page = get(server.address, path).await;
    assert_eq!(page.status, 200, "{}", text(&page.body));
    page.json()["events"].as_array().unwrap().iter().map(got).collect()
}

/// Returns the events of an event stream, of envelopes or of CloudEvents, up to
/// `leftoff.caught-up`.
async fn stream(server: &Server, path: &str) -> Got {
    let request = to(server.address, "GET", path);
    let mut stream = Sse::open(request).await.unwrap();
    let mut events = Vec::new();
    loop {
        let frame = stream.next().await.expect("the stream ended");
        if frame.is_control("leftoff.caught-up") {
            return events;
        }
        if !frame.is_event() {
            continue;
        }
        let event = frame.json();
        events.push(match event.get("specversion") {
            None => got(&event),
            Some(_) => {
                let sequence = event["leftoffsequence"].as_str().unwrap().parse().unwrap();
                let key = event["subject"].as_str().unwrap_or_default().to_owned();
                (sequence, key, event["data"].as_str().map(str::to_owned))
            }
        });
    }
}

async fn websocket(server: &Server, topics: Value) -> Got {
    let url = format!("ws://{}/v1/ws", server.address);
    let mut request = url.into_client_request().unwrap();
    let spoken = http::HeaderValue::from_static("leftoff.v1.json");
    request.headers_mut().insert("sec-websocket-protocol", spoken);
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let mut subscribe = json!({"type": "subscribe", "subscription": "s", "from": "earliest"});
    subscribe.as_object_mut().unwrap().extend(topics.as_object().unwrap().clone());
    socket.send(Message::text(subscribe.to_string())).await.unwrap();
    let mut events = Vec::new();
    loop {
        let message = soon(socket.next()).await.unwrap().unwrap();
        let Message::Text(message) = message else { continue };
        let message: Value = serde_json::from_str(&message).unwrap();
        match message["type"].as_str().unwrap() {
            "event" => events.push(got(&message["event"])),
            "caught_up" => return events,
            "subscribed" => {}
            other => panic!("{other}: {message}"),
        }
    }
}

async fn subscribe(server: &Server, request: SubscribeRequest) -> Got {
    let request = SubscribeRequest { from: "earliest".into(), ..request };
    let mut stream = server.grpc().await.subscribe(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    loop {
        let response = soon(stream.next()).await.unwrap().unwrap();
        match response.message.unwrap() {
            Answer::Events(batch) => events.extend(batch.events.iter().map(got_over_grpc)),
            Answer::CaughtUp(_) => return events,
            _ => {}
        }
    }
}

/// Reads a topic from its start in every way. Returns the name of each way, and its events.
async fn all_readers(server: &Server, topic: &str) -> Vec<(String, Got)> {
    let mut all = Vec::new();
    for query in ["from=earliest", "before=3", "from=last:2", "from=earliest&key=k"] {
        let path = format!("/v1/topics/{topic}/events?{query}");
        all.push((path.clone(), page(server, &path).await));
    }
    for format in ["envelope", "cloudevents"] {
        for path in [format!("/v1/topics/{topic}/events?"), format!("/v1/events?topic={topic}&")] {
            let path = format!("{path}from=earliest&format={format}");
            all.push((path.clone(), stream(server, &path).await));
        }
    }
    let path = format!("/v1/events?topic={topic}&from=earliest");
    all.push((path.clone(), page(server, &path).await));
    for topics in [json!({"topic": topic}), json!({"topics": [topic]})] {
        all.push((format!("WebSocket {topics}"), websocket(server, topics).await));
    }
    let one = SubscribeRequest { topic: topic.into(), ..SubscribeRequest::default() };
    let many = SubscribeRequest { topics: vec![topic.into()], ..SubscribeRequest::default() };
    for request in [one, many] {
        all.push((format!("{request:?}"), subscribe(server, request).await));
    }
    let request = ReadRequest { topic: topic.into(), ..ReadRequest::default() };
    let page = server.grpc().await.read(request).await.unwrap().into_inner();
    all.push(("Read".to_owned(), page.events.iter().map(got_over_grpc).collect()));
    all
}

/// Goal: when a value expires, no reader gets the value before it back. In a compacted topic, an
/// expired value deletes its key; in any other, the expired event is left out.
/// Method: read topics of both kinds in every way: before the value expires; after it has expired,
/// while it is still stored; after the settings have changed to the other kind and back; and after
/// it is dropped.
#[tokio::test]
async fn an_expired_value_does_not_bring_the_one_before_it_back() {
    let mut config: Config = toml::from_str("[topics.compacted]\ncompact = true").unwrap();
    config.maintenance.interval_ms = 3_600_000;
    let server = Server::with(config).await;
    let events = [("old", None), ("new", Some(1_500))];
    for topic in ["compacted", "plain"] {
        for (payload, ttl_ms) in events {
            let event = NewEvent {
                key: "k".to_owned(),
                content_type: "text/plain".to_owned(),
                ttl_ms,
                ..NewEvent::new(payload)
            };
            publish(&server.broker, topic, event).await;
        }
    }
    let old = || (1, "k".to_owned(), Some("old".to_owned()));
    let new = || (2, "k".to_owned(), Some("new".to_owned()));
    let deleted = || (2, "k".to_owned(), None);
    // These reads put the encoded forms of the events into the cache, before the value expires.
    for (how, got) in all_readers(&server, "compacted").await {
        assert!(got == [old(), new()] || got == [old(), deleted()], "{how}: {got:?}");
    }
    soon(async {
        for topic in ["compacted", "plain"] {
            while page(&server, &format!("/v1/topics/{topic}/events?from=last:1"))
                .await
                .contains(&new())
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })
    .await;
    let expect = async |topic: &str, expected: &[(u64, String, Option<String>)]| {
        for (how, got) in all_readers(&server, topic).await {
            assert_eq!(got, expected, "{how}");
        }
    };
    expect("compacted", &[old(), deleted()]).await;
    expect("plain", &[old()]).await;
    for (topic, is_compacted) in [("compacted", false), ("plain", true)] {
        configure(server.address, topic, json!({"compact": is_compacted})).await;
    }
    expect("compacted", &[old()]).await;
    expect("plain", &[old(), deleted()]).await;
    for (topic, is_compacted) in [("compacted", true), ("plain", false)] {
        configure(server.address, topic, json!({"compact": is_compacted})).await;
        let maintained = post(server.address, &format!("/v1/maintenance?topic={topic}"), "").await;
        let dropped = &maintained.json()["dropped"];
        let counts = |reason: &str| dropped[reason]["events"].as_u64().unwrap();
        let expected = if is_compacted { (1, 1) } else { (0, 1) };
        assert_eq!((counts("compacted"), counts("expired")), expected, "{topic}: {dropped}");
    }
    expect("compacted", &[]).await;
    expect("plain", &[old()]).await;
    let state = get(server.address, "/v1/topics/compacted/state").await.json();
    assert_eq!(state["events"], json!([]));
}
