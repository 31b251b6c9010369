//! The signal of one topic: it tells the topic's followers that there is something new, at a
//! bounded pace.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The least time between two signals, for each follower of a topic. The sum for all followers is
/// bounded by the configuration. Source: the time that two cores take to write to each follower,
/// with some to spare for the clients (`leftoff bench fanout`).
const PACE_PER_FOLLOWER: Duration = Duration::from_micros(24);

/// The signal of one topic to its followers: there is something new.
#[derive(Debug)]
pub(crate) struct Signal {
    sender: watch::Sender<()>,
    /// The time from which the signal may be given again.
    next: Mutex<Instant>,
    /// Whether the signal is going to be given at that time. Only the waker uses this.
    pub(crate) is_later: AtomicBool,
}

impl Default for Signal {
    fn default() -> Self {
        let (sender, is_later) = (watch::Sender::new(()), AtomicBool::new(false));
        Self { sender, next: Mutex::new(Instant::now()), is_later }
    }
}

impl Signal {
    /// Returns a receiver that is told of each signal from now on.
    pub(crate) fn follow(&self) -> watch::Receiver<()> {
        self.sender.subscribe()
    }

    /// Returns the number of followers.
    pub(crate) fn followers(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Gives the signal now.
    pub(crate) fn give(&self) {
        self.sender.send_replace(());
    }

    /// Gives the signal if its time has come. Otherwise returns that time.
    pub(crate) fn give_in_time(&self, now: Instant, max_pace: Duration) -> Option<Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if *next > now {
            return Some(*next);
        }
        *next = now + pace(self.sender.receiver_count(), max_pace);
        self.give();
        None
    }
}

/// Returns the time between two signals for this number of followers.
pub(crate) fn pace(followers: usize, max_pace: Duration) -> Duration {
    let followers = u32::try_from(followers).unwrap_or(u32::MAX);
    max_pace.min(PACE_PER_FOLLOWER.saturating_mul(followers))
}
