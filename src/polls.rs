//! How long tasks hold the workers of the runtime: each of their polls is timed.
//!
//! ```text
//! worker  ──[ poll of a ]──[ poll of b ]────────[ poll of a ]──▶
//!                           a works, and everybody else waits
//! ```
//!
//! # Why
//!
//! A worker does one poll after the other. A task that works for long in one of them holds up all
//! others, and nobody can tell which one it was, if it does not say so itself.
//!
//! Only time on the processor counts: on a busy machine a thread is put aside now and then in the
//! middle of the shortest poll. To ask for that time costs more than many a poll takes, so each
//! thread remembers what it was a moment ago, and asks again only after a poll that took long by
//! the clock on the wall: a poll that is short costs two looks at that clock, some 60 ns.

use std::cell::Cell;
use std::fmt::Debug;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinError;
use tracing::{debug, warn};

/// A poll that takes longer holds others up: publishing takes less from end to end.
const LONG: Duration = Duration::from_millis(10);

/// A poll that takes longer is something that people notice.
const VERY_LONG: Duration = Duration::from_millis(100);

/// How old the processor's time may be that a thread remembers.
const MAX_AGE: Duration = Duration::from_millis(1);

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Reads and writes a connection; over HTTP/1.1 it answers its requests, too.
    Connection,
    /// Answers one request, up to the head of the answer. It is a part of a connection or a stream.
    Request,
    /// Answers one request over HTTP/2, up to the end of the answer.
    Stream,
    /// Sends an event stream over HTTP/1.1.
    EventStream,
    /// Serves a WebSocket.
    WebSocket,
}

impl Task {
    const ALL: [Self; 5] =
        [Self::Connection, Self::Request, Self::Stream, Self::EventStream, Self::WebSocket];

    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Stream => "stream",
            Self::EventStream => "event_stream",
            Self::WebSocket => "websocket",
        }
    }
}

/// The long polls of one kind of task.
#[derive(Debug)]
struct Held {
    count: AtomicU64,
    longest_us: AtomicU64,
}

/// Those of each, in the order of [`Task::ALL`], of this process: its brokers share the workers.
static HELD: [Held; Task::ALL.len()] =
    [const { Held { count: AtomicU64::new(0), longest_us: AtomicU64::new(0) } }; Task::ALL.len()];

/// For each kind of task its name, how many polls took longer than [`LONG`] since the start, and
/// how long the longest of these took.
pub(crate) fn long_polls() -> [(&'static str, u64, Duration); Task::ALL.len()] {
    Task::ALL.map(|task| {
        let Held { count, longest_us } = &HELD[task as usize];
        let longest = Duration::from_micros(longest_us.load(Ordering::Relaxed));
        (task.name(), count.load(Ordering::Relaxed), longest)
    })
}

/// The processor's time that a thread had used at a moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    used: Duration,
}

impl Reading {
    fn now() -> Self {
        // The numbers of a clock that only runs forward from nothing.
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let used = Duration::new(used.tv_sec as u64, used.tv_nsec as u32);
        Self { at: Instant::now(), used }
    }

    /// One from right before `now`.
    fn before(now: Instant) -> Self {
        thread_local! {
            static LAST: Cell<Option<Reading>> = const { Cell::new(None) };
        }
        let last = LAST.get().filter(|last| now.saturating_duration_since(last.at) <= MAX_AGE);
        last.unwrap_or_else(|| {
            let read = Self::now();
            LAST.set(Some(read));
            read
        })
    }

    /// What was used since `started`, which is right after this: this much at the least.
    fn used_since(&self, started: Instant) -> Duration {
        let before = started.saturating_duration_since(self.at);
        Self::now().used.saturating_sub(self.used).saturating_sub(before)
    }
}

/// How long a task reads what has come for it before others have their turn on the worker.
///
/// A worker looks for what has come in after some turns, and each may last several times as long by
/// the clock on the wall, where threads share a core.
pub(crate) const MAX_TURN: Duration = Duration::from_micros(250);

thread_local! {
    /// When the poll began that runs on this thread.
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A poll, while it runs, and what ran on the thread before it: the task that it is a part of.
struct Turn(Option<Instant>);

impl Turn {
    fn begin(started: Instant) -> Self {
        let outer = TURN.get();
        TURN.set(outer.or(Some(started)));
        Self(outer)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURN.set(self.0); // Also when the poll panics.
    }
}

/// Whether the poll that runs on this thread has lasted so long that others are to have their turn.
/// A task that asks wakes itself, and goes on in its next poll.
pub(crate) fn is_turn_over() -> bool {
    TURN.get().is_some_and(|started| started.elapsed() >= MAX_TURN)
}

/// Lets others have their turn, if the poll that runs on this thread has lasted long.
pub(crate) async fn rest() {
    if is_turn_over() {
        tokio::task::yield_now().await;
    }
}

/// What another task has come to. Its panic is one of the caller.
///
/// # Cancel safety
///
/// That of `task`.
pub(crate) async fn joined<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

pin_project! {
    /// A future that is polled while its task's turn lasts. One of many that a task waits for at
    /// the same time: else all that are ready go on in the same poll.
    #[derive(Debug)]
    pub(crate) struct InTurn<F> {
        #[pin]
        future: F,
    }
}

/// Polls `future` while the turn of its task lasts.
pub(crate) fn in_turn<F: Future>(future: F) -> InTurn<F> {
    InTurn { future }
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if is_turn_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.project().future.poll(cx)
    }
}

pin_project! {
    /// A future whose polls are timed. `about` is told in the log with those that are long.
    #[derive(Debug)]
    pub(crate) struct Timed<F, A> {
        task: Task,
        about: A,
        #[pin]
        future: F,
    }
}

/// Times the polls of `future`, which is what a task does.
pub(crate) fn timed<F: Future>(task: Task, future: F) -> Timed<F, ()> {
    timed_about(task, (), future)
}

/// As [`timed`], and tells of something in the log with each poll that is long.
pub(crate) fn timed_about<F: Future, A: Debug>(task: Task, about: A, future: F) -> Timed<F, A> {
    Timed { task, about, future }
}

impl<F: Future, A: Debug> Future for Timed<F, A> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let started = Instant::now();
        let before = Reading::before(started);
        let turn = Turn::begin(started);
        let polled = this.future.poll(cx);
        drop(turn);
        let took = started.elapsed();
        if took >= LONG {
            note(*this.task, this.about, took, before.used_since(started));
        }
        polled
    }
}

#[cold]
fn note(task: Task, about: &dyn Debug, took: Duration, used: Duration) {
    if used < LONG {
        return; // The thread was put aside.
    }
    let held = &HELD[task as usize];
    held.count.fetch_add(1, Ordering::Relaxed);
    held.longest_us.fetch_max(used.as_micros() as u64, Ordering::Relaxed);
    let (task, used_ms, took_ms) = (task.name(), used.as_millis(), took.as_millis());
    if used >= VERY_LONG {
        warn!(task, ?about, used_ms, took_ms, "a task held its worker for long");
    } else {
        debug!(task, ?about, used_ms, took_ms, "a task held its worker");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use futures_util::stream::FuturesUnordered;

    use super::*;

    fn work(time: Duration) {
        let before = Reading::now();
        while Reading::now().used - before.used < time {}
    }

    /// Goal: a poll counts for what it works, under the name of its task, and a thread that sleeps
    /// or is put aside counts for nothing.
    #[tokio::test]
    async fn polls_that_work_for_long_are_counted_and_others_are_not() {
        let of_streams = || long_polls()[Task::EventStream as usize];
        timed(Task::EventStream, async { std::thread::sleep(3 * LONG) }).await;
        timed(Task::EventStream, async {
            for _ in 0..20 {
                work(LONG / 20);
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(of_streams(), ("event_stream", 0, Duration::ZERO));
        timed(Task::EventStream, async {
            work(3 * LONG);
            tokio::task::yield_now().await;
            work(2 * LONG);
        })
        .await;
        let (_, count, longest) = of_streams();
        assert_eq!(count, 2);
        assert!(longest >= 3 * LONG - MAX_AGE, "{longest:?}");
    }

    /// Goal: however many futures of a task are ready at the same time, it does not do all of them
    /// in one poll, and each has its turn.
    #[tokio::test]
    async fn futures_of_one_task_that_are_all_ready_are_done_in_several_polls() {
        let of_streams = async {
            let work = |number| async move {
                work(LONG / 4);
                number
            };
            let mut all: FuturesUnordered<_> = (0..40).map(|n| in_turn(work(n))).collect();
            let mut done = Vec::new();
            while let Some(number) = all.next().await {
                done.push(number);
                rest().await;
            }
            done.sort_unstable();
            assert_eq!(done, Vec::from_iter(0..40));
        };
        timed(Task::Stream, of_streams).await;
        assert_eq!(long_polls()[Task::Stream as usize].1, 0);
    }

    /// Goal: a task within another one is found, and the other one with it.
    #[tokio::test]
    async fn a_long_poll_within_another_counts_for_both() {
        let outer = timed(Task::WebSocket, async {
            work(LONG / 2);
            timed_about(Task::Request, "inner", async { work(LONG + MAX_AGE) }).await;
        });
        outer.await;
        let counts = long_polls().map(|(_, count, _)| count);
        assert_eq!((counts[Task::WebSocket as usize], counts[Task::Request as usize]), (1, 1));
    }
}
