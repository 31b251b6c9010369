//! What must be so after everything that happened to a fleet.

use std::collections::BTreeMap;

use serde_json::Value;

use super::broken_fleet::HeldEvents;
use super::clients::{ToldClients, ToldPublisher, ToldReader};

/// Checks what clients were told against what each node holds.
///
/// # Panics
///
/// If something was lost, was stored twice, or differs.
pub(super) fn check(told: &ToldClients, held: &[HeldEvents]) {
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
    told.publishers.iter().for_each(|publisher| check_publisher(publisher, &held[0]));
    told.readers.iter().for_each(|reader| check_reader(reader, &held[0]));
}

fn payload(event: &Value) -> &str {
    event["data"].as_str().expect("a text")
}

fn check_publisher(told: &ToldPublisher, held: &HeldEvents) {
    let ToldPublisher { topic, has_ids, acked, refused, unknown } = told;
    let events = &held[topic];
    let mut stored: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in events {
        let sequence = event["sequence"].as_u64().unwrap();
        stored.entry(payload(event)).or_default().push(sequence);
    }
    for (payload, sequence, _) in acked {
        assert_eq!(
            stored.remove(&**payload),
            Some(vec![*sequence]),
            "{topic}: {payload} was acked"
        );
    }
    for payload in refused {
        assert_eq!(stored.remove(&**payload), None, "{topic}: {payload} was refused");
    }
    for payload in unknown {
        let times = stored.remove(&**payload).map_or(0, |sequences| sequences.len());
        assert!(times <= 1, "{topic}: {payload} is there {times} times");
    }
    // Nobody published anything else.
    assert_eq!(stored, BTreeMap::new(), "{topic}");
    if *has_ids {
        assert!(unknown.is_empty() && refused.is_empty());
        let in_order = acked.is_sorted_by(|(_, one, _), (_, next, _)| one < next);
        assert!(in_order, "{topic}: the publisher's order");
    }
}

fn check_reader(told: &ToldReader, held: &HeldEvents) {
    let events = &held[&told.topic];
    for (index, (sequence, read)) in told.events.iter().enumerate() {
        let topic = &told.topic;
        assert_eq!(*sequence, index as u64 + 1, "{topic}: a reader missed or repeated something");
        assert_eq!(read, payload(&events[index]), "{topic}: {sequence}");
    }
}
