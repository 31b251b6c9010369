//! The gRPC service of readers: streams, pages, states, topics and members.

use futures_util::stream;
use http::HeaderValue;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::super::budget::WaitsForRoom;
use super::super::clients::Peer;
use super::super::cut_topics::{CUT_NAME, cut_header};
use super::super::following::{FollowTurn, Following};
use super::super::gaps;
use super::super::page_token::{StateToken, page_limit};
use super::super::proto::{self, subscribe_response::Message};
use super::super::rates::{CallerRates, Rate};
use super::super::selection::{self, Wanted};
use super::super::served::subscriber_service_server::SubscriberService;
use super::call::{Responses, holding, permit, share, until, within};
use super::status::expired;
use super::{listing, pages, paths};
use crate::broker::{Delivery, Member, Run, Waited};
use crate::cursor::{Cursor, OnGap, StartPoint};
use crate::edge::config::FollowConfig;
use crate::edge::grpc::messages::EncodedList;
use crate::edge::grpc::{consumed, messages};
use crate::edge::{Edge, served};
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::polls;
use crate::topic::TopicName;

/// The bytes of events, and the number of events, up to which one message gathers the runs that are
/// in memory.
const GATHERED_BYTES: usize = 8 << 10;
const GATHERED_EVENTS: usize = 256;

/// The gRPC service of readers.
#[derive(Debug, Clone)]
pub struct GrpcSubscriber {
    pub(super) edge: Edge,
}

#[tonic::async_trait]
impl SubscriberService for GrpcSubscriber {
    type SubscribeStream = Responses<proto::SubscribeResponse>;

    async fn subscribe(
        &self,
        request: Request<proto::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::SUBSCRIBE).await?;
        let peer = request.extensions().get::<Peer>().cloned();
        let request = request.into_inner();
        let start = match request.from.as_str() {
            "" => None,
            from => Some(from.parse()?),
        };
        let consumer = consumed::read_as(&request)?;
        let on_gap = messages::on_gap(request.on_gap)?.unwrap_or(OnGap::Resume);
        let topics = messages::topics(&request.topic, request.topics)?;
        let member = request.member.map(|proto::Member { id, info }| {
            let info = info.into_iter().map(|(name, text)| (name, text.into())).collect();
            Member { id, info }
        });
        CallerRates::of(peer.as_ref()).take(Rate::Subscriptions, 1)?;
        let filter = messages::filter(request.filter);
        let is_strict = request.strict;
        let wanted = Wanted { topics, start, on_gap, filter, member, is_strict, consumer };
        let opening = Following::open(wanted, "grpc", &self.edge, (peer.as_ref(), permit));
        let mut following = within(deadline, opening).await?;
        let cut = cut_header(following.cut_to());
        let config = self.edge.config.clone();
        let first = Subscribed::first(&mut following);
        let stream = Subscribed { following, config, first, is_ended: false };
        let responses =
            stream::unfold(
                stream,
                |mut stream| async move { Some((stream.next().await?, stream)) },
            );
        let mut response = waiting_for_room(until(deadline, responses));
        tell_cut(&mut response, cut);
        Ok(response)
    }

    async fn read(
        &self,
        request: Request<proto::ReadRequest>,
    ) -> Result<Response<served::ReadResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::READ).await?;
        let share = share(&request);
        let mut request = request.into_inner();
        let many = std::mem::take(&mut request.topics);
        let (mut topics, is_strict) = (messages::topics(&request.topic, many)?, request.strict);
        let named = consumed::page_of(&request)?;
        let has_start = !request.from.is_empty() || request.before.is_some();
        let mut wanted = messages::page_request(request, &topics, &self.edge.config)?;
        if let Some(named) = named {
            let (of_consumer, found) = selection::found(topics, named, &permit, &self.edge).await?;
            let info = found.consumers.get(&found.id)?;
            topics = of_consumer;
            wanted.more_filters.push(info.settings.filter.clone());
            if let Some(checkpoint) = info.checkpoint.filter(|_| !has_start) {
                wanted.start = StartPoint::After(checkpoint);
            }
        }
        let page = pages::read((&self.edge.broker, &permit), (topics, is_strict), wanted, &share);
        let (page, held, cut) = within(deadline, page).await?;
        let mut response = holding(page, held)?;
        tell_cut(&mut response, cut);
        Ok(response)
    }

    async fn read_state(
        &self,
        request: Request<proto::ReadStateRequest>,
    ) -> Result<Response<served::ReadStateResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::READ_STATE).await?;
        let share = share(&request);
        let proto::ReadStateRequest { topic, key_prefix, page_size, page_token } =
            request.into_inner();
        let name = TopicName::new(&topic)?;
        permit.check(Action::Subscribe, &name).await?;
        let limit = page_limit("page_size", page_size.into(), self.edge.config.max_page_events)?;
        let token = page_token.parse::<StateToken>()?;
        let (request, mut held) = token.request(key_prefix, limit, &share)?;
        let page = permit.picked(within(deadline, self.edge.broker.state(&name, request)).await?);
        let cursor = Cursor::after(page.at, self.edge.broker.epoch()).to_string();
        let next_page_token = StateToken::next(&page);
        let mut events = EncodedList::default();
        for event in page.events {
            events.push(&messages::own_event(event));
            polls::rest().await;
        }
        held.count(events.size_bytes()); // The events are in memory twice: here, and in the answer.
        let events = events.into_entries();
        holding(served::ReadStateResponse { events, cursor, next_page_token }, held)
    }

    async fn get_topic(
        &self,
        request: Request<proto::GetTopicRequest>,
    ) -> Result<Response<proto::GetTopicResponse>, Status> {
        let permit = permit(&self.edge, &request, paths::GET_TOPIC).await?;
        let name = TopicName::new(&request.get_ref().topic)?;
        permit.check_shown(&name).await?;
        let topic = self.edge.broker.topic(&name)?;
        Ok(Response::new(proto::GetTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn list_topics(
        &self,
        request: Request<proto::ListTopicsRequest>,
    ) -> Result<Response<served::ListTopicsResponse>, Status> {
        let (deadline, share) = (messages::deadline(request.metadata())?, share(&request));
        let permit = permit(&self.edge, &request, paths::LIST_TOPICS).await?;
        let proto::ListTopicsRequest { page_size, page_token } = request.into_inner();
        let limit = listing::limit(page_size)?;
        let after = Some(page_token.as_str()).filter(|token| !token.is_empty());
        if let Some(token) = after {
            TopicName::new(token)
                .map_err(|_| Error::invalid("page_token", "was not given by a page"))?;
        }
        let steps = self.edge.broker.list_topics(after, limit);
        let steps = match permit.listed().await? {
            Some(is_listed) => steps.only(is_listed),
            None => steps,
        };
        let page = listing::page(steps, limit, self.edge.broker.max_page_bytes(), &share);
        let listing::ListPage { entries: topics, next_page_token, held } =
            within(deadline, page).await?;
        holding(served::ListTopicsResponse { topics, next_page_token }, held)
    }

    async fn list_members(
        &self,
        request: Request<proto::ListMembersRequest>,
    ) -> Result<Response<served::ListMembersResponse>, Status> {
        let (deadline, share) = (messages::deadline(request.metadata())?, share(&request));
        let permit = permit(&self.edge, &request, paths::LIST_MEMBERS).await?;
        let proto::ListMembersRequest { topic, page_size, page_token } = request.into_inner();
        let name = TopicName::new(&topic)?;
        permit.check(Action::Presence, &name).await?;
        let limit = listing::limit(page_size)?;
        let steps = self.edge.broker.list_members(&name, &page_token, limit);
        let page = listing::page(steps, limit, self.edge.broker.max_page_bytes(), &share);
        let listing::ListPage { entries: members, next_page_token, held } =
            within(deadline, page).await?;
        holding(served::ListMembersResponse { members, next_page_token }, held)
    }
}

/// Names the topics that are read, if they are less than the client asked for.
fn tell_cut<T>(response: &mut Response<T>, cut: Option<HeaderValue>) {
    let topics = cut.and_then(|topics| MetadataValue::try_from(topics.as_bytes()).ok());
    if let Some(topics) = topics {
        response.metadata_mut().insert(CUT_NAME, topics);
    }
}

/// Returns an answer that makes its pieces as the client takes them.
fn waiting_for_room<T>(responses: Responses<T>) -> Response<Responses<T>> {
    let mut response = Response::new(responses);
    response.extensions_mut().insert(WaitsForRoom);
    response
}

/// One `Subscribe`.
struct Subscribed {
    following: Following,
    config: FollowConfig,
    /// The messages that come first, the last of them at the front.
    first: Vec<Message>,
    is_ended: bool,
}

impl Subscribed {
    async fn next(&mut self) -> Option<Result<proto::SubscribeResponse, Status>> {
        if self.is_ended {
            return None;
        }
        if let Some(first) = self.first.pop() {
            return Some(Ok(response(first)));
        }
        let waited = match self.following.next().await {
            Ok(FollowTurn::News(news)) => return Some(Ok(response(consumed::news(&news)))),
            Ok(FollowTurn::Waited(waited)) => Ok(waited),
            Err(error) => Err(error),
        };
        let message = match waited {
            Ok(Waited::Silence) => {
                Message::Heartbeat(proto::Heartbeat { cursor: self.following.tell().to_string() })
            }
            Ok(Waited::Delivery(Delivery::CaughtUp)) => {
                Message::CaughtUp(proto::CaughtUp { cursor: self.following.tell().to_string() })
            }
            Ok(Waited::Delivery(Delivery::Ephemeral(event))) => {
                Message::Ephemeral(messages::ephemeral(&event))
            }
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                Message::Gap(gaps::message(&gap, self.following.tell()))
            }
            Ok(Waited::Delivery(Delivery::Events(run))) => Message::Events(self.gather(&run)),
            Ok(Waited::Stopping) => {
                self.following.turn_to_end(&self.config).await;
                return Some(self.ended(Error::ShuttingDown));
            }
            Err(error) => return Some(self.ended(error)),
        };
        Some(Ok(response(message)))
    }

    /// Returns the events of `run`, and of the next runs that are in memory already.
    fn gather(&mut self, run: &Run) -> proto::EventBatch {
        let is_one_of_many = self.following.reader().is_of_many();
        let size_bytes = |run: &Run| run.events().map(|event| event.size_bytes()).sum::<usize>();
        let mut events = messages::events(run, is_one_of_many);
        let mut left = GATHERED_BYTES.saturating_sub(size_bytes(run));
        while left > 0
            && events.len() < GATHERED_EVENTS
            && let Some(run) = self.following.next_in_memory()
        {
            left = left.saturating_sub(size_bytes(&run));
            events.extend(messages::events(&run, is_one_of_many));
        }
        self.following.show_place();
        proto::EventBatch { events, cursor: self.following.tell().to_string() }
    }

    /// Returns the messages that come first, the last of them at the front.
    fn first(following: &mut Following) -> Vec<Message> {
        let (earliest, tail) = following.reader().bounds();
        let (earliest, tail) = (earliest.number(), tail.number());
        let cursor = following.tell().to_string();
        let denied = following.left_out().map(|it| &it.denied).filter(|it| !it.is_empty());
        let denied = denied.map(|topics| {
            let topics = topics.iter().map(ToString::to_string).collect();
            Message::Denied(proto::Denied { topics })
        });
        following.forget_left_out();
        let started = Message::Started(proto::Started { cursor, earliest, tail });
        denied.into_iter().chain([started]).collect()
    }

    fn ended(&mut self, error: Error) -> Result<proto::SubscribeResponse, Status> {
        self.is_ended = true;
        // The reader may be past events that were not delivered; what was told is not.
        let told = self.following.reader().gap().is_none().then_some(self.following.told());
        Err(match error {
            Error::Unauthenticated { .. } => expired(&error, told),
            error => error.into(),
        })
    }
}

fn response(message: Message) -> proto::SubscribeResponse {
    proto::SubscribeResponse { message: Some(message) }
}
