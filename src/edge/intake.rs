//! What a connection has sent and nobody has taken yet: the heads of requests that are not whole,
//! and bodies that wait to be read.
//!
//! # Why
//!
//! A request counts from its head on, but a client may send heads that never end, and bodies that
//! nobody reads yet: as much as the protocol lets it send ahead. So what comes is counted where it
//! comes in, and leaves the count where somebody takes it. HTTP/2 puts bytes of its own around
//! both, so its frames are followed.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::budget::{Held, Share};
use super::receiving::Refused;
use crate::error::Result;

/// Steps in which what is unread is counted, in bytes: less than one is left to the connection.
const STEP_BYTES: usize = 4 << 10;

/// What was sent and not taken yet, of one connection.
#[derive(Debug)]
pub(crate) struct Intake(Mutex<Unread>);

#[derive(Debug)]
struct Unread {
    held: Held,
    size_bytes: usize,
    /// What the protocol lets a client send ahead, in bytes. What is beyond it was dropped unread,
    /// or is the protocol's own.
    max_bytes: usize,
    /// Of HTTP/2.
    frames: Option<Frames>,
    /// Bodies that may be read.
    bodies: usize,
}

impl Intake {
    /// Of a connection that may send so much ahead.
    pub(crate) fn new(share: &Share, max_bytes: usize) -> Self {
        let held = share.nothing();
        Self(Mutex::new(Unread { held, size_bytes: 0, max_bytes, frames: None, bodies: 0 }))
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on frames of HTTP/2 come, and so much of bodies may be sent ahead.
    pub(crate) fn follow_frames(&self, max_bytes: usize) {
        let mut unread = self.unread();
        (unread.frames, unread.max_bytes) = (Some(Frames::default()), max_bytes);
    }

    /// From now on messages come, which are taken as a whole.
    pub(crate) fn follow_messages(&self) {
        self.unread().max_bytes = usize::MAX;
    }

    /// Counts what has come.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded`: there is no room for it.
    pub(crate) fn came(&self, bytes: &[u8]) -> io::Result<()> {
        let mut unread = self.unread();
        let more = match &mut unread.frames {
            Some(frames) => frames.follow(bytes),
            None => bytes.len(),
        };
        unread.size_bytes = unread.size_bytes.saturating_add(more).min(unread.max_bytes);
        unread
            .settle()
            .map_err(|error| io::Error::new(io::ErrorKind::QuotaExceeded, Refused::new(error)))
    }

    /// So many bytes of a body were taken.
    pub(crate) fn took(&self, size_bytes: usize) {
        let mut unread = self.unread();
        unread.size_bytes = unread.size_bytes.saturating_sub(size_bytes);
        let _shrinks = unread.settle();
    }

    /// All there is was taken: the head of a request, or a message.
    pub(crate) fn took_all(&self) {
        self.took(usize::MAX);
    }

    /// A body comes that may be read.
    pub(crate) fn body_begins(&self) {
        self.unread().bodies += 1;
    }

    /// A body was read to its end, or nobody will do so.
    pub(crate) fn body_ends(&self) {
        let mut unread = self.unread();
        unread.bodies = unread.bodies.saturating_sub(1);
        if unread.bodies == 0 {
            drop(unread);
            self.took_all();
        }
    }
}

impl Unread {
    /// Holds what is unread, in whole steps.
    fn settle(&mut self) -> Result<()> {
        let heads_bytes = self.frames.as_ref().map_or(0, |frames| frames.head_bytes);
        let size_bytes = self.size_bytes.saturating_add(heads_bytes);
        let steps_bytes = size_bytes - size_bytes % STEP_BYTES;
        if steps_bytes == self.held.size_bytes() {
            return Ok(());
        }
        self.held.set(steps_bytes)
    }
}

/// Where in the frames of HTTP/2 a connection is. Source: RFC 9113, 4.1, 6.1, 6.2 and 6.10.
#[derive(Debug, Default)]
struct Frames {
    /// The head of the next frame, as far as it came.
    next: [u8; FRAME_HEAD_BYTES],
    came: usize,
    /// What is left of the frame that comes.
    left: usize,
    kind: Kind,
    /// Of a request's head that is not whole yet.
    head_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    /// Part of a body.
    Data,
    /// Part of a request's head, the last one or not.
    Head { is_last: bool },
    /// Whatever is done with at once.
    #[default]
    Other,
}

/// A length of 24 bits, a type, flags, and a stream.
const FRAME_HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl Frames {
    /// Follows what comes. Returns how many bytes of it belong to bodies.
    fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let mut body_bytes = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                bytes = self.follow_head(bytes);
                continue;
            }
            let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
            bytes = rest;
            self.left -= part.len();
            match self.kind {
                Kind::Data => body_bytes += part.len(),
                Kind::Head { .. } => self.head_bytes += part.len(),
                Kind::Other => {}
            }
            self.end_head();
        }
        body_bytes
    }

    /// Follows the head of a frame. Returns what comes after it.
    fn follow_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let missing = FRAME_HEAD_BYTES - self.came;
        let (part, rest) = bytes.split_at(missing.min(bytes.len()));
        self.next[self.came..self.came + part.len()].copy_from_slice(part);
        self.came += part.len();
        if self.came < FRAME_HEAD_BYTES {
            return rest;
        }
        self.came = 0;
        let [high, middle, low, kind, flags, ..] = self.next;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.kind = match kind {
            DATA => Kind::Data,
            HEADERS | CONTINUATION => Kind::Head { is_last: flags & END_HEADERS != 0 },
            _ => Kind::Other,
        };
        self.end_head();
        rest
    }

    /// At the end of the last frame of a request's head, it is whole.
    fn end_head(&mut self) {
        if self.left == 0 && self.kind == (Kind::Head { is_last: true }) {
            self.head_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    fn frame(kind: u8, flags: u8, size_bytes: usize) -> Vec<u8> {
        let length = (size_bytes as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0; size_bytes]].concat()
    }

    /// Goal: however the frames are cut, bodies count, and heads do until they are whole.
    #[test]
    fn bodies_and_unfinished_heads_are_found_in_frames_however_they_are_cut() {
        let whole = [
            frame(4, 0, 18),
            frame(HEADERS, 0, 300),
            frame(CONTINUATION, 0, 0),
            frame(CONTINUATION, END_HEADERS, 40),
            frame(DATA, 0, 70_000),
            frame(8, 0, 4),
            frame(DATA, 1, 0),
            frame(HEADERS, END_HEADERS, 20),
            frame(HEADERS, 0, 500),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 100, 4_096, whole.len()] {
            let mut frames = Frames::default();
            let (mut body_bytes, mut most) = (0, 0);
            for part in whole.chunks(size) {
                body_bytes += frames.follow(part);
                most = most.max(frames.head_bytes);
            }
            assert_eq!((body_bytes, frames.head_bytes), (70_000, 500), "{size}");
            assert!(size > 300 || most >= 500, "{size}");
        }
    }

    #[test]
    fn what_is_sent_counts_until_it_is_taken_and_is_refused_where_there_is_no_room() {
        let budget = Budget::new(400_000);
        let share = budget.address().connection();
        let intake = Intake::new(&share, 64 << 10);
        intake.came(&[0; 3_000]).unwrap();
        assert_eq!(budget.used_bytes(), 0, "less than a step is left to it");
        intake.came(&[0; 30_000]).unwrap();
        assert_eq!(budget.used_bytes(), 8 * STEP_BYTES);
        intake.took_all();
        assert_eq!(budget.used_bytes(), 0);
        intake.came(&[0; 1 << 20]).unwrap();
        assert_eq!(budget.used_bytes(), 64 << 10, "it cannot be more, with HTTP/1.1");
        intake.took_all();
        intake.follow_messages();
        let refused = intake.came(&[0; 130_000]).unwrap_err();
        assert_eq!((refused.kind(), budget.used_bytes()), (io::ErrorKind::QuotaExceeded, 0));
    }

    #[test]
    fn bodies_of_http2_count_until_they_are_taken_or_nobody_will() {
        let budget = Budget::new(3 << 20);
        let share = budget.address().connection();
        let intake = Intake::new(&share, 64 << 10);
        intake.follow_frames(256 << 10);
        intake.body_begins();
        intake.body_begins();
        intake.came(&frame(DATA, 0, 8 * STEP_BYTES)).unwrap();
        intake.took(5 * STEP_BYTES);
        assert_eq!(budget.used_bytes(), 3 * STEP_BYTES);
        intake.body_ends();
        assert_eq!(budget.used_bytes(), 3 * STEP_BYTES, "it may be of the other one");
        intake.came(&frame(DATA, 0, 1 << 20)).unwrap();
        assert_eq!(budget.used_bytes(), 256 << 10, "the window lets no more in");
        intake.body_ends();
        intake.came(&frame(HEADERS, 0, 2 * STEP_BYTES)).unwrap();
        assert_eq!(budget.used_bytes(), 2 * STEP_BYTES);
        drop(intake);
        assert_eq!(budget.used_bytes(), 0);
    }
}
