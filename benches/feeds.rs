//! How fast do one reader and ten readers at once get the history of a hundred thousand topics, in
//! the order of all topics? Over SSE from the real binary, freshly started, from the first event,
//! and from the middle, as a reader that resumes.
//! `cargo bench --bench feeds` measures, and `cargo test --benches` runs it tiny. A word selects
//! shapes: `cargo bench --bench feeds -- rolled`.

mod served;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use leftoff::{Broker, NewEvent, OpenConfig, Publish};
use served::Served;

const PAYLOAD_BYTES: usize = 100;
/// Publishes in flight at the same time, while a log is filled.
const IN_FLIGHT: usize = 4_096;
const READERS: usize = 10;
/// The time limit of the readers.
const LIMIT: Duration = Duration::from_secs(20);

/// The order in which the events of the topics are published.
struct Shape {
    name: &'static str,
    /// The number of times that each topic is published to, in turn with the others.
    rounds: u64,
    /// The number of events each time.
    batch: u64,
    /// Whether the topics' turns are in another order in each round.
    mixed: bool,
    /// Whether maintenance has rolled up the blocks.
    rolled_up: bool,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "in turn", rounds: 10, batch: 1, mixed: false, rolled_up: false },
    Shape { name: "in turn, rolled up", rounds: 10, batch: 1, mixed: false, rolled_up: true },
    Shape { name: "mixed", rounds: 10, batch: 1, mixed: true, rolled_up: false },
    Shape { name: "topic by topic", rounds: 1, batch: 100, mixed: false, rolled_up: false },
];

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let word = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let topics = if measuring { 100_000 } else { 300 };
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(&word)) {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
        let data = directory.path().join("data");
        fill(&data, topics, shape);
        let events = topics * shape.rounds * shape.batch;
        for (readers, after) in [(1, 0), (READERS, 0), (1, events / 2)] {
            // A new process, so that no event is in memory.
            let served = Served::start(&data);
            let seen = read_all(served.address, readers, after..events);
            let is_whole = seen.iter().all(|seen| seen.events == events - after);
            assert!(is_whole || measuring, "{}: events are missing after {LIMIT:?}", shape.name);
            let place = if after == 0 { "from the first" } else { "from the middle" };
            report(&format!("{}, {place}", shape.name), &seen);
            println!("feeds {}: peak memory {:.0} MB", shape.name, served.peak_memory_mb());
        }
    }
}

fn fill(directory: &Path, topics: u64, shape: &Shape) {
    let mut config = OpenConfig::default();
    config.limits.max_topics = config.limits.max_topics.max(topics);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let broker = Broker::open(directory, &config).expect("a fresh log");
        let mut in_flight = VecDeque::new();
        for round in 0..shape.rounds {
            for turn in 0..topics {
                // A step that is coprime to the number of topics gives each topic one turn.
                let step = if shape.mixed { 7_919 + 1_000 * round } else { 1 };
                let topic = (turn * step + round) % topics;
                let topic = format!("users.{topic}.inbox").parse().expect("a name");
                let event = || NewEvent::new(vec![b'x'; PAYLOAD_BYTES]);
                let events = (0..shape.batch).map(|_| event()).collect();
                let publish = Publish::new(topic, events);
                in_flight.push_back(broker.submit(publish).await.expect("room in the queue"));
                if in_flight.len() >= IN_FLIGHT
                    && let Some(oldest) = in_flight.pop_front()
                {
                    oldest.ack().await.expect("room on the disk");
                }
            }
        }
        for pending in in_flight {
            pending.ack().await.expect("room on the disk");
        }
        if shape.rolled_up {
            broker.maintain(None).await.expect("maintenance works");
        }
        broker.close().await;
    });
}

/// The measurements of one reader.
struct Seen {
    events: u64,
    first_event: Duration,
    longest_silence: Duration,
    /// The time from the reader's first byte to the last one that it got.
    took: Duration,
}

/// Reads with `readers` readers at once, each from after the first position up to the last one,
/// inclusive, or up to the time limit.
fn read_all(address: SocketAddr, readers: usize, positions: Range<u64>) -> Vec<Seen> {
    std::thread::scope(|scope| {
        let reading: Vec<_> = (0..readers)
            .map(|_| positions.clone())
            .map(|positions| scope.spawn(move || read(address, positions)))
            .collect();
        reading.into_iter().map(|reader| reader.join().expect("a reader")).collect()
    })
}

fn read(address: SocketAddr, positions: Range<u64>) -> Seen {
    let Range { start: after, end } = positions;
    let started = Instant::now();
    let mut socket = TcpStream::connect(address).expect("the server listens");
    let from = match after {
        0 => "from=earliest".to_owned(),
        after => format!("last_event_id=@{after}"),
    };
    let request = format!(
        "GET /v1/events?topic=%3E&{from} HTTP/1.1\r\nHost: {address}\r\n\
         Accept: text/event-stream\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).expect("the server reads");
    let mut seen = Seen {
        events: 0,
        first_event: Duration::ZERO,
        longest_silence: Duration::ZERO,
        took: Duration::ZERO,
    };
    let (mut buffer, mut rest, mut heard) = (vec![0; 256 << 10], Vec::new(), started);
    let mut last = after;
    while last < end && started.elapsed() < LIMIT {
        let count = socket.read(&mut buffer).expect("the server goes on");
        assert!(count > 0, "the server ended the stream");
        let before = seen.events;
        rest.extend_from_slice(&buffer[..count]);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n') {
            // The broker's own frames, before the first event and after the last, have ids, too.
            if let Some(position) = position(line)
                && (after + 1..=end).contains(&position)
                && last < end
            {
                assert_eq!(position, last + 1, "an event is missing or out of order");
                (last, seen.events) = (position, position - after);
            }
        }
        rest.drain(..whole);
        let now = Instant::now();
        if before == 0 && seen.events > 0 {
            seen.first_event = now - started;
        } else if seen.events > before {
            seen.longest_silence = seen.longest_silence.max(now - heard);
        }
        if seen.events > before {
            heard = now;
        }
    }
    seen.took = started.elapsed();
    seen
}

/// Returns the position in a line with an id.
fn position(line: &[u8]) -> Option<u64> {
    let digits = line.strip_prefix(b"id: @")?.split(|byte| *byte == b'-').next()?;
    Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn report(name: &str, seen: &[Seen]) {
    let rate = |seen: &Seen| seen.events as f64 / seen.took.as_secs_f64();
    let rates = seen.iter().map(rate);
    let longest = |of: fn(&Seen) -> Duration| {
        seen.iter().map(of).max().unwrap_or_default().as_secs_f64() * 1e3
    };
    println!(
        "feeds {name}: {} at once, {:.0} events/s together (target 100000), {:.0} to {:.0} each, \
         first event {:.0} ms (target 50), longest silence {:.0} ms (target 200)",
        seen.len(),
        rates.clone().sum::<f64>(),
        rates.clone().fold(f64::INFINITY, f64::min),
        rates.fold(0.0, f64::max),
        longest(|seen| seen.first_event),
        longest(|seen| seen.longest_silence),
    );
}
