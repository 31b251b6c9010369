//! Tests of publishes that name several topics and are stored all or none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{PATIENCE, busy, name};
use crate::broker::{Ack, Broker, Filter, InOrder, OpenConfig, PageRequest, Publish, Run};
use crate::cursor::{OnGap, StartPoint};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::log::{Fault, FaultyLog, LogConfig, SledLog};

fn event(id: &str, payload: &str) -> NewEvent {
    NewEvent { id: id.to_owned(), ..NewEvent::new(payload.to_owned()) }
}

/// Returns a publish of one event without an id to each of these topics.
fn to_each(topics: &[&str], payload: &str) -> Vec<Publish> {
    topics.iter().map(|topic| Publish::one(name(topic), event("", payload))).collect()
}

/// Returns the payloads that a topic holds, in their order.
async fn payloads(broker: &Broker, topic: &str) -> Vec<String> {
    let request = PageRequest {
        start: StartPoint::Earliest,
        before: None,
        limit: 10_000,
        wait: Duration::ZERO,
        on_gap: OnGap::Fail,
        filter: Filter::default(),
        ..PageRequest::default()
    };
    let page = match broker.read(&name(topic), request).await {
        Err(Error::UnknownTopic(_)) => return Vec::new(),
        page => page.unwrap(),
    };
    let events = page.runs.iter().flat_map(Run::to_events);
    events.map(|event| String::from_utf8(event.content.payload.to_vec()).unwrap()).collect()
}

fn sequences(acks: &[Ack]) -> Vec<u64> {
    acks.iter().flat_map(|ack| (0..ack.count).map(|n| ack.receipt(n).sequence.get())).collect()
}

/// One publish of a request of the model test: a topic, ids, and the sequence that is expected.
type Part = (usize, Vec<String>, Option<u64>);

/// The topics as they must be: for each that exists its payloads in order, and the sequence of each
/// id.
#[derive(Debug, Clone, Default)]
struct Model(BTreeMap<usize, (Vec<String>, BTreeMap<String, u64>)>);

/// The most topics of the model, without the one that keeps the committer busy.
const MAX_TOPICS: usize = 3;

impl Model {
    /// Stores the events of a request with this number, and returns their sequences; or stores
    /// nothing, and returns the topic that refused.
    fn publish(&mut self, number: usize, parts: &[Part]) -> Result<Vec<u64>, Option<usize>> {
        let (mut after, mut sequences) = (self.clone(), Vec::new());
        for (topic, ids, expected) in parts {
            let known = after.0.get(topic).cloned();
            let (mut payloads, mut by_id) = known.clone().unwrap_or_default();
            let last = payloads.len() as u64;
            for id in ids {
                let sequence = by_id.get(id).copied().unwrap_or_else(|| {
                    payloads.push(format!("{number}"));
                    payloads.len() as u64
                });
                if !id.is_empty() {
                    by_id.insert(id.clone(), sequence);
                }
                sequences.push(sequence);
            }
            if payloads.len() as u64 == last {
                continue;
            }
            if expected.is_some_and(|expected| expected != last) {
                return Err(Some(*topic));
            }
            if known.is_none() && after.0.len() == MAX_TOPICS {
                return Err(None);
            }
            after.0.insert(*topic, (payloads, by_id));
        }
        *self = after;
        Ok(sequences)
    }
}

/// Goal: of many publishes in one group each is stored whole or not at all, and what refuses one of
/// them leaves no trace for those after it: no sequence, no id, no topic, no hole in the positions.
/// Method: a model takes the same random requests one after the other.
#[tokio::test]
async fn each_request_of_a_group_is_stored_whole_or_leaves_no_trace() {
    for seed in 0..40_u64 {
        let mut config = OpenConfig::default();
        config.limits.max_topics = 1 + MAX_TOPICS as u64;
        let log = Arc::new(FaultyLog::default());
        let broker = Broker::with_log(log.clone(), &config).unwrap();
        let (held, first) = busy(&log, &broker).await;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let (mut model, mut pending) = (Model::default(), Vec::new());
        for number in 0..60 {
            let parts: Vec<Part> = (0..=next(4))
                .map(|_| {
                    let id = |n: u64| if n < 2 { String::new() } else { n.to_string() };
                    let ids = (0..=next(3)).map(|_| id(next(40))).collect();
                    let topic = next(5) as usize;
                    let last = model.0.get(&topic).map_or(0, |(payloads, _)| payloads.len() as u64);
                    let expected = (next(3) == 0).then(|| last + u64::from(next(4) == 0));
                    (topic, ids, expected)
                })
                .collect();
            let publishes = parts.iter().map(|(topic, ids, expected_sequence)| {
                let payload = number.to_string();
                let events: Vec<NewEvent> = ids.iter().map(|id| event(id, &payload)).collect();
                let (topic, expected_sequence) = (name(&format!("t{topic}")), *expected_sequence);
                Publish { topic, events, expected_sequence }
            });
            let order = InOrder::default();
            let submitted = broker.submit_all_in_order(publishes.collect(), &order).await;
            pending.push((submitted.unwrap(), model.publish(number, &parts)));
        }
        drop(held);
        first.ack().await.unwrap();
        let mut positions = Vec::new();
        for (pending, expected) in pending {
            let answer = tokio::time::timeout(PATIENCE, pending.acks()).await.unwrap();
            match (answer, expected) {
                (Ok(acks), expected) => {
                    assert_eq!(Ok(sequences(&acks)), expected, "seed {seed}");
                    let new = acks.iter().filter_map(|ack| Some((ack.first_appended?, ack)));
                    for (first, ack) in new {
                        let added = (ack.count - ack.duplicates.len()) as u64;
                        let first = first.position.get();
                        positions.extend(first..first + added);
                    }
                }
                (Err(Error::UnexpectedSequence { topic, .. }), Err(Some(refused))) => {
                    assert_eq!(topic.as_str(), format!("t{refused}"), "seed {seed}");
                }
                (Err(Error::OverLimit { name, .. }), Err(None)) => assert_eq!(name, "topics"),
                (answer, expected) => panic!("seed {seed}: {answer:?}, not {expected:?}"),
            }
        }
        assert_eq!(log.appends(), 2, "one group");
        positions.sort_unstable();
        let without_holes: Vec<u64> = (2..2 + positions.len() as u64).collect();
        assert_eq!(positions, without_holes, "seed {seed}");
        for topic in 0..5 {
            let expected = model.0.get(&topic).map(|(payloads, _)| payloads.clone());
            let stored = payloads(&broker, &format!("t{topic}")).await;
            assert_eq!(stored, expected.unwrap_or_default(), "seed {seed}, topic {topic}");
        }
        broker.close().await;
    }
}

/// Goal: what is wrong with one topic refuses the whole request, says which one, and nothing else
/// in the group.
#[tokio::test]
async fn one_refused_topic_refuses_the_request_and_nothing_else() {
    let mut open = OpenConfig::default();
    open.broker.auto_create = false;
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &open).unwrap();
    for topic in ["first", "a", "b", "damaged"] {
        broker.create_topic(&name(topic), Default::default()).await.unwrap();
    }
    broker.publish_all(to_each(&["a", "damaged"], "0")).await.unwrap();
    let damaged = broker.0.topics.existing(&name("damaged")).unwrap();
    let mut state = damaged.state();
    state.extent.is_damaged = true;
    damaged.set_state(state);

    let (held, first) = busy(&log, &broker).await;
    let order = InOrder::default().independent();
    let mut pending = Vec::new();
    let mut expecting = to_each(&["a", "b", "a"], "refused");
    expecting[2].expected_sequence = Some(1); // The first publish of the request makes it 2.
    let mut fits = to_each(&["a", "b", "a"], "1");
    (fits[0].expected_sequence, fits[2].expected_sequence) = (Some(1), Some(2));
    let requests = [
        to_each(&["a", "b", "nowhere"], "refused"),
        to_each(&["b", "damaged", "a"], "refused"),
        expecting,
        fits,
        to_each(&["b"], "2"),
    ];
    for request in requests {
        pending.push(broker.submit_all_in_order(request, &order).await.unwrap());
    }
    drop(held);
    first.ack().await.unwrap();
    let mut outcomes = Vec::new();
    for pending in pending {
        let answer = tokio::time::timeout(PATIENCE, pending.acks()).await.unwrap();
        outcomes.push(answer.map(|acks| sequences(&acks)).map_err(|error| error.to_string()));
    }
    let refused = |message: &str| Err(message.to_owned());
    let newest = "topic \"damaged\": its newest events are damaged on disk, so that it takes no \
                  more; delete it to go on without them, or go on with what `leftoff check \
                  --repair` brings back";
    let expected = [
        refused("there is no topic \"nowhere\""),
        refused(newest),
        refused("topic \"a\" is at sequence 2, not at the expected 1"),
        Ok(vec![2, 1, 3]),
        Ok(vec![2]),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(payloads(&broker, "a").await, ["0", "1", "1"]);
    assert_eq!(payloads(&broker, "b").await, ["1", "2"]);
    broker.close().await;
}

/// Goal: the limits of one publish hold for all publishes of a request together, and a request that
/// is over them says which limit, and where.
#[tokio::test]
async fn the_limits_of_a_publish_hold_for_all_its_topics_together() {
    let mut open = OpenConfig::default();
    open.limits.max_batch_events = 5;
    open.limits.max_batch_topics = 3;
    open.limits.max_payload_bytes = 1_000;
    open.limits.max_batch_bytes = 2_000;
    let broker = Broker::in_memory(&open).unwrap();
    let with = |payload: &str, events| vec![event("", payload); events];
    let publish =
        |topic: &str, payload: &str, events| Publish::new(name(topic), with(payload, events));
    let long = "x".repeat(900);
    let refusals = [
        (vec![], "topics: is empty; name at least one"),
        (vec![publish("a", "", 1); 4], "topics in a publish: 4 is over the limit of 3"),
        (vec![publish("a", "", 2); 3], "events in a batch: 6 is over the limit of 5"),
        (
            vec![publish("a", &long, 1), publish("b", &long, 1), publish("c", &long, 1)],
            "batch bytes: 27",
        ),
        (
            vec![publish("a", "", 1), publish("b", &"x".repeat(1_001), 1)],
            "publishes[1] payload bytes: 1001 is over the limit of 1000",
        ),
        (
            vec![publish("a", "", 1), publish("b", "", 0)],
            "publishes[1].events: is empty; publish at least one",
        ),
    ];
    for (request, message) in refusals {
        let error = broker.publish_all(request).await.unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert!(broker.topics(None, 10).is_empty(), "a refused request creates no topic");
    let most = vec![publish("a", "", 2), publish("b", "", 2), publish("a", "", 1)];
    let acks = broker.publish_all(most).await.unwrap();
    assert_eq!(sequences(&acks), [1, 2, 1, 2, 3]);
    broker.close().await;
}

/// Goal: the limits that are set for clients, however small, do not keep the broker from storing
/// what it needs; its own limits hold.
#[tokio::test]
async fn the_brokers_own_publishes_have_limits_of_their_own() {
    let mut open = OpenConfig::default();
    let limits = &mut open.limits;
    (limits.max_payload_bytes, limits.max_batch_bytes, limits.max_batch_events) = (1, 1, 1);
    (limits.max_batch_topics, limits.max_key_bytes, limits.max_headers) = (1, 0, 0);
    (limits.max_topics, limits.max_type_bytes) = (1, 255);
    open.broker.max_queue_bytes = 1;
    let broker = Broker::in_memory(&open).unwrap();
    let own = |topic: &str, key_bytes| {
        let event = NewEvent { key: "k".repeat(key_bytes), ..event("", &"x".repeat(10_000)) };
        Publish::new(name(topic), vec![event.with_header("by", "ann"); 20])
    };
    let acks = broker.publish_own(vec![own("$a", 4_096), own("$b", 1)]).await.unwrap();
    assert_eq!(acks.iter().map(|ack| ack.last().sequence.get()).collect::<Vec<_>>(), [20, 20]);
    assert!(broker.publish_all(vec![own("a", 1)]).await.is_err());
    let over = [
        (vec![own("$a", 4_097)], "events[0] key bytes: 4097 is over the limit of 4096"),
        (to_each(&["$a"; 10_001], ""), "topics in a publish: 10001 is over the limit of 10000"),
        (
            vec![Publish::one(name("$a"), event("", &"x".repeat((16 << 20) + 1)))],
            "payload bytes: 16777217 is over the limit of 16777216",
        ),
    ];
    for (request, message) in over {
        let error = broker.publish_own(request).await.unwrap_err().to_string();
        assert_eq!(error, message);
    }
    broker.close().await;
}

/// Goal: a request is acknowledged as a whole or refused as a whole, however the log fails, and
/// after a restart it is there as a whole or not at all.
#[tokio::test]
async fn a_log_that_fails_stores_a_request_whole_or_not_at_all() {
    let topics = ["a", "b", "c"];
    let faults = [
        (Fault::NotWritten, 0),
        (Fault::DiskFull, 0),
        (Fault::WriteFails, 0),
        (Fault::SyncFails, 1),
        (Fault::Panics, 0),
    ];
    for (fault, stored) in faults {
        let log = Arc::new(FaultyLog::default());
        let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
        broker.publish_all(to_each(&topics, "before")).await.unwrap();
        log.fail(2, fault);
        let request: Vec<Publish> =
            topics.iter().map(|topic| Publish::one(name(topic), event("id", "after"))).collect();
        let error = broker.publish_all(request.clone()).await.unwrap_err();
        let is_unknown = !matches!(fault, Fault::NotWritten | Fault::DiskFull);
        assert_eq!(error.outcome_unknown(), is_unknown, "{fault:?}: {error}");
        broker.close().await;
        drop(broker);
        log.repair();
        let broker = Broker::with_log(log, &OpenConfig::default()).unwrap();
        for topic in topics {
            let expected = [vec!["before"], vec!["after"; stored]].concat();
            assert_eq!(payloads(&broker, topic).await, expected, "{fault:?}");
        }
        let acks = broker.publish_all(request).await.unwrap();
        let are_known = acks.iter().map(Ack::is_duplicate).collect::<Vec<_>>();
        assert_eq!(are_known, vec![stored == 1; 3], "{fault:?}");
        assert_eq!(sequences(&acks), [2, 2, 2], "{fault:?}");
        broker.close().await;
    }
}

/// Goal: a request that was acknowledged is there after a restart, its ids are known, and a request
/// that repeats a part of it stores the rest.
#[tokio::test]
async fn a_request_is_whole_after_a_restart_and_its_ids_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let log = SledLog::open(directory.path(), &LogConfig::default()).unwrap();
        Broker::with_log(Arc::new(log), &OpenConfig::default()).unwrap()
    };
    let request = |topics: std::ops::Range<usize>| {
        topics.map(|n| Publish::one(name(&format!("t.{n}")), event("id", "x"))).collect::<Vec<_>>()
    };
    let broker = open();
    let acks = broker.publish_all(request(0..500)).await.unwrap();
    broker.close().await;
    drop(broker);
    let broker = open();
    assert_eq!(broker.last_position().get(), 500);
    let again = broker.publish_all(request(0..501)).await.unwrap();
    for (acked, again) in acks.iter().zip(&again) {
        assert_eq!((acked.first(), true), (again.first(), again.is_duplicate()));
    }
    assert!(!again[500].is_duplicate());
    assert_eq!(again[500].first().position.get(), 501);
    broker.close().await;
}

/// Goal: a request has one place in its publisher's order: once it is refused, nothing after it is
/// stored.
#[tokio::test]
async fn a_refused_request_fails_those_after_it_in_its_order() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let order = InOrder::default();
    let mut refused = to_each(&["a", "b"], "refused");
    refused[1].expected_sequence = Some(7);
    let requests = [to_each(&["a", "b"], "1"), refused, to_each(&["c"], "after")];
    let mut outcomes = Vec::new();
    let mut pending = Vec::new();
    for request in requests {
        pending.push(broker.submit_all_in_order(request, &order).await);
    }
    for pending in pending {
        outcomes.push(match pending {
            Ok(pending) => pending.acks().await.map(|acks| sequences(&acks)),
            Err(error) => Err(error),
        });
    }
    assert_eq!(outcomes[0].as_ref().unwrap(), &[1, 1]);
    assert!(
        matches!(&outcomes[1], Err(Error::UnexpectedSequence { topic, .. }) if *topic == name("b"))
    );
    assert!(matches!(outcomes[2], Err(Error::AfterFailure)));
    assert_eq!(payloads(&broker, "a").await, ["1"]);
    assert!(broker.topic(&name("c")).is_err());
    broker.close().await;
}
