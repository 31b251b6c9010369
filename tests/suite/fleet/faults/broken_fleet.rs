//! The servers and nodes of a fleet: started, asked, and healed.

use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;

use super::broken_node::BrokenNode;
use super::clock::ClockLibrary;
use super::network::{Member, Network};
use crate::common::{leftoff, text};
use crate::fleet::nats_servers::{NatsOptions, NatsProgram, NatsServers};

/// The name of the fleet.
pub(super) const FLEET: &str = "broken";

/// The lease of the nodes, in milliseconds.
pub(super) const LEASE_MS: u64 = 1_000;

const SECRET_OF_NODES: &str = "fleet.secret=a-secret-of-sixteen";

/// The time after which a fleet that was healed must have agreed. An engine whose leaders were
/// killed takes up to 20 s.
pub(super) const HEAL_TIMEOUT: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(50);

/// Three servers and three nodes.
pub(super) struct BrokenFleet {
    pub(super) servers: NatsServers,
    pub(super) nodes: Vec<BrokenNode>,
    pub(super) network: Network,
    /// The ports at which the nodes reach each other.
    reached_ports: Vec<u16>,
    logs: TempDir,
    spares_nats: bool,
    _clocks: Option<ClockLibrary>,
}

impl BrokenFleet {
    /// Starts all, and waits until a node leads.
    pub(super) async fn start(program: &NatsProgram) -> Self {
        let network = Network::default();
        let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
        let directory = tempfile::tempdir().unwrap();
        for at in 0..3 {
            network.join(Member::Server(at), &directory.path().join(format!("s{}", at + 1)));
        }
        let mut reach = |at, port| network.reach(Member::Server(at), port);
        let start = || NatsServers::start_reached(program, 3, &options, directory, &mut reach);
        let servers = tokio::task::block_in_place(start);
        let clocks = tokio::task::block_in_place(ClockLibrary::compile);
        let node = |number| BrokenNode::new(&format!("n{number}"), clocks.as_ref());
        let nodes: Vec<BrokenNode> = (0..3).map(node).collect();
        let reached =
            (0..3).map(|number| network.reach(Member::Node(number), nodes[number].address.port()));
        let mut fleet = Self {
            servers,
            reached_ports: reached.collect(),
            nodes,
            network: network.clone(),
            logs: tempfile::tempdir().unwrap(),
            spares_nats: program.is_older_than(2, 10),
            _clocks: clocks,
        };
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

    /// Returns the servers' URLs.
    pub(super) fn servers(&self) -> Vec<String> {
        self.servers.urls()
    }

    /// Starts a node if it does not run.
    pub(super) fn start_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.runs() {
            return;
        }
        let (servers, name) = (self.servers.urls().join(","), format!("n{number}"));
        let url = format!("http://127.0.0.1:{}", self.reached_ports[number]);
        let lease = format!("fleet.lease_ms={LEASE_MS}");
        let arguments = [
            ["--fleet", &servers],
            ["--fleet-name", FLEET],
            ["--node", &name],
            ["--advertise", &url],
            ["--set", &lease],
            ["--set", SECRET_OF_NODES],
            ["--set", "follow.drain_ms=100"],
        ];
        let log = self.logs.path().join(&name);
        let log = File::options().create(true).append(true).open(log).unwrap();
        self.network.join(Member::Node(number), node.directory().path());
        node.start(arguments.as_flattened(), log);
    }

    /// Returns the node that leads now, if one does.
    pub(super) async fn leader_now(&self) -> Option<usize> {
        let told = join_all(self.nodes.iter().map(BrokenNode::told)).await;
        let leads = |told: &Option<serde_json::Value>| {
            told.as_ref().is_some_and(|told| told["role"] == "leading")
        };
        told.iter().position(leads)
    }

    /// Waits until a node leads.
    ///
    /// # Panics
    ///
    /// If none does within [`HEAL_TIMEOUT`].
    pub(super) async fn leader(&self) -> usize {
        let found = async {
            loop {
                if let Some(leader) = self.leader_now().await {
                    return leader;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(HEAL_TIMEOUT, found).await.expect("a node leads")
    }

    /// Starts all that does not run, as a supervisor would, also nodes that have stopped because
    /// their disks were full.
    pub(super) async fn revive(&mut self) {
        (0..3).for_each(|at| self.servers.restart_if_ended(at));
        for number in 0..3 {
            self.revive_node(number).await;
        }
    }

    /// Starts a node that does not run, or has stopped, as its supervisor does.
    async fn revive_node(&mut self, number: usize) {
        if self.nodes[number].end_if_stopped().await {
            eprintln!("   n{number} has stopped, and is started again");
        }
        self.start_node(number);
    }

    /// Starts all that does not run, and waits until all nodes are ready.
    pub(super) async fn heal(&mut self) {
        self.revive().await;
        self.leader().await;
        for number in 0..3 {
            let ready = async {
                while !self.nodes[number].is_ready().await {
                    tokio::time::sleep(PAUSE).await;
                    self.revive_node(number).await;
                }
            };
            if tokio::time::timeout(HEAL_TIMEOUT, ready).await.is_err() {
                panic!("n{number} is not ready: {:?}", self.nodes[number].told().await);
            }
        }
    }
}

impl Drop for BrokenFleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.logs.disable_cleanup(true);
        let (nodes, servers) = (self.logs.path(), self.servers.keep_files());
        eprintln!("   the logs of the nodes are in {nodes:?}, those of the servers in {servers:?}");
        for node in &self.nodes {
            let url = format!("http://{}", node.address);
            let status = leftoff().args(["cluster", "status", "--server", &url]).output().unwrap();
            eprintln!("{}{}", text(&status.stdout), text(&status.stderr));
        }
    }
}
