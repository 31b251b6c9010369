//! Trimming: the leader removes from the stream what no node needs any more.
//!
//! ```text
//!   1 … trimmed … | kept for nodes that are away | … n2 synced … n1 synced … | tail
//!                 ^ the least of: what all live nodes have synced, what was there long ago
//! ```
//!
//! A record goes when all live nodes have it synced, and it was applied here at least
//! [`NodeConfig::keep`](super::NodeConfig::keep) ago. A node that was away for less than that
//! catches up from the stream; one that was away for longer loads a backup of a peer.
//!
//! # Why
//!
//! Records have no time, and clocks of machines differ. So each node notes now and then which
//! record it has applied, by its own steady clock. A leader that was started lately has notes from
//! its start on, and keeps more than it must.
//!
//! Who is live is known by messages that may be lost ([`Peers`](super::peers::Peers)). A node that
//! is well and is not heard for ten leases loses nothing either: it has the time of
//! `keep` to read on.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::clock::SteadyClock;
use super::peers::PeerWatch;
use super::status::NodeRole;
use super::stream::{Stream, StreamSequence};

/// The notes in the time for which records are kept: one more record in so many is kept.
const NOTES: u32 = 32;

/// The leases between two looks at what can go.
const LOOK_EVERY: u32 = 3;

/// Which record was applied when.
#[derive(Debug)]
struct PlaceHistory {
    keep: Duration,
    /// Times, each with the record that was applied then; rising.
    notes: VecDeque<(Duration, StreamSequence)>,
}

impl PlaceHistory {
    fn new(keep: Duration) -> Self {
        Self { keep, notes: VecDeque::new() }
    }

    /// Notes that `place` is applied.
    fn note(&mut self, now: Duration, place: StreamSequence) {
        let is_due = self.notes.back().is_none_or(|(time, _)| now >= *time + self.keep / NOTES);
        if is_due {
            self.notes.push_back((now, place));
        }
        // The second one is old enough, so the first one is not needed.
        while self.notes.get(1).is_some_and(|(time, _)| *time + self.keep <= now) {
            self.notes.pop_front();
        }
    }

    /// Returns the record that was applied long enough ago; `None` before that.
    fn old(&self, now: Duration) -> Option<StreamSequence> {
        let (time, place) = self.notes.front()?;
        (*time + self.keep <= now).then_some(*place)
    }
}

/// The task of a node that trims the stream while the node leads.
pub(super) struct Trimmer {
    stream: Arc<dyn Stream>,
    clock: Arc<dyn SteadyClock>,
    peers: PeerWatch,
    look_every: Duration,
    history: PlaceHistory,
    /// Where the stream begins, as far as this node has trimmed it.
    begins: StreamSequence,
}

impl Trimmer {
    pub(super) fn new(
        stream: Arc<dyn Stream>,
        clock: Arc<dyn SteadyClock>,
        peers: PeerWatch,
        lease: Duration,
        keep: Duration,
    ) -> Self {
        let (history, begins) = (PlaceHistory::new(keep), StreamSequence::BEFORE_ALL);
        Self { stream, clock, peers, look_every: lease * LOOK_EVERY, history, begins }
    }

    /// Looks for ever. Each node takes notes, because each may lead later.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let own = self.peers.own();
            let now = self.clock.now();
            self.history.note(now, StreamSequence::new(own.applied));
            let below = self.below(own.synced, now).filter(|below| *below > self.begins);
            if let Some(below) = below.filter(|_| own.role == NodeRole::Leading) {
                match self.stream.trim(below).await {
                    Ok(()) => {
                        tracing::debug!(below = below.get(), "trimmed the fleet's stream");
                        self.begins = below;
                    }
                    Err(error) => tracing::debug!(%error, "the fleet's stream is not trimmed"),
                }
            }
            self.clock.sleep_until(self.clock.now() + self.look_every).await;
        }
    }

    /// Returns the first record that somebody needs; `None` if that is not known.
    fn below(&self, synced: Option<u64>, now: Duration) -> Option<StreamSequence> {
        let old = self.history.old(now)?;
        let synced = StreamSequence::new(synced?.min(self.peers.live_synced()?));
        Some(old.min(synced).next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_was_applied_long_enough_ago_is_known_and_takes_bounded_memory() {
        let mut history = PlaceHistory::new(at(3_200));
        assert_eq!(history.old(at(0)), None);
        for second in 0..20_000 {
            history.note(at(second), StreamSequence::new(second));
            let old = history.old(at(second)).map(StreamSequence::get);
            let Some(latest) = second.checked_sub(3_200) else {
                assert_eq!(old, None, "at {second}");
                continue;
            };
            let old = old.unwrap();
            assert!(old <= latest && old + 100 > latest, "{old} at {second}");
            assert!(history.notes.len() <= 34);
        }
    }

    #[test]
    fn without_a_time_all_that_is_applied_is_old() {
        let mut history = PlaceHistory::new(Duration::ZERO);
        for second in 0..10 {
            history.note(at(second), StreamSequence::new(second));
            assert_eq!(history.old(at(second)).map(StreamSequence::get), Some(second));
            assert_eq!(history.notes.len(), 1);
        }
    }
}
