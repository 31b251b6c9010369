//! Opening a node in its data directory, with a backup of a peer if it needs one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::super::links::LinkConfig;
use super::super::node::{self, FleetEngine, FleetNode, NodeConfig, NodeOpenError};
use super::super::status::NodeRole;
use super::super::stream::{StreamError, StreamSequence};
use super::damage::{ExaminedLog, LogDamage, damage_of, examine, misfit};
use super::joining_state::{JoiningState, JoiningStep};
use super::wanted::WantedBackup;
use crate::broker::{Broker, OpenConfig};
use crate::error::{Error, Result};
use crate::log::{
    Applied, Log as _, finish_replacing, forget_joined_number, joined_number, note_fleet,
    noted_fleet, set_aside,
};

/// The backups that may be loaded in a row, if the stream is trimmed meanwhile.
const MAX_LOADS: u32 = 4;

/// What a node is opened with.
pub(super) struct Opening<'a> {
    pub(super) directory: PathBuf,
    pub(super) engine: Arc<dyn FleetEngine>,
    pub(super) config: NodeConfig,
    pub(super) links: LinkConfig,
    pub(super) open: &'a OpenConfig,
    pub(super) state: &'a watch::Sender<JoiningState>,
}

/// The outcome of opening a log.
enum OpenedLog {
    /// A node, which serves.
    Node(Broker, Box<FleetNode>),
    /// The stream does not have the records any more that the log needs next.
    Behind(Option<Applied>),
    /// The log is damaged, or does not fit the stream.
    Damaged(LogDamage),
}

/// Opens a node of a fleet in its data directory, as [`open`](super::super::open) does on a log. If
/// the stream does not have the records any more that the node needs, the log is replaced by one
/// that is made from the backup of a peer. That takes the space of two more logs while it is made.
/// `state` tells how far it is.
///
/// Waits for as long as no peer can give a backup. When this returns, the node has applied all that
/// it needs to serve.
///
/// A log that is damaged, or does not fit the stream, is replaced in the same way, and is kept
/// beside it ([`RepairedLog`](super::super::RepairedLog)). Without a peer it is made anew from the
/// stream, if that is whole. If neither can be had within ten leases, the node is opened on the log
/// as it is, and says so.
///
/// # Errors
///
/// [`NodeOpenError`]; [`NodeOpenError::NotLoaded`] after several backups have failed, and
/// [`NodeOpenError::Damaged`] if the log does not open and could not be repaired. The log in the
/// directory is then as it was, or is replaced; the next start goes on.
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
    let opening = Opening { directory, engine, config, links, open, state };
    let (mut loads, mut given_up) = (0, None);
    loop {
        match opening.open(given_up.as_ref()).await? {
            OpenedLog::Node(broker, node) => {
                opening.show(JoiningStep::Open);
                return Ok((broker, *node));
            }
            OpenedLog::Behind(applied) => {
                tracing::warn!("the stream has not all that this node needs: it needs a backup");
                // A damaged log is kept, also if it was taken as it is.
                let damage = given_up.take().map(|(why, _)| LogDamage {
                    why,
                    place: applied,
                    epoch: applied.map(|applied| applied.epoch),
                });
                let wanted = WantedBackup { damage, applied };
                opening.load(&wanted).await.map_err(NodeOpenError::NotLoaded)?;
            }
            OpenedLog::Damaged(damage) => {
                let why = damage.why.clone();
                tracing::warn!(why, "this node's log is damaged: it looks for a backup of a peer");
                given_up = opening.repair(damage).await.err().map(|problem| {
                    tracing::error!(why, problem, "this node's log stays damaged");
                    (why, problem)
                });
            }
        }
        loads += 1;
        if loads > MAX_LOADS {
            let problem = format!("the stream was trimmed beyond {MAX_LOADS} backups in a row");
            return Err(NodeOpenError::NotLoaded(problem));
        }
        if loads > 1 {
            tokio::time::sleep(pause(opening.config.lease, loads)).await;
        }
    }
}

/// Returns the pause after so many failures, from 1: it doubles, up to five leases, and differs by
/// chance.
pub(super) fn pause(lease: Duration, failures: u32) -> Duration {
    let longest = (lease / 6 * (1 << failures)).min(lease * 5);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_the_runtime_is_stopping) => Err(Error::ShuttingDown),
    }
}

impl Opening<'_> {
    pub(super) fn show(&self, step: JoiningStep) {
        self.state.send_modify(|state| state.step = step);
    }

    /// Opens the node on the log that is there. With `given_up`, which says how it is damaged and
    /// why it could not be repaired, the log is taken as it is.
    async fn open(&self, given_up: Option<&(String, String)>) -> Result<OpenedLog, NodeOpenError> {
        self.show(JoiningStep::Opening);
        let examined = match self.examine().await {
            Ok(examined) => examined,
            Err(error) => match (damage_of(&error, &self.directory), given_up) {
                (Some(damage), None) => return Ok(OpenedLog::Damaged(damage)),
                (Some(_), Some((_, problem))) => {
                    return Err(NodeOpenError::Damaged { error, problem: problem.clone() });
                }
                (None, _) => return Err(error.into()),
            },
        };
        let (ExaminedLog { log, applied, damage }, until) = examined;
        let mut damage = damage.filter(|_| given_up.is_none());
        // If the engine is away, the node notices later.
        if damage.is_none()
            && let Some(place) = applied
            && let Ok(first) = self.engine.first().await
        {
            if first > StreamSequence::new(place.stream).next() {
                blocking(move || drop(log)).await?;
                return Ok(OpenedLog::Behind(applied));
            }
            if given_up.is_none() {
                damage = misfit(&*self.engine, place, self.config.lease).await;
            }
        }
        if let Some(damage) = damage {
            blocking(move || drop(log)).await?;
            return Ok(OpenedLog::Damaged(damage));
        }
        if applied.is_none() && log.topics()?.is_empty() {
            self.wait_for_engine().await;
        }
        let (engine, config) = (self.engine.clone(), self.config.clone());
        let (broker, mut node) = match node::open(Arc::new(log), engine, config, self.open).await {
            Ok(opened) => opened,
            Err(NodeOpenError::Trimmed(_)) => return Ok(OpenedLog::Behind(applied)),
            Err(error) => return Err(error),
        };
        if let Some(until) = until
            && !self.catch_up(&node, until).await?
        {
            node.close().await;
            return Ok(OpenedLog::Behind(applied));
        }
        let damage =
            given_up.map(|(why, problem)| format!("{why}; it could not be repaired: {problem}"));
        self.prepare_repair(&mut node, damage.as_deref()).await?;
        Ok(OpenedLog::Node(broker, Box::new(node)))
    }

    /// Waits until the engine answers, without which an empty log cannot be opened. Shows why it
    /// does not.
    async fn wait_for_engine(&self) {
        while let Err(StreamError::Away(engine_problem)) = self.engine.tail().await {
            self.show(JoiningStep::Waiting { engine_problem });
            tokio::time::sleep(self.config.lease / 10).await;
        }
        self.show(JoiningStep::Opening);
    }

    /// Opens the log. Returns the record from which on it serves, if that is not applied yet.
    async fn examine(&self) -> Result<(ExaminedLog, Option<u64>), Error> {
        let (directory, config) = (self.directory.clone(), self.open.log.clone());
        let examining = blocking(move || {
            finish_replacing(&directory)?;
            let examined = examine(&directory, &config)?;
            let applied = examined.applied.map_or(0, |applied| applied.stream);
            let until = joined_number(&directory)?;
            // The number is not needed any more once what is applied is on the disk, too. An
            // earlier process may have left it to the system.
            if until.is_some_and(|until| until <= applied) {
                examined.log.make_durable()?;
                forget_joined_number(&directory)?;
            }
            Ok((examined, until.filter(|until| *until > applied)))
        });
        examining.await?
    }

    /// Has the node tell which damaged log was replaced last, and how the one that it has is
    /// damaged. What is found while it runs is noted for the next start.
    async fn prepare_repair(
        &self,
        node: &mut FleetNode,
        damage: Option<&str>,
    ) -> Result<(), NodeOpenError> {
        let (directory, epoch) = (self.directory.clone(), node.fleet_epoch());
        let looking = blocking(move || {
            epoch.map_or(Ok(()), |epoch| note_fleet(&directory, epoch))?;
            Ok::<_, Error>((set_aside(&directory)?, noted_fleet(&directory).is_some()))
        });
        let (aside, is_of_fleet) = looking.await??;
        node.show_damage(damage, aside.map(Into::into));
        if !is_of_fleet {
            return Ok(()); // The log of a broker that was alone is never replaced.
        }
        node.make_repairable(&self.directory);
        Ok(())
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
                // If damage has stopped it, the next start repairs it.
                let note = node.damage_note(&self.directory);
                blocking(move || note.write(None)).await??;
                return Err(NodeOpenError::Stopped(now.problem.unwrap_or_default()));
            }
            self.show(JoiningStep::CatchingUp { applied, until });
            if status.changed().await.is_err() {
                return Err(Error::ShuttingDown.into());
            }
        }
    }
}
