//! A fleet that is broken on purpose: three NATS servers and three nodes, clients that publish and
//! read and move between the nodes, faults by a seed, and a checker that knows what was
//! acknowledged.
//!
//! ```text
//! fault.rs  broken_fleet.rs  network.rs  clock.rs   what happens, and to whom
//! clients.rs  publishers.rs  readers.rs            who notices
//! held.rs  records.rs  checker.rs                  what must be so afterwards
//! ```
//!
//! `LEFTOFF_FLEET_SEEDS` says how many seeds are run, `LEFTOFF_FLEET_SEED` which one is the first.
//! NATS before 2.10 loses what it has acknowledged when its servers are killed; with such a one its
//! servers are left alone.

mod broken_fleet;
mod checker;
pub(super) mod clients;
mod clock;
mod fault;
mod held;
mod network;
mod publishers;
mod readers;
mod records;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::broken_fleet::BrokenFleet;
use self::checker::check;
use self::clients::Clients;
use self::fault::FleetFault;
use self::held::held;
use self::publishers::PUBLISHERS;
use self::records::FleetRecords;
use super::nats_servers::NatsProgram;

/// The faults of one seed.
const FAULTS: usize = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Goal: whatever of a fleet dies, stands still, is wiped, cut off, full or wrong about the time,
/// each acknowledged event is there once, at the same place on all nodes and in the stream; readers
/// miss nothing and get nothing twice, whichever node they go on at; all nodes hold the same; and
/// one node has led in each term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_broken_loses_nothing() {
    let Some(program) = NatsProgram::all().pop() else { return };
    let first = number("LEFTOFF_FLEET_SEED").unwrap_or_else(rand::random);
    for seed in (0..number("LEFTOFF_FLEET_SEEDS").unwrap_or(1)).map(|at| first.wrapping_add(at)) {
        let began = Instant::now();
        eprintln!("-- LEFTOFF_FLEET_SEED={seed}, NATS {}", program.version);
        broken(&program, seed).await;
        eprintln!("   clean after {:.1?}", began.elapsed());
    }
}

async fn broken(program: &NatsProgram, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = BrokenFleet::start(program).await;
    let clients = Clients::start(&fleet.addresses(), &mut random);
    pause(&mut random, 300..1_000).await;
    for _ in 0..FAULTS {
        let fault = FleetFault::choose(&mut random, fleet.spares_nats());
        eprintln!("   {fault:?}");
        fleet.suffer(fault, &mut random).await;
        pause(&mut random, 100..1_500).await;
    }
    fleet.heal().await;
    let told = clients.finish().await;
    let held = held(&fleet.addresses(), PUBLISHERS).await;
    let records = FleetRecords::read(&fleet.servers()).await;
    check(&told, &held, &records);
    let acked: usize = told.publishers.iter().map(|publisher| publisher.acked.len()).sum();
    let longest = told.longest_ack();
    let read: usize = told.readers.iter().map(|reader| reader.events.len()).sum();
    let FleetRecords { groups, terms, .. } = records;
    eprintln!("   {acked} acknowledged in {groups} groups and {terms} terms, {read} read");
    eprintln!("   the longest acknowledgement {longest:.1?}");
}

async fn pause(random: &mut StdRng, ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(ms))).await;
}
