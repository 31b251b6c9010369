//! The broker for threads without a runtime: calls that block until they are done.
//!
//! ```text
//! thread ── call ──▶ task in a small runtime ──▶ broker
//!        ◀─ answer ─┘ (one worker, and threads for reads of the log)
//! ```
//!
//! # Why
//!
//! The calls of a [`Broker`] need a runtime. `Runtime::block_on` panics in a thread that belongs to
//! a runtime, and a library cannot know which threads call it. So each call runs as a task of a
//! runtime that belongs to the [`Blocking`], and its caller waits at a channel, which works
//! anywhere.

use std::borrow::BorrowMut;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::broker::{
    Ack, BackupDone, Broker, Delivery, MaintenanceReport, Member, Page, PageRequest, Patience,
    Presence, Publish, Reader, StatePage, StateRequest, TopicInfo, Waited,
};
use crate::cursor::{Cursor, OnGap, Sequence, StartPoint};
use crate::error::{Error, OpenReason, Result};
use crate::topic::{TopicName, TopicPattern};
use crate::topic_config::TopicConfig;

/// A broker whose calls block the thread until they are done.
///
/// Cheap to clone. All clones, and the readers that they begin, share a runtime of one worker
/// thread. Reads of the log add threads to it, [`max_reads`] at the most, which end when they are
/// idle. The runtime ends in the background when the last clone and the last reader are dropped,
/// wherever that is. The broker itself stays open.
///
/// A task of a runtime must not make these calls: each of them keeps the task's worker from all
/// other work. Such a task calls the [`Broker`] instead. Nothing panics there, and nothing hangs.
///
/// The calls fail as those of the [`Broker`] do. A call that panics in the runtime panics in its
/// caller.
///
/// ```
/// use leftoff::cursor::{OnGap, StartPoint};
/// use leftoff::{Broker, Delivery, NewEvent, OpenConfig, Publish};
///
/// # fn main() -> Result<(), leftoff::Error> {
/// let broker = Broker::in_memory(&OpenConfig::default())?.blocking()?;
/// let topic: leftoff::TopicName = "orders".parse()?;
/// let events = vec![NewEvent::new("one"), NewEvent::new("two")];
/// broker.publish(Publish::new(topic.clone(), events))?;
///
/// let mut payloads = Vec::new();
/// for delivery in broker.subscribe(&topic, StartPoint::Earliest, OnGap::Resume)? {
///     match delivery? {
///         Delivery::Events(run) => payloads.extend(run.events().map(|e| e.payload.to_vec())),
///         Delivery::CaughtUp => break, // The iterator would wait for the next events.
///         _ => {}
///     }
/// }
/// assert_eq!(payloads, [b"one", b"two"]);
/// broker.close();
/// # Ok(())
/// # }
/// ```
///
/// [`max_reads`]: crate::broker::BrokerConfig::max_reads
#[derive(Debug, Clone)]
pub struct Blocking {
    broker: Broker,
    runtime: CallRuntime,
}

/// The runtime in which calls run. Cheap to clone.
#[derive(Debug, Clone)]
struct CallRuntime {
    handle: Handle,
    _owned: Arc<OwnedRuntime>,
}

/// A runtime that ends in the background: to wait for its end would panic in a task.
#[derive(Debug)]
struct OwnedRuntime(Option<Runtime>);

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl CallRuntime {
    fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("blocking calls")
            .enable_time()
            .build();
        let runtime = runtime.map_err(|error| {
            let name = "blocking calls".to_owned();
            Error::open("", OpenReason::NoThread { name, cause: error.into() })
        })?;
        let handle = runtime.handle().clone();
        Ok(Self { handle, _owned: Arc::new(OwnedRuntime(Some(runtime))) })
    }

    /// Runs `call` as a task, and blocks the thread until it is done.
    fn run<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, answered) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _caller_waits = answer.send(call.await);
        });
        answered.recv().expect("a call of the broker does not panic")
    }
}

impl Broker {
    /// Returns the same broker with calls that block, for threads without a runtime. Starts a
    /// runtime of one worker thread: keep the value, and clone it.
    ///
    /// # Errors
    ///
    /// [`Error::Open`]: the system has no thread to give.
    pub fn blocking(&self) -> Result<Blocking> {
        Ok(Blocking { broker: self.clone(), runtime: CallRuntime::new()? })
    }
}

impl Blocking {
    /// Returns the broker, for the calls that need no runtime: lists of topics, for example.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    fn run<T, F>(&self, call: impl FnOnce(Broker) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.runtime.run(call(self.broker.clone()))
    }

    /// Stores events, all or none, and returns when they are durable.
    ///
    /// # Errors
    ///
    /// As [`Broker::publish`].
    pub fn publish(&self, publish: Publish) -> Result<Ack> {
        self.run(|broker| async move { broker.publish(publish).await })
    }

    /// Stores the events of several publishes, to any topics, all or none, and returns when they
    /// are durable.
    ///
    /// # Errors
    ///
    /// As [`Broker::publish_all`].
    pub fn publish_all(&self, publishes: Vec<Publish>) -> Result<Vec<Ack>> {
        self.run(|broker| async move { broker.publish_all(publishes).await })
    }

    /// Follows `topic` from `start`.
    ///
    /// # Errors
    ///
    /// As [`Broker::subscribe`].
    pub fn subscribe(
        &self,
        topic: &TopicName,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<BlockingReader> {
        let topic = topic.clone();
        let reader =
            self.run(|broker| async move { broker.subscribe(&topic, start, on_gap).await })?;
        Ok(BlockingReader { reader: Some(reader), runtime: self.runtime.clone() })
    }

    /// Follows all topics whose names fit any of the patterns.
    ///
    /// # Errors
    ///
    /// As [`Broker::feed`].
    pub fn feed(
        &self,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<BlockingReader> {
        let reader =
            self.run(|broker| async move { broker.feed(patterns, start, on_gap).await })?;
        Ok(BlockingReader { reader: Some(reader), runtime: self.runtime.clone() })
    }

    /// Reads a page of `topic`.
    ///
    /// # Errors
    ///
    /// As [`Broker::read`].
    pub fn read(&self, topic: &TopicName, request: PageRequest) -> Result<Page> {
        let topic = topic.clone();
        self.run(|broker| async move { broker.read(&topic, request).await })
    }

    /// Reads a page of all topics whose names fit any of the patterns.
    ///
    /// # Errors
    ///
    /// As [`Broker::read_many`].
    pub fn read_many(&self, patterns: Vec<TopicPattern>, request: PageRequest) -> Result<Page> {
        self.run(|broker| async move { broker.read_many(patterns, request).await })
    }

    /// Reads the latest event of each key of `topic`.
    ///
    /// # Errors
    ///
    /// As [`Broker::state`].
    pub fn state(&self, topic: &TopicName, request: StateRequest) -> Result<StatePage> {
        let topic = topic.clone();
        self.run(|broker| async move { broker.state(&topic, request).await })
    }

    /// Purges the events of `topic` below `earliest`.
    ///
    /// # Errors
    ///
    /// As [`Broker::purge`].
    pub fn purge(&self, topic: &TopicName, earliest: Sequence) -> Result<()> {
        let topic = topic.clone();
        self.run(|broker| async move { broker.purge(&topic, earliest).await })
    }

    /// Creates a topic with these settings.
    ///
    /// # Errors
    ///
    /// As [`Broker::create_topic`].
    pub fn create_topic(&self, name: &TopicName, config: TopicConfig) -> Result<TopicInfo> {
        let name = name.clone();
        self.run(|broker| async move { broker.create_topic(&name, config).await })
    }

    /// Gives a topic these settings, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// As [`Broker::set_topic`].
    pub fn set_topic(&self, name: &TopicName, config: TopicConfig) -> Result<TopicInfo> {
        let name = name.clone();
        self.run(|broker| async move { broker.set_topic(&name, config).await })
    }

    /// Changes the `fields` of a topic's settings to these.
    ///
    /// # Errors
    ///
    /// As [`Broker::update_topic`].
    pub fn update_topic(
        &self,
        name: &TopicName,
        config: TopicConfig,
        fields: Vec<String>,
    ) -> Result<TopicInfo> {
        let name = name.clone();
        self.run(|broker| async move { broker.update_topic(&name, config, fields).await })
    }

    /// Deletes a topic with its events and its settings.
    ///
    /// # Errors
    ///
    /// As [`Broker::delete_topic`].
    pub fn delete_topic(&self, name: &TopicName) -> Result<()> {
        let name = name.clone();
        self.run(|broker| async move { broker.delete_topic(&name).await })
    }

    /// Makes `member` present in these topics until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// As [`Broker::join`].
    pub fn join(&self, topics: Vec<TopicName>, member: Member) -> Result<Presence> {
        self.run(|broker| async move { broker.join(&topics, member).await })
    }

    /// Writes a backup to a file, which must not exist, and verifies it.
    ///
    /// # Errors
    ///
    /// As [`Broker::backup_to`].
    pub fn backup_to(&self, path: impl AsRef<Path>, from: Option<Cursor>) -> Result<BackupDone> {
        let path = path.as_ref().to_owned();
        self.run(|broker| async move { broker.backup_to(path, from, |_, _| ()).await })
    }

    /// Runs maintenance on one topic or on all.
    ///
    /// # Errors
    ///
    /// As [`Broker::maintain`].
    pub fn maintain(&self, topic: Option<&TopicName>) -> Result<MaintenanceReport> {
        let topic = topic.cloned();
        self.run(|broker| async move { broker.maintain(topic.as_ref()).await })
    }

    /// Closes the broker, as [`Broker::close`] does.
    pub fn close(&self) {
        self.broker.close_blocking();
    }
}

/// A live reader whose calls block the thread.
///
/// As an iterator it gives one delivery after the other, waits for more at the tail, and ends when
/// the broker stops, or after an error. `for delivery in &mut reader` leaves the reader to its
/// owner. Another thread ends the wait of a reader by [`Broker::drain`]; a thread that has other
/// things to do calls [`Self::next_within`].
#[derive(Debug)]
pub struct BlockingReader {
    /// The reader; `None` only while it is in a task.
    reader: Option<Reader>,
    runtime: CallRuntime,
}

impl BlockingReader {
    /// Returns the reader, for its place and its bounds.
    ///
    /// # Panics
    ///
    /// If an earlier call of this reader has panicked.
    pub fn reader(&self) -> &Reader {
        self.reader.as_ref().expect("an earlier call did not panic")
    }

    /// Returns the cursor of the reader's place.
    ///
    /// # Panics
    ///
    /// As [`Self::reader`].
    pub fn cursor(&self) -> Cursor {
        self.reader().cursor()
    }

    /// Returns the next delivery; waits for one at the tail. `None` when the broker is stopping.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`].
    ///
    /// # Panics
    ///
    /// As [`Self::reader`].
    #[allow(clippy::should_implement_trait, reason = "it is named as the reader's, and can fail")]
    pub fn next(&mut self) -> Result<Option<Delivery>> {
        let mut reader = self.take();
        let (reader, next) = self.runtime.run(async move {
            let next = reader.next().await;
            (reader, next)
        });
        self.reader = Some(reader);
        next
    }

    /// As [`Self::next`], but waits for `limit` at the most.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`].
    ///
    /// # Panics
    ///
    /// As [`Self::reader`].
    pub fn next_within(&mut self, limit: Duration) -> Result<Waited> {
        let mut reader = self.take();
        let (reader, waited) = self.runtime.run(async move {
            let waited = reader.next_within(&mut Patience::new(limit)).await;
            (reader, waited)
        });
        self.reader = Some(reader);
        waited
    }

    fn take(&mut self) -> Reader {
        self.reader.take().expect("an earlier call did not panic")
    }
}

/// The deliveries of a [`BlockingReader`], one after the other.
#[derive(Debug)]
pub struct BlockingDeliveries<R> {
    reader: R,
    is_over: bool,
}

impl<R: BorrowMut<BlockingReader>> Iterator for BlockingDeliveries<R> {
    type Item = Result<Delivery>;

    /// Returns the next delivery; waits for one. `None` when the broker is stopping, and after an
    /// error.
    fn next(&mut self) -> Option<Result<Delivery>> {
        if self.is_over {
            return None;
        }
        let next = self.reader.borrow_mut().next().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl IntoIterator for BlockingReader {
    type Item = Result<Delivery>;
    type IntoIter = BlockingDeliveries<Self>;

    fn into_iter(self) -> Self::IntoIter {
        BlockingDeliveries { reader: self, is_over: false }
    }
}

impl IntoIterator for &mut BlockingReader {
    type Item = Result<Delivery>;
    type IntoIter = BlockingDeliveries<Self>;

    fn into_iter(self) -> Self::IntoIter {
        BlockingDeliveries { reader: self, is_over: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::OpenConfig;
    use crate::cursor::Place;
    use crate::event::NewEvent;

    fn name(topic: &str) -> TopicName {
        topic.parse().unwrap()
    }

    fn publish(topic: &str, payload: &str) -> Publish {
        let events = vec![NewEvent::new(payload.to_owned())];
        Publish { topic: name(topic), events, expected_sequence: None }
    }

    /// Calls everything of `broker`, and checks each outcome.
    fn call_all(broker: &Blocking) {
        let topic = name("a");
        assert_eq!(broker.publish(publish("a", "1")).unwrap().last().sequence.get(), 1);
        let (start, on_gap) = (StartPoint::Earliest, OnGap::Resume);
        let mut reader = broker.subscribe(&topic, start, on_gap).unwrap();
        let Some(Delivery::Events(run)) = reader.next().unwrap() else { panic!("no events") };
        assert_eq!(run.to_events()[0].content.payload, "1");
        assert!(matches!(reader.next().unwrap(), Some(Delivery::CaughtUp)));
        let waited = reader.next_within(Duration::from_millis(5)).unwrap();
        assert!(matches!(waited, Waited::Silence), "{waited:?}");
        assert_eq!(reader.cursor().after, Place::Sequence(Sequence::FIRST));
        let mut feed = broker.feed(vec!["*".parse().unwrap()], start, on_gap).unwrap();
        let first = (&mut feed).into_iter().next().unwrap().unwrap();
        assert!(matches!(first, Delivery::Events(_)), "{first:?}");
        assert!(broker.state(&topic, StateRequest::default()).unwrap().events.is_empty());
        assert_eq!(
            broker.create_topic(&name("b"), TopicConfig::default()).unwrap().name,
            name("b")
        );
        broker.set_topic(&name("b"), TopicConfig::default()).unwrap();
        broker.update_topic(&name("b"), TopicConfig::default(), Vec::new()).unwrap();
        broker.delete_topic(&name("b")).unwrap();
        let error = broker.delete_topic(&name("b")).unwrap_err();
        assert!(matches!(error, Error::UnknownTopic(_)), "{error}");
        broker.purge(&topic, Sequence::new(2)).unwrap();
        broker.maintain(None).unwrap();
        assert_eq!(broker.broker().topic(&topic).unwrap().extent.earliest, Sequence::new(2));
        // Another thread ends the wait of a reader.
        let waiting = std::thread::spawn(move || ((&mut reader).into_iter().count(), reader));
        broker.close();
        let (deliveries, mut reader) = waiting.join().unwrap();
        assert_eq!(deliveries, 0);
        assert!(reader.next().unwrap().is_none());
        let error = broker.publish(publish("a", "2")).unwrap_err();
        assert!(matches!(error, Error::ShuttingDown), "{error}");
    }

    #[test]
    fn a_thread_without_a_runtime_does_with_a_broker_what_a_task_can() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        call_all(&broker.blocking().unwrap());
    }

    /// Goal: a call in a task blocks the task's worker, and does nothing worse; dropping is safe.
    #[tokio::test]
    async fn in_a_task_the_calls_and_the_drop_of_a_blocking_broker_do_not_panic() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        call_all(&broker.blocking().unwrap());
    }

    #[test]
    fn an_iterator_ends_after_an_error() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap().blocking().unwrap();
        broker.publish(publish("a", "1")).unwrap();
        let topic = name("a");
        let reader = broker.subscribe(&topic, StartPoint::Latest, OnGap::Resume).unwrap();
        let mut deliveries = reader.into_iter();
        assert!(matches!(deliveries.next(), Some(Ok(Delivery::CaughtUp))));
        broker.delete_topic(&topic).unwrap();
        assert!(matches!(deliveries.next(), Some(Err(Error::TopicDeleted(_)))));
        assert!(deliveries.next().is_none());
        broker.close();
    }
}
