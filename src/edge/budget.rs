//! Memory for clients: one budget of all that waits for them or comes from them, in bytes.
//!
//! ```text
//! budget ─▶ address ─▶ connection ─▶ what is held: a request that is not whole, a page that is
//!                                    not sent, the patterns of a subscription, …
//! ```
//!
//! # Why
//!
//! Each of these is small, and a client may have as many of them as it likes: bounds on single ones
//! do not add up to a bound on memory. So all of them are taken from one budget, before there are
//! bytes where that can be known, and given back when the bytes are gone.
//!
//! A connection may hold as much as it leaves to its address, and an address as much as it leaves
//! to all others. So the first may take a quarter of the budget, a hundred greedy ones together
//! leave enough for others, and no number has to be chosen for how many clients there will be. A
//! part is kept for connections that hold little, so that a newcomer is served beside thousands.
//! Source of the idea: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory
//! packet switches", 1998.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// One client alone may take one part of so many of the budget.
pub(crate) const ALONE: u64 = 4;

/// One part of so many is kept for connections that hold little, no more than this, in bytes: a
/// small request has its place in it, or an idle stream. For these there is room as long as there
/// is any; as many as one address may have connections are a part of the default budget.
const KEPT: usize = 8;
const LITTLE_BYTES: usize = 8 << 10;

/// How long a stream waits before it looks for room again, and before it makes its next piece all
/// the same: about as long as it may be silent.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What all clients hold together, and may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    max_bytes: usize,
    used_bytes: AtomicUsize,
}

/// What all connections of one address hold.
#[derive(Debug)]
pub(crate) struct AddressShare {
    budget: Arc<Budget>,
    used_bytes: AtomicUsize,
}

/// What one connection holds. Cheap to clone. The default is of a connection that nobody counts:
/// one to a host's own server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Share(Option<Arc<ConnectionShare>>);

#[derive(Debug)]
struct ConnectionShare {
    address: Arc<AddressShare>,
    used_bytes: AtomicUsize,
}

/// Bytes that are taken from the budget for as long as this is held.
#[derive(Debug, Default)]
pub(crate) struct Held {
    share: Share,
    size_bytes: usize,
}

impl Budget {
    /// Of so many bytes.
    pub(crate) fn new(max_bytes: u64) -> Arc<Self> {
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        Arc::new(Self { max_bytes, used_bytes: AtomicUsize::new(0) })
    }

    /// The share of an address that has none yet.
    pub(crate) fn address(self: &Arc<Self>) -> Arc<AddressShare> {
        Arc::new(AddressShare { budget: self.clone(), used_bytes: AtomicUsize::new(0) })
    }

    /// What all hold, in bytes.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }
}

impl AddressShare {
    /// The share of another connection.
    pub(crate) fn connection(self: &Arc<Self>) -> Share {
        let address = self.clone();
        Share(Some(Arc::new(ConnectionShare { address, used_bytes: AtomicUsize::new(0) })))
    }
}

impl ConnectionShare {
    fn counters(&self) -> [&AtomicUsize; 3] {
        [&self.used_bytes, &self.address.used_bytes, &self.address.budget.used_bytes]
    }

    /// Adds to what is held. Returns whether that fits.
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

    /// Whether the connection leaves as much to its address, and that to all others, as they hold.
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
    /// Takes so many bytes, if there is room for them.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`]; nothing is taken.
    pub(crate) fn take(&self, size_bytes: usize) -> Result<Held> {
        let mut held = self.nothing();
        held.grow(size_bytes)?;
        Ok(held)
    }

    /// Takes as much as there is room for, `most` bytes at the most and `least` at the least.
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

    /// Counts bytes that are there already, whether there is room or not.
    pub(crate) fn count(&self, size_bytes: usize) -> Held {
        let mut held = self.nothing();
        held.count(size_bytes);
        held
    }

    /// Nothing yet.
    pub(crate) fn nothing(&self) -> Held {
        Held { share: self.clone(), size_bytes: 0 }
    }

    /// Does what may have to wait for the client, and counts so many bytes for as long as it waits.
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

    /// Waits for room for more, but not for ever: what is open goes on, if slowly, though others
    /// hold all there is for as long as they like.
    pub(crate) async fn room(&self) {
        let started = Instant::now();
        while !self.has_room(0) && started.elapsed() < MAX_WAIT {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether so many bytes more would fit.
    pub(crate) fn has_room(&self, size_bytes: usize) -> bool {
        self.0.as_ref().is_none_or(|connection| {
            let held = connection.counters();
            let held = held.map(|counter| counter.load(Ordering::Relaxed));
            connection.fits(held.map(|held| held.saturating_add(size_bytes)))
        })
    }
}

impl Held {
    /// How many bytes they are.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`]; what was held is held.
    pub(crate) fn grow(&mut self, size_bytes: usize) -> Result<()> {
        if size_bytes == 0 {
            return Ok(()); // Whatever the others hold by now.
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

    /// Counts so many bytes more that are there already, whether there is room or not.
    pub(crate) fn count(&mut self, size_bytes: usize) {
        if let Some(connection) = &self.share.0 {
            connection.add(size_bytes);
        }
        self.size_bytes += size_bytes;
    }

    /// Gives back all but so many bytes; nothing, where there are no more.
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

/// On an answer that makes its pieces as the client takes them: it waits while there is no room. An
/// answer that goes on only because it hears the client must not, for what it holds of what it
/// heard would never be given back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitsForRoom;

#[cfg(test)]
mod tests {
    use super::*;

    /// How much a connection can take, in steps of so many bytes.
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
        assert_eq!(budget.used_bytes(), most, "what is refused is not counted");
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
        share.take(most).unwrap();
    }

    /// Goal: however many are greedy, a newcomer is served, from their own address or another.
    #[test]
    fn greedy_clients_leave_room_for_others() {
        for greedy in [1, 10, 100, 1_000, 1_900] {
            let budget = Budget::new(64 * MIB as u64);
            let address = budget.address();
            let shares: Vec<Share> = (0..greedy).map(|_| address.connection()).collect();
            let mut all: Vec<Held> = shares.iter().map(Share::nothing).collect();
            // In turns, until nobody gets any more.
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
        counted.grow(0).unwrap(); // Nothing more is nothing more.
        drop(counted);
        assert!(share.has_room(MIB) && !share.has_room(2 * MIB));
    }

    #[test]
    fn what_is_held_shrinks_and_grows_to_what_is_asked_for() {
        let budget = Budget::new(4 * MIB as u64);
        let share = budget.address().connection();
        let mut held = share.take(600).unwrap();
        held.keep(700);
        assert_eq!(budget.used_bytes(), 600, "it never grows so");
        held.keep(100);
        held.grow(2 * MIB).unwrap_err();
        assert_eq!(budget.used_bytes(), 100, "what was held is held");
        held.grow(900).unwrap();
        assert_eq!(budget.used_bytes(), 1_000);
        // Where nobody counts, all fits.
        let mut uncounted = Share::default().take(usize::MAX).unwrap();
        uncounted.keep(0);
        assert!(Share::default().has_room(usize::MAX));
    }
}
