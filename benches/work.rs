//! How many leases a second does one shared consumer give and finish, on disk, for 64 workers?
//! `cargo bench --bench work` measures, and `cargo test --benches` runs it tiny.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leftoff::consumers::{
    ConsumerId, ConsumerName, ConsumerSettings, Consumers, ConsumersConfig, PullRequest,
    SettleOutcome, Settlement, WorkSettings,
};
use leftoff::{Broker, NewEvent, OpenConfig, Publish};

const WORKERS: u64 = 64;

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (seconds, events) = if measuring { (5, 1_000_000) } else { (1, 2_000) };
    runtime.block_on(async {
        for (limit, keys) in [(1, 0), (16, 0), (16, 1_000)] {
            leases(limit, keys, Duration::from_secs(seconds), events).await;
        }
    });
}

/// Measures leases that are given, up to `limit` in a pull, and finished.
async fn leases(limit: usize, keys: u64, time: Duration, events: u64) {
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let broker = Broker::open(directory.path(), &OpenConfig::default()).expect("a broker");
    let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.expect("consumers");
    let topic: leftoff::TopicName = "jobs".parse().expect("a topic");
    let key = |n: u64| if keys == 0 { String::new() } else { format!("key-{}", n % keys) };
    for first in (0..events).step_by(10_000) {
        let numbers = first..events.min(first + 10_000);
        let batch = numbers.map(|n| NewEvent::new("a piece of work").with_key(key(n))).collect();
        broker.publish(Publish::new(topic.clone(), batch)).await.expect("stored");
    }
    let name: ConsumerName = "workers".parse().expect("a name");
    let id = ConsumerId::new("jobs".parse().expect("a pattern"), name);
    let mut shared = WorkSettings::default();
    shared.max_in_flight = 10_000;
    let settings = ConsumerSettings::default().shared(shared);
    consumers.put(id.clone(), settings, None).await.expect("created");
    let done = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (queue, done) = (consumers.work(&id), done.clone());
            tokio::spawn(async move {
                let worker = format!("worker-{worker}");
                while started.elapsed() < time {
                    let request = PullRequest::new(worker.clone()).limit(limit);
                    let request = request.wait(Duration::from_millis(100));
                    let leased = queue.pull(request).await.expect("leased");
                    let leases = leased.iter().map(|leased| leased.lease);
                    let settled = queue.settle(Settlement::ack(leases)).await.expect("settled");
                    assert!(settled.ack.iter().all(|it| *it == SettleOutcome::Done));
                    done.fetch_add(settled.ack.len() as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("a worker");
    }
    let (done, elapsed) = (done.load(Ordering::Relaxed), started.elapsed());
    let finished = consumers.work(&id).status().expect("it is shared").totals.finished;
    assert_eq!(finished, done, "each acknowledgement counts once");
    println!(
        "pulls of {limit:<3} {keys:>5} keys {:>9.0} leases a second, given and finished",
        done as f64 / elapsed.as_secs_f64()
    );
    broker.close().await;
}
