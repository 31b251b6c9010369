//! Turns at reading the log: every read takes a turn, is divided into short steps, and ends when
//! its caller is gone.
//!
//! ```text
//! caller A ─ step ─ waits ────── step ─ done      as many steps at the same time
//! caller B ──────── step ─ gone                   as there are turns
//! ```
//!
//! # Why
//!
//! A read runs on a thread that may block, and a thread cannot be stopped from outside. So a long
//! read is done in steps of a few milliseconds. Each step waits for a turn of its own, behind the
//! steps of all other reads: a long read delays others by one step at the most. The turn goes with
//! the step to its thread, so there are never more threads than turns, also when callers come and
//! go. A caller that is gone starts no further step, and the step that it has begun ends soon.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::open_log::OpenLog;
use crate::error::{Error, Result};
use crate::log::Log;

/// The longest time of one step, after which others have their turn.
const MAX_STEP: Duration = Duration::from_millis(5);

/// The turns at reading a log. Cheap to clone; all clones share the same turns.
#[derive(Clone)]
pub(super) struct Turns {
    log: OpenLog,
    free: Arc<Semaphore>,
    /// The number of steps that were begun.
    steps: Arc<AtomicU64>,
}

/// One turn, for one step of a read.
pub(super) struct ReadTurn<'a> {
    turns: &'a Turns,
    permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").field("free", &self.free.available_permits()).finish()
    }
}

/// The caller of a step, as the step sees it: it may be gone.
struct ReadCaller(Weak<()>);

impl ReadCaller {
    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Turns {
    /// Returns turns for `max_reads` reads of `log` at the same time.
    pub(super) fn new(log: OpenLog, max_reads: usize) -> Self {
        Self { log, free: Arc::new(Semaphore::new(max_reads)), steps: Arc::default() }
    }

    /// Waits for a turn. Turns are given in the order in which they were asked for.
    pub(super) async fn take(&self) -> ReadTurn<'_> {
        let permit = self.free.clone().acquire_owned().await.expect("it is never closed");
        ReadTurn { turns: self, permit }
    }

    /// Returns a turn, if one is free and nobody waits for it.
    pub(super) fn try_take(&self) -> Option<ReadTurn<'_>> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(ReadTurn { turns: self, permit })
    }

    /// Returns the number of steps that were begun since the start.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Does a short read in a turn: some blocks of bounded size, or a binary search.
    ///
    /// # Errors
    ///
    /// Those of `read`; [`Error::ReadFailed`] if `read` panics; [`Error::ShuttingDown`] once the
    /// log is closed; [`Error::NoRuntime`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while it waits for its turn, nothing is read.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Log) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.take().await.read(read).await
    }

    /// Does a long read: calls `read` again and again until it breaks with the outcome, and lets
    /// others read in between. One call is a short read.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, `read` is not called again. A call that was begun goes on to its
    /// end.
    pub(super) async fn read_long<T: Send + 'static>(
        &self,
        mut read: impl FnMut(&dyn Log) -> Result<ControlFlow<T>> + Send + 'static,
    ) -> Result<T> {
        loop {
            let step = move |log: &dyn Log, caller: &ReadCaller| {
                let started = Instant::now();
                loop {
                    if let ControlFlow::Break(done) = read(log)? {
                        return Ok(ControlFlow::Break(done));
                    }
                    if started.elapsed() >= MAX_STEP || caller.is_gone() {
                        return Ok(ControlFlow::Continue(read));
                    }
                }
            };
            match self.take().await.run(step).await? {
                ControlFlow::Break(done) => return Ok(done),
                ControlFlow::Continue(rest) => read = rest,
            }
        }
    }
}

impl ReadTurn<'_> {
    /// Does a short read.
    ///
    /// # Errors
    ///
    /// As [`Turns::read`].
    pub(super) async fn read<T: Send + 'static>(
        self,
        read: impl FnOnce(&dyn Log) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |log, _caller| read(log)).await
    }

    async fn run<T: Send + 'static>(
        self,
        step: impl FnOnce(&dyn Log, &ReadCaller) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let waiting = Arc::new(()); // Dropped with this future.
        let caller = ReadCaller(Arc::downgrade(&waiting));
        let Self { turns, permit } = self;
        let (log, steps) = (turns.log.clone(), turns.steps.clone());
        let runtime = Handle::try_current().map_err(|_outside| Error::NoRuntime)?;
        let running = runtime.spawn_blocking(move || {
            if caller.is_gone() {
                return (Err(Error::ShuttingDown), permit); // Nobody gets this error.
            }
            steps.fetch_add(1, Ordering::Relaxed);
            (log.step(|log| step(log, &caller)), permit)
        });
        let done = running.await;
        drop(waiting);
        // The turn is over when the caller has the outcome, or when the outcome is dropped.
        done.map_or_else(|error| Err(Error::ReadFailed(error.into())), |(read, _turn)| read)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::log::MemoryLog;

    fn turns(max_reads: usize) -> Turns {
        Turns::new(OpenLog::new(Arc::new(MemoryLog::default())), max_reads)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Waits until `holds` returns true. `what` names the condition in the panic.
    async fn until(what: &str, holds: impl Fn() -> bool) {
        let wait = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect(what);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn reads_that_nobody_waits_for_end_and_no_more_run_than_there_are_turns() {
        let turns = turns(2);
        let (running, most, calls) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::default());
        let endless = || {
            let (turns, running, most) = (turns.clone(), running.clone(), most.clone());
            let calls: Arc<AtomicU64> = Arc::clone(&calls);
            tokio::spawn(async move {
                let read = move |_: &dyn Log| {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    calls.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(ControlFlow::<()>::Continue(()))
                };
                turns.read_long(read).await
            })
        };
        let readers: Vec<_> = (0..60).map(|_| endless()).collect();
        until("the readers read", || calls.load(Ordering::SeqCst) > 20).await;
        // Some come and go at once, while the turns are taken.
        (0..60).map(|_| endless()).for_each(|reader| reader.abort());
        readers.iter().for_each(|reader| reader.abort());
        until("all reads end", || turns.free.available_permits() == 2).await;
        let read = calls.load(Ordering::SeqCst);
        tokio::time::timeout(PATIENCE, turns.read(|_| Ok(()))).await.expect("a turn").unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), read, "a read goes on");
        assert_eq!(most.load(Ordering::SeqCst), 2, "reads at the same time");
    }

    #[tokio::test]
    async fn a_read_that_panics_is_an_error_and_gives_its_turn_back() {
        let turns = turns(1);
        let failed = turns.read(|_| -> Result<()> { panic!("injected") }).await;
        assert!(matches!(failed, Err(Error::ReadFailed(_))), "{failed:?}");
        let read = tokio::time::timeout(PATIENCE, turns.read(|_| Ok(7))).await.expect("a turn");
        assert_eq!(read.unwrap(), 7);
    }

    /// Goal: other reads get turns during a long read.
    #[tokio::test]
    async fn a_long_read_is_cut_into_steps_between_which_others_read() {
        let turns = turns(1);
        let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (long, other) = (turns.clone(), is_over.clone());
        let long = tokio::spawn(async move {
            let read = move |_: &dyn Log| {
                std::thread::sleep(Duration::from_millis(1));
                let is_over = other.load(Ordering::SeqCst);
                Ok(if is_over { ControlFlow::Break("over") } else { ControlFlow::Continue(()) })
            };
            long.read_long(read).await.unwrap()
        });
        until("the read begins", || turns.steps() > 0).await;
        tokio::time::timeout(PATIENCE, turns.read(|_| Ok(()))).await.expect("a turn").unwrap();
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(tokio::time::timeout(PATIENCE, long).await.unwrap().unwrap(), "over");
        assert!(turns.steps() > 2);
    }
}
