//! A client of all gRPC services, over one connection.

use leftoff::edge::proto;
use leftoff::edge::proto::admin_service_client::AdminServiceClient;
use leftoff::edge::proto::consumer_service_client::ConsumerServiceClient;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::edge::proto::work_service_client::WorkServiceClient;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{IntoRequest, IntoStreamingRequest, Response, Status, Streaming};

/// The services, with a method for each call.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    publisher: PublisherServiceClient<Channel>,
    subscriber: SubscriberServiceClient<Channel>,
    admin: AdminServiceClient<Channel>,
    consumers: ConsumerServiceClient<Channel>,
    work: WorkServiceClient<Channel>,
}

impl Grpc {
    pub(crate) async fn connect(url: String) -> Result<Self, Error> {
        Ok(Self::new(Endpoint::new(url)?.connect().await?))
    }

    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            publisher: PublisherServiceClient::new(channel.clone()),
            subscriber: SubscriberServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            consumers: ConsumerServiceClient::new(channel.clone()),
            work: WorkServiceClient::new(channel),
        }
    }

    /// Sends and accepts messages of up to `bytes` bytes.
    pub(crate) fn max_message_size(self, bytes: usize) -> Self {
        let Self { publisher, subscriber, admin, consumers, work } = self;
        Self {
            publisher: publisher.max_encoding_message_size(bytes),
            subscriber: subscriber.max_decoding_message_size(bytes),
            admin: admin.max_decoding_message_size(bytes),
            consumers: consumers.max_decoding_message_size(bytes),
            work: work.max_decoding_message_size(bytes),
        }
    }

    pub(crate) async fn publish_stream(
        &mut self,
        requests: impl IntoStreamingRequest<Message = proto::PublishStreamRequest>,
    ) -> Result<Response<Streaming<proto::PublishStreamResponse>>, Status> {
        self.publisher.publish_stream(requests).await
    }
}

impl Grpc {
    pub(crate) async fn checkpoint_stream(
        &mut self,
        requests: impl IntoStreamingRequest<Message = proto::CheckpointStreamRequest>,
    ) -> Result<Response<Streaming<proto::CheckpointStreamResponse>>, Status> {
        self.consumers.checkpoint_stream(requests).await
    }

    pub(crate) async fn work(
        &mut self,
        requests: impl IntoStreamingRequest<Message = proto::WorkRequest>,
    ) -> Result<Response<Streaming<proto::WorkResponse>>, Status> {
        self.work.work(requests).await
    }
}

/// Returns the path of a call by its name. An unknown name becomes a path of the first service.
pub(crate) fn path_of(call: &str) -> String {
    let found = SERVICES.iter().find(|(_, calls)| calls.contains(&call));
    format!("/{}/{call}", found.unwrap_or(&SERVICES[0]).0)
}

/// The services with the names of their calls.
pub(crate) const SERVICES: [(&str, &[&str]); 5] = [
    ("leftoff.v1.PublisherService", &["Publish", "PublishStream"]),
    (
        "leftoff.v1.SubscriberService",
        &["Subscribe", "Read", "ReadState", "GetTopic", "ListTopics", "ListMembers"],
    ),
    (
        "leftoff.v1.AdminService",
        &["CreateTopic", "UpdateTopic", "DeleteTopic", "PurgeTopic", "Maintain", "Backup"],
    ),
    (
        "leftoff.v1.ConsumerService",
        &[
            "PutConsumer",
            "UpdateConsumer",
            "GetConsumer",
            "ListConsumers",
            "DeleteConsumer",
            "SetCheckpoint",
            "CheckpointStream",
            "MarkEvents",
            "GetMarks",
            "CountEvents",
            "ReadInbox",
            "ReadGroups",
        ],
    ),
    ("leftoff.v1.WorkService", &["Pull", "Settle", "Work", "GetWork"]),
];

macro_rules! calls {
    ($($service:ident.$call:ident($request:ident) -> $response:ty;)*) => {
        impl Grpc {
            $(pub(crate) async fn $call(
                &mut self,
                request: impl IntoRequest<proto::$request>,
            ) -> Result<Response<$response>, Status> {
                self.$service.$call(request).await
            })*
        }
    };
}

calls! {
    publisher.publish(PublishRequest) -> proto::PublishResponse;
    subscriber.subscribe(SubscribeRequest) -> Streaming<proto::SubscribeResponse>;
    subscriber.read(ReadRequest) -> proto::ReadResponse;
    subscriber.read_state(ReadStateRequest) -> proto::ReadStateResponse;
    subscriber.get_topic(GetTopicRequest) -> proto::GetTopicResponse;
    subscriber.list_topics(ListTopicsRequest) -> proto::ListTopicsResponse;
    subscriber.list_members(ListMembersRequest) -> proto::ListMembersResponse;
    admin.create_topic(CreateTopicRequest) -> proto::CreateTopicResponse;
    admin.update_topic(UpdateTopicRequest) -> proto::UpdateTopicResponse;
    admin.delete_topic(DeleteTopicRequest) -> proto::DeleteTopicResponse;
    admin.purge_topic(PurgeTopicRequest) -> proto::PurgeTopicResponse;
    admin.maintain(MaintainRequest) -> proto::MaintainResponse;
    admin.backup(BackupRequest) -> Streaming<proto::BackupResponse>;
    consumers.put_consumer(PutConsumerRequest) -> proto::PutConsumerResponse;
    consumers.update_consumer(UpdateConsumerRequest) -> proto::UpdateConsumerResponse;
    consumers.get_consumer(GetConsumerRequest) -> proto::GetConsumerResponse;
    consumers.list_consumers(ListConsumersRequest) -> proto::ListConsumersResponse;
    consumers.delete_consumer(DeleteConsumerRequest) -> proto::DeleteConsumerResponse;
    consumers.set_checkpoint(SetCheckpointRequest) -> proto::SetCheckpointResponse;
    consumers.mark_events(MarkEventsRequest) -> proto::MarkEventsResponse;
    consumers.get_marks(GetMarksRequest) -> proto::GetMarksResponse;
    consumers.count_events(CountEventsRequest) -> proto::CountEventsResponse;
    consumers.read_inbox(ReadInboxRequest) -> proto::ReadInboxResponse;
    consumers.read_groups(ReadGroupsRequest) -> proto::ReadGroupsResponse;
    work.pull(PullRequest) -> proto::PullResponse;
    work.settle(SettleRequest) -> proto::SettleResponse;
    work.get_work(GetWorkRequest) -> proto::GetWorkResponse;
}
