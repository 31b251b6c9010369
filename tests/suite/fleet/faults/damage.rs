//! What a fault breaks when it begins, and how it is mended: of two faults at once, each mends what
//! it has broken itself.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tempfile::NamedTempFile;
use tokio::time::Instant;

use super::broken_fleet::{BrokenFleet, LEASE_MS};
use super::fault::FleetFault;
use super::network::{Member, Obstacle, Parting};

/// A fault that is in effect.
pub(super) struct BegunFault {
    /// When it is to be mended.
    pub(super) until: Instant,
    damage: Damage,
}

/// What is broken.
enum Damage {
    /// Members do not run.
    Ended(Vec<Member>),
    /// The process of a node is about to end.
    Closing {
        node: usize,
        process: Option<u32>,
    },
    /// A member stands still.
    Paused(Member),
    /// A file fills a disk.
    Full(Option<NamedTempFile>),
    Parted(Parting),
    /// Nothing that would be mended: a clock stays wrong.
    Lasting,
}

/// Those whom a fault can befall.
struct Victims {
    leader: usize,
    follower: usize,
    node: usize,
    server: usize,
}

impl BegunFault {
    /// Returns whether a member does not run, or stands still.
    fn has_hit(&self, member: Member) -> bool {
        match &self.damage {
            Damage::Ended(members) => members.contains(&member),
            Damage::Closing { node, .. } => Member::Node(*node) == member,
            Damage::Paused(paused) => *paused == member,
            Damage::Full(_) | Damage::Parted(_) | Damage::Lasting => false,
        }
    }
}

impl Victims {
    /// Chooses members by chance, and if possible none that another fault has hit.
    async fn choose(fleet: &BrokenFleet, beside: Option<&BegunFault>, random: &mut StdRng) -> Self {
        let leader = match beside {
            // A fleet that is whole has a leader soon.
            None => Some(fleet.leader().await),
            Some(_) => fleet.leader_now().await,
        };
        let is_hit = |member| beside.is_some_and(|other| other.has_hit(member));
        let mut any = |member: fn(usize) -> Member, not: Option<usize>| {
            let others: Vec<usize> = (0..3).filter(|number| Some(*number) != not).collect();
            let spared = others.iter().copied().filter(|number| !is_hit(member(*number)));
            let spared: Vec<usize> = spared.collect();
            let from = if spared.is_empty() { &others } else { &spared };
            from[random.random_range(0..from.len())]
        };
        let leader = leader.unwrap_or_else(|| any(Member::Node, None));
        let follower = any(Member::Node, Some(leader));
        let (node, server) = (any(Member::Node, None), any(Member::Server, None));
        Self { leader, follower, node, server }
    }
}

impl BrokenFleet {
    /// Begins a fault, beside another one that may be in effect.
    pub(super) async fn begin(
        &mut self,
        fault: FleetFault,
        beside: Option<&BegunFault>,
        random: &mut StdRng,
    ) -> BegunFault {
        let victims = Victims::choose(self, beside, random).await;
        let lasts_ms = random.random_range(0..fault.longest_leases() * LEASE_MS);
        let lasts = Duration::from_millis(lasts_ms);
        let with = if beside.is_some() { "with " } else { "" };
        eprintln!("   {with}{fault:?} for {lasts:.1?}");
        let damage = self.damage(fault, &victims, random);
        BegunFault { until: Instant::now() + lasts, damage }
    }

    fn damage(&mut self, fault: FleetFault, victims: &Victims, random: &mut StdRng) -> Damage {
        let Victims { leader, follower, node, server } = *victims;
        let nodes = || (0..3).map(Member::Node);
        let servers = || (0..3).map(Member::Server);
        match fault {
            FleetFault::KillLeader => self.kill(vec![Member::Node(leader)]),
            FleetFault::KillFollower => self.kill(vec![Member::Node(follower)]),
            FleetFault::KillAllNodes => self.kill(nodes().collect()),
            FleetFault::KillServer => self.kill(vec![Member::Server(server)]),
            FleetFault::KillEverything => self.kill(nodes().chain(servers()).collect()),
            FleetFault::PauseLeader => self.pause(Member::Node(leader)),
            FleetFault::PauseFollower => self.pause(Member::Node(follower)),
            FleetFault::PauseServer => self.pause(Member::Server(server)),
            FleetFault::CloseLeader => {
                Damage::Closing { node: leader, process: self.nodes[leader].close() }
            }
            FleetFault::WipeFollower => {
                self.nodes[follower].wipe();
                Damage::Ended(vec![Member::Node(follower)])
            }
            FleetFault::FillDisk => Damage::Full(self.nodes[node].fill_disk(1 << 20)),
            FleetFault::FillDiskWholly => Damage::Full(self.nodes[node].fill_disk(0)),
            FleetFault::ShiftClock => {
                let hours = random.random_range(-1..=1);
                eprintln!("   n{node} by {hours} h");
                self.nodes[node].shift_clock(hours);
                Damage::Lasting
            }
            FleetFault::RestartEngine => {
                (0..3).for_each(|at| self.servers.resume(at));
                (0..3).for_each(|at| self.servers.terminate(at));
                Damage::Ended(servers().collect())
            }
            FleetFault::PartNodes
            | FleetFault::PartNodeFromServer
            | FleetFault::PartLeaderFromEngine
            | FleetFault::PartFollowerFromEngine
            | FleetFault::PartServers
            | FleetFault::PartServerFromServers
            | FleetFault::PartMachine => self.part(fault, victims, random),
        }
    }

    fn kill(&mut self, members: Vec<Member>) -> Damage {
        for member in &members {
            match member {
                Member::Node(number) => self.nodes[*number].crash(),
                Member::Server(at) => self.servers.kill(*at),
                Member::Checker => {}
            }
        }
        Damage::Ended(members)
    }

    fn pause(&self, member: Member) -> Damage {
        self.signal(member, Signal::STOP);
        Damage::Paused(member)
    }

    fn part(&self, fault: FleetFault, victims: &Victims, random: &mut StdRng) -> Damage {
        let Victims { leader, follower, node, server } = *victims;
        let mut another = |number| (number + random.random_range(1..3)) % 3;
        let (other_node, other_server) = (another(node), another(server));
        let nodes = || (0..3).map(Member::Node);
        let servers = || (0..3).map(Member::Server);
        let (some, others): (Vec<Member>, Vec<Member>) = match fault {
            FleetFault::PartNodes => (vec![Member::Node(node)], vec![Member::Node(other_node)]),
            FleetFault::PartNodeFromServer => {
                (vec![Member::Node(node)], vec![Member::Server(server)])
            }
            FleetFault::PartLeaderFromEngine => (vec![Member::Node(leader)], servers().collect()),
            FleetFault::PartFollowerFromEngine => {
                (vec![Member::Node(follower)], servers().collect())
            }
            FleetFault::PartServers => {
                (vec![Member::Server(server)], vec![Member::Server(other_server)])
            }
            FleetFault::PartServerFromServers => {
                (vec![Member::Server(server)], servers().collect())
            }
            _ => {
                let machine = vec![Member::Node(node), Member::Server(server)];
                let others = nodes().chain(servers());
                (machine.clone(), others.filter(|other| !machine.contains(other)).collect())
            }
        };
        let obstacle = if random.random() { Obstacle::Cut } else { Obstacle::Stall };
        eprintln!("   {some:?} from {others:?}: {obstacle:?}");
        Damage::Parted(self.network.part(&some, &others, obstacle))
    }

    fn signal(&self, member: Member, signal: Signal) {
        match member {
            Member::Node(number) => self.nodes[number].signal(signal),
            Member::Server(at) if signal == Signal::STOP => self.servers.pause(at),
            Member::Server(at) => self.servers.resume(at),
            Member::Checker => {}
        }
    }

    /// Mends what a fault has broken. What another fault has broken stays so.
    pub(super) async fn mend(&mut self, fault: BegunFault) {
        match fault.damage {
            Damage::Ended(members) => {
                for member in members {
                    match member {
                        Member::Node(number) => self.start_node(number),
                        Member::Server(at) => self.servers.restart_if_ended(at),
                        Member::Checker => {}
                    }
                }
            }
            Damage::Closing { node, process } => {
                self.nodes[node].until_ended(process).await;
                self.start_node(node);
            }
            Damage::Paused(member) => self.signal(member, Signal::CONT),
            Damage::Full(ballast) => drop(ballast),
            Damage::Parted(parting) => self.network.join_again(parting),
            Damage::Lasting => {}
        }
    }
}
