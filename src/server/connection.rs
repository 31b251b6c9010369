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
//! An event stream is open for hours and says little. Hyper holds two buffers of 8 KiB for as long
//! as it has a connection, which is most of what such a reader costs, and a pass through its state
//! machine for each write. So the socket is taken from it once it has parsed the request: 10,000
//! idle streams take 4.5 KiB each (`cargo bench --bench idle`) instead of 32.

use std::convert::Infallible;
use std::fmt;
use std::future::{poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::RngExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, warn};

use crate::edge::clients::{Admitted, ClientLimits, Clients, Peer, Refused};
use crate::edge::counters::{Counters, TimeLimit};
use crate::edge::intake::Intake;
use crate::edge::rates::Rates;
use crate::edge::refused::Form;
use crate::edge::status;
use crate::edge::upgrades::Upgrades;
use crate::error::Error;
use crate::polls::{Task, timed, timed_about};
use crate::server::activity::{self, Activity, Look, Times};
use crate::server::answers;
use crate::server::config::ServerConfig;
use crate::server::half_closed::probing;
use crate::server::heads;
use crate::server::socket::{Protocol, Socket};
use crate::server::stalls::{StreamTasks, Streams};
use crate::server::stream;

/// What HTTP/2 lets a client send ahead, in bytes: one stream, and one connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// When a client that was refused may come back, in seconds: at some time between these, so that
/// not all come back at once.
const REFUSED_SECONDS: RangeInclusive<u64> = 5..=10;

/// What a client that goes on takes at least, in bytes, between two looks at it or more.
const MIN_TAKEN_BYTES: u64 = 256;

/// The longest reason that the end of an HTTP/2 connection tells, in bytes.
const MAX_REASON_BYTES: usize = 1_024;

/// How long a client that is refused has to ask for something, and to take the answer.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// The longest head of a request that is read of a client that is refused, in bytes.
const MAX_REFUSED_HEAD_BYTES: usize = 16 << 10;

/// Connections that are being told that they are refused; more are just closed.
const MAX_REFUSING: usize = 256;

/// What is behind a listener.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) routes: Router,
    /// The rates of those who come through it, if there are any.
    pub(crate) rates: Option<Arc<Rates>>,
}

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Connections {
    serving: Serving,
    clients: Arc<Clients>,
    tasks: JoinSet<Option<EventStream>>,
    refusing: JoinSet<()>,
}

/// An answer that is still to be sent, and the socket for it.
type EventStream = (Socket, Response);

/// How connections are served.
#[derive(Debug, Clone)]
struct Serving {
    http1: http1::Builder,
    http2: http2::Builder<StreamTasks>,
    /// How long it may take to ask for something.
    times: Times,
    /// Time in which a client has to take some of what is sent to it.
    write_timeout: Duration,
    /// Where it is noted that a client took too long.
    counters: Arc<Counters>,
    max_head_bytes: usize,
    /// Has each end when it has answered what it was asked.
    stopping: CancellationToken,
    /// Where those go that become something else.
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
        let clients = Clients::new(ClientLimits {
            connections: config.max_connections,
            connections_per_address: config.max_connections_per_address,
            max_bytes: config.max_client_bytes,
        });
        Self { serving, clients, tasks: JoinSet::new(), refusing: JoinSet::new() }
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.tasks.len() + self.serving.upgrades.tasks.len()
    }

    /// Serves a connection, for as long as it lasts, or refuses it.
    pub(crate) fn serve(&mut self, (socket, address): (TcpStream, SocketAddr), door: &Door) {
        let admitted = match self.clients.admit(address, door.rates.as_ref()) {
            Ok(admitted) => admitted,
            Err(refused) => {
                if self.refusing.len() < MAX_REFUSING {
                    self.refusing.spawn(refuse(socket, refused));
                }
                while self.refusing.try_join_next().is_some() {}
                return;
            }
        };
        let serve = self.serving.clone().serve(socket, admitted, door.routes.clone());
        let counters = self.serving.counters.clone();
        self.tasks.spawn(async move {
            let served = timed(Task::Connection, serve).await;
            served.unwrap_or_else(|error| {
                if let Some(limit) = limit_of(&*error) {
                    counters.time_limit(limit);
                }
                debug!(error, "a connection ended early");
                None
            })
        });
    }

    /// Waits for one to come to an end, or to its event stream, which is sent from then on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) {
        match self.tasks.join_next().await {
            // A task of its own, which is small: the one before had the whole of hyper in it.
            Some(Ok(Some((socket, response)))) => {
                let counters = self.serving.counters.clone();
                self.tasks.spawn(async move {
                    let send = stream::send(socket, response);
                    if let Err(error) = timed(Task::EventStream, send).await
                        && error.kind() == io::ErrorKind::TimedOut
                    {
                        counters.time_limit(TimeLimit::Write);
                        debug!(%error, "a client takes nothing of an event stream");
                    }
                    None
                });
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => warn!(%error, "serving a connection failed"),
            None => std::future::pending().await,
        }
    }

    /// Lets them end, and cuts those that are left at `deadline`.
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

type Served = Result<Option<EventStream>, Box<dyn std::error::Error + Send + Sync>>;

impl Serving {
    /// Serves one connection. Returns the socket where there is an event stream to be sent.
    async fn serve(self, socket: TcpStream, admitted: Admitted, routes: Router) -> Served {
        let intake = Arc::new(Intake::new(admitted.share(), self.max_head_bytes));
        let peer = Peer::new(&admitted, intake.clone(), self.upgrades.clone());
        let mut socket = Socket::new(socket, self.write_timeout, Some((admitted, intake.clone())));
        let activity = Activity::accepted();
        let spoken = tokio::select! {
            spoken = tokio::time::timeout(self.times.head, socket.protocol()) => spoken,
            () = self.stopping.cancelled() => return Ok(None), // It holds nothing up.
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
        let taken = Taken::default();
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

    async fn serve_http1(self, socket: Socket, requests: Requests, taken: Taken) -> Served {
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
                Some(response) => return Poll::Ready(Ok(Some(End::EventStream(response)))),
                None if polled.is_ready() => return polled.map_ok(|()| None),
                None => {}
            }
            while look.as_mut().poll(cx).is_ready() {
                match activity.look(self.times) {
                    Look::Again(at) => look.as_mut().reset(at),
                    Look::Over(limit) => return Poll::Ready(Ok(Some(End::Over(limit)))),
                }
            }
            Poll::Pending
        });
        let Some(end) = response.await? else { return Ok(None) };
        let Some(parts) = connection.into_parts() else { return Ok(None) };
        let mut socket = parts.io.into_inner();
        match end {
            End::EventStream(response) => {
                socket.tell(None);
                Ok(Some((socket, response)))
            }
            End::Over(limit) => {
                self.over(socket, limit, limit == TimeLimit::Head).await;
                Ok(None)
            }
        }
    }

    /// Notes that a client took too long.
    fn note(&self, limit: TimeLimit) {
        self.counters.time_limit(limit);
        debug!(limit = limit.name(), "a connection ends, as a time limit has passed");
    }

    /// Ends a connection whose client took too long, and tells it, if it is to be told.
    async fn over(&self, mut socket: Socket, limit: TimeLimit, is_told: bool) {
        self.note(limit);
        let head_ms = self.times.head.as_millis();
        let told = async {
            if is_told {
                let detail = format!("the head of a request was not whole after {head_ms} ms");
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
        // Since it was idle for too long: what its client has not taken yet is dropped once it has
        // taken hardly anything for long.
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
                            self.note(limit);
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
                        debug!(stalled, "a client takes nothing of some of its streams");
                    }
                }
            }
        }
    }
}

/// Whether a client takes what is left for it.
struct Taking {
    since: Instant,
    sent_bytes: u64,
}

impl Taking {
    fn new(peer: &Peer) -> Self {
        Self { since: Instant::now(), sent_bytes: peer.sent_bytes() }
    }

    /// For how long it has taken hardly anything: pings are no more than that.
    fn silence(&mut self, peer: &Peer) -> Duration {
        if peer.sent_bytes() > self.sent_bytes + MIN_TAKEN_BYTES {
            *self = Self::new(peer);
        }
        self.since.elapsed()
    }
}

/// How hyper's part in a connection ends before it is closed.
enum End {
    /// An event stream is to be sent.
    EventStream(Response),
    /// The client took too long.
    Over(TimeLimit),
}

/// The time limit because of which a connection has failed, if it was one.
fn limit_of(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<TimeLimit> {
    let hyper = error.downcast_ref::<hyper::Error>();
    if hyper.is_some_and(hyper::Error::is_timeout) {
        return Some(TimeLimit::Ping); // The only time that hyper keeps.
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

/// Answers the requests of one connection.
#[derive(Debug)]
struct Requests {
    routes: Router,
    peer: Peer,
    /// Where an event stream is put that hyper is not to write: that of the first request, before
    /// which there is no answer that hyper might not have sent off yet.
    taken: Mutex<Option<Taken>>,
    /// The answers that are on their way.
    streams: Streams,
    activity: Activity,
    /// How long the connection may be without a request, while the broker does not stop.
    idle: Duration,
    stopping: CancellationToken,
}

/// The answer that is taken from hyper.
#[derive(Debug, Clone, Default)]
struct Taken(Arc<Mutex<Option<Response>>>);

impl Taken {
    fn response(&self) -> Option<Response> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let served = self.activity.serve();
        let peer = self.peer.clone();
        request.extensions_mut().insert(peer.clone());
        let may_stream = request.version() == Version::HTTP_11 && request.method() == Method::GET;
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let taken = taken.filter(|_| may_stream);
        let is_http2 = request.version() == Version::HTTP_2;
        let streams = Some(self.streams.clone()).filter(|_| is_http2);
        let about = Asked { method: request.method().clone(), uri: request.uri().clone() };
        if !is_http2 {
            peer.intake.took_all();
        }
        if let Some(refused) = heads::refusal(&request) {
            let refused = refused.map(|body| until_sent(served, peer.intake.clone(), body));
            return Box::pin(ready(Ok(refused)));
        }
        let may_ask = request.version() == Version::HTTP_11;
        let keeps_alive = heads::keeps_alive(&request) && !self.stopping.is_cancelled();
        let idle = Some(self.idle).filter(|_| keeps_alive);
        let form = Form::of(&request);
        let held = peer.share().take(answers::request_bytes(&request));
        let request = request.map(|body| answers::taken_from(body, peer.intake.clone()));
        let answer = self.routes.clone().oneshot(request);
        let answer = timed_about(Task::Request, about, answer);
        Box::pin(async move {
            let held = match held {
                Ok(held) => held,
                Err(error) => return Ok(form.answer(error)),
            };
            peer.intake.set_may_ask(may_ask);
            let mut response = answer.await?;
            peer.intake.set_may_ask(false);
            if response.status() == StatusCode::NOT_MODIFIED {
                // It would be the length of what the client holds, and not of this answer.
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            let is_event_stream = is_event_stream(&response);
            if is_event_stream && !is_http2 {
                response = response.map(|body| probing(body, peer.intake.clone()));
            } else if !is_http2 && peer.intake.is_body_cut() {
                heads::tell_close(&mut response);
            } else if let Some(idle) = idle.filter(|_| !peer.intake.is_ended()) {
                heads::tell_idle(&mut response, idle);
            }
            match taken {
                Some(taken) if is_event_stream => {
                    peer.intake.follow_nothing();
                    let response = response.map(|body| answers::keeping(body, held));
                    *taken.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
                    std::future::pending().await // Until the connection is taken apart.
                }
                _ => {
                    let response = answers::counted(response, peer.share(), held);
                    Ok(response.map(|body| {
                        let body = until_sent(served, peer.intake.clone(), body);
                        match streams {
                            Some(streams) => streams.watch(body),
                            None => body,
                        }
                    }))
                }
            }
        })
    }
}

/// The body of an answer, with which the request ends.
fn until_sent(served: activity::Served, intake: Arc<Intake>, body: Body) -> Body {
    answers::keeping(body, (served, Answered(intake))) // Dropped in this order.
}

/// Says that an answer is sent, once it is no longer served.
struct Answered(Arc<Intake>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// What a request is for, for the log: without its query, which may be long, or secret.
struct Asked {
    method: Method,
    uri: Uri,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri.path())
    }
}

fn is_event_stream(response: &Response) -> bool {
    let media = response.headers().get(header::CONTENT_TYPE);
    media.is_some_and(|media| media.as_bytes().starts_with(b"text/event-stream"))
}

/// Says why a connection is not served, and when to come back.
async fn refuse(socket: TcpStream, refused: Refused) {
    let mut socket = Socket::new(socket, REFUSED_WAIT, None);
    // An answer to nothing would be taken for a fault.
    let spoken = tokio::time::timeout(REFUSED_WAIT, socket.protocol()).await;
    let said = match spoken {
        Ok(Ok(Protocol::Http2)) => {
            let (_, body) = refusal(refused, Form::Problem).into_parts();
            let reason = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let said = socket.write_all(&calm_down(&reason)).await;
            said.and(socket.shutdown().await)
        }
        Ok(Ok(Protocol::Http1)) => refuse_request(socket, refused).await,
        Err(_elapsed) => refuse_anything(socket, refused).await,
        Ok(Err(gone)) => Err(gone),
    };
    if let Err(error) = said {
        debug!(%error, "a connection was refused without a word");
    }
}

/// Answers the first request of a client that is not let in, in the form that it reads.
async fn refuse_request(socket: Socket, refused: Refused) -> io::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        ready(Ok::<_, Infallible>(refusal(refused, Form::of(&request))))
    });
    let mut builder = http1::Builder::new();
    // The whole of it has a time limit, so that its head needs none.
    builder.keep_alive(false).max_buf_size(MAX_REFUSED_HEAD_BYTES).header_read_timeout(None);
    let mut connection = builder.serve_connection(TokioIo::new(socket), answer);
    match tokio::time::timeout(REFUSED_WAIT, &mut connection).await {
        Ok(served) => served.map_err(io::Error::other),
        Err(_elapsed) => refuse_anything(connection.into_parts().io.into_inner(), refused).await,
    }
}

/// Answers a client that is not let in, whatever it asks.
async fn refuse_anything(mut socket: Socket, refused: Refused) -> io::Result<()> {
    let answered = stream::answer(&mut socket, refusal(refused, Form::Problem)).await;
    answered.and(socket.shutdown().await)
}

/// The answer to whatever a client asks that is not let in.
fn refusal(refused: Refused, form: Form) -> Response {
    let (status, detail) = match refused {
        Refused::Full { limit } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("there are {limit} connections already"))
        }
        Refused::AddressFull { limit } => (
            StatusCode::TOO_MANY_REQUESTS,
            format!("there are {limit} connections from this address already"),
        ),
        Refused::TooOften(limit) => return form.answer(Error::RateLimited(limit)),
    };
    let after = Duration::from_secs(rand::rng().random_range(REFUSED_SECONDS));
    form.answer_for(after, status, &detail)
}

/// The frames that end an HTTP/2 connection before any request: settings, of which there are none,
/// and a goodbye with the code `ENHANCE_YOUR_CALM` and the reason. Source: RFC 9113, 3.4 and 6.8.
fn calm_down(reason: &[u8]) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
    let size_bytes = 8 + reason.len() as u32;
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&size_bytes.to_be_bytes()[1..]);
    frames.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&[0; 4]); // No stream was served.
    frames.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frames.extend_from_slice(reason);
    frames
}

fn http1_builder(config: &ServerConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .max_buf_size(config.max_head_bytes as usize)
        .header_read_timeout(None); // Why: src/server/activity.rs
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
