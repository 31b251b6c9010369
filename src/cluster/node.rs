//! A node of a fleet: a broker on a log whose groups go through the stream, and the tasks that play
//! the node's role.
//!
//! [`open`] makes both of a local log and a stream. The broker is used as any other. While another
//! node leads, what would store something is sent there (`forwarding/`).
//!
//! # Why a leader resigns
//!
//! A leader that is closed in order appends a last record, which says that it leads no longer, and
//! the others need not wait for the end of its lease. A node that does not know this record waits.
//! Nobody is named as the next one: the leader does not know who is up, and whoever is first has
//! applied all that there is.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::clock::{RuntimeClock, SteadyClock};
use super::damage_note::DamageNote;
use super::forwarding::{
    Forwarder, ForwarderHandle, ForwarderParts, ForwardingService, leader_asker,
};
use super::founding::fleet_epoch;
use super::giving::JoiningService;
use super::group_form::MAX_GROUP_BYTES;
use super::links::LinkConfig;
use super::messages::FleetMessages;
use super::peers::PeerWatch;
use super::record::{FleetLeader, MAX_NODE_ADDRESS_BYTES, MAX_NODE_NAME_BYTES};
use super::replicated_log::ReplicatedLog;
use super::restarting::RestartWatch;
use super::role::{LedBroker, RoleParts, RoleTask};
use super::searching::{DamageSearch, SearchCounts};
use super::signed_messages::SignedMessages;
use super::status::{NodeRole, NodeStatus, RepairedLog};
use super::stream::{Stream, StreamError, StreamFuture, StreamSequence};
use super::upkeep::{NodeUpkeep, UpkeepParts};
use super::view::FleetView;
use super::writer::{StreamWriter, WriterConfig};
use crate::broker::{Broker, FollowerConfig, ForwardQueue, Leadership, OpenConfig};
use crate::cursor::Epoch;
use crate::error::{Error, Result};
use crate::log::{Applied, Group, Log};
use crate::secret::Secret;

/// The time after which a log's place is moved over records that change no log.
const MOVE_EVERY: Duration = Duration::from_secs(5);

/// The bounds of a lease. A shorter one ends with every pause of a system.
const MIN_LEASE: Duration = Duration::from_millis(100);
const MAX_LEASE: Duration = Duration::from_secs(60);

/// The longest time for which records are kept.
const MAX_KEEP: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const FOREIGN_LOG: &str = "the log has events and no place in the stream of a fleet: it is of a \
    broker that was alone, or has lost data to damage; take an empty data directory";

/// The settings of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The name of the fleet, for people. Default: empty.
    pub fleet: String,
    /// The name of the node in its fleet: 1 to [`MAX_NODE_NAME_BYTES`] bytes.
    pub name: String,
    /// The URL at which other nodes reach this one, like `https://n1:4280`: up to
    /// [`MAX_NODE_ADDRESS_BYTES`] bytes. Default: empty, so that others cannot reach it.
    pub advertise: String,
    /// The secret that the nodes of the fleet share: whoever knows it may have anything stored. It
    /// is never sent. Default: none, so that whoever reaches the node may. Without one, a node
    /// gives others no backup, and takes messages from whoever reaches the engine.
    pub secret: Option<Secret>,
    /// The certificates in PEM that sign those of the nodes. Default: those that the system trusts.
    pub ca_pem: Option<Vec<u8>>,
    /// The silence of the leader after which another node leads: 100 ms to 60 s. Default: 3 s. A
    /// publish whose outcome is not known is answered after three times as long.
    pub lease: Duration,
    /// The least time for which the stream keeps a record, so that a node that was away for less
    /// catches up without a backup of a peer: up to 30 days. A bound of the stream's bytes removes
    /// records earlier. Default: 1 hour.
    pub keep: Duration,
    /// The most members of other nodes that this one shows among those who are present; each takes
    /// about 4 KiB with long texts. Default: 100,000.
    pub max_members_elsewhere: usize,
    /// The bytes of its log that the node reads in a second to find damage; 0 for no search.
    /// Default: 4 MiB.
    pub search_bytes_per_second: u64,
}

impl NodeConfig {
    /// Returns the settings of a node with this name.
    pub fn new(name: impl Into<String>) -> Self {
        let (fleet, advertise) = Default::default();
        Self {
            fleet,
            name: name.into(),
            advertise,
            secret: None,
            ca_pem: None,
            lease: Duration::from_secs(3),
            keep: Duration::from_secs(60 * 60),
            max_members_elsewhere: 100_000,
            search_bytes_per_second: 4 << 20,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let Self { name, advertise, lease, keep, .. } = self;
        if name.is_empty() || name.len() > MAX_NODE_NAME_BYTES {
            let bytes = name.len();
            let problem = format!("has {bytes} bytes; 1 to {MAX_NODE_NAME_BYTES} are allowed");
            return Err(Error::invalid("node", problem));
        }
        if advertise.len() > MAX_NODE_ADDRESS_BYTES {
            let bytes = advertise.len();
            let problem = format!("has {bytes} bytes; {MAX_NODE_ADDRESS_BYTES} are the most");
            return Err(Error::invalid("advertise", problem));
        }
        if !(MIN_LEASE..=MAX_LEASE).contains(lease) {
            let problem = format!("{lease:?} is not within {MIN_LEASE:?} and {MAX_LEASE:?}");
            return Err(Error::invalid("lease", problem));
        }
        if *keep > MAX_KEEP {
            let problem = format!("{keep:?} is more than {MAX_KEEP:?}");
            return Err(Error::invalid("keep", problem));
        }
        Ok(())
    }
}

/// An engine: a fleet's stream, and messages between its nodes.
pub trait FleetEngine: Stream + FleetMessages {}

impl<E: Stream + FleetMessages> FleetEngine for E {}

/// Why a node cannot be opened.
#[derive(Debug, Clone, Error)]
pub enum NodeOpenError {
    /// The settings are wrong, or the log or the broker cannot be opened.
    #[error(transparent)]
    Broker(#[from] Error),
    /// The log is empty, and the stream does not have all records from the first one on any more.
    #[error("{0}, and this node has none of their events: load a backup of another node")]
    Trimmed(StreamError),
    /// The stream is none of a fleet.
    #[error("{0}")]
    Broken(StreamError),
    /// No backup of another node could be loaded; why the last one could not.
    #[error("no backup of another node can be loaded: {0}")]
    NotLoaded(String),
    /// The log is damaged so that it does not open.
    #[error("{error}; no backup of another node could be loaded: {problem}")]
    Damaged {
        /// The damage.
        error: Error,
        /// Why no backup could be loaded.
        problem: String,
    },
    /// The node stopped before it had all that it needs to serve.
    #[error("this node takes no part in its fleet: {0}")]
    Stopped(String),
}

/// A broker with what sends commands to the leader.
struct ForwardingBroker {
    broker: Broker,
    forwarding: ForwarderHandle,
}

impl LedBroker for ForwardingBroker {
    fn apply(&self, group: Group) -> StreamFuture<'_, Result<()>> {
        Box::pin(self.broker.apply(group))
    }

    fn lead(&self, leadership: Leadership) -> StreamFuture<'_, Result<()>> {
        Box::pin(async move {
            if leadership == Leadership::Leads {
                self.forwarding.give_back().await;
            }
            self.broker.lead(leadership).await
        })
    }

    fn check(&self) -> Result<()> {
        self.broker.check_ready()
    }

    fn ended(&self) -> StreamFuture<'_, ()> {
        Box::pin(self.broker.ended())
    }
}

/// The tasks of a node, which play its role in the fleet. If this is dropped, they end at once, as
/// if the process had ended; [`Self::close`] ends them in order.
pub struct FleetNode {
    broker: Broker,
    log: Arc<ReplicatedLog>,
    stream: Arc<dyn Stream>,
    /// The note of damage in the data directory, if the node was opened in one.
    damage_note: Option<DamageNote>,
    status: Arc<watch::Sender<NodeStatus>>,
    writer: StreamWriter,
    view: FleetView,
    upkeep: NodeUpkeep,
    stopping: CancellationToken,
    forwarding: ForwarderHandle,
    service: ForwardingService,
    joining: JoiningService,
    /// The task of the role, if the node has one.
    role: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
}

impl fmt::Debug for FleetNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetNode").field("status", &self.view.status()).finish_non_exhaustive()
    }
}

/// Opens a node of a fleet on its local log: a broker that follows, and leads when nobody else
/// does.
///
/// A log that is empty joins the fleet, and founds it if the stream is empty, too. For that it
/// waits until the engine answers. A log that was in the fleet before needs no engine to be opened.
///
/// A log that has events and is not of the fleet takes no part in it: the broker serves its
/// readers, and the status says why it does nothing else.
///
/// # Errors
///
/// [`NodeOpenError`]. The stream may have been founded.
///
/// # Cancel safety
///
/// As with an error.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn open(
    local: Arc<dyn Log>,
    engine: Arc<dyn FleetEngine>,
    config: NodeConfig,
    open: &OpenConfig,
) -> Result<(Broker, FleetNode), NodeOpenError> {
    open_with(local, engine, config, open, &|task| tokio::spawn(task)).await
}

/// Checks that each group fits into the stream.
fn check_groups(open: &OpenConfig) -> Result<()> {
    // A group has one batch more than it needs, and what it takes besides the events.
    let most = MAX_GROUP_BYTES as u64 / 2;
    let largest = open.broker.max_group_bytes + open.limits.max_batch_bytes;
    if largest > most {
        let problem =
            format!("with the largest batch that is {largest}; in a fleet {most} is the most");
        return Err(Error::invalid("broker.max_group_bytes", problem));
    }
    Ok(())
}

/// The work of a task of a node.
type NodeWork = StreamFuture<'static, ()>;

/// Opens a node whose tasks `spawn` begins.
async fn open_with(
    local: Arc<dyn Log>,
    engine: Arc<dyn FleetEngine>,
    config: NodeConfig,
    open: &OpenConfig,
    spawn: &(dyn Fn(NodeWork) -> JoinHandle<()> + Sync),
) -> Result<(Broker, FleetNode), NodeOpenError> {
    config.validate()?;
    check_groups(open)?;
    let NodeConfig { fleet, name, advertise, secret, ca_pem, lease, .. } = config;
    let NodeConfig { keep, max_members_elsewhere: max_members, .. } = config;
    let bytes_per_second = config.search_bytes_per_second;
    if secret.is_none() {
        tracing::warn!(
            "the fleet has no secret: whoever reaches its engine or its nodes may take part in it"
        );
    }
    let links = LinkConfig::new(secret.clone(), ca_pem, &advertise);
    let messages = SignedMessages::new(engine.clone(), &fleet, secret.clone());
    let stream: Arc<dyn Stream> = engine.clone();
    let clock: Arc<dyn SteadyClock> = Arc::new(RuntimeClock::default());
    let incarnation = rand::random();
    let node = FleetLeader { node: name, incarnation, address: advertise };
    let writing = WriterConfig::new(node.clone(), lease);
    let (writer, writer_task) = StreamWriter::new(stream.clone(), clock.clone(), writing);
    let mut tasks = vec![spawn(Box::pin(writer_task))];
    let applied = local.applied()?;
    let is_foreign = applied.is_none() && !local.topics()?.is_empty();
    let epoch = match applied {
        Some(applied) => applied.epoch,
        None if is_foreign => local.epoch(),
        None => {
            let pause = lease / 10;
            let epoch = fleet_epoch(local.epoch(), &*stream, &writer, &*clock, pause).await;
            epoch.map_err(|error| match error {
                StreamError::Trimmed { .. } => NodeOpenError::Trimmed(error),
                error => NodeOpenError::Broken(error),
            })?
        }
    };
    let log = Arc::new(ReplicatedLog::new(local, epoch, writer.clone(), clock.clone())?);
    let queue = ForwardQueue::default();
    let max_wait = lease * 10;
    let follower = FollowerConfig { elsewhere: Some(queue.clone()), max_wait };
    let broker = Broker::following(log.clone(), open, follower)?;
    let mut status = NodeStatus::default();
    if let Some(Applied { stream, term, .. }) = applied {
        status.move_to(StreamSequence::new(stream));
        status.term = term;
    }
    let (status, watched) = watch::channel(status);
    let status = Arc::new(status);
    let (upkeep, keeping) = NodeUpkeep::new(UpkeepParts {
        node: node.clone(),
        broker: broker.clone(),
        log: log.clone(),
        stream: stream.clone(),
        messages: Arc::new(messages.clone()),
        clock: clock.clone(),
        status: status.clone(),
        lease,
        keep,
        max_members,
    });
    tasks.push(spawn(Box::pin(async { match keeping.await {} })));
    let counts = SearchCounts::default();
    let searched = (bytes_per_second > 0).then(|| counts.clone());
    let search = DamageSearch {
        broker: broker.clone(),
        log: log.clone(),
        clock: clock.clone(),
        bytes_per_second,
        counts,
    };
    tasks.push(spawn(Box::pin(async { match search.run().await {} })));
    let (forwarder, forwarding) = Forwarder::new(ForwarderParts {
        queue,
        status: watched.clone(),
        incarnation,
        links: links.clone(),
        lease,
    });
    tasks.push(spawn(Box::pin(forwarder.run())));
    broker.ask_leader_with(leader_asker(watched.clone(), incarnation, links.clone(), lease * 2));
    let service =
        ForwardingService::new(broker.clone(), log.clone(), secret.clone(), &node.address);
    let joining =
        JoiningService::new(broker.clone(), log.clone(), watched.clone(), secret, &node.address);
    let (stopping, retiring) = <(CancellationToken, CancellationToken)>::default();
    let view = FleetView {
        fleet: fleet.into(),
        node: Arc::new(node.clone()),
        status: watched,
        forwarded: forwarding.counts.clone(),
        clock: clock.clone(),
        lease,
        retiring: retiring.clone(),
        peers: upkeep.peers.clone(),
        messages,
        relay: upkeep.relay.clone(),
        presence: upkeep.presence.clone(),
        links: links.clone(),
        searched,
    };
    let mut role_task = None;
    if is_foreign {
        tracing::error!(problem = FOREIGN_LOG, "this node takes no part in its fleet");
        status.send_modify(|status| {
            (status.role, status.problem) = (NodeRole::Stopped, Some(FOREIGN_LOG.to_owned()));
        });
    } else {
        let role = RoleTask::new(RoleParts {
            broker: Arc::new(ForwardingBroker {
                broker: broker.clone(),
                forwarding: forwarding.clone(),
            }),
            log: log.clone(),
            stream: stream.clone(),
            clock,
            writer: writer.clone(),
            status: status.clone(),
            stopping: stopping.clone(),
            retiring: retiring.clone(),
            node,
            lease,
            move_every: MOVE_EVERY,
            seed: rand::random(),
        });
        role_task = Some(spawn(Box::pin(async {
            let _told_by_the_status = role.run().await;
        })));
    }
    let node = FleetNode {
        broker: broker.clone(),
        log,
        stream,
        damage_note: None,
        status,
        writer,
        view,
        upkeep,
        stopping,
        forwarding,
        service,
        joining,
        role: role_task,
        tasks,
    };
    Ok((broker, node))
}

impl FleetNode {
    /// Returns how the node is; changes are told.
    pub fn status(&self) -> watch::Receiver<NodeStatus> {
        self.view.status.clone()
    }

    /// Has the node tell that its log is damaged, and which log was replaced before because of
    /// damage.
    pub(super) fn show_damage(&self, damage: Option<&str>, repaired: Option<RepairedLog>) {
        self.status.send_modify(|status| {
            if let Some(damage) = damage {
                status.damage = Some(damage.to_owned());
            }
            status.repaired = repaired;
        });
    }

    /// Returns the epoch of the fleet; `None` if the log is of no fleet.
    pub(super) fn fleet_epoch(&self) -> Option<Epoch> {
        let takes_part = self.view.status.borrow().role != NodeRole::Stopped;
        takes_part.then(|| self.log.epoch())
    }

    /// Returns the note, in the node's data directory, of the damage that is found.
    pub(super) fn damage_note(&self, directory: &Path) -> DamageNote {
        DamageNote { directory: directory.to_owned(), found: self.log.damage() }
    }

    /// Has the damage that is found noted, and keeps in mind where the node can be opened again.
    pub(super) fn make_repairable(&mut self, directory: &Path) {
        let note = self.damage_note(directory);
        self.tasks.push(tokio::spawn(note.clone().write_when_found()));
        self.damage_note = Some(note);
    }

    /// Waits until this node cannot go on as it is, and another node can help it: its log is
    /// damaged or takes nothing more, it does not fit the stream, or is behind the stream's limits.
    /// Then the node is to be closed and opened again ([`open_in`](super::open_in)), which repairs
    /// it. Returns why, for people.
    ///
    /// Each return is noted in the data directory. If a repair does not help, this waits for six
    /// hours until it returns again, also in the next process. For a node that was not opened with
    /// [`open_in`](super::open_in) it waits for ever.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped may have noted its return already.
    pub fn repairable(&self) -> impl Future<Output = String> + Send + 'static {
        let watch = self.damage_note.clone().map(|damage_note| RestartWatch {
            view: self.view(),
            stream: self.stream.clone(),
            status: self.status.clone(),
            damage_note,
        });
        async move {
            match watch {
                Some(watch) => watch.run().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Returns the node as it is shown, for a server.
    pub fn view(&self) -> FleetView {
        self.view.clone()
    }

    /// Returns the service by which other nodes load a backup of this one.
    pub fn joining_service(&self) -> JoiningService {
        self.joining.clone()
    }

    /// Returns what this node knows of the other ones.
    pub fn peers(&self) -> PeerWatch {
        self.upkeep.peers.clone()
    }

    /// Returns what the node serves for the others of its fleet.
    pub fn service(&self) -> ForwardingService {
        self.service.clone()
    }

    /// Closes the broker, as [`Broker::close`] does, and ends the node's part in the fleet. A
    /// leader says that it leads no longer. What was accepted is stored and answered first, by the
    /// next leader if there is one within the time of a lease; what is not answered by then is
    /// answered with an error. When this returns, the node appends nothing more to the stream, and
    /// its data directory is free.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the broker closes all the same, and the others may have to wait
    /// for the end of the lease.
    pub async fn close(mut self) {
        self.broker.drain();
        let answered = async {
            self.view.hand_over().await;
            let _has_failed = self.broker.flushed().await;
            self.forwarding.finish().await;
        };
        let _too_late = tokio::time::timeout(self.view.lease, answered).await;
        self.stopping.cancel();
        if let Some(role) = self.role.take() {
            let _panicked = role.await;
        }
        self.broker.close().await;
        self.writer.resign("it is closing".to_owned()).await;
    }
}

impl Drop for FleetNode {
    fn drop(&mut self) {
        self.role.iter().chain(&self.tasks).for_each(JoinHandle::abort);
    }
}
