//! Three nodes of a fleet: the real binary, on this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::served::Served;

/// How long the nodes may take until one leads and all are ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The nodes; ended when dropped.
pub(crate) struct Nodes {
    nodes: Vec<Served>,
}

impl Nodes {
    /// Starts three nodes with their data below `directory`, and waits until one leads and all are
    /// ready.
    pub(crate) fn start(directory: &Path, nats: &[String]) -> Self {
        let nodes = (1..=3).map(|number| start(directory, nats, number)).collect();
        let started = Self { nodes };
        let deadline = Instant::now() + START_TIMEOUT;
        let is_ready = |node: &Served| told(node.address)["ready"] == true;
        while !(started.nodes.iter().all(is_ready) && started.nodes.iter().any(leads)) {
            assert!(Instant::now() < deadline, "the nodes are not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        started
    }

    /// Returns the node that leads, and one that does not.
    pub(crate) fn leader_and_follower(&self) -> [&Served; 2] {
        let leader = self.nodes.iter().find(|node| leads(node)).expect("a node leads");
        let follower = self.nodes.iter().find(|node| !leads(node)).expect("two nodes follow");
        [leader, follower]
    }
}

fn start(directory: &Path, nats: &[String], number: usize) -> Served {
    let address = free_address().to_string();
    let name = format!("n{number}");
    let mut program = Command::new(env!("CARGO_BIN_EXE_leftoff"));
    program.args(["serve", "--listen", &address, "--fleet-name", "bench", "--node", &name]);
    program.args(["--fleet", &nats.join(","), "--advertise", &format!("http://{address}")]);
    program.arg("--data-dir").arg(directory.join(name)).env("LEFTOFF_LOG_FILTER", "error");
    Served::run(program)
}

/// Returns a free address. Its port is outside of those that systems give to clients.
fn free_address() -> SocketAddr {
    let mut addresses = (21_000..30_000).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    addresses.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}

fn leads(node: &Served) -> bool {
    told(node.address)["role"] == "leading"
}

/// Returns what a node tells of its fleet.
fn told(address: SocketAddr) -> Value {
    let mut socket = TcpStream::connect(address).expect("the node listens");
    write!(socket, "GET /v1/cluster HTTP/1.0\r\n\r\n").expect("the node reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("the node answers");
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).expect("an object of JSON")
}
