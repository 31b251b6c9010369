//! A publish of an edge: its events go to one topic, or to each topic of a list.
//!
//! ```text
//! topic: a          events ──▶ a                   one acknowledgement
//! topics: a, b, c   events ──▶ a, b, c             one for each topic; all are stored, or none
//! ```
//!
//! # Why
//!
//! A list of topics is a fan-out on writing: "notify these 500 users" is one request, one write to
//! the log, and one sync. Each topic has the events as if they had been published to it alone, so
//! readers, retention, compaction and marks need not know of other topics. The payload is stored
//! once for each topic, and not shared: a shared payload would have to be looked up for each event
//! that is read, would tie the retention of a topic to that of all others, and would make backups
//! and checks follow references.
//!
//! Measured (`benches/fan_out.rs`, two busy cores, a release build, one event of 1 KiB for each of
//! 500 topics, synced):
//!
//! | form | a call | p99 | on the disk |
//! |---|---|---|---|
//! | the payload in each topic | 8.9 ms | 23 ms | 1.0 MiB |
//! | one payload, and 499 references of 16 bytes | 5.4 ms | 12 ms | 0.26 MiB |
//! | 500 publishes of their own, all in flight | 9.2 ms | 24 ms | 1.0 MiB |
//!
//! Ten readers that follow all 500 topics have everything 33 ms after the call began (p99), and
//! 25 ms with 500 publishes of their own. So sharing would save 40 % of the time and three quarters
//! of the space of large notifications, for all the work above with each event that is read.
//! Whoever needs that publishes the content once, and its address to the inboxes.
//!
//! In memory the events are shared until the log writes them: if the hooks and the stamp give the
//! same events for all topics, they are encoded once.

use std::collections::HashSet;

use super::effort::Effort;
use super::permit::Permit;
use super::receiving::{self, Received};
use crate::broker::{Ack, Batch, Broker, InOrder, LimitsConfig, PendingAll, Publish};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::permission::Action;
use crate::polls;
use crate::topic::TopicName;

/// The memory of one topic of a list until its publish is in the queue, in bytes.
const TOPIC_BYTES: usize = 1 << 10;

/// The topics that a publish names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublishTopics {
    /// One topic. The answer is that of this topic.
    One(TopicName),
    /// A list of topics, each of which gets the events. The answer has an entry for each topic.
    Each(Vec<TopicName>),
}

impl PublishTopics {
    /// Returns the topics of a request, which has either `topic` or `topics`. A topic that is
    /// listed twice gets the events once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: none of the two is given, or both; a name is wrong.
    /// [`Error::OverLimit`]: the list is too long.
    pub(super) fn of(
        topic: Option<TopicName>,
        topics: Option<Vec<String>>,
        limits: &LimitsConfig,
    ) -> Result<Self> {
        match (topic, topics) {
            (Some(topic), None) => Ok(Self::One(topic)),
            (None, Some(topics)) => Self::each(&topics, limits),
            _ => Err(Error::invalid("topic", "write either topic or topics")),
        }
    }

    /// Returns the topics of a list.
    ///
    /// # Errors
    ///
    /// As [`Self::of`].
    pub(super) fn each(topics: &[String], limits: &LimitsConfig) -> Result<Self> {
        limits.check_topics(topics.len())?;
        let mut listed = HashSet::with_capacity(topics.len());
        let mut names = Vec::with_capacity(topics.len());
        for (index, topic) in topics.iter().enumerate() {
            let name = TopicName::new(topic).map_err(|error| match error {
                Error::Invalid { problem, .. } => {
                    Error::invalid(format!("topics[{index}]"), problem)
                }
                other => other,
            })?;
            if listed.insert(name.clone()) {
                names.push(name);
            }
        }
        Ok(Self::Each(names))
    }

    /// Returns the names, each once, in their order.
    pub(super) fn names(&self) -> &[TopicName] {
        match self {
            Self::One(topic) => std::slice::from_ref(topic),
            Self::Each(topics) => topics,
        }
    }

    /// Returns the number of events that are stored if each topic gets `events`.
    pub(super) fn count(&self, events: usize) -> usize {
        self.names().len().saturating_mul(events)
    }

    /// Returns the number of events as [`Self::count`] does, if one publish may have so many.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`]; [`Error::Invalid`] if there is no event.
    pub(super) fn checked_count(&self, events: usize, limits: &LimitsConfig) -> Result<usize> {
        let count = self.count(events);
        limits.check_batch(count, 0).map(|()| count)
    }

    /// Returns the effort of preparing events for all topics; `effort` is that for one. Without
    /// hooks they are prepared once.
    pub(super) fn effort(&self, effort: Effort, permit: &Permit) -> Effort {
        if permit.has_hooks() { effort.times(self.names().len()) } else { effort }
    }

    /// Returns the one topic, of a publish that may not have a list.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(super) fn one(self) -> Result<TopicName> {
        match self {
            Self::One(topic) => Ok(topic),
            Self::Each(_) => {
                let problem = "is for one topic; events for a list of topics are always stored";
                Err(Error::invalid("ephemeral", problem))
            }
        }
    }

    /// Checks that the caller may publish to each topic.
    ///
    /// # Errors
    ///
    /// As [`Permit::check`], for the first topic that is refused.
    pub(super) async fn check(&self, permit: &Permit) -> Result<()> {
        for topic in self.names() {
            permit.check(Action::Publish, topic).await?;
            polls::rest().await;
        }
        Ok(())
    }

    /// Counts the memory that the list takes besides the received bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`].
    pub(super) fn hold(&self, received: Option<&Received>) -> Result<()> {
        match (self, received) {
            (Self::Each(topics), Some(received)) => received.add(topics.len() * TOPIC_BYTES),
            _ => Ok(()),
        }
    }
}

/// The topics of a publish with their events, checked and encoded, ready to be handed in.
#[derive(Debug)]
pub(super) struct EncodedPublish {
    topics: PublishTopics,
    /// The events of each topic, in the order of the topics.
    batches: Vec<Batch>,
    expected_sequence: Option<u64>,
}

impl EncodedPublish {
    /// Returns the events for each topic, as the hooks let them through, with their publisher's
    /// stamp, checked against the limits. `events` makes them anew for each topic. The caller may
    /// publish to the topics, which was checked before.
    ///
    /// # Errors
    ///
    /// As [`receiving::batch`]; [`Error::OverLimit`] if all of it is over the limits of one
    /// publish.
    pub(super) fn of<I>(
        (permit, topics): (&Permit, PublishTopics),
        expected_sequence: Option<u64>,
        events: impl Fn() -> I,
        broker: &Broker,
    ) -> Result<Self>
    where
        I: ExactSizeIterator<Item = Result<NewEvent>>,
    {
        let names = topics.names();
        let mut batches: Vec<Batch> = Vec::with_capacity(names.len());
        let (mut count, mut size_bytes) = (0, 0);
        for topic in names {
            let batch = match batches.last() {
                Some(last) if !permit.has_hooks() => last.clone(),
                last => {
                    let batch = receiving::batch(permit, topic, events(), broker)?;
                    last.map_or_else(|| batch.clone(), |last| batch.clone().or_same(last))
                }
            };
            (count, size_bytes) = (count + batch.len(), size_bytes + batch.size_bytes());
            // Before the next topic: a list of topics must not multiply the work of refused events.
            broker.limits().check_batch(count, size_bytes)?;
            batches.push(batch);
        }
        Ok(Self { topics, batches, expected_sequence })
    }

    /// Submits the events at their place in `order`.
    ///
    /// # Errors
    ///
    /// As [`Broker::submit_all_in_order`].
    pub(super) async fn submit(self, broker: &Broker, order: &InOrder) -> Result<Submitted> {
        let (topics, publishes) = self.publishes();
        let pending = broker.submit_all_in_order(publishes, order).await?;
        Ok(Submitted { topics, pending })
    }

    /// As [`Self::submit`], but waits for room in the queue without a bound.
    ///
    /// # Errors
    ///
    /// As [`Broker::submit_all_patiently`].
    pub(super) async fn submit_patiently(
        self,
        broker: &Broker,
        order: &InOrder,
    ) -> Result<Submitted> {
        let (topics, publishes) = self.publishes();
        let pending = broker.submit_all_patiently(publishes, order).await?;
        Ok(Submitted { topics, pending })
    }

    fn publishes(self) -> (PublishTopics, Vec<Publish<Batch>>) {
        let Self { topics, batches, expected_sequence } = self;
        let publishes = topics.names().iter().zip(batches).map(|(topic, events)| {
            let publish = Publish::new(topic.clone(), events);
            Publish { expected_sequence, ..publish }
        });
        let publishes = publishes.collect();
        (topics, publishes)
    }

    /// Publishes a complete request. Its bytes are counted until it has its place in the queue.
    ///
    /// # Errors
    ///
    /// As [`Self::submit`], [`Submitted::ready`] and [`Permit::check`].
    pub(super) async fn hand_in(
        self,
        broker: &Broker,
        permit: &Permit,
        received: Option<Received>,
    ) -> Result<Acknowledged> {
        // The body may have taken longer than its sender's grant.
        self.topics.check(permit).await?;
        let mut submitted = self.submit(broker, &InOrder::default()).await?;
        drop(received);
        submitted.ready(permit).await
    }
}

/// A publish in the queue, which is acknowledged later.
#[derive(Debug)]
pub(super) struct Submitted {
    topics: PublishTopics,
    pending: PendingAll,
}

impl Submitted {
    /// Waits for the acknowledgements, and tells the hooks of them. Call it until it returns, and
    /// not again after that.
    ///
    /// # Errors
    ///
    /// As [`PendingAll::ready`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the next call returns the answer.
    pub(super) async fn ready(&mut self, permit: &Permit) -> Result<Acknowledged> {
        let acks = self.pending.ready().await?;
        let names = self.topics.names().iter();
        let mut by_topic: Vec<_> = names.cloned().zip(acks).collect();
        by_topic.iter().for_each(|(topic, ack)| permit.acknowledged(topic, ack));
        Ok(match (&self.topics, by_topic.pop()) {
            (PublishTopics::One(_), Some((_, ack))) => Acknowledged::One(ack),
            (_, last) => {
                by_topic.extend(last);
                Acknowledged::Each(by_topic)
            }
        })
    }
}

/// The acknowledgement of a publish: all its events are durable.
#[derive(Debug)]
pub(super) enum Acknowledged {
    /// Of one topic.
    One(Ack),
    /// Of a list of topics, in their order.
    Each(Vec<(TopicName, Ack)>),
}
