//! A fleet of nodes in memory: brokers whose groups go through one shared stream, without an engine
//! and without leases. The test says which node leads.
//!
//! ```text
//! leader: commit ──▶ stream ──▶ pump of each other node ──▶ apply
//! ```

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Builder, Clock};
use crate::broker::{Broker, Leadership};
use crate::cursor::Epoch;
use crate::error::{Error, Result};
use crate::log::contract::Log;
use crate::log::{Applied, Group, LogAround, MemoryLog};

/// The nodes, and the stream that they share.
pub(crate) struct TestFleet {
    stream: Arc<TestStream>,
    nodes: Vec<TestNode>,
}

struct TestNode {
    broker: Broker,
    log: Arc<StreamedLog>,
    /// Whether the node reads nothing of the stream for now.
    held: watch::Sender<bool>,
    _pump: AbortOnDropHandle<()>,
}

struct TestStream {
    epoch: Epoch,
    state: Mutex<StreamState>,
    /// The number of groups.
    grown: watch::Sender<usize>,
}

#[derive(Default)]
struct StreamState {
    groups: Vec<Group>,
    /// The one node whose groups are taken.
    leader: Option<usize>,
    /// Whether the leader hears nothing of its next group, which is stored all the same.
    loses_answer: bool,
}

/// The log of a node.
struct StreamedLog {
    inner: MemoryLog,
    stream: Arc<TestStream>,
    node: usize,
}

impl TestStream {
    fn state(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().expect("no test panics with it")
    }
}

impl TestFleet {
    /// Starts some nodes. None leads yet.
    pub(crate) fn new(count: usize, clock: &Clock) -> Self {
        Self::with_clocks(&vec![clock.clone(); count])
    }

    /// Starts a node for each clock. None leads yet.
    pub(crate) fn with_clocks(clocks: &[Clock]) -> Self {
        let (state, grown) = (Mutex::default(), watch::Sender::new(0));
        let stream = Arc::new(TestStream { epoch: Epoch::new(7), state, grown });
        let node = |node| {
            let (inner, stream) = (MemoryLog::default(), stream.clone());
            let log = Arc::new(StreamedLog { inner, stream, node });
            let clock = &clocks[node];
            let broker = Builder::default().log(log.clone()).clock(clock).following();
            let broker = broker.open().expect("a broker opens");
            let held = watch::Sender::new(false);
            let pump = pump(broker.clone(), log.clone(), held.subscribe());
            TestNode { broker, log, held, _pump: AbortOnDropHandle::new(tokio::spawn(pump)) }
        };
        let nodes = (0..clocks.len()).map(node).collect();
        Self { stream, nodes }
    }

    /// Has the nodes ask the one that leads what only that can answer.
    pub(crate) fn connect(&self) {
        let brokers: Vec<Broker> = self.nodes.iter().map(|node| node.broker.clone()).collect();
        for node in &self.nodes {
            let brokers = brokers.clone();
            node.broker.ask_leader_with(Arc::new(move |kind, question| {
                let leader = brokers.iter().find(|broker| broker.leads()).cloned();
                Box::pin(async move {
                    let leader = leader.ok_or(Error::NotLeading)?;
                    leader.answer_question(kind, question).await
                })
            }));
        }
    }

    /// Returns the broker of a node.
    pub(crate) fn broker(&self, node: usize) -> &Broker {
        &self.nodes[node].broker
    }

    /// Has a node read nothing of the stream, or go on.
    pub(crate) fn hold(&self, node: usize, is_held: bool) {
        self.nodes[node].held.send_replace(is_held);
    }

    /// Has the stream store the leader's next group, and tell the leader nothing. No group is taken
    /// from it after that.
    pub(crate) fn lose_answer(&self) {
        self.stream.state().loses_answer = true;
    }

    /// Takes no more groups from the node that leads. It believes that it leads until
    /// [`Self::lead`].
    pub(crate) fn depose(&self) {
        self.stream.state().leader = None;
    }

    /// Has a node lead, once it has read the whole stream. The others follow.
    pub(crate) async fn lead(&self, leader: usize) {
        let led = self.stream.state().leader.take();
        for (number, node) in self.nodes.iter().enumerate() {
            let goes_on = number == leader && led == Some(leader);
            if node.broker.leads() && !goes_on {
                node.broker.lead(Leadership::Follows).await.expect("it follows");
            }
        }
        if !self.nodes[leader].broker.leads() {
            self.read_all(leader).await;
        }
        self.stream.state().leader = Some(leader);
        self.nodes[leader].broker.lead(Leadership::Leads).await.expect("it leads");
    }

    /// Waits until a node has read what the stream has.
    pub(crate) async fn read_all(&self, node: usize) {
        let wanted = self.stream.state().groups.len() as u64;
        let log = self.nodes[node].log.clone();
        super::until("the node has read the stream", || log.place() >= wanted).await;
    }

    /// Closes all brokers.
    pub(crate) async fn close(self) {
        for node in &self.nodes {
            node.broker.close().await;
        }
    }
}

/// Has a node apply what others have written, for ever.
async fn pump(broker: Broker, log: Arc<StreamedLog>, mut held: watch::Receiver<bool>) {
    let mut grown = log.stream.grown.subscribe();
    let mut leadership = broker.leadership();
    loop {
        let next = log.stream.state().groups.get(log.place() as usize).cloned();
        let is_held = *held.borrow_and_update();
        match next.filter(|_| leadership.term().is_none() && !is_held) {
            Some(group) => broker.apply(group).await.expect("a group is applied"),
            None => tokio::select! {
                _ = grown.changed() => {}
                _ = held.changed() => {}
                () = leadership.changed() => {}
            },
        }
    }
}

impl StreamedLog {
    /// Returns the number of groups that are applied.
    fn place(&self) -> u64 {
        self.inner.applied().expect("a place").map_or(0, |applied| applied.stream)
    }
}

impl LogAround for StreamedLog {
    fn inside(&self) -> &dyn Log {
        &self.inner
    }

    fn epoch(&self) -> Epoch {
        self.stream.epoch
    }

    fn goes_on_after(&self, _error: &Error) -> bool {
        true
    }

    fn commit(&self, group: &Group) -> Result<()> {
        if group.applied.is_some() {
            return self.inner.commit(group);
        }
        let mut state = self.stream.state();
        if state.leader != Some(self.node) {
            return Err(Error::NotLeading);
        }
        let stream = state.groups.len() as u64 + 1;
        let applied =
            Applied { stream, term: 1, number: stream, chain: 0, epoch: self.stream.epoch };
        let group = Group { applied: Some(applied), ..group.clone() };
        state.groups.push(group.clone());
        self.stream.grown.send_replace(state.groups.len());
        if std::mem::take(&mut state.loses_answer) {
            state.leader = None;
            let lost = std::io::Error::other("the answer is lost");
            return Err(Error::OutcomeUnknown(lost.into()));
        }
        self.inner.commit(&group)
    }
}
