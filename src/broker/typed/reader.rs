//! Live readers of typed topics.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use serde::de::DeserializeOwned;
use tokio::task::coop;

use super::value::{Typed, value};
use crate::broker::filter::Filter;
use crate::broker::read::deliveries::Deliveries;
use crate::broker::read::delivery::Delivery;
use crate::broker::read::reader::Reader;
use crate::broker::tail::run::Run;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::cursor::{Cursor, Gap};
use crate::error::Result;
use crate::event::Event;
use crate::topic::TopicName;

/// A delivery of a [`TypedReader`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TypedDelivery<T> {
    /// The next event.
    Event(Typed<T>),
    /// Events between the reader's place and the next event are gone. Events go on at `resume`.
    Gap(Gap),
    /// An event that is not stored. The reader's place stays as it is.
    Ephemeral {
        /// The event. The types of the broker's own events begin with `leftoff.`; the payloads of
        /// these are of other types.
        event: Arc<Ephemeral>,
        /// The payload as a value, or an error as that of [`Typed::value`].
        value: Result<T>,
    },
    /// Everything that was there is delivered; events that follow are live. A reader says so once.
    CaughtUp,
}

/// The events of a run that are not delivered yet.
#[derive(Debug, Default)]
struct Undelivered {
    events: std::vec::IntoIter<Event>,
    /// The cursor before these events; `None` if there are none.
    before: Option<Cursor>,
}

impl Undelivered {
    /// Takes in the events of `run`, which come after the cursor `before`.
    fn put(&mut self, run: &Run, before: Cursor) {
        *self = Self { events: run.to_events().into_iter(), before: Some(before) };
    }

    /// Returns the next event. `cursor_after` returns the cursor after it.
    fn take(&mut self, cursor_after: impl FnOnce(&Event) -> Option<Cursor>) -> Option<Event> {
        let event = self.events.next()?;
        self.before = match self.events.as_slice() {
            [] => None,
            _ => cursor_after(&event).or(self.before),
        };
        Some(event)
    }
}

/// Returns a delivery that has no stored events.
fn typed<T: DeserializeOwned>(topic: &TopicName, delivery: Other) -> TypedDelivery<T> {
    match delivery {
        Other::Gap(gap) => TypedDelivery::Gap(gap),
        Other::CaughtUp => TypedDelivery::CaughtUp,
        Other::Ephemeral(event) => {
            let value = value(topic, ", an ephemeral event,", &event.event);
            TypedDelivery::Ephemeral { event, value }
        }
    }
}

/// A delivery without stored events.
enum Other {
    Gap(Gap),
    Ephemeral(Arc<Ephemeral>),
    CaughtUp,
}

/// Returns the events of a delivery, or the delivery if it has none.
fn events_of(delivery: Delivery) -> Result<Run, Other> {
    match delivery {
        Delivery::Events(run) => Ok(run),
        Delivery::Gap(gap) => Err(Other::Gap(gap)),
        Delivery::Ephemeral(event) => Err(Other::Ephemeral(event)),
        Delivery::CaughtUp => Err(Other::CaughtUp),
    }
}

/// A live reader of a typed topic. Events come one at a time.
pub struct TypedReader<T> {
    topic: TopicName,
    reader: Reader,
    undelivered: Undelivered,
    values: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for TypedReader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedReader").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl<T> TypedReader<T> {
    /// Returns `reader`, a reader of one topic, with values.
    pub(super) fn new(topic: TopicName, reader: Reader) -> Self {
        Self { topic, reader, undelivered: Undelivered::default(), values: PhantomData }
    }

    /// Returns the topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns the cursor after the last delivery, as [`Reader::cursor`].
    pub fn cursor(&self) -> Cursor {
        self.undelivered.before.unwrap_or_else(|| self.reader.cursor())
    }

    /// Returns the gap that is delivered next, as [`Reader::gap`].
    pub fn gap(&self) -> Option<&Gap> {
        self.reader.gap().filter(|_| self.undelivered.before.is_none())
    }

    /// Returns this reader with a filter, as [`Reader::filtered`]. Events that were read before
    /// are delivered without it.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`](crate::Error::OverLimit): the filter has too many values.
    pub fn filtered(self, filter: Filter) -> Result<Self> {
        Ok(Self { reader: self.reader.filtered(filter)?, ..self })
    }

    /// Returns the reader's deliveries as a stream, as [`Reader::into_stream`].
    pub fn into_stream(self) -> TypedDeliveries<T> {
        let Self { topic, reader, undelivered, values } = self;
        TypedDeliveries { topic, deliveries: reader.into_stream(), undelivered, values }
    }
}

impl<T: DeserializeOwned> TypedReader<T> {
    /// Returns the next delivery; waits for one at the tail. `None` when the broker is stopping.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`]. A payload that is no `T` is not among them: it is the error of its
    /// event, and the next call returns what follows.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not returned is delivered by the next call.
    pub async fn next(&mut self) -> Result<Option<TypedDelivery<T>>> {
        loop {
            // With all events in memory the reader never waits, and decoding takes its time.
            coop::consume_budget().await;
            let Self { topic, reader, undelivered, .. } = self;
            let after = |event: &Event| Some(reader.cursor_past(event.sequence, event.position));
            if let Some(event) = undelivered.take(after) {
                return Ok(Some(TypedDelivery::Event(Typed::of(topic, event))));
            }
            let before = reader.cursor();
            let Some(delivery) = reader.next().await? else { return Ok(None) };
            match events_of(delivery) {
                Ok(run) => undelivered.put(&run, before),
                Err(other) => return Ok(Some(typed(topic, other))),
            }
        }
    }
}

/// The deliveries of a typed reader, as a stream: see [`TypedReader::into_stream`].
pub struct TypedDeliveries<T> {
    topic: TopicName,
    deliveries: Deliveries,
    undelivered: Undelivered,
    values: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for TypedDeliveries<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TypedDeliveries");
        shown.field("deliveries", &self.deliveries).finish_non_exhaustive()
    }
}

impl<T> TypedDeliveries<T> {
    /// Returns the cursor after the last delivery, as [`Deliveries::cursor`].
    pub fn cursor(&self) -> Cursor {
        self.undelivered.before.unwrap_or_else(|| self.deliveries.cursor())
    }

    /// Returns the gap that is delivered next, as [`Deliveries::gap`].
    pub fn gap(&self) -> Option<Gap> {
        self.deliveries.gap().filter(|_| self.undelivered.before.is_none())
    }

    /// Returns the reader, at its place after the last delivery.
    pub fn into_reader(self) -> TypedReader<T> {
        let Self { topic, deliveries, undelivered, values } = self;
        TypedReader { topic, reader: deliveries.into_reader(), undelivered, values }
    }
}

impl<T: DeserializeOwned> Stream for TypedDeliveries<T> {
    type Item = Result<TypedDelivery<T>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { topic, deliveries, undelivered, .. } = self.get_mut();
        loop {
            // As in `TypedReader::next`: without budget, it wakes the task and is pending.
            ready!(std::pin::pin!(coop::consume_budget()).poll(context));
            if let Some(event) = undelivered.take(|event| deliveries.cursor_past(event)) {
                return Poll::Ready(Some(Ok(TypedDelivery::Event(Typed::of(topic, event)))));
            }
            let before = deliveries.cursor();
            let delivery = match ready!(Pin::new(&mut *deliveries).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(delivery)) => delivery,
            };
            match events_of(delivery) {
                Ok(run) => undelivered.put(&run, before),
                Err(other) => return Poll::Ready(Some(Ok(typed(topic, other)))),
            }
        }
    }
}

impl<T: DeserializeOwned> FusedStream for TypedDeliveries<T> {
    fn is_terminated(&self) -> bool {
        self.undelivered.before.is_none() && self.deliveries.is_terminated()
    }
}
