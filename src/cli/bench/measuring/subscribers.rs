//! Many SSE subscribers on one thread, so that the broker has the rest of the machine. They write
//! their requests to plain sockets, share one buffer, and have little more than 100 bytes of state
//! each.
//!
//! Each subscriber checks that its ids rise by one. All deliveries are counted in one [`Tally`].

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::event_stream::SseAnswer;
use super::latency::{latency_histogram, wall_ns};
use super::process::MeasuredBroker;
use super::tally::Tally;
use crate::cli::failure::{CliError, CliResult, ExitReason};

/// The longest time for opening all connections.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);

/// The connections that are opened at the same time: well below 128, a common backlog of listening
/// sockets. The system retries a connection that does not fit only after a second.
const MAX_OPENING: usize = 64;

/// The most bytes of one read.
const BUFFER_BYTES: usize = 256 << 10;

/// The time between two looks at the tally. The times in the tally do not depend on this time.
const LOOK: Duration = Duration::from_millis(5);

/// The thread of all subscribers. They end with it.
pub(in crate::cli::bench) struct LoadThread {
    tasks: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl LoadThread {
    pub(in crate::cli::bench) fn start() -> CliResult<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tasks, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("subscribers".to_owned());
        let thread = thread.spawn(move || runtime.block_on(stopped.cancelled()))?;
        Ok(Self { tasks, stop, thread: Some(thread) })
    }
}

impl Drop for LoadThread {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _a_panic_was_printed = thread.join();
        }
    }
}

struct FollowersState {
    tally: Tally,
    /// The buffer into which each follower reads in its turn.
    buffer: Vec<u8>,
}

/// Clients that follow one topic.
pub(in crate::cli::bench) struct Followers {
    clients: u64,
    state: Arc<Mutex<FollowersState>>,
}

impl Followers {
    /// Begins to open `clients` subscriptions to `topic`: to new events, or after `last_event_id`.
    pub(in crate::cli::bench) fn open(
        thread: &LoadThread,
        target: &MeasuredBroker,
        topic: &str,
        clients: u64,
        last_event_id: Option<u64>,
    ) -> CliResult<Self> {
        let resume = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n"));
        let request: Arc<str> = format!(
            "GET /v1/topics/{topic}/events HTTP/1.1\r\nHost: {}\r\n\
             Accept: text/event-stream\r\n{}{}\r\n",
            target.host,
            target.credential_lines,
            resume.unwrap_or_default()
        )
        .into();
        let tally = Tally::new()?;
        let state = Arc::new(Mutex::new(FollowersState { tally, buffer: vec![0; BUFFER_BYTES] }));
        let opening = Arc::new(Semaphore::new(MAX_OPENING));
        let address = target.address;
        for _ in 0..clients {
            let (state, opening, request) = (state.clone(), opening.clone(), request.clone());
            thread.tasks.spawn(async move {
                let followed = follow(&state, &opening, address, &request).await;
                if let Err(problem) = followed {
                    lock(&state).tally.count_failed(problem);
                }
            });
        }
        Ok(Self { clients, state })
    }

    /// Calls `look` with the tally. The followers wait meanwhile, so the call should be short.
    pub(in crate::cli::bench) fn look<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut lock(&self.state).tally)
    }

    /// Waits until every client has its subscription.
    pub(in crate::cli::bench) async fn all_open(&self) -> CliResult {
        let is_in_time = self.wait(OPENING_TIMEOUT, |tally| tally.opened >= self.clients).await;
        let (opened, problem) = self.look(|tally| (tally.opened, tally.problem.clone()));
        if is_in_time && problem.is_none() {
            return Ok(());
        }
        let why = problem.unwrap_or_else(|| format!("{OPENING_TIMEOUT:?} were too short"));
        let message = format!("{opened} of {} clients could subscribe: {why}", self.clients);
        Err(CliError::new(ExitReason::Unreachable, message))
    }

    /// Waits until there are `count` deliveries, or one client has failed, or `bound` is over.
    /// Returns the number of missing deliveries.
    pub(in crate::cli::bench) async fn all_delivered(&self, count: u64, bound: Duration) -> u64 {
        self.wait(bound, |tally| tally.deliveries >= count).await;
        self.look(|tally| count.saturating_sub(tally.deliveries))
    }

    /// Returns the reason for which a connection failed, if one did.
    pub(in crate::cli::bench) fn problem(&self) -> Option<String> {
        self.look(|tally| {
            let problem = tally.problem.as_ref()?;
            Some(format!("{} connections failed, the first one as {problem}", tally.failed))
        })
    }

    /// Returns the latencies so far, and begins a new histogram.
    pub(in crate::cli::bench) fn take_latency(&self) -> CliResult<Histogram<u64>> {
        let empty = latency_histogram()?;
        Ok(self.look(|tally| std::mem::replace(&mut tally.latency_us, empty)))
    }

    async fn wait(&self, bound: Duration, is_done: impl Fn(&Tally) -> bool) -> bool {
        let started = Instant::now();
        loop {
            let (is_done, is_hopeless) = self.look(|tally| (is_done(tally), tally.failed > 0));
            if is_done || is_hopeless || started.elapsed() > bound {
                return is_done;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn lock(state: &Mutex<FollowersState>) -> MutexGuard<'_, FollowersState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Subscribes, and then reads until the stream ends.
async fn follow(
    state: &Mutex<FollowersState>,
    opening: &Semaphore,
    address: SocketAddr,
    request: &str,
) -> Result<(), String> {
    let opened = async {
        let _permit = opening.acquire().await.map_err(|error| error.to_string())?;
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut client = Follower { socket, stream: SseAnswer::new(), cursor: None };
        let written = client.socket.write_all(request.as_bytes()).await;
        written.map_err(|error| error.to_string())?;
        while client.stream.start().is_none() {
            poll_fn(|context| client.poll_read(context, state)).await?;
        }
        let tally = &mut lock(state).tally;
        tally.opened += 1;
        tally.last_opened_ns = wall_ns();
        Ok::<_, String>(client)
    };
    let opened = tokio::time::timeout(OPENING_TIMEOUT, opened).await;
    let mut client = opened.map_err(|_elapsed| "the server does not answer".to_owned())??;
    loop {
        poll_fn(|context| client.poll_read(context, state)).await?;
    }
}

struct Follower {
    socket: TcpStream,
    stream: SseAnswer,
    /// The last sequence that the follower has seen.
    cursor: Option<u64>,
}

impl Follower {
    /// Reads once, and counts the events.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        state: &Mutex<FollowersState>,
    ) -> Poll<Result<(), String>> {
        let FollowersState { tally, buffer } = &mut *lock(state);
        let mut read = ReadBuf::new(buffer);
        let result = ready!(Pin::new(&mut self.socket).poll_read(context, &mut read));
        result.map_err(|error| error.to_string())?;
        if read.filled().is_empty() {
            return Poll::Ready(Err("the server closed it".to_owned()));
        }
        // The clock is read once for all events of a read, because they came together.
        let (now_ns, cursor) = (wall_ns(), &mut self.cursor);
        Poll::Ready(self.stream.take(read.filled(), |start, delivery| {
            let cursor = cursor.get_or_insert(start.unwrap_or(0));
            tally.count(cursor, delivery, now_ns);
        }))
    }
}
