//! The orders in which a processor may run the steps of two threads: all of them are tried.

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
}

#[path = "../../src/broker/announced.rs"]
#[allow(dead_code, reason = "the broker uses all of it")]
mod announced;

use announced::Announced;
use loom::sync::Arc;

/// Goal: a feed that begins while a group becomes durable sees the group's position, or is woken.
#[test]
fn a_position_is_seen_by_the_feed_or_the_feed_by_the_committer() {
    loom::model(|| {
        let announced = Arc::new(Announced::new(6));
        let committer = {
            let announced = announced.clone();
            loom::thread::spawn(move || {
                announced.announce(7);
                announced.has_feeds()
            })
        };
        announced.join();
        let known = announced.position();
        let is_told = committer.join().unwrap();
        assert!(known == 7 || is_told, "a lost wake-up");
    });
}
