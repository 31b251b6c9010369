//! What does a stalled reader cost? Runs of a minute compare readers that read with as many readers
//! that read nothing, both of the same events. The real binary, and a host program with the broker
//! inside, serve them to plain sockets.
//! `cargo bench --bench stall` measures, and `cargo test --benches` runs it tiny.

mod hosted;
mod served;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use served::Served;

/// The pause between two events, and the size of an event in bytes: in a minute, far more than the
/// system buffers for a connection.
const PAUSE: Duration = Duration::from_millis(25);
const EVENT_BYTES: usize = 4 << 10;

/// Starts a program on a directory. Its time limit is so long that no stalled reader is
/// disconnected.
type Start = fn(&Path) -> Served;

const PROGRAMS: [(&str, Start); 2] = [
    ("leftoff", |directory| {
        Served::start_with(directory, &["--set", "server.write_timeout_ms=3600000"])
    }),
    ("a host", |directory| hosted::start(directory, Duration::from_secs(3_600))),
];

fn main() {
    hosted::serve_if_asked();
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (clients, seconds) = if measuring { (2_000, 60) } else { (5, 1) };
    for (program, start) in PROGRAMS {
        let reading = memory_mb(start, clients, seconds, true);
        let stalled = memory_mb(start, clients, seconds, false);
        println!(
            "stall {clients} clients for {seconds} s, {program}: {reading:.1} MB with those that \
             read, {stalled:.1} MB with those that stall, {:.2} KiB more for each (target: none)",
            (stalled - reading) * 1e6 / 1024.0 / clients as f64,
        );
    }
}

/// Returns the broker's memory at the end of a run, in MB.
fn memory_mb(start: Start, clients: usize, seconds: u64, read: bool) -> f64 {
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let served = start(directory.path());
    let taken_bytes = AtomicU64::new(0);
    let sockets: Vec<TcpStream> = (0..clients).map(|_| follow(served.address)).collect();
    let memory_mb = std::thread::scope(|scope| {
        if read {
            for socket in &sockets {
                let taken_bytes = &taken_bytes;
                scope.spawn(move || take(socket, taken_bytes));
            }
        }
        publish(served.address, Duration::from_secs(seconds));
        let memory_mb = served.memory_mb();
        for socket in &sockets {
            let _it_may_be_closed = socket.shutdown(std::net::Shutdown::Both);
        }
        memory_mb
    });
    let taken = taken_bytes.load(Ordering::Relaxed) > (clients * EVENT_BYTES) as u64;
    assert_eq!(taken, read, "readers that read get events, and the others none");
    memory_mb
}

fn follow(address: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the broker listens");
    let request =
        "GET /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    socket.write_all(request.as_bytes()).expect("the broker takes a request");
    let mut first = [0];
    socket.read_exact(&mut first).expect("the broker answers");
    socket
}

fn take(mut socket: &TcpStream, taken_bytes: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        taken_bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// Publishes over one connection, one event at a time.
fn publish(address: SocketAddr, time: Duration) {
    let mut socket = TcpStream::connect(address).expect("the broker listens");
    let payload = "x".repeat(EVENT_BYTES);
    let head = format!("host: localhost\r\ncontent-length: {EVENT_BYTES}\r\n\r\n");
    let request = format!("POST /v1/topics/a/events HTTP/1.1\r\n{head}{payload}");
    let mut answer = [0; 4096];
    let started = Instant::now();
    while started.elapsed() < time {
        socket.write_all(request.as_bytes()).expect("the broker takes a request");
        let count = socket.read(&mut answer).expect("the broker answers");
        assert!(answer[..count].starts_with(b"HTTP/1.1 201"), "the event was not stored");
        std::thread::sleep(PAUSE);
    }
}
