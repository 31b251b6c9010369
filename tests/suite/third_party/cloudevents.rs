//! CloudEvents with the SDKs of npm and PyPI, which publish and read.

use std::time::Instant;

use super::client::Installed;
use super::story::{EVENTS, Seen, Story};
use crate::common::{PATIENCE, quakes};

const KILLS: usize = 3;

/// The least number of acknowledgements between two kills.
const LIFE: usize = 40;

/// Goal: CloudEvents that either SDK publishes, in either mode, reach the readers of both SDKs as
/// they were acknowledged, through kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cloud_events_of_either_sdk_reach_both_as_they_were_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let mut story = Story::without_history();
    let (url, reports) = (format!("http://{}{EVENTS}", story.address), quakes());
    let stream = format!("{url}?from=earliest&format=cloudevents");
    let readers = [
        installed.node("cloudevents of npm", "cloudevents.cjs", &["read", &stream]).rewritten(),
        installed.python("cloudevents of PyPI", "cloud_events.py", &["read", &stream]).rewritten(),
    ];
    let publish = ["publish", &url, reports.to_str().unwrap()];
    let publishers = [
        installed.node("a publisher in Node", "cloudevents.cjs", &publish),
        installed.python("a publisher in Python", "cloud_events.py", &publish),
    ];
    let acknowledged = || publishers.iter().flat_map(|publisher| publisher.seen());
    let count = std::fs::read_to_string(&reports).unwrap().lines().count();
    let all = publishers.len() * count;
    for kill in 0..=KILLS {
        let enough = if kill == KILLS { all } else { acknowledged().count() + LIFE };
        let started = Instant::now();
        while acknowledged().count() < enough {
            assert!(started.elapsed() < PATIENCE, "{} acknowledged", acknowledged().count());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        if kill < KILLS {
            story.restart(story.address).await;
        }
    }
    let mut expected: Vec<Seen> = acknowledged().collect();
    expected.sort_by_key(Seen::sequence);
    assert_eq!(expected.len(), all);
    for reader in &readers {
        reader.saw(all as u64).await;
        reader.saw_all(&expected);
        println!("{}: {all} events through {KILLS} kills", reader.name);
    }
}
