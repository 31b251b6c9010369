//! Readers, pages and backups as streams.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::delivery::Delivery;
use super::page::PageReader;
use super::pulls::{Pull, Pulls, lock, stream_of_pulls};
use super::reader::Reader;
use crate::broker::backup::Backup;
use crate::broker::tail::run::Run;
use crate::cursor::{Cursor, Gap, Position};
use crate::error::Result;
use crate::event::Event;

/// The deliveries of a reader, as a stream: see [`Reader::into_stream`].
///
/// The stream ends when the broker is stopping, and after an error. Its reader is not gone then:
/// [`Deliveries::into_reader`] returns it.
#[derive(Debug)]
pub struct Deliveries {
    pulls: Pulls<PlacedReader>,
    /// The cursor of the reader while it reads or waits.
    place: Arc<Mutex<Cursor>>,
}

/// A reader that tells its place before it waits.
#[derive(Debug)]
struct PlacedReader {
    reader: Reader,
    place: Arc<Mutex<Cursor>>,
}

impl Pull for PlacedReader {
    type Item = Delivery;

    async fn pull(&mut self) -> Result<Option<Delivery>> {
        loop {
            *lock(&self.place) = self.reader.cursor();
            if let Some(delivery) = self.reader.next_ready().await? {
                return Ok(Some(delivery));
            }
            if self.reader.is_stopping() {
                return Ok(None);
            }
            // The place may have moved past events that the filter does not pick.
            *lock(&self.place) = self.reader.cursor();
            self.reader.changed().await;
        }
    }
}

impl Reader {
    /// Returns the reader's deliveries as a stream. A reader of many topics becomes the same type.
    ///
    /// The stream reads when it is polled, and no further: it has no task and no queue of its own.
    /// The stream ends when the broker is stopping, and after an error of [`Reader::next`].
    ///
    /// # Cancel safety
    ///
    /// Polling can be given up at any time, and dropping the stream loses nothing: a reader that
    /// begins after [`Deliveries::cursor`] goes on there.
    ///
    /// ```
    /// use futures_util::StreamExt as _;
    /// use leftoff::{Broker, Delivery, NewEvent, OnGap, OpenConfig, Publish, StartPoint};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::in_memory(&OpenConfig::default())?;
    /// let topic: leftoff::TopicName = "orders".parse()?;
    /// broker.publish(Publish::one(topic.clone(), NewEvent::new("one"))).await?;
    ///
    /// let orders = broker.subscribe(&topic, StartPoint::Earliest, OnGap::Resume).await?;
    /// let mut orders = orders.into_stream();
    /// while let Some(delivery) = orders.next().await {
    ///     match delivery? {
    ///         Delivery::Events(run) => assert_eq!(run.to_events()[0].content.payload, "one"),
    ///         Delivery::Gap(gap) => println!("{gap}"),
    ///         Delivery::CaughtUp => break, // What follows is live.
    ///         _ => {}
    ///     }
    /// }
    /// assert_eq!(orders.cursor().after.number(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> Deliveries {
        let place = Arc::new(Mutex::new(self.cursor()));
        let pulls = Pulls::new(PlacedReader { reader: self, place: place.clone() });
        Deliveries { pulls, place }
    }
}

impl Deliveries {
    /// Returns the cursor after the last delivery, as [`Reader::cursor`]. While the stream waits
    /// for events, the cursor also is after the events that the filter does not pick.
    pub fn cursor(&self) -> Cursor {
        let cursor = self.pulls.look(|placed| placed.reader.cursor());
        cursor.unwrap_or_else(|| *lock(&self.place))
    }

    /// Returns the gap that is delivered next, as [`Reader::gap`]. `None` while the stream reads or
    /// waits: a gap that is found then is delivered at once.
    pub fn gap(&self) -> Option<Gap> {
        self.pulls.look(|placed| placed.reader.gap().cloned()).flatten()
    }

    /// Returns the cursor after `event`, a stored event that the stream has delivered. `None` while
    /// the stream reads or waits.
    pub(crate) fn cursor_past(&self, event: &Event) -> Option<Cursor> {
        let Event { sequence, position, .. } = *event;
        self.pulls.look(|placed| placed.reader.cursor_past(sequence, position))
    }

    /// Returns the reader, at its place after the last delivery.
    pub fn into_reader(self) -> Reader {
        self.pulls.into_value().reader
    }
}

stream_of_pulls!(Deliveries, Delivery);

/// The events of a page, as a stream: see [`PageReader::into_stream`].
#[derive(Debug)]
pub struct PageStream {
    pulls: Pulls<PageReader>,
}

impl Pull for PageReader {
    type Item = Run;

    async fn pull(&mut self) -> Result<Option<Run>> {
        self.next().await
    }
}

impl PageReader {
    /// Returns the page's events as a stream. The stream ends with the page, and after an error of
    /// [`PageReader::next`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: [`PageStream::into_reader`] returns the page as far as it was read.
    pub fn into_stream(self) -> PageStream {
        PageStream { pulls: Pulls::new(self) }
    }
}

impl PageStream {
    /// Returns the page's reader, which has the page's cursor and its gaps.
    pub fn into_reader(self) -> PageReader {
        self.pulls.into_value()
    }
}

stream_of_pulls!(PageStream, Run);

/// The bytes of a backup, as a stream: see [`Backup::into_stream`].
#[derive(Debug)]
pub struct BackupStream {
    pulls: Pulls<Backup>,
    position: Position,
    expected_bytes: u64,
}

impl Pull for Backup {
    type Item = Bytes;

    async fn pull(&mut self) -> Result<Option<Bytes>> {
        self.next().await
    }
}

impl Backup {
    /// Returns the backup's bytes as a stream. The bytes are a backup when the stream has ended
    /// without an error of [`Backup::next`]; after an error they are none.
    pub fn into_stream(self) -> BackupStream {
        let (position, expected_bytes) = (self.position(), self.expected_bytes());
        BackupStream { pulls: Pulls::new(self), position, expected_bytes }
    }
}

impl BackupStream {
    /// Returns the position at which the backup is consistent.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns about how many bytes a backup of all topics has.
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }
}

stream_of_pulls!(BackupStream, Bytes);

#[cfg(test)]
mod tests {
    use futures_core::stream::FusedStream as _;
    use futures_util::{StreamExt as _, poll};

    use super::*;
    use crate::broker::{Broker, Filter, OpenConfig, PageRequest, Publish};
    use crate::cursor::{OnGap, Sequence, StartPoint};
    use crate::event::NewEvent;
    use crate::topic::TopicName;

    async fn publish(broker: &Broker, topic: &TopicName, payload: &str) {
        let event = NewEvent::new(payload.to_owned()).with_type(payload);
        broker.publish(Publish::one(topic.clone(), event)).await.unwrap();
    }

    /// Returns the payloads of a delivery of events; the name of any other delivery.
    fn told(delivery: Option<Result<Delivery>>) -> String {
        match delivery {
            None => "end".to_owned(),
            Some(Ok(Delivery::Events(run))) => {
                let texts = run.events().map(|e| String::from_utf8_lossy(e.payload).into_owned());
                texts.collect::<Vec<_>>().join(",")
            }
            Some(Ok(Delivery::Gap(gap))) => format!("gap {:?}", gap.lost),
            Some(Ok(Delivery::CaughtUp)) => "caught up".to_owned(),
            Some(Ok(Delivery::Ephemeral(_))) => "ephemeral".to_owned(),
            Some(Err(error)) => error.to_string(),
        }
    }

    fn all() -> Vec<crate::topic::TopicPattern> {
        vec![">".parse().unwrap()]
    }

    /// Goal: a stream delivers what its reader delivers, for one topic and for many, knows its
    /// place at any time, gives the reader back while it waits, and ends once.
    #[tokio::test]
    async fn a_stream_delivers_as_its_reader_and_gives_it_back_at_any_time() {
        for is_of_many in [false, true] {
            let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
            let topic: TopicName = "a".parse().unwrap();
            for payload in ["1", "2", "3"] {
                publish(&broker, &topic, payload).await;
            }
            broker.purge(&topic, Sequence::new(2)).await.unwrap();
            let reader = if is_of_many {
                broker.feed(all(), "@0".parse().unwrap(), OnGap::Resume).await.unwrap()
            } else {
                broker.subscribe(&topic, "0".parse().unwrap(), OnGap::Resume).await.unwrap()
            };
            let mut stream = reader.into_stream();
            assert_eq!(stream.cursor().after.number(), 0);
            let is_gap_known = stream.gap().is_some();
            assert!(is_gap_known || is_of_many, "a reader of one topic looks when it begins");
            assert!(told(stream.next().await).starts_with("gap"));
            let mut events = String::new();
            while events.len() < 2 {
                events += &told(stream.next().await).replace(',', "");
            }
            assert_eq!(events, "23");
            assert_eq!(told(stream.next().await), "caught up");
            assert!(poll!(stream.next()).is_pending());
            assert_eq!(stream.cursor().after.number(), 3);
            assert!(!stream.is_terminated());
            // The reader comes back though it is waiting, and goes on as a stream again.
            let mut stream = stream.into_reader().into_stream();
            assert!(poll!(stream.next()).is_pending());
            publish(&broker, &topic, "4").await;
            assert_eq!(told(stream.next().await), "4");
            assert!(poll!(stream.next()).is_pending());
            broker.drain();
            assert_eq!(told(stream.next().await), "end");
            assert!(stream.is_terminated());
            assert_eq!(told(stream.next().await), "end");
            assert_eq!(stream.cursor().after.number(), 4);
        }
    }

    /// Goal: streams can be moved to other threads, shared, and polled without a pin.
    #[test]
    fn streams_are_send_and_sync_and_unpin() {
        fn check<T: Send + Sync + Unpin + 'static>() {}
        check::<Deliveries>();
        check::<PageStream>();
        check::<BackupStream>();
        check::<crate::broker::typed::TypedDeliveries<std::cell::Cell<u8>>>();
    }

    /// Goal: while a stream waits, its cursor is after the events that its filter does not pick.
    #[tokio::test]
    async fn the_cursor_of_a_waiting_stream_is_past_the_events_of_others() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let topic: TopicName = "a".parse().unwrap();
        let reader = broker.subscribe(&topic, StartPoint::Latest, OnGap::Resume).await.unwrap();
        let mut stream = reader.filtered(Filter::default().of_type("b")).unwrap().into_stream();
        assert_eq!(told(stream.next().await), "caught up");
        assert!(poll!(stream.next()).is_pending());
        publish(&broker, &topic, "a").await;
        assert!(poll!(stream.next()).is_pending());
        let wait = async {
            while stream.cursor().after.number() == 0 {
                tokio::task::yield_now().await;
                assert!(poll!(stream.next()).is_pending());
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), wait).await.unwrap();
        assert_eq!(stream.cursor().after.number(), 1);
        publish(&broker, &topic, "b").await;
        assert_eq!(told(stream.next().await), "b");
    }

    /// Goal: a stream ends after an error, so that nobody polls it for ever, and its reader is
    /// still there.
    #[tokio::test]
    async fn a_stream_ends_after_an_error() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let topic: TopicName = "a".parse().unwrap();
        publish(&broker, &topic, "1").await;
        let reader = broker.subscribe(&topic, StartPoint::Latest, OnGap::Resume).await.unwrap();
        let mut stream = reader.into_stream();
        assert_eq!(told(stream.next().await), "caught up");
        broker.delete_topic(&topic).await.unwrap();
        assert_eq!(told(stream.next().await), "topic \"a\" was deleted");
        assert_eq!(told(stream.next().await), "end");
        let mut reader = stream.into_reader();
        assert!(matches!(reader.next().await, Err(crate::error::Error::TopicDeleted(_))));
    }

    /// Goal: the streams of a page and of a backup have what the calls return.
    #[tokio::test]
    async fn pages_and_backups_are_streams() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let topic: TopicName = "a".parse().unwrap();
        for payload in ["1", "2", "3"] {
            publish(&broker, &topic, payload).await;
        }
        let request = PageRequest::from(StartPoint::Earliest).limit(2);
        let mut page = broker.page(&topic, request).await.unwrap().into_stream();
        let mut events = 0;
        while let Some(run) = page.next().await {
            events += run.unwrap().events().count();
        }
        assert_eq!(events, 2);
        assert_eq!(page.into_reader().page().cursor.after.number(), 2);
        let mut backup = broker.backup(None).await.unwrap().into_stream();
        assert_eq!((backup.position().get(), backup.expected_bytes() > 0), (3, true));
        let mut bytes = Vec::new();
        while let Some(part) = backup.next().await {
            bytes.extend_from_slice(&part.unwrap());
        }
        let mut read = crate::log::BackupReader::new(&bytes[..]).unwrap();
        while read.next_frame().unwrap().is_some() {}
    }
}
