//! A soak of readers: they are cut at random bytes, and resume with the last cursor that they got,
//! over another transport. They miss no event without being told of a gap.
//!
//! ```text
//! publishers ──▶ broker (real binary) ──▶ proxy that cuts ──▶ readers, one after another transport
//!                  ▲ retention, compaction, purges, kill -9
//! ```
//!
//! Goal: whatever happens to connections and to the broker, each reader gets each event of its
//! selection once and in order, or is told of a gap.
//!
//! Method: publishers record all acknowledged events in a ledger, and repeat each publish with its
//! id until it is acknowledged. At the end, each cycle of a reader, from one cursor to the next, is
//! compared with the ledger. The variable `LEFTOFF_SEED` repeats the choices of a run, and
//! `LEFTOFF_SOAK_SECONDS` sets its duration instead of 20 seconds.

mod ledger;
mod proxy;
mod transport;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use self::ledger::{Cycle, Ledger, Scope};
use crate::common::{Process, seed, send, soon, to};
use crate::ways::WAYS;

/// The topics, each with its settings.
const TOPICS: [(&str, &str); 4] = [
    ("soak.kept", "{}"),
    ("soak.short", "{\"max_events\":40}"),
    ("soak.purged", "{}"),
    ("keyed.compacted", "{\"compact\":true,\"tombstone_grace_ms\":600000}"),
];

/// A topic that loses events by compaction, and one that loses them by purges.
const COMPACTED: &str = "keyed.compacted";
const PURGED: &str = "soak.purged";

const PUBLISHERS: u64 = 4;
const READERS: u64 = 12;
const KEYS: u64 = 9;

/// Settings with small blocks and constant maintenance, so that each cycle meets their edges.
const EAGER: [&str; 6] = [
    "--set",
    "maintenance.interval_ms=20",
    "--set",
    "broker.max_block_bytes=1024",
    "--set",
    "follow.heartbeat_ms=100",
];

fn seconds() -> u64 {
    std::env::var("LEFTOFF_SOAK_SECONDS").map_or(20, |seconds| seconds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_are_cut_anywhere_miss_nothing_that_they_are_not_told() {
    let seed = seed();
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &EAGER);
    let address = process.address;
    for (topic, settings) in TOPICS {
        let put = to(address, "PUT", &format!("/v1/topics/{topic}"));
        let put = put.header("content-type", "application/json");
        assert!(send(put, settings).await.status.is_success(), "{topic}");
    }
    let proxy = proxy::start(address, seed).await;
    let (ledger, is_over) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
    let mut publishers = JoinSet::new();
    for number in 0..PUBLISHERS {
        let (ledger, is_over) = (ledger.clone(), is_over.clone());
        publishers.spawn(publish(address, number, seed, ledger, is_over));
    }
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        readers.spawn(read(proxy, number, seed ^ number, is_over.clone()));
    }
    let disturbing = tokio::spawn(purge(address, is_over.clone()));

    let end = Instant::now() + Duration::from_secs(seconds());
    let mut kills = 0;
    while Instant::now() < end {
        let rest = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(rest.min(Duration::from_secs(4))).await;
        process.kill();
        kills += 1;
        process = tokio::task::spawn_blocking({
            let directory = directory.path().to_owned();
            move || Process::serve_at(address, &directory, &EAGER)
        })
        .await
        .unwrap();
    }
    is_over.store(true, Ordering::SeqCst);
    soon(async {
        while let Some(published) = publishers.join_next().await {
            published.unwrap();
        }
        disturbing.await.unwrap();
    })
    .await;
    let mut cycles = Vec::new();
    soon(async {
        while let Some(read) = readers.join_next().await {
            cycles.extend(read.unwrap());
        }
    })
    .await;
    drop(process);

    let checked = ledger.check(&cycles);
    println!(
        "{} cycles, {} cut, {kills} kills, {} events published, {} delivered, {} gaps told, {} \
         violations",
        cycles.len(),
        cycles.iter().filter(|cycle| cycle.is_cut).count(),
        ledger.len(),
        checked.delivered,
        checked.gaps,
        checked.violations.len()
    );
    let first = checked.violations.iter().take(5).collect::<Vec<_>>();
    assert!(first.is_empty(), "LEFTOFF_SEED={seed}: {first:#?}");
    for (way, is_one) in WAYS {
        let of = |cycle: &&Cycle| cycle.way == way && cycle.scope.is_of_many != is_one;
        let count = cycles.iter().filter(of).filter(|cycle| !cycle.events.is_empty()).count();
        assert!(count > 2, "{way:?}, of one topic: {is_one}: too few cycles");
    }
    assert!(checked.gaps > 0 && checked.delivered > 1_000, "nothing happened: {checked:?}");
}

/// Publishes to random topics, each event with the same id until it is acknowledged.
async fn publish(
    address: SocketAddr,
    publisher: u64,
    seed: u64,
    ledger: Arc<Ledger>,
    is_over: Arc<AtomicBool>,
) {
    let mut random = StdRng::seed_from_u64(seed ^ (publisher << 32));
    let client = ledger::Publisher::new(address);
    for number in 0_u64.. {
        if is_over.load(Ordering::SeqCst) {
            return;
        }
        let (topic, _) = TOPICS[random.random_range(0..TOPICS.len())];
        let event = ledger::Event {
            topic: topic.to_owned(),
            key: format!("k{}", random.random_range(0..KEYS)),
            event_type: if random.random_bool(0.5) { "even" } else { "odd" }.to_owned(),
            payload: format!("{publisher}/{number}/{}", "x".repeat(random.random_range(0..200))),
        };
        let id = format!("{publisher}-{number}");
        let (sequence, position) = client.publish(&id, &event).await;
        ledger.note(sequence, position, event);
    }
}

/// Purges the older half of a topic again and again.
async fn purge(address: SocketAddr, is_over: Arc<AtomicBool>) {
    let client = ledger::Publisher::new(address);
    while !is_over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(60)).await;
        client.purge_half(PURGED).await;
    }
}

/// Reads a selection in random ways, one after another, until the end. Returns all cycles.
async fn read(proxy: SocketAddr, number: u64, seed: u64, is_over: Arc<AtomicBool>) -> Vec<Cycle> {
    let mut random = StdRng::seed_from_u64(seed);
    let scope = match number % 6 {
        0 => Scope::one("soak.kept"),
        1 => Scope::one("soak.short"),
        2 => Scope::one(COMPACTED),
        3 => Scope::many(&["soak.*"]),
        4 => Scope::many(&["soak.kept", "keyed.>"]).of_type("even"),
        _ => Scope::many(&[">"]),
    };
    let scope = if number >= READERS / 2 { scope.of_type("odd") } else { scope };
    let ways: Vec<_> = WAYS.into_iter().filter(|(_, one)| *one != scope.is_of_many).collect();
    let mut cycles: Vec<Cycle> = Vec::new();
    let mut cursor = None;
    while !is_over.load(Ordering::SeqCst) {
        let (way, _) = ways[random.random_range(0..ways.len())];
        let Some(cycle) = transport::cycle(way, proxy, &scope, cursor.clone()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await; // The broker is down.
            continue;
        };
        cursor = cycle.last.clone().or(cursor);
        cycles.push(cycle);
        if random.random_bool(0.1) {
            // This may be long enough to fall behind the events that a topic keeps.
            let away_ms = random.random_range(200..2_000);
            tokio::time::sleep(Duration::from_millis(away_ms)).await;
        }
    }
    cycles
}
