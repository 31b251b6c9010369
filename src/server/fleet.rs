//! A node of a fleet, as the edges show it.

use std::pin::Pin;

use crate::cluster::{FleetLeader, FleetView, ForwardedCommands, NodeRole};
use crate::edge::fleet::{FleetState, NodeOfFleet, ShownForwards, ShownNode, ShownRole};

impl NodeOfFleet for FleetView {
    fn state(&self) -> FleetState {
        let status = self.status();
        let ForwardedCommands { answered, answered_us, repeated, unknown } = self.forwarded();
        FleetState {
            fleet: self.fleet().to_owned(),
            node: shown(self.node()),
            role: match status.role {
                NodeRole::Leading => ShownRole::Leading,
                NodeRole::Following | NodeRole::Joining => ShownRole::Following,
                NodeRole::Stopped => ShownRole::Stopped,
            },
            term: status.term,
            leader: status.leader.as_ref().map(shown),
            read_record: status.read.get(),
            applied_record: status.reached.get(),
            last_record: status.tail.max(status.read).get(),
            lag_records: status.lag_records(),
            lag_ms: u64::try_from(self.lag().as_millis()).unwrap_or(u64::MAX),
            announcements: status.announcements,
            terms: status.terms,
            forwarded: ShownForwards { answered, answered_us, repeated, unknown },
            problem: status.problem.or(status.peers_problem),
            engine_problem: status.engine_problem,
        }
    }

    fn check_ready(&self) -> Result<(), String> {
        FleetView::check_ready(self)
    }

    fn hand_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(FleetView::hand_over(self))
    }
}

fn shown(leader: &FleetLeader) -> ShownNode {
    ShownNode { node: leader.node.clone(), address: leader.address.clone() }
}
