//! What the state of a topic promises while the topic changes.

use std::time::Duration;

use super::super::*;

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

/// A broker in memory that maintains when it is told to, and whose topics are compacted.
fn broker() -> Broker {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000;
    config.broker.max_reads = 1;
    let compacts =
        TopicConfig { compact: Some(true), tombstone_grace_ms: Some(0), ..TopicConfig::default() };
    config.topics.set(">".parse().unwrap(), compacts);
    Broker::in_memory(&config).unwrap()
}

async fn publish(broker: &Broker, topic: &str, key: &str, payload: &str) {
    let event = NewEvent { key: key.to_owned(), ..NewEvent::new(payload.to_owned()) };
    let publish = Publish { topic: name(topic), events: vec![event], expected_sequence: None };
    broker.publish(publish).await.unwrap();
}

/// Goal: whoever reads the state of one topic slowly holds up nothing in any other.
#[tokio::test]
async fn a_read_of_a_state_holds_up_the_tombstones_of_its_own_topic_alone() {
    let broker = broker();
    for topic in ["a", "b"] {
        publish(&broker, topic, "k", "1").await;
        publish(&broker, topic, "k", "").await;
    }
    let maintain = async || {
        for _ in 0..3 {
            let maintained = tokio::time::timeout(Duration::from_secs(30), broker.maintain(None));
            maintained.await.expect("it takes too long").unwrap();
        }
        ["a", "b"].map(|topic| broker.topic(&name(topic)).unwrap().extent.events())
    };
    let others = broker.0.turns.take().await; // It cannot read yet.
    let a = name("a");
    let mut read = Box::pin(broker.state(&a, "", Sequence::FIRST, None, 10));
    assert!(futures_util::poll!(read.as_mut()).is_pending());
    assert_eq!(maintain().await, [1, 0], "events of a, whose state is read, and of b");
    drop(others);
    let page = tokio::time::timeout(Duration::from_secs(30), read).await.expect("it ends");
    assert_eq!(page.unwrap().events, []);
    assert_eq!(maintain().await, [0, 0]);
}
