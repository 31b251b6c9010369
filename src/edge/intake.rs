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
use std::task::{Context, Poll, Waker};

use super::budget::{Held, Share};
use super::checked_body::Refused;
use crate::edge::frames::Frames;
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
    ending: Ending,
}

/// How it stands with the end of what comes in, of a connection of HTTP/1.1.
#[derive(Debug, Default)]
struct Ending {
    /// Whether it was reached.
    is_reached: bool,
    /// Whether somebody has waited for more of a body since.
    is_missed: bool,
    /// Who reads what comes in, since it was kept from them that the end was reached.
    reader: Option<Waker>,
    /// Who waits for more of a body.
    body: Option<Waker>,
    /// Who waits for the end.
    watcher: Option<Waker>,
    /// Whether an answer is awaited before which there may be a word.
    may_ask: bool,
    /// Whether some of a body was still to come when it was dropped.
    is_body_cut: bool,
}

impl Intake {
    /// Of a connection that may send so much ahead.
    pub(crate) fn new(share: &Share, max_bytes: usize) -> Self {
        let held = share.nothing();
        let (frames, ending) = (None, Ending::default());
        Self(Mutex::new(Unread { held, size_bytes: 0, max_bytes, frames, bodies: 0, ending }))
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on frames of HTTP/2 come, and so much of bodies may be sent ahead.
    pub(crate) fn follow_frames(&self, max_bytes: usize) {
        let mut unread = self.unread();
        (unread.frames, unread.max_bytes) = (Some(Frames::new()), max_bytes);
    }

    /// From now on nothing comes that is kept.
    pub(crate) fn follow_nothing(&self) {
        self.unread().max_bytes = 0;
        self.took_all();
    }

    /// From now on messages come, which are taken as a whole.
    pub(crate) fn follow_messages(&self) {
        self.unread().max_bytes = usize::MAX;
    }

    /// Counts what has come.
    ///
    /// # Errors
    ///
    /// `QuotaExceeded`: there is no room for it; and as [`Frames::read`].
    pub(crate) fn came(&self, bytes: &[u8]) -> io::Result<()> {
        let mut unread = self.unread();
        let more = match &mut unread.frames {
            Some(frames) => frames.read(bytes)?,
            None => bytes.len(),
        };
        unread.size_bytes = unread.size_bytes.saturating_add(more).min(unread.max_bytes);
        unread
            .settle()
            .map_err(|error| io::Error::new(io::ErrorKind::QuotaExceeded, Refused::new(error)))
    }

    /// Nothing more comes. Ready when whoever reads is to be told: an answer that needs nothing
    /// more of its request is not disturbed, and one that does is given up.
    pub(crate) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unread = self.unread();
        let ending = &mut unread.ending;
        if ending.is_missed {
            return Poll::Ready(());
        }
        ending.is_reached = true;
        ending.reader = Some(cx.waker().clone());
        // Whoever waits for a body looks again whether more of it has come before the end.
        let woken = [ending.body.take(), ending.watcher.take()];
        drop(unread);
        woken.into_iter().flatten().for_each(Waker::wake);
        Poll::Pending
    }

    /// Whether the client may be sent a word before the answer, to find out whether it is there:
    /// one of HTTP/1.1 may, until the answer begins.
    pub(crate) fn set_may_ask(&self, may_ask: bool) {
        self.unread().ending.may_ask = may_ask;
    }

    pub(crate) fn may_ask(&self) -> bool {
        self.unread().ending.may_ask
    }

    /// There is no more of a body yet.
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

    /// An answer is sent: if nothing more comes, whoever reads is to be told now.
    pub(crate) fn answered(&self) {
        let reader = self.unread().ending.reader.take();
        reader.into_iter().for_each(Waker::wake);
    }

    /// Waits until the client sends nothing any more. One waits at a time: the answer that is sent.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unread = self.unread();
        if unread.ending.is_reached {
            return Poll::Ready(());
        }
        unread.ending.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether some of a body is still to come that nobody will read: no request can follow it.
    pub(crate) fn is_body_cut(&self) -> bool {
        self.unread().ending.is_body_cut
    }

    /// Whether the client sends nothing any more. Requests that it has sent may still be unread.
    pub(crate) fn is_ended(&self) -> bool {
        self.unread().ending.is_reached
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
    /// Holds what is unread, in whole steps.
    fn settle(&mut self) -> Result<()> {
        let heads_bytes = self.frames.as_ref().map_or(0, Frames::head_bytes);
        let size_bytes = self.size_bytes.saturating_add(heads_bytes);
        let steps_bytes = size_bytes - size_bytes % STEP_BYTES;
        self.held.keep(steps_bytes);
        let missing = steps_bytes - self.held.size_bytes();
        if self.frames.is_some() && heads_bytes < STEP_BYTES {
            // Others have their streams on the same connection. What is beyond the bound is refused
            // to the one whose body it is, when that is read; the window bounds it until then.
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
        intake.body_ends(true);
        assert_eq!(budget.used_bytes(), 3 * STEP_BYTES, "it may be of the other one");
        intake.came(&frame(DATA, 0, 1 << 20)).unwrap();
        assert_eq!(budget.used_bytes(), 256 << 10, "the window lets no more in");
        intake.body_ends(true);
        intake.came(&frame(HEADERS, 0, 2 * STEP_BYTES)).unwrap();
        assert_eq!(budget.used_bytes(), 2 * STEP_BYTES);
        drop(intake);
        assert_eq!(budget.used_bytes(), 0);
    }
}
