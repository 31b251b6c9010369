//! The promises of a feed, compared with a brute-force reader of a list of all events.

mod bounds;
mod listing;
mod many;
mod read_along;
mod unread;
mod waits;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::broker::*;
use crate::event::NewEvent;

const NAMES: [&str; 6] = ["a", "b", "a.x", "a.y", "b.x", "a.x.z"];

/// The longest time of one run of the model, and of the search for a shorter counter-example. The
/// first run that fails, the search, and its last run together take less than a minute.
const MAX_RUN: Duration = Duration::from_secs(20);
const MAX_SHRINK_MS: u32 = 15_000;

#[derive(Debug, Clone)]
enum Action {
    /// Publishes events to a topic, each with a type and a key.
    Publish { topic: usize, events: Vec<(u8, u8)> },
    /// Reads up to this many deliveries. Then the reader comes back with its cursor, or goes on.
    Read { deliveries: usize, comes_back: bool },
    /// Purges a topic down to its last `keep` events.
    Purge { topic: usize, keep: u64 },
    /// Runs maintenance.
    Maintain,
    /// Waits a moment for a delivery.
    Silence,
}

fn action() -> impl Strategy<Value = Action> {
    let topic = 0..NAMES.len();
    prop_oneof![
        6 => (topic.clone(), proptest::collection::vec((0..3_u8, 0..4_u8), 1..6))
            .prop_map(|(topic, events)| Action::Publish { topic, events }),
        5 => (1..12_usize, any::<bool>())
            .prop_map(|(deliveries, comes_back)| Action::Read { deliveries, comes_back }),
        1 => (topic, 0..5_u64).prop_map(|(topic, keep)| Action::Purge { topic, keep }),
        1 => Just(Action::Maintain),
        1 => Just(Action::Silence),
    ]
}

fn patterns() -> impl Strategy<Value = Vec<TopicPattern>> {
    let pattern = proptest::sample::select(vec!["a", ">", "*", "a.*", "*.x", "a.>", "b.x", "c"]);
    proptest::collection::vec(pattern.prop_map(|p| p.parse().unwrap()), 1..4)
}

fn filter() -> impl Strategy<Value = Filter> {
    let texts = |prefix: &'static str, most: u8| {
        proptest::collection::btree_set((0..most).prop_map(move |n| format!("{prefix}{n}")), 0..3)
    };
    let maybe = proptest::bool::weighted(0.3);
    (maybe, texts("t", 3), texts("k", 4), texts("k", 2), any::<bool>()).prop_map(
        |(filters, types, keys, key_prefixes, by_header)| match filters {
            false => Filter::default(),
            true if by_header => {
                let headers = [("parity".to_owned(), "even".to_owned())].into();
                Filter { types, headers, ..Filter::default() }
            }
            true => Filter { types, keys, key_prefixes, ..Filter::default() },
        },
    )
}

fn name_of(topic: usize) -> TopicName {
    NAMES[topic].parse().unwrap()
}

/// An event as its publisher remembers it.
#[derive(Debug, Clone)]
struct Known {
    position: u64,
    topic: usize,
    sequence: u64,
    is_wanted: bool,
}

struct World {
    broker: Broker,
    patterns: Vec<TopicPattern>,
    filter: Filter,
    events: Vec<Known>,
    /// The sequence below which each topic was purged.
    earliest: [u64; NAMES.len()],
    reader: Option<Reader>,
    /// The positions that were delivered, in their order.
    delivered: Vec<u64>,
    /// The positions of events that the reader was told are gone.
    lost: BTreeSet<u64>,
    published: u64,
}

impl World {
    async fn publish(&mut self, topic: usize, events: &[(u8, u8)]) {
        let mut wanted = Vec::new();
        let mut new = Vec::new();
        for (event_type, key) in events {
            self.published += 1;
            let parity = if self.published.is_multiple_of(2) { "even" } else { "odd" };
            let (event_type, key) = (format!("t{event_type}"), format!("k{key}"));
            let Filter { types, keys, key_prefixes, headers } = &self.filter;
            let is_one =
                |texts: &BTreeSet<String>, text: &String| texts.is_empty() || texts.contains(text);
            let is_matched = self.patterns.iter().any(|p| p.matches(&name_of(topic)));
            wanted.push(
                is_matched
                    && is_one(types, &event_type)
                    && is_one(keys, &key)
                    && is_one(key_prefixes, &key)
                    && (headers.is_empty() || parity == "even"),
            );
            let headers = [("parity".to_owned(), parity.to_owned())].into();
            new.push(NewEvent { event_type, key, headers, ..NewEvent::new("x") });
        }
        let publish = Publish { topic: name_of(topic), events: new, expected_sequence: None };
        let ack = self.broker.publish(publish).await.unwrap();
        for (index, is_wanted) in wanted.into_iter().enumerate() {
            let receipt = ack.receipt(index);
            let (position, sequence) = (receipt.position.get(), receipt.sequence.get());
            self.events.push(Known { position, topic, sequence, is_wanted });
        }
    }

    async fn read(&mut self, deliveries: usize) {
        for _ in 0..deliveries {
            let reader = self.reader.as_mut().unwrap();
            let Some(delivery) = reader.next_ready().await.unwrap() else { break };
            self.take(delivery);
        }
    }

    async fn come_back(&mut self, start: Option<StartPoint>) {
        let cursor = self.reader.take().map(|reader| reader.cursor());
        let start = start.unwrap_or_else(|| StartPoint::After(cursor.unwrap()));
        let feed = self.broker.feed(self.patterns.clone(), start, OnGap::Resume).await.unwrap();
        self.reader = Some(feed.filtered(self.filter.clone()).unwrap());
    }

    /// Returns whether every event that is wanted and not purged was delivered.
    fn has_all(&self) -> bool {
        let delivered: BTreeSet<u64> = self.delivered.iter().copied().collect();
        let wanted = self.events.iter().filter(|event| event.is_wanted);
        let mut kept = wanted.filter(|event| event.sequence >= self.earliest[event.topic]);
        kept.all(|event| delivered.contains(&event.position))
    }

    /// Reads until every event is delivered. Only the waker tells the reader of events.
    async fn finish(&mut self) {
        while !self.has_all() {
            self.wait(MAX_RUN / 2, "an event is slept through").await;
        }
        self.read(usize::MAX).await;
    }

    /// Waits for one delivery.
    async fn wait(&mut self, limit: Duration, silence: &str) {
        let reader = self.reader.as_mut().unwrap();
        match reader.next_within(&mut Patience::new(limit)).await.unwrap() {
            Waited::Delivery(delivery) => self.take(delivery),
            Waited::Silence => assert!(silence.is_empty(), "{silence}"),
            Waited::Stopping => panic!("the broker is not stopped"),
        }
    }

    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Events(run) => {
                self.delivered.extend(run.events().map(|event| event.position.get()));
            }
            Delivery::Gap(gap) => {
                let topic = gap.topic.unwrap();
                let of_topic = self.events.iter().filter(|e| name_of(e.topic) == topic);
                let gone = of_topic.filter(|event| event.sequence < gap.resume.number());
                self.lost.extend(gone.map(|event| event.position));
            }
            Delivery::Ephemeral(_) => panic!("nothing ephemeral was published"),
            Delivery::CaughtUp => {}
        }
    }

    fn check(&self) {
        assert!(self.delivered.is_sorted(), "out of order: {:?}", self.delivered);
        let delivered: BTreeSet<u64> = self.delivered.iter().copied().collect();
        assert_eq!(delivered.len(), self.delivered.len(), "twice: {:?}", self.delivered);
        for event in &self.events {
            let is_purged = event.sequence < self.earliest[event.topic];
            let was_delivered = delivered.contains(&event.position);
            assert!(event.is_wanted || !was_delivered, "not wanted: {event:?}");
            let is_told = self.lost.contains(&event.position);
            assert!(
                !event.is_wanted || was_delivered || (is_purged && is_told),
                "neither delivered nor told to be lost: {event:?}"
            );
        }
    }
}

async fn run(
    patterns: Vec<TopicPattern>,
    filter: Filter,
    actions: Vec<Action>,
    max_tail_bytes: u64,
    before: usize,
) {
    let directory = tempfile::tempdir().unwrap();
    let mut config = OpenConfig::default();
    config.broker.max_tail_bytes = max_tail_bytes;
    config.broker.max_read_bytes = 1 << 10;
    let log = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    let log = SledLog::open(directory.path(), &log).unwrap();
    let broker = Broker::with_log(Arc::new(log), &config).unwrap();
    let mut world = World {
        broker,
        patterns,
        filter,
        events: Vec::new(),
        earliest: [1; NAMES.len()],
        reader: None,
        delivered: Vec::new(),
        lost: BTreeSet::new(),
        published: 0,
    };
    for number in 0..before {
        world.publish(number % NAMES.len(), &[(0, 0), (1, 1)]).await;
    }
    world.broker.maintain(None).await.unwrap(); // So that blocks span the positions of others.
    world.come_back(Some(StartPoint::Earliest)).await;
    for action in actions {
        match action {
            Action::Publish { topic, events } => world.publish(topic, &events).await,
            Action::Read { deliveries, comes_back } => {
                world.read(deliveries).await;
                if comes_back {
                    world.come_back(None).await;
                }
            }
            Action::Purge { topic, keep } => {
                let Ok(info) = world.broker.topic(&name_of(topic)) else { continue };
                let before = info.extent.tail.get().saturating_sub(keep);
                world.broker.purge(&name_of(topic), Sequence::new(before)).await.unwrap();
                world.earliest[topic] = world.earliest[topic].max(before);
            }
            Action::Maintain => drop(world.broker.maintain(None).await.unwrap()),
            Action::Silence => world.wait(Duration::from_millis(1), "").await,
        }
    }
    world.finish().await;
    world.check();
    world.broker.close().await;
}

/// Goal: in any order of publishes, reads, reconnects, purges and maintenance, a feed delivers the
/// same as a brute-force reader of all events: each wanted event once, in the order of positions,
/// or a gap that says that the event is gone.
#[test]
fn a_feed_delivers_what_its_patterns_and_its_filter_say_in_the_order_of_positions() {
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: LEFTOFF_SEED={seed}");
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
    let max_shrink_time = MAX_SHRINK_MS;
    let config =
        Config { cases: 150, failure_persistence: None, max_shrink_time, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, random);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let strategy = (
        patterns(),
        filter(),
        proptest::collection::vec(action(), 1..40),
        proptest::sample::select(vec![0_u64, 2_000, 1 << 20]),
        0..100_usize,
    );
    let outcome = runner.run(&strategy, |(patterns, filter, actions, max_tail_bytes, before)| {
        runtime.block_on(async {
            let ran = run(patterns, filter, actions, max_tail_bytes, before);
            tokio::time::timeout(MAX_RUN, ran).await.expect("it takes too long");
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("LEFTOFF_SEED={seed}: {failure}"));
}
