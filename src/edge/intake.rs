//! The bytes that a connection has sent and nobody has taken yet: the heads of incomplete requests,
//! and bodies that wait to be read.
//!
//! # Why
//!
//! A request is counted once its head is complete. But a client may send a head that never ends,
//! and bodies that nobody reads yet, up to the bound that the protocol sets on sending ahead. So
//! bytes are counted when they are received, until somebody takes them. HTTP/2 puts frames around
//! heads and bodies, so its frames are parsed.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::budget::{Held, Share};
use super::checked_body::RefusedBody;
use crate::edge::frames::Frames;
use crate::error::Result;

/// The steps in which unread bytes are counted, in bytes. Less than one step is not counted.
const STEP_BYTES: usize = 4 << 10;

/// The bytes of one connection that were received and not taken yet.
#[derive(Debug)]
pub(crate) struct Intake(Mutex<Unread>);

#[derive(Debug)]
struct Unread {
    held: Held,
    size_bytes: usize,
    /// The bytes that the protocol lets a client send ahead. Bytes beyond it were dropped unread,
    /// or belong to the protocol itself.
    max_bytes: usize,
    /// The parser of frames, on a connection of HTTP/2.
    frames: Option<Frames>,
    /// The number of bodies that may still be read.
    bodies: usize,
    ending: Ending,
}

/// The state of the end of the input, on a connection of HTTP/1.1.
#[derive(Debug, Default)]
struct Ending {
    /// Whether the end was reached.
    is_reached: bool,
    /// Whether the reader of a body has needed more bytes since.
    is_missed: bool,
    /// The task that reads the input. The end is kept from it until the answer is sent, or a body
    /// needs more bytes.
    reader: Option<Waker>,
    /// The task that waits for more of a body.
    body: Option<Waker>,
    /// The task that waits for the end.
    watcher: Option<Waker>,
    /// Whether the client may be sent an interim response before the answer.
    may_ask: bool,
    /// Whether a body was dropped before its end was received.
    is_body_cut: bool,
}

impl Intake {
    /// Returns the intake of a connection that may send `max_bytes` ahead.
    pub(crate) fn new(share: &Share, max_bytes: usize) -> Self {
        let held = share.nothing();
        let (frames, ending) = (None, Ending::default());
        Self(Mutex::new(Unread { held, size_bytes: 0, max_bytes, frames, bodies: 0, ending }))
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects frames of HTTP/2 from now on, with up to `max_bytes` of bodies sent ahead.
    pub(crate) fn follow_frames(&self, max_bytes: usize) {
        let mut unread = self.unread();
        (unread.frames, unread.max_bytes) = (Some(Frames::new()), max_bytes);
    }

    /// Counts nothing from now on.
    pub(crate) fn follow_nothing(&self) {
        self.unread().max_bytes = 0;
        self.took_all();
    }

    /// Expects messages from now on, each of which is taken as a whole.
    pub(crate) fn follow_messages(&self) {
        self.unread().max_bytes = usize::MAX;
    }

    /// Counts received bytes.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded`: there is no room for them; and as [`Frames::read`].
    pub(crate) fn came(&self, bytes: &[u8]) -> io::Result<()> {
        let mut unread = self.unread();
        let more = match &mut unread.frames {
            Some(frames) => frames.read(bytes)?,
            None => bytes.len(),
        };
        unread.size_bytes = unread.size_bytes.saturating_add(more).min(unread.max_bytes);
        unread
            .settle()
            .map_err(|error| io::Error::new(io::ErrorKind::QuotaExceeded, RefusedBody::new(error)))
    }

    /// Notes that the input has ended. Ready when the reading task is to be told of the end. An
    /// answer that needs no more of its request is not disturbed; one that does is given up.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unread = self.unread();
        let ending = &mut unread.ending;
        if ending.is_missed {
            return Poll::Ready(());
        }
        ending.is_reached = true;
        ending.reader = Some(cx.waker().clone());
        // A task that waits for a body checks whether more of it has come before the end.
        let woken = [ending.body.take(), ending.watcher.take()];
        drop(unread);
        woken.into_iter().flatten().for_each(Waker::wake);
        Poll::Pending
    }

    /// Sets whether the client may be sent an interim response to find out whether it is still
    /// connected. Only a client of HTTP/1.1 may, until the answer begins.
    pub(crate) fn set_may_ask(&self, may_ask: bool) {
        self.unread().ending.may_ask = may_ask;
    }

    pub(crate) fn may_ask(&self) -> bool {
        self.unread().ending.may_ask
    }

    /// Notes that a reader of a body needs more bytes than there are.
    pub(crate) fn misses_more(&self, cx: &mut Context<'_>) {
        let mut unread = self.unread();
        let ending = &mut unread.ending;
        if !ending.is_reached {
            ending.body = Some(cx.waker().clone());
            return;
        }
        ending.is_missed = true;
        let reader = ending.reader.take();
        drop(unread);
        reader.into_iter().for_each(Waker::wake);
    }

    /// Notes that an answer was sent. If the input has ended, the reading task is told now.
    pub(crate) fn answered(&self) {
        let reader = self.unread().ending.reader.take();
        reader.into_iter().for_each(Waker::wake);
    }

    /// Waits until the client has ended its input. Only one task waits at a time: the one that
    /// sends the answer.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unread = self.unread();
        if unread.ending.is_reached {
            return Poll::Ready(());
        }
        unread.ending.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether a body was dropped before its end was received: no request can follow it.
    pub(crate) fn is_body_cut(&self) -> bool {
        self.unread().ending.is_body_cut
    }

    /// Whether the client has ended its input. Requests that it has sent may still be unread.
    pub(crate) fn is_ended(&self) -> bool {
        self.unread().ending.is_reached
    }

    /// Counts `size_bytes` of a body as taken.
    pub(crate) fn took(&self, size_bytes: usize) {
        let mut unread = self.unread();
        unread.size_bytes = unread.size_bytes.saturating_sub(size_bytes);
        let _shrinks = unread.settle();
    }

    /// Counts all bytes as taken: the head of a request, or a message.
    pub(crate) fn took_all(&self) {
        self.took(usize::MAX);
    }

    /// Notes the start of a body that may be read.
    pub(crate) fn body_begins(&self) {
        self.unread().bodies += 1;
    }

    /// Notes the end of a body. `is_whole` says whether it was read to its end.
    pub(crate) fn body_ends(&self, is_whole: bool) {
        let mut unread = self.unread();
        unread.ending.is_body_cut |= !is_whole;
        unread.bodies = unread.bodies.saturating_sub(1);
        if unread.bodies == 0 {
            drop(unread);
            self.took_all();
        }
    }
}

impl Unread {
    /// Takes or gives back memory until the unread bytes are held, in whole steps.
    fn settle(&mut self) -> Result<()> {
        let heads_bytes = self.frames.as_ref().map_or(0, Frames::head_bytes);
        let size_bytes = self.size_bytes.saturating_add(heads_bytes);
        let steps_bytes = size_bytes - size_bytes % STEP_BYTES;
        self.held.keep(steps_bytes);
        let missing = steps_bytes - self.held.size_bytes();
        if self.frames.is_some() && heads_bytes < STEP_BYTES {
            // Other streams share the connection. Bytes beyond the bound are refused to the request
            // whose body they are, when the body is read. Until then the window bounds them.
            self.held.count(missing);
            return Ok(());
        }
        self.held.grow(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;
    use crate::edge::frames::tests::frame;
    use crate::edge::frames::{DATA, HEADERS};

    #[test]
    fn what_is_sent_counts_until_it_is_taken_and_is_refused_where_there_is_no_room() {
        let budget = Budget::new(400_000);
        let share = budget.address().connection();
        let intake = Intake::new(&share, 64 << 10);
        intake.came(&[0; 3_000]).unwrap();
        assert_eq!(budget.used_bytes(), 0, "less than a step is not counted");
        intake.came(&[0; 30_000]).unwrap();
        assert_eq!(budget.used_bytes(), 8 * STEP_BYTES);
        intake.took_all();
        assert_eq!(budget.used_bytes(), 0);
        intake.came(&[0; 1 << 20]).unwrap();
        assert_eq!(budget.used_bytes(), 64 << 10, "a client of HTTP/1.1 cannot send more ahead");
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
        intake.body_ends(true);
        assert_eq!(budget.used_bytes(), 3 * STEP_BYTES, "the bytes may belong to the other body");
        intake.came(&frame(DATA, 0, 1 << 20)).unwrap();
        assert_eq!(budget.used_bytes(), 256 << 10, "the window lets no more in");
        intake.body_ends(true);
        intake.came(&frame(HEADERS, 0, 2 * STEP_BYTES)).unwrap();
        assert_eq!(budget.used_bytes(), 2 * STEP_BYTES);
        drop(intake);
        assert_eq!(budget.used_bytes(), 0);
    }
}
