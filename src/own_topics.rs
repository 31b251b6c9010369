//! The broker's own topics: how they are made, and how they are followed.
//!
//! # Why
//!
//! What the broker must remember, for access control and for consumers, is events, as everything
//! else is: it survives a restart, is in each backup, and reaches everybody who follows the topic.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::broker::{Broker, Delivery, EventRef, Reader, Run};
use crate::cursor::{OnGap, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::Durability;
use crate::polls;
use crate::topic::TopicName;
use crate::topic_config::{DEFAULT_TOMBSTONE_GRACE_MS, TopicConfig};

/// The topic that tells what happens to webhooks.
pub(crate) const WEBHOOKS_STATUS: &str = "$webhooks.status";

/// The most decisions on one change with which other nodes of a fleet are faster.
#[cfg(feature = "server")]
pub(crate) const MAX_DECISIONS: usize = 20;

/// The pause after a failed read.
const RETRY: Duration = Duration::from_secs(1);

/// A reader of an own topic after the records that were loaded, which notices if it misses some.
///
/// # Why
///
/// The topics are compacted, so a reader who is late may miss the end of a record for ever. Live
/// records have neighbouring sequences: where one is missing, everything has to be loaded anew.
#[derive(Debug)]
pub(crate) struct OwnReader {
    reader: Reader,
    reached: Sequence,
}

/// What comes next of an own topic.
#[derive(Debug)]
pub(crate) enum NextOwn {
    These(Run),
    /// Nothing: all that is there was read.
    None,
    /// Some are missing, so that all must be loaded anew.
    Missing,
    /// The broker stops.
    End,
}

impl OwnReader {
    /// Returns a reader that goes on where `reader` has caught up.
    pub(crate) fn after(reader: Reader) -> Self {
        let reached = Sequence::new(reader.cursor().after.number());
        Self { reader, reached }
    }

    /// Returns the sequence up to which all records were read.
    pub(crate) fn reached(&self) -> Sequence {
        self.reached
    }

    /// Returns the next records that are there.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_ready`](crate::broker::Reader::next_ready).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn next_ready(&mut self) -> Result<NextOwn> {
        loop {
            match self.reader.next_ready().await? {
                None => return Ok(NextOwn::None),
                Some(delivery) => match self.taken(delivery) {
                    NextOwn::None => {}
                    next => return Ok(next),
                },
            }
        }
    }

    /// Waits for the next records.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`](crate::broker::Reader::next).
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Result<NextOwn> {
        loop {
            match self.reader.next().await? {
                None => return Ok(NextOwn::End),
                Some(delivery) => match self.taken(delivery) {
                    NextOwn::None => {}
                    next => return Ok(next),
                },
            }
        }
    }

    fn taken(&mut self, delivery: Delivery) -> NextOwn {
        match delivery {
            Delivery::Events(run) => {
                for event in run.events() {
                    if event.sequence != self.reached.next() {
                        return NextOwn::Missing;
                    }
                    self.reached = event.sequence;
                }
                NextOwn::These(run)
            }
            Delivery::Gap(_) => NextOwn::Missing,
            // The newest records may be gone.
            Delivery::CaughtUp if self.reader.cursor().after.number() > self.reached.get() => {
                NextOwn::Missing
            }
            Delivery::CaughtUp | Delivery::Ephemeral(_) => NextOwn::None,
        }
    }
}

/// Returns the settings of a topic whose latest event of each key is kept for ever, however the
/// patterns of the configuration may read: nothing of it may be lost.
pub(crate) fn keyed() -> TopicConfig {
    TopicConfig {
        max_age_ms: Some(0),
        max_events: Some(0),
        max_bytes: Some(0),
        compact: Some(true),
        max_events_per_key: Some(1),
        tombstone_grace_ms: Some(DEFAULT_TOMBSTONE_GRACE_MS),
        durability: Some(Durability::Fsync),
        stamp_publisher: Some(false),
    }
}

/// Makes the topic `name`, or gives it these settings, where this broker may do so at its start. On
/// a node of a fleet, which may start before any node leads, [`open`] makes the topic before the
/// first write to it.
///
/// # Errors
///
/// As [`Broker::set_topic`].
pub(crate) async fn prepare(broker: &Broker, name: &str, config: TopicConfig) -> Result<TopicName> {
    match broker.is_alone() {
        true => open(broker, name, config).await,
        false => TopicName::new(name),
    }
}

/// Makes the topic `name`, or gives it these settings.
///
/// # Errors
///
/// As [`Broker::set_topic`].
pub(crate) async fn open(broker: &Broker, name: &str, config: TopicConfig) -> Result<TopicName> {
    let topic = TopicName::new(name)?;
    if broker.topic(&topic).is_ok_and(|info| info.config == config) {
        return Ok(topic); // A start writes nothing that is there.
    }
    broker.set_topic(&topic, config).await?;
    Ok(topic)
}

/// A topic whose events are applied as they come, until this is dropped or the broker stops.
#[derive(Debug)]
pub(crate) struct FollowedTopic {
    topic: TopicName,
    /// The sequence up to which all events are applied.
    reached: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl FollowedTopic {
    /// Waits until everything is applied that the fleet has stored in the topic by now, for up to
    /// `patience`. Returns the sequence up to which all is applied.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`]: the leader cannot be asked; [`Error::NotCaughtUp`]: this node is too
    /// far behind.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    #[cfg(feature = "server")]
    pub(crate) async fn catch_up(&self, broker: &Broker, patience: Duration) -> Result<u64> {
        let stored = broker.stored_through(&self.topic).await?;
        let mut reached = self.reached.clone();
        let waiting = tokio::time::timeout(patience, reached.wait_for(|it| *it >= stored));
        match waiting.await {
            Ok(Ok(reached)) => Ok(*reached),
            Ok(Err(_it_is_not_followed)) => Err(Error::ShuttingDown),
            Err(_late) => Err(Error::NotCaughtUp { waited_ms: patience.as_millis() as u64 }),
        }
    }
}

/// Applies all events of a topic, and those that follow as they come, until the returned value is
/// dropped or the broker stops. All that are there are applied when this returns.
///
/// # Errors
///
/// As [`Broker::subscribe`] and [`Reader::next`]; [`Error::ShuttingDown`].
pub(crate) async fn follow(
    broker: &Broker,
    topic: &TopicName,
    apply: impl Fn(&EventRef<'_>) + Send + Sync + 'static,
) -> Result<FollowedTopic> {
    let mut reader = broker.subscribe(topic, StartPoint::Earliest, OnGap::Resume).await?;
    let (reaching, reached) = watch::channel(0);
    loop {
        match reader.next().await? {
            Some(Delivery::CaughtUp) => break,
            Some(delivery) => apply_all(&delivery, &apply).await,
            None => return Err(Error::ShuttingDown),
        }
    }
    reaching.send_replace(reader.cursor().after.number());
    let task = AbortOnDropHandle::new(tokio::spawn(go_on(reader, apply, reaching)));
    Ok(FollowedTopic { topic: topic.clone(), reached, _task: task })
}

async fn go_on(mut reader: Reader, apply: impl Fn(&EventRef<'_>), reaching: watch::Sender<u64>) {
    loop {
        match reader.next().await {
            Ok(Some(delivery)) => {
                apply_all(&delivery, &apply).await;
                reaching.send_replace(reader.cursor().after.number());
            }
            Ok(None) | Err(Error::ShuttingDown) => return,
            Err(Error::TopicDeleted(topic)) => {
                return error!(%topic, "an own topic was deleted, and is followed no more");
            }
            Err(error) => {
                error!(%error, topic = ?reader.topic(), "an own topic cannot be read; retrying");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn apply_all(delivery: &Delivery, apply: impl Fn(&EventRef<'_>)) {
    if let Delivery::Events(run) = delivery {
        run.events().for_each(|event| apply(&event));
        polls::rest().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{OpenConfig, Publish};
    use crate::event::NewEvent;

    /// Goal: clients that have made as many topics as there may be do not keep out the broker's
    /// own.
    #[tokio::test]
    async fn the_brokers_own_topics_are_never_too_many() {
        let mut config = OpenConfig::default();
        config.limits.max_topics = 1;
        let broker = Broker::in_memory(&config).unwrap();
        let publish =
            |topic: &str| broker.publish(Publish::one(topic.parse().unwrap(), NewEvent::new("x")));
        publish("a").await.unwrap();
        assert!(publish("b").await.is_err());
        let topic = open(&broker, "$own", keyed()).await.unwrap();
        publish("$own").await.unwrap();
        assert_eq!(broker.topic(&topic).unwrap().config, keyed());
        broker.close().await;
    }
}
