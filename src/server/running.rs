//! A server with its sockets bound: serves connections until it is told to stop, and then stops in
//! order.

use std::future::IntoFuture;
use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Interval};
use tokio_util::task::AbortOnDropHandle;
use tonic_health::ServingStatus;
use tracing::{info, warn};

#[cfg(feature = "tls")]
use super::certificates::{CertificateReload, Certificates};
use super::config::ServerConfig;
use super::connection::{Connections, Door};
use super::listener::{Listener, Protocols, accept};
use super::services::Health;
use crate::broker::Broker;
use crate::edge::fleet::NodeOfFleet;
#[cfg(feature = "fleet")]
use crate::edge::http::connections::tell_other_nodes;
use crate::edge::{Edge, overview};
#[cfg(feature = "webhooks")]
use crate::webhooks::Webhooks;

/// One part in this many of a stop's time is reserved for storage, if the connections use up
/// theirs.
const CLOSE_SHARE: u32 = 10;

/// One part in this many of a stop's time is for requests of webhooks that are under way.
#[cfg(feature = "webhooks")]
const HOOKS_SHARE: u32 = 4;

/// One part in this many of a stop's time is for handing over the lead of a fleet.
const HAND_OVER_SHARE: u32 = 4;

/// How often the server looks whether the node of a fleet is ready.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A server whose sockets are bound.
///
/// A server owns its connections: it bounds them, their memory and their time, ends those that
/// stall, and stops within a time. The same guarantees hold for the routes and services of a host
/// that are served here.
#[derive(Debug)]
pub struct Server {
    pub(super) broker: Broker,
    pub(super) config: ServerConfig,
    pub(super) doors: Vec<(Listener, Door)>,
    pub(super) health: Health,
    pub(super) edge: Edge,
    /// The certificate of the configuration, if it has one.
    #[cfg(feature = "tls")]
    pub(super) certificates: Option<Arc<Certificates>>,
    /// The webhooks, which are sent as long as the server is there.
    #[cfg(feature = "webhooks")]
    pub(super) hooks: Option<Webhooks>,
}

impl Server {
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

    /// Returns what reads the files of the certificate again; `None` without `server.tls_cert`.
    #[cfg(feature = "tls")]
    pub fn certificate_reload(&self) -> Option<CertificateReload> {
        self.certificates.clone().map(CertificateReload::new)
    }

    /// Serves until `shutdown`, then stops: no new connections are accepted, a node that leads its
    /// fleet hands over the lead, accepted requests are answered, streams end, and the broker is
    /// closed. Connections that are left at the end of `server.shutdown_ms` are cut. The broker's
    /// directory is free when this returns, unless a log line says that storage does not answer, or
    /// it is of a node of a fleet, which is closed after the server.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, all connections are cut, and the broker stays open.
    pub async fn run(self, shutdown: impl IntoFuture<Output = ()>) {
        // Ends with this future.
        #[cfg(feature = "tls")]
        let _reloading =
            self.certificates.map(|it| AbortOnDropHandle::new(tokio::spawn(it.follow())));
        #[cfg(feature = "webhooks")]
        let hooks = self.hooks;
        let Self { broker, config, doors, health, edge, .. } = self;
        let fleet = edge.fleet().cloned();
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut was_ready = true;
        let mut connections = Connections::new(&config, edge.counters().clone());
        #[cfg(feature = "fleet")]
        let _told = tell_other_nodes(&edge, connections.clients().clone());
        // Ends with this future, too.
        let watching = overview::watch(edge, connections.clients().clone());
        let watching = AbortOnDropHandle::new(tokio::spawn(watching));
        let mut is_failed = false;
        let mut shutdown = std::pin::pin!(shutdown.into_future());
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                () = broker.failed(), if !is_failed => {
                    is_failed = true;
                    health.set(ServingStatus::NotServing).await;
                }
                is_ready = looked(fleet.as_deref(), &mut look), if !is_failed => {
                    if is_ready != was_ready {
                        was_ready = is_ready;
                        health.set(serving(is_ready)).await;
                    }
                }
                () = connections.next() => {}
                (accepted, door) = accept(&doors) => connections.serve(accepted, door),
            }
        }
        drop((doors, watching));
        info!(connections = connections.count(), "stopping");
        health.end().await;
        let bound = Duration::from_millis(config.shutdown_ms);
        let deadline = Instant::now() + bound;
        if let Some(node) = &fleet {
            let handed = tokio::time::timeout(bound / HAND_OVER_SHARE, node.hand_over()).await;
            if handed.is_err() {
                warn!("the engine does not answer; the others wait for the end of the lease");
            }
        }
        #[cfg(feature = "webhooks")]
        if let Some(hooks) = &hooks {
            // What the receivers answer is stored as long as the broker takes it.
            let _sent_again = tokio::time::timeout(bound / HOOKS_SHARE, hooks.finish()).await;
        }
        broker.drain();
        connections.end(deadline - bound / CLOSE_SHARE).await;
        if tokio::time::timeout_at(deadline, broker.close()).await.is_err() {
            warn!("storage does not answer; acknowledged events are durable");
        }
        info!("stopped");
    }
}

fn serving(is_ready: bool) -> ServingStatus {
    if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Waits for the next look at a node of a fleet. Returns whether the node is ready. Without one,
/// waits for ever.
async fn looked(fleet: Option<&dyn NodeOfFleet>, look: &mut Interval) -> bool {
    let Some(node) = fleet else { return std::future::pending().await };
    look.tick().await;
    node.check_ready().is_ok()
}
