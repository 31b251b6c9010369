//! Retention: decides which blocks a topic's limits no longer keep, from the front, and which
//! trimmed blocks can be removed.
//!
//! ```text
//!  removed now     trimmed now       kept
//! | block | block | block | block | block | block | what is appended
//!                 ^ earliest, as readers know it
//!                                 ^ earliest, once this is written
//! ```
//!
//! # Why
//!
//! A topic is trimmed by the same group that appends to it, so that it is never over its limits by
//! more than a block, whatever the load. Trimmed blocks are removed by a later group: until readers
//! know of the new `earliest`, a missing block would be damage to them.

use crate::broker::report::MaintenanceReport;
use crate::cursor::{Sequence, TrimReason};
use crate::error::Result;
use crate::event::Timestamp;
use crate::log::{Ahead, Extent, LastEvent, Log, StoredBlock, StoredTopic};
use crate::topic_config::TopicConfig;

/// The parts that are looked at first. In most cases these show all there is to do.
const GLANCE_PARTS: usize = 8;

/// The events that a group adds to a topic.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Added {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// The outcome of a look at the front of a topic.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// Blocks that are to be removed; the topic counts them as dropped.
    pub(crate) removed: Vec<StoredBlock>,
    pub(crate) report: MaintenanceReport,
    /// Whether there may be more to do at once.
    pub(crate) has_more: bool,
    /// For how long nothing needs to be dropped, as far as that is known.
    pub(crate) quiet: Quiet,
}

/// The conditions under which nothing needs to be dropped from a topic. All of them must hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quiet {
    /// The topic has fewer events than this.
    below_events: u64,
    /// The topic's blocks take fewer bytes than this.
    below_bytes: u64,
    /// This time is not past.
    until: Timestamp,
}

impl Quiet {
    /// Whether nothing needs to be dropped yet from a topic with this extent, with what is `added`.
    pub(crate) fn holds(&self, extent: &Extent, added: Added, now: Timestamp) -> bool {
        extent.events() + added.events < self.below_events
            && extent.size_bytes() + added.bytes < self.below_bytes
            && now <= self.until
    }

    /// Returns the time at which the oldest block becomes older than the limit; `None` if that is
    /// not known.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        (self.below_bytes > 0 && self.until < Timestamp::MAX).then(|| self.until.plus_ms(1))
    }
}

/// The blocks at the front of a topic, as far as they were looked at.
struct Front {
    /// The blocks that readers know to be trimmed.
    trimmed: Vec<StoredBlock>,
    /// The blocks after the trimmed ones that are to be trimmed, each with the reason.
    over: Vec<(StoredBlock, TrimReason)>,
    /// The first block that was not trimmed.
    front: Option<StoredBlock>,
    /// The extent of the topic without the trimmed blocks.
    extent: Extent,
    /// Whether all blocks that were looked at go, so that there may be more to do.
    all_goes: bool,
}

/// A topic's limits, and what is needed to apply them.
pub(crate) struct Retention<'a> {
    pub(crate) log: &'a dyn Log,
    pub(crate) limits: TopicConfig,
    /// The earliest sequence that readers know of. Blocks before it can be removed.
    pub(crate) published: Sequence,
    pub(crate) now: Timestamp,
    /// The most parts to look at, besides those of a first block.
    pub(crate) max_parts: usize,
}

impl Retention<'_> {
    /// Whether these settings have a limit on events, bytes or age.
    pub(crate) fn is_limited(limits: &TopicConfig) -> bool {
        limits.event_limit().or(limits.byte_limit()).or(limits.age_limit_ms()).is_some()
    }

    /// Decides which blocks of `topic` that were trimmed before are removed, and which are trimmed
    /// because they are over a limit with what is `added`. Changes `topic` accordingly; nothing is
    /// written to the log.
    ///
    /// # Errors
    ///
    /// As [`Log::stored_blocks`] and [`Log::last_below`]; `topic` is as it was.
    pub(crate) fn apply(&self, topic: &mut StoredTopic, added: Added) -> Result<Retained> {
        let glance = self.look(topic, added, GLANCE_PARTS.min(self.max_parts))?;
        // In most cases a glance shows all there is to do.
        let found = if glance.all_goes { self.look(topic, added, self.max_parts)? } else { glance };
        let mut retained = Retained { has_more: found.all_goes, ..Retained::default() };
        let mut extent = found.extent;
        if let Some((last, reason)) = found.over.last() {
            (extent.trimmed_position, extent.trimmed_time) = match last.last {
                Some(LastEvent { position, time, .. }) => {
                    (position.min(extent.last_position), time.min(extent.last_time))
                }
                None => self.log.last_below(topic, last.end)?,
            };
            (extent.earliest, extent.trim_reason) = (last.end, *reason);
            retained.has_more = true;
        } else if let Some(front) = found.front {
            retained.quiet = self.quiet(&front, extent.ahead);
        }
        for (block, reason) in &found.over {
            match reason {
                TrimReason::Expired => retained.report.expired.add(block.events, block.size_bytes),
                _ => retained.report.retention.add(block.events, block.size_bytes),
            }
        }
        // Purged and deleted events were not counted when they were trimmed: they are counted now.
        if matches!(topic.extent.trim_reason, TrimReason::Purged | TrimReason::Deleted) {
            for block in &found.trimmed {
                retained.report.purged.add(block.events, block.size_bytes);
            }
        }
        let removed_bytes: u64 = found.trimmed.iter().map(|block| block.size_bytes).sum();
        retained.report.reclaimed_bytes = removed_bytes;
        retained.removed = found.trimmed;
        topic.extent = extent;
        Ok(retained)
    }

    /// Divides the blocks at the front of `topic` into trimmed ones, ones that are to be trimmed,
    /// and the rest.
    fn look(&self, topic: &StoredTopic, added: Added, max_parts: usize) -> Result<Front> {
        let all = Sequence::FIRST..topic.extent.tail;
        let mut trimmed = self.log.stored_blocks(topic.id, all, max_parts)?;
        let kept = trimmed.split_off(trimmed.partition_point(|block| block.end <= self.published));
        let mut extent = topic.extent;
        trimmed.iter().for_each(|block| extent.drop_block(block));
        let over = self.over_limits(&kept, &extent, added);
        let all_goes = over.len() == kept.len() && !(trimmed.is_empty() && kept.is_empty());
        Ok(Front { trimmed, over, front: kept.first().copied(), extent, all_goes })
    }

    /// Returns those of the first blocks that are to be trimmed, each with the reason.
    pub(super) fn over_limits(
        &self,
        kept: &[StoredBlock],
        extent: &Extent,
        added: Added,
    ) -> Vec<(StoredBlock, TrimReason)> {
        let (mut events, mut bytes) =
            (extent.events() + added.events, extent.size_bytes() + added.bytes);
        let mut over = Vec::new();
        let mut undated = Vec::new();
        for block in kept {
            let is_over = |limit: Option<u64>, left: u64, dropped: u64| {
                limit.is_some_and(|limit| left >= limit.saturating_add(dropped))
            };
            let is_old = block.last.map(|last| {
                let appended = self.appended(last, extent.ahead);
                self.limits.age_limit_ms().is_some_and(|limit| appended.plus_ms(limit) < self.now)
            });
            // Blocks that compaction has emptied stay until they are merged: dropping them would be
            // told as a gap.
            let is_empty = block.events == 0 && self.limits.key_limit().is_none();
            if is_over(self.limits.byte_limit(), bytes, block.size_bytes)
                || is_over(self.limits.event_limit(), events, block.events)
                || is_old == Some(true)
            {
                over.append(&mut undated);
                over.push((*block, TrimReason::Retention));
            } else if is_empty {
                over.append(&mut undated);
                over.push((*block, TrimReason::Expired));
            } else if is_old.is_none() {
                // The age of a damaged block is unknown: it goes with the next block that is over a
                // limit.
                undated.push((*block, TrimReason::Retention));
            } else {
                break;
            }
            events = events.saturating_sub(block.events);
            bytes = bytes.saturating_sub(block.size_bytes);
        }
        over
    }

    /// Returns the time at which the last event of a block was appended, as far as that is known.
    fn appended(&self, last: LastEvent, ahead: Ahead) -> Timestamp {
        ahead.appended(last.position, last.clock, self.now)
    }

    /// Returns the conditions under which nothing needs to be dropped from a topic that begins with
    /// this block.
    fn quiet(&self, front: &StoredBlock, ahead: Ahead) -> Quiet {
        let below = |limit: Option<u64>, dropped| {
            limit.map_or(u64::MAX, |limit: u64| limit.saturating_add(dropped))
        };
        let until = match (self.limits.age_limit_ms(), front.last) {
            (None, _) => Timestamp::MAX,
            (Some(limit), Some(last)) => self.appended(last, ahead).plus_ms(limit),
            (Some(_), None) => self.now,
        };
        Quiet {
            below_events: below(self.limits.event_limit(), front.events),
            below_bytes: below(self.limits.byte_limit(), front.size_bytes),
            until,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cursor::Position;
    use crate::event::NewEvent;
    use crate::log::{Block, BlockBuilder, Group, MemoryLog, NewRecords};
    use crate::topic::{TopicId, TopicName};

    /// Returns a log with a topic of 10 blocks of 2 events, appended at the times 0, 10, 20, …
    fn ten_blocks() -> (Arc<dyn Log>, StoredTopic, Vec<Block>) {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::default());
        let topic = StoredTopic::new(TopicId::FIRST, TopicName::new("a").unwrap());
        let mut group = Group::noting(topic);
        for number in 0..10 {
            let first = 1 + 2 * number;
            let records = NewRecords::encode(&[NewEvent::new("1"), NewEvent::new("2")]);
            let mut builder = BlockBuilder::new(Sequence::new(first));
            (0..2).for_each(|index| builder.push(records.record(index), false, false));
            let start_bytes = group.appended.last().map_or(0, |(_, block)| block.end_bytes());
            let time = Timestamp::from_ms(10 * number);
            let block = builder.finish(Position::new(first), time, start_bytes);
            group.appended.push((TopicId::FIRST, block));
        }
        log.commit(&group).unwrap();
        let topic = log.topics().unwrap().remove(0);
        (log, topic, group.appended.into_iter().map(|(_, block)| block).collect())
    }

    fn limits(events: u64, bytes: u64, age_ms: u64) -> TopicConfig {
        let limit = |limit: u64| (limit > 0).then_some(limit);
        TopicConfig {
            max_events: limit(events),
            max_bytes: limit(bytes),
            max_age_ms: limit(age_ms),
            ..TopicConfig::default()
        }
    }

    /// Returns the sequence at which the topic begins with these limits, at the time 90.
    fn earliest(limits: TopicConfig, added: Added) -> u64 {
        let (log, mut topic, _) = ten_blocks();
        let (published, now) = (Sequence::FIRST, Timestamp::from_ms(90));
        let retention = Retention { log: &*log, limits, published, now, max_parts: 64 };
        let retained = retention.apply(&mut topic, added).unwrap();
        assert!(retained.removed.is_empty(), "readers do not know the new earliest yet");
        assert_eq!(retained.report.retention.events, topic.extent.earliest.get() - 1);
        assert_eq!(topic.extent.trimmed_position.get(), topic.extent.earliest.get() - 1);
        topic.extent.earliest.get()
    }

    #[test]
    fn a_topic_is_over_its_limits_by_less_than_a_block() {
        let block_bytes = ten_blocks().2[0].bytes().len() as u64;
        let none = Added::default();
        assert_eq!(earliest(limits(20, 0, 0), none), 1);
        assert_eq!(earliest(limits(19, 0, 0), none), 1);
        assert_eq!(earliest(limits(18, 0, 0), none), 3);
        assert_eq!(earliest(limits(1, 0, 0), none), 19);
        assert_eq!(earliest(limits(0, 3 * block_bytes, 0), none), 15);
        assert_eq!(earliest(limits(0, 3 * block_bytes - 1, 0), none), 15);
        assert_eq!(earliest(limits(0, 1, 0), none), 19);
        assert_eq!(earliest(limits(0, 0, 90), none), 1);
        assert_eq!(earliest(limits(0, 0, 89), none), 3);
        assert_eq!(earliest(limits(0, 0, 1), none), 19);
        assert_eq!(earliest(limits(18, 3 * block_bytes, 89), none), 15, "the narrowest counts");
        let added = Added { events: 2, bytes: block_bytes };
        assert_eq!(earliest(limits(20, 0, 0), added), 3);
        assert_eq!(earliest(limits(1, 0, 0), added), 21);
        assert_eq!(earliest(limits(0, 3 * block_bytes, 0), added), 17);
    }

    #[test]
    fn what_readers_know_to_be_trimmed_is_removed_and_counted() {
        let (log, mut topic, blocks) = ten_blocks();
        (topic.extent.earliest, topic.extent.tail) = (Sequence::new(8), Sequence::new(21));
        let (published, now) = (topic.extent.earliest, Timestamp::from_ms(90));
        let limits = limits(6, 0, 0);
        let retention = |max_parts| Retention { log: &*log, limits, published, now, max_parts };
        let mut other = topic.clone();
        let retained = retention(2).apply(&mut other, Added::default()).unwrap();
        assert_eq!(retained.removed.len(), 2, "a bounded step");
        assert!(retained.has_more);
        assert_eq!((other.extent.events(), other.extent.earliest.get()), (16, 8));
        let retained = retention(64).apply(&mut topic, Added::default()).unwrap();
        assert_eq!(retained.removed.len(), 3);
        assert_eq!((topic.extent.events(), topic.extent.earliest.get()), (14, 15));
        let size_bytes: u64 = blocks[3..].iter().map(|block| block.bytes().len() as u64).sum();
        assert_eq!(topic.extent.size_bytes(), size_bytes);
    }

    #[test]
    fn it_is_quiet_exactly_until_there_is_something_to_drop() {
        let (log, topic, blocks) = ten_blocks();
        let block_bytes = blocks[0].bytes().len() as u64;
        let limits = limits(30, 20 * block_bytes, 200);
        let at = |now, added| {
            let now = Timestamp::from_ms(now);
            let retention =
                Retention { log: &*log, limits, published: Sequence::FIRST, now, max_parts: 64 };
            let mut topic = topic.clone();
            (retention.apply(&mut topic, added).unwrap().quiet, topic.extent.earliest.get())
        };
        let (quiet, _) = at(90, Added::default());
        for (events, bytes, now) in [
            (11, 0, 90),
            (12, 0, 90),
            (0, 11 * block_bytes - 1, 90),
            (0, 11 * block_bytes, 90),
            (0, 0, 200),
            (0, 0, 201),
        ] {
            let (added, time) = (Added { events, bytes }, Timestamp::from_ms(now));
            let is_quiet = quiet.holds(&topic.extent, added, time);
            assert_eq!(is_quiet, at(now, added).1 == 1, "{added:?} at {now}");
        }
    }
}
