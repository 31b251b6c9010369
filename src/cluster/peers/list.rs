//! The nodes of a fleet as one of them knows them: how each says that it is, and when it was heard.
//!
//! Each node tells the others about once a second how it is (`telling.rs`). A node that is not
//! heard for [`SILENT_LEASES`] leases is not live; its last words are kept while there is room.
//!
//! # Why
//!
//! Nothing that decides about events depends on this list: messages may be lost, and a node that is
//! not heard may be well. The list is for people, for choosing a peer to load a backup from, and
//! for trimming the stream, which asks [`Peers::live_synced`]. That tells nothing before the node
//! has heard the others for as long as a silence may last: so a node that has just begun to listen
//! does not take those that it has not heard yet for absent.
//!
//! Two processes may run under one name, with the same settings on two machines for example. After
//! a restart the former process is never heard again. So a former one that is heard well after the
//! later one was first heard still runs, and then both tell it as a problem.
//!
//! A node whose secret is another one than that of the others would have nobody whom it leads: they
//! refuse its calls, and it refuses theirs. So who hears strangers and nobody else does not begin
//! to lead. Where only two nodes are left and their secrets differ, none of them does; both say so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::clock::SteadyClock;
use super::super::record::FleetLeader;
use super::super::status::NodeRole;
use super::peer_status::{PeerReport, PeerStatus, SeenPeer};

/// The leases after which a node that is not heard is not live.
pub const SILENT_LEASES: u32 = 10;

/// The most nodes that are listed.
pub const MAX_PEERS: usize = 64;

/// The time between two messages of a node, if that is no more than a third of the lease.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The messages of its own that a node may miss in a row until it says that messages do not pass.
const MAX_MISSED: u32 = 5;

/// Returns how this node is.
pub(in crate::cluster) type OwnStatus = Arc<dyn Fn() -> PeerStatus + Send + Sync>;

/// A process: the name of its node, and the number that it has drawn.
type PeerKey = (String, u64);

/// The nodes that were heard. Times are those of a steady clock.
#[derive(Debug)]
pub(in crate::cluster) struct Peers {
    own: PeerKey,
    /// The time between two messages of a node.
    pub(super) period: Duration,
    /// The silence after which a node is not live.
    silence: Duration,
    heard: BTreeMap<PeerKey, HeardPeer>,
    /// The last time at which a node was heard that is not listed, for lack of room.
    left_out: Option<Duration>,
    /// The time since when this node hears itself, and the last time at which it did.
    passing: Option<(Duration, Duration)>,
    /// The last time at which a node was heard that does not have this node's secret, and what was
    /// wrong with its message.
    stranger: Option<(Duration, &'static str)>,
}

/// What is wrong with the nodes as one of them hears them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cluster) struct PeersProblem {
    /// For people.
    pub(in crate::cluster) text: String,
    /// Whether this node hears strangers and no other node: it does not begin to lead.
    pub(in crate::cluster) is_among_strangers: bool,
}

#[derive(Debug)]
struct HeardPeer {
    status: PeerStatus,
    first: Duration,
    last: Duration,
}

impl Peers {
    /// Returns an empty list of this node, in a fleet with this lease.
    pub(in crate::cluster) fn new(name: &str, incarnation: u64, lease: Duration) -> Self {
        Self {
            own: (name.to_owned(), incarnation),
            period: TELL_EVERY.min(lease / 3),
            silence: lease * SILENT_LEASES,
            heard: BTreeMap::new(),
            left_out: None,
            passing: None,
            stranger: None,
        }
    }

    /// Takes what a node has said.
    pub(super) fn hear(&mut self, status: PeerStatus, now: Duration) {
        let key = (status.name.clone(), status.incarnation);
        if key == self.own {
            let since = self.passing.filter(|_| self.passes(now)).map_or(now, |(since, _)| since);
            self.passing = Some((since, now));
            if !self.hears_strangers(now) {
                self.stranger = None;
            }
        }
        if let Some(heard) = self.heard.get_mut(&key) {
            (heard.status, heard.last) = (status, now);
            return;
        }
        if self.heard.len() >= MAX_PEERS && !self.make_room(now) {
            self.left_out = Some(now);
            return;
        }
        self.heard.insert(key, HeardPeer { status, first: now, last: now });
    }

    /// Notes that a message came that is not signed with the secret of this node.
    pub(super) fn hear_stranger(&mut self, problem: &'static str, now: Duration) {
        self.stranger = Some((now, problem));
    }

    /// Returns what is wrong with the messages of strangers, if nobody else is heard.
    fn is_among_strangers(&self, now: Duration) -> Option<&'static str> {
        let (_, problem) = self.stranger?;
        (self.hears_strangers(now) && self.live_others(now).is_empty()).then_some(problem)
    }

    /// Whether strangers were heard lately. If messages did not pass for a while, those that were
    /// there before count until they had time to be heard again.
    fn hears_strangers(&self, now: Duration) -> bool {
        let Some((heard, _)) = self.stranger else { return false };
        let (since, _) = self.passing.unwrap_or_default();
        !self.passes(now) || now <= heard.max(since) + self.period * MAX_MISSED
    }

    /// Forgets the node that has been silent longest, if it is not live.
    fn make_room(&mut self, now: Duration) -> bool {
        let silent = self.heard.iter().min_by_key(|(_, heard)| heard.last);
        let silent = silent.filter(|(_, heard)| !self.is_recent(heard.last, now));
        let Some(key) = silent.map(|(key, _)| key.clone()) else { return false };
        self.heard.remove(&key).is_some()
    }

    fn is_recent(&self, last: Duration, now: Duration) -> bool {
        now.saturating_sub(last) < self.silence
    }

    /// Whether this node hears what it tells.
    fn passes(&self, now: Duration) -> bool {
        self.passing.is_some_and(|(_, last)| now <= last + self.period * MAX_MISSED)
    }

    /// Returns the processes of this name that began later.
    fn later<'a>(&'a self, heard: &'a HeardPeer) -> impl Iterator<Item = &'a HeardPeer> {
        let same = (heard.status.name.clone(), 0)..=(heard.status.name.clone(), u64::MAX);
        self.heard.range(same).map(|(_, other)| other).filter(|other| other.first > heard.first)
    }

    /// Whether a process is heard well after `later`, which has the same name, began.
    fn outlives(&self, heard: &HeardPeer, later: &HeardPeer) -> bool {
        heard.last > later.first + self.period * 2
    }

    /// Whether the node was heard lately, and no later process has taken its name.
    fn is_live(&self, heard: &HeardPeer, now: Duration) -> bool {
        self.is_recent(heard.last, now)
            && self.later(heard).all(|later| self.outlives(heard, later))
    }

    /// Returns all other nodes that are live, as they said that they are.
    pub(super) fn live_others(&self, now: Duration) -> Vec<PeerStatus> {
        let live =
            |(key, heard): &(&PeerKey, &HeardPeer)| **key != self.own && self.is_live(heard, now);
        self.heard.iter().filter(live).map(|(_, heard)| heard.status.clone()).collect()
    }

    /// Returns the other node that has said of itself, a moment ago, that it leads in this term.
    pub(super) fn leader_in(&self, term: u64, now: Duration) -> Option<FleetLeader> {
        let leads = |(key, heard): &(&PeerKey, &HeardPeer)| {
            let status = &heard.status;
            let says_so = status.role == NodeRole::Leading && status.term == term;
            says_so && **key != self.own && now <= heard.last + self.period * 2
        };
        let (_, heard) = self.heard.iter().find(leads)?;
        let PeerStatus { name, incarnation, address, .. } = heard.status.clone();
        Some(FleetLeader { node: name, incarnation, address })
    }

    /// Returns the least place in the stream that all other live nodes have synced; the largest
    /// number if none needs the stream. `None` if there may be nodes that this one does not know.
    pub(in crate::cluster) fn live_synced(&self, now: Duration) -> Option<u64> {
        let (since, _) = self.passing.filter(|_| self.passes(now))?;
        let knows_all = !self.is_recent(since, now)
            && self.left_out.is_none_or(|left_out| !self.is_recent(left_out, now));
        let others = self.live_others(now);
        let least = others.iter().filter_map(|status| status.synced).min().unwrap_or(u64::MAX);
        knows_all.then_some(least)
    }

    /// Returns what is wrong; `None` if nothing is. `began` is the time at which this node began to
    /// tell.
    pub(super) fn problem(&self, began: Duration, now: Duration) -> Option<PeersProblem> {
        let of_strangers = self.is_among_strangers(now).map(|problem| {
            format!(
                "no other node is heard, but messages that are {problem} A node that hears no \
                 others does not begin to lead"
            )
        });
        let is_among_strangers = of_strangers.is_some();
        let text = of_strangers.or_else(|| self.other_problem(began, now))?;
        Some(PeersProblem { text, is_among_strangers })
    }

    fn other_problem(&self, began: Duration, now: Duration) -> Option<String> {
        let twins = self.heard.values().find_map(|heard| {
            let is_live = |heard: &HeardPeer| self.is_recent(heard.last, now);
            let mut later = self.later(heard).filter(|later| is_live(later));
            let later = later.find(|later| self.outlives(heard, later))?;
            is_live(heard).then_some((heard, later))
        });
        if let Some((one, other)) = twins {
            let at = |heard: &HeardPeer| {
                let PeerStatus { address, incarnation, .. } = &heard.status;
                format!("{address:?} (incarnation {incarnation:016x})")
            };
            return Some(format!(
                "two processes run under the name {:?}: at {} and at {}; give each node a name of \
                 its own",
                one.status.name,
                at(one),
                at(other)
            ));
        }
        if !self.passes(now) && now > began + self.period * MAX_MISSED {
            return Some(
                "messages between nodes do not pass: not even this node hears itself; see that \
                 the account in NATS may publish and subscribe to leftoff.fleet.NAME.>, where NAME \
                 is fleet.name"
                    .to_owned(),
            );
        }
        self.left_out.filter(|left_out| self.is_recent(*left_out, now)).map(|_| {
            format!("the fleet has more than {MAX_PEERS} nodes: the others are not listed")
        })
    }

    /// Returns what is known of all nodes. This node is as it says itself. A process that is not
    /// live is left out if a later one had its name.
    pub(super) fn report(&self, own: PeerStatus, now: Duration) -> PeerReport {
        let is_listed =
            |heard: &HeardPeer| self.is_live(heard, now) || self.later(heard).next().is_none();
        let others = self.heard.iter().filter(|(key, _)| **key != self.own);
        let others = others.filter(|(_, heard)| is_listed(heard)).map(|(_, heard)| {
            let silent = now.saturating_sub(heard.last);
            SeenPeer {
                status: heard.status.clone(),
                is_self: false,
                is_live: self.is_live(heard, now),
                heard_ms_ago: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
            }
        });
        let own = SeenPeer { status: own, is_self: true, is_live: true, heard_ms_ago: 0 };
        let mut nodes: Vec<SeenPeer> = others.chain([own]).collect();
        nodes.sort_by(|a, b| a.status.name.cmp(&b.status.name));
        let is_cut_off = self.left_out.is_some_and(|left_out| self.is_recent(left_out, now));
        PeerReport { nodes, is_cut_off }
    }
}

/// The nodes of a fleet, as a node knows them. Cheap to clone.
#[derive(Clone)]
pub struct PeerWatch {
    peers: Arc<Mutex<Peers>>,
    own: OwnStatus,
    pub(super) clock: Arc<dyn SteadyClock>,
}

impl PeerWatch {
    /// Returns an empty list of a node that says of itself what `own` does.
    pub(in crate::cluster) fn new(
        own: OwnStatus,
        lease: Duration,
        clock: Arc<dyn SteadyClock>,
    ) -> Self {
        let PeerStatus { name, incarnation, .. } = own();
        let peers = Arc::new(Mutex::new(Peers::new(&name, incarnation, lease)));
        Self { peers, own, clock }
    }

    /// Returns what is known of all nodes at this moment, this one included.
    pub fn report(&self) -> PeerReport {
        let own = (self.own)();
        self.peers().report(own, self.clock.now())
    }

    /// Returns how this node is.
    pub(in crate::cluster) fn own(&self) -> PeerStatus {
        (self.own)()
    }

    /// Returns the list, for a moment.
    pub(in crate::cluster) fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all other nodes that are live, as they said that they are.
    pub(in crate::cluster) fn live_others(&self) -> Vec<PeerStatus> {
        self.peers().live_others(self.clock.now())
    }

    /// As [`Peers::leader_in`] at this moment.
    pub(in crate::cluster) fn leader_in(&self, term: u64) -> Option<FleetLeader> {
        self.peers().leader_in(term, self.clock.now())
    }

    /// Returns the time in which all live nodes are heard, if no message is lost.
    pub(in crate::cluster) fn hearing_time(&self) -> Duration {
        self.peers().period * 2
    }

    /// As [`Peers::live_synced`] at this moment.
    pub(in crate::cluster) fn live_synced(&self) -> Option<u64> {
        self.peers().live_synced(self.clock.now())
    }
}

impl std::fmt::Debug for PeerWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerWatch").field("peers", &self.peers()).finish_non_exhaustive()
    }
}
