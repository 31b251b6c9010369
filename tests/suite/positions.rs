//! Positions follow the order of each publisher, over all topics.

use std::collections::HashMap;

use leftoff::cursor::{OnGap, StartPoint};
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{NewEvent as WireEvent, PublishStreamRequest};
use leftoff::{Broker, Delivery};
use serde_json::json;

use crate::common::{Server, soon};
use crate::websocket::Client;

/// The number of publishes of each publisher, all in flight at once.
const COUNT: usize = 300;

/// The number of publishers over WebSockets, and as many over gRPC.
const PUBLISHERS: usize = 6;

fn topic(publisher: usize, number: usize) -> String {
    format!("p.{}", (number * 7 + publisher) % 3)
}

/// Returns the positions that one publisher is told over a WebSocket, in the order of its
/// publishes.
async fn over_websocket(address: std::net::SocketAddr, publisher: usize) -> Vec<u64> {
    let mut client = Client::connect(address).await;
    for number in 0..COUNT {
        let event = json!({"key": publisher.to_string(), "data": number});
        let topic = topic(publisher, number);
        let reference = number.to_string();
        let publish = json!({"type": "publish", "ref": reference, "topic": topic, "event": event});
        client.say(publish).await;
    }
    let mut positions = vec![0; COUNT];
    for _ in 0..COUNT {
        let ack = client.find("ack").await;
        let number: usize = ack["ref"].as_str().unwrap().parse().unwrap();
        positions[number] = ack["position"].as_u64().unwrap();
    }
    positions
}

/// Returns the same over a gRPC stream.
async fn over_grpc(server: &Server, publisher: usize) -> Vec<u64> {
    let requests: Vec<_> = (0..COUNT)
        .map(|number| PublishStreamRequest {
            topic: topic(publisher, number),
            events: vec![WireEvent {
                key: publisher.to_string(),
                payload: number.to_string().into(),
                content_type: "application/json".to_owned(),
                ..WireEvent::default()
            }],
            expected_sequence: None,
            in_order: publisher.is_multiple_of(2),
            topics: Vec::new(),
        })
        .collect();
    let responses = server.grpc().await.publish_stream(tokio_stream::iter(requests)).await;
    let mut responses = responses.unwrap().into_inner();
    let mut positions = Vec::new();
    while let Some(response) = soon(responses.message()).await.unwrap() {
        match response.outcome.unwrap() {
            Outcome::Ack(ack) => positions.push(ack.first.unwrap().position),
            other => panic!("{other:?}"),
        }
    }
    positions
}

/// Returns the position, publisher and number of each event that a feed over all topics delivers.
async fn follow(broker: Broker, count: usize) -> Vec<(u64, usize, usize)> {
    let patterns = vec!["p.*".parse().unwrap()];
    let mut feed = broker.feed(patterns, StartPoint::Earliest, OnGap::Fail).await.unwrap();
    let mut patience = leftoff::broker::Patience::new(std::time::Duration::from_secs(1));
    let mut seen = Vec::new();
    while seen.len() < count {
        let waited = soon(feed.next_within(&mut patience)).await.unwrap();
        let leftoff::broker::Waited::Delivery(Delivery::Events(run)) = waited else { continue };
        for event in run.to_events() {
            let number = std::str::from_utf8(&event.content.payload).unwrap().parse().unwrap();
            seen.push((event.position.get(), event.content.key.parse().unwrap(), number));
        }
    }
    seen
}

/// Goal: many publishers pipeline over the same topics. Each finds its own order in the positions
/// that it is told, and in a feed, which misses no event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_publisher_hands_in_has_rising_positions_over_all_topics() {
    let server = Server::start().await;
    let total = 2 * PUBLISHERS * COUNT;
    let live = tokio::spawn(follow(server.broker.clone(), total));
    let sockets = (0..PUBLISHERS).map(|publisher| over_websocket(server.address, publisher));
    let streams = (PUBLISHERS..2 * PUBLISHERS).map(|publisher| over_grpc(&server, publisher));
    let told = tokio::join!(
        futures_util::future::join_all(sockets),
        futures_util::future::join_all(streams),
    );
    let told: Vec<Vec<u64>> = told.0.into_iter().chain(told.1).collect();
    let mut expected = HashMap::new();
    for (publisher, positions) in told.iter().enumerate() {
        assert_eq!(positions.len(), COUNT);
        let inversions = positions.windows(2).filter(|pair| pair[0] >= pair[1]).count();
        assert_eq!(inversions, 0, "publisher {publisher}");
        for (number, position) in positions.iter().enumerate() {
            assert_eq!(expected.insert(*position, (publisher, number)), None);
        }
    }
    let again = follow(server.broker.clone(), total).await;
    for (kind, seen) in [("live", live.await.unwrap()), ("again", again)] {
        assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{kind}: positions do not rise");
        let seen: HashMap<_, _> =
            seen.into_iter().map(|(p, by, number)| (p, (by, number))).collect();
        assert_eq!(seen, expected, "{kind}");
    }
}
