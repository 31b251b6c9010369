//! The gRPC edge: one service over the broker.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, Streaming};

use super::budget::{Held, Share, WaitsForRoom};
use super::clients::{self, Peer};
use super::effort::Effort;
use super::messages::EncodedEvents;
use super::page_token::{StateToken, page_limit};
use super::proto::{self, subscribe_response::Message};
use super::rates::{CallerRates, Rate, Temper};
use super::receiving::{self, Received};
use super::selection::{self, Kept, Topics, Wanted};
use super::served;
use super::served::broker_service_server::{BrokerService, BrokerServiceServer};
use super::{FollowConfig, messages, wire};
use crate::broker::{
    Batch, Broker, Delivery, InOrder, LimitsConfig, Member, PageRequest, Patience, Pending,
    Publish, Reader, Run, Waited,
};
use crate::cursor::{Cursor, OnGap, Place, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::polls;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// What a message may take besides its events' bytes: names, lengths, the topic.
const MESSAGE_SLACK_BYTES: u64 = 1 << 20;

/// What one message gathers of what a reader has in memory: payloads, in bytes, and events.
const GATHERED_BYTES: usize = 8 << 10;
const GATHERED_EVENTS: usize = 256;

/// Room that there has to be, in bytes, for a page to read on: as much as a block, and more.
const PAGE_STEP_BYTES: usize = 64 << 10;

/// What a backup takes in memory, in bytes: a piece as it is read, as a message, and as its bytes.
const BACKUP_BYTES: usize = 1 << 20;

/// Most topics of one page, and how many there are when none are asked for.
const MAX_LISTED_TOPICS: usize = 10_000;
const DEFAULT_LISTED_TOPICS: usize = 1_000;

/// The descriptors of the protos, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/leftoff_descriptor.bin"));

/// What the service streams.
type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The largest message that is taken.
pub(super) fn max_message_bytes(limits: &LimitsConfig) -> u64 {
    limits.max_batch_bytes + MESSAGE_SLACK_BYTES
}

/// The service, ready to be mounted in any tonic server or axum router.
pub fn service(broker: Broker, config: FollowConfig) -> BrokerServiceServer<Grpc> {
    let max_bytes = max_message_bytes(broker.limits()) as usize;
    wire::allow_events(broker.limits().max_batch_events);
    BrokerServiceServer::new(Grpc { broker, config })
        .max_decoding_message_size(max_bytes)
        .max_encoding_message_size(usize::MAX)
}

/// What tonic answers before the service is asked, in our words.
pub(crate) fn mend(response: axum::response::Response) -> axum::response::Response {
    let status = Status::from_header_map(response.headers());
    let Some(status) = status.filter(|status| status.code() == Code::OutOfRange) else {
        return response;
    };
    let mended = super::codec::mend(status);
    if mended.code() == Code::OutOfRange { response } else { mended.into_http() }
}

/// The broker as a gRPC service.
#[derive(Debug, Clone)]
pub struct Grpc {
    broker: Broker,
    config: FollowConfig,
}

/// Runs `call` for as long as the client said that it waits.
async fn within<T>(
    deadline: Option<Duration>,
    call: impl Future<Output = Result<T>>,
) -> Result<T, Status> {
    let Some(limit) = deadline else { return call.await.map_err(Status::from) };
    let outcome = tokio::time::timeout(limit, call).await;
    outcome.unwrap_or(Err(deadline_exceeded(limit))).map_err(Status::from)
}

fn deadline_exceeded(limit: Duration) -> Error {
    Error::DeadlineExceeded { limit_ms: limit.as_millis() as u64 }
}

#[tonic::async_trait]
impl BrokerService for Grpc {
    type PublishStreamStream = Responses<proto::PublishStreamResponse>;
    type SubscribeStream = Responses<proto::SubscribeResponse>;
    type BackupStream = Responses<proto::BackupResponse>;

    async fn publish(
        &self,
        request: Request<served::PublishRequest>,
    ) -> Result<Response<proto::PublishResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let received = request.extensions().get::<Received>().cloned();
        let rates = CallerRates::of(request.extensions().get::<Peer>());
        let served::PublishRequest { topic, events, expected_sequence, ephemeral } =
            request.into_inner();
        let topic = TopicName::new(&topic)?;
        rates.take(Rate::Publishes, events.len())?;
        if ephemeral {
            let publish = publish_ephemeral(&self.broker, topic, events, received);
            let receivers = within(deadline, publish).await?;
            let receivers = u32::try_from(receivers).unwrap_or(u32::MAX);
            return Ok(Response::new(proto::PublishResponse { ack: None, receivers }));
        }
        let publish = async {
            let events = batch(&self.broker, events, received.clone()).await?;
            let publish = Publish { topic, events, expected_sequence };
            receiving::handed_in(&self.broker, publish, received).await
        };
        let ack = within(deadline, publish).await?;
        let ack = Some(messages::ack(&ack));
        Ok(Response::new(proto::PublishResponse { ack, receivers: 0 }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<served::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let received = request.extensions().get::<Received>().cloned().unwrap_or_default();
        let rates = CallerRates::of(request.extensions().get::<Peer>());
        let publishing = Publishing {
            received,
            temper: rates.temper(),
            rates,
            broker: self.broker.clone(),
            requests: Some(request.into_inner()),
            in_flight: VecDeque::new(),
            max_in_flight: self.config.max_in_flight.max(1) as usize,
            order: InOrder::default(),
            end: None,
        };
        let responses = stream::unfold(publishing, |mut publishing| async move {
            Some((publishing.next().await?, publishing))
        });
        Ok(Response::new(until(deadline, responses)))
    }

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let peer = request.extensions().get::<Peer>().cloned();
        let request = request.into_inner();
        let start = match request.from.as_str() {
            "" => StartPoint::Latest,
            from => from.parse()?,
        };
        let on_gap = messages::on_gap(request.on_gap)?.unwrap_or(OnGap::Resume);
        let topics = messages::topics(&request.topic, request.topics)?;
        let member = request.member.map(|proto::Member { id, info }| Member { id, info });
        CallerRates::of(peer.as_ref()).take(Rate::Subscriptions, 1)?;
        let filter = messages::filter(request.filter);
        let wanted = Wanted { topics, start, on_gap, filter, member };
        let share = clients::share(peer.as_ref());
        let (reader, kept) = within(deadline, wanted.open(&self.broker, &share)).await?;
        let patience = self.config.patience();
        let listed = clients::Following::new(peer.as_ref(), "grpc", &reader);
        let config = self.config.clone();
        let following = Following {
            reader,
            config,
            patience,
            listed,
            _kept: kept,
            is_started: false,
            is_ended: false,
        };
        let responses = stream::unfold(following, |mut following| async move {
            Some((following.next().await?, following))
        });
        Ok(waiting_for_room(until(deadline, responses)))
    }

    async fn read(
        &self,
        request: Request<proto::ReadRequest>,
    ) -> Result<Response<served::ReadResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let share = share(&request);
        let request = request.into_inner();
        let topic = TopicName::new(&request.topic)?;
        let wanted = messages::page_request(request, &self.config)?;
        let (page, held) = within(deadline, page(&self.broker, &topic, wanted, &share)).await?;
        holding(page, held)
    }

    async fn get_topic(
        &self,
        request: Request<proto::GetTopicRequest>,
    ) -> Result<Response<proto::GetTopicResponse>, Status> {
        let topic = self.broker.topic(&TopicName::new(&request.get_ref().topic)?)?;
        Ok(Response::new(proto::GetTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn list_topics(
        &self,
        request: Request<proto::ListTopicsRequest>,
    ) -> Result<Response<proto::ListTopicsResponse>, Status> {
        let share = share(&request);
        let proto::ListTopicsRequest { page_size, page_token } = request.into_inner();
        let limit = match page_size as usize {
            0 => DEFAULT_LISTED_TOPICS,
            limit if limit > MAX_LISTED_TOPICS => {
                return Err(Error::over("page_size", limit, MAX_LISTED_TOPICS).into());
            }
            limit => limit,
        };
        let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
        if let Some(token) = after {
            TopicName::new(token).map_err(|_| Error::invalid("page_token", "is none of ours"))?;
        }
        let mut topics = Vec::new();
        for some in self.broker.list_topics(after, limit) {
            topics.extend(some.iter().map(messages::topic));
            polls::rest().await;
        }
        let last = topics.last().filter(|_| topics.len() == limit);
        let next_page_token = last.map(|topic| topic.name.clone()).unwrap_or_default();
        holding(proto::ListTopicsResponse { topics, next_page_token }, share.nothing())
    }

    async fn create_topic(
        &self,
        request: Request<proto::CreateTopicRequest>,
    ) -> Result<Response<proto::CreateTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let proto::CreateTopicRequest { topic, config } = request.into_inner();
        let (name, config) = (TopicName::new(&topic)?, messages::config_of(config)?);
        let topic = within(deadline, self.broker.create_topic(&name, config)).await?;
        Ok(Response::new(proto::CreateTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn update_topic(
        &self,
        request: Request<proto::UpdateTopicRequest>,
    ) -> Result<Response<proto::UpdateTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let proto::UpdateTopicRequest { topic, config, update_mask } = request.into_inner();
        let (name, config) = (TopicName::new(&topic)?, messages::config_of(config)?);
        let fields = update_mask.map(|mask| mask.paths).filter(|paths| !paths.is_empty());
        let fields = fields.unwrap_or_else(TopicConfig::field_names);
        let topic = within(deadline, self.broker.update_topic(&name, config, fields)).await?;
        Ok(Response::new(proto::UpdateTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn delete_topic(
        &self,
        request: Request<proto::DeleteTopicRequest>,
    ) -> Result<Response<proto::DeleteTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let name = TopicName::new(&request.get_ref().topic)?;
        within(deadline, self.broker.delete_topic(&name)).await?;
        Ok(Response::new(proto::DeleteTopicResponse {}))
    }

    async fn purge_topic(
        &self,
        request: Request<proto::PurgeTopicRequest>,
    ) -> Result<Response<proto::PurgeTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let proto::PurgeTopicRequest { topic, before } = request.into_inner();
        let name = TopicName::new(&topic)?;
        let before = before.map_or(Sequence::new(u64::MAX), Sequence::new);
        within(deadline, self.broker.purge(&name, before)).await?;
        let topic = self.broker.topic(&name)?;
        Ok(Response::new(proto::PurgeTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn read_state(
        &self,
        request: Request<proto::ReadStateRequest>,
    ) -> Result<Response<served::ReadStateResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let share = share(&request);
        let proto::ReadStateRequest { topic, key_prefix, page_size, page_token } =
            request.into_inner();
        let name = TopicName::new(&topic)?;
        let limit = page_limit(page_size.into(), self.config.max_page_events)?;
        let token = page_token.parse::<StateToken>()?;
        let (request, mut held) = token.request(key_prefix, limit, &share)?;
        let page = within(deadline, self.broker.state(&name, request)).await?;
        let cursor = Cursor::after(page.at, self.broker.epoch()).to_string();
        let next_page_token = StateToken::next(&page);
        let mut events = EncodedEvents::default();
        for event in page.events {
            events.push(&messages::own_event(event));
            polls::rest().await;
        }
        held.count(events.size_bytes()); // It is there twice when it is put into the answer.
        let events = events.into_events();
        holding(served::ReadStateResponse { events, cursor, next_page_token }, held)
    }

    async fn backup(
        &self,
        request: Request<proto::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let held = share(&request).take(BACKUP_BYTES)?;
        let from = Some(&request.get_ref().from).filter(|from| !from.is_empty());
        let from = from.map(|from| from.parse::<Cursor>()).transpose()?;
        let backup = within(deadline, self.broker.backup(from)).await?;
        let after = Place::Position(backup.position());
        let cursor = Cursor { after, since: None, epoch: Some(self.broker.epoch()) }.to_string();
        let expected_bytes = backup.expected_bytes();
        let responses = stream::try_unfold(backup, move |mut backup| {
            let cursor = cursor.clone();
            async move {
                let Some(content) = backup.next().await? else { return Ok(None) };
                Ok(Some((proto::BackupResponse { content, cursor, expected_bytes }, backup)))
            }
        });
        let mut response = Response::new(until(deadline, responses));
        response.extensions_mut().insert(Arc::new(held));
        Ok(response)
    }

    async fn maintain(
        &self,
        request: Request<proto::MaintainRequest>,
    ) -> Result<Response<proto::MaintainResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let topic = &request.get_ref().topic;
        let name = Some(topic).filter(|topic| !topic.is_empty());
        let name = name.map(|topic| TopicName::new(topic)).transpose()?;
        let report = within(deadline, self.broker.maintain(name.as_ref())).await?;
        Ok(Response::new(messages::maintained(&report)))
    }
}

/// The share of the client that asks, of the memory for clients.
fn share<T>(request: &Request<T>) -> Share {
    clients::share(request.extensions().get::<Peer>())
}

/// Checks and encodes what was received to be published: away from the workers if it is much.
async fn batch(broker: &Broker, events: Vec<Bytes>, received: Option<Received>) -> Result<Batch> {
    let (broker, effort) = (broker.clone(), Effort::of_events(&events));
    let work = move || Batch::of(messages::new_events(&events), broker.limits());
    receiving::work_with(received, effort, work).await
}

/// As [`batch`], and gives what is ephemeral to who is there.
async fn publish_ephemeral(
    broker: &Broker,
    topic: TopicName,
    events: Vec<Bytes>,
    received: Option<Received>,
) -> Result<usize> {
    let (broker, effort) = (broker.clone(), Effort::of_events(&events));
    let work = move || {
        Batch::of(messages::new_events(&events), broker.limits())?;
        broker.whisper(&topic, messages::new_events(&events))
    };
    receiving::work_with(received, effort, work).await
}

/// Reads a page, and takes what it holds in memory. Where there is no room for more, it ends.
async fn page(
    broker: &Broker,
    topic: &TopicName,
    request: PageRequest,
    share: &Share,
) -> Result<(served::ReadResponse, Held)> {
    let one = Topics::One(topic.clone());
    let mut held = share.take(selection::reader_bytes(&one, &request.filter))?;
    let mut reader = broker.page(topic, request).await?;
    let mut events = EncodedEvents::default();
    while events.is_empty() || share.has_room(PAGE_STEP_BYTES) {
        let Some(run) = reader.next().await? else { break };
        let (is_first, before) = (events.is_empty(), events.size_bytes());
        run.events().for_each(|event| events.push(&messages::event(&run, &event)));
        // Each by itself, and all of them in the answer.
        let added_bytes = 2 * (events.size_bytes() - before);
        if is_first {
            held.grow(added_bytes)?;
        } else {
            held.count(added_bytes); // The reader is beyond it already.
        }
        polls::rest().await;
    }
    Ok((messages::page(&reader.page(), events.into_events()), held))
}

/// An answer that makes its pieces as the client takes them.
fn waiting_for_room<T>(responses: Responses<T>) -> Response<Responses<T>> {
    let mut response = Response::new(responses);
    response.extensions_mut().insert(WaitsForRoom);
    response
}

/// An answer that holds its memory until it is sent: what it holds already, or as much as its bytes
/// take if that is more.
fn holding<M: prost::Message>(message: M, mut held: Held) -> Result<Response<M>, Status> {
    // A page is counted already; with events that are much in their messages, for more.
    let missing = message.encoded_len().saturating_sub(held.size_bytes());
    match held.size_bytes() {
        0 => held.grow(missing)?,
        _ => held.count(missing),
    }
    let mut response = Response::new(message);
    response.extensions_mut().insert(Arc::new(held));
    Ok(response)
}

/// Ends `responses` when the call's deadline passes.
fn until<T: Send + 'static>(
    deadline: Option<Duration>,
    responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Responses<T> {
    let Some(limit) = deadline else { return Box::pin(responses) };
    let at = Instant::now() + limit;
    let responses = Box::pin(responses);
    Box::pin(stream::unfold(Some(responses), move |responses| async move {
        let mut responses = responses?;
        let next = tokio::time::timeout_at(at, futures_util::StreamExt::next(&mut responses));
        match next.await {
            Ok(Some(response)) => Some((response, Some(responses))),
            Ok(None) => None,
            Err(_elapsed) => Some((Err(deadline_exceeded(limit).into()), None)),
        }
    }))
}

/// One `PublishStream`: it is driven by the client reading its answers, so a client that stops
/// reading them stops being read, with no queue in between.
struct Publishing {
    broker: Broker,
    /// `None` when no more are read.
    requests: Option<Streaming<served::PublishStreamRequest>>,
    /// What was received of requests that are not handed in yet.
    received: Received,
    /// What the client has left, and how it takes that.
    rates: CallerRates,
    temper: Temper,
    in_flight: VecDeque<Result<Pending>>,
    max_in_flight: usize,
    /// The client: positions rise in the order of its requests, and those that ask for it fail
    /// after one that failed.
    order: InOrder,
    /// What the stream ends with, after the answers in flight.
    end: Option<Status>,
}

impl Publishing {
    async fn next(&mut self) -> Option<Result<proto::PublishStreamResponse, Status>> {
        loop {
            let has_room = self.in_flight.len() < self.max_in_flight;
            match &mut self.requests {
                Some(requests) if has_room => {
                    tokio::select! {
                        biased;
                        outcome = answer(&mut self.in_flight) => {
                            return Some(Ok(messages::stream_response(&outcome)));
                        }
                        () = self.broker.draining() => {
                            self.requests = None;
                            self.end = Some(Error::ShuttingDown.into());
                        }
                        request = requests.message() => self.accept(request).await,
                    }
                }
                _ if self.in_flight.is_empty() => return self.end.take().map(Err),
                _ => {
                    let outcome = answer(&mut self.in_flight).await;
                    return Some(Ok(messages::stream_response(&outcome)));
                }
            }
        }
    }

    async fn submit(&mut self, request: served::PublishStreamRequest) -> Result<Pending> {
        let size = || prost::Message::encoded_len(&request);
        let rated = self.rates.publish(request.events.len(), size);
        let served::PublishStreamRequest { topic, events, expected_sequence, in_order } = request;
        let order = if in_order { self.order.clone() } else { self.order.independent() };
        if let Err(error) = rated {
            self.temper.refused();
            return Err(order.refuse(error));
        }
        self.temper.taken();
        let publish = async {
            let topic = TopicName::new(&topic)?;
            let events = batch(&self.broker, events, Some(self.received.clone())).await?;
            Ok(Publish { topic, events, expected_sequence })
        };
        match publish.await {
            Ok(publish) => self.broker.submit_patiently(publish, &order).await,
            Err(error) => Err(order.refuse(error)),
        }
    }

    /// Hands a request to the broker, or notes how the stream ends.
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
                self.end = Some(super::codec::mend(status));
            }
        }
    }
}

/// The end of a stream that goes on with what is refused.
fn abusive(error: &Error, reason: String) -> Status {
    let status = Status::from(error.clone());
    Status::with_details(status.code(), reason, status.details().to_vec().into())
}

/// The answer to the oldest request in flight; waits for ever when there is none.
///
/// # Cancel safety
///
/// Nothing is lost: the request stays the oldest until its answer is returned.
async fn answer(in_flight: &mut VecDeque<Result<Pending>>) -> Result<crate::broker::Ack> {
    let outcome = match in_flight.front_mut() {
        Some(Ok(pending)) => pending.ready().await,
        Some(Err(error)) => Err(error.clone()),
        None => std::future::pending().await,
    };
    in_flight.pop_front();
    outcome
}

/// One `Subscribe`.
struct Following {
    reader: Reader,
    config: FollowConfig,
    /// With silence, up to the next heartbeat.
    patience: Patience,
    listed: clients::Following,
    _kept: Kept,
    is_started: bool,
    is_ended: bool,
}

impl Following {
    async fn next(&mut self) -> Option<Result<proto::SubscribeResponse, Status>> {
        if self.is_ended {
            return None;
        }
        if !self.is_started {
            self.is_started = true;
            return Some(Ok(response(self.started())));
        }
        polls::rest().await; // What was written may have been large.
        let waited = self.reader.next_within(&mut self.patience).await;
        let cursor = self.reader.cursor();
        let message = match waited {
            Ok(Waited::Silence) => {
                Message::Heartbeat(proto::Heartbeat { cursor: cursor.to_string() })
            }
            Ok(Waited::Delivery(Delivery::CaughtUp)) => {
                Message::CaughtUp(proto::CaughtUp { cursor: cursor.to_string() })
            }
            Ok(Waited::Delivery(Delivery::Ephemeral(event))) => {
                Message::Ephemeral(messages::ephemeral(&event))
            }
            Ok(Waited::Delivery(Delivery::Gap(gap))) => Message::Gap(messages::gap(&gap, cursor)),
            Ok(Waited::Delivery(Delivery::Events(run))) => Message::Events(self.gather(&run)),
            Ok(Waited::Stopping) => {
                self.config.turn_to_end(self.listed.connections()).await;
                return Some(self.ended(Error::ShuttingDown));
            }
            Err(error) => return Some(self.ended(error)),
        };
        Some(Ok(response(message)))
    }

    /// The events of `run`, and of what follows it that is in memory already.
    fn gather(&mut self, run: &Run) -> proto::EventBatch {
        let is_one_of_many = matches!(self.reader, Reader::Many(_));
        let size_bytes = |run: &Run| run.events().map(|event| event.size_bytes()).sum::<usize>();
        let mut events = messages::events(run, is_one_of_many);
        let mut left = GATHERED_BYTES.saturating_sub(size_bytes(run));
        while left > 0
            && events.len() < GATHERED_EVENTS
            && let Some(Delivery::Events(run)) = self.reader.next_in_memory()
        {
            left = left.saturating_sub(size_bytes(&run));
            events.extend(messages::events(&run, is_one_of_many));
        }
        self.listed.note(&self.reader);
        proto::EventBatch { events, cursor: self.reader.cursor().to_string() }
    }

    fn started(&self) -> Message {
        let (earliest, tail) = self.reader.bounds();
        let cursor = self.reader.cursor().to_string();
        Message::Started(proto::Started { cursor, earliest, tail })
    }

    fn ended(&mut self, error: Error) -> Result<proto::SubscribeResponse, Status> {
        self.is_ended = true;
        Err(error.into())
    }
}

fn response(message: Message) -> proto::SubscribeResponse {
    proto::SubscribeResponse { message: Some(message) }
}
