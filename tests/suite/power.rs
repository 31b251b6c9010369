//! A loss of power: acknowledged events are there afterwards, because the log is synced before an
//! event is acknowledged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{Process, assert_no_hole, post, read_all, seed, send, to};
use crate::forgetful::Forgetful;

const CUTS: usize = 6;
const PUBLISHERS: usize = 6;
const TOPICS: [&str; 2] = ["a", "b"];

/// The payload of each acknowledged event, by topic and sequence.
type Acknowledged = Arc<Mutex<BTreeMap<(usize, u64), String>>>;

/// Publishes to the topics in turn until a publish is not acknowledged.
async fn publish(address: SocketAddr, name: String, acknowledged: Acknowledged) {
    for number in 0.. {
        let topic = number % TOPICS.len();
        let payload = format!("{name}/{number}");
        let path = format!("/v1/topics/{}/events", TOPICS[topic]);
        let url = format!("http://{address}{path}");
        let request = http::Request::post(url).header("content-type", "text/plain");
        let Some(receipt) = crate::common::try_post(request, payload.clone()).await else {
            return;
        };
        acknowledged.lock().unwrap().insert((topic, receipt.sequence), payload);
    }
}

/// Cuts the power again and again while events are published to topics with this durability.
/// Returns the number of acknowledged events that are gone, or `None` where no file system can be
/// mounted.
async fn lost_in_power_cuts(durability: &str) -> Option<usize> {
    let mut random = StdRng::seed_from_u64(seed());
    let disk = Forgetful::mount()?;
    let data = disk.path().join("data");
    let mut process = Process::serve(&data, &[]);
    for topic in TOPICS {
        let settings = format!("{{\"durability\":\"{durability}\"}}");
        let path = format!("/v1/topics/{topic}");
        assert_eq!(send(to(process.address, "PUT", &path), settings).await.status, 201);
    }
    let mut lost = 0;
    for cut in 0..CUTS {
        let acknowledged = Acknowledged::default();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|number| {
                let name = format!("{cut}.{number}");
                tokio::spawn(publish(process.address, name, acknowledged.clone()))
            })
            .collect();
        let alive = Duration::from_millis(random.random_range(50..300));
        tokio::time::sleep(alive).await; // The cut falls anywhere in the work.
        let known = acknowledged.lock().unwrap().clone();
        disk.cut_power();
        process.kill();
        for publisher in publishers {
            publisher.await.unwrap();
        }
        disk.restore_power();
        process = Process::serve(&data, &[]);
        assert!(known.len() > PUBLISHERS, "nothing was published");
        for (index, topic) in TOPICS.iter().enumerate() {
            let stored = read_all(process.address, topic).await;
            assert_no_hole(&stored);
            let of_topic = known.iter().filter(|((topic, _), _)| *topic == index);
            for ((_, sequence), payload) in of_topic {
                let found = stored.get(*sequence as usize - 1);
                lost += usize::from(found != Some(&(*sequence, payload.clone())));
            }
        }
        // The broker still accepts events.
        let path = format!("/v1/topics/{}/events", TOPICS[0]);
        assert_eq!(post(process.address, &path, "again").await.status, 201);
    }
    Some(lost)
}

/// Goal: an acknowledged event survives a loss of power, and the test would notice if it did not.
/// Method: a file system that loses all bytes that were not synced. Topics with the sync lose
/// nothing. Topics without it, which is the only difference, lose acknowledged events.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_loss_of_power_takes_nothing_that_was_synced_before_it_was_acknowledged() {
    let Some(lost) = lost_in_power_cuts("fsync").await else { return };
    assert_eq!(lost, 0, "acknowledged events are gone");
    let lost = lost_in_power_cuts("process").await.unwrap();
    assert!(lost > 0, "the file system forgets nothing, so this test proves nothing");
    println!("{lost} events that were not synced are gone");
}
