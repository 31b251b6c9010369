//! Random work against a model: publishes, pulls by several workers, acknowledgements, failures,
//! extensions, time, restarts, purges, deletions and compaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::broker::PageRequest;
use crate::cursor::Sequence;
use crate::testing::{Fault, sled_log};
use crate::topic_config::TopicConfig;

const TOPICS: [&str; 2] = ["jobs.a", "jobs.b"];
const WORKERS: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 4] = ["", "k", "l", "m"];

#[derive(Debug, Clone)]
enum Act {
    Publish { topic: usize, keys: Vec<usize> },
    Pull { worker: usize, limit: usize },
    Ack { nth: usize },
    AckAll,
    Nack { nth: usize, delay_ms: u64 },
    Extend { nth: usize, length_ms: u64 },
    Release { nth: usize },
    Pass { ms: u64 },
    Crash,
    Fail,
    Purge { topic: usize, some: u64 },
    Delete { topic: usize },
    Maintain { topic: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let nth = 0..32_usize;
    prop_oneof![
        4 => (0..2_usize, prop::collection::vec(0..4_usize, 1..6))
            .prop_map(|(topic, keys)| Act::Publish { topic, keys }),
        8 => (0..3_usize, 1..5_usize).prop_map(|(worker, limit)| Act::Pull { worker, limit }),
        5 => nth.clone().prop_map(|nth| Act::Ack { nth }),
        1 => Just(Act::AckAll),
        3 => (nth.clone(), prop_oneof![Just(0), 1..3_000_u64])
            .prop_map(|(nth, delay_ms)| Act::Nack { nth, delay_ms }),
        2 => (nth.clone(), 1..3_000_u64)
            .prop_map(|(nth, length_ms)| Act::Extend { nth, length_ms }),
        1 => nth.prop_map(|nth| Act::Release { nth }),
        3 => (1..1_500_u64).prop_map(|ms| Act::Pass { ms }),
        1 => Just(Act::Crash),
        1 => Just(Act::Fail),
        1 => (0..2_usize, 0..6_u64).prop_map(|(topic, some)| Act::Purge { topic, some }),
        1 => (0..2_usize).prop_map(|topic| Act::Delete { topic }),
        1 => (0..2_usize).prop_map(|topic| Act::Maintain { topic }),
    ]
}

#[derive(Debug, Clone)]
struct Case {
    selection: &'static str,
    is_compacted: bool,
    settings: WorkSettings,
    max_held_bytes: u64,
    acts: Vec<Act>,
}

fn case(acts: usize) -> impl Strategy<Value = Case> {
    let settings = (1..4_u32, 1..8_u32, 1..5_u32, 1..12_u32).prop_map(
        |(max_tries, max_in_flight, max_in_flight_per_worker, max_ahead)| WorkSettings {
            lease_ms: 1_000,
            max_tries,
            dead_letter: Some(name("graves")),
            max_in_flight,
            max_in_flight_per_worker,
            max_ahead,
        },
    );
    let selection = prop_oneof![Just("jobs.a"), Just("jobs.*")];
    let held = prop_oneof![Just(0), Just(300), Just(1 << 20)];
    let acts = prop::collection::vec(act(), 1..acts);
    (selection, any::<bool>(), settings, held, acts).prop_map(
        |(selection, is_compacted, settings, max_held_bytes, acts)| Case {
            selection,
            is_compacted,
            settings,
            max_held_bytes,
            acts,
        },
    )
}

type Place = (String, u64);

/// What the model knows of an event.
#[derive(Debug, Clone, Default)]
struct Known {
    key: &'static str,
    tries: u32,
    state: State,
    /// Whether the last lease ran out.
    ran_out: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
    #[default]
    Waiting,
    Leased {
        until_ms: u64,
        worker: &'static str,
    },
    Delayed {
        from_ms: u64,
    },
    Finished,
    Dead,
}

#[derive(Default)]
struct Model {
    events: BTreeMap<Place, Known>,
    leases: Vec<(LeaseId, Place)>,
    finished: u64,
    /// Those of events that are gone: they may have been known to be lost before.
    perhaps_finished: u64,
}

impl Model {
    /// Ends what is over.
    fn pass(&mut self, now_ms: u64, max_tries: u32) {
        for event in self.events.values_mut() {
            match event.state {
                State::Leased { until_ms, .. } if until_ms <= now_ms => {
                    event.ran_out = true;
                    event.state = match event.tries >= max_tries {
                        true => State::Dead,
                        false => State::Waiting,
                    };
                }
                State::Delayed { from_ms } if from_ms <= now_ms => event.state = State::Waiting,
                _ => {}
            }
        }
    }

    fn leased(&self) -> impl Iterator<Item = (&Place, &Known, &'static str)> {
        self.events.iter().filter_map(|(place, event)| match event.state {
            State::Leased { worker, .. } => Some((place, event, worker)),
            _ => None,
        })
    }
}

struct Run {
    bench: Bench,
    faults: Option<Arc<FaultyLog>>,
    case: Case,
    model: Model,
}

impl Run {
    fn now_ms(&self) -> u64 {
        self.bench.clock.now().as_ms()
    }

    async fn is_there(&self, (topic, sequence): &Place) -> bool {
        let before = Sequence::new(*sequence).previous();
        let cursor = crate::cursor::Cursor {
            after: crate::cursor::Place::Sequence(before),
            since: None,
            epoch: None,
        };
        let page = PageRequest::from(cursor).limit(1);
        let Ok(page) = self.bench.broker.read(&name(topic), page).await else { return false };
        let mut events = page.runs.iter().flat_map(|run| run.to_events());
        events.next().is_some_and(|event| event.sequence.get() == *sequence)
    }

    async fn publish(&mut self, topic: usize, keys: &[usize]) {
        let topic = TOPICS[topic];
        let events = keys.iter().map(|key| NewEvent::new("x").with_key(KEYS[*key])).collect();
        let ack = self.bench.broker.publish(Publish::new(name(topic), events)).await;
        let Ok(ack) = ack else { return };
        if !self.case.selection.ends_with('*') && topic != self.case.selection {
            return;
        }
        for (index, key) in keys.iter().enumerate() {
            let place = (topic.to_owned(), ack.receipt(index).sequence.get());
            self.model.events.insert(place, Known { key: KEYS[*key], ..Known::default() });
        }
    }

    /// Pulls, and checks what comes. Returns how many events came, or `None` after a fault.
    async fn pull(&mut self, worker: &'static str, limit: usize) -> Option<usize> {
        let queue = self.bench.queue(self.case.selection);
        let pulled = queue.pull(super::pull(worker, limit)).await.ok()?;
        let (now_ms, settings) = (self.now_ms(), self.case.settings.clone());
        let mut places = Vec::new();
        assert!(pulled.len() <= limit);
        for leased in &pulled {
            let place = (leased.topic.to_string(), leased.event.sequence.get());
            let known = self.model.events.get(&place).expect("it was published").clone();
            assert_eq!(known.state, State::Waiting, "{place:?} can be leased");
            assert_eq!(leased.tries, known.tries + 1, "{place:?}");
            assert_eq!(leased.event.content.key, known.key);
            assert_eq!(leased.until.as_ms(), now_ms + settings.lease_ms);
            if !known.key.is_empty() {
                for (other, event) in &self.model.events {
                    let is_before = other.0 == place.0 && event.key == known.key && *other < place;
                    let is_over = [State::Finished, State::Dead].contains(&event.state);
                    let is_leased = matches!(event.state, State::Leased { .. });
                    if is_before && !is_over {
                        let is_gone = !self.is_there(other).await;
                        assert!(is_gone && !is_leased, "{other:?} comes before {place:?}");
                    }
                }
            }
            let event = self.model.events.get_mut(&place).unwrap();
            let until_ms = leased.until.as_ms();
            event.state = State::Leased { until_ms, worker };
            (event.tries, event.ran_out) = (leased.tries, false);
            self.model.leases.push((leased.lease, place.clone()));
            places.push(place);
        }
        let in_order = pulled.windows(2).all(|two| two[0].event.position < two[1].event.position);
        assert!(in_order, "{places:?}");
        let all = self.model.leased().count();
        let own = self.model.leased().filter(|(_, _, of)| *of == worker).count();
        assert!(all <= settings.max_in_flight as usize, "{all} are in flight");
        assert!(own <= settings.max_in_flight_per_worker as usize, "{worker} has {own}");
        Some(pulled.len())
    }

    /// Says something of one of the leases, and checks the outcome.
    async fn say(&mut self, nth: usize, act: &Act) {
        if self.model.leases.is_empty() {
            return;
        }
        let (lease, place) = self.model.leases[nth % self.model.leases.len()].clone();
        let event = self.model.events[&place].clone();
        if event.state == State::Dead && event.ran_out {
            return; // It may be a dead letter already, or be about to become one.
        }
        let settlement = match act {
            Act::Nack { delay_ms, .. } => {
                let nack = Nack::new(lease, "r").delay(ms(*delay_ms));
                Settlement::default().and_nack(nack)
            }
            Act::Extend { length_ms, .. } => {
                Settlement::default().and_extend(lease, ms(*length_ms))
            }
            Act::Release { .. } => Settlement::default().and_release([lease]),
            _ => Settlement::ack([lease]),
        };
        let queue = self.bench.queue(self.case.selection);
        let Ok(settled) = queue.settle(settlement).await else { return };
        let lists = [settled.ack, settled.nack, settled.extend, settled.release];
        let outcome = lists.concat()[0];
        let (now_ms, is_there) = (self.now_ms(), self.is_there(&place).await);
        let is_mine = event.tries == lease.tries();
        let is_leased = is_mine && matches!(event.state, State::Leased { .. });
        let ran_out = is_mine && event.ran_out && event.state == State::Waiting;
        let is_over = [State::Finished, State::Dead].contains(&event.state);
        let max_tries = self.case.settings.max_tries;
        if !is_there && !is_leased {
            // It may be known that it is gone, or not.
            self.model.perhaps_finished += u64::from(ran_out && outcome == SettleOutcome::Done);
            return;
        }
        let known = self.model.events.get_mut(&place).unwrap();
        match act {
            Act::Extend { length_ms, .. } if is_leased => {
                let until_ms = now_ms + length_ms;
                assert_eq!(
                    outcome,
                    SettleOutcome::Extended(crate::event::Timestamp::from_ms(until_ms))
                );
                let State::Leased { until_ms: end, .. } = &mut known.state else { return };
                *end = until_ms;
            }
            Act::Extend { .. } => assert_eq!(outcome, SettleOutcome::Over, "{lease} {event:?}"),
            Act::Nack { delay_ms, .. } if is_leased || ran_out => {
                assert_eq!(outcome, SettleOutcome::Done, "{lease} {event:?}");
                known.ran_out = false;
                known.state = match known.tries >= max_tries {
                    true => State::Dead,
                    false if *delay_ms > 0 => State::Delayed { from_ms: now_ms + delay_ms },
                    false => State::Waiting,
                };
            }
            Act::Release { .. } if is_leased => {
                assert_eq!(outcome, SettleOutcome::Done);
                known.state = State::Waiting;
            }
            Act::Nack { .. } | Act::Release { .. } => {
                // What was said before may be said again.
                let may_be_done = is_mine && event.state != State::Finished;
                assert!(outcome == SettleOutcome::Over || may_be_done, "{lease} {event:?}");
            }
            _ if is_leased || ran_out => {
                assert_eq!(outcome, SettleOutcome::Done, "{lease} {event:?}");
                known.state = State::Finished;
                self.model.finished += 1;
            }
            // The log may refuse the dead letter, and it is not stored yet.
            _ if event.state == State::Dead => {
                let may_be = [SettleOutcome::Done, SettleOutcome::Over];
                assert!(may_be.contains(&outcome), "{lease} {event:?} {outcome:?}");
            }
            _ if is_over => assert_eq!(outcome, SettleOutcome::Done, "{lease} {event:?}"),
            _ => assert_eq!(outcome, SettleOutcome::Over, "{lease} {event:?}"),
        }
    }

    async fn act(&mut self, act: &Act) {
        self.model.pass(self.now_ms(), self.case.settings.max_tries);
        match act {
            Act::Publish { topic, keys } => self.publish(*topic, keys).await,
            Act::Pull { worker, limit } => drop(self.pull(WORKERS[*worker], *limit).await),
            Act::Ack { nth } | Act::Nack { nth, .. } => self.say(*nth, act).await,
            Act::Extend { nth, .. } | Act::Release { nth } => self.say(*nth, act).await,
            Act::AckAll => {
                for nth in 0..self.model.leases.len() {
                    self.say(nth, act).await;
                }
            }
            Act::Pass { ms } => self.bench.clock.advance(super::ms(*ms)),
            Act::Crash => self.bench.crash().await,
            Act::Fail => {
                if let Some(log) = &self.faults {
                    log.fail(log.appends() + 1, Fault::NotWritten);
                }
            }
            Act::Purge { topic, some } => {
                let topic = name(TOPICS[*topic]);
                let Ok(info) = self.bench.broker.topic(&topic) else { return };
                let earliest = info.extent.earliest.plus(*some).min(info.extent.tail);
                self.bench.broker.purge(&topic, earliest).await.unwrap();
            }
            Act::Delete { topic } => {
                drop(self.bench.broker.delete_topic(&name(TOPICS[*topic])).await);
            }
            Act::Maintain { topic } => {
                drop(self.bench.broker.maintain(Some(&name(TOPICS[*topic]))).await);
            }
        }
    }

    /// Finishes all that is left, and checks that each event came to one end.
    async fn finish(&mut self) {
        let mut quiet = 0;
        while quiet < 3 {
            self.bench.clock.advance(ms(60_000)); // Everything is over, dead letters are retried.
            self.model.pass(self.now_ms(), self.case.settings.max_tries);
            let came = self.pull("z", 10).await;
            for nth in 0..self.model.leases.len() {
                self.say(nth, &Act::Ack { nth }).await;
            }
            quiet = if came == Some(0) { quiet + 1 } else { 0 };
        }
        let status = self.bench.queue(self.case.selection).status().unwrap();
        assert_eq!((status.in_flight, status.delayed, status.dying), (0, 0, 0), "{status:?}");
        let dead = self.dead_letters().await;
        let (mut dead_count, mut gone) = (0, 0);
        for (place, event) in &self.model.events {
            match event.state {
                State::Finished => assert!(!dead.contains(place), "{place:?} has two ends"),
                _ if dead.contains(place) => dead_count += 1,
                _ => {
                    assert!(!self.is_there(place).await, "{place:?} is forgotten: {event:?}");
                    gone += 1;
                }
            }
        }
        assert_eq!(dead_count, dead.len(), "no other event is dead");
        let finished = status.totals.finished;
        let most = self.model.finished + self.model.perhaps_finished;
        assert!((self.model.finished..=most).contains(&finished), "{finished}");
        assert_eq!(status.totals.dead, dead.len() as u64);
        // Whatever compaction dropped before it was read is passed over.
        // Of a pattern, what is lost is known at the least.
        let has_crashed = self.case.acts.iter().any(|act| matches!(act, Act::Crash));
        let has_all = !self.case.is_compacted && self.case.selection == "jobs.a" && !has_crashed;
        let ends = finished + status.totals.dead + status.totals.lost;
        let events = self.model.events.len() as u64;
        // After a crash, a topic that was deleted meanwhile may be counted again.
        let is_bounded = self.case.selection == "jobs.a" || !has_crashed;
        assert!(
            !is_bounded || ends <= events,
            "{ends} of {events} came to an end, {gone} are gone"
        );
        assert!(!has_all || ends == events, "{ends} of {events}, {gone} are gone, {status:?}");
    }

    async fn dead_letters(&self) -> BTreeSet<Place> {
        let page = PageRequest::default().limit(10_000);
        let Ok(page) = self.bench.broker.read(&name("graves"), page).await else {
            return BTreeSet::new();
        };
        let mut places = BTreeSet::new();
        for event in page.runs.iter().flat_map(|run| run.to_events()) {
            let headers: HashMap<_, _> = event.content.headers.into_iter().collect();
            let sequence = headers[DEAD_SEQUENCE_HEADER].parse().unwrap();
            let is_new = places.insert((headers[DEAD_TOPIC_HEADER].clone(), sequence));
            assert!(is_new, "an event is dead twice");
        }
        places
    }
}

fn run(case: Case, log: AnyLog, faults: Option<Arc<FaultyLog>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut config = ConsumersConfig::default();
        config.work.max_held_bytes = case.max_held_bytes;
        let bench = Bench::on(log, config).await;
        let topic = TopicConfig { compact: Some(case.is_compacted), ..TopicConfig::default() };
        for name in TOPICS {
            bench.broker.create_topic(&super::name(name), topic).await.unwrap();
        }
        let queue = bench.share(case.selection, case.settings.clone()).await;
        // What is lost is counted from the first pull on.
        assert!(queue.pull(super::pull("z", 1)).await.unwrap().is_empty());
        let acts = case.acts.clone();
        let mut run = Run { bench, faults, case, model: Model::default() };
        for act in &acts {
            run.act(act).await;
        }
        run.finish().await;
        run.bench.broker.close().await;
    });
}

/// Returns the settings of so many cases. No file of seeds is written beside the sources.
fn settings(cases: u32, max_shrink_iters: u32) -> ProptestConfig {
    let none = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    ProptestConfig { cases, max_shrink_iters, ..none }
}

proptest! {
    #![proptest_config(settings(96, 2_000))]

    /// Goal: each event comes to one end, and is with one worker at a time until then.
    /// Method: random acts, over a log in memory that refuses some appends, against a model.
    #[test]
    fn random_work_does_what_a_model_says(case in case(60)) {
        let log = Arc::new(FaultyLog::default());
        run(case, log.clone(), Some(log));
    }
}

proptest! {
    #![proptest_config(settings(8, 50))]

    /// As [`random_work_does_what_a_model_says`], on disk.
    #[test]
    fn random_work_on_disk_does_what_a_model_says(case in case(40)) {
        let directory = tempfile::tempdir().unwrap();
        run(case, sled_log(directory.path()), None);
    }
}
