//! Tests of the end of a broker: closing, and the calls after it.

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for `future`, and panics if it takes too long. `what` names it.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Goal: a caller of `close` who gave up does not keep a later one from waiting for the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_that_was_given_up_goes_on_and_another_one_waits_for_its_end() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    log.fail(1, Fault::Waits);
    let held = log.hold();
    let mut accepted = Vec::new();
    for number in 0..100 {
        accepted.push(broker.submit(publish("a", &number.to_string())).await.unwrap());
    }
    for _ in 0..3 {
        let given_up = tokio::time::timeout(Duration::from_millis(20), broker.close()).await;
        given_up.expect_err("closed although no publish is answered");
    }
    let (closing, blocking) = (broker.clone(), broker.clone());
    let closing = tokio::spawn(async move { closing.close().await });
    let blocking = std::thread::spawn(move || blocking.close_blocking());
    assert!(!closing.is_finished() && !blocking.is_finished());
    drop(held);
    soon("closing", broker.close()).await;
    for (expected, pending) in (1..).zip(accepted) {
        let ack = soon("an answer", pending.ack()).await.unwrap();
        assert_eq!(ack.last().sequence.get(), expected);
    }
    soon("another close", closing).await.unwrap();
    tokio::task::spawn_blocking(move || blocking.join().unwrap()).await.unwrap();
    soon("a close after the end", broker.close()).await;
    assert_eq!(Arc::strong_count(&log), 1, "the log is still held");
}

/// Goal: publishes that are handed in while the broker drains are answered or refused, and none is
/// left without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_publish_in_flight_is_stored_or_refused_when_the_broker_closes() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    let publishers: Vec<_> = (0..100)
        .map(|number| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let mut stored = 0;
                for round in 0..1_000 {
                    match broker.publish(publish("a", &format!("{number}.{round}"))).await {
                        Ok(_ack) => stored += 1,
                        Err(error) => {
                            assert!(matches!(error, Error::ShuttingDown), "{error}");
                            return stored;
                        }
                    }
                }
                panic!("the broker did not close");
            })
        })
        .collect();
    while broker.last_position().get() < 100 {
        tokio::task::yield_now().await;
    }
    soon("closing", broker.close()).await;
    let mut stored = 0;
    for publisher in publishers {
        stored += soon("a publisher", publisher).await.unwrap();
    }
    assert_eq!(broker.last_position().get(), stored);
    assert_eq!(log.topics().unwrap()[0].extent.tail, Sequence::new(stored + 1));
}

/// Goal: the data directory is free as soon as `close` has returned, whatever lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_can_be_opened_again_while_everything_of_the_broker_is_still_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut left_over = Vec::new();
    for opened in 1..=5 {
        let broker = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
        for number in 1..=10 {
            broker.publish(publish("a", &format!("{opened}.{number}"))).await.unwrap();
        }
        let topic = name("a");
        let start = StartPoint::Earliest;
        let mut reader = broker.subscribe(&topic, start, OnGap::Resume).await.unwrap();
        reader.next().await.unwrap().expect("a first delivery");
        let follower = broker.subscribe(&topic, StartPoint::Latest, OnGap::Resume).await.unwrap();
        let waiting = tokio::spawn(async move {
            let mut follower = follower;
            while follower.next().await.unwrap().is_some() {}
            follower
        });
        let feed = broker.feed(vec!["*".parse().unwrap()], start, OnGap::Resume).await.unwrap();
        let page = broker.page(&topic, request(start)).await.unwrap();
        let mut backup = broker.backup(None).await.unwrap();
        backup.next().await.unwrap().expect("a beginning");
        let member = Member { id: "m".to_owned(), info: Default::default() };
        let presence = broker.join(std::slice::from_ref(&topic), member).await.unwrap();
        soon("closing", broker.close()).await;

        let again = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
        assert_eq!(again.last_position().get(), opened * 10);
        soon("closing", again.close()).await;

        assert!(reader.next().await.unwrap().is_none());
        let error = backup.next().await.unwrap_err();
        assert!(matches!(error, Error::ShuttingDown), "{error}");
        assert!(page.whole().await.unwrap().runs.is_empty());
        let follower = soon("a follower", waiting).await.unwrap();
        left_over.push((broker, again, reader, follower, feed, backup, presence));
    }
}

fn request(start: StartPoint) -> PageRequest {
    let (limit, wait, filter) = (100, Duration::ZERO, Filter::default());
    PageRequest {
        start,
        before: None,
        limit,
        wait,
        on_gap: OnGap::Resume,
        filter,
        ..PageRequest::default()
    }
}

/// Calls everything of `broker` that stores, reads, follows, joins or changes something. Returns
/// the error of each call, by its name.
async fn refused(broker: &Broker) -> Vec<(&'static str, Option<Error>)> {
    let (topic, all) = (name("a"), || vec!["*".parse::<TopicPattern>().unwrap()]);
    let (start, on_gap, config) = (StartPoint::Earliest, OnGap::Resume, TopicConfig::default);
    let member = || Member { id: "m".to_owned(), info: Default::default() };
    let (order, b) = (InOrder::default(), broker);
    vec![
        ("publish", b.publish(publish("a", "x")).await.err()),
        ("submit", b.submit(publish("a", "x")).await.err()),
        ("in order", b.submit_in_order(publish("a", "x"), &order).await.err()),
        ("patiently", b.submit_patiently(publish("a", "x"), &order).await.err()),
        ("ephemeral", b.publish_ephemeral(&topic, vec![NewEvent::new("x")]).err()),
        ("join", b.join(std::slice::from_ref(&topic), member()).await.err()),
        ("subscribe", b.subscribe(&topic, start, on_gap).await.err()),
        ("feed", b.feed(all(), start, on_gap).await.err()),
        ("read", b.read(&topic, request(start)).await.err()),
        ("page", b.page(&topic, request(start)).await.err()),
        ("read many", b.read_many(all(), request(start)).await.err()),
        ("page of many", b.page_of_many(all(), request(start)).await.err()),
        ("state", b.state(&topic, StateRequest::default()).await.err()),
        ("purge", b.purge(&topic, Sequence::FIRST).await.err()),
        ("create", b.create_topic(&name("new"), config()).await.err()),
        ("set", b.set_topic(&topic, config()).await.err()),
        ("update", b.update_topic(&topic, config(), Vec::new()).await.err()),
        ("delete", b.delete_topic(&topic).await.err()),
        ("maintain", b.maintain(None).await.err()),
        ("backup", b.backup(None).await.err()),
    ]
}

#[tokio::test]
async fn each_call_after_drain_or_close_is_refused_and_what_is_in_memory_is_told() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    broker.publish(publish("a", "1")).await.unwrap();
    let epoch = broker.epoch();
    for end in ["drain", "close"] {
        match end {
            "drain" => broker.drain(),
            _ => soon("closing", broker.close()).await,
        }
        for (call, error) in refused(&broker).await {
            let is_refused = matches!(error, Some(Error::ShuttingDown));
            assert!(is_refused, "{call} after {end}: {error:?}");
        }
        assert!(matches!(broker.check_ready(), Err(Error::ShuttingDown)));
        assert_eq!((broker.epoch(), broker.last_position()), (epoch, Position::new(1)));
        assert_eq!(broker.topic(&name("a")).unwrap().extent.tail, Sequence::new(2));
        assert_eq!(broker.topics(None, 10).len(), 1);
        assert!(broker.presence(&name("a"), "", 10).is_empty());
        assert_eq!(broker.maintenance_totals(), MaintenanceReport::default());
        assert_eq!(broker.limits(), &OpenConfig::default().limits);
    }
}

/// Polls a future once, outside of any runtime.
fn polled<F: Future>(future: F) -> std::task::Poll<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).poll(&mut context)
}

#[test]
fn a_call_from_outside_of_a_runtime_is_refused_and_the_broker_closes_without_one() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let std::task::Poll::Ready(calls) = polled(refused(&broker)) else { panic!("a call waits") };
    for (call, error) in calls {
        match call {
            "ephemeral" => assert!(error.is_none(), "{call}: {error:?}"), // It waits for nothing.
            _ => assert!(matches!(error, Some(Error::NoRuntime)), "{call}: {error:?}"),
        }
    }
    assert!(broker.topics(None, 10).is_empty(), "a refused call has changed something");
    let _begun = polled(broker.close());
    assert!(broker.is_draining());
    broker.close_blocking();
    assert!(polled(broker.close()).is_ready());
}

/// Goal: a reader that is taken out of its runtime can be asked for what is there, and a wait with
/// an end, which needs a timer, is refused.
#[test]
fn a_reader_outside_of_a_runtime_waits_without_an_end_alone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let topic = "a".parse().unwrap();
    let mut reader = runtime
        .block_on(broker.subscribe(&topic, StartPoint::Latest, OnGap::Resume))
        .expect("a reader");
    let mut patience = Patience::new(std::time::Duration::from_secs(1));
    let first = polled(reader.next_within(&mut patience));
    assert!(matches!(first, std::task::Poll::Ready(Ok(Waited::Delivery(Delivery::CaughtUp)))));
    let second = polled(reader.next_within(&mut patience));
    assert!(matches!(second, std::task::Poll::Ready(Err(Error::NoRuntime))), "{second:?}");
    assert!(polled(reader.next()).is_pending(), "an endless wait needs no timer");
    broker.close_blocking();
}

/// Goal: a broker is closed by a `Drop`, on a worker of a runtime with a single thread.
#[tokio::test]
async fn a_drop_on_the_only_worker_of_a_runtime_closes_the_broker() {
    struct Host(Broker);
    impl Drop for Host {
        fn drop(&mut self) {
            self.0.close_blocking();
        }
    }
    let log = Arc::new(FaultyLog::default());
    let host = Host(broker(&log));
    let pending = host.0.submit(publish("a", "1")).await.unwrap();
    drop(host);
    pending.ack().await.unwrap();
    assert_eq!(Arc::strong_count(&log), 1);
}

/// Goal: after a panic in any thread, and with readers that wait, closing ends all the same.
#[tokio::test]
async fn a_broker_whose_committer_has_panicked_closes() {
    let log = Arc::new(FaultyLog::default());
    let broker = broker(&log);
    log.fail(1, Fault::Panics);
    let error = broker.publish(publish("a", "1")).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    soon("closing", broker.close()).await;
    assert_eq!(Arc::strong_count(&log), 1);
}

/// Goal: brokers that are closed together, or dropped without a close, let go of their logs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_twenty_brokers_no_thread_holds_a_log_in_the_end() {
    let logs: Vec<_> = (0..20).map(|_| Arc::new(FaultyLog::default())).collect();
    let brokers: Vec<_> = logs.iter().map(broker).collect();
    for broker in &brokers {
        broker.publish(publish("a", "1")).await.unwrap();
    }
    let closing = brokers.iter().map(|broker| broker.close());
    soon("closing", futures_util::future::join_all(closing)).await;
    assert!(logs.iter().all(|log| Arc::strong_count(log) == 1), "a closed log is held");
    let dropped: Vec<_> = logs.iter().map(broker).collect();
    for broker in &dropped {
        let known = broker.publish(publish("a", "1")).await.unwrap();
        assert!(known.is_duplicate());
    }
    drop((brokers, dropped));
    let all_ended = async {
        while logs.iter().any(|log| Arc::strong_count(log) > 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon("the end of dropped brokers", all_ended).await;
}
