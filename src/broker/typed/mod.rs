//! Topics whose payloads are JSON of one type.
//!
//! The broker does not look into payloads: the type is the caller's, and other publishers may
//! publish anything to the same topic. So a payload that does not fit is an error of its event
//! alone, and the reader goes on.

mod reader;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::broker::{Ack, Broker, Page, PageRequest, Publish, StatePage, StateRequest};
use crate::cursor::{Cursor, Gap, OnGap, Sequence, StartPoint};
use crate::error::Result;
use crate::event::NewEvent;
use crate::topic::TopicName;

pub use reader::{TypedDeliveries, TypedDelivery, TypedReader};
pub use value::Typed;

/// A topic whose payloads are JSON of the type `T`. Cheap to clone.
///
/// ```
/// use leftoff::{Broker, OnGap, OpenConfig, StartPoint, TypedDelivery};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Order {
///     id: u64,
///     item: String,
/// }
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::in_memory(&OpenConfig::default())?;
/// let orders = broker.typed::<Order>("orders".parse()?);
/// let order = Order { id: 41, item: "tea".into() };
/// orders.publish(&order).await?;
///
/// let mut reader = orders.subscribe(StartPoint::Earliest, OnGap::Resume).await?;
/// while let Some(delivery) = reader.next().await? {
///     match delivery {
///         TypedDelivery::Event(event) => match event.value {
///             Ok(value) => assert_eq!(value, order),
///             Err(error) => eprintln!("{error}"), // It names the topic and the sequence.
///         },
///         TypedDelivery::Gap(gap) => eprintln!("{gap}"),
///         TypedDelivery::CaughtUp => break,
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct TypedTopic<T> {
    broker: Broker,
    name: TopicName,
    values: PhantomData<fn(T) -> T>,
}

impl<T> Clone for TypedTopic<T> {
    fn clone(&self) -> Self {
        self.broker.typed(self.name.clone())
    }
}

impl<T> fmt::Debug for TypedTopic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedTopic").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A page of a typed topic.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TypedPage<T> {
    /// The events.
    pub events: Vec<Typed<T>>,
    /// The gaps before the first event, as [`Page::gaps`].
    pub gaps: Vec<Gap>,
    /// The cursor with which the next page begins.
    pub cursor: Cursor,
    /// Whether no event was left to read after the page.
    pub caught_up: bool,
}

/// A page of a typed topic's state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TypedState<T> {
    /// The latest event of each key, in the order of their sequences, without tombstones.
    pub events: Vec<Typed<T>>,
    /// The sequence at which the state is true. A reader that follows the state begins after it.
    pub at: Sequence,
    /// The start of the next page; `None` after the last one.
    pub next: Option<Sequence>,
}

impl Broker {
    /// Returns the topic `name`, for payloads that are JSON of the type `T`. The topic need not
    /// exist.
    pub fn typed<T>(&self, name: TopicName) -> TypedTopic<T> {
        TypedTopic { broker: self.clone(), name, values: PhantomData }
    }
}

impl<T> TypedTopic<T> {
    /// Returns the topic's name.
    pub fn name(&self) -> &TopicName {
        &self.name
    }
}

impl<T: Serialize> TypedTopic<T> {
    /// Stores a value as one event, and returns when the event is durable.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid): the value cannot be JSON; nothing was written. As
    /// [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::publish`].
    pub async fn publish(&self, value: &T) -> Result<Ack> {
        self.publish_with(value, |event| event).await
    }

    /// As [`Self::publish`]; `complete` gives the event its id, key, type or headers.
    ///
    /// ```no_run
    /// # async fn f(orders: leftoff::TypedTopic<u64>) -> leftoff::Result<()> {
    /// orders.publish_with(&41, |event| event.with_id("41-1").with_key("order.41")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::publish`].
    pub async fn publish_with(
        &self,
        value: &T,
        complete: impl FnOnce(NewEvent) -> NewEvent,
    ) -> Result<Ack> {
        let event = complete(NewEvent::json(value)?);
        self.broker.publish(Publish::one(self.name.clone(), event)).await
    }

    /// Stores values as one event each, all or none, and returns when they are durable.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`]; [`Error::Invalid`](crate::Error::Invalid) if there is no value.
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::publish`].
    pub async fn publish_all(&self, values: &[T]) -> Result<Ack> {
        let events = values.iter().map(NewEvent::json).collect::<Result<Vec<_>>>()?;
        self.broker.publish(Publish::new(self.name.clone(), events)).await
    }
}

impl<T: DeserializeOwned> TypedTopic<T> {
    /// Follows the topic from `start`.
    ///
    /// # Errors
    ///
    /// As [`Broker::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::subscribe`].
    pub async fn subscribe(&self, start: StartPoint, on_gap: OnGap) -> Result<TypedReader<T>> {
        let reader = self.broker.subscribe(&self.name, start, on_gap).await?;
        Ok(TypedReader::new(self.name.clone(), reader))
    }

    /// Reads a page of the topic.
    ///
    /// # Errors
    ///
    /// As [`Broker::read`]. A payload that is no `T` is the error of its event alone.
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::read`].
    pub async fn read(&self, request: PageRequest) -> Result<TypedPage<T>> {
        let page = self.broker.read(&self.name, request).await?;
        let Page { runs, gaps, cursor, caught_up, .. } = page;
        let mut events = Vec::new();
        for event in runs.iter().flat_map(|run| run.to_events()) {
            tokio::task::coop::consume_budget().await; // Decoding a page takes its time.
            events.push(Typed::of(&self.name, event));
        }
        Ok(TypedPage { events, gaps, cursor, caught_up })
    }

    /// Reads a page of the latest events of the topic's keys.
    ///
    /// # Errors
    ///
    /// As [`Broker::state`]. A payload that is no `T` is the error of its event alone.
    ///
    /// # Cancel safety
    ///
    /// As [`Broker::state`].
    pub async fn state(&self, request: StateRequest) -> Result<TypedState<T>> {
        let StatePage { events: found, at, next } = self.broker.state(&self.name, request).await?;
        let mut events = Vec::new();
        for event in found {
            tokio::task::coop::consume_budget().await;
            events.push(Typed::of(&self.name, event));
        }
        Ok(TypedState { events, at, next })
    }
}
