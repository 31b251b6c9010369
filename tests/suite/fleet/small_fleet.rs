//! Three nodes over one NATS server, for tests of what clients see when a leader dies.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::faults::clients::call;
use super::nats_servers::{NatsOptions, NatsProgram, NatsServers};
use crate::common::{Process, lasting_address, leftoff, soon, to};

const PAUSE: Duration = Duration::from_millis(20);

/// How long a node may take to answer one request.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The server and the nodes, ended when the value is dropped.
pub(super) struct SmallFleet {
    pub(super) addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Process>>,
    directories: Vec<TempDir>,
    arguments: Vec<String>,
    /// The key of a caller, where one is needed.
    pub(super) key: String,
    servers: NatsServers,
}

impl SmallFleet {
    /// Starts all with more arguments for the nodes, and waits until they are ready. `None` if
    /// there is no NATS.
    pub(super) async fn start(arguments: &[&str]) -> Option<Self> {
        let program = NatsProgram::all().pop()?;
        let servers = NatsServers::start(&program, 1, &NatsOptions::default());
        let mut fleet = Self {
            addresses: (0..3).map(|_| lasting_address()).collect(),
            nodes: vec![None, None, None],
            directories: (0..3).map(|_| tempfile::tempdir().unwrap()).collect(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            key: String::new(),
            servers,
        };
        (0..3).for_each(|number| fleet.start_node(number));
        for number in 0..3 {
            fleet.until_ready(number).await;
        }
        Some(fleet)
    }

    /// Starts a node that does not run.
    pub(super) fn start_node(&mut self, number: usize) {
        let address = self.addresses[number];
        let mut command = leftoff();
        command.args(["serve", "--listen", &address.to_string(), "--data-dir"]);
        command.arg(self.directories[number].path());
        command.args(["--fleet", &self.servers.url(0), "--fleet-name", "small"]);
        command.args(["--node", &format!("n{number}")]);
        command.args(["--advertise", &format!("http://{address}")]);
        command.args(["--set", "fleet.lease_ms=1000", "--set", "follow.drain_ms=100"]);
        command.args(&self.arguments).stdout(Stdio::null());
        self.nodes[number] = Some(Process::adopt(command.spawn().unwrap(), address));
    }

    /// Returns the URL of the NATS server.
    pub(super) fn engine(&self) -> String {
        self.servers.url(0)
    }

    /// Returns the data directory of a node.
    pub(super) fn directory(&self, number: usize) -> &Path {
        self.directories[number].path()
    }

    /// Kills a node, as a crash would.
    pub(super) fn kill(&mut self, number: usize) {
        self.nodes[number].take().expect("it runs").kill();
    }

    pub(super) async fn until_ready(&self, number: usize) {
        let address = self.addresses[number];
        let ready = async {
            while !call(to(address, "GET", "/readyz"), "", ANSWER_TIMEOUT)
                .await
                .is_ok_and(|(status, _)| status == 200)
            {
                tokio::time::sleep(PAUSE).await;
            }
        };
        soon(ready).await;
    }

    /// Returns the node that leads, and the others that run.
    pub(super) async fn roles(&self) -> (usize, Vec<usize>) {
        let running = || (0..3).filter(|number| self.nodes[*number].is_some());
        let found = async {
            loop {
                for number in running() {
                    let request =
                        with_key(to(self.addresses[number], "GET", "/v1/cluster"), &self.key);
                    let Ok((_, told)) = call(request, "", ANSWER_TIMEOUT).await else { continue };
                    let told: Value = serde_json::from_slice(&told).unwrap();
                    if told["role"] == "leading" {
                        return number;
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        let leader = soon(found).await;
        (leader, running().filter(|number| *number != leader).collect())
    }
}

/// Sends JSON until it succeeds: a leader may have died. Returns the answer.
pub(super) async fn patiently(
    node: SocketAddr,
    method: &str,
    path: &str,
    body: &Value,
    key: &str,
) -> Value {
    let answered = async {
        loop {
            let request = to(node, method, path).header("content-type", "application/json");
            let request = with_key(request, key);
            let body = if body.is_null() { String::new() } else { body.to_string() };
            match call(request, body, ANSWER_TIMEOUT).await {
                Ok((status, body)) if status.is_success() => {
                    return serde_json::from_slice(&body).unwrap_or_default();
                }
                Ok((status, body)) if status != 503 && status != 504 => {
                    panic!("{method} {path}: {status}: {body:?}")
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    soon(answered).await
}

fn with_key(request: http::request::Builder, key: &str) -> http::request::Builder {
    match key {
        "" => request,
        key => request.header("authorization", format!("Bearer {key}")),
    }
}
