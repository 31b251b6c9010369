//! What JetStream does by itself: clients publish messages to a stream of three replicas, and wait
//! for each acknowledgement.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::Run;

const STREAM: &str = "RAW";
const SUBJECT: &str = "raw";

/// A stream of three replicas, which keeps the newest 256 MB.
pub(crate) struct Stream {
    urls: Vec<String>,
}

impl Stream {
    /// Creates the stream.
    pub(crate) async fn create(urls: &[String]) -> Self {
        let stream = Self { urls: urls.to_owned() };
        let config = json!({
            "name": STREAM, "subjects": [SUBJECT], "num_replicas": 3, "storage": "file",
            "max_bytes": 256 << 20,
        });
        let created = stream.client().await;
        let asked = format!("$JS.API.STREAM.CREATE.{STREAM}");
        let answer = created.request(asked, config.to_string().into()).await.expect("an answer");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("an object of JSON");
        assert!(answer["error"].is_null(), "{answer}");
        stream
    }

    /// Publishes for so long as one publisher that must not lose the order, and stores nothing
    /// twice: each message has the sequence of the one before it, and `in_flight` of `size` bytes
    /// wait for their acknowledgement.
    pub(crate) async fn publish_fenced(
        &self,
        in_flight: usize,
        size: usize,
        time: Duration,
    ) -> Run {
        let client = self.client().await;
        let info = client.request(format!("$JS.API.STREAM.INFO.{STREAM}"), Bytes::new()).await;
        let info: Value = serde_json::from_slice(&info.expect("an answer").payload).expect("JSON");
        let mut last = info["state"]["last_seq"].as_u64().expect("a sequence");
        let payload = Bytes::from(vec![b'x'; size]);
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.expect("a subscription");
        let (mut asked, mut took_ms) = (VecDeque::new(), Vec::new());
        let started = Instant::now();
        while started.elapsed() < time {
            while asked.len() < in_flight {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Expected-Last-Sequence", last.to_string());
                let (reply, payload) = (inbox.clone(), payload.clone());
                asked.push_back(Instant::now());
                let sent = client.publish_with_reply_and_headers(SUBJECT, reply, headers, payload);
                sent.await.expect("the message is sent");
                last += 1;
            }
            assert_stored(&answers.next().await.expect("an answer").payload);
            let asked = asked.pop_front().expect("it was asked"); // Answers keep the order.
            took_ms.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        for _ in asked {
            assert_stored(&answers.next().await.expect("an answer").payload);
        }
        Run::of(took_ms, started.elapsed())
    }

    async fn client(&self) -> Client {
        let urls: Vec<ServerAddr> =
            self.urls.iter().map(|url| url.parse().expect("the URL of a server")).collect();
        async_nats::connect(urls).await.expect("a server")
    }

    /// Publishes for so long from `clients` connections. Each has `in_flight` messages of `size`
    /// bytes that wait for their acknowledgement.
    pub(crate) async fn publish(
        &self,
        clients: usize,
        in_flight: usize,
        size: usize,
        time: Duration,
    ) -> Run {
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(self.client().await);
        }
        let started = Instant::now();
        let publishing: Vec<_> = connected
            .iter()
            .flat_map(|client| std::iter::repeat_n(client.clone(), in_flight))
            .map(|client| tokio::spawn(publish(client, size, started + time)))
            .collect();
        let mut took_ms = Vec::new();
        for one in publishing {
            took_ms.extend(one.await.expect("a publisher"));
        }
        Run::of(took_ms, started.elapsed())
    }
}

impl Run {
    fn of(mut took_ms: Vec<f64>, time: Duration) -> Self {
        let events_per_second = took_ms.len() as f64 / time.as_secs_f64();
        took_ms.sort_by(f64::total_cmp);
        let quantile = |of: f64| took_ms[((took_ms.len() - 1) as f64 * of) as usize];
        Self { events_per_second, p50_ms: quantile(0.5), p99_ms: quantile(0.99) }
    }
}

fn assert_stored(answer: &[u8]) {
    let answer: Value = serde_json::from_slice(answer).expect("an object of JSON");
    assert!(answer["seq"].is_u64(), "{answer}");
}

/// Publishes one message after the other, and returns the milliseconds that each took.
async fn publish(client: Client, size: usize, until: Instant) -> Vec<f64> {
    let payload = Bytes::from(vec![b'x'; size]);
    let mut took_ms = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        let answer = client.request(SUBJECT, payload.clone()).await.expect("an answer");
        assert_stored(&answer.payload);
        took_ms.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    took_ms
}
