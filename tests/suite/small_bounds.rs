//! Bounds that small test data never reaches: each is set to a small value, and reached.

use std::collections::BTreeMap;
use std::time::Duration;

use leftoff::broker::{Filter, PageRequest, Patience, Reader, Waited};
use leftoff::cursor::{Cursor, OnGap, Sequence, StartPoint};
use leftoff::{Broker, Delivery, NewEvent, OpenConfig, Publish, TopicConfig};

use crate::common::{name, soon};

async fn store(broker: &Broker, topic: &str, events: Vec<NewEvent>) {
    let publish = Publish::new(name(topic), events);
    broker.publish(publish).await.unwrap();
}

fn numbered(numbers: std::ops::RangeInclusive<u64>) -> Vec<NewEvent> {
    numbers.map(|number| NewEvent::new(format!("{number:0100}"))).collect()
}

fn request(start: StartPoint, filter: Filter) -> PageRequest {
    PageRequest::from(start).limit(1_000).on_gap(OnGap::Earliest).filter(filter)
}

/// Returns all sequences of a topic, or of all topics, read page by page, and the number of pages.
async fn pages(broker: &Broker, of_many: bool, filter: &Filter) -> (Vec<u64>, usize) {
    let (mut start, mut sequences, mut count) = (StartPoint::Earliest, Vec::new(), 0);
    loop {
        let request = request(start, filter.clone());
        let page = match of_many {
            true => broker.read_many(vec![">".parse().unwrap()], request).await.unwrap(),
            false => broker.read(&name("a"), request).await.unwrap(),
        };
        count += 1;
        let events = page.runs.iter().flat_map(|run| run.events());
        sequences.extend(events.map(|event| event.sequence.get()));
        if page.caught_up {
            return (sequences, count);
        }
        assert_ne!(start, StartPoint::After(page.cursor), "a page does not move its cursor");
        start = StartPoint::After(page.cursor);
    }
}

/// Goal: a page that is cut by its bytes in the middle of a block is continued at that place.
#[tokio::test]
async fn pages_that_are_cut_by_their_bytes_have_every_event_once() {
    let mut config = OpenConfig::default();
    config.broker.max_page_bytes = 1_024;
    let broker = Broker::in_memory(&config).unwrap();
    store(&broker, "a", numbered(1..=50)).await;
    for of_many in [false, true] {
        let (sequences, count) = soon(pages(&broker, of_many, &Filter::default())).await;
        assert_eq!(sequences, (1..=50).collect::<Vec<_>>(), "of many: {of_many}");
        assert!(count > 10, "pages were not cut: {count} pages");
    }
}

/// Goal: a lowered limit also applies to events that are stored already: after the next publish, or
/// at the next round of maintenance.
#[tokio::test]
async fn a_limit_that_is_lowered_holds_for_what_is_there() {
    let mut config = OpenConfig::default();
    config.broker.max_block_bytes = 1_024;
    config.maintenance.interval_ms = 5;
    for publishes in [false, true] {
        let broker = Broker::in_memory(&config).unwrap();
        let limited = |max_events| TopicConfig::with(|config| config.max_events = max_events);
        broker.create_topic(&name("a"), limited(Some(1_000))).await.unwrap();
        for number in 1..=100 {
            store(&broker, "a", numbered(number..=number)).await;
        }
        broker.set_topic(&name("a"), limited(Some(10))).await.unwrap();
        if publishes {
            store(&broker, "a", numbered(101..=101)).await;
            let extent = broker.topic(&name("a")).unwrap().extent;
            assert!(extent.tail.get() - extent.earliest.get() <= 20, "{extent:?}");
        }
        soon(async {
            while broker.topic(&name("a")).unwrap().extent.earliest < Sequence::new(90) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Goal: a filter selects events with all of its headers, however they are read. In other fields,
/// one match is enough.
#[tokio::test]
async fn a_filter_wants_all_of_its_headers() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let headers = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let with = |pairs: &[(&str, &str)]| NewEvent { headers: headers(pairs), ..NewEvent::new("x") };
    let events = vec![
        with(&[("a", "1")]),
        with(&[("b", "2")]),
        with(&[("a", "1"), ("b", "2")]),
        with(&[("a", "1"), ("b", "3")]),
        with(&[("a", "1"), ("b", "2"), ("c", "4")]),
        with(&[]),
    ];
    store(&broker, "a", events.clone()).await;
    let filter = Filter { headers: headers(&[("a", "1"), ("b", "2")]), ..Filter::default() };
    for of_many in [false, true] {
        assert_eq!(soon(pages(&broker, of_many, &filter)).await.0, [3, 5], "of many: {of_many}");
    }
    let subscription =
        broker.subscribe(&name("a"), StartPoint::Latest, OnGap::Resume).await.unwrap();
    let mut reader = subscription.filtered(filter).unwrap();
    let heard = async |reader: &mut Reader| {
        loop {
            match reader.next_within(&mut Patience::new(Duration::from_secs(10))).await.unwrap() {
                Waited::Delivery(Delivery::Ephemeral(event)) => return event.event.headers.clone(),
                Waited::Delivery(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    broker.publish_ephemeral(&name("a"), events.clone()).unwrap();
    assert_eq!(soon(heard(&mut reader)).await, events[2].headers);
    assert_eq!(soon(heard(&mut reader)).await, events[4].headers);
}

/// Goal: a new subscriber gets no ephemeral event from before its subscription, of one topic or
/// many.
#[tokio::test]
async fn a_newcomer_hears_no_ephemeral_event_from_before_it_came() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let follow = async |of_many: bool| match of_many {
        true => {
            let feed = broker.feed(vec![">".parse().unwrap()], StartPoint::Latest, OnGap::Resume);
            feed.await.unwrap()
        }
        false => {
            let start = StartPoint::Latest;
            broker.subscribe(&name("a"), start, OnGap::Resume).await.unwrap()
        }
    };
    let _somebody = (follow(false).await, follow(true).await);
    for of_many in [false, true] {
        broker.publish_ephemeral(&name("a"), vec![NewEvent::new("before")]).unwrap();
        let mut newcomer = follow(of_many).await;
        broker.publish_ephemeral(&name("a"), vec![NewEvent::new("after")]).unwrap();
        let first = async {
            loop {
                let mut patience = Patience::new(Duration::from_secs(10));
                match newcomer.next_within(&mut patience).await.unwrap() {
                    Waited::Delivery(Delivery::Ephemeral(event)) => return event,
                    Waited::Delivery(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        assert_eq!(soon(first).await.event.payload, "after", "of many: {of_many}");
    }
}

/// Goal: readers get every event once, whatever the size of the tail in memory and of one read.
#[tokio::test]
async fn tails_and_reads_of_any_size_deliver_every_event_once() {
    for (max_tail_bytes, max_read_bytes, max_replay_bytes) in
        [(0, 1_024, 0), (2_000, 1_024, 2_000), (32 << 20, 1_024, 0), (0, 1 << 20, 1 << 20)]
    {
        let mut config = OpenConfig::default();
        config.broker.max_block_bytes = 1_024;
        config.broker.max_tail_bytes = max_tail_bytes;
        config.broker.max_read_bytes = max_read_bytes;
        config.broker.max_replay_bytes = max_replay_bytes;
        let broker = Broker::in_memory(&config).unwrap();
        for first in (1..=300).step_by(7) {
            store(&broker, "a", numbered(first..=(first + 6).min(300))).await;
        }
        let from = StartPoint::After(Cursor::after(Sequence::new(3), broker.epoch()));
        let mut reader = broker.subscribe(&name("a"), from, OnGap::Resume).await.unwrap();
        let mut seen = Vec::new();
        while let Some(delivery) = soon(reader.next_ready()).await.unwrap() {
            if let Delivery::Events(run) = delivery {
                seen.extend(run.events().map(|event| event.sequence.get()));
            }
        }
        assert_eq!(seen, (4..=300).collect::<Vec<_>>(), "tail {max_tail_bytes}");
    }
}
