//! Tests of groups as the log sees them: their bounds, their durability, and checks against the
//! group itself instead of the stored events.

use std::sync::{Arc, Mutex};

use super::{answered, busy, change, name};
use crate::broker::command::Change;
use crate::broker::command::Merged;
use crate::broker::command::Rewrite;
use crate::broker::command::Work;
use crate::broker::topic::entry::Topic;
use crate::broker::{Broker, InOrder, OpenConfig, Publish};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, NewEvent};
use crate::log::{
    Block, FaultyLog, Group, Log, LogAround, MAX_REMOVED_PARTS, MemoryLog, StoredBlock, parts_in,
};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// The most bytes that a step of maintenance writes for one topic: the size from which a step is
/// handed in, and one block.
const MAX_REWRITTEN_BYTES: usize = (64 << 10) + MAX_BLOCK_BYTES;

/// The largest block into which events are merged in these tests.
const MAX_BLOCK_BYTES: usize = 64 << 10;

/// The sizes of a group.
#[derive(Debug, Clone)]
struct Seen {
    /// For each merged block, the number of the blocks that it replaces, and of their parts.
    merged: Vec<(usize, usize)>,
    removed_parts: usize,
    written_parts: usize,
    rewritten_bytes: usize,
    durability: Durability,
}

impl From<&Group> for Seen {
    fn from(group: &Group) -> Self {
        let parts = |(_, block): &(TopicId, Block)| parts_in(block.bytes().len());
        let written = group.rewritten.iter().chain(&group.appended);
        let merged = group.rewritten.iter().map(|(topic, block)| {
            let span = block.first_sequence()..=block.last_sequence();
            let replaced =
                group.removed.iter().filter(|(of, old)| of == topic && span.contains(&old.first));
            replaced.fold((0, 0), |(blocks, parts), (_, old)| (blocks + 1, parts + old.parts))
        });
        Self {
            merged: merged.collect(),
            removed_parts: group.removed.iter().map(|(_, block)| block.parts).sum(),
            written_parts: written.map(parts).sum(),
            rewritten_bytes: group.rewritten.iter().map(|(_, block)| block.bytes().len()).sum(),
            durability: group.durability,
        }
    }
}

/// A log in memory that remembers the sizes of its groups, and can be told to refuse groups that
/// rewrite.
#[derive(Default)]
struct WatchedLog {
    inner: MemoryLog,
    seen: Mutex<Vec<Seen>>,
    refuses_rewriting: std::sync::atomic::AtomicBool,
}

impl LogAround for WatchedLog {
    fn inside(&self) -> &dyn Log {
        &self.inner
    }

    fn commit(&self, group: &Group) -> Result<()> {
        let refuses = self.refuses_rewriting.load(std::sync::atomic::Ordering::SeqCst);
        if refuses && !group.rewritten.is_empty() {
            return Err(Error::NotWritten(std::io::Error::other("injected").into()));
        }
        self.seen.lock().unwrap().push(group.into());
        self.inner.commit(group)
    }
}

fn publish(topic: &str, events: Vec<NewEvent>) -> Publish {
    Publish { topic: name(topic), events, expected_sequence: None }
}

fn with_id(id: &str) -> Vec<NewEvent> {
    vec![NewEvent { id: id.to_owned(), ..NewEvent::new("x") }]
}

fn keyed(key: &str, payload: Vec<u8>) -> Vec<NewEvent> {
    vec![NewEvent { key: key.to_owned(), ..NewEvent::new(payload) }]
}

fn quiet_config() -> OpenConfig {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000; // Only when a test asks for it.
    config
}

/// Goal: no group removes or rewrites more than its bound, however much there is to do: lowered
/// limits of many topics, purges, and compaction of large events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_group_removes_or_rewrites_more_than_its_bound() {
    let log = Arc::new(WatchedLog::default());
    let mut config = quiet_config();
    config.broker.max_block_bytes = MAX_BLOCK_BYTES as u64;
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    let topics: Vec<String> = (0..24).map(|number| format!("t{number}")).collect();
    for topic in &topics {
        for _ in 0..150 {
            broker.publish(publish(topic, vec![NewEvent::new("x")])).await.unwrap();
        }
    }
    let limited = TopicConfig { max_events: Some(2), ..TopicConfig::default() };
    for topic in &topics {
        broker.set_topic(&name(topic), limited).await.unwrap();
    }
    // One publish to each topic trims, and the next one removes.
    for _ in 0..2 {
        let mut pending = Vec::new();
        for topic in &topics {
            let events = vec![NewEvent::new("x")];
            pending.push(broker.submit(publish(topic, events)).await.unwrap());
        }
        for pending in pending {
            pending.ack().await.unwrap();
        }
    }
    for topic in &topics {
        for _ in 0..150 {
            broker
                .publish(publish(&format!("{topic}.purged"), vec![NewEvent::new("x")]))
                .await
                .unwrap();
        }
        let purged = name(&format!("{topic}.purged"));
        broker.purge(&purged, Sequence::new(150)).await.unwrap();
    }
    let compacted = TopicConfig { compact: Some(true), ..TopicConfig::default() };
    broker.create_topic(&name("compacted"), compacted).await.unwrap();
    for number in 0..600 {
        let event = keyed(&format!("k{}", number % 300), vec![b'x'; 3_000]);
        broker.publish(publish("compacted", event)).await.unwrap();
    }
    broker.maintain(None).await.unwrap();
    broker.close().await;
    let seen = log.seen.lock().unwrap();
    for group in seen.iter() {
        let bound = MAX_REMOVED_PARTS + group.written_parts;
        assert!(group.removed_parts <= bound, "{group:?}");
        assert!(group.rewritten_bytes <= MAX_REWRITTEN_BYTES, "{group:?}");
    }
    let removed: usize = seen.iter().map(|group| group.removed_parts).sum();
    let rewritten: usize = seen.iter().map(|group| group.rewritten_bytes).sum();
    assert!(removed > 24 * 290 && rewritten > 500_000, "{removed} parts, {rewritten} bytes");
}

/// Goal: a group is as durable as the strictest of its topics asks for, in whatever order these
/// come, and an answer never promises less than its own topic does.
#[tokio::test]
async fn a_group_is_as_durable_as_its_strictest_topic() {
    for topics in [["strict", "lax"], ["lax", "strict"]] {
        let log = Arc::new(WatchedLog::default());
        let broker = Broker::with_log(log.clone(), &quiet_config()).unwrap();
        let lax = TopicConfig { durability: Some(Durability::Process), ..TopicConfig::default() };
        broker.create_topic(&name("lax"), lax).await.unwrap();
        broker.publish(publish("strict", with_id("known"))).await.unwrap();
        // All are queued at once: they are one group or several, each as durable as it must be.
        let mut pending = Vec::new();
        for _ in 0..50 {
            for topic in topics {
                let one = publish(topic, vec![NewEvent::new("x")]);
                pending.push((topic, broker.submit(one).await.unwrap()));
            }
            let known = publish("strict", with_id("known"));
            pending.push(("strict", broker.submit(known).await.unwrap()));
        }
        for (topic, pending) in pending {
            let told = pending.ack().await.unwrap().durability;
            let least = if topic == "lax" { Durability::Process } else { Durability::Fsync };
            assert!(told >= least, "{topic}: {told:?}");
        }
        broker.close().await;
        let seen = log.seen.lock().unwrap();
        let of_both = seen.iter().filter(|group| group.written_parts > 1);
        let durabilities: Vec<Durability> = of_both.map(|group| group.durability).collect();
        assert!(!durabilities.is_empty(), "no group had both");
        assert!(durabilities.iter().all(|d| *d == Durability::Fsync), "{durabilities:?}");
    }
}

/// Goal: an answer for events that are stored already promises no less than their topic does,
/// whatever else is in the group.
#[tokio::test]
async fn a_repeated_publish_is_answered_with_what_its_topic_outlives() {
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &quiet_config()).unwrap();
    let lax = TopicConfig { durability: Some(Durability::Process), ..TopicConfig::default() };
    broker.create_topic(&name("lax"), lax).await.unwrap();
    broker.publish(publish("strict", with_id("known"))).await.unwrap();
    let (held, first) = busy(&log, &broker).await;
    let new = broker.submit(publish("lax", vec![NewEvent::new("x")])).await.unwrap();
    let known = broker.submit(publish("strict", with_id("known"))).await.unwrap();
    drop(held);
    first.ack().await.unwrap();
    let told = [new.ack().await.unwrap().durability, known.ack().await.unwrap().durability];
    assert_eq!(told, [Durability::Process, Durability::Fsync]);
    broker.close().await;
}

/// Goal: an expected sequence is compared with the events before it in the same group; it is not
/// checked for repeated events; and publishes after a refusal in the same order are not stored.
#[tokio::test]
async fn what_a_publish_expects_is_held_against_its_group() {
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    broker.publish(publish("a", with_id("stored"))).await.unwrap();
    let (held, first) = busy(&log, &broker).await;
    let (order, others) = (InOrder::default(), InOrder::default().independent());
    let expecting =
        |sequence, events| Publish { expected_sequence: Some(sequence), ..publish("a", events) };
    let plain = || vec![NewEvent::new("x")];
    let mut pending = Vec::new();
    for (publish, is_ordered) in [
        (expecting(1, plain()), true),           // Gets sequence 2.
        (expecting(1, plain()), false),          // Another event came first.
        (expecting(2, plain()), true),           // Gets sequence 3.
        (expecting(0, with_id("stored")), true), // Stores nothing.
        (expecting(9, plain()), true),           // Refused.
        (publish("a", plain()), true),           // After the refused one.
        (publish("b", plain()), true),           // Also after it.
        (expecting(3, plain()), false),          // Gets sequence 4.
    ] {
        let order = if is_ordered { &order } else { &others };
        pending.push(broker.submit_in_order(publish, order).await.unwrap());
    }
    drop(held);
    first.ack().await.unwrap();
    let mut outcomes = Vec::new();
    for pending in pending {
        outcomes.push(match pending.ack().await {
            Ok(ack) if ack.is_duplicate() => "known".to_owned(),
            Ok(ack) => ack.last().sequence.to_string(),
            Err(Error::UnexpectedSequence { actual, .. }) => format!("it is {actual}"),
            Err(Error::AfterFailure) => "after".to_owned(),
            Err(other) => panic!("{other}"),
        });
    }
    let expected = ["2", "it is 2", "3", "known", "it is 3", "after", "after", "4"];
    assert_eq!(outcomes, expected);
    broker.close().await;
}

/// Goal: the bounds on the number of topics hold within one commit of many changes, and of many
/// publishes.
#[tokio::test]
async fn no_more_topics_come_to_exist_in_one_commit_than_may_be() {
    let mut config = OpenConfig::default();
    config.limits.max_topics = 3;
    config.limits.max_deleted_topics = 1;
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    let is_refused = |outcome: Result<()>| matches!(outcome, Err(Error::OverLimit { .. }));
    let (held, first) = busy(&log, &broker).await; // The publish creates one topic.
    let mut created = Vec::new();
    for topic in ["a", "b", "c"] {
        created.push(change(&broker, topic, Change::Create(TopicConfig::default())).await);
    }
    drop(held);
    first.ack().await.unwrap();
    let mut refused = Vec::new();
    for created in created {
        refused.push(is_refused(answered(created).await));
    }
    assert_eq!(refused, [false, false, true]);
    let (held, first) = busy(&log, &broker).await;
    let deleted =
        [change(&broker, "a", Change::Delete).await, change(&broker, "b", Change::Delete).await];
    drop(held);
    first.ack().await.unwrap();
    let mut refused = Vec::new();
    for deleted in deleted {
        refused.push(is_refused(answered(deleted).await));
    }
    assert_eq!(refused, [false, true]);
    broker.close().await;
}

fn topic_of(broker: &Broker) -> Arc<Topic> {
    Arc::clone(&broker.0.topics.existing(&name("a")).unwrap())
}

/// Returns a rewrite of a topic's only block that drops a deletion.
fn burying(broker: &Broker) -> Rewrite {
    let topic = topic_of(broker);
    let id = topic.state().id.unwrap();
    let blocks =
        broker.0.log.step(|log| log.read(id, Sequence::FIRST, Sequence::new(2), 1)).unwrap();
    let merged = Block::merge(&blocks, |_| false);
    let replaced = blocks.iter().map(StoredBlock::of).collect();
    Rewrite {
        merged: vec![Merged { block: merged, replaced }],
        buried: Some((Position::new(1), Sequence::FIRST)),
        ..Rewrite::default()
    }
}

/// Goal: no deletion is dropped while somebody reads the events before it, even if the read began
/// after maintenance had looked. A deletion that could not be dropped is not told as dropped.
#[tokio::test]
async fn a_deletion_is_dropped_only_where_nobody_needs_it_and_told_only_when_it_is() {
    let log = Arc::new(WatchedLog::default());
    let broker = Broker::with_log(log.clone(), &quiet_config()).unwrap();
    broker.publish(publish("a", keyed("k", Vec::new()))).await.unwrap();
    let topic = topic_of(&broker);
    let before = topic.state().extent;
    let holding = broker.0.horizons.hold(None, || Position::new(1));
    let done = broker.0.step(&topic, Work::Rewrite(burying(&broker))).await.unwrap();
    assert!(done.is_partial);
    assert_eq!(topic.state().extent, before);
    drop(holding);
    log.refuses_rewriting.store(true, std::sync::atomic::Ordering::SeqCst);
    let failed = broker.0.step(&topic, Work::Rewrite(burying(&broker))).await;
    assert!(matches!(failed, Err(Error::NotWritten(_))), "{failed:?}");
    assert_eq!(topic.state().extent, before, "nothing was dropped");
    log.refuses_rewriting.store(false, std::sync::atomic::Ordering::SeqCst);
    let done = broker.0.step(&topic, Work::Rewrite(burying(&broker))).await.unwrap();
    assert!(!done.is_partial);
    assert_eq!(topic.state().extent.buried_sequence, Sequence::FIRST);
    assert_eq!(broker.0.drops(), topic.state().extent.buried_drop);
    broker.close().await;
}

/// Goal: blocks that become one are bounded, in number and in bytes, also if almost no event of
/// them is left.
#[tokio::test]
async fn what_is_merged_into_one_block_has_its_bounds() {
    const MAX_RUN_BLOCKS: usize = 64;
    const MAX_RUN_PARTS: usize = (1 << 20) / (8 << 10);
    // Blocks of 40 KB: 26 reach 1 MiB, though almost nothing is left of them.
    for (payload_bytes, blocks) in [(10, MAX_RUN_BLOCKS), (40_000, 26)] {
        let log = Arc::new(WatchedLog::default());
        let broker = Broker::with_log(log.clone(), &quiet_config()).unwrap();
        let compacted = TopicConfig { compact: Some(true), ..TopicConfig::default() };
        broker.create_topic(&name("a"), compacted).await.unwrap();
        for _ in 0..300 {
            broker.publish(publish("a", keyed("k", vec![b'x'; payload_bytes]))).await.unwrap();
        }
        broker.maintain(None).await.unwrap();
        let left = broker.topic(&name("a")).unwrap().extent;
        broker.close().await;
        let seen = log.seen.lock().unwrap();
        let merged = || seen.iter().flat_map(|group| &group.merged);
        let most = merged().map(|(blocks, _)| *blocks).max().unwrap();
        assert!((blocks - 2..=blocks).contains(&most), "{most} blocks became one, {left:?}");
        for (blocks, parts) in merged() {
            assert!(*blocks <= MAX_RUN_BLOCKS, "{blocks} blocks became one");
            // The last part of each block may not be full.
            assert!(*parts <= MAX_RUN_PARTS + blocks, "{parts} parts became one block");
        }
    }
}
