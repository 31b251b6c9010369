//! What does a fleet of three nodes over three NATS servers cost beside one broker alone, and what
//! does JetStream do by itself? All run on this machine; NATS syncs before it acknowledges, where
//! it can, and keeps three replicas. The real binary is measured: publishes at the node that leads
//! and at one that forwards, how far a node is behind the leader, and how fast it serves readers.
//! `cargo bench --bench fleet` measures, and `cargo test --benches` runs it tiny. The program is
//! `nats-server` of the PATH, or `LEFTOFF_NATS_SERVER`; without one the bench says that it is
//! skipped.
//!
//! A machine's speed changes from minute to minute, so the shapes take turns, and medians are
//! reported.

#[path = "../tests/suite/fleet/nats_servers.rs"]
#[allow(dead_code, reason = "tests do more with them")]
mod nats_servers;
mod replicated;
mod served;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nats_servers::{NatsOptions, NatsProgram, NatsServers};
use replicated::jetstream::Stream;
use replicated::lag;
use replicated::nodes::Nodes;
use serde_json::Value;
use served::Served;

/// Clients that publish, each with requests of some events.
struct Shape {
    name: &'static str,
    clients: usize,
    batch: usize,
    in_flight: usize,
    /// The least events per second of a fleet.
    target: f64,
    /// The least that a fleet does, as a multiple of what JetStream does.
    times_jetstream: f64,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "8 streams x 100 events",
        clients: 8,
        batch: 100,
        in_flight: 4,
        target: 50_000.0,
        times_jetstream: 10.0,
    },
    Shape {
        name: "8 streams x 100 events, 1 in flight",
        clients: 8,
        batch: 100,
        in_flight: 1,
        target: 50_000.0,
        times_jetstream: 10.0,
    },
    Shape {
        name: "64 streams x 1 event",
        clients: 64,
        batch: 1,
        in_flight: 1,
        target: 0.0,
        times_jetstream: 2.0,
    },
];

/// The bytes of each event's payload.
const SIZE: usize = 256;

/// Messages in flight of a publisher that keeps its order by itself; more are hardly faster.
const FENCED_IN_FLIGHT: usize = 16;

/// Events per second, while it is measured how far a node is behind.
const LAG_RATE: u64 = 10_000;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let Some(program) = NatsProgram::all().pop() else { return };
    let (rounds, seconds) = if measuring { (5, 4) } else { (1, 1) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = NatsOptions { sync_always: true, ..NatsOptions::default() };
    let servers = NatsServers::start(&program, 3, &options);
    let syncs = if program.can_sync_always() { "syncs always" } else { "does not sync" };
    println!("fleet over NATS {}, three replicas, which {syncs}", program.version);

    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let alone = Served::start(&directory.path().join("alone"));
    let nodes = Nodes::start(directory.path(), &servers.urls());
    let [leader, follower] = nodes.leader_and_follower();
    let jetstream = runtime.block_on(Stream::create(&servers.urls()));
    for shape in &SHAPES {
        let mut runs: [Vec<Run>; 6] = Default::default();
        for _ in 0..rounds {
            runs[0].push(publish(alone.address, shape, seconds));
            runs[1].push(publish(leader.address, shape, seconds));
            runs[2].push(publish(follower.address, shape, seconds));
            let time = Duration::from_secs(seconds);
            for (runs, in_flight) in runs[3..5].iter_mut().zip([1, shape.in_flight * shape.batch]) {
                let publishing = jetstream.publish(shape.clients, in_flight, SIZE, time);
                runs.push(runtime.block_on(publishing));
            }
            let publishing = jetstream.publish_fenced(FENCED_IN_FLIGHT, SIZE, time);
            runs[5].push(runtime.block_on(publishing));
        }
        report(shape, &runs);
    }

    // A group of events is a record of the stream, and the leader writes one after the other.
    for size in [256, 16 << 10, 64 << 10, 512 << 10] {
        let time = Duration::from_secs(seconds);
        let run = runtime.block_on(jetstream.publish(1, 1, size, time));
        println!("fleet a record of {size} bytes: p50 {:.2} ms in JetStream", run.p50_ms);
    }
    let lag =
        runtime.block_on(lag::measure(leader.address, follower.address, LAG_RATE, seconds * 2));
    println!(
        "fleet a node is behind the leader at {LAG_RATE} events/s by p50 {:.1} ms, p99 {:.1} ms \
         (target 20)",
        lag.p50_ms, lag.p99_ms
    );
    let clients = if measuring { 1_000 } else { 10 };
    for (name, served) in [("one broker alone", &alone), ("a node", follower)] {
        fan_out(name, served, clients, seconds * 2, directory.path());
    }
}

/// What one run of a shape measured.
struct Run {
    events_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn publish(address: SocketAddr, shape: &Shape, seconds: u64) -> Run {
    let number = |number: usize| number.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_leftoff"))
        .args(["bench", "publish", "--json", "--size", &number(SIZE)])
        .args(["--clients", &number(shape.clients), "--batch", &number(shape.batch)])
        .args(["--in-flight", &number(shape.in_flight), "--seconds", &seconds.to_string()])
        .args(["--server", &format!("http://{address}")])
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_slice(&output.stdout).expect("one object of JSON");
    let figure = |name: &str| measured[name].as_f64().expect("a figure");
    Run {
        events_per_second: figure("events_per_second"),
        p50_ms: figure("p50_ms"),
        p99_ms: figure("p99_ms"),
    }
}

fn report(shape: &Shape, runs: &[Vec<Run>; 6]) {
    let [alone, leader, forwarded, jetstream, pipelined, fenced] = runs;
    let ratio = |runs: &[Run], of: &[Run]| {
        // Each run has a partner at almost the same time.
        let pairs = runs.iter().zip(of);
        median(pairs.map(|(run, of)| run.events_per_second / of.events_per_second))
    };
    for (name, runs) in [
        ("one broker alone", alone),
        ("at the leader", leader),
        ("at another node", forwarded),
        ("JetStream itself, each client waits for each message", jetstream),
        ("JetStream itself, as many events in flight", pipelined),
        ("JetStream itself, one publisher with a fence", fenced),
    ] {
        println!(
            "fleet {}: {name} {:>9.0} events/s, p50 {:.2} ms, p99 {:.2} ms",
            shape.name,
            median(runs.iter().map(|run| run.events_per_second)),
            median(runs.iter().map(|run| run.p50_ms)),
            median(runs.iter().map(|run| run.p99_ms)),
        );
    }
    println!(
        "fleet {}: at the leader {:.1} times JetStream whose clients wait (target {}), {:.1} times \
         with as many in flight, {:.1} times one publisher with a fence, {:.2} of one broker \
         alone; target {} events/s, p50 10 ms",
        shape.name,
        ratio(leader, jetstream),
        shape.times_jetstream,
        ratio(leader, pipelined),
        ratio(leader, fenced),
        ratio(leader, alone),
        shape.target,
    );
}

/// Measures how fast `clients` readers get 90 events a second.
fn fan_out(name: &str, served: &Served, clients: u64, seconds: u64, dir: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_leftoff"))
        .args(["bench", "fanout", "--json", "--rate", "90", "--pid", &served.id().to_string()])
        .args(["--clients", &clients.to_string(), "--seconds", &seconds.to_string()])
        .args(["--server", &format!("http://{}", served.address)])
        .current_dir(dir)
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_slice(&output.stdout).expect("one object of JSON");
    println!(
        "fleet {clients} readers, 90 events/s, {name}: {} deliveries/s, p50 {} ms, p99 {} ms, \
         {} µs of its time for each",
        measured["deliveries_per_second"],
        measured["p50_ms"],
        measured["p99_ms"],
        measured["server_cpu_us_per_delivery"],
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
