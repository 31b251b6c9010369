//! Consumers on the nodes of a fleet: whichever node is asked, and whoever leads, all nodes have
//! the same, and nothing that was acknowledged is lost.

mod lost_answers;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Notify;

use super::*;
use crate::own_topics::NextOwn;
use crate::testing::fleet::TestFleet;

/// Nodes with consumers, which reach each other.
struct Nodes {
    fleet: TestFleet,
    consumers: Vec<Consumers>,
    way: Arc<Way>,
}

/// The way to the leader.
#[derive(Default)]
struct Way {
    consumers: OnceLock<Vec<Consumers>>,
    leader: Mutex<Option<usize>>,
    /// Told when whoever asks hears nothing more of the leader.
    lost: Notify,
}

impl Nodes {
    async fn new(count: usize, config: &ConsumersConfig) -> Self {
        Self::with_clocks(&vec![Clock::following(START); count], config).await
    }

    async fn with_clocks(clocks: &[Clock], config: &ConsumersConfig) -> Self {
        let (fleet, count) = (TestFleet::with_clocks(clocks), clocks.len());
        let way = Arc::<Way>::default();
        let mut consumers = Vec::new();
        for node in 0..count {
            let broker = fleet.broker(node);
            consumers
                .push(Consumers::open_in_fleet(broker, config, to_leader(&way)).await.unwrap());
        }
        let _first = way.consumers.set(consumers.clone());
        let nodes = Self { fleet, consumers, way };
        nodes.lead(0).await;
        nodes
    }

    /// Has a node lead.
    async fn lead(&self, node: usize) {
        *self.way.leader.lock().unwrap() = None;
        self.fleet.lead(node).await;
        *self.way.leader.lock().unwrap() = Some(node);
    }

    fn leader(&self) -> usize {
        self.way.leader.lock().unwrap().expect("a node leads")
    }

    /// Publishes events to a topic, and waits until all nodes have them.
    async fn publish(&self, topic: &str, count: usize) {
        let events = (0..count).map(|n| NewEvent::new(format!("{n}"))).collect();
        let broker = self.fleet.broker(self.leader());
        broker.publish(Publish::new(name(topic), events)).await.unwrap();
        for node in 0..self.consumers.len() {
            self.fleet.read_all(node).await;
        }
    }

    fn cursor(&self, sequence: u64) -> Cursor {
        Cursor::after(Sequence::new(sequence), self.fleet.broker(0).epoch())
    }

    /// Returns all that a node has of all consumers.
    fn all(consumers: &Consumers) -> Vec<ConsumerState> {
        let listed = consumers.list(&ConsumerList { limit: MAX_LIST, ..Default::default() });
        listed.iter().map(|info| consumers.state(&info.id)).collect()
    }

    /// Checks that all nodes have the same, which is what the records say, and returns it.
    async fn check_same(&self, case: &str) -> Vec<ConsumerState> {
        let broker = self.fleet.broker(self.leader());
        let loaded = Consumers::open(broker, &ConsumersConfig::default()).await.unwrap();
        let expected = Self::all(&loaded);
        let tail = broker.extent(&name(TOPIC)).map_or(0, |extent| extent.tail.get() - 1);
        for (node, consumers) in self.consumers.iter().enumerate() {
            let has_all = || consumers.0.reached.load(std::sync::atomic::Ordering::Acquire) >= tail;
            crate::testing::until("a node has read all records", has_all).await;
            assert_eq!(Self::all(consumers), expected, "{case}: node {node}");
            let numbers = [consumers, &loaded].map(|it| it.view().last_number());
            assert!(numbers[0] >= numbers[1], "{case}: node {node}: {numbers:?}");
        }
        expected
    }

    async fn close(self) {
        self.fleet.close().await;
    }
}

fn to_leader(way: &Arc<Way>) -> ToLeader {
    let way = way.clone();
    ToLeader::new(move |request| {
        let leader = *way.leader.lock().unwrap();
        let leader = leader.and_then(|leader| way.consumers.get()?.get(leader).cloned());
        let way = way.clone();
        Box::pin(async move {
            let Some(leader) = leader else { return Err(Error::NotLeading) };
            // The leader goes on with it, whether somebody waits or not.
            let answer = tokio::spawn(async move { leader.answer(request).await });
            tokio::select! {
                answer = answer => answer.unwrap(),
                () = way.lost.notified() => {
                    Err(Error::LeaderLost(std::io::Error::other("another one leads").into()))
                }
            }
        })
    })
}

fn of_owner(owner: &str) -> ConsumerId {
    id("a").of_owner(owner)
}

#[tokio::test]
async fn a_change_on_any_node_is_seen_there_at_once_and_soon_on_all() {
    let nodes = Nodes::new(3, &ConsumersConfig::default()).await;
    nodes.publish("a", 9).await;
    let filter = crate::broker::Filter::default().of_type("mention");
    for (node, consumers) in nodes.consumers.iter().enumerate() {
        let id = of_owner(&format!("user {node}"));
        let settings = ConsumerSettings::default().filter(filter.clone());
        let made = consumers.put(id.clone(), settings, Some(StartPoint::Latest)).await.unwrap();
        assert!(made.exists() && made.checkpoint == Some(nodes.cursor(9)), "{made:?}");
        assert_eq!(consumers.get(&id).unwrap(), made);
        let back = Checkpoint::at(nodes.cursor(2)).forced().expecting(made.checkpoint);
        let ack = consumers.checkpoint(&id, back.clone()).await.unwrap();
        assert_eq!(consumers.get(&id).unwrap().checkpoint, Some(nodes.cursor(2)));
        assert!(ack.moved && ack.revision > made.revision);
        let error = consumers.checkpoint(&id, back).await.unwrap_err().to_string();
        assert!(error.contains("the checkpoint of consumer \"inbox\" of \"a\" is 2-"), "{error}");
        let ack = consumers.mark(&id, named(&[4, 5]).mark(Mark::Read), "me").await.unwrap();
        let state = consumers.state(&id);
        assert_eq!((state.info.revision, ack.changed, ack.gone), (ack.revision, true, 0));
        let again = consumers.mark(&id, named(&[4]).mark(Mark::Read), "me").await.unwrap();
        assert_eq!((again.changed, again.revision), (false, ack.revision));
        let change = ConsumerChange::default().filter(Default::default());
        consumers.update(&id, change).await.unwrap();
        assert_eq!(nodes.check_same("changed").await.len(), node + 1);
    }
    for (node, consumers) in nodes.consumers.iter().enumerate() {
        let id = of_owner(&format!("user {}", (node + 1) % 3));
        consumers.delete(&id).await.unwrap();
        let told = consumers.delete(&id).await.unwrap_err().to_string();
        assert_eq!(told, "there is no consumer \"inbox\" of \"a\"");
        assert!(!consumers.exists(&id));
        assert_eq!(nodes.check_same("deleted").await.len(), 2 - node);
    }
    nodes.close().await;
}

/// Goal: the bounds on numbers hold for all nodes together.
#[tokio::test]
async fn no_node_makes_more_consumers_than_there_may_be() {
    let config = ConsumersConfig { max_consumers: 10, ..ConsumersConfig::default() };
    let nodes = Nodes::new(3, &config).await;
    let put = async |node: usize, n: usize| {
        let id = of_owner(&format!("{node}.{n}"));
        nodes.consumers[node].put(id, ConsumerSettings::default(), None).await
    };
    let puts = (0..30).map(|n| put(n % 3, n));
    let outcomes = futures_util::future::join_all(puts).await;
    let (made, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((made.len(), refused.len()), (10, 20));
    for error in refused {
        let told = error.unwrap_err().to_string();
        assert_eq!(told, "there are 10 consumers already, and there may be no more");
    }
    assert_eq!(nodes.check_same("full").await.len(), 10);
    nodes.close().await;
}

/// Goal: who follows a consumer on one node is told what is changed on another one, by whom.
#[tokio::test]
async fn followers_on_each_node_are_told_what_other_nodes_change() {
    let nodes = Nodes::new(2, &ConsumersConfig::default()).await;
    nodes.publish("a", 9).await;
    let id = of_owner("u");
    for leader in [0, 1] {
        nodes.lead(leader).await;
        let (here, there) = (&nodes.consumers[0], &nodes.consumers[1]);
        let mut follower = here.follow(&id);
        let StateChanges::Whole(_) = here.changes(&id, &mut follower) else { panic!("the first") };
        let told = async |follower: &mut StateFollower| {
            follower.changed().await.unwrap();
            let StateChanges::These(changes) = here.changes(&id, follower) else {
                panic!("not the whole state")
            };
            let told = changes.iter().map(|it| (it.by.to_string(), it.what.clone()));
            (told.collect::<Vec<_>>(), changes.last().unwrap().revision)
        };
        there.put(id.clone(), ConsumerSettings::default(), None).await.unwrap();
        assert_eq!(told(&mut follower).await.0, [(String::new(), Changed::Settings)]);
        let ack = there.checkpoint(&id, Checkpoint::at(nodes.cursor(3))).await.unwrap();
        let moved = Changed::Checkpoint(Some(nodes.cursor(3)));
        assert_eq!(told(&mut follower).await, (vec![(String::new(), moved)], ack.revision));
        let ack = there.mark(&id, named(&[4, 5]).mark(Mark::Read), "me").await.unwrap();
        let (changes, revision) = told(&mut follower).await;
        let [(by, Changed::Marks(change))] = &changes[..] else { panic!("{changes:?}") };
        let events = ChangedEvents::Named([(name("a"), "4-5".to_owned())].into());
        assert_eq!((by.as_str(), &change.events, revision), ("me", &events, ack.revision));
        assert_eq!(change.mark, [Mark::Read].into());
        there.delete(&id).await.unwrap();
        assert_eq!(told(&mut follower).await.0, [(String::new(), Changed::Deleted)]);
    }
    nodes.close().await;
}

/// Goal: a node that learns late that it leads no longer changes nothing, and what was asked of it
/// is decided by the new leader.
#[tokio::test]
async fn what_a_former_leader_is_asked_is_decided_by_the_next_one() {
    let nodes = Nodes::new(2, &ConsumersConfig::default()).await;
    nodes.publish("a", 9).await;
    let to = |sequence| Checkpoint::at(nodes.cursor(sequence));
    nodes.consumers[0].checkpoint(&id("a"), to(1)).await.unwrap();
    nodes.fleet.depose();
    let consumer = id("a");
    let asked = nodes.consumers[0].checkpoint(&consumer, to(2));
    let led = async {
        // The former leader has found out by then that nothing is stored.
        tokio::time::sleep(Duration::from_millis(30)).await;
        nodes.lead(1).await;
    };
    let (ack, ()) = tokio::join!(asked, led);
    assert!(ack.unwrap().moved);
    for (node, consumers) in nodes.consumers.iter().enumerate() {
        let has_it = || consumers.get(&id("a")).unwrap().checkpoint == Some(nodes.cursor(2));
        crate::testing::until("all nodes have it", has_it).await;
        assert_eq!(consumers.0.work.leads(), node == 1);
    }
    nodes.check_same("another leads").await;
    nodes.close().await;
}

/// Goal: after an outcome that nobody knows, each node has what the stream has.
#[tokio::test]
async fn a_leader_whose_last_batch_has_an_unknown_outcome_has_what_is_stored() {
    let nodes = Nodes::new(2, &ConsumersConfig::default()).await;
    nodes.publish("a", 9).await;
    // The topic of the records is there.
    nodes.consumers[0].put(of_owner("u"), ConsumerSettings::default(), None).await.unwrap();
    let mut follower = nodes.consumers[0].follow(&id("a"));
    nodes.consumers[0].changes(&id("a"), &mut follower);
    nodes.fleet.lose_answer();
    let put = nodes.consumers[0].put(id("a"), ConsumerSettings::default(), None);
    let error = put.await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert!(!nodes.consumers[0].exists(&id("a")), "nobody knows it yet");
    nodes.lead(1).await;
    crate::testing::until("it is loaded", || nodes.consumers[0].exists(&id("a"))).await;
    nodes.check_same("lost").await;
    follower.changed().await.unwrap();
    match nodes.consumers[0].changes(&id("a"), &mut follower) {
        StateChanges::Whole(state) => assert!(state.info.exists()),
        StateChanges::These(changes) => assert_eq!(changes[0].what, Changed::Settings),
    }
    nodes.close().await;
}

/// Goal: a node that reads the records after compaction has dropped some of them knows that it has
/// missed some, also if they were the newest.
#[tokio::test]
async fn a_reader_that_comes_late_knows_that_records_are_missing() {
    for is_newest in [false, true] {
        let world = World::new().await;
        let cursor = world.publish("a", &["1"]).await;
        let [gone, kept] = ["gone", "kept"].map(of_owner);
        for id in [&kept, &gone] {
            let settings = ConsumerSettings::default();
            world.consumers.put(id.clone(), settings, None).await.unwrap();
        }
        let topic = name(TOPIC);
        let LoadedConsumers { mut reader, .. } =
            loading::load(&world.broker, &topic).await.unwrap();
        world.consumers.delete(&gone).await.unwrap();
        if !is_newest {
            world.consumers.checkpoint(&kept, Checkpoint::at(cursor)).await.unwrap();
        }
        let config = world.broker.topic(&topic).unwrap().config;
        let config = crate::topic_config::TopicConfig { tombstone_grace_ms: Some(0), ..config };
        world.broker.set_topic(&topic, config).await.unwrap();
        world.clock.advance(Duration::from_secs(1));
        for _ in 0..3 {
            world.broker.maintain(Some(&topic)).await.unwrap();
        }
        let next = reader.next().await.unwrap();
        assert!(matches!(next, NextOwn::Missing), "{is_newest}");
        world.broker.close().await;
    }
}

/// Goal: workers pull and settle on any node, each event is leased to one of them, and another
/// leader goes on where the former one was: leases hold, and what is finished stays so.
#[tokio::test]
async fn shared_work_goes_on_whoever_leads() {
    let nodes = Nodes::new(3, &ConsumersConfig::default()).await;
    let shared = ConsumerSettings::default().shared(WorkSettings::default());
    nodes.consumers[1].put(id("a"), shared, None).await.unwrap();
    nodes.publish("a", 12).await;
    nodes.check_same("made").await;
    let queue = |node: usize| nodes.consumers[node].work(&id("a"));
    let mut leased = Vec::new();
    for node in 0..3 {
        let pull = PullRequest::new(format!("worker {node}")).limit(2);
        leased.extend(queue(node).pull(pull).await.unwrap());
    }
    let numbers =
        |leased: &[Leased]| leased.iter().map(|it| it.event.sequence.get()).collect::<Vec<_>>();
    assert_eq!(numbers(&leased), [1, 2, 3, 4, 5, 6]);
    assert_eq!(&leased[4].event.content.payload[..], b"4");
    let acked = queue(2).settle(Settlement::ack([leased[0].lease, leased[5].lease])).await.unwrap();
    assert_eq!(acked.ack, [SettleOutcome::Done; 2]);

    nodes.lead(1).await;
    let more = queue(0).pull(PullRequest::new("more").limit(9)).await.unwrap();
    assert_eq!(numbers(&more), [7, 8, 9, 10, 11, 12], "all others are leased, or finished");
    let late = queue(2).settle(Settlement::ack(leased[1..5].iter().map(|it| it.lease))).await;
    assert_eq!(late.unwrap().ack, [SettleOutcome::Done; 4]);
    nodes.lead(2).await;
    let last = more.iter().map(|it| it.lease);
    queue(0).settle(Settlement::ack(last)).await.unwrap();
    for node in 0..3 {
        let is_done = || queue(node).status().unwrap().totals.finished == 12;
        crate::testing::until("all is finished, as each node tells", is_done).await;
        let none = queue(node).pull(PullRequest::new("none")).await.unwrap();
        assert!(none.is_empty(), "{none:?}");
    }
    let waits = PullRequest::new("w").wait(Duration::from_secs(20));
    let consumers = nodes.consumers[0].clone();
    let waiting = tokio::spawn(async move { consumers.work(&id("a")).pull(waits).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    nodes.publish("a", 1).await;
    assert_eq!(numbers(&waiting.await.unwrap().unwrap()), [13]);
    nodes.consumers[0].delete(&id("a")).await.unwrap();
    let gone = queue(1).pull(PullRequest::new("w")).await.unwrap_err().to_string();
    assert_eq!(gone, "there is no consumer \"inbox\" of \"a\"");
    nodes.close().await;
}

/// Goal: whichever node leads next, and however wrong its clock is, an event that is leased is
/// given to nobody else before its lease is over.
#[tokio::test]
async fn no_event_is_leased_twice_by_nodes_whose_clocks_are_an_hour_apart() {
    let clocks = [0, 60 * 60 * 1_000, 2 * 60 * 60 * 1_000]
        .map(|ahead_ms| Clock::new(START.minus_ms(60 * 60 * 1_000).plus_ms(ahead_ms)));
    let nodes = Nodes::with_clocks(&clocks, &ConsumersConfig::default()).await;
    nodes.publish("a", 3).await;
    let settings = ConsumerSettings {
        shared: Some(WorkSettings { lease_ms: 30_000, ..WorkSettings::default() }),
        ..ConsumerSettings::default()
    };
    nodes.consumers[0].put(id("a"), settings, None).await.unwrap();
    let pull = async |node: usize, limit| {
        let queue = nodes.consumers[node].work(&id("a"));
        queue.pull(PullRequest::new(format!("worker {node}")).limit(limit)).await.unwrap()
    };
    let first = pull(0, 3).await;
    assert_eq!(first.len(), 3);
    for leader in [1, 0, 2, 1] {
        nodes.lead(leader).await;
        assert_eq!(pull(leader, 3).await.len(), 0, "{leader} gives out what is leased");
    }
    clocks[1].advance(Duration::from_millis(29_999));
    assert_eq!(pull(1, 3).await.len(), 0);
    clocks[1].advance(Duration::from_millis(1));
    assert_eq!(pull(1, 3).await.len(), 3, "the leases are over");
    nodes.close().await;
}

/// What a caller of the random walk has been told.
#[derive(Default)]
struct Told {
    /// The highest checkpoint of each consumer.
    checkpoints: BTreeMap<ConsumerId, u64>,
    /// The events that are read.
    read: Vec<(ConsumerId, u64)>,
}

/// Goal: whatever leads, dies and lags, nothing that was acknowledged is lost, nothing is decided
/// twice, and all nodes have the same.
/// Method: callers on three nodes move checkpoints on and mark events of the same few consumers,
/// each event by one caller alone, while others are made and deleted, and the leadership moves on,
/// with outcomes that are lost and leaders that do not know that they are none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whoever_leads() {
    let first: u64 = rand::random_range(0..u64::MAX / 2);
    for seed in first..first + 2 {
        let nodes = Nodes::new(3, &ConsumersConfig::default()).await;
        nodes.publish("a", 400).await;
        let (told, nodes) = (Arc::new(Mutex::new(Told::default())), Arc::new(nodes));
        let callers: Vec<_> = (0..6)
            .map(|caller| tokio::spawn(call(nodes.clone(), told.clone(), seed, caller)))
            .collect();
        let mut random = StdRng::seed_from_u64(seed);
        while callers.iter().any(|caller| !caller.is_finished()) {
            tokio::time::sleep(Duration::from_millis(random.random_range(5..30))).await;
            match random.random_range(0..4) {
                0 => nodes.fleet.lose_answer(),
                1 => nodes.fleet.depose(),
                _ => {}
            }
            let late = random.random_range(0..3);
            nodes.fleet.hold(late, random.random_bool(0.5));
            tokio::time::sleep(Duration::from_millis(random.random_range(0..10))).await;
            nodes.fleet.hold(late, false);
            nodes.lead(random.random_range(0..3)).await;
        }
        for caller in callers {
            caller.await.unwrap();
        }
        let case = format!("seed {seed}");
        nodes.check_same(&case).await;
        check_told(&nodes, &told.lock().unwrap(), &case);
        let Ok(nodes) = Arc::try_unwrap(nodes) else { panic!("the callers are gone") };
        nodes.close().await;
    }
}

/// Does what one caller of the walk does.
async fn call(nodes: Arc<Nodes>, told: Arc<Mutex<Told>>, seed: u64, caller: u64) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(caller));
    for step in 0..40 {
        let consumers = &nodes.consumers[random.random_range(0..3)];
        let id = of_owner(&format!("user {}", random.random_range(0..2)));
        match random.random_range(0..10) {
            0..5 => {
                // No other caller marks it.
                let sequence = step * 6 + caller + 1;
                let marked = consumers.mark(&id, named(&[sequence]).mark(Mark::Read), "me").await;
                if let Ok(ack) = marked {
                    assert!(ack.changed && ack.gone == 0, "seed {seed}: {ack:?}");
                    assert!(consumers.state(&id).info.revision >= ack.revision, "seed {seed}");
                    told.lock().unwrap().read.push((id, sequence));
                }
            }
            5..8 => {
                let to = random.random_range(1..=400);
                let moved = consumers.checkpoint(&id, Checkpoint::at(nodes.cursor(to))).await;
                if let Ok(ack) = moved {
                    assert!(ack.checkpoint.unwrap().after.number() >= to, "seed {seed}");
                    let here = consumers.get(&id).unwrap().checkpoint;
                    assert!(here.unwrap().after.number() >= to, "seed {seed}");
                    let mut told = told.lock().unwrap();
                    let highest = told.checkpoints.entry(id).or_default();
                    *highest = to.max(*highest);
                }
            }
            8 => {
                let id = of_owner(&format!("gone {}", random.random_range(0..3)));
                let _outcome = consumers.put(id, ConsumerSettings::default(), None).await;
            }
            _ => {
                let id = of_owner(&format!("gone {}", random.random_range(0..3)));
                let _outcome = consumers.delete(&id).await;
            }
        }
    }
}

fn check_told(nodes: &Nodes, told: &Told, case: &str) {
    assert!(told.read.len() > 10, "{case}: nearly nothing was acknowledged");
    let (consumers, broker) = (&nodes.consumers[0], nodes.fleet.broker(0));
    for (id, highest) in &told.checkpoints {
        let checkpoint = consumers.get(id).unwrap().checkpoint.unwrap();
        assert!(checkpoint.after.number() >= *highest, "{case}: {id:?}");
    }
    let topic = name("a");
    for (id, sequence) in &told.read {
        let (topic, sequence) = (&topic, Sequence::new(*sequence));
        let marked = Marked { topic, sequence, position: Position::new(1) };
        let marks = consumers.state(id).marks.of(&marked, broker.now());
        assert!(marks.read, "{case}: {sequence} of {id:?} is read");
    }
}
