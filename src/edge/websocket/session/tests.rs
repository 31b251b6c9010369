//! Promises of a session while it waits: for a place among large work, or for its client.

use std::time::Duration;

use tokio_tungstenite::WebSocketStream;

use super::super::super::effort;
use super::*;
use crate::broker::{Broker, OpenConfig, Publish};
use crate::consumers::{ConsumerId, Consumers, ConsumersConfig, Mark};
use crate::edge::disk_turns::{FOLLOWED, broker_on_disk, name, read_the_others};
use crate::event::NewEvent;
use crate::testing::{Builder, FaultyLog};
use crate::topic::TopicName;

/// Returns the type and the JSON of the next message that a client receives.
async fn told<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut WebSocketStream<S>,
) -> (String, Value) {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(30), client.next()).await;
        let message = message.expect("a message is sent").unwrap().unwrap();
        if let Ok(text) = message.to_text()
            && let Ok(json) = serde_json::from_str::<Value>(text)
        {
            return (json["type"].as_str().unwrap().to_owned(), json);
        }
    }
}

/// Goal: a message that waits for a place among large work delays nothing else. The subscriptions
/// of the client are delivered, and its message is handled when a place is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_delivered_while_a_large_message_of_the_client_waits_for_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
    let edge = Edge::new(broker.clone());
    let (server, client) = tokio::io::duplex(1 << 20);
    let socket = PacedSocket::new(server, edge.pace());
    let session = tokio::spawn(Session::run(edge, Default::default(), socket));
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let subscribe = r#"{"type":"subscribe","subscription":"s","topic":"a","from":"earliest"}"#;
    client.send(Message::text(subscribe)).await.unwrap();
    assert_eq!(told(&mut client).await.0, "subscribed");
    assert_eq!(told(&mut client).await.0, "caught_up");

    let places = effort::all_places().await;
    let large = "x".repeat(500_000);
    let publish =
        format!(r#"{{"type":"publish","ref":"large","topic":"b","event":{{"data":"{large}"}}}}"#);
    client.send(Message::text(publish)).await.unwrap();
    for number in 1..=10 {
        let event = NewEvent { payload: "small".into(), ..NewEvent::default() };
        let events = vec![event];
        let topic = "a".parse().unwrap();
        broker.publish(Publish { topic, events, expected_sequence: None }).await.unwrap();
        let (kind, message) = told(&mut client).await;
        assert_eq!((kind.as_str(), &message["event"]["sequence"]), ("event", &json!(number)));
    }
    let topic = "b".parse().unwrap();
    assert!(broker.topic(&topic).is_err(), "the publish has no place yet");
    drop(places);
    let (kind, message) = told(&mut client).await;
    assert_eq!((kind.as_str(), &message["ref"]), ("ack", &json!("large")));
    drop(client);
    session.await.unwrap();
    broker.close().await;
}

/// Goal: clients with many subscriptions that read nothing do not keep others from the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_nothing_keep_no_turn_at_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let broker = broker_on_disk(directory.path()).await;
    let edge = Edge::new(broker.clone());
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (server, client) = tokio::io::duplex(1 << 10);
        let socket = PacedSocket::new(server, edge.pace());
        tokio::spawn(Session::run(edge.clone(), Default::default(), socket));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for number in 0..FOLLOWED {
            let topic = name(number);
            let which = format!(r#""subscription":"{topic}","topic":"{topic}""#);
            let subscribe = format!(r#"{{"type":"subscribe",{which},"from":"earliest"}}"#);
            // At some point the session stops reading the messages of a client that reads nothing.
            let sent = client.send(Message::text(subscribe));
            if tokio::time::timeout(Duration::from_millis(100), sent).await.is_err() {
                break;
            }
        }
        clients.push(client);
    }
    read_the_others(&broker).await;
    drop(clients);
    broker.close().await;
}

/// Goal: the messages about one consumer are decided in their order, also while the first one waits
/// for the log. Those about another consumer do not wait.
#[tokio::test]
async fn messages_about_one_consumer_are_decided_in_their_order() {
    let log = std::sync::Arc::new(FaultyLog::default());
    let opened = || Builder::default().log(log.clone()).open().unwrap();
    let (broker, topic) = (opened(), "a".parse::<TopicName>().unwrap());
    let event = NewEvent::new("x").with_id("order-7");
    broker.publish(Publish::one(topic, event)).await.unwrap();
    broker.close().await;
    let broker = opened(); // It has nothing in memory.
    let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.unwrap();
    let edge = Edge::new(broker.clone()).consumers(consumers.clone());
    let (server, client) = tokio::io::duplex(1 << 20);
    let socket = PacedSocket::new(server, edge.pace());
    let session = tokio::spawn(Session::run(edge, Default::default(), socket));
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let held = log.hold_reads();
    for (reference, consumer, what) in [
        (1, "one", r#""mark":["read"],"events":[{"id":"order-7"}]"#),
        (2, "one", r#""unmark":["read"],"events":[1]"#),
        (3, "two", r#""mark":["seen"],"events":[1]"#),
    ] {
        let of = format!(r#""ref":{reference},"topic":"a","consumer":"{consumer}""#);
        let mark = format!(r#"{{"type":"mark",{of},{what}}}"#);
        client.send(Message::text(mark)).await.unwrap();
    }
    let mut answered = async || {
        let (kind, message) = told(&mut client).await;
        assert_eq!((kind.as_str(), &message["changed"]), ("ack", &json!(true)), "{message}");
        message["ref"].as_u64().unwrap()
    };
    assert_eq!(answered().await, 3);
    drop(held);
    assert_eq!([answered().await, answered().await], [1, 2]);
    let id = ConsumerId::new("a".parse().unwrap(), "one".parse().unwrap());
    let marks = consumers.state(&id).marks;
    let marked = |mark| marks.line(mark).unwrap().marked_ranges().len();
    assert_eq!((marked(Mark::Seen), marked(Mark::Read)), (1, 0));
    drop(client);
    session.await.unwrap();
    broker.close().await;
}
