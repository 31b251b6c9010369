//! Tests of the promises of maintenance, against a simple model, under any interleaving.
//!
//! The file is long, because the model and the steps that it is compared on are one whole.

mod bounds;
mod expiry;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::broker::topic::upkeep::{MIN_MERGED_BLOCKS, ROLL_UP_BLOCKS};
use crate::broker::*;
use crate::cursor::{GapReason, StartPoint};
use crate::event::{NewEvent, Timestamp};

/// The clock of the brokers in these tests, in milliseconds.
pub(super) static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);

pub(super) fn clock() -> Timestamp {
    Timestamp::from_ms(CLOCK.load(Ordering::SeqCst))
}

/// The lock that each test with this clock holds: there is only one clock.
pub(super) static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const GRACE_MS: u64 = 500;

#[derive(Debug, Clone)]
enum Step {
    /// Publishes events. Each has a key (0: none), may be a tombstone, and may have a time to live.
    Publish {
        topic: usize,
        events: Vec<(u8, bool, Option<u16>)>,
    },
    Configure {
        topic: usize,
        config: TopicConfig,
    },
    Maintain {
        topic: usize,
    },
    Wait {
        ms: u64,
    },
    Purge {
        topic: usize,
        before: u64,
    },
    Delete {
        topic: usize,
    },
    /// Reads from any place to the end.
    Read {
        topic: usize,
        after: u64,
    },
    State {
        topic: usize,
        limit: usize,
    },
    Restart,
}

fn config() -> impl Strategy<Value = TopicConfig> {
    let limit = |most: u64| proptest::option::weighted(0.4, 1..most);
    let compact = proptest::option::weighted(0.6, any::<bool>());
    let limits = (limit(40), limit(4_000), limit(3_000), compact, limit(4));
    limits.prop_map(|(max_events, max_bytes, max_age_ms, compact, max_events_per_key)| {
        TopicConfig {
            max_age_ms,
            max_events,
            max_bytes,
            compact,
            max_events_per_key,
            tombstone_grace_ms: Some(GRACE_MS),
            durability: None,
            stamp_publisher: None,
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let topic = 0..2_usize;
    let ttl = proptest::option::weighted(0.3, 1..2_000_u16);
    let event = (0..5_u8, proptest::bool::weighted(0.2), ttl);
    prop_oneof![
        12 => (topic.clone(), proptest::collection::vec(event, 1..4))
            .prop_map(|(topic, events)| Step::Publish { topic, events }),
        1 => (topic.clone(), config())
            .prop_map(|(topic, config)| Step::Configure { topic, config }),
        3 => topic.clone().prop_map(|topic| Step::Maintain { topic }),
        3 => (1..1_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (topic.clone(), 1..60_u64).prop_map(|(topic, before)| Step::Purge { topic, before }),
        1 => topic.clone().prop_map(|topic| Step::Delete { topic }),
        4 => (topic.clone(), 0..60_u64).prop_map(|(topic, after)| Step::Read { topic, after }),
        2 => (topic, 1..6_usize).prop_map(|(topic, limit)| Step::State { topic, limit }),
        1 => Just(Step::Restart),
    ]
}

/// An event as its publisher remembers it.
#[derive(Debug, Clone)]
struct Published {
    key: u8,
    is_tombstone: bool,
    payload: String,
    time_ms: u64,
    ttl_ms: Option<u64>,
}

impl Published {
    fn is_expired(&self) -> bool {
        self.ttl_ms.is_some_and(|ttl_ms| self.time_ms + ttl_ms <= clock().as_ms())
    }

    fn is_past_grace(&self) -> bool {
        self.is_tombstone && self.time_ms + GRACE_MS <= clock().as_ms()
    }
}

#[derive(Debug, Default)]
struct Model {
    /// All events ever published, by sequence; none is taken out.
    events: BTreeMap<u64, Published>,
    config: TopicConfig,
    exists: bool,
    /// The least number of events of a key that any settings so far kept.
    least_kept: Option<u64>,
    /// Whether compaction was turned on or off. The events that are left from before then depend on
    /// when that was.
    was_toggled: bool,
    /// The sequences that a reader did not get, though they were not below `earliest`.
    gone: BTreeSet<u64>,
    earliest: u64,
}

impl Model {
    fn tail(&self) -> u64 {
        self.events.len() as u64 + 1
    }

    fn later_of_key(&self, sequence: u64) -> u64 {
        let key = self.events[&sequence].key;
        self.events.range(sequence + 1..).filter(|(_, event)| event.key == key).count() as u64
    }

    fn is_superseded(&self, sequence: u64, kept: Option<u64>) -> bool {
        let key = self.events[&sequence].key;
        let later = self.events.range(sequence + 1..).map(|(_, event)| event);
        let is_deletion = |event: &Published| event.is_tombstone || event.is_expired();
        let is_deleted = later.clone().any(|event| event.key == key && is_deletion(event));
        kept.is_some_and(|kept| key > 0 && (is_deleted || self.later_of_key(sequence) >= kept))
    }

    /// Whether the event is a value now: no tombstone, and not expired.
    fn is_there(&self, sequence: u64) -> bool {
        let event = &self.events[&sequence];
        !event.is_tombstone && !event.is_expired()
    }

    /// Returns the latest event of each key that has a value.
    fn latest(&self, earliest: u64) -> BTreeMap<u8, u64> {
        let is_compacted = self.config.key_limit().is_some();
        let events = self.events.range(earliest..);
        let keyed = events.filter(|(_, e)| e.key > 0 && (is_compacted || !e.is_expired()));
        let latest: BTreeMap<u8, u64> = keyed.map(|(sequence, e)| (e.key, *sequence)).collect();
        latest.into_iter().filter(|(_, sequence)| self.is_there(*sequence)).collect()
    }

    /// Whether a reader must get the event.
    fn must_be_there(&self, sequence: u64) -> bool {
        let event = &self.events[&sequence];
        let may_be_compacted = self.is_superseded(sequence, self.least_kept)
            || (self.least_kept.is_some() && event.is_past_grace());
        !event.is_expired() && !may_be_compacted
    }

    fn configure(&mut self, config: TopicConfig) {
        let toggles = config.key_limit().is_some() != self.config.key_limit().is_some();
        self.was_toggled |= toggles && self.earliest < self.tail();
        (self.config, self.exists) = (config, true);
        self.least_kept = self.least_kept.into_iter().chain(config.key_limit()).min();
    }
}

struct World {
    directory: tempfile::TempDir,
    broker: Option<Broker>,
    models: Vec<Model>,
    published: u64,
}

fn topic(index: usize) -> TopicName {
    ["a", "b"][index].parse().unwrap()
}

fn open(directory: &Path, max_tail_bytes: u64) -> Broker {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000; // Only when a test asks for it.
    config.maintenance.max_key_bytes = 1_024; // A few keys fit at a time.
    config.broker.max_tail_bytes = max_tail_bytes;
    config.broker.max_block_bytes = 1 << 10;
    let log = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    let log = SledLog::open(directory, &log).unwrap();
    Broker::with_clock(Arc::new(log), &config, Arc::new(clock)).unwrap()
}

impl World {
    fn new(max_tail_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let broker = Some(open(directory.path(), max_tail_bytes));
        let model = || Model { earliest: 1, ..Model::default() };
        Self { directory, broker, models: vec![model(), model()], published: 0 }
    }

    fn broker(&self) -> Broker {
        self.broker.clone().unwrap()
    }

    async fn apply(&mut self, step: Step, max_tail_bytes: u64) {
        match step {
            Step::Publish { topic, events } => self.publish(topic, &events).await,
            Step::Configure { topic: index, config } => {
                self.broker().set_topic(&topic(index), config).await.unwrap();
                self.models[index].configure(config);
            }
            Step::Maintain { topic } => self.maintain(topic).await,
            Step::Wait { ms } => {
                CLOCK.fetch_add(ms, Ordering::SeqCst);
            }
            Step::Purge { topic, before } => self.purge(topic, before).await,
            Step::Delete { topic } => self.delete(topic).await,
            Step::Read { topic, after } => {
                self.read(topic, after).await;
            }
            Step::State { topic, limit } => self.state(topic, limit).await,
            Step::Restart => {
                self.broker().close().await;
                self.broker = None;
                self.broker = Some(open(self.directory.path(), max_tail_bytes));
            }
        }
    }

    async fn publish(&mut self, index: usize, events: &[(u8, bool, Option<u16>)]) {
        let model = &mut self.models[index];
        let first = model.tail();
        let mut new_events = Vec::new();
        for (sequence, (key, is_tombstone, ttl_ms)) in (first..).zip(events) {
            self.published += 1;
            let is_tombstone = *is_tombstone && *key > 0;
            let payload = if is_tombstone { String::new() } else { self.published.to_string() };
            let ttl_ms = ttl_ms.map(u64::from);
            let (key, time_ms) = (*key, clock().as_ms());
            new_events.push(NewEvent {
                key: if key == 0 { String::new() } else { format!("key {key}") },
                ttl_ms,
                ..NewEvent::new(payload.clone())
            });
            let event = Published { key, is_tombstone, payload, time_ms, ttl_ms };
            model.events.insert(sequence, event);
        }
        if !model.exists {
            model.configure(TopicConfig::default());
        }
        let publish =
            Publish { topic: topic(index), events: new_events, expected_sequence: Some(first - 1) };
        let ack = self.broker().publish(publish).await.unwrap();
        assert_eq!(ack.first().sequence.get(), first);
    }

    async fn purge(&mut self, index: usize, before: u64) {
        let outcome = self.broker().purge(&topic(index), Sequence::new(before)).await;
        let model = &mut self.models[index];
        assert_eq!(outcome.is_ok(), model.exists, "{outcome:?}");
        if model.exists {
            self.check_front(index);
            let model = &self.models[index];
            assert!(model.earliest >= before.min(model.tail()));
        }
    }

    async fn delete(&mut self, index: usize) {
        let broker = self.broker();
        let start = StartPoint::Latest;
        let mut follower = broker.subscribe(&topic(index), start, OnGap::Resume).await.unwrap();
        let outcome = broker.delete_topic(&topic(index)).await;
        let model = &mut self.models[index];
        assert_eq!(outcome.is_ok(), model.exists, "{outcome:?}");
        if !model.exists {
            return;
        }
        let last_word = follower.next().await;
        assert!(matches!(last_word, Err(Error::TopicDeleted(_))), "{last_word:?}");
        (model.exists, model.config, model.earliest) =
            (false, TopicConfig::default(), model.tail());
        assert!(matches!(broker.topic(&topic(index)), Err(Error::UnknownTopic(_))));
    }

    /// Checks that `earliest` never goes back, and that `tail` is right.
    fn check_front(&mut self, index: usize) -> TopicInfo {
        let info = self.broker().topic(&topic(index)).unwrap();
        let model = &mut self.models[index];
        assert_eq!(info.extent.tail.get(), model.tail());
        assert!(info.extent.earliest.get() >= model.earliest, "events came back");
        model.earliest = info.extent.earliest.get();
        info
    }

    async fn maintain(&mut self, index: usize) {
        let broker = self.broker();
        if !self.models[index].exists {
            broker.maintain(Some(&topic(index))).await.unwrap_err();
            return;
        }
        let before = broker.topic(&topic(index)).unwrap().extent;
        broker.maintain(Some(&topic(index))).await.unwrap();
        let extent = self.check_front(index).extent;
        let seen = self.read(index, 0).await;
        let model = &self.models[index];
        // A topic may be over its limit by one block.
        let block_bytes = 1_200;
        if let Some(limit) = model.config.byte_limit() {
            assert!(extent.size_bytes() <= limit + block_bytes, "{extent:?} of {limit}");
        }
        if let Some(limit) = model.config.event_limit() {
            assert!(extent.events() <= limit + 64, "{extent:?} of {limit}");
        }
        let limits = (model.config.byte_limit(), model.config.event_limit());
        if limits == (None, None) && extent.earliest > before.earliest {
            let (now, age) = (clock().as_ms(), model.config.age_limit_ms());
            for (sequence, event) in model.events.range(before.earliest.get()..model.earliest) {
                let is_old = age.is_some_and(|limit| event.time_ms + limit < now);
                let is_over = event.is_expired() || !model.must_be_there(*sequence);
                assert!(is_old || is_over, "{sequence} was dropped: {event:?}");
            }
        }
        for sequence in seen {
            let event = &model.events[&sequence];
            let is_superseded = model.is_superseded(sequence, model.config.key_limit());
            let is_compacted = model.config.key_limit().is_some();
            let is_over = is_compacted && (event.is_past_grace() || event.is_expired());
            // A key of several events may be compacted in parts, because few keys fit into memory.
            let is_exact = model.config.key_limit() == Some(1) && !model.was_toggled;
            assert!(!is_exact || !(is_superseded || is_over), "{sequence} was kept: {event:?}");
        }
    }

    /// Reads all events after a sequence, and compares them with the model. Returns their
    /// sequences.
    async fn read(&mut self, index: usize, after: u64) -> Vec<u64> {
        let broker = self.broker();
        let start = after.to_string().parse().unwrap();
        let mut reader = broker.subscribe(&topic(index), start, OnGap::Resume).await.unwrap();
        let model = &mut self.models[index];
        let mut next = after + 1;
        let mut seen = Vec::new();
        // The state of a reader that keeps the latest event of each key.
        let mut latest = BTreeMap::new();
        let is_compacted = model.config.key_limit().is_some();
        while let Some(delivery) = reader.next_ready().await.unwrap() {
            match delivery {
                Delivery::Gap(gap) => {
                    assert_eq!(gap.requested.number(), next);
                    assert_eq!(gap.tail.number(), model.tail());
                    if gap.reason == GapReason::Ahead {
                        assert!(next > model.tail());
                    } else if gap.reason == GapReason::Tombstones {
                        assert_eq!((gap.lost, gap.resume.number()), (None, next));
                        let mut later = model.events.range(next..).map(|(_, event)| event);
                        let deletes = |e: &Published| e.is_tombstone || e.is_expired();
                        assert!(later.any(|event| event.key > 0 && deletes(event)));
                    } else {
                        assert!(
                            gap.earliest.number() >= model.earliest && gap.earliest.number() > next
                        );
                        assert_eq!(gap.lost, Some(gap.earliest.number() - next));
                        model.earliest = gap.earliest.number();
                    }
                    next = gap.resume.number();
                }
                Delivery::Ephemeral(_) => panic!("nothing ephemeral was published"),
                Delivery::CaughtUp => {}
                Delivery::Events(run) => {
                    for event in run.events() {
                        let sequence = event.sequence.get();
                        assert!(sequence >= next, "{sequence} came after {next}");
                        let published = &model.events[&sequence];
                        if published.is_expired() {
                            let is_tombstone = is_compacted && event.is_tombstone();
                            assert!(is_tombstone, "{sequence} has expired");
                        } else {
                            assert_eq!(event.payload, published.payload.as_bytes());
                            assert!(!model.gone.contains(&sequence), "{sequence} came back");
                        }
                        latest.insert(published.key, sequence);
                        seen.push(sequence);
                        next = sequence + 1;
                    }
                }
            }
        }
        let first = (after + 1).max(model.earliest);
        let missing: Vec<u64> = (first..model.tail()).filter(|s| !seen.contains(s)).collect();
        for sequence in missing {
            let event = &model.events[&sequence];
            assert!(!model.must_be_there(sequence), "{sequence} is lost: {event:?}");
            model.gone.insert(sequence);
        }
        latest.retain(|key, sequence| *key > 0 && model.is_there(*sequence));
        if after == 0 && !model.was_toggled {
            assert_eq!(latest, model.latest(model.earliest), "the latest of each key");
        }
        seen
    }

    /// Checks that the pages of the state together are the latest event of each key.
    async fn state(&mut self, index: usize, limit: usize) {
        let broker = self.broker();
        if !self.models[index].exists {
            let first = Sequence::FIRST;
            broker
                .state(
                    &topic(index),
                    StateRequest {
                        key_prefix: String::new(),
                        from: first,
                        at: None,
                        limit,
                        ..StateRequest::default()
                    },
                )
                .await
                .unwrap_err();
            return;
        }
        let earliest = self.check_front(index).extent.earliest.get();
        let (mut from, mut at, mut seen) = (Sequence::FIRST, None, Vec::new());
        loop {
            let page = broker
                .state(
                    &topic(index),
                    StateRequest {
                        key_prefix: "key".to_owned(),
                        from,
                        at,
                        limit,
                        ..StateRequest::default()
                    },
                )
                .await
                .unwrap();
            assert!(page.events.len() <= limit);
            seen.extend(page.events.iter().map(|event| event.sequence.get()));
            at = Some(page.at);
            match page.next {
                Some(next) => {
                    assert!(next > from, "the pages do not go on");
                    from = next;
                }
                None => break,
            }
        }
        let model = &self.models[index];
        assert_eq!(at.unwrap().get(), model.tail() - 1);
        if model.was_toggled {
            return;
        }
        let mut expected: Vec<u64> = model.latest(earliest).into_values().collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}

/// The longest time of a step of the model, and of the search for a shorter counter-example. With
/// the step that fails first, and the one that the search is in when its time ends, a failure takes
/// less than a minute.
const MAX_STEP: Duration = Duration::from_secs(20);
const MAX_SHRINK_MS: u32 = 15_000;

#[test]
fn any_interleaving_of_maintenance_and_readers_equals_a_simple_model() {
    let _alone = ONE_AT_A_TIME.blocking_lock();
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: LEFTOFF_SEED={seed}");
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let max_shrink_time = MAX_SHRINK_MS;
    let config =
        Config { cases: 64, failure_persistence: None, max_shrink_time, ..Config::default() };
    let steps = proptest::collection::vec(step(), 1..120);
    let max_tail_bytes = prop_oneof![Just(0_u64), Just(3_000), Just(64 << 20)];
    let outcome = TestRunner::new_with_rng(config, random).run(
        &(max_tail_bytes, steps),
        |(max_tail_bytes, steps)| {
            let mut world = World::new(max_tail_bytes);
            runtime.block_on(async {
                for step in steps {
                    let said = format!("{step:?}");
                    let applied = world.apply(step, max_tail_bytes);
                    let applied = tokio::time::timeout(MAX_STEP, applied).await;
                    applied.unwrap_or_else(|_| panic!("a step never ends: {said}"));
                }
                for topic in 0..2 {
                    world.read(topic, 0).await;
                }
                world.broker().close().await;
            });
            Ok(())
        },
    );
    outcome.unwrap_or_else(|error| panic!("LEFTOFF_SEED={seed}: {error}"));
}

/// Goal: maintenance runs by itself, and rolls up the small blocks of a quiet topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_small_blocks_of_a_quiet_topic_become_large_ones_by_themselves() {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 5;
    let broker = Broker::in_memory(&config).unwrap();
    let name = topic(0);
    for number in 1..=500 {
        let events = vec![NewEvent::new(number.to_string())];
        let publish = Publish { topic: name.clone(), events, expected_sequence: None };
        broker.publish(publish).await.unwrap();
    }
    let id = broker.0.topics.existing(&name).unwrap().state().id.unwrap();
    let small_blocks = || {
        let end = Sequence::new(501);
        let blocks =
            broker.0.log.step(|log| log.read(id, Sequence::FIRST, end, usize::MAX)).unwrap();
        blocks.iter().filter(|block| block.count() == 1).count() as u64
    };
    // So many may be left: too few for another pass, and the rest of the last one.
    let few = u64::from(ROLL_UP_BLOCKS) + MIN_MERGED_BLOCKS as u64;
    let rolled_up = async {
        // Merged blocks are counted at the end of a round.
        while small_blocks() > few || broker.maintenance_totals().merged_blocks < 500 - few {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), rolled_up).await.expect("it does not end");
    let merged = broker.maintenance_totals().merged_blocks;
    assert!(merged < 1_000, "{merged} blocks were written again");
    let start = StartPoint::Earliest;
    let mut reader = broker.subscribe(&name, start, OnGap::Fail).await.unwrap();
    let mut seen = Vec::new();
    while let Some(delivery) = reader.next_ready().await.unwrap() {
        let Delivery::Events(run) = delivery else { continue };
        seen.extend(run.events().map(|event| event.sequence.get()));
    }
    assert_eq!(seen, (1..=500).collect::<Vec<_>>());
}

/// Goal: a topic's limits hold with each acknowledgement, even if maintenance never runs. The
/// blocks on the disk are over them by two blocks at the most.
#[tokio::test]
async fn a_topic_is_never_over_its_limits_by_more_than_a_block_or_two_on_the_disk() {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000; // Never.
    let broker = Broker::in_memory(&config).unwrap();
    let name = topic(0);
    let limits = TopicConfig { max_events: Some(10), ..TopicConfig::default() };
    broker.create_topic(&name, limits).await.unwrap();
    let mut follower = broker.subscribe(&name, StartPoint::Earliest, OnGap::Fail).await.unwrap();
    for number in 1..=100_u64 {
        let events = vec![NewEvent::new("a"); 3];
        let publish = Publish { topic: name.clone(), events, expected_sequence: None };
        broker.publish(publish).await.unwrap();
        let extent = broker.topic(&name).unwrap().extent;
        let kept = extent.tail.get() - extent.earliest.get();
        assert!(kept >= (3 * number).min(10) && kept < 10 + 3, "{extent:?}");
        assert!(extent.events() < 10 + 3 + 3, "{extent:?}");
        let mut seen = 0;
        while let Some(delivery) = follower.next_ready().await.unwrap() {
            if let Delivery::Events(run) = delivery {
                seen += run.events().count();
            }
        }
        assert_eq!(seen, 3);
    }
    let totals = broker.maintenance_totals();
    assert_eq!(totals.retention.events, 300 - 12);
    let mut reader = broker.subscribe(&name, StartPoint::Earliest, OnGap::Fail).await.unwrap();
    let Some(Delivery::Events(run)) = reader.next_ready().await.unwrap() else { panic!() };
    assert_eq!(run.events().next().unwrap().sequence.get(), 300 - 12 + 1);
}

/// Returns a broker that runs maintenance all the time, by the clock of these tests. Its topics
/// have these settings.
pub(super) fn restless(log: Arc<dyn Log>, defaults: TopicConfig) -> Broker {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 1;
    config.topics.set(">".parse().unwrap(), defaults);
    Broker::with_clock(log, &config, Arc::new(clock)).unwrap()
}

pub(super) async fn publish_one(broker: &Broker, name: &TopicName, event: NewEvent) {
    let publish = Publish { topic: name.clone(), events: vec![event], expected_sequence: None };
    broker.publish(publish).await.unwrap();
}

/// Waits until `holds` returns true. `what` names the condition in the panic.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect(what);
}

/// Goal: an event goes when it is older than its topic's limit, also if no event follows it.
#[tokio::test]
async fn the_last_event_of_any_topic_goes_when_it_is_too_old() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let limits = TopicConfig { max_age_ms: Some(1_000), ..TopicConfig::default() };
    let broker = restless(Arc::new(MemoryLog::default()), limits);
    let name = topic(0);
    let topic = broker.0.topics.open(&name).unwrap();
    let settle = async || until("it rests", || !topic.upkeep.retention.is_due(clock())).await;
    let goes = async |when: &str| {
        publish_one(&broker, &name, NewEvent::new("1")).await;
        settle().await;
        assert_eq!(broker.topic(&name).unwrap().extent.events(), 1, "{when}");
        CLOCK.fetch_add(1_001, Ordering::SeqCst);
        until(when, || broker.topic(&name).unwrap().extent.events() == 0).await;
        settle().await;
    };
    settle().await;
    goes("in a new topic").await;
    goes("in a topic that was emptied").await;
    broker.delete_topic(&name).await.unwrap();
    settle().await;
    goes("in a topic that was deleted").await;
    broker.delete_topic(&name).await.unwrap();
    broker.create_topic(&name, TopicConfig::default()).await.unwrap();
    settle().await;
    goes("in a topic that was created").await;
}

/// Goal: the blocks that a purge has trimmed are removed, also if the caller has gone.
#[tokio::test]
async fn the_space_of_a_purge_that_was_given_up_comes_back() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let broker = restless(Arc::new(MemoryLog::default()), TopicConfig::default());
    let name = topic(0);
    for _ in 0..10 {
        publish_one(&broker, &name, NewEvent::new("x")).await;
    }
    let topic = broker.0.topics.existing(&name).unwrap();
    until("the topic is looked at", || !topic.upkeep.retention.is_due(clock())).await;
    let (reason, report) = (TrimReason::Purged, MaintenanceReport::default());
    let trim = Work::Trim { earliest: Sequence::new(11), reason, report };
    broker.0.step(&topic, trim).await.unwrap();
    until("the events are removed", || broker.topic(&name).unwrap().extent.size_bytes() == 0).await;
}

/// Goal: events that are kept only for their ids do not cause one pass after the other, and go when
/// the ids are forgotten.
#[tokio::test]
async fn events_that_are_kept_for_their_ids_are_looked_at_once_and_go_when_they_may() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let log = Arc::new(crate::log::FaultyLog::default());
    let compacts = TopicConfig { compact: Some(true), ..TopicConfig::default() };
    let broker = restless(log.clone(), compacts);
    let name = topic(0);
    let with_id = |id: u64| NewEvent { id: id.to_string(), key: "k".into(), ..NewEvent::new("x") };
    for id in 0..200 {
        publish_one(&broker, &name, with_id(id)).await;
    }
    let topic = broker.0.topics.existing(&name).unwrap();
    broker.maintain(Some(&name)).await.unwrap();
    let compacted = topic.state().extent.compacted;
    assert_eq!(compacted.below, Sequence::FIRST, "all events are kept");
    assert_eq!(compacted.seen, Sequence::new(201), "with the newest block");
    let is_settled = || !topic.upkeep.rewriting.is_due(clock());
    until("the topic is looked at", is_settled).await;
    // The last visit may still be under way; by the second publish it has ended.
    let mut reads = log.reads();
    for id in 200..220 {
        publish_one(&broker, &name, with_id(id)).await;
        until("the topic is looked at", is_settled).await;
        if id == 201 {
            reads = log.reads();
        }
    }
    assert_eq!(log.reads(), reads, "nothing is worth reading");
    CLOCK.fetch_add(broker.0.dedup.max_age_ms + 1, Ordering::SeqCst);
    until("the events go", || broker.topic(&name).unwrap().extent.events() <= 2).await;
}

/// Goal: when a topic falls quiet, it is compacted up to its last event, once. A topic at rest is
/// not read.
#[tokio::test]
async fn a_topic_that_falls_quiet_is_compacted_to_its_last_event_by_itself() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let compacts = TopicConfig { compact: Some(true), ..TopicConfig::default() };
    let broker = restless(Arc::new(MemoryLog::default()), compacts);
    let name = topic(0);
    let events = vec![NewEvent { key: "k".into(), ..NewEvent::new("x") }; 5];
    let publish = Publish { topic: name.clone(), events, expected_sequence: None };
    broker.publish(publish).await.unwrap();
    let topic = broker.0.topics.existing(&name).unwrap();
    let is_settled = || !topic.upkeep.rewriting.is_due(clock());
    until("the topic is looked at", is_settled).await;
    assert_eq!(broker.topic(&name).unwrap().extent.events(), 5, "the topic is not quiet yet");
    CLOCK.fetch_add(60_000, Ordering::SeqCst);
    until("the topic is compacted", || broker.topic(&name).unwrap().extent.events() == 1).await;
    until("it rests", is_settled).await;
    CLOCK.fetch_add(3_600_000, Ordering::SeqCst);
    assert!(is_settled(), "nothing is left to look at");
}
