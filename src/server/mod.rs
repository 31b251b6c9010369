//! The server: binds the sockets, serves every protocol on them, and stops in order.
//!
//! # Why
//!
//! Connections are accepted and served here, not by the servers of axum or tonic: one port has to
//! carry gRPC, HTTP/1.1 and h2c, and a stop has to end within a bound even if some streams are open
//! (tokio-rs/axum#2673, hyperium/hyper#2787).

mod activity;
mod answers;
mod config;
mod connection;
mod half_closed;
mod heads;
mod refusing;
mod requests;
mod shutdown;
mod socket;
mod stalls;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use futures_util::StreamExt;
use http_body_util::Limited;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::util::{MapRequestLayer, MapResponseLayer, option_layer};
use tracing::{info, warn};

pub use config::ServerConfig;
pub use shutdown::Shutdown;

use crate::broker::Broker;
use crate::edge::FollowConfig;
use crate::edge::counters::Counters;
use crate::edge::pace::{self, Pace};
use crate::edge::rates::Rates;
use crate::edge::rates::layer::LimitLayer;
use crate::edge::{AccessConfig, RatesConfig, access, grpc, http, receiving};
use crate::error::{Error, Result};
use crate::server::connection::{Connections, Door};

/// One part in this many of a stop's time is reserved for storage, if the connections use up
/// theirs.
const CLOSE_SHARE: u32 = 10;

/// The paths of the reflection service, and the bytes that one call may send to it. Questions are
/// short, but a stream of them may last as long as the client likes.
const REFLECTION: &str = "/grpc.reflection.";
const MAX_REFLECTION_BYTES: usize = 256 << 10;

/// Connections that the system queues until they are accepted: after a restart all clients connect
/// at once. The system may allow fewer (`net.core.somaxconn`, 4,096 on Linux).
const BACKLOG: u32 = 4_096;

/// The pause of the accepting loop when the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A server whose sockets are bound.
#[derive(Debug)]
pub struct Server {
    broker: Broker,
    config: ServerConfig,
    http: (TcpListener, Door),
    grpc: Option<(TcpListener, Door)>,
    health: HealthReporter,
    counters: Arc<Counters>,
}

impl Server {
    /// Binds the sockets. Connections wait until [`Self::run`].
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] with the address; [`Error::Invalid`] as [`AccessConfig::validate`].
    pub async fn bind(
        broker: Broker,
        config: ServerConfig,
        access: &AccessConfig,
        rates: &RatesConfig,
        follow: FollowConfig,
    ) -> Result<Self> {
        let drain_ms = follow.drain_ms.min(config.shutdown_ms / 2);
        let follow = FollowConfig { drain_ms, ..follow };
        let counters = Arc::<Counters>::default();
        let pace = Pace::new(&follow, counters.clone());
        let (health, grpc_routes) = grpc_routes(&broker, &follow, pace).await?;
        let http_routes = http::counted(broker.clone(), follow, counters.clone());
        let rates_of =
            |is_loopback| Rates::new(rates, is_loopback, broker.limits(), counters.clone());
        // The listeners on the loopback device share the callers' allowances, and so do all others.
        let (beyond, loopback) = (rates_of(false), rates_of(true));
        let count = |request: Request| {
            let is_counted = !request.uri().path().starts_with(REFLECTION);
            if is_counted { receiving::count(request) } else { request }
        };
        let served = |address: SocketAddr, routes: Router| {
            let rates = if address.ip().is_loopback() { &loopback } else { &beyond };
            let limit = option_layer(rates.as_ref().map(|_| LimitLayer));
            let count = MapRequestLayer::new(count);
            // All three are one layer: each further layer adds allocations to each request, and
            // more of them than the layer before.
            let routes = routes.layer((access.guard(address)?, limit, count));
            Ok((bind(address)?, Door { routes, rates: rates.clone() }))
        };
        let (http_routes, grpc) = match config.grpc_listen {
            Some(address) => {
                let grpc_routes = grpc_routes.fallback(http::not_found);
                (http_routes, Some(served(address, grpc_routes)?))
            }
            None => (http_routes.merge(grpc_routes), None),
        };
        let http = served(config.listen, http_routes.fallback(http::not_found))?;
        Ok(Self { broker, config, http, grpc, health, counters })
    }

    /// Returns the address of HTTP, and of gRPC unless it has an address of its own.
    ///
    /// # Errors
    ///
    /// If the system does not know the address.
    pub fn http_address(&self) -> std::io::Result<SocketAddr> {
        self.http.0.local_addr()
    }

    /// Returns the address of gRPC.
    ///
    /// # Errors
    ///
    /// If the system does not know the address.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.as_ref().map_or(&self.http, |grpc| grpc).0.local_addr()
    }

    /// Serves until `shutdown`, then stops: no new connections are accepted, accepted requests are
    /// answered, streams end, and the log is closed. Connections that are left at the end of the
    /// time are cut.
    pub async fn run(self, shutdown: Shutdown) {
        let Self { broker, config, http, grpc, mut health, counters } = self;
        let mut connections = Connections::new(&config, counters);
        let mut is_failed = false;
        loop {
            tokio::select! {
                () = shutdown.started() => break,
                () = broker.failed(), if !is_failed => {
                    is_failed = true;
                    set_health(&health, ServingStatus::NotServing).await;
                }
                () = connections.next() => {}
                accepted = accept(&http.0) => connections.serve(accepted, &http.1),
                (accepted, door) = accept_grpc(grpc.as_ref()) => {
                    connections.serve(accepted, door);
                }
            }
        }
        drop((http, grpc));
        info!(connections = connections.count(), "stopping");
        set_health(&health, ServingStatus::NotServing).await;
        for name in health_names() {
            health.clear_service_status(name).await; // Watchers are told, and their calls end.
        }
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

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        #[cfg(unix)] // On Windows it would let another process bind the same address.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| Error::Listen { address, problem: error.to_string() })
}

/// Returns the names in the health service: the server as a whole (""), and each service.
fn health_names() -> impl Iterator<Item = &'static str> {
    std::iter::once("").chain(grpc::NAMES)
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    for name in health_names() {
        health.set_service_status(name, status).await;
    }
}

async fn grpc_routes(
    broker: &Broker,
    follow: &FollowConfig,
    pace: Pace,
) -> Result<(HealthReporter, Router)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    set_health(&reporter, ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(grpc::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error| Error::ReadFailed(std::sync::Arc::new(error));
    let current = reflection().build_v1().map_err(failed)?;
    // Widely used clients, such as grpcui and older grpcurl, know only this version.
    let former = reflection().build_v1alpha().map_err(failed)?;
    let reflection = Routes::new(current).add_service(former);
    let routes = grpc::routes(broker.clone(), follow.clone()).add_service(health);
    let broker = broker.clone();
    let end = move |request| end_when_draining(request, broker.clone());
    let reflection = routes_of(reflection).layer(MapRequestLayer::new(end));
    let routes = routes_of(routes).merge(reflection);
    let paced = MapRequestLayer::new(move |request| pace::paced(request, &pace));
    let mended = MapResponseLayer::new(grpc::mend);
    Ok((reporter, routes.layer((paced, mended, access::only_grpc()))))
}

fn routes_of(routes: Routes) -> Router {
    routes.prepare().into_axum_router().reset_fallback()
}

/// Ends the body of a request when the broker stops. Otherwise a client of the reflection service
/// that keeps its stream open would delay the stop.
fn end_when_draining(request: Request, broker: Broker) -> Request {
    let draining = async move { broker.draining().await };
    request.map(|body| {
        let body = Body::new(Limited::new(body, MAX_REFLECTION_BYTES));
        Body::from_stream(body.into_data_stream().take_until(Box::pin(draining)))
    })
}

/// Returns the next connection. Pauses after an error.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_grpc(grpc: Option<&(TcpListener, Door)>) -> ((TcpStream, SocketAddr), &Door) {
    match grpc {
        Some((listener, door)) => (accept(listener).await, door),
        None => std::future::pending().await,
    }
}
