//! The paths of the calls.

/// The calls whose clients send messages one by one, with any time between two of them. They are
/// recognised before they are served. Each counts its own messages.
pub(in crate::edge) const CLIENT_STREAMS: [&str; 3] = [PUBLISH_STREAM, CHECKPOINT_STREAM, WORK];

/// The stream of commands from another node of a fleet. The node proves who it is before its first
/// message is read, and bounds what it sends; what it sends is counted in the broker's queue.
pub(crate) const FLEET_STREAM: &str = "/leftoff.cluster.v1.Forwarding/Forward";

pub(super) const PUBLISH_STREAM: &str = "/leftoff.v1.PublisherService/PublishStream";

pub(super) const PUBLISH: &str = "/leftoff.v1.PublisherService/Publish";
pub(super) const SUBSCRIBE: &str = "/leftoff.v1.SubscriberService/Subscribe";
pub(super) const READ: &str = "/leftoff.v1.SubscriberService/Read";
pub(super) const READ_STATE: &str = "/leftoff.v1.SubscriberService/ReadState";
pub(super) const GET_TOPIC: &str = "/leftoff.v1.SubscriberService/GetTopic";
pub(super) const LIST_TOPICS: &str = "/leftoff.v1.SubscriberService/ListTopics";
pub(super) const LIST_MEMBERS: &str = "/leftoff.v1.SubscriberService/ListMembers";
pub(super) const CREATE_TOPIC: &str = "/leftoff.v1.AdminService/CreateTopic";
pub(super) const UPDATE_TOPIC: &str = "/leftoff.v1.AdminService/UpdateTopic";
pub(super) const DELETE_TOPIC: &str = "/leftoff.v1.AdminService/DeleteTopic";
pub(super) const PURGE_TOPIC: &str = "/leftoff.v1.AdminService/PurgeTopic";
pub(super) const MAINTAIN: &str = "/leftoff.v1.AdminService/Maintain";
pub(super) const BACKUP: &str = "/leftoff.v1.AdminService/Backup";
pub(super) const PUT_CONSUMER: &str = "/leftoff.v1.ConsumerService/PutConsumer";
pub(super) const UPDATE_CONSUMER: &str = "/leftoff.v1.ConsumerService/UpdateConsumer";
pub(super) const GET_CONSUMER: &str = "/leftoff.v1.ConsumerService/GetConsumer";
pub(super) const LIST_CONSUMERS: &str = "/leftoff.v1.ConsumerService/ListConsumers";
pub(super) const DELETE_CONSUMER: &str = "/leftoff.v1.ConsumerService/DeleteConsumer";
pub(super) const SET_CHECKPOINT: &str = "/leftoff.v1.ConsumerService/SetCheckpoint";
pub(super) const CHECKPOINT_STREAM: &str = "/leftoff.v1.ConsumerService/CheckpointStream";
pub(super) const MARK_EVENTS: &str = "/leftoff.v1.ConsumerService/MarkEvents";
pub(super) const GET_MARKS: &str = "/leftoff.v1.ConsumerService/GetMarks";
pub(super) const COUNT_EVENTS: &str = "/leftoff.v1.ConsumerService/CountEvents";
pub(super) const READ_INBOX: &str = "/leftoff.v1.ConsumerService/ReadInbox";
pub(super) const READ_GROUPS: &str = "/leftoff.v1.ConsumerService/ReadGroups";
pub(super) const PULL: &str = "/leftoff.v1.WorkService/Pull";
pub(super) const SETTLE: &str = "/leftoff.v1.WorkService/Settle";
pub(super) const WORK: &str = "/leftoff.v1.WorkService/Work";
pub(super) const GET_WORK: &str = "/leftoff.v1.WorkService/GetWork";
