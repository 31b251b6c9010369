//! Tests of commands that are queued together: which fail together, and which are committed
//! together.

mod together;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::broker::command::Change;
use crate::broker::command::RecalledIds;
use crate::broker::queue::{AskedBy, Queued, QueuedChange};
use crate::broker::{Broker, InOrder, OpenConfig, Pending, Publish};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::log::{Fault, FaultyLog, HeldGate};
use crate::topic::{TopicId, TopicName};
use crate::topic_config::TopicConfig;

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn publish(topic: &str, payload: impl Into<bytes::Bytes>) -> Publish {
    let events = vec![NewEvent::new(payload)];
    Publish { topic: name(topic), events, expected_sequence: None }
}

/// Has the committer wait in a group of its own, so that the commands that follow are queued
/// together.
pub(super) async fn busy<'a>(log: &'a FaultyLog, broker: &Broker) -> (HeldGate<'a>, Pending) {
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

/// Goal: a publish that finds no room in time fails the publishes after it in its order, and none
/// before it.
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

/// Goal: a group that storage refuses fails the publishes after it in the same order, also those
/// that are queued already, and none before it.
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
        let publish = publish("a", vec![number; 2_000]); // Each is a group of its own.
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
    assert_eq!(broker.refused_publishes(), 1, "by storage");
    assert_eq!(other.ack().await.unwrap().last().sequence.get(), 3);
    broker.close().await;
}

/// Waits for the committer's answer.
pub(super) async fn answered<T>(answer: oneshot::Receiver<T>) -> T {
    tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap()
}

/// Queues a change of a topic.
pub(super) async fn change(
    broker: &Broker,
    topic: &str,
    change: Change,
) -> oneshot::Receiver<Result<()>> {
    let topic = broker.0.topics.open(&name(topic)).unwrap();
    let (reply, answered) = oneshot::channel();
    broker
        .0
        .send(Queued::Change(QueuedChange { topic, change, asked_by: AskedBy::Caller, reply }))
        .await
        .unwrap();
    answered
}

fn config() -> TopicConfig {
    TopicConfig::default()
}

/// Goal: thousands of recalls, changes and barriers do not cost one commit each.
#[tokio::test]
async fn whatever_is_queued_among_publishes_joins_their_group() {
    const COUNT: usize = 200;
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    broker.publish(publish("warm", "")).await.unwrap();
    let (held, first) = busy(&log, &broker).await;
    let warm = broker.0.topics.existing(&name("warm")).unwrap();
    let before = log.commits();
    let (mut publishes, mut changes) = (Vec::new(), Vec::new());
    let (mut recalls, mut barriers) = (Vec::new(), Vec::new());
    for number in 0..COUNT {
        let topic = format!("published.{}", number % 7);
        publishes.push(broker.submit(publish(&topic, number.to_string())).await.unwrap());
        let create = Change::Create(config());
        changes.push(change(&broker, &format!("created.{number}"), create).await);
        let (reply, answered) = oneshot::channel();
        let recalled = RecalledIds { id: TopicId::FIRST, blocks: Vec::new() };
        let recall = Queued::Recall { topic: warm.clone(), recalled, reply };
        broker.0.send(recall).await.unwrap();
        let (reply, passed) = oneshot::channel();
        broker.0.send(Queued::Barrier { reply }).await.unwrap();
        recalls.push(answered);
        barriers.push(passed);
    }
    drop(held);
    first.ack().await.unwrap();
    for pending in publishes {
        tokio::time::timeout(PATIENCE, pending.ack()).await.unwrap().unwrap();
    }
    for change in changes {
        answered(change).await.unwrap();
    }
    for recall in recalls {
        answered(recall).await;
    }
    for barrier in barriers {
        answered(barrier).await;
    }
    assert_eq!(log.commits() - before, 2, "one for all changes, one for all publishes");
    assert_eq!(broker.topics(None, 1_000).len(), 2 + 7 + COUNT);
    broker.close().await;
}

/// Goal: a topic is as the answer to its creation, change or deletion says, and publishes before
/// and after it find the topic as it was then.
#[tokio::test]
async fn changes_of_a_topic_and_publishes_to_it_keep_their_order() {
    let mut open = OpenConfig::default();
    open.broker.auto_create = false;
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &open).unwrap();
    broker.create_topic(&name("first"), config()).await.unwrap();
    let (held, first) = busy(&log, &broker).await;
    let limited = TopicConfig { max_events: Some(7), ..config() };
    let wrong = TopicConfig { max_events_per_key: Some(0), ..config() };
    let fields = || vec!["max_events".to_owned()];
    let too_early = broker.submit(publish("a", "0")).await.unwrap();
    let changes = [
        change(&broker, "a", Change::Update(config(), fields())).await,
        change(&broker, "a", Change::Create(config())).await,
        change(&broker, "a", Change::Create(config())).await,
        change(&broker, "a", Change::Set(wrong)).await,
        change(&broker, "b", Change::Create(limited)).await,
    ];
    let one = broker.submit(publish("a", "1")).await.unwrap();
    let deletions =
        [change(&broker, "a", Change::Delete).await, change(&broker, "a", Change::Delete).await];
    let too_late = broker.submit(publish("a", "2")).await.unwrap();
    let again = [
        change(&broker, "a", Change::Create(config())).await,
        change(&broker, "a", Change::Update(limited, fields())).await,
    ];
    let two = broker.submit(publish("a", "2")).await.unwrap();
    drop(held);
    first.ack().await.unwrap();
    let kind = |outcome: &Result<()>| match outcome {
        Ok(()) => "done",
        Err(Error::UnknownTopic(_)) => "unknown",
        Err(Error::TopicExists(_)) => "exists",
        Err(Error::Invalid { .. }) => "invalid",
        Err(other) => panic!("{other}"),
    };
    let mut kinds = Vec::new();
    for answer in changes.into_iter().chain(deletions).chain(again) {
        kinds.push(kind(&answered(answer).await));
    }
    let expected =
        ["unknown", "done", "exists", "invalid", "done", "done", "unknown", "done", "done"];
    assert_eq!(kinds, expected);
    for refused in [too_early, too_late] {
        let error = refused.ack().await.unwrap_err();
        assert!(matches!(error, Error::UnknownTopic(_)), "{error}");
    }
    let given = [one.ack().await.unwrap(), two.ack().await.unwrap()];
    assert_eq!(given.map(|ack| ack.last().sequence.get()), [1, 2]);
    let extent = broker.topic(&name("a")).unwrap().extent;
    assert_eq!((extent.earliest.get(), extent.tail.get()), (2, 3), "the deleted events are gone");
    let limits = ["a", "b"].map(|topic| broker.topic(&name(topic)).unwrap().config.max_events);
    assert_eq!(limits, [Some(7), Some(7)]);
    broker.close().await;
}

/// Goal: a disk that is too full for events does not stop a topic from being deleted.
#[tokio::test]
async fn a_deletion_that_is_queued_among_publishes_is_done_though_these_are_refused() {
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    broker.publish(publish("old", "1")).await.unwrap();
    let (held, first) = busy(&log, &broker).await;
    log.fail(log.appends() + 1, Fault::DiskFull);
    let refused = broker.submit(publish("a", "1")).await.unwrap();
    let deleted = change(&broker, "old", Change::Delete).await;
    let refused_too = broker.submit(publish("b", "1")).await.unwrap();
    drop(held);
    first.ack().await.unwrap();
    answered(deleted).await.unwrap();
    for refused in [refused, refused_too] {
        let error = refused.ack().await.unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    }
    let error = broker.topic(&name("old")).unwrap_err();
    assert!(matches!(error, Error::UnknownTopic(_)), "{error}");
    broker.close().await;
}

/// Goal: positions follow each publisher's order over all topics, also within a group; the log
/// holds the events at the places that publishers were told.
/// Method: publishers with an order and without one publish to random topics, all in one group.
#[tokio::test]
async fn positions_follow_each_publishers_order_within_a_group() {
    for seed in 0..20_u64 {
        let log = Arc::new(FaultyLog::default());
        let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
        let (held, first) = busy(&log, &broker).await;
        let publishers: Vec<InOrder> = (0..4).map(|_| InOrder::default().independent()).collect();
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let mut pending = Vec::new();
        for number in 0..200_u64 {
            let (by, topic) = (next(5) as usize, next(3));
            let events = (0..=next(3)).map(|_| NewEvent {
                id: next(150).to_string(), // Some ids come twice.
                ..NewEvent::new(number.to_string())
            });
            let topic = name(&format!("t{topic}"));
            let publish = Publish { topic, events: events.collect(), expected_sequence: None };
            let topic = publish.topic.clone();
            let submitted = match publishers.get(by) {
                Some(publisher) => broker.submit_patiently(publish, publisher).await,
                None => broker.submit(publish).await, // The fifth publisher has no order.
            };
            pending.push((by, topic, submitted.unwrap()));
        }
        drop(held);
        first.ack().await.unwrap();
        let mut last = [0; 5];
        let mut told = std::collections::BTreeMap::new();
        for (by, topic, pending) in pending {
            let ack = tokio::time::timeout(PATIENCE, pending.ack()).await.unwrap().unwrap();
            for index in 0..ack.count {
                let receipt = ack.receipt(index);
                told.insert(receipt.position.get(), (topic.clone(), receipt.sequence.get()));
                if ack.duplicates.iter().all(|duplicate| duplicate.index != index) {
                    assert!(receipt.position.get() > last[by], "seed {seed}, publisher {by}");
                    last[by] = receipt.position.get();
                }
            }
        }
        assert_eq!(log.appends(), 2, "one group");
        let mut stored = std::collections::BTreeMap::new();
        for topic in broker.topics(Some("first"), 9) {
            let request = crate::broker::PageRequest {
                start: crate::cursor::StartPoint::Earliest,
                before: None,
                limit: 1_000,
                wait: Duration::ZERO,
                on_gap: crate::cursor::OnGap::Fail,
                filter: Default::default(),
                ..crate::broker::PageRequest::default()
            };
            let page = broker.read(&topic.name, request).await.unwrap();
            for event in page.runs.iter().flat_map(crate::broker::Run::to_events) {
                let place = (topic.name.clone(), event.sequence.get());
                assert_eq!(stored.insert(event.position.get(), place), None);
            }
        }
        assert_eq!(stored, told, "seed {seed}");
        let positions: Vec<u64> = stored.into_keys().collect();
        assert!(positions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no hole in a group");
        broker.close().await;
    }
}

/// Goal: if each publisher has its own topic, readers of all topics get the events of one topic
/// together.
#[tokio::test]
async fn what_has_no_order_among_each_other_is_numbered_topic_by_topic() {
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    let (held, first) = busy(&log, &broker).await;
    let publishers: Vec<InOrder> = (0..8).map(|_| InOrder::default()).collect();
    let mut pending = Vec::new();
    for number in 0..80 {
        let publish = publish(&format!("t{}", number % 8), number.to_string());
        pending.push(broker.submit_in_order(publish, &publishers[number % 8]).await.unwrap());
    }
    drop(held);
    first.ack().await.unwrap();
    for (number, pending) in pending.into_iter().enumerate() {
        let position = pending.ack().await.unwrap().last().position.get();
        assert_eq!(position, 2 + (number % 8 * 10 + number / 8) as u64);
    }
    broker.close().await;
}
