//! The paths of the calls.

/// The path of `PublishStream`, which is recognised before it is served.
pub(in crate::edge) const PUBLISH_STREAM: &str = "/leftoff.v1.PublisherService/PublishStream";

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
