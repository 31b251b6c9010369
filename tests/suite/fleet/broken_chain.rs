//! A stream into which somebody else has written: no node goes on beyond that record.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::faults::clients::call;
use super::small_fleet::{ANSWER_TIMEOUT, SmallFleet};
use crate::common::{assert_no_hole, get, post, read_all, soon, to};

/// The stream of the fleet, as others reach it.
struct OpenStream(async_nats::Client);

impl OpenStream {
    async fn of(fleet: &SmallFleet) -> Self {
        Self(async_nats::connect(fleet.engine()).await.unwrap())
    }

    async fn ask(&self, what: &str, how: Value) -> Value {
        let asked = self.0.request(format!("$JS.API.{what}"), how.to_string().into()).await;
        serde_json::from_slice(&asked.unwrap().payload).unwrap()
    }

    /// Returns the number of the last record, and its bytes.
    async fn last(&self) -> (u64, Bytes) {
        let info = self.ask("STREAM.INFO.LEFTOFF_small", json!({})).await;
        let last = info["state"]["last_seq"].as_u64().unwrap();
        let told = self.ask("STREAM.MSG.GET.LEFTOFF_small", json!({ "seq": last })).await;
        let record = STANDARD.decode(told["message"]["data"].as_str().unwrap()).unwrap();
        (last, record.into())
    }

    /// Appends a record with the right fence, as no node does: `made` makes it of the last one.
    /// Returns its number.
    async fn append(&self, made: fn(Bytes) -> Bytes) -> u64 {
        soon(async {
            loop {
                let (last, record) = self.last().await;
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Nats-Expected-Last-Sequence", last.to_string());
                let subject = "leftoff.fleet.small.records";
                let sent = self.0.request_with_headers(subject, headers, made(record)).await;
                let told: Value = serde_json::from_slice(&sent.unwrap().payload).unwrap();
                if told["error"].is_null() {
                    return told["seq"].as_u64().unwrap();
                }
            }
        })
        .await
    }
}

/// The events of one publisher, which has ended with the first refusal.
struct Published {
    acknowledged: Vec<String>,
    /// The first event that was not acknowledged.
    refused: String,
    /// The type of the problem with which it was refused.
    kind: String,
}

/// Publishes one event after the other at a node, until one is refused.
async fn publish_until_refused(node: SocketAddr, number: usize) -> Published {
    let mut acknowledged = Vec::new();
    loop {
        let payload = format!("{number}-{}", acknowledged.len());
        let path = format!("/v1/topics/a/events?id={payload}");
        let answer = post(node, &path, payload.clone()).await;
        if !answer.status.is_success() {
            assert!([503, 504].contains(&answer.status.as_u16()), "{answer:?}");
            let kind = answer.json()["type"].as_str().unwrap().to_owned();
            return Published { acknowledged, refused: payload, kind };
        }
        acknowledged.push(payload);
    }
}

/// Waits until a node says that it has stopped for this problem.
async fn says_that_it_stopped(node: SocketAddr, problem: &str) {
    let cluster = async || call(to(node, "GET", "/v1/cluster"), "", ANSWER_TIMEOUT).await;
    let told = soon(async {
        loop {
            let Ok((_, told)) = cluster().await else { continue };
            let told: Value = serde_json::from_slice(&told).unwrap();
            if told["role"] == "stopped" {
                return told;
            }
        }
    })
    .await;
    assert_eq!((&told["problem"], &told["leader"]), (&json!(problem), &Value::Null), "{told}");
    let ready = get(node, "/readyz").await;
    assert_eq!(ready.status, 503);
    let why = format!("this node takes no part in its fleet: {problem}");
    assert_eq!(ready.json()["detail"], why);
}

/// Goal: a record that does not follow, and one that is none, stops all nodes at the same place.
/// Each says which record it is and why, and goes on serving what it has. Nothing is acknowledged
/// that is not on all of them, nobody's log is replaced, and the next start of a node changes
/// nothing of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_stop_at_a_foreign_record_and_say_so_and_lose_nothing() {
    let again: fn(Bytes) -> Bytes = |last| last;
    let garbage: fn(Bytes) -> Bytes = |_| Bytes::from_static(b"hello");
    for (made, why) in [
        (again, "it does not follow the record before it"),
        (garbage, "it is too short to be a record"),
    ] {
        let secret = ["--set", "fleet.secret=a-secret-of-sixteen"];
        let Some(mut fleet) = SmallFleet::start(&secret).await else { return };
        let at = fleet.addresses.clone();
        let publisher = |number: usize| tokio::spawn(publish_until_refused(at[number], number));
        let publishers: Vec<_> = (0..3).map(publisher).collect();
        let count = async || get(at[0], "/v1/topics/a").await.json()["tail"].as_u64();
        soon(async { while count().await < Some(30) {} }).await;
        let foreign = OpenStream::of(&fleet).await.append(made).await;
        let problem = format!("the stream breaks at its record {foreign}: {why}");
        for node in &at {
            says_that_it_stopped(*node, &problem).await;
        }
        let stored = read_all(at[0], "a").await;
        assert_no_hole(&stored);
        let has = |payload: &String| stored.iter().filter(|(_, it)| it == payload).count();
        for publisher in publishers {
            let Published { acknowledged, refused, kind } = publisher.await.unwrap();
            for payload in &acknowledged {
                assert_eq!(has(payload), 1, "{payload} was acknowledged");
            }
            let most = usize::from(kind != "urn:leftoff:problem:not-leading");
            assert!(has(&refused) <= most, "{refused}: {kind}");
        }
        fleet.kill(0);
        fleet.start_node(0);
        says_that_it_stopped(at[0], &problem).await;
        for (number, node) in at.iter().enumerate() {
            assert_eq!(read_all(*node, "a").await, stored, "node {number}");
            let files = std::fs::read_dir(fleet.directory(number)).unwrap();
            let mut names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
            assert!(!names.any(|name| name.starts_with("damaged-")), "node {number}");
        }
    }
}
