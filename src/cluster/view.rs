//! A node of a fleet, as those see it who tell others how it is.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::SteadyClock;
use super::ephemeral::{FleetRelay, RelayCounts};
use super::forwarding::{ForwardCounts, ask_node};
use super::links::LinkConfig;
use super::peers::{PeerReport, PeerStatus, PeerWatch};
use super::presence::PresenceCounts;
use super::record::FleetLeader;
use super::searching::{SearchCounts, SearchedLog};
use super::signed_messages::SignedMessages;
use super::status::{NodeRole, NodeStatus};

/// The least time for which a node that is behind may make no progress and be ready.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// What has become of the commands that a node has sent to leaders, since the node was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardedCommands {
    /// The commands that were answered.
    pub answered: u64,
    /// The time that these took together, in microseconds.
    pub answered_us: u64,
    /// The commands that were sent again after a leader was lost.
    pub repeated: u64,
    /// The commands whose callers were told that nobody knows what has become of them.
    pub unknown: u64,
}

/// A node of a fleet, as it is shown. Cheap to clone.
#[derive(Clone)]
pub struct FleetView {
    pub(super) fleet: Arc<str>,
    pub(super) node: Arc<FleetLeader>,
    pub(super) status: watch::Receiver<NodeStatus>,
    pub(super) forwarded: Arc<ForwardCounts>,
    pub(super) clock: Arc<dyn SteadyClock>,
    pub(super) lease: Duration,
    /// Cancelled when the node is to lead no longer.
    pub(super) retiring: CancellationToken,
    pub(super) peers: PeerWatch,
    pub(super) messages: SignedMessages,
    pub(super) relay: FleetRelay,
    pub(super) presence: PresenceCounts,
    pub(super) links: LinkConfig,
    /// `None` if the node does not search its log.
    pub(super) searched: Option<SearchCounts>,
}

impl fmt::Debug for FleetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetView").field("node", &self.node).finish_non_exhaustive()
    }
}

impl FleetView {
    /// Returns the name of the fleet; empty if the node was told none.
    pub fn fleet(&self) -> &str {
        &self.fleet
    }

    /// Returns the node itself: its name, and where others reach it.
    pub fn node(&self) -> &FleetLeader {
        &self.node
    }

    /// Whether the nodes of the fleet know each other by a secret.
    pub fn has_secret(&self) -> bool {
        self.links.secret.is_some()
    }

    /// Returns what the node knows of all nodes of its fleet, itself included.
    pub fn peers(&self) -> PeerReport {
        self.peers.report()
    }

    /// Returns how the node is now.
    pub fn status(&self) -> NodeStatus {
        self.status.borrow().clone()
    }

    /// Returns what has become of the commands that this node has sent to leaders.
    pub fn forwarded(&self) -> ForwardedCommands {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ForwardedCommands {
            answered: of(&self.forwarded.answered),
            answered_us: of(&self.forwarded.micros),
            repeated: of(&self.forwarded.repeated),
            unknown: of(&self.forwarded.unknown),
        }
    }

    /// Returns how many messages of others were refused, because they were not signed with the
    /// secret of this fleet, or were told again.
    pub(crate) fn refused_messages(&self) -> u64 {
        self.messages.refused()
    }

    /// Asks another node of the fleet, by its name, a question about itself. Waits for two leases
    /// to be connected, and as long for the answer.
    ///
    /// # Errors
    ///
    /// Why there is no answer, for people: the node is not known, or cannot be reached, or it
    /// refuses.
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed by a question.
    pub(crate) async fn ask(
        &self,
        node: &str,
        kind: &str,
        question: Bytes,
    ) -> Result<Bytes, String> {
        let nodes = self.peers().nodes;
        let known = nodes.iter().find(|seen| seen.is_live && seen.status.name == node);
        let address = known.map(|seen| &*seen.status.address);
        let address = address.ok_or_else(|| format!("no node {node:?} was heard lately"))?;
        ask_node(address, &self.links, self.lease * 2, kind, question).await
    }

    /// Returns the ephemeral events that went between this node and others since it was opened.
    pub fn relayed(&self) -> RelayCounts {
        self.relay.counts()
    }

    /// Returns the members that are present at other nodes, as this one shows them, and how often
    /// one was not shown, because there was no room.
    pub fn members_elsewhere(&self) -> (u64, u64) {
        (self.presence.elsewhere(), self.presence.cut())
    }

    /// Returns how far the node has searched its log for damage; `None` if it does not.
    pub fn searched(&self) -> Option<SearchedLog> {
        self.searched.as_ref().map(SearchCounts::searched)
    }

    /// Returns for how long the oldest record that the node has not applied has been in the stream,
    /// as far as the node knows: it asks the engine for the tail three times in a lease.
    pub fn lag(&self) -> Duration {
        self.status.borrow().lag.behind(self.clock.now())
    }

    /// Checks that the node is ready for clients: it has caught up with the stream once, and has
    /// applied all that is there, or goes on applying.
    ///
    /// A node that has caught up stays ready while the engine is away: it serves its readers. One
    /// whose log is damaged is not ready as long as a node takes part in the fleet whose log is
    /// not.
    ///
    /// # Errors
    ///
    /// Why it is not ready, for people.
    pub fn check_ready(&self) -> Result<(), String> {
        let patience = LEAST_PATIENCE.max(self.lease * 3);
        let (damage, kept) = {
            let status = self.status.borrow();
            status.check_ready(self.clock.now(), patience)?;
            (status.damage.clone(), status.restart_problem_in_words())
        };
        // The last node that serves is better than none.
        if let Some(damage) = damage.filter(|_| self.others_serve()) {
            let repair = match self.has_secret() {
                true => "its next start loads a backup of another node",
                false => "without fleet.secret no other node gives it a backup",
            };
            return Err(format!("this node's log is damaged: {damage}; {repair}{kept}"));
        }
        match self.retiring.is_cancelled() {
            true => Err("this node is leaving its fleet: it is being stopped".to_owned()),
            false => Ok(()),
        }
    }

    /// Whether another node takes part in the fleet, can be reached, and has no damage.
    pub(super) fn others_serve(&self) -> bool {
        self.peers.live_others().iter().any(PeerStatus::serves)
    }

    /// Lets the node lead no longer, and not again. A leader decides what was handed in so far, and
    /// says that it leads no longer; another node leads at once. The node follows on until it is
    /// closed, so that its readers miss nothing. Returns when the node does not lead.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the node hands over all the same.
    pub async fn hand_over(&self) {
        self.retiring.cancel();
        let mut status = self.status.clone();
        let _the_node_is_gone = status.wait_for(|status| status.role != NodeRole::Leading).await;
    }
}
