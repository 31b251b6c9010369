//! The broker behaves as a simple model does, with any interleaving of publishes, readers,
//! disconnects, trims and restarts.

use std::collections::HashMap;
use std::time::Duration;

use leftoff::cursor::{OnGap, Sequence, StartPoint};
use leftoff::{Broker, Delivery, Error, NewEvent, OpenConfig, PageRequest, Publish};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::{name, seed};

const TOPICS: [&str; 3] = ["a", "b", "a.b"];
const READERS: usize = 3;

/// The time limits of one run of the model, and of the search for a shorter counter-example.
/// Together with the first failing run, and the run at which the search ends, they stay below a
/// minute.
const MAX_RUN: Duration = Duration::from_secs(20);
const MAX_SHRINK_MS: u32 = 15_000;

#[derive(Debug, Clone)]
enum Step {
    /// Publishes events with these ids, where 0 means no id. The condition expects the topic's last
    /// sequence (0), another one (1), or nothing (any other value).
    Publish { topic: usize, ids: Vec<u8>, condition: u8 },
    /// A reader connects, or reconnects with its cursor.
    Connect { reader: usize },
    /// A reader takes what can be read, at most `deliveries` deliveries.
    Take { reader: usize, deliveries: usize },
    /// A reader disconnects, and keeps its cursor.
    Disconnect { reader: usize },
    /// A page is read after some sequence.
    Page { topic: usize, after: u64, limit: usize },
    /// The events of a topic below `earliest` are dropped.
    Trim { topic: usize, earliest: u64 },
    /// The events of a reader's topic below `earliest` are dropped while it reads.
    TrimAndTake { reader: usize, earliest: u64 },
    /// The broker is closed and opened again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let topic = 0..TOPICS.len();
    let reader = 0..READERS;
    prop_oneof![
        6 => (topic.clone(), proptest::collection::vec(0..12_u8, 1..6), 0..8_u8)
            .prop_map(|(topic, ids, condition)| Step::Publish { topic, ids, condition }),
        3 => reader.clone().prop_map(|reader| Step::Connect { reader }),
        4 => (reader.clone(), 1..5_usize)
            .prop_map(|(reader, deliveries)| Step::Take { reader, deliveries }),
        2 => reader.clone().prop_map(|reader| Step::Disconnect { reader }),
        2 => (reader, 1..40_u64)
            .prop_map(|(reader, earliest)| Step::TrimAndTake { reader, earliest }),
        2 => (topic.clone(), 0..40_u64, 1..9_usize)
            .prop_map(|(topic, after, limit)| Step::Page { topic, after, limit }),
        1 => (topic, 1..40_u64).prop_map(|(topic, earliest)| Step::Trim { topic, earliest }),
        1 => Just(Step::Restart),
    ]
}

/// A topic in its simplest form.
#[derive(Default)]
struct ModelTopic {
    /// The payloads, from sequence 1.
    payloads: Vec<String>,
    /// The sequence at which each id was first stored.
    ids: HashMap<u8, u64>,
    earliest: u64,
}

impl ModelTopic {
    fn earliest(&self) -> u64 {
        self.earliest.max(1)
    }

    fn tail(&self) -> u64 {
        self.payloads.len() as u64 + 1
    }

    fn trim(&mut self, earliest: u64) {
        self.earliest = self.earliest().max(earliest.min(self.tail()));
        let earliest = self.earliest();
        self.ids.retain(|_, sequence| *sequence >= earliest); // Dropped ids are forgotten.
    }

    fn payload(&self, sequence: u64) -> &str {
        &self.payloads[sequence as usize - 1]
    }
}

/// A reader. The reader with index `n` reads the topic with index `n`.
#[derive(Default)]
struct Reader {
    subscription: Option<leftoff::Reader>,
    /// The cursor with which the reader would reconnect.
    cursor: Option<String>,
    /// The sequence that the reader must get next.
    next: u64,
}

struct World {
    config: OpenConfig,
    directory: tempfile::TempDir,
    broker: Option<Broker>,
    topics: Vec<ModelTopic>,
    readers: Vec<Reader>,
    published: u64,
}

impl World {
    /// Opens a broker that keeps `max_tail_bytes` in memory; the rest is read from the log.
    fn new(max_tail_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = OpenConfig::default();
        config.broker.max_tail_bytes = max_tail_bytes;
        let broker = Some(Broker::open(directory.path(), &config).unwrap());
        let topics = TOPICS.iter().map(|_| ModelTopic::default()).collect();
        let readers = (0..READERS).map(|_| Reader::default()).collect();
        Self { config, directory, broker, topics, readers, published: 0 }
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Publish { topic, ids, condition } => self.publish(topic, &ids, condition).await,
            Step::Connect { reader } => self.connect(reader).await,
            Step::Take { reader, deliveries } => self.take(reader, deliveries).await,
            Step::Disconnect { reader } => self.readers[reader].subscription = None,
            Step::Page { topic, after, limit } => self.page(topic, after, limit).await,
            Step::Trim { topic, earliest } => self.trim(topic, earliest).await,
            Step::TrimAndTake { reader, earliest } => self.trim_and_take(reader, earliest).await,
            Step::Restart => self.restart().await,
        }
    }

    async fn publish(&mut self, topic: usize, ids: &[u8], condition: u8) {
        let model = &mut self.topics[topic];
        let mut events = Vec::new();
        let mut expected = Vec::new();
        let (mut payloads, mut stored) = (model.payloads.clone(), model.ids.clone());
        for id in ids {
            self.published += 1;
            let payload = self.published.to_string();
            let text = if *id == 0 { String::new() } else { id.to_string() };
            events.push(NewEvent { id: text, ..NewEvent::new(payload.clone()) });
            if *id > 0
                && let Some(first) = stored.get(id)
            {
                expected.push((*first, true));
                continue;
            }
            payloads.push(payload);
            expected.push((payloads.len() as u64, false));
            stored.insert(*id, payloads.len() as u64);
        }
        stored.remove(&0);
        let actual = model.tail() - 1;
        let expected_sequence = match condition {
            0 => Some(actual),
            1 => Some(actual + 1),
            _ => None,
        };
        let all_stored = expected.iter().all(|(_, duplicate)| *duplicate);
        let mut publish = Publish::new(name(TOPICS[topic]), events);
        publish.expected_sequence = expected_sequence;
        let outcome = self.broker.as_ref().unwrap().publish(publish).await;
        if expected_sequence == Some(actual + 1) && !all_stored {
            let Err(Error::UnexpectedSequence { actual: told, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(told, actual);
            return;
        }
        let ack = outcome.unwrap();
        let duplicate = |index| ack.duplicates.iter().any(|d| d.index == index);
        let given: Vec<(u64, bool)> = (0..ack.count)
            .map(|index| (ack.receipt(index).sequence.get(), duplicate(index)))
            .collect();
        assert_eq!(given, expected);
        (model.payloads, model.ids) = (payloads, stored);
    }

    async fn connect(&mut self, index: usize) {
        let topic = name(TOPICS[index]);
        let start = match &self.readers[index].cursor {
            Some(cursor) => cursor.parse().unwrap(),
            None => {
                self.readers[index].next = self.topics[index].earliest();
                StartPoint::Earliest
            }
        };
        let subscription = self.broker().subscribe(&topic, start, OnGap::Resume).await.unwrap();
        self.readers[index].cursor = Some(subscription.cursor().to_string());
        self.readers[index].subscription = Some(subscription);
    }

    async fn take(&mut self, index: usize, deliveries: usize) {
        let model = &self.topics[index];
        let reader = &mut self.readers[index];
        let Some(subscription) = &mut reader.subscription else { return };
        for _ in 0..deliveries {
            match subscription.next_ready().await.unwrap() {
                None => {
                    assert_eq!(reader.next, model.tail(), "the reader stopped before the end");
                    return;
                }
                Some(Delivery::CaughtUp) => assert_eq!(reader.next, model.tail()),
                Some(Delivery::Gap(gap)) => {
                    let told = (
                        gap.requested.number(),
                        gap.earliest.number(),
                        gap.tail.number(),
                        gap.lost,
                    );
                    let lost = model.earliest() - reader.next;
                    assert!(lost > 0, "a gap without a lost event");
                    assert!(told.2 <= model.tail());
                    assert_eq!(told.0, reader.next);
                    // The numbers are of the time at which the gap was found, at the connection or
                    // later.
                    assert!(told.1 <= model.earliest() && told.3 == Some(told.1 - reader.next));
                    reader.next = told.1;
                }
                Some(Delivery::Events(run)) => {
                    for event in run.events() {
                        assert_eq!(event.sequence.get(), reader.next);
                        assert_eq!(event.payload, model.payload(reader.next).as_bytes());
                        reader.next += 1;
                    }
                }
                Some(other) => panic!("nothing else is there: {other:?}"),
            }
            reader.cursor = Some(subscription.cursor().to_string());
        }
    }

    async fn page(&self, topic: usize, after: u64, limit: usize) {
        let model = &self.topics[topic];
        let start: StartPoint = after.to_string().parse().unwrap();
        let request = PageRequest::from(start).limit(limit).on_gap(OnGap::Fail);
        let outcome = self.broker().read(&name(TOPICS[topic]), request).await;
        if model.payloads.is_empty() {
            assert!(matches!(outcome, Err(Error::UnknownTopic(_))), "{outcome:?}");
            return;
        }
        let wanted = after + 1;
        if wanted > model.tail() || wanted < model.earliest() {
            let Err(Error::Gap(gap)) = outcome else { panic!("{outcome:?}") };
            let told = (gap.requested.number(), gap.earliest.number(), gap.tail.number());
            assert_eq!(told, (wanted, model.earliest(), model.tail()));
            return;
        }
        let page = outcome.unwrap();
        let seen: Vec<(u64, Vec<u8>)> = page
            .runs
            .iter()
            .flat_map(|run| run.to_events())
            .map(|event| (event.sequence.get(), event.content.payload.to_vec()))
            .collect();
        let expected: Vec<(u64, Vec<u8>)> = (wanted..model.tail())
            .take(limit)
            .map(|sequence| (sequence, model.payload(sequence).as_bytes().to_vec()))
            .collect();
        assert_eq!(seen, expected);
        assert_eq!(page.caught_up, wanted + expected.len() as u64 == model.tail());
    }

    async fn trim(&mut self, topic: usize, earliest: u64) {
        let outcome = self.broker().purge(&name(TOPICS[topic]), Sequence::new(earliest)).await;
        let model = &mut self.topics[topic];
        if model.payloads.is_empty() {
            assert!(matches!(outcome, Err(Error::UnknownTopic(_))), "{outcome:?}");
            return;
        }
        outcome.unwrap();
        model.trim(earliest);
        let info = self.broker().topic(&name(TOPICS[topic])).unwrap();
        assert_eq!(info.extent.earliest.get(), self.topics[topic].earliest());
    }

    /// Checks that a reader gets the events as they were before the trim, or after it.
    async fn trim_and_take(&mut self, reader: usize, earliest: u64) {
        if self.topics[reader].payloads.is_empty() {
            return;
        }
        self.topics[reader].trim(earliest);
        let (broker, topic) = (self.broker().clone(), name(TOPICS[reader]));
        let trim = tokio::spawn(async move { broker.purge(&topic, Sequence::new(earliest)).await });
        self.take(reader, usize::MAX).await;
        trim.await.unwrap().unwrap();
    }

    async fn restart(&mut self) {
        for reader in &mut self.readers {
            reader.subscription = None;
        }
        let broker = self.broker.take().unwrap();
        broker.close().await;
        drop(broker);
        self.broker = Some(Broker::open(self.directory.path(), &self.config).unwrap());
        let stored: HashMap<String, (u64, u64)> = self
            .broker()
            .topics(None, 100)
            .into_iter()
            .map(|topic| {
                (topic.name.to_string(), (topic.extent.earliest.get(), topic.extent.tail.get()))
            })
            .collect();
        let born = self.topics.iter().zip(TOPICS).filter(|(model, _)| !model.payloads.is_empty());
        let expected: HashMap<String, (u64, u64)> =
            born.map(|(m, topic)| (topic.to_owned(), (m.earliest(), m.tail()))).collect();
        assert_eq!(stored, expected);
    }
}

async fn run(max_tail_bytes: u64, steps: Vec<Step>) {
    let mut world = World::new(max_tail_bytes);
    for step in steps {
        world.apply(step).await;
    }
    // After all steps, every reader reaches the end.
    for reader in 0..READERS {
        world.connect(reader).await;
        world.take(reader, usize::MAX).await;
        assert_eq!(world.readers[reader].next, world.topics[reader].tail());
    }
}

#[test]
fn any_interleaving_equals_a_simple_model() {
    let max_shrink_time = MAX_SHRINK_MS;
    let config =
        Config { cases: 64, failure_persistence: None, max_shrink_time, ..Config::default() };
    let seed = seed();
    let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let steps = proptest::collection::vec(step(), 1..80);
    let max_tail_bytes = prop_oneof![Just(0_u64), Just(1_500), Just(64 << 20)];
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outcome = TestRunner::new_with_rng(config, random).run(
        &(max_tail_bytes, steps),
        |(max_tail_bytes, steps)| {
            runtime.block_on(async {
                let ran = tokio::time::timeout(MAX_RUN, run(max_tail_bytes, steps)).await;
                ran.expect("one run takes too long");
            });
            Ok(())
        },
    );
    outcome.unwrap_or_else(|error| panic!("LEFTOFF_SEED={seed}: {error}"));
}
