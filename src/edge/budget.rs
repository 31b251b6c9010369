//! Memory for clients: one budget, in bytes, for everything that waits for them or comes from them.
//!
//! ```text
//! budget ─▶ address ─▶ connection ─▶ held bytes: an incomplete request, an unsent page,
//!                                    the patterns of a subscription, …
//! ```
//!
//! # Why
//!
//! Each thing that a client holds is small, but a client may hold any number of them, and bounds on
//! single things do not add up to a bound on memory. So the bytes of all of them are taken from one
//! budget, and given back when they are freed. They are taken before they are allocated, if the
//! size is known by then.
//!
//! A connection may take more while the bytes held by itself, by its address and by all clients add
//! up to at most 7/8 of the budget. So the first client may take a little over a quarter of the
//! budget, a hundred greedy ones together leave enough for others, and the number of clients need
//! not be known in advance. The rest is kept for connections that hold little, so that a newcomer
//! is served beside thousands. Source of the idea: Choudhury and Hahne, "Dynamic queue length
//! thresholds for shared-memory packet switches", 1998.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// The divisor that gives the bytes that a single client may take at least: the budget divided by
/// this number.
pub(crate) const ALONE: u64 = 4;

/// The budget divided by `KEPT` is kept for connections that hold no more than `LITTLE_BYTES`:
/// enough for a small request, or an idle stream. Such connections are refused only when the whole
/// budget is used. As many of them as one address may have by default hold a third of the default
/// budget.
const KEPT: usize = 8;
const LITTLE_BYTES: usize = 8 << 10;

/// The pause after which a stream looks for room again, and the longest wait before it makes its
/// next piece without room. The longest wait is about as long as a stream may be silent.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The bytes that all clients hold together, and their bound.
#[derive(Debug)]
pub(crate) struct Budget {
    max_bytes: usize,
    used_bytes: AtomicUsize,
}

/// The bytes that all connections of one address hold.
#[derive(Debug)]
pub(crate) struct AddressShare {
    budget: Arc<Budget>,
    used_bytes: AtomicUsize,
}

/// The bytes that one connection holds. Cheap to clone. The default counts nothing: it is for a
/// host's own server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Share(Option<Arc<ConnectionShare>>);

#[derive(Debug)]
struct ConnectionShare {
    address: Arc<AddressShare>,
    used_bytes: AtomicUsize,
}

/// Bytes that are taken from the budget until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Held {
    share: Share,
    size_bytes: usize,
}

impl Budget {
    /// Returns a budget of `max_bytes`.
    pub(crate) fn new(max_bytes: u64) -> Arc<Self> {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Arc::new(Self { max_bytes, used_bytes: AtomicUsize::new(0) })
    }

    /// Returns the share of an address that has none yet.
    pub(crate) fn address(self: &Arc<Self>) -> Arc<AddressShare> {
        Arc::new(AddressShare { budget: self.clone(), used_bytes: AtomicUsize::new(0) })
    }

    /// Returns how many bytes all clients hold.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

impl AddressShare {
    /// Returns the share of a new connection of this address.
    pub(crate) fn connection(self: &Arc<Self>) -> Share {
        let address = self.clone();
        Share(Some(Arc::new(ConnectionShare { address, used_bytes: AtomicUsize::new(0) })))
    }
}

impl ConnectionShare {
    fn counters(&self) -> [&AtomicUsize; 3] {
        [&self.used_bytes, &self.address.used_bytes, &self.address.budget.used_bytes]
    }

    /// Adds `size_bytes` to what is held, in any case. Returns whether the new sums are within the
    /// budget.
    fn add(&self, size_bytes: usize) -> bool {
        let held = self.counters().map(|counter| {
            counter.fetch_add(size_bytes, Ordering::Relaxed).saturating_add(size_bytes)
        });
        self.fits(held)
    }

    fn remove(&self, size_bytes: usize) {
        for counter in self.counters() {
            counter.fetch_sub(size_bytes, Ordering::Relaxed);
        }
    }

    /// Whether these sums are within the budget: the bytes of the connection, its address and all.
    fn fits(&self, [of_connection, of_address, of_all]: [usize; 3]) -> bool {
        let max_bytes = self.address.budget.max_bytes;
        match of_connection {
            0..=LITTLE_BYTES => of_all <= max_bytes,
            _ => {
                let needed = of_connection.saturating_add(of_address).saturating_add(of_all);
                needed <= max_bytes - max_bytes / KEPT
            }
        }
    }
}

impl Share {
    /// Takes `size_bytes`, if there is room for them.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`]; nothing is taken.
    pub(crate) fn take(&self, size_bytes: usize) -> Result<Held> {
        let mut held = self.nothing();
        held.grow(size_bytes)?;
        Ok(held)
    }

    /// Takes as many bytes as there is room for: at most `most`, at least `least`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`], if there is no room for the least.
    pub(crate) fn take_up_to(&self, most: usize, least: usize) -> Result<Held> {
        let mut size_bytes = most;
        while size_bytes > least {
            match self.take(size_bytes) {
                Ok(held) => return Ok(held),
                Err(_no_room) => size_bytes /= 2,
            }
        }
        self.take(least)
    }

    /// Counts bytes that are allocated already, whether there is room or not.
    pub(crate) fn count(&self, size_bytes: usize) -> Held {
        let mut held = self.nothing();
        held.count(size_bytes);
        held
    }

    /// Returns a [`Held`] of no bytes.
    pub(crate) fn nothing(&self) -> Held {
        Held { share: self.clone(), size_bytes: 0 }
    }

    /// Completes `write`, which may have to wait for the client, and counts `size_bytes` while it
    /// waits.
    pub(crate) async fn waiting_with<T>(
        &self,
        size_bytes: usize,
        write: impl Future<Output = T>,
    ) -> T {
        let mut write = pin!(write);
        if let Poll::Ready(done) = poll!(write.as_mut()) {
            return done;
        }
        let _held = self.count(size_bytes);
        write.await
    }

    /// Waits for room, but no longer than [`MAX_WAIT`]: an open stream goes on slowly, even if
    /// other clients hold the whole budget for as long as they like.
    pub(crate) async fn room(&self) {
        let started = Instant::now();
        while !self.has_room(0) && started.elapsed() < MAX_WAIT {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether `size_bytes` more would fit.
    pub(crate) fn has_room(&self, size_bytes: usize) -> bool {
        self.0.as_ref().is_none_or(|connection| {
            let held = connection.counters();
            let held = held.map(|counter| counter.load(Ordering::Relaxed));
            connection.fits(held.map(|held| held.saturating_add(size_bytes)))
        })
    }
}

impl Held {
    /// Returns how many bytes are held.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Takes `size_bytes` more.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`]; the bytes that were held before stay held.
    pub(crate) fn grow(&mut self, size_bytes: usize) -> Result<()> {
        if size_bytes == 0 {
            return Ok(()); // This holds even while the budget is used up.
        }
        if let Some(connection) = &self.share.0
            && !connection.add(size_bytes)
        {
            connection.remove(size_bytes);
            let limit_bytes = connection.address.budget.max_bytes as u64;
            return Err(Error::NoRoom { needed_bytes: size_bytes as u64, limit_bytes });
        }
        self.size_bytes += size_bytes;
        Ok(())
    }

    /// Counts `size_bytes` more that are allocated already, whether there is room or not.
    pub(crate) fn count(&mut self, size_bytes: usize) {
        if let Some(connection) = &self.share.0 {
            connection.add(size_bytes);
        }
        self.size_bytes += size_bytes;
    }

    /// Gives back all but `size_bytes`. Does nothing if no more are held.
    pub(crate) fn keep(&mut self, size_bytes: usize) {
        let given_back = self.size_bytes.saturating_sub(size_bytes);
        if let Some(connection) = self.share.0.as_ref().filter(|_| given_back > 0) {
            connection.remove(given_back);
        }
        self.size_bytes -= given_back;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// The mark of an answer that makes its pieces as the client takes them: such an answer waits while
/// there is no room. An answer that continues only while it reads from its client must not have the
/// mark: while it waited, the memory of the bytes that it has read would not be given back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitsForRoom;

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as much as the connection can, in steps of `step` bytes.
    fn fill(share: &Share, step: usize) -> Held {
        let mut held = share.nothing();
        while held.grow(step).is_ok() {}
        held
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn one_client_alone_takes_a_quarter_and_all_is_given_back() {
        let budget = Budget::new(3 * MIB as u64);
        let share = budget.address().connection();
        let held = fill(&share, 1 << 10);
        let most = held.size_bytes();
        assert!(most >= 3 * MIB / ALONE as usize && most < MIB, "{most}");
        assert_eq!(budget.used_bytes(), most);
        let error = share.take(1 << 10).unwrap_err();
        assert!(matches!(error, Error::NoRoom { needed_bytes: 1_024, .. }), "{error}");
        assert_eq!(budget.used_bytes(), most, "refused bytes are not counted");
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
        share.take(most).unwrap();
    }

    /// Goal: however many clients are greedy, a newcomer from any address is served.
    #[test]
    fn greedy_clients_leave_room_for_others() {
        for greedy in [1, 10, 100, 1_000, 1_900] {
            let budget = Budget::new(64 * MIB as u64);
            let address = budget.address();
            let shares: Vec<Share> = (0..greedy).map(|_| address.connection()).collect();
            let mut all: Vec<Held> = shares.iter().map(Share::nothing).collect();
            // All take in turns, until none of them gets more.
            while all.iter_mut().filter_map(|held| held.grow(1 << 10).ok()).count() > 0 {}
            assert!(budget.used_bytes() <= 32 * MIB, "half is for other addresses");
            let newcomers: Vec<Share> = (0..100).map(|_| address.connection()).collect();
            let served: Vec<Held> =
                newcomers.iter().map(|share| share.take(LITTLE_BYTES).unwrap()).collect();
            let stranger = fill(&budget.address().connection(), 1 << 10);
            assert!(stranger.size_bytes() >= 4 * MIB, "{greedy}: {}", stranger.size_bytes());
            drop(served);
        }
    }

    #[test]
    fn what_is_there_is_counted_though_there_is_no_room_and_nothing_more_is_taken_then() {
        let budget = Budget::new(4 * MIB as u64);
        let share = budget.address().connection();
        let mut counted = share.count(5 * MIB);
        assert!(!share.has_room(0));
        assert!(share.take(1).is_err());
        counted.grow(0).unwrap(); // Taking no bytes always succeeds.
        drop(counted);
        assert!(share.has_room(MIB) && !share.has_room(2 * MIB));
    }

    #[test]
    fn what_is_held_shrinks_and_grows_to_what_is_asked_for() {
        let budget = Budget::new(4 * MIB as u64);
        let share = budget.address().connection();
        let mut held = share.take(600).unwrap();
        held.keep(700);
        assert_eq!(budget.used_bytes(), 600, "keeping never adds bytes");
        held.keep(100);
        held.grow(2 * MIB).unwrap_err();
        assert_eq!(budget.used_bytes(), 100, "a refusal takes nothing");
        held.grow(900).unwrap();
        assert_eq!(budget.used_bytes(), 1_000);
        // Where nothing is counted, everything fits.
        let mut uncounted = Share::default().take(usize::MAX).unwrap();
        uncounted.keep(0);
        assert!(Share::default().has_room(usize::MAX));
    }
}
