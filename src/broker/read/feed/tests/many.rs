//! Many publishers, and many topics: each event comes once, in the order of positions.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt;

use crate::broker::*;
use crate::cursor::{Cursor, Place, Position};
use crate::event::NewEvent;
use crate::log::{Fault, FaultyLog};

/// The longest wait for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn publish(topic: usize, payload: String) -> Publish {
    let topic = format!("topic.{topic}").parse().unwrap();
    Publish { topic, events: vec![NewEvent::new(payload)], expected_sequence: None }
}

async fn all_topics(broker: &Broker, start: StartPoint) -> Reader {
    broker.feed(vec![">".parse().unwrap()], start, OnGap::Fail).await.unwrap()
}

/// Reads from the position `last` up to `end`: every position is delivered once, in order.
async fn read_to(feed: &mut Reader, last: &mut u64, end: u64) {
    while *last < end {
        match feed.next_within(&mut Patience::new(PATIENCE)).await.unwrap() {
            Waited::Delivery(Delivery::Events(run)) => read_run(&run, last),
            Waited::Delivery(Delivery::CaughtUp) => {}
            other => panic!("nothing comes after {last} of {end}: {other:?}"),
        }
        assert!(feed.cursor().after.number() >= *last);
    }
}

fn read_run(run: &Run, last: &mut u64) {
    for event in run.events() {
        *last += 1;
        assert_eq!(event.position.get(), *last, "an event is lost, repeated or out of order");
    }
}

/// Goal: a feed is woken for every topic of a group. Method: a commit is held until events of nine
/// topics wait for the next commit, so that they are one group. Only the waker tells the feed of
/// them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_hears_of_every_topic_of_a_group() {
    let log = Arc::new(FaultyLog::default());
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    let mut feed = all_topics(&broker, StartPoint::Latest).await;
    let (topics, mut last) = (9, 0);
    for round in 0..40 {
        log.fail(log.appends() + 1, Fault::Waits);
        let held = log.hold();
        let first = broker.submit(publish(99, "before".to_owned())).await.unwrap();
        while log.appends() < 2 * round + 1 {
            tokio::task::yield_now().await; // Until the commit is at the log.
        }
        let mut group = Vec::new();
        for topic in 0..topics {
            let topic = ((topic + round) % topics) as usize; // Each is first once, and last.
            group.push(broker.submit(publish(topic, "x".to_owned())).await.unwrap());
        }
        drop(held);
        first.ack().await.unwrap();
        for pending in group {
            pending.ack().await.unwrap();
        }
        assert_eq!(log.appends(), 2 * round + 2, "the events are not one group");
        read_to(&mut feed, &mut last, (round + 1) * (topics + 1)).await;
    }
}

/// Publishes `events` events from each of `publishers` tasks at once. Each task publishes to all
/// topics in turn, with several publishes in flight.
async fn publish_at_once(broker: &Broker, publishers: usize, events: usize, topics: usize) {
    let tasks = (0..publishers).map(|publisher| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let mut in_flight = VecDeque::new();
            for event in 0..events {
                let topic = (publisher + event * publishers) % topics;
                let payload = format!("{publisher}/{event}");
                in_flight.push_back(broker.submit(publish(topic, payload)).await.unwrap());
                if in_flight.len() >= 16 {
                    in_flight.pop_front().unwrap().ack().await.unwrap();
                }
            }
            for pending in in_flight {
                pending.ack().await.unwrap();
            }
        })
    });
    for task in futures_util::future::join_all(tasks).await {
        task.unwrap();
    }
}

fn open(directory: &std::path::Path, tail_bytes: u64, read_bytes: u64) -> Broker {
    let mut config = OpenConfig::default();
    config.broker.max_tail_bytes = tail_bytes;
    config.broker.max_read_bytes = read_bytes;
    config.broker.max_replay_bytes = 64 << 10;
    let log = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    let log = SledLog::open(directory, &log).unwrap();
    Broker::with_log(Arc::new(log), &config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_of_many_publishers_at_once_miss_nothing_and_repeat_nothing() {
    for tail_bytes in [0, 20_000, 1 << 20] {
        let directory = tempfile::tempdir().unwrap();
        let broker = open(directory.path(), tail_bytes, 4 << 10);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let broker = broker.clone();
                tokio::spawn(async move {
                    let mut feed = all_topics(&broker, StartPoint::Earliest).await;
                    read_to(&mut feed, &mut 0, 8 * 100).await;
                })
            })
            .collect();
        publish_at_once(&broker, 8, 100, 12).await;
        for reader in readers {
            reader.await.unwrap();
        }
        broker.close().await;
    }
}

/// Goal: a feed loses nothing when more topics get events while it is not read than it is told one
/// by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_of_hundreds_of_topics_that_stalls_misses_nothing_and_repeats_nothing() {
    for (tail_bytes, read_bytes) in [(0, 1 << 10), (1 << 20, 1 << 10), (100_000, 256 << 10)] {
        let directory = tempfile::tempdir().unwrap();
        let broker = open(directory.path(), tail_bytes, read_bytes);
        let mut feed = all_topics(&broker, StartPoint::Latest).await;
        let (publishers, events, mut last) = (4, 160, 0);
        for round in 1..=3 {
            // The feed stalls at the tail first, and later in the middle of older events.
            publish_at_once(&broker, publishers, events, 320).await;
            let end = (round * publishers * events) as u64;
            read_to(&mut feed, &mut last, end - 300).await;
        }
        read_to(&mut feed, &mut last, (3 * publishers * events) as u64).await;
        broker.close().await;
    }
}

/// Goal: the history of thousands of topics is delivered whole and in order, from any place on,
/// however little of it is read at a time. A caller that gives up waiting loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_history_of_thousands_of_topics_comes_whole_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path(), 0, 1 << 10);
    let (topics, rounds) = (2_000_u64, 3);
    for round in 0..rounds {
        let mut pending = Vec::new();
        for turn in 0..topics {
            let topic = turn * (7 + 2 * round) % topics;
            let payload = format!("{round}/{topic}");
            pending.push(broker.submit(publish(topic as usize, payload)).await.unwrap());
        }
        for pending in pending {
            pending.ack().await.unwrap();
        }
    }
    broker.close().await;
    drop(broker);
    let end = topics * rounds;
    for (read_bytes, is_rolled_up) in [(1 << 10, false), (256 << 10, false), (16 << 10, true)] {
        let broker = open(directory.path(), 0, read_bytes);
        if is_rolled_up {
            broker.maintain(None).await.unwrap();
        }
        let mut feed = all_topics(&broker, StartPoint::Earliest).await;
        let mut first = 0;
        read_to(&mut feed, &mut first, 10).await;
        for at in [10, topics - 1, topics, end / 2] {
            let after = Place::Position(Position::new(at));
            let after = Cursor { after, since: None, epoch: None };
            let mut feed = all_topics(&broker, StartPoint::After(after)).await;
            // Each call that has to wait for a read is given up, and the next call goes on.
            let mut last = at;
            while last < at + 200 {
                if let Some(Ok(Some(Delivery::Events(run)))) = feed.next_ready().now_or_never() {
                    read_run(&run, &mut last);
                }
                if let Some(Delivery::Events(run)) = feed.next_ready().await.unwrap() {
                    read_run(&run, &mut last);
                }
            }
        }
        read_to(&mut feed, &mut first, end).await;
        broker.close().await;
    }
}

/// Goal: a lower bound on the position of each topic's first event is known, after a restart as
/// before, so that a feed looks at no topic before its turn. The bound is never above that
/// position.
#[tokio::test]
async fn a_reopened_topic_knows_where_its_first_event_is() {
    let directory = tempfile::tempdir().unwrap();
    let broker = open(directory.path(), 1 << 20, 64 << 10);
    let topics = 30;
    for round in 0..3 {
        for turn in 0..topics {
            let topic = turn * (7 + 4 * round) % topics;
            broker.publish(publish(topic, format!("{round}/{topic}"))).await.unwrap();
        }
    }
    let name = |topic: usize| -> TopicName { format!("topic.{topic}").parse().unwrap() };
    let second = Sequence::new(2);
    for topic in 0..5 {
        broker.purge(&name(topic), second).await.unwrap();
    }
    for topic in 5..10 {
        broker.purge(&name(topic), Sequence::new(4)).await.unwrap();
        broker.publish(publish(topic, "again".to_owned())).await.unwrap();
    }
    let mut broker = broker;
    for is_reopened in [false, true] {
        if is_reopened {
            broker.close().await;
            drop(broker);
            broker = open(directory.path(), 0, 64 << 10);
        }
        for topic in 0..topics {
            let start = StartPoint::Earliest;
            let mut reader = broker.subscribe(&name(topic), start, OnGap::Fail).await.unwrap();
            let Some(Delivery::Events(run)) = reader.next_ready().await.unwrap() else {
                panic!("topic {topic} has events")
            };
            let first = run.events().next().unwrap().position;
            let known = broker.topic(&name(topic)).unwrap().extent.lowest_position();
            let context = format!("topic {topic}, reopened: {is_reopened}");
            assert!(known <= first, "{context}: {known} is after {first}");
            assert!(known > Position::BEFORE_ALL, "{context}: nothing is known");
            if topic >= 5 {
                assert_eq!(known, first, "{context}");
            }
        }
    }
}
