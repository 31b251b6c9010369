//! The clients of a broken fleet: they publish and read, go to another node at random and whenever
//! something fails, and note what they were told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::broken_fleet::HEAL_TIMEOUT;
use super::publishers::{PUBLISHERS, Publisher, ToldPublisher};
use super::readers::{Reader, Selection, ToldReader, Transport};

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
        acked.map(|acked| acked.took).max().unwrap_or_default()
    }
}

/// Clients that run.
pub(super) struct Clients {
    stopping: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<ToldPublisher>>,
    readers: Vec<JoinHandle<ToldReader>>,
    /// Readers read on until they have what was acknowledged: of each topic its last sequence, and
    /// the last position.
    topics_end: Vec<watch::Sender<Option<u64>>>,
    feeds_end: watch::Sender<Option<u64>>,
}

/// Returns the topic of a publisher.
pub(super) fn topic_of(number: usize) -> String {
    format!("broken.{number}")
}

/// Returns a node by chance.
pub(super) fn any(nodes: &[SocketAddr], random: &mut StdRng) -> SocketAddr {
    nodes[random.random_range(0..nodes.len())]
}

/// Sends a request, and returns the status and the body of the answer; or why there is none.
pub(in crate::fleet) async fn call(
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
    pub(super) fn start(nodes: &[SocketAddr], random: &mut StdRng) -> Self {
        let mut next = || StdRng::seed_from_u64(random.random());
        let stopping = Arc::new(AtomicBool::new(false));
        let (mut publishers, mut readers, mut topics_end) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..PUBLISHERS {
            let publisher = Publisher::new(number, nodes, next(), stopping.clone());
            publishers.push(tokio::spawn(publisher.run()));
            let end = watch::Sender::new(None);
            for transport in Transport::ALL {
                let selection = Selection::Topic(topic_of(number));
                let reader = Reader::new(selection, nodes, next(), end.subscribe());
                readers.push(tokio::spawn(reader.run(transport)));
            }
            topics_end.push(end);
        }
        let feeds_end = watch::Sender::new(None);
        let reader = Reader::new(Selection::All, nodes, next(), feeds_end.subscribe());
        readers.push(tokio::spawn(reader.run(Transport::EventStream)));
        Self { stopping, publishers, readers, topics_end, feeds_end }
    }

    /// Has the publishers end, and the readers read what there is. Returns what they were told.
    ///
    /// # Panics
    ///
    /// If a publisher is not answered, or a reader does not get what was acknowledged.
    pub(super) async fn finish(self) -> ToldClients {
        self.stopping.store(true, Ordering::SeqCst);
        let mut told = ToldClients::default();
        for (publisher, end) in self.publishers.into_iter().zip(&self.topics_end) {
            let publisher = tokio::time::timeout(HEAL_TIMEOUT, publisher).await;
            let publisher = publisher.expect("a fleet that is whole acknowledges").unwrap();
            let highest = publisher.acked.iter().map(|acked| acked.sequence).max();
            end.send_replace(Some(highest.unwrap_or(0)));
            told.publishers.push(publisher);
        }
        let acked = told.publishers.iter().flat_map(|publisher| &publisher.acked);
        let highest = acked.map(|acked| acked.position).max();
        self.feeds_end.send_replace(Some(highest.unwrap_or(0)));
        for reader in self.readers {
            let read = tokio::time::timeout(HEAL_TIMEOUT, reader).await;
            told.readers.push(read.expect("a reader gets what was acknowledged").unwrap());
        }
        told
    }
}
