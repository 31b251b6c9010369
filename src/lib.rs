//! Leftoff: an event-log broker with replay, as a library and as a server.
//!
//! Services publish events to topics. Every event is appended to a durable log before it is
//! acknowledged, and has a sequence in its topic: 1, 2, 3, … without holes. Readers follow topics
//! over SSE, WebSocket, long-polling or gRPC, or read them page by page. After any disconnect they
//! go on exactly where they left off. If that is impossible, they are told a gap, with numbers.
//!
//! The path of an event is the path through the modules: [`edge`] (translate and refuse) →
//! [`broker`] (order, group, recognise repeats) → [`log`] (append, sync) → back to the broker's
//! tails and readers → [`edge`]. [`server`] serves the edges on sockets. [`event`], [`topic`],
//! [`cursor`] and [`error`] hold the types that all of them use. The page [`docs::architecture`]
//! follows an event and a cursor from file to file, and [`docs`] has all other pages.
//!
//! # Guarantees
//!
//! - An acknowledged event survives a crash of the process, of the system, and a loss of power.
//! - Sequences of a topic are given in order, without holes, and are never reused.
//! - A reader gets each event once, in order, from where it left off, or is told of a gap.
//! - A slow reader costs a bounded amount of memory and slows nobody else.
//!
//! All guarantees, with what each of them excludes, are on the page [`docs::guarantees`].
//!
//! # Embedding
//!
//! Open the broker, use it, and serve its interfaces beside your own. The page [`docs::embedding`]
//! is the guide.
//!
//! | feature | adds |
//! |---|---|
//! | none | the broker and its log |
//! | `http` | [`edge::http`]: the routes of HTTP |
//! | `grpc` | [`edge::grpc`]: the services of gRPC |
//! | `client` | [`client`]: a client of a running broker, which reconnects and resumes by itself |
//! | `client-tls` | the same over TLS, with cryptography that is written in C |
//! | `zstd` | bodies of HTTP in zstd, which is written in C |
//! | `server` | both, [`server`] and [`config`]: sockets, connections, the whole configuration |
//! | `tls` | TLS on the server's sockets; the host chooses the cryptography |
//! | `webhooks` | [`webhooks`]: events that the server sends to URLs; with `tls` |
//! | `fleet` | [`cluster`]: several nodes that order their events through one stream |
//! | `cli`, on by default | what the `leftoff` program needs |
//! | `testing` | parts for the tests of a program that embeds the broker |
//!
//! Only `zstd`, `client-tls` and `cli` need a C compiler. With [`edge::hooks`] the host says what
//! each caller may do with which topic.
//!
//! A program begins with the default settings, and changes the fields that it wants to. Settings,
//! errors, requests and reports are `#[non_exhaustive]`: a minor version can add more to them.
//!
//! | wanted | begins with |
//! |---|---|
//! | publish, all or none | [`Publish::new`], [`NewEvent::json`], [`Broker::publish`] |
//! | follow, in a loop or as a stream | [`Broker::subscribe`], [`Reader::into_stream`] |
//! | follow many topics, by patterns | [`Broker::feed`] |
//! | values in place of payloads | [`Broker::typed`] |
//! | history, and the latest event of each key | [`Broker::read`], [`Broker::state`] |
//! | who is there | [`Broker::join`], [`Broker::presence`] |
//! | a copy on another disk | [`Broker::backup_to`], [`log::restore`] |
//!
//! ```
//! use leftoff::{Broker, Delivery, NewEvent, OnGap, OpenConfig, Publish, StartPoint};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let broker = Broker::open(directory.path(), &OpenConfig::default())?;
//! let topic: leftoff::TopicName = "orders.new".parse()?;
//! let events = vec![NewEvent::new("one"), NewEvent::new("two")];
//! let publish = Publish::new(topic.clone(), events);
//! let ack = broker.publish(publish).await?;
//! assert_eq!(ack.last().sequence.get(), 2);
//!
//! let mut orders = broker.subscribe(&topic, StartPoint::Earliest, OnGap::Resume).await?;
//! let Some(Delivery::Events(run)) = orders.next().await? else { panic!("events are there") };
//! assert_eq!(run.to_events()[1].content.payload, "two");
//!
//! let server = leftoff::server::Server::builder(broker.clone());
//! # drop(server);
//! broker.close().await;
//! # Ok(())
//! # }
//! ```

// The server calls what both edges have. Without it, or with one edge, parts of the shared files
// have no caller; they are not cut up for that.
#![cfg_attr(
    not(feature = "server"),
    allow(dead_code, unused_imports, reason = "their callers are in the server or in an edge")
)]

#[cfg(feature = "server")]
pub mod access;
pub mod blocking;
pub mod broker;
mod cause;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "fleet")]
pub mod cluster;
#[cfg(feature = "server")]
pub mod config;
pub mod consumers;
pub mod cursor;
#[cfg(doc)]
pub mod docs;
#[cfg(any(feature = "http", feature = "grpc"))]
pub mod edge;
pub mod error;
pub mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gap;
mod json_levels;
mod lists;
pub mod log;
mod open_error;
mod own_topics;
pub mod permission;
mod place;
mod polls;
#[cfg(feature = "server")]
mod secret;
mod section;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod text_form;
mod time;
mod timestamp;
mod told_error;
pub mod topic;
pub mod topic_config;
mod topic_name;
#[cfg(feature = "tls")]
mod trust;
#[cfg(feature = "webhooks")]
pub mod webhooks;

pub use blocking::Blocking;
pub use broker::typed::{
    Typed, TypedDeliveries, TypedDelivery, TypedPage, TypedReader, TypedState, TypedTopic,
};
pub use broker::{
    Ack, Backup, BackupDone, BackupStream, Broker, BrokerConfig, DedupConfig, Deliveries, Delivery,
    Dropped, Duplicate, Ephemeral, EventOrder, EventRef, Extent, Filter, Headers, InOrder,
    LimitsConfig, LogConfig, MaintenanceConfig, MaintenanceReport, Member, MemberInfo, MemberList,
    NewestPage, NewestRequest, OpenConfig, Page, PageReader, PageRequest, PageStream, Patience,
    Pending, PendingAll, Presence, Present, Publish, Reader, Receipt, Run, StatePage, StateRequest,
    TopicDefaults, TopicEvent, TopicInfo, TopicList, Waited,
};
/// The crate of the bytes of payloads.
pub use bytes;
#[cfg(feature = "server")]
pub use config::Config;
pub use consumers::{Consumers, ConsumersConfig};
pub use cursor::{
    Cursor, Epoch, Gap, GapReason, OnGap, Place, Position, Requested, Sequence, StartPoint,
    TrimReason,
};
#[cfg(any(feature = "http", feature = "grpc"))]
pub use edge::{Edge, Parts};
pub use error::{Error, Result};
pub use event::{Durability, Event, NewEvent, Timestamp};
/// The crate of the types of TLS, without a provider of cryptography.
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
/// The crate of the services of gRPC.
#[cfg(feature = "grpc")]
pub use tonic;
pub use topic::{TopicName, TopicPattern};
pub use topic_config::TopicConfig;
/// The crates whose types are in the signatures of this one, in its versions of them.
#[cfg(any(feature = "http", feature = "grpc"))]
pub use {axum, http};
