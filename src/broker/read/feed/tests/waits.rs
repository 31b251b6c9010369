//! A feed that waits is woken, and does not depend on a look when its patience is over.

use std::task::Poll;
use std::time::Duration;

use crate::broker::*;
use crate::event::NewEvent;

/// Goal: a feed that waits is woken for each event, in whichever topic.
/// Method: the feed is seen to wait before each event, and would not look by itself for an hour.
#[tokio::test]
async fn a_feed_that_waits_is_told_every_time() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let all = vec![">".parse().unwrap()];
    let mut feed = broker.feed(all, StartPoint::Latest, OnGap::Fail).await.unwrap();
    for number in 1..=20_u64 {
        while feed.next_ready().await.unwrap().is_some() {}
        let mut patience = Patience::new(Duration::from_secs(3_600));
        let mut next = Box::pin(feed.next_within(&mut patience));
        let first = std::future::poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await;
        assert!(first.is_pending(), "{first:?} before {number}");
        let topic = format!("topic.{}", number % 3).parse().unwrap();
        let events = vec![NewEvent::new("x")];
        broker.publish(Publish { topic, events, expected_sequence: None }).await.unwrap();
        let told = tokio::time::timeout(Duration::from_secs(30), next).await;
        let told = told.expect("the feed is not woken").unwrap();
        let Waited::Delivery(Delivery::Events(run)) = told else { panic!("{told:?}") };
        let positions: Vec<u64> = run.events().map(|event| event.position.get()).collect();
        assert_eq!(positions, [number]);
    }
}
