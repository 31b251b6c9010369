//! The ledger: the acknowledged events with their places, and the events that a reader must have
//! got.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use leftoff::topic::TopicPattern;

use super::COMPACTED;
use crate::common::Receipt;
use crate::ways::Way;

/// A published event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) topic: String,
    pub(super) key: String,
    pub(super) event_type: String,
    pub(super) payload: String,
}

/// The topics and the type that a reader asks for.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) topics: Vec<String>,
    pub(super) is_of_many: bool,
    pub(super) event_type: Option<&'static str>,
}

impl Scope {
    pub(super) fn one(topic: &str) -> Self {
        Self { topics: vec![topic.to_owned()], is_of_many: false, event_type: None }
    }

    pub(super) fn many(patterns: &[&str]) -> Self {
        let topics = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Self { topics, is_of_many: true, event_type: None }
    }

    pub(super) fn of_type(self, event_type: &'static str) -> Self {
        Self { event_type: self.event_type.or(Some(event_type)), ..self }
    }

    fn wants(&self, event: &Event) -> bool {
        let fits = |pattern: &String| {
            let pattern: TopicPattern = pattern.parse().unwrap();
            pattern.matches(&event.topic.parse().unwrap())
        };
        self.event_type.is_none_or(|wanted| wanted == event.event_type)
            && self.topics.iter().any(fits)
    }
}

/// An event as a reader got it.
#[derive(Debug, Clone)]
pub(super) struct Got {
    pub(super) topic: String,
    pub(super) sequence: u64,
    pub(super) position: u64,
    pub(super) payload: String,
}

/// A gap as a reader was told of it.
#[derive(Debug, Clone)]
pub(super) struct ToldGap {
    pub(super) topic: Option<String>,
    pub(super) earliest: u64,
    pub(super) reason: String,
}

/// The events and gaps that a reader got over one connection, between two cursors.
#[derive(Debug, Clone)]
pub(super) struct Cycle {
    pub(super) way: Way,
    pub(super) scope: Scope,
    /// The cursor with which the reader connected, and the last one that it got.
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
    pub(super) events: Vec<Got>,
    pub(super) gaps: Vec<ToldGap>,
    /// Whether the connection was cut.
    pub(super) is_cut: bool,
}

/// Returns the number in a cursor: a sequence or a position.
fn number(cursor: &str) -> u64 {
    let digits = cursor.trim_start_matches('@');
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or_else(|_| panic!("{cursor:?} is not a cursor"))
}

/// The result of comparing cycles with the ledger.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) delivered: usize,
    pub(super) gaps: usize,
    pub(super) violations: Vec<String>,
}

/// All acknowledged events, by position.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<BTreeMap<u64, (u64, Event)>>);

impl Ledger {
    /// Records an event at its position.
    pub(super) fn note(&self, sequence: u64, position: u64, event: Event) {
        let before = self.0.lock().unwrap().insert(position, (sequence, event));
        assert_eq!(before, None, "position {position} was given twice");
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Compares all `cycles` with the acknowledged events.
    pub(super) fn check(&self, cycles: &[Cycle]) -> Checked {
        let events = self.0.lock().unwrap();
        let mut newest: HashMap<(&str, &str), u64> = HashMap::new();
        for (position, (_, event)) in &*events {
            newest.insert((&event.topic, &event.key), *position);
        }
        let mut checked = Checked::default();
        let mut told = Told::default();
        let by_sequence = by_sequence(&events);
        for cycle in cycles {
            // A gap is told once, before all else. Until the reader has passed the lost events, `~`
            // in its cursors says that it was told.
            if !cycle.first.as_ref().is_some_and(|cursor| cursor.contains('~')) {
                told = Told::default();
            }
            cycle.gaps.iter().for_each(|gap| told.note(gap));
            checked.delivered += cycle.events.len();
            checked.gaps += cycle.gaps.len();
            let mut violations = untrue(&events, cycle);
            violations.extend(missing(&events, &by_sequence, &newest, cycle, &told));
            for violation in violations {
                let Cycle { way, scope, first, last, .. } = cycle;
                checked.violations.push(format!(
                    "{violation}; over {way:?} from {first:?} to {last:?}, {scope:?}, told \
                     {told:?}"
                ));
            }
        }
        checked
    }
}

/// Returns the events of a cycle that were never published so, or came out of order or twice.
fn untrue(events: &BTreeMap<u64, (u64, Event)>, cycle: &Cycle) -> Vec<String> {
    let is_of_many = cycle.scope.is_of_many;
    let mut violations = Vec::new();
    let mut before = cycle.first.as_deref().map_or(0, number);
    for got in &cycle.events {
        let place = if is_of_many { got.position } else { got.sequence };
        if place <= before {
            violations.push(format!("{place} comes after {before}"));
        }
        before = place;
        match events.get(&got.position) {
            Some((sequence, event))
                if (*sequence, &event.topic, &event.payload)
                    == (got.sequence, &got.topic, &got.payload)
                    && cycle.scope.wants(event) => {}
            other => violations.push(format!("{got:?} is not {other:?}")),
        }
    }
    for gap in &cycle.gaps {
        if !["retention", "purged"].contains(&gap.reason.as_str()) {
            violations.push(format!("a gap for another reason: {gap:?}"));
        }
    }
    violations
}

/// The position of each event, by topic and sequence.
type BySequence<'a> = HashMap<&'a str, BTreeMap<u64, u64>>;

fn by_sequence(events: &BTreeMap<u64, (u64, Event)>) -> BySequence<'_> {
    let mut by_sequence = BySequence::new();
    for (position, (sequence, event)) in events {
        by_sequence.entry(&event.topic).or_default().insert(*sequence, *position);
    }
    by_sequence
}

/// The gaps that a reader knows of: for each topic, or for all topics without a name, the sequence
/// below which events may be missing.
#[derive(Debug, Default)]
struct Told(HashMap<Option<String>, u64>);

impl Told {
    fn note(&mut self, gap: &ToldGap) {
        let below = self.0.entry(gap.topic.clone()).or_default();
        *below = gap.earliest.max(*below);
    }

    fn covers(&self, topic: &str, sequence: u64) -> bool {
        let topics = [None, Some(topic.to_owned())];
        topics.iter().any(|topic| self.0.get(topic).is_some_and(|below| sequence < *below))
    }
}

/// Returns the events that a cycle skipped without a gap. `told` are the gaps that its reader knows
/// of.
fn missing(
    events: &BTreeMap<u64, (u64, Event)>,
    by_sequence: &BySequence<'_>,
    newest: &HashMap<(&str, &str), u64>,
    cycle: &Cycle,
    told: &Told,
) -> Vec<String> {
    // A reader from the earliest event is not told of events that were gone before it began.
    let (Some(first), Some(last)) = (&cycle.first, &cycle.last) else { return Vec::new() };
    let (first, last) = (number(first), number(last));
    let got: BTreeSet<u64> = cycle.events.iter().map(|got| got.position).collect();
    if first >= last {
        return Vec::new();
    }
    let places = (Bound::Excluded(first), Bound::Included(last));
    let passed: Vec<u64> = match cycle.scope.is_of_many {
        true => events.range(places).map(|(position, _)| *position).collect(),
        false => {
            let of_each = by_sequence.values().flat_map(|of_topic| of_topic.range(places));
            of_each.map(|(_, position)| *position).collect()
        }
    };
    let is_missing = |position: &u64| {
        let (sequence, event) = &events[position];
        let is_superseded = || {
            let newest = newest[&(event.topic.as_str(), event.key.as_str())];
            event.topic == COMPACTED && newest > *position
        };
        cycle.scope.wants(event)
            && !got.contains(position)
            && !told.covers(&event.topic, *sequence)
            && !is_superseded()
    };
    let missing = passed.iter().filter(|position| is_missing(position));
    missing
        .map(|position| {
            let (sequence, event) = &events[position];
            format!("{} {sequence} at {position} is missing without a gap", event.topic)
        })
        .collect()
}

/// A client that repeats each publish until it is acknowledged.
pub(super) struct Publisher {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Publisher {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn try_send(&self, method: &str, path: &str, body: String) -> Option<(u16, Bytes)> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "text/plain")
            .body(Full::new(body.into()))
            .unwrap();
        let answered = async {
            let answer = self.client.request(request).await.ok()?;
            let status = answer.status().as_u16();
            Some((status, answer.into_body().collect().await.ok()?.to_bytes()))
        };
        tokio::time::timeout(Duration::from_secs(10), answered).await.ok().flatten()
    }

    /// Publishes `event` until it is acknowledged, and returns its sequence and its position.
    pub(super) async fn publish(&self, id: &str, event: &Event) -> (u64, u64) {
        let Event { topic, key, event_type, payload } = event;
        let path = format!("/v1/topics/{topic}/events?id={id}&key={key}&type={event_type}");
        loop {
            match self.try_send("POST", &path, payload.clone()).await {
                Some((200 | 201, body)) => {
                    let receipt: Receipt = serde_json::from_slice(&body).unwrap();
                    return (receipt.sequence, receipt.position);
                }
                Some((503 | 429, _)) | None => tokio::time::sleep(Duration::from_millis(20)).await,
                Some((status, body)) => panic!("{status}: {body:?}"),
            }
        }
    }

    /// Purges the older half of a topic, if the broker answers.
    pub(super) async fn purge_half(&self, topic: &str) {
        let path = format!("/v1/topics/{topic}");
        let Some((200, body)) = self.try_send("GET", &path, String::new()).await else { return };
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let (earliest, tail) = (told["earliest"].as_u64().unwrap(), told["tail"].as_u64().unwrap());
        let before = earliest + (tail - earliest) / 2;
        let path = format!("/v1/topics/{topic}/events?before={before}");
        self.try_send("DELETE", &path, String::new()).await;
    }
}
