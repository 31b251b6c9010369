//! Replacing the log of a node by one that is made from the backup of a peer, or from the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::super::choosing::{Failures, choose};
use super::super::clock::{RuntimeClock, SteadyClock};
use super::super::messages::FleetMessages;
use super::super::node::NodeConfig;
use super::super::peers::{OwnStatus, PeerStatus, PeerWatch, PeersProblem, PeersTask};
use super::super::record::FleetLeader;
use super::super::signed_messages::SignedMessages;
use super::super::status::NodeRole;
use super::damage::{LogDamage, has_whole_stream};
use super::joining_state::JoiningStep;
use super::loading::{LoadedBytes, load_backup};
use super::opening::{Opening, blocking, pause};
use super::wanted::WantedBackup;
use crate::error::{Error, with_causes};
use crate::log::{AsideLog, AsideNote, Replacement, SledLog, load_peer, set_aside};

/// The backups that may fail until opening does.
const MAX_FAILURES: u32 = 8;

/// The leases after which a node whose log is damaged waits no longer for a peer.
const REPAIR_LEASES: u32 = 10;

/// Why a node may find no peer.
const UNSIGNED: &str = "messages come that are not signed with this node's secret: fleet.secret is \
    to be the same on all nodes";

const NO_PEER: &str = "no other node is heard that takes part in the fleet and can give a backup, \
    or the stream has lost what this node had applied";

impl Opening<'_> {
    /// Replaces a damaged log by the backup of a peer, or by what the stream has.
    ///
    /// # Errors
    ///
    /// Why neither is possible for now. The log is as it was.
    pub(super) async fn repair(&self, damage: LogDamage) -> Result<(), String> {
        let wanted = WantedBackup { applied: damage.place, damage: Some(damage.clone()) };
        let Err(problem) = self.load(&wanted).await else { return Ok(()) };
        if !has_whole_stream(&*self.engine, &damage, self.config.lease * 2).await {
            return Err(problem);
        }
        let (directory, config) = (self.directory.clone(), self.open.log.clone());
        let note = wanted.note(None);
        let begun = blocking(move || {
            let replacement = Replacement::begin(&directory)?;
            drop(SledLog::open(&replacement.log(), &config)?);
            replacement.complete(0, note.as_ref())
        });
        begun.await.and_then(|begun| begun).map_err(|error| with_causes(&error))?;
        self.tell_repaired().await;
        Ok(())
    }

    /// Replaces the log by one that is made from the backup of a peer. Tells the others meanwhile
    /// how this node is, so that they keep the records that it needs next.
    pub(super) async fn load(&self, wanted: &WantedBackup) -> Result<(), String> {
        let NodeConfig { name, advertise, lease, .. } = self.config.clone();
        let own = FleetLeader { node: name, incarnation: rand::random(), address: advertise };
        let program = PeerStatus { role: NodeRole::Joining, ..PeerStatus::of_program(&own) };
        let place = Arc::new(AtomicU64::new(0));
        let placed = place.clone();
        let own: OwnStatus = Arc::new(move || {
            let place = placed.load(Ordering::Relaxed);
            PeerStatus { synced: (place > 0).then_some(place), applied: place, ..program.clone() }
        });
        let clock: Arc<dyn SteadyClock> = Arc::new(RuntimeClock::default());
        let watch = PeerWatch::new(own, lease, clock);
        let messages: Arc<dyn FleetMessages> = self.engine.clone();
        let NodeConfig { fleet, secret, .. } = &self.config;
        let messages = SignedMessages::new(messages, fleet, secret.clone());
        let telling = PeersTask {
            messages: Arc::new(messages.clone()),
            watch: watch.clone(),
            tell_problem: Box::new(|problem| {
                if let Some(PeersProblem { text: problem, .. }) = problem {
                    tracing::warn!(problem, "a problem with the nodes of the fleet");
                }
            }),
            seed: rand::random(),
        };
        tokio::select! {
            loaded = self.load_from(&watch, &messages, &place, wanted) => loaded,
            never = telling.run() => match never {},
        }
    }

    /// Loads a backup of one peer after the other, until one is in place.
    async fn load_from(
        &self,
        watch: &PeerWatch,
        messages: &SignedMessages,
        place: &AtomicU64,
        wanted: &WantedBackup,
    ) -> Result<(), String> {
        let (mut failures, mut count) = (Failures::new(), 0);
        self.show(JoiningStep::Choosing);
        let began = Instant::now();
        let patience = wanted.damage.as_ref().map(|_| self.config.lease * REPAIR_LEASES);
        tokio::time::sleep(watch.hearing_time()).await;
        loop {
            let first = self.engine.first().await.unwrap_or_default();
            let tail = self.engine.tail().await;
            let has_all = tail.is_ok_and(|tail| tail >= wanted.least());
            let live = watch.live_others();
            let peer = choose(&live, &watch.own(), &failures, first);
            let Some(peer) = peer.filter(|_| has_all) else {
                if messages.refused() > 0 {
                    let problem = Some(UNSIGNED.to_owned());
                    self.state.send_modify(|state| state.problem = problem);
                }
                if patience.is_some_and(|patience| began.elapsed() > patience) {
                    let problem = self.state.borrow().problem.clone();
                    return Err(problem.unwrap_or_else(|| NO_PEER.to_owned()));
                }
                self.show(JoiningStep::Choosing);
                tokio::time::sleep(watch.hearing_time()).await;
                continue;
            };
            let Err(problem) = self.load_once(peer, place, wanted).await else { return Ok(()) };
            place.store(0, Ordering::Relaxed);
            tracing::warn!(peer = peer.name, problem, "a backup of a peer could not be loaded");
            *failures.entry(peer.incarnation).or_default() += 1;
            count += 1;
            self.state.send_modify(|state| {
                (state.failures, state.problem) = (count, Some(problem.clone()));
            });
            if count >= MAX_FAILURES {
                return Err(problem);
            }
            tokio::time::sleep(pause(self.config.lease, count)).await;
        }
    }

    /// Loads the backup of a peer, makes a log of it, and puts that in place.
    ///
    /// # Errors
    ///
    /// What went wrong.
    async fn load_once(
        &self,
        peer: &PeerStatus,
        place: &AtomicU64,
        wanted: &WantedBackup,
    ) -> Result<(), String> {
        let told = |error: Error| with_causes(&error);
        let directory = self.directory.clone();
        let begun = blocking(move || Replacement::begin(&directory)).await.and_then(|begun| begun);
        let replacement = begun.map_err(told)?;
        let (name, file) = (peer.name.clone(), replacement.backup());
        tracing::info!(peer = name, "loading the backup of a peer");
        let progress = |loaded: LoadedBytes| {
            place.store(loaded.applied, Ordering::Relaxed);
            let (peer, done_bytes) = (name.clone(), loaded.done_bytes);
            let expected_bytes = loaded.expected_bytes;
            self.show(JoiningStep::Loading { peer, done_bytes, expected_bytes });
        };
        let own = &self.config.name;
        let reached = load_backup(&peer.address, &self.links, own, &file, progress).await?;
        let (state, note, wanted) = (self.state.clone(), wanted.note(Some(&name)), wanted.clone());
        let made = blocking(move || {
            let applied = load_peer(&replacement.log(), &file, |made| {
                let (done_bytes, total_bytes) = (made.done_bytes, made.total_bytes);
                state.send_modify(|state| {
                    state.step = JoiningStep::Making { done_bytes, total_bytes };
                });
            })
            .map_err(told)?;
            wanted.check(applied)?;
            replacement.complete(reached, note.as_ref()).map_err(told)
        });
        made.await.map_err(told)??;
        tracing::info!(peer = name, until = reached, "the backup of a peer is in place");
        self.tell_repaired().await;
        Ok(())
    }

    /// Tells in the log of the process where the damaged log is, if one was replaced.
    async fn tell_repaired(&self) {
        let directory = self.directory.clone();
        let Ok(Ok(Some(aside))) = blocking(move || set_aside(&directory)).await else { return };
        let AsideLog { note: AsideNote { why, peer, .. }, directory, size_bytes } = aside;
        tracing::warn!(
            why,
            peer = peer.as_deref().unwrap_or("none: the stream has all"),
            kept_in = %directory.display(),
            kept_bytes = size_bytes,
            "this node's log was damaged and is replaced; the damaged one is kept, until the next \
             one is replaced or somebody removes it"
        );
    }
}
