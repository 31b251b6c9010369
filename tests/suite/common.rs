//! The tools that the tests share: a server in this process, the real binary, and clients that use
//! none of the broker's own code.
//!
//! The file is long, because nearly all tests use the server, its clients and their answers
//! together.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use leftoff::config::Config;
use leftoff::server::{Protocols, Shutdown};
use leftoff::{Broker, NewEvent, Publish, TopicName};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The limit of each wait, longer than any test needs: at the limit, a test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) use crate::grpc_client::Grpc;

/// Waits for `future`, at most [`PATIENCE`].
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("a wait took longer than 30 seconds")
}

/// A server in this process, on free ports and in a temporary directory.
pub(crate) struct Server {
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
    pub(crate) grpc_address: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<()>,
    _directory: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Config::default()).await
    }

    /// Starts a server with `config`, except for its ports and its directory.
    pub(crate) async fn with(mut config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.listen = free;
        config.server.grpc_listen = config.server.grpc_listen.map(|_| free);
        let broker = Broker::open(directory.path(), &config.open_config()).unwrap();
        let server = config.server_of(broker.clone()).bind().await.unwrap();
        let address = server.address(Protocols::Http).unwrap();
        let grpc_address = server.address(Protocols::Grpc).unwrap();
        let shutdown = Shutdown::default();
        let running = tokio::spawn(server.run(shutdown.clone()));
        Self { broker, address, grpc_address, shutdown, running, _directory: directory }
    }

    pub(crate) async fn grpc(&self) -> Grpc {
        grpc(self.grpc_address).await
    }

    /// Asks the server to stop, and waits until all its tasks have ended.
    pub(crate) async fn stop(self) {
        self.shutdown.start();
        soon(self.running).await.unwrap();
    }

    /// Publishes a payload, and returns its sequence.
    pub(crate) async fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> u64 {
        publish(&self.broker, topic, NewEvent::new(payload)).await
    }
}

pub(crate) fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

/// Publishes one event, and returns its sequence.
pub(crate) async fn publish(broker: &Broker, topic: &str, event: NewEvent) -> u64 {
    let publish = Publish::one(name(topic), event);
    broker.publish(publish).await.unwrap().last().sequence.get()
}

pub(crate) async fn grpc(address: SocketAddr) -> Grpc {
    Grpc::connect(format!("http://{address}")).await.unwrap().max_message_size(64 << 20)
}

/// A complete answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Returns a request to `address` for `path`.
pub(crate) fn to(address: SocketAddr, method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://{address}{path}"))
}

/// Sends a request over HTTP/1.1.
pub(crate) async fn send(request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
    send_with(HttpClient::builder(TokioExecutor::new()).build_http(), request, body).await
}

/// Sends a request over HTTP/2 without TLS, with prior knowledge.
pub(crate) async fn send_h2c(request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
    let client = HttpClient::builder(TokioExecutor::new()).http2_only(true).build_http();
    send_with(client, request, body).await
}

type Connector = hyper_util::client::legacy::connect::HttpConnector;

async fn send_with(
    client: HttpClient<Connector, Full<Bytes>>,
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Answer {
    let request = request.body(Full::new(body.into())).unwrap();
    let (head, body) = soon(client.request(request)).await.unwrap().into_parts();
    let collected = soon(body.collect()).await.unwrap();
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let body = collected.to_bytes();
    Answer { status: head.status, headers: head.headers, body, trailers }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(to(address, "GET", path), "").await
}

pub(crate) async fn post(address: SocketAddr, path: &str, body: impl Into<Bytes>) -> Answer {
    send(to(address, "POST", path), body).await
}

/// The place of an acknowledged event.
#[derive(Debug, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) sequence: u64,
    pub(crate) position: u64,
}

/// Publishes, and returns the event's place, or `None` without an acknowledgement. The broker may
/// be gone.
pub(crate) async fn try_post(
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Option<Receipt> {
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(body.into())).unwrap();
    let answer = soon(client.request(request)).await.ok()?;
    if answer.status() != StatusCode::CREATED {
        return None;
    }
    let body = soon(answer.into_body().collect()).await.ok()?.to_bytes();
    Some(serde_json::from_slice(&body).unwrap())
}

/// Sends a request, and returns the body of success; `None` otherwise. The broker may be gone.
pub(crate) async fn try_send(
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Option<Bytes> {
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(body.into())).unwrap();
    let answer = soon(client.request(request)).await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    Some(soon(answer.into_body().collect()).await.ok()?.to_bytes())
}

/// One frame of an event stream, parsed as the WHATWG standard says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Frame {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    /// The `data` lines, joined by line feeds.
    pub(crate) data: Option<String>,
    pub(crate) retry: Option<u64>,
    pub(crate) comment: Option<String>,
}

impl Frame {
    fn parse(text: &str) -> Self {
        let mut frame = Self::default();
        for line in text.split('\n') {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => frame.comment = Some(value.to_owned()),
                "id" => frame.id = Some(value.to_owned()),
                "event" => frame.event = Some(value.to_owned()),
                "retry" => frame.retry = Some(value.parse().unwrap()),
                "data" => match &mut frame.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => frame.data = Some(value.to_owned()),
                },
                other => panic!("unknown field {other:?} in {text:?}"),
            }
        }
        frame
    }

    /// Whether an `EventSource` hands the frame to the page, and a publisher wrote it.
    pub(crate) fn is_event(&self) -> bool {
        let own = self.event.as_deref().is_some_and(|event| event.starts_with("leftoff."));
        self.data.is_some() && !own
    }

    pub(crate) fn is_control(&self, kind: &str) -> bool {
        self.event.as_deref() == Some(kind)
    }

    /// Returns the sequence in the id.
    pub(crate) fn sequence(&self) -> u64 {
        let id = self.id.as_deref().expect("an event has an id");
        id.split(['-', '~']).next().unwrap().parse().unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().unwrap()).unwrap()
    }
}

/// An open event stream.
pub(crate) struct Sse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: hyper::body::Incoming,
    unread: BytesMut,
    /// The id with which a browser would resume.
    pub(crate) last_id: Option<String>,
}

impl Sse {
    /// Follows `topic`. `query` is empty or begins with `?`.
    pub(crate) async fn follow(address: SocketAddr, topic: &str, query: &str) -> Self {
        let path = format!("/v1/topics/{topic}/events{query}");
        Self::open(to(address, "GET", &path)).await.unwrap()
    }

    /// Resumes `topic` as a browser does.
    pub(crate) async fn resume(address: SocketAddr, topic: &str, last_id: &str) -> Self {
        let request = to(address, "GET", &format!("/v1/topics/{topic}/events"));
        Self::open(request.header("last-event-id", last_id)).await.unwrap()
    }

    /// Opens a stream, or returns why there is no connection.
    pub(crate) async fn open(request: http::request::Builder) -> Result<Self, String> {
        Self::open_with(request, "").await
    }

    /// Does the same as [`Self::open`], with a body.
    pub(crate) async fn open_with(
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Self, String> {
        Self::open_over(request, body, false).await
    }

    /// Does the same as [`Self::open`], over HTTP/2 without TLS if `over_http2`.
    pub(crate) async fn try_open(
        request: http::request::Builder,
        over_http2: bool,
    ) -> Result<Self, String> {
        Self::open_over(request, "", over_http2).await
    }

    pub(crate) async fn open_over(
        request: http::request::Builder,
        body: impl Into<Bytes>,
        over_http2: bool,
    ) -> Result<Self, String> {
        let request = request.header("accept", "text/event-stream");
        let client = HttpClient::builder(TokioExecutor::new()).http2_only(over_http2).build_http();
        let answer = client.request(request.body(Full::new(body.into())).unwrap());
        let answer = soon(answer).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let (status, headers) = (head.status, head.headers);
        Ok(Self { status, headers, body, unread: BytesMut::new(), last_id: None })
    }

    /// Returns the next frame, or `None` when the stream has ended, with or without an error.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            // Heartbeats are single lines between blocks.
            if self.unread.starts_with(b":")
                && let Some(end) = self.unread.iter().position(|byte| *byte == b'\n')
            {
                let line = self.unread.split_to(end + 1);
                return Some(Frame::parse(str::from_utf8(&line[..end]).unwrap()));
            }
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let text = String::from_utf8(self.unread[..end].to_vec()).unwrap();
                self.unread.advance(end + 2);
                let frame = Frame::parse(&text);
                self.last_id = frame.id.clone().or(self.last_id.take());
                return Some(frame);
            }
            let chunk = soon(self.body.frame()).await?.ok()?;
            self.unread.extend_from_slice(&chunk.into_data().ok()?);
        }
    }

    /// Returns the next frame, or `None` if none arrives within `wait`.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> Option<Frame> {
        tokio::time::timeout(wait, self.next()).await.ok().flatten()
    }

    /// Returns the next frame for which `wanted` holds.
    pub(crate) async fn find(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await.expect("the stream ended");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Returns the sequences and the data of the next `count` events.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<(u64, String)> {
        let mut events = Vec::new();
        while events.len() < count {
            let frame = self.find(Frame::is_event).await;
            events.push((frame.sequence(), frame.data.unwrap()));
        }
        events
    }

    /// Returns the next `count` events of a stream of many topics.
    pub(crate) async fn events_of_many(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.find(Frame::is_event).await.json());
        }
        events
    }

    /// Returns all frames up to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

/// Returns an address for a broker that stops and starts again. Its port is outside the range from
/// which systems give ports to clients: a client could otherwise get it while nobody listens.
pub(crate) fn lasting_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(20_000..30_000)));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The real binary, running `serve`.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts `leftoff serve` on `directory` with more arguments, and waits until it listens.
    pub(crate) fn serve(directory: &Path, arguments: &[&str]) -> Self {
        Self::serve_at(SocketAddr::from(([127, 0, 0, 1], 0)), directory, arguments)
    }

    /// Does the same as [`Self::serve`], at a given address.
    pub(crate) fn serve_at(address: SocketAddr, directory: &Path, arguments: &[&str]) -> Self {
        let mut child = leftoff()
            .args(["serve", "--listen", &address.to_string(), "--data-dir"])
            .arg(directory)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.strip_prefix("listening on ")?.split_once("://")?;
            rest.split(' ').next()?.parse().ok()
        });
        Self { child, address: address.expect("the server said where it listens") }
    }

    /// Takes over a broker that was started in another way and soon listens at `address`.
    pub(crate) fn adopt(child: Child, address: SocketAddr) -> Self {
        Self { child, address }
    }

    /// Waits until the broker accepts connections.
    pub(crate) async fn until_ready(&mut self) {
        soon(async {
            while tokio::net::TcpStream::connect(self.address).await.is_err() {
                assert_eq!(self.child.try_wait().unwrap(), None, "the broker has ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills the process, as a crash would.
    pub(crate) fn kill(mut self) {
        self.crash();
    }

    /// Does the same as [`Self::kill`], for callers that cannot give the process away.
    pub(crate) fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Returns whether the process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until the process ends by itself, and returns its exit code.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        soon(async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

/// Returns a command for the real binary, with none of the environment's settings for it, and with
/// errors alone in its log.
pub(crate) fn leftoff() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leftoff"));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("LEFTOFF_") {
            command.env_remove(variable);
        }
    }
    command.env("LEFTOFF_LOG_FILTER", "error");
    command
}

/// Runs the real binary until it ends.
pub(crate) async fn run(arguments: &[&str]) -> Output {
    let mut command = leftoff();
    command.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || output_of(&mut command)).await.unwrap()
}

/// Runs a command and returns its output. A command that runs for 60 seconds is killed.
pub(crate) fn output_of(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = Pid::from_child(&child);
    let (end, ended) = sync_channel::<()>(0);
    let watch = std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            kill_process(id, Signal::KILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(end);
    watch.join().unwrap();
    output
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns events with these numbers as ids and as payloads.
pub(crate) fn with_ids(ids: impl IntoIterator<Item = u64>) -> Vec<NewEvent> {
    let event = |id: u64| NewEvent { id: format!("id {id}"), ..NewEvent::new(id.to_string()) };
    ids.into_iter().map(event).collect()
}

/// Returns the path of the earthquake reports that come with the project.
pub(crate) fn quakes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/earthquakes.ndjson")
}

/// Returns and prints a random seed. The variable `LEFTOFF_SEED` repeats an earlier one.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("LEFTOFF_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed: LEFTOFF_SEED={seed}");
    seed
}

/// Returns the sequences and the payloads, as text, of all events of a topic, read page by page.
pub(crate) async fn read_all(address: SocketAddr, topic: &str) -> Vec<(u64, String)> {
    let mut events = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let path = format!("/v1/topics/{topic}/events?after={cursor}&limit=1000");
        let page = get(address, &path).await;
        assert_eq!(page.status, 200, "{}", text(&page.body));
        let page = page.json();
        for event in page["events"].as_array().unwrap() {
            let sequence = event["sequence"].as_u64().unwrap();
            events.push((sequence, event["data"].as_str().unwrap().to_owned()));
        }
        cursor = page["cursor"].as_str().unwrap().to_owned();
        if page["caught_up"] == true {
            return events;
        }
    }
}

/// Asserts that the sequences are 1, 2, 3, … without holes.
pub(crate) fn assert_no_hole(events: &[(u64, String)]) {
    let numbers: VecDeque<u64> = events.iter().map(|(sequence, _)| *sequence).collect();
    let expected: VecDeque<u64> = (1..=events.len() as u64).collect();
    assert_eq!(numbers, expected, "sequences are not 1, 2, 3, …");
}
