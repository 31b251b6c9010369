//! A connection's socket, closed so that what was sent last arrives.
//!
//! # Why
//!
//! A socket that is closed while bytes from its peer are unread is reset, and a reset throws away
//! what the peer has not read yet: a publisher that was still sending when the broker stopped would
//! lose its last acknowledgements. So the sending half is closed first, and what still comes in is
//! read and dropped until the peer closes too, or for a moment at the most. Source: RFC 9112, 9.6.
//!
//! A peer that takes nothing of what is sent to it for long is given up, or it would hold what it
//! does not take for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long the peer has to close its half.
const LINGER: Duration = Duration::from_secs(1);

/// What every HTTP/2 connection begins with. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long the rest of a beginning that tells nothing yet is waited for before another look.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until the peer has sent enough to tell HTTP/1.1 from HTTP/2.
///
/// # Errors
///
/// The peer is gone.
pub(crate) async fn says_what_it_speaks(stream: &TcpStream) -> io::Result<()> {
    let mut start = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut start).await?;
        match &start[..count] {
            [] => return Err(io::ErrorKind::UnexpectedEof.into()),
            seen if seen == PREFACE || !PREFACE.starts_with(seen) => return Ok(()),
            _ => tokio::time::sleep(LOOK_AGAIN).await, // What is there is there: no other sign.
        }
    }
}

/// A socket that lingers when it is shut down, and gives up a peer that takes nothing.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    write_timeout: Duration,
    /// Since the peer takes nothing: when it is given up.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Since the sending half was closed: when waiting for the peer ends.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, write_timeout: Duration) -> Self {
        Self { stream, write_timeout, stalled: None, lingering: None }
    }

    /// What came of a write, or that it is given up.
    fn or_stalled(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads and drops what is there; ready when the peer has closed its half.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut dropped = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut dropped));
            if read.is_err() || dropped.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.or_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.or_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.lingering = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        let is_over = self.lingering.as_mut().is_none_or(|end| end.as_mut().poll(cx).is_ready());
        if is_over || self.poll_drain(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}
