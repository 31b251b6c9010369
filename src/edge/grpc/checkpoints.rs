//! One `CheckpointStream`: checkpoints and marks that do not wait for each other's answers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;

use futures_util::poll;
use prost::Message as _;
use tonic::{Status, Streaming};

use super::super::rates::{CallerRates, Rate, Temper};
use super::{codec, keeping};
use crate::edge::grpc::status::details;
use crate::edge::permit::Permit;
use crate::edge::proto::checkpoint_stream_request::Request as Asked;
use crate::edge::proto::checkpoint_stream_response::Outcome;
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};

/// A request in flight: its answer, once that is durable.
type CheckpointInFlight = Pin<Box<dyn Future<Output = Result<Outcome>> + Send>>;

/// The requests of one stream. They are read only while the client takes answers, and at most
/// `follow.max_in_flight` of them wait.
pub(super) struct CheckpointStream {
    edge: Edge,
    permit: Permit,
    rates: CallerRates,
    /// Counts the refused requests.
    temper: Temper,
    /// `None` when no more requests are read.
    requests: Option<Streaming<proto::CheckpointStreamRequest>>,
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
            temper: rates.temper(),
            rates,
            over: Box::pin(permit.clone().over()),
            permit,
            requests: Some(requests),
            in_flight: VecDeque::new(),
            end: None,
        }
    }

    /// Returns the answer to the oldest request that is not answered yet.
    pub(super) async fn next(&mut self) -> Option<Result<proto::CheckpointStreamResponse, Status>> {
        let max_in_flight = self.edge.config.max_in_flight.max(1) as usize;
        loop {
            let has_room = self.in_flight.len() < max_in_flight;
            match &mut self.requests {
                Some(requests) if has_room => {
                    tokio::select! {
                        biased;
                        outcome = answer(&mut self.in_flight) => return Some(Ok(told(outcome))),
                        () = self.edge.broker.draining() => {
                            self.requests = None;
                            self.end = Some(Error::ShuttingDown.into());
                        }
                        error = &mut self.over => {
                            self.requests = None;
                            self.end = Some(error.into());
                        }
                        request = requests.message() => self.accept(request).await,
                    }
                }
                _ if self.in_flight.is_empty() => return self.end.take().map(Err),
                _ => return Some(Ok(told(answer(&mut self.in_flight).await))),
            }
        }
    }

    /// Begins a request, or sets the status that ends the stream.
    async fn accept(&mut self, request: Result<Option<proto::CheckpointStreamRequest>, Status>) {
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
        let mut begun = begin(self.edge.clone(), self.permit.clone(), request);
        // Looked at once, so that it is in line before the next request is read.
        if let Poll::Ready(done) = poll!(&mut begun) {
            begun = Box::pin(async move { done });
        }
        self.in_flight.push_back(begun);
    }
}

fn begin(
    edge: Edge,
    permit: Permit,
    request: proto::CheckpointStreamRequest,
) -> CheckpointInFlight {
    Box::pin(async move {
        match request.request {
            Some(Asked::Checkpoint(request)) => {
                keeping::checkpoint(&edge, &permit, request).await.map(Outcome::Checkpoint)
            }
            Some(Asked::Mark(request)) => {
                keeping::mark(&edge, &permit, request).await.map(Outcome::Mark)
            }
            None => Err(Error::invalid("request", "is neither a checkpoint nor marks")),
        }
    })
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
