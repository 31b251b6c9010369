//! Promises of consumers, with what their tests share.

mod bounds;
mod checkpoints;
#[cfg(feature = "fleet")]
mod fleet;
mod following;
mod in_order;
mod marking;
mod model;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::broker::Publish;
use crate::cursor::{Epoch, Place, Sequence};
use crate::event::{NewEvent, Timestamp};
use crate::testing::{Builder, Clock, FaultyLog, START};
use crate::topic::TopicName;

/// Consumers of a broker in memory, with a clock in the hand of the test.
struct World {
    clock: Clock,
    log: Arc<FaultyLog>,
    broker: Broker,
    consumers: Consumers,
}

impl World {
    async fn new() -> Self {
        Self::with(ConsumersConfig::default()).await
    }

    async fn with(config: ConsumersConfig) -> Self {
        let (clock, log) = (Clock::new(START), Arc::new(FaultyLog::default()));
        let broker = Builder::default().log(log.clone()).clock(&clock).open().unwrap();
        let consumers = Consumers::open(&broker, &config).await.unwrap();
        Self { clock, log, broker, consumers }
    }

    /// Publishes events with these ids, and returns the cursor after the last one, as a consumer of
    /// one topic has it.
    async fn publish(&self, topic: &str, ids: &[&str]) -> Cursor {
        let events = ids.iter().map(|id| NewEvent::new("x").with_id(*id)).collect();
        let ack = self.broker.publish(Publish::new(name(topic), events)).await.unwrap();
        Cursor::after(ack.last().sequence, self.broker.epoch())
    }

    /// Returns the cursor after a position.
    fn at(&self, position: u64) -> Cursor {
        let after = Place::Position(crate::cursor::Position::new(position));
        Cursor { after, since: None, epoch: Some(self.broker.epoch()) }
    }

    /// Closes the broker, and opens another one on its log.
    async fn restart(&mut self) {
        self.broker.close().await;
        let builder = Builder::default().log(self.log.clone()).clock(&self.clock);
        self.broker = builder.open().unwrap();
        let config = self.consumers.config().clone();
        self.consumers = Consumers::open(&self.broker, &config).await.unwrap();
    }

    /// Returns the number of records that were ever written. The topic is made with the first.
    fn records(&self) -> u64 {
        self.broker.extent(&name(TOPIC)).map_or(0, |extent| extent.tail.get() - 1)
    }

    /// Returns the marks of an event as letters: `s`een, `r`ead, `a`rchived, `z` for snoozed.
    fn marks(&self, id: &ConsumerId, topic: &str, sequence: u64) -> String {
        let position = self.position(topic, sequence);
        let (topic, sequence) = (&name(topic), Sequence::new(sequence));
        let marks = self.consumers.state(id).marks;
        let marks = marks.of(&Marked { topic, sequence, position }, self.broker.now());
        let letters = [
            (marks.seen, 's'),
            (marks.read, 'r'),
            (marks.archived, 'a'),
            (marks.snoozed_until.is_some(), 'z'),
        ];
        letters.into_iter().filter(|(is, _)| *is).map(|(_, letter)| letter).collect()
    }

    /// Returns the position of an event, where the events of the tests have one topic alone, or are
    /// published in the order of [`World::publish_each`].
    fn position(&self, topic: &str, sequence: u64) -> Position {
        let extent = self.broker.extent(&name(topic)).unwrap();
        let behind = extent.tail.get() - 1 - sequence;
        Position::new(extent.last_position.get() - behind)
    }
}

fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

fn id(selection: &str) -> ConsumerId {
    ConsumerId::new(selection.parse().unwrap(), "inbox".parse().unwrap())
}

fn named(sequences: &[u64]) -> MarkRequest {
    let names = sequences.iter().map(|number| EventName::Sequence(Sequence::new(*number)));
    MarkRequest::of(MarkedEvents::Named(names.collect()))
}

#[tokio::test]
async fn a_consumer_is_created_read_changed_listed_and_deleted() {
    let mut world = World::new().await;
    world.publish("a", &["1", "2", "3"]).await;
    let info = world.consumers.get(&id("a")).unwrap();
    assert!(!info.exists() && info.checkpoint.is_none() && !world.consumers.exists(&id("a")));
    assert_eq!(world.records(), 0, "reading writes nothing");

    let filter = crate::broker::Filter::default().of_type("mention");
    let settings = ConsumerSettings::default().filter(filter.clone());
    let put = world.consumers.put(id("a"), settings.clone(), Some(StartPoint::Latest));
    let info = put.await.unwrap();
    assert_eq!(info.checkpoint.unwrap().to_string(), format!("3-{}", world.broker.epoch()));
    assert_eq!((info.created, info.updated, info.settings.filter), (START, START, filter));
    let again = world.consumers.put(id("a"), settings, Some(StartPoint::Earliest)).await.unwrap();
    assert_eq!((again.checkpoint, again.revision), (info.checkpoint, info.revision));
    assert_eq!(world.records(), 1, "a service may put its consumer at each start");

    world.clock.advance(Duration::from_secs(60));
    let none = ConsumerChange::default().filter(Default::default());
    let changed = world.consumers.update(&id("a"), none).await.unwrap();
    assert_eq!(changed.settings, ConsumerSettings::default());
    assert!(changed.revision > info.revision && changed.updated == START.plus_ms(60_000));
    assert_eq!((changed.created, changed.checkpoint), (START, info.checkpoint));

    world.consumers.mark(&id("a"), named(&[1]).mark(Mark::Read), "me").await.unwrap();
    let before = world.consumers.state(&id("a"));
    world.restart().await;
    assert_eq!(world.consumers.state(&id("a")), before);
    let listed = world.consumers.list(&ConsumerList::default());
    assert_eq!(listed, [ConsumerInfo::clone(&before.info)]);

    world.consumers.delete(&id("a")).await.unwrap();
    let error = world.consumers.delete(&id("a")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no consumer \"inbox\" of \"a\"");
    assert_eq!(world.marks(&id("a"), "a", 1), "");
    world.restart().await;
    assert!(!world.consumers.exists(&id("a")) && world.consumers.count() == 0);
    let anew = world.consumers.put(id("a"), ConsumerSettings::default(), None).await.unwrap();
    assert_eq!(anew.checkpoint, None);
    assert_eq!(world.marks(&id("a"), "a", 1), "", "the marks of the one before are not its");
    world.broker.close().await;
}

#[tokio::test]
async fn without_creation_by_first_use_only_put_creates() {
    let config = ConsumersConfig { auto_create: false, ..ConsumersConfig::default() };
    let world = World::with(config).await;
    let cursor = world.publish("a", &["1"]).await;
    let unknown = "there is no consumer \"inbox\" of \"a\"";
    let of = |error: Error| error.to_string();
    assert_eq!(of(world.consumers.get(&id("a")).unwrap_err()), unknown);
    let checkpoint = async || world.consumers.checkpoint(&id("a"), Checkpoint::at(cursor)).await;
    assert_eq!(of(checkpoint().await.unwrap_err()), unknown);
    let mark = async || world.consumers.mark(&id("a"), named(&[1]).mark(Mark::Seen), "me").await;
    assert_eq!(of(mark().await.unwrap_err()), unknown);
    world.consumers.put(id("a"), ConsumerSettings::default(), None).await.unwrap();
    assert!(checkpoint().await.unwrap().moved && mark().await.unwrap().changed);
    world.broker.close().await;
}

/// Goal: a list goes on where the one before ended, by owner, by selection, or through all.
#[tokio::test]
async fn lists_of_consumers_come_in_pages() {
    let world = World::new().await;
    let mut all = Vec::new();
    for owner in ["", "one", "two"] {
        for selection in ["a", "a.*", "b"] {
            for consumer in ["x", "y", "z"] {
                let name = consumer.parse().unwrap();
                let id = ConsumerId::new(selection.parse().unwrap(), name).of_owner(owner);
                world.consumers.put(id.clone(), ConsumerSettings::default(), None).await.unwrap();
                all.push(id);
            }
        }
    }
    let owners = [None, Some(""), Some("one"), Some("none")];
    let selections = [None, Some("a"), Some("b"), Some("c")];
    for (owner, selection) in owners.iter().flat_map(|o| selections.iter().map(move |s| (o, s))) {
        let (owner, mut listed) = (owner.map(str::to_owned), Vec::new());
        let selection = selection.map(|text| text.parse().unwrap());
        let mut list = ConsumerList { owner, selection, after: None, limit: 2 };
        loop {
            let page = world.consumers.list(&list);
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            list.after = Some(last.id.clone());
            listed.extend(page.into_iter().map(|info| info.id));
        }
        let is_wanted = |id: &&ConsumerId| {
            list.owner.as_ref().is_none_or(|owner| *owner == id.owner)
                && list.selection.as_ref().is_none_or(|selection| *selection == id.selection)
        };
        let expected: Vec<_> = all.iter().filter(is_wanted).cloned().collect();
        assert_eq!(listed, expected, "{list:?}");
    }
    world.broker.close().await;
}
