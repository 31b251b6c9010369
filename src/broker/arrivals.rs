//! Readers that come and go: a reader's entries in the broker are added and removed in small steps,
//! by a thread for that, the usher.
//!
//! ```text
//! reader ─ comes ────▶ arrival ──┐
//!        ─ dropped ──▶ leftover ─┴─▶ usher (one thread): a step of one, a step of another, …
//! ```
//!
//! # Why
//!
//! A reader of a thousand patterns, or a member of a thousand topics, has a thousand entries in the
//! broker. A connection may have hundreds of such readers: adding or removing all of them in one go
//! takes a tenth of a second, in which a worker of the runtime serves nobody else. A task cannot
//! remove them step by step, because nothing waits in a `drop`. So a thread does it, which the
//! system may interrupt at any time, and the task goes on.
//!
//! The same thread adds and removes. Otherwise the allocator would return the memory that one
//! thread frees to the other one in a single go, some 40 ms for 250,000 patterns.
//!
//! The work that waits for the thread is bounded: before entries are added, as many are removed. So
//! there are never more entries than those of the readers that were there at the same time.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::mem::take;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::broker::busy::{Busy, BusyToken};
use crate::broker::failure::{BrokerFailure, PanicGuard};
use crate::error::{Error, Result};

/// The number of entries that a reader adds and removes by itself, which takes tens of
/// microseconds. Most readers have no more.
const AT_ONCE: usize = 64;

/// The entries of one step of the thread.
const ENTRIES_PER_STEP: usize = 256;

/// A value that a caller leaves with the broker when a reader begins. The broker drops it when no
/// entry of the reader is left, which may be a while after the reader itself is gone.
pub(crate) type Deposit = Arc<dyn Any + Send + Sync>;

/// A reader that comes. When it is dropped, it leaves, and its entries are removed.
pub(super) trait Arrival: Debug + Send {
    /// Adds about `entries` entries. Returns whether more are left to add.
    ///
    /// # Errors
    ///
    /// The reader is refused.
    fn put_in(&mut self, entries: usize) -> Result<bool>;
}

/// The entries that a reader has left behind.
pub(super) trait Leftover: Debug + Send {
    /// Removes about `entries` entries. Returns whether more are left.
    fn take_out(&mut self, entries: usize) -> bool;
}

/// The readers that come and go, and the queue of the thread. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrivals(Arc<ArrivalsInner>);

#[derive(Debug, Default)]
struct ArrivalsInner {
    queue: Mutex<ArrivalQueue>,
    changed: Condvar,
    busy: Busy,
}

#[derive(Debug, Default)]
struct ArrivalQueue {
    arriving: VecDeque<Box<dyn Arriving>>,
    leftovers: VecDeque<Box<dyn Leftover>>,
    /// The leftovers without entries. Dropping one may take long if it was large.
    emptied: Vec<Box<dyn Leftover>>,
    /// The thread's work, until nothing is left to do.
    busy: Option<BusyToken>,
    is_over: bool,
}

impl ArrivalQueue {
    fn is_done(&self) -> bool {
        self.arriving.is_empty() && self.leftovers.is_empty() && self.emptied.is_empty()
    }
}

/// A reader that comes, and for which a caller waits.
trait Arriving: Debug + Send {
    /// Adds about `entries` entries. Returns whether more are left to add. If nobody waits for the
    /// reader any more, it leaves.
    fn step(&mut self, entries: usize) -> bool;
}

#[derive(Debug)]
struct Awaited<A> {
    arrival: Option<A>,
    answer: Option<oneshot::Sender<Result<A>>>,
}

impl<A: Arrival> Arriving for Awaited<A> {
    fn step(&mut self, entries: usize) -> bool {
        let is_awaited = self.answer.as_ref().is_some_and(|answer| !answer.is_closed());
        let Some(arrival) = self.arrival.as_mut().filter(|_| is_awaited) else { return false };
        let put_in = arrival.put_in(entries);
        if matches!(put_in, Ok(true)) {
            return true;
        }
        if let (Some(arrival), Some(answer)) = (self.arrival.take(), self.answer.take()) {
            // If nobody waits any more, the reader is dropped with the answer, and leaves.
            let _given_up = answer.send(put_in.map(|_is_over| arrival));
        }
        false
    }
}

impl Arrivals {
    /// Returns the readers of a broker, of which there are none yet.
    pub(super) fn new(busy: Busy) -> Self {
        Self(Arc::new(ArrivalsInner { busy, ..ArrivalsInner::default() }))
    }

    /// Wakes the thread, because there is work in `queue`.
    fn wake(&self, queue: &mut ArrivalQueue) {
        queue.busy.get_or_insert_with(|| self.0.busy.begin());
        self.0.changed.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, ArrivalQueue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all entries of a reader. A small reader is added without a wait.
    ///
    /// # Errors
    ///
    /// Those of [`Arrival::put_in`], and [`Error::ShuttingDown`]. The reader leaves.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it returns, the reader leaves.
    pub(super) async fn arrive<A: Arrival + 'static>(&self, mut arrival: A) -> Result<A> {
        if let Some(emptied) = self.take_out(AT_ONCE) {
            self.have_dropped(emptied);
        }
        if !arrival.put_in(AT_ONCE)? {
            return Ok(arrival);
        }
        let (answer, arrived) = oneshot::channel();
        self.put(Box::new(Awaited { arrival: Some(arrival), answer: Some(answer) }));
        arrived.await.unwrap_or(Err(Error::ShuttingDown))
    }

    fn put(&self, mut arriving: Box<dyn Arriving>) {
        let mut queue = self.queue();
        if queue.is_over {
            drop(queue);
            while arriving.step(ENTRIES_PER_STEP) {}
        } else {
            queue.arriving.push_back(arriving);
            self.wake(&mut queue);
        }
    }

    /// Removes all entries of `leftover`. A small leftover is removed when this returns.
    pub(super) fn leave(&self, mut leftover: impl Leftover + 'static) {
        if leftover.take_out(AT_ONCE) {
            self.put_back(Box::new(leftover));
        }
    }

    /// Hands the rest of a leftover to the thread, or removes it here if the thread has ended.
    fn put_back(&self, mut leftover: Box<dyn Leftover>) {
        let mut queue = self.queue();
        if queue.is_over {
            drop(queue);
            while leftover.take_out(ENTRIES_PER_STEP) {}
        } else {
            queue.leftovers.push_back(leftover);
            self.wake(&mut queue);
        }
    }

    /// Removes about `entries` entries of the oldest leftover, if there is one. Returns the
    /// leftover if it is empty now.
    fn take_out(&self, entries: usize) -> Option<Box<dyn Leftover>> {
        let mut leftover = self.queue().leftovers.pop_front()?;
        if leftover.take_out(entries) {
            self.put_back(leftover);
            return None;
        }
        Some(leftover)
    }

    /// Hands an empty leftover, which may be large, to the thread, which drops it. Drops it here if
    /// the thread has ended.
    fn have_dropped(&self, emptied: Box<dyn Leftover>) {
        let mut queue = self.queue();
        if queue.is_over {
            drop(queue);
            drop(emptied);
        } else {
            queue.emptied.push(emptied);
            self.wake(&mut queue);
        }
    }

    /// Adds and removes entries, until it is stopped and nothing is left to do.
    pub(super) fn run(&self, failure: &BrokerFailure) {
        let _guard = PanicGuard::new(failure, "usher");
        let _end = UsherEnd(self);
        while self.wait() {
            // Entries are removed first, so that their number does not grow.
            let emptied = take(&mut self.queue().emptied);
            drop((emptied, self.take_out(ENTRIES_PER_STEP)));
            let next = self.queue().arriving.pop_front();
            if let Some(mut arriving) = next
                && arriving.step(ENTRIES_PER_STEP)
            {
                self.put(arriving);
            }
        }
    }

    /// Waits for work. Returns whether there is any; otherwise the thread ends.
    fn wait(&self) -> bool {
        let is_idle = |queue: &mut ArrivalQueue| {
            if queue.is_done() {
                queue.busy = None;
            }
            queue.is_done() && !queue.is_over
        };
        let queue = self.0.changed.wait_while(self.queue(), is_idle);
        !queue.unwrap_or_else(PoisonError::into_inner).is_done()
    }

    /// Ends the thread when nothing is left to do. Readers that come or go later add and remove
    /// their entries themselves.
    pub(super) fn stop(&self) {
        self.queue().is_over = true;
        self.0.changed.notify_one();
    }
}

/// A guard for the end of the thread. If the thread panics, nobody waits for it any more, and the
/// rest of its work is dropped.
struct UsherEnd<'a>(&'a Arrivals);

impl Drop for UsherEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
        let mut queue = self.0.queue();
        let left =
            (take(&mut queue.arriving), take(&mut queue.leftovers), take(&mut queue.emptied));
        let busy = queue.busy.take();
        drop(queue);
        drop((left, busy)); // Without the lock: a dropped reader leaves.
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// The number of entries of all readers.
    type All = Arc<AtomicUsize>;

    /// A reader with `entries` entries, of which `known` are added. It may be refused at its last
    /// one.
    #[derive(Debug)]
    struct Reader {
        arrivals: Arrivals,
        all: All,
        known: usize,
        entries: usize,
        is_refused: bool,
    }

    #[derive(Debug)]
    struct Entries(usize, All);

    impl Leftover for Entries {
        fn take_out(&mut self, entries: usize) -> bool {
            let taken = entries.min(self.0);
            self.0 -= taken;
            self.1.fetch_sub(taken, Ordering::SeqCst);
            self.0 > 0
        }
    }

    impl Arrival for Reader {
        fn put_in(&mut self, entries: usize) -> Result<bool> {
            let more = entries.min(self.entries - self.known);
            self.known += more;
            self.all.fetch_add(more, Ordering::SeqCst);
            match self.entries - self.known {
                0 if self.is_refused => Err(Error::ShuttingDown),
                left => Ok(left > 0),
            }
        }
    }

    impl Drop for Reader {
        fn drop(&mut self) {
            self.arrivals.leave(Entries(self.known, self.all.clone()));
        }
    }

    fn reader(arrivals: &Arrivals, all: &All, entries: usize) -> Reader {
        let (arrivals, all) = (arrivals.clone(), all.clone());
        Reader { arrivals, all, known: 0, entries, is_refused: false }
    }

    fn usher(arrivals: &Arrivals) -> std::thread::JoinHandle<()> {
        let arrivals = arrivals.clone();
        std::thread::spawn(move || arrivals.run(&BrokerFailure::default()))
    }

    /// Goal: readers of any size come and go, are refused, and are given up. In the end all entries
    /// are removed, and never are there more entries than those of the readers that are there
    /// together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_readers_that_come_and_go_nothing_is_left_and_there_never_is_more_than_there_was() {
        let (arrivals, all) = (Arrivals::default(), All::default());
        let thread = usher(&arrivals);
        let most = 10_000 + 2 * ENTRIES_PER_STEP + 2 * AT_ONCE;
        for number in 0..400 {
            let entries = [1, AT_ONCE, AT_ONCE + 1, 10_000][number % 4];
            let mut reader = reader(&arrivals, &all, entries);
            reader.is_refused = number % 3 == 0;
            if number % 5 == 0 {
                let mut given_up = Box::pin(arrivals.arrive(reader));
                let _begun = futures_util::poll!(given_up.as_mut());
            } else {
                let arrived = arrivals.arrive(reader).await;
                assert_eq!(arrived.is_err(), number % 3 == 0);
                assert!(arrived.is_err() || all.load(Ordering::SeqCst) >= entries);
            }
            assert!(all.load(Ordering::SeqCst) <= 2 * most);
        }
        arrivals.stop();
        thread.join().unwrap();
        assert_eq!(all.load(Ordering::SeqCst), 0);
        let late = arrivals.arrive(reader(&arrivals, &all, 10_000)).await.unwrap();
        assert_eq!(all.load(Ordering::SeqCst), 10_000, "the thread has ended");
        drop(late);
        assert_eq!(all.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_small_reader_comes_and_goes_at_once_and_a_large_one_waits_for_the_thread() {
        let (arrivals, all) = (Arrivals::default(), All::default());
        drop(arrivals.arrive(reader(&arrivals, &all, AT_ONCE)).await.unwrap());
        assert_eq!(all.load(Ordering::SeqCst), 0);
        let mut large = Box::pin(arrivals.arrive(reader(&arrivals, &all, 1_000)));
        assert!(futures_util::poll!(large.as_mut()).is_pending());
        assert_eq!(all.load(Ordering::SeqCst), AT_ONCE);
        let thread = usher(&arrivals);
        let large = large.await.unwrap();
        assert_eq!(all.load(Ordering::SeqCst), 1_000);
        drop(large);
        arrivals.stop();
        thread.join().unwrap();
        assert_eq!(all.load(Ordering::SeqCst), 0);
    }

    /// A leftover of more than one step, which notes the thread that has dropped it.
    #[derive(Debug)]
    struct Large(usize, Arc<Mutex<Option<std::thread::ThreadId>>>);

    impl Leftover for Large {
        fn take_out(&mut self, entries: usize) -> bool {
            self.0 = self.0.saturating_sub(entries);
            self.0 > 0
        }
    }

    impl Drop for Large {
        fn drop(&mut self) {
            *self.1.lock().unwrap() = Some(std::thread::current().id());
        }
    }

    /// Goal: a reader that comes removes the last entries of a large leftover, and the thread drops
    /// it.
    #[tokio::test]
    async fn what_was_large_is_dropped_by_the_thread_whoever_takes_out_the_last_of_it() {
        let (arrivals, all, dropped) = (Arrivals::default(), All::default(), Arc::default());
        arrivals.leave(Large(2 * AT_ONCE, Arc::clone(&dropped)));
        drop(arrivals.arrive(reader(&arrivals, &all, 1)).await.unwrap());
        assert_eq!(*dropped.lock().unwrap(), None);
        let thread = usher(&arrivals);
        let id = thread.thread().id();
        arrivals.stop();
        thread.join().unwrap();
        assert_eq!(*dropped.lock().unwrap(), Some(id));
    }

    /// A reader that comes in two steps, of which the second one panics.
    #[derive(Debug)]
    struct Panics(bool);

    impl Arrival for Panics {
        fn put_in(&mut self, _entries: usize) -> Result<bool> {
            assert!(!std::mem::replace(&mut self.0, true), "injected");
            Ok(true)
        }
    }

    /// Goal: if the thread panics, nobody waits for it for ever.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn when_the_thread_panics_nobody_waits_for_it_and_who_comes_later_does_it_alone() {
        let (arrivals, all) = (Arrivals::default(), All::default());
        let mut waiting = Box::pin(arrivals.arrive(Panics(false)));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        let mut behind = Box::pin(arrivals.arrive(reader(&arrivals, &all, 1_000)));
        assert!(futures_util::poll!(behind.as_mut()).is_pending());
        let failure = BrokerFailure::default();
        let thread = std::thread::spawn({
            let (arrivals, failure) = (arrivals.clone(), failure.clone());
            move || arrivals.run(&failure)
        });
        assert!(matches!(waiting.await, Err(Error::ShuttingDown)));
        assert!(matches!(behind.await, Err(Error::ShuttingDown)));
        thread.join().unwrap_err();
        assert!(failure.error().is_some());
        assert_eq!(all.load(Ordering::SeqCst), 0);
        let late = arrivals.arrive(reader(&arrivals, &all, 1_000)).await.unwrap();
        assert_eq!(all.load(Ordering::SeqCst), 1_000);
        drop(late);
        assert_eq!(all.load(Ordering::SeqCst), 0);
    }
}
