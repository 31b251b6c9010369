//! Tests of the replicated log: it keeps the contract of logs, and says what is so.

use std::error::Error as _;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::*;
use crate::cluster::chain::{Assembler, TakenRecord};
use crate::cluster::clock::RuntimeClock;
use crate::cluster::samples::{appending, content, node, topic};
use crate::cluster::simulated::{SimulatedStream, StreamFaults};
use crate::cluster::simulation::world::FleetWorld;
use crate::cluster::stream::{Stream, StreamSequence};
use crate::cluster::writer::{Leading, WriterConfig};
use crate::log::contract::tests::CONTRACT;
use crate::log::{Fault, FaultyLog, LogConfig, MemoryLog, SledLog};

const PATIENCE: Duration = Duration::from_millis(50);

const EPOCH: Epoch = Epoch::new(7);

fn config(lease: Duration) -> WriterConfig {
    WriterConfig::new(node("n1", 1), lease)
}

/// A node alone in its fleet, whose writer runs on a runtime of its own.
struct Lone {
    runtime: Runtime,
    stream: SimulatedStream,
    writer: StreamWriter,
    log: ReplicatedLog,
}

impl Lone {
    /// Returns a node that does not lead yet.
    fn new(local: Arc<dyn Log>, config: WriterConfig) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let clock = Arc::new(RuntimeClock::default());
        let faults = StreamFaults { patience: PATIENCE, ..StreamFaults::default() };
        let stream = SimulatedStream::new(1, faults, clock.clone());
        let (writer, task) = StreamWriter::new(Arc::new(stream.clone()), clock.clone(), config);
        runtime.spawn(task);
        let log = ReplicatedLog::new(local, EPOCH, writer.clone(), clock).unwrap();
        Self { runtime, stream, writer, log }
    }

    /// Returns a node that leads, with a lease that does not end in a test.
    fn leading(local: Arc<dyn Log>) -> Self {
        let lone = Self::new(local, config(Duration::from_secs(60)));
        lone.begin();
        lone
    }

    /// Founds the fleet, announces the node, and leads.
    fn begin(&self) {
        let announced = self.announce();
        let applied = announced.applied();
        self.log.commit(&Group { applied, ..Group::default() }).unwrap();
        self.runtime.block_on(self.writer.lead(announced));
    }

    fn announce(&self) -> StreamPlace {
        self.runtime.block_on(async {
            let founded = self.writer.found(EPOCH).await.unwrap();
            self.writer.announce(founded).await.unwrap()
        })
    }

    /// Reads the whole stream into a log.
    fn follower(&self) -> MemoryLog {
        let log = MemoryLog::default();
        let mut assembler = Assembler::after(StreamPlace::START);
        self.runtime.block_on(async {
            let tail = self.stream.tail().await.unwrap();
            let mut reader = self.stream.read(StreamSequence::new(1)).await.unwrap();
            while assembler.place().stream < tail {
                let (at, record) = reader.next().await.unwrap();
                if let TakenRecord::Group(group) = assembler.take(at, &record).unwrap() {
                    let applied = assembler.place().applied();
                    log.commit(&Group { applied, ..*group }).unwrap();
                }
            }
        });
        log
    }

    fn tail(&self) -> u64 {
        self.runtime.block_on(self.stream.tail()).unwrap().get()
    }
}

fn cause(error: &Error) -> Option<&NotDecided> {
    error.source().and_then(|cause| cause.downcast_ref())
}

/// Goal: a log whose groups go through a stream is a log like the others, and whoever reads the
/// stream has the same, byte for byte.
#[test]
fn a_replicated_log_keeps_the_contract_and_a_follower_holds_the_same() {
    for test in CONTRACT {
        let in_memory = Lone::leading(Arc::new(MemoryLog::default()));
        test(&in_memory.log);
        assert_eq!(content(&in_memory.follower()), content(&in_memory.log));
        let directory = tempfile::tempdir().unwrap();
        let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
        let on_disk = Lone::leading(Arc::new(SledLog::open(directory.path(), &config).unwrap()));
        test(&on_disk.log);
        assert_eq!(content(&on_disk.follower()), content(&on_disk.log));
    }
}

#[test]
fn a_node_that_does_not_lead_writes_nothing_and_applies_what_was_decided() {
    let lone = Lone::new(Arc::new(MemoryLog::default()), config(Duration::from_secs(60)));
    let group = appending(&topic(1), 1, 0, b"one");
    let error = lone.log.commit(&group).unwrap_err();
    assert!(matches!(error, Error::NotLeading), "{error}");
    assert_eq!((lone.tail(), lone.log.topics().unwrap()), (0, Vec::new()));
    let applied = Applied { stream: 5, term: 2, number: 1, chain: 9, epoch: EPOCH };
    let decided = Group { applied: Some(applied), ..group };
    lone.log.commit(&decided).unwrap();
    assert_eq!(lone.log.applied().unwrap(), Some(applied));
    assert_eq!(lone.tail(), 0);
    let again = lone.log.commit(&decided).unwrap_err();
    assert!(matches!(again, Error::NotWritten(_)), "a group is applied once: {again}");
    // The log is at the place 5, and this leader knows of no group: it may not decide.
    let announced = lone.announce();
    lone.runtime.block_on(lone.writer.lead(announced));
    let error = lone.log.commit(&appending(&topic(1), 2, 0, b"two")).unwrap_err();
    assert!(matches!(error, Error::NotLeading), "{error:?}");
    assert_eq!(lone.tail(), 2, "nothing but the announcement");
}

/// Goal: while the engine is away, a publisher gets an answer in a bounded time, and is not told
/// more than is known.
#[test]
fn an_outcome_that_stays_unknown_is_told_as_unknown_and_ends_leading() {
    let (decide_within, pause) = (Duration::from_millis(500), Duration::from_millis(10));
    let config = WriterConfig { decide_within, pause, ..config(Duration::from_secs(60)) };
    let lone = Lone::new(Arc::new(MemoryLog::default()), config);
    lone.begin();
    lone.log.commit(&appending(&topic(1), 1, 0, b"one")).unwrap();
    lone.stream.cut(Duration::from_secs(3_600));
    let started = std::time::Instant::now();
    let error = lone.log.commit(&appending(&topic(1), 2, 0, b"two")).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(matches!(cause(&error), Some(NotDecided::Unknown(_))), "{error:?}");
    assert!(lone.log.goes_on_after(&error));
    assert!(matches!(*lone.writer.leading().borrow(), Leading::No(_)));
    let error = lone.log.commit(&appending(&topic(1), 2, 0, b"two")).unwrap_err();
    assert!(matches!(error, Error::NotLeading), "{error:?}");
    let left = lone.log.topics().unwrap().remove(0).extent.tail;
    assert_eq!(left, Sequence::new(2), "what is not known to be decided is not applied");
}

/// Goal: another node's record is noticed, and then the outcome is certain.
#[test]
fn a_leader_that_was_overtaken_stores_nothing_and_leads_no_longer() {
    let lone = Lone::leading(Arc::new(MemoryLog::default()));
    let tail = lone.tail();
    let foreign = bytes::Bytes::from_static(b"of somebody else");
    lone.runtime.block_on(lone.stream.append(StreamSequence::new(tail), foreign)).unwrap();
    let error = lone.log.commit(&appending(&topic(1), 1, 0, b"one")).unwrap_err();
    assert!(matches!(error, Error::NotLeading), "{error}");
    assert!(matches!(*lone.writer.leading().borrow(), Leading::No(_)));
    assert_eq!(lone.tail(), tail + 1);
}

/// Goal: a group that the stream has is not told to be refused because the disk is full. The broker
/// goes on, unless the local log takes nothing more.
#[test]
fn a_group_that_the_local_log_does_not_take_is_told_as_unknown() {
    for (fault, goes_on) in [(Fault::DiskFull, true), (Fault::SyncFails, false)] {
        let local = Arc::new(FaultyLog::default());
        let lone = Lone::leading(local.clone());
        local.fail(1, fault);
        let error = lone.log.commit(&appending(&topic(1), 1, 0, b"one")).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
        assert_eq!(lone.log.goes_on_after(&error), goes_on);
        assert_eq!(lone.follower().topics().unwrap().len(), 1, "a follower has it");
        let error = lone.log.commit(&appending(&topic(1), 1, 0, b"one")).unwrap_err();
        assert!(matches!(error, Error::NotLeading), "{error:?}");
    }
}

/// Goal: what the engine refuses does not end leading, and is told to be not stored.
#[test]
fn a_refusal_of_the_engine_is_an_error_of_one_group() {
    let lone = Lone::leading(Arc::new(MemoryLog::default()));
    let faults = StreamFaults { patience: PATIENCE, ..StreamFaults::default() };
    lone.stream.set_faults(StreamFaults { refusals: 1_000, ..faults });
    let error = lone.log.commit(&appending(&topic(1), 1, 0, b"one")).unwrap_err();
    assert!(matches!(cause(&error), Some(NotDecided::NotStored(_))), "{error:?}");
    assert!(matches!(error, Error::NotWritten(_)), "{error}");
    lone.stream.set_faults(faults);
    lone.log.commit(&appending(&topic(1), 1, 0, b"one")).unwrap();
}

/// Goal: an engine that is away for a moment costs groups a pause and nothing else. One that stays
/// away costs them one pause together; then each is refused soon, as surely not stored.
#[test]
fn an_engine_that_is_away_for_a_moment_costs_a_pause() {
    let world = FleetWorld::default();
    let faults = StreamFaults { patience: PATIENCE, ..StreamFaults::default() };
    let stream = SimulatedStream::new(1, faults, Arc::new(world.clone()));
    let config = config(Duration::from_secs(6));
    let (within, pause) = (config.decide_within, config.pause);
    let clock = Arc::new(world.clone());
    let (writer, task) = StreamWriter::new(Arc::new(stream.clone()), clock.clone(), config);
    world.begin(0, Box::pin(task));
    let (done, mut is_done) = oneshot::channel();
    let publishing = async move {
        let founded = writer.found(EPOCH).await.unwrap();
        let mut place = writer.announce(founded).await.unwrap();
        writer.lead(place).await;
        let group = |base| GroupToDecide { bytes: Bytes::from_static(b"a group"), base };
        stream.set_faults(StreamFaults { absences: 1_000, ..faults });
        for waits in [within, Duration::ZERO, Duration::ZERO] {
            let began = clock.now();
            let refused = writer.decide(group(place.stream)).await.unwrap_err();
            assert!(matches!(refused, NotDecided::NotStored(_)), "{refused}");
            let took = clock.now() - began;
            assert!(took + pause >= waits && took <= waits + pause, "{took:?}");
        }
        stream.set_faults(faults);
        place = writer.decide(group(place.stream)).await.unwrap();
        stream.set_faults(StreamFaults { absences: 700, ..faults });
        for _ in 0..20 {
            place = writer.decide(group(place.stream)).await.unwrap();
        }
        done.send(()).unwrap();
    };
    world.begin(0, Box::pin(publishing));
    world.run_until(Duration::from_secs(600));
    is_done.try_recv().expect("all groups were decided");
}

/// Goal: a leader with nothing to say shows that it is there, and its heartbeats do not get into
/// the way of its groups.
#[test]
fn heartbeats_and_groups_share_one_chain() {
    let lone = Lone::new(Arc::new(MemoryLog::default()), config(Duration::from_millis(30)));
    lone.begin();
    let mut size = 0;
    for first in 1..=20 {
        let group = appending(&topic(1), first, size, b"an event");
        size = group.appended[0].1.end_bytes();
        lone.log.commit(&group).unwrap();
        if first % 5 == 0 {
            let tail = lone.tail();
            while lone.tail() < tail + 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    lone.runtime.block_on(lone.writer.resign("the test is over".to_owned()));
    assert!(matches!(*lone.writer.leading().borrow(), Leading::No(_)));
    assert_eq!(content(&lone.follower()), content(&lone.log));
    assert!(lone.tail() >= 2 + 20 + 8);
}
