//! What happens to a fleet, by chance.

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
}
