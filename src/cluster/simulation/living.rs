//! A node of the simulation while it runs: the real role and writer, and something small in the
//! place of the broker, which publishes while it leads.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::checker::FleetChecker;
use super::disk::DiskLog;
use super::world::FleetWorld;
use super::{LEASE, ms};
use crate::broker::Leadership;
use crate::cluster::clock::SteadyClock;
use crate::cluster::founding::fleet_epoch;
use crate::cluster::record::FleetLeader;
use crate::cluster::replicated_log::ReplicatedLog;
use crate::cluster::role::{LedBroker, RoleParts, RoleTask};
use crate::cluster::role_end::RoleEnd;
use crate::cluster::samples::{appending, topic};
use crate::cluster::simulated::SimulatedStream;
use crate::cluster::status::NodeStatus;
use crate::cluster::stream::StreamFuture;
use crate::cluster::writer::StreamWriter;
use crate::error::{Error, Result};
use crate::log::{Group, Log};

/// A node that runs.
pub(super) struct LivingNode {
    pub(super) number: usize,
    pub(super) node: FleetLeader,
    pub(super) world: FleetWorld,
    pub(super) link: SimulatedStream,
    pub(super) checker: FleetChecker,
    pub(super) local: Arc<DiskLog>,
    pub(super) writer: StreamWriter,
    /// Cancelled when the node is to stop in order.
    pub(super) stopping: CancellationToken,
    pub(super) seed: u64,
}

/// What the node has in the place of a broker.
struct SmallBroker {
    log: Arc<ReplicatedLog>,
    /// Whether the node decides. Locked for as long as one group is written: there is one
    /// committer.
    committing: Mutex<Leadership>,
}

impl LedBroker for SmallBroker {
    fn apply(&self, group: Group) -> StreamFuture<'_, Result<()>> {
        Box::pin(async move {
            let leadership = self.committing.lock().await;
            assert_eq!(*leadership, Leadership::Follows, "a leader applies nothing");
            self.log.commit(&group)
        })
    }

    fn lead(&self, leadership: Leadership) -> StreamFuture<'_, Result<()>> {
        Box::pin(async move {
            *self.committing.lock().await = leadership;
            Ok(())
        })
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn ended(&self) -> StreamFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

impl LivingNode {
    /// Plays the role of the node, and publishes whenever it leads.
    pub(super) async fn live(self) {
        let applied = self.local.applied().expect("memory does not fail");
        let (own, clock) = (self.local.epoch(), Arc::new(self.world.clone()));
        let epoch = match applied {
            Some(applied) => applied.epoch,
            None => match fleet_epoch(own, &self.link, &self.writer, &*clock, ms(20)).await {
                Ok(epoch) => epoch,
                Err(error) => return self.violation(&error.to_string()),
            },
        };
        let (local, writer) = (self.local.clone(), self.writer.clone());
        let log = ReplicatedLog::new(local, epoch, writer.clone(), clock.clone());
        let log = Arc::new(log.expect("memory does not fail"));
        let committing = Mutex::new(Leadership::Follows);
        let broker = Arc::new(SmallBroker { log: log.clone(), committing });
        let role = RoleTask::new(RoleParts {
            broker: broker.clone(),
            log,
            stream: Arc::new(self.link.clone()),
            clock,
            writer,
            status: Arc::new(watch::Sender::new(NodeStatus::default())),
            stopping: self.stopping.clone(),
            retiring: CancellationToken::new(),
            node: self.node.clone(),
            lease: LEASE,
            move_every: ms(400),
            seed: self.seed,
        });
        let has_ended = CancellationToken::new();
        let role = async {
            let end = role.run().await;
            has_ended.cancel();
            end
        };
        let (end, ()) = tokio::join!(role, self.publish(&broker, &has_ended));
        match end {
            RoleEnd::Stopped(problem)
            | RoleEnd::NeedsOpening(problem)
            | RoleEnd::Breaks(_, problem)
            | RoleEnd::Behind(problem) => self.violation(&problem),
            RoleEnd::Closed => self.writer.resign("it is closing".to_owned()).await,
        }
    }

    fn violation(&self, problem: &str) {
        self.checker.violation(format!("node {}: {problem}", self.number));
    }

    /// Publishes whenever this node leads.
    async fn publish(&self, broker: &SmallBroker, has_ended: &CancellationToken) {
        let mut random = StdRng::seed_from_u64(self.seed);
        while !has_ended.is_cancelled() {
            let pause = ms(random.random_range(2..80));
            self.world.sleep_until(self.world.now() + pause).await;
            let leadership = broker.committing.lock().await;
            if *leadership == Leadership::Follows {
                continue;
            }
            let Some(id) = self.checker.next_id() else { continue };
            let group = self.draft(id, &mut random);
            let (term, outcome) = self.commit(broker, &group).await;
            self.checker.told(self.number, term, id, &outcome);
            if let Err(error @ Error::OutcomeUnknown(_)) = &outcome {
                assert!(broker.log.goes_on_after(error), "{error}");
            }
        }
    }

    /// Commits as the replicated log does in a thread. Returns the term in which that was decided.
    async fn commit(&self, broker: &SmallBroker, group: &Group) -> (u64, Result<()>) {
        let to_decide = match broker.log.to_decide(group) {
            Ok(to_decide) => to_decide,
            Err(error) => return (0, Err(error)),
        };
        let decided = self.writer.decide(to_decide).await;
        let term = decided.as_ref().map_or(0, |place| place.term);
        (term, broker.log.settle(group, decided))
    }

    /// Returns a group as a committer makes it from the state of its log, in one part or several.
    fn draft(&self, id: u64, random: &mut StdRng) -> Group {
        let topics = self.local.topics().expect("memory does not fail");
        let topic = topics.into_iter().next().unwrap_or_else(|| topic(1));
        let mut payload = id.to_be_bytes().to_vec();
        payload.resize(8 + random.random_range(0..300), 7);
        appending(&topic, topic.extent.tail.get(), topic.extent.appended_bytes, &payload)
    }
}
