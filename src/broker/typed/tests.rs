//! Tests of typed topics.

use futures_util::{StreamExt as _, poll};
use serde::Deserialize;

use super::*;
use crate::broker::{Delivery, OpenConfig};
use crate::error::Error;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
}

fn name() -> TopicName {
    "orders".parse().unwrap()
}

/// Returns a broker whose topic has the orders 1 and 2, something else, order 4 and a tombstone,
/// all in one run.
async fn filled() -> (Broker, TypedTopic<Order>) {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let orders = broker.typed::<Order>(name());
    let json = |id| NewEvent::json(&Order { id }).unwrap().with_key(format!("k{id}"));
    let events = vec![
        json(1),
        json(2),
        NewEvent::new(r#"{"id":"three"}"#).with_key("k3"),
        json(4),
        NewEvent::tombstone("k1"),
    ];
    broker.publish(Publish::new(name(), events)).await.unwrap();
    (broker, orders)
}

/// Returns a delivery in short: the number of an order, or what is there in its place.
fn told(delivery: TypedDelivery<Order>) -> String {
    match delivery {
        TypedDelivery::Event(Typed { value: Ok(order), .. }) => order.id.to_string(),
        TypedDelivery::Event(event) if event.is_tombstone() => "deleted".to_owned(),
        TypedDelivery::Event(Typed { event, value: Err(error) }) => {
            let Error::Invalid { field, problem } = error else { panic!("{error}") };
            assert_eq!(field, "payload");
            let place = format!("of topic \"orders\", sequence {} ", event.sequence);
            assert!(problem.starts_with(&place), "{problem}");
            "no order".to_owned()
        }
        TypedDelivery::Gap(gap) => format!("gap {:?}", gap.lost),
        TypedDelivery::Ephemeral { value: Ok(order), .. } => format!("ephemeral {}", order.id),
        TypedDelivery::Ephemeral { value: Err(error), .. } => error.to_string(),
        TypedDelivery::CaughtUp => "caught up".to_owned(),
    }
}

const ALL: [&str; 6] = ["1", "2", "no order", "4", "deleted", "caught up"];

/// Goal: a payload that does not fit is told for its event, and the reader goes on. Wherever a
/// reader is left between two events of one run, another one goes on from its cursor.
#[tokio::test]
async fn a_reader_goes_on_after_a_payload_of_another_type_and_from_each_of_its_cursors() {
    let (_broker, orders) = filled().await;
    for left_after in 0..=ALL.len() {
        let mut reader = orders.subscribe(StartPoint::Earliest, OnGap::Fail).await.unwrap();
        let mut seen = Vec::new();
        for _ in 0..left_after {
            seen.push(told(reader.next().await.unwrap().unwrap()));
        }
        assert_eq!(reader.cursor().after.number(), left_after.min(5) as u64);
        let start = StartPoint::After(reader.cursor());
        let mut stream = orders.subscribe(start, OnGap::Fail).await.unwrap().into_stream();
        while seen.len() < ALL.len() {
            seen.push(told(stream.next().await.unwrap().unwrap()));
            assert_eq!(stream.cursor().after.number(), seen.len().min(5) as u64);
        }
        assert_eq!(seen, ALL, "left after {left_after}");
    }
}

/// Goal: a typed stream turns into its reader and back between two events of a run, and loses none.
#[tokio::test]
async fn a_typed_stream_and_its_reader_share_one_place() {
    let (broker, orders) = filled().await;
    let mut seen = Vec::new();
    let mut reader = orders.subscribe(StartPoint::Earliest, OnGap::Fail).await.unwrap();
    while seen.len() < ALL.len() {
        seen.push(told(reader.next().await.unwrap().unwrap()));
        let mut stream = reader.into_stream();
        if seen.len() < ALL.len() {
            seen.push(told(stream.next().await.unwrap().unwrap()));
        }
        reader = stream.into_reader();
    }
    assert_eq!(seen, ALL);
    let mut stream = reader.into_stream();
    assert!(poll!(stream.next()).is_pending());
    let ephemeral = vec![NewEvent::json(&Order { id: 9 }).unwrap(), NewEvent::new("x")];
    broker.publish_ephemeral(&name(), ephemeral).unwrap();
    assert_eq!(told(stream.next().await.unwrap().unwrap()), "ephemeral 9");
    let refused = told(stream.next().await.unwrap().unwrap());
    assert!(refused.contains("\"orders\", an ephemeral event, does not fit"), "{refused}");
    broker.drain();
    assert!(stream.next().await.is_none());
}

/// Goal: events of an untyped reader are read as values, too, and errors say which event it is.
#[tokio::test]
async fn events_of_any_reader_are_read_as_json() {
    let (broker, _orders) = filled().await;
    let mut reader = broker.subscribe(&name(), StartPoint::Earliest, OnGap::Fail).await.unwrap();
    let Some(Delivery::Events(run)) = reader.next().await.unwrap() else { panic!("no events") };
    let values: Vec<_> = run.json::<Order>().map(|order| order.ok()).collect();
    let expected = [Some(1), Some(2), None, Some(4), None].map(|id| id.map(|id| Order { id }));
    assert_eq!(values, expected);
    let events = run.to_events();
    assert_eq!(events[3].json::<Order>().unwrap(), Order { id: 4 });
    let error = events[2].json::<Order>().unwrap_err().to_string();
    assert!(error.starts_with("payload: of sequence 3 does not fit: invalid type"), "{error}");
    let borrowed = run.events().nth(2).unwrap();
    let value: std::collections::BTreeMap<&str, &str> = borrowed.json().unwrap();
    assert_eq!(value["id"], "three");
    assert!(NewEvent::json(&f64::NAN).is_ok(), "it is null");
    let no_texts = std::collections::BTreeMap::from([(vec![1], 1)]);
    let error = NewEvent::json(&no_texts).unwrap_err().to_string();
    assert!(error.starts_with("payload: cannot be JSON: "), "{error}");
}

/// Goal: publishing, pages and states have the values, and the events that are none.
#[tokio::test]
async fn pages_and_states_of_a_typed_topic_have_its_values() {
    let (_broker, orders) = filled().await;
    let ack = orders.publish_all(&[Order { id: 6 }, Order { id: 7 }]).await.unwrap();
    assert_eq!((ack.first().sequence.get(), ack.count), (6, 2));
    orders.publish_with(&Order { id: 8 }, |event| event.with_key("k8")).await.unwrap();
    let page = orders.read(StartPoint::Last(4).into()).await.unwrap();
    let values: Vec<_> = page.events.iter().map(|event| event.value.clone().ok()).collect();
    assert_eq!(values, [None, Some(6), Some(7), Some(8)].map(|id| id.map(|id| Order { id })));
    assert!(page.events[0].is_tombstone() && page.caught_up);
    assert_eq!(page.events[1].event.content.content_type, "application/json");
    let state = orders.state(StateRequest::default()).await.unwrap();
    let values: Vec<_> = state.events.iter().map(|event| event.value.clone().ok()).collect();
    assert_eq!(values, [Some(2), None, Some(4), Some(8)].map(|id| id.map(|id| Order { id })));
    assert_eq!((state.at.get(), state.next), (8, None));
}
