//! Work that is done once for all who ask for it at the same time.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::error::Result;

/// Runs of the same work, one after the other. Whoever asks for a run while another one goes on
/// waits for the next one, and all who wait share it.
#[derive(Debug, Default)]
pub(super) struct SharedRuns {
    /// The number of runs that have begun.
    begun: AtomicU64,
    /// The number of the last run that has succeeded. Locked while one goes on.
    succeeded: Mutex<u64>,
}

impl SharedRuns {
    /// Returns when a run has succeeded that began after this call: `work`, or that of another
    /// caller.
    ///
    /// # Errors
    ///
    /// As `work`. The next caller then tries it.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the next caller does the work.
    pub(super) async fn run(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.begun.load(Ordering::SeqCst);
        let mut succeeded = self.succeeded.lock().await;
        if *succeeded > before {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        work.await?;
        *succeeded = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::error::Error;

    /// Goal: a thousand callers at once cost two runs, each has waited for one that began after it
    /// came, and a run that fails is another caller's next.
    #[tokio::test]
    async fn callers_at_the_same_time_share_a_run_that_began_after_they_came() {
        let (runs, gate, count) = (SharedRuns::default(), Semaphore::new(0), AtomicU64::new(0));
        let work = async || {
            let number = count.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.unwrap().forget();
            if number == 1 { Err(Error::ShuttingDown) } else { Ok(()) }
        };
        let opening = async {
            tokio::task::yield_now().await;
            assert_eq!(count.load(Ordering::SeqCst), 1);
            gate.add_permits(1_000);
        };
        let all = join_all((0..1_000).map(|_| runs.run(work())));
        let (outcomes, ()) = tokio::join!(all, opening);
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 1);
        // The first one, one that fails, and one for all others.
        assert_eq!(count.load(Ordering::SeqCst), 3);
        runs.run(work()).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 4, "a later caller is not told of an older run");
    }
}
