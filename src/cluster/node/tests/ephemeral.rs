//! Tests of ephemeral events between nodes.

use super::*;
use crate::cluster::RelayCounts;
use crate::cluster::messages::MAX_MESSAGE_BYTES;

/// Waits for the next ephemeral event, and returns its payload.
async fn next_ephemeral(reader: &mut crate::Reader) -> Vec<u8> {
    loop {
        let delivery = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap();
        if let Delivery::Ephemeral(event) = delivery.unwrap().unwrap() {
            return event.event.payload.to_vec();
        }
    }
}

/// Goal: an ephemeral event that is published at any node is given once to the followers at each;
/// one that cannot be told is counted, and one that never could is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_events_reach_the_followers_at_all_nodes_once() {
    let (fleet, links) = TestFleet::begun(LEASE).await;
    fleet.publish_somewhere("a", "1").await;
    fleet.agreed().await;
    let mut readers = Vec::new();
    for node in fleet.running() {
        let start = StartPoint::Latest;
        readers.push(node.broker.subscribe(&name("a"), start, OnGap::Fail).await.unwrap());
    }
    let send = |number: usize, text: String| {
        let events = vec![NewEvent::new(text)];
        fleet.node(number).broker.publish_ephemeral(&name("a"), events)
    };
    // Until all listen.
    wait_for(|| {
        send(0, "begin".to_owned()).unwrap();
        let heard = |number: usize| fleet.node(number).node.view().relayed().heard > 0;
        (heard(1) && heard(2)).then_some(())
    })
    .await;
    for number in 0..30 {
        assert_eq!(send(number % 3, number.to_string()).unwrap(), 1);
    }
    for (at, reader) in readers.iter_mut().enumerate() {
        let mut seen = Vec::new();
        while seen.len() < 30 {
            let payload = String::from_utf8(next_ephemeral(reader).await).unwrap();
            seen.extend((payload != "begin").then(|| payload.parse::<usize>().unwrap()));
        }
        for from in 0..3 {
            let of_one: Vec<_> = seen.iter().filter(|number| *number % 3 == from).collect();
            assert!(of_one.len() == 10 && of_one.is_sorted(), "{at}: {seen:?}");
        }
    }
    let large = send(0, "x".repeat(MAX_MESSAGE_BYTES)).unwrap_err();
    assert!(matches!(large, Error::OverLimit { .. }), "{large}");
    links[0].cut(PATIENCE);
    let before = fleet.node(0).node.view().relayed();
    assert_eq!(send(0, "alone".to_owned()).unwrap(), 1);
    let RelayCounts { told, not_told, .. } = fleet.node(0).node.view().relayed();
    assert_eq!((told, not_told), (before.told, before.not_told + 1));
    assert_eq!(next_ephemeral(&mut readers[0]).await, b"alone");
    links[0].cut(Duration::ZERO);
    send(0, "back".to_owned()).unwrap();
    assert_eq!(next_ephemeral(&mut readers[1]).await, b"back", "and nothing before it");
    fleet.close().await;
}
