//! One connection: finds out which HTTP it speaks, serves it, and ends it in order.
//!
//! ```text
//! socket ──▶ HTTP/2 ──▶ hyper, to the end
//!        └─▶ HTTP/1.1 ─▶ hyper parses the request ──▶ any answer: hyper writes it
//!                                                 └─▶ an event stream: `stream.rs` writes it
//! ```
//!
//! # Why
//!
//! An event stream is open for hours and sends little. Hyper holds two buffers of 8 KiB as long as
//! it has a connection, which is most of the memory of such a reader, and passes each write through
//! its state machine. So the socket is taken from hyper once it has parsed the request: 10,000 idle
//! streams take 4.7 KiB each (`cargo bench --bench idle`) instead of 32 KiB. With TLS they take
//! 11.9 KiB: rustls holds a buffer of 4 KiB for what it reads, 1.2 KiB for the connection, and
//! 2 KiB for its keys and queues.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use http::StatusCode;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::activity::{Activity, Look, Times};
use super::config::ServerConfig;
use super::listener::NewConnection;
use super::refusing::refuse;
use super::requests::{Requests, TakenOver};
use super::security::Security;
use super::socket::{Protocol, Socket};
use super::stalls::{StreamTasks, Streams};
use super::stream;
use super::transport::{SystemSocket, certificate};
use crate::edge::clients::{Admitted, Clients, KnownClient, Peer};
use crate::edge::counters::{Counters, TimeLimit};
use crate::edge::intake::Intake;
use crate::edge::rates::Rates;
use crate::edge::status;
use crate::edge::upgrades::Upgrades;
use crate::polls::{Task, timed};

/// The bytes that HTTP/2 lets a client send ahead, on one stream and on one connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// A client that takes no more bytes than this within the write timeout counts as stalled. Pings
/// are fewer bytes.
const MIN_TAKEN_BYTES: u64 = 256;

/// The most connections that are told at the same time that they are refused; others are closed
/// without an answer.
const MAX_REFUSING: usize = 256;

/// The routes, the rates and the security of a listener.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) routes: Router,
    /// The rates of the listener's callers, if there are any.
    pub(crate) rates: Option<Arc<Rates>>,
    pub(crate) security: Security,
}

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Connections {
    serving: Serving,
    clients: Arc<Clients>,
    tasks: JoinSet<Option<Handover>>,
    refusing: JoinSet<()>,
}

/// An answer that is still to be sent, and the socket for it.
type Handover = (Socket, Response, Arc<KnownClient>);

/// The settings and the shared state by which connections are served.
#[derive(Debug, Clone)]
struct Serving {
    http1: http1::Builder,
    http2: http2::Builder<StreamTasks>,
    /// The time limits for the head of a request, and without a request.
    times: Times,
    /// The time within which a client must take some of the data sent to it.
    write_timeout: Duration,
    /// The counters of clients that took too long.
    counters: Arc<Counters>,
    max_head_bytes: usize,
    /// The signal on which each connection ends once it has answered its requests.
    stopping: CancellationToken,
    /// The connections that were upgraded to another protocol.
    upgrades: Upgrades,
}

impl Connections {
    pub(crate) fn new(config: &ServerConfig, counters: Arc<Counters>) -> Self {
        let (http1, http2) = (http1_builder(config), http2_builder(config));
        let serving = Serving {
            http1,
            http2,
            times: Times {
                head: Duration::from_millis(config.header_read_ms),
                idle: Duration::from_millis(config.idle_ms),
            },
            counters,
            write_timeout: Duration::from_millis(config.write_timeout_ms),
            max_head_bytes: config.max_head_bytes as usize,
            stopping: CancellationToken::new(),
            upgrades: Upgrades::default(),
        };
        let clients = Clients::new(config.client_limits());
        Self { serving, clients, tasks: JoinSet::new(), refusing: JoinSet::new() }
    }

    /// Returns the number of open connections.
    pub(crate) fn count(&self) -> usize {
        self.tasks.len() + self.serving.upgrades.tasks.len()
    }

    /// Returns the connected clients.
    pub(crate) fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Serves a connection, for as long as it lasts, or refuses it.
    pub(crate) fn serve(&mut self, accepted: NewConnection, door: &Door) {
        let NewConnection { socket, address } = accepted;
        let security = door.security.clone();
        let admitted = match self.clients.admit(address, door.rates.as_ref()) {
            Ok(admitted) => admitted,
            Err(refused) => {
                if self.refusing.len() < MAX_REFUSING {
                    self.refusing.spawn(refuse(socket, security, refused));
                }
                while self.refusing.try_join_next().is_some() {}
                return;
            }
        };
        let client = admitted.client();
        let serve = self.serving.clone().serve((socket, security), admitted, door.routes.clone());
        let counters = self.serving.counters.clone();
        self.tasks.spawn(async move {
            let served = tokio::select! {
                served = timed(Task::Connection, serve) => served,
                () = client.ended() => Ok(None),
            };
            let served = served.unwrap_or_else(|error| {
                if let Some(limit) = limit_of(&*error) {
                    counters.time_limit(limit);
                }
                debug!(error, "a connection ended early");
                None
            });
            served.map(|(socket, response)| (socket, response, client))
        });
    }

    /// Waits until a connection ends, or hands over its event stream, and starts to send that.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) {
        match self.tasks.join_next().await {
            // A new task, which is small: the previous task has hyper's state in it.
            Some(Ok(Some((socket, response, client)))) => {
                let counters = self.serving.counters.clone();
                self.tasks.spawn(async move {
                    let send = stream::send(socket, response);
                    let sent = tokio::select! {
                        sent = timed(Task::EventStream, send) => sent,
                        () = client.ended() => Ok(()),
                    };
                    if let Err(error) = sent
                        && error.kind() == io::ErrorKind::TimedOut
                    {
                        counters.time_limit(TimeLimit::Write);
                        debug!(%error, "a client takes no data of an event stream");
                    }
                    None
                });
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => warn!(%error, "serving a connection failed"),
            None => std::future::pending().await,
        }
    }

    /// Lets the connections end, and cuts those that are left at `deadline`.
    pub(crate) async fn end(mut self, deadline: Instant) {
        self.serving.stopping.cancel();
        let Upgrades { tasks: upgraded, cut } = self.serving.upgrades.clone();
        let all = async {
            while !self.tasks.is_empty() {
                self.next().await;
            }
            upgraded.close();
            upgraded.wait().await;
        };
        if tokio::time::timeout_at(deadline, all).await.is_err() {
            warn!(connections = self.count(), "cutting connections that did not end");
            cut.cancel();
            upgraded.close();
            self.tasks.shutdown().await;
            upgraded.wait().await;
        }
    }
}

/// A server that is dropped cuts its connections. Those that hyper has upgraded have tasks of their
/// own, which must be told.
impl Drop for Connections {
    fn drop(&mut self) {
        self.serving.upgrades.cut.cancel();
    }
}

type Outcome = Result<Option<(Socket, Response)>, Box<dyn std::error::Error + Send + Sync>>;

impl Serving {
    /// Serves one connection. Returns the socket and the answer if an event stream is to be sent.
    async fn serve(
        self,
        (socket, security): (SystemSocket, Security),
        admitted: Admitted,
        routes: Router,
    ) -> Outcome {
        let deadline = Instant::now() + self.times.head;
        let securing = security.secure(socket, self.write_timeout, admitted.share());
        let secured = tokio::select! {
            secured = tokio::time::timeout_at(deadline, securing) => secured,
            () = self.stopping.cancelled() => return Ok(None), // No request has begun.
        };
        let transport = match secured {
            Ok(secured) => secured?,
            Err(_elapsed) => {
                self.count(TimeLimit::Head);
                return Ok(None); // Nothing can be told before the handshake is over.
            }
        };
        let intake = Arc::new(Intake::new(admitted.share(), self.max_head_bytes));
        let peer = Peer::new(&admitted, intake.clone(), self.upgrades.clone());
        let peer = peer.certified(certificate(&transport));
        let admitted = Some((admitted, intake.clone()));
        let mut socket = Socket::new(transport, self.write_timeout, admitted);
        let activity = Activity::accepted();
        let spoken = tokio::select! {
            spoken = tokio::time::timeout_at(deadline, socket.protocol()) => spoken,
            () = self.stopping.cancelled() => return Ok(None), // No request has begun.
        };
        let spoken = match spoken {
            Ok(Ok(spoken)) => spoken,
            Ok(Err(_gone)) => return Ok(None),
            Err(_elapsed) => {
                // A client that has sent nothing may have meant to keep the connection for later.
                let has_begun = socket.has_begun();
                self.over(socket, TimeLimit::Head, has_begun).await;
                return Ok(None);
            }
        };
        socket.tell(Some(activity.clone()));
        if spoken == Protocol::Http2 {
            intake.follow_frames(CONNECTION_WINDOW_BYTES as usize);
        }
        let taken = TakenOver::default();
        let streams = Streams::default();
        let taken_first = Mutex::new(Some(taken.clone()));
        let requests = Requests {
            routes,
            peer,
            taken: taken_first,
            streams,
            activity,
            idle: self.times.idle,
            stopping: self.stopping.clone(),
        };
        match spoken {
            Protocol::Http1 => self.serve_http1(socket, requests, taken).await,
            Protocol::Http2 => self.serve_http2(socket, requests).await.map(|()| None),
        }
    }

    async fn serve_http1(self, socket: Socket, requests: Requests, taken: TakenOver) -> Outcome {
        let activity = requests.activity.clone();
        let connection = self.http1.serve_connection(TokioIo::new(socket), requests);
        let mut connection = connection.with_upgrades();
        let mut look = pin!(tokio::time::sleep_until(self.times.first_look()));
        let mut stopping = pin!(self.stopping.cancelled());
        let mut is_told = false;
        let response = poll_fn(|cx| {
            if !is_told && stopping.as_mut().poll(cx).is_ready() {
                is_told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            let polled = Pin::new(&mut connection).poll(cx);
            match taken.response() {
                Some(response) => return Poll::Ready(Ok(Some(Ended::EventStream(response)))),
                None if polled.is_ready() => return polled.map_ok(|()| None),
                None => {}
            }
            while look.as_mut().poll(cx).is_ready() {
                match activity.look(self.times) {
                    Look::Again(at) => look.as_mut().reset(at),
                    Look::Over(limit) => return Poll::Ready(Ok(Some(Ended::Over(limit)))),
                }
            }
            Poll::Pending
        });
        let Some(end) = response.await? else { return Ok(None) };
        let Some(parts) = connection.into_parts() else { return Ok(None) };
        let mut socket = parts.io.into_inner();
        match end {
            Ended::EventStream(response) => {
                socket.tell(None);
                Ok(Some((socket, response)))
            }
            Ended::Over(limit) => {
                self.over(socket, limit, limit == TimeLimit::Head).await;
                Ok(None)
            }
        }
    }

    /// Counts and logs that a client exceeded a time limit.
    fn count(&self, limit: TimeLimit) {
        self.counters.time_limit(limit);
        debug!(limit = limit.name(), "a connection ends: its client exceeded a time limit");
    }

    /// Ends a connection whose client took too long. If `is_told`, the client is answered before.
    async fn over(&self, mut socket: Socket, limit: TimeLimit, is_told: bool) {
        self.count(limit);
        let head_ms = self.times.head.as_millis();
        let told = async {
            if is_told {
                let detail = format!("the head of a request was not complete after {head_ms} ms");
                let answer = status::plain_problem(StatusCode::REQUEST_TIMEOUT, &detail);
                stream::answer(&mut socket, answer).await?;
            }
            socket.shutdown().await
        };
        let _gone_or_told = tokio::time::timeout(self.write_timeout, told).await;
    }

    async fn serve_http2(
        self,
        socket: Socket,
        requests: Requests,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let streams = requests.streams.clone();
        let activity = requests.activity.clone();
        let peer = requests.peer.clone();
        activity.without_heads();
        let connection = self.http2.serve_connection(TokioIo::new(socket), requests);
        let mut connection = pin!(connection);
        let mut stopping = pin!(self.stopping.cancelled());
        let mut is_told = false;
        // Set once the connection was idle for too long. The data that its client has not taken is
        // then dropped, if the client takes hardly any of it for the write timeout.
        let mut taking: Option<Taking> = None;
        let mut look = tokio::time::interval(self.write_timeout.min(self.times.idle) / 4);
        loop {
            tokio::select! {
                served = connection.as_mut() => return Ok(served?),
                () = &mut stopping, if !is_told => {
                    is_told = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => {
                    let stalled = streams.end_stalled(self.write_timeout);
                    if let Look::Over(limit) = activity.look(self.times) {
                        if !is_told {
                            self.count(limit);
                            is_told = true;
                            connection.as_mut().graceful_shutdown();
                        }
                        let taking = taking.get_or_insert_with(|| Taking::new(&peer));
                        if taking.silence(&peer) >= self.write_timeout {
                            return Ok(());
                        }
                    } else {
                        taking = None;
                    }
                    if stalled > 0 {
                        (0..stalled).for_each(|_| self.counters.time_limit(TimeLimit::Write));
                        debug!(stalled, "a client takes no data of some of its streams");
                    }
                }
            }
        }
    }
}

/// A watch on a client that still has data to take.
struct Taking {
    since: Instant,
    sent_bytes: u64,
}

impl Taking {
    fn new(peer: &Peer) -> Self {
        Self { since: Instant::now(), sent_bytes: peer.sent_bytes() }
    }

    /// Returns the time for which the client has taken no more than [`MIN_TAKEN_BYTES`].
    fn silence(&mut self, peer: &Peer) -> Duration {
        if peer.sent_bytes() > self.sent_bytes + MIN_TAKEN_BYTES {
            *self = Self::new(peer);
        }
        self.since.elapsed()
    }
}

/// The reason for which hyper's part in a connection ends before the connection is closed.
enum Ended {
    /// An event stream is to be sent.
    EventStream(Response),
    /// The client took too long.
    Over(TimeLimit),
}

/// Returns the time limit that ended a connection; `None` if it failed for another reason.
fn limit_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<TimeLimit> {
    let hyper = error.downcast_ref::<hyper::Error>();
    if hyper.is_some_and(hyper::Error::is_timeout) {
        return Some(TimeLimit::Ping); // Hyper has no other time limit here.
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::TimedOut) {
            return Some(TimeLimit::Write);
        }
        cause = error.source();
    }
    None
}

fn http1_builder(config: &ServerConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .max_buf_size(config.max_head_bytes as usize)
        .header_read_timeout(None); // The reason is in src/server/activity.rs.
    builder
}

fn http2_builder(config: &ServerConfig) -> http2::Builder<StreamTasks> {
    let keep_alive = Duration::from_millis(config.keep_alive_ms);
    let mut builder = http2::Builder::new(StreamTasks);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.max_concurrent_streams)
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(keep_alive);
    builder
}
