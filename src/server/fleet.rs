//! A node of a fleet, as the edges show it.

use std::pin::Pin;

use bytes::Bytes;

use crate::cluster::{
    FleetLeader, FleetView, ForwardedCommands, NodeRole, RelayCounts, RepairedLog, SearchedLog,
    SeenPeer,
};
use crate::edge::fleet::{
    FleetState, NodeOfFleet, ShownForwards, ShownNode, ShownPeer, ShownRelays, ShownRepair,
    ShownRole, ShownSearch,
};

impl NodeOfFleet for FleetView {
    fn state(&self) -> FleetState {
        let status = self.status();
        let peers = self.peers();
        let ForwardedCommands { answered, answered_us, repeated, unknown } = self.forwarded();
        let RelayCounts { told, not_told, heard, lost } = self.relayed();
        let (members_elsewhere, members_cut) = self.members_elsewhere();
        FleetState {
            fleet: self.fleet().to_owned(),
            node: shown(self.node()),
            role: role(status.role),
            term: status.term,
            leader: status.leader.as_ref().map(shown),
            read_record: status.read.get(),
            applied_record: status.reached.get(),
            last_record: status.tail.max(status.read).get(),
            lag_records: status.lag_records(),
            lag_ms: u64::try_from(self.lag().as_millis()).unwrap_or(u64::MAX),
            announcements: status.announcements,
            terms: status.terms,
            nodes: peers.nodes.iter().map(peer).collect(),
            has_more_nodes: peers.is_cut_off,
            forwarded: ShownForwards { answered, answered_us, repeated, unknown },
            refused_messages: self.refused_messages(),
            relayed: ShownRelays { told, not_told, heard, lost },
            members_elsewhere,
            members_cut,
            problem: status.problem.or(status.peers_problem),
            engine_problem: status.engine_problem,
            damage: status.damage,
            repaired: status.repaired.map(repair),
            searched: self.searched().map(search),
            joining: None,
        }
    }

    fn check_ready(&self) -> Result<(), String> {
        FleetView::check_ready(self)
    }

    fn name(&self) -> &str {
        &self.node().node
    }

    fn has_secret(&self) -> bool {
        FleetView::has_secret(self)
    }

    fn ask<'a>(
        &'a self,
        node: &'a str,
        kind: &'a str,
        question: Bytes,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send + 'a>> {
        Box::pin(FleetView::ask(self, node, kind, question))
    }

    fn hand_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(FleetView::hand_over(self))
    }
}

fn repair(repaired: RepairedLog) -> ShownRepair {
    let RepairedLog { at_ms, why, from, kept_in, kept_bytes } = repaired;
    ShownRepair { at_ms, why, from, kept_in: kept_in.display().to_string(), kept_bytes }
}

fn search(searched: SearchedLog) -> ShownSearch {
    let SearchedLog { passes, last_at_ms, read_bytes } = searched;
    ShownSearch { passes, last_at_ms, read_bytes }
}

fn role(role: NodeRole) -> ShownRole {
    match role {
        NodeRole::Leading => ShownRole::Leading,
        NodeRole::Following => ShownRole::Following,
        NodeRole::Joining => ShownRole::Joining,
        NodeRole::Stopped => ShownRole::Stopped,
        NodeRole::Unknown => ShownRole::Unknown,
    }
}

fn peer(seen: &SeenPeer) -> ShownPeer {
    let SeenPeer { status, is_self, is_live, heard_ms_ago } = seen;
    ShownPeer {
        node: ShownNode { node: status.name.clone(), address: status.address.clone() },
        version: status.version.clone(),
        role: role(status.role),
        term: status.term,
        applied_record: status.applied,
        lag_records: status.lag,
        is_self: *is_self,
        is_live: *is_live,
        heard_ms_ago: *heard_ms_ago,
        problem: status.problem.clone(),
    }
}

fn shown(leader: &FleetLeader) -> ShownNode {
    ShownNode { node: leader.node.clone(), address: leader.address.clone() }
}
