//! Wakes those who follow a topic when there is something new in it.
//!
//! ```text
//! committer ──▶ topics with something new ──▶ waker (one thread) ──▶ every follower
//!                    each of them once          when it is time
//! ```
//!
//! # Why
//!
//! To wake a thousand followers takes a third of a millisecond, which no publish has to wait for.
//! And each of them then takes a write, some 6 µs of a core for the kernel alone, however little is
//! written: so a topic with many followers is not signalled again before they can have written. The
//! more there are, the more events go out in one write; with a few, nobody waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::failure::{Failure, PanicGuard};
use super::topics::Topic;

/// How long a topic's followers are left alone after a signal: so long for each of them, and for
/// all of them together at the most so long as the configuration says. Source: what two cores take
/// for a write to each, with some to spare for the clients (`leftoff bench fanout`).
const PACE_PER_FOLLOWER: Duration = Duration::from_micros(20);

/// Tells those who follow a topic that there is something new.
#[derive(Debug)]
pub(super) struct Signal {
    sender: watch::Sender<()>,
    /// Whether it is waiting to be given.
    is_due: AtomicBool,
    /// When it may be given again.
    next: Mutex<Instant>,
}

impl Default for Signal {
    fn default() -> Self {
        let (sender, is_due) = (watch::Sender::new(()), AtomicBool::new(false));
        Self { sender, is_due, next: Mutex::new(Instant::now()) }
    }
}

impl Signal {
    /// Follows it from now on.
    pub(super) fn follow(&self) -> watch::Receiver<()> {
        self.sender.subscribe()
    }

    /// Gives it now, whoever waits.
    pub(super) fn give(&self) {
        self.sender.send_replace(());
    }

    /// Gives it when it is time; returns when that is, if it is not now.
    fn give_in_time(&self, now: Instant, max_pace: Duration) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if *next > now {
            return Some(*next);
        }
        let followers = u32::try_from(self.sender.receiver_count()).unwrap_or(u32::MAX);
        *next = now + max_pace.min(PACE_PER_FOLLOWER.saturating_mul(followers));
        // In this order: what changes from here on asks for another signal.
        self.is_due.store(false, Ordering::SeqCst);
        self.give();
        None
    }
}

/// Topics whose followers are to be told. Each is in it once, so it is bounded by their number.
#[derive(Debug, Default)]
struct Due {
    new: Vec<Arc<Topic>>,
    is_over: bool,
}

/// Has followers told. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Waker(Arc<(Mutex<Due>, Condvar)>);

impl Waker {
    /// Has the followers of `topic` told that there is something new. It is there by now.
    pub(super) fn wake(&self, topic: &Arc<Topic>) {
        let Some(signal) = topic.signal.get().filter(|s| s.sender.receiver_count() > 0) else {
            return;
        };
        if !signal.is_due.swap(true, Ordering::SeqCst) {
            self.due().new.push(topic.clone());
            self.0.1.notify_one();
        }
    }

    /// Ends the thread that wakes.
    pub(super) fn stop(&self) {
        self.due().is_over = true;
        self.0.1.notify_one();
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes until it is stopped.
    pub(super) fn run(&self, max_pace: Duration, failure: &Failure) {
        let _guard = PanicGuard::new(failure, "waker");
        let mut later = BinaryHeap::new();
        while let Some(new) = self.next(later.peek().map(|Reverse(Later { at, .. })| *at)) {
            let now = Instant::now();
            let is_now = |later: &BinaryHeap<Reverse<Later>>| {
                later.peek().is_some_and(|Reverse(first)| first.at <= now)
            };
            let mut topics = new;
            while is_now(&later) {
                topics.extend(later.pop().map(|Reverse(Later { topic, .. })| topic));
            }
            for topic in topics {
                let Some(signal) = topic.signal.get() else { continue };
                if let Some(at) = signal.give_in_time(now, max_pace) {
                    later.push(Reverse(Later { at, topic }));
                }
            }
        }
    }

    /// Waits for topics, until `first` at the longest; `None` when it is stopped.
    fn next(&self, first: Option<Instant>) -> Option<Vec<Arc<Topic>>> {
        let mut due = self.due();
        loop {
            if due.is_over {
                return None;
            }
            let wait = first.map(|first| first.saturating_duration_since(Instant::now()));
            if !due.new.is_empty() || wait.is_some_and(|wait| wait.is_zero()) {
                return Some(std::mem::take(&mut due.new));
            }
            due = match wait {
                Some(wait) => {
                    let waited = self.0.1.wait_timeout(due, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.1.wait(due).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// A topic whose followers are told later.
#[derive(Debug)]
struct Later {
    at: Instant,
    topic: Arc<Topic>,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::topics::{TopicDefaults, Topics};
    use super::*;

    #[test]
    fn many_followers_are_signalled_at_their_pace_and_few_at_once() {
        let max_pace = Duration::from_millis(25);
        let now = Instant::now() + Duration::from_secs(1);
        for (followers, pace_us) in [(0, 0), (1, 20), (1_000, 20_000), (10_000, 25_000)] {
            let signal = Signal::default();
            let _followers: Vec<_> = (0..followers).map(|_| signal.follow()).collect();
            assert_eq!(signal.give_in_time(now, max_pace), None, "the first one is at once");
            let next = now + Duration::from_micros(pace_us);
            if pace_us > 0 {
                assert_eq!(signal.give_in_time(now, max_pace), Some(next));
            }
            assert_eq!(signal.give_in_time(next, max_pace), None);
        }
    }

    /// Goal: no change is slept through, however signals and changes fall together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_follows_sees_the_last_of_any_number_of_changes() {
        let topics = Topics::new(&[], 1, TopicDefaults::default());
        let topic = topics.open(&"a".parse().unwrap()).unwrap();
        let waker = Waker::default();
        let run = waker.clone();
        let running =
            std::thread::spawn(move || run.run(Duration::from_millis(1), &Failure::default()));
        for last in (1..=200).map(|round| round * 100) {
            let mut signal = topic.follow();
            let (changing, changed) = (waker.clone(), topic.clone());
            let change = std::thread::spawn(move || {
                for deletions in last - 99..=last {
                    let state = super::super::TopicState { deletions, ..changed.state() };
                    changed.set_state(state);
                    changing.wake(&changed);
                }
            });
            let seen = async {
                loop {
                    signal.mark_unchanged();
                    if topic.state().deletions == last {
                        break;
                    }
                    signal.changed().await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(10), seen).await.expect("a lost signal");
            change.join().unwrap();
        }
        waker.stop();
        running.join().unwrap();
    }
}
