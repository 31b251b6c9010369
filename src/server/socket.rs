//! A connection's socket, closed so that what was sent last arrives.
//!
//! # Why
//!
//! A socket that is closed while bytes from its peer are unread is reset, and a reset throws away
//! what the peer has not read yet: a publisher that was still sending when the broker stopped would
//! lose its last acknowledgements. So the sending half is closed first, and what still comes in is
//! read and dropped until the peer closes too, or for a moment at the most. Source: RFC 9112, 9.6.
//!
//! A peer that has closed its sending half may well wait for the answer to what it asked for, and
//! hyper would give it up: the end is kept back until the answer is sent. One that is gone looks
//! the same until something is sent to it, and nobody should read for it: where the answer takes a
//! while, it is sent the word `100 Continue` before that. Source: RFC 9110, 15.2.
//!
//! A peer that takes nothing of what is sent to it for long is given up, or it would hold what it
//! does not take for ever. What waits in the system for its turn is bounded: the system says that
//! there is room again only when a third of its buffer is free, which is megabytes after a while,
//! and a peer that reads slowly but well would seem to take nothing for minutes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tracing::debug;

use crate::edge::budget::Share;
use crate::edge::clients::Admitted;
use crate::edge::intake::Intake;
use crate::polls;
use crate::server::activity::Activity;

/// How long the peer has to close its half.
const LINGER: Duration = Duration::from_secs(1);

/// A word before an answer: every client of HTTP/1.1 passes over it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How long a peer that sends nothing more waits for its answer before it is sent a word, and the
/// longest time between two looks whether that was refused.
const BEFORE_A_WORD: Duration = Duration::from_millis(50);
const MAX_BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What every HTTP/2 connection begins with. Source: RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What waits in the system for its turn to be sent, in bytes; room is told when half of it is
/// gone. Elsewhere it is what the system thinks best. Source: Linux, tcp(7), TCP_NOTSENT_LOWAT.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// What a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Has small answers sent at once, little wait to be sent, and a peer given up that vanished: one
/// that confirms nothing of what was sent for so long.
fn prepare(stream: &TcpStream, write_timeout: Duration) -> io::Result<()> {
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

/// A socket that lingers when it is shut down, and gives up a peer that takes nothing.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    write_timeout: Duration,
    /// Since the peer takes nothing: when it is given up.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Since the sending half was closed: when waiting for the peer ends.
    lingering: Option<Pin<Box<Sleep>>>,
    /// Its place among all connections, and what it has sent that nobody has taken yet.
    admitted: Option<(Admitted, Arc<Intake>)>,
    /// What was read to tell the protocol, and is read again.
    beginning: Beginning,
    /// Is told of what comes in.
    activity: Option<Activity>,
    /// Whether all that was written has left whoever writes.
    is_flushed: bool,
    /// Since the peer sends nothing more, and waits for an answer.
    waiting: Option<Waiting>,
}

/// A peer that waits for an answer, if it is there.
#[derive(Debug)]
struct Waiting {
    look: Pin<Box<Sleep>>,
    pause: Duration,
    is_asked: bool,
}

/// The first bytes that a peer sent, as far as they are still to be read: up to `end`.
#[derive(Debug, Default)]
struct Beginning {
    bytes: [u8; PREFACE.len()],
    start: usize,
    end: usize,
}

impl Socket {
    pub(crate) fn new(
        stream: TcpStream,
        write_timeout: Duration,
        admitted: Option<(Admitted, Arc<Intake>)>,
    ) -> Self {
        if let Err(error) = prepare(&stream, write_timeout) {
            debug!(%error, "cannot set how a connection sends");
        }
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

    /// Tells `activity` of what comes in from now on, or nobody.
    pub(crate) fn tell(&mut self, activity: Option<Activity>) {
        self.activity = activity;
    }

    /// Whether the peer has sent anything before its protocol is known.
    pub(crate) fn has_begun(&self) -> bool {
        self.beginning.end > 0
    }

    /// The peer's share of the memory for clients.
    pub(crate) fn share(&self) -> Share {
        self.admitted.as_ref().map(|(admitted, _)| admitted.share().clone()).unwrap_or_default()
    }

    /// Waits until the peer has sent enough to tell HTTP/1.1 from HTTP/2.
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

    /// What came of a write, or that it is given up.
    fn or_stalled(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.stalled = None;
            if let (Some((admitted, _)), Ok(size_bytes)) = (&self.admitted, &written) {
                admitted.sent(*size_bytes);
            }
            return Poll::Ready(written);
        }
        let limit = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        self.stalled = None; // A last word has its own time.
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits until it turns out that the peer, which sends nothing more, is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>, may_ask: bool) -> Poll<io::Result<()>> {
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            look: Box::pin(tokio::time::sleep(BEFORE_A_WORD)),
            pause: BEFORE_A_WORD,
            is_asked: false,
        });
        loop {
            ready!(waiting.look.as_mut().poll(cx));
            if let Some(refused) = self.stream.take_error()? {
                return Poll::Ready(Err(refused));
            }
            if may_ask && self.is_flushed && !waiting.is_asked {
                waiting.is_asked = true;
                if self.stream.try_write(CONTINUE).ok() != Some(CONTINUE.len()) {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
            }
            waiting.look.as_mut().reset(Instant::now() + waiting.pause);
            waiting.pause = (2 * waiting.pause).min(MAX_BETWEEN_LOOKS);
        }
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
        let Self { stream, beginning, activity, admitted, .. } = &mut *self;
        let Beginning { bytes, start, end } = beginning;
        if start == end {
            if polls::is_turn_over() {
                cx.waker().wake_by_ref(); // Others go on first, and there is more then.
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
        self.or_stalled(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.or_stalled(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_flushed = true; // Whoever writes flushes when it has nothing more.
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

    /// A socket that is written to without an end, and its peer; the task ends with the error.
    async fn endless() -> (tokio::task::JoinHandle<io::Error>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let writing = tokio::spawn(async move {
            let mut socket = Socket::new(stream, WRITE_TIMEOUT, None);
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

    /// Goal: whoever reads slowly, but reads, is no peer that takes nothing. It reads for four
    /// times the time that it is given, at a rate of a few hundred KiB a second.
    #[tokio::test]
    async fn a_peer_that_reads_slowly_is_not_given_up() {
        let (writing, mut peer) = endless().await;
        let started = Instant::now();
        let mut chunk = vec![0; 32 << 10];
        while started.elapsed() < 4 * WRITE_TIMEOUT {
            peer.read_exact(&mut chunk).await.unwrap();
            tokio::time::sleep(WRITE_TIMEOUT / 20).await;
        }
        assert!(!writing.is_finished(), "it was given up");
        writing.abort();
    }

    /// A socket of the broker's, and its peer.
    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        (Socket::new(stream, WRITE_TIMEOUT, None), peer)
    }

    /// Goal: however the first bytes come, the protocol is told, and all of them are read again.
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
                // Whatever is there is looked at, and the look is given up.
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
