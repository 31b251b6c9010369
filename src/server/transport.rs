//! The byte stream below a connection: TCP or a Unix socket, plain or under TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;
use tracing::debug;

#[cfg(feature = "tls")]
use super::tls_socket::TlsSocket;

/// The bound on unsent bytes in the system's buffer. The system reports room when half of it is
/// free. Other systems than Linux use their own bound. Source: Linux, tcp(7), TCP_NOTSENT_LOWAT.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// A socket of the system.
pub(crate) type SystemSocket = Either<TcpStream, UnixStream>;

/// A stream of TLS, in a box because its state is much larger than a socket.
#[cfg(feature = "tls")]
pub(crate) type SecureStream = Box<tokio_rustls::server::TlsStream<TlsSocket<SystemSocket>>>;
#[cfg(not(feature = "tls"))] // There is no other stream than a socket then.
use self::SystemSocket as SecureStream;

/// A connection's bytes, as they are read and written.
pub(crate) type Transport = Either<SystemSocket, SecureStream>;

/// Returns the bytes of a plain connection, with its options set as [`prepare`] does.
pub(crate) fn plain(socket: SystemSocket, write_timeout: Duration) -> Transport {
    if let Err(error) = prepare(&socket, write_timeout) {
        debug!(%error, "cannot set the options of a socket");
    }
    Either::Left(socket)
}

/// Sets the options of a socket of TCP: small answers are sent at once, few bytes wait unsent, and
/// a peer that confirms nothing for `write_timeout` is given up. A Unix socket needs none of them.
///
/// # Errors
///
/// The system refuses an option, because the peer is gone.
fn prepare(socket: &SystemSocket, write_timeout: Duration) -> io::Result<()> {
    let Either::Left(stream) = socket else { return Ok(()) };
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(write_timeout))?;
    }
    #[cfg(not(target_os = "linux"))]
    let _elsewhere_the_system_decides = write_timeout;
    Ok(())
}

/// Returns the error that the system noted about a socket, if there is one.
///
/// # Errors
///
/// The system cannot tell.
pub(crate) fn take_error(transport: &Transport) -> io::Result<Option<io::Error>> {
    let socket = match transport {
        Either::Left(socket) => socket,
        #[cfg(feature = "tls")]
        Either::Right(stream) => stream.get_ref().0.get_ref(),
        #[cfg(not(feature = "tls"))]
        Either::Right(socket) => socket,
    };
    match socket {
        Either::Left(stream) => stream.take_error(),
        Either::Right(stream) => stream.take_error(),
    }
}

/// Returns the certificate of the client itself, without those of its issuers, in DER. The copy is
/// for the hooks; the stream of TLS keeps the whole chain as long as it lives.
pub(crate) fn certificate(transport: &Transport) -> Option<Arc<[u8]>> {
    #[cfg(feature = "tls")]
    if let Either::Right(stream) = transport {
        let chain = stream.get_ref().1.peer_certificates()?;
        return chain.first().map(|leaf| Arc::from(leaf.as_ref()));
    }
    #[cfg(not(feature = "tls"))]
    let _no_certificate = transport;
    None
}
