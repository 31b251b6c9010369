//! A simulation of a fleet: nodes that lead in turn, or believe that they lead, on a simulated
//! stream, with crashes, stops, orderly ends, cuts, delays, and answers that are lost or come
//! twice.
//!
//! The nodes run the real role, writer, chain, form and replicated log. What is simulated is the
//! engine, the disk, the clock, and the broker (`living.rs`).
//!
//! Checked for each seed (`checker.rs`): all nodes apply the same groups in the same order; each
//! acknowledged group is there once; nothing that was told to be not stored is there; no two nodes
//! acknowledge in one term; the chain never breaks; and after the faults, the fleet goes on.
//!
//! `LEFTOFF_SIMULATED_SEEDS=10000 cargo test --lib cluster::simulation` runs 10,000 seeds, and
//! `LEFTOFF_SIMULATED_SEED=17` begins with the seed 17.

mod checker;
mod disk;
mod living;
pub(super) mod world;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::checker::{FleetChecker, Outcome};
use self::disk::{Disk, DiskLog};
use self::living::LivingNode;
use self::world::FleetWorld;
use super::clock::SteadyClock;
use super::samples;
use super::simulated::{SimulatedStream, StreamFaults};
use super::writer::{StreamWriter, WriterConfig};
use tokio_util::sync::CancellationToken;

const NODES: usize = 3;
const LEASE: Duration = ms(300);

/// The time in which faults happen, and the time after them in which the fleet must go on.
const FAULTY: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(5);
const SETTLED: Duration = Duration::from_secs(3);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Faults as they may happen all at once, each now and then.
fn faults() -> StreamFaults {
    StreamFaults {
        lost_requests: 20,
        lost_answers: 30,
        duplicates: 50,
        late_requests: 20,
        refusals: 10,
        absences: 10,
        false_fences: 10,
        stale_reads: 200,
        broken_readers: 20,
        lost_messages: 0,
        delay: ms(5),
        late: ms(1_500),
        patience: ms(100),
        has_no_fence: false,
    }
}

/// A fleet in a world.
struct Fleet {
    seed: u64,
    world: FleetWorld,
    links: Vec<SimulatedStream>,
    disks: Vec<Disk>,
    checker: FleetChecker,
    /// Cancelled when a node is to stop in order.
    stopping: Vec<CancellationToken>,
    starts: u64,
}

impl Fleet {
    fn new(seed: u64, faults: StreamFaults) -> Self {
        let world = FleetWorld::default();
        let link = SimulatedStream::new(seed, faults, Arc::new(world.clone()));
        let links = (0..NODES).map(|_| link.another_link()).collect();
        let disks = (0..NODES).map(|_| Disk::default()).collect();
        let checker = FleetChecker::default();
        let stopping = vec![CancellationToken::new(); NODES];
        let mut fleet = Self { seed, world, links, disks, checker, stopping, starts: 0 };
        (0..NODES).for_each(|node| fleet.start(node));
        fleet
    }

    /// Starts a node, which is down, or has been told to stop.
    fn start(&mut self, number: usize) {
        self.world.kill(number);
        self.starts += 1;
        let (world, checker) = (self.world.clone(), self.checker.clone());
        let (incarnation, seed) = (self.starts, self.seed.wrapping_mul(1_000) + self.starts);
        let local =
            Arc::new(DiskLog::open(number, self.disks[number].clone(), checker.clone(), seed));
        let clock = Arc::new(world.clone());
        let link = self.links[number].clone();
        let node = samples::node(&format!("n{number}"), incarnation);
        let mut config = WriterConfig::new(node.clone(), LEASE);
        config.part_bytes = 150;
        let (writer, task) = StreamWriter::new(Arc::new(link.clone()), clock, config);
        let stopping = CancellationToken::new();
        self.stopping[number] = stopping.clone();
        let living =
            LivingNode { number, node, world, link, checker, local, writer, stopping, seed };
        self.world.begin(number, Box::pin(task));
        self.world.begin(number, Box::pin(living.live()));
    }

    /// Lets one fault happen.
    fn fault(&mut self, random: &mut StdRng, restarts: &mut Vec<(Duration, usize)>) {
        let node = random.random_range(0..NODES);
        let is_down = restarts.iter().any(|(_, down)| *down == node);
        match random.random_range(0..10) {
            0 if !is_down => {
                self.stopping[node].cancel();
                restarts.push((self.world.now() + ms(random.random_range(1..1_500)), node));
            }
            0..5 if !is_down => {
                self.world.kill(node);
                match random.random_range(0..10) {
                    0 => self.disks[node].wipe(),
                    1..6 => self.disks[node].lose_power(),
                    _ => {}
                }
                restarts.push((self.world.now() + ms(random.random_range(1..800)), node));
            }
            0..7 => self.world.stop(node, ms(random.random_range(50..1_500))),
            7..9 => self.links[node].cut(ms(random.random_range(50..1_000))),
            _ => {
                let time = ms(random.random_range(50..800));
                self.links.iter().for_each(|link| link.cut(time));
            }
        }
    }
}

/// Runs the simulation of one seed.
fn run(seed: u64, faults: StreamFaults) -> Result<Outcome, String> {
    let mut fleet = Fleet::new(seed, faults);
    let mut random = StdRng::seed_from_u64(seed);
    let mut restarts: Vec<(Duration, usize)> = Vec::new();
    let mut next_fault = Duration::ZERO;
    while fleet.world.now() < FAULTY {
        next_fault = next_fault.max(fleet.world.now()) + ms(random.random_range(20..500));
        while let Some(index) = restarts.iter().position(|(time, _)| *time <= next_fault) {
            let (time, node) = restarts.swap_remove(index);
            fleet.world.run_until(time.max(fleet.world.now()));
            fleet.start(node);
        }
        fleet.world.run_until(next_fault);
        fleet.fault(&mut random, &mut restarts);
    }
    let calm =
        StreamFaults { delay: faults.delay, patience: faults.patience, ..StreamFaults::default() };
    fleet.links[0].set_faults(StreamFaults { has_no_fence: faults.has_no_fence, ..calm });
    for (time, node) in restarts {
        fleet.world.run_until(time.max(fleet.world.now()));
        fleet.start(node);
    }
    let before = fleet.checker.acknowledged();
    fleet.world.run_until(fleet.world.now() + CALM);
    if fleet.checker.acknowledged() == before {
        fleet.checker.violation("nobody leads after the faults".to_owned());
    }
    fleet.checker.end();
    fleet.world.run_until(fleet.world.now() + SETTLED);
    let applied: Vec<usize> = fleet.disks.iter().map(Disk::count).collect();
    (0..NODES).for_each(|node| fleet.world.kill(node));
    fleet.checker.finish(&applied)
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_fails_all_nodes_hold_the_same_and_nobody_is_told_what_is_not_so() {
    let first = number_from("LEFTOFF_SIMULATED_SEED", 0);
    let count = number_from("LEFTOFF_SIMULATED_SEEDS", 100);
    let (mut acknowledged, mut refused, mut unknown, mut terms) = (0, 0, 0, 0);
    for seed in first..first + count {
        let outcome = run(seed, faults()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        acknowledged += outcome.acknowledged;
        refused += outcome.refused;
        unknown += outcome.unknown;
        terms += outcome.terms;
    }
    println!(
        "{count} seeds: {acknowledged} groups acknowledged, {refused} refused, {unknown} unknown, \
         in {terms} terms"
    );
    // The simulation is worth something only if all of this happens in it.
    let count = count as usize;
    assert!(acknowledged > 20 * count && terms > 3 * count && unknown > 0 && refused > 0);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(3, faults()), run(3, faults()));
}

/// Goal: the checks find what they are there for.
#[test]
fn without_the_fence_the_checker_finds_that_nodes_differ() {
    let without = StreamFaults { has_no_fence: true, ..faults() };
    let found: Vec<String> = (0..10).filter_map(|seed| run(seed, without).err()).collect();
    assert!(found.len() >= 9, "{found:#?}");
    assert!(found.iter().any(|problem| problem.contains("the stream breaks")), "{found:#?}");
}
