//! The gRPC service of consumers: settings, checkpoints, marks, counts and inboxes.

use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::super::clients::Peer;
use super::super::consumers::asking::{
    ConsumerUse, deleted, listed as is_listed, listed_owner, some,
};
use super::super::consumers::counting::{MAX_COUNTED_CONSUMERS, of_filters};
use super::super::rates::CallerRates;
use super::super::served::consumer_service_server::ConsumerService;
use super::call::{Responses, permit, share, until, within};
use super::checkpoints::CheckpointStream;
use super::{consumed, inboxes, keeping, listing, paths, work_settings};
use crate::consumers::{ConsumerChange, ConsumerId, ConsumerList, ConsumerName, ConsumerSettings};
use crate::edge::grpc::messages;
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};
use crate::lists;
use crate::topic::TopicPattern;

/// The entries of a list that are read at once.
const LISTED_AT_ONCE: usize = 64;

/// The gRPC service of consumers.
#[derive(Debug, Clone)]
pub struct GrpcConsumers {
    pub(super) edge: Edge,
}

#[tonic::async_trait]
impl ConsumerService for GrpcConsumers {
    type CheckpointStreamStream = Responses<proto::CheckpointStreamResponse>;

    async fn put_consumer(
        &self,
        request: Request<proto::PutConsumerRequest>,
    ) -> Result<Response<proto::PutConsumerResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::PUT_CONSUMER).await?;
        let proto::PutConsumerRequest { consumer, filter, from, shared } = request.into_inner();
        let found = keeping::found(&self.edge, consumer, ConsumerUse::Keep, &permit).await?;
        let settings = ConsumerSettings::default().filter(messages::filter(filter));
        let (found, settings) = match shared {
            Some(shared) => {
                let shared = work_settings::of(shared)?;
                (found.for_sharing(&shared, &permit).await?, settings.shared(shared))
            }
            None => (found, settings),
        };
        let from = match from.as_str() {
            "" => None,
            from => Some(from.parse()?),
        };
        let info = within(deadline, found.consumers.put(found.id, settings, from)).await?;
        let consumer = Some(consumed::consumer(&info, self.edge.broker.epoch()));
        Ok(Response::new(proto::PutConsumerResponse { consumer }))
    }

    async fn update_consumer(
        &self,
        request: Request<proto::UpdateConsumerRequest>,
    ) -> Result<Response<proto::UpdateConsumerResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::UPDATE_CONSUMER).await?;
        let proto::UpdateConsumerRequest { consumer, filter, shared } = request.into_inner();
        let mut found = keeping::found(&self.edge, consumer, ConsumerUse::Keep, &permit).await?;
        let mut change = ConsumerChange::default();
        if filter.is_some() {
            change = change.filter(messages::filter(filter));
        }
        if let Some(shared) = shared {
            let shared = work_settings::of(shared)?;
            found = found.for_sharing(&shared, &permit).await?;
            change = change.shared(shared);
        }
        let info = within(deadline, found.consumers.update(&found.id, change)).await?;
        let consumer = Some(consumed::consumer(&info, self.edge.broker.epoch()));
        Ok(Response::new(proto::UpdateConsumerResponse { consumer }))
    }

    async fn get_consumer(
        &self,
        request: Request<proto::GetConsumerRequest>,
    ) -> Result<Response<proto::GetConsumerResponse>, Status> {
        let permit = permit(&self.edge, &request, paths::GET_CONSUMER).await?;
        let proto::GetConsumerRequest { consumer } = request.into_inner();
        let found = keeping::found(&self.edge, consumer, ConsumerUse::Read, &permit).await?;
        let info = found.consumers.get(&found.id)?;
        let consumer = Some(consumed::consumer(&info, self.edge.broker.epoch()));
        Ok(Response::new(proto::GetConsumerResponse { consumer }))
    }

    async fn list_consumers(
        &self,
        request: Request<proto::ListConsumersRequest>,
    ) -> Result<Response<proto::ListConsumersResponse>, Status> {
        let permit = permit(&self.edge, &request, paths::LIST_CONSUMERS).await?;
        let proto::ListConsumersRequest { topic, owner, page_size, page_token } =
            request.into_inner();
        let limit = listing::limit(page_size)?;
        let consumers = &some(self.edge.consumers_if_any())?.consumers;
        let owner = consumed::given(&owner);
        let is_listed = is_listed(&permit, owner.is_some()).await?;
        let owner = listed_owner(owner, &permit, consumers).await?;
        let selection =
            consumed::given(&topic).map(|topic| TopicPattern::new(&topic)).transpose()?;
        let after = match page_token.as_str() {
            "" => None,
            token => Some(last_of(token, &owner)?),
        };
        let mut list = ConsumerList { owner: Some(owner), selection, after, limit: LISTED_AT_ONCE };
        let (mut listed, mut next_page_token) = (Vec::new(), String::new());
        loop {
            let step = consumers.list(&list);
            let is_over = step.len() < LISTED_AT_ONCE;
            let epoch = self.edge.broker.epoch();
            for info in step {
                if listed.len() == limit {
                    let last = list.after.as_ref().map(token_of);
                    next_page_token = last.unwrap_or_default();
                    return Ok(Response::new(proto::ListConsumersResponse {
                        consumers: listed,
                        next_page_token,
                    }));
                }
                if is_listed(&info.id) {
                    listed.push(consumed::consumer(&info, epoch));
                }
                list.after = Some(info.id);
            }
            if is_over {
                let consumers = listed;
                return Ok(Response::new(proto::ListConsumersResponse {
                    consumers,
                    next_page_token,
                }));
            }
            crate::polls::rest().await;
        }
    }

    async fn delete_consumer(
        &self,
        request: Request<proto::DeleteConsumerRequest>,
    ) -> Result<Response<proto::DeleteConsumerResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::DELETE_CONSUMER).await?;
        let proto::DeleteConsumerRequest { consumer } = request.into_inner();
        let found = keeping::found(&self.edge, consumer, ConsumerUse::Keep, &permit).await?;
        within(deadline, deleted(&found.consumers, &found.id)).await?;
        Ok(Response::new(proto::DeleteConsumerResponse {}))
    }

    async fn set_checkpoint(
        &self,
        request: Request<proto::SetCheckpointRequest>,
    ) -> Result<Response<proto::SetCheckpointResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::SET_CHECKPOINT).await?;
        let request = request.into_inner();
        let kept = (self.edge.consumers_if_any(), self.edge.broker.epoch());
        let set = async { keeping::checkpoint(kept, &permit, request).await?.await };
        Ok(Response::new(within(deadline, set).await?))
    }

    async fn checkpoint_stream(
        &self,
        request: Request<Streaming<proto::CheckpointStreamRequest>>,
    ) -> Result<Response<Self::CheckpointStreamStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::CHECKPOINT_STREAM).await?;
        let rates = CallerRates::of(request.extensions().get::<Peer>());
        let keeping = CheckpointStream::new(&self.edge, permit, rates, request.into_inner());
        let responses =
            stream::unfold(
                keeping,
                |mut keeping| async move { Some((keeping.next().await?, keeping)) },
            );
        Ok(Response::new(until(deadline, responses)))
    }

    async fn mark_events(
        &self,
        request: Request<proto::MarkEventsRequest>,
    ) -> Result<Response<proto::MarkEventsResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::MARK_EVENTS).await?;
        let request = request.into_inner();
        let kept = (self.edge.consumers_if_any(), self.edge.broker.epoch());
        let marked = async { keeping::mark(kept, &permit, request).await?.await };
        Ok(Response::new(within(deadline, marked).await?))
    }

    async fn get_marks(
        &self,
        request: Request<proto::GetMarksRequest>,
    ) -> Result<Response<proto::GetMarksResponse>, Status> {
        let permit = permit(&self.edge, &request, paths::GET_MARKS).await?;
        let proto::GetMarksRequest { consumer } = request.into_inner();
        let found = keeping::found(&self.edge, consumer, ConsumerUse::Read, &permit).await?;
        found.consumers.get(&found.id)?; // Refused, if nothing reads as one that is not there.
        let state = found.consumers.state(&found.id);
        Ok(Response::new(proto::GetMarksResponse {
            marks: Some(consumed::all_marks(&state.marks)),
            revision: consumed::revision_of(&state, self.edge.broker.epoch()),
        }))
    }

    async fn count_events(
        &self,
        request: Request<proto::CountEventsRequest>,
    ) -> Result<Response<proto::CountEventsResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::COUNT_EVENTS).await?;
        let proto::CountEventsRequest { consumers } = request.into_inner();
        lists::check("consumers", consumers.len(), MAX_COUNTED_CONSUMERS)?;
        let counting = async {
            let mut counted = Vec::with_capacity(consumers.len());
            for proto::ConsumerCounts { consumer, filters } in consumers {
                let found =
                    keeping::found(&self.edge, consumer, ConsumerUse::Read, &permit).await?;
                let filters = filters.into_iter().map(|it| messages::filter(Some(it))).collect();
                let counts = of_filters(&found, filters, &permit.filter()).await?;
                let counts = counts.iter();
                let counts = counts.map(|it| consumed::counts(it, self.edge.broker.epoch()));
                counted.push(proto::CountedConsumer { counts: counts.collect() });
            }
            Ok::<_, Error>(counted)
        };
        let consumers = within(deadline, counting).await?;
        Ok(Response::new(proto::CountEventsResponse { consumers }))
    }

    async fn read_inbox(
        &self,
        request: Request<proto::ReadInboxRequest>,
    ) -> Result<Response<proto::ReadInboxResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::READ_INBOX).await?;
        let share = share(&request);
        let page = inboxes::inbox(&self.edge, &permit, request.into_inner(), &share);
        let (page, held) = within(deadline, page).await?;
        super::call::holding(page, held)
    }

    async fn read_groups(
        &self,
        request: Request<proto::ReadGroupsRequest>,
    ) -> Result<Response<proto::ReadGroupsResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::READ_GROUPS).await?;
        let share = share(&request);
        let page = inboxes::groups(&self.edge, &permit, request.into_inner(), &share);
        let (page, held) = within(deadline, page).await?;
        super::call::holding(page, held)
    }
}

/// Returns the token of the page after a consumer.
fn token_of(id: &ConsumerId) -> String {
    format!("{}/{}", id.selection, id.name)
}

/// Returns the last consumer of the page before.
fn last_of(token: &str, owner: &str) -> Result<ConsumerId> {
    let malformed = || Error::invalid("page_token", "was not given by a page");
    let (selection, name) = token.rsplit_once('/').ok_or_else(malformed)?;
    let selection = TopicPattern::new(selection).map_err(|_| malformed())?;
    let name = ConsumerName::new(name).map_err(|_| malformed())?;
    Ok(ConsumerId::new(selection, name).of_owner(owner))
}
