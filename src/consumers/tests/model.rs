//! Consumers behave as a simple model does, with any interleaving of publishes, checkpoints, marks,
//! snoozes, deletes, retention, refused commits and restarts, by several callers at once.
//!
//! The model keeps the marks of each event by itself, one by one. The consumers keep watermarks and
//! exceptions. After each round, each event that can be read must have the model's marks.
//!
//! The file is longer than others, because the model and its calls are read side by side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::super::finding::is_whole;
use super::super::*;
use crate::broker::{EventOrder, Filter, Publish, WalkAnswer, WalkVisitor, WalkedEvent};
use crate::cursor::{Place, Position, Sequence};
use crate::event::{NewEvent, Timestamp};
use crate::testing::{AnyLog, Builder, Clock, Fault, FaultyLog, START, sled_log};
use crate::topic::{TopicName, TopicPattern};
use crate::topic_config::TopicConfig;

const TOPICS: [&str; 4] = ["u.a", "u.b", "u.c", "x"];
const SELECTIONS: [&str; 3] = ["u.a", "u.*", ">"];
const OWNERS: [&str; 2] = ["", "one"];
const TYPES: [&str; 2] = ["mention", "like"];
const HOUR: Duration = Duration::from_secs(3_600);

/// Where the events of a run are kept.
enum Storage {
    Memory(Arc<FaultyLog>),
    Sled(tempfile::TempDir),
}

impl Storage {
    fn log(&self) -> AnyLog {
        match self {
            Self::Memory(log) => log.clone(),
            Self::Sled(directory) => sled_log(directory.path()),
        }
    }
}

/// One event of the model.
#[derive(Debug, Clone)]
struct ModelEvent {
    topic: TopicName,
    sequence: u64,
    position: u64,
    event_type: &'static str,
    id: String,
}

/// One consumer of the model: the state of each event that was ever marked.
#[derive(Debug, Clone, Default, PartialEq)]
struct ModelConsumer {
    checkpoint: Option<u64>,
    filter: Filter,
    marks: BTreeMap<(TopicName, u64), EventMarks>,
}

/// A call and what the model says of it.
#[derive(Debug, Clone)]
enum Call {
    Put(Filter),
    Update(Filter),
    Delete,
    Checkpoint(Checkpoint),
    Mark(Box<MarkRequest>),
}

/// The answer to a call.
#[derive(Debug)]
enum ModelAnswer {
    Done,
    Checkpoint(CheckpointAck),
    Marks(MarkAck),
}

struct ModelRun {
    random: StdRng,
    clock: Clock,
    storage: Storage,
    broker: Broker,
    consumers: Consumers,
    events: Vec<ModelEvent>,
    model: BTreeMap<ConsumerId, ModelConsumer>,
}

fn ids() -> Vec<ConsumerId> {
    let of_owner = |owner: &&str| {
        let owner = (*owner).to_owned();
        SELECTIONS.map(move |selection| {
            let selection: TopicPattern = selection.parse().unwrap();
            ConsumerId::new(selection, "inbox".parse().unwrap()).of_owner(owner.clone())
        })
    };
    OWNERS.iter().flat_map(of_owner).collect()
}

/// Collects all events that can be read.
struct All(Vec<(TopicName, u64, u64)>);

impl WalkVisitor for All {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        let (sequence, position) = (walked.event.sequence.get(), walked.event.position.get());
        self.0.push((walked.topic.clone(), sequence, position));
        WalkAnswer::GoOn
    }
}

impl ModelRun {
    async fn begin(seed: u64, storage: Storage) -> Self {
        let clock = Clock::new(START);
        let broker = Builder::default().log(storage.log()).clock(&clock).open().unwrap();
        let compacted = TopicConfig { compact: Some(true), ..TopicConfig::default() };
        broker.set_topic(&"u.c".parse().unwrap(), compacted).await.unwrap();
        let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.unwrap();
        let random = StdRng::seed_from_u64(seed);
        let (events, model) = Default::default();
        Self { random, clock, storage, broker, consumers, events, model }
    }

    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())].clone()
    }

    fn now(&self) -> Timestamp {
        self.broker.now()
    }

    /// Returns the number of an event's place, as the places of the consumer are.
    fn place(id: &ConsumerId, event: &ModelEvent) -> u64 {
        if id.has_positions() { event.position } else { event.sequence }
    }

    async fn publish(&mut self) {
        let topic: TopicName = self.one_of(&TOPICS).parse().unwrap();
        let count = self.random.random_range(1..6);
        let events: Vec<(&'static str, String)> = (0..count)
            .map(|index| (self.one_of(&TYPES), format!("id-{}", self.events.len() + index)))
            .collect();
        let key = |random: &mut StdRng| format!("key-{}", random.random_range(0..4));
        let new = events.iter().map(|(event_type, id)| {
            let key = key(&mut self.random);
            NewEvent::new("x").with_type(*event_type).with_id(id.clone()).with_key(key)
        });
        let publish = Publish::new(topic.clone(), new.collect());
        let Ok(ack) = self.broker.publish(publish).await else { return };
        for (index, (event_type, id)) in events.into_iter().enumerate() {
            let receipt = ack.receipt(index);
            let (sequence, position) = (receipt.sequence.get(), receipt.position.get());
            self.events.push(ModelEvent {
                topic: topic.clone(),
                sequence,
                position,
                event_type,
                id,
            });
        }
    }

    /// Returns all events that can be read, of the model.
    async fn kept(&self) -> Vec<ModelEvent> {
        let mut kept = Vec::new();
        for topic in TOPICS {
            let selection = topic.parse().unwrap();
            let order = (EventOrder::Newest, None);
            let walk = self.broker.walk(&selection, order, [], u64::MAX, All(Vec::new())).await;
            for (topic, sequence, position) in walk.unwrap().0.0 {
                let is_it =
                    |event: &&ModelEvent| event.topic == topic && event.sequence == sequence;
                let event = self.events.iter().find(is_it).expect("it was published");
                assert_eq!(event.position, position);
                kept.push(event.clone());
            }
        }
        kept
    }

    fn cursor(id: &ConsumerId, number: u64) -> Cursor {
        let after = match id.has_positions() {
            true => Place::Position(Position::new(number)),
            false => Place::Sequence(Sequence::new(number)),
        };
        Cursor { after, since: None, epoch: None }
    }

    /// Returns the number of the place of some event that the consumer reads; 0 if there is none.
    fn some_place(&mut self, id: &ConsumerId, kept: &[ModelEvent]) -> u64 {
        let selected = kept.iter().filter(|event| id.selection.matches(&event.topic));
        let places: Vec<u64> = selected.map(|event| Self::place(id, event)).collect();
        if places.is_empty() { 0 } else { self.one_of(&places) }
    }

    fn call(&mut self, id: &ConsumerId, kept: &[ModelEvent]) -> Call {
        let filter = match self.random.random_range(0..2) {
            0 => Filter::default(),
            _ => Filter::default().of_type(self.one_of(&TYPES)),
        };
        match self.random.random_range(0..20) {
            0 => Call::Put(filter),
            1 => Call::Update(filter),
            2 => Call::Delete,
            3..8 => {
                let to = Checkpoint::at(Self::cursor(id, self.some_place(id, kept)));
                let present = self.model.get(id).and_then(|consumer| consumer.checkpoint);
                let to = match self.random.random_range(0..4) {
                    0 => to.expecting(present.map(|number| Self::cursor(id, number))),
                    1 => to.expecting(Some(Self::cursor(id, 1))),
                    _ => to,
                };
                Call::Checkpoint(if self.random.random() { to.forced() } else { to })
            }
            _ => Call::Mark(Box::new(self.mark_request(id, kept, filter))),
        }
    }

    fn mark_request(
        &mut self,
        id: &ConsumerId,
        kept: &[ModelEvent],
        filter: Filter,
    ) -> MarkRequest {
        let up_to = Self::cursor(id, self.some_place(id, kept));
        let selected: Vec<&ModelEvent> =
            kept.iter().filter(|event| id.selection.matches(&event.topic)).collect();
        let events = match self.random.random_range(0..5) {
            _ if selected.is_empty() => MarkedEvents::up_to(up_to),
            0 => MarkedEvents::up_to(up_to),
            1 => {
                let some = [None, Some(true), Some(false)];
                let [seen, read, archived, snoozed] = [(); 4].map(|()| self.one_of(&some));
                let marks = MarkFilter { seen, read, archived, snoozed };
                MarkedEvents::UpTo { cursor: up_to, filter, marks }
            }
            _ => {
                let names = (0..self.random.random_range(1..6)).map(|_| {
                    let event = selected[self.random.random_range(0..selected.len())];
                    match self.random.random_range(0..3) {
                        0 if !id.has_positions() => {
                            EventName::Sequence(Sequence::new(event.sequence))
                        }
                        1 => EventName::Id { id: event.id.clone() },
                        _ => EventName::OfTopic {
                            topic: event.topic.clone(),
                            sequence: Sequence::new(event.sequence),
                        },
                    }
                });
                MarkedEvents::Named(names.collect())
            }
        };
        let request = MarkRequest::of(events);
        let marks = [Mark::Seen, Mark::Read, Mark::Archived];
        let mark = self.one_of(&marks);
        match self.random.random_range(0..8) {
            0 => {
                let wait = HOUR.mul_f64(self.random.random_range(0.1..3.0));
                request.snooze_until(self.now().plus_ms(wait.as_millis() as u64))
            }
            1 => request.unmark(Mark::Snoozed),
            2 | 3 => request.unmark(mark),
            4 => request.mark(Mark::Read).mark(Mark::Archived),
            _ => request.mark(mark),
        }
    }

    /// Calls the consumers, and changes the model as the answer says. Returns the consumers' errors
    /// that no fault explains.
    async fn called(consumers: &Consumers, id: &ConsumerId, call: &Call) -> Result<ModelAnswer> {
        match call.clone() {
            Call::Put(filter) => {
                let settings = ConsumerSettings::default().filter(filter);
                consumers.put(id.clone(), settings, None).await.map(|_| ModelAnswer::Done)
            }
            Call::Update(filter) => {
                let change = ConsumerChange::default().filter(filter);
                consumers.update(id, change).await.map(|_| ModelAnswer::Done)
            }
            Call::Delete => consumers.delete(id).await.map(|()| ModelAnswer::Done),
            Call::Checkpoint(to) => consumers.checkpoint(id, to).await.map(ModelAnswer::Checkpoint),
            Call::Mark(request) => {
                consumers.mark(id, *request, "caller").await.map(ModelAnswer::Marks)
            }
        }
    }

    /// Changes the model by a call that was answered.
    fn apply(&mut self, id: &ConsumerId, call: &Call, answer: &ModelAnswer, kept: &[ModelEvent]) {
        match call {
            Call::Put(filter) => {
                self.model.entry(id.clone()).or_default().filter = filter.clone();
            }
            Call::Update(filter) => {
                self.model.get_mut(id).expect("it exists").filter = filter.clone();
            }
            Call::Delete => drop(self.model.remove(id)),
            Call::Checkpoint(to) => {
                let (number, force) = (to.to.after.number(), to.force);
                let present = self.model.get(id).and_then(|consumer| consumer.checkpoint);
                if number > present.unwrap_or(0) || force && number != present.unwrap_or(0) {
                    let consumer = self.model.entry(id.clone()).or_default();
                    consumer.checkpoint = Some(number).filter(|number| *number > 0);
                }
            }
            Call::Mark(request) => {
                let mut before = self.model.get(id).cloned().unwrap_or_default();
                let now = self.now();
                for marks in before.marks.values_mut() {
                    // A snooze whose time is over is as if it were not there.
                    marks.snoozed_until = marks.snoozed_until.filter(|until| *until > now);
                }
                before.marks.retain(|_, marks| *marks != EventMarks::default());
                let mut after = before.clone();
                for event in self.asked(id, &before, request, kept) {
                    let key = (event.topic.clone(), event.sequence);
                    mark(after.marks.entry(key).or_default(), request);
                }
                after.marks.retain(|_, marks| *marks != EventMarks::default());
                let ModelAnswer::Marks(ack) = answer else { panic!("{answer:?}") };
                assert!(ack.changed || after == before, "{id:?} {request:?}");
                // A watermark may rise though no event that is kept gets a mark by it.
                if ack.changed || self.model.contains_key(id) {
                    self.model.insert(id.clone(), after);
                }
            }
        }
    }

    /// Returns the events of a request, by the marks that the model has.
    fn asked(
        &self,
        id: &ConsumerId,
        consumer: &ModelConsumer,
        request: &MarkRequest,
        kept: &[ModelEvent],
    ) -> Vec<ModelEvent> {
        let selected = |event: &&ModelEvent| id.selection.matches(&event.topic);
        let of_type = |filter: &Filter, event: &ModelEvent| {
            filter.types.is_empty() || filter.types.contains(event.event_type)
        };
        let is_own = |event: &ModelEvent| of_type(&consumer.filter, event);
        match &request.events {
            MarkedEvents::Named(names) => {
                let is_named = |event: &&ModelEvent| {
                    names.iter().any(|name| match name {
                        EventName::Sequence(sequence) => sequence.get() == event.sequence,
                        EventName::OfTopic { topic, sequence } => {
                            *topic == event.topic && sequence.get() == event.sequence
                        }
                        EventName::Id { id } => *id == event.id && is_own(event),
                    })
                };
                kept.iter().filter(selected).filter(is_named).cloned().collect()
            }
            MarkedEvents::UpTo { cursor, filter, marks } => {
                let default = !request.unmark.contains(&Mark::Snoozed);
                let marks = match marks.snoozed {
                    None if default => MarkFilter { snoozed: Some(false), ..*marks },
                    _ => *marks,
                };
                // Without any filter, all events get the marks, and not those of the consumer's own
                // filter alone: the others are in none of its lists.
                let is_all = filter.is_empty() && is_whole(request, &marks);
                let is_listed = |event: &&ModelEvent| {
                    Self::place(id, event) <= cursor.after.number()
                        && (is_all || of_type(filter, event) && is_own(event))
                        && marks.picks(&marks_of(consumer, event, self.now()))
                };
                kept.iter().filter(selected).filter(is_listed).cloned().collect()
            }
        }
    }

    /// Some callers at once, each with a consumer of its own: what one does is no matter of the
    /// others, though all are stored together.
    async fn round(&mut self) {
        let kept = self.kept().await;
        let mut calls = Vec::new();
        for id in ids() {
            if self.random.random_range(0..3) > 0 {
                let call = self.call(&id, &kept);
                calls.push((id, call));
            }
        }
        if let Storage::Memory(log) = &self.storage
            && self.random.random_range(0..6) == 0
        {
            let fault = [Fault::NotWritten, Fault::DiskFull][self.random.random_range(0..2)];
            log.fail(log.appends() + 1 + self.random.random_range(0..2), fault);
        }
        let answers = calls.iter().map(|(id, call)| Self::called(&self.consumers, id, call));
        let answers = join_all(answers).await;
        for ((id, call), answer) in calls.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    self.apply(&id, &call, &answer, &kept);
                    let present = self.model.get(&id).and_then(|consumer| consumer.checkpoint);
                    if let ModelAnswer::Checkpoint(ack) = answer {
                        let told = ack.checkpoint.map(|cursor| cursor.after.number());
                        assert_eq!(told, present, "{id:?} {call:?}");
                    }
                }
                Err(Error::NotWritten(_) | Error::DiskFull { .. }) => {}
                Err(error) => self.check_refusal(&id, &call, &error),
            }
        }
    }

    /// Checks that the model refuses what the consumers refused.
    fn check_refusal(&self, id: &ConsumerId, call: &Call, error: &Error) {
        let is_there = self.model.contains_key(id);
        let filter = self.model.get(id).map(|consumer| &consumer.filter);
        match (call, error) {
            (Call::Update(_) | Call::Delete, Error::UnknownConsumer(_)) => assert!(!is_there),
            (Call::Checkpoint(to), Error::UnexpectedCheckpoint { .. }) => {
                let present = self.model.get(id).and_then(|consumer| consumer.checkpoint);
                let expected = to.expected.unwrap().map(|cursor| cursor.after.number());
                assert_ne!(expected.unwrap_or(0), present.unwrap_or(0), "{call:?}");
            }
            // The filter of the consumer hides an event that is named by its id.
            (Call::Mark(request), Error::Invalid { field, .. }) if field == "events" => {
                let MarkedEvents::Named(names) = &request.events else { panic!("{error}") };
                let is_id = |name: &EventName| matches!(name, EventName::Id { .. });
                assert!(names.iter().any(is_id), "{error}");
                assert!(filter.is_some_and(|filter| !filter.is_empty()), "{error}");
            }
            _ => panic!("{id:?} {call:?}: {error}"),
        }
    }

    /// Compares all that is told with the model.
    async fn compare(&self, seed: u64) {
        let (kept, now) = (self.kept().await, self.now());
        for id in ids() {
            let (state, about) = (self.consumers.state(&id), format!("seed {seed}: {id:?}"));
            let model = self.model.get(&id).cloned().unwrap_or_default();
            assert_eq!(state.info.exists(), self.model.contains_key(&id), "{about}");
            let checkpoint = state.info.checkpoint.map(|cursor| cursor.after.number());
            assert_eq!(checkpoint, model.checkpoint, "{about}");
            assert_eq!(state.info.settings.filter, model.filter, "{about}");
            for event in kept.iter().filter(|event| id.selection.matches(&event.topic)) {
                let (sequence, position) = (event.sequence, event.position);
                let (sequence, position) = (Sequence::new(sequence), Position::new(position));
                let told = state.marks.of(&Marked { topic: &event.topic, sequence, position }, now);
                let is_hidden =
                    !model.filter.is_empty() && !model.filter.types.contains(event.event_type);
                if !is_hidden {
                    assert_eq!(told, marks_of(&model, event, now), "{about} {event:?}");
                }
            }
        }
        let listed = self.consumers.list(&ConsumerList::default());
        let listed: Vec<_> = listed.into_iter().map(|info| info.id).collect();
        assert_eq!(listed, self.model.keys().cloned().collect::<Vec<_>>());
    }

    async fn restart(&mut self) {
        let before: Vec<_> = ids().iter().map(|id| self.consumers.state(id)).collect();
        self.broker.close().await;
        let nowhere = Broker::in_memory(&Default::default()).unwrap();
        self.broker = nowhere.clone(); // Nothing holds the log of the broker that is closed.
        self.consumers = Consumers::open(&nowhere, &ConsumersConfig::default()).await.unwrap();
        let log = self.storage.log();
        self.broker = Builder::default().log(log).clock(&self.clock).open().unwrap();
        self.consumers = Consumers::open(&self.broker, &ConsumersConfig::default()).await.unwrap();
        nowhere.close().await;
        let after: Vec<_> = ids().iter().map(|id| self.consumers.state(id)).collect();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "a restart changes nothing");
        }
    }

    async fn lose_some(&mut self) {
        let topic: TopicName = self.one_of(&TOPICS).parse().unwrap();
        let Some(extent) = self.broker.extent(&topic) else { return };
        let outcome = match self.random.random_range(0..4) {
            0 => self.broker.delete_topic(&topic).await,
            1 => self.broker.maintain(None).await.map(drop),
            _ => {
                let earliest = self.random.random_range(extent.earliest.get()..=extent.tail.get());
                self.broker.purge(&topic, Sequence::new(earliest)).await
            }
        };
        match outcome {
            Ok(()) | Err(Error::NotWritten(_) | Error::DiskFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Returns the marks of an event by the model, as they are now.
fn marks_of(consumer: &ModelConsumer, event: &ModelEvent, now: Timestamp) -> EventMarks {
    let marks = consumer.marks.get(&(event.topic.clone(), event.sequence)).copied();
    let marks = marks.unwrap_or_default();
    let snoozed_until = marks.snoozed_until.filter(|until| *until > now);
    EventMarks { snoozed_until, ..marks }
}

/// The rules of marks, for one event.
fn mark(marks: &mut EventMarks, request: &MarkRequest) {
    for mark in &request.mark {
        match mark {
            Mark::Seen => marks.seen = true,
            Mark::Read => (marks.seen, marks.read) = (true, true),
            Mark::Archived => (marks.archived, marks.snoozed_until) = (true, None),
            Mark::Snoozed => {
                *marks =
                    EventMarks { snoozed_until: request.snooze_until, ..EventMarks::default() };
            }
        }
    }
    for mark in &request.unmark {
        match mark {
            Mark::Seen => (marks.seen, marks.read) = (false, false),
            Mark::Read => marks.read = false,
            Mark::Archived => marks.archived = false,
            Mark::Snoozed => marks.snoozed_until = None,
        }
    }
}

async fn run(seed: u64, storage: Storage, rounds: usize) {
    let mut run = ModelRun::begin(seed, storage).await;
    for _ in 0..rounds {
        for _ in 0..run.random.random_range(0..3) {
            run.publish().await;
        }
        run.round().await;
        match run.random.random_range(0..12) {
            0 => run.restart().await,
            1 => run.lose_some().await,
            2 => run.clock.advance(HOUR.mul_f64(run.random.random_range(0.0..1.0))),
            _ => {}
        }
        run.compare(seed).await;
    }
    run.restart().await;
    run.compare(seed).await;
    run.broker.close().await;
}

/// Returns the seeds of a test: that of `LEFTOFF_SEED`, or `count` new ones.
fn seeds(count: u64) -> Vec<u64> {
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = given.map_or_else(|| (0..count).map(|_| rand::random()).collect(), |it| vec![it]);
    println!("seeds: LEFTOFF_SEED={seeds:?}");
    seeds
}

#[tokio::test]
async fn consumers_are_as_the_model_says_through_refusals_losses_and_restarts() {
    for seed in seeds(12) {
        run(seed, Storage::Memory(Arc::default()), 60).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_on_disk_are_as_the_model_says() {
    for seed in seeds(2) {
        run(seed, Storage::Sled(tempfile::tempdir().unwrap()), 40).await;
    }
}
