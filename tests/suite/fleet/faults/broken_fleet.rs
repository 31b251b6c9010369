//! The servers and nodes of a fleet, and what happens to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::clients::{call, topic_of};
use crate::common::{Process, lasting_address, soon, to};
use crate::fleet::nats_servers::{NatsOptions, NatsProgram, NatsServers};

/// The lease of the nodes, in milliseconds.
const LEASE_MS: u64 = 1_000;

/// The time after which a fleet that was healed must have agreed. An engine whose leaders were
/// killed takes up to 20 s.
const HEAL_TIMEOUT: Duration = Duration::from_secs(60);

/// What happens to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FleetFault {
    KillLeader,
    KillFollower,
    /// The leader stands still for longer than its lease, and then goes on.
    PauseLeader,
    PauseFollower,
    CloseLeader,
    WipeFollower,
    KillAllNodes,
    KillServer,
    PauseServer,
    RestartEngine,
    KillEverything,
}

const OF_NODES: [FleetFault; 7] = [
    FleetFault::KillLeader,
    FleetFault::KillFollower,
    FleetFault::PauseLeader,
    FleetFault::PauseFollower,
    FleetFault::CloseLeader,
    FleetFault::WipeFollower,
    FleetFault::KillAllNodes,
];

const OF_SERVERS: [FleetFault; 4] = [
    FleetFault::KillServer,
    FleetFault::PauseServer,
    FleetFault::RestartEngine,
    FleetFault::KillEverything,
];

impl FleetFault {
    /// Returns a fault by chance.
    pub(super) fn choose(random: &mut StdRng, spares_nats: bool) -> Self {
        let of_server = !spares_nats && random.random_range(0..3) == 0;
        let faults = if of_server { &OF_SERVERS[..] } else { &OF_NODES[..] };
        faults[random.random_range(0..faults.len())]
    }
}

/// A node: its process while it runs, and what is left of it.
struct BrokenNode {
    process: Option<Process>,
    directory: TempDir,
    address: SocketAddr,
}

/// Three servers and three nodes.
pub(super) struct BrokenFleet {
    servers: NatsServers,
    nodes: Vec<BrokenNode>,
    spares_nats: bool,
}

/// The events of each topic as one node has them.
pub(super) type HeldEvents = BTreeMap<String, Vec<Value>>;

impl BrokenFleet {
    /// Starts all, and waits until a node leads.
    pub(super) async fn start(program: &NatsProgram) -> Self {
        let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
        let servers = tokio::task::block_in_place(|| NatsServers::start(program, 3, &options));
        let node = |_| BrokenNode {
            process: None,
            directory: tempfile::tempdir().unwrap(),
            address: lasting_address(),
        };
        let nodes = (0..3).map(node).collect();
        let mut fleet = Self { servers, nodes, spares_nats: program.is_older_than(2, 10) };
        (0..3).for_each(|number| fleet.start_node(number));
        fleet.leader().await;
        fleet
    }

    /// Whether the servers must not be broken.
    pub(super) fn spares_nats(&self) -> bool {
        self.spares_nats
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    fn start_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.process.is_some() {
            return;
        }
        let (name, url) = (format!("n{number}"), format!("http://{}", node.address));
        let servers = self.servers.urls().join(",");
        let lease = format!("fleet.lease_ms={LEASE_MS}");
        let arguments = [
            ["--fleet", &servers],
            ["--fleet-name", "broken"],
            ["--node", &name],
            ["--advertise", &url],
            ["--set", &lease],
            ["--set", "fleet.secret=a-secret-of-sixteen"],
            ["--set", "follow.drain_ms=100"],
        ];
        let start =
            || Process::serve_at(node.address, node.directory.path(), arguments.as_flattened());
        node.process = Some(tokio::task::block_in_place(start));
    }

    async fn told(&self, number: usize) -> Option<Value> {
        let request = to(self.nodes[number].address, "GET", "/v1/cluster");
        let (status, body) = call(request, "", Duration::from_secs(2)).await.ok()?;
        (status == 200).then(|| serde_json::from_slice(&body).unwrap())
    }

    /// Returns the node that leads now, if one does.
    async fn leader_now(&self) -> Option<usize> {
        for number in (0..3).filter(|number| self.nodes[*number].process.is_some()) {
            if self.told(number).await.is_some_and(|told| told["role"] == "leading") {
                return Some(number);
            }
        }
        None
    }

    async fn leader(&self) -> usize {
        let found = async {
            loop {
                if let Some(leader) = self.leader_now().await {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(HEAL_TIMEOUT, found).await.expect("a node leads")
    }

    fn crash(&mut self, number: usize) {
        if let Some(mut process) = self.nodes[number].process.take() {
            process.crash();
        }
    }

    /// Lets a fault happen, and mends what it broke after a while.
    pub(super) async fn suffer(&mut self, fault: FleetFault, random: &mut StdRng) {
        let leader = self.leader().await;
        let follower = (leader + random.random_range(1..3)) % 3;
        let server = random.random_range(0..3);
        let while_broken = Duration::from_millis(random.random_range(0..4 * LEASE_MS));
        match fault {
            FleetFault::KillLeader => self.kill_nodes(&[leader], while_broken).await,
            FleetFault::KillFollower => self.kill_nodes(&[follower], while_broken).await,
            FleetFault::KillAllNodes => self.kill_nodes(&[0, 1, 2], while_broken).await,
            FleetFault::PauseLeader => self.pause_node(leader, while_broken).await,
            FleetFault::PauseFollower => self.pause_node(follower, while_broken).await,
            FleetFault::CloseLeader => {
                let mut process = self.nodes[leader].process.take().expect("it leads");
                process.signal(Signal::TERM);
                assert_eq!(process.exit_code().await, Some(0), "a leader that is closed");
                self.start_node(leader);
            }
            FleetFault::WipeFollower => {
                self.crash(follower);
                self.nodes[follower].directory = tempfile::tempdir().unwrap();
                tokio::time::sleep(while_broken).await;
                self.start_node(follower);
            }
            FleetFault::KillServer => {
                self.servers.kill(server);
                tokio::time::sleep(while_broken).await;
                self.servers.restart(server);
            }
            FleetFault::PauseServer => {
                self.servers.pause(server);
                tokio::time::sleep(while_broken).await;
                self.servers.resume(server);
            }
            FleetFault::RestartEngine => {
                (0..3).for_each(|at| self.servers.terminate(at));
                tokio::time::sleep(while_broken).await;
                (0..3).for_each(|at| self.servers.restart(at));
            }
            FleetFault::KillEverything => {
                (0..3).for_each(|number| self.crash(number));
                (0..3).for_each(|at| self.servers.kill(at));
                (0..3).for_each(|at| self.servers.restart(at));
                (0..3).for_each(|number| self.start_node(number));
            }
        }
    }

    async fn kill_nodes(&mut self, nodes: &[usize], while_broken: Duration) {
        nodes.iter().for_each(|number| self.crash(*number));
        tokio::time::sleep(while_broken).await;
        nodes.iter().for_each(|number| self.start_node(*number));
    }

    async fn pause_node(&mut self, number: usize, while_broken: Duration) {
        let process = self.nodes[number].process.as_ref().expect("it runs");
        process.signal(Signal::STOP);
        tokio::time::sleep(while_broken).await;
        process.signal(Signal::CONT);
    }

    /// Starts all that does not run, and waits until all nodes are ready.
    pub(super) async fn heal(&mut self) {
        (0..3).for_each(|at| self.servers.restart_if_ended(at));
        (0..3).for_each(|number| self.start_node(number));
        self.leader().await;
        for node in &self.nodes {
            let ready = async {
                let ask = || call(to(node.address, "GET", "/readyz"), "", Duration::from_secs(2));
                while !ask().await.is_ok_and(|(status, _)| status == 200) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(HEAL_TIMEOUT, ready).await.expect("a node is ready");
        }
    }

    /// Returns the events of all nodes, once all have applied the same.
    pub(super) async fn held(&self, topics: usize) -> Vec<HeldEvents> {
        let mut all = Vec::new();
        let last = self.last_of_all().await;
        for node in &self.nodes {
            let mut held = HeldEvents::new();
            for number in 0..topics {
                let topic = topic_of(number);
                held.insert(topic.clone(), events_of(node.address, &topic, last).await);
            }
            all.push(held);
        }
        all
    }

    /// Publishes a last event. Returns its position.
    async fn last_of_all(&self) -> u64 {
        let stored = async {
            loop {
                let request = to(self.nodes[0].address, "POST", "/v1/topics/last/events?id=last");
                if let Ok((status, body)) = call(request, "last", HEAL_TIMEOUT).await
                    && status.is_success()
                {
                    let told: Value = serde_json::from_slice(&body).unwrap();
                    return told["position"].as_u64().unwrap();
                }
            }
        };
        tokio::time::timeout(HEAL_TIMEOUT, stored).await.expect("the fleet stores")
    }
}

/// Returns all events of a topic, as a node has them once it has applied `position`.
async fn events_of(address: SocketAddr, topic: &str, position: u64) -> Vec<Value> {
    soon(async {
        // A cursor that is ahead is waited for.
        let path = format!("/v1/events?topic=last&after=@{}&limit=1", position - 1);
        loop {
            let told = call(to(address, "GET", &path), "", Duration::from_secs(5)).await;
            if told.is_ok_and(|(status, body)| status == 200 && !events_in(&body).is_empty()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let (mut events, mut after): (Vec<Value>, u64) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/topics/{topic}/events?after={after}&limit=1000");
        let told = call(to(address, "GET", &path), "", Duration::from_secs(20)).await;
        let (status, body) = told.expect("a page");
        if status == 404 {
            return events; // Nothing was published there.
        }
        assert_eq!(status, 200, "{body:?}");
        let page = events_in(&body);
        let Some(last) = page.last() else { return events };
        after = last["sequence"].as_u64().unwrap();
        events.extend(page);
    }
}

/// Returns the events of a page.
pub(super) fn events_in(page: &[u8]) -> Vec<Value> {
    let mut page: Value = serde_json::from_slice(page).unwrap();
    match page["events"].take() {
        Value::Array(events) => events,
        other => panic!("no page: {other}"),
    }
}
