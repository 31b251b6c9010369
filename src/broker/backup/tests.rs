//! Tests of backups that are made while the broker goes on.

use std::io::Write;
use std::task::Poll;

use super::*;
use crate::broker::{Broker, Delivery, OpenConfig, Publish};
use crate::cursor::{OnGap, StartPoint};
use crate::event::NewEvent;
use crate::topic::TopicName;

/// Goal: a trim of events beyond a backup's position is not in the backup, so a reader of the
/// restored log is told no gap for it.
#[test]
fn what_is_dropped_beyond_the_end_of_a_backup_was_not_dropped_in_it() {
    let end = BackupEnd {
        tail: Sequence::new(5),
        position: Position::new(40),
        time: Timestamp::from_ms(1_000),
    };
    let now = Extent {
        earliest: Sequence::new(9),
        tail: Sequence::new(9),
        last_position: Position::new(90),
        last_time: Timestamp::from_ms(2_000),
        last_clock: Timestamp::from_ms(1_900),
        trimmed_position: Position::new(90),
        trimmed_time: Timestamp::from_ms(2_000),
        buried_position: Position::new(80),
        buried_sequence: Sequence::new(8),
        purged: Sequence::new(9),
        ..Extent::EMPTY
    };
    let then = end.cut(now);
    assert_eq!([then.earliest, then.tail, then.purged], [end.tail; 3]);
    let positions = [then.last_position, then.trimmed_position, then.buried_position];
    assert_eq!(positions, [end.position; 3]);
    assert_eq!([then.last_time, then.last_clock, then.trimmed_time], [end.time; 3]);
    assert_eq!(then.buried_sequence, end.tail.previous());
    let before = Extent {
        earliest: Sequence::new(2),
        tail: Sequence::new(5),
        last_position: Position::new(40),
        last_time: Timestamp::from_ms(1_000),
        trimmed_position: Position::new(4),
        trimmed_time: Timestamp::from_ms(7),
        ..Extent::EMPTY
    };
    assert_eq!(end.cut(before), before, "an extent that ends there stays as it is");
}

/// Goal: events that are trimmed while a backup is half read leave no hole in the restored log.
#[tokio::test]
async fn a_topic_that_is_trimmed_while_it_is_backed_up_begins_later_and_has_no_hole() {
    let topic: TopicName = "a".parse().unwrap();
    for (steps, earliest) in [(1, 5), (1, 30), (2, 30), (1, 41), (3, 40), (2, 2)] {
        let mut config = OpenConfig::default();
        (config.broker.max_read_bytes, config.broker.max_block_bytes) = (1_024, 1_024);
        let broker = Broker::in_memory(&config).unwrap();
        for _ in 0..40 {
            let events = vec![NewEvent::new("x".repeat(200))];
            let publish = Publish { topic: topic.clone(), events, expected_sequence: None };
            broker.publish(publish).await.unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("backup");
        let mut file = std::fs::File::create(&copy).unwrap();
        let mut backup = broker.backup(None).await.unwrap();
        for _ in 0..steps {
            file.write_all(&backup.next().await.unwrap().unwrap()).unwrap();
        }
        broker.purge(&topic, Sequence::new(earliest)).await.unwrap();
        while let Some(bytes) = backup.next().await.unwrap() {
            file.write_all(&bytes).unwrap();
        }
        let target = directory.path().join("restored");
        crate::log::restore(&target, &[copy], |_| {}).unwrap();
        let restored = Broker::open(&target, &OpenConfig::default()).unwrap();
        let extent = restored.topic(&topic).unwrap().extent;
        let mut reader =
            restored.subscribe(&topic, StartPoint::Earliest, OnGap::Resume).await.unwrap();
        let mut seen = Vec::new();
        while let Some(delivery) = reader.next_ready().await.unwrap() {
            if let Delivery::Events(run) = delivery {
                seen.extend(run.events().map(|event| event.sequence.get()));
            }
        }
        let case = format!("{steps} steps, then trimmed below {earliest}");
        assert_eq!(seen, (extent.earliest.get()..41).collect::<Vec<_>>(), "{case}");
        assert_eq!(extent.tail.get(), 41, "{case}");
        restored.close().await;
    }
}

/// Goal: a caller may give up a call of `next` at any time, and goes on with the next call.
/// Method: publishes after the backup's position make it look for its end in each topic. Calls
/// are given up at their first and at their second wait, before one runs to its end.
#[tokio::test]
async fn a_call_that_is_given_up_loses_nothing_of_the_backup() {
    let mut config = OpenConfig::default();
    (config.broker.max_read_bytes, config.broker.max_block_bytes) = (1_024, 1_024);
    let broker = Broker::in_memory(&config).unwrap();
    let topics: Vec<TopicName> = (0..20).map(|n| format!("t{n}").parse().unwrap()).collect();
    let publish_to_all = async || {
        for topic in &topics {
            let events = vec![NewEvent::new("x".repeat(400)); 8];
            broker.publish(Publish::new(topic.clone(), events)).await.unwrap();
        }
    };
    publish_to_all().await;
    let mut backup = broker.backup(None).await.unwrap();
    publish_to_all().await;
    let (mut bytes, mut given_up) = (Vec::new(), 0);
    for most_waits in [0, 1, usize::MAX].into_iter().cycle() {
        let (mut next, mut waits) = (Box::pin(backup.next()), 0);
        let outcome = std::future::poll_fn(|cx| match next.as_mut().poll(cx) {
            Poll::Pending if waits < most_waits => {
                waits += 1;
                Poll::Pending
            }
            outcome => Poll::Ready(outcome),
        });
        match outcome.await {
            Poll::Ready(next) => match next.unwrap() {
                Some(more) => bytes.extend_from_slice(&more),
                None => break,
            },
            Poll::Pending => given_up += 1,
        }
    }
    assert!(given_up >= 10, "only {given_up} calls were given up");
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("backup");
    std::fs::write(&copy, bytes).unwrap();
    let report = crate::log::restore(&directory.path().join("restored"), &[copy], |_| {});
    assert_eq!(report.unwrap().events, 20 * 8);
    broker.close().await;
}
