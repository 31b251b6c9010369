//! The lowest rate at which a client may send a request or a message that it has begun.
//!
//! # Why
//!
//! If only silence ended a request, a client could send a byte now and then and hold the request,
//! its memory and its connection for ever. So a body, or a message of a stream, must also reach a
//! rate, after a grace as long as the longest silence. Only time in which the broker waits for
//! bytes counts: while the broker does not read, a client cannot send.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tracing::debug;

use super::counters::{Counters, TimeLimit};
use crate::edge::config::FollowConfig;
use crate::error::{Error, Result};

/// The progress of one body, or of one message after the other.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// The longest silence, which is also the grace before the rate counts.
    silence: Duration,
    /// The lowest rate; 0 is no limit.
    least_bytes_per_second: u64,
    counters: Arc<Counters>,
    /// The time spent waiting for bytes. `size_bytes` is the number of bytes that came in it.
    waited: Duration,
    size_bytes: u64,
}

impl Pace {
    pub(crate) fn new(config: &FollowConfig, counters: Arc<Counters>) -> Self {
        Self {
            silence: Duration::from_millis(config.body_read_ms),
            least_bytes_per_second: config.min_body_bytes_per_second,
            counters,
            waited: Duration::ZERO,
            size_bytes: 0,
        }
    }

    /// Returns how long the next bytes may take.
    pub(super) fn patience(&self) -> Duration {
        let Some(ms) = (1_000 * self.size_bytes).checked_div(self.least_bytes_per_second) else {
            return self.silence;
        };
        (self.silence + Duration::from_millis(ms)).saturating_sub(self.waited).min(self.silence)
    }

    pub(super) fn received(&mut self, waited: Duration, size_bytes: usize) {
        self.waited += waited;
        self.size_bytes += size_bytes as u64;
    }

    /// Begins to time the next message, of which `size_bytes` have arrived already.
    pub(super) fn restart(&mut self, size_bytes: usize) {
        (self.waited, self.size_bytes) = (Duration::ZERO, size_bytes as u64);
    }

    /// Counts the time limit, and returns the error that says which rate or silence was exceeded.
    pub(super) fn too_slow(&self, what: &'static str) -> Error {
        self.counters.time_limit(TimeLimit::Body);
        let silence_ms = self.silence.as_millis();
        let problem = if self.patience() < self.silence {
            let least = self.least_bytes_per_second;
            format!("less than {least} bytes a second, after {silence_ms} ms")
        } else {
            format!("nothing more came for {silence_ms} ms")
        };
        debug!(what, problem, "a client sends too slowly");
        Error::TooSlow { what, problem }
    }

    /// Returns the next chunk of a body; `None` at its end.
    ///
    /// # Errors
    ///
    /// [`Error::TooSlow`].
    pub(super) async fn next(
        &mut self,
        chunks: &mut BodyDataStream,
    ) -> Result<Option<std::result::Result<Bytes, axum::Error>>> {
        let started = Instant::now();
        let next = tokio::time::timeout(self.patience(), chunks.next()).await;
        let next = next.map_err(|_elapsed| self.too_slow("the body"))?;
        if let Some(Ok(chunk)) = &next {
            self.received(started.elapsed(), chunk.len());
        }
        Ok(next)
    }
}

/// A wait for the next bytes, with an end.
#[derive(Debug)]
pub(super) struct Wait {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl Wait {
    /// Begins the wait, or continues it. Ready when it has lasted longer than `patience`.
    pub(super) fn poll(
        this: &mut Option<Self>,
        patience: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let begin = || Self { since: Instant::now(), end: Box::pin(tokio::time::sleep(patience)) };
        this.get_or_insert_with(begin).end.as_mut().poll(cx)
    }

    /// Ends the wait, and returns how long it has lasted.
    pub(super) fn end(this: &mut Option<Self>) -> Duration {
        this.take().map(|wait| wait.since.elapsed()).unwrap_or_default()
    }
}

/// A connection of messages, each of which must come in fast enough once it has begun.
#[derive(Debug)]
pub(super) struct PacedSocket<S> {
    socket: S,
    pace: Pace,
    /// Received bytes of incomplete messages.
    begun_bytes: usize,
    wait: Option<Wait>,
}

impl<S> PacedSocket<S> {
    pub(super) fn new(socket: S, pace: Pace) -> Self {
        Self { socket, pace, begun_bytes: 0, wait: None }
    }

    /// Notes that a message of `size_bytes` on the wire is complete; `None` where the size is not
    /// known.
    ///
    /// With `None`, bytes that were read ahead of the next message are not counted: that message
    /// begins with the next bytes. A ping between two parts of a message has a known size, and is
    /// no part of that message.
    pub(super) fn whole(&mut self, size_bytes: Option<usize>) {
        let size_bytes = size_bytes.unwrap_or(self.begun_bytes);
        self.begun_bytes = self.begun_bytes.saturating_sub(size_bytes);
        self.pace.size_bytes = self.pace.size_bytes.saturating_sub(size_bytes as u64);
        if self.begun_bytes == 0 {
            self.wait = None;
            self.pace.restart(0);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.socket).poll_read(cx, buffer) {
            let size_bytes = buffer.filled().len() - before;
            this.pace.received(Wait::end(&mut this.wait), size_bytes);
            this.begun_bytes += size_bytes;
            return Poll::Ready(read);
        }
        if this.begun_bytes == 0 {
            return Poll::Pending;
        }
        ready!(Wait::poll(&mut this.wait, this.pace.patience(), cx));
        let error = this.pace.too_slow("the message");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
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
    use super::*;

    fn pace(body_read_ms: u64, min_body_bytes_per_second: u64) -> Pace {
        let config =
            FollowConfig { body_read_ms, min_body_bytes_per_second, ..FollowConfig::default() };
        Pace::new(&config, Arc::default())
    }

    #[test]
    fn a_silence_and_a_rate_end_what_comes_too_slowly_and_nothing_else() {
        let second = Duration::from_secs(1);
        let mut pace = pace(5_000, 100);
        assert_eq!(pace.patience(), 5 * second);
        pace.received(4 * second, 1);
        assert_eq!(pace.patience(), Duration::from_millis(1_010), "the grace and one byte");
        pace.received(second, 1_000);
        assert_eq!(pace.patience(), 5 * second, "at most the longest silence");
        for _ in 0..100 {
            pace.received(4 * second, 400); // At the lowest rate, and for long.
            assert!(pace.patience() > 4 * second, "{:?}", pace.patience());
        }
        pace.received(20 * second, 1);
        assert_eq!(pace.patience(), Duration::ZERO);
        let Error::TooSlow { problem, .. } = pace.too_slow("the body") else { panic!() };
        assert_eq!(problem, "less than 100 bytes a second, after 5000 ms");
        pace.restart(0);
        let Error::TooSlow { problem, .. } = pace.too_slow("the body") else { panic!() };
        assert_eq!(problem, "nothing more came for 5000 ms");
        assert_eq!(self::pace(5_000, 0).patience(), 5 * second);
    }
}
