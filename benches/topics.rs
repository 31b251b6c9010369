//! What do a hundred thousand topics cost? Clients publish a few small events to each, including
//! the first, over gRPC to the real binary, and every acknowledgement is durable. Then: how long
//! does a reader with a thousand patterns wait among them, and does it slow publishers down?
//! `cargo bench --bench topics` measures, and `cargo test --benches` runs it tiny.

mod served;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::{NewEvent, PublishRequest, PublishStreamRequest};
use leftoff::{Broker, OpenConfig};
use served::Served;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;

const CLIENTS: u64 = 8;
const IN_FLIGHT: usize = 64;
const ROUNDS: u64 = 3;
const PAYLOAD_BYTES: usize = 100;
const PATTERNS: usize = 1_000;
const READERS: usize = 10;
/// The beginning of an event's data in a stream.
const EVENT: &[u8] = b"\ndata: {\"topic\":";
/// The time limit of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let topics = if measuring { 100_000 } else { 800 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let few_mb = measure(&runtime, topics / 2, measuring);
    let many_mb = measure(&runtime, topics, measuring);
    // Memory that both runs take, such as for full caches, does not belong to a topic.
    let per_topic = (many_mb - few_mb) * 1e6 / (topics / 2) as f64;
    println!(
        "topics memory per idle topic {per_topic:.0} bytes (target 1024): {few_mb:.0} MB with {}, \
         {many_mb:.0} MB with {topics}",
        topics / 2
    );
}

/// Publishes to `topics` topics, and opens them again. Returns the memory that they take then, in
/// MB.
fn measure(runtime: &tokio::runtime::Runtime, topics: u64, measuring: bool) -> f64 {
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let data = directory.path().join("data");
    let served = Served::start(&data);
    for round in 1..=ROUNDS {
        let started = Instant::now();
        runtime.block_on(publish_to_all(served.address, topics));
        let rate = topics as f64 / started.elapsed().as_secs_f64();
        let what = if round == 1 { "first events" } else { "further events" };
        println!("topics {topics}: {what} {rate:>8.0} events/s (target 10000)");
    }
    println!("topics {topics}: peak memory while publishing {:.0} MB", served.peak_memory_mb());
    drop(served);

    let started = Instant::now();
    let broker = Broker::open(&data, &OpenConfig::default()).expect("the log opens");
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(broker.topics(None, usize::MAX).len() as u64, topics, "topics are missing");
    println!("topics {topics}: opening {seconds:.3} s (target 3)");
    drop(broker);

    let served = Served::start(&data);
    // By then, maintenance has visited each topic.
    std::thread::sleep(Duration::from_secs(if measuring { 10 } else { 0 }));
    let memory_mb = served.memory_mb();
    runtime.block_on(follow_many(served.address, topics, measuring));
    memory_mb
}

/// Measures readers with many patterns: one alone, and ten at once each second beside a publisher.
async fn follow_many(address: SocketAddr, topics: u64, measuring: bool) {
    let alone = first_event(address).await;
    println!("topics {topics}: {PATTERNS} patterns, first event after {alone:?} (target 100 ms)");
    let publishes = if measuring { 2_000 } else { 20 };
    let p99 = publish_p99(address, "alone", publishes).await;
    let reading = (0..READERS).map(|_| {
        tokio::spawn(async move {
            loop {
                first_event(address).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })
    });
    let readers: Vec<_> = reading.collect();
    let beside = publish_p99(address, "beside", publishes).await;
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    println!("topics {topics}: publish p99 {p99:?}, beside {READERS} such readers {beside:?}");
}

/// Returns the time from a reader's connection to its first event. The reader sends many patterns
/// as JSON over HTTP.
async fn first_event(address: SocketAddr) -> Duration {
    let topics: Vec<String> = (0..PATTERNS).map(|number| format!("*.{number}.inbox")).collect();
    let body = serde_json::json!({ "topics": topics, "from": "earliest" }).to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let started = Instant::now();
    let mut socket = TcpStream::connect(address).await.expect("the broker listens");
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let read = tokio::time::timeout(PATIENCE, socket.read(&mut buffer)).await;
        let count = read.map_or(0, |read| read.expect("the server goes on"));
        let is_in_time = started.elapsed() < PATIENCE;
        assert!(count > 0 && is_in_time, "no event came: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
        // The broker's own frames have other data.
        if answer.windows(EVENT.len()).any(|bytes| bytes == EVENT) {
            return started.elapsed();
        }
    }
}

/// Returns the longest time of 99 of 100 publishes, one after another, each to a new topic.
async fn publish_p99(address: SocketAddr, round: &str, publishes: usize) -> Duration {
    let mut client =
        PublisherServiceClient::connect(format!("http://{address}")).await.expect("a listener");
    let mut took = Vec::with_capacity(publishes);
    for number in 0..publishes {
        let payload = vec![b'x'; PAYLOAD_BYTES].into();
        let request = PublishRequest {
            topic: format!("fresh.{round}.{number}"),
            events: vec![NewEvent { payload, ..NewEvent::default() }],
            ..PublishRequest::default()
        };
        let started = Instant::now();
        client.publish(request).await.expect("the event is stored");
        took.push(started.elapsed());
    }
    took.sort_unstable();
    took[publishes * 99 / 100]
}

/// Publishes one event to each topic, from several clients at once.
async fn publish_to_all(address: SocketAddr, topics: u64) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(publish(address, (client..topics).step_by(CLIENTS as usize))))
        .collect();
    for client in clients {
        client.await.expect("a client");
    }
}

async fn publish(address: SocketAddr, topics: impl Iterator<Item = u64> + Send + 'static) {
    let mut client =
        PublisherServiceClient::connect(format!("http://{address}")).await.expect("a listener");
    let (requests, sent) = tokio::sync::mpsc::channel(IN_FLIGHT);
    let expected = tokio::spawn(async move {
        let mut count = 0;
        for topic in topics {
            let payload = vec![b'x'; PAYLOAD_BYTES].into();
            let request = PublishStreamRequest {
                topic: format!("users.{topic}.inbox"),
                events: vec![NewEvent { payload, ..NewEvent::default() }],
                expected_sequence: None,
                in_order: false,
                topics: Vec::new(),
            };
            requests.send(request).await.expect("the server reads");
            count += 1;
        }
        count
    });
    let responses = client.publish_stream(ReceiverStream::new(sent)).await.expect("a stream");
    let mut responses = responses.into_inner();
    let mut acknowledged = 0;
    while let Some(response) = responses.message().await.expect("the server goes on") {
        assert!(matches!(response.outcome, Some(Outcome::Ack(_))), "{response:?}");
        acknowledged += 1;
    }
    assert_eq!(acknowledged, expected.await.expect("the sender ends"));
}
