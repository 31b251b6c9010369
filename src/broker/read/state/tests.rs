//! The promises of a topic's state while the topic changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::broker::*;
use crate::event::{Event, Timestamp};
use crate::log::FaultyLog;

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

/// Returns a broker on `log` that is maintained only by a call. Its topics are compacted, and keys
/// take `max_state_bytes` bytes of memory at the most.
fn broker_on(log: Arc<dyn Log>, max_state_bytes: u64) -> Broker {
    Broker::with_log(log, &config(max_state_bytes)).unwrap()
}

fn config(max_state_bytes: u64) -> OpenConfig {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000;
    config.broker.max_reads = 1;
    config.broker.max_state_bytes = max_state_bytes;
    let compacts =
        TopicConfig { compact: Some(true), tombstone_grace_ms: Some(0), ..TopicConfig::default() };
    config.topics.set(">".parse().unwrap(), compacts);
    config
}

fn broker(max_state_bytes: u64) -> Broker {
    broker_on(Arc::new(MemoryLog::default()), max_state_bytes)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it takes too long")
}

/// Returns the events of all pages of a state, and the number of pages.
async fn pages(broker: &Broker, topic: &str, key_prefix: &str, limit: usize) -> (Vec<Event>, u32) {
    let (mut from, mut at, mut events, mut count) = (Sequence::FIRST, None, Vec::new(), 0);
    loop {
        let page = soon(broker.state(
            &name(topic),
            StateRequest {
                key_prefix: key_prefix.to_owned(),
                from,
                at,
                limit,
                ..StateRequest::default()
            },
        ))
        .await
        .unwrap();
        assert!(page.events.len() <= limit);
        events.extend(page.events);
        (at, count) = (Some(page.at), count + 1);
        let Some(next) = page.next else { return (events, count) };
        assert!(next > from, "it stands still");
        from = next;
    }
}

async fn publish(broker: &Broker, topic: &str, key: &str, payload: &str) {
    let event = NewEvent { key: key.to_owned(), ..NewEvent::new(payload.to_owned()) };
    let publish = Publish { topic: name(topic), events: vec![event], expected_sequence: None };
    broker.publish(publish).await.unwrap();
}

/// Goal: a slow read of the state of one topic delays maintenance of no other topic.
#[tokio::test]
async fn a_read_of_a_state_holds_up_the_tombstones_of_its_own_topic_alone() {
    let broker = broker(0); // Each page is found by a read of the whole topic.
    for topic in ["a", "b"] {
        publish(&broker, topic, "k", "1").await;
        publish(&broker, topic, "k", "").await;
    }
    let maintain = async || {
        for _ in 0..3 {
            soon(broker.maintain(None)).await.unwrap();
        }
        ["a", "b"].map(|topic| broker.topic(&name(topic)).unwrap().extent.events())
    };
    let others = broker.0.turns.take().await; // The read of the state waits for this turn.
    let a = name("a");
    let mut read = Box::pin(broker.state(
        &a,
        StateRequest {
            key_prefix: String::new(),
            from: Sequence::FIRST,
            at: None,
            limit: 10,
            ..StateRequest::default()
        },
    ));
    assert!(futures_util::poll!(read.as_mut()).is_pending());
    assert_eq!(maintain().await, [1, 0], "events of a, whose state is read, and of b");
    drop(others);
    assert_eq!(soon(read).await.unwrap().events, []);
    assert_eq!(maintain().await, [0, 0]);
}

/// Publishes an event of 10 kB for each of these keys.
async fn publish_large(broker: &Broker, keys: std::ops::Range<u32>) {
    let keys: Vec<u32> = keys.collect();
    for keys in keys.chunks(100) {
        let event =
            |key: &u32| NewEvent { key: format!("key {key}"), ..NewEvent::new(vec![b'x'; 10_000]) };
        let events = keys.iter().map(event).collect();
        let publish = Publish { topic: name("a"), events, expected_sequence: None };
        soon(broker.publish(publish)).await.unwrap();
    }
}

/// Goal: the cost of a page does not grow with the topic.
#[tokio::test]
async fn a_page_of_the_state_of_a_compacted_topic_reads_little_more_than_its_own_events() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker_on(log.clone(), 1 << 20);
    publish_large(&broker, 0..2_000).await;
    publish_large(&broker, 0..100).await;
    soon(broker.maintain(None)).await.unwrap();
    let page = async |limit: usize| {
        let before = log.reads();
        let a = name("a");
        let page = broker.state(
            &a,
            StateRequest {
                key_prefix: String::new(),
                from: Sequence::FIRST,
                at: None,
                limit,
                ..StateRequest::default()
            },
        );
        (soon(page).await.unwrap(), log.reads() - before)
    };
    let (first, reads) = page(1).await;
    assert_eq!(first.events[0].content.key, "key 100");
    assert!(reads <= 5, "{reads} reads of a topic of 20 MB");
    // Events that were published since are read once, for all pages.
    publish_large(&broker, 100..150).await;
    let (first, reads) = page(1).await;
    assert_eq!((&*first.events[0].content.key, first.at.get()), ("key 150", 2_150));
    assert!(reads <= 20, "{reads} reads of 0.5 MB of new events, and of those that they supersede");
    let again: Vec<_> = soon(futures_util::future::join_all((0..20).map(|_| page(1)))).await;
    assert!(again.iter().all(|(page, _)| *page == first));
    let (_, reads) = page(1).await;
    assert!(reads <= 12, "{reads} reads, where all keys are known");
    // The pages together are the whole state.
    let (events, _) = pages(&broker, "a", "", 70).await;
    let keys: BTreeSet<&str> = events.iter().map(|event| &*event.content.key).collect();
    assert_eq!((events.len(), keys.len()), (2_000, 2_000));
}

/// Goal: no page takes long, however rare the keys are that it looks for.
#[tokio::test]
async fn a_page_that_finds_little_ends_all_the_same_and_the_next_one_goes_on() {
    let broker = broker(1 << 20);
    publish_large(&broker, 0..500).await;
    let (events, count) = pages(&broker, "a", "key 499", 10).await;
    assert_eq!(events.iter().map(|event| event.sequence.get()).collect::<Vec<_>>(), [500]);
    assert!((4..20).contains(&count), "{count} pages of a topic of 5 MB");
}

#[tokio::test]
async fn the_keys_of_topics_stay_within_their_memory_and_topics_with_more_are_read_all_the_same() {
    let max_bytes = 40 * 100; // 100 events.
    let broker = broker(max_bytes);
    let topics = [("a", 80), ("b", 60), ("c", 300), ("d", 40)];
    for (topic, events) in topics {
        for number in 0..events {
            publish(&broker, topic, &format!("{}", number % 50), "x").await;
        }
    }
    for _ in 0..3 {
        for (topic, count) in topics {
            let (events, _) = pages(&broker, topic, "", 7).await;
            let seen: Vec<u64> = events.iter().map(|event| event.sequence.get()).collect();
            let latest = count - u64::min(count, 50) + 1;
            assert_eq!(seen, (latest..=count).collect::<Vec<_>>(), "{topic}");
            let used = broker.0.state_keys.used_bytes();
            assert!(used as u64 <= max_bytes, "{used} bytes");
        }
    }
    publish(&broker, "a", "x", "x").await;
    drop(pages(&broker, "a", "", 7).await);
    assert_eq!(broker.0.state_keys.used_bytes(), 81 * 40, "the keys of topic a alone, each once");
}

/// A publisher that remembers all events.
struct World {
    broker: Broker,
    random: TestRng,
    /// The keys of all events, and whether the events are tombstones.
    published: Vec<(u32, bool)>,
}

impl World {
    fn below(&mut self, limit: u32) -> u32 {
        self.random.next_u32() % limit
    }

    async fn publish(&mut self) {
        let mut events = Vec::new();
        for _ in 0..=self.below(5) {
            let (key, is_tombstone) = (self.below(12), self.below(4) == 0);
            let payload = if is_tombstone { "" } else { "x" };
            // Compaction keeps an event with an id, also if a newer one supersedes it.
            let number = self.published.len();
            let id = if self.below(4) == 0 { number.to_string() } else { String::new() };
            events.push(NewEvent { key: key.to_string(), id, ..NewEvent::new(payload) });
            self.published.push((key, is_tombstone));
        }
        let publish = Publish { topic: name("a"), events, expected_sequence: None };
        soon(self.broker.publish(publish)).await.unwrap();
    }

    /// Returns the latest event of each key among the events up to `at`.
    fn latest(&self, at: u64) -> BTreeMap<u32, u64> {
        let numbered = (1..=at).zip(&self.published);
        numbered.map(|(sequence, (key, _))| (*key, sequence)).collect()
    }

    /// Reads all pages of the state while more events are published, and compares them with the
    /// events up to the state's sequence.
    async fn check_pages(&mut self) {
        let (mut from, mut at, mut seen) = (Sequence::FIRST, None, Vec::new());
        loop {
            let limit = 1 + self.below(4) as usize;
            let page = soon(self.broker.state(
                &name("a"),
                StateRequest {
                    key_prefix: String::new(),
                    from,
                    at,
                    limit,
                    ..StateRequest::default()
                },
            ))
            .await
            .unwrap();
            seen.extend(page.events.iter().map(|event| event.sequence.get()));
            assert!(at.is_none_or(|at| at == page.at));
            at = Some(page.at);
            let Some(next) = page.next else { break };
            assert!(next > from, "it stands still");
            from = next;
            if self.below(2) == 0 {
                self.publish().await;
            }
        }
        let at = at.unwrap().get();
        assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
        let latest = self.latest(at);
        let is_deleted = |sequence: u64| self.published[sequence as usize - 1].1;
        for sequence in &seen {
            let (key, _) = self.published[*sequence as usize - 1];
            assert_eq!(latest[&key], *sequence, "of key {key} at {at}: {seen:?}");
            assert!(!is_deleted(*sequence));
        }
        let after = &self.published[at as usize..];
        let is_changed = |key: u32| after.iter().any(|(changed, _)| *changed == key);
        for (key, sequence) in latest {
            let is_there = !is_deleted(sequence) && !is_changed(key);
            assert!(!is_there || seen.contains(&sequence), "{key} at {sequence} of {at}: {seen:?}");
        }
    }
}

/// Goal: no page has a superseded value, whatever compaction does meanwhile, and no page leaves out
/// a value whose key was not published again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_state_are_true_at_one_sequence_while_it_changes_and_is_compacted() {
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: LEFTOFF_SEED={seed}");
    for max_state_bytes in [0, 40 * 30, 1 << 20] {
        let broker = broker(max_state_bytes);
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
        let mut world = World { broker: broker.clone(), random, published: Vec::new() };
        world.publish().await;
        let is_over = Arc::new(AtomicBool::new(false));
        let (maintained, ends) = (broker.clone(), is_over.clone());
        let maintaining = tokio::spawn(async move {
            while !ends.load(Ordering::SeqCst) {
                maintained.maintain(None).await.unwrap();
            }
        });
        for _ in 0..60 {
            world.publish().await;
            world.check_pages().await;
        }
        is_over.store(true, Ordering::SeqCst);
        soon(maintaining).await.unwrap();
        world.check_pages().await;
        soon(broker.close()).await;
    }
}

/// Goal: the state of a topic that was emptied, filled and emptied again is an empty page.
#[tokio::test]
async fn the_state_of_a_topic_that_was_emptied_again_is_empty() {
    let broker = broker(1 << 20);
    for round in 1..=3 {
        for number in 0..5 {
            publish(&broker, "a", "k", &number.to_string()).await;
        }
        broker.purge(&name("a"), Sequence::new(5 * round + 1)).await.unwrap();
        assert_eq!(pages(&broker, "a", "", 1).await.0, [], "round {round}");
    }
    publish(&broker, "a", "k", "new").await;
    assert_eq!(pages(&broker, "a", "", 1).await.0[0].sequence.get(), 16);
}

/// Goal: a page of a state has no more bytes than allowed, or a single larger event, whether it is
/// found by the keys or by a read of the topic. The pages together are the whole state.
#[tokio::test]
async fn a_page_of_a_state_has_room_for_its_bytes_and_for_one_event_that_is_larger() {
    const MAX_PAGE_BYTES: usize = 4 << 10;
    for max_state_bytes in [0, 1 << 20] {
        let mut config = config(max_state_bytes);
        config.broker.max_page_bytes = MAX_PAGE_BYTES as u64;
        let broker = Broker::with_log(Arc::new(MemoryLog::default()), &config).unwrap();
        for key in 0..60 {
            let size_bytes = if key == 30 { 2 * MAX_PAGE_BYTES } else { 500 };
            publish(&broker, "a", &format!("key {key}"), &"x".repeat(size_bytes)).await;
        }
        let (mut from, mut at, mut keys, mut pages) = (Sequence::FIRST, None, Vec::new(), 0);
        loop {
            let page = soon(broker.state(
                &name("a"),
                StateRequest {
                    key_prefix: String::new(),
                    from,
                    at,
                    limit: 1_000,
                    ..StateRequest::default()
                },
            ))
            .await
            .unwrap();
            let payload = |event: &Event| event.content.payload.len();
            let size_bytes: usize = page.events.iter().map(payload).sum();
            let is_alone = page.events.len() == 1;
            assert!(size_bytes <= MAX_PAGE_BYTES || is_alone, "{size_bytes} bytes in a page");
            keys.extend(page.events.iter().map(|event| event.content.key.clone()));
            (at, pages) = (Some(page.at), pages + 1);
            let Some(next) = page.next else { break };
            assert!(next > from, "it stands still");
            from = next;
        }
        assert_eq!(keys, (0..60).map(|key| format!("key {key}")).collect::<Vec<_>>());
        assert!((9..20).contains(&pages), "{pages} pages, keys in {max_state_bytes} bytes");
    }
}

/// Goal: an expired event is in no state, also before it is dropped, and however the page is found.
#[tokio::test]
async fn an_event_that_has_expired_is_in_no_state() {
    for max_state_bytes in [0, 1 << 20] {
        let time_ms = Arc::new(AtomicU64::new(1_000_000));
        let now = time_ms.clone();
        let clock = Arc::new(move || Timestamp::from_ms(now.load(Ordering::SeqCst)));
        let log = Arc::new(MemoryLog::default());
        let broker = Broker::with_clock(log, &config(max_state_bytes), clock).unwrap();
        publish(&broker, "a", "stays", "1").await;
        let expires = NewEvent { key: "goes".into(), ttl_ms: Some(1_000), ..NewEvent::new("2") };
        let publish = Publish { topic: name("a"), events: vec![expires], expected_sequence: None };
        broker.publish(publish).await.unwrap();
        let keys = async || {
            let (events, _) = pages(&broker, "a", "", 10).await;
            events.into_iter().map(|event| event.content.key).collect::<Vec<_>>()
        };
        assert_eq!(keys().await, ["stays", "goes"]);
        time_ms.fetch_add(1_000, Ordering::SeqCst);
        assert_eq!(keys().await, ["stays"], "with {max_state_bytes} bytes for keys");
        assert_eq!(broker.topic(&name("a")).unwrap().extent.events(), 2, "none is dropped yet");
        broker.close().await;
    }
}

/// Goal: a state at a sequence has no value that was superseded by then, also if the superseding
/// event is gone because of a later one, and the value itself is kept for its id.
#[tokio::test]
async fn a_value_that_is_kept_for_its_id_alone_is_in_no_state() {
    for max_state_bytes in [0, 1 << 20] {
        let broker = broker(max_state_bytes);
        let id = "1".to_owned();
        let old = NewEvent { id, key: "k".into(), ..NewEvent::new("old") };
        let first = Publish { topic: name("a"), events: vec![old], expected_sequence: None };
        broker.publish(first).await.unwrap();
        publish(&broker, "a", "k", "middle").await;
        publish(&broker, "a", "k", "new").await;
        soon(broker.maintain(None)).await.unwrap();
        assert_eq!(broker.topic(&name("a")).unwrap().extent.events(), 2, "the middle one is gone");
        let request = StateRequest { at: Some(Sequence::new(2)), ..StateRequest::default() };
        let page = soon(broker.state(&name("a"), request)).await.unwrap();
        assert_eq!(page.events, [], "with {max_state_bytes} bytes for keys");
        let (now, _) = pages(&broker, "a", "", 10).await;
        assert_eq!(now.len(), 1);
        assert_eq!(&now[0].content.payload[..], b"new");
        broker.close().await;
    }
}
