//! A topic with values of the host's own type, streams with the combinators of `futures`, and a
//! copy that is restored.

use futures_util::{StreamExt, TryStreamExt, future};
use leftoff::error::OpenReason;
use leftoff::{
    Broker, Delivery, Error, NewEvent, OnGap, OpenConfig, Publish, StartPoint, StateRequest,
    TopicName, TypedDelivery,
};
use leftoff_host::soon;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
}

fn order(id: u64) -> Order {
    Order { id, item: format!("item {id}") }
}

fn name(topic: &str) -> TopicName {
    topic.parse().expect("a name")
}

/// Goal: values come back as they were published, and a payload that is none is the error of its
/// event alone.
#[tokio::test]
async fn values_come_back_and_a_wrong_payload_stops_nothing() {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    let orders = broker.typed::<Order>(name("orders"));
    soon(orders.publish(&order(1))).await.expect("an acknowledgement");
    let wrong = Publish::one(name("orders"), NewEvent::new("no order"));
    soon(broker.publish(wrong)).await.expect("an acknowledgement");
    let second = order(2);
    let keyed = orders.publish_with(&second, |event| event.with_key("2").with_id("order 2"));
    soon(keyed).await.expect("an acknowledgement");
    soon(orders.publish_all(&[order(3), order(4)])).await.expect("an acknowledgement");

    let reader = soon(orders.subscribe(StartPoint::Earliest, OnGap::Resume)).await;
    let deliveries = reader.expect("a reader").into_stream();
    let events = deliveries
        .try_take_while(|it| future::ok(!matches!(it, TypedDelivery::CaughtUp)))
        .try_filter_map(|it| {
            future::ok(match it {
                TypedDelivery::Event(event) => Some(event),
                _ => None,
            })
        });
    let events: Vec<_> = soon(events.try_collect()).await.expect("no failure of the reader");
    let sequences: Vec<_> = events.iter().map(|event| event.event.sequence.get()).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    let values: Vec<_> = events.iter().filter_map(|event| event.value.as_ref().ok()).collect();
    assert_eq!(values, [&order(1), &order(2), &order(3), &order(4)]);
    let error = events[1].value.as_ref().expect_err("no order");
    let message = error.to_string();
    assert!(message.contains("orders") && message.contains('2'), "{message}");
    let state = soon(orders.state(StateRequest::default())).await.expect("a state");
    let latest: Vec<_> = state.events.iter().map(|it| it.value.clone().expect("a value")).collect();
    assert_eq!(latest, [order(2)]);
    soon(broker.close()).await;
}

/// Goal: a reader is a stream like any other: it can be merged, and it ends with the broker.
#[tokio::test]
async fn readers_are_streams_for_the_combinators() {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    for (topic, id) in [("a", 1), ("b", 2), ("a", 3)] {
        let event = NewEvent::json(&order(id)).expect("JSON");
        soon(broker.publish(Publish::one(name(topic), event))).await.expect("an acknowledgement");
    }
    let stream = async |topic: &str| {
        let reader = broker.subscribe(&name(topic), StartPoint::Earliest, OnGap::Resume).await;
        reader.expect("a reader").into_stream()
    };
    let merged = futures_util::stream::select(stream("a").await, stream("b").await);
    let mut ids = merged
        .map_ok(|delivery| match delivery {
            Delivery::Events(run) => {
                run.json::<Order>().map(|it| it.expect("an order").id).collect::<Vec<_>>()
            }
            _ => Vec::new(),
        })
        .map_ok(|ids| futures_util::stream::iter(ids.into_iter().map(Ok::<_, Error>)))
        .try_flatten();
    let mut first: Vec<_> = Vec::new();
    while first.len() < 3 {
        first.push(soon(ids.next()).await.expect("it goes on").expect("no failure"));
    }
    first.sort_unstable();
    assert_eq!(first, [1, 2, 3]);
    soon(broker.close()).await;
    assert!(soon(ids.next()).await.is_none(), "the streams end with the broker");
}

/// Goal: a full backup and the one after it are restored to a log with all events, and readers go
/// on in it.
#[tokio::test]
async fn a_copy_is_restored_and_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let broker = Broker::open(path("log"), &OpenConfig::default()).expect("a broker");
    let orders = broker.typed::<Order>(name("orders"));
    soon(orders.publish(&order(1))).await.expect("an acknowledgement");
    let mut told = Vec::new();
    let full = broker.backup_to(path("full"), None, |done, expected| told.push((done, expected)));
    let full = soon(full).await.expect("a backup");
    assert_eq!(told.last().map(|(done, _)| *done), Some(full.size_bytes));
    assert_eq!(std::fs::metadata(path("full")).expect("a file").len(), full.size_bytes);
    soon(orders.publish(&order(2))).await.expect("an acknowledgement");
    let more = soon(broker.backup_to(path("more"), Some(full.cursor), |_, _| {})).await;
    more.expect("a backup");
    let again = soon(broker.backup_to(path("more"), None, |_, _| {})).await;
    assert!(matches!(again, Err(Error::Backup { .. })), "a file is not overwritten: {again:?}");
    soon(broker.close()).await;

    let files = [path("full"), path("more")];
    let report = leftoff::log::restore(&path("restored"), &files, |_| {}).expect("a restore");
    assert_eq!((report.topics, report.events), (1, 2));
    match leftoff::log::restore(&path("restored"), &files, |_| {}) {
        Err(Error::Open(error)) => assert!(matches!(error.reason, OpenReason::NotEmpty), "{error}"),
        other => panic!("{other:?}"),
    }
    let restored = Broker::open(path("restored"), &OpenConfig::default()).expect("a broker");
    let orders = restored.typed::<Order>(name("orders"));
    soon(orders.publish(&order(3))).await.expect("an acknowledgement");
    let page = soon(orders.read(StartPoint::Earliest.into())).await.expect("a page");
    let values: Vec<_> = page.events.into_iter().map(|it| it.value.expect("a value")).collect();
    assert_eq!(values, [order(1), order(2), order(3)]);
    soon(restored.close()).await;
}
