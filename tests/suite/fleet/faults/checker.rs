//! What must be so after everything that happened to a fleet.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::clients::ToldClients;
use super::held::HeldEvents;
use super::publishers::ToldPublisher;
use super::readers::{Selection, ToldReader};
use super::records::FleetRecords;
use crate::common::{run, text};

/// Checks what clients were told against what each node holds, and against the stream.
///
/// # Panics
///
/// If something was lost, was stored twice, or differs.
pub(super) fn check(told: &ToldClients, held: &[HeldEvents], records: &FleetRecords) {
    for (number, node) in held.iter().enumerate() {
        for (topic, events) in node {
            let first = &held[0][topic];
            let differ = events.iter().zip(first).find(|(one, other)| one != other);
            assert_eq!(differ, None, "{topic}: node {number} holds something else than node 0");
            assert_eq!(events.len(), first.len(), "{topic}: node {number} has more or fewer");
            let sequences = events.iter().map(|event| event["sequence"].as_u64());
            assert!(sequences.eq((1..=events.len() as u64).map(Some)), "{topic}: a hole");
        }
    }
    let by_position = by_position(&held[0]);
    told.publishers.iter().for_each(|publisher| check_publisher(publisher, &held[0], records));
    told.readers.iter().for_each(|reader| check_reader(reader, &held[0], &by_position));
}

/// Checks that `leftoff check --against` finds all topics equal on all nodes, by their hashes.
/// `comparing.rs` shows that it finds what differs.
///
/// # Panics
///
/// If it does not, or leaves an event out.
pub(super) async fn check_hashes(nodes: &[SocketAddr], held: &HeldEvents) {
    let urls: Vec<String> = nodes.iter().map(|node| format!("http://{node}")).collect();
    let arguments = ["check", "--against"].into_iter().chain(urls.iter().map(String::as_str));
    let compared = run(&arguments.collect::<Vec<_>>()).await;
    assert_eq!(compared.status.code(), Some(0), "{compared:?}");
    let said = text(&compared.stdout);
    for (topic, events) in held.iter().filter(|(_, events)| !events.is_empty()) {
        let line = format!("equal    {topic}: {} events", events.len());
        let times = said.lines().filter(|it| *it == line).count();
        assert_eq!(times, nodes.len() - 1, "{line}, with the first node: {said}");
    }
}

fn payload(event: &Value) -> &str {
    event["data"].as_str().expect("a text")
}

fn place(event: &Value, of: &str) -> u64 {
    event[of].as_u64().expect("a place")
}

/// Returns all events in the order of their positions, each of which is given once.
fn by_position(held: &HeldEvents) -> Vec<(u64, String)> {
    let all = held.values().flatten();
    let mut events: Vec<(u64, String)> =
        all.map(|event| (place(event, "position"), payload(event).to_owned())).collect();
    events.sort_unstable();
    assert!(events.is_sorted_by(|(one, _), (next, _)| one < next), "a position is given twice");
    events
}

fn check_publisher(told: &ToldPublisher, held: &HeldEvents, records: &FleetRecords) {
    let ToldPublisher { topic, has_ids, acked, refused, unknown } = told;
    let mut stored: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for event in &held[topic] {
        let places = (place(event, "sequence"), place(event, "position"));
        stored.entry(payload(event)).or_default().push(places);
    }
    for event in acked {
        let (payload, places) = (&event.payload, (event.sequence, event.position));
        assert_eq!(stored.remove(&**payload), Some(vec![places]), "{topic}: {payload} was acked");
        records.assert_has_once(payload, places);
    }
    for payload in refused {
        assert_eq!(stored.remove(&**payload), None, "{topic}: {payload} was refused");
    }
    for payload in unknown {
        let times = stored.remove(&**payload).map_or(0, |places| places.len());
        assert!(times <= 1, "{topic}: {payload} is there {times} times");
    }
    // Nobody published anything else.
    assert_eq!(stored, BTreeMap::new(), "{topic}");
    if *has_ids {
        assert!(unknown.is_empty() && refused.is_empty());
        let in_order = acked.is_sorted_by(|one, next| one.sequence < next.sequence);
        assert!(in_order, "{topic}: the publisher's order");
    }
}

fn check_reader(told: &ToldReader, held: &HeldEvents, by_position: &[(u64, String)]) {
    let ToldReader { transport, selection, events } = told;
    let topic = match selection {
        Selection::Topic(topic) => &held[topic],
        Selection::All => {
            assert!(by_position.starts_with(events), "{transport:?}: {selection:?}");
            return;
        }
    };
    for (index, (sequence, read)) in events.iter().enumerate() {
        let place = index as u64 + 1;
        assert_eq!(*sequence, place, "{transport:?}: {selection:?}: missed or repeated");
        assert_eq!(read, payload(&topic[index]), "{transport:?}: {selection:?}: {sequence}");
    }
}
