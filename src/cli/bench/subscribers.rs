//! Many SSE subscribers on one thread, so that the broker keeps the rest of the machine: sockets
//! and requests by hand, one buffer for all of them, and a hundred and some bytes of state each.
//!
//! Each checks that its ids go up by one. What they see is added up in one [`Tally`].

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

use super::event_stream::{Delivery, EventStream};
use super::process::Target;
use super::report::{self, Report};
use super::{OPENING_TIMEOUT, latency_histogram, wall_ns};
use crate::cli::{CliError, CliResult, Failure};

/// Connections that are being opened at once: well below 128, the backlog that listening sockets
/// often have, for what does not fit in it is tried again by the system after a whole second.
const MAX_OPENING: usize = 64;

/// What one read takes at the most.
const BUFFER_BYTES: usize = 256 << 10;

/// How often the tally is looked at. Times in it do not depend on that.
const LOOK: Duration = Duration::from_millis(5);

/// The thread that all subscribers are on. They end with it.
pub(super) struct LoadThread {
    tasks: Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl LoadThread {
    pub(super) fn start() -> CliResult<Self> {
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

/// What the clients of a group saw. Times are in nanoseconds since 1970.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) opened: u64,
    pub(super) last_opened_ns: u64,
    /// Connections that could not be opened, or ended.
    pub(super) failed: u64,
    /// Why the first of them did.
    problem: Option<String>,
    pub(super) deliveries: u64,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    gaps: u64,
    repeats: u64,
    latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> CliResult<Self> {
        Ok(Self {
            opened: 0,
            last_opened_ns: 0,
            failed: 0,
            problem: None,
            deliveries: 0,
            first_ns: 0,
            last_ns: 0,
            gaps: 0,
            repeats: 0,
            latency_us: latency_histogram()?,
        })
    }

    fn note(&mut self, cursor: &mut u64, delivery: Delivery, now_ns: u64) {
        let Delivery { sequence, published_ns } = delivery;
        if sequence <= *cursor {
            self.repeats += 1;
        } else if sequence > *cursor + 1 {
            self.gaps += 1;
        }
        *cursor = sequence.max(*cursor);
        if self.deliveries == 0 {
            self.first_ns = now_ns;
        }
        self.last_ns = now_ns;
        self.deliveries += 1;
        if let Some(published_ns) = published_ns {
            self.latency_us.saturating_record(now_ns.saturating_sub(published_ns) / 1_000);
        }
    }

    fn note_failed(&mut self, problem: String) {
        self.failed += 1;
        self.problem.get_or_insert(problem);
    }

    /// Deliveries a second, from the first one to the last one.
    pub(super) fn deliveries_per_second(&self) -> Result<f64, &'static str> {
        match self.last_ns.saturating_sub(self.first_ns) {
            0 => Err("too few for a rate"),
            elapsed_ns => Ok(self.deliveries as f64 * 1e9 / elapsed_ns as f64),
        }
    }
}

/// What must not happen, and how often it did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    gaps: u64,
    repeats: u64,
    missing: u64,
}

impl Faults {
    /// Adds those of a group that lacks `missing` deliveries.
    pub(super) fn add(&mut self, group: &Group, missing: u64) {
        let (gaps, repeats) = group.look(|tally| (tally.gaps, tally.repeats));
        self.gaps += gaps;
        self.repeats += repeats;
        self.missing += missing;
    }

    pub(super) fn report(self, report: &mut Report) {
        let none = Some(report::Target::AtMost(0.0));
        report.add_with(("gaps", "gaps"), Ok(self.gaps as f64), "", none);
        report.add_with(("repeats", "repeats"), Ok(self.repeats as f64), "", none);
        report.add_with(("missing", "missing deliveries"), Ok(self.missing as f64), "", none);
    }

    /// Fails if there are any, or a connection of `groups` failed.
    pub(super) fn judge(self, groups: &[&Group]) -> CliResult {
        if let Some(problem) = groups.iter().find_map(|group| group.problem()) {
            return Err(CliError::new(Failure::Unreachable, problem));
        }
        let Self { gaps, repeats, missing } = self;
        if gaps + repeats + missing == 0 {
            return Ok(());
        }
        let message = format!("{gaps} gaps, {repeats} repeats, {missing} missing deliveries");
        Err(CliError::new(Failure::Other, message))
    }
}

struct State {
    tally: Tally,
    /// Whoever's turn it is reads into it.
    buffer: Vec<u8>,
}

/// Clients that follow one topic.
pub(super) struct Group {
    clients: u64,
    state: Arc<Mutex<State>>,
}

impl Group {
    /// Begins to open `clients` subscriptions of `topic`: of what comes, or after `last_event_id`.
    pub(super) fn open(
        thread: &LoadThread,
        target: &Target,
        topic: &str,
        clients: u64,
        last_event_id: Option<u64>,
    ) -> CliResult<Self> {
        let resume = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n"));
        let request: Arc<str> = format!(
            "GET /v1/topics/{topic}/events HTTP/1.1\r\nHost: {}\r\n\
             Accept: text/event-stream\r\n{}\r\n",
            target.host,
            resume.unwrap_or_default()
        )
        .into();
        let tally = Tally::new()?;
        let state = Arc::new(Mutex::new(State { tally, buffer: vec![0; BUFFER_BYTES] }));
        let opening = Arc::new(Semaphore::new(MAX_OPENING));
        let address = target.address;
        for _ in 0..clients {
            let (state, opening, request) = (state.clone(), opening.clone(), request.clone());
            thread.tasks.spawn(async move {
                let followed = follow(&state, &opening, address, &request).await;
                if let Err(problem) = followed {
                    lock(&state).tally.note_failed(problem);
                }
            });
        }
        Ok(Self { clients, state })
    }

    /// Looks at the tally, shortly: the clients wait.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut Tally) -> T) -> T {
        look(&mut lock(&self.state).tally)
    }

    /// Waits until every client has its subscription.
    pub(super) async fn all_open(&self) -> CliResult {
        let is_in_time = self.wait(OPENING_TIMEOUT, |tally| tally.opened >= self.clients).await;
        let (opened, problem) = self.look(|tally| (tally.opened, tally.problem.clone()));
        if is_in_time && problem.is_none() {
            return Ok(());
        }
        let why = problem.unwrap_or_else(|| format!("{OPENING_TIMEOUT:?} were too short"));
        let message = format!("{opened} of {} clients could subscribe: {why}", self.clients);
        Err(CliError::new(Failure::Unreachable, message))
    }

    /// Waits until there are this many deliveries, or one client has failed, or `bound` is over;
    /// how many are missing.
    pub(super) async fn all_delivered(&self, count: u64, bound: Duration) -> u64 {
        self.wait(bound, |tally| tally.deliveries >= count).await;
        self.look(|tally| count.saturating_sub(tally.deliveries))
    }

    /// Why a connection failed, if one did.
    pub(super) fn problem(&self) -> Option<String> {
        self.look(|tally| {
            let problem = tally.problem.as_ref()?;
            Some(format!("{} connections failed, the first one as {problem}", tally.failed))
        })
    }

    /// The latencies up to here; what comes from now on is counted anew.
    pub(super) fn take_latency(&self) -> CliResult<Histogram<u64>> {
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

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One client: subscribes, then reads for as long as there is something.
async fn follow(
    state: &Mutex<State>,
    opening: &Semaphore,
    address: SocketAddr,
    request: &str,
) -> Result<(), String> {
    let opened = async {
        let _permit = opening.acquire().await.map_err(|error| error.to_string())?;
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let mut client = Client { socket, stream: EventStream::new(), cursor: None };
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

struct Client {
    socket: TcpStream,
    stream: EventStream,
    /// The last sequence that it saw, once it saw one.
    cursor: Option<u64>,
}

impl Client {
    /// Takes what one read brings.
    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        state: &Mutex<State>,
    ) -> Poll<Result<(), String>> {
        let State { tally, buffer } = &mut *lock(state);
        let mut read = ReadBuf::new(buffer);
        let result = ready!(Pin::new(&mut self.socket).poll_read(context, &mut read));
        result.map_err(|error| error.to_string())?;
        if read.filled().is_empty() {
            return Poll::Ready(Err("the server closed it".to_owned()));
        }
        // One look at the clock for all events of a read: they came together.
        let (now_ns, cursor) = (wall_ns(), &mut self.cursor);
        Poll::Ready(self.stream.take(read.filled(), |start, delivery| {
            let cursor = cursor.get_or_insert(start.unwrap_or(0));
            tally.note(cursor, delivery, now_ns);
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repeats_are_told_apart() {
        let mut tally = Tally::new().unwrap();
        let mut cursor = 10;
        for sequence in [11, 12, 12, 14, 13, 15, 0] {
            let published_ns = Some(1_000_000);
            tally.note(&mut cursor, Delivery { sequence, published_ns }, 3_000_000);
        }
        assert_eq!((cursor, tally.deliveries, tally.gaps, tally.repeats), (15, 7, 1, 3));
        assert_eq!(tally.latency_us.max(), 2_000);
    }
}
