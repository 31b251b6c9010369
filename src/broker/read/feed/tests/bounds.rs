//! The bounds of a feed, set small: memory for blocks that were read ahead.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::broker::*;
use crate::event::NewEvent;

const TOPICS: usize = 40;
const PAYLOAD_BYTES: usize = 1_000;
const MAX_READ_BYTES: usize = 8 << 10;

/// Goal: the blocks that a feed holds after reading ahead take no more bytes than one read may, and
/// one block; every event is delivered.
#[tokio::test]
async fn what_a_feed_holds_is_bounded_and_everything_comes_all_the_same() {
    for max_tail_bytes in [0, 1 << 20] {
        let mut config = OpenConfig::default();
        config.broker.max_tail_bytes = max_tail_bytes;
        config.broker.max_replay_bytes = 0;
        config.broker.max_read_bytes = MAX_READ_BYTES as u64;
        let broker = Broker::in_memory(&config).unwrap();
        for number in 0..5 * TOPICS {
            let topic = format!("topic.{}", number % TOPICS).parse().unwrap();
            let events = vec![NewEvent::new(vec![b'x'; PAYLOAD_BYTES])];
            let publish = Publish { topic, events, expected_sequence: None };
            broker.publish(publish).await.unwrap();
        }
        let start = StartPoint::Earliest;
        let mut feed = broker.feed(vec![">".parse().unwrap()], start, OnGap::Fail).await.unwrap();
        let (mut positions, mut most) = (BTreeSet::new(), 0);
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), feed.next_ready()).await;
            let Some(delivery) = next.expect("it takes too long").unwrap() else { break };
            most = most.max(feed.as_feed().sources.held_bytes());
            if let Delivery::Events(run) = delivery {
                positions.extend(run.events().map(|event| event.position.get()));
            }
        }
        assert_eq!(positions, (1..=5 * TOPICS as u64).collect());
        let block_bytes = PAYLOAD_BYTES + 500;
        assert!(most <= MAX_READ_BYTES + block_bytes, "{most} bytes, tail {max_tail_bytes}");
        // Blocks of the tail are in memory anyway, and are not held.
        assert!(max_tail_bytes > 0 || most >= 2 * PAYLOAD_BYTES, "{most} bytes: nothing is held");
    }
}
