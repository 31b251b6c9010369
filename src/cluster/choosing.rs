//! Which other nodes can help one that cannot go on as it is, and which of them is asked.
//!
//! | what is needed | the rule |
//! |---|---|
//! | somebody who serves meanwhile | [`PeerStatus::serves`] |
//! | a backup | [`PeerStatus::can_give`]; [`choose`] says who is asked |

use std::collections::BTreeMap;

use super::peers::PeerStatus;
use super::status::NodeRole;
use super::stream::StreamSequence;

/// How often a process failed to give its backup, by its incarnation.
pub(super) type Failures = BTreeMap<u64, u32>;

impl PeerStatus {
    /// Whether clients and other nodes can turn to the node: it takes part in the fleet, can be
    /// reached, and has no damage.
    pub(super) fn serves(&self) -> bool {
        let takes_part = matches!(self.role, NodeRole::Following | NodeRole::Leading);
        takes_part && !self.address.is_empty() && !self.damaged
    }

    /// Whether the node can give a backup to the node `own`: it serves, writes nothing that the
    /// other one's version cannot read, and has applied all records before `next`.
    fn can_give(&self, own: &PeerStatus, next: StreamSequence) -> bool {
        self.serves()
            && self.record_form <= own.record_form
            && self.group_form <= own.group_form
            && self.applied.saturating_add(1) >= next.get()
    }
}

/// Returns the peer whose backup the node `own` is to load; `None` if none can give one. A peer
/// that has failed less often comes first, then the one that has applied most.
///
/// `next` is the first record that need not be in the backup: the first one that the stream still
/// has, or a later one.
pub(super) fn choose<'a>(
    live: &'a [PeerStatus],
    own: &PeerStatus,
    failures: &Failures,
    next: StreamSequence,
) -> Option<&'a PeerStatus> {
    let failed = |peer: &PeerStatus| failures.get(&peer.incarnation).copied().unwrap_or(0);
    let order = |peer: &&PeerStatus| (failed(peer), std::cmp::Reverse(peer.applied));
    live.iter().filter(|peer| peer.can_give(own, next)).min_by_key(order)
}

#[cfg(test)]
mod tests {
    use super::super::record::FleetLeader;
    use super::*;

    fn peer(name: &str, incarnation: u64, applied: u64) -> PeerStatus {
        let (node, address) = (name.to_owned(), format!("http://{name}"));
        let known = PeerStatus::of_program(&FleetLeader { node, incarnation, address });
        PeerStatus { applied, ..known }
    }

    #[test]
    fn the_peer_that_has_most_and_failed_least_is_asked() {
        let own = peer("n0", 9, 0);
        let first = StreamSequence::new(5);
        let live = [peer("n1", 1, 10), peer("n2", 2, 30), peer("n3", 3, 20)];
        let mut failures = Failures::new();
        for expected in ["n2", "n3", "n1", "n2"] {
            let chosen = choose(&live, &own, &failures, first).unwrap();
            assert_eq!(chosen.name, expected);
            *failures.entry(chosen.incarnation).or_default() += 1;
        }
    }

    #[test]
    fn a_peer_that_cannot_help_is_not_asked() {
        let own = peer("n0", 9, 0);
        let good = peer("n1", 1, 10);
        let newer = |form: u8| form + 1;
        let cases = [
            PeerStatus { role: NodeRole::Joining, ..good.clone() },
            PeerStatus { role: NodeRole::Stopped, ..good.clone() },
            PeerStatus { address: String::new(), ..good.clone() },
            PeerStatus { record_form: newer(own.record_form), ..good.clone() },
            PeerStatus { group_form: newer(own.group_form), ..good.clone() },
            PeerStatus { applied: 3, ..good.clone() },
            PeerStatus { damaged: true, ..good.clone() },
        ];
        let (failures, first) = (Failures::new(), StreamSequence::new(5));
        assert_eq!(choose(&cases, &own, &failures, first), None);
        let leads = [PeerStatus { role: NodeRole::Leading, applied: 4, ..good }];
        assert_eq!(choose(&leads, &own, &failures, first), Some(&leads[0]));
    }
}
