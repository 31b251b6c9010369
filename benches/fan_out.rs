//! What does it cost to notify 500 users in one publish, and what would it cost if the topics
//! shared the payload? One event of 1 KiB for each of 500 topics, on a disk, synced; once with
//! nobody reading, and once with ten readers that follow all topics.
//! `cargo bench --bench fan_out` measures, and `cargo test --benches` runs it tiny.

use std::path::Path;
use std::time::{Duration, Instant};

use leftoff::{
    Broker, Delivery, NewEvent, OnGap, OpenConfig, Publish, StartPoint, TopicName, TopicPattern,
};

const TOPICS: usize = 500;
const PAYLOAD_BYTES: usize = 1_024;
/// The size of a reference to a payload that stands elsewhere: a topic's id and a sequence.
const REFERENCE_BYTES: usize = 16;
const READERS: usize = 10;

/// The form in which a notification is stored.
#[derive(Clone, Copy)]
enum Form {
    /// The payload in each topic.
    OncePerTopic,
    /// The payload in one topic, and a reference to it in each of the others.
    Shared,
    /// The payload in each topic, each by a publish of its own; all are in flight together.
    OneByOne,
}

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let calls = if measuring { 400 } else { 3 };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let forms = [
        ("once per topic", Form::OncePerTopic),
        ("shared", Form::Shared),
        ("one by one", Form::OneByOne),
    ];
    for readers in [0, READERS] {
        for (name, form) in forms {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
                .expect("a directory on this disk");
            let data = directory.path().join("data");
            let measured = runtime.block_on(measure(&data, form, calls, readers));
            let [median, worst] = [50, 99].map(|percent| at(&measured.calls, percent));
            let read = match readers {
                0 => String::new(),
                _ => format!(", read by all within {:.1} ms", at(&measured.reads, 99)),
            };
            let kib = size_bytes(&data) as f64 / 1_024.0 / calls as f64;
            println!(
                "fan_out {name}, {readers} readers: {median:.2} ms a call (p99 {worst:.2} ms), \
                 {kib:.0} KiB on the disk for each call{read}"
            );
        }
    }
}

/// The durations of all calls, and of the readers after each call, in milliseconds.
#[derive(Default)]
struct Measured {
    calls: Vec<f64>,
    reads: Vec<f64>,
}

async fn measure(data: &Path, form: Form, calls: usize, readers: usize) -> Measured {
    let broker = Broker::open(data, &OpenConfig::default()).expect("a fresh log");
    let topics: Vec<TopicName> =
        (0..TOPICS).map(|n| format!("users.{n}.inbox").parse().expect("a name")).collect();
    let pattern: TopicPattern = "users.*.inbox".parse().expect("a pattern");
    let mut following = Vec::new();
    for _ in 0..readers {
        let subscribed = broker.feed(vec![pattern.clone()], StartPoint::Latest, OnGap::Resume);
        following.push(subscribed.await.expect("the broker is open"));
    }
    let mut measured = Measured::default();
    for _ in 0..calls {
        let started = Instant::now();
        publish(&broker, &topics, form).await;
        measured.calls.push(millis(started.elapsed()));
        for reader in &mut following {
            let mut left = TOPICS;
            while left > 0 {
                if let Some(Delivery::Events(run)) = reader.next().await.expect("events") {
                    left = left.saturating_sub(run.events().count());
                }
            }
        }
        measured.reads.push(millis(started.elapsed()));
    }
    broker.close().await;
    measured
}

async fn publish(broker: &Broker, topics: &[TopicName], form: Form) {
    let event = |size_bytes: usize| NewEvent::new(vec![b'x'; size_bytes]);
    let to = |(index, topic): (usize, &TopicName)| {
        let is_reference = matches!(form, Form::Shared) && index > 0;
        let size_bytes = if is_reference { REFERENCE_BYTES } else { PAYLOAD_BYTES };
        Publish::one(topic.clone(), event(size_bytes))
    };
    let publishes: Vec<Publish> = topics.iter().enumerate().map(to).collect();
    if let Form::OncePerTopic | Form::Shared = form {
        broker.publish_all(publishes).await.expect("room on the disk");
        return;
    }
    let mut pending = Vec::with_capacity(publishes.len());
    for publish in publishes {
        pending.push(broker.submit(publish).await.expect("room in the queue"));
    }
    for pending in pending {
        pending.ack().await.expect("room on the disk");
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn at(durations: &[f64], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn size_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("the data directory");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("an entry");
        match entry.path().is_dir() {
            true => size_bytes(&entry.path()),
            false => entry.metadata().expect("a size").len(),
        }
    });
    sizes.sum()
}
