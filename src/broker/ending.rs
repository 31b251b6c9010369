//! The end of a broker: its threads end in an order in which each finds the ones that it needs, and
//! then the log is closed.
//!
//! ```text
//! maintenance ──▶ committer ──▶ usher ──▶ waker ──▶ the log is closed ──▶ callers are told
//!  stops at its    answers all   adds and  wakes the
//!  next step       of its queue  removes   last readers
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tracing::error;

use super::closing::Threads;
use super::maintenance::maintainer::Ask;
use super::queue::Queued;
use super::shared::Shared;

/// The time between two tries to tell the committer to stop, while its queue is full.
const SEND_STEP: Duration = Duration::from_millis(1);

/// Begins to close a broker that drains, unless that has begun already.
pub(super) fn begin(shared: &Arc<Shared>) {
    let ending = shared.clone();
    shared.closing.begin(&shared.busy, move |threads| end(&ending, threads));
}

/// Ends the threads of a broker, and closes its log.
fn end(shared: &Shared, threads: Threads) {
    let Threads { committer, maintenance, waker, usher } = threads;
    let _ended_already = shared.maintenance.send(Ask::Stop);
    let maintained = maintenance.join();
    stop_committer(shared);
    let committed = committer.join();
    shared.arrivals.stop(); // The waker stops later: readers that leave may wake others.
    let ushered = usher.join();
    shared.waker.stop();
    if waker.join().and(ushered).and(committed).and(maintained).is_err() {
        error!("a thread of the broker ended by a panic");
    }
    shared.log.close();
}

/// Has the committer answer what is queued, and end. The calling thread may belong to a runtime,
/// where a send that blocks would panic.
fn stop_committer(shared: &Shared) {
    let (mut stop, busy) = (Queued::Stop, shared.busy.begin());
    loop {
        match shared.commands.try_send(stop) {
            Ok(()) => return busy.hand_over(),
            Err(TrySendError::Closed(_ended_already)) => return,
            Err(TrySendError::Full(unsent)) => stop = unsent,
        }
        std::thread::sleep(SEND_STEP);
    }
}
