//! Tests of the parts for tests. A paused clock needs a feature of tokio that these tests do not
//! have: what holds it is tested here, and not the clock itself.

use super::*;
use crate::broker::{InOrder, Member, Publish};
use crate::cursor::{OnGap, StartPoint};
use crate::error::Error;
use crate::event::NewEvent;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn publish(topic: &str, payload: &str) -> Publish {
    let event = NewEvent { id: payload.to_owned(), ..NewEvent::new(payload.to_owned()) };
    Publish { topic: name(topic), events: vec![event], expected_sequence: None }
}

async fn feed(broker: &Broker, pattern: &str) -> Reader {
    let patterns = vec![pattern.parse().unwrap()];
    broker.feed(patterns, StartPoint::Earliest, OnGap::Resume).await.unwrap()
}

/// Goal: whatever is done with a broker, its threads come to rest, and are known to.
#[tokio::test]
async fn a_broker_comes_to_rest_after_everything_that_is_done_with_it() {
    let log = Arc::new(FaultyLog::default());
    let broker = Builder::default().log(log.clone()).open().unwrap();
    let topic = name("a");
    let mut reader = broker.subscribe(&topic, StartPoint::Earliest, OnGap::Resume).await.unwrap();
    let mut feed = feed(&broker, ">").await;
    log.fail(1, Fault::NotWritten);
    for number in 1..=20 {
        let published = broker.publish(publish("a", &number.to_string())).await;
        assert_eq!(published.is_err(), number == 1);
        drop(broker.submit(publish("b", &number.to_string())).await.unwrap());
        broker.publish_ephemeral(&topic, vec![NewEvent::new("x")]).unwrap();
    }
    settled(&broker).await;
    assert_eq!(broker.last_position().get(), 39);
    let members = (0..200).map(|number| name(&format!("t.{number}"))).collect::<Vec<_>>();
    let member = Member { id: "m".to_owned(), info: Default::default() };
    let presence = broker.join(&members, member).await.unwrap();
    drop(presence);
    settled(&broker).await;
    assert!(broker.presence(&members[199], "", 10).is_empty(), "a member is still there");
    broker.maintain(None).await.unwrap();
    broker.delete_topic(&name("b")).await.unwrap();
    settled(&broker).await;
    let count = |deliveries: Vec<Delivery>| {
        let runs = deliveries.into_iter().filter_map(|delivery| match delivery {
            Delivery::Events(run) => Some(run.events().count()),
            _ => None,
        });
        runs.sum::<usize>()
    };
    assert_eq!(count(delivered(&broker, &mut reader).await.unwrap()), 19);
    assert_eq!(count(delivered(&broker, &mut feed).await.unwrap()), 19, "and those of the topic");
    broker.close().await;
    settled(&broker).await;
    let error = broker.submit_patiently(publish("a", "x"), &InOrder::default()).await.unwrap_err();
    assert!(matches!(error, Error::ShuttingDown), "{error}");
    settled(&broker).await;
}

/// Goal: publishes that are given up, before they are in the queue and after, are no work for ever.
#[tokio::test]
async fn publishes_that_are_given_up_anywhere_leave_no_work_behind() {
    let mut config = OpenConfig::default();
    config.broker.max_queue_bytes = config.limits.max_batch_bytes;
    let log = Arc::new(FaultyLog::default());
    let broker = Builder::default().log(log.clone()).config(config).open().unwrap();
    log.fail(1, Fault::Waits);
    let held = log.hold();
    for polls in 0..100 {
        let events = vec![NewEvent::new("x".repeat(100_000))];
        let publish = Publish { topic: name("a"), events, expected_sequence: None };
        let mut given_up = Box::pin(broker.publish(publish));
        for _ in 0..polls % 4 {
            assert!(futures_util::poll!(given_up.as_mut()).is_pending());
        }
    }
    assert!(!broker.busy().wait(Duration::ZERO), "an append that waits is work");
    drop(held);
    settled(&broker).await;
    broker.close().await;
}

/// Goal: work that the committer leaves behind when it panics holds no clock.
#[tokio::test]
async fn a_panic_of_the_committer_leaves_no_work_behind() {
    let log = Arc::new(FaultyLog::default());
    let broker = Builder::default().log(log.clone()).open().unwrap();
    log.fail(1, Fault::Waits);
    log.fail(2, Fault::Panics);
    let held = log.hold();
    let first = broker.submit(publish("a", "1")).await.unwrap();
    until("the append waits", || log.appends() == 1).await;
    let mut others = Vec::new();
    for number in 2..=9 {
        others.push(broker.submit(publish("a", &number.to_string())).await.unwrap());
    }
    // A change of the topic ends the group, and leaves what comes after it in the queue.
    let topic = name("a");
    let mut change = Box::pin(broker.set_topic(&topic, TopicConfig::default()));
    assert!(futures_util::poll!(change.as_mut()).is_pending());
    others.push(broker.submit(publish("a", "10")).await.unwrap());
    drop(held);
    first.ack().await.unwrap();
    change.await.unwrap_err();
    for other in others {
        let error = other.ack().await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
    }
    settled(&broker).await;
    broker.close().await;
}

#[tokio::test]
async fn the_clock_of_the_test_is_the_time_of_its_events() {
    let clock = Clock::new(START);
    let broker = Builder::default().clock(&clock).open().unwrap();
    let mut times = Vec::new();
    for _ in 0..3 {
        broker.publish(publish("a", &clock.now().to_string())).await.unwrap();
        clock.advance(Duration::from_secs(60));
    }
    clock.set(START.minus_ms(5)); // Times of events never go back.
    broker.publish(publish("a", "back")).await.unwrap();
    let mut reader =
        broker.subscribe(&name("a"), StartPoint::Earliest, OnGap::Resume).await.unwrap();
    for delivery in delivered(&broker, &mut reader).await.unwrap() {
        let Delivery::Events(run) = delivery else { continue };
        times.extend(run.events().map(|event| event.time.as_ms() - START.as_ms()));
    }
    assert_eq!(times, [0, 60_000, 120_000, 120_000]);
    broker.close().await;
}

#[tokio::test]
async fn a_clock_that_follows_the_runtime_goes_on_with_it_in_every_thread() {
    let clock = Clock::following(START);
    clock.advance(Duration::from_secs(5));
    let before = clock.now();
    assert!(before >= START.plus_ms(5_000) && before < START.plus_ms(60_000));
    let other = clock.clone();
    let after = std::thread::spawn(move || other.now()).join().unwrap();
    assert!(after >= before);
    clock.set(START);
    assert!(clock.now() < before);
}
