//! One `CheckpointStream`: checkpoints and marks that do not wait for each other's answers.
//!
//! ```text
//! client ──▶ may it? one at a time ──▶ begun, in the order of requests ──▶ answered in that order
//! ```

use std::collections::VecDeque;
use std::pin::Pin;

use prost::Message as _;
use tonic::{Status, Streaming};

use super::super::rates::{CallerRates, Rate, Temper};
use super::keeping::KeptChange;
use super::{codec, keeping};
use crate::cursor::Epoch;
use crate::edge::consumers::begun::{BegunChange, begin};
use crate::edge::grpc::status::details;
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::edge::proto::checkpoint_stream_request::Request as Asked;
use crate::edge::proto::checkpoint_stream_response::Outcome;
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};
use crate::polls::Task;

/// A request in flight: its answer, once that is durable.
type CheckpointInFlight = BegunChange<Result<Outcome>>;

/// A request whose caller is looked at. Ready with the request in flight.
type Accepting = Pin<Box<dyn Future<Output = CheckpointInFlight> + Send>>;

/// The requests of one stream. They are read only while the client takes answers, and at most
/// `follow.max_in_flight` of them wait.
pub(super) struct CheckpointStream {
    edge: Edge,
    /// The consumers, whose changes are decided in the order of the requests.
    consumers: Option<EdgeConsumers>,
    permit: Permit,
    rates: CallerRates,
    /// Counts the refused requests.
    temper: Temper,
    /// `None` when no more requests are read.
    requests: Option<Streaming<proto::CheckpointStreamRequest>>,
    /// The request that was read last, until it is in flight. No other one is read meanwhile.
    accepting: Option<Accepting>,
    in_flight: VecDeque<CheckpointInFlight>,
    /// Ready with the reason when the caller's grant is over.
    over: Pin<Box<dyn Future<Output = Error> + Send>>,
    /// The status that ends the stream, after the answers in flight.
    end: Option<Status>,
}

impl CheckpointStream {
    pub(super) fn new(
        edge: &Edge,
        permit: Permit,
        rates: CallerRates,
        requests: Streaming<proto::CheckpointStreamRequest>,
    ) -> Self {
        Self {
            edge: edge.clone(),
            consumers: edge.consumers_if_any().map(EdgeConsumers::in_order),
            temper: rates.temper(),
            rates,
            over: Box::pin(permit.clone().over()),
            permit,
            requests: Some(requests),
            accepting: None,
            in_flight: VecDeque::new(),
            end: None,
        }
    }

    /// Returns the answer to the oldest request that is not answered yet.
    pub(super) async fn next(&mut self) -> Option<Result<proto::CheckpointStreamResponse, Status>> {
        let max_in_flight = self.edge.config.max_in_flight.max(1) as usize;
        loop {
            let Self { requests, accepting, in_flight, over, .. } = self;
            let (has_room, is_free) = (in_flight.len() < max_in_flight, accepting.is_none());
            let is_read = requests.is_some();
            if !is_read && is_free {
                if in_flight.is_empty() {
                    return self.end.take().map(Err);
                }
                return Some(Ok(told(answer(in_flight).await)));
            }
            let request = async {
                match requests {
                    Some(requests) if has_room && is_free => requests.message().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                outcome = answer(in_flight) => return Some(Ok(told(outcome))),
                begun = accepted(accepting) => self.in_flight.push_back(begun),
                () = self.edge.broker.draining(), if is_read => {
                    self.requests = None;
                    self.end = Some(Error::ShuttingDown.into());
                }
                error = over, if is_read => {
                    self.requests = None;
                    self.end = Some(error.into());
                }
                request = request => self.accept(request),
            }
        }
    }

    /// Begins to accept a request, or sets the status that ends the stream.
    fn accept(&mut self, request: Result<Option<proto::CheckpointStreamRequest>, Status>) {
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return self.requests = None,
            Err(status) => {
                self.requests = None;
                self.end = Some(codec::mend(status));
                return;
            }
        };
        if let Err(error) = self.rates.other(Rate::Requests, request.encoded_len()) {
            self.temper.refused();
            if let Some(reason) = self.temper.abuse() {
                self.requests = None;
                let status = Status::from(error.clone());
                let details = status.details().to_vec().into();
                self.end = Some(Status::with_details(status.code(), reason, details));
            }
            return self.in_flight.push_back(Box::pin(async move { Err(error) }));
        }
        self.temper.taken();
        let (consumers, permit) = (self.consumers.clone(), self.permit.clone());
        let epoch = self.edge.broker.epoch();
        #[expect(clippy::async_yields_async, reason = "it is accepted here, and awaited in turn")]
        let accepting = async move {
            match change((consumers.as_ref(), epoch), &permit, request).await {
                Ok(change) => begin(Task::Stream, change).await,
                Err(error) => Box::pin(std::future::ready(Err(error))),
            }
        };
        self.accepting = Some(Box::pin(accepting));
    }
}

/// Returns the change that a request asks for, if the caller may make it.
async fn change(
    kept: (Option<&EdgeConsumers>, Epoch),
    permit: &Permit,
    request: proto::CheckpointStreamRequest,
) -> Result<KeptChange<Outcome>> {
    Ok(match request.request {
        Some(Asked::Checkpoint(request)) => {
            let change = keeping::checkpoint(kept, permit, request).await?;
            Box::pin(async move { change.await.map(Outcome::Checkpoint) })
        }
        Some(Asked::Mark(request)) => {
            let change = keeping::mark(kept, permit, request).await?;
            Box::pin(async move { change.await.map(Outcome::Mark) })
        }
        None => return Err(Error::invalid("request", "is neither a checkpoint nor marks")),
    })
}

/// Returns the request that was accepted. Never ready if there is none.
///
/// # Cancel safety
///
/// Nothing is lost.
async fn accepted(accepting: &mut Option<Accepting>) -> CheckpointInFlight {
    let begun = match accepting {
        Some(accepting) => accepting.await,
        None => std::future::pending().await,
    };
    *accepting = None;
    begun
}

/// Returns the outcome of the oldest request in flight. Never ready if there is none.
///
/// # Cancel safety
///
/// Nothing is lost: the request stays the oldest until its outcome is returned.
async fn answer(in_flight: &mut VecDeque<CheckpointInFlight>) -> Result<Outcome> {
    let outcome = match in_flight.front_mut() {
        Some(oldest) => oldest.await,
        None => std::future::pending().await,
    };
    in_flight.pop_front();
    outcome
}

fn told(outcome: Result<Outcome>) -> proto::CheckpointStreamResponse {
    let outcome = outcome.unwrap_or_else(|error| {
        let status = Status::from(error.clone());
        Outcome::Error(proto::PublishError {
            code: status.code().into(),
            message: status.message().to_owned(),
            outcome_unknown: error.outcome_unknown(),
            actual_sequence: None,
            details: details(&status),
        })
    });
    proto::CheckpointStreamResponse { outcome: Some(outcome) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::consumed;
    use super::*;
    use crate::broker::{Broker, OpenConfig, Publish};
    use crate::consumers::{Consumers, ConsumersConfig, Mark};
    use crate::event::NewEvent;
    use crate::testing::{Builder, FaultyLog, until};
    use tonic::codec::Codec as _;

    async fn opened(log: &Arc<FaultyLog>) -> (Broker, Consumers) {
        let mut config = OpenConfig::default();
        config.broker.max_reads = 1;
        let broker = Builder::default().log(log.clone()).config(config).open().unwrap();
        let consumers = Consumers::open(&broker, &ConsumersConfig::default()).await.unwrap();
        (broker, consumers)
    }

    fn request(
        topic: &str,
        (mark, unmark): (&str, &str),
        (event_topic, sequence, id): (&str, u64, &str),
    ) -> Vec<u8> {
        let given = |text: &str| consumed::given(text).into_iter().collect();
        let (topic, consumer) = (topic.to_owned(), "inbox".to_owned());
        let (event_topic, id) = (event_topic.to_owned(), id.to_owned());
        let request = proto::MarkEventsRequest {
            consumer: Some(proto::ConsumerRef { topic, consumer, ..Default::default() }),
            mark: given(mark),
            unmark: given(unmark),
            events: vec![proto::EventRef { topic: event_topic, sequence, id }],
            ..Default::default()
        };
        let request = proto::CheckpointStreamRequest { request: Some(Asked::Mark(request)) };
        let encoded = request.encode_to_vec();
        let size_bytes = u32::try_from(encoded.len()).unwrap().to_be_bytes();
        [&[0], &size_bytes[..], &encoded].concat()
    }

    /// Goal: the requests about one consumer are decided in their order, also while the first one
    /// waits for the log; requests about others do not wait; and those behind the oldest one keep
    /// no turn at the disk.
    #[tokio::test]
    async fn requests_about_one_consumer_are_decided_in_their_order() {
        let log = Arc::new(FaultyLog::default());
        let (broker, _) = opened(&log).await;
        for topic in ["t.one", "t.two"] {
            let event = NewEvent::new("x").with_id(topic);
            broker.publish(Publish::one(topic.parse().unwrap(), event)).await.unwrap();
        }
        broker.close().await;
        let (broker, consumers) = opened(&log).await; // It has nothing in memory.
        let edge = Edge::new(broker.clone()).consumers(consumers.clone());
        let requests = [
            request("t.>", ("read", ""), ("", 0, "t.one")),
            request("t.>", ("", "read"), ("t.one", 1, "")),
            request("t.one", ("seen", ""), ("", 0, "t.one")),
            request("t.two", ("seen", ""), ("", 1, "")),
        ];
        let decoder = codec::Codec::<proto::CheckpointStreamResponse, _>::default().decoder();
        let body = axum::body::Body::from(requests.concat());
        let requests = Streaming::new_request(decoder, body, None, None);
        let (permit, rates) = (Permit::default(), CallerRates::default());
        let mut stream = CheckpointStream::new(&edge, permit, rates, requests);
        let held = log.hold_reads();
        let answers = tokio::spawn(async move {
            let mut answers = Vec::new();
            while let Some(answer) = stream.next().await {
                answers.push(answer.unwrap().outcome.unwrap());
            }
            answers
        });
        let id = |selection: &str| {
            let (selection, name) = (selection.parse().unwrap(), "inbox".parse().unwrap());
            crate::consumers::ConsumerId::new(selection, name)
        };
        until("the last one is done", || consumers.exists(&id("t.two"))).await;
        assert!(!consumers.exists(&id("t.>")) && !consumers.exists(&id("t.one")));
        drop(held);
        let answers = tokio::time::timeout(Duration::from_secs(30), answers).await;
        for answer in answers.expect("all are answered").unwrap() {
            let Outcome::Mark(ack) = answer else { panic!("{answer:?}") };
            assert!(ack.changed);
        }
        let marks = consumers.state(&id("t.>")).marks;
        let told = |mark| marks.line(mark).unwrap().marked_ranges();
        assert_eq!((told(Mark::Seen).len(), told(Mark::Read).len()), (1, 0));
        broker.close().await;
    }
}
