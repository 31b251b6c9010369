//! Opening a node in its data directory, with a backup of a peer if it needs one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::super::clock::{RuntimeClock, SteadyClock};
use super::super::links::LinkConfig;
use super::super::messages::FleetMessages;
use super::super::node::{self, FleetEngine, FleetNode, NodeConfig, NodeOpenError};
use super::super::peers::{OwnStatus, PeerStatus, PeerWatch, PeersTask};
use super::super::record::FleetLeader;
use super::super::signed_messages::SignedMessages;
use super::super::status::NodeRole;
use super::super::stream::StreamSequence;
use super::choosing::{Failures, choose};
use super::joining_state::{JoiningState, JoiningStep};
use super::loading::{LoadedBytes, load_backup};
use crate::broker::{Broker, OpenConfig};
use crate::error::{Error, Result, with_causes};
use crate::log::{
    Log as _, Replacement, SledLog, finish_replacing, forget_joined_number, joined_number,
    load_peer,
};

/// Why a node may find no peer.
const UNSIGNED: &str = "messages come that are not signed with this node's secret: fleet.secret is \
    to be the same on all nodes";

/// The backups that may fail until opening does.
const MAX_FAILURES: u32 = 8;

/// What a node is opened with.
struct Opening<'a> {
    directory: PathBuf,
    engine: Arc<dyn FleetEngine>,
    config: NodeConfig,
    links: LinkConfig,
    state: &'a watch::Sender<JoiningState>,
}

/// Opens a node of a fleet in its data directory, as [`open`](super::super::open) does on a log. If
/// the stream does not have the records any more that the node needs, the log is replaced by one
/// that is made from the backup of a peer. That takes the space of two more logs while it is made.
/// `state` tells how far it is.
///
/// Waits for as long as no peer can give a backup. When this returns, the node has applied all that
/// it needs to serve.
///
/// # Errors
///
/// [`NodeOpenError`]; [`NodeOpenError::NotLoaded`] after several backups have failed. The log in
/// the directory is then as it was, or is replaced; the next start goes on.
///
/// # Cancel safety
///
/// As with an error. A thread may be busy in the directory for some time.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn open_in(
    directory: &Path,
    engine: Arc<dyn FleetEngine>,
    config: NodeConfig,
    open: &OpenConfig,
    state: &watch::Sender<JoiningState>,
) -> Result<(Broker, FleetNode), NodeOpenError> {
    config.validate()?;
    let directory = directory.to_owned();
    let links = LinkConfig::new(config.secret.clone(), config.ca_pem.clone(), &config.advertise);
    let opening = Opening { directory, engine, config, links, state };
    loop {
        if let Some(opened) = opening.open(open).await? {
            opening.show(JoiningStep::Open);
            return Ok(opened);
        }
        opening.load().await?;
    }
}

/// Returns the pause after so many failures, from 1: it doubles, up to five leases, and differs by
/// chance.
fn pause(lease: Duration, failures: u32) -> Duration {
    let longest = (lease / 6 * (1 << failures)).min(lease * 5);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_the_runtime_is_stopping) => Err(Error::ShuttingDown),
    }
}

impl Opening<'_> {
    fn show(&self, step: JoiningStep) {
        self.state.send_modify(|state| state.step = step);
    }

    /// Opens the node on the log that is there; `None` if that needs a backup of a peer.
    async fn open(&self, open: &OpenConfig) -> Result<Option<(Broker, FleetNode)>, NodeOpenError> {
        self.show(JoiningStep::Opening);
        let (directory, config) = (self.directory.clone(), open.log.clone());
        let opened = blocking(move || {
            finish_replacing(&directory)?;
            let log = SledLog::open(&directory, &config)?;
            let applied = log.applied()?.map_or(0, |applied| applied.stream);
            let until = joined_number(&directory)?;
            // The number is not needed any more once what is applied is on the disk, too. An
            // earlier process may have left it to the system.
            if until.is_some_and(|until| until <= applied) {
                log.make_durable()?;
                forget_joined_number(&directory)?;
            }
            Ok::<_, Error>((log, applied, until.filter(|until| *until > applied)))
        });
        let (log, applied, until) = opened.await??;
        if applied > 0 {
            // If the engine is away, the node notices later.
            let first = self.engine.first().await;
            if first.is_ok_and(|first| first > StreamSequence::new(applied).next()) {
                blocking(move || drop(log)).await?;
                return Ok(None);
            }
        }
        let (engine, config) = (self.engine.clone(), self.config.clone());
        let (broker, node) = match node::open(Arc::new(log), engine, config, open).await {
            Ok(opened) => opened,
            Err(NodeOpenError::Trimmed(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if let Some(until) = until
            && !self.catch_up(&node, until).await?
        {
            node.close().await;
            return Ok(None);
        }
        Ok(Some((broker, node)))
    }

    /// Waits until the node has applied the stream up to `until`. Returns `false` if it needs a
    /// backup once more.
    async fn catch_up(&self, node: &FleetNode, until: u64) -> Result<bool, NodeOpenError> {
        let mut status = node.status();
        loop {
            let now = status.borrow_and_update().clone();
            let applied = now.applied.get();
            if applied >= until || now.fell_behind {
                return Ok(!now.fell_behind);
            }
            if now.role == NodeRole::Stopped {
                return Err(NodeOpenError::Stopped(now.problem.unwrap_or_default()));
            }
            self.show(JoiningStep::CatchingUp { applied, until });
            if status.changed().await.is_err() {
                return Err(Error::ShuttingDown.into());
            }
        }
    }

    /// Replaces the log by one that is made from the backup of a peer. Tells the others meanwhile
    /// how this node is, so that they keep the records that it needs next.
    async fn load(&self) -> Result<(), NodeOpenError> {
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
                if let Some(problem) = problem {
                    tracing::warn!(problem, "a problem with the nodes of the fleet");
                }
            }),
            seed: rand::random(),
        };
        tokio::select! {
            loaded = self.load_from(&watch, &messages, &place) => loaded,
            never = telling.run() => match never {},
        }
    }

    /// Loads a backup of one peer after the other, until one is in place.
    async fn load_from(
        &self,
        watch: &PeerWatch,
        messages: &SignedMessages,
        place: &AtomicU64,
    ) -> Result<(), NodeOpenError> {
        tracing::warn!("the stream has not all that this node needs: it loads a backup of a peer");
        let (mut failures, mut count) = (Failures::new(), 0);
        self.show(JoiningStep::Choosing);
        tokio::time::sleep(watch.hearing_time()).await;
        loop {
            let first = self.engine.first().await.unwrap_or_default();
            let live = watch.live_others();
            let Some(peer) = choose(&live, &watch.own(), &failures, first) else {
                self.show(JoiningStep::Choosing);
                if messages.refused() > 0 {
                    let problem = Some(UNSIGNED.to_owned());
                    self.state.send_modify(|state| state.problem = problem);
                }
                tokio::time::sleep(watch.hearing_time()).await;
                continue;
            };
            let Err(problem) = self.load_once(peer, place).await else { return Ok(()) };
            place.store(0, Ordering::Relaxed);
            tracing::warn!(peer = peer.name, problem, "a backup of a peer could not be loaded");
            *failures.entry(peer.incarnation).or_default() += 1;
            count += 1;
            self.state.send_modify(|state| {
                (state.failures, state.problem) = (count, Some(problem.clone()));
            });
            if count >= MAX_FAILURES {
                return Err(NodeOpenError::NotLoaded(problem));
            }
            tokio::time::sleep(pause(self.config.lease, count)).await;
        }
    }

    /// Loads the backup of a peer, makes a log of it, and puts that in place.
    ///
    /// # Errors
    ///
    /// What went wrong.
    async fn load_once(&self, peer: &PeerStatus, place: &AtomicU64) -> Result<(), String> {
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
        let state = self.state.clone();
        let made = blocking(move || {
            load_peer(&replacement.log(), &file, |made| {
                let (done_bytes, total_bytes) = (made.done_bytes, made.total_bytes);
                state.send_modify(|state| {
                    state.step = JoiningStep::Making { done_bytes, total_bytes };
                });
            })?;
            replacement.complete(reached)
        });
        made.await.and_then(|made| made).map_err(told)?;
        tracing::info!(peer = name, until = reached, "the backup of a peer is in place");
        Ok(())
    }
}
