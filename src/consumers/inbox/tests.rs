//! Counts, pages and groups are those of a model, whatever was published, marked, finished,
//! trimmed, compacted, deleted, and over restarts.
//!
//! The file is long, because the model and what it is compared with are one whole.

mod bounds;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::broker::{Broker, EventOrder, Filter, OpenConfig, PageRequest, Publish};
use crate::consumers::*;
use crate::cursor::{Cursor, Place, Sequence, StartPoint};
use crate::event::{NewEvent, Timestamp};
use crate::testing::{self, AnyLog, Clock, FaultyLog, sled_log};
use crate::topic::{TopicName, TopicPattern};
use crate::topic_config::TopicConfig;

const TOPICS: [&str; 3] = ["t.a", "t.b", "t.c"];

/// The selections of the consumers. The second one has a filter.
const SELECTIONS: [&str; 4] = ["t.a", "t.b", "t.>", "t.c"];

#[derive(Debug, Clone)]
enum Step {
    /// Publishes events, each with a key (0: none), a type, an actor, and perhaps a time to live.
    Publish(usize, Vec<(u8, u8, u8, Option<u16>)>),
    Configure(usize, Option<u64>, bool),
    Maintain(usize),
    Wait(u64),
    Purge(usize, u64),
    Delete(usize),
    Restart,
    /// Sets the checkpoint of a consumer to a part of all there is, in thousandths.
    Finish(usize, u64),
    /// Marks some of what the consumer reads, or takes the mark away.
    Mark(usize, Mark, bool, BTreeSet<usize>),
    /// Marks all up to a part of all there is, in thousandths.
    MarkUpTo(usize, Mark, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (topic, of) = (0..TOPICS.len(), 0..SELECTIONS.len());
    let event = (0..4_u8, 0..3_u8, 0..4_u8, proptest::option::weighted(0.1, 1..2_000_u16));
    let limit = proptest::option::weighted(0.3, 5..40_u64);
    let mark = || prop::sample::select(vec![Mark::Seen, Mark::Read, Mark::Archived, Mark::Snoozed]);
    let some = proptest::collection::btree_set(0..60_usize, 1..6);
    prop_oneof![
        10 => (topic.clone(), proptest::collection::vec(event, 1..7))
            .prop_map(|(topic, events)| Step::Publish(topic, events)),
        1 => (topic.clone(), limit, any::<bool>())
            .prop_map(|(topic, max_events, compact)| Step::Configure(topic, max_events, compact)),
        2 => topic.clone().prop_map(Step::Maintain),
        2 => (1..600_u64).prop_map(Step::Wait),
        1 => (topic.clone(), 1..60_u64).prop_map(|(topic, below)| Step::Purge(topic, below)),
        1 => topic.prop_map(Step::Delete),
        1 => Just(Step::Restart),
        3 => (of.clone(), 0..1_000_u64).prop_map(|(of, part)| Step::Finish(of, part)),
        8 => (of.clone(), mark(), prop::bool::weighted(0.3), some)
            .prop_map(|(of, mark, is_taken, some)| Step::Mark(of, mark, is_taken, some)),
        3 => (of, mark(), 0..1_000_u64).prop_map(|(of, mark, part)| Step::MarkUpTo(of, mark, part)),
    ]
}

/// An event as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    topic: String,
    sequence: u64,
    position: u64,
    key: String,
    event_type: String,
    actor: String,
}

impl Known {
    fn place(&self) -> (String, u64) {
        (self.topic.clone(), self.sequence)
    }
}

/// The state of one consumer, event by event.
#[derive(Debug, Default)]
struct ModelConsumer {
    /// The number of the checkpoint's place.
    finished: Option<u64>,
    /// The first event after the checkpoint of each topic that could be read when it was set.
    firsts: BTreeMap<String, u64>,
    /// The position of the last event then.
    last: u64,
    /// The topics that had lost events after the checkpoint by then.
    gone: BTreeSet<String>,
    marks: BTreeMap<(String, u64), EventMarks>,
}

impl ModelConsumer {
    fn of(&self, event: &Known, now: Timestamp) -> EventMarks {
        let mut marks = self.marks.get(&event.place()).copied().unwrap_or_default();
        marks.snoozed_until = marks.snoozed_until.filter(|until| *until > now);
        marks
    }

    fn mark(&mut self, event: &Known, mark: Mark, is_taken: bool, until: Timestamp) {
        let marks = self.marks.entry(event.place()).or_default();
        match (mark, is_taken) {
            (Mark::Seen, false) => marks.seen = true,
            (Mark::Seen, true) => (marks.seen, marks.read) = (false, false),
            (Mark::Read, false) => (marks.seen, marks.read) = (true, true),
            (Mark::Read, true) => marks.read = false,
            (Mark::Archived, false) => (marks.archived, marks.snoozed_until) = (true, None),
            (Mark::Archived, true) => marks.archived = false,
            (Mark::Snoozed, false) => {
                *marks = EventMarks { snoozed_until: Some(until), ..EventMarks::default() };
            }
            (Mark::Snoozed, true) => marks.snoozed_until = None,
        }
    }
}

/// A broker with its consumers, and the model of both.
struct World {
    clock: Clock,
    config: OpenConfig,
    log: WorldLog,
    broker: Broker,
    consumers: Consumers,
    published: Vec<Known>,
    model: Vec<ModelConsumer>,
    /// The last stamp of each consumer, with the counts that it had.
    stamps: Vec<Option<(CountsTag, Vec<EventCounts>)>>,
    /// Whether a topic was ever compacted, and whether any event ever expires.
    has_compacted: bool,
    has_expiring: bool,
}

enum WorldLog {
    Memory(AnyLog),
    Sled(tempfile::TempDir),
}

impl WorldLog {
    fn open(&self) -> AnyLog {
        match self {
            Self::Memory(log) => log.clone(),
            Self::Sled(directory) => sled_log(directory.path()),
        }
    }
}

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn id(of: usize) -> ConsumerId {
    ConsumerId::new(SELECTIONS[of].parse().unwrap(), "inbox".parse().unwrap())
}

fn own_filter(of: usize) -> Filter {
    if of == 1 { Filter::default().of_type("t1") } else { Filter::default() }
}

fn picks(filter: &Filter, event: &Known) -> bool {
    (filter.types.is_empty() || filter.types.contains(&event.event_type))
        && (filter.keys.is_empty() || filter.keys.contains(&event.key))
}

impl World {
    async fn new(log: WorldLog, max_tail_bytes: u64) -> Self {
        let clock = Clock::new(testing::START);
        let mut config = OpenConfig::default();
        config.broker.max_tail_bytes = max_tail_bytes;
        config.broker.max_block_bytes = 1_024;
        config.maintenance.interval_ms = 3_600_000;
        let open = testing::Builder::default().log(log.open()).clock(&clock);
        let broker = open.config(config.clone()).open().unwrap();
        let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.unwrap();
        let settings = ConsumerSettings::default().filter(own_filter(1));
        consumers.put(id(1), settings, None).await.unwrap();
        let model = SELECTIONS.map(|_| ModelConsumer::default()).into();
        let stamps = SELECTIONS.map(|_| None).into();
        Self {
            clock,
            config,
            log,
            broker,
            consumers,
            published: Vec::new(),
            model,
            stamps,
            has_compacted: false,
            has_expiring: false,
        }
    }

    async fn restart(&mut self) {
        self.broker.close().await;
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.unwrap();
        (self.consumers, self.broker) = (consumers, broker); // The old ones let go of the log.
        let open = testing::Builder::default().log(self.log.open()).clock(&self.clock);
        self.broker = open.config(self.config.clone()).open().unwrap();
        self.consumers = Consumers::open(&self.broker, &ConsumersConfig::default()).await.unwrap();
    }

    /// Returns the events of a selection as a reader gets them that goes forwards.
    async fn forwards(&self, selection: &str) -> Vec<Known> {
        let pattern: TopicPattern = selection.parse().unwrap();
        let mut request = PageRequest::default().limit(50);
        let mut all = Vec::new();
        loop {
            let page = self.broker.read_many(vec![pattern.clone()], request).await.unwrap();
            for run in &page.runs {
                all.extend(run.events().map(|event| Known {
                    topic: run.topic().to_string(),
                    sequence: event.sequence.get(),
                    position: event.position.get(),
                    key: event.key.to_owned(),
                    event_type: event.event_type.to_owned(),
                    actor: event.headers().map(|(_, value)| value.to_owned()).collect(),
                }));
            }
            if page.caught_up {
                return all;
            }
            request = PageRequest::from(StartPoint::After(page.cursor)).limit(50);
        }
    }

    /// Returns a place of a consumer: a part of all there is, in thousandths.
    fn place(&self, of: usize, part: u64) -> Place {
        match id(of).has_positions() {
            true => Place::Position((self.broker.last_position().get() * part / 1_000).into()),
            false => {
                let tail = self.broker.topic(&name(SELECTIONS[of])).map(|info| info.extent.tail);
                let last = tail.map_or(0, |tail| tail.previous().get());
                Place::Sequence((last * part / 1_000).into())
            }
        }
    }

    /// Whether an event is of a consumer's selection, and at or before this place.
    fn is_up_to(of: usize, event: &Known, place: u64) -> bool {
        let selection: TopicPattern = SELECTIONS[of].parse().unwrap();
        let number = if id(of).has_positions() { event.position } else { event.sequence };
        selection.matches(&name(&event.topic)) && number <= place
    }

    async fn take(&mut self, step: Step) {
        let now = self.clock.now();
        match step {
            Step::Publish(topic, events) => self.publish(TOPICS[topic], events).await,
            Step::Configure(topic, max_events, compact) => {
                self.has_compacted |= compact;
                let config =
                    TopicConfig { max_events, compact: Some(compact), ..TopicConfig::default() };
                self.broker.set_topic(&name(TOPICS[topic]), config).await.unwrap();
            }
            // A topic that does not exist is nothing to maintain.
            Step::Maintain(topic) => drop(self.broker.maintain(Some(&name(TOPICS[topic]))).await),
            Step::Wait(ms) => self.clock.advance(Duration::from_millis(ms)),
            Step::Purge(topic, below) => {
                drop(self.broker.purge(&name(TOPICS[topic]), Sequence::new(below)).await);
            }
            Step::Delete(topic) => drop(self.broker.delete_topic(&name(TOPICS[topic])).await),
            Step::Restart => self.restart().await,
            Step::Finish(of, part) => {
                let after = self.place(of, part);
                let to = Checkpoint::at(Cursor { after, since: None, epoch: None });
                let Ok(ack) = self.consumers.checkpoint(&id(of), to).await else { return };
                if ack.moved {
                    let there = self.forwards(SELECTIONS[of]).await;
                    let last = self.published.last().map_or(0, |event| event.position);
                    let gone = self.lost(of, after.number()).map(|event| event.topic.clone());
                    let gone = gone.collect();
                    let model = &mut self.model[of];
                    model.finished = Some(after.number());
                    let there = there.iter().rev();
                    let there = there.filter(|event| !Self::is_up_to(of, event, after.number()));
                    model.firsts = there.map(Known::place).collect();
                    (model.last, model.gone) = (last, gone);
                }
            }
            Step::Mark(of, mark, is_taken, some) => {
                let events = self.forwards(SELECTIONS[of]).await;
                let events: Vec<_> =
                    some.iter().filter_map(|index| events.get(*index)).cloned().collect();
                let named = events.iter().map(|event| EventName::OfTopic {
                    topic: name(&event.topic),
                    sequence: Sequence::new(event.sequence),
                });
                let until = now.plus_ms(700);
                let request = MarkRequest::of(MarkedEvents::Named(named.collect()));
                let request = match (mark, is_taken) {
                    (mark, true) => request.unmark(mark),
                    (Mark::Snoozed, false) => request.snooze_until(until),
                    (mark, false) => request.mark(mark),
                };
                let ack = self.consumers.mark(&id(of), request, "tester").await.unwrap();
                assert_eq!(ack.gone, 0, "they were just read");
                events.iter().for_each(|event| {
                    self.model[of].mark(event, mark, is_taken, until);
                });
            }
            Step::MarkUpTo(_, Mark::Snoozed, _) => {}
            Step::MarkUpTo(of, mark, part) => {
                let after = self.place(of, part);
                let cursor = Cursor { after, since: None, epoch: None };
                let (filter, marks) = (Filter::default(), MarkFilter::default());
                let events = MarkedEvents::UpTo { cursor, filter, marks };
                let request = MarkRequest::of(events).mark(mark);
                let Ok(_ack) = self.consumers.mark(&id(of), request, "tester").await else {
                    return; // The topic does not exist.
                };
                let (published, model) = (&self.published, &mut self.model[of]);
                for event in published.iter().filter(|e| Self::is_up_to(of, e, after.number())) {
                    if model.of(event, now).snoozed_until.is_none() {
                        model.mark(event, mark, false, now);
                    }
                }
            }
        }
    }

    async fn publish(&mut self, topic: &str, events: Vec<(u8, u8, u8, Option<u16>)>) {
        let event = |(key, of, actor, ttl): (u8, u8, u8, Option<u16>)| {
            let mut event = NewEvent {
                key: if key == 0 { String::new() } else { format!("k{key}") },
                event_type: format!("t{of}"),
                ttl_ms: ttl.map(u64::from),
                ..NewEvent::new(vec![b'x'; 60])
            };
            if actor > 0 {
                event.headers.insert("who".to_owned(), format!("a{actor}"));
            }
            event
        };
        self.has_expiring |= events.iter().any(|(.., ttl)| ttl.is_some());
        let events: Vec<_> = events.into_iter().map(event).collect();
        let ack = self.broker.publish(Publish::new(name(topic), events.clone())).await.unwrap();
        for (index, event) in events.iter().enumerate() {
            let receipt = ack.receipt(index);
            self.published.push(Known {
                topic: topic.to_owned(),
                sequence: receipt.sequence.get(),
                position: receipt.position.get(),
                key: event.key.clone(),
                event_type: event.event_type.clone(),
                actor: event.headers.values().cloned().collect(),
            });
        }
    }

    /// Returns the counts that the model has for a filter.
    fn count(&self, of: usize, events: &[Known], filter: &Filter) -> EventCounts {
        let (model, now) = (&self.model[of], self.clock.now());
        let mut count = EventCounts::default();
        for event in events.iter().filter(|event| picks(filter, event)) {
            let marks = model.of(event, now);
            let in_inbox = marks.in_inbox();
            let is_finished =
                model.finished.is_some_and(|finished| Self::is_up_to(of, event, finished));
            count.total += 1;
            count.unfinished += u64::from(!is_finished);
            count.inbox += u64::from(in_inbox);
            count.unseen += u64::from(in_inbox && !marks.seen);
            count.unread += u64::from(in_inbox && !marks.read);
            count.archived += u64::from(marks.archived);
            count.snoozed += u64::from(marks.snoozed_until.is_some() && !marks.archived);
        }
        count.lost = model.finished.map_or(0, |finished| self.lost(of, finished).count() as u64);
        count
    }

    /// Returns the events of a consumer's topics after this place that were trimmed.
    fn lost(&self, of: usize, finished: u64) -> impl Iterator<Item = &Known> {
        let is_trimmed = |event: &&Known| {
            let info = self.broker.topic(&name(&event.topic));
            info.map_or(true, |info| event.sequence < info.extent.earliest.get())
        };
        let selected =
            self.published.iter().filter(move |event| Self::is_up_to(of, event, u64::MAX));
        let unfinished = selected.filter(move |event| !Self::is_up_to(of, event, finished));
        unfinished.filter(is_trimmed)
    }

    /// Returns the least number of lost events that a consumer of a pattern is told: those from the
    /// first one on that could be read when the checkpoint was set, and those that came later; one
    /// for each topic that had lost events by then, unless it was compaction that dropped them.
    fn least_lost(&self, of: usize) -> u64 {
        let model = &self.model[of];
        let Some(finished) = model.finished else { return 0 };
        let is_known = |event: &&Known| {
            !model.gone.contains(&event.topic)
                && (event.position > model.last
                    || model.firsts.get(&event.topic).is_some_and(|first| *first <= event.sequence))
        };
        let known = self.lost(of, finished).filter(is_known).count();
        let others = if self.has_compacted { 0 } else { model.gone.len() };
        (known + others) as u64
    }

    async fn compare(&mut self, of: usize, limit: usize, wanted: MarkFilter) {
        let events = self.forwards(SELECTIONS[of]).await;
        let events: Vec<_> =
            events.into_iter().filter(|event| picks(&own_filter(of), event)).collect();
        self.compare_counts(of, &events).await;
        for filter in [Filter::default(), Filter::default().of_type("t1")] {
            self.compare_pages(of, &events, limit, (wanted, &filter)).await;
        }
        for by in [GroupBy::Key, GroupBy::Header("who".to_owned())] {
            self.compare_groups(of, &events, limit, (wanted, by)).await;
        }
    }

    async fn compare_counts(&mut self, of: usize, events: &[Known]) {
        let filters = [
            Filter::default(),
            Filter::default().of_type("t1"),
            Filter::default().of_key("k2").of_type("t0"),
        ];
        let tag = self.consumers.counts_tag(&id(of)).await.unwrap();
        let asked = filters.clone().map(CountFilter::from);
        let counts = self.consumers.counts(&id(of), &asked).await.unwrap();
        assert_eq!(tag, self.consumers.counts_tag(&id(of)).await.unwrap(), "nothing happened");
        for (count, filter) in counts.counts.iter().zip(&filters) {
            let mut expected = self.count(of, events, filter);
            if id(of).has_positions() {
                let (least, gone) = (self.least_lost(of), &self.model[of].gone);
                let about = format!("{least} <= {count:?} <= {expected:?}, {gone:?}");
                assert!(least <= count.lost && count.lost <= expected.lost, "{about}");
                assert!(!count.lost_more_than || !gone.is_empty(), "{about}");
                let is_least = gone.is_empty() && !self.has_expiring;
                assert!(!is_least || count.lost == least, "{about}");
                if count.lost_more_than || self.has_compacted {
                    (expected.lost, expected.lost_more_than) = (count.lost, count.lost_more_than);
                }
            }
            assert_eq!(*count, expected, "{} {filter:?}", SELECTIONS[of]);
        }
        if let Some((before, earlier)) = &self.stamps[of]
            && *before == tag
        {
            assert_eq!(*earlier, counts.counts, "equal stamps are of equal counts");
        }
        self.stamps[of] = Some((tag, counts.counts));
    }

    async fn compare_pages(
        &self,
        of: usize,
        events: &[Known],
        limit: usize,
        (wanted, filter): (MarkFilter, &Filter),
    ) {
        let now = self.clock.now();
        let marked = events.iter().filter(|event| picks(filter, event));
        let marked = marked.map(|event| (event.place(), self.model[of].of(event, now)));
        let mut expected: Vec<_> = marked.filter(|(_, marks)| wanted.picks(marks)).collect();
        for order in [EventOrder::Oldest, EventOrder::Newest] {
            let mut request =
                InboxRequest::default().order(order).limit(limit).filter(filter.clone());
            request.marks = wanted;
            let mut found = Vec::new();
            loop {
                let page = self.consumers.inbox(&id(of), request.clone()).await.unwrap();
                assert!(page.events.len() <= limit);
                found.extend(
                    page.events
                        .into_iter()
                        .map(|of| ((of.topic.to_string(), of.event.sequence.get()), of.marks)),
                );
                let Some(next) = page.next else { break };
                assert_ne!(request.from, Some(next), "it stands still");
                request.from = Some(next);
            }
            assert_eq!(found, expected, "{} {order:?} {wanted:?}", SELECTIONS[of]);
            expected.reverse();
        }
    }

    async fn compare_groups(
        &self,
        of: usize,
        events: &[Known],
        limit: usize,
        (wanted, by): (MarkFilter, GroupBy),
    ) {
        let now = self.clock.now();
        let mut expected: Vec<(String, Vec<(&Known, EventMarks)>)> = Vec::new();
        for event in events.iter().rev() {
            let key = match &by {
                GroupBy::Key => &event.key,
                _ => &event.actor,
            };
            let key =
                if key.is_empty() { format!("alone {}", event.position) } else { key.clone() };
            let index = expected.iter().position(|(other, _)| *other == key);
            let index = index.unwrap_or_else(|| {
                expected.push((key, Vec::new()));
                expected.len() - 1
            });
            let marks = self.model[of].of(event, now);
            if wanted.picks(&marks) {
                expected[index].1.push((event, marks));
            }
        }
        expected.retain(|(_, events)| !events.is_empty());
        let mut request = GroupRequest::default().limit(limit).actors("who").max_actors(2);
        (request.by, request.marks) = (by, wanted);
        let mut expected = expected.iter();
        loop {
            let page = self.consumers.groups(&id(of), request.clone()).await.unwrap();
            assert!(page.groups.len() <= limit && !page.more_than);
            for group in page.groups {
                let (_, events) = expected.next().expect("a group too many");
                let latest = (group.latest.topic.to_string(), group.latest.event.sequence.get());
                assert_eq!(latest, events[0].0.place(), "{group:?}");
                let sum = |is: fn(&EventMarks) -> bool| {
                    events.iter().filter(|(_, marks)| is(marks)).count() as u64
                };
                let numbers = [group.events, group.unseen, group.unread, group.archived];
                let all = [sum(|_| true), sum(|m| !m.seen), sum(|m| !m.read), sum(|m| m.archived)];
                assert_eq!(numbers, all, "{group:?}");
                assert_eq!(group.snoozed, sum(|marks| marks.snoozed_until.is_some()));
                let mut seen = HashSet::new();
                let actors = events.iter().map(|(event, _)| event.actor.clone());
                let actors: Vec<_> = actors
                    .filter(|actor| !actor.is_empty() && seen.insert(actor.clone()))
                    .collect();
                assert_eq!(group.actors, actors[..actors.len().min(2)]);
                assert_eq!(group.has_more_actors, actors.len() > 2);
            }
            let Some(next) = page.next else { break };
            assert_eq!(next.to_string().parse::<GroupCursor>().unwrap(), next);
            request.from = Some(next);
        }
        assert_eq!(expected.next(), None, "a group is missing");
    }
}

/// The steps of a case, the memory for tails, the size of pages, and the marks that are asked for.
type Case = (Vec<Step>, u64, usize, [Option<bool>; 4]);

fn compare_with_a_model(cases: u32, steps: usize, log: fn() -> WorldLog) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let seed: [u8; 32] = std::array::from_fn(|_| rand::random());
    println!("seed {seed:?}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::with_cases(cases), rng);
    let tail = prop::sample::select(vec![0_u64, 4 << 10, 32 << 20]);
    let wanted = proptest::array::uniform4(proptest::option::weighted(0.3, any::<bool>()));
    let cases = (proptest::collection::vec(step(), 1..steps), tail, 1..20_usize, wanted);
    let run = |(steps, max_tail_bytes, limit, wanted): Case| {
        runtime.block_on(async {
            let [seen, read, archived, snoozed] = wanted;
            let wanted = MarkFilter { seen, read, archived, snoozed };
            let mut world = World::new(log(), max_tail_bytes).await;
            let count = steps.len();
            for (index, step) in steps.into_iter().enumerate() {
                world.take(step).await;
                let of = index % SELECTIONS.len();
                if index % 5 == 4 || index + 1 == count {
                    world.compare(of, limit, wanted).await;
                    world.compare(of, limit, MarkFilter::INBOX).await;
                    world.compare(2, limit, wanted).await;
                }
            }
            world.broker.close().await;
        });
        Ok(())
    };
    runner.run(&cases, run).unwrap();
}

#[test]
fn counts_pages_and_groups_are_those_of_a_model() {
    compare_with_a_model(48, 80, || WorldLog::Memory(Arc::<FaultyLog>::default()));
}

#[test]
fn counts_pages_and_groups_are_those_of_a_model_on_disk() {
    compare_with_a_model(6, 60, || WorldLog::Sled(tempfile::tempdir().unwrap()));
}
