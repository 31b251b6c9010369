//! The search for events that a filter picks: in short steps, by a few readers at a time.
//!
//! # Why
//!
//! A search with a filter that picks nothing of a long log takes very long, on the worker threads
//! that serve all other tasks. If each of hundreds of such readers worked for a moment and then let
//! others go on, any other task would still wait for hundreds of moments. Therefore a few readers
//! search at a time, and the others wait for their turn without a worker.
//!
//! Even these few keep a worker busy all the time, and a busy worker looks at its sockets and
//! timers only after dozens of polls. So there is a rest between two turns. A reader that searches
//! alone needs no rest if there is another worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The time for which a reader looks before another has its turn.
const MAX_LOOK: Duration = Duration::from_millis(1);

/// The rest between two turns, when several readers search: the shortest time of a timer.
const REST: Duration = Duration::from_millis(1);

/// Turns at searching. Cheap to clone; all clones are the same turns.
#[derive(Debug, Clone)]
pub(crate) struct Searches {
    turns: Arc<Semaphore>,
    count: usize,
}

impl Searches {
    /// Returns turns for `count` readers at a time.
    pub(crate) fn new(count: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(count)), count }
    }

    /// Waits for a turn, and then for the rest, if others search, too, or if there is one worker.
    async fn take(&self) -> OwnedSemaphorePermit {
        let turn = self.turns.clone().acquire_owned().await.expect("the semaphore is never closed");
        let is_alone = self.turns.available_permits() + 1 == self.count;
        if !is_alone || Handle::current().metrics().num_workers() == 1 {
            tokio::time::sleep(REST).await;
        }
        turn
    }
}

/// One reader's search. It begins with the first events that the filter does not pick. The first
/// look needs no turn, because most readers find something or are at the end.
#[derive(Debug, Default)]
pub(crate) struct Search {
    since: Option<Instant>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Search {
    /// Waits for the next turn if this one has lasted long enough. After the first look, waits for
    /// a turn at once if the reader `is_behind`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the reader has no turn, and another reader can have it.
    pub(crate) async fn pause(&mut self, searches: &Searches, is_behind: bool) {
        let is_first = self.since.is_none();
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < MAX_LOOK && !(is_first && is_behind) {
            return;
        }
        self.turn = None;
        tokio::task::yield_now().await;
        self.turn = Some(searches.take().await);
        self.since = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const READERS: usize = 50;
    const LOOKS: usize = 10;

    /// Goal: however many readers search, a few of them work at a time, and each has its turns.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_few_look_at_a_time_and_each_has_its_turns() {
        let searches = Searches::new(2);
        let [looking, most] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let search = || {
            let (searches, looking, most) = (searches.clone(), looking.clone(), most.clone());
            tokio::spawn(async move {
                let mut search = Search::default();
                search.pause(&searches, true).await; // The first look needs no turn.
                for _ in 0..LOOKS {
                    most.fetch_max(looking.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(MAX_LOOK);
                    looking.fetch_sub(1, Ordering::SeqCst);
                    search.pause(&searches, true).await;
                }
            })
        };
        let all: Vec<_> = (0..READERS).map(|_| search()).collect();
        for task in all {
            let done = tokio::time::timeout(Duration::from_secs(30), task).await;
            done.expect("a reader had not all its turns").unwrap();
        }
        assert_eq!(searches.turns.available_permits(), 2, "a turn was not given back");
        assert!(most.load(Ordering::SeqCst) <= 2, "{most:?} readers searched at the same time");
    }
}
