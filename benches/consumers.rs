//! How many acknowledged checkpoints and marks does a broker on disk take from 64 concurrent
//! callers, and what do a million idle consumers cost in memory and when they are opened?
//! `cargo bench --bench consumers` measures, and `cargo test --benches` runs it tiny.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leftoff::consumers::{
    Checkpoint, ConsumerId, ConsumerName, ConsumerSettings, Consumers, ConsumersConfig, EventName,
    Mark, MarkRequest, MarkedEvents,
};
use leftoff::{Broker, Cursor, NewEvent, OpenConfig, Publish, Sequence};

const CALLERS: u64 = 64;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (seconds, idle) = if measuring { (5, 1_000_000) } else { (0, 1_000) };
    runtime.block_on(async {
        changes(Duration::from_secs(seconds)).await;
        many(idle).await;
    });
}

fn id(number: u64) -> ConsumerId {
    let topic = format!("users.{number:06}.notifications").parse().expect("a topic");
    let name: ConsumerName = "inbox".parse().expect("a name");
    ConsumerId::new(topic, name).of_owner(format!("user-{number:06}"))
}

/// Measures checkpoints and marks, each caller with a consumer of its own.
async fn changes(time: Duration) {
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let broker = Broker::open(directory.path(), &OpenConfig::default()).expect("a broker");
    let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.expect("consumers");
    for number in 0..CALLERS {
        let topic = id(number).selection.as_str().parse().expect("a topic");
        let events = vec![NewEvent::new("an event"); 10_000];
        broker.publish(Publish::new(topic, events)).await.expect("stored");
    }
    for what in ["checkpoints", "marks"] {
        let done = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let callers: Vec<_> = (0..CALLERS)
            .map(|number| {
                let (consumers, epoch, done) = (consumers.clone(), broker.epoch(), done.clone());
                tokio::spawn(async move {
                    let (id, mut sequence) = (id(number), 0);
                    while started.elapsed() < time || sequence < 4 {
                        sequence = sequence % 9_999 + 1;
                        let sequence = Sequence::new(sequence);
                        if what == "marks" {
                            let events = MarkedEvents::Named(vec![EventName::Sequence(sequence)]);
                            let request = match sequence.get() % 64 {
                                0 => MarkRequest::of(MarkedEvents::up_to(Cursor::after(
                                    sequence, epoch,
                                ))),
                                _ => MarkRequest::of(events),
                            };
                            let request = request.mark(Mark::Read);
                            consumers.mark(&id, request, "me").await.expect("marked");
                        } else {
                            let to = Checkpoint::at(Cursor::after(sequence, epoch)).forced();
                            consumers.checkpoint(&id, to).await.expect("moved");
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("a caller");
        }
        let (done, elapsed) = (done.load(Ordering::Relaxed), started.elapsed());
        println!("{what:<12} {:>9.0} acknowledged a second", done as f64 / elapsed.as_secs_f64());
    }
    broker.close().await;
}

/// Measures the memory of many idle consumers, and the time to open them.
async fn many(count: u64) {
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let open = || Broker::open(directory.path(), &OpenConfig::default()).expect("a broker");
    let broker = open();
    let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.expect("consumers");
    let (consumers_of, started) = (consumers.clone(), Instant::now());
    let created: Vec<_> = (0..1_000)
        .map(|part| {
            let consumers = consumers_of.clone();
            tokio::spawn(async move {
                for number in (part..count).step_by(1_000) {
                    let put = consumers.put(id(number), ConsumerSettings::default(), None);
                    put.await.expect("created");
                }
            })
        })
        .collect();
    for part in created {
        part.await.expect("a part");
    }
    let elapsed = started.elapsed();
    println!("created      {:>9.0} a second", count as f64 / elapsed.as_secs_f64());
    drop((consumers, consumers_of));
    broker.close().await;

    let broker = open();
    let (before, started) = (resident_bytes(), Instant::now());
    let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.expect("consumers");
    let elapsed = started.elapsed();
    assert_eq!(consumers.count() as u64, count);
    let bytes = resident_bytes().saturating_sub(before) as f64 / count as f64;
    println!("opened       {count:>9} in {:.2} s", elapsed.as_secs_f64());
    println!("memory       {bytes:>9.0} bytes of each, with all that opening left behind");
    broker.close().await;
}

/// Returns the bytes of this process that are in memory.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}
