//! Real earthquake reports are published by the real command over gRPC, and read by a client that
//! is disconnected again and again, as a browser could be. The events that it saw are the
//! acknowledged ones, one by one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::common::{Process, Sse, quakes, run, seed, text};

const DISCONNECTS: usize = 100;

/// Returns the file of all reports if it is beside the project, and otherwise the excerpt in
/// `data/`.
fn input() -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/earthquakes.ndjson");
    if all.is_file() {
        return all;
    }
    println!("the file of all reports is not there; the excerpt in data/ is published instead");
    quakes()
}

/// Reads a topic, and reconnects after a random number of frames. Returns the events that were
/// seen.
async fn read_with_disconnects(
    address: std::net::SocketAddr,
    topic: &str,
    count: usize,
    disconnects: &mut usize,
    random: &mut StdRng,
) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    let mut last_id = "0".to_owned();
    while seen.len() < count {
        let mut stream = Sse::resume(address, topic, &last_id).await;
        // The cut falls anywhere: before the first frame, after the first id, in the middle, after
        // the last event.
        for _ in 0..random.random_range(0..2 * count / DISCONNECTS * 6 + 4) {
            if seen.len() == count {
                break;
            }
            let frame = stream.next().await.expect("the stream ended");
            assert!(!frame.is_control("leftoff.gap"), "{frame:?}");
            if frame.is_event() {
                seen.push((frame.sequence(), frame.data.unwrap()));
            }
        }
        last_id = stream.last_id.take().unwrap_or(last_id);
        *disconnects += 1;
    }
    seen
}

#[tokio::test]
async fn what_a_page_saw_through_a_hundred_disconnects_is_what_was_acknowledged() {
    let mut random = StdRng::seed_from_u64(seed());
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let url = format!("http://{}", process.address);
    let input = input();
    let path = input.to_str().unwrap();
    let published = run(&["publish", "--file", path, "--server", &url, "--receipts"]).await;
    assert_eq!(published.status.code(), Some(0), "{}", text(&published.stderr));

    let lines = std::fs::read_to_string(&input).unwrap();
    let mut reports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.lines() {
        #[derive(serde::Deserialize)]
        struct Report<'a> {
            topic: String,
            #[serde(borrow)]
            data: &'a serde_json::value::RawValue,
        }
        let report: Report<'_> = serde_json::from_str(line).unwrap();
        reports.entry(report.topic).or_default().push(report.data.get().to_owned());
    }
    let mut acknowledged: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for receipt in text(&published.stdout).lines() {
        let receipt: Value = serde_json::from_str(receipt).unwrap();
        let topic = receipt["topic"].as_str().unwrap().to_owned();
        acknowledged.entry(topic).or_default().push(receipt["sequence"].as_u64().unwrap());
    }
    assert_eq!(acknowledged.values().map(Vec::len).sum::<usize>(), lines.lines().count());

    let mut disconnects = 0;
    while disconnects < DISCONNECTS {
        for (topic, sequences) in &acknowledged {
            let expected: Vec<(u64, String)> =
                sequences.iter().copied().zip(reports[topic].iter().cloned()).collect();
            let count = expected.len();
            let seen =
                read_with_disconnects(process.address, topic, count, &mut disconnects, &mut random)
                    .await;
            assert_eq!(seen, expected, "{topic}");
        }
    }
    println!("{} reports, {disconnects} disconnects", lines.lines().count());
}
