//! Walks and counts give what a reader that goes forwards gets, whatever was published, trimmed,
//! compacted, expired and deleted before.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::broker::*;
use crate::event::{NewEvent, Timestamp};
use crate::log::FaultyLog;
use crate::testing::{self, Clock};

const TOPICS: [&str; 3] = ["t.a", "t.b", "t.c"];

#[derive(Debug, Clone)]
enum Step {
    /// Publishes events, each with a key (0: none), a type, and perhaps a time to live.
    Publish(usize, Vec<(u8, u8, Option<u16>)>),
    Configure(usize, Option<u64>, bool),
    Maintain(usize),
    Wait(u64),
    Purge(usize, u64),
    Delete(usize),
    /// Publishes events that supersede each other, and has all topics compacted and trimmed while
    /// they are walked through and counted.
    Churn(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let topic = 0..TOPICS.len();
    let event = (0..4_u8, 0..3_u8, proptest::option::weighted(0.15, 1..2_000_u16));
    let limit = proptest::option::weighted(0.3, 5..60_u64);
    prop_oneof![
        12 => (topic.clone(), proptest::collection::vec(event, 1..9))
            .prop_map(|(topic, events)| Step::Publish(topic, events)),
        1 => (topic.clone(), limit, any::<bool>())
            .prop_map(|(topic, max_events, compact)| Step::Configure(topic, max_events, compact)),
        3 => topic.clone().prop_map(Step::Maintain),
        2 => (1..600_u64).prop_map(Step::Wait),
        1 => (topic.clone(), 1..80_u64).prop_map(|(topic, below)| Step::Purge(topic, below)),
        1 => topic.clone().prop_map(Step::Delete),
        2 => (topic, 1..40_u8).prop_map(|(topic, events)| Step::Churn(topic, events)),
    ]
}

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn broker(max_tail_bytes: u64, log: Arc<dyn Log>, clock: &Clock) -> Broker {
    let mut config = OpenConfig::default();
    config.broker.max_tail_bytes = max_tail_bytes;
    config.broker.max_block_bytes = 1_024;
    config.maintenance.interval_ms = 3_600_000;
    testing::Builder::default().log(log).clock(clock).config(config).open().unwrap()
}

async fn take(broker: &Broker, clock: &Clock, step: Step) {
    // A topic that does not exist is nothing to maintain.
    match step {
        Step::Publish(topic, events) => {
            let event = |(key, of, ttl): (u8, u8, Option<u16>)| NewEvent {
                key: if key == 0 { String::new() } else { format!("k{key}") },
                event_type: format!("t{of}"),
                ttl_ms: ttl.map(u64::from),
                ..NewEvent::new(vec![b'x'; usize::from(key) * 40])
            };
            let events: Vec<_> = events.into_iter().map(event).collect();
            broker.publish(Publish::new(name(TOPICS[topic]), events)).await.unwrap();
        }
        Step::Configure(topic, max_events, compact) => {
            let config =
                TopicConfig { max_events, compact: Some(compact), ..TopicConfig::default() };
            broker.set_topic(&name(TOPICS[topic]), config).await.unwrap();
        }
        Step::Maintain(topic) => drop(broker.maintain(Some(&name(TOPICS[topic]))).await),
        Step::Wait(ms) => clock.advance(Duration::from_millis(ms)),
        Step::Purge(topic, below) => {
            drop(broker.purge(&name(TOPICS[topic]), Sequence::new(below)).await);
        }
        Step::Delete(topic) => drop(broker.delete_topic(&name(TOPICS[topic])).await),
        Step::Churn(topic, events) => {
            let compacts = TopicConfig { compact: Some(true), ..TopicConfig::default() };
            broker.set_topic(&name(TOPICS[topic]), compacts).await.unwrap();
            for number in 0..events {
                let event = NewEvent::new("newer").with_type("t1");
                let event = event.with_key(format!("k{}", number % 4));
                broker.publish(Publish::one(name(TOPICS[topic]), event)).await.unwrap();
            }
            compare_meanwhile(broker, usize::from(events)).await;
        }
    }
}

/// An event as a test compares it: topic, sequence, position, and the length of the payload.
type Seen = (String, u64, u64, usize);

/// Returns the events of a selection as a reader gets them that goes forwards.
async fn forwards(broker: &Broker, patterns: &[TopicPattern], filter: &Filter) -> Vec<Seen> {
    let mut request = PageRequest::default().filter(filter.clone()).limit(7);
    let mut all = Vec::new();
    loop {
        let page = broker.read_many(patterns.to_vec(), request.clone()).await.unwrap();
        for run in &page.runs {
            let seen = |event: EventRef<'_>| {
                let (sequence, position) = (event.sequence.get(), event.position.get());
                (run.topic().to_string(), sequence, position, event.payload.len())
            };
            all.extend(run.events().map(seen));
        }
        if page.caught_up {
            return all;
        }
        request.start = StartPoint::After(page.cursor);
    }
}

fn seen(found: &TopicEvent) -> Seen {
    let TopicEvent { topic, event } = found;
    let (sequence, position) = (event.sequence.get(), event.position.get());
    (topic.to_string(), sequence, position, event.content.payload.len())
}

/// Returns the events of all pages, the newest first, while others are published to `meanwhile`.
async fn backwards(
    broker: &Broker,
    patterns: &[TopicPattern],
    request: NewestRequest,
    meanwhile: Option<&str>,
) -> Vec<Seen> {
    let (mut request, mut all) = (request, Vec::new());
    loop {
        let page = match patterns {
            [one] if one.is_name() => broker.newest(&name(one.as_str()), request.clone()).await,
            _ => broker.newest_of_many(patterns, request.clone()).await,
        };
        let page = match page {
            Err(Error::UnknownTopic(_)) => return all,
            page => page.unwrap(),
        };
        assert!(page.events.len() <= request.limit);
        all.extend(page.events.iter().map(seen));
        let Some(next) = page.next else { return all };
        assert_ne!(request.before, Some(next), "it stands still");
        request.before = Some(next);
        if let Some(topic) = meanwhile {
            let late = NewEvent::new("late").with_type("t1");
            broker.publish(Publish::one(name(topic), late)).await.unwrap();
        }
    }
}

/// Counts the events of each topic, by their sequences' halves.
#[derive(Debug, Default)]
struct Halves {
    /// The sequence at which the second half begins.
    middle: u64,
    topic: String,
    counted: [u64; 2],
    expires: Option<Timestamp>,
    done: BTreeMap<String, [u64; 2]>,
    decoded: u64,
}

impl EventCounter for Halves {
    fn begin(&mut self, topic: &SelectedTopic, _: &mut SeekAfter<'_>) -> Result<bool> {
        (self.topic, self.counted) = (topic.name().to_string(), [0; 2]);
        Ok(true)
    }

    fn span(&mut self, sequences: Range<Sequence>, events: Option<u64>) -> bool {
        let (start, end) = (sequences.start.get(), sequences.end.get());
        let middle = self.middle.clamp(start, end);
        match events {
            None => {
                self.counted[0] += middle - start;
                self.counted[1] += end - middle;
            }
            Some(events) if middle == start || middle == end => {
                self.counted[usize::from(middle == start)] += events;
            }
            Some(_) => return false,
        }
        true
    }

    fn event(&mut self, event: &EventRef<'_>, expires: Option<Timestamp>) {
        self.counted[usize::from(event.sequence.get() >= self.middle)] += 1;
        self.expires = self.expires.into_iter().chain(expires).min();
        self.decoded += 1;
    }

    fn end(&mut self) {
        self.done.insert(std::mem::take(&mut self.topic), self.counted);
    }
}

async fn count(broker: &Broker, selection: &str, filter: &Filter, middle: u64) -> Halves {
    let selected = broker.select(&selection.parse().unwrap()).await.unwrap();
    let counter = Halves { middle, ..Halves::default() };
    let filters = [filter.clone()];
    let (counter, is_cut) = broker.count(selected, filters, u64::MAX, counter).await.unwrap();
    assert!(!is_cut);
    counter
}

async fn compare(broker: &Broker, limit: usize, middle: u64) {
    let all: TopicPattern = "t.>".parse().unwrap();
    for filter in [Filter::default(), Filter::default().of_type("t1")] {
        for selection in TOPICS.iter().map(|t| t.parse().unwrap()).chain([all.clone()]) {
            let patterns = [selection];
            let expected = forwards(broker, &patterns, &filter).await;
            let request = NewestRequest::default().filter(filter.clone()).limit(limit);
            let mut found = backwards(broker, &patterns, request, None).await;
            found.reverse();
            assert_eq!(found, expected, "{patterns:?}");
            let counts = count(broker, patterns[0].as_str(), &filter, middle).await;
            let mut halves: BTreeMap<String, [u64; 2]> = BTreeMap::new();
            for (topic, sequence, ..) in &expected {
                halves.entry(topic.clone()).or_default()[usize::from(*sequence >= middle)] += 1;
            }
            let counted = counts.done.into_iter().filter(|(_, counted)| *counted != [0; 2]);
            assert_eq!(counted.collect::<BTreeMap<_, _>>(), halves, "{patterns:?}");
        }
    }
}

/// Goal: a walk and a count during which topics are compacted and trimmed have each event that is
/// there all the time, none that was not there, and none twice.
async fn compare_meanwhile(broker: &Broker, limit: usize) {
    let patterns = ["t.>".parse().unwrap()];
    let before = forwards(broker, &patterns, &Filter::default()).await;
    let tend = async {
        for topic in TOPICS {
            drop(broker.maintain(Some(&name(topic))).await); // It may not exist.
        }
    };
    let (request, all) = (NewestRequest::default().limit(limit), Filter::default());
    let (mut found, counted, ()) = tokio::join!(
        backwards(broker, &patterns, request, None),
        count(broker, "t.>", &all, 20),
        tend,
    );
    let after = forwards(broker, &patterns, &Filter::default()).await;
    found.reverse();
    assert!(found.is_sorted_by(|one, two| one.2 < two.2), "{found:?}");
    assert!(found.iter().all(|event| before.contains(event)), "{found:?} of {before:?}");
    assert!(after.iter().all(|event| found.contains(event)), "{found:?} has not {after:?}");
    for topic in TOPICS {
        let of = |events: &[Seen]| events.iter().filter(|event| event.0 == topic).count() as u64;
        let [one, two] = counted.done.get(topic).copied().unwrap_or_default();
        let (least, most) = (of(&after), of(&before));
        assert!((least..=most).contains(&(one + two)), "{topic}: {least} {one} {two} {most}");
    }
}

#[test]
fn walks_and_counts_give_what_a_reader_that_goes_forwards_gets() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seed: [u8; 32] = std::array::from_fn(|_| rand::random());
    println!("seed {seed:?}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::with_cases(48), rng);
    let tail = prop::sample::select(vec![0_u64, 4 << 10, 32 << 20]);
    let steps = proptest::collection::vec(step(), 1..60);
    let cases = (steps, tail, 1..30_usize, 0..80_u64);
    let run = |(steps, max_tail_bytes, limit, middle): (Vec<Step>, u64, usize, u64)| {
        runtime.block_on(async {
            let clock = Clock::new(testing::START);
            let broker = broker(max_tail_bytes, Arc::new(MemoryLog::default()), &clock);
            let count = steps.len();
            for (index, step) in steps.into_iter().enumerate() {
                take(&broker, &clock, step).await;
                if index % 13 == 12 || index + 1 == count {
                    compare(&broker, limit, middle).await;
                }
            }
            broker.close().await;
        });
        Ok(())
    };
    runner.run(&cases, run).unwrap();
}

async fn publish_many(broker: &Broker, topic: &str, count: usize) {
    let events = (0..count).map(|number| NewEvent::new(number.to_string())).collect();
    broker.publish(Publish::<Vec<NewEvent>>::new(name(topic), events)).await.unwrap();
}

#[tokio::test]
async fn pages_are_stable_while_new_events_arrive() {
    let clock = Clock::new(testing::START);
    for patterns in [vec!["t.a"], vec!["t.>"]] {
        let broker = broker(32 << 20, Arc::new(MemoryLog::default()), &clock);
        for _ in 0..5 {
            publish_many(&broker, "t.a", 3).await;
            publish_many(&broker, "t.b", 2).await;
        }
        let patterns: Vec<TopicPattern> =
            patterns.into_iter().map(|pattern| pattern.parse().unwrap()).collect();
        let mut expected = forwards(&broker, &patterns, &Filter::default()).await;
        expected.reverse();
        let request = NewestRequest::default().limit(2);
        assert_eq!(backwards(&broker, &patterns, request, Some("t.a")).await, expected);
    }
}

#[tokio::test]
async fn places_of_the_wrong_kind_and_of_another_epoch_are_refused_and_sizes_are_bounded() {
    let clock = Clock::new(testing::START);
    let broker = broker(32 << 20, Arc::new(MemoryLog::default()), &clock);
    publish_many(&broker, "t.a", 30).await;
    let (one, many) = (name("t.a"), ["t.>".parse().unwrap()]);
    let before = |cursor: &str| NewestRequest::default().before(cursor.parse().unwrap());
    let error = broker.newest(&one, before("@3")).await.unwrap_err().to_string();
    assert!(error.contains("@3 is a position; pages of one topic take a sequence"), "{error}");
    let error = broker.newest_of_many(&many, before("3")).await.unwrap_err().to_string();
    assert!(error.contains("3 is a sequence; pages of many topics take a position"), "{error}");
    let error = broker.newest(&one, before("3-00000000")).await.unwrap_err().to_string();
    assert!(error.contains("another epoch"), "{error}");
    let error = broker.newest_of_many(&[], NewestRequest::default()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(matches!(
        broker.newest(&name("t.x"), NewestRequest::default()).await,
        Err(Error::UnknownTopic(_))
    ));
    let page = broker.newest(&one, NewestRequest::default().max_bytes(1)).await.unwrap();
    assert_eq!(page.events.iter().map(|e| e.event.sequence.get()).collect::<Vec<_>>(), [30]);
    assert_eq!(page.next.unwrap().after.number(), 30, "events before 30 are next");
    let page = broker.newest(&one, before("9223372036854775807").limit(1)).await.unwrap();
    assert_eq!(page.events.len(), 1);
    let page = broker.newest_of_many(&many, before("@1")).await.unwrap();
    assert!(page.events.is_empty() && page.next.is_none());
}

/// Goal: a count of a topic from which nothing was dropped reads nothing, and one of a compacted
/// topic decodes nothing.
#[tokio::test]
async fn a_count_without_a_filter_decodes_nothing() {
    let clock = Clock::new(testing::START);
    let broker = broker(0, Arc::new(MemoryLog::default()), &clock);
    publish_many(&broker, "t.a", 500).await;
    let mut looks = 0..100;
    loop {
        assert!(looks.next().is_some(), "each look reads");
        let steps = broker.read_steps();
        let counts = count(&broker, "t.a", &Filter::default(), 101).await;
        assert_eq!(counts.done["t.a"], [100, 400]);
        if broker.read_steps() == steps {
            break; // Otherwise the machine was busy, and the time for a glance was over.
        }
    }
    let compacts = TopicConfig { compact: Some(true), ..TopicConfig::default() };
    broker.set_topic(&name("t.a"), compacts).await.unwrap();
    for number in 0..400 {
        let event = NewEvent::new("x").with_key(format!("k{}", number % 7));
        broker.publish(Publish::one(name("t.a"), event)).await.unwrap();
    }
    broker.maintain(Some(&name("t.a"))).await.unwrap();
    let counts = count(&broker, "t.a", &Filter::default(), 1).await;
    assert_eq!((counts.done["t.a"], counts.decoded), ([0, 507], 0));
}

/// Goal: a damaged block is an error where it is met, and the page before it is told first.
#[tokio::test]
async fn a_block_that_cannot_be_read_ends_the_page_before_it() {
    let faulty = Arc::new(FaultyLog::default());
    let clock = Clock::new(testing::START);
    let broker = broker(0, faulty.clone(), &clock);
    for _ in 0..3 {
        publish_many(&broker, "t.a", 2).await;
    }
    faulty.damage(Sequence::new(3));
    let newest = |request| {
        let broker = &broker;
        async move { broker.newest(&name("t.a"), request).await }
    };
    let page = newest(NewestRequest::default()).await.unwrap();
    let sequences = |page: &NewestPage| -> Vec<u64> {
        page.events.iter().map(|found| found.event.sequence.get()).collect()
    };
    assert_eq!((sequences(&page), page.next.unwrap().after.number()), (vec![6, 5], 5));
    let error = newest(NewestRequest::default().before(page.next.unwrap())).await.unwrap_err();
    let Error::Damaged { first, .. } = error else { panic!("{error}") };
    let before = Cursor::after(first, broker.epoch());
    let page = newest(NewestRequest::default().before(before)).await.unwrap();
    assert_eq!((sequences(&page), page.next), (vec![2, 1], None));
}
