//! A fleet that is broken on purpose: three NATS servers and three nodes, clients that publish and
//! read and move between the nodes, faults by a seed, one or two at a time, and a checker that
//! knows what was acknowledged.
//!
//! ```text
//! fault.rs  damage.rs  network.rs  clock.rs   what happens, and to whom
//! broken_fleet.rs  broken_node.rs             who is broken
//! clients.rs  publishers.rs  readers.rs       who notices
//! held.rs  records.rs  checker.rs             what must be so afterwards
//! ```
//!
//! `LEFTOFF_FLEET_SEEDS` says how many seeds are run, 2 by default; `LEFTOFF_FLEET_SEED` says which
//! one is the first, and the next ones follow it. Without it the first one is known to be clean,
//! the others are random, and the older one of two NATS servers gets a random seed as well. A seed
//! decides what happens; the machine decides how it ends.
//!
//! NATS before 2.10 loses what it has acknowledged when its servers are killed; with such a one its
//! servers are left alone.

mod broken_fleet;
mod broken_node;
mod checker;
pub(super) mod clients;
mod clock;
mod damage;
mod fault;
mod held;
mod network;
mod publishers;
mod readers;
mod records;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use self::broken_fleet::BrokenFleet;
use self::checker::{check, check_hashes};
use self::clients::Clients;
use self::fault::FleetFault;
use self::held::held;
use self::publishers::PUBLISHERS;
use self::records::FleetRecords;
use super::nats_servers::NatsProgram;

/// The times at which something happens in one seed.
const STEPS: usize = 4;

/// A seed that is known to be clean. Everything is killed while a node is cut off from the engine,
/// servers stand still, one of them while it is parted from the others, and all nodes are killed
/// while one is away already.
const KNOWN_SEED: u64 = 1004;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Returns the seeds, each with the server that it is run with.
fn runs(programs: &[NatsProgram]) -> Vec<(&NatsProgram, u64)> {
    let [older @ .., newest] = programs else { return Vec::new() };
    let count = number("LEFTOFF_FLEET_SEEDS").unwrap_or(2);
    if let Some(first) = number("LEFTOFF_FLEET_SEED") {
        return (0..count).map(|at| (newest, first.wrapping_add(at))).collect();
    }
    let with_newest = (0..count).map(|at| if at == 0 { KNOWN_SEED } else { rand::random() });
    let with_newest = with_newest.map(|seed| (newest, seed));
    with_newest.chain(older.iter().map(|program| (program, rand::random()))).collect()
}

/// Goal: whatever of a fleet dies, stands still, is wiped, cut off, full or wrong about the time,
/// also two of these at once, each acknowledged event is there once, at the same place on all nodes
/// and in the stream; readers miss nothing and get nothing twice, whichever node they go on at; all
/// nodes hold the same; and one node has led in each term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_broken_loses_nothing() {
    for (program, seed) in runs(&NatsProgram::all()) {
        let began = Instant::now();
        eprintln!("-- LEFTOFF_FLEET_SEED={seed}, NATS {}", program.version);
        broken(program, seed).await;
        eprintln!("   clean after {:.1?}", began.elapsed());
    }
}

async fn broken(program: &NatsProgram, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = BrokenFleet::start(program).await;
    let clients = Clients::start(&fleet.addresses(), &mut random);
    pause(&mut random, 300..1_000).await;
    for _ in 0..STEPS {
        step(&mut fleet, &mut random).await;
        pause(&mut random, 100..1_500).await;
        fleet.revive().await;
    }
    fleet.heal().await;
    let told = clients.finish().await;
    let held = held(&fleet.addresses(), PUBLISHERS).await;
    let records = FleetRecords::read(&fleet.servers()).await;
    check(&told, &held, &records);
    check_hashes(&fleet.addresses(), &held[0]).await;
    let acked: usize = told.publishers.iter().map(|publisher| publisher.acked.len()).sum();
    let longest = told.longest_ack();
    let read: usize = told.readers.iter().map(|reader| reader.events.len()).sum();
    let FleetRecords { groups, terms, .. } = records;
    eprintln!("   {acked} acknowledged in {groups} groups and {terms} terms, {read} read");
    eprintln!("   the longest acknowledgement {longest:.1?}");
}

/// Lets a fault happen, and maybe a second one while the first is in effect. Each is mended when
/// its own time is over.
async fn step(fleet: &mut BrokenFleet, random: &mut StdRng) {
    let fault = FleetFault::choose(random, fleet.spares_nats());
    let first = fleet.begin(fault, None, random).await;
    let mut begun = Vec::new();
    if random.random() {
        let left_ms = first.until.saturating_duration_since(Instant::now()).as_millis() as u64;
        pause(random, 0..left_ms.max(1)).await;
        let second = fault.choose_beside(random, fleet.spares_nats());
        begun.push(fleet.begin(second, Some(&first), random).await);
    }
    begun.push(first);
    begun.sort_by_key(|fault| fault.until);
    for fault in begun {
        tokio::time::sleep_until(fault.until).await;
        fleet.mend(fault).await;
    }
}

async fn pause(random: &mut StdRng, ms: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(ms))).await;
}
