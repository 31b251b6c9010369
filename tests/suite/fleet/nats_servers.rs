//! NATS servers on loopback, one or a cluster of three, for the tests of a fleet: started, killed,
//! stopped and started again.
//!
//! The program is `LEFTOFF_NATS_SERVER`, or the `nats-server` of the PATH; tests run with that of
//! `LEFTOFF_NATS_SERVER_NEW` as well, if it is set. Where there is no program, tests say why they
//! do nothing; if `REQUIRE_NATS` is set they fail instead.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long servers may take until they are of use.
const START_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a server may take to end in order.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// A version of the NATS server.
#[derive(Debug, Clone)]
pub(crate) struct NatsProgram {
    path: PathBuf,
    /// Like `2.15.1`.
    pub(crate) version: String,
}

impl NatsProgram {
    /// Returns the programs to test with: the usual one, and the newer one if it is named. None if
    /// there is none; why is printed.
    ///
    /// # Panics
    ///
    /// If there is none and `REQUIRE_NATS` is set, or one that is named does not run.
    pub(crate) fn all() -> Vec<Self> {
        let named = |name| std::env::var_os(name).map(PathBuf::from);
        let mut programs = Vec::new();
        match named("LEFTOFF_NATS_SERVER") {
            Some(path) => programs.push(Self::at(path).expect("LEFTOFF_NATS_SERVER runs")),
            None => programs.extend(
                Self::at("nats-server".into()).or_else(|| Self::at("/usr/sbin/nats-server".into())),
            ),
        }
        let new = named("LEFTOFF_NATS_SERVER_NEW");
        programs.extend(new.map(|path| Self::at(path).expect("LEFTOFF_NATS_SERVER_NEW runs")));
        if programs.is_empty() {
            assert!(std::env::var_os("REQUIRE_NATS").is_none(), "REQUIRE_NATS: no nats-server");
            eprintln!("skipped: no nats-server in the PATH, and no LEFTOFF_NATS_SERVER");
        }
        programs
    }

    fn at(path: PathBuf) -> Option<Self> {
        let said = Command::new(&path).arg("--version").output().ok()?;
        let said = String::from_utf8(said.stdout).ok()?;
        let version = said.trim().rsplit_once('v')?.1.to_owned();
        Some(Self { path, version })
    }

    /// Returns whether the version is before this one.
    pub(crate) fn is_older_than(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next(), parts.next()) < (Some(major), Some(minor))
    }

    /// Returns whether the servers can sync before they acknowledge (`sync_interval: always`).
    pub(crate) fn can_sync_always(&self) -> bool {
        !self.is_older_than(2, 10)
    }
}

/// What servers are started with.
#[derive(Debug, Clone, Default)]
pub(crate) struct NatsOptions {
    /// Whether they sync before they acknowledge, where they can.
    pub(crate) sync_always: bool,
    /// Lines for the configuration of each: who may connect, TLS, limits.
    pub(crate) configuration: String,
}

/// Returns the port at which a server's port is reached by others: of each server its number and
/// its port.
pub(crate) type ReachedAt<'a> = &'a mut dyn FnMut(usize, u16) -> u16;

/// Running servers; killed when dropped.
pub(crate) struct NatsServers {
    program: NatsProgram,
    nodes: Vec<NatsNode>,
    dir: tempfile::TempDir,
}

struct NatsNode {
    name: String,
    dir: PathBuf,
    /// The port at which its clients reach it.
    reached_port: u16,
    monitor_port: u16,
    child: Option<Child>,
}

impl NatsServers {
    /// Starts this many servers, and waits until JetStream is of use on all.
    ///
    /// # Panics
    ///
    /// If they are not within 40 s.
    pub(crate) fn start(program: &NatsProgram, count: usize, options: &NatsOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::start_reached(program, count, options, dir, &mut |_, port| port)
    }

    /// Does the same as [`Self::start`] in `dir`, with servers that are reached by their clients
    /// and by each other at other ports. The server with the number 0 has its files in `s1`.
    pub(crate) fn start_reached(
        program: &NatsProgram,
        count: usize,
        options: &NatsOptions,
        dir: tempfile::TempDir,
        reached_at: ReachedAt<'_>,
    ) -> Self {
        let ports = free_ports(count * 3);
        let routes: Vec<u16> = (0..count).map(|at| reached_at(at, ports[at])).collect();
        let mut nodes = Vec::new();
        for at in 0..count {
            let name = format!("s{}", at + 1);
            let node_dir = dir.path().join(&name);
            std::fs::create_dir(&node_dir).expect("a directory");
            let (client_port, monitor_port) = (ports[count + at], ports[count * 2 + at]);
            let reached_port = reached_at(at, client_port);
            let sync = if options.sync_always && program.can_sync_always() {
                "sync_interval: always"
            } else {
                ""
            };
            let cluster = cluster_of(at, ports[at], &routes);
            let configuration = format!(
                "server_name: {name}\nlisten: \"127.0.0.1:{client_port}\"\n\
                 client_advertise: \"127.0.0.1:{reached_port}\"\n\
                 http: \"127.0.0.1:{monitor_port}\"\n\
                 jetstream {{ store_dir: {node_dir:?}, max_mem: 256M, max_file: 8G, {sync} }}\n\
                 {cluster}\n{}\n",
                options.configuration
            );
            std::fs::write(node_dir.join("nats.conf"), configuration).expect("a configuration");
            let (dir, child) = (node_dir, None);
            nodes.push(NatsNode { name, dir, reached_port, monitor_port, child });
        }
        let mut servers = Self { program: program.clone(), nodes, dir };
        (0..count).for_each(|at| servers.restart(at));
        servers.wait_until_ready();
        servers
    }

    /// Leaves the servers' files where they are when this is dropped. Returns their directory.
    pub(crate) fn keep_files(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    /// Returns the URLs for clients, without who connects.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |node: &NatsNode| format!("nats://127.0.0.1:{}", node.reached_port);
        self.nodes.iter().map(url).collect()
    }

    /// Returns the URL of one server.
    pub(crate) fn url(&self, at: usize) -> String {
        self.urls().swap_remove(at)
    }

    /// Ends a server at once (SIGKILL).
    pub(crate) fn kill(&mut self, at: usize) {
        self.end(at, Signal::KILL);
    }

    /// Ends a server in order (SIGTERM), and waits for its end. One that does not is killed.
    pub(crate) fn terminate(&mut self, at: usize) {
        self.end(at, Signal::TERM);
    }

    /// Makes a server stand still (SIGSTOP).
    pub(crate) fn pause(&self, at: usize) {
        self.signal(at, Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn resume(&self, at: usize) {
        self.signal(at, Signal::CONT);
    }

    /// Starts a server that was ended, with what it has on its disk.
    pub(crate) fn restart(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        assert!(node.child.is_none(), "{} runs", node.name);
        let log = std::fs::File::options().create(true).append(true).open(node.dir.join("log"));
        let log = log.expect("a log");
        let started = Command::new(&self.program.path)
            .arg("-c")
            .arg(node.dir.join("nats.conf"))
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn();
        node.child = Some(started.expect("nats-server starts"));
    }

    /// Starts a server if it was ended.
    pub(crate) fn restart_if_ended(&mut self, at: usize) {
        if self.nodes[at].child.is_none() {
            self.restart(at);
        }
    }

    /// Waits until each running server has found the cluster's leader, and JetStream works.
    ///
    /// # Panics
    ///
    /// If that is not so within 40 s; with the end of a server's log.
    pub(crate) fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        for at in 0..self.nodes.len() {
            if self.nodes[at].child.is_none() {
                continue;
            }
            while !self.is_ready(at) {
                let node = &mut self.nodes[at];
                let ended = node.child.as_mut().and_then(|child| child.try_wait().ok()).flatten();
                if ended.is_some() || Instant::now() > deadline {
                    panic!("{} is not ready (ended: {ended:?}): {}", node.name, node.log_end());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn is_ready(&self, at: usize) -> bool {
        let Some(jetstream) = self.monitor(at, "/jsz") else { return false };
        let leader = jetstream["meta_cluster"]["leader"].as_str().unwrap_or_default();
        let size = jetstream["meta_cluster"]["cluster_size"].as_u64().unwrap_or(0);
        if self.nodes.len() > 1 {
            !leader.is_empty() && size == self.nodes.len() as u64
        } else {
            jetstream["config"].is_object()
        }
    }

    /// Returns which server leads the cluster itself.
    pub(crate) fn cluster_leader(&self) -> Option<usize> {
        (0..self.nodes.len()).find_map(|at| {
            let jetstream = self.monitor(at, "/jsz")?;
            self.named(jetstream["meta_cluster"]["leader"].as_str()?)
        })
    }

    /// Returns which server leads the stream of this name.
    pub(crate) fn stream_leader(&self, stream: &str) -> Option<usize> {
        (0..self.nodes.len()).find_map(|at| {
            let jetstream = self.monitor(at, "/jsz?accounts=true&streams=true")?;
            let accounts = jetstream["account_details"].as_array()?;
            let streams = accounts.iter().filter_map(|account| account["stream_detail"].as_array());
            let found = streams.flatten().find(|found| found["name"] == stream)?;
            self.named(found["cluster"]["leader"].as_str()?)
        })
    }

    /// Returns the bytes that all servers have sent to the clients that are connected now.
    pub(crate) fn sent_to_clients(&self) -> u64 {
        let each = |at| {
            let told = self.monitor(at, "/connz")?;
            let connections = told["connections"].as_array()?.iter();
            Some(connections.filter_map(|connection| connection["out_bytes"].as_u64()).sum::<u64>())
        };
        (0..self.nodes.len()).filter_map(each).sum()
    }

    fn named(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// Asks a server's monitoring port; `None` if it does not answer within a second.
    fn monitor(&self, at: usize, path: &str) -> Option<Value> {
        let node = &self.nodes[at];
        node.child.as_ref()?;
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, node.monitor_port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        write!(socket, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    fn signal(&self, at: usize, signal: Signal) {
        if let Some(child) = &self.nodes[at].child {
            let _may_have_ended = kill_process(Pid::from_child(child), signal);
        }
    }

    fn end(&mut self, at: usize, signal: Signal) {
        self.signal(at, signal);
        let Some(mut child) = self.nodes[at].child.take() else { return };
        let deadline = Instant::now() + END_TIMEOUT;
        while child.try_wait().expect("its state").is_none() {
            if Instant::now() > deadline {
                child.kill().expect("it is killed");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl NatsNode {
    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for NatsServers {
    fn drop(&mut self) {
        (0..self.nodes.len()).for_each(|at| self.kill(at));
    }
}

/// Returns the section of a server's configuration about the others: it listens for them at `port`,
/// and all are reached by each other at the ports `routes`.
fn cluster_of(at: usize, port: u16, routes: &[u16]) -> String {
    if routes.len() == 1 {
        return String::new();
    }
    let others = routes.iter().filter(|route| **route != routes[at]);
    let others: Vec<String> = others.map(|port| format!("nats://127.0.0.1:{port}")).collect();
    format!(
        "cluster {{ name: fleet, listen: \"127.0.0.1:{port}\", \
         advertise: \"127.0.0.1:{}\", routes: [{}] }}",
        routes[at],
        others.join(", ")
    )
}

/// Returns free ports, outside the range from which systems give ports to clients: one of these
/// could otherwise get the port of a server that was ended and starts again.
fn free_ports(count: usize) -> Vec<u16> {
    let mut sockets: Vec<TcpListener> = Vec::new();
    while sockets.len() < count {
        sockets
            .extend(TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(20_000..30_000))));
    }
    sockets.iter().map(|socket| socket.local_addr().expect("its address").port()).collect()
}

/// Returns the path of a file as a NATS configuration has it.
pub(crate) fn quoted(path: &Path) -> String {
    format!("{path:?}")
}
