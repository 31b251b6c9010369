//! Horizons: the positions beyond which compaction may not look while a backup, or a topic's state,
//! is read.
//!
//! Events beyond a horizon supersede nothing before it, and no tombstone goes while a horizon is
//! held. So a reader sees the state at its position, whatever is rewritten meanwhile. A backup
//! holds a horizon for all topics; a read of a state holds one for its topic alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cursor::Position;
use crate::error::{Error, Result};
use crate::topic::TopicId;

/// The longest time between two uses of a horizon. Without it, a client that stops reading its
/// backup would stop compaction for ever.
const MAX_STANDSTILL: Duration = Duration::from_secs(60);

/// All horizons that are held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Horizons(Arc<Mutex<HeldHorizons>>);

#[derive(Debug, Default)]
struct HeldHorizons {
    /// The horizons by their positions; those of one position in the order in which they were
    /// taken.
    used: BTreeMap<(Position, u64), Use>,
    taken: u64,
}

#[derive(Debug)]
struct Use {
    /// The topic for which the horizon is held; `None` for all topics.
    topic: Option<TopicId>,
    /// The time of the last use.
    last: Instant,
}

impl Horizons {
    /// Returns the first position that is held for `topic`. Releases the horizons that were not
    /// used for too long.
    pub(crate) fn first(&self, topic: TopicId) -> Option<Position> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.used.retain(|_, used| used.last.elapsed() < MAX_STANDSTILL);
        let mut used = held.used.iter();
        let first = used.find(|(_, used)| used.topic.is_none_or(|held_for| held_for == topic));
        first.map(|((position, _), _)| *position)
    }

    /// Whether a horizon is held for `topic`.
    pub(crate) fn are_held(&self, topic: TopicId) -> bool {
        self.first(topic).is_some()
    }

    /// Holds the position that `now` returns, for one topic or for all. `now` is called under the
    /// lock, so that no compaction looks in between.
    pub(crate) fn hold(&self, topic: Option<TopicId>, now: impl FnOnce() -> Position) -> Horizon {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (now(), held.taken);
        held.taken += 1;
        held.used.insert(place, Use { topic, last: Instant::now() });
        Horizon { horizons: self.clone(), place }
    }
}

/// A position that is held for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Horizon {
    horizons: Horizons,
    place: (Position, u64),
}

impl Horizon {
    /// Notes a use of the horizon, so that it stays held.
    ///
    /// # Errors
    ///
    /// [`Error::DeadlineExceeded`]: the horizon was not used for too long, and was released.
    pub(crate) fn touch(&self) -> Result<()> {
        let mut held = self.horizons.0.lock().unwrap_or_else(PoisonError::into_inner);
        let touched = held.used.get_mut(&self.place).map(|used| used.last = Instant::now());
        let limit_ms = MAX_STANDSTILL.as_millis() as u64;
        touched.ok_or(Error::DeadlineExceeded { limit_ms })
    }
}

impl Drop for Horizon {
    fn drop(&mut self) {
        let mut held = self.horizons.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.used.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_held_by_its_own_readers_and_by_those_of_all_topics_alone() {
        let horizons = Horizons::default();
        let (a, b) = (TopicId::FIRST, TopicId::FIRST.next().unwrap());
        let of_a = horizons.hold(Some(a), || Position::new(7));
        assert_eq!((horizons.first(a), horizons.first(b)), (Some(Position::new(7)), None));
        let of_all = horizons.hold(None, || Position::new(9));
        let at = Some(Position::new(9));
        assert_eq!((horizons.first(a), horizons.first(b)), (Some(Position::new(7)), at));
        drop(of_a);
        assert_eq!((horizons.first(a), horizons.first(b)), (at, at));
        of_all.touch().unwrap();
        horizons.0.lock().unwrap().used.clear(); // As if they were not used for too long.
        assert!(matches!(of_all.touch(), Err(Error::DeadlineExceeded { .. })));
        assert!(!horizons.are_held(a) && !horizons.are_held(b));
    }

    #[test]
    fn what_stands_still_for_too_long_is_let_go_of() {
        let (horizons, topic) = (Horizons::default(), TopicId::FIRST);
        let [still, moving] = [7, 9].map(|at| horizons.hold(None, || Position::new(at)));
        assert_eq!(horizons.first(topic), Some(Position::new(7)));
        let Some(long_ago) = Instant::now().checked_sub(MAX_STANDSTILL) else { return };
        for used in horizons.0.lock().unwrap().used.values_mut() {
            used.last = long_ago;
        }
        moving.touch().unwrap();
        assert_eq!(horizons.first(topic), Some(Position::new(9)));
        assert!(matches!(still.touch(), Err(Error::DeadlineExceeded { .. })));
    }
}
