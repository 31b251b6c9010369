//! Tests of values that expire, which maintenance drops by itself, and of its progress after a
//! restart.

use std::sync::atomic::Ordering;

use super::{CLOCK, ONE_AT_A_TIME, clock, publish_one, restless, until};
use crate::broker::topic::upkeep::ROLL_UP_BLOCKS;
use crate::broker::*;
use crate::cursor::StartPoint;
use crate::event::NewEvent;
use crate::log::{Extent, FaultyLog};

const TTL_MS: u64 = 5_000;

fn keyed(key: &str, payload: &'static str) -> NewEvent {
    NewEvent { key: key.to_owned(), ..NewEvent::new(payload) }
}

fn compacted(max_events_per_key: Option<u64>) -> TopicConfig {
    TopicConfig { compact: Some(true), max_events_per_key, ..TopicConfig::default() }
}

fn extent(broker: &Broker, name: &TopicName) -> Extent {
    broker.topic(name).unwrap().extent
}

/// Reads a topic from the first event on. Returns keys and payloads.
async fn read(broker: &Broker, name: &TopicName) -> Vec<(String, Vec<u8>)> {
    let mut reader = broker.subscribe(name, StartPoint::Earliest, OnGap::Fail).await.unwrap();
    let mut seen = Vec::new();
    while let Some(delivery) = reader.next_ready().await.unwrap() {
        if let Delivery::Events(run) = delivery {
            seen.extend(run.events().map(|e| (e.key.to_owned(), e.payload.to_vec())));
        }
    }
    seen
}

/// Goal: when a value expires, maintenance drops the values of its key before it, and then the
/// value, without being asked. At no time does a reader end with an earlier value.
/// Method: topics keep one event of a key, or several; the events have ids, which hold them back,
/// or none. There are few events, so that nothing else makes a compaction worth it.
#[tokio::test]
async fn a_value_that_expires_goes_with_those_before_it_by_itself() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (kept, has_ids) in [(None, false), (Some(3), false), (None, true), (Some(3), true)] {
        let when = format!("{kept:?} are kept, ids: {has_ids}");
        let broker = restless(Arc::new(MemoryLog::default()), compacted(kept));
        let name: TopicName = "a".parse().unwrap();
        let id = |id: &str| if has_ids { id.to_owned() } else { String::new() };
        let old = NewEvent { id: id("1"), ..keyed("k", "old") };
        let new = NewEvent { id: id("2"), ttl_ms: Some(TTL_MS), ..keyed("k", "new") };
        for event in [old, new, keyed("z", "last")] {
            publish_one(&broker, &name, event).await;
        }
        let topic = broker.0.topics.existing(&name).unwrap();
        until("the topic is looked at", || !topic.upkeep.rewriting.is_due(clock())).await;
        let event = |key: &str, payload: &str| (key.to_owned(), payload.as_bytes().to_vec());
        let (old, last) = (event("k", "old"), event("z", "last"));
        assert_eq!(read(&broker, &name).await, [old.clone(), event("k", "new"), last.clone()]);
        CLOCK.fetch_add(TTL_MS, Ordering::SeqCst);
        if has_ids {
            let deleted = [old, event("k", ""), last.clone()];
            assert_eq!(read(&broker, &name).await, deleted, "{when}");
            CLOCK.fetch_add(broker.0.dedup.max_age_ms, Ordering::SeqCst);
        }
        until(&when, || extent(&broker, &name).events() == 1).await;
        assert_eq!(read(&broker, &name).await, [last], "{when}");
        assert!(extent(&broker, &name).buried_position > Position::BEFORE_ALL, "{when}");
    }
}

/// Goal: in a topic that is not compacted, an expired value does not delete its key.
#[tokio::test]
async fn a_value_that_expires_buries_nothing_where_nothing_is_compacted() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let broker = restless(Arc::new(MemoryLog::default()), TopicConfig::default());
    let name: TopicName = "a".parse().unwrap();
    let new = NewEvent { ttl_ms: Some(TTL_MS), ..keyed("k", "new") };
    for event in [keyed("k", "old"), new, keyed("z", "last")] {
        publish_one(&broker, &name, event).await;
    }
    CLOCK.fetch_add(TTL_MS, Ordering::SeqCst);
    broker.maintain(Some(&name)).await.unwrap();
    assert_eq!(extent(&broker, &name).events(), 2);
    assert_eq!(extent(&broker, &name).buried_position, Position::BEFORE_ALL);
    assert_eq!(read(&broker, &name).await[0].1, b"old");
}

/// Goal: an event goes when it expires, though passes that began after it have rolled up the later
/// blocks meanwhile.
#[tokio::test]
async fn an_event_expires_though_what_comes_after_it_was_looked_at_without_it() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let broker = restless(Arc::new(MemoryLog::default()), TopicConfig::default());
    let name: TopicName = "a".parse().unwrap();
    broker.create_topic(&name, TopicConfig::default()).await.unwrap();
    // The event is large beside the others, so these are worth a rewrite without it.
    let large = NewEvent::new("x".repeat(3_000));
    let mut first = Some(NewEvent { ttl_ms: Some(TTL_MS), ..large });
    for round in 0..3 {
        let before = extent(&broker, &name).rewritten;
        // Just enough for a roll-up, besides the large one: with more events meanwhile,
        // `may_expire` would be set for them.
        let large = usize::from(first.is_some());
        for _ in 0..ROLL_UP_BLOCKS as usize + large {
            let event = first.take().unwrap_or_else(|| NewEvent::new("x"));
            publish_one(&broker, &name, event).await;
        }
        until("the blocks are rolled up", || extent(&broker, &name).rewritten > before).await;
        assert!(extent(&broker, &name).may_expire, "round {round}");
    }
    let kept = extent(&broker, &name).events() - 1;
    CLOCK.fetch_add(TTL_MS + 60_000, Ordering::SeqCst);
    until("the event goes", || extent(&broker, &name).events() == kept).await;
    assert_eq!(read(&broker, &name).await.len() as u64, kept);
}

/// Goal: the progress of compaction outlives a restart: events that were looked at are not read
/// again. With other settings, all are looked at anew.
/// Method: the topic has so many events that a compaction would be worth it without that progress;
/// the log counts its reads.
#[tokio::test]
async fn what_was_compacted_before_a_restart_is_not_read_again() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let log = Arc::new(FaultyLog::default());
    let broker = restless(log.clone(), compacted(None));
    let name: TopicName = "a".parse().unwrap();
    for number in 0..300 {
        publish_one(&broker, &name, keyed(&(number % 100).to_string(), "x")).await;
    }
    broker.maintain(Some(&name)).await.unwrap();
    let before = extent(&broker, &name);
    assert_eq!((before.events(), before.compacted.below), (100, before.tail));
    broker.close().await;
    drop(broker);

    let reads = log.reads();
    let broker = restless(log.clone(), compacted(None));
    assert_eq!(extent(&broker, &name), before);
    let topic = broker.0.topics.existing(&name).unwrap();
    for _ in 0..3 {
        until("the topic is looked at", || !topic.upkeep.rewriting.is_due(clock())).await;
        publish_one(&broker, &name, keyed("0", "y")).await;
    }
    until("the topic is looked at", || !topic.upkeep.rewriting.is_due(clock())).await;
    assert_eq!(log.reads(), reads, "compacted events are read again");
    let totals = broker.maintenance_totals();
    assert_eq!(totals.compacted.events, 0);
    broker.close().await;
    drop(broker);

    let broker = restless(log.clone(), compacted(Some(2)));
    let topic = broker.0.topics.existing(&name).unwrap();
    until("all events are looked at", || topic.state().extent.compacted.kept == 2).await;
    assert!(log.reads() > reads);
}
