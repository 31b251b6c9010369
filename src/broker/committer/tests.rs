//! What is queued together: what fails with what, and what is committed with what.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Broker, InOrder, OpenConfig, Pending, Publish};
use crate::error::Error;
use crate::event::NewEvent;
use crate::log::{Fault, FaultyLog, Held};
use crate::topic::TopicName;

const PATIENCE: Duration = Duration::from_secs(30);

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn publish(topic: &str, payload: impl Into<bytes::Bytes>) -> Publish {
    let events = vec![NewEvent::new(payload)];
    Publish { topic: name(topic), events, expected_sequence: None }
}

/// Has the committer wait in a group of its own, so that what is handed in next is queued together.
async fn busy<'a>(log: &'a FaultyLog, broker: &Broker) -> (Held<'a>, Pending) {
    let next = log.appends() + 1;
    log.fail(next, Fault::Waits);
    let held = log.hold();
    let first = broker.submit(publish("first", "")).await.unwrap();
    let is_waiting = async {
        while log.appends() < next {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_waiting).await.unwrap();
    (held, first)
}

/// Goal: a publish that finds no room in time fails those after it, and none before it.
#[tokio::test]
async fn a_publish_that_waited_too_long_for_room_fails_only_those_after_it() {
    let mut config = OpenConfig::default();
    config.broker.max_queue_bytes = config.limits.max_batch_bytes;
    config.broker.max_queue_wait_ms = 20;
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    let (held, first) = busy(&log, &broker).await;
    let order = InOrder::default();
    let large = || publish("a", vec![b'x'; 1 << 20]);
    let mut pending = Vec::new();
    let error = loop {
        match broker.submit_in_order(large(), &order).await {
            Ok(accepted) => pending.push(accepted),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Busy { waited_ms: 20 }), "{error}");
    assert!(pending.len() >= 3, "{} were queued", pending.len());
    let after = broker.submit_patiently(publish("a", "after"), &order).await;
    assert!(matches!(after, Err(Error::AfterFailure)), "{after:?}");
    drop(held);
    for pending in pending.into_iter().chain([first]) {
        tokio::time::timeout(PATIENCE, pending.ack()).await.unwrap().unwrap();
    }
    assert_eq!(broker.topic(&name("a")).unwrap().extent.tail.get(), 4);
    broker.close().await;
}

/// Goal: a group that storage refuses fails what comes after it in the same order, also what is
/// queued by then, and nothing that came before it.
#[tokio::test]
async fn a_group_that_is_not_written_fails_what_is_queued_behind_it() {
    let mut config = OpenConfig::default();
    config.broker.max_group_bytes = 1_024;
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    let (held, first) = busy(&log, &broker).await;
    let order = InOrder::default();
    log.fail(log.appends() + 3, Fault::DiskFull);
    let mut pending = Vec::new();
    for number in 0..6 {
        let publish = publish("a", vec![number; 2_000]); // A group of its own.
        pending.push(broker.submit_in_order(publish, &order).await.unwrap());
    }
    let other = broker.submit(publish("a", "of another publisher")).await.unwrap();
    drop(held);
    first.ack().await.unwrap();
    let mut outcomes = Vec::new();
    for pending in pending {
        outcomes.push(match tokio::time::timeout(PATIENCE, pending.ack()).await.unwrap() {
            Ok(_) => "stored",
            Err(Error::DiskFull { .. }) => "full",
            Err(Error::AfterFailure) => "after",
            Err(other) => panic!("{other}"),
        });
    }
    assert_eq!(outcomes, ["stored", "stored", "full", "after", "after", "after"]);
    assert_eq!(other.ack().await.unwrap().last().sequence.get(), 3);
    broker.close().await;
}
