//! Steps of maintenance: the committer trims a topic, removes trimmed blocks, or puts rewritten
//! blocks in the place of others.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::committer::{Committer, GroupTopics, stored};
use super::visible::foretell;
use crate::broker::command::{Merged, Rewrite, Work};
use crate::broker::forward_queue::{Forwarded, ForwardedPurge};
use crate::broker::maintenance::retention::{Added, Quiet, Retained, Retention};
use crate::broker::queue::QueuedStep;
use crate::broker::report::Done;
use crate::broker::topic::entry::Topic;
use crate::cursor::TrimReason;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Extent, Group, MAX_REMOVED_PARTS, StoredTopic};
use crate::topic::TopicId;

/// About the parts that steps remove in one go, at the least and at the most. A publish waits for
/// them.
const MIN_STEP_PARTS: usize = 32;
const MAX_STEP_PARTS: usize = MAX_REMOVED_PARTS / 2;

/// A step whose group is not written yet.
struct PlacedStep {
    id: TopicId,
    topic: Arc<Topic>,
    done: Done,
    quiet: Quiet,
}

/// The steps that go into one group.
#[derive(Default)]
struct StepGroup {
    /// Whether the steps write blocks; `None` before the first step.
    writes: Option<bool>,
    /// The topics of the steps that were looked at.
    topics: HashSet<*const Topic>,
}

impl StepGroup {
    /// Whether `step` can go into the group. Only one step of a topic can, because a step builds on
    /// what earlier steps of its topic have written. Steps that write blocks and steps that remove
    /// blocks go into different groups: a disk may be too full for the first, and gets room by the
    /// second.
    fn admits(&mut self, step: &QueuedStep) -> bool {
        let writes = matches!(step.work, Work::Rewrite(_));
        let is_of_kind = *self.writes.get_or_insert(writes) == writes;
        self.topics.insert(Arc::as_ptr(&step.topic)) && is_of_kind
    }
}

impl Committer {
    /// Takes some of the queued steps, as one group.
    ///
    /// The steps remove a few more blocks than the publishes before them have appended. So they
    /// keep up with any load, and a publish waits for at most twice as long as without them.
    pub(super) fn take_steps(&mut self, appended_blocks: usize, now: Timestamp) {
        let max_parts = (MIN_STEP_PARTS + appended_blocks).min(MAX_STEP_PARTS);
        let started = Instant::now();
        let mut group = Group::default();
        let mut placed: Vec<(PlacedStep, _, _)> = Vec::new();
        let (mut turn, mut later) = (StepGroup::default(), VecDeque::new());
        while let Some(step) = self.steps.pop_front() {
            let removed: usize = group.removed.iter().map(|(_, block)| block.parts).sum();
            if removed >= max_parts || !turn.admits(&step) {
                later.push_back(step);
                continue;
            }
            let QueuedStep { topic, work, asked_by, reply } = step;
            let purge = work.purge().map(|earliest| (topic.name.clone(), earliest, asked_by));
            match self.place_step(topic, work, &mut group, now) {
                Ok(done) => placed.push((done, purge, reply)),
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        self.steps = later;
        let topics: GroupTopics =
            placed.iter().map(|(step, ..)| (step.id, step.topic.clone())).collect();
        let foretold = foretell(&group, &topics);
        let outcome = if placed.is_empty() { Ok(()) } else { self.commit(&mut group) };
        if let Err(error) = &outcome {
            self.note_failure(error);
            foretold.into_iter().for_each(|(topic, state)| topic.set_state(state));
        }
        let took = started.elapsed() / placed.len().max(1) as u32;
        // All is shown before the replies: a caller who asked for a drop can know of it.
        if outcome.is_ok() {
            self.take_over(group, &topics);
        }
        for (step, purge, reply) in placed {
            if let (Err(Error::NotLeading), Some((topic, earliest, asked_by))) = (&outcome, purge) {
                // It is surely not stored.
                let purge = ForwardedPurge::new(topic, earliest, reply);
                self.leave(asked_by, Forwarded::Purge(purge));
                continue;
            }
            let done = Done { took, ..step.done };
            if outcome.is_ok() {
                self.take_over_step(step);
            }
            let _nobody_waits = reply.send(outcome.clone().map(|()| done));
        }
    }

    /// Adds a step's changes to `group`.
    fn place_step(
        &mut self,
        topic: Arc<Topic>,
        work: Work,
        group: &mut Group,
        now: Timestamp,
    ) -> Result<PlacedStep> {
        let mut stored = stored(&topic)?;
        let before = stored.extent;
        let (mut done, mut own) = (Done::default(), Group::default());
        let mut quiet = Quiet::default();
        match work {
            Work::Retain => {
                let Retained { removed, report, has_more, quiet: found } =
                    self.retain(&topic, &mut stored, now)?;
                own.ids = self.ids_of(&topic, &stored, &removed);
                (done.report, done.has_more, quiet) = (report, has_more, found);
                done.due = found.due();
                own.removed.extend(removed.into_iter().map(|block| (stored.id, block)));
            }
            Work::Trim { earliest, reason, report } => {
                let earliest = earliest.min(before.tail);
                if earliest > before.earliest {
                    let (position, time) = self.log.last_below(&stored, earliest)?;
                    stored.extent.trimmed_position = position;
                    stored.extent.trimmed_time = time;
                    (stored.extent.earliest, stored.extent.trim_reason) = (earliest, reason);
                    if reason == TrimReason::Purged {
                        stored.extent.purged = earliest;
                    }
                    (done.report, done.has_more) = (report, true);
                }
            }
            // Another node may have rewritten the blocks meanwhile.
            Work::Rewrite(rewrite) if rewrite.leadership_changes != self.leadership.changes() => {
                return Err(Error::NotLeading);
            }
            // The tombstone may supersede events that a backup has read already, so it must stay.
            Work::Rewrite(rewrite)
                if rewrite.buried.is_some() && self.horizons.are_held(stored.id) =>
            {
                done.is_partial = true;
            }
            Work::Rewrite(rewrite) => {
                done.report = rewrite.report;
                done.is_partial = !place_rewrite(&mut stored, rewrite, &mut own, self.next_drop());
                let dropped = stored.extent.dropped_bytes.saturating_sub(before.dropped_bytes);
                done.report.reclaimed_bytes += dropped;
            }
        }
        stored.extent.number_trim(&before, self.next_drop());
        let id = stored.id;
        own.topics.extend((stored.extent != before).then_some(stored));
        self.log.check_writable(&own)?; // A failure refuses this step alone.
        group.topics.append(&mut own.topics);
        group.removed.append(&mut own.removed);
        group.rewritten.append(&mut own.rewritten);
        group.ids.append(&mut own.ids);
        Ok(PlacedStep { id, topic, done, quiet })
    }

    fn retain(
        &mut self,
        topic: &Topic,
        stored: &mut StoredTopic,
        now: Timestamp,
    ) -> Result<Retained> {
        stored.extent.remember_ahead(now);
        let quiet = self.quiet.get(&stored.id).copied();
        if let Some(quiet) = quiet.filter(|q| q.holds(&stored.extent, Added::default(), now)) {
            return Ok(Retained { quiet, ..Retained::default() });
        }
        let limits = topic.effective_config();
        let published = topic.state().extent.earliest;
        let max_parts = MAX_STEP_PARTS;
        let retention = Retention { log: &*self.log, limits, published, now, max_parts };
        retention.apply(stored, Added::default())
    }

    fn take_over_step(&mut self, step: PlacedStep) {
        let PlacedStep { id, topic, done, quiet } = step;
        if done.has_more {
            topic.upkeep.has_front(); // The caller may be gone before the rest is done.
        }
        self.remember_quiet(id, quiet);
        self.count(&done.report);
    }
}

/// Puts merged blocks in the place of those that they were made of. The old blocks have not changed
/// since, because only one visit at a time rewrites a topic. But they may have been trimmed: a
/// merged block whose first old block is below `earliest` is left out, so that its events do not
/// come back. Returns whether all blocks were placed. `drop` is the number of the drop, if
/// tombstones go.
fn place_rewrite(topic: &mut StoredTopic, rewrite: Rewrite, group: &mut Group, drop: u64) -> bool {
    let mut is_whole = true;
    for Merged { block, replaced } in rewrite.merged {
        if replaced.first().is_none_or(|first| first.end <= topic.extent.earliest) {
            is_whole = false;
            continue;
        }
        for old in replaced {
            topic.extent.drop_block(&old);
            group.removed.push((topic.id, old));
        }
        topic.extent.keep_block(&block);
        group.rewritten.push((topic.id, block));
    }
    let Extent { earliest, tail, may_expire, buried_position, .. } = topic.extent;
    // A deletion below `earliest` was trimmed, and readers are told of that.
    if let Some((position, sequence)) = rewrite.buried.filter(|(_, of)| *of >= earliest) {
        // Also if a later deletion was dropped before: a reader that came since then may hold the
        // key of this one.
        topic.extent.buried_drop = drop;
        if position > buried_position {
            (topic.extent.buried_position, topic.extent.buried_sequence) = (position, sequence);
        }
    }
    if let Some(passed) = rewrite.passed {
        topic.extent.rewritten = passed.rewritten;
        topic.extent.may_expire = passed.may_expire || (may_expire && tail > passed.tail);
    }
    if let Some(compacted) = rewrite.compacted.filter(|_| is_whole) {
        topic.extent.compacted = compacted;
    }
    is_whole
}

#[cfg(test)]
mod tests {
    use crate::cursor::{Position, Sequence};
    use crate::log::Compacted;
    use crate::log::StoredBlock;
    use tokio::sync::oneshot;

    use super::*;
    use crate::broker::command::PassProgress;
    use crate::broker::queue::AskedBy;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::topics::Topics;
    use crate::event::NewEvent;
    use crate::log::{BlockBuilder, NewRecords};

    /// Goal: a disk that is too full to write to does not stop blocks from being removed.
    #[test]
    fn steps_that_write_go_apart_and_those_of_a_topic_one_at_a_time() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let [a, b] = ["a", "b"].map(|name| topics.open(&name.parse().unwrap()).unwrap());
        let step = |topic: &Arc<Topic>, work| {
            let (reply, _answered) = oneshot::channel();
            QueuedStep { topic: topic.clone(), work, asked_by: AskedBy::Caller, reply }
        };
        let rewrite = || Work::Rewrite(Rewrite::default());
        let steps = [
            (step(&a, Work::Retain), true),
            (step(&b, rewrite()), false),
            (step(&b, Work::Retain), false), // After the one before it.
            (step(&a, Work::Retain), false),
        ];
        let mut turn = StepGroup::default();
        steps.iter().for_each(|(step, admitted)| assert_eq!(turn.admits(step), *admitted));
        let mut turn = StepGroup::default();
        assert!(turn.admits(&step(&b, rewrite())) && turn.admits(&step(&a, rewrite())));
    }

    /// Goal: events that were trimmed while they were merged do not come back; no event counts as
    /// looked at that was not; and events that came meanwhile expire all the same.
    #[test]
    fn what_changed_while_it_was_merged_is_heeded() {
        let block = |first: u64| {
            let records = NewRecords::encode([&NewEvent::new("x")]);
            let mut builder = BlockBuilder::new(Sequence::new(first));
            builder.push(records.record(0), false, false);
            builder.finish(Position::new(first), Timestamp::from_ms(1), 0)
        };
        let merged = |first: u64| {
            let block = block(first);
            Merged { replaced: vec![StoredBlock::of(&block)], block }
        };
        let compacted = Compacted { kept: 1, ..Compacted::NOTHING };
        let passed = |tail: u64| {
            let (rewritten, tail) = (Sequence::new(3), Sequence::new(tail));
            PassProgress { rewritten, may_expire: false, tail }
        };
        let place = |earliest: u64, tail_seen: u64| {
            let mut topic = StoredTopic::new(crate::topic::TopicId::FIRST, "a".parse().unwrap());
            let (earliest, tail) = (Sequence::new(earliest), Sequence::new(9));
            topic.extent = Extent { earliest, tail, may_expire: true, ..topic.extent };
            let rewrite = Rewrite {
                merged: vec![merged(1), merged(2)],
                passed: Some(passed(tail_seen)),
                compacted: Some(compacted),
                ..Rewrite::default()
            };
            let mut group = Group::default();
            let is_whole = place_rewrite(&mut topic, rewrite, &mut group, 1);
            let written: Vec<u64> =
                group.rewritten.iter().map(|(_, block)| block.first_sequence().get()).collect();
            let Extent { compacted, may_expire, .. } = topic.extent;
            (is_whole, written, compacted.kept, may_expire)
        };
        assert_eq!(place(1, 9), (true, vec![1, 2], 1, false));
        assert_eq!(place(1, 8), (true, vec![1, 2], 1, true), "an event came meanwhile");
        assert_eq!(place(2, 9), (false, vec![2], 0, false), "the first block was trimmed");
        assert_eq!(place(3, 9), (false, vec![], 0, false));
    }

    /// Goal: a reader that came after a deletion was dropped is told of an older deletion that is
    /// dropped later, because its id was remembered for longer.
    #[test]
    fn a_deletion_that_goes_after_a_later_one_is_a_drop_of_its_own() {
        let mut topic = StoredTopic::new(crate::topic::TopicId::FIRST, "a".parse().unwrap());
        topic.extent = Extent { earliest: Sequence::new(4), ..topic.extent };
        let mut bury = |place: u64, drop| {
            let buried = Some((Position::new(10 * place), Sequence::new(place)));
            let rewrite = Rewrite { buried, ..Rewrite::default() };
            place_rewrite(&mut topic, rewrite, &mut Group::default(), drop);
            let Extent { buried_position, buried_sequence, buried_drop, .. } = topic.extent;
            (buried_position.get(), buried_sequence.get(), buried_drop)
        };
        assert_eq!(bury(7, 1), (70, 7, 1));
        assert_eq!(bury(5, 2), (70, 7, 2));
        assert_eq!(bury(3, 3), (70, 7, 2), "the deletion was trimmed before");
        assert_eq!(bury(8, 4), (80, 8, 4));
    }
}
