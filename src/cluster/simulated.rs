//! A stream for tests, in memory, which fails as a seed tells it to.
//!
//! Each node has a [`SimulatedStream`] of its own to the same records: a link that may be cut, or
//! be slow, alone. In a simulated world, the same seed gives the same run.
//!
//! What an engine may do and this one does, by [`StreamFaults`]: a request or an answer is lost, or
//! comes long after its sender has given up; a request arrives twice; the engine refuses, or is
//! away; the fence refuses because of a record that is never stored; what is read is not up to
//! date; a reader ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{oneshot, watch};

use super::clock::{RuntimeClock, SteadyClock, until};
use super::memory_messages::MemoryMessages;
use super::messages::{FleetMessages, MessageKind, MessageListener, NotTold};
use super::stream::*;

/// The work of a task.
pub(super) type WorldWork = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What runs the messages that are on their way: a runtime, or a simulated world.
pub(super) trait Surroundings: SteadyClock {
    /// Begins a task.
    fn spawn(&self, work: WorldWork);
}

impl Surroundings for RuntimeClock {
    fn spawn(&self, work: WorldWork) {
        tokio::spawn(work);
    }
}

/// How often, in a thousand times, the engine does what nobody wishes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StreamFaults {
    /// A request never arrives.
    pub(super) lost_requests: u32,
    /// An answer never arrives.
    pub(super) lost_answers: u32,
    /// A request arrives twice, the second time later.
    pub(super) duplicates: u32,
    /// A request or an answer takes up to [`Self::late`].
    pub(super) late_requests: u32,
    /// An append is refused.
    pub(super) refusals: u32,
    /// An append is taken by nobody.
    pub(super) absences: u32,
    /// The fence refuses because of a record that is never stored.
    pub(super) false_fences: u32,
    /// A stored record is not found.
    pub(super) stale_reads: u32,
    /// A reader ends before its next record.
    pub(super) broken_readers: u32,
    /// A message between nodes is lost.
    pub(super) lost_messages: u32,
    /// The longest way of a request, or of an answer. Without one, nothing takes any time.
    pub(super) delay: Duration,
    /// The longest way of a late one.
    pub(super) late: Duration,
    /// The time after which a caller gives up.
    pub(super) patience: Duration,
    /// Whether the engine does not look at the fence: what must never be.
    pub(super) has_no_fence: bool,
}

#[derive(Debug)]
struct Engine {
    records: VecDeque<Bytes>,
    first: StreamSequence,
    random: StdRng,
    faults: StreamFaults,
}

impl Engine {
    fn tail(&self) -> StreamSequence {
        StreamSequence::new(self.first.get() - 1 + self.records.len() as u64)
    }

    fn at(&self, at: StreamSequence) -> Option<&Bytes> {
        let index = at.get().checked_sub(self.first.get())?;
        self.records.get(usize::try_from(index).ok()?)
    }

    fn happens(&mut self, in_thousand: u32) -> bool {
        in_thousand > 0 && self.random.random_range(0..1_000) < in_thousand
    }

    fn delay(&mut self) -> Duration {
        let is_late = self.happens(self.faults.late_requests);
        let longest = if is_late { self.faults.late } else { self.faults.delay };
        let longest = longest.as_millis() as u64;
        Duration::from_millis(if longest == 0 { 0 } else { self.random.random_range(0..=longest) })
    }

    fn store(
        &mut self,
        after: StreamSequence,
        record: &Bytes,
    ) -> Result<StreamSequence, AppendError> {
        if self.happens(self.faults.absences) {
            return Err(AppendError::Away("as the seed says".to_owned()));
        }
        if self.happens(self.faults.refusals) {
            return Err(AppendError::Refused("as the seed says".to_owned()));
        }
        let is_next = after == self.tail() || self.faults.has_no_fence;
        if !is_next || self.happens(self.faults.false_fences) {
            return Err(AppendError::Fenced);
        }
        self.records.push_back(record.clone());
        Ok(self.tail())
    }
}

struct SharedStream {
    world: Arc<dyn Surroundings>,
    engine: Mutex<Engine>,
    /// The tail, for readers that wait.
    tail: watch::Sender<StreamSequence>,
    messages: MemoryMessages,
}

impl SharedStream {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, after: StreamSequence, record: &Bytes) -> Result<StreamSequence, AppendError> {
        let mut engine = self.engine();
        let outcome = engine.store(after, record);
        self.tail.send_replace(engine.tail());
        outcome
    }

    fn now(&self) -> Duration {
        self.world.now()
    }

    async fn sleep(&self, time: Duration) {
        if !time.is_zero() {
            self.world.sleep_until(self.now() + time).await;
        }
    }
}

/// A link to a simulated stream.
#[derive(Clone)]
pub(super) struct SimulatedStream {
    shared: Arc<SharedStream>,
    /// Until then, nothing goes through the link.
    cut_until: Arc<Mutex<Duration>>,
    /// Whether the link's readers stand still, as those of a slow node do.
    holds_readers: watch::Sender<bool>,
}

impl SimulatedStream {
    /// Returns a link to a new stream.
    pub(super) fn new(seed: u64, faults: StreamFaults, world: Arc<dyn Surroundings>) -> Self {
        let engine = Engine {
            records: VecDeque::new(),
            first: StreamSequence::new(1),
            random: StdRng::seed_from_u64(seed),
            faults,
        };
        let tail = watch::Sender::new(StreamSequence::BEFORE_ALL);
        let (engine, messages) = (Mutex::new(engine), MemoryMessages::default());
        let shared = SharedStream { world, engine, tail, messages };
        let holds_readers = watch::Sender::new(false);
        Self { shared: Arc::new(shared), cut_until: Arc::default(), holds_readers }
    }

    /// Returns another link to the same stream.
    pub(super) fn another_link(&self) -> Self {
        let holds_readers = watch::Sender::new(false);
        Self { shared: self.shared.clone(), cut_until: Arc::default(), holds_readers }
    }

    /// Makes the readers of this link stand still, or go on.
    pub(super) fn hold_readers(&self, holds: bool) {
        self.holds_readers.send_replace(holds);
    }

    /// Cuts the link for a while.
    pub(super) fn cut(&self, time: Duration) {
        let until = self.shared.now() + time;
        *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Replaces the faults of the stream, for all its links.
    pub(super) fn set_faults(&self, faults: StreamFaults) {
        self.shared.engine().faults = faults;
    }

    fn is_cut(&self) -> bool {
        let until = *self.cut_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.now() < until
    }

    /// Takes the time of a way, and checks that the link is not cut.
    async fn pass(&self) -> Result<(), StreamError> {
        let (way, patience) = {
            let mut engine = self.shared.engine();
            (engine.delay(), engine.faults.patience)
        };
        if self.is_cut() || way > patience {
            self.shared.sleep(patience).await;
            return Err(StreamError::Away("as the seed says".to_owned()));
        }
        self.shared.sleep(way).await;
        Ok(())
    }

    /// Sends a record. What happens to it does not depend on whether somebody waits for the answer.
    fn send(
        &self,
        after: StreamSequence,
        record: Bytes,
    ) -> oneshot::Receiver<Result<StreamSequence, AppendError>> {
        let (answer, answered) = oneshot::channel();
        let mut engine = self.shared.engine();
        let faults = engine.faults;
        let is_lost = engine.happens(faults.lost_requests) || self.is_cut();
        let is_unheard = engine.happens(faults.lost_answers);
        let ways = [engine.delay(), engine.delay()];
        let again = engine.happens(faults.duplicates).then(|| engine.delay());
        drop(engine);
        if is_lost {
            return answered;
        }
        let link = self.clone();
        if ways == [Duration::ZERO; 2] && again.is_none() {
            let outcome = link.shared.store(after, &record);
            if !is_unheard {
                let _sender_is_there = answer.send(outcome);
            }
            return answered;
        }
        self.shared.world.spawn(Box::pin(async move {
            link.shared.sleep(ways[0]).await;
            let outcome = link.shared.store(after, &record);
            let is_stored = outcome.is_ok(); // What was refused never comes again.
            link.shared.sleep(ways[1]).await;
            if !is_unheard && !link.is_cut() {
                let _sender_has_given_up = answer.send(outcome);
            }
            if let Some(again) = again.filter(|_| is_stored) {
                link.shared.sleep(again).await;
                let _nobody_hears_it = link.shared.store(after, &record);
            }
        }));
        answered
    }
}

impl Stream for SimulatedStream {
    fn append(
        &self,
        after: StreamSequence,
        record: Bytes,
    ) -> StreamFuture<'_, Result<StreamSequence, AppendError>> {
        Box::pin(async move {
            if record.is_empty() || record.len() > MAX_RECORD_BYTES {
                return Err(AppendError::Refused(format!("it has {} bytes", record.len())));
            }
            let patience = self.shared.engine().faults.patience;
            let deadline = self.shared.now() + patience;
            let answered = self.send(after, record);
            let lost = || Err(AppendError::Unknown("no answer came".to_owned()));
            match until(&*self.shared.world, deadline, answered).await {
                Some(Ok(outcome)) => outcome,
                Some(Err(_lost)) => {
                    self.shared.world.sleep_until(deadline).await;
                    lost()
                }
                None => lost(),
            }
        })
    }

    fn get(&self, at: StreamSequence) -> StreamFuture<'_, Result<Option<Bytes>, StreamError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut engine = self.shared.engine();
            let stale_reads = engine.faults.stale_reads;
            let is_stale = engine.happens(stale_reads);
            Ok(if is_stale { None } else { engine.at(at).cloned() })
        })
    }

    fn tail(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        Box::pin(async move {
            self.pass().await?;
            Ok(self.shared.engine().tail())
        })
    }

    fn first(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        Box::pin(async move {
            self.pass().await?;
            Ok(self.shared.engine().first)
        })
    }

    fn read(
        &self,
        from: StreamSequence,
    ) -> StreamFuture<'_, Result<Box<dyn StreamReader>, StreamError>> {
        Box::pin(async move {
            self.pass().await?;
            let tail = self.shared.tail.subscribe();
            let reader = SimulatedReader { link: self.clone(), next: from, tail, arrives: None };
            Ok(Box::new(reader) as Box<dyn StreamReader>)
        })
    }

    fn trim(&self, below: StreamSequence) -> StreamFuture<'_, Result<(), StreamError>> {
        Box::pin(async move {
            self.pass().await?;
            let mut engine = self.shared.engine();
            let below = below.min(engine.tail().next());
            while engine.first < below {
                engine.records.pop_front();
                engine.first = engine.first.next();
            }
            Ok(())
        })
    }
}

impl FleetMessages for SimulatedStream {
    fn tell(&self, kind: MessageKind, body: Bytes) -> Result<(), NotTold> {
        if self.is_cut() {
            return Err(NotTold::Away("the link is cut".to_owned()));
        }
        let mut engine = self.shared.engine();
        let lost_messages = engine.faults.lost_messages;
        let is_lost = engine.happens(lost_messages);
        drop(engine);
        if is_lost { Ok(()) } else { self.shared.messages.tell(kind, &body) }
    }

    fn listen(&self, kind: MessageKind) -> StreamFuture<'_, Result<MessageListener, NotTold>> {
        let link = self.clone();
        let listener = self.shared.messages.listen(kind, Box::new(move || link.is_cut()));
        Box::pin(std::future::ready(Ok(listener)))
    }
}

struct SimulatedReader {
    link: SimulatedStream,
    next: StreamSequence,
    tail: watch::Receiver<StreamSequence>,
    /// The time at which the next record arrives.
    arrives: Option<Duration>,
}

impl SimulatedReader {
    async fn read(&mut self) -> Result<(StreamSequence, Bytes), StreamError> {
        let next = self.next;
        drop(self.link.holds_readers.subscribe().wait_for(|holds| !holds).await);
        drop(self.tail.wait_for(|tail| *tail >= next).await); // The sender lives as long.
        let arrives = match self.arrives {
            Some(arrives) => arrives,
            None => {
                let mut engine = self.link.shared.engine();
                let broken_readers = engine.faults.broken_readers;
                if engine.happens(broken_readers) {
                    return Err(StreamError::Away("as the seed says".to_owned()));
                }
                self.link.shared.now() + engine.delay()
            }
        };
        self.arrives = Some(arrives);
        if arrives > self.link.shared.now() {
            self.link.shared.world.sleep_until(arrives).await;
        }
        if self.link.is_cut() {
            return Err(StreamError::Away("the link is cut".to_owned()));
        }
        let engine = self.link.shared.engine();
        let Some(record) = engine.at(next).cloned() else {
            return Err(StreamError::Trimmed { first: engine.first });
        };
        drop(engine);
        (self.next, self.arrives) = (next.next(), None);
        Ok((next, record))
    }
}

impl StreamReader for SimulatedReader {
    fn next(&mut self) -> StreamFuture<'_, Result<(StreamSequence, Bytes), StreamError>> {
        Box::pin(self.read())
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::tests::messages_pass;
    use super::super::stream::contract_tests::keeps_the_contract;
    use super::*;

    #[tokio::test]
    async fn simulated_messages_pass_between_nodes() {
        let world = Arc::new(RuntimeClock::default());
        let one = SimulatedStream::new(1, StreamFaults::default(), world);
        let other = one.another_link();
        let away = async || one.cut(Duration::from_secs(60));
        messages_pass([&one, &other], away, async || one.cut(Duration::ZERO)).await;
    }

    #[tokio::test]
    async fn the_simulated_stream_keeps_the_contract() {
        let patience = Duration::from_millis(100);
        let at_once = StreamFaults { patience, ..StreamFaults::default() };
        let slow = StreamFaults { delay: Duration::from_millis(2), ..at_once };
        let twice = StreamFaults { duplicates: 300, ..slow };
        let unheard = StreamFaults { lost_answers: 50, lost_requests: 50, ..slow };
        for faults in [at_once, slow, twice, unheard] {
            let mut seed = 0;
            keeps_the_contract(async || {
                seed += 1;
                let world = Arc::new(RuntimeClock::default());
                Arc::new(SimulatedStream::new(seed, faults, world)) as Arc<dyn Stream>
            })
            .await;
        }
    }
}
