//! A reader that has read nothing of a topic holds none of its keys, and misses no deletion of one.

use crate::broker::*;
use crate::cursor::{GapReason, StartPoint};
use crate::event::NewEvent;
use crate::log::MemoryLog;

const GAPS: [OnGap; 4] = [OnGap::Resume, OnGap::Earliest, OnGap::Latest, OnGap::Fail];

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

/// Returns a broker that keeps nothing in memory, and drops tombstones whenever it is maintained.
fn open() -> Broker {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000;
    config.broker.max_tail_bytes = 0;
    config.broker.max_read_bytes = 1_024;
    config.dedup.max_age_ms = 0;
    let limits =
        TopicConfig { compact: Some(true), tombstone_grace_ms: Some(0), ..TopicConfig::default() };
    config.topics.set(">".parse().unwrap(), limits);
    Broker::with_log(Arc::new(MemoryLog::default()), &config).unwrap()
}

/// Publishes an event with a key and a payload, which is a tombstone when it is empty.
async fn publish(broker: &Broker, topic: &str, key: &str, payload: &str) {
    let event = NewEvent { key: key.to_owned(), ..NewEvent::new(payload.to_owned()) };
    let publish = Publish { topic: name(topic), events: vec![event], expected_sequence: None };
    broker.publish(publish).await.unwrap();
}

/// Publishes a value of a key, the deletion of the key, and an event after it.
async fn publish_deletion(broker: &Broker, topic: &str) {
    publish(broker, topic, "k", "value").await;
    publish(broker, topic, "k", "").await;
    publish(broker, topic, "", "last").await;
}

/// Drops superseded events and tombstones.
async fn compact(broker: &Broker, topic: &str) {
    for _ in 0..2 {
        broker.maintain(Some(&name(topic))).await.unwrap();
    }
    let dropped = broker.topic(&name(topic)).unwrap().extent;
    assert!(dropped.buried_drop > 0, "no tombstone was dropped");
}

async fn feed(broker: &Broker, start: StartPoint, on_gap: OnGap) -> Reader {
    broker.feed(vec![">".parse().unwrap()], start, on_gap).await.unwrap()
}

/// Returns the payloads and the reasons of gaps of up to `deliveries` deliveries.
async fn read(feed: &mut Reader, deliveries: usize) -> (Vec<String>, Vec<GapReason>) {
    let (mut payloads, mut gaps) = (Vec::new(), Vec::new());
    for _ in 0..deliveries {
        match feed.next_ready().await {
            Ok(Some(Delivery::Events(run))) => payloads
                .extend(run.events().map(|e| String::from_utf8(e.payload.to_vec()).unwrap())),
            Ok(Some(Delivery::Gap(gap))) => gaps.push(gap.reason),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(Error::Gap(gap)) => gaps.push(gap.reason),
            Err(error) => panic!("{error}"),
        }
    }
    (payloads, gaps)
}

/// Goal: a reader from the earliest event on is told no gap for a deletion in a topic that waits
/// for its turn, because the reader has read nothing of that topic. Method: the topic was trimmed
/// before the reader came, so that it does not begin with sequence 1. Its tombstone is dropped
/// while another topic is read.
#[tokio::test]
async fn a_tombstone_that_is_dropped_in_a_topic_that_waits_is_no_gap() {
    for on_gap in GAPS {
        let broker = open();
        publish(&broker, "waits", "", "trimmed").await;
        broker.purge(&name("waits"), Sequence::new(2)).await.unwrap();
        // These events are so large that no other topic is read ahead.
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(2_000));
        for payload in [&one, &two] {
            publish(&broker, "first", "", payload).await;
        }
        publish_deletion(&broker, "waits").await;
        let mut feed = feed(&broker, StartPoint::Earliest, on_gap).await;
        assert_eq!(read(&mut feed, 1).await, (vec![one], vec![]));
        let mut alone =
            broker.subscribe(&name("waits"), StartPoint::Earliest, on_gap).await.unwrap();
        compact(&broker, "waits").await;
        let rest = vec![two, "last".to_owned()];
        assert_eq!(read(&mut feed, usize::MAX).await, (rest, vec![]), "{on_gap:?}");
        let next = alone.next_ready().await.unwrap();
        assert!(matches!(next, Some(Delivery::Events(_))), "{on_gap:?}: {next:?}");
        broker.close().await;
    }
}

/// Goal: a reader that comes back to a place before the topic's first event is told no gap for a
/// deletion, because it has read nothing of that topic.
#[tokio::test]
async fn a_tombstone_that_is_dropped_in_a_topic_that_came_later_is_no_gap() {
    for on_gap in GAPS {
        let broker = open();
        publish(&broker, "first", "", "1").await;
        let mut before = feed(&broker, StartPoint::Earliest, on_gap).await;
        assert_eq!(read(&mut before, usize::MAX).await.0, ["1"]);
        let cursor = before.cursor();
        drop(before);
        publish_deletion(&broker, "later").await;
        compact(&broker, "later").await;
        let mut back = feed(&broker, StartPoint::After(cursor), on_gap).await;
        let last = vec!["last".to_owned()];
        assert_eq!(read(&mut back, usize::MAX).await, (last, vec![]), "{on_gap:?}");
        broker.close().await;
    }
}

/// Goal: a reader that has read a value is told that the deletion is gone, both live and when it
/// comes back.
#[tokio::test]
async fn a_tombstone_that_is_dropped_is_told_to_whoever_may_hold_the_key() {
    for is_live in [true, false] {
        let broker = open();
        publish(&broker, "first", "k", "value").await;
        let mut feed = feed(&broker, StartPoint::Earliest, OnGap::Resume).await;
        assert_eq!(read(&mut feed, 1).await.0, ["value"]);
        publish(&broker, "first", "k", "").await;
        publish(&broker, "first", "", "last").await;
        compact(&broker, "first").await;
        if !is_live {
            let start = StartPoint::After(feed.cursor());
            feed = self::feed(&broker, start, OnGap::Resume).await;
        }
        let told = (vec!["last".to_owned()], vec![GapReason::Tombstones]);
        assert_eq!(read(&mut feed, usize::MAX).await, told, "live: {is_live}");
        broker.close().await;
    }
}
