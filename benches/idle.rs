//! How much memory does an idle reader take? Thousands of readers over SSE and over WebSocket, each
//! with a subscription, on the real binary and on a host program with the broker inside.
//! `cargo bench --bench idle` measures, and `cargo test --benches` runs it tiny.

mod hosted;
mod served;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use served::Served;

/// The number of files that the bench needs in addition to its sockets.
const OTHER_FILES: u64 = 100;

/// The time between the last connection and the measurement of memory.
const REST: Duration = Duration::from_secs(1);

/// The binary's default.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// A program that is measured, and how it is started on a directory.
type Program = (&'static str, fn(&Path) -> Served);

const PROGRAMS: [Program; 2] =
    [("leftoff", Served::start), ("a host", |directory| hosted::start(directory, WRITE_TIMEOUT))];

/// A way to follow, and the most KiB that a reader may take.
type Way = (&'static str, fn(SocketAddr) -> TcpStream, u32);

const WAYS: [Way; 2] = [("SSE", sse, 10), ("WebSocket", websocket, 14)];

fn main() {
    hosted::serve_if_asked();
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (wanted, rest) = if measuring { (10_000, REST) } else { (20, Duration::ZERO) };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    let clients = wanted.min(files);
    let measured = PROGRAMS.iter().flat_map(|program| WAYS.iter().map(move |way| (program, way)));
    for ((program, start), (protocol, follow, target_kib)) in measured {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
        let served = start(directory.path());
        drop(follow(served.address)); // Leaves out what only the first one needs.
        std::thread::sleep(rest);
        let before = served.memory_mb();
        let sockets: Vec<TcpStream> = (0..clients).map(|_| follow(served.address)).collect();
        std::thread::sleep(rest);
        let kib = (served.memory_mb() - before) * 1e6 / 1024.0 / clients as f64;
        println!(
            "idle {clients} over {protocol}, {program}: {kib:.2} KiB each (target {target_kib})"
        );
        drop(sockets);
    }
}

fn sse(address: SocketAddr) -> TcpStream {
    let request = "GET /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\n\
        accept: text/event-stream\r\n\r\n";
    connect(address, request.as_bytes(), "leftoff.caught-up")
}

/// Opens a WebSocket and subscribes. Source: RFC 6455, 4.1 and 5.2, with a mask of zeros.
fn websocket(address: SocketAddr) -> TcpStream {
    let head = "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = connect(address, head.as_bytes(), "\r\n\r\n");
    let subscribe = br#"{"type":"subscribe","subscription":"s","topic":"a"}"#;
    let mut frame = vec![0x81, 0x80 | subscribe.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(subscribe);
    socket.write_all(&frame).expect("the broker takes a message");
    read_through(&mut socket, "caught_up");
    socket
}

fn connect(address: SocketAddr, request: &[u8], answer: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the broker listens");
    socket.write_all(request).expect("the broker takes a request");
    read_through(&mut socket, answer);
    socket
}

fn read_through(socket: &mut TcpStream, wanted: &str) {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&read).contains(wanted) {
        let count = socket.read(&mut buffer).expect("the broker answers");
        assert!(count > 0, "the connection ended");
        read.extend_from_slice(&buffer[..count]);
    }
}
