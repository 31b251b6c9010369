//! The data of one visit to one topic, its steps that are on their way to the committer, and the
//! rule why an event goes (`why_dropped`). What a visit does with them, in which order, is in
//! `rewriting.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::maintainer::{Maintainer, MaintenanceReply, check_caller};
use super::superseded::Superseded;
use crate::broker::command::{Rewrite, Work};
use crate::broker::report::{Done, MaintenanceReport};
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Ages, Compacted, EventRef, Extent, Log};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// The bytes of blocks that are read at a time.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// The most steps of one visit that are on their way; meanwhile the next one is read and merged.
const MAX_WRITING: usize = 8;

/// The time without a new event after which a topic is quiet. Its newest events are then compacted,
/// too.
const QUIET: Duration = Duration::from_secs(60);

/// One visit to one topic: its data, and its steps on their way.
pub(super) struct Visit<'a> {
    pub(super) maintenance: &'a Maintainer,
    pub(super) topic: &'a Arc<Topic>,
    pub(super) id: TopicId,
    pub(super) config: TopicConfig,
    pub(super) now: Timestamp,
    /// The ages of the topic's events at `now`.
    pub(super) ages: Ages,
    /// The caller who has asked for the visit; `None` for a visit that an alarm began. A caller's
    /// visit also does what is not worth it yet.
    pub(super) asked: Option<&'a MaintenanceReply>,
    /// Whether tombstones may go: no backup and no read of a state is under way.
    pub(super) may_bury: bool,
    /// The sequence below which compaction has left one event of each key, for topics that keep
    /// one.
    pub(super) alone_below: Sequence,
    /// The answers to the steps that are on their way.
    pub(super) writing: VecDeque<oneshot::Receiver<Result<Done>>>,
    /// Whether the committer did less in a step than it was asked for.
    pub(super) is_partial: bool,
    /// The first expiry among the events that the visit looks at, taken from the topic until the
    /// outcome is written. It goes back if the visit fails.
    pub(super) expiry: Timestamp,
    pub(super) report: MaintenanceReport,
    /// The number of changes of the leadership before the visit began.
    leadership_changes: u64,
}

/// Why an event is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The event has expired.
    Expired,
    /// A later event of its key superseded it.
    Superseded,
    /// The event is a tombstone past its grace.
    Buried,
}

impl<'a> Visit<'a> {
    /// Begins a visit, and turns off the topic's alarm. `None` for a topic that does not exist.
    pub(super) fn new(
        maintenance: &'a Maintainer,
        topic: &'a Arc<Topic>,
        asked: Option<&'a MaintenanceReply>,
    ) -> Option<Self> {
        let leadership_changes = maintenance.leadership.changes(); // Before anything is read.
        topic.upkeep.rewriting.reset();
        let TopicState { id, extent, .. } = topic.state();
        let (id, now) = (id?, (maintenance.now)());
        Some(Self {
            maintenance,
            topic,
            id,
            config: topic.effective_config(),
            now,
            ages: Ages::of(&extent, now),
            asked,
            may_bury: false,
            alone_below: Sequence::FIRST,
            writing: VecDeque::new(),
            is_partial: false,
            expiry: Timestamp::MAX,
            report: MaintenanceReport { topics: 1, ..MaintenanceReport::default() },
            leadership_changes,
        })
    }

    pub(super) fn log(&self) -> &dyn Log {
        &*self.maintenance.log
    }

    /// Whether a caller has asked for the visit. It then also does what is not worth it yet.
    pub(super) fn is_forced(&self) -> bool {
        self.asked.is_some()
    }

    /// Refuses to go on if the broker is stopping, or if the caller who asked for the visit is
    /// gone.
    pub(super) fn check_stop(&self) -> Result<()> {
        check_caller(self.asked)?;
        if self.maintenance.stopping.is_cancelled() { Err(Error::ShuttingDown) } else { Ok(()) }
    }

    /// Returns how far the topic is compacted to `key_limit` events of a key.
    pub(super) fn compacted(&self, key_limit: u64) -> Compacted {
        let extent = self.topic.state().extent;
        if extent.compacted.kept == key_limit {
            return extent.compacted;
        }
        // Under other settings other events go, at other times.
        let is_unknown = extent.may_expire && extent.compacted.seen > extent.earliest;
        let due = if is_unknown { Timestamp::default() } else { Timestamp::MAX };
        Compacted { kept: key_limit, due, ..Compacted::NOTHING }
    }

    /// Returns the time from which the topic is quiet, if no more events come.
    pub(super) fn quiet_from(&self) -> Timestamp {
        let extent = self.topic.state().extent;
        let Extent { last_position, last_clock, .. } = extent;
        let appended = extent.ahead.appended(last_position, last_clock, self.now);
        appended.plus_ms(QUIET.as_millis() as u64)
    }

    /// Whether a pass takes in the newest block.
    pub(super) fn takes_newest(&self) -> bool {
        self.is_forced() || self.quiet_from() <= self.now
    }

    /// Has the committer write merged blocks. The step may still be on its way when this returns.
    pub(super) fn write(&mut self, rewrite: Rewrite) -> Result<()> {
        if rewrite.is_empty() {
            return Ok(());
        }
        let rewrite = Rewrite { leadership_changes: self.leadership_changes, ..rewrite };
        if self.writing.len() >= MAX_WRITING {
            self.settle_oldest()?;
        }
        self.writing.push_back(self.maintenance.ask(self.topic, Work::Rewrite(rewrite))?);
        Ok(())
    }

    /// Waits until all steps on their way are done.
    pub(super) fn settle(&mut self) -> Result<()> {
        while !self.writing.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Takes the topic's first expiry: the pass that follows looks at all events that can be read
    /// by now.
    pub(super) fn take_expiry(&mut self) {
        if self.is_partial {
            self.give_back_expiry();
        }
        self.expiry = self.topic.upkeep.take_expiry();
    }

    /// Gives the topic's first expiry back, because the pass did not look at all events.
    pub(super) fn give_back_expiry(&mut self) {
        let expiry = std::mem::replace(&mut self.expiry, Timestamp::MAX);
        self.topic.upkeep.expires(expiry);
    }

    pub(super) fn settle_oldest(&mut self) -> Result<()> {
        if let Some(answer) = self.writing.pop_front() {
            let done = self.maintenance.rest_after(answer)?;
            self.report.add(&done.report);
            self.is_partial |= done.is_partial;
        }
        Ok(())
    }

    /// Whether the committer did less in a step of this visit than it was asked for.
    pub(super) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Returns the time until which the event's id must be remembered, if it has an id. The event
    /// is kept at least that long.
    pub(super) fn remembered_until(&self, event: &EventRef<'_>) -> Timestamp {
        match event.id {
            "" => Timestamp::default(),
            _ => self.ages.appended(event).plus_ms(self.maintenance.dedup_age_ms),
        }
    }

    /// Returns the time until which the event must be kept for its id; `None` if its id is
    /// forgotten by now, or if it has none.
    pub(super) fn held_back_until(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        Some(self.remembered_until(event)).filter(|until| *until > self.now)
    }

    /// Returns why the event goes; `None` if it stays. The event's id may still hold it back: see
    /// [`Self::held_back_until`].
    pub(super) fn why_dropped(
        &self,
        event: &EventRef<'_>,
        superseded: &Superseded,
    ) -> Option<Reason> {
        let Some(key_limit) = self.config.key_limit() else {
            return self.ages.has_expired(event).then_some(Reason::Expired);
        };
        if superseded.holds(event) {
            return Some(Reason::Superseded);
        }
        // The events that a dropped event has superseded must not come back: they must be gone
        // before it.
        let is_alone = match key_limit {
            1 => event.sequence < self.alone_below,
            _ => superseded.has_nothing_before(event),
        };
        let may_go = event.key.is_empty() || (is_alone && self.may_bury);
        if may_go && self.ages.has_expired(event) {
            return Some(Reason::Expired);
        }
        let grace_ms = self.config.tombstone_grace_ms();
        let is_over =
            event.is_tombstone() && self.ages.appended(event).plus_ms(grace_ms) <= self.now;
        (may_go && is_over).then_some(Reason::Buried)
    }

    /// Whether the event, which has a key, deletes that key: it is a tombstone, or has expired.
    pub(super) fn is_deletion(&self, event: &EventRef<'_>) -> bool {
        event.is_tombstone() || self.ages.has_expired(event)
    }

    /// Whether an event that goes for this reason is one that deletes its key.
    pub(super) fn buries(&self, event: &EventRef<'_>, reason: Reason) -> bool {
        let is_compacted = self.config.key_limit().is_some();
        is_compacted && reason != Reason::Superseded && !event.key.is_empty()
    }

    /// Returns the time at which a kept event goes because of its age; `None` if it has no such
    /// time.
    pub(super) fn goes_at(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        let is_buried = self.config.key_limit().is_some() && event.is_tombstone();
        let buried =
            is_buried.then(|| self.ages.appended(event).plus_ms(self.config.tombstone_grace_ms()));
        let first = self.ages.expires(event).into_iter().chain(buried).min()?;
        Some(first.max(self.remembered_until(event)))
    }
}
