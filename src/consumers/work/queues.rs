//! The queues of all shared consumers in use: the way of pulls and settlements to the dispatcher of
//! their consumer, which is started when it is needed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::config::WorkConfig;
use super::dispatcher::{Dispatcher, DispatcherParts, lock};
use super::finished::FinishedWork;
use super::records::WorkRecords;
use super::requests::{Leased, PullRequest, Settled, Settlement, WorkStatus};
use super::shared::SharedConsumer;
use super::totals::WorkTotals;
use super::work_commands::Command;
use crate::broker::{Broker, LeadTerm};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::polls;
use crate::topic::TopicName;

/// The most commands that wait for one dispatcher.
const MAX_COMMANDS: usize = 1_024;

/// The longest wait for room among them.
const MAX_QUEUE_WAIT: Duration = Duration::from_secs(1);

/// The longest wait for the queues of a node that begins to lead, and the time between two looks.
const MAX_BEGINNING: Duration = Duration::from_secs(5);
const BEGINNING_STEP: Duration = Duration::from_millis(5);

/// The queues of all shared consumers. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct WorkQueues(Arc<QueueParts>);

#[derive(Debug)]
struct QueueParts {
    broker: Broker,
    own_topic: TopicName,
    config: WorkConfig,
    records: Arc<Mutex<WorkRecords>>,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// The consumers in use, by number.
    by_number: HashMap<u64, Slot>,
    /// The numbers of consumers that are being deleted.
    ending: HashSet<u64>,
    /// The term in which this node leads, once it has all records; `None` before and after. Only
    /// the leader has queues.
    term: Option<LeadTerm>,
    /// The time of the steady clock at which the term began; `None` for a broker alone.
    led_since_ms: Option<u64>,
}

/// A consumer in use.
#[derive(Debug)]
struct Slot {
    commands: mpsc::Sender<Command>,
    /// The callers that hold the queue.
    users: usize,
    status: Arc<Mutex<WorkStatus>>,
    _task: AbortOnDropHandle<()>,
}

/// A caller's hold on a queue. As long as one is held, the dispatcher does not end.
struct Hold {
    queues: WorkQueues,
    number: u64,
    commands: mpsc::Sender<Command>,
}

/// A caller that waits for leases. Dropped before they came, it has the dispatcher look who is
/// left, so that nobody is told to wait who is gone.
struct WaitingCaller(Option<mpsc::Sender<Command>>);

impl Drop for WaitingCaller {
    fn drop(&mut self) {
        if let Some(commands) = self.0.take() {
            let _has_much_to_do = commands.try_send(Command::Undelivered(Vec::new()));
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(slot) = lock(&self.queues.0.slots).by_number.get_mut(&self.number) {
            slot.users -= 1;
        }
    }
}

/// The end of a consumer's queue, until the consumer is deleted: nothing begins for it meanwhile.
#[derive(Debug)]
pub(crate) struct QueueEnding {
    queues: WorkQueues,
    number: u64,
}

impl Drop for QueueEnding {
    fn drop(&mut self) {
        lock(&self.queues.0.slots).ending.remove(&self.number);
    }
}

impl WorkQueues {
    /// Returns the queues, with the records that are stored in `own_topic`. `term` is that in which
    /// this node led when they were read.
    pub(crate) fn new(
        broker: Broker,
        own_topic: TopicName,
        config: WorkConfig,
        records: WorkRecords,
        term: Option<LeadTerm>,
    ) -> Self {
        let led_since_ms = begin_ms(&broker);
        let slots = Mutex::new(Slots { term, led_since_ms, ..Slots::default() });
        let records = Arc::new(Mutex::new(records));
        Self(Arc::new(QueueParts { broker, own_topic, config, records, slots }))
    }

    /// Begins to lead, with all records there are, or ends to lead: then all queues end. Their
    /// leases hold, as the records say.
    pub(crate) fn lead(&self, term: Option<LeadTerm>) {
        let ended = {
            let mut slots = lock(&self.0.slots);
            if slots.term == term {
                return;
            }
            (slots.term, slots.led_since_ms) = (term, begin_ms(&self.0.broker));
            std::mem::take(&mut slots.by_number)
        };
        drop(ended); // Without the lock: it ends tasks.
    }

    /// Whether this node leads, and has queues. Waits for them if it has only begun to lead; not
    /// long.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(super) async fn begun(&self) -> bool {
        let mut until = None;
        loop {
            let (leads, now) = (self.leads(), Instant::now());
            if leads || !self.0.broker.leads() || now > *until.get_or_insert(now + MAX_BEGINNING) {
                return leads;
            }
            tokio::time::sleep(BEGINNING_STEP).await;
        }
    }

    /// Whether this node leads, and has queues.
    pub(crate) fn leads(&self) -> bool {
        self.term(&lock(&self.0.slots)).is_ok()
    }

    /// Returns the term in which this node leads, if it has queues.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`].
    fn term(&self, slots: &Slots) -> Result<LeadTerm> {
        let term = slots.term.filter(|term| self.0.broker.lead_term() == Some(*term));
        term.ok_or(Error::NotLeading)
    }

    /// Returns the numbers of the consumers that have sent dead letters.
    pub(crate) fn with_dead_letters(&self) -> Vec<u64> {
        lock(&self.0.records).with_dead_letters()
    }

    /// Returns the cursor up to which all events of a consumer are finished, if some were leased.
    pub(crate) fn floor(&self, number: u64) -> Option<Cursor> {
        lock(&self.0.records).floor(number)
    }

    /// Returns the totals of a consumer with its floor, which change with each event that comes to
    /// its end.
    pub(crate) fn progress(&self, number: u64) -> Option<(Cursor, WorkTotals)> {
        let records = lock(&self.0.records);
        records.of(number)?.floor.as_ref().map(|floor| (floor.cursor, floor.totals))
    }

    /// Returns the floor of a consumer, and the events above it that are finished, at one moment;
    /// `None` if no event was leased yet.
    pub(crate) async fn finished(&self, number: u64) -> Option<(Cursor, FinishedWork)> {
        let records = lock(&self.0.records).of(number).cloned()?;
        let floor = records.floor.as_ref()?.cursor;
        let mut buckets: Vec<_> = records.buckets.iter().collect();
        buckets.sort_unstable_by_key(|(bucket, _)| **bucket);
        let mut finished = FinishedWork::default();
        for (bucket, record) in buckets {
            finished.add(*bucket, record);
            polls::rest().await;
        }
        Some((floor, finished))
    }

    /// Forgets the records of a consumer that is deleted.
    pub(crate) fn forget(&self, number: u64) {
        lock(&self.0.records).forget(number);
    }

    /// Runs `look` on the stored records.
    pub(crate) fn with_records<T>(&self, look: impl FnOnce(&mut WorkRecords) -> T) -> T {
        look(&mut lock(&self.0.records))
    }

    /// As [`WorkQueue::pull`]. `describe` returns the consumer as it is.
    pub(super) async fn pull(
        &self,
        describe: impl FnOnce() -> Result<SharedConsumer>,
        request: PullRequest,
    ) -> Result<Vec<Leased>> {
        request.check()?;
        let (hold, consumer) = self.hold(describe)?;
        let (reply, granted) = oneshot::channel();
        hold.send(Command::Pull { consumer, request, reply }).await?;
        let mut waiting = WaitingCaller(Some(hold.commands.clone()));
        let granted = hold.answer(granted).await;
        waiting.0 = None;
        granted.map(|granted| granted.take())
    }

    /// As [`WorkQueue::settle`].
    pub(super) async fn settle(
        &self,
        describe: impl FnOnce() -> Result<SharedConsumer>,
        settlement: Settlement,
    ) -> Result<Settled> {
        let (hold, consumer) = self.hold(describe)?;
        settlement.check(consumer.number)?;
        if settlement.count() == 0 {
            return Ok(Settled::default());
        }
        let (reply, settled) = oneshot::channel();
        hold.send(Command::Settle { consumer, settlement, reply }).await?;
        hold.answer(settled).await
    }

    /// As [`WorkQueue::hasten`].
    pub(super) async fn hasten(
        &self,
        describe: impl FnOnce() -> Result<SharedConsumer>,
    ) -> Result<()> {
        let (hold, consumer) = self.hold(describe)?;
        let (reply, hastened) = oneshot::channel();
        hold.send(Command::Hasten { consumer, reply }).await?;
        hold.answer(hastened).await
    }

    /// Returns how a consumer stands.
    pub(super) fn status(&self, number: u64) -> WorkStatus {
        let shown = lock(&self.0.slots).by_number.get(&number).map(|slot| slot.status.clone());
        if let Some(status) = shown {
            let status = lock(&status).clone();
            if status.checkpoint.is_some() {
                return status;
            }
        }
        let records = lock(&self.0.records);
        records.of(number).map(|records| records.status()).unwrap_or_default()
    }

    /// Ends the queue of a consumer that is deleted. Nothing is written for the consumer after
    /// this, as long as the returned value lives.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the queue may or may not have ended; a pull begins it again.
    pub(crate) async fn end(&self, number: u64) -> QueueEnding {
        let commands = {
            let mut slots = lock(&self.0.slots);
            slots.ending.insert(number);
            slots.by_number.get(&number).map(|slot| slot.commands.clone())
        };
        let ending = QueueEnding { queues: self.clone(), number };
        if let Some(commands) = commands {
            let (ended, end) = oneshot::channel();
            // A dispatcher that is gone has ended.
            if commands.send(Command::End(ended)).await.is_ok() {
                let _ended = end.await;
            }
        }
        lock(&self.0.slots).by_number.remove(&number);
        ending
    }

    /// Takes hold of a consumer's queue, and starts its dispatcher if it does not run.
    fn hold(
        &self,
        describe: impl FnOnce() -> Result<SharedConsumer>,
    ) -> Result<(Hold, SharedConsumer)> {
        let mut slots = lock(&self.0.slots);
        let (term, led_since_ms) = (self.term(&slots)?, slots.led_since_ms);
        // Described under the lock: a consumer that is there is not deleted before it is held.
        let consumer = describe()?;
        let number = consumer.number;
        if slots.ending.contains(&number) {
            let problem = format!("{:?} is being deleted", consumer.name);
            return Err(Error::invalid("consumer", problem));
        }
        let limit = self.0.config.max_queues;
        let is_full = slots.by_number.len() as u64 >= limit;
        if slots.by_number.get(&number).is_some_and(|slot| slot.commands.is_closed()) {
            slots.by_number.remove(&number); // Its dispatcher failed, or the broker is stopping.
        }
        let slot = match slots.by_number.entry(number) {
            Entry::Occupied(slot) => slot.into_mut(),
            Entry::Vacant(_) if is_full => {
                return Err(Error::full("shared consumers in use", limit));
            }
            Entry::Vacant(place) => {
                place.insert(self.start(consumer.clone(), term, led_since_ms)?)
            }
        };
        slot.users += 1;
        let commands = slot.commands.clone();
        Ok((Hold { queues: self.clone(), number, commands }, consumer))
    }

    fn start(
        &self,
        consumer: SharedConsumer,
        term: LeadTerm,
        led_since_ms: Option<u64>,
    ) -> Result<Slot> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_outside| Error::NoRuntime)?;
        let parts = &self.0;
        let (commands, received) = mpsc::channel(MAX_COMMANDS);
        let status = Arc::<Mutex<WorkStatus>>::default();
        let number = consumer.number;
        let dispatcher = DispatcherParts {
            broker: parts.broker.clone(),
            term,
            led_since_ms,
            own_topic: parts.own_topic.clone(),
            config: parts.config.clone(),
            records: parts.records.clone(),
            status: status.clone(),
            own: commands.downgrade(),
        };
        let weak = Arc::downgrade(parts);
        let may_end = move || {
            let Some(parts) = weak.upgrade() else { return true };
            let mut slots = lock(&parts.slots);
            let is_unused = slots.by_number.get(&number).is_none_or(|slot| slot.users == 0);
            if is_unused {
                // The handle aborts the task at its next wait, and it waits for nothing more.
                slots.by_number.remove(&number);
            }
            is_unused
        };
        let run = Dispatcher::new(dispatcher, consumer).run(received, may_end);
        let run = polls::timed_about(polls::Task::Consumers, number, run);
        let _task = AbortOnDropHandle::new(runtime.spawn(run));
        Ok(Slot { commands, users: 0, status, _task })
    }
}

/// Returns the time at which a term begins, for a node of a fleet: that of the steady clock, later
/// than all that former leaders have stored.
fn begin_ms(broker: &Broker) -> Option<u64> {
    (!broker.is_alone()).then(|| broker.times().1)
}

impl Hold {
    async fn send(&self, command: Command) -> Result<()> {
        match self.commands.send_timeout(command, MAX_QUEUE_WAIT).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                let limit = MAX_COMMANDS as u64;
                Err(Error::crowded("the dispatcher of this consumer", limit))
            }
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(self.ended()),
        }
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        answer.await.unwrap_or_else(|_ended| Err(self.ended()))
    }

    /// Returns why the dispatcher has ended.
    fn ended(&self) -> Error {
        let broker = &self.queues.0.broker;
        match broker.check_ready() {
            Err(error) => error,
            Ok(()) if !broker.leads() => {
                let problem = "this node leads its fleet no longer";
                Error::LeaderLost(std::io::Error::other(problem).into())
            }
            Ok(()) => Error::invalid("consumer", "was deleted"),
        }
    }
}
