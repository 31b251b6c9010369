//! The socket of a connection, which is closed in a way that lets the last bytes arrive.
//!
//! # Why
//!
//! If a socket is closed while bytes from its peer are unread, it is reset, and a reset discards
//! the bytes that the peer has not read yet. A publisher that is still sending when the broker
//! stops would lose its last acknowledgements. So the sending half is closed first. Then incoming
//! bytes are read and dropped until the peer closes too, or until [`LINGER`] is over. Source: RFC
//! 9112, 9.6.
//!
//! A peer that has closed its sending half may still wait for its answer, but hyper would drop the
//! answer. So the end of the input is held back until the answer is sent. A peer that is gone looks
//! the same until bytes are sent to it, and no events should be read for it. So if the answer takes
//! a while, `100 Continue` is sent before it. Source: RFC 9110, 15.2.
//!
//! A peer that takes no data for a long time is given up; otherwise the data sent to it would be
//! held for ever. The unsent bytes in the system's buffer are bounded. Without the bound, the
//! system reports room only when a third of its buffer is free. The buffer grows to megabytes, and
//! a peer that reads slowly would seem to take nothing for minutes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::either::Either;

use crate::edge::budget::Share;
use crate::edge::clients::Admitted;
use crate::edge::intake::Intake;
use crate::polls;
use crate::server::activity::Activity;
use crate::server::transport::{Transport, take_error};

/// The time for the peer to close its half.
const LINGER: Duration = Duration::from_secs(1);

/// The interim response before an answer. Every client of HTTP/1.1 ignores it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The time for which a peer that has closed its half waits before it is sent the interim response,
/// and the longest time between two checks for an error of the socket.
const BEFORE_A_WORD: Duration = Duration::from_millis(50);
const MAX_BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The first bytes of every HTTP/2 connection. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// A socket that lingers when it is shut down, and gives up a peer that takes nothing.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Transport,
    write_timeout: Duration,
    /// The end of the wait for a peer that takes nothing, while there is one.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The end of the wait for the peer to close, once the sending half is closed.
    lingering: Option<Pin<Box<Sleep>>>,
    /// The connection's admission, and its unread bytes.
    admitted: Option<(Admitted, Arc<Intake>)>,
    /// The bytes that were read to find the protocol. They are read again.
    beginning: Beginning,
    /// The observer of incoming bytes.
    activity: Option<Activity>,
    /// Whether the writer has flushed since its last write.
    is_flushed: bool,
    /// The wait of a peer that has closed its half, and waits for an answer.
    waiting: Option<Awaiting>,
}

/// The checks whether a waiting peer is still connected.
#[derive(Debug)]
struct Awaiting {
    look: Pin<Box<Sleep>>,
    pause: Duration,
    is_asked: bool,
}

/// The first bytes that a peer sent. Those from `start` to `end` (exclusive) are still to be read.
#[derive(Debug, Default)]
struct Beginning {
    bytes: [u8; PREFACE.len()],
    start: usize,
    end: usize,
}

impl Socket {
    pub(crate) fn new(
        stream: Transport,
        write_timeout: Duration,
        admitted: Option<(Admitted, Arc<Intake>)>,
    ) -> Self {
        let beginning = Beginning::default();
        Self {
            stream,
            write_timeout,
            stalled: None,
            lingering: None,
            admitted,
            beginning,
            activity: None,
            is_flushed: true,
            waiting: None,
        }
    }

    /// Sets or removes the observer of incoming bytes.
    pub(crate) fn tell(&mut self, activity: Option<Activity>) {
        self.activity = activity;
    }

    /// Whether the peer sent anything before its protocol was known.
    pub(crate) fn has_begun(&self) -> bool {
        self.beginning.end > 0
    }

    /// Returns the peer's share of the memory for clients.
    pub(crate) fn share(&self) -> Share {
        self.admitted.as_ref().map(|(admitted, _)| admitted.share().clone()).unwrap_or_default()
    }

    /// Waits until the peer has sent enough bytes to distinguish HTTP/1.1 from HTTP/2.
    ///
    /// # Errors
    ///
    /// The peer is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn protocol(&mut self) -> io::Result<Protocol> {
        let Beginning { bytes, end, .. } = &mut self.beginning;
        while PREFACE.starts_with(&bytes[..*end]) {
            if *end == PREFACE.len() {
                return Ok(Protocol::Http2);
            }
            match self.stream.read(&mut bytes[*end..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => *end += count,
            }
        }
        Ok(Protocol::Http1)
    }

    /// Returns the outcome of a write, or an error if the peer took nothing for `write_timeout`.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.or_stalled(cx, written));
        if let (Some((admitted, _)), Ok(size_bytes)) = (&self.admitted, &written) {
            admitted.sent(*size_bytes);
        }
        Poll::Ready(written)
    }

    /// Whether bytes that were written may wait outside of the system's socket: TLS keeps a record
    /// that does not fit.
    fn keeps_bytes(&self) -> bool {
        cfg!(feature = "tls") && matches!(self.stream, Either::Right(_))
    }

    /// Returns the outcome of a step that sends bytes, or an error if the peer took nothing for
    /// `write_timeout`.
    fn or_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let limit = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        self.stalled = None; // A later write has its own time.
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until a peer that has closed its half proves to be gone; then returns the error.
    fn poll_gone(&mut self, cx: &mut Context<'_>, may_ask: bool) -> Poll<io::Result<()>> {
        let waiting = self.waiting.get_or_insert_with(|| Awaiting {
            look: Box::pin(tokio::time::sleep(BEFORE_A_WORD)),
            pause: BEFORE_A_WORD,
            is_asked: false,
        });
        loop {
            ready!(waiting.look.as_mut().poll(cx));
            if let Some(refused) = take_error(&self.stream)? {
                return Poll::Ready(Err(refused));
            }
            if may_ask && self.is_flushed && !waiting.is_asked {
                waiting.is_asked = true;
                // Nothing else waits to be written, so there is room for so few bytes.
                let stream = &mut self.stream;
                match Pin::new(&mut *stream).poll_write(cx, CONTINUE) {
                    Poll::Ready(Ok(count)) if count == CONTINUE.len() => {}
                    _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                }
                if let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx) {
                    flushed?; // TLS keeps written bytes until it is flushed.
                }
            }
            waiting.look.as_mut().reset(Instant::now() + waiting.pause);
            waiting.pause = (2 * waiting.pause).min(MAX_BETWEEN_LOOKS);
        }
    }

    /// Reads and drops the incoming bytes. Ready when the peer has closed its half.
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
        let Self { stream, beginning, activity, admitted, .. } = &mut *self;
        let Beginning { bytes, start, end } = beginning;
        if start == end {
            if polls::is_turn_over() {
                cx.waker().wake_by_ref(); // Other tasks run first; more bytes may be there then.
                return Poll::Pending;
            }
            let (before, had_room) = (buffer.filled().len(), buffer.remaining() > 0);
            ready!(Pin::new(stream).poll_read(cx, buffer))?;
            let came = &buffer.filled()[before..];
            let is_end = had_room && came.is_empty();
            let is_answering = activity.as_ref().is_some_and(Activity::is_answering);
            if let Some((_, intake)) = admitted.as_ref().filter(|_| is_end) {
                let (told, may_ask) = (intake.poll_end(cx), intake.may_ask());
                if !is_answering || told.is_ready() {
                    return Poll::Ready(Ok(()));
                }
                return self.poll_gone(cx, may_ask);
            }
            if let Some(activity) = activity.as_ref().filter(|_| !came.is_empty()) {
                activity.heard();
            }
            return Poll::Ready(match admitted {
                Some((_, intake)) => intake.came(came),
                None => Ok(()),
            });
        }
        let count = buffer.remaining().min(*end - *start);
        buffer.put_slice(&bytes[*start..*start + count]);
        *start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_flushed = true; // A writer flushes when it has nothing more to write.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if self.keeps_bytes() { self.or_stalled(cx, flushed) } else { flushed }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.or_stalled(cx, shut))?; // TLS sends what it keeps before.
            self.lingering = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        let is_over = self.lingering.as_mut().is_none_or(|end| end.as_mut().poll(cx).is_ready());
        if is_over || self.poll_drain(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::transport::plain;

    const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

    fn socket_of(stream: TcpStream) -> Socket {
        let transport = plain(Either::Left(stream), WRITE_TIMEOUT);
        Socket::new(transport, WRITE_TIMEOUT, None)
    }

    /// Writes without an end to a socket. Returns the task, which ends with the error, and the
    /// peer.
    async fn endless() -> (tokio::task::JoinHandle<io::Error>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let writing = tokio::spawn(async move {
            let mut socket = socket_of(stream);
            loop {
                if let Err(error) = socket.write_all(&[7; 64 << 10]).await {
                    return error;
                }
            }
        });
        (writing, peer)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (writing, _peer) = endless().await;
        assert_eq!(writing.await.unwrap().kind(), io::ErrorKind::TimedOut);
    }

    /// Goal: a peer that reads slowly is not given up. The peer reads for four times the write
    /// timeout, at a few hundred KiB per second.
    #[tokio::test]
    async fn a_peer_that_reads_slowly_is_not_given_up() {
        let (writing, mut peer) = endless().await;
        let started = Instant::now();
        let mut chunk = vec![0; 32 << 10];
        while started.elapsed() < 4 * WRITE_TIMEOUT {
            peer.read_exact(&mut chunk).await.unwrap();
            tokio::time::sleep(WRITE_TIMEOUT / 20).await;
        }
        assert!(!writing.is_finished(), "a slow reader was given up");
        writing.abort();
    }

    /// Returns a socket of the broker, and its peer.
    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (socket_of(stream), peer)
    }

    /// Goal: however the first bytes arrive, the protocol is found, and all of them are read again.
    #[tokio::test]
    async fn what_tells_the_protocol_is_read_again() {
        let http2 = [PREFACE, b"frames"].concat();
        for (sent, spoken) in [
            (&http2[..], Protocol::Http2),
            (b"GET / HTTP/1.1\r\n", Protocol::Http1),
            (b"PRI * HTTP/1.1\r\n", Protocol::Http1),
            (b"P\r\n", Protocol::Http1),
        ] {
            let (mut socket, mut peer) = pair().await;
            for byte in sent {
                peer.write_all(&[*byte]).await.unwrap();
                // The call reads the bytes that have arrived, and is dropped.
                let look = tokio::time::timeout(Duration::from_millis(1), socket.protocol()).await;
                assert!(look.is_err() || matches!(look, Ok(Ok(found)) if found == spoken));
            }
            assert_eq!(socket.protocol().await.unwrap(), spoken);
            peer.shutdown().await.unwrap();
            let mut read = Vec::new();
            socket.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }

    #[tokio::test]
    async fn a_peer_that_goes_before_it_said_anything_is_gone_at_once() {
        for sent in [&b""[..], b"P", &PREFACE[..PREFACE.len() - 1]] {
            let (mut socket, mut peer) = pair().await;
            peer.write_all(sent).await.unwrap();
            drop(peer);
            let error = socket.protocol().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
