//! A look at the frames of HTTP/2 as they are read: how often a client changes its settings.
//!
//! ```text
//! | length: 3 | type: 1 | flags: 1 | stream: 4 | payload: length |
//! ```
//!
//! Source: RFC 9113, 4.1 and 6.5.
//!
//! # Why
//!
//! With new windows all streams of the connection are gone through, for each frame of 15 bytes, and
//! many such frames come in one read: a thousand streams and a few KiB of frames held a worker for
//! seconds. The library that speaks HTTP/2 does that work before anybody can stop it, so the frames
//! are counted before it gets them.

use std::io;
use std::time::{Duration, Instant};

const HEAD_BYTES: usize = 9;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// Settings that a client may send in a second. One begins a connection; libraries that measure how
/// fast a connection is send some more, each with a window twice as large as before.
const MAX_SETTINGS: u32 = 16;
const SECOND: Duration = Duration::from_secs(1);

/// The frames of a connection, as far as they were read.
#[derive(Debug)]
pub(crate) struct Frames {
    head: [u8; HEAD_BYTES],
    /// How much of the head of the next frame is there.
    filled: usize,
    /// What is left of the payload of the last one, in bytes.
    left: usize,
    settings: u32,
    since: Instant,
}

impl Frames {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { head: [0; HEAD_BYTES], filled: 0, left: 0, settings: 0, since: Instant::now() }
    }

    /// Looks at what was read next.
    ///
    /// # Errors
    ///
    /// The client changes its settings too often.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let passed = self.left.min(bytes.len());
            self.left -= passed;
            bytes = &bytes[passed..];
            let count = (HEAD_BYTES - self.filled).min(bytes.len());
            if count == 0 {
                return Ok(());
            }
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
            if self.filled == HEAD_BYTES {
                self.filled = 0;
                self.begin()?;
            }
        }
    }

    /// A frame begins.
    fn begin(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind != SETTINGS || flags & ACK != 0 {
            return Ok(());
        }
        if self.since.elapsed() > SECOND {
            (self.settings, self.since) = (0, Instant::now());
        }
        self.settings += 1;
        if self.settings > MAX_SETTINGS {
            let problem = format!("the client sent more than {MAX_SETTINGS} settings in a second");
            return Err(io::Error::other(problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], &vec![SETTINGS; payload][..]].concat()
    }

    /// Goal: settings are counted however the bytes come, and nothing else is.
    #[test]
    fn settings_are_counted_wherever_their_bytes_are_cut() {
        let other = [frame(0, 0, 1_000), frame(SETTINGS, ACK, 0), frame(6, 0, 8)].concat();
        let some = [other, frame(SETTINGS, 0, 6)].concat();
        let most = some.repeat(MAX_SETTINGS as usize);
        for size in [1, 2, 8, 9, 10, 1_024, most.len()] {
            let mut frames = Frames::new();
            most.chunks(size).for_each(|bytes| frames.read(bytes).unwrap());
            let refused = frames.read(&some).unwrap_err().to_string();
            assert_eq!(refused, "the client sent more than 16 settings in a second");
        }
    }

    #[test]
    fn settings_that_come_at_times_are_as_many_as_a_client_likes() {
        let mut frames = Frames::new();
        for _ in 0..10 {
            frames.read(&frame(SETTINGS, 0, 6).repeat(MAX_SETTINGS as usize)).unwrap();
            frames.since -= 2 * SECOND;
        }
    }
}
