//! The waker: a thread that signals the followers of a topic when there is something new in it.
//!
//! ```text
//! committer ──▶ topics with something new ──▶ waker (one thread) ──▶ every follower of a topic
//!                    each of them once                          └──▶ every feed with it in
//! ```
//!
//! A feed (`read/feed/`) follows many topics. The waker marks topics with something new for the
//! feed at once, and signals the feed when it is time. Every such topic up to the position
//! [`Waker::marked`] is marked.
//!
//! # Why
//!
//! To wake a thousand followers takes a third of a millisecond, and no publish must wait for that.
//! Each follower then writes to its client, which takes some 6 µs of a core in the kernel alone,
//! however little is written. A topic with many followers is therefore not signalled again before
//! all of them can have written. The more followers there are, the more events go out in one write.
//! With a few followers, nobody waits.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::interest::{FeedSignal, Interests};
use super::journal::Journal;
use crate::broker::announced::Announced;
use crate::broker::busy::{Busy, BusyToken};
use crate::broker::failure::{BrokerFailure, PanicGuard};
use crate::broker::topic::entry::Topic;
use crate::broker::topic::signal::pace;
use crate::cursor::Position;

/// The topics whose followers are to be told. Each topic is in the list once, so the list is
/// bounded by the number of topics.
#[derive(Debug, Default)]
struct Due {
    new: Vec<Arc<Topic>>,
    /// The position up to which all topics with something new are in the list, or were in it.
    position: Position,
    /// The thread's work, until nobody is left to be told.
    busy: Option<BusyToken>,
    is_over: bool,
}

#[derive(Debug)]
struct WakerInner {
    due: Mutex<Due>,
    changed: Condvar,
    interests: Interests,
    journal: Journal,
    marked: AtomicU64,
    busy: Busy,
}

/// The waker, which signals followers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<WakerInner>);

impl Waker {
    /// Returns the waker of a broker without feeds. Feeds are counted in `announced`.
    pub(crate) fn new(announced: Arc<Announced>, busy: Busy) -> Self {
        Self(Arc::new(WakerInner {
            due: Mutex::default(),
            changed: Condvar::new(),
            interests: Interests::new(announced),
            journal: Journal::default(),
            marked: AtomicU64::new(0),
            busy,
        }))
    }

    /// Has the followers of `topic` told that there is something new. It must be readable by now.
    pub(crate) fn wake(&self, topic: &Arc<Topic>) {
        self.wake_all([topic], None);
    }

    /// As [`Self::wake`], for several topics. With `position`, `topics` are all topics with
    /// something new up to it. They are added in one go, because whoever sees the position must
    /// find all of them.
    pub(crate) fn wake_all<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a Arc<Topic>>,
        position: Option<Position>,
    ) {
        let has_feeds = self.0.interests.is_any();
        let is_followed = |topic: &&Arc<Topic>| has_feeds || topic.followers() > 0;
        let mut followed = topics.into_iter().filter(is_followed).peekable();
        if followed.peek().is_none() {
            return; // Nobody follows these topics.
        }
        let mut due = self.due();
        let is_new = |topic: &&Arc<Topic>| !topic.is_due.swap(true, Ordering::SeqCst);
        due.new.extend(followed.filter(is_new).cloned());
        due.position = position.filter(|_| has_feeds).unwrap_or(due.position);
        if !due.is_over {
            due.busy.get_or_insert_with(|| self.0.busy.begin());
        }
        self.0.changed.notify_one();
    }

    /// Returns the position up to which every topic with something new is marked for its feeds.
    pub(crate) fn marked(&self) -> Position {
        Position::new(self.0.marked.load(Ordering::SeqCst))
    }

    /// Returns all feeds by their patterns.
    pub(crate) fn interests(&self) -> &Interests {
        &self.0.interests
    }

    /// Returns the journal of the followed topics that got something new. A topic is noted there
    /// before it is marked for a feed.
    pub(crate) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// Ends the waker's thread.
    pub(crate) fn stop(&self) {
        self.due().is_over = true;
        self.0.changed.notify_one();
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        self.0.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals followers until the waker is stopped.
    pub(crate) fn run(&self, max_pace: Duration, failure: &BrokerFailure) {
        let _guard = PanicGuard::new(failure, "waker");
        let mut plan = Plan { later: BinaryHeap::new(), feeds: Vec::new(), next: Instant::now() };
        while let Some((new, position)) = self.next(&plan) {
            let now = Instant::now();
            for topic in &new {
                // The flag is cleared first, so that a change from here on adds the topic again.
                topic.is_due.store(false, Ordering::SeqCst);
                let mut is_noted = false;
                self.0.interests.each(&topic.name, |feed| {
                    // The journal is written first: a feed with more marks than it can hold drops
                    // them, and reads the journal instead.
                    if !is_noted && topic.state().id.is_some() {
                        self.0.journal.add(position, std::slice::from_ref(topic));
                    }
                    is_noted = true;
                    feed.mark(topic);
                    if !feed.is_planned.swap(true, Ordering::Relaxed) {
                        plan.feeds.push(feed.clone());
                    }
                });
            }
            self.0.marked.store(position.get(), Ordering::SeqCst);
            plan.tell_feeds(now, max_pace);
            plan.tell_followers(new, now, max_pace);
        }
    }

    /// Waits for work, and returns it; `None` if the waker is stopped.
    fn next(&self, plan: &Plan) -> Option<(Vec<Arc<Topic>>, Position)> {
        let mut due = self.due();
        loop {
            if due.is_over {
                due.busy = None;
                return None;
            }
            let wait = plan.first().map(|at| at.saturating_duration_since(Instant::now()));
            let is_marked = due.position.get() == self.0.marked.load(Ordering::Relaxed);
            if !due.new.is_empty() || !is_marked || wait.is_some_and(|wait| wait.is_zero()) {
                return Some((std::mem::take(&mut due.new), due.position));
            }
            due = match wait {
                Some(wait) => {
                    let waited = self.0.changed.wait_timeout(due, wait);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    due.busy = None;
                    self.0.changed.wait(due).unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

/// The feeds and followers that are to be signalled, and the times for that.
struct Plan {
    later: BinaryHeap<Reverse<Later>>,
    /// The feeds with something new, each once.
    feeds: Vec<Arc<FeedSignal>>,
    /// The time from which feeds may be signalled again.
    next: Instant,
}

impl Plan {
    /// Returns the time of the next signal, if one is planned.
    fn first(&self) -> Option<Instant> {
        let later = self.later.peek().map(|Reverse(Later { at, .. })| *at);
        let feeds = (!self.feeds.is_empty()).then_some(self.next);
        later.into_iter().chain(feeds).min()
    }

    fn tell_feeds(&mut self, now: Instant, max_pace: Duration) {
        if self.next <= now && !self.feeds.is_empty() {
            self.next = now + pace(self.feeds.len(), max_pace);
            for feed in self.feeds.drain(..) {
                feed.is_planned.store(false, Ordering::Relaxed);
                feed.notify.notify_one();
            }
        }
    }

    fn tell_followers(&mut self, new: Vec<Arc<Topic>>, now: Instant, max_pace: Duration) {
        let is_in_time = |Reverse(first): &Reverse<Later>| first.at <= now;
        let mut topics = new;
        while self.later.peek().is_some_and(is_in_time) {
            if let Some(Reverse(Later { topic, .. })) = self.later.pop() {
                topic.signal.get().inspect(|s| s.is_later.store(false, Ordering::Relaxed));
                topics.push(topic);
            }
        }
        for topic in topics {
            let Some(signal) = topic.signal.get() else { continue };
            if !signal.is_later.load(Ordering::Relaxed)
                && let Some(at) = signal.give_in_time(now, max_pace)
            {
                signal.is_later.store(true, Ordering::Relaxed);
                self.later.push(Reverse(Later { at, topic }));
            }
        }
    }
}

/// A topic whose followers are told later, at the time `at`.
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
    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::signal::Signal;
    use crate::broker::topic::topics::Topics;

    #[test]
    fn many_followers_are_signalled_at_their_pace_and_few_at_once() {
        let max_pace = Duration::from_millis(25);
        let now = Instant::now() + Duration::from_secs(1);
        for (followers, pace_us) in [(0, 0), (1, 24), (1_000, 24_000), (10_000, 25_000)] {
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

    /// Goal: a follower misses no change, however signals and changes fall together.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_follows_sees_the_last_of_any_number_of_changes() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let topic = topics.open(&"a".parse().unwrap()).unwrap();
        let waker = Waker::new(Arc::new(Announced::new(0)), Busy::default());
        let run = waker.clone();
        let running = std::thread::spawn(move || {
            run.run(Duration::from_millis(1), &BrokerFailure::default())
        });
        for last in (1..=200).map(|round| round * 100) {
            let mut signal = topic.follow();
            let (changing, changed) = (waker.clone(), topic.clone());
            let change = std::thread::spawn(move || {
                for deletions in last - 99..=last {
                    let state =
                        crate::broker::topic::state::TopicState { deletions, ..changed.state() };
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
