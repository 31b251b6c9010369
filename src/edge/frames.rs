//! A parser of HTTP/2 frames as they are read: counts the bytes that wait to be taken, and how
//! often a client changes its settings.
//!
//! ```text
//! | length: 3 | type: 1 | flags: 1 | stream: 4 | payload: length |
//! ```
//!
//! Source: RFC 9113, 4.1, 6.1, 6.2, 6.5 and 6.10.
//!
//! # Why
//!
//! The bytes that a client has sent and nobody has taken yet are in the HTTP/2 library, which does
//! not report their number. `edge/intake.rs` counts them with this parser.
//!
//! A settings frame with a new window updates all streams of the connection. Such a frame has 15
//! bytes, and many of them come in one read: a thousand streams and a few KiB of frames held a
//! worker for seconds. The library does that work before anybody can stop it. So the frames are
//! counted before the library gets them.

use std::io;
use std::time::{Duration, Instant};

const FRAME_HEAD_BYTES: usize = 9;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

/// Flags: of settings, of parts of bodies, and of the two kinds of frames that carry a head.
const ACK: u8 = 1;
const PADDED: u8 = 8;
const END_HEADERS: u8 = 4;

/// The settings frames that a client may send per second. One is sent at the start of a connection.
/// Libraries that measure the speed of a connection send a few more, each with a window twice as
/// large.
const MAX_SETTINGS: u32 = 16;
const SECOND: Duration = Duration::from_secs(1);

/// The state of the parser of one connection's frames.
#[derive(Debug)]
pub(crate) struct Frames {
    /// The head of the next frame, of which `filled` bytes have arrived.
    next: [u8; FRAME_HEAD_BYTES],
    filled: usize,
    kind: Kind,
    /// The rest of the payload of the current frame, in bytes.
    left: usize,
    /// The bytes of an incomplete request head.
    head_bytes: usize,
    settings: u32,
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Part of a body. `body_bytes` is its rest without padding. If `is_padded`, the first byte of
    /// the frame, which gives the length of the padding, is still to come.
    Data { body_bytes: usize, is_padded: bool },
    /// Part of a request's head.
    Head { is_last: bool },
    /// A frame that needs no counting.
    Other,
}

impl Frames {
    /// Returns a parser before the first frame.
    pub(crate) fn new() -> Self {
        let (next, since) = ([0; FRAME_HEAD_BYTES], Instant::now());
        Self { next, filled: 0, kind: Kind::Other, left: 0, head_bytes: 0, settings: 0, since }
    }

    /// Returns the bytes of an incomplete request head.
    pub(crate) fn head_bytes(&self) -> usize {
        self.head_bytes
    }

    /// Parses the bytes that were read next. Returns how many of them belong to bodies.
    ///
    /// # Errors
    ///
    /// The client changes its settings too often.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        let mut body_bytes = 0;
        loop {
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= part.len();
            match self.kind {
                Kind::Data { .. } => body_bytes += self.follow_data(part),
                Kind::Head { is_last: true } if self.left == 0 => self.head_bytes = 0,
                Kind::Head { .. } => self.head_bytes += part.len(),
                Kind::Other => {}
            }
            if rest.is_empty() {
                return Ok(body_bytes);
            }
            bytes = self.read_head(rest)?;
        }
    }

    /// Reads the head of a frame. Returns the bytes after it.
    fn read_head<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let missing = FRAME_HEAD_BYTES - self.filled;
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        self.next[self.filled..self.filled + part.len()].copy_from_slice(part);
        self.filled += part.len();
        if self.filled == FRAME_HEAD_BYTES {
            self.filled = 0;
            self.begin()?;
        }
        Ok(rest)
    }

    /// Begins a frame, whose head is complete.
    fn begin(&mut self) -> io::Result<()> {
        let [high, middle, low, kind, flags, ..] = self.next;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.kind = match kind {
            DATA => Kind::Data { body_bytes: self.left, is_padded: flags & PADDED != 0 },
            HEADERS | CONTINUATION => Kind::Head { is_last: flags & END_HEADERS != 0 },
            SETTINGS if flags & ACK == 0 => return self.count_settings(),
            _ => Kind::Other,
        };
        Ok(())
    }

    /// Returns how many bytes of a part of a body are not padding.
    fn follow_data(&mut self, part: &[u8]) -> usize {
        let Kind::Data { body_bytes: mut left, is_padded } = self.kind else { return 0 };
        let mut part = part;
        let is_first = is_padded && !part.is_empty();
        if let Some((padding, rest)) = part.split_first().filter(|_| is_first) {
            left = left.saturating_sub(1 + usize::from(*padding));
            part = rest;
        }
        let size_bytes = part.len().min(left);
        let is_padded = is_padded && !is_first;
        self.kind = Kind::Data { body_bytes: left - size_bytes, is_padded };
        size_bytes
    }

    fn count_settings(&mut self) -> io::Result<()> {
        self.kind = Kind::Other;
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
pub(crate) mod tests {
    use super::*;

    /// Returns a frame whose payload looks like heads of settings.
    pub(crate) fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], &vec![SETTINGS; payload][..]].concat()
    }

    /// Goal: settings are counted however the bytes arrive, and no other frames are.
    #[test]
    fn settings_are_counted_wherever_their_bytes_are_cut() {
        let other = [frame(0, 0, 1_000), frame(SETTINGS, ACK, 0), frame(6, 0, 8)].concat();
        let some = [other, frame(SETTINGS, 0, 6)].concat();
        let most = some.repeat(MAX_SETTINGS as usize);
        for size in [1, 2, 8, 9, 10, 1_024, most.len()] {
            let mut frames = Frames::new();
            most.chunks(size).for_each(|bytes| assert!(frames.read(bytes).is_ok()));
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

    /// Goal: however the frames are split, bodies are counted, and heads are until they are
    /// complete.
    #[test]
    fn bodies_and_unfinished_heads_are_found_in_frames_however_they_are_cut() {
        let whole = [
            frame(4, 0, 18),
            frame(HEADERS, 0, 300),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 40),
            frame(DATA, 0, 70_000),
            frame(8, 0, 4),
            [frame(DATA, PADDED, 100)[..9].to_vec(), vec![29], vec![0; 99]].concat(),
            frame(DATA, 1, 0),
            frame(HEADERS, END_HEADERS, 20),
            frame(HEADERS, 0, 500),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 100, 4_096, whole.len()] {
            let mut frames = Frames::new();
            let (mut body_bytes, mut most) = (0, 0);
            for part in whole.chunks(size) {
                body_bytes += frames.read(part).unwrap();
                most = most.max(frames.head_bytes);
            }
            assert_eq!((body_bytes, frames.head_bytes), (70_070, 500), "{size}");
            assert!(size > 300 || most >= 500, "{size}");
        }
    }
}
