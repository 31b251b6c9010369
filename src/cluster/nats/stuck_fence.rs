//! A fence that refuses the right record for ever, and how it is freed.
//!
//! The stream's leader compares the fence with what it has accepted, not with what is stored. In
//! some versions (seen with 2.9.10, when servers ended while two writers appended) its count stays
//! ahead of the stream after an election: then it refuses every record, while it says itself that
//! the stream ends where the fence says. Another leader counts anew. So the leader is asked to step
//! down, which is safe at any time: it costs the pause of an election in order, below a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::address::StreamAddress;
use super::api::{self, EMPTY};
use crate::cluster::stream::StreamSequence;

/// How long a fence must have refused records after the same one. A new leader may take some time
/// until it knows its tail.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long each of the two questions may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Watches for a fence that is stuck.
#[derive(Default)]
pub(super) struct StuckFence {
    /// The record after which all are refused, and since when.
    refused: Mutex<Option<(StreamSequence, Instant)>>,
}

impl StuckFence {
    /// Notes that a record was stored.
    pub(super) fn moved(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the fence refused a record after `after`. If it has done so for too long and the
    /// stream does end there, its leader is asked to step down.
    pub(super) async fn refused(&self, after: StreamSequence, at: &StreamAddress) {
        if !self.is_late(after, Instant::now()) {
            return;
        }
        let tail = at.info(ASK_TIMEOUT).await.map(|info| info.state.last_seq);
        if tail != Ok(after.get()) {
            return;
        }
        let what = format!("STREAM.LEADER.STEPDOWN.{}", at.names.stream);
        let asked = api::call::<IgnoredAny>(&at.connection, what, &EMPTY, ASK_TIMEOUT).await;
        let problem = asked.err().map(api::ApiError::into_text);
        let sequence = after.get();
        tracing::warn!(
            sequence,
            problem,
            "the stream's leader refuses the record that comes next; it was asked to step down"
        );
    }

    /// Returns whether it is time to look, at most once in each [`PATIENCE`].
    fn is_late(&self, after: StreamSequence, now: Instant) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match *refused {
            Some((same, since)) if same == after && now < since + PATIENCE => false,
            Some((same, _)) => {
                *refused = Some((after, now));
                same == after
            }
            None => {
                *refused = Some((after, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_fence_for_long_is_late() {
        let fence = StuckFence::default();
        let began = Instant::now();
        let late = |after, seconds| {
            fence.is_late(StreamSequence::new(after), began + Duration::from_secs(seconds))
        };
        assert!(!late(5, 0) && !late(5, 1));
        assert!(late(5, 2), "for two seconds");
        assert!(!late(5, 3), "not again at once");
        assert!(!late(6, 5) && !late(6, 6), "another one");
        assert!(late(6, 7));
        fence.moved();
        assert!(!late(6, 20), "a record was stored");
    }
}
