//! The tests of a host with a paused clock: hours pass in no time, and the broker's threads take
//! none.

use std::sync::Arc;
use std::time::{Duration, Instant as RealInstant};

use leftoff::testing::{self, Builder, Clock, Fault, FaultyLog, delivered, settled};
use leftoff::{
    Broker, Delivery, Error, NewEvent, OnGap, Publish, Reader, StartPoint, TopicConfig, TopicName,
};
use tokio::time::{Instant, sleep, timeout};

fn name(topic: &str) -> TopicName {
    topic.parse().expect("a name")
}

fn one(payload: &'static str) -> Publish {
    Publish::one(name("orders"), NewEvent::new(payload))
}

async fn reader(broker: &Broker) -> Reader {
    let reader = broker.subscribe(&name("orders"), StartPoint::Earliest, OnGap::Resume).await;
    reader.expect("a reader")
}

/// Returns all payloads that are stored.
async fn stored(broker: &Broker) -> Vec<String> {
    let mut reader = reader(broker).await;
    let deliveries = delivered(broker, &mut reader).await.expect("deliveries");
    let runs = deliveries.into_iter().filter_map(|delivery| match delivery {
        Delivery::Events(run) => Some(run.to_events()),
        _ => None,
    });
    let payload =
        |event: leftoff::Event| String::from_utf8(event.content.payload.to_vec()).expect("a text");
    runs.flatten().map(payload).collect()
}

/// Publishes a greeting that lives for a minute.
async fn greet(broker: &Broker) -> Result<(), Error> {
    let hello = NewEvent { ttl_ms: Some(60_000), ..NewEvent::new("hello") };
    broker.publish(Publish::one(name("orders"), hello)).await.map(drop)
}

async fn greetings_of(broker: &Broker) -> Result<usize, Error> {
    Ok(stored(broker).await.len())
}

#[tokio::test(start_paused = true)] // tokio with its feature `test-util`
async fn a_greeting_is_gone_after_an_hour() -> Result<(), leftoff::Error> {
    let broker = leftoff::testing::broker();
    tokio::time::timeout(Duration::from_secs(1), greet(&broker)).await.expect("in time")?;
    tokio::time::sleep(Duration::from_secs(3_600)).await; // Takes no time.
    assert_eq!(greetings_of(&broker).await?, 0);
    broker.close().await;
    Ok(())
}

/// Goal: the example of the documentation, which needs a feature of tokio that the crate's own
/// tests do not have, runs here as it is written there.
#[test]
fn the_example_of_the_documentation_is_a_test_of_this_file() {
    let documented = include_str!("../../../src/testing/mod.rs");
    let (_, example) = documented.split_once("//! ```ignore\n").expect("an example");
    let (example, _) = example.split_once("//! ```\n").expect("its end");
    let lines = example.lines().map(|line| line.strip_prefix("//! ").unwrap_or_default());
    let example = lines.collect::<Vec<_>>().join("\n");
    assert!(include_str!("paused.rs").contains(&example), "{example}");
}

/// Goal: with a paused clock, a publish is in time, however long the broker's threads really take.
#[tokio::test(start_paused = true)]
async fn a_publish_within_a_timeout_does_not_elapse() {
    let broker = testing::broker();
    for _ in 0..500 {
        let ack = timeout(Duration::from_millis(1), broker.publish(one("event"))).await;
        ack.expect("no virtual time passes").expect("an acknowledgement");
    }
    assert_eq!(stored(&broker).await.len(), 500);
    broker.close().await;
}

/// Goal: a reader waits for hours of the paused clock in no time, and gets what comes then.
#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_hours_in_no_time() {
    let (started, virtually) = (RealInstant::now(), Instant::now());
    let broker = testing::broker();
    let mut reader = reader(&broker).await;
    assert!(matches!(reader.next().await, Ok(Some(Delivery::CaughtUp))));
    let publisher = broker.clone();
    let later = tokio::spawn(async move {
        sleep(Duration::from_secs(5 * 3_600)).await;
        publisher.publish(one("late")).await.expect("an acknowledgement")
    });
    let waited = timeout(Duration::from_secs(6 * 3_600), reader.next()).await;
    let Ok(Ok(Some(Delivery::Events(run)))) = waited else { panic!("{waited:?}") };
    let event = run.to_events().remove(0);
    assert_eq!(event.content.payload, "late");
    assert!(event.time >= testing::START.plus_ms(5 * 3_600_000), "{}", event.time);
    assert_eq!(later.await.expect("no panic").last().time, event.time);
    assert!(virtually.elapsed() < Duration::from_secs(6 * 3_600), "it came before the timeout");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    broker.close().await;
}

/// Goal: retention, the time to live and the dedup window go by the clock in the test's hand.
#[tokio::test(start_paused = true)]
async fn what_is_kept_goes_by_the_clock_of_the_test() {
    let clock = Clock::new(testing::START);
    let broker = Builder::default().clock(&clock).open().expect("a broker");
    let hour = TopicConfig::with(|config| config.max_age_ms = Some(3_600_000));
    broker.create_topic(&name("orders"), hour).await.expect("a topic");
    broker.publish(one("first")).await.expect("an acknowledgement");
    let brief = NewEvent::new("brief").with_ttl(Duration::from_secs(60));
    broker.publish(Publish::one(name("orders"), brief)).await.expect("an acknowledgement");
    clock.advance(Duration::from_secs(59));
    assert_eq!(stored(&broker).await, ["first", "brief"]);
    clock.advance(Duration::from_secs(2));
    assert_eq!(stored(&broker).await, ["first"], "the time to live is over");
    clock.advance(Duration::from_secs(3_600));
    broker.maintain(None).await.expect("maintenance");
    assert_eq!(stored(&broker).await, [""; 0], "the topic keeps an hour");

    let known = || Publish::one(name("orders"), NewEvent::new("known").with_id("id"));
    assert!(!broker.publish(known()).await.expect("an acknowledgement").is_duplicate());
    clock.advance(Duration::from_secs(599));
    assert!(broker.publish(known()).await.expect("an acknowledgement").is_duplicate());
    clock.advance(Duration::from_secs(2));
    assert!(!broker.publish(known()).await.expect("an acknowledgement").is_duplicate());
    broker.close().await;
}

/// Goal: each fault of the log is the error that its documentation says, and what was acknowledged
/// is there in any case.
#[tokio::test(start_paused = true)]
async fn each_fault_is_the_error_that_is_documented() {
    let faults =
        [Fault::NotWritten, Fault::DiskFull, Fault::WriteFails, Fault::SyncFails, Fault::Panics];
    for fault in faults {
        let log = Arc::new(FaultyLog::default());
        let broker = Builder::default().log(log.clone()).open().expect("a broker");
        log.fail(2, fault);
        broker.publish(one("acknowledged")).await.expect("an acknowledgement");
        let error = broker.publish(one("failed")).await.expect_err("a fault");
        let goes_on = match (fault, &error) {
            (Fault::NotWritten, Error::NotWritten(_)) => true,
            (Fault::DiskFull, Error::DiskFull { .. }) => true,
            (Fault::WriteFails | Fault::SyncFails | Fault::Panics, Error::OutcomeUnknown(_)) => {
                false
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(error.outcome_unknown(), !goes_on, "{fault:?}");
        if !goes_on {
            broker.failed().await; // The answer may come before the failure is known.
        }
        match broker.publish(one("after")).await {
            Ok(ack) => assert!(goes_on && ack.last().sequence.get() == 2, "{fault:?}: {ack:?}"),
            Err(Error::ReadOnly(_)) => assert!(!goes_on, "{fault:?}"),
            Err(other) => panic!("{fault:?}: {other}"),
        }
        settled(&broker).await;
        broker.close().await;
        log.repair();
        let again = Builder::default().log(log).open().expect("a broker");
        let expected: &[&str] = match (goes_on, fault) {
            (true, _) => &["acknowledged", "after"],
            (false, Fault::SyncFails) => &["acknowledged", "failed"],
            (false, _) => &["acknowledged"],
        };
        assert_eq!(stored(&again).await, expected, "{fault:?}");
        again.close().await;
    }
}
