//! Changed bytes anywhere in a data directory: the broker opens or says why it cannot, serves only
//! true events, reports the missing ones, and `check` agrees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use leftoff::cursor::{Epoch, Place, Sequence, StartPoint};
use leftoff::log::check;
use leftoff::{Broker, Error, NewEvent, OpenConfig, PageRequest, Publish, TopicConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{name, seed};

/// The number of damaged copies; the variable `LEFTOFF_TEST_FLIPS` gives another number.
const FLIPS: u64 = 100;

/// The number of batches at the end of the log, which together take more than a segment of sled.
const FOLLOWING: usize = 200;

/// The time limit for all copies, if `LEFTOFF_TEST_FLIPS` is not set.
const MAX_TIME: Duration = Duration::from_secs(120);

/// The time limit for one copy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The size of a chunk in bytes: chunks that are all 0 are not damaged.
const CHUNK_BYTES: usize = 64;

/// An acknowledged event.
struct Known {
    payload: String,
    position: u64,
    /// Whether the event may be gone by now: it was trimmed, deleted or superseded.
    is_dropped: bool,
}

/// Everything that was acknowledged.
#[derive(Default)]
struct Truth {
    /// The events of each topic, by their sequences.
    topics: BTreeMap<String, BTreeMap<u64, Known>>,
    /// The acknowledged first sequence of a trimmed topic; `None` for a deleted topic.
    begins: BTreeMap<String, Option<u64>>,
    last_position: u64,
    epoch: Option<Epoch>,
}

impl Truth {
    async fn publish(&mut self, broker: &Broker, topic: &str, events: Vec<(String, String)>) {
        let payloads: Vec<String> = events.iter().map(|(_, payload)| payload.clone()).collect();
        let new =
            events.into_iter().map(|(key, payload)| NewEvent { key, ..NewEvent::new(payload) });
        let publish = Publish::new(name(topic), new.collect());
        let last = broker.publish(publish).await.unwrap().last();
        self.last_position = self.last_position.max(last.position.get());
        let count = payloads.len() as u64;
        let (first, at) = (last.sequence.get() + 1 - count, last.position.get() + 1 - count);
        let stored = self.topics.entry(topic.to_owned()).or_default();
        for (offset, payload) in (0..).zip(payloads) {
            let known = Known { payload, position: at + offset, is_dropped: false };
            stored.insert(first + offset, known);
        }
    }

    /// Marks the events of a topic up to `last`, inclusive, as ones that may be gone.
    fn drop_through(&mut self, topic: &str, last: u64) {
        let events = self.topics.get_mut(topic).unwrap();
        events.range_mut(..=last).for_each(|(_, known)| known.is_dropped = true);
    }
}

fn text(random: &mut StdRng, bytes: usize) -> String {
    (0..bytes).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

/// Fills a log with some of everything: small and large topics, events in several parts, a
/// compacted, a trimmed and a deleted topic, and settings. The log is opened several times.
async fn build(directory: &Path, random: &mut StdRng) -> Truth {
    let mut truth = Truth::default();
    for round in 0..4 {
        let broker = Broker::open(directory, &OpenConfig::default()).unwrap();
        let compacted = TopicConfig::with(|config| config.compact = Some(true));
        broker.set_topic(&name("keyed"), compacted).await.unwrap();
        for batch in 0..30 {
            let plain = (0..10).map(|_| (String::new(), text(random, 700))).collect();
            truth.publish(&broker, "plain", plain).await;
            let keyed = (0..5).map(|key| (format!("k{key}"), text(random, 300))).collect();
            truth.publish(&broker, "keyed", keyed).await;
            let trimmed = (0..4).map(|_| (String::new(), text(random, 2_000))).collect();
            truth.publish(&broker, "trimmed", trimmed).await;
            let small = format!("small.{}", (round * 30 + batch) % 40);
            truth.publish(&broker, &small, vec![(String::new(), text(random, 50))]).await;
        }
        for _ in 0..2 {
            truth.publish(&broker, "large", vec![(String::new(), text(random, 300_000))]).await;
        }
        truth.publish(&broker, "deleted", vec![(String::new(), text(random, 9_000))]).await;
        let through = truth.topics["trimmed"].len() as u64 / 2;
        broker.purge(&name("trimmed"), Sequence::new(through + 1)).await.unwrap();
        truth.drop_through("trimmed", through);
        truth.begins.insert("trimmed".to_owned(), Some(through + 1));
        broker.delete_topic(&name("deleted")).await.unwrap();
        truth.drop_through("deleted", u64::MAX);
        truth.begins.insert("deleted".to_owned(), None);
        broker.maintain(None).await.unwrap();
        let keyed = truth.topics["keyed"].len() as u64;
        truth.drop_through("keyed", keyed - 5);
        if round == 3 {
            // These take more space than the part that sled scans when it opens. The rest is read
            // page by page.
            for _ in 0..FOLLOWING {
                let following = (0..16).map(|_| (String::new(), text(random, 4_000))).collect();
                truth.publish(&broker, "following", following).await;
            }
        }
        // A last event shows, by its position, that something before it is missing. Without it,
        // damage of the log's last bytes would undo the last change unnoticed.
        truth.publish(&broker, "plain", vec![(String::new(), text(random, 700))]).await;
        truth.epoch = Some(broker.epoch());
        broker.close().await;
    }
    truth
}

/// A file of the log, and the offsets of its chunks that are not all 0.
struct Target {
    path: PathBuf,
    written: Vec<u64>,
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn targets(directory: &Path) -> Vec<Target> {
    let all = files(directory).into_iter().map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        let chunks = bytes.chunks(CHUNK_BYTES).enumerate();
        let written = chunks.filter(|(_, chunk)| chunk.iter().any(|byte| *byte != 0));
        let written = written.map(|(index, _)| (index * CHUNK_BYTES) as u64).collect();
        Target { path: path.strip_prefix(directory).unwrap().to_owned(), written }
    });
    all.filter(|target| !target.written.is_empty()).collect()
}

fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(&path, copy).unwrap();
    }
}

/// Copies the log to `to`, and changes 1 to 8 bytes of the copy. Returns where.
fn damage(from: &Path, to: &Path, targets: &[Target], random: &mut StdRng) -> String {
    copy(from, to);
    // In 7 of 10 cases, the file with the events is damaged; otherwise any file.
    let largest = targets.iter().max_by_key(|target| target.written.len()).unwrap();
    let any = &targets[random.random_range(0..targets.len())];
    let target = if random.random_bool(0.7) { largest } else { any };
    let file = File::options().read(true).write(true).open(to.join(&target.path)).unwrap();
    let mut at = Vec::new();
    for _ in 0..random.random_range(1..=8) {
        let chunk = target.written[random.random_range(0..target.written.len())];
        let place = chunk + random.random_range(0..CHUNK_BYTES as u64);
        let mut byte = [0];
        if file.read_exact_at(&mut byte, place).is_err() {
            continue; // The last chunk may be shorter.
        }
        byte[0] ^= random.random_range(1..=255_u8);
        file.write_all_at(&byte, place).unwrap();
        at.push(place);
    }
    format!("{} at {at:?}", target.path.display())
}

/// The result of reading a topic to its end.
#[derive(Default)]
struct Found {
    /// Payloads and positions, by sequence.
    seen: BTreeMap<u64, (String, u64)>,
    /// Ranges of sequences that are reported as missing: first and last, both inclusive.
    told: Vec<(u64, u64)>,
}

async fn read(broker: &Broker, topic: &str) -> Found {
    let mut found = Found::default();
    let mut after = Sequence::BEFORE_ALL;
    loop {
        let start: StartPoint = after.to_string().parse().unwrap();
        let request = PageRequest::from(start).limit(1_000);
        match broker.read(&name(topic), request).await {
            Ok(page) => {
                for gap in &page.gaps {
                    found.told.push((gap.requested.number(), gap.resume.previous().number()));
                }
                for event in page.runs.iter().flat_map(|run| run.events()) {
                    let payload = String::from_utf8(event.payload.to_vec()).unwrap();
                    found.seen.insert(event.sequence.get(), (payload, event.position.get()));
                    after = event.sequence;
                }
                if page.caught_up {
                    return found;
                }
                if let Place::Sequence(sequence) = page.cursor.after {
                    after = after.max(sequence); // A page may end with a gap.
                }
            }
            Err(Error::Damaged { first, last, .. }) => {
                found.told.push((first.get(), last.map_or(u64::MAX, Sequence::get)));
                let Some(last) = last else { return found };
                assert!(last > after, "the error does not lead past {last}");
                after = last;
            }
            Err(Error::UnknownTopic(_)) => return found,
            Err(error) => {
                println!("{topic}: {error}");
                found.told.push((0, u64::MAX));
                return found;
            }
        }
    }
}

/// Asserts that a trimmed or deleted topic did not come back, unless a new epoch tells every
/// reader.
fn verify_begin(broker: &Broker, truth: &Truth, topic: &str, is_told_all: bool) {
    let Some(begin) = truth.begins.get(topic).filter(|_| !is_told_all) else { return };
    match (begin, broker.topic(&name(topic))) {
        (None, Err(Error::UnknownTopic(_))) => {}
        (Some(begin), Ok(info)) => {
            let earliest = info.extent.earliest.get();
            assert!(earliest >= *begin, "{topic} is back, from {earliest}");
        }
        (_, found) => panic!("{topic}, which begins at {begin:?}: {found:?}"),
    }
}

/// Returns the newest position of all served events.
async fn positions(broker: &Broker) -> u64 {
    let mut last = 0;
    for topic in broker.topics(None, usize::MAX) {
        let Found { seen, .. } = read(broker, topic.name.as_str()).await;
        last = seen.into_values().map(|(_, position)| position).max().unwrap_or(0).max(last);
    }
    last
}

/// The losses that a broker reports.
#[derive(Debug, Default)]
struct Missing {
    /// The number of events that are reported as missing.
    events: usize,
    /// The number of topics that refuse new events.
    closed: usize,
}

/// Compares everything that an open broker serves with the truth. Returns the reported losses.
async fn verify(broker: &Broker, truth: &Truth) -> Missing {
    let mut missing = Missing::default();
    // A new epoch tells every reader of a gap, and makes places mean other events.
    let is_told_all = Some(broker.epoch()) != truth.epoch;
    let mut last_position = if is_told_all { positions(broker).await } else { truth.last_position };
    for (topic, events) in &truth.topics {
        let Found { seen, told } = read(broker, topic).await;
        for (sequence, (payload, position)) in &seen {
            let stored = events.get(sequence).map(|known| (&known.payload, known.position));
            let is_it = stored == Some((payload, *position));
            assert!(is_it, "{topic} {sequence} is another event, or has another position");
        }
        verify_begin(broker, truth, topic, is_told_all);
        for (sequence, Known { is_dropped, .. }) in events {
            let is_told = told.iter().any(|(first, last)| (first..=last).contains(&sequence));
            let is_told = is_told || is_told_all;
            let is_there = seen.contains_key(sequence) || *is_dropped;
            assert!(
                is_there || is_told,
                "{topic} {sequence} is missing, and not reported: {told:?}"
            );
            missing.events += usize::from(!is_there);
        }
        let publish = Publish::one(name(topic), NewEvent::new("more"));
        match broker.publish(publish).await {
            Ok(ack) => {
                let last = ack.last();
                // A new epoch gives places another meaning; within one epoch, no place is given
                // twice.
                let of_it = if is_told_all {
                    seen.last_key_value().map(|(at, _)| at)
                } else {
                    events.last_key_value().map(|(at, _)| at)
                };
                let newest = of_it.copied().unwrap_or(0);
                assert!(last.sequence.get() > newest, "{topic}: {last:?} is given twice");
                assert!(last.position.get() > last_position, "{topic}: {last:?}");
                last_position = last.position.get();
            }
            Err(Error::DamagedEnd(_) | Error::Damaged { .. } | Error::DamagedLog { .. }) => {
                missing.closed += 1;
            }
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    missing
}

/// The outcome of one damaged copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// No event is missing.
    Whole,
    /// Events are missing, and the broker reports it.
    Served,
    /// Events are missing, the broker reports it, and no topic accepts events.
    ReadOnly,
    /// The log cannot be opened.
    Refused,
}

async fn try_copy(directory: PathBuf, truth: &Truth) -> Outcome {
    let scratch = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.clone(), scratch.path().join("copy"));
    let checked = tokio::task::spawn_blocking(move || check(&path, &copy, |_| {}));
    let checked = checked.await.expect("the check panicked");
    let is_clean = checked.as_ref().is_ok_and(|report| report.damage.is_empty());
    let opened =
        tokio::task::spawn_blocking(move || Broker::open(&directory, &OpenConfig::default()));
    match opened.await.expect("opening panicked") {
        Ok(broker) => {
            let missing = verify(&broker, truth).await;
            broker.close().await;
            println!("{missing:?} of {} topics", truth.topics.len());
            let Missing { events, closed } = missing;
            assert!(!is_clean || events + closed == 0, "`check` does not find {missing:?}");
            match (is_clean, closed == truth.topics.len()) {
                (true, _) => Outcome::Whole,
                (false, false) => Outcome::Served,
                (false, true) => Outcome::ReadOnly,
            }
        }
        Err(error) => {
            let is_reason = matches!(error, Error::Open { .. } | Error::DamagedLog { .. });
            assert!(is_reason, "{error}");
            assert!(!is_clean, "`check` finds nothing: {error}");
            println!("{error}");
            Outcome::Refused
        }
    }
}

/// Goal: damage anywhere in the data directory is never served as an event, never goes unreported,
/// and never causes a crash.
/// Method: copy a log with some of everything, change bytes of the copy, run `check` on it, then
/// read all topics and publish to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_change_anywhere_are_never_served_never_silent_and_never_a_crash() {
    let given = std::env::var("LEFTOFF_TEST_FLIPS").ok().map(|text| text.parse::<u64>().unwrap());
    let mut random = StdRng::seed_from_u64(seed());
    let [written, settled] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let truth = build(written.path(), &mut random).await;
    // sled scans all bytes that were written since it was last opened; the rest it reads page by
    // page.
    copy(written.path(), settled.path());
    Broker::open(settled.path(), &OpenConfig::default()).unwrap().close().await;
    let originals = [written, settled].map(|original| (targets(original.path()), original));
    let (mut outcomes, mut seen) = (BTreeMap::<Outcome, u64>::new(), BTreeSet::new());
    let started = Instant::now();
    for number in 0..given.unwrap_or(FLIPS) {
        if given.is_none() && started.elapsed() > MAX_TIME {
            break;
        }
        let copy = tempfile::tempdir().unwrap();
        let which = random.random_range(0..originals.len());
        let (targets, original) = &originals[which];
        let place = damage(original.path(), copy.path(), targets, &mut random);
        println!("{number}: {place} of {}", ["what is written", "what is settled"][which]);
        let tried = try_copy(copy.path().to_owned(), &truth);
        let outcome = tokio::time::timeout(PATIENCE, tried).await.expect("one copy takes too long");
        println!("{number}: {outcome:?}");
        *outcomes.entry(outcome).or_default() += 1;
        seen.insert(outcome);
    }
    println!("{outcomes:?} in {:?}", started.elapsed());
    assert!(seen.len() > 1, "all outcomes are the same: {outcomes:?}");
    let count = |outcome| outcomes.get(&outcome).copied().unwrap_or(0);
    let closed = count(Outcome::Refused) + count(Outcome::ReadOnly);
    let all: u64 = outcomes.values().sum();
    assert!(closed * 5 <= all, "damage closes the whole log too often: {outcomes:?}");
}
