//! How fast does a reader get a long history, and how soon does a reader get the last event that it
//! missed? The real binary serves a million events of 256 bytes in one topic to plain sockets.
//! `cargo bench --bench replay` measures, and `cargo test --benches` runs it tiny.

mod served;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use leftoff::{Broker, NewEvent, OpenConfig, Publish};
use served::Served;

const EVENT_BYTES: usize = 256;
const BATCH_EVENTS: u64 = 1_000;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (events, rounds) = if measuring { (1_000_000, 9) } else { (2_000, 2) };
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let data = directory.path().join("data");
    fill(&data, events);

    let opening = median((0..rounds).map(|_| {
        let started = Instant::now();
        let broker = Broker::open(&data, &OpenConfig::default()).expect("the log opens");
        let elapsed = started.elapsed();
        assert_eq!(broker.topics(None, 2)[0].extent.tail.get(), events + 1, "events are missing");
        elapsed
    }));
    println!("replay opening {events} events {:.3} s (target 1)", opening.as_secs_f64());

    let served = Served::start(&data);
    let mut wire_bytes = 0;
    let whole = median((0..rounds).map(|_| {
        let started = Instant::now();
        wire_bytes = replay(served.address, events);
        started.elapsed()
    }));
    let megabytes = |bytes: f64| bytes / 1e6 / whole.as_secs_f64();
    println!(
        "replay {events} events over SSE {:.0} MB/s of payload, {:.0} MB/s on the wire \
         (target 150), {:.0} events/s",
        megabytes(events as f64 * EVENT_BYTES as f64),
        megabytes(wire_bytes as f64),
        events as f64 / whole.as_secs_f64(),
    );

    let resumed: Vec<(Duration, Duration)> =
        (0..rounds * 5).map(|_| resume(served.address, events)).collect();
    let head = median(resumed.iter().map(|(first_byte, _)| *first_byte));
    let event = median(resumed.iter().map(|(_, event)| *event));
    println!(
        "replay resuming at the last of {events}: first byte {:.2} ms (target 5), event {:.2} ms",
        head.as_secs_f64() * 1e3,
        event.as_secs_f64() * 1e3,
    );
    println!("replay peak memory {:.0} MB (target 400)", served.peak_memory_mb());
}

fn fill(directory: &Path, events: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let broker = Broker::open(directory, &OpenConfig::default()).expect("a fresh log");
        let topic: leftoff::TopicName = "bench".parse().expect("a name");
        for _ in 0..events / BATCH_EVENTS {
            let events = vec![NewEvent::new(vec![b'x'; EVENT_BYTES]); BATCH_EVENTS as usize];
            let publish = Publish::new(topic.clone(), events);
            broker.publish(publish).await.expect("room on the disk");
        }
        broker.close().await;
    });
}

/// Requests the topic's events after `last_id`.
fn ask(address: SocketAddr, last_id: u64) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.set_nodelay(true).expect("a socket");
    let request = format!(
        "GET /v1/topics/bench/events HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\
         Last-Event-ID: {last_id}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("the server reads");
    socket
}

/// Reads from the first event until the stream has caught up. Returns the number of bytes.
fn replay(address: SocketAddr, events: u64) -> usize {
    let mut socket = ask(address, 0);
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
    let mut end = Vec::new();
    let (last, caught_up) = (format!("\nid: {events}-"), "leftoff.caught-up");
    loop {
        let count = socket.read(&mut buffer).expect("the server goes on");
        assert!(count > 0, "the server ended the stream");
        total += count;
        end.extend_from_slice(&buffer[..count]);
        if contains(&end, caught_up) {
            assert!(contains(&end, &last), "the last event is missing");
            return total;
        }
        end.drain(..end.len().saturating_sub(4096));
    }
}

/// Resumes before the last event. Returns the time to the first byte of the answer, and to the
/// event.
fn resume(address: SocketAddr, events: u64) -> (Duration, Duration) {
    let started = Instant::now();
    let mut socket = ask(address, events - 1);
    let (mut buffer, mut read) = (vec![0; 4096], Vec::new());
    let mut first_byte = None;
    while !contains(&read, &format!("\nid: {events}-")) {
        let count = socket.read(&mut buffer).expect("the server goes on");
        assert!(count > 0, "the server ended the stream");
        first_byte.get_or_insert_with(|| started.elapsed());
        read.extend_from_slice(&buffer[..count]);
    }
    (first_byte.unwrap_or_default(), started.elapsed())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times[times.len() / 2]
}
