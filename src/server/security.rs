//! How the bytes of a listener's connections are secured: not at all, or by TLS.

use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tls")]
use tokio_rustls::{TlsAcceptor, rustls};
#[cfg(feature = "tls")]
use tokio_util::either::Either;

#[cfg(feature = "tls")]
use super::certificates::Certificates;
#[cfg(feature = "tls")]
use super::socket::Socket;
#[cfg(feature = "tls")]
use super::tls_socket::TlsSocket;
use super::transport::{SystemSocket, Transport, plain};
use crate::edge::budget::Share;

/// The most bytes that wait in a stream of TLS for room in the socket: one record. More would be
/// memory of clients that take nothing, which nobody counts.
#[cfg(feature = "tls")]
const MAX_RECORD_BYTES: usize = 16 << 10;

/// The security of a listener's connections. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Security {
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

/// The rules and the certificate of a listener.
#[cfg(feature = "tls")]
#[derive(Clone)]
enum Tls {
    /// Those of the host.
    OfHost(Arc<rustls::ServerConfig>),
    /// Those of the configuration, as they are now, for all protocols or for gRPC alone.
    Configured { certificates: Arc<Certificates>, is_grpc: bool },
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Security").finish_non_exhaustive()
    }
}

impl Security {
    /// Returns the security by the rules of the host.
    #[cfg(feature = "tls")]
    pub(crate) fn of_host(config: Arc<rustls::ServerConfig>) -> Self {
        Self { tls: Some(Tls::OfHost(config)) }
    }

    /// Returns the security by the configuration.
    #[cfg(feature = "tls")]
    pub(crate) fn configured(certificates: Arc<Certificates>, is_grpc: bool) -> Self {
        Self { tls: Some(Tls::Configured { certificates, is_grpc }) }
    }

    /// Whether there is TLS.
    pub(crate) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// Prepares a socket: sets its options, and does the handshake of TLS if there is to be one.
    /// What the client sends in it counts in `share`.
    ///
    /// # Errors
    ///
    /// The peer is gone, or its handshake is wrong. It was told then.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the connection is closed.
    pub(crate) async fn secure(
        &self,
        socket: SystemSocket,
        write_timeout: Duration,
        share: &Share,
    ) -> io::Result<Transport> {
        let plain = plain(socket, write_timeout);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls
            && let Either::Left(socket) = plain
        {
            return handshake(tls, TlsSocket::new(socket, share), write_timeout).await;
        }
        #[cfg(not(feature = "tls"))]
        let _nothing_is_sent_before_a_request = share;
        Ok(plain)
    }
}

/// Does the handshake of TLS.
#[cfg(feature = "tls")]
async fn handshake(
    tls: &Tls,
    socket: TlsSocket<SystemSocket>,
    write_timeout: Duration,
) -> io::Result<Transport> {
    let config = match tls {
        Tls::OfHost(config) => config.clone(),
        Tls::Configured { certificates, is_grpc } => certificates.current(*is_grpc),
    };
    let accept = TlsAcceptor::from(config).accept_with(socket, |session| {
        session.set_buffer_limit(Some(MAX_RECORD_BYTES));
    });
    match accept.into_fallible().await {
        Ok(mut stream) => {
            stream.get_mut().0.end_handshake();
            Ok(Either::Right(Box::new(stream)))
        }
        Err((error, socket)) => {
            // A reset would discard the alert that tells the client the reason.
            let socket = Either::Left(socket.into_inner());
            let mut socket = Socket::new(socket, write_timeout, None);
            let _gone = tokio::io::AsyncWriteExt::shutdown(&mut socket).await;
            Err(error)
        }
    }
}
