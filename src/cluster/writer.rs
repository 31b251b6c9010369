//! The writer: the one task of a node that appends to the stream.
//!
//! ```text
//! role task     ── found, announce, lead, resign ─────┐
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
//! record of anybody else. After stepping down, the role reads on after the place up to which the
//! local log has applied the stream: a group whose outcome was unknown comes from there, or never.
//!
//! A leader that resigns says so in its last record. So nobody waits for the end of its lease, and
//! nobody needs to be chosen: whoever announces itself first leads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::chain::{StreamPlace, parts_of};
use super::clock::{SteadyClock, until};
use super::record::{FleetLeader, MAX_PART_BYTES, RecordBody};
use super::sending::{NotSent, SendPatience, send};
use super::stream::{Stream, StreamSequence};
use crate::cursor::Epoch;

/// The commands that may wait for the writer. The committer has one at a time, and the role too.
const COMMAND_PLACES: usize = 8;

/// How a writer writes.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// The node, with a number that its process has drawn when it started. Two processes never have
    /// the same.
    pub node: FleetLeader,
    /// The silence after which a leader appends a heartbeat: a third of the lease.
    pub heartbeat: Duration,
    /// The longest time in which the writer finds out whether one record is stored. While the
    /// engine is away, groups wait for it for as long, all of them together.
    pub decide_within: Duration,
    /// The time between two attempts.
    pub pause: Duration,
    /// The most bytes of a group in one record.
    pub(super) part_bytes: usize,
}

impl WriterConfig {
    /// Returns the settings of a node with a lease of this length.
    pub fn new(node: FleetLeader, lease: Duration) -> Self {
        Self {
            node,
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
    /// This node does not lead, or no longer. Nothing counts in the stream, and never will. Ask the
    /// leader.
    #[error("this node does not lead: {0}")]
    NotLeading(String),
    /// The engine refused it. Nothing counts in the stream, and never will.
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
    Lead(StreamPlace, oneshot::Sender<()>),
    StepDown(String),
    Resign(String, oneshot::Sender<()>),
    Decide(GroupToDecide, oneshot::Sender<Result<StreamPlace, NotDecided>>),
}

/// A group for the stream.
#[derive(Debug)]
pub(super) struct GroupToDecide {
    /// The group, encoded.
    pub(super) bytes: Bytes,
    /// The place up to which the log that this group is based on has applied the stream.
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
            away_since: None,
            leading,
        };
        (Self { commands, leading: watched, config }, task.run())
    }

    /// Whether the writer leads; changes are told.
    pub fn leading(&self) -> watch::Receiver<Leading> {
        self.leading.clone()
    }

    /// Waits until the writer does not lead in this term, and returns why.
    pub(super) async fn stepped_down(&self, term: u64) -> String {
        let mut leading = self.leading.clone();
        match leading.wait_for(|leading| *leading != Leading::Yes(term)).await.as_deref() {
            Ok(Leading::No(why)) => why.clone(),
            Ok(Leading::Yes(other)) => format!("it leads in term {other}"),
            Err(_writer_is_gone) => "its writer has ended".to_owned(),
        }
    }

    /// Founds a fleet whose logs have this epoch. Returns the place of the record.
    ///
    /// # Errors
    ///
    /// [`NotDecided`]: read the stream to see who founded it.
    pub async fn found(&self, epoch: Epoch) -> Result<StreamPlace, NotDecided> {
        self.append(StreamPlace::START, RecordBody::Found(epoch)).await
    }

    /// Announces this node as the next leader, if `place` is still the last one. The node may lead
    /// once it has read the announcement back: see [`Self::lead`]. Returns its place.
    ///
    /// # Errors
    ///
    /// [`NotDecided`]. After [`NotDecided::Unknown`] the announcement may still come.
    ///
    /// # Panics
    ///
    /// If `place` is before the first record of the fleet.
    pub async fn announce(&self, place: StreamPlace) -> Result<StreamPlace, NotDecided> {
        let leader = self.config.node.clone();
        let epoch = place.epoch.expect("a fleet is founded before somebody leads it");
        self.append(place, RecordBody::Announce { leader, epoch }).await
    }

    /// Lets the writer lead: it appends after `place`, the announcement of this very process, which
    /// was read back, and up to which the log has applied the stream.
    ///
    /// If others have appended something since, the first record of this leader is refused, and the
    /// writer steps down.
    pub async fn lead(&self, place: StreamPlace) {
        let (answer, answered) = oneshot::channel();
        let _writer_is_gone = self.commands.send(WriterCommand::Lead(place, answer)).await;
        let _writer_is_gone = answered.await;
    }

    /// Lets the writer lead no longer, and tells the other nodes so, in a time that is bounded by
    /// that of a heartbeat. When this returns, the writer appends nothing more. Does nothing if the
    /// writer does not lead.
    pub async fn resign(&self, why: String) {
        let (answer, answered) = oneshot::channel();
        let _writer_is_gone = self.commands.send(WriterCommand::Resign(why, answer)).await;
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

    /// Lets the writer lead no longer, without waiting: for a thread. Groups that come later are
    /// refused.
    pub(super) fn begin_step_down(&self, why: String) {
        // The committer sends one command at a time, and the role another one: there is room.
        let _writer_is_gone = self.commands.try_send(WriterCommand::StepDown(why));
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
    /// The last group, or the announcement.
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
    /// Since when the engine has taken nothing, as far as the writer has tried.
    away_since: Option<Duration>,
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
            WriterCommand::Lead(place, answer) => {
                let (last_group, appended) = (place.stream, self.clock.now());
                self.leads = Some(LeadersTail { place, last_group, appended });
                self.leading.send_replace(Leading::Yes(place.term));
                let _asker_is_gone = answer.send(());
            }
            WriterCommand::StepDown(why) => self.step_down(why),
            WriterCommand::Resign(why, answer) => {
                self.resign(why).await;
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

    async fn resign(&mut self, why: String) {
        let Some(tail) = self.leads else { return };
        let patience = self.patience(self.config.heartbeat);
        // If it is not stored, the others wait for the end of the lease.
        let _told = self.send(tail.place, &RecordBody::Resigned, patience).await;
        self.step_down(why);
    }

    async fn append(
        &mut self,
        place: StreamPlace,
        body: &RecordBody,
    ) -> Result<StreamPlace, NotDecided> {
        if self.leads.is_some() {
            return Err(NotDecided::NotStored("this node leads already".to_owned()));
        }
        match self.send(place, body, self.patience(self.config.decide_within)).await {
            Ok(place) => Ok(place),
            Err(NotSent::Unknown(why)) => Err(NotDecided::Unknown(why)),
            Err(error) => Err(NotDecided::NotStored(problem(error))),
        }
    }

    /// Appends the record with this body after `place`. Returns its place.
    async fn send(
        &mut self,
        place: StreamPlace,
        body: &RecordBody,
        patience: SendPatience,
    ) -> Result<StreamPlace, NotSent> {
        let (record, next) = place.following(body);
        let began = self.clock.now();
        let sent = send(&*self.stream, &*self.clock, place.stream, &record, patience).await;
        self.away_since = match sent {
            Err(NotSent::Away(_)) => self.away_since.or(Some(began)),
            _ => None,
        };
        sent.map(|()| next)
    }

    /// The patience for a record that nobody waits for while the engine is away.
    fn patience(&self, within: Duration) -> SendPatience {
        let now = self.clock.now();
        SendPatience { deadline: now + within, away_until: now, pause: self.config.pause }
    }

    /// The patience for a part of a group: an engine that is away for a moment costs a pause. Once
    /// it is away for longer, groups are refused soon.
    fn patience_for_group(&self) -> SendPatience {
        let within = self.config.decide_within;
        let away_since = self.away_since.unwrap_or_else(|| self.clock.now());
        SendPatience { away_until: away_since + within, ..self.patience(within) }
    }

    async fn beat(&mut self, tail: LeadersTail) {
        let patience = self.patience(self.config.decide_within);
        match self.send(tail.place, &RecordBody::Heartbeat, patience).await {
            Ok(place) => {
                self.leads = Some(LeadersTail { place, appended: self.clock.now(), ..tail });
            }
            // The stream is full, for example. The next heartbeat tries again.
            Err(NotSent::Refused(why) | NotSent::Away(why)) => {
                tracing::warn!(why, "the stream did not take a heartbeat");
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
        // Heartbeats after the last group change no log.
        if !(tail.last_group..=tail.place.stream).contains(&group.base) {
            let why = "its log does not have all groups of the stream".to_owned();
            self.step_down(why.clone());
            return Err(NotDecided::NotLeading(why));
        }
        let parts = parts_of(&group.bytes, self.config.part_bytes);
        for (index, part) in parts.iter().enumerate() {
            match self.send(tail.place, part, self.patience_for_group()).await {
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
        let goes_on = matches!(error, NotSent::Refused(_) | NotSent::Away(_)) && index == 0;
        let why = problem(error);
        if !goes_on {
            self.step_down(why.clone());
        }
        match (is_unknown, goes_on) {
            (true, _) => NotDecided::Unknown(why),
            (_, true) => NotDecided::NotStored(why),
            _ => NotDecided::NotLeading(why),
        }
    }
}

fn problem(error: NotSent) -> String {
    match error {
        NotSent::Refused(why) | NotSent::Away(why) | NotSent::Unknown(why) => why,
        NotSent::Overtaken => "another node has written to the stream since".to_owned(),
        NotSent::Fenced => "the engine is deciding about a record of somebody else".to_owned(),
    }
}
