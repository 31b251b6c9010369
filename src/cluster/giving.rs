//! The service of a node that gives others a backup, for those that join (`joining/`).

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};

use super::links::check_proof;
use super::proto::joining_server::{Joining, JoiningServer};
use super::proto::{LoadBackupRequest, LoadBackupResponse};
use super::replicated_log::ReplicatedLog;
use super::status::{NodeRole, NodeStatus};
use crate::broker::{Backup, Broker};
use crate::log::Log as _;
use crate::secret::Secret;

/// The most nodes that load a backup here at once.
const MAX_LOADS: usize = 2;

/// The most bytes of a backup in one message.
const PIECE_BYTES: usize = 1 << 20;

/// The service of a node that gives others of its fleet a backup. Serve it where
/// [`NodeConfig::advertise`](super::NodeConfig::advertise) says. Cheap to clone.
#[derive(Clone)]
pub struct JoiningService {
    broker: Broker,
    log: Arc<ReplicatedLog>,
    status: watch::Receiver<NodeStatus>,
    secret: Option<Secret>,
    /// Where others reach this node.
    address: Arc<str>,
    loads: Arc<Semaphore>,
}

/// The messages of a backup.
type BackupResponses =
    Pin<Box<dyn futures_util::Stream<Item = Result<LoadBackupResponse, Status>> + Send + 'static>>;

/// A backup that another node loads.
struct Giving {
    log: Arc<ReplicatedLog>,
    backup: Backup,
    /// The bytes that were read and not sent yet.
    read: Bytes,
    /// The bytes that were sent.
    sent_bytes: u64,
    is_told: bool,
    _load: OwnedSemaphorePermit,
}

impl JoiningService {
    pub(in crate::cluster) fn new(
        broker: Broker,
        log: Arc<ReplicatedLog>,
        status: watch::Receiver<NodeStatus>,
        secret: Option<Secret>,
        address: &str,
    ) -> Self {
        let loads = Arc::new(Semaphore::new(MAX_LOADS));
        Self { broker, log, status, secret, address: address.into(), loads }
    }

    /// Returns the service, to be added to a server.
    pub(crate) fn served(self) -> JoiningServer<Self> {
        JoiningServer::new(self)
    }
}

#[tonic::async_trait]
impl Joining for JoiningService {
    type LoadBackupStream = BackupResponses;

    async fn load_backup(
        &self,
        request: Request<LoadBackupRequest>,
    ) -> Result<Response<BackupResponses>, Status> {
        if self.secret.is_none() {
            // Whoever reaches the node could read all that it has.
            return Err(Status::unauthenticated("this node has no secret of the fleet: set one"));
        }
        check_proof(request.metadata(), self.secret.as_ref(), &self.address)?;
        let role = self.status.borrow().role;
        if !matches!(role, NodeRole::Following | NodeRole::Leading) {
            return Err(Status::unavailable("this node takes no part in the fleet"));
        }
        let load = self.loads.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{MAX_LOADS} nodes load a backup here already"))
        })?;
        let node = &request.get_ref().node;
        tracing::info!(node, "a node of the fleet loads a backup here");
        let backup = self.broker.backup_for_node().await?;
        if backup.applied().is_none() {
            return Err(Status::unavailable("this node has nothing of the fleet yet"));
        }
        let (log, read) = (self.log.clone(), Bytes::new());
        let giving = Giving { log, backup, read, sent_bytes: 0, is_told: false, _load: load };
        let responses = stream::try_unfold(giving, |mut giving| async {
            let response = giving.next().await?;
            Ok(response.map(|response| (response, giving)))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

impl Giving {
    /// Returns the next message; `None` after the last one.
    async fn next(&mut self) -> Result<Option<LoadBackupResponse>, Status> {
        if self.is_told {
            return Ok(None);
        }
        let expected_bytes = self.backup.expected_bytes();
        let applied = self.backup.applied().map_or(0, |applied| applied.stream);
        while self.read.is_empty() {
            if let Some(read) = self.backup.next().await? {
                self.read = read;
                continue;
            }
            self.is_told = true;
            // What was read may be as it is after groups up to here, and not later ones.
            let log = self.log.clone();
            let reached = tokio::task::spawn_blocking(move || log.applied());
            let reached = reached.await.map_err(|_| Status::unavailable("stopping"))??;
            let reached = Some(reached.map_or(0, |reached| reached.stream));
            let (content, offset_bytes) = (Bytes::new(), Some(self.sent_bytes));
            let last =
                LoadBackupResponse { content, expected_bytes, applied, reached, offset_bytes };
            return Ok(Some(last));
        }
        let content = self.read.split_to(self.read.len().min(PIECE_BYTES));
        let offset_bytes = Some(self.sent_bytes);
        self.sent_bytes += content.len() as u64;
        let reached = None;
        Ok(Some(LoadBackupResponse { content, expected_bytes, applied, reached, offset_bytes }))
    }
}
