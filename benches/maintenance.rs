//! How long does a publish take during maintenance, compared with no maintenance? Events with keys
//! are published to compacted and limited topics, at a steady rate over gRPC to the real binary,
//! and every acknowledgement is durable. Both cases take turns, and their medians are compared.
//! `cargo bench --bench maintenance` measures, and `cargo test --benches` runs it tiny.

mod served;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use leftoff::edge::proto::admin_service_client::AdminServiceClient;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::{CreateTopicRequest, NewEvent, PublishRequest, TopicConfig};
use served::Served;

const CLIENTS: u64 = 8;
const TOPICS: u64 = 200;
const KEYS: u64 = 20;
const PAYLOAD_BYTES: usize = 1_000;

/// The pause between two publishes of one client.
const PAUSE: Duration = Duration::from_millis(2);

/// The largest ratio of the two 99th percentiles that is acceptable.
const TARGET: f64 = 2.0;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (rounds, seconds) = if measuring { (5, 8.0) } else { (1, 0.2) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut p99 = [Vec::new(), Vec::new()];
    let mut p50 = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (index, interval) in ["3600000", "1000"].into_iter().enumerate() {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                .expect("a directory on this disk");
            let interval = format!("maintenance.interval_ms={interval}");
            let served = Served::start_with(&directory.path().join("data"), &["--set", &interval]);
            runtime.block_on(create_topics(served.address));
            let mut latencies = runtime.block_on(publish_all(served.address, seconds));
            latencies.sort();
            p50[index].push(latencies[latencies.len() / 2].as_secs_f64() * 1e3);
            p99[index].push(latencies[latencies.len() * 99 / 100].as_secs_f64() * 1e3);
            if index == 1 && measuring {
                let dropped = runtime.block_on(compacted(served.address));
                assert!(dropped > 1_000, "maintenance dropped only {dropped} events");
            }
        }
    }
    let [without, with] = p99.map(median);
    let [p50_without, p50_with] = p50.map(median);
    println!(
        "maintenance publish p50 {p50_without:.2} ms without, {p50_with:.2} ms with; \
         p99 {without:.2} ms without, {with:.2} ms with, ratio {:.2} (target {TARGET:.1})",
        with / without
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn topic(index: u64) -> String {
    format!("maintained.{index}")
}

/// Creates the topics: half of them are compacted, and half keep 50 events.
async fn create_topics(address: SocketAddr) {
    let mut client =
        AdminServiceClient::connect(format!("http://{address}")).await.expect("the broker listens");
    for index in 0..TOPICS {
        let config = match index % 2 {
            0 => TopicConfig { compact: Some(true), ..TopicConfig::default() },
            _ => TopicConfig { max_events: Some(50), ..TopicConfig::default() },
        };
        let request = CreateTopicRequest { topic: topic(index), config: Some(config) };
        client.create_topic(request).await.expect("a new topic");
    }
}

async fn publish_all(address: SocketAddr, seconds: f64) -> Vec<Duration> {
    let clients: Vec<_> =
        (0..CLIENTS).map(|client| tokio::spawn(publish(address, client, seconds))).collect();
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.expect("a client"));
    }
    latencies
}

async fn publish(address: SocketAddr, client: u64, seconds: f64) -> Vec<Duration> {
    let mut broker =
        PublisherServiceClient::connect(format!("http://{address}")).await.expect("a listener");
    let started = Instant::now();
    let mut latencies = Vec::new();
    for number in client.. {
        if started.elapsed().as_secs_f64() > seconds {
            break;
        }
        let key = format!("key {}", number % KEYS);
        let payload = vec![b'x'; PAYLOAD_BYTES].into();
        let request = PublishRequest {
            topic: topic((number * 31) % TOPICS),
            events: vec![NewEvent { key, payload, ..NewEvent::default() }],
            expected_sequence: None,
            ephemeral: false,
            topics: Vec::new(),
        };
        let asked = Instant::now();
        broker.publish(request).await.expect("the server goes on");
        latencies.push(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    latencies
}

/// Returns the number of events that compaction has dropped so far.
async fn compacted(address: SocketAddr) -> u64 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the broker listens");
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("the request is read");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("the request is answered");
    let line = answer
        .lines()
        .find_map(|line| line.strip_prefix("leftoff_dropped_events_total{reason=\"compacted\"} "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}
