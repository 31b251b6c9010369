//! The server: binds the sockets, serves every protocol on them, and stops in order. A host program
//! has its own routes, layers and services served beside the broker's (`builder.rs`).
//!
//! # Why
//!
//! Connections are accepted and served here, not by the servers of axum or tonic: one port has to
//! carry gRPC, HTTP/1.1 and h2c, and a stop has to end within a bound even if some streams are open
//! (tokio-rs/axum#2673, hyperium/hyper#2787).

mod activity;
mod answers;
mod builder;
mod checks;
mod config;
mod connection;
mod guarded;
mod half_closed;
mod heads;
mod listener;
mod refusing;
mod requests;
mod services;
mod shutdown;
mod socket;
mod stalls;
mod stream;
mod transport;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic_health::ServingStatus;
use tracing::{info, warn};

pub use builder::ServerBuilder;
pub use config::ServerConfig;
pub use guarded::{GuardedClient, GuardedListener, GuardedSocket, HostGuard};
pub use listener::{Listener, Protocols};
pub use shutdown::Shutdown;

use crate::broker::Broker;
use crate::edge::counters::Counters;
use connection::{Connections, Door};
use listener::accept;
use services::Health;

/// One part in this many of a stop's time is reserved for storage, if the connections use up
/// theirs.
const CLOSE_SHARE: u32 = 10;

/// A server whose sockets are bound.
///
/// A server owns its connections: it bounds them, their memory and their time, ends those that
/// stall, and stops within a time. The same guarantees hold for the routes and services of a host
/// that are served here.
#[derive(Debug)]
pub struct Server {
    broker: Broker,
    config: ServerConfig,
    doors: Vec<(Listener, Door)>,
    health: Health,
    counters: Arc<Counters>,
}

impl Server {
    /// Begins a server of `broker`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use axum::routing::get;
    /// use leftoff::server::{Listener, Server, Shutdown};
    ///
    /// let broker = leftoff::Broker::in_memory(&Default::default())?;
    /// let own = axum::Router::new().route("/hello", get(async || "hello"));
    /// let server = Server::builder(broker)
    ///     .routes(own)
    ///     .listen(Listener::bind(([127, 0, 0, 1], 0).into())?)
    ///     .bind()
    ///     .await?;
    /// let shutdown = Shutdown::default();
    /// let serving = tokio::spawn(server.run(shutdown.clone()));
    /// shutdown.start();
    /// serving.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(broker: Broker) -> ServerBuilder {
        ServerBuilder::new(broker)
    }

    /// Returns the listeners, for their addresses, in the order in which they were given.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.doors.iter().map(|(listener, _)| listener)
    }

    /// Returns the address of TCP at which a protocol is served first; `None` if it is not.
    pub fn address(&self, protocol: Protocols) -> Option<SocketAddr> {
        let serves = |listener: &&Listener| {
            let (served, _) = listener.served();
            served == Protocols::All || served == protocol
        };
        self.listeners().filter(serves).find_map(Listener::address)
    }

    /// Serves until `shutdown`, then stops: no new connections are accepted, accepted requests are
    /// answered, streams end, and the broker is closed. Connections that are left at the end of
    /// `server.shutdown_ms` are cut. The broker's directory is free when this returns, unless a log
    /// line says that storage does not answer.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, all connections are cut, and the broker stays open.
    pub async fn run(self, shutdown: impl IntoFuture<Output = ()>) {
        let Self { broker, config, doors, health, counters } = self;
        let mut connections = Connections::new(&config, counters);
        let mut is_failed = false;
        let mut shutdown = std::pin::pin!(shutdown.into_future());
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = broker.failed(), if !is_failed => {
                    is_failed = true;
                    health.set(ServingStatus::NotServing).await;
                }
                () = connections.next() => {}
                (accepted, door) = accept(&doors) => connections.serve(accepted, door),
            }
        }
        drop(doors);
        info!(connections = connections.count(), "stopping");
        health.end().await;
        broker.drain();
        let bound = Duration::from_millis(config.shutdown_ms);
        let deadline = Instant::now() + bound;
        connections.end(deadline - bound / CLOSE_SHARE).await;
        if tokio::time::timeout_at(deadline, broker.close()).await.is_err() {
            warn!("storage does not answer; acknowledged events are durable");
        }
        info!("stopped");
    }
}
