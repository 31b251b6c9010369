//! Tests of the bounds of compaction: with small bounds, topics with more keys than fit are
//! compacted all the same.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::*;
use crate::event::NewEvent;
use crate::log::FaultyLog;

const KEYS: usize = 300;

/// Compacts a topic with three values of each key. Returns the values that it has then, and the
/// number of reads of the log.
async fn compacted(max_key_bytes: u64) -> (Vec<String>, u64) {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000;
    config.maintenance.max_key_bytes = max_key_bytes;
    let compacts = TopicConfig { compact: Some(true), ..TopicConfig::default() };
    config.topics.set(">".parse().unwrap(), compacts);
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    let topic: TopicName = "a".parse().unwrap();
    for round in 0..3 {
        let event = |key: usize| NewEvent {
            key: format!("key {key}"),
            ..NewEvent::new(format!("{round} of {key}"))
        };
        let events = (0..KEYS).map(event).collect();
        let publish = Publish { topic: topic.clone(), events, expected_sequence: None };
        broker.publish(publish).await.unwrap();
    }
    let before = log.reads();
    let maintain = broker.maintain(Some(&topic));
    tokio::time::timeout(Duration::from_secs(30), maintain).await.expect("it ends").unwrap();
    let reads = log.reads() - before;
    let state = broker.topic(&topic).unwrap().extent;
    let id = broker.0.topics.existing(&topic).unwrap().state().id.unwrap();
    let blocks =
        broker.0.log.step(|log| log.read(id, state.earliest, state.tail, usize::MAX)).unwrap();
    let payload =
        |event: crate::log::EventRef<'_>| String::from_utf8(event.payload.into()).unwrap();
    (blocks.iter().flat_map(|block| block.events().map(payload)).collect(), reads)
}

/// Goal: a topic with more keys than fit into memory is compacted in parts, with the same outcome.
/// The keys of a topic that fit are read once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_more_keys_than_there_is_memory_for_is_compacted_in_parts() {
    let expected: Vec<String> = (0..KEYS).map(|key| format!("2 of {key}")).collect();
    let (large, few_reads) = compacted(64 << 20).await;
    assert_eq!(large, expected);
    // Memory for about 40 keys at a time, and for 3.
    for (max_key_bytes, least_parts) in [(16 << 10, 3), (1 << 10, 20)] {
        let (small, many_reads) = compacted(max_key_bytes).await;
        assert_eq!(small, expected);
        assert!(many_reads > least_parts * few_reads, "{many_reads} reads, {few_reads} at once");
    }
}
