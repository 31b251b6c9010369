//! The client for Rust: what it publishes and follows outlives the broker and the connection.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use leftoff::client::{
    BackoffConfig, Client, ClientConfig, ClientDelivery, ClientError, ClientState, PublishBatch,
};
use leftoff::{NewEvent, StartPoint, TopicName, TopicPattern};
use tokio::sync::Semaphore;

use crate::common::{Process, Server, lasting_address, name, read_all, soon};

/// The events that are published, and the number of them after which the broker is killed.
const EVENTS: usize = 400;
const KILLED_EACH: usize = 150;

/// The most events that the publisher is ahead of the reader: so some are left at each kill.
const AHEAD: usize = 100;

fn client_of(address: std::net::SocketAddr) -> Client {
    let mut config = ClientConfig::new(format!("http://{address}"));
    config.backoff = BackoffConfig::between(Duration::from_millis(5), Duration::from_millis(50));
    config.window = 16;
    Client::connect(config).unwrap()
}

fn batch(topic: &TopicName, number: usize) -> PublishBatch {
    PublishBatch::new(topic.clone(), vec![NewEvent::new(number.to_string())])
}

/// Publishes all events, in order, and returns the sequences of their acknowledgements.
async fn publish_all(client: Client, topic: TopicName, ahead: Arc<Semaphore>) -> Vec<u64> {
    let publisher = client.publisher();
    let mut pending = Vec::new();
    for number in 0..EVENTS {
        ahead.acquire().await.unwrap().forget();
        pending.push(publisher.send(batch(&topic, number)).await.unwrap());
    }
    publisher.close().await.unwrap();
    let mut sequences = Vec::new();
    for ack in pending {
        sequences.push(ack.await.unwrap().acks[0].1.last().sequence.get());
    }
    sequences
}

/// Goal: through kills of the broker, each acknowledged event is stored once and in order, and a
/// reader gets it once and in order, however often its `next` is dropped.
/// Method: kill the real binary under a publisher and a reader, and start it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_costs_neither_publisher_nor_reader_an_event() {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = Process::serve_at(address, directory.path(), &[]);
    let client = client_of(address);
    let (orders, other) = (name("orders"), name("other"));
    let ahead = Arc::new(Semaphore::new(AHEAD));
    let publishing = tokio::spawn(publish_all(client.clone(), orders.clone(), ahead.clone()));
    let mut alone = Vec::new();
    let mut reader = client.subscribe(&orders, StartPoint::Earliest);
    let (mut seen, mut cursor) = (Vec::new(), None);
    while seen.len() < EVENTS {
        let next = soon(async {
            loop {
                let short = Duration::from_millis(1);
                if let Ok(next) = tokio::time::timeout(short, reader.next()).await {
                    return next.unwrap().unwrap();
                }
            }
        });
        match next.await {
            ClientDelivery::Event(event) => {
                let payload = String::from_utf8(event.event.content.payload.to_vec()).unwrap();
                seen.push((event.event.sequence.get(), payload));
                ahead.add_permits(1);
                if seen.len() == EVENTS / 2 {
                    cursor = reader.cursor();
                }
                if seen.len() % KILLED_EACH == 0 {
                    process.crash();
                    let (client, other) = (client.clone(), other.clone());
                    alone.push(tokio::spawn(async move {
                        client.publish(&other, NewEvent::new("alone")).await
                    }));
                    process = Process::serve_at(address, directory.path(), &[]);
                }
            }
            ClientDelivery::CaughtUp => {}
            else_told => panic!("{else_told:?}"),
        }
    }
    let expected: Vec<(u64, String)> =
        (0..EVENTS).map(|number| (number as u64 + 1, number.to_string())).collect();
    assert_eq!(seen, expected);
    let sequences = soon(publishing).await.unwrap();
    assert_eq!(sequences, (1..=EVENTS as u64).collect::<Vec<_>>());
    assert_eq!(read_all(address, "orders").await, expected);
    let kills = alone.len();
    assert!(kills >= 2, "the broker was killed {kills} times");
    for published in alone {
        assert_eq!(soon(published).await.unwrap().unwrap().count, 1);
    }
    assert_eq!(read_all(address, "other").await.len(), kills);
    assert_eq!(client.state(), ClientState::Connected);

    let mut again = client.subscribe(&orders, StartPoint::After(cursor.unwrap()));
    let ClientDelivery::Event(next) = soon(again.next()).await.unwrap().unwrap() else {
        panic!("events are there")
    };
    assert_eq!(next.event.sequence.get(), EVENTS as u64 / 2 + 1);
}

/// Goal: a refused batch is told with the broker's reason, what came before it is stored, and
/// nothing after it is, by both ways to publish.
#[tokio::test]
async fn after_a_refusal_a_publisher_stores_nothing_more() {
    let server = Server::start().await;
    let client = client_of(server.address);
    let topic = name("orders");
    let refused = || {
        let event = NewEvent::new("no").with_type("leftoff.x");
        PublishBatch::new(name("orders"), vec![event])
    };
    let publisher = client.publisher();
    let first = publisher.send(batch(&topic, 1)).await.unwrap();
    let second = publisher.send(refused()).await.unwrap();
    let third = publisher.send(batch(&topic, 3)).await;
    assert_eq!(soon(first).await.unwrap().acks[0].1.last().sequence.get(), 1);
    let error = soon(second).await.unwrap_err();
    assert!(error.to_string().contains("reserved"), "{error}");
    assert!(!error.is_transient() && !error.outcome_unknown(), "{error}");
    let after = match third {
        Ok(pending) => soon(pending).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(after, ClientError::NotStored), "{after}");
    assert!(publisher.send(batch(&topic, 4)).await.is_err(), "the publisher has ended");

    let mut sink = client.publisher();
    sink.feed(batch(&topic, 5)).await.unwrap();
    sink.flush().await.unwrap();
    assert_eq!(read_all(server.address, "orders").await.len(), 2, "flushed is stored");
    let fed = sink.feed(refused()).await;
    let error = match fed {
        Ok(()) => soon(sink.flush()).await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.to_string().contains("reserved"), "{error}");
    let payloads: Vec<String> =
        read_all(server.address, "orders").await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(payloads, ["1", "5"]);
    server.stop().await;
}

/// Goal: patterns are followed with their topics, and a reader that cannot begin says why, at once
/// and once.
#[tokio::test]
async fn a_reader_follows_patterns_and_ends_with_a_refusal() {
    let server = Server::start().await;
    let client = client_of(server.address);
    let all: TopicPattern = "orders.*".parse().unwrap();
    let mut reader = client.subscribe(all, StartPoint::Earliest);
    for topic in ["orders.a", "orders.b", "users"] {
        client.publish(&name(topic), NewEvent::new(topic)).await.unwrap();
    }
    let mut topics = Vec::new();
    while topics.len() < 2 {
        if let ClientDelivery::Event(event) = soon(reader.next()).await.unwrap().unwrap() {
            assert_eq!(event.topic.as_str(), event.event.content.payload);
            topics.push(event.topic);
        }
    }
    assert_eq!(topics, [name("orders.a"), name("orders.b")]);
    assert!(reader.cursor().unwrap().to_string().starts_with('@'));

    let one: TopicPattern = "orders.*".parse().unwrap();
    let mut wrong = client.subscribe(one, StartPoint::Last(5));
    let error = soon(wrong.next()).await.unwrap().unwrap_err();
    assert!(matches!(&error, ClientError::Status(_)) && !error.is_transient(), "{error}");
    assert!(soon(wrong.next()).await.is_none());
    drop((reader, wrong));
    server.stop().await;
}
