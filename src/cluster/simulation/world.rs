//! A world for simulations: tasks, timers and a clock, on one thread. The same start gives the same
//! run.
//!
//! # Why
//!
//! A node that is stopped for a while must not be polled, while its timers and messages go on, and
//! a node that crashes is dropped in the middle of whatever it waits for. Both need the tasks in
//! one's own hands. The clock jumps to the next timer, so hours take milliseconds.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::cluster::clock::SteadyClock;
use crate::cluster::simulated::{Surroundings, WorldWork};
use crate::cluster::stream::StreamFuture;

/// The owner of messages that are on their way: no fault hits it.
const NOBODY: usize = usize::MAX;

#[derive(Default)]
struct WorldState {
    now: Duration,
    order: u64,
    timers: BTreeMap<(Duration, u64), Waker>,
    tasks: BTreeMap<u64, WorldTask>,
    /// The nodes that are stopped, each until a time.
    stopped: BTreeMap<usize, Duration>,
    /// The tasks of stopped nodes that were woken meanwhile.
    held: Vec<u64>,
}

struct WorldTask {
    node: usize,
    work: Option<WorldWork>,
    waker: Waker,
}

#[derive(Default)]
struct Woken(Mutex<VecDeque<u64>>);

impl Woken {
    fn queue(&self) -> MutexGuard<'_, VecDeque<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct TaskWaker {
    task: u64,
    woken: Arc<Woken>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut queue = self.woken.queue();
        if !queue.contains(&self.task) {
            queue.push_back(self.task);
        }
    }
}

/// A handle of a world.
#[derive(Clone, Default)]
pub(in crate::cluster) struct FleetWorld {
    state: Arc<Mutex<WorldState>>,
    woken: Arc<Woken>,
}

impl FleetWorld {
    fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a task of a node.
    pub(in crate::cluster) fn begin(&self, node: usize, work: WorldWork) {
        let mut state = self.state();
        state.order += 1;
        let task = state.order;
        let waker = Waker::from(Arc::new(TaskWaker { task, woken: self.woken.clone() }));
        waker.wake_by_ref();
        state.tasks.insert(task, WorldTask { node, work: Some(work), waker });
    }

    /// Drops all tasks of a node, wherever they are.
    pub(super) fn kill(&self, node: usize) {
        let mut state = self.state();
        let (killed, left) =
            std::mem::take(&mut state.tasks).into_iter().partition(|(_, task)| task.node == node);
        state.tasks = left;
        state.stopped.remove(&node);
        drop(state);
        let _killed: BTreeMap<u64, WorldTask> = killed; // Their timers are removed with them.
    }

    /// Stops all tasks of a node for a while.
    pub(super) fn stop(&self, node: usize, time: Duration) {
        let mut state = self.state();
        let until = state.now + time;
        state.stopped.insert(node, until);
    }

    /// Runs everything that happens until `time`.
    pub(in crate::cluster) fn run_until(&self, time: Duration) {
        loop {
            loop {
                let next = self.woken.queue().pop_front();
                let Some(task) = next else { break };
                self.poll(task);
            }
            let mut state = self.state();
            let timer = state.timers.first_key_value().map(|((time, _), _)| *time);
            let goes_on = state.stopped.values().min().copied();
            let next = timer.into_iter().chain(goes_on).min().filter(|next| *next <= time);
            let Some(next) = next else {
                state.now = time;
                return;
            };
            state.now = state.now.max(next);
            let mut wakers = Vec::new();
            while let Some(entry) = state.timers.first_entry().filter(|e| e.key().0 <= next) {
                wakers.push(entry.remove());
            }
            if goes_on.is_some_and(|goes_on| goes_on <= next) {
                state.stopped.retain(|_, until| *until > next);
                self.woken.queue().extend(std::mem::take(&mut state.held));
            }
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    fn poll(&self, task: u64) {
        let mut state = self.state();
        let WorldState { tasks, stopped, held, .. } = &mut *state;
        let Some(found) = tasks.get_mut(&task) else { return };
        if stopped.contains_key(&found.node) {
            held.push(task);
            return;
        }
        let Some(mut work) = found.work.take() else { return };
        let waker = found.waker.clone();
        drop(state);
        if work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            let mut state = self.state();
            state.tasks.get_mut(&task).expect("only `kill` removes it").work = Some(work);
        } else {
            self.state().tasks.remove(&task);
        }
    }
}

impl SteadyClock for FleetWorld {
    fn now(&self) -> Duration {
        self.state().now
    }

    fn sleep_until(&self, time: Duration) -> StreamFuture<'static, ()> {
        Box::pin(Sleep { world: self.clone(), time, timer: None })
    }
}

impl Surroundings for FleetWorld {
    fn spawn(&self, work: WorldWork) {
        self.begin(NOBODY, work);
    }
}

struct Sleep {
    world: FleetWorld,
    time: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let world = self.world.clone();
        let mut state = world.state();
        if let Some(timer) = self.timer.take() {
            state.timers.remove(&timer);
        }
        if state.now >= self.time {
            return Poll::Ready(());
        }
        state.order += 1;
        let timer = (self.time, state.order);
        state.timers.insert(timer, context.waker().clone());
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.world.state().timers.remove(&timer);
        }
    }
}
