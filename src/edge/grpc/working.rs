//! One `Work` stream: a worker that is given leases, and settles them.
//!
//! # Why
//!
//! Settlements are answered in the order in which they came, so that none needs a name. Leases come
//! in between, whenever there are some.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use prost::Message as _;
use tonic::{Status, Streaming};

use super::super::rates::{CallerRates, Rate, Temper};
use super::{codec, messages};
use crate::consumers::{LeaseId, Leased, Nack, SettleOutcome, Settled, Settlement};
use crate::edge::grpc::status::details;
use crate::edge::permit::Permit;
use crate::edge::proto::settle_outcome::Kind;
use crate::edge::proto::work_request::Request as Asked;
use crate::edge::proto::work_response::Response as Told;
use crate::edge::work::asking::PermittedQueue;
use crate::edge::work::worker::{StreamWorker, WorkerWish};
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};
use crate::polls;
use crate::topic::TopicPattern;

/// A settlement in flight, with its outcome once that is durable.
type SettlementInFlight = Pin<Box<dyn Future<Output = Result<Settled>> + Send>>;

/// The worker of one stream. Requests are read only while the client takes answers, and at most
/// `follow.max_in_flight` of its settlements wait.
pub(super) struct Working {
    edge: Edge,
    permit: Permit,
    rates: CallerRates,
    /// Counts the refused requests.
    temper: Temper,
    /// `None` when no more requests are read.
    requests: Option<Streaming<proto::WorkRequest>>,
    /// `None` until the client has said who it is.
    worker: Option<StreamWorker>,
    in_flight: VecDeque<SettlementInFlight>,
    /// Ready with the reason when the caller's grant is over.
    over: Pin<Box<dyn Future<Output = Error> + Send>>,
    /// The status that ends the stream, after the answers in flight.
    end: Option<Status>,
}

impl Working {
    pub(super) fn new(
        edge: &Edge,
        permit: Permit,
        rates: CallerRates,
        requests: Streaming<proto::WorkRequest>,
    ) -> Self {
        Self {
            edge: edge.clone(),
            temper: rates.temper(),
            rates,
            over: Box::pin(permit.clone().over()),
            permit,
            requests: Some(requests),
            worker: None,
            in_flight: VecDeque::new(),
            end: None,
        }
    }

    /// Returns the next message: the answer to the oldest settlement, or leases.
    pub(super) async fn next(&mut self) -> Option<Result<proto::WorkResponse, Status>> {
        let max_in_flight = self.edge.config.max_in_flight.max(1) as usize;
        loop {
            let Self { requests, worker, in_flight, over, .. } = self;
            let has_room = in_flight.len() < max_in_flight;
            let Some(requests) = requests else {
                // A client that says nothing more is given nothing more.
                if in_flight.is_empty() {
                    self.worker = None;
                    return self.end.take().map(Err);
                }
                return Some(Ok(told(answer(in_flight).await)));
            };
            let leases = async {
                match worker {
                    Some(worker) => worker.next().await,
                    None => std::future::pending().await,
                }
            };
            let request = async {
                match has_room {
                    true => requests.message().await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                outcome = answer(in_flight) => return Some(Ok(told(outcome))),
                () = self.edge.broker.draining() => self.finish(Error::ShuttingDown),
                error = over => self.finish(error),
                request = request => self.accept(request).await,
                leased = leases => match leased {
                    Ok(leased) => {
                        let leases = lease_messages(&leased).await;
                        let leased = Told::Leased(proto::PullResponse { leases });
                        return Some(Ok(proto::WorkResponse { response: Some(leased) }));
                    }
                    Err(error) => self.finish(error),
                },
            }
        }
    }

    /// Reads no more requests, and ends the stream with `error` after the answers in flight.
    fn finish(&mut self, error: impl Into<Status>) {
        self.requests = None;
        self.end = Some(error.into());
    }

    async fn accept(&mut self, request: Result<Option<proto::WorkRequest>, Status>) {
        let request = match request {
            Ok(Some(request)) => request,
            Ok(None) => return self.requests = None,
            Err(status) => return self.finish(codec::mend(status)),
        };
        if let Err(error) = self.rates.other(Rate::Requests, request.encoded_len()) {
            self.temper.refused();
            if let Some(reason) = self.temper.abuse() {
                let status = Status::from(error.clone());
                let details = status.details().to_vec().into();
                self.finish(Status::with_details(status.code(), reason, details));
            }
            // Only a settlement has an answer of its own.
            return match request.request {
                Some(Asked::Settle(_)) => {
                    self.in_flight.push_back(Box::pin(async move { Err(error) }));
                }
                _ => self.finish(error),
            };
        }
        self.temper.taken();
        if let Err(error) = self.take(request.request).await {
            self.finish(error);
        }
    }

    async fn take(&mut self, request: Option<Asked>) -> Result<()> {
        let first = || Error::invalid("request", "is not a start, which comes first, and once");
        match (request, &mut self.worker) {
            (Some(Asked::Start(start)), None) => {
                let proto::WorkStart { of, worker, credit, release_at_end } = start;
                let wish = WorkerWish { worker, credit, releases: release_at_end };
                let queue = queue(of, &self.permit, &self.edge).await?;
                self.worker = Some(StreamWorker::new(queue, wish)?);
                Ok(())
            }
            (Some(Asked::Settle(request)), Some(worker)) => {
                let mut begun: SettlementInFlight = match settlement(request) {
                    Ok(settlement) => Box::pin(worker.handle().settle(settlement)),
                    Err(error) => Box::pin(async move { Err(error) }),
                };
                // Looked at once, so that it is in line before the next request is read.
                if let Poll::Ready(done) = poll!(&mut begun) {
                    begun = Box::pin(async move { done });
                }
                self.in_flight.push_back(begun);
                Ok(())
            }
            (Some(Asked::Credit(credit)), Some(worker)) => worker.handle().set_credit(credit),
            _ => Err(first()),
        }
    }
}

/// Returns the outcome of the oldest settlement in flight. Never ready if there is none.
///
/// # Cancel safety
///
/// Nothing is lost: the settlement stays the oldest until its outcome is returned.
async fn answer(in_flight: &mut VecDeque<SettlementInFlight>) -> Result<Settled> {
    let outcome = match in_flight.front_mut() {
        Some(oldest) => oldest.await,
        None => std::future::pending().await,
    };
    in_flight.pop_front();
    outcome
}

fn told(outcome: Result<Settled>) -> proto::WorkResponse {
    let response = match outcome {
        Ok(settled) => Told::Settled(settled_message(&settled)),
        Err(error) => {
            let status = Status::from(error.clone());
            Told::Refused(proto::PublishError {
                code: status.code().into(),
                message: status.message().to_owned(),
                outcome_unknown: error.outcome_unknown(),
                actual_sequence: None,
                details: details(&status),
            })
        }
    };
    proto::WorkResponse { response: Some(response) }
}

/// Returns leases as messages.
pub(super) async fn lease_messages(leased: &[Leased]) -> Vec<proto::Lease> {
    let mut leases = Vec::with_capacity(leased.len());
    for Leased { lease, topic, event, tries, until, .. } in leased {
        let mut message = messages::own_event(crate::event::Event::clone(event));
        message.topic = topic.to_string();
        leases.push(proto::Lease {
            lease: lease.to_string(),
            event: Some(message),
            tries: *tries,
            until_ms: until.as_ms(),
        });
        polls::rest().await;
    }
    leases
}

/// Returns the settlement that a request asks for.
///
/// # Errors
///
/// [`Error::Invalid`]: a lease is none, or none is named.
pub(super) fn settlement(request: proto::SettleRequest) -> Result<Settlement> {
    let proto::SettleRequest { of: _, ack, nack, extend, release } = request;
    let leases = |texts: Vec<String>| {
        texts.iter().map(|text| text.parse()).collect::<Result<Vec<LeaseId>>>()
    };
    let mut settlement = Settlement::ack(leases(ack)?).and_release(leases(release)?);
    for proto::Nack { lease, delay_ms, reason } in nack {
        let nack = Nack::new(lease.parse()?, reason).delay(Duration::from_millis(delay_ms));
        settlement = settlement.and_nack(nack);
    }
    for proto::Extension { lease, for_ms } in extend {
        settlement = settlement.and_extend(lease.parse()?, Duration::from_millis(for_ms));
    }
    match settlement.count() {
        0 => Err(Error::invalid("settle", "names no lease in ack, nack, extend or release")),
        _ => Ok(settlement),
    }
}

/// Returns the outcomes of a settlement as a message.
pub(super) fn settled_message(settled: &Settled) -> proto::SettleResponse {
    let outcome = |outcome: &SettleOutcome| {
        let (kind, until_ms) = match outcome {
            SettleOutcome::Done => (Kind::Done, 0),
            SettleOutcome::Extended(until) => (Kind::Extended, until.as_ms()),
            SettleOutcome::Over => (Kind::Over, 0),
        };
        proto::SettleOutcome { kind: kind.into(), until_ms }
    };
    let list = |outcomes: &[SettleOutcome]| outcomes.iter().map(outcome).collect();
    let Settled { ack, nack, extend, release, .. } = settled;
    proto::SettleResponse {
        ack: list(ack),
        nack: list(nack),
        extend: list(extend),
        release: list(release),
    }
}

/// Returns the queue that a request names, if the caller may work for it.
pub(super) async fn queue(
    of: Option<proto::WorkRef>,
    permit: &Permit,
    edge: &Edge,
) -> Result<PermittedQueue> {
    let of = of.ok_or_else(|| Error::invalid("of", "is missing; name the consumer"))?;
    let selection = TopicPattern::new(&of.topic)?;
    PermittedQueue::find(&of.consumer, selection, permit, edge.consumers_if_any()).await
}
