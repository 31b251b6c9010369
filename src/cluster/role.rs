//! The role of a node: it follows the stream, and leads when nobody else does.
//!
//! ```text
//!            silence for the lease: announce;  the own announcement is read back
//! following ─────────────────────────────────────────────────────────────────────▶ leading
//!           ◀─────────────────────────────────────────────────────────────────────
//!                                      the writer stepped down
//!      └──────────────── nothing more can be applied ──▶ stopped ◀── the broker failed ──┘
//! ```
//!
//! One task plays the role: it reads the stream through the chain, has the broker apply each group,
//! and keeps the time of the lease. Each record of the leader renews the lease. After a silence the
//! engine is asked for the tail, because records may be there that did not come yet; only a node
//! that has read and applied all of them announces itself.
//!
//! # Why
//!
//! Whether a node leads is decided by the stream alone: by the one place after the last record, and
//! by who reads its own announcement there. The clock only says when it is worth a try, so it may
//! be wrong, or stand still, without harm.
//!
//! The waits have some chance in them, so that two candidates seldom meet. If they do, the fence
//! refuses one of them, and it reads the record of the other.
//!
//! A group that cannot be applied for now, because the disk is full, is tried again. What cannot
//! change by itself ends the role: a break of the chain, a group that does not follow the log, a
//! log that takes no more. Then the node says so, and readers are served what it has.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::chain::{Assembler, ChainBreak, StreamPlace, TakenRecord};
use super::clock::{SteadyClock, until};
use super::record::FleetLeader;
use super::replicated_log::ReplicatedLog;
use super::role_end::RoleEnd;
use super::status::{NodeRole, NodeStatus};
use super::stream::{Stream, StreamError, StreamFuture, StreamSequence};
use super::writer::StreamWriter;
use crate::broker::Leadership;
use crate::error::{Error, Result, with_causes};
use crate::log::Group;
use crate::polls::joined;

/// The bytes from which on a group is decoded on another thread: less takes about a millisecond.
const LARGE_GROUP_BYTES: usize = 256 << 10;

/// The silences in a row, with records in the engine, after which a reader is given up.
const MAX_LAGS: u32 = 2;

const HANDS_OVER: &str = "it hands the lead over";

const STORES_NOTHING: &str = "its broker stores nothing more";

/// What a role leads, or has follow: the broker. In simulations it is something smaller.
pub(super) trait LedBroker: Send + Sync + 'static {
    /// Applies a group of the stream, as [`Broker::apply`](crate::Broker) does.
    fn apply(&self, group: Group) -> StreamFuture<'_, Result<()>>;

    /// Changes who decides.
    fn lead(&self, leadership: Leadership) -> StreamFuture<'_, Result<()>>;

    /// Checks that something can be stored here.
    fn check(&self) -> Result<()>;

    /// Waits until nothing more can be stored here.
    fn ended(&self) -> StreamFuture<'_, ()>;
}

/// What a role needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct RoleParts {
    pub(super) broker: Arc<dyn LedBroker>,
    pub(super) log: Arc<ReplicatedLog>,
    pub(super) stream: Arc<dyn Stream>,
    pub(super) clock: Arc<dyn SteadyClock>,
    pub(super) writer: StreamWriter,
    pub(super) status: Arc<watch::Sender<NodeStatus>>,
    /// Cancelled when the role is to end. A leader then leads on, until its writer resigns.
    pub(super) stopping: CancellationToken,
    /// Cancelled when the node is to lead no longer, and never again; it follows until it stops.
    pub(super) retiring: CancellationToken,
    /// The node as it announces itself.
    pub(super) node: FleetLeader,
    /// The silence of a leader after which another node may announce itself.
    pub(super) lease: Duration,
    /// The time after which the log's place is moved over records that change no log.
    pub(super) move_every: Duration,
    /// The seed of the waits.
    pub(super) seed: u64,
}

/// The task that plays the role of a node.
pub(super) struct RoleTask {
    parts: RoleParts,
    random: StdRng,
    /// The time of the last record, or of the last look at the tail, and the silence after it that
    /// is too long.
    heard: Duration,
    patience: Duration,
    /// The silences in a row in which the engine had records that the reader did not give.
    lags: u32,
    /// The place up to which all groups are applied, while the node follows.
    reached: Option<StreamPlace>,
    /// The time at which the log's place was moved last.
    moved: Duration,
    /// The last term that this node has led.
    led: u64,
    /// The other node that leads in the present term, if its announcement was read, until it
    /// resigns.
    announced: Option<FleetLeader>,
}

/// Takes a record, as [`Assembler::take`] does. A large group is decoded on a thread that may
/// block, so that the worker is free for others.
async fn take_apart(
    assembler: &mut Assembler,
    at: StreamSequence,
    record: Bytes,
) -> Result<TakenRecord, ChainBreak> {
    if assembler.pending_bytes() + record.len() < LARGE_GROUP_BYTES {
        return assembler.take(at, &record);
    }
    let place = assembler.place();
    let mut moved = std::mem::replace(assembler, Assembler::after(place));
    let taking = tokio::task::spawn_blocking(move || {
        let taken = moved.take(at, &record);
        (moved, taken)
    });
    let (moved, taken) = joined(taking).await;
    *assembler = moved;
    taken
}

impl RoleTask {
    pub(super) fn new(parts: RoleParts) -> Self {
        let now = parts.clock.now();
        let random = StdRng::seed_from_u64(parts.seed);
        let mut task = Self {
            parts,
            random,
            heard: now,
            patience: Duration::ZERO,
            lags: 0,
            reached: None,
            moved: now,
            led: 0,
            announced: None,
        };
        task.patience = task.lease();
        task
    }

    /// Plays the role until its end, and returns why it ended.
    pub(super) async fn run(mut self) -> RoleEnd {
        let stopping = self.parts.stopping.clone();
        let watching = watch_tail(self.parts.clone());
        let end = tokio::select! {
            biased;
            () = stopping.cancelled() => RoleEnd::Closed,
            end = self.play() => end,
            never = watching => match never {},
        };
        if end != RoleEnd::Closed {
            // Nothing more is decided here: what callers ask for is left to the next leader.
            let _takes_nothing_more = self.parts.broker.lead(Leadership::Follows).await;
        }
        if let Some(place) = self.reached.filter(|_| end == RoleEnd::Closed) {
            // Moves the log's place, so that the stream can be trimmed up to here.
            let moving = Group { applied: place.applied(), ..Group::default() };
            let _is_closed_or_further = self.parts.broker.apply(moving).await;
        }
        let problem = match &end {
            RoleEnd::Closed => None,
            RoleEnd::Stopped(problem)
            | RoleEnd::NeedsOpening(problem)
            | RoleEnd::Breaks(_, problem)
            | RoleEnd::Behind(problem) => {
                tracing::error!(problem, "this node takes no part in its fleet any more");
                Some(problem.clone())
            }
        };
        self.show(|status| {
            let (role, leader) = (NodeRole::Stopped, None);
            *status = NodeStatus {
                role,
                leader,
                problem,
                fell_behind: matches!(end, RoleEnd::Behind(_)),
                needs_opening: matches!(end, RoleEnd::NeedsOpening(_)),
                breaks_at: if let RoleEnd::Breaks(at, _) = &end { Some(*at) } else { None },
                ..status.clone()
            };
        });
        end
    }

    async fn play(&mut self) -> RoleEnd {
        loop {
            let place = match self.follow().await {
                Ok(place) => place,
                Err(end) => return end,
            };
            if let Err(end) = self.lead(place).await {
                return end;
            }
        }
    }

    /// Follows the stream until this node leads. Returns the place of its announcement, up to which
    /// the log has applied everything.
    async fn follow(&mut self) -> Result<StreamPlace, RoleEnd> {
        let mut assembler = Assembler::after(self.parts.log.place());
        loop {
            if let Some(place) = self.read_on(&mut assembler).await? {
                return Ok(place);
            }
            self.pause().await;
        }
    }

    /// Reads on until this node leads; `None` if reading ends before.
    async fn read_on(&mut self, assembler: &mut Assembler) -> Result<Option<StreamPlace>, RoleEnd> {
        let stream = self.parts.stream.clone();
        let mut reader = match stream.read(assembler.place().stream.next()).await {
            Ok(reader) => reader,
            Err(error) => return self.cannot_read(error).map(|()| None),
        };
        loop {
            let deadline = self.heard + self.patience;
            match until(&*self.parts.clock, deadline, reader.next()).await {
                Some(Ok((at, record))) => {
                    let taken = take_apart(assembler, at, record).await?;
                    if let Some(place) = self.take(taken, assembler).await? {
                        return Ok(Some(place));
                    }
                }
                Some(Err(error)) => return self.cannot_read(error).map(|()| None),
                None => self.stand(assembler.place()).await?,
            }
            if self.lags > MAX_LAGS {
                self.lags = 0;
                self.note("the engine does not give the records that it has".to_owned());
                return Ok(None);
            }
        }
    }

    /// Does what a record asks for. Returns its place if it is the announcement of this node.
    async fn take(
        &mut self,
        taken: TakenRecord,
        assembler: &Assembler,
    ) -> Result<Option<StreamPlace>, RoleEnd> {
        let place = assembler.place();
        self.show(|status| {
            status.terms += u64::from(place.term > status.term);
            (status.read, status.term) = (place.stream, place.term);
            status.tail = status.tail.max(place.stream);
            status.problem = None;
        });
        let mut patience = self.lease();
        match taken {
            TakenRecord::Group(group) => self.apply(*group, place).await?,
            TakenRecord::Announced { leader, .. } => {
                let (node, term) = (&leader.node, place.term);
                tracing::info!(node, term, "a node leads the fleet");
                let is_own = leader == self.parts.node;
                self.announced = Some(leader.clone()).filter(|_| !is_own);
                self.show(|status| status.leader = Some(leader));
                if is_own && place.term > self.led {
                    self.move_to(place).await?;
                    return Ok(Some(place));
                }
            }
            TakenRecord::Resigned => {
                self.announced = None;
                self.show(|status| (status.leader, status.resigned) = (None, status.term));
                patience = self.part_of_lease(6);
            }
            TakenRecord::Founded(_)
            | TakenRecord::Heartbeat
            | TakenRecord::Part
            | TakenRecord::Skipped => {}
        }
        if self.parts.status.borrow().leader.is_none()
            && let Some(leader) = self.announced.clone()
        {
            // The leader was silent for longer than its lease, and is back before another node
            // took over.
            self.show(|status| status.leader = Some(leader));
        }
        if assembler.is_between_groups() {
            self.reached = Some(place);
            self.show(|status| status.reached = place.stream);
            if self.parts.clock.now() >= self.moved + self.parts.move_every {
                self.move_to(place).await?;
            }
        }
        (self.heard, self.patience, self.lags) = (self.parts.clock.now(), patience, 0);
        Ok(None)
    }

    /// Has the broker apply a group, as often as it takes.
    async fn apply(&mut self, group: Group, place: StreamPlace) -> Result<(), RoleEnd> {
        let group = Group { applied: place.applied(), ..group };
        loop {
            let applied = self.parts.broker.apply(group.clone()).await;
            match self.parts.log.noted(applied) {
                Ok(()) => break,
                Err(error @ (Error::DiskFull { .. } | Error::NotWritten(_))) => {
                    self.note(with_causes(&error));
                    self.pause().await;
                }
                Err(error) => return Err(RoleEnd::cannot_apply(place.stream, error)),
            }
        }
        self.show(|status| status.applied = place.stream);
        Ok(())
    }

    /// Moves the log's place over records that change no log.
    async fn move_to(&mut self, place: StreamPlace) -> Result<(), RoleEnd> {
        if self.parts.log.place().stream < place.stream {
            self.apply(Group::default(), place).await?;
        }
        self.moved = self.parts.clock.now();
        Ok(())
    }

    /// After a silence: announces this node if it has read all that there is after nobody else.
    async fn stand(&mut self, place: StreamPlace) -> Result<(), RoleEnd> {
        self.parts.broker.check()?; // Who can store nothing must not lead.
        self.patience = self.lease();
        self.heard = self.parts.clock.now();
        if self.parts.retiring.is_cancelled() {
            return Ok(());
        }
        self.show(|status| status.leader = None);
        match self.parts.stream.tail().await {
            Ok(tail) if tail > place.stream => self.lags += 1,
            Ok(tail) => {
                if tail < place.stream {
                    self.note(format!(
                        "the engine says that the stream ends at record {tail}, and this node has \
                         read record {}: NATS has lost records, or is behind, or fleet.name is \
                         that of another fleet",
                        place.stream
                    ));
                }
                self.announce(place).await;
            }
            Err(error) => {
                self.note(error.to_string());
                self.patience = self.parts.lease / 3;
            }
        }
        self.heard = self.parts.clock.now();
        Ok(())
    }

    /// Announces this node, unless the others would refuse what it decides; its status says so
    /// then.
    async fn announce(&mut self, place: StreamPlace) {
        if self.parts.status.borrow().is_among_strangers {
            return;
        }
        self.show(|status| status.announcements += 1);
        // The fence knows the true tail.
        if let Err(error) = self.parts.writer.announce(place).await {
            self.note(format!("this node cannot lead: {error}"));
        }
    }

    /// Leads from `place` on, until that is over.
    async fn lead(&mut self, place: StreamPlace) -> Result<(), RoleEnd> {
        let term = place.term;
        self.led = term;
        self.reached = None;
        let RoleParts { broker, log, clock, writer, lease, retiring, .. } = self.parts.clone();
        writer.lead(place).await;
        if let Err(error) = broker.lead(Leadership::Leads).await {
            writer.resign(STORES_NOTHING.to_owned()).await;
            return Err(error.into());
        }
        tracing::info!(term, "this node leads the fleet");
        self.show(|status| (status.role, status.problem) = (NodeRole::Leading, None));
        let why = loop {
            let over = tokio::select! {
                biased;
                () = broker.ended() => {
                    // A leader that decides nothing, and is believed to lead, would be the worst.
                    writer.resign(STORES_NOTHING.to_owned()).await;
                    broker.check()?;
                    return Err(RoleEnd::Stopped(STORES_NOTHING.to_owned()));
                }
                () = retiring.cancelled() => {
                    // What was handed in so far is decided here, what comes later by another node.
                    broker.lead(Leadership::Follows).await?;
                    writer.resign(HANDS_OVER.to_owned()).await;
                    break HANDS_OVER.to_owned();
                }
                over = until(&*clock, clock.now() + lease / 3, writer.stepped_down(term)) => over,
            };
            if let Some(why) = over {
                break why;
            }
            let reached = log.place().stream;
            self.show(|status| status.move_to(reached));
        };
        broker.lead(Leadership::Follows).await?;
        tracing::warn!(term, why, "this node leads no longer, and follows");
        let reached = log.place().stream;
        self.show(|status| {
            status.move_to(reached);
            (status.role, status.leader) = (NodeRole::Following, None);
            status.problem = Some(format!("this node leads no longer: {why}"));
        });
        (self.heard, self.patience) = (clock.now(), self.lease());
        Ok(())
    }

    fn cannot_read(&self, error: StreamError) -> Result<(), RoleEnd> {
        match error {
            StreamError::Away(_) => {
                self.note(error.to_string());
                Ok(())
            }
            StreamError::Trimmed { .. } => Err(RoleEnd::Behind(format!(
                "{error}, and this node needs them: it was away for too long, and cannot catch up"
            ))),
            StreamError::Broken(_) => Err(RoleEnd::Stopped(error.to_string())),
        }
    }

    /// Returns the silence after which the leader is believed to be gone.
    fn lease(&mut self) -> Duration {
        self.parts.lease + self.part_of_lease(3)
    }

    /// Returns a random time of up to this part of the lease.
    fn part_of_lease(&mut self, part: u32) -> Duration {
        let longest = (self.parts.lease / part).as_millis() as u64;
        Duration::from_millis(self.random.random_range(0..=longest))
    }

    async fn pause(&mut self) {
        let time = self.parts.lease / 10 + self.part_of_lease(10);
        self.parts.clock.sleep_until(self.parts.clock.now() + time).await;
    }

    fn show(&self, change: impl FnOnce(&mut NodeStatus)) {
        let now = self.parts.clock.now();
        self.parts.status.send_modify(|status| {
            change(status);
            status.note_progress(now);
        });
    }

    fn note(&self, problem: String) {
        tracing::debug!(problem, "a problem with the fleet's stream");
        self.show(|status| status.problem = Some(problem));
    }
}

/// Asks the engine for the tail now and then, so that the status says how far behind the node is.
async fn watch_tail(parts: RoleParts) -> Infallible {
    let RoleParts { stream, clock, status, lease, .. } = parts;
    loop {
        let reached = status.borrow().reached;
        let tail = stream.tail().await;
        status.send_if_modified(|status| {
            let before = (status.tail, status.engine_problem.take());
            match &tail {
                Ok(tail) => {
                    status.note_tail(*tail, reached, clock.now());
                    status.note_progress(clock.now());
                }
                Err(error) => status.note_no_tail(error.to_string()),
            }
            before != (status.tail, status.engine_problem.clone())
        });
        clock.sleep_until(clock.now() + lease / 3).await;
    }
}
