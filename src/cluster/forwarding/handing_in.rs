//! The publishes of a node that cannot be handed in at once: the ids of a topic are read first, or
//! there is no room in the queue. Those of other publishers are handed in meanwhile.
//!
//! ```text
//! publisher 1   publish ── waits for ids ──▶ queue      its next one waits behind it
//! publisher 2   publish ───────────────────▶ queue
//! ```

use std::collections::{HashMap, VecDeque};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

/// The publishes that wait, and the bytes of their events, at which no more are read from the node.
const MAX_WAITING: usize = 1_024;
const MAX_WAITING_BYTES: usize = 16 << 20;

/// A publish on its way to the queue.
type HandingIn<D> = BoxFuture<'static, (u64, D)>;

/// The publishes that wait. `P` is a publish, `D` what is left to do once it is handed in.
pub(super) struct WaitingPublishes<P, D> {
    handing_in: FuturesUnordered<HandingIn<D>>,
    /// The bytes of the publish that is handed in, and those behind it, by their publisher.
    of_publisher: HashMap<u64, (usize, VecDeque<(P, usize)>)>,
    count: usize,
    bytes: usize,
}

impl<P, D: Send + 'static> WaitingPublishes<P, D> {
    pub(super) fn new() -> Self {
        Self {
            handing_in: FuturesUnordered::new(),
            of_publisher: HashMap::new(),
            count: 0,
            bytes: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether more publishes may be added.
    pub(super) fn has_room(&self) -> bool {
        self.count < MAX_WAITING && self.bytes < MAX_WAITING_BYTES
    }

    /// Adds a publish of a publisher, whose events take so many bytes. `hand_in` begins to hand it
    /// in, unless one of the same publisher waits.
    pub(super) fn add(
        &mut self,
        publisher: u64,
        (publish, bytes): (P, usize),
        hand_in: impl FnOnce(P) -> BoxFuture<'static, D>,
    ) {
        self.count += 1;
        self.bytes += bytes;
        match self.of_publisher.get_mut(&publisher) {
            Some((_, behind)) => behind.push_back((publish, bytes)),
            None => {
                self.of_publisher.insert(publisher, (bytes, VecDeque::new()));
                self.begin(publisher, hand_in(publish));
            }
        }
    }

    fn begin(&self, publisher: u64, handing_in: BoxFuture<'static, D>) {
        self.handing_in.push(Box::pin(async move { (publisher, handing_in.await) }));
    }

    /// Waits until one is handed in, and returns it; for ever if none waits. `hand_in` begins to
    /// hand in the next one of the same publisher.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn next(&mut self, hand_in: impl FnOnce(P) -> BoxFuture<'static, D>) -> D {
        let Some((publisher, done)) = self.handing_in.next().await else {
            return std::future::pending().await;
        };
        let Some((bytes, behind)) = self.of_publisher.get_mut(&publisher) else { return done };
        self.count -= 1;
        self.bytes -= *bytes;
        match behind.pop_front() {
            Some((publish, next_bytes)) => {
                *bytes = next_bytes;
                self.begin(publisher, hand_in(publish));
            }
            None => drop(self.of_publisher.remove(&publisher)),
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt as _;
    use tokio::sync::Semaphore;

    use super::*;

    /// Goal: a publish that waits holds up the later ones of its publisher, and no others; what
    /// waits is bounded in number and in bytes.
    #[tokio::test]
    async fn a_publish_that_waits_holds_up_those_of_its_publisher_alone() {
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let hand_in = |publish: u64| -> BoxFuture<'static, u64> {
            let (gate, begun) = (gate.clone(), begun.clone());
            Box::pin(async move {
                begun.lock().unwrap().push(publish);
                if publish == 10 {
                    gate.acquire().await.unwrap().forget();
                }
                publish
            })
        };
        let mut waiting = WaitingPublishes::new();
        for publish in [10, 20, 11, 21, 12] {
            waiting.add(publish / 10, (publish, 1), hand_in);
        }
        let mut next = async || {
            // Each is handed in as soon as it may be.
            for _ in 0..10 {
                if let Some(done) = waiting.next(hand_in).now_or_never() {
                    return Some(done);
                }
            }
            None
        };
        assert_eq!((next().await, next().await, next().await), (Some(20), Some(21), None));
        assert_eq!(*begun.lock().unwrap(), [10, 20, 21]);
        gate.add_permits(1);
        assert_eq!((next().await, next().await, next().await), (Some(10), Some(11), Some(12)));
        assert!(waiting.is_empty() && waiting.of_publisher.is_empty() && waiting.bytes == 0);

        for number in 0..MAX_WAITING {
            assert!(waiting.has_room());
            waiting.add(1, (10 + number as u64 % 2, 1), hand_in);
        }
        assert!(!waiting.has_room());
        let mut waiting = WaitingPublishes::new();
        waiting.add(1, (10, MAX_WAITING_BYTES), hand_in);
        assert!(!waiting.has_room());
    }
}
