//! A socket that clients connect to: of TCP or of Unix, bound here or inherited, plain or with TLS.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::RngExt;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio_util::either::Either;
use tracing::{debug, warn};

#[cfg(feature = "tls")]
use super::certificates::Certificates;
use super::security::Security;
use super::transport::SystemSocket;
use crate::edge::{Parts, PeerAddress};
use crate::error::{Error, Result};

/// Connections that the system queues until they are accepted: after a restart all clients connect
/// at once. The system may allow fewer (`net.core.somaxconn`, 4,096 on Linux).
const BACKLOG: u32 = 4_096;

/// The pause of the accepting loop when the system has no more sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The protocols that a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Protocols {
    /// HTTP and gRPC.
    #[default]
    All,
    /// HTTP alone: SSE, WebSocket, pages, and the host's own routes.
    Http,
    /// gRPC alone.
    Grpc,
}

/// A listening socket, for [`ServerBuilder::listen`](super::ServerBuilder::listen). Clients that
/// connect wait until the server runs.
#[derive(Debug)]
pub struct Listener {
    socket: Bound,
    protocols: Protocols,
    parts: Parts,
    security: Security,
}

/// The socket of a listener.
#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a Unix socket that was bound here. Dropping it removes the file.
#[derive(Debug)]
struct SocketFile(Option<PathBuf>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            debug!(%error, path = %path.display(), "cannot remove a socket's file");
        }
    }
}

/// A client that has connected.
pub(crate) struct NewConnection {
    pub(crate) socket: SystemSocket,
    pub(crate) address: PeerAddress,
}

impl Listener {
    /// Binds a socket of TCP; port 0 picks a free one.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] with the address.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let listen = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listener = listen().map_err(|error| Error::listen(address, error))?;
        Ok(Self::of(Bound::Tcp(listener)))
    }

    /// Binds a Unix socket. Its file is removed when the listener is dropped, which a server does
    /// when it stops. A file that was left by a process that is gone is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`] with the path: another process listens there, or the path is another kind
    /// of file, which is left as it is.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing was changed.
    pub async fn bind_unix(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |error| Error::listen(path.display(), error);
        if let Ok(found) = std::fs::symlink_metadata(path)
            && found.file_type().is_socket()
        {
            match UnixStream::connect(path).await {
                Ok(_answered) => return Err(failed(io::ErrorKind::AddrInUse.into())),
                Err(_nobody_listens) => std::fs::remove_file(path).map_err(failed)?,
            }
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        Ok(Self::of(Bound::Unix { listener, _file: SocketFile(Some(path.to_owned())) }))
    }

    /// Takes a socket of TCP that listens already, such as one that a supervisor passed on.
    ///
    /// # Errors
    ///
    /// [`Error::Listen`]: the system refuses the socket.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn from_tcp(listener: std::net::TcpListener) -> Result<Self> {
        let taken = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        let listener = taken.map_err(|error| Error::listen("an inherited socket", error))?;
        Ok(Self::of(Bound::Tcp(listener)))
    }

    /// Takes a Unix socket that listens already. Its file stays when the listener is dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::from_tcp`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn from_unix(listener: std::os::unix::net::UnixListener) -> Result<Self> {
        let taken = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        let listener = taken.map_err(|error| Error::listen("an inherited socket", error))?;
        Ok(Self::of(Bound::Unix { listener, _file: SocketFile(None) }))
    }

    fn of(socket: Bound) -> Self {
        let (protocols, parts) = Default::default();
        Self { socket, protocols, parts, security: Security::default() }
    }

    /// Sets the protocols that are served; all by default.
    #[must_use]
    pub fn protocols(mut self, protocols: Protocols) -> Self {
        self.protocols = protocols;
        self
    }

    /// Sets the parts of the interfaces that are served; all by default. A listener beyond the
    /// machine may serve [`Parts::EVENTS`], and one for administrators all.
    #[must_use]
    pub fn parts(mut self, parts: Parts) -> Self {
        self.parts = parts;
        self
    }

    /// Serves TLS alone, with these certificates and rules. If the configuration names no protocols
    /// (ALPN), HTTP/2 and HTTP/1.1 are offered. The handshake has to end within
    /// `server.header_read_ms`. A client's certificate, if the rules ask for one, is told to the
    /// hooks ([`Connecting::certificate`](crate::edge::hooks::Connecting::certificate)).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, mut config: Arc<tokio_rustls::rustls::ServerConfig>) -> Self {
        if config.alpn_protocols.is_empty() {
            let protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::make_mut(&mut config).alpn_protocols = protocols;
        }
        self.security = Security::of_host(config);
        self
    }

    /// Serves TLS alone, with the certificate of the configuration as it is at each handshake.
    #[cfg(feature = "tls")]
    pub(super) fn certified(mut self, certificates: Arc<Certificates>) -> Self {
        self.security = Security::configured(certificates, self.protocols == Protocols::Grpc);
        self
    }

    /// Returns the address of TCP; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Bound::Tcp(listener) => listener.local_addr().ok(),
            Bound::Unix { .. } => None,
        }
    }

    pub(crate) fn served(&self) -> (Protocols, Parts) {
        (self.protocols, self.parts)
    }

    /// Whether only programs of this machine can connect.
    pub(crate) fn is_local(&self) -> bool {
        self.address().is_none_or(|address| address.ip().is_loopback())
    }

    pub(crate) fn security(&self) -> Security {
        self.security.clone()
    }

    /// Returns the next client, if one is there.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<NewConnection>> {
        match &self.socket {
            Bound::Tcp(listener) => listener.poll_accept(cx).map_ok(|(stream, address)| {
                NewConnection { socket: Either::Left(stream), address: address.into() }
            }),
            Bound::Unix { listener, .. } => listener.poll_accept(cx).map_ok(|(stream, _)| {
                NewConnection { socket: Either::Right(stream), address: PeerAddress::Unix }
            }),
        }
    }
}

/// Returns the next client of any listener, and the place of its listener. Pauses after an error.
///
/// # Cancel safety
///
/// Nothing is lost.
pub(crate) async fn accept<T>(listeners: &[(Listener, T)]) -> (NewConnection, &T) {
    loop {
        let accepted = poll_fn(|cx| {
            // A random beginning: a listener that always has a client would keep the others out.
            let start = rand::rng().random_range(0..listeners.len());
            for (listener, of_listener) in listeners[start..].iter().chain(&listeners[..start]) {
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    return Poll::Ready(accepted.map(|accepted| (accepted, of_listener)));
                }
            }
            Poll::Pending
        });
        match accepted.await {
            Ok(accepted) => return accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
