//! The forwarder of a node: sends what its callers ask for to the node that leads, and answers
//! them.
//!
//! ```text
//! forward queue ──▶ pending, in order ──▶ link to the leader
//! caller ◀── done: waits until this node has applied it ◀── outcome
//! ```
//!
//! # Why
//!
//! Commands are sent in the order in which the committer put them into the queue, and sent again in
//! that order. If one of them must be sent again, nothing more is sent over the link until all that
//! were sent are answered: otherwise a later publish of the same publisher could overtake it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::attempts::ConnectAttempts;
use super::link::{LeaderLink, NoLink};
use super::messages;
use super::pending::PendingCommands;
use crate::broker::{Ack, ForwardQueue, Forwarded};
use crate::cluster::links::LinkConfig;
use crate::cluster::proto::{CommandOutcome, ForwardedCommand, ForwardedCommands};
use crate::cluster::record::FleetLeader;
use crate::cluster::status::{NodeRole, NodeStatus};
use crate::cluster::stream::StreamSequence;
use crate::error::Error;

/// The most bytes of events, and the most commands, of one message, unless one command has more.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
const MAX_MESSAGE_COMMANDS: usize = 1_024;

/// The most commands that are given up, or sent again, before other tasks get the worker: some
/// hundred nanoseconds each.
const MAX_TURN_COMMANDS: usize = 256;

/// What a forwarder needs.
pub(in crate::cluster) struct ForwarderParts {
    pub(in crate::cluster) queue: ForwardQueue,
    pub(in crate::cluster) status: watch::Receiver<NodeStatus>,
    pub(in crate::cluster) incarnation: u64,
    pub(in crate::cluster) links: LinkConfig,
    /// The silence of a leader after which another node leads.
    pub(in crate::cluster) lease: Duration,
}

/// The numbers of commands since the node was opened.
#[derive(Debug, Default)]
pub(in crate::cluster) struct ForwardCounts {
    /// Those that were answered, and the time that these took together, in microseconds.
    pub(in crate::cluster) answered: AtomicU64,
    pub(in crate::cluster) micros: AtomicU64,
    /// Those that were sent again after a leader was lost.
    pub(in crate::cluster) repeated: AtomicU64,
    /// Those whose callers were told that nobody knows.
    pub(in crate::cluster) unknown: AtomicU64,
}

/// What is asked of a forwarder by its own node.
enum Order {
    /// Give everything back to the committer: this node leads from now on.
    GiveBack(oneshot::Sender<()>),
    /// End once everything is answered.
    Finish(oneshot::Sender<()>),
}

/// A handle of a forwarder. Cheap to clone.
#[derive(Clone)]
pub(in crate::cluster) struct ForwarderHandle {
    orders: mpsc::Sender<Order>,
    pub(in crate::cluster) counts: Arc<ForwardCounts>,
}

impl ForwarderHandle {
    /// Gives everything that is not answered back to the committer, in order, before this node
    /// leads.
    pub(in crate::cluster) async fn give_back(&self) {
        self.order(Order::GiveBack).await;
    }

    /// Waits until everything is answered, for as long as that takes. The forwarder ends then.
    pub(in crate::cluster) async fn finish(&self) {
        self.order(Order::Finish).await;
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, is_done) = oneshot::channel();
        let _has_ended = self.orders.send(order(done)).await;
        let _has_ended = is_done.await;
    }
}

/// A command that was carried out, and whose caller is answered once this node shows its effect.
struct DoneCommand {
    command: Forwarded,
    acks: Vec<Ack>,
    applied: StreamSequence,
    deadline: Instant,
}

type LinkConnecting =
    Pin<Box<dyn Future<Output = std::result::Result<Box<LeaderLink>, NoLink>> + Send>>;

/// The task of a node that sends commands to the leader.
pub(in crate::cluster) struct Forwarder {
    parts: ForwarderParts,
    orders: mpsc::Receiver<Order>,
    counts: Arc<ForwardCounts>,
    pending: PendingCommands,
    done: VecDeque<DoneCommand>,
    link: Option<Box<LeaderLink>>,
    /// The attempt to connect to [`Self::leader`] that is under way.
    connecting: Option<LinkConnecting>,
    attempts: ConnectAttempts,
    /// When a link to a former leader is given up.
    gives_up_link: Option<Instant>,
    /// When the next attempt is due, if there is a leader to connect to.
    waits_until: Option<Instant>,
    /// The leader as it was looked at last.
    leader: Option<FleetLeader>,
    finishing: Option<oneshot::Sender<()>>,
    /// The commands that were given up or are sent again, to rest after some.
    handled: usize,
}

/// What happened.
enum Happened {
    Taken(VecDeque<Forwarded>),
    Outcomes(Option<Vec<(u64, CommandOutcome)>>),
    Room(Option<mpsc::OwnedPermit<ForwardedCommands>>),
    Connected(std::result::Result<Box<LeaderLink>, NoLink>),
    Ordered(Option<Order>),
    StatusChanged(bool),
    Time,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.answer_done(true);
        for place in self.pending.sent_places() {
            self.lose_one(place);
        }
        let why = self.why_nobody_is_asked();
        while let Some(place) = self.pending.first() {
            self.give_up_one(place, why.as_deref());
        }
        self.parts.queue.end();
    }
}

impl Forwarder {
    pub(in crate::cluster) fn new(parts: ForwarderParts) -> (Self, ForwarderHandle) {
        let (sends, orders) = mpsc::channel(1);
        let counts = Arc::new(ForwardCounts::default());
        let forwarder = Self {
            parts,
            orders,
            counts: counts.clone(),
            pending: PendingCommands::default(),
            done: VecDeque::new(),
            link: None,
            connecting: None,
            attempts: ConnectAttempts::new(),
            gives_up_link: None,
            waits_until: None,
            leader: None,
            finishing: None,
            handled: 0,
        };
        (forwarder, ForwarderHandle { orders: sends, counts })
    }

    /// Runs until it is finished, or its handles are gone.
    pub(in crate::cluster) async fn run(mut self) {
        loop {
            self.look().await;
            if self.finishing.is_some() && self.pending.is_empty() && self.parts.queue.is_empty() {
                break;
            }
            match self.next().await {
                Happened::Taken(commands) => {
                    for command in commands {
                        let deadline = Instant::from_std(command.left()) + self.patience();
                        self.pending.push(command, deadline);
                    }
                }
                Happened::Outcomes(Some(outcomes)) => {
                    outcomes.into_iter().for_each(|(place, it)| self.take_outcome(place, it));
                }
                Happened::Outcomes(None) | Happened::Room(None) => self.lose_link().await,
                Happened::Room(Some(room)) => self.send(room),
                Happened::Connected(Ok(link)) => {
                    (self.connecting, self.link) = (None, Some(link));
                    self.attempts.take_success();
                }
                Happened::Connected(Err(no_link)) => {
                    self.connecting = None;
                    self.attempts.take_failure(no_link);
                }
                Happened::Ordered(Some(Order::GiveBack(done))) => {
                    self.give_back().await;
                    let _role_is_gone = done.send(());
                }
                Happened::Ordered(Some(Order::Finish(done))) => self.finishing = Some(done),
                Happened::Ordered(None) | Happened::StatusChanged(false) => break,
                Happened::StatusChanged(true) => {}
                Happened::Time => self.give_up_until(Some(Instant::now())).await,
            }
        }
        let finishing = self.finishing.take();
        drop(self); // All is answered, and nothing is accepted any more, when this is told.
        if let Some(done) = finishing {
            let _node_is_gone = done.send(());
        }
    }

    /// The time in which a command is carried out, or its caller is told that it was not: more than
    /// a change of the leader takes, and than a leader needs to give up itself.
    fn patience(&self) -> Duration {
        self.parts.lease * 3 + Duration::from_secs(6)
    }

    async fn next(&mut self) -> Happened {
        let first_deadline = self.pending.first_deadline();
        let done_deadline = self.done.front().map(|done| done.deadline);
        let time = first_deadline.into_iter().chain(done_deadline).chain(self.waits_until).min();
        let has_unsent = self.pending.first_unsent().is_some();
        let is_ending = self.link.as_ref().is_some_and(|link| link.is_ending);
        let Self { parts, orders, link, connecting, .. } = self;
        let linked = async {
            let Some(link) = link else { return std::future::pending().await };
            let sends = link.sends.clone();
            let room = async {
                match has_unsent && !is_ending {
                    true => sends.reserve_owned().await.ok(),
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                outcomes = link.outcomes() => Happened::Outcomes(outcomes),
                room = room => Happened::Room(room),
            }
        };
        let connected = async {
            match connecting {
                Some(connecting) => connecting.await,
                None => std::future::pending().await,
            }
        };
        let over = async {
            match time {
                Some(time) => sleep_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = orders.recv() => Happened::Ordered(order),
            changed = parts.status.changed() => Happened::StatusChanged(changed.is_ok()),
            happened = linked => happened,
            connected = connected => Happened::Connected(connected),
            taken = parts.queue.take() => Happened::Taken(taken),
            () = over => Happened::Time,
        }
    }

    /// Looks at who leads, and at what this node has applied: answers callers, and connects.
    async fn look(&mut self) {
        self.answer_done(false);
        self.look_who_leads();
        self.end_old_link().await;
        if self.can_ask_nobody() {
            self.give_up_until(None).await;
        }
        self.connect().await;
    }

    /// Whether what is to be sent cannot be sent for long: waiting would be of no use to callers.
    fn can_ask_nobody(&self) -> bool {
        if self.link.is_some() || self.connecting.is_some() || self.pending.is_empty() {
            return false;
        }
        self.attempts.are_in_vain(&self.parts.status.borrow(), self.leader.is_some())
    }

    /// Returns why nobody can be asked, for people; `None` if there is just no leader.
    fn why_nobody_is_asked(&self) -> Option<String> {
        self.attempts.why_nobody_is_asked(&self.parts.status.borrow())
    }

    /// Gives up the commands that are due at this time, or all of them. All wait equally long, so
    /// the first ones are due first.
    async fn give_up_until(&mut self, due: Option<Instant>) {
        let why = self.why_nobody_is_asked();
        while let Some(place) = self.pending.first()
            && due.is_none_or(|due| self.pending.first_deadline() <= Some(due))
        {
            self.give_up_one(place, why.as_deref());
            self.rest().await;
        }
    }

    fn give_up_one(&mut self, place: u64, why: Option<&str>) {
        let unknown = self.pending.give_up_one(place, why);
        self.count_unknown(unknown);
    }

    /// Lets others use the worker, after some commands.
    async fn rest(&mut self) {
        self.handled = self.handled.wrapping_add(1);
        if self.handled.is_multiple_of(MAX_TURN_COMMANDS) {
            tokio::task::yield_now().await;
        }
    }

    /// Notes a new leader: the link to the former one ends.
    fn look_who_leads(&mut self) {
        let leader = {
            let status = self.parts.status.borrow_and_update();
            let is_other = |leader: &&FleetLeader| leader.incarnation != self.parts.incarnation;
            status.leader.as_ref().filter(is_other).cloned()
        };
        if self.leader == leader {
            return;
        }
        (self.leader, self.connecting) = (leader, None);
        self.attempts.begin_anew();
        // What the former leader still has to say is waited for, for a while.
        if let Some(link) = &mut self.link {
            link.is_ending = true;
            self.gives_up_link = Some(Instant::now() + self.parts.lease / 6);
        }
    }

    /// Ends a link to a former leader once it has answered everything, or its time is over.
    async fn end_old_link(&mut self) {
        if self.gives_up_link.is_some_and(|time| time <= Instant::now()) {
            self.lose_link().await;
        }
        if self.link.as_ref().is_some_and(|link| link.is_ending && !link.has_sent()) {
            // All is answered: what is to be repeated is sent over another one.
            (self.link, self.gives_up_link) = (None, None);
            self.attempts.wait();
        }
    }

    /// Connects to the leader, if there is something to send and an attempt is due.
    async fn connect(&mut self) {
        self.waits_until = self.gives_up_link;
        let wants_link = self.link.is_none() && self.connecting.is_none();
        let Some(leader) = self.leader.clone().filter(|_| wants_link && !self.pending.is_empty())
        else {
            return;
        };
        if leader.address.is_empty() {
            return self.give_up_until(None).await; // It has told none: nobody can reach it.
        }
        if Instant::now() < self.attempts.next {
            self.waits_until = Some(self.attempts.next);
        } else {
            let wait = self.parts.lease.max(Duration::from_secs(1));
            let connecting = LeaderLink::connect(leader, self.parts.links.clone(), wait);
            let connecting = async { connecting.await.map(Box::new) };
            self.connecting = Some(Box::pin(connecting));
        }
    }

    async fn lose_link(&mut self) {
        (self.link, self.gives_up_link) = (None, None);
        for place in self.pending.sent_places() {
            self.lose_one(place);
            self.rest().await;
        }
    }

    /// The link over which a command was sent is lost.
    fn lose_one(&mut self, place: u64) {
        let Some(unknown) = self.pending.lose_one(place) else {
            self.counts.repeated.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.count_unknown(unknown);
    }

    /// Counts callers who were told that nobody knows.
    fn count_unknown(&self, callers: u64) {
        self.counts.unknown.fetch_add(callers, Ordering::Relaxed);
    }

    /// Sends as many commands as one message has.
    fn send(&mut self, room: mpsc::OwnedPermit<ForwardedCommands>) {
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while commands.len() < MAX_MESSAGE_COMMANDS
            && bytes < MAX_MESSAGE_BYTES
            && let Some(place) = self.pending.first_unsent()
            && let Some(link) = &mut self.link
        {
            let Some((command, publisher)) = self.pending.next_sent(place) else { break };
            // A publish after one that has failed here is not sent at all.
            if command.comes_after_failure() {
                self.refuse(place, Error::AfterFailure);
                continue;
            }
            bytes += command.size_bytes();
            let number = link.number(place);
            commands.push(ForwardedCommand {
                number,
                command: Some(messages::command(command, publisher)),
            });
        }
        if let Some(link) = &self.link
            && !commands.is_empty()
        {
            room.send(ForwardedCommands { answered_below: link.answered_below(), commands });
        }
    }

    /// Takes the outcome of a command.
    fn take_outcome(&mut self, place: u64, outcome: CommandOutcome) {
        let Some(pending) = self.pending.get_mut(place) else { return };
        let applied = StreamSequence::new(outcome.stream_sequence);
        let took = pending.sent.map(|sent| sent.elapsed()).unwrap_or_default();
        match messages::read_outcome(outcome) {
            Ok(acks) => {
                self.attempts.shorten_pause();
                self.counts.answered.fetch_add(1, Ordering::Relaxed);
                self.counts.micros.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
                let Some(pending) = self.pending.remove(place) else { return };
                // Who follows far behind must not have its callers wait for ever.
                let deadline = Instant::now() + self.parts.lease;
                let command = pending.command;
                self.done.push_back(DoneCommand { command, acks, applied, deadline });
            }
            Err(error) => self.take_failure(place, error),
        }
    }

    fn take_failure(&mut self, place: u64, error: Error) {
        let Some(pending) = self.pending.get_mut(place) else { return };
        let is_repeatable = pending.command.is_repeatable();
        let (again, may_be_done) = match &error {
            // One that stores nothing more does not lead for long.
            Error::NotLeading | Error::ShuttingDown | Error::ReadOnly(_) => (true, false),
            // Has its publisher not failed here, then an earlier publish of it is to be sent again.
            Error::AfterFailure => (!pending.command.comes_after_failure(), false),
            error => (error.outcome_unknown() && is_repeatable, true),
        };
        if !again {
            return self.refuse(place, error);
        }
        self.pending.send_again(place, may_be_done);
        self.counts.repeated.fetch_add(1, Ordering::Relaxed);
        if let Some(link) = &mut self.link {
            link.is_ending = true;
        }
    }

    /// Answers the caller of a command with an error.
    fn refuse(&mut self, place: u64, error: Error) {
        let unknown = self.pending.refuse(place, error);
        self.count_unknown(unknown);
    }

    /// Answers the callers whose commands this node shows the effect of.
    fn answer_done(&mut self, all: bool) {
        let (role, applied) = {
            let status = self.parts.status.borrow();
            (status.role, status.applied.max(status.reached))
        };
        let now = Instant::now();
        // A node that leads has applied everything; one that has stopped never will.
        let all = all || role != NodeRole::Following;
        while let Some(first) = self.done.front()
            && (all || first.applied <= applied || first.deadline <= now)
        {
            if let Some(done) = self.done.pop_front() {
                done.command.succeed(done.acks);
            }
        }
    }

    /// Gives all commands that are not answered back to the committer.
    async fn give_back(&mut self) {
        self.lose_link().await;
        self.connecting = None;
        self.answer_done(true);
        self.parts.queue.give_back(self.pending.take());
    }
}
