//! A well-behaved publisher and a well-behaved follower beside an attack: whether they fail, and
//! how long they wait.
//!
//! # Why
//!
//! Both run on a thread of their own, so that they do not wait for the test's own work. A publish
//! is due every few milliseconds, and its delay counts from the time at which it was due. A publish
//! that waits therefore makes the following ones late, and a stall does not look like a few slow
//! events.

use std::collections::VecDeque;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use crate::common::{Frame, PATIENCE, Sse, to};

/// The time from one publish to the next.
const PAUSE: Duration = Duration::from_millis(10);

/// The bystander's topic, and the path of its events.
const TOPIC: &str = "bystander";
const EVENTS: &str = "/v1/topics/bystander/events";

/// The longest delay of 99 of 100 events, from the time at which an event was due until it was
/// received, on a noisy machine. Without optimisation, everything takes several times as long.
const P99: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 50 });

/// The least time of one measurement: a hundred events.
const ENOUGH: Duration = Duration::from_secs(1);

/// The number of tries: noise of the machine comes and goes, and a fault stays.
const TRIES: usize = 5;

/// A publisher and a follower at work, until the value is dropped.
pub(super) struct Bystander {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// The observations of the publisher and the follower.
#[derive(Default)]
struct Seen {
    /// The times at which events were due that have not been received yet, in order.
    due: VecDeque<Instant>,
    /// The number of received events in all.
    came: usize,
    /// The delays of the events that were received since the last report.
    delays: Vec<Duration>,
    failures: Vec<String>,
}

/// The observations of one measurement.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    pub(super) failures: Vec<String>,
    pub(super) events: usize,
    /// The longest delay of 99 of 100 events, from the time when an event was due to its receipt.
    pub(super) p99: Duration,
    /// The longest delay of all.
    pub(super) longest: Duration,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failures, events, p99, longest } = self;
        write!(f, "{events} events, p99 {p99:.1?}, longest {longest:.1?}, failures {failures:?}")
    }
}

impl Report {
    /// Whether both were served about as well as `before`, within the limits for any machine.
    fn is_well(&self, before: &Self) -> bool {
        let limit = P99.max(2 * before.p99).min(4 * P99);
        self.failures.is_empty() && self.events > 0 && self.p99 <= limit
    }
}

impl Bystander {
    /// Starts both, and waits for the first event.
    pub(super) async fn start(address: SocketAddr) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), CancellationToken::new());
        let work = {
            let (seen, stop) = (seen.clone(), stop.clone());
            move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let both = async {
                    let stream = Sse::follow(address, TOPIC, "?from=latest").await;
                    tokio::join!(publish(address, &seen), follow(address, stream, &seen))
                };
                runtime.block_on(stop.run_until_cancelled(both));
            }
        };
        let this = Self { seen, stop, thread: Some(std::thread::spawn(work)) };
        this.until(1).await;
        this.report().await;
        this
    }

    /// Returns the observations since the last report, after all events that are due by now have
    /// arrived.
    pub(super) async fn report(&self) -> Report {
        let due = {
            let seen = self.seen.lock().unwrap();
            seen.came + seen.due.len()
        };
        self.until(due).await;
        let mut seen = self.seen.lock().unwrap();
        let mut delays = std::mem::take(&mut seen.delays);
        delays.sort_unstable();
        let at = |share: f64| delays.get((delays.len() as f64 * share) as usize).copied();
        Report {
            failures: std::mem::take(&mut seen.failures),
            events: delays.len(),
            p99: at(0.99).unwrap_or_default(),
            longest: delays.last().copied().unwrap_or_default(),
        }
    }

    /// Runs `attack`, and returns its outcome and the observations during it.
    pub(super) async fn beside<T>(&self, attack: impl Future<Output = T>) -> (T, Report) {
        self.report().await;
        let outcome = attack.await;
        (outcome, self.report().await)
    }

    /// Goal of most attacks: others are served as well as without the attack. The attack is
    /// repeated for at least [`ENOUGH`]. Each of the tries is compared with a time without an
    /// attack right before it.
    ///
    /// # Panics
    ///
    /// If a publish or the follower fails, or each try is too slow.
    pub(super) async fn assert_unhurt<T, F: Future<Output = T>>(
        &self,
        mut attack: impl FnMut() -> F,
    ) -> T {
        for number in 1.. {
            let ((), before) = self.beside(tokio::time::sleep(ENOUGH)).await;
            let attacks = async {
                let started = Instant::now();
                loop {
                    let outcome = attack().await;
                    if started.elapsed() >= ENOUGH {
                        return outcome;
                    }
                }
            };
            let (outcome, report) = self.beside(attacks).await;
            println!("before: {before}; meanwhile: {report}");
            if report.is_well(&before) {
                return outcome;
            }
            assert!(report.failures.is_empty() && number < TRIES, "{before}; meanwhile: {report}");
        }
        unreachable!("the last try returns or panics")
    }

    /// Waits until `count` events have arrived, for at most [`PATIENCE`].
    async fn until(&self, count: usize) {
        let came = async {
            while self.seen.lock().unwrap().came < count {
                tokio::time::sleep(PAUSE / 2).await;
            }
        };
        if tokio::time::timeout(PATIENCE, came).await.is_err() {
            self.seen.lock().unwrap().fail(format!("events do not come for {PATIENCE:?}"));
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the bystander failed");
        }
    }
}

impl Seen {
    fn fail(&mut self, failure: String) {
        if self.failures.len() < 10 {
            self.failures.push(failure);
        }
    }
}

/// Publishes one event after another, over one connection as long as that lasts.
async fn publish(address: SocketAddr, seen: &Mutex<Seen>) {
    let client = HttpClient::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut due = tokio::time::Instant::now();
    loop {
        tokio::time::sleep_until(due).await;
        seen.lock().unwrap().due.push_back(due.into_std());
        let request = to(address, "POST", EVENTS).body(Full::from("x")).unwrap();
        let answered = async {
            let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let status = answer.status();
            let body = answer.into_body().collect().await.map_err(|error| error.to_string())?;
            match status {
                http::StatusCode::CREATED => Ok(()),
                status => Err(format!("{status}: {:?}", body.to_bytes())),
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        if let Err(failure) = answered.unwrap_or(Err("no answer".to_owned())) {
            let mut seen = seen.lock().unwrap();
            seen.due.pop_back();
            seen.fail(failure);
        }
        due += PAUSE;
    }
}

/// Records the arrival of each event.
async fn follow(address: SocketAddr, mut stream: Sse, seen: &Mutex<Seen>) {
    let mut sequence = None;
    loop {
        let Some(frame) = stream.next().await else {
            seen.lock().unwrap().fail("the stream ended".to_owned());
            let id = stream.last_id.take().unwrap_or_default();
            stream = Sse::resume(address, TOPIC, &id).await;
            continue;
        };
        let mut seen = seen.lock().unwrap();
        if !frame.is_event() {
            if frame.event.is_some() && !frame.is_control("leftoff.caught-up") {
                seen.fail(format!("{frame:?}"));
            }
            continue;
        }
        if sequence.is_some_and(|last: u64| frame.sequence() != last + 1) {
            seen.fail(format!("after {sequence:?} came {frame:?}"));
        }
        sequence = Some(Frame::sequence(&frame));
        seen.came += 1;
        let delay = seen.due.pop_front().map(|due| due.elapsed());
        seen.delays.extend(delay);
    }
}
