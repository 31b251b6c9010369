//! The gRPC service of publishers: one request, or many on a stream.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::super::clients::Peer;
use super::super::effort::Effort;
use super::super::rates::{CallerRates, Rate, Temper};
use super::super::receiving::{self, Received};
use super::super::served::publisher_service_server::PublisherService;
use super::call::{Responses, permit, until, within};
use super::paths;
use crate::broker::{Broker, InOrder};
use crate::edge::grpc::{codec, messages};
use crate::edge::permit::Permit;
use crate::edge::publishing::{Acknowledged, EncodedPublish, PublishTopics, Submitted};
use crate::edge::{Edge, proto, served};
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// The gRPC service of publishers.
#[derive(Debug, Clone)]
pub struct GrpcPublisher {
    pub(super) edge: Edge,
}

#[tonic::async_trait]
impl PublisherService for GrpcPublisher {
    type PublishStreamStream = Responses<proto::PublishStreamResponse>;

    async fn publish(
        &self,
        request: Request<served::PublishRequest>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::PUBLISH).await?;
        let received = request.extensions().get::<Received>().cloned();
        let rates = CallerRates::of(request.extensions().get::<Peer>());
        let served::PublishRequest { topic, topics, events, expected_sequence, ephemeral } =
            request.into_inner();
        let broker = &self.edge.broker;
        let topics = messages::publish_topics(topic, topics, broker.limits())?;
        topics.check(&permit).await?;
        let count = topics.checked_count(events.len(), broker.limits())?;
        rates.take(Rate::Publishes, count)?;
        if ephemeral {
            let of = (permit.clone(), topics.one()?);
            let publish = publish_ephemeral(broker, of, events, received);
            let receivers = within(deadline, publish).await?;
            let receivers = u32::try_from(receivers.unwrap_or(0)).unwrap_or(u32::MAX);
            return Ok(Response::new(proto::PublishResponse { receivers, ..<_>::default() }));
        }
        let publish = async {
            topics.hold(received.as_ref())?;
            let of = (permit.clone(), topics, expected_sequence);
            let encoded = encoded(broker, of, events, received.clone()).await?;
            encoded.hand_in(broker, &permit, received).await
        };
        let (ack, acks) = match within(deadline, publish).await? {
            Acknowledged::One(ack) => (Some(messages::ack(&ack)), Vec::new()),
            Acknowledged::Each(acks) => (None, messages::topic_acks(&acks)),
        };
        Ok(Response::new(proto::PublishResponse { ack, receivers: 0, acks }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<served::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::PUBLISH_STREAM).await?;
        let received = request.extensions().get::<Received>().cloned().unwrap_or_default();
        let rates = CallerRates::of(request.extensions().get::<Peer>());
        let publishing = PublishStream {
            received,
            temper: rates.temper(),
            rates,
            over: Box::pin(permit.clone().over()),
            permit,
            broker: self.edge.broker.clone(),
            requests: Some(request.into_inner()),
            in_flight: VecDeque::new(),
            max_in_flight: self.edge.config.max_in_flight.max(1) as usize,
            order: InOrder::default(),
            end: None,
        };
        let responses = stream::unfold(publishing, |mut publishing| async move {
            Some((publishing.next().await?, publishing))
        });
        Ok(Response::new(until(deadline, responses)))
    }
}

/// Checks and encodes received events, on another thread if the work is large. The caller may
/// publish to the topics.
async fn encoded(
    broker: &Broker,
    (permit, topics, expected_sequence): (Permit, PublishTopics, Option<u64>),
    events: Vec<Bytes>,
    received: Option<Received>,
) -> Result<EncodedPublish> {
    let (broker, effort) = (broker.clone(), topics.effort(Effort::of_events(&events), &permit));
    let work = move || {
        let events = || messages::new_events(&events);
        EncodedPublish::of((&permit, topics), expected_sequence, events, &broker)
    };
    receiving::work_with(received, effort, work).await
}

/// Checks events as [`encoded`] does, and delivers them to the subscribers that are connected.
async fn publish_ephemeral(
    broker: &Broker,
    (permit, topic): (Permit, TopicName),
    events: Vec<Bytes>,
    received: Option<Received>,
) -> Result<Option<usize>> {
    let (broker, effort) = (broker.clone(), Effort::of_events(&events).twice());
    let work = move || {
        let events = || messages::new_events(&events);
        receiving::deliver_ephemeral(&permit, &topic, events, &broker)
    };
    receiving::work_with(received, effort, work).await
}

/// A request in flight: its publish, or its refusal.
type InFlight = Result<Submitted>;

/// One `PublishStream`. Requests are read only while the client takes answers: a client that takes
/// none is not read any more, and at most `max_in_flight` of its requests wait.
struct PublishStream {
    broker: Broker,
    /// `None` when no more requests are read.
    requests: Option<Streaming<served::PublishStreamRequest>>,
    /// The received bytes of requests that are not submitted yet.
    received: Received,
    /// The remaining allowance of the client. `temper` counts its refused requests.
    rates: CallerRates,
    temper: Temper,
    permit: Permit,
    /// Ready with the reason when the caller's grant is over.
    over: Pin<Box<dyn Future<Output = Error> + Send>>,
    in_flight: VecDeque<InFlight>,
    max_in_flight: usize,
    /// The order of the client's publishes: positions rise in the order of its requests. A request
    /// with `in_order` fails after one that failed.
    order: InOrder,
    /// The status that ends the stream, after the answers in flight.
    end: Option<Status>,
}

impl PublishStream {
    async fn next(&mut self) -> Option<Result<proto::PublishStreamResponse, Status>> {
        loop {
            let has_room = self.in_flight.len() < self.max_in_flight;
            match &mut self.requests {
                Some(requests) if has_room => {
                    tokio::select! {
                        biased;
                        outcome = answer(&mut self.in_flight, &self.permit) => {
                            return Some(Ok(messages::stream_response(&outcome)));
                        }
                        () = self.broker.draining() => {
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
                _ => {
                    let outcome = answer(&mut self.in_flight, &self.permit).await;
                    return Some(Ok(messages::stream_response(&outcome)));
                }
            }
        }
    }

    async fn submit(&mut self, request: served::PublishStreamRequest) -> InFlight {
        let size = || prost::Message::encoded_len(&request);
        let count = request.events.len().saturating_mul(request.topics.len().max(1));
        // No rate lets through more than one publish may have, and more is refused below.
        let count = count.min(self.broker.limits().max_batch_events as usize);
        let rated = self.rates.publish(count, size);
        let served::PublishStreamRequest { topic, topics, events, expected_sequence, in_order } =
            request;
        let order = if in_order { self.order.clone() } else { self.order.independent() };
        if let Err(error) = rated {
            self.temper.refused();
            return Err(order.refuse(error));
        }
        self.temper.taken();
        let publish = async {
            let topics = messages::publish_topics(topic, topics, self.broker.limits())?;
            topics.hold(Some(&self.received))?;
            topics.check(&self.permit).await?;
            let of = (self.permit.clone(), topics, expected_sequence);
            encoded(&self.broker, of, events, Some(self.received.clone())).await
        };
        match publish.await {
            Ok(encoded) => encoded.submit_patiently(&self.broker, &order).await,
            Err(error) => Err(order.refuse(error)),
        }
    }

    /// Submits a request, or sets the status that ends the stream.
    async fn accept(&mut self, request: Result<Option<served::PublishStreamRequest>, Status>) {
        match request {
            Ok(Some(request)) => {
                let pending = self.submit(request).await;
                self.received.keep(0);
                let abuse = self.temper.abuse().zip(pending.as_ref().err());
                if let Some((reason, error)) = abuse {
                    self.requests = None;
                    self.end = Some(abusive(error, reason));
                }
                self.in_flight.push_back(pending);
            }
            Ok(None) => self.requests = None,
            Err(status) => {
                self.requests = None;
                self.end = Some(codec::mend(status));
            }
        }
    }
}

/// Returns the status that ends a stream with too many refused requests.
fn abusive(error: &Error, reason: String) -> Status {
    let status = Status::from(error.clone());
    Status::with_details(status.code(), reason, status.details().to_vec().into())
}

/// Returns the answer to the oldest request in flight. Never ready if there is none.
///
/// # Cancel safety
///
/// Nothing is lost: the request stays the oldest until its answer is returned.
async fn answer(in_flight: &mut VecDeque<InFlight>, permit: &Permit) -> Result<Acknowledged> {
    let outcome = match in_flight.front_mut() {
        Some(Ok(submitted)) => submitted.ready(permit).await,
        Some(Err(error)) => Err(error.clone()),
        None => std::future::pending().await,
    };
    in_flight.pop_front();
    outcome
}
