//! The socket below a stream of TLS. What a client sends in the handshake is bounded, and counts
//! as its memory, as the head of a request does.
//!
//! # Why
//!
//! TLS gathers a message of the handshake until it is complete. A client that begins a long one and
//! does not end it would otherwise hold memory that nobody counts, for the whole time of a
//! handshake.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::edge::budget::{Held, Share};

/// The most bytes that a client may send in a handshake. A certificate has a few KiB with those of
/// its issuers.
const MAX_HANDSHAKE_BYTES: usize = 64 << 10;

/// A socket that counts the bytes of a handshake.
#[derive(Debug)]
pub(crate) struct TlsSocket<S> {
    socket: S,
    /// The bytes that came so far; `None` once the handshake is over.
    handshake: Option<Box<Held>>,
}

impl<S> TlsSocket<S> {
    /// Returns the socket of a new client. Its bytes count in `share` until
    /// [`Self::end_handshake`].
    pub(crate) fn new(socket: S, share: &Share) -> Self {
        Self { socket, handshake: Some(Box::new(share.nothing())) }
    }

    /// Stops to count: the handshake is over.
    pub(crate) fn end_handshake(&mut self) {
        self.handshake = None;
    }

    /// Returns the socket of the system.
    pub(crate) fn get_ref(&self) -> &S {
        &self.socket
    }

    /// Gives the socket of the system back.
    pub(crate) fn into_inner(self) -> S {
        self.socket
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TlsSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { socket, handshake } = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(socket).poll_read(cx, buffer))?;
        if let Some(held) = handshake {
            held.grow(buffer.filled().len() - before).map_err(io::Error::other)?;
            if held.size_bytes() > MAX_HANDSHAKE_BYTES {
                let problem = format!("a handshake has more than {MAX_HANDSHAKE_BYTES} bytes");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, problem)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TlsSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Goal: a client may send as much as the bound in a handshake and no more, and what it sends
    /// later is not counted.
    #[tokio::test]
    async fn a_handshake_has_a_bound_and_what_comes_after_it_has_none() {
        let pair = || {
            let (near, far) = tokio::io::duplex(2 * MAX_HANDSHAKE_BYTES);
            (TlsSocket::new(near, &Share::default()), far)
        };
        let mut read = vec![0; MAX_HANDSHAKE_BYTES];
        let (mut socket, mut peer) = pair();
        peer.write_all(&vec![0; MAX_HANDSHAKE_BYTES + 1]).await.unwrap();
        socket.read_exact(&mut read).await.unwrap();
        let error = socket.read_u8().await.unwrap_err();
        assert_eq!(error.to_string(), "a handshake has more than 65536 bytes");
        let (mut socket, mut peer) = pair();
        socket.end_handshake();
        peer.write_all(&vec![0; MAX_HANDSHAKE_BYTES + 1]).await.unwrap();
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), 0);
    }
}
