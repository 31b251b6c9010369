//! The bounds of counts, pages and groups, and what stays exact beyond them.

use std::time::Duration;

use crate::broker::{Broker, Filter, NewestRequest, OpenConfig, Publish};
use crate::consumers::*;
use crate::error::Error;
use crate::event::NewEvent;
use crate::testing::{self, Clock};

async fn world(events: usize, config: &ConsumersConfig) -> (Clock, Broker, Consumers) {
    let (clock, mut open) = (Clock::new(testing::START), OpenConfig::default());
    open.broker.max_block_bytes = 1_024;
    let broker = testing::Builder::default().clock(&clock).config(open).open().unwrap();
    let event =
        |number: usize| NewEvent::new(vec![b'x'; 50]).with_key(format!("k{number}")).with_type("t");
    let events: Vec<_> = (0..events).map(event).collect();
    broker.publish(Publish::new("t.a".parse().unwrap(), events)).await.unwrap();
    let consumers = Consumers::open(&broker, config).await.unwrap();
    (clock, broker, consumers)
}

fn id() -> ConsumerId {
    ConsumerId::new("t.a".parse().unwrap(), "inbox".parse().unwrap())
}

/// Goal: a count never guesses. Beyond the bound it is a lower bound and says so, and a count
/// without a filter stays exact, because it looks at no event.
#[tokio::test]
async fn beyond_the_events_that_are_looked_at_a_count_says_that_there_are_more() {
    let config = ConsumersConfig { max_counted: 100, ..ConsumersConfig::default() };
    let (_clock, broker, consumers) = world(1_000, &config).await;
    let filters = [Filter::default(), Filter::default().of_type("t")].map(CountFilter::from);
    let counts = consumers.counts(&id(), &filters).await.unwrap().counts;
    assert_eq!((counts[0].total, counts[0].unread, counts[0].more_than), (1_000, 1_000, false));
    assert!((100..200).contains(&counts[1].total) && counts[1].more_than, "{:?}", counts[1]);
    let page = consumers.groups(&id(), GroupRequest::default().limit(3)).await.unwrap();
    assert!(page.more_than && page.groups.len() == 3, "{page:?}");
    let few = ConsumersConfig { max_counted: 2_000, ..config };
    broker.close().await;
    let (_clock, broker, consumers) = world(1_000, &few).await;
    let counts = consumers.counts(&id(), &filters).await.unwrap().counts;
    assert_eq!((counts[1].total, counts[1].more_than), (1_000, false));
    broker.close().await;
}

#[tokio::test]
async fn filters_actors_and_the_bytes_of_pages_are_bounded() {
    let (_clock, broker, consumers) = world(20, &ConsumersConfig::default()).await;
    let filters = vec![CountFilter::default(); MAX_COUNT_FILTERS + 1];
    let error = consumers.counts(&id(), &filters).await.unwrap_err().to_string();
    assert!(error.contains("filters: 31 is over the limit of 30"), "{error}");
    assert_eq!(consumers.counts(&id(), &filters[1..]).await.unwrap().counts.len(), 30);
    let error = consumers.groups(&id(), GroupRequest::default().max_actors(33)).await.unwrap_err();
    assert!(error.to_string().contains("actors: 33 is over the limit of 32"), "{error}");
    let page = consumers.inbox(&id(), InboxRequest::default().max_bytes(1)).await.unwrap();
    assert_eq!((page.events.len(), page.next.unwrap().after.number()), (1, 20));
    let page = consumers.groups(&id(), GroupRequest::default().max_bytes(1)).await.unwrap();
    assert_eq!((page.groups.len(), page.groups[0].key.as_deref()), (1, Some("k19")));
    let next = GroupRequest::default().from(page.next.unwrap()).max_bytes(1);
    let page = consumers.groups(&id(), next).await.unwrap();
    assert_eq!(page.groups[0].key.as_deref(), Some("k18"));
    broker.close().await;
}

/// Goal: places from another epoch or of another kind are refused, and a text that is no place is.
#[tokio::test]
async fn a_place_that_is_none_of_the_list_is_refused() {
    let (_clock, broker, consumers) = world(5, &ConsumersConfig::default()).await;
    for bad in ["x", "17", "@17", "17~3"] {
        let error = bad.parse::<GroupCursor>().unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{bad}: {error}");
    }
    let other = "@17~3-00000000".parse().unwrap();
    let error = consumers.groups(&id(), GroupRequest::default().from(other)).await.unwrap_err();
    assert!(error.to_string().contains("another epoch"), "{error}");
    let position = "@3".parse().unwrap();
    let error = consumers.inbox(&id(), InboxRequest::default().from(position)).await.unwrap_err();
    assert!(error.to_string().contains("@3 is a position"), "{error}");
    broker.close().await;
}

/// Goal: a stamp changes at the moment at which an event expires and at which a snooze ends, with
/// nothing published, and the counts with it.
#[tokio::test]
async fn a_stamp_changes_when_an_event_expires_and_when_a_snooze_ends() {
    let (clock, broker, consumers) = world(3, &ConsumersConfig::default()).await;
    let look = async || {
        let tag = consumers.counts_tag(&id()).await.unwrap();
        let counts = consumers.counts(&id(), &[]).await.unwrap();
        (tag, counts.counts[0].total, counts.counts[0].inbox, counts.until)
    };
    let (first, total, inbox, until) = look().await;
    assert_eq!((total, inbox, until), (3, 3, None));
    let event = NewEvent { ttl_ms: Some(1_000), ..NewEvent::new("soon gone") };
    broker.publish(Publish::one("t.a".parse().unwrap(), event)).await.unwrap();
    let (second, total, inbox, until) = look().await;
    assert_eq!((total, inbox, until), (4, 4, Some(clock.now().plus_ms(1_000))));
    let snooze = MarkRequest::of(MarkedEvents::Named(vec![EventName::Sequence(2.into())]));
    let snooze = snooze.snooze_until(clock.now().plus_ms(500));
    consumers.mark(&id(), snooze, "tester").await.unwrap();
    let (third, total, inbox, until) = look().await;
    assert_eq!((total, inbox, until), (4, 3, Some(clock.now().plus_ms(500))));
    clock.advance(Duration::from_millis(499));
    assert_eq!(look().await.0, third, "nothing has happened yet");
    clock.advance(Duration::from_millis(1));
    let (fourth, total, inbox, _) = look().await;
    assert_eq!((total, inbox), (4, 4), "the snooze is over");
    clock.advance(Duration::from_millis(500));
    let (fifth, total, inbox, until) = look().await;
    assert_eq!((total, inbox, until), (3, 3, None), "the event has expired");
    let tags = [first, second, third, fourth, fifth];
    let distinct: std::collections::HashSet<_> = tags.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), 5, "{tags:?}");
    let newest = broker.newest(&"t.a".parse().unwrap(), NewestRequest::default()).await.unwrap();
    assert_eq!(newest.events.len(), 3);
    broker.close().await;
}
