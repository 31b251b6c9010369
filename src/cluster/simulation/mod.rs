//! A simulation of a fleet: nodes that lead in turn, or believe that they lead, on a simulated
//! stream, with crashes, stops, cuts, delays, and answers that are lost or come twice.
//!
//! The nodes run the real writer, chain, form and replicated log. What is simulated is the engine,
//! the disk, the clock, and the task that plays a node's role.
//!
//! Checked for each seed (`checker.rs`): all nodes apply the same groups in the same order; each
//! acknowledged group is there once; nothing that was told to be not stored is there; no two nodes
//! acknowledge in one term; the chain never breaks; and after the faults, the fleet goes on.
//!
//! `LEFTOFF_SIMULATED_SEEDS=10000 cargo test --lib cluster::simulation` runs 10,000 seeds, and
//! `LEFTOFF_SIMULATED_SEED=17` begins with the seed 17.

mod checker;
mod disk;
mod world;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::checker::{FleetChecker, Outcome};
use self::disk::{Disk, DiskLog};
use self::world::FleetWorld;
use super::chain::{Assembler, ChainBreak, StreamPlace, TakenRecord};
use super::clock::{SteadyClock, until};
use super::replicated_log::ReplicatedLog;
use super::samples::{appending, topic};
use super::simulated::{SimulatedStream, StreamFaults};
use super::stream::*;
use super::writer::{Leading, StreamWriter, WriterConfig};
use crate::cursor::Epoch;
use crate::log::{Group, Log};

const NODES: usize = 3;
const LEASE_MS: u64 = 300;
const EPOCH: Epoch = Epoch::new(7);

/// The time in which faults happen, and the time after them in which the fleet must go on.
const FAULTY: Duration = Duration::from_secs(4);
const CALM: Duration = Duration::from_secs(5);
const SETTLED: Duration = Duration::from_secs(3);

fn ms(ms: u64) -> Duration {
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
        false_fences: 10,
        stale_reads: 200,
        broken_readers: 20,
        delay: ms(5),
        late: ms(1_500),
        patience: ms(100),
        has_no_fence: false,
    }
}

/// A node while it runs.
struct Running {
    number: usize,
    incarnation: u64,
    world: FleetWorld,
    link: SimulatedStream,
    checker: FleetChecker,
    local: Arc<DiskLog>,
    log: ReplicatedLog,
    writer: StreamWriter,
    random: StdRng,
    /// The last term that this node has led.
    led: u64,
}

impl Running {
    async fn sleep(&self, time: Duration) {
        self.world.sleep_until(self.world.now() + time).await;
    }

    async fn live(mut self) {
        loop {
            match self.follow().await {
                Ok(term) => self.lead(term).await,
                Err(broken) => {
                    return self.checker.violation(format!("node {}: {broken}", self.number));
                }
            }
        }
    }

    /// Follows the stream until this node leads. Returns the term.
    async fn follow(&mut self) -> Result<u64, ChainBreak> {
        loop {
            if let Some(term) = self.read_on().await? {
                return Ok(term);
            }
            self.sleep(ms(20)).await;
        }
    }

    /// Reads on after the last applied group, until this node leads; `None` if reading ends before.
    async fn read_on(&mut self) -> Result<Option<u64>, ChainBreak> {
        let applied = self.local.applied().expect("memory does not fail");
        let mut assembler = Assembler::after(applied.map_or(StreamPlace::START, StreamPlace::from));
        let Ok(mut reader) = self.link.read(assembler.place().stream.next()).await else {
            return Ok(None);
        };
        loop {
            let lease = ms(self.random.random_range(LEASE_MS..2 * LEASE_MS));
            let record = until(&self.world, self.world.now() + lease, reader.next()).await;
            let (at, record) = match record {
                Some(Ok(read)) => read,
                Some(Err(_)) => return Ok(None),
                None => {
                    self.announce(assembler.place()).await;
                    continue;
                }
            };
            match assembler.take(at, &record)? {
                TakenRecord::Group(group) => {
                    let applied = Some(assembler.place().into());
                    if self.log.commit(&Group { applied, ..*group }).is_err() {
                        return Ok(None);
                    }
                }
                TakenRecord::Announced { incarnation, .. } => {
                    let place = assembler.place();
                    if incarnation == self.incarnation && place.term > self.led {
                        self.led = place.term;
                        self.writer.lead(place, assembler.last_group()).await;
                        return Ok(Some(place.term));
                    }
                }
                _ => {}
            }
        }
    }

    /// Wants to lead. Whether it does, the stream says.
    async fn announce(&self, place: StreamPlace) {
        let _outcome = match place == StreamPlace::START {
            true => self.writer.found(EPOCH).await,
            false => self.writer.announce(place, EPOCH).await,
        };
    }

    /// Publishes until this node leads no longer.
    async fn lead(&mut self, term: u64) {
        let leading = self.writer.leading();
        loop {
            let pause = ms(self.random.random_range(2..80));
            self.sleep(pause).await;
            if *leading.borrow() != Leading::Yes(term) {
                return;
            }
            let Some(id) = self.checker.next_id() else { continue };
            let group = self.draft(id);
            let outcome = match self.log.to_decide(&group) {
                Ok(to_decide) => self.log.settle(&group, self.writer.decide(to_decide).await),
                Err(error) => Err(error),
            };
            self.checker.told(self.number, term, id, &outcome);
        }
    }

    /// Returns a group as a committer makes it from the state of its log, in one part or several.
    fn draft(&mut self, id: u64) -> Group {
        let topics = self.local.topics().expect("memory does not fail");
        let topic = topics.into_iter().next().unwrap_or_else(|| topic(1));
        let mut payload = id.to_be_bytes().to_vec();
        payload.resize(8 + self.random.random_range(0..300), 7);
        appending(&topic, topic.extent.tail.get(), topic.extent.appended_bytes, &payload)
    }
}

/// A fleet in a world.
struct Fleet {
    seed: u64,
    world: FleetWorld,
    links: Vec<SimulatedStream>,
    disks: Vec<Disk>,
    checker: FleetChecker,
    starts: u64,
}

impl Fleet {
    fn new(seed: u64, faults: StreamFaults) -> Self {
        let world = FleetWorld::default();
        let link = SimulatedStream::new(seed, faults, Arc::new(world.clone()));
        let links = (0..NODES).map(|_| link.another_link()).collect();
        let disks = (0..NODES).map(|_| Disk::default()).collect();
        let mut fleet =
            Self { seed, world, links, disks, checker: FleetChecker::default(), starts: 0 };
        (0..NODES).for_each(|node| fleet.start(node));
        fleet
    }

    fn start(&mut self, number: usize) {
        self.starts += 1;
        let (world, checker) = (self.world.clone(), self.checker.clone());
        let (incarnation, seed) = (self.starts, self.seed.wrapping_mul(1_000) + self.starts);
        let local =
            Arc::new(DiskLog::open(number, self.disks[number].clone(), checker.clone(), seed));
        let clock = Arc::new(world.clone());
        let link = self.links[number].clone();
        let mut config = WriterConfig::new(format!("n{number}"), incarnation, ms(LEASE_MS));
        config.part_bytes = 150;
        let (writer, task) = StreamWriter::new(Arc::new(link.clone()), clock.clone(), config);
        let log = ReplicatedLog::new(local.clone(), EPOCH, writer.clone(), clock).expect("a log");
        let random = StdRng::seed_from_u64(seed);
        let running = Running {
            number,
            incarnation,
            world,
            link,
            checker,
            local,
            log,
            writer,
            random,
            led: 0,
        };
        self.world.begin(number, Box::pin(task));
        self.world.begin(number, Box::pin(running.live()));
    }

    /// Lets one fault happen.
    fn fault(&mut self, random: &mut StdRng, restarts: &mut Vec<(Duration, usize)>) {
        let node = random.random_range(0..NODES);
        let is_down = restarts.iter().any(|(_, down)| *down == node);
        match random.random_range(0..10) {
            0..4 if !is_down => {
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
