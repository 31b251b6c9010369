//! Clients that make the broker hold memory for them: all of it stays within the memory for
//! clients, and no other client is refused.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use leftoff::edge::proto::ReadRequest;
use leftoff::event::NewEvent;
use leftoff::{Config, Publish};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::bystander::Bystander;
use super::fairness::assert_nobody_held_a_worker;
use super::{Chance, Open, peak_mib};
use crate::common::{Process, Server, get, name, post, send, soon, text, to};

/// The memory for clients, in MiB.
const BUDGET_MIB: u64 = 64;

/// The memory that the broker may take in addition, in MiB: buffers of connections, blocks that are
/// read, and memory that the allocator keeps.
const BESIDES_MIB: u64 = 64;

/// The duration of all attacks at once.
const ATTACK: Duration = Duration::from_secs(8);

/// The duration of each attack alone.
const ALONE: Duration = Duration::from_secs(2);

/// The longest delay of others beside one attack. Some attacks move or create hundreds of megabytes
/// within a second, for thousands of clients, on the cores that the attackers use, too.
const SLOW: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5_000 } else { 500 });

/// The number of events in the topic that is read, and of keys in the topic whose state is read.
const EVENTS: usize = 40_000;
const KEYS: usize = 40_000;

/// Starts a broker with [`BUDGET_MIB`] for its clients.
fn bounded(directory: &Path) -> Process {
    let bound = format!("server.max_client_bytes={}", BUDGET_MIB << 20);
    Process::serve(directory, &["--set", &bound])
}

/// Publishes `count` events of about 256 bytes, each with a key of its own.
async fn fill(address: SocketAddr, topic: &str, count: usize) {
    let path = format!("/v1/topics/{topic}/events");
    let payload = "x".repeat(220);
    for first in (0..count).step_by(5_000) {
        let line = |key| format!("{{\"key\":\"k{key}\",\"data\":\"{payload}\"}}\n");
        let body: String = (first..count.min(first + 5_000)).map(line).collect();
        let request = to(address, "POST", &path).header("content-type", "application/x-ndjson");
        let answer = send(request, body).await;
        assert_eq!(answer.status, 201, "{}", text(&answer.body));
    }
}

/// Tasks of attackers, each of which keeps its connections open until the set is dropped.
type Attackers = JoinSet<()>;

/// Sends `head` on `count` connections, and reads nothing.
fn unread(attackers: &mut Attackers, address: SocketAddr, count: usize, head: String) {
    for _ in 0..count {
        let head = head.clone();
        attackers.spawn(async move {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            let _it_may_be_cut = stream.write_all(head.as_bytes()).await;
            std::future::pending().await
        });
    }
}

/// Sends `streams` requests on each of `connections` HTTP/2 connections, whose streams have a
/// window of one byte.
fn unread_streams(
    attackers: &mut Attackers,
    address: SocketAddr,
    (connections, streams): (usize, usize),
    request: impl Fn() -> hyper::Request<Full<Bytes>> + Send + Sync + Clone + 'static,
) {
    for _ in 0..connections {
        let request = request.clone();
        attackers.spawn(async move {
            let Ok(stream) = TcpStream::connect(address).await else { return };
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(1).adaptive_window(false);
            let Ok((mut sender, connection)) = builder.handshake(TokioIo::new(stream)).await else {
                return;
            };
            let ask = async {
                let mut answers = Vec::new();
                for _ in 0..streams {
                    if sender.ready().await.is_err() {
                        break;
                    }
                    answers.push(tokio::spawn(sender.send_request(request())));
                }
                let mut open = Vec::new();
                for answer in answers {
                    open.push(answer.await);
                }
                std::future::pending::<()>().await
            };
            let _it_may_be_cut = futures_util::future::join(connection, ask).await;
        });
    }
}

fn websocket_head() -> String {
    "GET /v1/ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_owned()
}

/// Returns a client's frame, masked with zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0xff];
    frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Sends frames on `count` WebSockets, repeatedly if `again`, and reads nothing.
fn unread_messages(
    attackers: &mut Attackers,
    address: SocketAddr,
    count: usize,
    again: bool,
    messages: Vec<Vec<u8>>,
) {
    for _ in 0..count {
        let messages = messages.clone();
        attackers.spawn(async move {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            let _it_may_be_cut = stream.write_all(websocket_head().as_bytes()).await;
            loop {
                for message in &messages {
                    if stream.write_all(message).await.is_err() {
                        return;
                    }
                }
                if !again {
                    return std::future::pending().await;
                }
            }
        });
    }
}

fn backup() -> hyper::Request<Full<Bytes>> {
    hyper::Request::post("http://127.0.0.1/leftoff.v1.AdminService/Backup")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from(Bytes::from_static(&[0; 5])))
        .unwrap()
}

fn get_of(path: &'static str) -> impl Fn() -> hyper::Request<Full<Bytes>> + Send + Sync + Clone {
    move || hyper::Request::get(format!("http://127.0.0.1{path}")).body(Full::default()).unwrap()
}

/// A way to make the broker hold much memory: its name, and a function that begins it.
type Way = (&'static str, fn(&mut Attackers, SocketAddr));

const PAGES: &str = "/v1/topics/a/events?limit=10000";
const STATE: &str = "/v1/topics/k/state?limit=10000";

/// All ways.
const WAYS: [Way; 11] = [
    ("pages through windows of a byte", |attackers, address| {
        unread_streams(attackers, address, (20, 200), get_of(PAGES));
    }),
    ("states through windows of a byte", |attackers, address| {
        unread_streams(attackers, address, (4, 200), get_of(STATE));
    }),
    ("backups", |attackers, address| unread_streams(attackers, address, (6, 10), backup)),
    ("pages", |attackers, address| unread(attackers, address, 200, get_head(PAGES, ""))),
    ("states", |attackers, address| unread(attackers, address, 200, get_head(STATE, ""))),
    ("event streams", |attackers, address| {
        let stream = get_head("/v1/topics/a/events?from=earliest", "accept: text/event-stream");
        unread(attackers, address, 300, stream);
    }),
    ("heads", |attackers, address| {
        let head = format!("GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: {}", "x".repeat(390_000));
        unread(attackers, address, 1_500, head);
    }),
    ("bodies", |attackers, address| unread(attackers, address, 99, unfinished_body())),
    ("pings", |attackers, address| {
        unread_messages(attackers, address, 4, true, vec![frame(9, b"ping").repeat(1_000)]);
    }),
    ("names", |attackers, address| {
        unread_messages(attackers, address, 4, false, vec![frame(1, many_names().as_bytes())]);
    }),
    ("patterns", |attackers, address| {
        let messages = (0..256).map(|number| frame(1, many_patterns(number).as_bytes()));
        unread_messages(attackers, address, 40, false, messages.collect());
    }),
];

fn get_head(path: &str, header: &str) -> String {
    let end = if header.is_empty() { "" } else { "\r\n" };
    format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{header}{end}\r\n")
}

fn unfinished_body() -> String {
    format!(
        "POST /v1/topics/b/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 900000\r\n\r\n{}",
        "x".repeat(800_000)
    )
}

fn many_names() -> String {
    let names: Vec<String> = (0..400_000).map(|number| format!("\"n{number}\"")).collect();
    format!(
        r#"{{"type":"subscribe","subscription":"s","member":{{"id":"m"}},"topics":[{}]}}"#,
        names.join(",")
    )
}

fn many_patterns(number: usize) -> String {
    let patterns: Vec<String> =
        (0..1_024).map(|pattern| format!("\"*.s{number}.p{pattern}.>\"")).collect();
    format!(
        r#"{{"type":"subscribe","subscription":"s{number}","topics":[{}]}}"#,
        patterns.join(",")
    )
}

/// Goal: one setting bounds the memory that the broker holds for all clients together, in all ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_have_kept_for_them_stays_within_the_memory_for_clients() {
    let directory = tempfile::tempdir().unwrap();
    let process = bounded(directory.path());
    let address = process.address;
    fill(address, "a", EVENTS).await;
    fill(address, "k", KEYS).await;
    let bystander = Bystander::start(address).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // Without an attack.
    let before = bystander.report().await;
    let (open, peak) = (Open::now(&process).await, peak_mib(process.id()));
    let mut attackers = Attackers::new();
    let ((), report) = bystander
        .beside(async {
            let ways = Chance::new().shuffled(WAYS);
            ways.into_iter().for_each(|(_, begin)| begin(&mut attackers, address));
            let started = Instant::now();
            while started.elapsed() < ATTACK {
                // The broker serves new clients.
                let answer = soon(post(address, "/v1/topics/n/events", "x")).await;
                assert_eq!(answer.status, 201, "{}", text(&answer.body));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    let most = peak_mib(process.id());
    println!("before: {before}, {peak} MiB; meanwhile: {report}, {most} MiB");
    assert!(report.failures.is_empty(), "{report}");
    assert!(most < peak + BUDGET_MIB + BESIDES_MIB, "{peak} MiB before, {most} at the most");
    attackers.shutdown().await;
    open.assert_restored(&process).await;
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: whatever the broker holds for one client, no other client fails or waits for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_to_have_much_kept_holds_others_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = bounded(directory.path());
    let address = process.address;
    fill(address, "a", EVENTS).await;
    fill(address, "k", KEYS).await;
    let bystander = Bystander::start(address).await;
    for (name, begin) in Chance::new().shuffled(WAYS) {
        println!("{name}");
        let attack = || async {
            let mut attackers = Attackers::new();
            begin(&mut attackers, address);
            tokio::time::sleep(ALONE).await;
            attackers.shutdown().await;
        };
        let ((), report) = bystander.beside(attack()).await;
        println!("{report}");
        assert!(report.failures.is_empty() && report.p99 < SLOW, "{name}: {report}");
    }
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: clients that send bodies without an end take no memory from clients that send small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_never_end_leave_room_for_the_publishes_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let process = bounded(directory.path());
    let bystander = Bystander::start(process.address).await;
    let mut attackers = Attackers::new();
    let head = "POST /v1/topics/b/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 900000\r\n";
    let body = format!("{head}\r\n{}", "x".repeat(700_000));
    let ((), report) = bystander
        .beside(async {
            unread(&mut attackers, process.address, 99, body);
            tokio::time::sleep(Duration::from_secs(3)).await; // The bystander publishes meanwhile.
        })
        .await;
    assert!(report.failures.is_empty() && report.events > 100, "{report}");
}

/// Goal: a head that is too long is answered with a status.
#[tokio::test]
async fn a_head_that_is_too_long_is_refused_with_a_status() {
    let mut config = Config::default();
    config.server.max_head_bytes = 16 << 10;
    let server = Server::with(config).await;
    let padded = |size: usize| to(server.address, "GET", "/healthz").header("x", "x".repeat(size));
    assert_eq!(send(padded(15_000), "").await.status, 200);
    assert_eq!(send(padded(17_000), "").await.status, 431);
}

/// Returns the keys of all events of a topic, read in the longest pages, and the number of pages.
async fn by_pages(
    address: SocketAddr,
    path: &str,
    after: &str,
    next: &str,
) -> (Vec<String>, usize) {
    let (mut keys, mut pages, mut place) = (Vec::new(), 0, String::new());
    loop {
        let answer = get(address, &format!("{path}?limit=10000{place}")).await;
        assert_eq!(answer.status, 200, "{}", text(&answer.body));
        let page = answer.json();
        let events = page["events"].as_array().unwrap();
        keys.extend(events.iter().map(|event| event["key"].as_str().unwrap().to_owned()));
        pages += 1;
        let at = page[next].as_str().unwrap();
        if at.is_empty() || page["caught_up"] == true {
            return (keys, pages);
        }
        place = format!("&{after}={at}");
    }
}

/// Opens connections whose bodies never end, and returns them when the broker holds all that they
/// have sent.
async fn occupied(address: SocketAddr, count: usize, size_bytes: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = "POST /v1/topics/b/events HTTP/1.1\r\nhost: localhost\r\n\
             content-length: 1000000\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b'x'; size_bytes]).await.unwrap();
        sockets.push(socket);
    }
    let held = async || {
        let metrics = text(&get(address, "/metrics").await.body);
        let line = metrics.lines().find_map(|line| line.strip_prefix("leftoff_client_bytes "));
        line.unwrap().parse::<usize>().unwrap()
    };
    soon(async { while held().await < count * size_bytes * 9 / 10 {} }).await;
    sockets
}

/// Goal: a page is read while it is sent, and its end says where the next one begins. With little
/// memory for clients there are more pages, with the same events.
#[tokio::test]
async fn where_there_is_little_room_pages_are_shorter_and_nothing_is_missing() {
    const COUNT: usize = 5_000;
    let expected: Vec<String> = (0..COUNT).map(|key| format!("k{key}")).collect();
    for has_room in [true, false] {
        let mut config = Config::default();
        (config.limits.max_payload_bytes, config.limits.max_batch_bytes) = (1 << 20, 1 << 20);
        if !has_room {
            config.server.max_client_bytes = 8_700_000;
        }
        let server = Server::with(config).await;
        // Bodies that do not end leave about 300 KB to others.
        let others = if has_room { 0 } else { 6 };
        let _others = occupied(server.address, others, 560_000).await;
        for first in (0..COUNT).step_by(1_000) {
            let keyed = |key| NewEvent { key: format!("k{key}"), ..NewEvent::new("x".repeat(220)) };
            let events = (first..first + 1_000).map(keyed).collect();
            let publish = Publish::new(name("a"), events);
            server.broker.publish(publish).await.unwrap();
        }
        let address = server.address;
        let (keys, pages) = by_pages(address, "/v1/topics/a/events", "after", "cursor").await;
        assert_eq!((keys == expected, pages == 1), (true, has_room), "{pages} pages");
        let state = by_pages(address, "/v1/topics/a/state", "page_token", "next_page_token");
        let (keys, pages) = state.await;
        assert_eq!((keys == expected, pages == 1), (true, has_room), "{pages} pages of state");
        let mut grpc = server.grpc().await;
        let (mut sequences, mut from, mut pages) = (Vec::new(), String::from("0"), 0);
        while sequences.len() < COUNT {
            let request =
                ReadRequest { topic: "a".into(), from, page_size: 10_000, ..<_>::default() };
            let page = grpc.read(request).await.unwrap().into_inner();
            sequences.extend(page.events.iter().map(|event| event.sequence));
            (from, pages) = (page.cursor, pages + 1);
        }
        assert_eq!(sequences, Vec::from_iter(1..=COUNT as u64));
        assert_eq!(pages == 1, has_room, "{pages} pages of gRPC");
    }
}
