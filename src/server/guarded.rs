//! Guards for a host that keeps a server of its own: `axum::serve`, or that of tonic.
//!
//! ```text
//! HostGuard ─┬▶ listener: sockets that give up a client that takes nothing, and end in a stop
//!            └▶ layer: host and origin, rates, memory, the list of connections
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::serve::IncomingStream;
use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tower::util::MapRequestLayer;
use tracing::debug;

use super::checks::{RouteLayer, checks};
use super::config::ServerConfig;
use super::listener::{Listener, NewConnection, accept};
use super::socket::Socket;
use crate::access::AccessConfig;
use crate::broker::Broker;
use crate::edge::clients::{Clients, Peer};
use crate::edge::intake::Intake;
use crate::edge::rates::Rates;
use crate::edge::upgrades::Upgrades;
use crate::edge::{Edge, PeerAddress, RatesConfig};
use crate::error::Result;

/// The guards of a host's own server. Cheap to clone; all clones count the same clients.
///
/// | guarantee | [`Server`](super::Server) | guarded |
/// |---|---|---|
/// | a client that takes nothing is cut after `write_timeout_ms` | yes | yes |
/// | a stop ends within `shutdown_ms` | yes | yes, with [`Broker::drain`] |
/// | connections are bounded, in all and for each address | yes | yes; others are closed |
/// | rates; memory of bodies and readers; the list of connections | yes | yes |
/// | `access.allowed_hosts`, `access.allowed_origins` | yes | yes |
/// | a request's head, and an idle connection, have a time | yes | as the host's server has it |
/// | memory of heads, answers and frames of HTTP/2 is counted | yes | no |
/// | one stalled stream of HTTP/2 is ended alone | yes | no, only a stalled connection |
/// | an idle event stream over HTTP/1.1 takes 4.7 KiB | yes | no, hyper's buffers are 16 KiB more |
/// | a client that has closed its half is sent the rest | yes | no |
///
/// ```no_run
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use leftoff::edge::{Edge, http};
/// use leftoff::server::{GuardedClient, HostGuard, Listener};
///
/// let broker = leftoff::Broker::in_memory(&Default::default())?;
/// let edge = Edge::new(broker.clone());
/// let guard = HostGuard::new(&edge, &Default::default(), &Default::default())?;
/// let listener = Listener::bind(([127, 0, 0, 1], 8080).into())?;
/// let app = http::router(&edge).layer(guard.layer(&Default::default(), &listener)?);
/// let app = app.into_make_service_with_connect_info::<GuardedClient>();
/// let stop = async move {
///     tokio::signal::ctrl_c().await.ok();
///     broker.drain(); // Streams end, and clients that take nothing are cut in time.
/// };
/// axum::serve(guard.listener(listener), app).with_graceful_shutdown(stop).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HostGuard {
    clients: Arc<Clients>,
    /// The rates of callers from beyond this machine, and of those on it.
    rates: [Option<Arc<Rates>>; 2],
    write_timeout: Duration,
    upgrades: Upgrades,
    /// Cancelled when the time for stopping is over.
    cut: CancellationToken,
    /// Ends the task that watches for the stop.
    watch: Arc<DropGuard>,
}

impl HostGuard {
    /// Returns the guards of a server in which `edge` is mounted. From `config` count the limits on
    /// connections and memory, `write_timeout_ms` and `shutdown_ms`. Starts a task that waits for
    /// the broker's stop; it ends with the last clone and the last socket.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) with the setting, the value and the bounds.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(edge: &Edge, config: &ServerConfig, rates: &RatesConfig) -> Result<Self> {
        let broker = edge.broker();
        config.validate(broker.limits())?;
        rates.validate()?;
        let rates_of =
            |is_local| Rates::new(rates, is_local, broker.limits(), edge.counters().clone());
        let cut = CancellationToken::new();
        let ended = CancellationToken::new();
        let watch = ended.clone();
        let cutting =
            cut_after_stop(broker.clone(), Duration::from_millis(config.shutdown_ms), cut.clone());
        tokio::spawn(async move { watch.run_until_cancelled(cutting).await });
        Ok(Self {
            clients: Clients::new(config.client_limits()),
            rates: [rates_of(false), rates_of(true)],
            write_timeout: Duration::from_millis(config.write_timeout_ms),
            upgrades: Upgrades { cut: cut.clone(), ..Upgrades::default() },
            cut,
            watch: Arc::new(ended.drop_guard()),
        })
    }

    /// Returns a listener for `axum::serve`.
    ///
    /// # Panics
    ///
    /// If the listener has TLS (`Listener::tls`), which only [`Server`](super::Server) speaks.
    pub fn listener(&self, listener: Listener) -> GuardedListener {
        assert!(!listener.security().has_tls(), "a guarded listener would not speak its TLS");
        let rates = self.rates[usize::from(listener.is_local())].clone();
        GuardedListener { guard: self.clone(), listeners: [(listener, rates)] }
    }

    /// Returns the clients of a listener, for tonic's `serve_with_incoming`.
    ///
    /// # Panics
    ///
    /// As [`Self::listener`].
    pub fn incoming(
        &self,
        listener: Listener,
    ) -> impl Stream<Item = io::Result<GuardedSocket>> + use<> {
        stream::unfold(self.listener(listener), |mut listener| async move {
            let (socket, _) = axum::serve::Listener::accept(&mut listener).await;
            Some((Ok(socket), listener))
        })
    }

    /// Returns the layer to be put around the routes that are served on `listener`.
    ///
    /// # Errors
    ///
    /// As [`AccessConfig::validate`].
    pub fn layer(
        &self,
        access: &AccessConfig,
        listener: &Listener,
    ) -> Result<impl RouteLayer + use<>> {
        let is_local = listener.is_local();
        let is_rated = self.rates[usize::from(is_local)].is_some();
        Ok((MapRequestLayer::new(take_peer), checks(access, is_local, is_rated)?))
    }

    fn socket(
        &self,
        accepted: NewConnection,
        rates: Option<&Arc<Rates>>,
    ) -> Option<(GuardedSocket, PeerAddress)> {
        let NewConnection { socket, address } = accepted;
        let refused = |error| debug!(?error, %address, "a connection is refused");
        let admitted = self.clients.admit(address, rates).map_err(refused).ok()?;
        // The bytes that wait in hyper are not seen here, and not counted.
        let intake = Arc::new(Intake::new(admitted.share(), 0));
        let client = GuardedClient(Peer::new(&admitted, intake.clone(), self.upgrades.clone()));
        let transport = super::transport::plain(socket, self.write_timeout);
        let socket = Socket::new(transport, self.write_timeout, Some((admitted, intake)));
        let cut = Box::pin(self.cut.clone().cancelled_owned());
        let _watch = self.watch.clone();
        Some((GuardedSocket { socket, client, cut, _watch }, address))
    }
}

/// Cancels `cut` once the time for a stop is over, which begins with the broker's.
async fn cut_after_stop(broker: Broker, limit: Duration, cut: CancellationToken) {
    broker.draining().await;
    tokio::time::sleep(limit).await;
    cut.cancel();
}

/// Moves the client from where the host's server puts it to where the routes look for it.
fn take_peer(mut request: Request) -> Request {
    let extensions = request.extensions_mut();
    let client =
        extensions.remove::<ConnectInfo<GuardedClient>>().map(|ConnectInfo(client)| client);
    if let Some(GuardedClient(peer)) = client.or_else(|| extensions.remove::<GuardedClient>()) {
        extensions.insert(peer);
    }
    request
}

/// A client of a guarded listener, for `into_make_service_with_connect_info`.
#[derive(Debug, Clone)]
pub struct GuardedClient(Peer);

impl GuardedClient {
    /// Returns the address of the client.
    pub fn address(&self) -> PeerAddress {
        self.0.address()
    }
}

/// A listener whose sockets are guarded, for `axum::serve`.
#[derive(Debug)]
pub struct GuardedListener {
    guard: HostGuard,
    listeners: [(Listener, Option<Arc<Rates>>); 1],
}

impl axum::serve::Listener for GuardedListener {
    type Io = GuardedSocket;
    type Addr = PeerAddress;

    async fn accept(&mut self) -> (GuardedSocket, PeerAddress) {
        loop {
            let (accepted, rates) = accept(&self.listeners).await;
            if let Some(socket) = self.guard.socket(accepted, rates.as_ref()) {
                return socket;
            }
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddress> {
        let [(listener, _)] = &self.listeners;
        Ok(listener.address().map_or(PeerAddress::Unix, PeerAddress::from))
    }
}

impl Connected<IncomingStream<'_, GuardedListener>> for GuardedClient {
    fn connect_info(stream: IncomingStream<'_, GuardedListener>) -> Self {
        stream.io().client.clone()
    }
}

impl tonic::transport::server::Connected for GuardedSocket {
    type ConnectInfo = GuardedClient;

    fn connect_info(&self) -> GuardedClient {
        self.client.clone()
    }
}

/// A socket that gives up a client that takes nothing, and ends when the time for a stop is over.
#[derive(Debug)]
pub struct GuardedSocket {
    socket: Socket,
    client: GuardedClient,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Keeps the watch for the stop: a host's server drops its listener when the stop begins.
    _watch: Arc<DropGuard>,
}

impl GuardedSocket {
    /// Returns an error once the time for the stop is over.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "the broker stops")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for GuardedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for GuardedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
