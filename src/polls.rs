//! The measure of how long tasks hold the workers of the runtime. Each poll of a task is measured.
//!
//! ```text
//! worker  ──[ poll of a ]──[ poll of b ]────────[ poll of a ]──▶
//!                           a works, and everybody else waits
//! ```
//!
//! # Why
//!
//! A worker runs one poll after the other. A task that works for long in one poll delays all
//! others, and nobody can tell which task it was, unless it reports so itself.
//!
//! Only processor time counts: on a busy machine the system may suspend a thread in the middle of a
//! short poll. Reading the processor time takes longer than many polls do. So each thread remembers
//! its last reading, and reads again only after a poll that took long by the wall clock. A short
//! poll costs two readings of the wall clock, about 60 ns.

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

/// The length from which a poll delays others: a publish takes less from end to end.
const LONG: Duration = Duration::from_millis(10);

/// The length from which people notice a poll.
const VERY_LONG: Duration = Duration::from_millis(100);

/// The greatest age of the reading of processor time that a thread remembers.
const MAX_AGE: Duration = Duration::from_millis(1);

/// A kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Reads and writes a connection. With HTTP/1.1, the task also answers its requests.
    Connection,
    /// Answers one request, up to the head of the answer: a part of a connection or a stream.
    Request,
    /// Answers one request over HTTP/2, up to the end of the answer.
    Stream,
    /// Sends an event stream over HTTP/1.1.
    EventStream,
    /// Serves a WebSocket.
    WebSocket,
    /// Decides on what consumers ask for, and stores it.
    Consumers,
}

impl Task {
    const ALL: [Self; 6] = [
        Self::Connection,
        Self::Request,
        Self::Stream,
        Self::EventStream,
        Self::WebSocket,
        Self::Consumers,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Request => "request",
            Self::Stream => "stream",
            Self::EventStream => "event_stream",
            Self::WebSocket => "websocket",
            Self::Consumers => "consumers",
        }
    }
}

/// The long polls of one kind of task.
#[derive(Debug)]
struct LongPolls {
    count: AtomicU64,
    longest_us: AtomicU64,
}

/// The long polls of each kind, in the order of [`Task::ALL`]. One for the process: its brokers
/// share the workers.
static HELD: [LongPolls; Task::ALL.len()] =
    [const { LongPolls { count: AtomicU64::new(0), longest_us: AtomicU64::new(0) } };
        Task::ALL.len()];

/// Returns for each kind of task its name, the number of polls longer than [`LONG`] since the
/// start, and the length of the longest one.
pub(crate) fn long_polls() -> [(&'static str, u64, Duration); Task::ALL.len()] {
    Task::ALL.map(|task| {
        let LongPolls { count, longest_us } = &HELD[task as usize];
        let longest = Duration::from_micros(longest_us.load(Ordering::Relaxed));
        (task.name(), count.load(Ordering::Relaxed), longest)
    })
}

/// The processor time that a thread had used at one moment.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    used: Duration,
}

impl Reading {
    fn now() -> Self {
        // The clock starts at 0 and only advances, so neither number is negative.
        let used = clock_gettime(ClockId::ThreadCPUTime);
        let used = Duration::new(used.tv_sec as u64, used.tv_nsec as u32);
        Self { at: Instant::now(), used }
    }

    /// Returns a reading from right before `now`.
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

    /// Returns the processor time that was used since `started`, or a little less. `started` is
    /// right after this reading.
    fn used_since(&self, started: Instant) -> Duration {
        let before = started.saturating_duration_since(self.at);
        Self::now().used.saturating_sub(self.used).saturating_sub(before)
    }
}

/// The time for which a task reads its input before other tasks get their turn on the worker.
///
/// A worker checks for new input after some turns. Where threads share a core, each turn may last
/// several times as long by the wall clock.
pub(crate) const MAX_TURN: Duration = Duration::from_micros(250);

thread_local! {
    /// The time at which the poll that runs on this thread began.
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A running poll. The field is the start of the poll around this one on the same thread, if there
/// is one.
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

/// Whether the poll that runs on this thread has lasted so long that other tasks are to get their
/// turn. A task that gets `true` wakes itself, and continues in its next poll.
pub(crate) fn is_turn_over() -> bool {
    TURN.get().is_some_and(|started| started.elapsed() >= MAX_TURN)
}

/// Yields to other tasks, if the poll that runs on this thread has lasted long.
pub(crate) async fn rest() {
    if is_turn_over() {
        tokio::task::yield_now().await;
    }
}

/// Returns the outcome of another task. A panic of that task continues in the caller.
///
/// # Cancel safety
///
/// The same as that of `task`.
pub(crate) async fn joined<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match task.await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is stopping, and this task with it.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

pin_project! {
    /// A future that is polled only while its task's turn lasts. A task that waits for many futures
    /// at once uses it: otherwise all futures that are ready would continue in the same poll.
    #[derive(Debug)]
    pub(crate) struct InTurn<F> {
        #[pin]
        future: F,
    }
}

/// Polls `future` only while the turn of its task lasts.
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
    /// A future whose polls are measured. A long poll is logged together with `about`.
    #[derive(Debug)]
    pub(crate) struct Timed<F, A> {
        task: Task,
        about: A,
        #[pin]
        future: F,
    }
}

/// Measures the polls of `future`, the work of a task.
pub(crate) fn timed<F: Future>(task: Task, future: F) -> Timed<F, ()> {
    timed_about(task, (), future)
}

/// Measures as [`timed`] does, and logs `about` with each long poll.
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
            warn_of_long_poll(*this.task, this.about, took, before.used_since(started));
        }
        polled
    }
}

#[cold]
fn warn_of_long_poll(task: Task, about: &dyn Debug, took: Duration, used: Duration) {
    if used < LONG {
        return; // The system suspended the thread meanwhile.
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

    /// Goal: a poll counts by its processor time, under the name of its task. A thread that sleeps
    /// or is suspended counts for nothing.
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

    /// Goal: however many futures of a task are ready at the same time, the task does not complete
    /// all of them in one poll, and each gets its turn.
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

    /// Goal: a long poll is counted for a task within another one, and for the outer one.
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
