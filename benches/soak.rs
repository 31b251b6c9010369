//! Does the log stay bounded? A thousand topics under retention and compaction get events of 100 B
//! to 1 MiB, with a load that comes and goes, until many times the retained volume is published. In
//! between, the real binary is killed and started again. The bench draws its measurements, and
//! fails if they exceed their limits.
//!
//! `cargo bench --bench soak` measures, for an hour with `-- --seconds 3600`, and
//! `cargo test --benches` runs it tiny. The picture is `target/soak.svg`.

mod served;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leftoff::edge::proto::admin_service_client::AdminServiceClient;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::edge::proto::{
    CreateTopicRequest, ListTopicsRequest, NewEvent, PublishRequest, PublishStreamRequest,
    TopicConfig,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use served::Served;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

type Client = PublisherServiceClient<Channel>;

/// The least ratio of the published volume to the retained one.
const TURNOVER: f64 = 20.0;

const STREAMS: u64 = 4;
const IN_FLIGHT: usize = 8;
const KEYS: u64 = 40;

/// The average number of a stream's requests between two pauses, and the longest pause.
const BURST_REQUESTS: u32 = 200;
const MAX_PAUSE_MS: u64 = 400;

/// The parts of a run, with a restart between two of them. The first parts are the warm-up.
const PHASES: usize = 12;
const WARM_UP_PHASES: usize = 4;

/// The number of parts after which a run ends even if too little was published.
const MAX_PHASES: usize = 3 * PHASES;

/// The number of openings in a row, whose median counts: a machine may stand still for a moment.
const REOPENINGS: usize = 3;

const MIB: f64 = 1_048_576.0;
const MAX_RSS_MIB: f64 = 400.0;
const MAX_DIRECTORY_TIMES: f64 = 3.0;
const DIRECTORY_SLACK_MIB: f64 = 64.0;
const MAX_REOPEN_SECONDS_PER_GIB: f64 = 1.0;

/// The limits of growth: a measure is still rising if its median in the second half of the run
/// exceeds that of the first half by this factor, and if its trend exceeds chance by this number of
/// standard deviations.
const MAX_RISE: f64 = 1.25;
const MAX_TREND: f64 = 1.96;

/// The measurements at the end of a phase.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    published_mib: f64,
    retained_mib: f64,
    directory_mib: f64,
    peak_rss_mib: f64,
    p99_ms: f64,
    reopen_seconds: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let measuring = arguments.iter().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let seconds = arguments.iter().position(|arg| arg == "--seconds");
    let seconds = seconds.map(|at| arguments[at + 1].parse::<f64>().expect("a number of seconds"));
    let topics = if measuring { 1_000 } else { 20 };
    let seconds = seconds.unwrap_or(if measuring { 180.0 } else { 3.0 });
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let data = directory.path().join("data");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");

    let mut samples: Vec<Sample> = Vec::new();
    let mut published_mib = 0.0;
    let phase_seconds = Duration::from_secs_f64(seconds / PHASES as f64);
    let mut phase = 0;
    loop {
        let (served, reopen_seconds) = reopen(&data);
        if phase == 0 {
            runtime.block_on(create_topics(served.address, topics));
        }
        let (bytes, mut latencies) =
            runtime.block_on(publish(served.address, topics, phase as u64, phase_seconds));
        published_mib += bytes as f64 / MIB;
        latencies.sort();
        let p99 = latencies[latencies.len() * 99 / 100];
        let sample = Sample {
            published_mib,
            retained_mib: runtime.block_on(retained_bytes(served.address)) as f64 / MIB,
            directory_mib: directory_bytes(&data) as f64 / MIB,
            peak_rss_mib: served.peak_memory_mb() * 1e6 / MIB,
            p99_ms: p99.as_secs_f64() * 1e3,
            reopen_seconds,
        };
        println!(
            "soak phase {:>2}: published {:>7.0} MiB, retained {:>5.0} MiB, directory {:>5.0} MiB, \
             peak RSS {:>4.0} MiB, p99 {:>5.1} ms, reopened in {:.3} s",
            phase + 1,
            sample.published_mib,
            sample.retained_mib,
            sample.directory_mib,
            sample.peak_rss_mib,
            sample.p99_ms,
            sample.reopen_seconds,
        );
        samples.push(sample);
        phase += 1;
        let is_enough = published_mib >= TURNOVER * sample.retained_mib;
        if phase >= PHASES && (is_enough || !measuring || phase >= MAX_PHASES) {
            break;
        }
    }
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak.svg");
    std::fs::write(&picture, draw(&samples)).expect("the picture is written");
    println!("soak picture: target/soak.svg");
    let failures = judge(&samples);
    if measuring && !failures.is_empty() {
        failures.iter().for_each(|failure| println!("soak FAILED: {failure}"));
        std::process::exit(1);
    }
    println!("soak published {:.1} times what is retained", turnover(&samples));
}

/// Starts the broker, and kills it again, several times. Returns the last broker, running, and the
/// median time of a start, in seconds.
fn reopen(data: &Path) -> (Served, f64) {
    let mut seconds = Vec::new();
    loop {
        let started = Instant::now();
        let served = Served::start(data);
        seconds.push(started.elapsed().as_secs_f64());
        if seconds.len() == REOPENINGS {
            seconds.sort_by(f64::total_cmp);
            return (served, seconds[REOPENINGS / 2]);
        }
    }
}

fn turnover(samples: &[Sample]) -> f64 {
    samples.last().map_or(0.0, |last| last.published_mib / last.retained_mib)
}

/// Returns the limits that were exceeded after the warm-up.
fn judge(samples: &[Sample]) -> Vec<String> {
    let mut failures = Vec::new();
    let after = &samples[WARM_UP_PHASES.min(samples.len())..];
    for (index, sample) in after.iter().enumerate() {
        let phase = WARM_UP_PHASES + index + 1;
        let limit = MAX_DIRECTORY_TIMES * sample.retained_mib + DIRECTORY_SLACK_MIB;
        let reopen_limit = (MAX_REOPEN_SECONDS_PER_GIB * sample.retained_mib / 1024.0).max(0.2);
        let bounds = [
            ("directory MiB", sample.directory_mib, limit),
            ("peak RSS MiB", sample.peak_rss_mib, MAX_RSS_MIB),
            ("reopen seconds", sample.reopen_seconds, reopen_limit),
        ];
        for (name, value, limit) in bounds.into_iter().filter(|(_, value, limit)| value > limit) {
            failures.push(format!("phase {phase}: {name} {value:.2} over {limit:.2}"));
        }
    }
    if turnover(samples) < TURNOVER {
        failures.push(format!("published only {:.1} times what is retained", turnover(samples)));
    }
    let (middle, end) = after.split_at(after.len() / 2);
    type Measure = (&'static str, fn(&Sample) -> f64);
    let rising: [Measure; 4] = [
        ("directory", |s| s.directory_mib / s.retained_mib),
        ("peak RSS", |s| s.peak_rss_mib),
        ("p99", |s| s.p99_ms),
        ("reopen time", |s| s.reopen_seconds),
    ];
    for (name, of) in rising {
        let (before, now) = (median(middle, of), median(end, of));
        if now > MAX_RISE * before && trend(after, of) > MAX_TREND {
            failures.push(format!("{name} is still rising: {before:.3}, then {now:.3}"));
        }
    }
    failures
}

/// Returns how far values rise beyond chance, in standard deviations: near 0 if they rise and fall
/// alike. Source: the trend test of Mann and Kendall.
fn trend(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let count = samples.len() as f64;
    let pairs = samples.iter().enumerate().flat_map(|(at, sample)| {
        samples[at + 1..].iter().map(move |later| match of(later).total_cmp(&of(sample)) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.0,
            std::cmp::Ordering::Less => -1.0,
        })
    });
    let variance = count * (count - 1.0) * (2.0 * count + 5.0) / 18.0;
    pairs.sum::<f64>() / variance.max(1.0).sqrt()
}

fn median(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

async fn connect(address: SocketAddr) -> Client {
    let client = Client::connect(format!("http://{address}")).await.expect("the broker listens");
    client.max_encoding_message_size(8 << 20).max_decoding_message_size(8 << 20)
}

fn topic(index: u64) -> String {
    format!("soak.{index}")
}

/// Returns a topic's settings: every third topic is compacted, and the others limit bytes, events
/// or age.
fn config(index: u64) -> TopicConfig {
    let config = TopicConfig::default();
    match index % 6 {
        0 | 3 => TopicConfig { compact: Some(true), ..config },
        1 | 4 => TopicConfig { max_bytes: Some(200 << 10), ..config },
        2 => TopicConfig { max_events: Some(100), ..config },
        _ => TopicConfig { max_age_ms: Some(5_000), max_bytes: Some(400 << 10), ..config },
    }
}

/// Returns a random size: most payloads are small, two in a hundred are large, and payloads of
/// compacted topics have up to 5 KB.
fn payload_bytes(index: u64, random: &mut StdRng) -> usize {
    match random.random_range(0..1_000) {
        _ if index.is_multiple_of(3) => random.random_range(100..5_000),
        0 => random.random_range(100_000..1 << 20),
        1..=20 => random.random_range(10_000..100_000),
        _ => random.random_range(100..4_000),
    }
}

async fn create_topics(address: SocketAddr, topics: u64) {
    let url = format!("http://{address}");
    let mut client = AdminServiceClient::connect(url).await.expect("the broker listens");
    for index in 0..topics {
        let request = CreateTopicRequest { topic: topic(index), config: Some(config(index)) };
        client.create_topic(request).await.expect("a new topic");
    }
}

/// Publishes for a time. Returns the number of bytes, and the latencies of single small events.
async fn publish(
    address: SocketAddr,
    topics: u64,
    phase: u64,
    duration: Duration,
) -> (u64, Vec<Duration>) {
    let is_over = Arc::new(AtomicBool::new(false));
    let bytes = Arc::new(AtomicU64::new(0));
    let publishers: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let random = StdRng::seed_from_u64(phase * STREAMS + stream);
            let (bytes, is_over) = (bytes.clone(), is_over.clone());
            tokio::spawn(publish_stream(address, topics, random, bytes, is_over))
        })
        .collect();
    let mut client = connect(address).await;
    let started = Instant::now();
    let mut latencies = Vec::new();
    while started.elapsed() < duration {
        let event = NewEvent { payload: vec![b'x'; 100].into(), ..NewEvent::default() };
        let request = PublishRequest {
            topic: topic(1),
            events: vec![event],
            expected_sequence: None,
            ephemeral: false,
            topics: Vec::new(),
        };
        let asked = Instant::now();
        client.publish(request).await.expect("the server goes on");
        latencies.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.expect("a publisher");
    }
    (bytes.load(Ordering::Relaxed), latencies)
}

async fn publish_stream(
    address: SocketAddr,
    topics: u64,
    mut random: StdRng,
    bytes: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
) {
    let mut client = connect(address).await;
    let (requests, sent) = tokio::sync::mpsc::channel(IN_FLIGHT);
    let responses = client.publish_stream(ReceiverStream::new(sent)).await.expect("a stream");
    let mut responses = responses.into_inner();
    let answers = tokio::spawn(async move {
        while let Some(response) = responses.message().await.expect("the server goes on") {
            assert!(matches!(response.outcome, Some(Outcome::Ack(_))), "{response:?}");
        }
    });
    while !is_over.load(Ordering::Relaxed) {
        // The load comes and goes: bursts as fast as requests are acknowledged, then a pause.
        if random.random_range(0..BURST_REQUESTS) == 0 {
            tokio::time::sleep(Duration::from_millis(random.random_range(1..MAX_PAUSE_MS))).await;
        }
        let index = random.random_range(0..topics);
        let events: Vec<NewEvent> = (0..random.random_range(1..30))
            .map(|_| {
                let payload = vec![b'x'; payload_bytes(index, &mut random)];
                bytes.fetch_add(payload.len() as u64, Ordering::Relaxed);
                let key = format!("key {}", random.random_range(0..KEYS));
                NewEvent { key, payload: payload.into(), ..NewEvent::default() }
            })
            .take(3)
            .collect();
        let request =
            PublishStreamRequest { topic: topic(index), events, ..PublishStreamRequest::default() };
        requests.send(request).await.expect("the server reads");
    }
    drop(requests);
    answers.await.expect("every request is answered");
}

async fn retained_bytes(address: SocketAddr) -> u64 {
    let request = ListTopicsRequest { page_size: 10_000, page_token: String::new() };
    let url = format!("http://{address}");
    let mut client = SubscriberServiceClient::connect(url).await.expect("the broker listens");
    let topics = client.list_topics(request).await.expect("a list").into_inner();
    topics.topics.iter().map(|topic| topic.size_bytes).sum()
}

fn directory_bytes(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).expect("the data directory");
    let entries = entries.filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
            Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
            Err(_removed_meanwhile) => 0,
        })
        .sum()
}

/// Draws four charts, one below the other, over the published volume.
fn draw(samples: &[Sample]) -> String {
    type Line = (&'static str, &'static str, fn(&Sample) -> f64);
    let charts: [(&str, &[Line]); 4] = [
        (
            "MiB on disk",
            &[("directory", "#c33", |s| s.directory_mib), ("retained", "#36c", |s| s.retained_mib)],
        ),
        ("peak RSS, MiB", &[("RSS", "#36c", |s| s.peak_rss_mib)]),
        ("publish p99, ms", &[("p99", "#36c", |s| s.p99_ms)]),
        ("reopening, s", &[("reopen", "#36c", |s| s.reopen_seconds)]),
    ];
    let (width, height, left, gap) = (640.0, 120.0, 60.0, 40.0);
    let last = samples.last().map_or(1.0, |sample| sample.published_mib);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{}' height='{}' font-family='sans-serif' \
         font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n",
        width + left + 100.0,
        charts.len() as f64 * (height + gap) + gap
    );
    for (index, (title, lines)) in charts.iter().enumerate() {
        let top = gap + index as f64 * (height + gap);
        let all = lines.iter().flat_map(|(.., of)| samples.iter().map(of));
        let most = all.fold(f64::MIN_POSITIVE, f64::max) * 1.1;
        let bottom = top + height;
        let _never_fails = write!(
            svg,
            "<text x='{left}' y='{}'>{title}</text><text x='4' y='{top}'>{most:.1}</text>\
             <path d='M{left},{top} V{bottom} h{width}' stroke='#999' fill='none'/>\n",
            top - 8.0
        );
        for (row, (name, color, of)) in lines.iter().enumerate() {
            let points: Vec<String> = samples
                .iter()
                .map(|sample| {
                    let x = left + width * sample.published_mib / last;
                    format!("{x:.1},{:.1}", bottom - height * of(sample) / most)
                })
                .collect();
            let _never_fails = write!(
                svg,
                "<polyline points='{}' stroke='{color}' fill='none' stroke-width='2'/>\
                 <text x='{}' y='{}' fill='{color}'>{name}</text>\n",
                points.join(" "),
                left + width + 8.0,
                top + 14.0 * (row as f64 + 1.0)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
