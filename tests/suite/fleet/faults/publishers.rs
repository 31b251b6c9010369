//! The publishers of a broken fleet: over HTTP and over gRPC, with ids and without.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leftoff::edge::proto::{NewEvent, PublishRequest};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tonic::{Code, Status};

use super::clients::{any, call, topic_of};
use crate::common::to;
use crate::grpc_client::Grpc;

/// The publishers, each with a topic of its own. Those with an odd number speak gRPC; the last two
/// give their events no ids.
pub(super) const PUBLISHERS: usize = 4;

const WITH_IDS: usize = 2;

/// The time in which a node answers a publish: it says itself when it gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// An event that was acknowledged.
#[derive(Debug)]
pub(super) struct AckedEvent {
    pub(super) payload: String,
    pub(super) sequence: u64,
    pub(super) position: u64,
    pub(super) took: Duration,
}

/// What a publisher was told.
#[derive(Debug, Default)]
pub(super) struct ToldPublisher {
    pub(super) topic: String,
    pub(super) has_ids: bool,
    pub(super) acked: Vec<AckedEvent>,
    /// The payloads of which a node said that they are not stored.
    pub(super) refused: Vec<String>,
    /// The payloads of which nobody knows.
    pub(super) unknown: Vec<String>,
}

/// Why a publish is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotAcked {
    /// A node said that nothing is stored.
    Refused,
    Unknown,
}

/// A publisher, which is at one node at a time.
pub(super) struct Publisher {
    number: usize,
    nodes: Vec<SocketAddr>,
    random: StdRng,
    stopping: Arc<AtomicBool>,
    node: SocketAddr,
    /// The connection to that node, of a publisher over gRPC.
    grpc: Option<Grpc>,
}

impl Publisher {
    pub(super) fn new(
        number: usize,
        nodes: &[SocketAddr],
        mut random: StdRng,
        stopping: Arc<AtomicBool>,
    ) -> Self {
        let node = any(nodes, &mut random);
        Self { number, nodes: nodes.to_vec(), random, stopping, node, grpc: None }
    }

    /// Publishes until it is told to stop.
    pub(super) async fn run(mut self) -> ToldPublisher {
        let (topic, has_ids) = (topic_of(self.number), self.number < WITH_IDS);
        let mut told = ToldPublisher { topic, has_ids, ..ToldPublisher::default() };
        let mut event = 0;
        while !self.stopping.load(Ordering::SeqCst) {
            event += 1;
            let began = Instant::now();
            // No payload is a part of another one, nor of an id.
            let payload = format!("{}-{event};", self.number);
            let id = if has_ids { format!("{}-{event}", self.number) } else { String::new() };
            loop {
                match self.publish(&told.topic, &payload, &id).await {
                    Ok((sequence, position)) => {
                        let took = began.elapsed();
                        told.acked.push(AckedEvent { payload, sequence, position, took });
                        break;
                    }
                    Err(why) => {
                        self.move_on();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        if has_ids {
                            continue; // It may be repeated, and is.
                        }
                        let is_refused = why == NotAcked::Refused;
                        let list = if is_refused { &mut told.refused } else { &mut told.unknown };
                        list.push(payload);
                        break;
                    }
                }
            }
            if self.random.random_range(0..20) == 0 {
                self.move_on();
            }
            tokio::time::sleep(Duration::from_millis(self.random.random_range(1..20))).await;
        }
        told
    }

    fn move_on(&mut self) {
        self.node = any(&self.nodes, &mut self.random);
        self.grpc = None;
    }

    /// Publishes an event. Returns its sequence and its position.
    async fn publish(
        &mut self,
        topic: &str,
        payload: &str,
        id: &str,
    ) -> Result<(u64, u64), NotAcked> {
        if self.number % 2 == 1 {
            let publishing = self.publish_by_grpc(topic, payload, id);
            let told = tokio::time::timeout(ANSWER_TIMEOUT, publishing).await;
            return told.unwrap_or(Err(NotAcked::Unknown));
        }
        let id = if id.is_empty() { String::new() } else { format!("?id={id}") };
        let request = to(self.node, "POST", &format!("/v1/topics/{topic}/events{id}"));
        match call(request, payload.to_owned(), ANSWER_TIMEOUT).await {
            Ok((status, body)) if status.is_success() => {
                let told: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(told["durability"], "replicated", "{told}");
                Ok((told["sequence"].as_u64().unwrap(), told["position"].as_u64().unwrap()))
            }
            Ok((status, _)) if [429, 503, 507].contains(&status.as_u16()) => Err(NotAcked::Refused),
            _ => Err(NotAcked::Unknown),
        }
    }

    async fn publish_by_grpc(
        &mut self,
        topic: &str,
        payload: &str,
        id: &str,
    ) -> Result<(u64, u64), NotAcked> {
        let mut grpc = match self.grpc.take() {
            Some(grpc) => grpc,
            None => {
                let connected = Grpc::connect(format!("http://{}", self.node)).await;
                connected.map_err(|_| NotAcked::Refused)?
            }
        };
        let payload = payload.as_bytes().to_vec().into();
        let event = NewEvent { id: id.to_owned(), payload, ..NewEvent::default() };
        let (topic, events) = (topic.to_owned(), vec![event]);
        let request = PublishRequest { topic, events, ..PublishRequest::default() };
        let answer = grpc.publish(request).await.map_err(|status| not_acked(&status))?;
        self.grpc = Some(grpc);
        let last = answer.into_inner().ack.and_then(|ack| ack.last).expect("the event's place");
        Ok((last.sequence, last.position))
    }
}

/// Returns what a status says. One without details is the client's own: the connection was lost.
fn not_acked(status: &Status) -> NotAcked {
    let refusals = [Code::Unavailable, Code::ResourceExhausted];
    if refusals.contains(&status.code()) && !status.details().is_empty() {
        NotAcked::Refused
    } else {
        NotAcked::Unknown
    }
}
