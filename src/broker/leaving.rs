//! What readers leave behind when they go: taken out in small steps, by a thread of its own.
//!
//! ```text
//! reader ─ dropped ─▶ what it left behind ──▶ leaver (one thread): a step, a step, a step, done
//!                                        └──▶ a new reader: as much as it brings
//! ```
//!
//! # Why
//!
//! A reader of a thousand patterns, or a member of a thousand topics, is known in a thousand
//! places. A reader is dropped by the task that served it, and a connection may have hundreds of
//! them: in one go that is a tenth of a second in which a worker of the runtime serves nobody else.
//! A drop is not waited for, so the task cannot do it step by step. A thread that the system may
//! interrupt at any time does it, and the task goes on.
//!
//! The work that waits for the thread is bounded: a new reader first takes out as much as it
//! brings. So there is never more than there once was of readers that were there together.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::failure::{Failure, PanicGuard};

/// Entries that a reader takes out by itself when it goes: tens of microseconds. Most have no more.
const AT_ONCE: usize = 64;

/// Entries of one step of the thread.
const ENTRIES_PER_STEP: usize = 256;

/// What a caller deposits with the broker when a reader begins: it is dropped when nothing of the
/// reader is left, which may be a while after the reader itself is gone.
pub(crate) type Deposit = Arc<dyn Any + Send + Sync>;

/// What a reader has left behind.
pub(super) trait Leftover: Debug + Send {
    /// Takes out about so many entries; returns whether there are more.
    fn take_out(&mut self, entries: usize) -> bool;
}

/// What readers have left behind. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaving(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    leftovers: VecDeque<Box<dyn Leftover>>,
    is_over: bool,
}

impl Leaving {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has all of `leftover` taken out. A small one is out when this returns.
    pub(super) fn leave(&self, mut leftover: impl Leftover + 'static) {
        if leftover.take_out(AT_ONCE) {
            self.put(Box::new(leftover));
        }
    }

    /// Has the rest of a leftover taken out: here, where the thread has ended.
    fn put(&self, mut leftover: Box<dyn Leftover>) {
        let mut queue = self.queue();
        if queue.is_over {
            drop(queue);
            while leftover.take_out(ENTRIES_PER_STEP) {}
        } else {
            queue.leftovers.push_back(leftover);
            self.0.changed.notify_one();
        }
    }

    /// Takes out about so many entries, if there are any. Called before as many are put in.
    pub(super) fn take_out(&self, entries: usize) {
        let next = self.queue().leftovers.pop_front();
        if let Some(mut leftover) = next
            && leftover.take_out(entries)
        {
            self.put(leftover);
        }
    }

    /// Takes out whatever is left behind, until it is stopped and nothing is left.
    pub(super) fn run(&self, failure: &Failure) {
        let _guard = PanicGuard::new(failure, "leaver");
        while self.wait() {
            self.take_out(ENTRIES_PER_STEP);
        }
    }

    /// Waits for something to take out. Returns whether there is, or may be, any.
    fn wait(&self) -> bool {
        let is_idle = |queue: &mut Queue| queue.leftovers.is_empty() && !queue.is_over;
        let queue = self.0.changed.wait_while(self.queue(), is_idle);
        !queue.unwrap_or_else(PoisonError::into_inner).leftovers.is_empty()
    }

    /// Ends the thread when nothing is left. What comes later is taken out where it is left.
    pub(super) fn stop(&self) {
        self.queue().is_over = true;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// So many entries; each that is taken out is taken from the number of all.
    #[derive(Debug)]
    struct Entries(usize, Arc<AtomicUsize>);

    impl Leftover for Entries {
        fn take_out(&mut self, entries: usize) -> bool {
            let taken = entries.min(self.0);
            self.0 -= taken;
            self.1.fetch_sub(taken, Ordering::SeqCst);
            self.0 > 0
        }
    }

    fn leave(leaving: &Leaving, all: &Arc<AtomicUsize>, entries: usize) {
        all.fetch_add(entries, Ordering::SeqCst);
        leaving.leave(Entries(entries, all.clone()));
    }

    #[test]
    fn what_is_left_behind_never_is_more_than_was_there_at_the_same_time() {
        let (leaving, all) = (Leaving::default(), Arc::default());
        leave(&leaving, &all, AT_ONCE);
        assert_eq!(all.load(Ordering::SeqCst), 0, "a small one is out at once");
        // The thread does not run: whoever comes takes out what the one before it left.
        for _ in 0..1_000 {
            leaving.take_out(1_000);
            leave(&leaving, &all, 1_000);
            assert!(all.load(Ordering::SeqCst) <= 1_000);
        }
        leaving.take_out(10);
        assert_eq!(all.load(Ordering::SeqCst), 1_000 - AT_ONCE - 10, "no more than is asked for");
    }

    #[test]
    fn all_that_was_left_behind_is_out_when_the_thread_has_ended_and_what_comes_later_is_at_once() {
        let (leaving, all) = (Leaving::default(), Arc::default());
        leave(&leaving, &all, 100_000);
        let thread = {
            let leaving = leaving.clone();
            std::thread::spawn(move || leaving.run(&Failure::default()))
        };
        (0..100).for_each(|_| leave(&leaving, &all, 1_000));
        leaving.stop();
        thread.join().unwrap();
        assert_eq!(all.load(Ordering::SeqCst), 0);
        leave(&leaving, &all, 1_000);
        assert_eq!(all.load(Ordering::SeqCst), 0);
    }
}
