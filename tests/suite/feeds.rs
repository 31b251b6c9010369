//! Many topics on one connection, over every protocol: one cursor, one order, and filters.

use std::time::Duration;

use leftoff::config::Config;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{Filter, SubscribeRequest};
use serde_json::{Value, json};

use crate::common::{Frame, Server, Sse, get, post, send, soon, to};

async fn open(server: &Server, query: &str, last_id: &str) -> Sse {
    let request = to(server.address, "GET", &format!("/v1/events?{query}"));
    Sse::open(request.header("last-event-id", last_id)).await.unwrap()
}

/// Returns the topics and the data of the next `count` events.
async fn next_events(stream: &mut Sse, count: usize) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    while events.len() < count {
        let frame = soon(stream.next()).await.expect("the stream goes on");
        if frame.is_event() {
            let event = frame.json();
            let place = frame.id.as_ref().unwrap().split(['-', '~']).next();
            assert_eq!(place, Some(&*format!("@{}", event["position"])), "{frame:?}");
            events.push((event["topic"].as_str().unwrap().to_owned(), event["data"].clone()));
        }
    }
    events
}

fn expected(events: &[(&str, u64)]) -> Vec<(String, Value)> {
    events.iter().map(|(topic, data)| ((*topic).to_owned(), json!(data))).collect()
}

async fn publish(server: &Server, topic: &str, query: &str, data: u64) {
    let path = format!("/v1/topics/{topic}/events{query}");
    let request = to(server.address, "POST", &path).header("content-type", "application/json");
    assert_eq!(send(request, data.to_string()).await.status, 201);
}

#[tokio::test]
async fn topics_and_patterns_are_followed_on_one_connection_and_resumed_by_one_id() {
    let server = Server::start().await;
    publish(&server, "orders.eu", "", 1).await;
    publish(&server, "users.7", "", 2).await;
    publish(&server, "orders.us", "", 3).await;
    let query = "topic=orders.*&topic=users.42.%3E&from=earliest";
    let mut stream = open(&server, query, "").await;
    let found = next_events(&mut stream, 2).await;
    assert_eq!(found, expected(&[("orders.eu", 1), ("orders.us", 3)]));
    let caught_up = soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    assert_eq!(caught_up.json(), json!({"topics": ["orders.*", "users.42.>"], "tail": 4}));
    // A topic that is created later is followed, too.
    publish(&server, "users.42.inbox", "", 4).await;
    publish(&server, "users.43.inbox", "", 5).await;
    publish(&server, "orders.eu", "", 6).await;
    let found = next_events(&mut stream, 2).await;
    assert_eq!(found, expected(&[("users.42.inbox", 4), ("orders.eu", 6)]));
    drop(stream);
    publish(&server, "orders.us", "", 7).await;
    // The client resumes with other topics: the remaining ones keep their places.
    let epoch = server.broker.epoch();
    let mut stream = open(&server, "topic=orders.*&topic=users.43.*", &format!("@3-{epoch}")).await;
    let found = next_events(&mut stream, 3).await;
    assert_eq!(found, expected(&[("users.43.inbox", 5), ("orders.eu", 6), ("orders.us", 7)]));
    // The same with POST, and over gRPC.
    let body = json!({"topics": ["orders.us"], "from": "@3", "format": "data"}).to_string();
    let request = to(server.address, "POST", "/v1/events");
    let mut posted = Sse::open_with(request, body).await.unwrap();
    let frame = soon(posted.find(Frame::is_event)).await;
    assert_eq!((frame.id, frame.data), (Some(format!("@7-{epoch}")), Some("7".to_owned())));
    let mut client = server.grpc().await;
    let topics = vec!["orders.>".to_owned(), "users.42.inbox".to_owned()];
    let request = SubscribeRequest { topics, from: "@3".into(), ..SubscribeRequest::default() };
    let mut responses = client.subscribe(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while found.len() < 3 {
        let response = soon(responses.message()).await.unwrap().unwrap();
        if let Some(Message::Events(batch)) = response.message {
            found.extend(batch.events.into_iter().map(|e| (e.topic, e.position)));
            assert!(batch.cursor.starts_with('@'), "{}", batch.cursor);
        }
    }
    let text = |topic: &str| topic.to_owned();
    assert_eq!(
        found,
        [(text("users.42.inbox"), 4), (text("orders.eu"), 6), (text("orders.us"), 7)]
    );
}

/// Goal: a client that changes between pages and streams at any cursor loses and repeats no event.
#[tokio::test]
async fn pages_of_many_topics_have_the_same_events_and_cursors_as_streams() {
    let server = Server::start().await;
    for number in 1..=30 {
        publish(&server, ["a", "b", "c"][number as usize % 3], "", number).await;
    }
    let mut after = "@0".to_owned();
    let mut seen = Vec::new();
    for limit in [1, 2, 3, 5, 100] {
        let path = format!("/v1/events?topic=a&topic=b&after={after}&limit={limit}");
        let page = get(server.address, &path).await.json();
        let events = page["events"].as_array().unwrap();
        seen.extend(events.iter().map(|event| event["data"].as_u64().unwrap()));
        after = page["cursor"].as_str().unwrap().to_owned();
        assert_eq!(page["caught_up"], json!(limit == 100), "{page}");
        let mut stream = open(&server, "topic=a&topic=b", &after).await;
        let rest = next_events(&mut stream, 20 - seen.len()).await;
        let rest: Vec<u64> = rest.iter().map(|(_, data)| data.as_u64().unwrap()).collect();
        let all: Vec<u64> = seen.iter().copied().chain(rest).collect();
        assert_eq!(all, (1..=30).filter(|n| n % 3 != 2).collect::<Vec<_>>(), "after {after}");
    }
    assert_eq!(after, format!("@30-{}", server.broker.epoch()));
    let answer = get(server.address, "/v1/events?topic=a&from=@31&on_gap=fail").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (410, &json!("ahead")));
    for (query, words) in [
        ("", "topic"),
        ("topic=a.%3E.b", "topic pattern"),
        ("topic=a&from=3", "sequence of one topic"),
        ("topic=a&from=last:3", "one topic alone"),
        ("topic=a&header=x", "name:value"),
    ] {
        let answer = get(server.address, &format!("/v1/events?{query}")).await;
        let problem = answer.json();
        assert_eq!(answer.status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
    }
}

/// Goal: filters select the same events over all protocols. The cursor moves past events that a
/// filter drops, and never past events that are not yet durable.
#[tokio::test]
async fn filters_pick_events_and_the_cursor_moves_on_without_them() {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 100;
    let server = Server::with(config).await;
    for number in 1..=9_u64 {
        let query = format!("?type=t{}&key=k{number}", number % 3);
        publish(&server, "a", &query, number).await;
    }
    let data = async |query: &str| {
        let page = get(server.address, &format!("/v1/topics/a/events?{query}")).await.json();
        let events = page["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["data"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(data("type=t1").await, [1, 4, 7]);
    assert_eq!(data("type=t1&type=t2").await, [1, 2, 4, 5, 7, 8]);
    assert_eq!(data("type=t1&key=k4&key=k5").await, [4]);
    assert_eq!(data("key_prefix=k&type=t0").await, [3, 6, 9]);
    assert_eq!(data("header=a:b").await, [0; 0]);
    let path = "/v1/topics/a/events?type=t1&from=earliest";
    let request = to(server.address, "GET", path);
    let mut stream = Sse::open(request).await.unwrap();
    let found = soon(stream.events(3)).await;
    assert_eq!(found.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 4, 7]);
    let mut client = server.grpc().await;
    let filter = Some(Filter { types: vec!["t2".into()], ..Filter::default() });
    let topic = "a".to_owned();
    let from = "earliest".to_owned();
    let request = SubscribeRequest { topic, from, filter, ..SubscribeRequest::default() };
    let mut responses = client.subscribe(request).await.unwrap().into_inner();
    let mut sequences = Vec::new();
    while sequences.len() < 3 {
        let response = soon(responses.message()).await.unwrap().unwrap();
        if let Some(Message::Events(batch)) = response.message {
            sequences.extend(batch.events.iter().map(|event| event.sequence));
        }
    }
    assert_eq!(sequences, [2, 5, 8]);
    // No event from here on matches the filter, and the cursor is still sent.
    let mut many = open(&server, "topic=a&type=t1", "").await;
    let epoch = server.broker.epoch();
    for number in 10..=12_u64 {
        publish(&server, "a", "?type=other", number).await;
        publish(&server, "b", "", number).await;
    }
    let moved = soon(stream.find(|frame| frame.id == Some(format!("12-{epoch}")))).await;
    assert!(!moved.is_event(), "a cursor without an event");
    let moved = soon(many.find(|frame| frame.id == Some(format!("@15-{epoch}")))).await;
    assert!(!moved.is_event(), "a cursor without an event");
    tokio::time::timeout(Duration::from_secs(30), async {
        post(server.address, "/v1/topics/a/events?type=t1", "13").await;
        let found = soon(stream.events(1)).await;
        assert_eq!(found[0].0, 13);
    })
    .await
    .expect("the stream did not continue");
}

#[tokio::test]
async fn what_a_topic_of_many_has_lost_is_told_and_the_others_go_on() {
    let server = Server::start().await;
    for number in 1..=6 {
        publish(&server, ["a", "b"][number as usize % 2], "", number).await;
    }
    let purge = to(server.address, "DELETE", "/v1/topics/b/events?before=3");
    assert_eq!(send(purge, "").await.status, 200);
    let epoch = server.broker.epoch();
    let mut stream = open(&server, "topic=*", &format!("@2-{epoch}")).await;
    let gap = soon(stream.find(|frame| frame.is_control("leftoff.gap"))).await.json();
    let told = ["topic", "requested", "earliest", "tail", "lost", "reason"].map(|key| &gap[key]);
    assert_eq!(json!(told), json!(["b", 3, 3, 4, null, "purged"]));
    let found = next_events(&mut stream, 3).await;
    assert_eq!(found, expected(&[("a", 4), ("b", 5), ("a", 6)]));
    let path = "/v1/events?topic=*&from=@2";
    let answer = get(server.address, &format!("{path}&on_gap=fail")).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["topic"]), (410, &json!("b")));
    let page = get(server.address, path).await.json();
    assert_eq!(page["gaps"][0]["reason"], "purged");
    assert_eq!(page["events"].as_array().unwrap().len(), 3);
    let mut stream = open(&server, "topic=*", "@2-00000001").await;
    let gap = soon(stream.find(|frame| frame.is_control("leftoff.gap"))).await.json();
    assert_eq!((&gap["topic"], &gap["reason"]), (&Value::Null, &json!("epoch")));
    assert_eq!(next_events(&mut stream, 4).await.len(), 4);
}
