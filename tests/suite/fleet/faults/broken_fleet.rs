//! The servers and nodes of a fleet, and what happens to them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::clients::call;
use super::clock::{ClockLibrary, ShiftedClock};
use super::fault::FleetFault;
use super::network::{LinkState, Member, Network};
use crate::common::{Process, lasting_address, leftoff, text, to};
use crate::disk::{Disk, free_bytes};
use crate::fleet::nats_servers::{NatsOptions, NatsProgram, NatsServers};

/// The name of the fleet.
pub(super) const FLEET: &str = "broken";

/// The lease of the nodes, in milliseconds.
const LEASE_MS: u64 = 1_000;

const SECRET_OF_NODES: &str = "fleet.secret=a-secret-of-sixteen";

/// The size of the disk of a node.
const DISK_MIB: u64 = 160;

/// The time after which a fleet that was healed must have agreed. An engine whose leaders were
/// killed takes up to 20 s.
pub(super) const HEAL_TIMEOUT: Duration = Duration::from_secs(60);

/// A node: its process while it runs, and what is left of it.
struct BrokenNode {
    process: Option<Process>,
    directory: TempDir,
    /// Where file systems can be mounted, the one that the directory is on.
    disk: Option<Disk>,
    clock: Option<ShiftedClock>,
    address: SocketAddr,
    /// The port at which the other nodes reach it.
    reached_port: u16,
}

/// Three servers and three nodes.
pub(super) struct BrokenFleet {
    servers: NatsServers,
    nodes: Vec<BrokenNode>,
    network: Network,
    logs: TempDir,
    /// The nodes whose disk was full to the last byte.
    filled: BTreeSet<usize>,
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
        let node = |number| {
            let address = lasting_address();
            let clock = clocks.as_ref().map(|library| library.clock(&format!("n{number}")));
            let disk = Disk::in_memory(DISK_MIB);
            let reached_port = network.reach(Member::Node(number), address.port());
            let directory = directory_on(disk.as_ref());
            BrokenNode { process: None, directory, disk, clock, address, reached_port }
        };
        let mut fleet = Self {
            servers,
            nodes: (0..3).map(node).collect(),
            network: network.clone(),
            logs: tempfile::tempdir().unwrap(),
            filled: BTreeSet::new(),
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

    fn start_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.process.is_some() {
            return;
        }
        let log = self.logs.path().join(format!("n{number}"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        let url = format!("http://127.0.0.1:{}", node.reached_port);
        let mut command = leftoff();
        command.args(["serve", "--listen", &node.address.to_string(), "--data-dir"]);
        command.arg(node.directory.path());
        command.args(["--fleet", &self.servers.urls().join(","), "--fleet-name", FLEET]);
        command.args(["--node", &format!("n{number}"), "--advertise", &url]);
        for setting in
            [&*format!("fleet.lease_ms={LEASE_MS}"), SECRET_OF_NODES, "follow.drain_ms=100"]
        {
            command.args(["--set", setting]);
        }
        if let Some(clock) = &node.clock {
            clock.prepare(&mut command);
        }
        command.env("LEFTOFF_LOG_FILTER", "info").stdout(Stdio::null()).stderr(log);
        self.network.join(Member::Node(number), node.directory.path());
        node.process = Some(Process::adopt(command.spawn().unwrap(), node.address));
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
        let node = random.random_range(0..3);
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
                let directory = directory_on(self.nodes[follower].disk.as_ref());
                self.nodes[follower].directory = directory;
                tokio::time::sleep(while_broken).await;
                self.start_node(follower);
            }
            FleetFault::FillDisk => self.fill_disk(node, 1 << 20, while_broken).await,
            FleetFault::FillDiskWholly => {
                self.fill_disk(node, 0, while_broken).await;
                self.filled.insert(node);
            }
            FleetFault::ShiftClock => {
                if let Some(clock) = &self.nodes[node].clock {
                    let hours = random.random_range(-1..=1);
                    eprintln!("   n{node} by {hours} h");
                    clock.shift(hours * 3_600);
                }
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
            FleetFault::PartNodes
            | FleetFault::PartNodeFromServer
            | FleetFault::PartLeaderFromEngine
            | FleetFault::PartFollowerFromEngine
            | FleetFault::PartServers
            | FleetFault::PartServerFromServers
            | FleetFault::PartMachine => self.part(fault, leader, random).await,
        }
    }

    /// Parts some members from others for a while.
    async fn part(&self, fault: FleetFault, leader: usize, random: &mut StdRng) {
        let follower = (leader + random.random_range(1..3)) % 3;
        let node = random.random_range(0..3);
        let server = random.random_range(0..3);
        let other_server = (server + random.random_range(1..3)) % 3;
        let nodes = || (0..3).map(Member::Node);
        let servers = || (0..3).map(Member::Server);
        let (some, others): (Vec<Member>, Vec<Member>) = match fault {
            FleetFault::PartNodes => {
                let other_node = (node + random.random_range(1..3)) % 3;
                (vec![Member::Node(node)], vec![Member::Node(other_node)])
            }
            FleetFault::PartNodeFromServer => {
                (vec![Member::Node(node)], vec![Member::Server(server)])
            }
            FleetFault::PartLeaderFromEngine => (vec![Member::Node(leader)], servers().collect()),
            FleetFault::PartFollowerFromEngine => {
                (vec![Member::Node(follower)], servers().collect())
            }
            FleetFault::PartServers => {
                (vec![Member::Server(server)], vec![Member::Server(other_server)])
            }
            FleetFault::PartServerFromServers => {
                (vec![Member::Server(server)], servers().collect())
            }
            _ => {
                let machine = vec![Member::Node(node), Member::Server(server)];
                let others = nodes().chain(servers());
                (machine.clone(), others.filter(|other| !machine.contains(other)).collect())
            }
        };
        let state = if random.random() { LinkState::Cut } else { LinkState::Stalled };
        let while_broken = Duration::from_millis(random.random_range(0..8 * LEASE_MS));
        eprintln!("   {some:?} from {others:?}: {state:?} for {while_broken:.1?}");
        for (one, other) in some.iter().flat_map(|one| others.iter().map(move |other| (one, other)))
        {
            self.network.set(*one, *other, state);
        }
        tokio::time::sleep(while_broken).await;
        self.network.open_all();
    }

    /// Fills the disk of a node until so many bytes are left.
    async fn fill_disk(&self, node: usize, left_bytes: u64, while_broken: Duration) {
        let Some(disk) = &self.nodes[node].disk else { return };
        let ballast = disk.path().join("ballast");
        let fill = || {
            let mut file = File::create(&ballast).unwrap();
            while free_bytes(disk.path()) > left_bytes && file.write_all(&[0; 4096]).is_ok() {}
        };
        tokio::task::block_in_place(fill);
        tokio::time::sleep(while_broken).await;
        std::fs::remove_file(&ballast).unwrap();
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
        for number in std::mem::take(&mut self.filled) {
            // A node whose log could not be written to asks for that.
            if self.told(number).await.is_some_and(|told| told["role"] == "stopped") {
                eprintln!("   n{number} has stopped, and is started again");
                self.crash(number);
                self.start_node(number);
            }
        }
        self.leader().await;
        for (number, node) in self.nodes.iter().enumerate() {
            let ready = async {
                let ask = || call(to(node.address, "GET", "/readyz"), "", Duration::from_secs(2));
                while !ask().await.is_ok_and(|(status, _)| status == 200) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            if tokio::time::timeout(HEAL_TIMEOUT, ready).await.is_err() {
                panic!("n{number} is not ready: {:?}", self.told(number).await);
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

/// Returns a new directory for a node, on its disk if it has one of its own.
fn directory_on(disk: Option<&Disk>) -> TempDir {
    match disk {
        Some(disk) => tempfile::tempdir_in(disk.path()).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}
