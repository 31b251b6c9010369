//! Tests of the broker while its log fails or is slow, and while readers fall behind.
//!
//! The file is long, because its tests share the helpers at its top: brokers on a log that fails.

mod follower;
mod lifecycle;
mod losses;
mod readers;
mod serde_forms;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::broker::queue::{AskedBy, QueuedStep};
use crate::broker::*;
use crate::cursor::{Cursor, Gap, GapReason, Place, Requested};
use crate::event::{NewEvent, Timestamp};
use crate::log::{Fault, FaultyLog};

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn place(sequence: u64) -> Place {
    Place::Sequence(Sequence::new(sequence))
}

fn publish(topic: &str, payload: &str) -> Publish {
    let event = NewEvent { id: payload.to_owned(), ..NewEvent::new(payload.to_owned()) };
    Publish { topic: name(topic), events: vec![event], expected_sequence: None }
}

fn broker(log: &Arc<FaultyLog>) -> Broker {
    Broker::with_log(log.clone(), &OpenConfig::default()).unwrap()
}

/// Returns the sequence, position and payload of every event of a topic.
async fn stored(broker: &Broker, topic: &str) -> Vec<(u64, u64, String)> {
    let start = StartPoint::Earliest;
    let mut subscription = broker.subscribe(&name(topic), start, OnGap::Resume).await.unwrap();
    let mut events = Vec::new();
    while let Some(delivery) = subscription.next_ready().await.unwrap() {
        let Delivery::Events(run) = delivery else { continue };
        for event in run.events() {
            let payload = String::from_utf8(event.payload.to_vec()).unwrap();
            events.push((event.sequence.get(), event.position.get(), payload));
        }
    }
    events
}

fn event(sequence: u64, position: u64, payload: &str) -> (u64, u64, String) {
    (sequence, position, payload.to_owned())
}

#[tokio::test]
async fn a_group_that_was_not_written_leaves_no_trace_and_the_broker_goes_on() {
    for fault in [Fault::NotWritten, Fault::DiskFull] {
        let log = Arc::new(FaultyLog::default());
        let broker = broker(&log);
        broker.publish(publish("a", "1")).await.unwrap();
        log.fail(2, fault);
        let error = broker.publish(publish("a", "2")).await.unwrap_err();
        assert!(!error.outcome_unknown(), "{error}");
        match fault {
            Fault::DiskFull => assert!(matches!(error, Error::DiskFull { .. }), "{error}"),
            _ => assert!(matches!(error, Error::NotWritten(_)), "{error}"),
        }
        assert_eq!(stored(&broker, "a").await, [event(1, 1, "1")]);
        log.fail(3, fault);
        broker.publish(publish("new", "x")).await.unwrap_err();
        assert!(matches!(broker.topic(&name("new")), Err(Error::UnknownTopic(_))));
        let ack = broker.publish(publish("a", "2")).await.unwrap();
        assert_eq!((ack.is_duplicate(), ack.last().sequence.get()), (false, 2));
        broker.publish(publish("new", "x")).await.unwrap();
        assert_eq!(stored(&broker, "a").await, [event(1, 1, "1"), event(2, 2, "2")]);
        assert_eq!(stored(&broker, "new").await, [event(1, 3, "x")]);
    }
}

#[tokio::test]
async fn after_a_failed_write_or_sync_the_outcome_is_unknown_and_nothing_more_is_taken() {
    for fault in [Fault::WriteFails, Fault::SyncFails] {
        let log = Arc::new(FaultyLog::default());
        let first = broker(&log);
        first.publish(publish("a", "1")).await.unwrap();
        let mut follower =
            first.subscribe(&name("a"), StartPoint::Latest, OnGap::Resume).await.unwrap();
        log.fail(2, fault);
        let error = first.publish(publish("a", "2")).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        for payload in ["2", "3"] {
            let error = first.publish(publish("a", payload)).await.unwrap_err();
            assert!(matches!(error, Error::ReadOnly(_)), "{error}");
            assert!(!error.outcome_unknown());
        }
        let known = first.publish(publish("a", "1")).await.unwrap();
        assert!(known.is_duplicate(), "a stored event is still acknowledged");
        assert_eq!(stored(&first, "a").await, [event(1, 1, "1")], "readers go on");
        let told = follower.next_ready().await.unwrap();
        assert!(matches!(told, Some(Delivery::CaughtUp)), "{told:?}");
        let more = follower.next_ready().await.unwrap();
        assert!(more.is_none(), "a follower saw events that may not be durable: {more:?}");
        first.close().await;

        // After a reopen, the log shows whether the event was stored. A repeat by id is safe either
        // way.
        log.repair();
        let second = broker(&log);
        let ack = second.publish(publish("a", "2")).await.unwrap();
        assert_eq!(ack.is_duplicate(), fault == Fault::SyncFails);
        assert_eq!(stored(&second, "a").await, [event(1, 1, "1"), event(2, 2, "2")]);
    }
}

/// Keeps the next append waiting until all `publishes` are queued behind it, so that they are one
/// group. Returns the answer to each.
async fn in_one_group(
    log: &Arc<FaultyLog>,
    broker: &Broker,
    publishes: Vec<Publish>,
) -> Vec<Result<Ack>> {
    let next = log.appends() + 1;
    log.fail(next, Fault::Waits);
    let held = log.hold();
    let first = broker.submit(publish("first", &next.to_string())).await.unwrap();
    while log.appends() < next {
        tokio::task::yield_now().await;
    }
    let mut pending = Vec::new();
    for publish in publishes {
        pending.push(broker.submit(publish).await.unwrap());
    }
    drop(held);
    first.ack().await.unwrap();
    let mut answers = Vec::new();
    for pending in pending {
        answers.push(pending.ack().await);
    }
    answers
}

#[tokio::test]
async fn what_waits_while_one_group_is_synced_is_the_next_group_in_the_order_it_came() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    broker.publish(publish("warm", "up")).await.unwrap();
    let order = [("a", "1"), ("b", "1"), ("a", "2"), ("a", "3"), ("b", "2"), ("a", "2")];
    let publishes = order.iter().map(|(topic, payload)| publish(topic, payload)).collect();
    let answers = in_one_group(&log, &broker, publishes).await;
    assert_eq!(log.appends(), 3, "the group was one append");
    let given: Vec<(u64, bool)> = answers
        .iter()
        .map(|ack| ack.as_ref().unwrap())
        .map(|ack| (ack.last().sequence.get(), ack.is_duplicate()))
        .collect();
    let expected = [(1, false), (1, false), (2, false), (3, false), (2, false), (2, true)];
    assert_eq!(given, expected);
    let a = [event(1, 3, "1"), event(2, 5, "2"), event(3, 6, "3")];
    assert_eq!(stored(&broker, "a").await, a);
    assert_eq!(stored(&broker, "b").await, [event(1, 4, "1"), event(2, 7, "2")]);
}

#[tokio::test]
async fn a_sync_that_fails_in_the_middle_fails_its_whole_group_and_no_other() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    broker.publish(publish("a", "1")).await.unwrap();
    log.fail(3, Fault::SyncFails);
    let group = ["1", "2", "3", "2"].map(|payload| publish("a", payload));
    let refused = Publish { expected_sequence: Some(9), ..publish("a", "4") };
    let group = group.into_iter().chain([refused, publish("b", "1")]).collect();
    let answers = in_one_group(&log, &broker, group).await;
    assert!(answers[0].as_ref().unwrap().is_duplicate(), "the event was durable before");
    for unknown in [1, 2, 3, 5] {
        let error = answers[unknown].as_ref().unwrap_err();
        assert!(error.outcome_unknown(), "{unknown}: {error}");
    }
    assert!(matches!(answers[4], Err(Error::UnexpectedSequence { .. })), "{:?}", answers[4]);
    assert_eq!(stored(&broker, "a").await, [event(1, 1, "1")]);
    assert!(matches!(broker.topic(&name("b")), Err(Error::UnknownTopic(_))));
}

#[tokio::test]
async fn a_full_queue_refuses_after_a_bounded_wait_and_takes_more_when_there_is_room() {
    let log = Arc::new(FaultyLog::default());
    let mut config = OpenConfig::default();
    config.limits.max_payload_bytes = 5_000;
    config.limits.max_batch_bytes = 10_000;
    config.broker.max_queue_bytes = 10_000;
    config.broker.max_queue_wait_ms = 20;
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    log.fail(1, Fault::Waits);
    let held = log.hold();
    let large = "x".repeat(4_000);
    let mut accepted = Vec::new();
    let refused = loop {
        assert!(accepted.len() < 5, "the queue has no end");
        let event = NewEvent::new(large.clone());
        let publish = Publish { topic: name("a"), events: vec![event], expected_sequence: None };
        match broker.submit(publish).await {
            Ok(pending) => accepted.push(pending),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::Busy { waited_ms: 20 }), "{refused}");
    let count = accepted.len() as u64;
    drop(held);
    for pending in accepted {
        pending.ack().await.unwrap();
    }
    let ack = broker.publish(publish("a", "small")).await.unwrap();
    assert_eq!(ack.last().sequence.get(), count + 1);
}

#[tokio::test]
async fn what_was_accepted_before_a_close_is_answered_and_nothing_after_it() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    log.fail(1, Fault::Waits);
    let held = log.hold();
    let mut accepted = Vec::new();
    for number in 1..=5 {
        accepted.push(broker.submit(publish("a", &number.to_string())).await.unwrap());
    }
    let mut follower =
        broker.subscribe(&name("a"), StartPoint::Earliest, OnGap::Resume).await.unwrap();
    broker.drain();
    let error = broker.publish(publish("a", "late")).await.unwrap_err();
    assert!(matches!(error, Error::ShuttingDown), "{error}");
    assert!(follower.next().await.unwrap().is_none(), "a subscription outlives the broker");
    drop(held);
    broker.close().await;
    for (expected, pending) in (1..).zip(accepted) {
        assert_eq!(pending.ack().await.unwrap().last().sequence.get(), expected);
    }
    assert_eq!(log.topics().unwrap()[0].extent.tail, Sequence::new(6));
}

#[tokio::test]
async fn damage_among_the_ids_of_the_window_takes_those_ids_and_no_more() {
    let log = Arc::new(FaultyLog::default());
    let first = broker(&log);
    for number in 1..=5 {
        first.publish(publish("a", &number.to_string())).await.unwrap();
    }
    first.close().await;
    for damaged in [3, 5, 1] {
        log.damage(Sequence::new(damaged));
        let broker = broker(&log);
        let kept: Vec<u64> = match damaged {
            3 => vec![1, 2, 4, 5],
            5 => vec![1, 2, 4],
            _ => vec![2, 4],
        };
        for number in kept {
            let ack = broker.publish(publish("a", &number.to_string())).await.unwrap();
            assert_eq!((ack.is_duplicate(), ack.last().sequence.get()), (true, number));
        }
        broker.close().await;
    }
}

#[tokio::test]
async fn times_never_go_backwards_whatever_the_clock_says_also_after_a_restart() {
    static CLOCK: AtomicU64 = AtomicU64::new(1_000);
    fn backwards() -> Timestamp {
        Timestamp::from_ms(CLOCK.fetch_sub(10, Ordering::Relaxed))
    }
    let log = Arc::new(FaultyLog::default());
    let mut times = Vec::new();
    for _ in 0..2 {
        let config = OpenConfig::default();
        let broker = Broker::with_clock(log.clone(), &config, Arc::new(backwards)).unwrap();
        for _ in 0..3 {
            let event = vec![NewEvent::new("x")];
            let publish = Publish { topic: name("a"), events: event, expected_sequence: None };
            times.push(broker.publish(publish).await.unwrap().last().time.as_ms());
        }
        broker.close().await;
    }
    assert_eq!(times, [times[0]; 6]);
}

/// Goal: after one wrong reading of the clock, events are neither kept for ever nor dropped at
/// once, also after a restart and in a restored log.
/// Method: events are published while the clock is 75 years ahead. Then the clock is right, and
/// goes on by hours, over a restart or a restored backup.
#[tokio::test]
async fn events_from_a_time_that_the_clock_has_not_reached_age_all_the_same() {
    const HOUR_MS: u64 = 3_600_000;
    const NOW_MS: u64 = 1_800_000_000_000;
    const WRONG_MS: u64 = NOW_MS + 75 * 365 * 24 * HOUR_MS;
    static CLOCK: AtomicU64 = AtomicU64::new(NOW_MS);
    let open = |directory: &Path| {
        let log = SledLog::open(directory, &LogConfig::default()).unwrap();
        let now = || Timestamp::from_ms(CLOCK.load(Ordering::SeqCst));
        Broker::with_clock(Arc::new(log), &OpenConfig::default(), Arc::new(now)).unwrap()
    };
    let at = |ms: u64| CLOCK.store(ms, Ordering::SeqCst);
    let store = async |broker: &Broker, topic: &str, ttl_ms: Option<u64>| {
        let events = vec![NewEvent { ttl_ms, ..NewEvent::new("x") }];
        let publish = Publish { topic: name(topic), events, expected_sequence: None };
        broker.publish(publish).await.unwrap().last().time.as_ms()
    };
    let readable = async |broker: &Broker, topic: &str| -> Vec<u64> {
        let mut reader =
            broker.subscribe(&name(topic), StartPoint::Earliest, OnGap::Resume).await.unwrap();
        let mut sequences = Vec::new();
        while let Some(delivery) = reader.next_ready().await.unwrap() {
            if let Delivery::Events(run) = delivery {
                sequences.extend(run.events().map(|event| event.sequence.get()));
            }
        }
        sequences
    };
    for is_restored in [false, true] {
        at(NOW_MS);
        let mut directory = tempfile::tempdir().unwrap();
        let mut broker = open(directory.path());
        let aged = TopicConfig { max_age_ms: Some(4 * HOUR_MS), ..TopicConfig::default() };
        broker.create_topic(&name("aged"), aged).await.unwrap();
        assert_eq!(store(&broker, "aged", None).await, NOW_MS);
        at(WRONG_MS);
        for (topic, ttl_ms) in [("expires", Some(2 * HOUR_MS)), ("aged2", None)] {
            assert_eq!(store(&broker, topic, ttl_ms).await, WRONG_MS);
        }
        broker.set_topic(&name("aged2"), aged).await.unwrap();
        at(NOW_MS + 1);
        // A topic without an event of the wrong time has the right time; the times of the others do
        // not go backwards.
        assert_eq!(store(&broker, "aged", None).await, NOW_MS + 1);
        assert_eq!(store(&broker, "expires", Some(3 * HOUR_MS)).await, WRONG_MS);
        assert_eq!(store(&broker, "aged2", None).await, WRONG_MS);
        broker.maintain(None).await.unwrap();
        for topic in ["aged", "expires", "aged2"] {
            assert_eq!(readable(&broker, topic).await, [1, 2], "{topic}: nothing has expired yet");
        }
        let copy = directory.path().join("copy");
        if is_restored {
            let mut file = std::fs::File::create(&copy).unwrap();
            let mut backup = broker.backup(None).await.unwrap();
            while let Some(bytes) = backup.next().await.unwrap() {
                std::io::Write::write_all(&mut file, &bytes).unwrap();
            }
        }
        broker.close().await;
        drop(broker);
        if is_restored {
            let restored = tempfile::tempdir().unwrap();
            let progress = |_: crate::log::Restoring| {};
            crate::log::restore(restored.path(), &[copy], progress).unwrap();
            directory = restored;
        }
        at(NOW_MS + 2 * HOUR_MS + 2);
        broker = open(directory.path());
        assert_eq!(readable(&broker, "expires").await, [2], "restored: {is_restored}");
        at(NOW_MS + 3 * HOUR_MS + 2);
        assert_eq!(readable(&broker, "expires").await, [0; 0]);
        assert_eq!(readable(&broker, "aged2").await, [1, 2]);
        at(NOW_MS + 4 * HOUR_MS + 2);
        broker.maintain(None).await.unwrap();
        for topic in ["aged", "aged2"] {
            assert_eq!(readable(&broker, topic).await, [0; 0], "{topic} restored: {is_restored}");
        }
        assert_eq!(broker.topic(&name("expires")).unwrap().extent.events(), 0, "expired");
        broker.close().await;
    }
}

async fn trimmed(earliest: u64) -> Broker {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    for number in 1..=9 {
        broker.publish(publish("a", &number.to_string())).await.unwrap();
    }
    broker.purge(&name("a"), Sequence::new(earliest)).await.unwrap();
    broker
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_once_and_goes_on_as_it_asked() {
    for (on_gap, resume) in [(OnGap::Resume, 6), (OnGap::Earliest, 6), (OnGap::Latest, 10)] {
        let broker = trimmed(1).await;
        let start = "2".parse().unwrap();
        let mut reader = broker.subscribe(&name("a"), start, on_gap).await.unwrap();
        broker.purge(&name("a"), Sequence::new(6)).await.unwrap();
        let Some(Delivery::Gap(gap)) = reader.next_ready().await.unwrap() else { panic!("no gap") };
        let expected = Gap {
            topic: Some(name("a")),
            requested: Requested::Place(place(3)),
            earliest: place(6),
            tail: place(10),
            lost: Some(3),
            reason: GapReason::Purged,
            resume: place(resume),
        };
        assert_eq!(gap, expected);
        let mut seen = Vec::new();
        while let Some(delivery) = reader.next_ready().await.unwrap() {
            match delivery {
                Delivery::Events(run) => seen.extend(run.events().map(|e| e.sequence.get())),
                Delivery::Ephemeral(_) => panic!("nothing ephemeral was published"),
                Delivery::CaughtUp => {}
                Delivery::Gap(gap) => panic!("told twice: {gap}"),
            }
        }
        assert_eq!(seen, (resume..10).collect::<Vec<_>>());
    }
    let broker = trimmed(1).await;
    let start = "2".parse().unwrap();
    let mut reader = broker.subscribe(&name("a"), start, OnGap::Fail).await.unwrap();
    broker.purge(&name("a"), Sequence::new(6)).await.unwrap();
    let error = reader.next_ready().await.unwrap_err();
    assert!(
        matches!(error, Error::Gap(ref gap) if gap.requested == Requested::Place(place(3))),
        "{error}"
    );
    let error = broker.subscribe(&name("a"), "2".parse().unwrap(), OnGap::Fail).await.unwrap_err();
    assert!(matches!(error, Error::Gap(ref gap) if gap.earliest == place(6)), "{error}");
}

#[tokio::test]
async fn a_cursor_by_position_resumes_after_it_in_any_topic() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    for number in 1..=30 {
        let topic = if number % 3 == 0 { "b" } else { "a" };
        broker.publish(publish(topic, &number.to_string())).await.unwrap();
    }
    let b: Vec<u64> = stored(&broker, "b").await.iter().map(|(_, position, _)| *position).collect();
    for position in 0..=30 {
        let start = format!("@{position}").parse().unwrap();
        let mut reader = broker.subscribe(&name("b"), start, OnGap::Fail).await.unwrap();
        let mut seen = Vec::new();
        while let Some(delivery) = reader.next_ready().await.unwrap() {
            let Delivery::Events(run) = delivery else { continue };
            seen.extend(run.events().map(|event| event.position.get()));
        }
        let expected: Vec<u64> = b.iter().copied().filter(|p| *p > position).collect();
        assert_eq!(seen, expected, "after position {position}");
    }
    let ahead = "@31".parse().unwrap();
    let error = broker.subscribe(&name("b"), ahead, OnGap::Fail).await.unwrap_err();
    assert!(matches!(error, Error::Gap(ref gap) if gap.reason == GapReason::Ahead), "{error}");
}

#[tokio::test]
async fn a_cursor_by_position_whose_events_were_trimmed_is_a_gap_and_no_other_is() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    for number in 1..=30 {
        let topic = if number % 3 == 0 { "b" } else { "a" };
        broker.publish(publish(topic, &number.to_string())).await.unwrap();
    }
    broker.purge(&name("b"), Sequence::new(4)).await.unwrap(); // The positions 3, 6 and 9 are gone.
    for position in 0..=12 {
        let start = format!("@{position}").parse().unwrap();
        let mut reader = broker.subscribe(&name("b"), start, OnGap::Resume).await.unwrap();
        let first = reader.next_ready().await.unwrap().unwrap();
        match first {
            Delivery::Gap(gap) => {
                assert!(position < 9, "nothing is missing after position {position}: {gap}");
                assert_eq!(
                    (gap.requested.number(), gap.resume.number(), gap.lost),
                    (position + 1, 4, None)
                );
            }
            Delivery::Events(run) => {
                assert!(position >= 9, "a gap was not told after position {position}");
                let next = if position < 12 { 4 } else { 5 };
                assert_eq!(run.events().next().unwrap().sequence.get(), next);
            }
            Delivery::Ephemeral(_) => panic!("nothing ephemeral was published"),
            Delivery::CaughtUp => panic!("there are events after position {position}"),
        }
    }
}

#[tokio::test]
async fn a_start_by_time_from_which_events_were_trimmed_is_a_gap_and_no_other_is() {
    static CLOCK: AtomicU64 = AtomicU64::new(1_000);
    fn clock() -> Timestamp {
        Timestamp::from_ms(CLOCK.fetch_add(1, Ordering::SeqCst) / 100 * 100)
    }
    let log = Arc::new(MemoryLog::default());
    let broker = Broker::with_clock(log, &OpenConfig::default(), Arc::new(clock)).unwrap();
    let from = async |time_ms: u64| {
        let start = StartPoint::Time(Timestamp::from_ms(time_ms));
        let mut reader = broker.subscribe(&name("a"), start, OnGap::Resume).await.unwrap();
        reader.next_ready().await.unwrap().unwrap()
    };
    for number in 1..=5 {
        CLOCK.store(1_000 * number, Ordering::SeqCst);
        broker.publish(publish("a", &number.to_string())).await.unwrap();
    }
    let Delivery::Events(run) = from(0).await else { panic!("nothing was trimmed yet") };
    assert_eq!(run.events().next().unwrap().sequence.get(), 1);
    broker.purge(&name("a"), Sequence::new(3)).await.unwrap();
    for time_ms in [0, 999, 1_000, 2_000] {
        let start = StartPoint::Time(Timestamp::from_ms(time_ms));
        let mut reader = broker.subscribe(&name("a"), start, OnGap::Resume).await.unwrap();
        let epoch = broker.epoch();
        assert_eq!(reader.cursor(), Cursor::after(Sequence::new(0), epoch), "before the gap");
        let Some(Delivery::Gap(gap)) = reader.next_ready().await.unwrap() else { panic!() };
        assert_eq!(reader.cursor(), Cursor::after(Sequence::new(2), epoch));
        assert_eq!((gap.requested.number(), gap.resume.number(), gap.lost), (time_ms, 3, None));
        assert_eq!(gap.reason, GapReason::Purged);
    }
    for (time_ms, first) in [(2_001, 3), (3_000, 3), (3_001, 4), (5_000, 5)] {
        let Delivery::Events(run) = from(time_ms).await else { panic!("from {time_ms}") };
        assert_eq!(run.events().next().unwrap().sequence.get(), first);
    }
}

#[tokio::test]
async fn whoever_asks_is_told_when_publishing_is_over() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    broker.check_ready().unwrap();
    log.fail(1, Fault::SyncFails);
    broker.publish(publish("a", "1")).await.unwrap_err();
    broker.failed().await;
    let error = broker.check_ready().unwrap_err();
    assert!(matches!(error, Error::ReadOnly(_)), "{error}");
    broker.drain();
    let error = broker.check_ready().unwrap_err();
    assert!(matches!(error, Error::ShuttingDown), "{error}");

    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    log.fail(1, Fault::Panics);
    let error = broker.publish(publish("a", "1")).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    broker.failed().await;
    let error = broker.publish(publish("a", "1")).await.unwrap_err();
    assert!(matches!(error, Error::ReadOnly(_)), "{error}");
}

/// Goal: a reader that waits for an event misses none, at whatever moment it is published.
/// Method: readers wait for each of many events, which are published without any pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_the_next_event_gets_it() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for after in 0..500_u64 {
                    let request = PageRequest {
                        start: after.to_string().parse().unwrap(),
                        before: None,
                        limit: 1,
                        wait: Duration::from_secs(60),
                        on_gap: OnGap::Latest,
                        filter: Filter::default(),
                        ..PageRequest::default()
                    };
                    let page = broker.read(&name("a"), request).await.unwrap();
                    // A cursor ahead of the tail is a gap; with on_gap=latest the reader waits for
                    // the next event.
                    let sequences: Vec<u64> = page
                        .runs
                        .iter()
                        .flat_map(|run| run.to_events())
                        .map(|event| event.sequence.get())
                        .collect();
                    assert_eq!(sequences, [after + 1], "after {after}: {:?}", page.gaps);
                }
            })
        })
        .collect();
    for number in 1..=500 {
        broker.publish(publish("a", &number.to_string())).await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

/// Goal: a page whose last events have expired is known to be at the end.
#[tokio::test]
async fn a_page_after_which_everything_has_expired_is_the_last() {
    let broker = broker(&Arc::default());
    let event = NewEvent { ttl_ms: Some(1), ..NewEvent::new("gone") };
    let gone = Publish { topic: name("a"), events: vec![event], expected_sequence: None };
    broker.publish(publish("a", "stays")).await.unwrap();
    let gone = broker.publish(gone).await.unwrap().last();
    while Timestamp::now() < gone.time.plus_ms(1) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let request = PageRequest {
        start: StartPoint::Earliest,
        before: None,
        limit: 10,
        wait: Duration::ZERO,
        on_gap: OnGap::Fail,
        filter: Filter::default(),
        ..PageRequest::default()
    };
    let page = broker.read(&name("a"), request).await.unwrap();
    assert_eq!(page.runs.iter().map(|run| run.events().count()).sum::<usize>(), 1);
    assert!(page.caught_up);
    assert_eq!(page.cursor, Cursor::after(Sequence::new(2), broker.epoch()));
}

/// Goal: a reader of a deleted topic is told of the deletion, also if the topic is created again at
/// once.
#[tokio::test]
async fn a_reader_of_a_deleted_topic_is_told_though_there_is_a_new_one() {
    let broker = broker(&Arc::default());
    broker.publish(publish("a", "one")).await.unwrap();
    let from = StartPoint::Latest;
    let mut reader = broker.subscribe(&name("a"), from, OnGap::Resume).await.unwrap();
    let Some(Delivery::CaughtUp) = reader.next().await.unwrap() else { panic!() };
    broker.delete_topic(&name("a")).await.unwrap();
    broker.publish(publish("a", "two")).await.unwrap();
    let last_word = reader.next().await.unwrap_err();
    assert!(matches!(last_word, Error::TopicDeleted(_)), "{last_word}");
    let mut reader = broker.subscribe(&name("a"), from, OnGap::Resume).await.unwrap();
    let Some(Delivery::CaughtUp) = reader.next().await.unwrap() else { panic!() };
    broker.publish(publish("a", "three")).await.unwrap();
    let Some(Delivery::Events(_)) = reader.next().await.unwrap() else { panic!() };
}

/// Goal: the command that ends a full group is not lost. Of several steps that wait for one topic,
/// each is taken on the outcome of the one before it.
#[tokio::test]
async fn steps_between_publishes_are_taken_one_after_the_other() {
    let log = Arc::new(FaultyLog::default());
    let mut config = OpenConfig::default();
    config.broker.max_group_bytes = 1_024;
    config.maintenance.interval_ms = 3_600_000; // Never.
    let broker = Broker::with_log(log.clone(), &config).unwrap();
    for payload in ["1", "2", "3", "4"] {
        broker.publish(publish("a", payload)).await.unwrap();
    }
    let topic = broker.0.topics.existing(&name("a")).unwrap();
    log.fail(log.appends() + 1, Fault::Waits);
    let held = log.hold();
    let mut acks = vec![broker.submit(publish("a", "5")).await.unwrap()];
    let mut steps = Vec::new();
    for (number, earliest) in [3, 5, 4].into_iter().enumerate() {
        let mut large = publish("a", &format!("large {number}"));
        large.events[0].payload = vec![b'x'; 2_000].into(); // A group of its own.
        acks.push(broker.submit(large).await.unwrap());
        let earliest = Sequence::new(earliest);
        let mut report = MaintenanceReport::default();
        report.expired.add(1, 1);
        let work = Work::Trim { earliest, reason: TrimReason::Purged, report };
        let (reply, answered) = oneshot::channel();
        let step = QueuedStep { topic: topic.clone(), work, asked_by: AskedBy::Caller, reply };
        broker.0.send(Queued::Step(step)).await.unwrap();
        steps.push(answered);
    }
    drop(held);
    for ack in acks {
        ack.ack().await.unwrap();
    }
    for (step, counted) in steps.into_iter().zip([1, 1, 0]) {
        assert_eq!(step.await.unwrap().unwrap().report.expired.events, counted);
    }
    assert_eq!(broker.maintenance_totals().expired.events, 2);
    let extent = broker.topic(&name("a")).unwrap().extent;
    assert_eq!((extent.earliest, extent.tail), (Sequence::new(5), Sequence::new(9)));
    assert_eq!(stored(&broker, "a").await.len(), 4);
}
