//! The writer: the one task of a node that appends to the stream.
//!
//! ```text
//! role task     ── found, announce, lead, step down ──┐
//! committer     ── groups ────────────────────────────┤ commands, one at a time
//!                                                     ▼
//!                                                   writer ── records, each after the last ─▶
//!                            its own heartbeats ──────┘
//! ```
//!
//! # Why
//!
//! Who appends must know the tail: each record is fenced by the one before, and has its checksum.
//! Groups come from the committer's thread, heartbeats from a timer, announcements from the task
//! that plays the node's role. If each of them appended, they would race for the tail, and a leader
//! would be fenced by itself. So one task owns the tail, and the others ask it. A heartbeat is
//! appended by the writer itself, when it has appended nothing for a while.
//!
//! The writer does not decide who leads. The role task lets it announce the node; once the role has
//! read that announcement back, and has applied all groups before it, it calls
//! [`StreamWriter::lead`] with that place. From then on the writer appends groups, until a record
//! is not stored: then it steps down by itself, and refuses groups until it is told to lead again.
//! While a node leads, its role does not need to read the stream, because the fence notices the
//! record of anybody else. After stepping down, the role reads on after the group that the local
//! log has applied last: a group whose outcome was unknown comes from there, or never.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::chain::{StreamPlace, parts_of};
use super::clock::{SteadyClock, until};
use super::record::{MAX_PART_BYTES, RecordBody};
use super::sending::{NotSent, SendPatience, send};
use super::stream::{Stream, StreamSequence};
use crate::cursor::Epoch;

/// The commands that may wait for the writer. The committer has one at a time, and the role too.
const COMMAND_PLACES: usize = 8;

/// How a writer writes.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// The name of the node.
    pub node: String,
    /// A number that the process has drawn when it started. Two processes never have the same.
    pub incarnation: u64,
    /// The silence after which a leader appends a heartbeat: a third of the lease.
    pub heartbeat: Duration,
    /// The longest time in which the writer finds out whether one record is stored.
    pub decide_within: Duration,
    /// The time between two attempts.
    pub pause: Duration,
    /// The most bytes of a group in one record.
    pub(super) part_bytes: usize,
}

impl WriterConfig {
    /// Returns the settings of a node with a lease of this length.
    pub fn new(node: String, incarnation: u64, lease: Duration) -> Self {
        Self {
            node,
            incarnation,
            heartbeat: lease / 3,
            decide_within: lease * 3,
            pause: lease / 60,
            part_bytes: MAX_PART_BYTES,
        }
    }
}

/// Why a record or a group was not appended, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotDecided {
    /// This node does not lead. Nothing was appended. Ask the leader.
    #[error("this node does not lead: {0}")]
    NotLeading(String),
    /// Nothing counts in the stream, and never will.
    #[error("the stream did not take it: {0}")]
    NotStored(String),
    /// Nobody knows whether it is in the stream, or will be. Whoever reads the stream on finds out.
    #[error("it is not known whether the stream took it: {0}")]
    Unknown(String),
}

/// Whether a writer may append groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leading {
    /// It may, in this term.
    Yes(u64),
    /// It may not, for this reason.
    No(String),
}

#[derive(Debug)]
enum WriterCommand {
    /// Appends one record after a place, while the node does not lead.
    Append(StreamPlace, RecordBody, oneshot::Sender<Result<StreamPlace, NotDecided>>),
    Lead(StreamPlace, StreamSequence, oneshot::Sender<()>),
    StepDown(String, oneshot::Sender<()>),
    Decide(GroupToDecide, oneshot::Sender<Result<StreamPlace, NotDecided>>),
}

/// A group for the stream.
#[derive(Debug)]
pub(super) struct GroupToDecide {
    /// The group, encoded.
    pub(super) bytes: Bytes,
    /// The last group that the log has on which this one is based.
    pub(super) base: StreamSequence,
}

/// A handle of a writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StreamWriter {
    commands: mpsc::Sender<WriterCommand>,
    leading: watch::Receiver<Leading>,
    config: Arc<WriterConfig>,
}

impl StreamWriter {
    /// Returns a handle of a new writer, and the writer's task. The task ends when all handles are
    /// gone.
    pub fn new(
        stream: Arc<dyn Stream>,
        clock: Arc<dyn SteadyClock>,
        config: WriterConfig,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (commands, received) = mpsc::channel(COMMAND_PLACES);
        let no = Leading::No("it has not announced itself yet".to_owned());
        let (leading, watched) = watch::channel(no);
        let config = Arc::new(config);
        let task = WriterTask {
            stream,
            clock,
            config: config.clone(),
            commands: received,
            leads: None,
            leading,
        };
        (Self { commands, leading: watched, config }, task.run())
    }

    /// Whether the writer leads; changes are told.
    pub fn leading(&self) -> watch::Receiver<Leading> {
        self.leading.clone()
    }

    /// Founds a fleet whose logs have this epoch. Returns the place of the record.
    ///
    /// # Errors
    ///
    /// [`NotDecided`]: read the stream to see who founded it.
    pub async fn found(&self, epoch: Epoch) -> Result<StreamPlace, NotDecided> {
        self.append(StreamPlace::START, RecordBody::Found(epoch)).await
    }

    /// Announces this node as the next leader, if `place` is still the last one. `epoch` is that of
    /// the fleet. The node may lead once it has read the announcement back: see [`Self::lead`].
    /// Returns its place.
    ///
    /// # Errors
    ///
    /// [`NotDecided`]. After [`NotDecided::Unknown`] the announcement may still come.
    pub async fn announce(
        &self,
        place: StreamPlace,
        epoch: Epoch,
    ) -> Result<StreamPlace, NotDecided> {
        let WriterConfig { node, incarnation, .. } = &*self.config;
        let (node, incarnation) = (node.clone(), *incarnation);
        self.append(place, RecordBody::Announce { node, incarnation, epoch }).await
    }

    /// Lets the writer lead: it appends after `place`, the announcement of this very process, which
    /// was read back. `last_group` is the place of the last group before it.
    ///
    /// If others have appended something since, the first record of this leader is refused, and the
    /// writer steps down.
    pub async fn lead(&self, place: StreamPlace, last_group: StreamSequence) {
        let (answer, answered) = oneshot::channel();
        let _writer_is_gone =
            self.commands.send(WriterCommand::Lead(place, last_group, answer)).await;
        let _writer_is_gone = answered.await;
    }

    /// Lets the writer lead no longer. When this returns, it appends nothing more.
    pub async fn step_down(&self, why: String) {
        let (answer, answered) = oneshot::channel();
        let _writer_is_gone = self.commands.send(WriterCommand::StepDown(why, answer)).await;
        let _writer_is_gone = answered.await;
    }

    async fn append(
        &self,
        place: StreamPlace,
        body: RecordBody,
    ) -> Result<StreamPlace, NotDecided> {
        let (answer, answered) = oneshot::channel();
        let command = WriterCommand::Append(place, body, answer);
        self.commands.send(command).await.map_err(|_| has_ended())?;
        answered.await.unwrap_or_else(|_| Err(is_lost()))
    }

    /// Appends a group as the leader, and waits for the outcome. Returns the place of its last
    /// record.
    ///
    /// # Errors
    ///
    /// [`NotDecided`].
    ///
    /// # Panics
    ///
    /// In a task of a runtime: it blocks.
    pub(super) fn blocking_decide(&self, group: GroupToDecide) -> Result<StreamPlace, NotDecided> {
        let (answer, answered) = oneshot::channel();
        let command = WriterCommand::Decide(group, answer);
        self.commands.blocking_send(command).map_err(|_| has_ended())?;
        answered.blocking_recv().unwrap_or_else(|_| Err(is_lost()))
    }

    /// Does what [`Self::blocking_decide`] does, in a task.
    #[cfg(test)]
    pub(super) async fn decide(&self, group: GroupToDecide) -> Result<StreamPlace, NotDecided> {
        let (answer, answered) = oneshot::channel();
        let command = WriterCommand::Decide(group, answer);
        self.commands.send(command).await.map_err(|_| has_ended())?;
        answered.await.unwrap_or_else(|_| Err(is_lost()))
    }

    /// Lets the writer lead no longer, as [`Self::step_down`] does, without waiting: for a thread.
    /// A group that the writer has not begun is still refused.
    pub(super) fn begin_step_down(&self, why: String) {
        let (answer, _nobody_waits) = oneshot::channel();
        // The places are for those who wait. If all are taken, the role is stepping down already.
        let _full = self.commands.try_send(WriterCommand::StepDown(why, answer));
    }
}

fn has_ended() -> NotDecided {
    NotDecided::NotLeading("it is stopping".to_owned())
}

fn is_lost() -> NotDecided {
    NotDecided::Unknown("the writer ended".to_owned())
}

/// The end of the stream, as a leader knows it.
#[derive(Debug, Clone, Copy)]
struct LeadersTail {
    place: StreamPlace,
    last_group: StreamSequence,
    /// The time of the last record.
    appended: Duration,
}

struct WriterTask {
    stream: Arc<dyn Stream>,
    clock: Arc<dyn SteadyClock>,
    config: Arc<WriterConfig>,
    commands: mpsc::Receiver<WriterCommand>,
    leads: Option<LeadersTail>,
    leading: watch::Sender<Leading>,
}

impl WriterTask {
    async fn run(mut self) {
        loop {
            let command = match self.leads {
                None => self.commands.recv().await,
                Some(tail) => {
                    let heartbeat = tail.appended + self.config.heartbeat;
                    match until(&*self.clock, heartbeat, self.commands.recv()).await {
                        Some(command) => command,
                        None => {
                            self.beat(tail).await;
                            continue;
                        }
                    }
                }
            };
            match command {
                Some(command) => self.obey(command).await,
                None => return,
            }
        }
    }

    async fn obey(&mut self, command: WriterCommand) {
        // Whoever has asked may be gone when the answer comes.
        match command {
            WriterCommand::Append(place, body, answer) => {
                let _asker_is_gone = answer.send(self.append(place, &body).await);
            }
            WriterCommand::Lead(place, last_group, answer) => {
                self.leads = Some(LeadersTail { place, last_group, appended: self.clock.now() });
                self.leading.send_replace(Leading::Yes(place.term));
                let _asker_is_gone = answer.send(());
            }
            WriterCommand::StepDown(why, answer) => {
                self.step_down(why);
                let _asker_is_gone = answer.send(());
            }
            WriterCommand::Decide(group, answer) => {
                let _asker_is_gone = answer.send(self.decide(group).await);
            }
        }
    }

    fn step_down(&mut self, why: String) {
        if let Some(tail) = self.leads.take() {
            tracing::info!(term = tail.place.term, why, "this node leads no longer");
            self.leading.send_replace(Leading::No(why));
        }
    }

    async fn append(
        &mut self,
        place: StreamPlace,
        body: &RecordBody,
    ) -> Result<StreamPlace, NotDecided> {
        if self.leads.is_some() {
            return Err(NotDecided::NotStored("this node leads already".to_owned()));
        }
        match self.send(place, body).await {
            Ok(place) => Ok(place),
            Err(NotSent::Unknown(why)) => Err(NotDecided::Unknown(why)),
            Err(error) => Err(NotDecided::NotStored(problem(error))),
        }
    }

    /// Appends the record with this body after `place`. Returns its place.
    async fn send(&self, place: StreamPlace, body: &RecordBody) -> Result<StreamPlace, NotSent> {
        let (record, next) = place.following(body);
        let WriterConfig { decide_within, pause, .. } = *self.config;
        let patience = SendPatience { deadline: self.clock.now() + decide_within, pause };
        send(&*self.stream, &*self.clock, place.stream, &record, patience).await?;
        Ok(next)
    }

    async fn beat(&mut self, tail: LeadersTail) {
        match self.send(tail.place, &RecordBody::Heartbeat).await {
            Ok(place) => {
                self.leads = Some(LeadersTail { place, appended: self.clock.now(), ..tail });
            }
            // The stream is full, for example. The next heartbeat tries again.
            Err(NotSent::Refused(why)) => {
                tracing::warn!(why, "the stream refused a heartbeat");
                self.leads = Some(LeadersTail { appended: self.clock.now(), ..tail });
            }
            Err(error) => self.step_down(problem(error)),
        }
    }

    async fn decide(&mut self, group: GroupToDecide) -> Result<StreamPlace, NotDecided> {
        let Some(mut tail) = self.leads else {
            let leading = self.leading.borrow().clone();
            let why = if let Leading::No(why) = leading { why } else { String::new() };
            return Err(NotDecided::NotLeading(why));
        };
        if group.base != tail.last_group {
            let why = "its log does not have all groups of the stream".to_owned();
            self.step_down(why.clone());
            return Err(NotDecided::NotLeading(why));
        }
        let parts = parts_of(&group.bytes, self.config.part_bytes);
        for (index, part) in parts.iter().enumerate() {
            match self.send(tail.place, part).await {
                Ok(place) => {
                    tail = LeadersTail { place, appended: self.clock.now(), ..tail };
                    self.leads = Some(tail);
                }
                Err(error) => return Err(self.give_up(error, index, parts.len())),
            }
        }
        self.leads = Some(LeadersTail { last_group: tail.place.stream, ..tail });
        Ok(tail.place)
    }

    /// Ends the attempt to append a group, whose part `index` was not stored, or may not have been.
    fn give_up(&mut self, error: NotSent, index: usize, parts: usize) -> NotDecided {
        // The last part is sent only when all others are stored. Without it the group never counts.
        let is_unknown = matches!(error, NotSent::Unknown(_)) && index + 1 == parts;
        // Nothing was appended, so the tail is as before, and the leader goes on.
        let goes_on = matches!(error, NotSent::Refused(_)) && index == 0;
        let why = problem(error);
        if !goes_on {
            self.step_down(why.clone());
        }
        if is_unknown { NotDecided::Unknown(why) } else { NotDecided::NotStored(why) }
    }
}

fn problem(error: NotSent) -> String {
    match error {
        NotSent::Refused(why) | NotSent::Unknown(why) => why,
        NotSent::Overtaken => "another node has written to the stream since".to_owned(),
        NotSent::Fenced => "the engine is deciding about a record of somebody else".to_owned(),
    }
}
