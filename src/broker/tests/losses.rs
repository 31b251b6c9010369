//! Tests of the gaps that readers are told, against a model that knows which events existed at
//! which time.
//!
//! The file is long, because the model, its readers and its judgement of each gap are one whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::broker::*;
use crate::cursor::{Gap, GapReason, Requested};
use crate::event::{NewEvent, Timestamp};
use crate::log::MemoryLog;

/// The clock of the brokers in these tests, in milliseconds. Tests only move it forward.
static CLOCK: AtomicU64 = AtomicU64::new(1_000_000);

fn clock() -> Timestamp {
    Timestamp::from_ms(CLOCK.load(Ordering::SeqCst))
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const READERS: usize = 6;

/// The longest time of a run, and of the search for a shorter counter-example. With the run that
/// fails first, and the one that the search is in when its time ends, a failure takes less than a
/// minute.
const MAX_RUN: Duration = Duration::from_secs(20);
const MAX_SHRINK_MS: u32 = 15_000;

fn name(topic: usize) -> TopicName {
    NAMES[topic].parse().unwrap()
}

#[derive(Debug, Clone)]
enum Action {
    /// Publishes events. Each has a key (0: none), and may be a tombstone.
    Publish {
        topic: usize,
        events: Vec<(u8, bool)>,
    },
    /// Purges a topic, except for its newest `keep` events.
    Purge {
        topic: usize,
        keep: u64,
    },
    /// Limits a topic to its newest `events` events.
    Limit {
        topic: usize,
        events: u64,
    },
    Delete {
        topic: usize,
    },
    /// Drops superseded events, and tombstones.
    Compact {
        topic: usize,
    },
    Restart,
    /// A reader forgets all that it knows, and begins anew.
    Begin {
        reader: usize,
        from: &'static str,
    },
    /// A reader takes a number of deliveries. Then it ends, to come back by its cursor, or stays
    /// open.
    Stream {
        reader: usize,
        deliveries: usize,
        comes_back: bool,
    },
    /// A reader comes back for a page, which fails at a gap or tells it.
    Page {
        reader: usize,
        events: usize,
        is_to_fail: bool,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let (topic, reader) = (0..NAMES.len(), 0..READERS);
    let from = proptest::sample::select(vec!["earliest", "latest", "last:2", "time", "unknown"]);
    prop_oneof![
        8 => (topic.clone(), proptest::collection::vec((0..4_u8, any::<bool>()), 1..4))
            .prop_map(|(topic, events)| Action::Publish { topic, events }),
        2 => (topic.clone(), 0..4_u64).prop_map(|(topic, keep)| Action::Purge { topic, keep }),
        1 => (topic.clone(), 0..6_u64).prop_map(|(topic, events)| Action::Limit { topic, events }),
        1 => topic.clone().prop_map(|topic| Action::Delete { topic }),
        3 => topic.prop_map(|topic| Action::Compact { topic }),
        1 => Just(Action::Restart),
        2 => (reader.clone(), from).prop_map(|(reader, from)| Action::Begin { reader, from }),
        5 => (reader.clone(), 1..6_usize, any::<bool>()).prop_map(
            |(reader, deliveries, comes_back)| Action::Stream { reader, deliveries, comes_back }
        ),
        5 => (reader, 1..6_usize, any::<bool>()).prop_map(
            |(reader, events, is_to_fail)| Action::Page { reader, events, is_to_fail }
        ),
    ]
}

/// A published event, and when it was dropped.
#[derive(Debug, Clone)]
struct Known {
    topic: usize,
    sequence: u64,
    position: u64,
    key: u8,
    is_tombstone: bool,
    /// The number of the action that trimmed the event, and of the action that compacted it away.
    trimmed: Option<u64>,
    compacted: Option<u64>,
}

/// A reader of all topics, or of the first one, as the model knows it.
struct Reading {
    reads_all: bool,
    /// The number of the action with which the reader began, the place after which it began, and
    /// whether it asked for events that were gone.
    began: u64,
    after: u64,
    wants_gone: bool,
    start: StartPoint,
    open: Option<Reader>,
    /// Whether the reader came back by a cursor, which does not say of which topics it has read
    /// events.
    came_back: bool,
    /// The positions of the events that the reader got.
    delivered: BTreeSet<u64>,
    /// The gaps that the reader was told: each with the topic, the sequence at which the reader
    /// resumed, the reason, and the number of the action.
    told: Vec<(usize, u64, GapReason, u64)>,
}

struct World {
    log: Arc<MemoryLog>,
    max_tail_bytes: u64,
    broker: Broker,
    events: Vec<Known>,
    /// The earliest sequence of each topic, and the number of the action that trimmed it last.
    fronts: [(u64, u64); NAMES.len()],
    readers: Vec<Reading>,
    actions: u64,
    was_restarted: bool,
}

fn open(log: &Arc<MemoryLog>, max_tail_bytes: u64) -> Broker {
    let mut config = OpenConfig::default();
    config.maintenance.interval_ms = 3_600_000; // Only when a test asks for it.
    config.broker.max_tail_bytes = max_tail_bytes;
    config.broker.max_read_bytes = 1 << 10;
    let limits =
        TopicConfig { compact: Some(true), tombstone_grace_ms: Some(0), ..TopicConfig::default() };
    config.topics.set(">".parse().unwrap(), limits);
    config.dedup.max_age_ms = 0;
    Broker::with_clock(log.clone(), &config, Arc::new(clock)).unwrap()
}

impl World {
    fn new(max_tail_bytes: u64) -> Self {
        let log = Arc::new(MemoryLog::default());
        let (broker, readers) = (open(&log, max_tail_bytes), Vec::new());
        let (events, fronts) = (Vec::new(), [(1, 0); NAMES.len()]);
        Self {
            log,
            max_tail_bytes,
            broker,
            events,
            fronts,
            readers,
            actions: 0,
            was_restarted: false,
        }
    }

    /// Returns the place of an event for a reader of all topics, or of one.
    fn place(reads_all: bool, event: &Known) -> u64 {
        if reads_all { event.position } else { event.sequence }
    }

    async fn apply(&mut self, action: Action) {
        self.actions += 1;
        CLOCK.fetch_add(1_000, Ordering::SeqCst);
        match action {
            Action::Publish { topic, events } => self.publish(topic, &events).await,
            Action::Purge { topic, keep } => {
                let Ok(info) = self.broker.topic(&name(topic)) else { return };
                let before = info.extent.tail.get().saturating_sub(keep);
                self.broker.purge(&name(topic), Sequence::new(before)).await.unwrap();
                self.look(topic).await;
            }
            Action::Limit { topic, events } => {
                let limits = TopicConfig { max_events: Some(events), ..TopicConfig::default() };
                self.broker.set_topic(&name(topic), limits).await.unwrap();
                self.look(topic).await;
            }
            Action::Delete { topic } => {
                if self.broker.delete_topic(&name(topic)).await.is_ok() {
                    self.look(topic).await;
                }
            }
            Action::Compact { topic } => {
                for _ in 0..2 {
                    if self.broker.maintain(Some(&name(topic))).await.is_ok() {
                        self.look(topic).await;
                    }
                }
            }
            Action::Restart => {
                self.was_restarted = true;
                self.readers.iter_mut().for_each(|reader| reader.open = None);
                self.broker.close().await;
                self.broker = open(&self.log, self.max_tail_bytes);
            }
            Action::Begin { reader, from } => self.begin(reader, from).await,
            Action::Stream { reader, deliveries, comes_back } => {
                self.stream(reader, deliveries).await;
                if comes_back {
                    self.readers[reader].open = None;
                }
            }
            Action::Page { reader, events, is_to_fail } => {
                self.page(reader, events, is_to_fail).await;
            }
        }
    }

    async fn publish(&mut self, topic: usize, events: &[(u8, bool)]) {
        let new = events.iter().map(|(key, is_tombstone)| NewEvent {
            key: if *key == 0 { String::new() } else { format!("key {key}") },
            ..NewEvent::new(if *is_tombstone && *key > 0 { "" } else { "x" })
        });
        let publish =
            Publish { topic: name(topic), events: new.collect(), expected_sequence: None };
        let ack = self.broker.publish(publish).await.unwrap();
        for (index, (key, is_tombstone)) in events.iter().enumerate() {
            let receipt = ack.receipt(index);
            self.events.push(Known {
                topic,
                sequence: receipt.sequence.get(),
                position: receipt.position.get(),
                key: *key,
                is_tombstone: *is_tombstone && *key > 0,
                trimmed: None,
                compacted: None,
            });
        }
        self.look(topic).await;
    }

    /// Finds out which events of a topic are gone by now, by reading the topic.
    async fn look(&mut self, topic: usize) {
        let earliest = self.broker.topic(&name(topic)).map(|info| info.extent.earliest.get());
        let front = &mut self.fronts[topic];
        match earliest {
            Ok(earliest) if earliest == front.0 => {}
            _ => *front = (earliest.clone().unwrap_or(front.0), self.actions),
        }
        let from = StartPoint::Earliest;
        let mut reader = self.broker.subscribe(&name(topic), from, OnGap::Fail).await.unwrap();
        let mut there = BTreeSet::new();
        while let Some(delivery) = reader.next_ready().await.unwrap() {
            if let Delivery::Events(run) = delivery {
                there.extend(run.events().map(|event| event.sequence.get()));
            }
        }
        let gone = self.events.iter_mut().filter(|event| {
            let is_gone = event.trimmed.or(event.compacted).is_some();
            event.topic == topic && !is_gone && !there.contains(&event.sequence)
        });
        for event in gone {
            match earliest {
                Ok(earliest) if event.sequence >= earliest => event.compacted = Some(self.actions),
                _ => event.trimmed = Some(self.actions),
            }
        }
    }

    async fn begin(&mut self, reader: usize, from: &str) {
        let reads_all = !reader.is_multiple_of(3);
        let of_it = self.events.iter().filter(|event| reads_all || event.topic == 0);
        let last = of_it.clone().map(|event| Self::place(reads_all, event)).max().unwrap_or(0);
        let there = of_it.filter(|event| event.trimmed.or(event.compacted).is_none());
        let (start, after) = match from {
            "latest" => (StartPoint::Latest, last),
            "last:2" if !reads_all => {
                let there: Vec<u64> = there.map(|event| event.sequence).collect();
                let after = there.iter().rev().nth(2).copied().unwrap_or(0);
                (StartPoint::Last(2), after)
            }
            "time" => (StartPoint::Time(Timestamp::from_ms(0)), 0),
            "unknown" => (StartPoint::Unknown, 0),
            _ => (StartPoint::Earliest, 0),
        };
        self.readers[reader] = Reading {
            reads_all,
            began: self.actions,
            after,
            // Until its gap is told, a reader of an unknown place stands before all there was.
            wants_gone: from == "time" || from == "unknown",
            start,
            open: None,
            came_back: false,
            delivered: BTreeSet::new(),
            told: Vec::new(),
        };
        let open = self.opened(reader).await;
        self.readers[reader].start = StartPoint::After(open.cursor());
        self.readers[reader].open = Some(open);
    }

    async fn opened(&mut self, reader: usize) -> Reader {
        let reading = &mut self.readers[reader];
        if let Some(open) = reading.open.take() {
            return open;
        }
        let (start, on_gap) = (reading.start, OnGap::Resume);
        reading.came_back |= matches!(start, StartPoint::After(_));
        match reading.reads_all {
            true => self.broker.feed(vec![">".parse().unwrap()], start, on_gap).await.unwrap(),
            false => self.broker.subscribe(&name(0), start, on_gap).await.unwrap(),
        }
    }

    async fn stream(&mut self, reader: usize, deliveries: usize) {
        let mut open = self.opened(reader).await;
        for _ in 0..deliveries {
            match open.next_ready().await {
                Ok(Some(Delivery::Events(run))) => {
                    for event in run.events() {
                        self.deliver(reader, event.position.get());
                        // As a client does that keeps the id of each event in a stream.
                        self.readers[reader].start = StartPoint::After(open.cursor_after(&event));
                    }
                }
                Ok(Some(Delivery::Gap(gap))) => self.tell(reader, &gap),
                Ok(Some(Delivery::CaughtUp | Delivery::Ephemeral(_))) => {}
                Ok(None) => break,
                Err(Error::TopicDeleted(_)) => return, // The reader comes back.
                Err(error) => panic!("{error}"),
            }
            let last = StartPoint::After(open.cursor());
            self.readers[reader].start = last;
        }
        self.readers[reader].start = StartPoint::After(open.cursor());
        self.readers[reader].open = Some(open);
    }

    async fn page(&mut self, reader: usize, events: usize, is_to_fail: bool) {
        let reading = &mut self.readers[reader];
        (reading.open, reading.came_back) = (None, true);
        let request = PageRequest {
            start: reading.start,
            before: None,
            limit: events,
            wait: Duration::ZERO,
            on_gap: if is_to_fail { OnGap::Fail } else { OnGap::Resume },
            filter: Filter::default(),
            ..PageRequest::default()
        };
        let page = match reading.reads_all {
            true => self.broker.read_many(vec![">".parse().unwrap()], request).await,
            false => self.broker.read(&name(0), request).await,
        };
        let page = match page {
            Ok(page) => page,
            Err(Error::UnknownTopic(_)) => return,
            Err(Error::Gap(gap)) if is_to_fail => return self.check_told(reader, &gap),
            Err(Error::Gaps(gaps)) if is_to_fail => {
                return gaps.iter().for_each(|gap| self.check_told(reader, gap));
            }
            Err(error) => panic!("{error}"),
        };
        page.gaps.iter().for_each(|gap| self.tell(reader, gap));
        for run in &page.runs {
            run.events().for_each(|event| self.deliver(reader, event.position.get()));
        }
        self.readers[reader].start = StartPoint::After(page.cursor);
    }

    fn deliver(&mut self, reader: usize, position: u64) {
        let is_new = self.readers[reader].delivered.insert(position);
        assert!(is_new, "position {position} came twice");
    }

    fn tell(&mut self, reader: usize, gap: &Gap) {
        self.check_told(reader, gap);
        if gap.reason == GapReason::Unknown {
            // The gap covers all events that are gone by now. For a deleted topic, `fronts` does
            // not have them.
            let told = self.fronts.iter().enumerate().map(|(topic, (front, _))| {
                let gone = |event: &&Known| event.topic == topic && event.trimmed.is_some();
                let after = self.events.iter().filter(gone).map(|event| event.sequence + 1).max();
                (topic, after.unwrap_or(0).max(*front), gap.reason, self.actions)
            });
            let told: Vec<_> = told.collect();
            return self.readers[reader].told.extend(told);
        }
        let topic = gap.topic.as_ref().expect("no cursor here is of another log, or ahead");
        let topic = NAMES.iter().position(|name| *name == topic.as_str()).unwrap();
        let told = (topic, gap.resume.number(), gap.reason, self.actions);
        self.readers[reader].told.push(told);
    }

    /// Returns the events of a topic that a reader could have got, and did not.
    fn could_have_had<'a>(
        &'a self,
        reading: &'a Reading,
        topic: usize,
    ) -> impl Iterator<Item = &'a Known> {
        let Reading { reads_all, began, after, wants_gone, delivered, .. } = reading;
        let is_read = *reads_all || topic == 0;
        let of_topic = self.events.iter().filter(move |event| is_read && event.topic == topic);
        of_topic.filter(move |event| {
            let gone = event.trimmed.or(event.compacted);
            Self::place(*reads_all, event) > *after
                && (gone.is_none_or(|gone| gone > *began) || *wants_gone)
                && !delivered.contains(&event.position)
        })
    }

    /// Whether a reader that goes on at a place may hold keys of a topic, as far as the broker can
    /// know. A place among many topics does not say of which topics the reader has read events. But
    /// the broker knows the start of a topic that was never trimmed.
    fn may_hold(&self, reading: &Reading, topic: usize, place: u64) -> bool {
        let delivered = |event: &Known| reading.delivered.contains(&event.position);
        let mut of_topic = self.events.iter().filter(|event| event.topic == topic);
        let is_before = |event: &Known| event.position < place;
        let may_be_before = self.fronts[topic].1 > 0 || self.was_restarted;
        match reading.reads_all {
            true => may_be_before || of_topic.any(|event| delivered(event) || is_before(event)),
            false => reading.came_back || of_topic.any(delivered),
        }
    }

    /// Checks that a reader is told only of events that it could have got.
    fn check_told(&self, reader: usize, gap: &Gap) {
        let reading = &self.readers[reader];
        if gap.reason == GapReason::Unknown {
            let is_first = reading.delivered.is_empty() && reading.told.is_empty();
            return assert!(
                is_first && gap.requested == Requested::Unknown && gap.lost.is_none(),
                "{gap:?}"
            );
        }
        let told = gap.topic.as_ref().unwrap().as_str();
        let topic = NAMES.iter().position(|name| *name == told).unwrap();
        let mut missed = self.could_have_had(reading, topic);
        let is_true = match gap.reason {
            // A cursor cannot say that its reader has read nothing yet and must be told of events
            // that were trimmed before it came.
            GapReason::Tombstones if reading.wants_gone && reading.delivered.is_empty() => true,
            GapReason::Tombstones => {
                let is_lost = |e: &Known| e.compacted.is_some_and(|gone| gone > reading.began);
                missed.any(|event| event.is_tombstone && is_lost(event))
                    && self.may_hold(reading, topic, gap.requested.number())
            }
            // Nobody knows which of the events that a trim takes had been compacted away before.
            _ => {
                let was_trimmed = self.fronts[topic].1 > reading.began || reading.wants_gone;
                let after = |event: &&Known| Self::place(reading.reads_all, event) > reading.after;
                let of_topic = self.events.iter().filter(|event| event.topic == topic);
                let mut compacted = of_topic.filter(after).filter(|e| e.compacted.is_some());
                missed.any(|event| event.trimmed.is_some())
                    || (was_trimmed && compacted.any(|e| !reading.delivered.contains(&e.position)))
            }
        };
        let had = (reading.began, reading.after, &reading.delivered);
        assert!(is_true, "reader {reader} could have had nothing of {gap:?}: it had {had:?}");
    }

    /// Reads to the end, and checks that every event was delivered or told as lost.
    async fn finish(&mut self, reader: usize) {
        self.readers[reader].open = None; // Opened anew, the reader sees all topics.
        self.stream(reader, usize::MAX).await;
        let reading = &self.readers[reader];
        for topic in 0..NAMES.len() {
            for event in self.could_have_had(reading, topic) {
                let mut told = reading.told.iter().filter(|(of, ..)| *of == topic);
                let is_told = told.any(|(_, resume, reason, _)| {
                    *reason != GapReason::Tombstones && event.sequence < *resume
                });
                let is_there = event.trimmed.is_none() && event.compacted.is_none();
                assert!(!is_there, "reader {reader} was not given {event:?}");
                assert!(event.compacted.is_some() || is_told, "reader {reader}: {event:?} untold");
            }
            self.check_deletions(reader, topic);
        }
    }

    /// Checks that a reader that holds a deleted key was told that it may.
    fn check_deletions(&self, reader: usize, topic: usize) {
        let reading = &self.readers[reader];
        for event in self.could_have_had(reading, topic).filter(|event| event.is_tombstone) {
            let of_key = |e: &&Known| e.topic == topic && e.key == event.key;
            let mut others = self.events.iter().filter(of_key);
            let is_latest = others.clone().all(|other| other.sequence <= event.sequence);
            let holds = others.any(|other| {
                other.sequence < event.sequence && reading.delivered.contains(&other.position)
            });
            if is_latest && holds {
                let gone = event.trimmed.or(event.compacted).expect("an undelivered event is gone");
                let told = reading.told.iter();
                let is_told = told.filter(|(of, ..)| *of == topic).any(|(.., when)| *when >= gone);
                assert!(is_told, "reader {reader} holds a key that {event:?} deleted");
            }
        }
    }
}

async fn run(actions: Vec<Action>, max_tail_bytes: u64) {
    let mut world = World::new(max_tail_bytes);
    for reader in 0..READERS {
        world.readers.push(Reading {
            reads_all: false,
            began: 0,
            after: 0,
            wants_gone: false,
            start: StartPoint::Earliest,
            open: None,
            came_back: false,
            delivered: BTreeSet::new(),
            told: Vec::new(),
        });
        world.begin(reader, "earliest").await;
    }
    for action in actions {
        world.apply(action).await;
    }
    for reader in 0..READERS {
        world.finish(reader).await;
    }
    world.broker.close().await;
}

/// Goal: a reader of many topics that begins after a restart, and comes back, is not told of a
/// topic that had lost all its events before the restart.
#[test]
fn what_was_dropped_before_a_restart_is_no_loss_to_whoever_begins_after_it() {
    let one = || vec![(0, false)];
    let actions = vec![
        Action::Limit { topic: 1, events: 0 },
        Action::Publish { topic: 0, events: one() },
        Action::Publish { topic: 2, events: one() },
        Action::Purge { topic: 2, keep: 0 },
        Action::Restart,
        Action::Begin { reader: 1, from: "earliest" },
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(MAX_RUN, run(actions, 0)).await });
    ended.expect("the run ends");
}

/// Goal: readers are told of all events that they could have got and did not, and of no others,
/// however they come back. This holds for trimmed, purged and deleted events, and for deletions
/// that compaction dropped.
/// Method: any interleaving of actions that drop events with readers of one topic and of all
/// topics, by pages and by streams, from every start point, with restarts.
#[test]
fn readers_are_told_of_what_they_could_have_had_and_of_nothing_else() {
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: LEFTOFF_SEED={seed}");
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed.to_le_bytes().repeat(4));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = std::env::var("LEFTOFF_CASES").ok().map_or(200, |cases| cases.parse().unwrap());
    let max_shrink_time = MAX_SHRINK_MS;
    let config = Config { cases, max_shrink_time, failure_persistence: None, ..Config::default() };
    let max_tail_bytes = proptest::sample::select(vec![0, 2_000, 1 << 20]);
    let actions = (proptest::collection::vec(action(), 1..60), max_tail_bytes);
    let outcome =
        TestRunner::new_with_rng(config, random).run(&actions, |(actions, max_tail_bytes)| {
            let said = format!("{actions:?}");
            let run = run(actions, max_tail_bytes);
            let ended = runtime.block_on(async { tokio::time::timeout(MAX_RUN, run).await });
            ended.unwrap_or_else(|_| panic!("a run never ends: {said}"));
            Ok(())
        });
    outcome.unwrap_or_else(|failure| panic!("LEFTOFF_SEED={seed}: {failure}"));
}
