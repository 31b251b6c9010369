//! What the nodes of a fleet hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broken_fleet::HEAL_TIMEOUT;
use super::clients::{call, topic_of};
use crate::common::{soon, to};

/// The events of each topic as one node has them.
pub(super) type HeldEvents = BTreeMap<String, Vec<Value>>;

/// Returns the events of all nodes, once all have applied the same.
pub(super) async fn held(nodes: &[SocketAddr], topics: usize) -> Vec<HeldEvents> {
    let mut all = Vec::new();
    let last = last_of_all(nodes[0]).await;
    for node in nodes {
        let mut held = HeldEvents::new();
        for number in 0..topics {
            let topic = topic_of(number);
            held.insert(topic.clone(), events_of(*node, &topic, last).await);
        }
        all.push(held);
    }
    all
}

/// Publishes a last event. Returns its position.
async fn last_of_all(node: SocketAddr) -> u64 {
    let deadline = Instant::now() + HEAL_TIMEOUT;
    loop {
        let request = to(node, "POST", "/v1/topics/last/events?id=last");
        let answer = call(request, "last", HEAL_TIMEOUT).await;
        if let Ok((status, body)) = &answer
            && status.is_success()
        {
            let told: Value = serde_json::from_slice(body).unwrap();
            return told["position"].as_u64().unwrap();
        }
        assert!(Instant::now() < deadline, "{node} of a fleet that is whole: {answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns all events of a topic, as a node has them once it has applied `position`.
async fn events_of(address: SocketAddr, topic: &str, position: u64) -> Vec<Value> {
    soon(async {
        // A cursor that is ahead is waited for.
        let path = format!("/v1/events?topic=last&after=@{}&limit=1", position - 1);
        loop {
            let told = call(to(address, "GET", &path), "", Duration::from_secs(5)).await;
            if told.is_ok_and(|(status, body)| status == 200 && !events_in(&body).is_empty()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let (mut events, mut after): (Vec<Value>, u64) = (Vec::new(), 0);
    loop {
        let path = format!("/v1/topics/{topic}/events?after={after}&limit=1000");
        let told = call(to(address, "GET", &path), "", Duration::from_secs(20)).await;
        let (status, body) = told.expect("a page");
        if status == 404 {
            return events; // Nothing was published there.
        }
        assert_eq!(status, 200, "{body:?}");
        let page = events_in(&body);
        let Some(last) = page.last() else { return events };
        after = last["sequence"].as_u64().unwrap();
        events.extend(page);
    }
}

/// Returns the events of a page.
pub(super) fn events_in(page: &[u8]) -> Vec<Value> {
    let mut page: Value = serde_json::from_slice(page).unwrap();
    match page["events"].take() {
        Value::Array(events) => events,
        other => panic!("no page: {other}"),
    }
}
