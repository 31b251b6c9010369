//! Looking through events for those that a filter picks: in short steps, a few readers at a time.
//!
//! # Why
//!
//! A filter that picks nothing of a long log is work without an end, all of it on the workers that
//! serve everybody else. If each of hundreds of such readers worked for a moment and then let
//! others go on, whoever has something to do would still wait for hundreds of moments. A few of
//! them therefore work at a time, and the others wait for their turn without a worker.
//!
//! With nothing but those few a worker is still never idle, and a worker that is not idle looks at
//! its sockets and timers after dozens of polls only. So between two turns there is a rest, unless
//! one reader searches alone, beside whom there is another worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The time for which a reader looks before another has its turn.
const MAX_LOOK: Duration = Duration::from_millis(1);

/// The rest of those who search at the same time: what a timer can tell.
const REST: Duration = Duration::from_millis(1);

/// Turns at looking. Cheap to clone; all clones are the same turns.
#[derive(Debug, Clone)]
pub(crate) struct Searches {
    turns: Arc<Semaphore>,
    count: usize,
}

impl Searches {
    /// For so many readers at a time.
    pub(crate) fn new(count: usize) -> Self {
        Self { turns: Arc::new(Semaphore::new(count)), count }
    }

    /// Waits for a turn, and rests before it where others search, too.
    async fn take(&self) -> OwnedSemaphorePermit {
        let turn = self.turns.clone().acquire_owned().await.expect("it is never closed");
        let is_alone = self.turns.available_permits() + 1 == self.count;
        if !is_alone || Handle::current().metrics().num_workers() == 1 {
            tokio::time::sleep(REST).await;
        }
        turn
    }
}

/// One reader's search, which begins at the first events that its filter does not pick. The first
/// look needs no turn: most readers find something, or are at the end.
#[derive(Debug, Default)]
pub(crate) struct Search {
    since: Option<Instant>,
    turn: Option<OwnedSemaphorePermit>,
}

impl Search {
    /// Waits for the next turn, if this one has lasted long enough, or if it is the first and the
    /// reader `is_behind`.
    ///
    /// # Cancel safety
    ///
    /// The turn is another's.
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

    /// Goal: however many search, a few of them work at a time, and each has its turns.
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
            done.expect("each has its turns").unwrap();
        }
        assert_eq!(searches.turns.available_permits(), 2, "a turn is kept");
        assert!(most.load(Ordering::SeqCst) <= 2, "{most:?} look at the same time");
    }
}
