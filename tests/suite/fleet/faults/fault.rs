//! What happens to a fleet, by chance: one fault, or a second one while the first is in effect.
//!
//! Nearly any two faults may be in effect at once. No fault takes the disk of a server: of a stream
//! of which two of three copies are gone nobody has promised anything. As it is, whatever dies or
//! is parted, what was acknowledged is on the disks of two servers, and any two that come back have
//! it; a node that is wiped gets it from there. Left out are the pairs whose second fault would
//! befall nobody: a signal to nodes while none runs, or to servers while none does.

use rand::RngExt;
use rand::rngs::StdRng;

/// What happens to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FleetFault {
    KillLeader,
    KillFollower,
    /// The leader stands still for longer than its lease, and then goes on.
    PauseLeader,
    PauseFollower,
    CloseLeader,
    WipeFollower,
    KillAllNodes,
    /// The disk of a node is nearly full for a while, so that the node stores nothing more.
    FillDisk,
    /// The same to the last byte.
    FillDiskWholly,
    /// The clock of a node is an hour ahead or behind, or right again.
    ShiftClock,
    /// Two nodes do not reach each other.
    PartNodes,
    /// A node does not reach one server.
    PartNodeFromServer,
    /// The leader reaches no server.
    PartLeaderFromEngine,
    /// A follower reaches no server.
    PartFollowerFromEngine,
    KillServer,
    PauseServer,
    RestartEngine,
    KillEverything,
    /// Two servers do not reach each other.
    PartServers,
    /// A server reaches no other one; its clients reach it.
    PartServerFromServers,
    /// A node and a server reach each other and nobody else.
    PartMachine,
}

const OF_NODES: [FleetFault; 14] = [
    FleetFault::KillLeader,
    FleetFault::KillFollower,
    FleetFault::PauseLeader,
    FleetFault::PauseFollower,
    FleetFault::CloseLeader,
    FleetFault::WipeFollower,
    FleetFault::KillAllNodes,
    FleetFault::FillDisk,
    FleetFault::FillDiskWholly,
    FleetFault::ShiftClock,
    FleetFault::PartNodes,
    FleetFault::PartNodeFromServer,
    FleetFault::PartLeaderFromEngine,
    FleetFault::PartFollowerFromEngine,
];

const OF_SERVERS: [FleetFault; 7] = [
    FleetFault::KillServer,
    FleetFault::PauseServer,
    FleetFault::RestartEngine,
    FleetFault::KillEverything,
    FleetFault::PartServers,
    FleetFault::PartServerFromServers,
    FleetFault::PartMachine,
];

impl FleetFault {
    /// Returns a fault by chance.
    pub(super) fn choose(random: &mut StdRng, spares_nats: bool) -> Self {
        let of_server = !spares_nats && random.random_range(0..3) == 0;
        let faults = if of_server { &OF_SERVERS[..] } else { &OF_NODES[..] };
        faults[random.random_range(0..faults.len())]
    }

    /// Returns a fault by chance that may begin while this one is in effect.
    pub(super) fn choose_beside(self, random: &mut StdRng, spares_nats: bool) -> Self {
        loop {
            let second = Self::choose(random, spares_nats);
            let befalls_nobody = (self.ends_nodes() && second.signals_nodes())
                || (self.ends_servers() && second.signals_servers());
            if !befalls_nobody {
                return second;
            }
        }
    }

    /// Returns how long the fault is in effect at most, in leases. A link may be open again before
    /// its connections have noticed that it was not, so partings last longer.
    pub(super) fn longest_leases(self) -> u64 {
        match self {
            Self::PartNodes
            | Self::PartNodeFromServer
            | Self::PartLeaderFromEngine
            | Self::PartFollowerFromEngine
            | Self::PartServers
            | Self::PartServerFromServers
            | Self::PartMachine => 8,
            Self::KillEverything => 1,
            _ => 4,
        }
    }

    /// Whether no node runs while the fault is in effect.
    fn ends_nodes(self) -> bool {
        matches!(self, Self::KillAllNodes | Self::KillEverything)
    }

    /// Whether no server runs while the fault is in effect.
    fn ends_servers(self) -> bool {
        matches!(self, Self::RestartEngine | Self::KillEverything)
    }

    /// Whether the fault does nothing but to end nodes, or to make them stand still.
    fn signals_nodes(self) -> bool {
        matches!(
            self,
            Self::KillLeader
                | Self::KillFollower
                | Self::PauseLeader
                | Self::PauseFollower
                | Self::CloseLeader
                | Self::KillAllNodes
        )
    }

    /// Whether the fault does nothing but to end servers, or to make them stand still.
    fn signals_servers(self) -> bool {
        matches!(self, Self::KillServer | Self::PauseServer | Self::RestartEngine)
    }
}
