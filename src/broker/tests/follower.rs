//! Tests of a broker that takes the groups which another one has decided: whatever the leader does,
//! the follower shows the same, and goes on from there when it leads.
//!
//! The file is long, because its tests share the pair of brokers at its top.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::broker::opening::FollowerConfig;
use crate::broker::topic::state::TopicState;
use crate::event::Event;
use crate::log::contract::Log;
use crate::log::{Applied, Group, MemoryLog, SledLog, StoredTopic, load_peer};

/// The clock of the brokers in these tests, in milliseconds.
static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);

/// The turn of a test that moves the clock: two nodes must read the same time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn clock() -> Timestamp {
    Timestamp::from_ms(CLOCK.load(Ordering::SeqCst))
}

/// A log that gives each of its own groups a place in a stream, and keeps the group for others.
struct StreamLog {
    inner: Arc<dyn Log>,
    decided: Mutex<Vec<Group>>,
    refuses: std::sync::atomic::AtomicBool,
}

impl StreamLog {
    fn over(inner: impl Log) -> Arc<Self> {
        let (decided, refuses) = Default::default();
        Arc::new(Self { inner: Arc::new(inner), decided, refuses })
    }

    fn taken(&self) -> Vec<Group> {
        std::mem::take(&mut self.decided.lock().unwrap())
    }
}

impl crate::log::LogAround for StreamLog {
    fn inside(&self) -> &dyn Log {
        &*self.inner
    }

    fn commit(&self, group: &Group) -> Result<()> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(Error::NotWritten(std::io::Error::other("injected").into()));
        }
        let mut group = group.clone();
        if group.applied.is_none() {
            let stream = self.inner.applied()?.map_or(1, |applied| applied.stream + 1);
            let epoch = self.inner.epoch();
            group.applied = Some(Applied { stream, term: 1, number: stream, chain: 0, epoch });
            self.decided.lock().unwrap().push(group.clone());
        }
        self.inner.commit(&group)
    }
}

fn config() -> OpenConfig {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000; // Only when a test asks for it.
    config.broker.max_block_bytes = 1 << 10;
    config.broker.max_tail_bytes = 20 << 10;
    config.broker.max_read_bytes = 1 << 10;
    (config.dedup.max_events, config.dedup.max_age_ms) = (40, 600_000);
    config
}

fn open(log: &Arc<StreamLog>, begins: Leadership) -> Broker {
    let (log, now) = (log.clone(), Arc::new(clock));
    let fleet = (begins == Leadership::Follows).then(FollowerConfig::default);
    opening::open(log, &config(), now, None, Busy::watched(), fleet).map(Broker).unwrap()
}

/// A broker, with readers that follow it live, and all that these were given.
struct Node {
    log: Arc<StreamLog>,
    broker: Broker,
    readers: Vec<Reader>,
    given: Vec<Vec<String>>,
}

const TOPICS: [&str; 5] = ["a", "b", "c.plain", "c.keyed", "d"];

impl Node {
    async fn new(begins: Leadership) -> Self {
        Self::over(StreamLog::over(MemoryLog::default()), begins).await
    }

    async fn over(log: Arc<StreamLog>, begins: Leadership) -> Self {
        let broker = open(&log, begins);
        let mut node = Self { log, broker, readers: Vec::new(), given: vec![Vec::new(); 4] };
        node.follow().await;
        node
    }

    async fn follow(&mut self) {
        let (start, on_gap) = (StartPoint::Latest, OnGap::Resume);
        self.readers.clear();
        for patterns in [">", "c.*"] {
            let feed = self.broker.feed(vec![patterns.parse().unwrap()], start, on_gap).await;
            self.readers.push(feed.unwrap());
        }
        for topic in ["a", "c.keyed"] {
            let reader = self.broker.subscribe(&name(topic), start, on_gap).await;
            self.readers.push(reader.unwrap());
        }
    }

    /// Has every reader take all that is new to it.
    async fn drain(&mut self) {
        let busy = self.broker.busy().clone();
        let is_idle =
            tokio::task::spawn_blocking(move || busy.wait(Duration::from_secs(30))).await.unwrap();
        assert!(is_idle, "the broker's threads do not come to rest");
        for (reader, given) in self.readers.iter_mut().zip(&mut self.given) {
            loop {
                match reader.next_ready().await {
                    Ok(Some(Delivery::Events(run))) => {
                        given.extend(run.events().map(|event| {
                            format!("{} {} {}", run.topic(), event.sequence, event.position)
                        }));
                    }
                    Ok(Some(Delivery::CaughtUp)) => {}
                    Ok(Some(other)) => given.push(format!("{other:?}")),
                    Ok(None) => break,
                    Err(Error::TopicDeleted(topic)) => {
                        given.push(format!("{topic} was deleted"));
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Returns the states of all topics that have an id.
    fn states(&self) -> BTreeMap<TopicName, TopicState> {
        let topics = self.broker.0.topics.filtered(|topic| topic.state().id.is_some());
        topics.iter().map(|topic| (topic.name.clone(), topic.state())).collect()
    }

    /// Returns all that the log holds: records, blocks, blocks of ids, the place in the stream.
    #[allow(clippy::type_complexity, reason = "it is compared as a whole")]
    fn stored(&self) -> (Vec<StoredTopic>, Vec<Vec<u8>>, Vec<(TopicId, Vec<u8>)>, Option<Applied>) {
        let topics = self.log.topics().unwrap();
        let mut blocks = Vec::new();
        for topic in &topics {
            let all = self.log.stored_blocks(topic.id, Sequence::FIRST..topic.extent.tail, 1 << 20);
            for stored in all.unwrap() {
                let read = self.log.read(topic.id, stored.first, topic.extent.tail, 1).unwrap();
                blocks.push(read[0].bytes().to_vec());
            }
        }
        let ids = self.log.ids().unwrap();
        let ids = ids.into_iter().map(|(id, block)| (id, block.bytes().to_vec())).collect();
        (topics, blocks, ids, self.log.applied().unwrap())
    }

    /// Returns the events of each topic from the first one on, and the state of each.
    async fn read(&self) -> Vec<(String, Vec<(u64, u64, String)>, Vec<Event>)> {
        let mut all = Vec::new();
        for topic in TOPICS {
            if self.broker.topic(&name(topic)).is_err() {
                continue;
            }
            let state = self.broker.state(&name(topic), StateRequest::default()).await.unwrap();
            all.push((topic.to_owned(), super::stored(&self.broker, topic).await, state.events));
        }
        all
    }

    fn numbers(&self) -> (u64, u64, usize) {
        let shared = &self.broker.0;
        (shared.last_position(), shared.drops(), shared.topics.count())
    }
}

/// Gives the follower what the leader has decided, and compares them.
async fn catch_up(leader: &mut Node, follower: &mut Node, case: &str) {
    for group in leader.log.taken() {
        follower.broker.apply(group).await.unwrap();
    }
    leader.drain().await;
    follower.drain().await;
    assert_eq!(leader.states(), follower.states(), "{case}");
    assert_eq!(leader.numbers(), follower.numbers(), "{case}");
    assert_eq!(leader.stored(), follower.stored(), "{case}");
    assert_eq!(leader.read().await, follower.read().await, "{case}");
    assert_eq!(leader.given, follower.given, "{case}");
}

/// Returns some events. Their ids are few, so that some come again.
fn events(random: &mut StdRng) -> Vec<NewEvent> {
    let event = |random: &mut StdRng| {
        let payload = "x".repeat(random.random_range(0..300));
        let mut event = NewEvent::new(payload);
        if random.random_bool(0.6) {
            event = event.with_id(format!("id.{}", random.random_range(0..80)));
        }
        if random.random_bool(0.6) {
            event = event.with_key(format!("key.{}", random.random_range(0..6)));
        }
        event.ttl_ms = random.random_bool(0.2).then(|| random.random_range(1..20_000));
        event
    };
    (0..random.random_range(1..6)).map(|_| event(random)).collect()
}

fn topic_config(random: &mut StdRng) -> TopicConfig {
    let mut some = |least: u64, most: u64| {
        let number = random.random_range(least..most);
        random.random_bool(0.4).then_some(number)
    };
    let (max_events, max_bytes) = (some(1, 40), some(500, 8_000));
    let (max_age_ms, max_events_per_key) = (some(1_000, 60_000), some(1, 3));
    TopicConfig {
        max_events,
        max_bytes,
        max_age_ms,
        max_events_per_key,
        tombstone_grace_ms: Some(0),
        ..TopicConfig::default()
    }
}

/// Has `broker` do something. Refusals are an outcome like any other.
async fn act(broker: &Broker, random: &mut StdRng) -> String {
    let topic = name(TOPICS[random.random_range(0..TOPICS.len())]);
    match random.random_range(0..20) {
        0..=8 => {
            let expected_sequence = random.random_bool(0.1).then_some(3);
            let publish = Publish { topic, events: events(random), expected_sequence };
            format!("{:?}", broker.publish(publish).await)
        }
        9..=11 => {
            let mut publishes = Vec::new();
            for topic in TOPICS.iter().take(random.random_range(2..5)) {
                publishes.push(Publish::new(name(topic), events(random)));
            }
            format!("{:?}", broker.publish_all(publishes).await)
        }
        12 => format!("{:?}", broker.create_topic(&topic, topic_config(random)).await),
        13 | 14 => format!("{:?}", broker.set_topic(&topic, topic_config(random)).await),
        15 => {
            let tail = broker.extent(&topic).map_or(1, |extent| extent.tail.get());
            let earliest = Sequence::new(random.random_range(1..=tail));
            format!("{:?}", broker.purge(&topic, earliest).await)
        }
        16 => format!("{:?}", broker.delete_topic(&topic).await),
        17 => {
            let is_together = random.random_bool(0.5);
            let deleted = change(broker, &topic, Change::Delete).await;
            let created = change(broker, &topic, Change::Create(topic_config(random))).await;
            let deleted_again = match is_together {
                true => Some(change(broker, &topic, Change::Delete).await.await.unwrap()),
                false => None,
            };
            format!("{:?} {:?} {deleted_again:?}", deleted.await, created.await)
        }
        18 => format!("{:?}", broker.maintain(Some(&topic)).await),
        _ => format!("{:?}", broker.maintain(None).await),
    }
}

/// Queues a change of a topic.
async fn change(
    broker: &Broker,
    topic: &TopicName,
    change: Change,
) -> oneshot::Receiver<Result<()>> {
    let topic = broker.0.topics.open(topic).unwrap();
    let (reply, answered) = oneshot::channel();
    broker
        .0
        .send(Queued::Change(QueuedChange { topic, change, asked_by: AskedBy::Caller, reply }))
        .await
        .unwrap();
    answered
}

/// Publishes every id that was ever used, to each topic, and returns what is acknowledged.
async fn publish_all_ids(broker: &Broker) -> Vec<String> {
    let mut acks = Vec::new();
    for topic in TOPICS {
        for id in 0..80 {
            let events = vec![NewEvent::new("again").with_id(format!("id.{id}"))];
            let ack = broker.publish(Publish::new(name(topic), events)).await;
            acks.push(format!("{topic} {id} {ack:?}"));
        }
    }
    acks
}

/// Goal: after any sequence of groups a follower is as the leader is, and as a broker that is
/// opened on its log; and when it leads, it decides as the former leader would have.
/// Method: a random walk of all that can be asked of a leader. After each step, all topics, blocks,
/// ids, events, states and what live readers were given are compared. In every other walk the
/// follower is closed and opened in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_is_as_its_leader_is_and_goes_on_as_it_would_have() {
    let _alone = TURN.lock().await;
    let first: u64 = rand::random_range(0..u64::MAX / 2);
    for seed in first..first + 6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut leader = Node::new(Leadership::Leads).await;
        let mut follower = Node::new(Leadership::Follows).await;
        for step in 0..120 {
            let case = format!("seed {seed}, step {step}");
            CLOCK.fetch_add(random.random_range(0..3_000), Ordering::SeqCst);
            let acted = act(&leader.broker, &mut random).await;
            let case = format!("{case}: {acted}");
            catch_up(&mut leader, &mut follower, &case).await;
            if seed % 2 == 0 && random.random_bool(0.05) {
                check_reopened(&mut leader, &mut follower, &case).await;
            }
        }
        take_the_lead(&mut leader, &mut follower, seed).await;
        leader.broker.close().await;
        follower.broker.close().await;
    }
}

/// Returns the states without two numbers, with which a topic's record is not always written.
fn told(node: &Node) -> BTreeMap<TopicName, TopicState> {
    let told = |(name, state): (TopicName, TopicState)| {
        let extent = Extent { first_position: Position::new(0), ..state.extent };
        (name, TopicState { extent, deletions: 0, ..state })
    };
    node.states().into_iter().map(told).collect()
}

/// Goal: a node that loads the backup of a peer, which goes on meanwhile, and applies the stream
/// from the backup's place on, has the peer's log, byte for byte, and decides as the peer would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_loads_a_peers_backup_becomes_as_its_peer_is() {
    let _alone = TURN.lock().await;
    let first: u64 = rand::random_range(0..u64::MAX / 2);
    for seed in first..first + 4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut leader = Node::new(Leadership::Leads).await;
        for _ in 0..100 {
            CLOCK.fetch_add(random.random_range(0..3_000), Ordering::SeqCst);
            act(&leader.broker, &mut random).await;
        }
        let mut backup = leader.broker.backup_for_node().await.unwrap();
        let mut bytes = Vec::new();
        while let Some(some) = backup.next().await.unwrap() {
            bytes.extend_from_slice(&some);
            for _ in 0..random.random_range(0..4) {
                act(&leader.broker, &mut random).await;
            }
        }
        drop(backup);
        let directory = tempfile::tempdir().unwrap();
        let (copy, target) = (directory.path().join("backup"), directory.path().join("log"));
        std::fs::write(&copy, bytes).unwrap();
        load_peer(&target, &copy, |_| {}).unwrap();
        let log_config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
        let log = StreamLog::over(SledLog::open(&target, &log_config).unwrap());
        assert_eq!(log.epoch(), leader.log.epoch(), "seed {seed}");
        let place = log.applied().unwrap().unwrap().stream;
        let mut node = Node::over(log, Leadership::Follows).await;
        for group in leader.log.taken() {
            if group.applied.unwrap().stream > place {
                node.broker.apply(group).await.unwrap();
            }
        }
        assert_eq!(told(&leader), told(&node), "seed {seed}");
        assert_eq!(leader.numbers(), node.numbers(), "seed {seed}");
        let stored = |node: &Node| {
            let (mut topics, blocks, ids, applied) = node.stored();
            // The peer's record may be older.
            topics.iter_mut().for_each(|topic| topic.extent.first_position = Position::new(0));
            (topics, blocks, ids, applied)
        };
        assert_eq!(stored(&leader), stored(&node), "seed {seed}");
        for node in [&mut leader, &mut node] {
            node.given.iter_mut().for_each(Vec::clear);
            node.follow().await;
        }
        take_the_lead(&mut leader, &mut node, seed).await;
        leader.broker.close().await;
        node.broker.close().await;
    }
}

/// Closes the follower, and opens it on its log: it must be as before.
async fn check_reopened(leader: &mut Node, follower: &mut Node, case: &str) {
    let (before, stored) = (told(follower), follower.stored());
    let numbers = follower.numbers();
    let nodes = [(&mut *follower, Leadership::Follows), (&mut *leader, Leadership::Leads)];
    for (node, begins) in nodes {
        node.readers.clear();
        node.broker.close().await;
        node.broker = open(&node.log, begins);
        node.given.iter_mut().for_each(Vec::clear);
        node.follow().await;
    }
    assert_eq!(told(follower), before, "{case}");
    assert_eq!((follower.stored(), follower.numbers()), (stored, numbers), "{case}");
    assert_eq!(leader.states(), follower.states(), "{case}");
}

/// Has the follower refuse to decide, then lead. It decides as the leader does.
async fn take_the_lead(leader: &mut Node, follower: &mut Node, seed: u64) {
    let before = follower.stored();
    let topic = name(TOPICS[0]);
    let refused = [
        follower.broker.publish(publish("a", "1")).await.map(drop),
        follower.broker.publish(publish("new", "1")).await.map(drop),
        follower.broker.set_topic(&topic, TopicConfig::default()).await.map(drop),
        follower.broker.create_topic(&name("new"), TopicConfig::default()).await.map(drop),
        follower.broker.maintain(None).await.map(drop),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(Error::NotLeading)), "seed {seed}: {refused:?}");
    }
    assert_eq!(follower.stored(), before, "seed {seed}");
    follower.broker.lead(Leadership::Leads).await.unwrap();
    let (theirs, own) =
        (publish_all_ids(&leader.broker).await, publish_all_ids(&follower.broker).await);
    assert_eq!(theirs, own, "seed {seed}");
    leader.drain().await;
    follower.drain().await;
    assert_eq!(leader.read().await, follower.read().await, "seed {seed}");
    assert_eq!(leader.given, follower.given, "seed {seed}");
    let refused = follower.broker.apply(Group::default()).await;
    assert!(matches!(refused, Err(Error::NotWritten(_))), "seed {seed}: {refused:?}");
    follower.broker.maintain(None).await.unwrap();
    // The former leader takes what the new one has decided since, from a log that was cut back.
    follower.broker.lead(Leadership::Follows).await.unwrap();
    let refused = follower.broker.publish(publish("a", "2")).await;
    assert!(matches!(refused, Err(Error::NotLeading)), "seed {seed}: {refused:?}");
}

/// Goal: a group that the log refuses leaves no trace, and neither does one that does not follow
/// what the log has; the same group can be applied later.
#[tokio::test]
async fn a_group_that_cannot_be_applied_leaves_no_trace() {
    let mut leader = Node::new(Leadership::Leads).await;
    let mut follower = Node::new(Leadership::Follows).await;
    for payload in ["1", "2"] {
        leader.broker.publish(publish("a", payload)).await.unwrap();
    }
    let [first, second] = <[Group; 2]>::try_from(leader.log.taken()).unwrap();
    let unfit = follower.broker.apply(second.clone()).await;
    assert!(matches!(unfit, Err(Error::DamagedLog { .. })), "{unfit:?}");
    follower.log.refuses.store(true, Ordering::SeqCst);
    let refused = follower.broker.apply(first.clone()).await;
    assert!(matches!(refused, Err(Error::NotWritten(_))), "{refused:?}");
    follower.log.refuses.store(false, Ordering::SeqCst);
    assert_eq!((follower.states().len(), follower.numbers()), (0, (0, 0, 0)));
    for group in [first.clone(), second] {
        follower.broker.apply(group).await.unwrap();
    }
    let again = follower.broker.apply(first).await;
    assert!(matches!(again, Err(Error::DamagedLog { .. })), "{again:?}");
    catch_up(&mut leader, &mut follower, "in the end").await;
    for node in [leader, follower] {
        node.broker.close().await;
    }
}

/// Goal: a node that was started anew, or that leads now, knows the ids that former leaders have
/// stored, whatever their clocks said: no repeat is stored. They are over at some time, too.
#[tokio::test]
async fn ids_of_former_leaders_are_known_whatever_the_clocks_say() {
    let hours = |hours: u64| Timestamp::from_ms((1_000 + hours) * 3_600_000);
    let repeated = async |then: Timestamp, now: Timestamp| {
        let log = Arc::new(MemoryLog::default());
        let publish = async |broker: &Broker| {
            let event = NewEvent::new("x").with_id("an id");
            let publish = Publish::one("a".parse().unwrap(), event);
            broker.publish(publish).await.unwrap().is_duplicate()
        };
        let clock = |time: Timestamp| Arc::new(move || time);
        let config = OpenConfig::default();
        let former = Broker::watched(log.clone(), &config, clock(then)).unwrap();
        assert!(!publish(&former).await);
        former.close().await;
        let broker = Broker::watched_follower(log, &config, clock(now)).unwrap();
        broker.lead(Leadership::Leads).await.unwrap();
        let is_known = publish(&broker).await;
        broker.close().await;
        is_known
    };
    for (then, now) in [(0, 0), (0, 2), (2, 0)] {
        assert!(repeated(hours(then), hours(now)).await, "{then} {now}");
    }
    assert!(!repeated(hours(0), hours(3)).await, "it is over");
}
