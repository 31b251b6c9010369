//! Live messages to several devices of one user: they are those of a model, whatever is published,
//! marked, finished, trimmed and deleted, over disconnects and restarts.
//!
//! Each device folds what it is told into a view of its own: the events it got, their marks, and
//! the counts. A device that was away comes back with the cursor of its events and the revision of
//! its marks. The model keeps the marks of each event one by one.
//!
//! The file is long, because the model and what it is compared with are one whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::asking::Found;
use super::counting::PlacedCount;
use super::telling::{MarksNews, News, StateTelling};
use crate::broker::{Broker, Delivery, Publish, Reader};
use crate::consumers::*;
use crate::cursor::{Cursor, Gap, OnGap, Place, Position, Sequence, StartPoint};
use crate::event::{NewEvent, Timestamp};
use crate::testing::{Builder, Clock, FaultyLog, START};
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

const TOPICS: [&str; 3] = ["t.a", "t.b", "t.c"];
const DEVICES: usize = 3;

/// The time that passes between two counts of a stream.
const EVERY: Duration = Duration::from_millis(100);

type EventPlace = (String, u64);
type MarksByPlace = BTreeMap<EventPlace, EventMarks>;

#[derive(Debug, Clone)]
struct LiveEvent {
    place: EventPlace,
    position: u64,
}

/// The marks of all events, and the checkpoint.
#[derive(Debug, Clone, Default)]
struct LiveState {
    marks: MarksByPlace,
    finished: Option<u64>,
}

impl LiveState {
    fn of(&self, event: &LiveEvent, now: Timestamp) -> EventMarks {
        marks_at(&self.marks, event, now)
    }
}

fn marks_at(marks: &MarksByPlace, event: &LiveEvent, now: Timestamp) -> EventMarks {
    let mut marks = marks.get(&event.place).copied().unwrap_or_default();
    marks.snoozed_until = marks.snoozed_until.filter(|until| *until > now);
    marks
}

/// The rules of marks, for one event.
fn change(
    marks: &mut EventMarks,
    mark: &BTreeSet<Mark>,
    unmark: &BTreeSet<Mark>,
    until: Timestamp,
) {
    for mark in mark {
        match mark {
            Mark::Seen => marks.seen = true,
            Mark::Read => (marks.seen, marks.read) = (true, true),
            Mark::Archived => (marks.archived, marks.snoozed_until) = (true, None),
            Mark::Snoozed => {
                *marks = EventMarks { snoozed_until: Some(until), ..EventMarks::default() };
            }
        }
    }
    for mark in unmark {
        match mark {
            Mark::Seen => (marks.seen, marks.read) = (false, false),
            Mark::Read => marks.read = false,
            Mark::Archived => marks.archived = false,
            Mark::Snoozed => marks.snoozed_until = None,
        }
    }
}

/// A device: what it was told, and its stream while it is connected.
#[derive(Default)]
struct Device {
    stream: Option<(Reader, StateTelling)>,
    cursor: Option<Cursor>,
    revision: Option<Position>,
    events: BTreeSet<EventPlace>,
    /// By topic, the sequence below which the device was told that events are gone.
    gone: BTreeMap<String, u64>,
    marks: MarksByPlace,
    counts: Option<PlacedCount>,
    /// The counts that were told and are not compared yet.
    told: Vec<PlacedCount>,
    told_at: Option<Instant>,
}

impl Device {
    fn connect(&mut self, reader: Reader, telling: StateTelling) {
        (self.stream, self.told_at) = (Some((reader, telling)), None);
    }

    /// Takes up to `limit` messages, which are there. Returns whether there was less.
    async fn poll(&mut self, all: &[LiveEvent], now: Timestamp, limit: usize) -> bool {
        let Some((mut reader, mut telling)) = self.stream.take() else { return true };
        let mut taken = 0;
        while taken < limit
            && let Some(delivery) = reader.next_ready().await.unwrap()
        {
            match delivery {
                Delivery::Events(run) => run.events().for_each(|event| {
                    let place = (run.topic().to_string(), event.sequence.get());
                    assert!(self.events.insert(place.clone()), "{place:?} is told twice");
                }),
                Delivery::Gap(gap) => self.lose(&gap),
                _ => {}
            }
            self.cursor = Some(reader.cursor());
            telling.events_changed();
            taken += 1;
        }
        while taken < limit {
            let asked = Instant::now();
            let Some(news) = telling.news().await.unwrap() else { break };
            taken += 1;
            match news {
                News::Counts(placed, _) => {
                    let since = self.told_at.replace(asked).map(|at| at.elapsed());
                    assert!(since.is_none_or(|since| since >= EVERY), "{since:?}");
                    self.counts = Some(placed);
                    self.told.push(placed);
                }
                News::Marked(marked) => self.take_marks(marked, all, now),
            }
        }
        self.stream = Some((reader, telling));
        taken < limit
    }

    fn lose(&mut self, gap: &Gap) {
        let (Some(topic), Place::Sequence(earliest)) = (&gap.topic, gap.earliest) else {
            panic!("{gap:?}")
        };
        let gone = self.gone.entry(topic.to_string()).or_default();
        *gone = earliest.get().max(*gone);
    }

    fn take_marks(&mut self, marked: MarksNews, all: &[LiveEvent], now: Timestamp) {
        match marked {
            MarksNews::Whole(state, _) => {
                let marks = |event: &LiveEvent| {
                    let topic: TopicName = event.place.0.parse().unwrap();
                    let sequence = Sequence::new(event.place.1);
                    let position = Position::new(event.position);
                    state.marks.of(&Marked { topic: &topic, sequence, position }, now)
                };
                self.marks = all.iter().map(|event| (event.place.clone(), marks(event))).collect();
                self.revision = Some(state.info.revision);
            }
            MarksNews::Change(told, changed, _) => {
                assert!(Some(told.revision) > self.revision, "{told:?} is told twice");
                self.revision = Some(told.revision);
                let until = changed.snooze_until.unwrap_or_default();
                let named = all.iter().filter(|event| self.is_of(&changed, event, told.time));
                for event in named.collect::<Vec<_>>() {
                    let marks = self.marks.entry(event.place.clone()).or_default();
                    change(marks, &changed.mark, &changed.unmark, until);
                }
            }
        }
    }

    /// Returns whether an event is one of those that a change names.
    fn is_of(&self, changed: &MarksChange, event: &LiveEvent, now: Timestamp) -> bool {
        match &changed.events {
            ChangedEvents::Named(named) => named.iter().any(|(topic, ranges)| {
                let sequences = ranges.split(',').map(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    first.parse::<u64>().unwrap()..=last.parse().unwrap()
                });
                *topic.as_str() == event.place.0
                    && sequences.into_iter().any(|range| range.contains(&event.place.1))
            }),
            ChangedEvents::UpTo(cursor) => {
                let number = match cursor.after {
                    Place::Position(_) => event.position,
                    Place::Sequence(_) => event.place.1,
                };
                let is_snoozed = marks_at(&self.marks, event, now).snoozed_until.is_some();
                number <= cursor.after.number() && !is_snoozed
            }
            ChangedEvents::Whole => panic!("it is told as the whole"),
        }
    }
}

struct Live {
    random: StdRng,
    clock: Clock,
    log: Arc<FaultyLog>,
    config: ConsumersConfig,
    broker: Broker,
    consumers: Consumers,
    id: ConsumerId,
    published: Vec<LiveEvent>,
    state: LiveState,
    /// The state at each revision.
    history: BTreeMap<u64, LiveState>,
    devices: [Device; DEVICES],
}

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

impl Live {
    async fn new(seed: u64, selection: &str) -> Self {
        let (clock, log) = (Clock::new(START), Arc::new(FaultyLog::default()));
        // Few changes are kept, so that some devices are told the whole.
        let config = ConsumersConfig { max_kept_changes: 4, ..ConsumersConfig::default() };
        let (broker, consumers) = Self::open(&clock, &log, &config).await;
        let few = TopicConfig { max_events: Some(12), ..TopicConfig::default() };
        broker.set_topic(&name("t.c"), few).await.unwrap();
        Self {
            random: StdRng::seed_from_u64(seed),
            clock,
            log,
            config,
            broker,
            consumers,
            id: ConsumerId::new(selection.parse().unwrap(), "inbox".parse().unwrap()),
            published: Vec::new(),
            state: LiveState::default(),
            history: BTreeMap::from([(0, LiveState::default())]),
            devices: Default::default(),
        }
    }

    async fn open(
        clock: &Clock,
        log: &Arc<FaultyLog>,
        config: &ConsumersConfig,
    ) -> (Broker, Consumers) {
        let broker = Builder::default().log(log.clone()).clock(clock).open().unwrap();
        let consumers = Consumers::open(&broker, config).await.unwrap();
        (broker, consumers)
    }

    fn now(&self) -> Timestamp {
        self.broker.now()
    }

    /// Returns the number of an event's place, as the places of the consumer are.
    fn number(&self, event: &LiveEvent) -> u64 {
        if self.id.has_positions() { event.position } else { event.place.1 }
    }

    fn is_kept(&self, event: &LiveEvent) -> bool {
        let info = self.broker.topic(&name(&event.place.0));
        info.is_ok_and(|info| event.place.1 >= info.extent.earliest.get())
    }

    fn kept(&self) -> Vec<LiveEvent> {
        self.published.iter().filter(|event| self.is_kept(event)).cloned().collect()
    }

    /// Returns the counts at a position and a revision.
    fn count(&self, position: Position, state: &LiveState) -> EventCounts {
        let mut count = EventCounts::default();
        let now = self.now();
        for event in self.published.iter().filter(|event| event.position <= position.get()) {
            let is_finished = state.finished.is_some_and(|to| self.number(event) <= to);
            if !self.is_kept(event) {
                count.lost += u64::from(state.finished.is_some() && !is_finished);
                continue;
            }
            let marks = state.of(event, now);
            let in_inbox = marks.in_inbox();
            count.total += 1;
            count.unfinished += u64::from(!is_finished);
            count.inbox += u64::from(in_inbox);
            count.unseen += u64::from(in_inbox && !marks.seen);
            count.unread += u64::from(in_inbox && !marks.read);
            count.archived += u64::from(marks.archived);
            count.snoozed += u64::from(marks.snoozed_until.is_some() && !marks.archived);
        }
        count
    }

    /// Compares counts that were told with those of the model where they are true.
    fn compare(&self, told: PlacedCount) {
        let state = &self.history[&told.revision.get()];
        let mut expected = self.count(told.position, state);
        if told.count.lost_more_than {
            assert!(told.count.lost <= expected.lost, "{told:?} {expected:?}");
            (expected.lost, expected.lost_more_than) = (told.count.lost, true);
        }
        assert_eq!(told.count, expected, "{told:?}");
    }

    async fn connect(&mut self, of: usize) {
        let patterns = vec![self.id.selection.clone()];
        let device = &self.devices[of];
        if device.stream.is_some() {
            return;
        }
        let start = device.cursor.map_or(StartPoint::Earliest, StartPoint::After);
        let reader = self.broker.feed(patterns, start, OnGap::Resume).await.unwrap();
        let epoch = self.broker.epoch();
        let marks_after = device.revision.map(|revision| {
            let after = Place::Position(revision);
            Cursor { after, since: None, epoch: Some(epoch) }
        });
        let found = Found::for_tests(self.consumers.clone(), self.id.clone());
        let telling = StateTelling::new(found, true, marks_after, epoch).unwrap();
        if device.cursor.is_none() {
            // It begins with what is there, and is told of no event that was gone before.
            let gone = self.published.iter().filter(|event| !self.is_kept(event)).cloned();
            for event in gone.collect::<Vec<_>>() {
                let (topic, sequence) = event.place;
                self.devices[of].gone.insert(topic, sequence + 1);
            }
            self.devices[of].cursor = Some(reader.cursor());
        }
        self.devices[of].connect(reader, telling);
    }

    async fn poll(&mut self, of: usize, limit: usize) -> bool {
        let (now, mut device) = (self.now(), std::mem::take(&mut self.devices[of]));
        let is_over = device.poll(&self.published, now, limit).await;
        device.told.drain(..).for_each(|told| self.compare(told));
        self.devices[of] = device;
        is_over
    }

    /// Publishes while one of the devices is told.
    async fn publish(&mut self) {
        let topic = name(TOPICS[self.random.random_range(0..TOPICS.len())]);
        let count = self.random.random_range(1..5);
        let of = self.random.random_range(0..DEVICES);
        let (now, all) = (self.now(), self.published.clone());
        let is_mine = self.id.selection.matches(&topic);
        let events = (0..count).map(|_| NewEvent::new("x")).collect();
        let publish = self.broker.publish(Publish::<Vec<NewEvent>>::new(topic.clone(), events));
        let mut device = std::mem::take(&mut self.devices[of]);
        // The limit of a topic holds with the publish: counts before and after it differ.
        let limit = if topic != name("t.c") && self.random.random_bool(0.5) { 1 } else { 0 };
        let (ack, _) = tokio::join!(publish, device.poll(&all, now, limit));
        let ack = ack.unwrap();
        for index in (0..count).filter(|_| is_mine) {
            let receipt = ack.receipt(index);
            let place = (topic.to_string(), receipt.sequence.get());
            self.published.push(LiveEvent { place, position: receipt.position.get() });
        }
        device.told.drain(..).for_each(|told| self.compare(told));
        self.devices[of] = device;
    }

    fn some_kept(&mut self) -> BTreeSet<EventPlace> {
        let kept = self.kept();
        let count = self.random.random_range(1..4).min(kept.len());
        let mut one = || kept[self.random.random_range(0..kept.len())].place.clone();
        (0..count).map(|_| one()).collect()
    }

    fn request(places: &BTreeSet<EventPlace>) -> MarkRequest {
        let named = places.iter().map(|(topic, sequence)| EventName::OfTopic {
            topic: name(topic),
            sequence: Sequence::new(*sequence),
        });
        MarkRequest::of(MarkedEvents::Named(named.collect()))
    }

    fn apply(&mut self, places: &BTreeSet<EventPlace>, request: &MarkRequest, ack: &MarkAck) {
        let until = request.snooze_until.unwrap_or_default();
        for place in places {
            let marks = self.state.marks.entry(place.clone()).or_default();
            change(marks, &request.mark, &request.unmark, until);
        }
        self.history.insert(ack.revision.get(), self.state.clone());
    }

    async fn mark(&mut self) {
        let places = self.some_kept();
        if places.is_empty() {
            return;
        }
        let request = Self::request(&places);
        let until = self.now().plus_ms(self.random.random_range(1..900));
        let marks = [Mark::Seen, Mark::Read, Mark::Archived, Mark::Snoozed];
        let mark = marks[self.random.random_range(0..marks.len())];
        let request = match (mark, self.random.random_bool(0.3)) {
            (mark, true) => request.unmark(mark),
            (Mark::Snoozed, false) => request.snooze_until(until),
            (mark, false) => request.mark(mark),
        };
        let ack = self.consumers.mark(&self.id, request.clone(), "a device").await.unwrap();
        self.apply(&places, &request, &ack);
    }

    /// Two devices mark at once. Both changes may be stored together.
    async fn mark_at_once(&mut self) {
        let (one, two) = (self.some_kept(), self.some_kept());
        if one.is_empty() {
            return;
        }
        let read = Self::request(&one).mark(Mark::Read);
        let seen = Self::request(&two).mark(Mark::Seen);
        let (first, second) = tokio::join!(
            self.consumers.mark(&self.id, read.clone(), "one"),
            self.consumers.mark(&self.id, seen.clone(), "two"),
        );
        let (first, second) = (first.unwrap(), second.unwrap());
        match first.revision <= second.revision {
            true => {
                self.apply(&one, &read, &first);
                self.apply(&two, &seen, &second);
            }
            false => {
                self.apply(&two, &seen, &second);
                self.apply(&one, &read, &first);
            }
        }
    }

    fn some_place(&mut self) -> Option<(Cursor, u64)> {
        let count = self.published.len();
        let index = (count > 0).then(|| self.random.random_range(0..count))?;
        let number = self.number(&self.published[index]);
        let after = match self.id.has_positions() {
            true => Place::Position(Position::new(number)),
            false => Place::Sequence(Sequence::new(number)),
        };
        Some((Cursor { after, since: None, epoch: None }, number))
    }

    async fn mark_up_to(&mut self) {
        let Some((cursor, number)) = self.some_place() else { return };
        let mark = [Mark::Seen, Mark::Read, Mark::Archived][self.random.random_range(0..3)];
        let request = MarkRequest::of(MarkedEvents::up_to(cursor)).mark(mark);
        let Ok(ack) = self.consumers.mark(&self.id, request.clone(), "a device").await else {
            return; // The topic is deleted.
        };
        let now = self.now();
        let is_marked = |event: &&LiveEvent| {
            self.number(event) <= number && self.state.of(event, now).snoozed_until.is_none()
        };
        let places = self.published.iter().filter(is_marked);
        let places = places.map(|event| event.place.clone()).collect();
        self.apply(&places, &request, &ack);
    }

    async fn finish(&mut self) {
        let Some((cursor, number)) = self.some_place() else { return };
        let to = Checkpoint::at(cursor);
        let Ok(ack) = self.consumers.checkpoint(&self.id, to).await else { return };
        if ack.moved {
            self.state.finished = Some(number);
            self.history.insert(ack.revision.get(), self.state.clone());
        }
    }

    async fn lose_some(&mut self) {
        let topic = name(TOPICS[self.random.random_range(0..TOPICS.len())]);
        let Some(extent) = self.broker.extent(&topic) else { return };
        match self.random.random_range(0..4) {
            0 => self.broker.delete_topic(&topic).await.unwrap(),
            1 => drop(self.broker.maintain(Some(&topic)).await.unwrap()),
            _ => {
                let earliest = self.random.random_range(extent.earliest.get()..=extent.tail.get());
                self.broker.purge(&topic, Sequence::new(earliest)).await.unwrap();
            }
        }
        self.wake();
    }

    /// What is gone, and the time that passes, is told with the next event or keep-alive. Here it
    /// is told at once.
    fn wake(&mut self) {
        for (_, telling) in self.devices.iter_mut().filter_map(|device| device.stream.as_mut()) {
            telling.events_changed();
        }
    }

    async fn restart(&mut self) {
        self.devices.iter_mut().for_each(|device| device.stream = None);
        self.broker.close().await;
        let (broker, consumers) = Self::open(&self.clock, &self.log, &self.config).await;
        (self.broker, self.consumers) = (broker, consumers);
    }

    async fn act(&mut self) {
        let of = self.random.random_range(0..DEVICES);
        match self.random.random_range(0..32) {
            0..7 => self.publish().await,
            7..12 => self.mark().await,
            12..14 => self.mark_at_once().await,
            14..16 => self.mark_up_to().await,
            16 => self.finish().await,
            17..19 => self.lose_some().await,
            19 => {
                self.clock.advance(Duration::from_millis(self.random.random_range(1..900)));
                self.wake();
            }
            20 => self.restart().await,
            21..23 => self.devices[of].stream = None,
            23..26 => self.connect(of).await,
            26 => tokio::time::sleep(EVERY).await,
            _ => {
                let limit = self.random.random_range(1..9);
                self.poll(of, limit).await;
            }
        }
    }

    /// Has all devices come back and be told all, and compares what they have.
    async fn compare_all(&mut self) {
        for of in 0..DEVICES {
            self.connect(of).await;
        }
        tokio::time::sleep(EVERY).await;
        self.wake();
        let last = self.broker.last_position().get();
        for of in 0..DEVICES {
            let is_behind = |device: &Device| {
                let (reader, _) = device.stream.as_ref().unwrap();
                reader.cursor().after.number() < last
            };
            while is_behind(&self.devices[of]) || !self.poll(of, usize::MAX).await {
                tokio::task::yield_now().await;
                self.poll(of, usize::MAX).await;
            }
        }
        // The counts that were told before the last events are followed by newer ones.
        tokio::time::sleep(EVERY).await;
        let (kept, now) = (self.kept(), self.now());
        let held = self.consumers.state(&self.id);
        for of in 0..DEVICES {
            self.poll(of, usize::MAX).await;
            let device = &self.devices[of];
            for event in &self.published {
                let has = device.events.contains(&event.place);
                let gone = device.gone.get(&event.place.0).copied().unwrap_or_default();
                assert!(has || event.place.1 < gone, "device {of} was not told of {event:?}");
            }
            for event in &kept {
                assert!(device.events.contains(&event.place), "device {of} has no {event:?}");
                let (topic, sequence) = (name(&event.place.0), Sequence::new(event.place.1));
                let position = Position::new(event.position);
                let marked = Marked { topic: &topic, sequence, position };
                let marks = [
                    marks_at(&device.marks, event, now),
                    held.marks.of(&marked, now),
                    self.state.of(event, now),
                ];
                assert!(marks.iter().all(|it| *it == marks[0]), "device {of}: {event:?} {marks:?}");
            }
            let told = device.counts.unwrap();
            let here = PlacedCount { position: self.broker.last_position(), ..told };
            self.compare(PlacedCount { revision: held.info.revision, ..here });
        }
    }
}

#[tokio::test]
async fn devices_that_come_and_go_are_told_what_a_model_says() {
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let cases = std::env::var("LEFTOFF_CASES").map_or(3, |cases| cases.parse().unwrap());
    let seeds = given.map_or_else(|| (0..cases).map(|_| rand::random()).collect(), |it| vec![it]);
    for seed in seeds {
        for selection in ["t.>", "t.a"] {
            println!("LEFTOFF_SEED={seed} of {selection}");
            let mut live = Live::new(seed, selection).await;
            for round in 0..60 {
                live.act().await;
                if round == 59 {
                    live.compare_all().await;
                }
            }
            live.broker.close().await;
        }
    }
}
