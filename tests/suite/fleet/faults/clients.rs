//! The clients of a broken fleet: they publish and read, go to another node at random and whenever
//! something fails, and note what they were told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::broken_fleet::events_in;
use crate::common::{Sse, to};

/// The publishers, each with a topic of its own. The last one gives its events no ids.
pub(super) const PUBLISHERS: usize = 4;

/// The time in which a node answers a publish: it says itself when it gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What a publisher was told.
#[derive(Debug, Default)]
pub(super) struct ToldPublisher {
    pub(super) topic: String,
    pub(super) has_ids: bool,
    /// The payloads that were acknowledged, with their sequences, and how long that took.
    pub(super) acked: Vec<(String, u64, Duration)>,
    /// The payloads of which a node said that they are not stored.
    pub(super) refused: Vec<String>,
    /// The payloads of which nobody knows.
    pub(super) unknown: Vec<String>,
}

/// What a reader got.
#[derive(Debug, Default)]
pub(super) struct ToldReader {
    pub(super) topic: String,
    /// The sequences and payloads, in the order in which they came.
    pub(super) events: Vec<(u64, String)>,
}

/// What all clients were told.
#[derive(Debug, Default)]
pub(super) struct ToldClients {
    pub(super) publishers: Vec<ToldPublisher>,
    pub(super) readers: Vec<ToldReader>,
}

impl ToldClients {
    /// Returns the longest time until an event was acknowledged.
    pub(super) fn longest_ack(&self) -> Duration {
        let acked = self.publishers.iter().flat_map(|publisher| &publisher.acked);
        acked.map(|(_, _, took)| *took).max().unwrap_or_default()
    }
}

/// Clients that run.
pub(super) struct Clients {
    stopping: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<ToldPublisher>>,
    /// Readers read on until they have what their publisher was told.
    readers: Vec<(usize, JoinHandle<ToldReader>)>,
    done: Vec<tokio::sync::watch::Sender<Option<u64>>>,
}

/// Returns the topic of a publisher.
pub(super) fn topic_of(number: usize) -> String {
    format!("broken.{number}")
}

/// Sends a request, and returns the status and the body of the answer; or why there is none.
pub(super) async fn call(
    request: http::request::Builder,
    body: impl Into<Bytes>,
    within: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
    let answered = async {
        let answer = client.request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((head.status, body.to_bytes()))
    };
    tokio::time::timeout(within, answered).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

impl Clients {
    /// Starts all clients.
    pub(super) fn start(nodes: Vec<SocketAddr>, random: &mut StdRng) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (mut publishers, mut readers, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..PUBLISHERS {
            let mut seeds = std::iter::repeat_with(|| StdRng::seed_from_u64(random.random()));
            let mut next = || seeds.next().expect("seeds do not end");
            let publishing = publish(number, nodes.clone(), next(), stopping.clone());
            publishers.push(tokio::spawn(publishing));
            let last = tokio::sync::watch::Sender::new(None);
            let follow = follow(number, nodes.clone(), next(), last.subscribe());
            let poll = poll(number, nodes.clone(), next(), last.subscribe());
            readers.push((number, tokio::spawn(follow)));
            readers.push((number, tokio::spawn(poll)));
            done.push(last);
        }
        Self { stopping, publishers, readers, done }
    }

    /// Has the publishers end, and the readers read what there is. Returns what they were told.
    ///
    /// # Panics
    ///
    /// If a reader does not get what was acknowledged.
    pub(super) async fn finish(self) -> ToldClients {
        self.stopping.store(true, Ordering::SeqCst);
        let mut told = ToldClients::default();
        for (publisher, last) in self.publishers.into_iter().zip(&self.done) {
            let publisher = publisher.await.unwrap();
            let highest = publisher.acked.iter().map(|(_, sequence, _)| *sequence).max();
            last.send_replace(Some(highest.unwrap_or(0)));
            told.publishers.push(publisher);
        }
        for (_, reader) in self.readers {
            let read = tokio::time::timeout(Duration::from_secs(60), reader).await;
            told.readers.push(read.expect("a reader gets what was acknowledged").unwrap());
        }
        told
    }
}

fn any(nodes: &[SocketAddr], random: &mut StdRng) -> SocketAddr {
    nodes[random.random_range(0..nodes.len())]
}

async fn publish(
    number: usize,
    nodes: Vec<SocketAddr>,
    mut random: StdRng,
    stopping: Arc<AtomicBool>,
) -> ToldPublisher {
    let (topic, has_ids) = (topic_of(number), number + 1 < PUBLISHERS);
    let mut told = ToldPublisher { topic: topic.clone(), has_ids, ..ToldPublisher::default() };
    let mut node = any(&nodes, &mut random);
    let mut event = 0;
    while !stopping.load(Ordering::SeqCst) {
        event += 1;
        let payload = format!("{number}-{event}");
        let id = if has_ids { format!("?id={payload}") } else { String::new() };
        let began = Instant::now();
        loop {
            let request = to(node, "POST", &format!("/v1/topics/{topic}/events{id}"));
            match call(request, payload.clone(), ANSWER_TIMEOUT).await {
                Ok((status, body)) if status.is_success() => {
                    let told_of: Value = serde_json::from_slice(&body).unwrap();
                    let sequence = told_of["sequence"].as_u64().unwrap();
                    told.acked.push((payload, sequence, began.elapsed()));
                    break;
                }
                answer => {
                    node = any(&nodes, &mut random);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if has_ids {
                        continue; // It may be repeated, and is.
                    }
                    let is_refused = answer.is_ok_and(|(status, _)| status == 503);
                    let list = if is_refused { &mut told.refused } else { &mut told.unknown };
                    list.push(payload);
                    break;
                }
            }
        }
        if random.random_range(0..20) == 0 {
            node = any(&nodes, &mut random);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(1..20))).await;
    }
    told
}

/// Whether a reader has all that was acknowledged.
fn has_all(told: &ToldReader, last: &tokio::sync::watch::Receiver<Option<u64>>) -> bool {
    last.borrow().is_some_and(|last| told.events.last().map_or(0, |(read, _)| *read) >= last)
}

/// Follows a topic by an event stream, as a browser does, now at one node and now at another.
async fn follow(
    number: usize,
    nodes: Vec<SocketAddr>,
    mut random: StdRng,
    last: tokio::sync::watch::Receiver<Option<u64>>,
) -> ToldReader {
    let mut told = ToldReader { topic: topic_of(number), events: Vec::new() };
    let mut last_id = String::new();
    while !has_all(&told, &last) {
        let node = any(&nodes, &mut random);
        let request = to(node, "GET", &format!("/v1/topics/{}/events", told.topic));
        let request =
            request.header("last-event-id", if last_id.is_empty() { "0" } else { &last_id });
        let opened = tokio::time::timeout(Duration::from_secs(5), Sse::open(request)).await;
        let Ok(Ok(mut stream)) = opened else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if stream.status != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        let until = Instant::now() + Duration::from_millis(random.random_range(200..3_000));
        while !has_all(&told, &last) {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(Some(frame)) = tokio::time::timeout(left, stream.next()).await else { break };
            assert!(!frame.is_control("leftoff.gap"), "{}: {frame:?} at {node}", told.topic);
            if let Some(id) = &frame.id {
                last_id.clone_from(id);
            }
            if frame.is_event() {
                told.events.push((frame.sequence(), frame.data.unwrap_or_default()));
            }
        }
    }
    told
}

/// Follows a topic by polls, each at any node.
async fn poll(
    number: usize,
    nodes: Vec<SocketAddr>,
    mut random: StdRng,
    last: tokio::sync::watch::Receiver<Option<u64>>,
) -> ToldReader {
    let mut told = ToldReader { topic: topic_of(number), events: Vec::new() };
    while !has_all(&told, &last) {
        let after = told.events.last().map_or(0, |(sequence, _)| *sequence);
        let path = format!("/v1/topics/{}/events?after={after}&wait=1s", told.topic);
        let request = to(any(&nodes, &mut random), "GET", &path);
        match call(request, "", Duration::from_secs(10)).await {
            Ok((status, body)) if status == 200 => {
                let page: Value = serde_json::from_slice(&body).unwrap();
                let gaps = page["gaps"].as_array().is_none_or(Vec::is_empty);
                assert!(gaps && page["gap"].is_null(), "{}: {page}", told.topic);
                for event in events_in(&body) {
                    let payload = event["data"].as_str().unwrap_or_default().to_owned();
                    told.events.push((event["sequence"].as_u64().unwrap(), payload));
                }
            }
            Ok((status, body)) => {
                assert_ne!(status, StatusCode::GONE, "{}: {body:?}", told.topic);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    told
}
