//! Changes to a log while it is open: a backup is half written, or a reader has read only a part.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leftoff::broker::Backup;
use leftoff::cursor::{Gap, OnGap, Sequence, StartPoint};
use leftoff::log::{check, restore};
use leftoff::{
    Broker, Delivery, Error, NewEvent, OpenConfig, PageRequest, Publish, Reader, TopicConfig,
};

use crate::common::name;

const GAPS: [OnGap; 4] = [OnGap::Resume, OnGap::Earliest, OnGap::Latest, OnGap::Fail];

const TOPICS: [&str; 4] = ["aged", "deleted", "keyed", "limited"];
const KEYS: u64 = 5;
const MAX_EVENTS: u64 = 25;

/// Returns settings with small blocks and small reads, so that a backup has many steps.
fn config() -> OpenConfig {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000; // Maintenance runs when the test calls it.
    (config.broker.max_read_bytes, config.broker.max_block_bytes) = (1_024, 1_024);
    config
}

/// An acknowledged event.
#[derive(Debug, Clone)]
struct Known {
    position: u64,
    key: u64,
    payload: String,
}

/// A broker, and all events that were ever published to it.
struct World {
    broker: Broker,
    events: BTreeMap<&'static str, BTreeMap<u64, Known>>,
    number: u64,
}

impl World {
    async fn new(directory: &Path) -> Self {
        let broker = Broker::open(directory, &config()).unwrap();
        let compacted = TopicConfig::with(|config| {
            config.compact = Some(true);
            config.tombstone_grace_ms = Some(0);
        });
        broker.set_topic(&name("keyed"), compacted).await.unwrap();
        let limited = TopicConfig::with(|config| config.max_events = Some(MAX_EVENTS));
        broker.set_topic(&name("limited"), limited).await.unwrap();
        let mut world = Self { broker, events: BTreeMap::new(), number: 0 };
        world.publish_to_all(20).await;
        world
    }

    /// Publishes `events` events to each topic. Some events of the topic `keyed` are tombstones.
    async fn publish_to_all(&mut self, events: u64) {
        for _ in 0..events {
            self.number += 1;
            for topic in TOPICS {
                let key = self.number % KEYS;
                let is_tombstone = topic == "keyed" && self.number.is_multiple_of(7);
                let payload = match is_tombstone {
                    true => String::new(),
                    false => format!("{topic} {} {}", self.number, "x".repeat(150)),
                };
                self.publish(topic, key, payload).await;
            }
        }
    }

    async fn publish(&mut self, topic: &'static str, key: u64, payload: String) {
        let event = NewEvent { key: format!("k{key}"), ..NewEvent::new(payload.clone()) };
        let publish = Publish::one(name(topic), event);
        let last = self.broker.publish(publish).await.unwrap().last();
        let known = Known { position: last.position.get(), key, payload };
        self.events.entry(topic).or_default().insert(last.sequence.get(), known);
    }

    /// Makes a change that drops events.
    async fn change(&mut self, change: Change) {
        match change {
            Change::Compact => {
                self.publish_to_all(5).await;
                for _ in 0..2 {
                    self.broker.maintain(Some(&name("keyed"))).await.unwrap();
                }
            }
            Change::Trim => {
                self.publish_to_all(MAX_EVENTS / 2).await; // Beyond the limit of `limited`.
                let aged = TopicConfig::with(|config| config.max_age_ms = Some(1));
                self.broker.set_topic(&name("aged"), aged).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await; // Events are too old now.
                self.broker.maintain(None).await.unwrap();
                self.broker.set_topic(&name("aged"), TopicConfig::default()).await.unwrap();
            }
            Change::Delete => {
                self.broker.delete_topic(&name("deleted")).await.unwrap();
                self.publish_to_all(3).await;
            }
        }
    }

    /// Compares a log that was restored up to `position` with the events that were there then.
    async fn verify(&self, restored: &Broker, position: u64, case: &str) {
        for topic in TOPICS {
            for on_gap in GAPS {
                let (seen, gaps) = read(restored, topic, on_gap).await;
                let case = format!("{case}, {topic}, {on_gap:?}, gaps: {gaps:?}");
                self.verify_topic(topic, on_gap, position, (&seen, &gaps), &case);
            }
        }
    }

    fn verify_topic(
        &self,
        topic: &str,
        on_gap: OnGap,
        position: u64,
        (seen, gaps): (&BTreeMap<u64, String>, &[Gap]),
        case: &str,
    ) {
        let all = &self.events[topic];
        let before = |known: &Known| known.position <= position;
        for (sequence, payload) in seen {
            let known = &all[sequence];
            assert!(known.payload == *payload && before(known), "{case}: {sequence} is wrong");
        }
        let mut held = BTreeMap::new();
        for (sequence, known) in all.iter().filter(|(_, known)| before(known)) {
            let is_told =
                |gap: &Gap| (gap.requested.number()..gap.resume.number()).contains(sequence);
            let is_told = gaps.iter().any(is_told);
            held.insert(known.key, (*sequence, is_told));
            let may_be_compacted = topic == "keyed";
            let is_there = seen.contains_key(sequence);
            assert!(is_there || is_told || may_be_compacted, "{case}: {sequence} is missing");
            assert!(!is_there || !is_told, "{case}: {sequence} is there, and told as gone");
        }
        // A compacted topic keeps the newest event of each key, unless that event is a tombstone.
        for (sequence, is_told) in held.into_values().filter(|_| on_gap != OnGap::Latest) {
            let is_tombstone = topic == "keyed" && all[&sequence].payload.is_empty();
            let is_there = seen.contains_key(&sequence) || is_told || is_tombstone;
            assert!(is_there, "{case}: the newest of a key, {sequence}, is gone");
        }
    }
}

/// A change that is made while a backup is open.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// Maintenance drops superseded values and old tombstones.
    Compact,
    /// The oldest events are dropped, by the limits on number and age.
    Trim,
    /// A topic is deleted and created anew.
    Delete,
}

/// Reads a topic from its first sequence to its end. Returns its events and its gaps.
async fn read(broker: &Broker, topic: &str, on_gap: OnGap) -> (BTreeMap<u64, String>, Vec<Gap>) {
    let (mut seen, mut gaps) = (BTreeMap::new(), Vec::new());
    let mut start: StartPoint = "0".parse().unwrap();
    loop {
        let request = PageRequest::from(start).limit(7).on_gap(on_gap);
        let page = match broker.read(&name(topic), request).await {
            Ok(page) => page,
            Err(Error::Gap(gap)) if on_gap == OnGap::Fail => {
                start = gap.resume.previous().to_string().parse().unwrap();
                gaps.push(*gap);
                continue;
            }
            Err(Error::UnknownTopic(_)) => return (seen, gaps), // Deleted before it was read.
            Err(error) => panic!("{topic}: {error}"),
        };
        gaps.extend(page.gaps);
        for event in page.runs.iter().flat_map(|run| run.events()) {
            let payload = String::from_utf8(event.payload.to_vec()).unwrap();
            assert_eq!(seen.insert(event.sequence.get(), payload), None, "an event was read twice");
        }
        start = StartPoint::After(page.cursor);
        if page.caught_up {
            return (seen, gaps);
        }
    }
}

/// Writes `steps` steps of a backup, or the rest if there are fewer.
async fn write(backup: &mut Backup, file: &mut File, steps: usize) {
    for _ in 0..steps {
        let Some(bytes) = backup.next().await.unwrap() else { return };
        file.write_all(&bytes).unwrap();
    }
}

/// Writes a backup, with each change made after a further `steps` steps. Returns its file and
/// position.
async fn backed_up(
    world: &mut World,
    file: PathBuf,
    from: Option<u64>,
    changes: &[Change],
    steps: usize,
) -> (PathBuf, u64) {
    let from = from.map(|from| format!("@{from}"));
    let from = from.map(|from| match from.parse().unwrap() {
        StartPoint::After(cursor) => cursor,
        other => panic!("{other:?}"),
    });
    let mut backup = world.broker.backup(from).await.unwrap();
    let position = backup.position().get();
    let mut out = File::create(&file).unwrap();
    write(&mut backup, &mut out, steps).await;
    for change in changes {
        world.change(*change).await;
        write(&mut backup, &mut out, steps).await;
    }
    write(&mut backup, &mut out, usize::MAX).await;
    (file, position)
}

/// Goal: events may be compacted, trimmed, or deleted with their topic while a backup is half
/// written. A log restored from it, and from a backup that follows it, holds the events of its
/// position or reports them as gone, with every choice of `OnGap`; and `check` finds no damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_a_backup_is_half_read_is_whole_or_told_when_it_is_restored() {
    use Change::{Compact, Delete, Trim};
    for changes in [&[Compact][..], &[Trim], &[Delete], &[Delete, Trim, Compact]] {
        for steps in [0, 1, 3, 8, 14, 20] {
            let case = format!("{changes:?} after {steps} steps");
            let parent = tempfile::tempdir().unwrap();
            let path = |name: &str| parent.path().join(name);
            let mut world = World::new(&path("data")).await;
            let first = backed_up(&mut world, path("first"), None, changes, steps).await;
            world.publish_to_all(4).await;
            let after = Some(first.1);
            let second = backed_up(&mut world, path("second"), after, changes, steps).await;
            let files = [first, second];
            for count in 1..=files.len() {
                let target = path(&format!("restored {count}"));
                let copies: Vec<PathBuf> = files[..count].iter().map(|f| f.0.clone()).collect();
                restore(&target, &copies, |_| {}).unwrap();
                let found = check(&target, &path(&format!("scratch {count}")), |_| {}).unwrap();
                assert!(found.damage.is_empty(), "{case}: {:?}", found.damage);
                let restored = Broker::open(&target, &config()).unwrap();
                let position = files[count - 1].1;
                world.verify(&restored, position, &format!("{case}, {count} restored")).await;
                restored.close().await;
            }
            world.broker.close().await;
        }
    }
}

/// A reader whose topic is trimmed while it reads.
struct Trimmed {
    broker: Broker,
    on_gap: OnGap,
    reader: Reader,
    /// The last sequence that the reader received, or that a gap covers.
    last: u64,
    told: u64,
}

impl Trimmed {
    async fn new(tail_bytes: u64, on_gap: OnGap) -> Self {
        let mut config = config();
        config.broker.max_tail_bytes = tail_bytes;
        let broker = Broker::in_memory(&config).unwrap();
        let topic = name("a");
        for number in 0..EVENTS {
            let events = vec![NewEvent::new(format!("{number:0300}"))];
            let publish = Publish::new(topic.clone(), events);
            broker.publish(publish).await.unwrap();
        }
        let reader = broker.subscribe(&topic, StartPoint::Earliest, on_gap).await.unwrap();
        Self { broker, on_gap, reader, last: 0, told: 0 }
    }

    /// Takes one delivery. Returns `false` if there was none.
    async fn step(&mut self, earliest: u64) -> bool {
        let next = match self.reader.next_ready().await {
            Ok(next) => next,
            Err(Error::Gap(gap)) if self.on_gap == OnGap::Fail => {
                self.tell(&gap, earliest);
                let start = gap.resume.previous().to_string().parse().unwrap();
                self.reader = self.broker.subscribe(&name("a"), start, self.on_gap).await.unwrap();
                return true;
            }
            Err(error) => panic!("{error}"),
        };
        match next {
            Some(Delivery::Events(run)) => {
                for event in run.events() {
                    assert_eq!(event.sequence.get(), self.last + 1, "skipped or repeated");
                    self.last += 1;
                }
            }
            Some(Delivery::Gap(gap)) => {
                assert_ne!(self.on_gap, OnGap::Fail);
                self.tell(&gap, earliest);
            }
            Some(_) => {}
            None => return false,
        }
        true
    }

    fn tell(&mut self, gap: &Gap, earliest: u64) {
        let resume = if self.on_gap == OnGap::Latest { EVENTS + 1 } else { earliest };
        let expected = (self.last + 1, earliest, resume, Some(earliest - self.last - 1));
        let told = (gap.requested.number(), gap.earliest.number(), gap.resume.number(), gap.lost);
        assert_eq!(told, expected, "{gap:?}");
        self.last = resume - 1;
        self.told += 1;
    }
}

const EVENTS: u64 = 60;

/// Goal: a reader whose topic is trimmed anywhere is told of each gap once, with the right numbers
/// and as its `OnGap` says, and receives all other events.
/// Method: trim twice, each time after some number of deliveries, below, at and beyond the reader's
/// place. The events to read are in memory or in the log.
#[tokio::test]
async fn a_reader_whose_topic_is_trimmed_anywhere_is_told_once_and_gets_the_rest() {
    let mut told = 0;
    for (tail_bytes, on_gap) in GAPS.iter().flat_map(|gap| [(0, *gap), (1 << 20, *gap)]) {
        for (deliveries, ahead) in (0..12).flat_map(|n| [1, 2, 3, 10, 30].map(|ahead| (n, ahead))) {
            let mut world = Trimmed::new(tail_bytes, on_gap).await;
            let mut earliest = 1;
            for _ in 0..2 {
                for _ in 0..deliveries {
                    world.step(earliest).await;
                }
                earliest = earliest.max((world.last + ahead).min(EVENTS));
                world.broker.purge(&name("a"), Sequence::new(earliest)).await.unwrap();
            }
            while world.step(earliest).await {}
            assert_eq!(world.last, EVENTS, "{on_gap:?}: {deliveries} deliveries, {ahead} ahead");
            told += world.told;
            world.broker.close().await;
        }
    }
    assert!(told > 100, "too few gaps were told: {told}");
}
