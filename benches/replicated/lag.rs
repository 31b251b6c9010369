//! How much later than the leader another node shows an event: both have one reader, of the same
//! process, and for each event the times of its arrival are compared.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::edge::proto::{NewEvent, PublishStreamRequest, SubscribeRequest};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

const TOPIC: &str = "lag";
/// The time between two publishes; the events that are due go together.
const TICK: Duration = Duration::from_millis(1);
/// Publishes that wait for their acknowledgement.
const IN_FLIGHT: usize = 256;

/// How far behind the leader a node was, over all events.
pub(crate) struct Lag {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Publishes `rate` events a second at the leader, while both nodes have a reader.
pub(crate) async fn measure(
    leader: SocketAddr,
    follower: SocketAddr,
    rate: u64,
    seconds: u64,
) -> Lag {
    let events = rate * seconds;
    let mut readers = Vec::new();
    for address in [leader, follower] {
        let (opened, is_open) = oneshot::channel();
        readers.push(tokio::spawn(read(address, events as usize, opened)));
        is_open.await.expect("the reader has begun");
    }
    publish(leader, rate, events).await;
    let mut arrivals = Vec::new();
    for reader in readers {
        arrivals.push(reader.await.expect("a reader"));
    }
    let pairs = arrivals[0].iter().zip(&arrivals[1]);
    let behind = pairs.map(|(leader, node)| node.saturating_duration_since(*leader));
    let mut behind_ms: Vec<f64> = behind.map(|behind| behind.as_secs_f64() * 1e3).collect();
    behind_ms.sort_by(f64::total_cmp);
    let quantile = |of: f64| behind_ms[((behind_ms.len() - 1) as f64 * of) as usize];
    Lag { p50_ms: quantile(0.5), p99_ms: quantile(0.99) }
}

/// Returns when each of the next events arrived, by its order.
async fn read(address: SocketAddr, events: usize, opened: oneshot::Sender<()>) -> Vec<Instant> {
    let url = format!("http://{address}");
    let mut client = SubscriberServiceClient::connect(url).await.expect("the node listens");
    let request = SubscribeRequest { topic: TOPIC.to_owned(), ..SubscribeRequest::default() };
    let mut messages = client.subscribe(request).await.expect("a stream").into_inner();
    let mut opened = Some(opened);
    let mut arrivals = Vec::with_capacity(events);
    while arrivals.len() < events {
        let message = messages.message().await.expect("the node goes on").expect("a message");
        match message.message {
            Some(Message::Started(_)) => {
                let _the_bench_waits = opened.take().map(|opened| opened.send(()));
            }
            Some(Message::Events(batch)) => {
                let now = Instant::now();
                arrivals.extend(batch.events.iter().map(|_| now));
            }
            Some(Message::Gap(gap)) => panic!("a gap: {gap:?}"),
            _ => {}
        }
    }
    arrivals
}

/// Publishes at a rate, and waits for the acknowledgements.
async fn publish(address: SocketAddr, rate: u64, events: u64) {
    let url = format!("http://{address}");
    let mut client = PublisherServiceClient::connect(url).await.expect("the node listens");
    let (requests, sent) = mpsc::channel(IN_FLIGHT);
    let sending = tokio::spawn(async move {
        let event = NewEvent { payload: vec![b'x'; crate::SIZE].into(), ..NewEvent::default() };
        let mut ticks = tokio::time::interval(TICK);
        let (started, mut sent) = (Instant::now(), 0);
        while sent < events {
            ticks.tick().await;
            let due = ((started.elapsed().as_secs_f64() * rate as f64) as u64).min(events);
            if due == sent {
                continue;
            }
            let events = vec![event.clone(); (due - sent) as usize];
            let topic = TOPIC.to_owned();
            let request = PublishStreamRequest { topic, events, ..PublishStreamRequest::default() };
            requests.send(request).await.expect("the node reads");
            sent = due;
        }
    });
    let answers = client.publish_stream(ReceiverStream::new(sent)).await.expect("a stream");
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await.expect("the node answers") {
        assert!(matches!(answer.outcome, Some(Outcome::Ack(_))), "{answer:?}");
    }
    sending.await.expect("the publisher");
}
