//! A client of a running broker, over gRPC: it reconnects, resumes and repeats by itself.
//!
//! - [`Client`] is one connection, made at the first use and again after it broke.
//! - [`Client::publish`] stores one event. [`Client::publisher`] keeps the order of many, with a
//!   bounded window: use it as a `Sink`, or wait for each acknowledgement.
//! - [`Client::subscribe`] follows topics as a `Stream`. After a disconnect it goes on after the
//!   last event that came, or tells a gap.
//! - [`Client::states`] tells whether the connection stands.
//!
//! ```text
//!  publish, publisher, subscribe      each with its own pauses between tries (`backoff.rs`)
//!            │ link, after
//!        Connection                   one dial at a time, one channel for all (`connection.rs`)
//!            │ credential, TLS
//!         the broker
//! ```
//!
//! The module knows the wire and the vocabulary. It opens no log, and serves nothing.
//!
//! # Why
//!
//! A retry doubles nothing, because each event has an id: the publisher's own, or a random one. The
//! broker stores an id once, as long as the id is in the topic's window of ids (by default the last
//! 100,000 events and 10 minutes). A publish that is tried for longer may be stored twice.
//!
//! Pauses are random between nothing and a ceiling that doubles ("full jitter"): many clients that
//! lose one broker come back spread over time. Source: Exponential Backoff And Jitter, AWS
//! Architecture Blog, 2015.

mod backoff;
mod config;
mod connection;
mod credential;
mod error;
mod messages;
mod publisher;
mod reader;
mod sending;
mod state;

use std::sync::Arc;

use crate::broker::Ack;
use crate::cursor::StartPoint;
use crate::event::NewEvent;
use crate::topic::TopicName;

use self::connection::Connection;

pub use self::backoff::BackoffConfig;
pub use self::config::ClientConfig;
pub use self::connection::ClientChannel;
#[cfg(feature = "fleet")]
pub(crate) use self::connection::endpoint;
pub use self::credential::{Credential, CredentialSource};
pub use self::error::ClientError;
pub use self::messages::{ClientDelivery, FollowedTopics};
pub use self::publisher::{ClientPublisher, PendingAck};
pub use self::reader::ClientReader;
pub use self::sending::{BatchAck, PublishBatch};
pub use self::state::{ClientState, ClientStates};

/// A client of one broker. Clones share the connection.
///
/// ```no_run
/// use futures_util::StreamExt as _;
/// use leftoff::client::{Client, ClientConfig, ClientDelivery};
/// use leftoff::{NewEvent, StartPoint, TopicName};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect(ClientConfig::new("http://127.0.0.1:4280"))?;
/// let orders: TopicName = "orders".parse()?;
/// let ack = client.publish(&orders, NewEvent::new("paid").with_key("42")).await?;
/// println!("stored with sequence {}", ack.last().sequence);
///
/// let mut reader = client.subscribe(&orders, StartPoint::Earliest);
/// while let Some(delivery) = reader.next().await {
///     match delivery? {
///         ClientDelivery::Event(event) => println!("{:?}", event.event.content.payload),
///         ClientDelivery::Gap(gap) => println!("lost: {gap}"),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

impl Client {
    /// Returns a client. The connection is made at the first use.
    ///
    /// # Errors
    ///
    /// [`ClientError::Setting`]: the address, the certificates or another setting is wrong.
    pub fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { connection: Arc::new(Connection::new(config)?) })
    }

    /// Connects, if there is no connection. Tries again for as long as
    /// [`ClientConfig::retry_for`] says.
    ///
    /// # Errors
    ///
    /// The error of the last try; see [`ClientError::is_transient`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind but the connection, if it was made.
    pub async fn ready(&self) -> Result<(), ClientError> {
        let mut backoff = self.connection.backoff();
        loop {
            match self.connection.link().await {
                Ok(_link) => return Ok(()),
                Err(error) => self.connection.after(None, error, &mut backoff).await?,
            }
        }
    }

    /// Returns the connection for the clients in [`edge::proto`](crate::edge::proto), whose calls
    /// carry the credential then. Connects once, if there is no connection.
    ///
    /// # Errors
    ///
    /// The error of the one try; see [`ClientError::is_transient`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind but the connection, if it was made.
    pub async fn channel(&self) -> Result<ClientChannel, ClientError> {
        self.connection.link().await.map(|link| link.channel)
    }

    /// Stores one event, and returns its acknowledgement when it is durable. Tries again for as
    /// long as [`ClientConfig::retry_for`] says. An event without an id gets a random one, so that
    /// no try doubles another.
    ///
    /// The acknowledgement may call the event a duplicate: it was stored before, by an earlier
    /// publish with its id, or by a try whose answer was lost.
    ///
    /// # Errors
    ///
    /// The error of the last try. The event may be stored all the same if
    /// [`ClientError::outcome_unknown`] says so; otherwise it is not.
    ///
    /// # Cancel safety
    ///
    /// The event may be stored or not. Publish it again with an id of your own to find out.
    pub async fn publish(&self, topic: &TopicName, event: NewEvent) -> Result<Ack, ClientError> {
        let batch = PublishBatch::new(topic.clone(), vec![event]);
        sending::publish(&self.connection, batch).await
    }

    /// Returns a publisher of many events, which keeps their order.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn publisher(&self) -> ClientPublisher {
        ClientPublisher::start(self.connection.clone())
    }

    /// Follows topics from `start` on: the stored events first, then new ones, without end. Nothing
    /// is asked of the broker before the reader is polled.
    ///
    /// A place of one topic is a sequence. A place of patterns is a position, and
    /// [`StartPoint::Last`] is for one topic only.
    ///
    /// ```no_run
    /// # use leftoff::client::{Client, ClientConfig};
    /// use leftoff::{Filter, StartPoint, TopicPattern};
    ///
    /// # fn follow(client: &Client) -> Result<(), leftoff::Error> {
    /// let patterns: Vec<TopicPattern> = vec!["orders.>".parse()?, "users".parse()?];
    /// let paid = Filter::default().of_type("paid");
    /// let reader = client.subscribe(patterns, StartPoint::Latest).with_filter(paid);
    /// # drop(reader);
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(&self, topics: impl Into<FollowedTopics>, start: StartPoint) -> ClientReader {
        ClientReader::new(self.connection.clone(), topics.into(), start)
    }

    /// Returns the state of the connection, as of its last use.
    pub fn state(&self) -> ClientState {
        self.connection.state()
    }

    /// Returns the states of the connection, from the present one on.
    pub fn states(&self) -> ClientStates {
        self.connection.states()
    }
}
