//! The gRPC service of administrators: settings of topics, maintenance, backups.

use std::sync::Arc;

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::super::served::admin_service_server::AdminService;
use super::call::{Responses, permit, share, until, within};
use super::paths;
use crate::cursor::{Cursor, Place, Sequence};
use crate::edge::grpc::messages;
use crate::edge::hooks::ActKind;
use crate::edge::{Edge, proto};
use crate::error::Result;
use crate::permission::Action;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The memory of a backup, in bytes: a piece as it is read, as a message, and as encoded bytes.
const BACKUP_BYTES: usize = 1 << 20;

/// The gRPC service of administrators.
#[derive(Debug, Clone)]
pub struct GrpcAdmin {
    pub(super) edge: Edge,
}

#[tonic::async_trait]
impl AdminService for GrpcAdmin {
    type BackupStream = Responses<proto::BackupResponse>;

    async fn create_topic(
        &self,
        request: Request<proto::CreateTopicRequest>,
    ) -> Result<Response<proto::CreateTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::CREATE_TOPIC).await?;
        let proto::CreateTopicRequest { topic, config } = request.into_inner();
        let (name, config) = (TopicName::new(&topic)?, messages::config_of(config)?);
        permit.check(Action::Manage, &name).await?;
        let topic = within(
            deadline,
            permit.administering(
                ActKind::SetTopic,
                Some(&name),
                self.edge.broker.create_topic(&name, config),
            ),
        )
        .await?;
        Ok(Response::new(proto::CreateTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn update_topic(
        &self,
        request: Request<proto::UpdateTopicRequest>,
    ) -> Result<Response<proto::UpdateTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::UPDATE_TOPIC).await?;
        let proto::UpdateTopicRequest { topic, config, update_mask } = request.into_inner();
        let (name, config) = (TopicName::new(&topic)?, messages::config_of(config)?);
        permit.check(Action::Manage, &name).await?;
        let fields = update_mask.map(|mask| mask.paths).filter(|paths| !paths.is_empty());
        let fields = fields.unwrap_or_else(TopicConfig::field_names);
        let topic = within(
            deadline,
            permit.administering(
                ActKind::UpdateTopic,
                Some(&name),
                self.edge.broker.update_topic(&name, config, fields),
            ),
        )
        .await?;
        Ok(Response::new(proto::UpdateTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn delete_topic(
        &self,
        request: Request<proto::DeleteTopicRequest>,
    ) -> Result<Response<proto::DeleteTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::DELETE_TOPIC).await?;
        let name = TopicName::new(&request.get_ref().topic)?;
        permit.check(Action::Manage, &name).await?;
        within(
            deadline,
            permit.administering(
                ActKind::DeleteTopic,
                Some(&name),
                self.edge.broker.delete_topic(&name),
            ),
        )
        .await?;
        Ok(Response::new(proto::DeleteTopicResponse {}))
    }

    async fn purge_topic(
        &self,
        request: Request<proto::PurgeTopicRequest>,
    ) -> Result<Response<proto::PurgeTopicResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::PURGE_TOPIC).await?;
        let proto::PurgeTopicRequest { topic, before } = request.into_inner();
        let name = TopicName::new(&topic)?;
        permit.check(Action::Manage, &name).await?;
        let before = before.map_or(Sequence::new(u64::MAX), Sequence::new);
        within(
            deadline,
            permit.administering(
                ActKind::PurgeTopic,
                Some(&name),
                self.edge.broker.purge(&name, before),
            ),
        )
        .await?;
        let topic = self.edge.broker.topic(&name)?;
        Ok(Response::new(proto::PurgeTopicResponse { topic: Some(messages::topic(&topic)) }))
    }

    async fn maintain(
        &self,
        request: Request<proto::MaintainRequest>,
    ) -> Result<Response<proto::MaintainResponse>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::MAINTAIN).await?;
        permit.check_administers().await?;
        let topic = &request.get_ref().topic;
        let name = Some(topic).filter(|topic| !topic.is_empty());
        let name = name.map(|topic| TopicName::new(topic)).transpose()?;
        let report = within(
            deadline,
            permit.administering(
                ActKind::Maintain,
                name.as_ref(),
                self.edge.broker.maintain(name.as_ref()),
            ),
        )
        .await?;
        Ok(Response::new(messages::maintained(&report)))
    }

    async fn backup(
        &self,
        request: Request<proto::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let deadline = messages::deadline(request.metadata())?;
        let permit = permit(&self.edge, &request, paths::BACKUP).await?;
        permit.check_administers().await?;
        let held = share(&request).take(BACKUP_BYTES)?;
        let from = Some(&request.get_ref().from).filter(|from| !from.is_empty());
        let from = from.map(|from| from.parse::<Cursor>()).transpose()?;
        let backup = within(
            deadline,
            permit.administering(ActKind::Backup, None, self.edge.broker.backup(from)),
        )
        .await?;
        let after = Place::Position(backup.position());
        let cursor =
            Cursor { after, since: None, epoch: Some(self.edge.broker.epoch()) }.to_string();
        let expected_bytes = backup.expected_bytes();
        // A backup takes longer than the grants of most callers.
        let over = Box::pin(async move {
            loop {
                permit.ended().await;
                if let Err(error) = permit.check_administers().await {
                    return error;
                }
            }
        });
        let responses = stream::try_unfold((backup, over), move |(mut backup, mut over)| {
            let cursor = cursor.clone();
            async move {
                let content = tokio::select! {
                    biased;
                    error = &mut over => return Err(error.into()),
                    content = backup.next() => content?,
                };
                let Some(content) = content else { return Ok(None) };
                let response = proto::BackupResponse { content, cursor, expected_bytes };
                Ok(Some((response, (backup, over))))
            }
        });
        let mut response = Response::new(until(deadline, responses));
        response.extensions_mut().insert(Arc::new(held));
        Ok(response)
    }
}
