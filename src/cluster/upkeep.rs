//! What a node does besides its role: it tells the others how it is, hears how they are, trims the
//! stream while it leads, hands on ephemeral events, and tells and hears who is present. It learns
//! from the others who leads, if it has not read that.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::clock::SteadyClock;
use super::ephemeral::FleetRelay;
use super::messages::FleetMessages;
use super::peers::{OwnStatus, PeerStatus, PeerWatch, PeersTask, TellProblem};
use super::presence::{MembersTask, OwnMembers, PresenceCounts};
use super::record::FleetLeader;
use super::replicated_log::ReplicatedLog;
use super::status::{NodeRole, NodeStatus};
use super::stream::Stream;
use super::trimming::Trimmer;
use crate::broker::Broker;

/// What the upkeep of a node needs.
pub(super) struct UpkeepParts {
    pub(super) node: FleetLeader,
    pub(super) broker: Broker,
    pub(super) log: Arc<ReplicatedLog>,
    pub(super) stream: Arc<dyn Stream>,
    pub(super) messages: Arc<dyn FleetMessages>,
    pub(super) clock: Arc<dyn SteadyClock>,
    pub(super) status: Arc<watch::Sender<NodeStatus>>,
    pub(super) lease: Duration,
    /// The least time for which the stream keeps a record.
    pub(super) keep: Duration,
    /// The most members of other nodes that are shown.
    pub(super) max_members: usize,
}

/// What others see of the upkeep of a node.
#[derive(Debug, Clone)]
pub(super) struct NodeUpkeep {
    pub(super) peers: PeerWatch,
    pub(super) relay: FleetRelay,
    pub(super) presence: PresenceCounts,
}

impl NodeUpkeep {
    /// Returns the upkeep of a node, and its task, which never ends by itself.
    pub(super) fn new(
        parts: UpkeepParts,
    ) -> (Self, impl Future<Output = Infallible> + Send + 'static) {
        let UpkeepParts { node, broker, log, stream, messages, clock, status, .. } = parts;
        let UpkeepParts { lease, keep, max_members, .. } = parts;
        let damaged = show_found_damage(status.clone(), log.damage());
        let peers = PeerWatch::new(own_status(&node, &status, log), lease, clock.clone());
        let relay = FleetRelay::new(messages.clone(), node.incarnation);
        broker.relay_ephemeral(Box::new(relay.clone()));
        let (own, presence) = (OwnMembers::default(), PresenceCounts::default());
        broker.relay_members(Box::new(own.clone()));
        let members = MembersTask {
            incarnation: node.incarnation,
            broker: broker.clone(),
            own,
            messages: messages.clone(),
            clock: clock.clone(),
            lease,
            max_members,
            counts: presence.clone(),
        };
        let telling = PeersTask {
            messages,
            watch: peers.clone(),
            tell_problem: tell_problem(status.clone()),
            seed: rand::random(),
        };
        let learning = learn_leader(status, peers.clone(), clock.clone(), lease / 10);
        let trimmer = Trimmer::new(stream, clock, peers.clone(), lease, keep);
        let relaying = relay.clone().run(broker, lease);
        let task = async {
            let (told, trimmed) = (telling.run(), trimmer.run());
            let (never, ..) =
                tokio::join!(told, trimmed, relaying, members.run(), learning, damaged);
            match never {}
        };
        (Self { peers, relay, presence }, task)
    }
}

/// Returns what tells how a node is.
fn own_status(
    node: &FleetLeader,
    status: &watch::Sender<NodeStatus>,
    log: Arc<ReplicatedLog>,
) -> OwnStatus {
    let (program, status) = (PeerStatus::of_program(node), status.subscribe());
    Arc::new(move || {
        let synced = log.synced().map_or(0, |synced| synced.stream);
        program.clone().with(&status.borrow(), synced)
    })
}

/// Writes the first damage that is found into a node's status.
async fn show_found_damage(
    status: Arc<watch::Sender<NodeStatus>>,
    mut found: watch::Receiver<Option<String>>,
) {
    let Ok(damage) = found.wait_for(Option::is_some).await.map(|damage| damage.clone()) else {
        return;
    };
    tracing::error!(
        damage,
        "this node's log is damaged; if the fleet has a secret, it ends when another node can give \
         a backup, and its next start loads one"
    );
    status.send_modify(|status| {
        status.damage.get_or_insert(damage.unwrap_or_default());
    });
}

/// Writes into a node's status who leads, for a node that was opened in the middle of a term: it
/// does not read the announcement again, which may be trimmed.
async fn learn_leader(
    status: Arc<watch::Sender<NodeStatus>>,
    peers: PeerWatch,
    clock: Arc<dyn SteadyClock>,
    every: Duration,
) -> Infallible {
    loop {
        clock.sleep_until(clock.now() + every).await;
        let misses = |status: &NodeStatus| {
            let is_led = status.leader.is_some() || status.resigned == status.term;
            status.role == NodeRole::Following && !is_led
        };
        let missing = Some(status.borrow()).filter(|status| misses(status)).map(|it| it.term);
        let Some(term) = missing else { continue };
        let Some(leader) = peers.leader_in(term) else { continue };
        status.send_if_modified(|status| {
            let is_news = misses(status) && status.term == term;
            if is_news {
                status.leader = Some(leader);
            }
            is_news
        });
    }
}

/// Returns what writes a problem with the other nodes into a node's status.
fn tell_problem(status: Arc<watch::Sender<NodeStatus>>) -> TellProblem {
    Box::new(move |problem| {
        let is_among_strangers = problem.as_ref().is_some_and(|it| it.is_among_strangers);
        let problem = problem.map(|problem| problem.text);
        status.send_if_modified(|status| {
            let is_new = status.peers_problem != problem;
            if is_new {
                status.is_among_strangers = is_among_strangers;
                if let Some(problem) = &problem {
                    tracing::warn!(problem, "a problem with the nodes of the fleet");
                }
                status.peers_problem = problem;
            }
            is_new
        });
    })
}
