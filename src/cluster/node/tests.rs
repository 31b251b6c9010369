//! Tests of nodes with real brokers, on a simulated stream, and on NATS (`over_nats.rs`).
//!
//! The file is long, because its tests share the fleet at its top.

mod applying_damaged;
mod ephemeral;
mod forwarding;
mod joining;
mod over_nats;
mod peers;
mod presence;
mod repairing;
mod showing;
mod versions;

use std::pin::Pin;
use std::sync::{Mutex, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures_util::stream;
use tokio::net::{TcpListener, TcpStream};
use tonic::service::Routes;
use tonic::transport::Server;

use super::*;
use crate::cluster::samples::content;
use crate::cluster::simulated::{SimulatedStream, StreamFaults};
use crate::event::{Durability, NewEvent};
use crate::log::{LogConfig, MemoryLog, SledLog};
use crate::topic::TopicName;
use crate::{Delivery, OnGap, Publish, StartPoint, TopicConfig};

/// The time after which a test fails that waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

const LEASE: Duration = Duration::from_millis(300);

const HOUR: Duration = Duration::from_secs(3_600);

/// Stops the tasks of a node, as a system does with a process.
#[derive(Default)]
struct Freezer {
    /// Read while a task is polled, so that nothing moves once `freeze` has returned.
    is_frozen: RwLock<bool>,
    held: Mutex<Vec<Waker>>,
}

impl Freezer {
    fn freeze(&self) {
        *self.is_frozen.write().unwrap() = true;
    }

    fn thaw(&self) {
        *self.is_frozen.write().unwrap() = false;
        self.held.lock().unwrap().drain(..).for_each(Waker::wake);
    }
}

struct Freezable {
    work: NodeWork,
    freezer: Arc<Freezer>,
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let freezer = self.freezer.clone();
        let is_frozen = freezer.is_frozen.read().unwrap();
        if *is_frozen {
            freezer.held.lock().unwrap().push(context.waker().clone());
            return Poll::Pending;
        }
        self.work.as_mut().poll(context)
    }
}

/// The disk of a node: what is left of it when it is closed.
enum TestDisk {
    Memory(Arc<MemoryLog>),
    Sled(tempfile::TempDir),
}

impl TestDisk {
    fn open(&self) -> Arc<dyn Log> {
        match self {
            Self::Memory(log) => log.clone(),
            Self::Sled(directory) => {
                let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
                Arc::new(SledLog::open(directory.path(), &config).unwrap())
            }
        }
    }
}

struct TestNode {
    broker: Broker,
    node: FleetNode,
    local: Arc<dyn Log>,
    freezer: Arc<Freezer>,
    /// What serves the node for others, if they reach it.
    server: Option<JoinHandle<()>>,
}

impl TestNode {
    async fn close(self) {
        self.node.close().await;
        self.server.inspect(JoinHandle::abort);
    }

    /// Ends the node as a crash does: its lease runs out.
    async fn kill(self) {
        self.server.inspect(JoinHandle::abort);
        drop(self.node);
        self.broker.close().await;
    }

    fn leads(&self) -> bool {
        self.node.status().borrow().role == NodeRole::Leading
    }
}

struct TestFleet {
    lease: Duration,
    /// Whether the nodes reach each other, and the secret with which those that start do.
    is_connected: bool,
    secret: Secret,
    streams: Vec<Arc<dyn FleetEngine>>,
    /// The time for which the stream keeps records.
    keep: Duration,
    disks: Vec<TestDisk>,
    nodes: Vec<Option<TestNode>>,
}

fn faultless() -> StreamFaults {
    StreamFaults { patience: Duration::from_millis(50), ..StreamFaults::default() }
}

impl TestFleet {
    /// Returns a fleet of three nodes on a simulated stream, and the links of the nodes to it.
    async fn begun(lease: Duration) -> (Self, Vec<SimulatedStream>) {
        let stream = SimulatedStream::new(1, faultless(), Arc::new(RuntimeClock::default()));
        let links: Vec<_> = (0..3).map(|_| stream.another_link()).collect();
        let streams =
            links.iter().map(|link| Arc::new(link.clone()) as Arc<dyn FleetEngine>).collect();
        (Self::over(streams, lease, HOUR).await, links)
    }

    /// Returns a fleet of three nodes, one of them with its log on disk.
    async fn over(streams: Vec<Arc<dyn FleetEngine>>, lease: Duration, keep: Duration) -> Self {
        Self::connected(streams, lease, keep, false).await
    }

    async fn connected(
        streams: Vec<Arc<dyn FleetEngine>>,
        lease: Duration,
        keep: Duration,
        is_connected: bool,
    ) -> Self {
        let mut fleet = Self {
            lease,
            is_connected,
            secret: "the secret".into(),
            streams,
            keep,
            disks: vec![
                TestDisk::Memory(Arc::default()),
                TestDisk::Memory(Arc::default()),
                TestDisk::Sled(tempfile::tempdir().unwrap()),
            ],
            nodes: (0..3).map(|_| None).collect(),
        };
        for number in 0..3 {
            fleet.start(number).await;
        }
        fleet
    }

    async fn start(&mut self, number: usize) {
        let local = self.disks[number].open();
        let stream = self.streams[number].clone();
        let mut config = NodeConfig { lease: self.lease, keep: self.keep, ..named(number) };
        if !self.is_connected {
            self.nodes[number] = Some(open_as(local, stream, config).await.unwrap());
            return;
        }
        let (socket, advertise) = socket().await;
        config.advertise = advertise;
        config.secret = Some(self.secret.clone());
        let mut node = open_as(local, stream, config).await.unwrap();
        node.server = Some(serve(socket, Routes::new(node.node.service().served())));
        self.nodes[number] = Some(node);
    }

    fn take(&mut self, number: usize) -> TestNode {
        self.nodes[number].take().unwrap()
    }

    fn node(&self, number: usize) -> &TestNode {
        self.nodes[number].as_ref().unwrap()
    }

    fn running(&self) -> impl Iterator<Item = &TestNode> {
        self.nodes.iter().flatten()
    }

    /// Waits until a node other than `former` leads. Returns its number.
    async fn leader_but(&self, former: Option<usize>) -> usize {
        let found = wait_for(|| {
            let leads = |number: &usize| {
                let node = self.nodes[*number].as_ref().is_some_and(TestNode::leads);
                node && Some(*number) != former
            };
            (0..3).find(leads)
        });
        found.await
    }

    /// Waits until all nodes that run know who leads.
    async fn leader_is_known(&self) {
        wait_for(|| {
            let leader = (0..3).find(|at| self.nodes[*at].as_ref().is_some_and(TestNode::leads))?;
            let knows = |node: &TestNode| {
                let status = node.node.status();
                let known = status.borrow().leader.clone();
                known.is_some_and(|known| known.node == named(leader).name)
            };
            self.running().all(|node| node.leads() || knows(node)).then_some(())
        })
        .await;
    }

    /// Publishes an event with this id at whatever node leads, until that is acknowledged.
    async fn publish_somewhere(&self, topic: &str, id: &str) {
        let began = Instant::now();
        loop {
            for node in self.running() {
                if publish(&node.broker, topic, id).await.is_ok() {
                    return;
                }
            }
            assert!(began.elapsed() < PATIENCE, "nobody stores anything");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all nodes that run hold the same. Returns it.
    async fn agreed(&self) -> String {
        let same = wait_for(|| {
            let all: Vec<String> = self.running().map(|node| content(&*node.local)).collect();
            let is_same = all.iter().all(|content| *content == all[0]);
            // What a log has is shown to readers a moment later.
            let shown: Vec<_> = self.running().map(|node| node.broker.last_position()).collect();
            let is_shown = shown.iter().all(|position| *position == shown[0]);
            (is_same && is_shown).then(|| all[0].clone())
        });
        same.await
    }

    async fn close(mut self) {
        for number in 0..3 {
            if let Some(node) = self.nodes[number].take() {
                node.close().await;
            }
        }
    }
}

/// Returns the settings of the node with this number.
fn named(number: usize) -> NodeConfig {
    NodeConfig::new(format!("n{number}"))
}

async fn open_node(
    local: Arc<dyn Log>,
    engine: Arc<dyn FleetEngine>,
    number: usize,
    lease: Duration,
) -> Result<TestNode, NodeOpenError> {
    open_as(local, engine, NodeConfig { lease, ..named(number) }).await
}

async fn open_as(
    local: Arc<dyn Log>,
    engine: Arc<dyn FleetEngine>,
    config: NodeConfig,
) -> Result<TestNode, NodeOpenError> {
    let freezer = Arc::new(Freezer::default());
    let spawn = |work| tokio::spawn(Freezable { work, freezer: freezer.clone() });
    let (broker, node) =
        open_with(local.clone(), engine, config, &OpenConfig::default(), &spawn).await?;
    Ok(TestNode { broker, node, local, freezer, server: None })
}

/// Returns a socket of a server, and its address.
async fn socket() -> (TcpListener, String) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", socket.local_addr().unwrap());
    (socket, address)
}

fn serve(socket: TcpListener, routes: Routes) -> JoinHandle<()> {
    let accepted = stream::unfold(socket, |socket| async {
        let accepted: std::io::Result<TcpStream> =
            socket.accept().await.map(|(accepted, _)| accepted);
        Some((accepted, socket))
    });
    tokio::spawn(async {
        Server::builder().add_routes(routes).serve_with_incoming(accepted).await.unwrap();
    })
}

/// Waits until `look` finds something.
async fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "it does not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

async fn publish(broker: &Broker, topic: &str, id: &str) -> Result<crate::Ack> {
    let event = NewEvent::new(format!("event {id}")).with_id(id);
    broker.publish(Publish::one(name(topic), event)).await
}

/// Returns the ids of the events of a topic, as readers of `broker` get them.
async fn ids(broker: &Broker, topic: &str) -> Vec<String> {
    let start = StartPoint::Earliest;
    let mut reader = broker.subscribe(&name(topic), start, OnGap::Fail).await.unwrap();
    let mut ids = Vec::new();
    loop {
        let delivery = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap();
        match delivery.unwrap().unwrap() {
            Delivery::Events(run) => {
                ids.extend(run.to_events().into_iter().map(|event| event.content.id));
            }
            Delivery::CaughtUp => return ids,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_leads_and_all_hold_what_it_has_decided_byte_for_byte() {
    let (fleet, _) = TestFleet::begun(LEASE).await;
    let leader = fleet.leader_but(None).await;
    let broker = &fleet.node(leader).broker;
    for number in 0..30 {
        let topic = format!("t{}", number % 3);
        let ack = publish(broker, &topic, &number.to_string()).await.unwrap();
        assert_eq!(ack.durability, Durability::Replicated);
    }
    let again = publish(broker, "t0", "0").await.unwrap();
    assert!(again.is_duplicate() && again.durability == Durability::Replicated);
    let limited = TopicConfig { max_events: Some(3), ..TopicConfig::default() };
    broker.set_topic(&name("t1"), limited).await.unwrap();
    broker.maintain(None).await.unwrap();
    broker.delete_topic(&name("t2")).await.unwrap();
    broker.create_topic(&name("t3"), TopicConfig::default()).await.unwrap();
    // A group of several records, which followers decode on another thread.
    let large = (0..600).map(|_| NewEvent::new("x".repeat(4_000))).collect();
    broker.publish(Publish::new(name("large"), large)).await.unwrap();
    fleet.agreed().await;
    let epoch = broker.epoch();
    for (number, node) in fleet.nodes.iter().flatten().enumerate() {
        assert_eq!(node.broker.epoch(), epoch);
        assert_eq!(node.broker.last_position(), broker.last_position());
        let expected: Vec<String> = (0..10).map(|index| (3 * index).to_string()).collect();
        assert_eq!(ids(&node.broker, "t0").await, expected);
        let status = node.node.status().borrow().clone();
        assert_eq!(status.term, 1, "{status:?}");
        assert_eq!(
            status.leader.as_ref().map(|it| &*it.node),
            Some(&*format!("n{leader}")),
            "{status:?}"
        );
        if number != leader {
            let refused = publish(&node.broker, "t0", "new").await.unwrap_err();
            assert!(matches!(refused, Error::NotLeading), "{refused}");
            let refused = node.broker.delete_topic(&name("t0")).await.unwrap_err();
            assert!(matches!(refused, Error::NotLeading), "{refused}");
        }
    }
    fleet.close().await;
}

/// Goal: a leader that stood still decides nothing once another one leads, tells nobody what is not
/// so, and follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_wakes_up_late_acknowledges_nothing_and_follows() {
    let (fleet, _) = TestFleet::begun(LEASE).await;
    fleet.publish_somewhere("a", "before").await;
    fleet.agreed().await;
    let former = loop {
        let leader = fleet.leader_but(None).await;
        fleet.node(leader).freezer.freeze();
        // On a busy machine another node may have taken over in this moment.
        if fleet.node(leader).leads() {
            break leader;
        }
        fleet.node(leader).freezer.thaw();
    };
    let frozen = fleet.node(former);
    let broker = frozen.broker.clone();
    let late = tokio::spawn(async move { publish(&broker, "a", "late").await });
    let next = fleet.leader_but(Some(former)).await;
    publish(&fleet.node(next).broker, "a", "after").await.unwrap();
    assert!(frozen.leads(), "it still believes so");
    assert!(!late.is_finished());
    assert_eq!(ids(&frozen.broker, "a").await, ["before"], "its readers are served");
    frozen.freezer.thaw();
    let refused = late.await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::NotLeading), "{refused}");
    wait_for(|| (!frozen.leads()).then_some(())).await;
    fleet.agreed().await;
    for node in fleet.running() {
        assert_eq!(ids(&node.broker, "a").await, ["before", "after"]);
    }
    assert_eq!(fleet.leader_but(None).await, next);
    fleet.close().await;
}

/// Goal: nobody waits for the lease of a leader that was closed in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_leader_is_closed_another_one_leads_at_once() {
    let lease = Duration::from_millis(1_500);
    let (mut fleet, _) = TestFleet::begun(lease).await;
    let former = fleet.leader_but(None).await;
    let node = fleet.take(former);
    let broker = node.broker.clone();
    let publishes = (0..20).map(|number| {
        let broker = broker.clone();
        tokio::spawn(
            async move { (number, publish(&broker, "a", &number.to_string()).await.is_ok()) },
        )
    });
    let publishes: Vec<_> = publishes.collect();
    node.close().await;
    let began = Instant::now();
    let mut acknowledged = Vec::new();
    for publish in publishes {
        let (number, is_stored) = publish.await.unwrap();
        acknowledged.extend(is_stored.then(|| number.to_string()));
    }
    let next = fleet.leader_but(None).await;
    assert!(began.elapsed() < lease - Duration::from_millis(100), "{:?}", began.elapsed());
    publish(&fleet.node(next).broker, "b", "after").await.unwrap();
    fleet.agreed().await;
    let stored =
        if acknowledged.is_empty() { Vec::new() } else { ids(&fleet.node(next).broker, "a").await };
    assert!(acknowledged.iter().all(|id| stored.contains(id)), "{acknowledged:?} {stored:?}");
    fleet.start(former).await;
    fleet.agreed().await;
    fleet.close().await;
}

/// Goal: while the engine is away, publishers are told so in a bounded time, readers are served,
/// and all goes on by itself when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_engine_is_away_reading_goes_on_and_writing_comes_back() {
    let (fleet, links) = TestFleet::begun(LEASE).await;
    let leader = fleet.leader_but(None).await;
    fleet.publish_somewhere("a", "before").await;
    fleet.agreed().await;
    links.iter().for_each(|link| link.cut(PATIENCE));
    let began = Instant::now();
    let unknown = publish(&fleet.node(leader).broker, "a", "unknown").await.unwrap_err();
    assert!(began.elapsed() < 40 * LEASE, "{:?}", began.elapsed());
    assert!(unknown.outcome_unknown(), "{unknown}");
    wait_for(|| (!fleet.node(leader).leads()).then_some(())).await;
    for node in fleet.running() {
        let refused = publish(&node.broker, "a", "refused").await.unwrap_err();
        assert_eq!(ids(&node.broker, "a").await, ["before"]);
        node.broker.check_ready().unwrap();
        let problem = wait_for(|| node.node.status().borrow().engine_problem.clone()).await;
        let Error::NoLeader(why) = &refused else { panic!("{refused}") };
        assert_eq!(why.to_string(), problem);
    }
    links.iter().for_each(|link| link.cut(Duration::ZERO));
    // Whoever does not know the outcome publishes again with the same id.
    fleet.publish_somewhere("a", "unknown").await;
    fleet.publish_somewhere("a", "after").await;
    fleet.agreed().await;
    for node in fleet.running() {
        assert_eq!(ids(&node.broker, "a").await, ["before", "unknown", "after"]);
        wait_for(|| node.node.status().borrow().engine_problem.is_none().then_some(())).await;
    }
    fleet.close().await;
}

/// Goal: after a silence of the engine that is longer than the lease, all nodes know who leads,
/// also if the leader leads on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_silent_and_leads_on_is_known_again() {
    let (fleet, links) = TestFleet::begun(LEASE).await;
    fleet.leader_but(None).await;
    fleet.publish_somewhere("a", "before").await;
    fleet.leader_is_known().await;
    links.iter().for_each(|link| link.cut(2 * LEASE));
    tokio::time::sleep(2 * LEASE).await; // The links are back then, and the lease is over.
    fleet.leader_is_known().await;
    fleet.close().await;
}

/// Goal: whichever node goes and comes, and if all do, nothing that was acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_back_catch_up() {
    let (mut fleet, _) = TestFleet::begun(LEASE).await;
    let mut expected = Vec::new();
    for round in 0..3 {
        let leader = fleet.leader_but(None).await;
        let gone = if round == 1 { leader } else { (leader + 1) % 3 };
        fleet.take(gone).kill().await;
        for number in 0..5 {
            let id = format!("{round}-{number}");
            fleet.publish_somewhere("a", &id).await;
            expected.push(id);
        }
        fleet.start(gone).await;
        fleet.agreed().await;
        fleet.leader_is_known().await;
    }
    for number in 0..3 {
        fleet.take(number).kill().await;
    }
    for number in [2, 0, 1] {
        fleet.start(number).await;
    }
    fleet.publish_somewhere("a", "last").await;
    expected.push("last".to_owned());
    fleet.agreed().await;
    for node in fleet.running() {
        assert_eq!(ids(&node.broker, "a").await, expected);
    }
    fleet.close().await;
}

/// The least time for which a command waits for a leader.
const FORWARDING_PATIENCE: Duration = Duration::from_secs(6);

/// Goal: a node that cannot take part says why, and serves what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_belong_to_the_fleet_stops_and_serves_its_readers() {
    let (mut fleet, links) = TestFleet::begun(LEASE).await;
    fleet.publish_somewhere("a", "of the fleet").await;
    let stopped = async |node: &TestNode| {
        let status = node.node.status();
        wait_for(|| {
            let status = status.borrow();
            (status.role == NodeRole::Stopped).then(|| status.problem.clone().unwrap())
        })
        .await
    };
    // A log of a broker that was alone.
    let alone: Arc<dyn Log> = Arc::new(MemoryLog::default());
    let broker = Broker::with_log(alone.clone(), &OpenConfig::default()).unwrap();
    publish(&broker, "b", "of its own").await.unwrap();
    broker.close().await;
    let link = || Arc::new(links[0].another_link());
    let foreign = open_node(alone, link(), 3, LEASE).await.unwrap();
    assert!(stopped(&foreign).await.contains("no place in the stream"));
    assert_eq!(ids(&foreign.broker, "b").await, ["of its own"]);
    let began = Instant::now();
    let refused = publish(&foreign.broker, "b", "more").await.unwrap_err();
    assert!(began.elapsed() < FORWARDING_PATIENCE, "not at once: {:?}", began.elapsed());
    let Error::NoLeader(why) = refused else { panic!("{refused}") };
    assert!(why.to_string().contains("no place in the stream"), "{why}");
    foreign.close().await;
    // A node of another fleet.
    let elsewhere = SimulatedStream::new(2, faultless(), Arc::new(RuntimeClock::default()));
    let disk = Arc::new(MemoryLog::default());
    let other = open_node(disk.clone(), Arc::new(elsewhere), 3, LEASE).await.unwrap();
    wait_for(|| other.leads().then_some(())).await;
    publish(&other.broker, "b", "elsewhere").await.unwrap();
    other.close().await;
    let other = open_node(disk, link(), 3, LEASE).await.unwrap();
    fleet.publish_somewhere("a", "more").await;
    let problem = stopped(&other).await;
    assert!(problem.contains("does not follow the record before it"), "{problem}");
    let status = other.node.status().borrow().clone();
    assert!(
        status.breaks_at.is_some() && status.repairable_problem() == Some(problem),
        "{status:?}"
    );
    assert_eq!(ids(&other.broker, "b").await, ["elsewhere"]);
    other.close().await;
    // A node that was away for too long, and one that comes too late.
    let leader = fleet.leader_but(None).await;
    let gone = (leader + 1) % 3;
    fleet.take(gone).kill().await;
    fleet.publish_somewhere("a", "missed").await;
    let tail = links[0].tail().await.unwrap();
    links[0].trim(tail.next()).await.unwrap();
    fleet.start(gone).await;
    let problem = stopped(fleet.node(gone)).await;
    assert!(problem.contains("were trimmed"), "{problem}");
    assert!(fleet.node(gone).node.status().borrow().fell_behind);
    assert_eq!(ids(&fleet.node(gone).broker, "a").await, ["of the fleet", "more"]);
    let late = open_node(Arc::new(MemoryLog::default()), link(), 4, LEASE).await;
    assert!(matches!(late, Err(NodeOpenError::Trimmed(_))));
    fleet.close().await;
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_before_anything_is_done() {
    let stream = SimulatedStream::new(1, faultless(), Arc::new(RuntimeClock::default()));
    let mut large = OpenConfig::default();
    large.broker.max_group_bytes = 1 << 30;
    let named = NodeConfig::new("n1");
    let cases = [
        (NodeConfig::new(""), OpenConfig::default(), "node: has 0 bytes; 1 to 128 are allowed"),
        (NodeConfig::new("n".repeat(129)), OpenConfig::default(), "node: has 129 bytes"),
        (
            NodeConfig { lease: Duration::from_millis(99), ..named.clone() },
            OpenConfig::default(),
            "lease: 99ms is not within 100ms and 60s",
        ),
        (
            NodeConfig { keep: 721 * HOUR, ..named.clone() },
            OpenConfig::default(),
            "keep: 2595600s is more than 2592000s",
        ),
        (named, large, "broker.max_group_bytes: "),
    ];
    for (config, open_config, problem) in cases {
        let (log, link) = (Arc::new(MemoryLog::default()), Arc::new(stream.clone()));
        let error = open(log, link, config, &open_config).await.unwrap_err();
        assert!(error.to_string().starts_with(problem), "{error}");
    }
    assert_eq!(stream.tail().await, Ok(StreamSequence::BEFORE_ALL));
}
