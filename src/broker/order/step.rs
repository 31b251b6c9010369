//! Steps of maintenance: what drops or rewrites some of what a topic holds.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Committer, stored};
use crate::broker::maintenance::MaintenanceReport;
use crate::broker::maintenance::retention::{Added, Quiet, Retained, Retention};
use crate::broker::topic::topics::{Topic, TopicState};
use crate::cursor::{Position, Sequence, TrimReason};
use crate::error::Result;
use crate::event::Timestamp;
use crate::log::{Block, Compacted, Extent, Group, MAX_REMOVED_PARTS, StoredBlock, StoredTopic};

/// Parts that steps remove in one go, about: for these a publish waits at the least, and at the
/// most.
const MIN_STEP_PARTS: usize = 32;
const MAX_STEP_PARTS: usize = MAX_REMOVED_PARTS / 2;

/// Something to do for a topic.
#[derive(Debug)]
pub(in crate::broker) struct Step {
    pub(in crate::broker) topic: Arc<Topic>,
    pub(in crate::broker) work: Work,
    pub(in crate::broker) answer: oneshot::Sender<Result<Done>>,
}

/// What is to be done.
#[derive(Debug)]
pub(in crate::broker) enum Work {
    /// Remove some of what was trimmed, and trim what the limits do not keep.
    Retain,
    /// Take events out at the front.
    Trim {
        earliest: Sequence,
        reason: TrimReason,
        /// What it counts for.
        report: MaintenanceReport,
    },
    /// Put blocks in the place of those whose sequences they span.
    Rewrite(Rewrite),
}

/// Blocks that take the place of others.
#[derive(Debug, Default)]
pub(in crate::broker) struct Rewrite {
    pub(in crate::broker) merged: Vec<Merged>,
    /// The newest tombstone, or expired event of a key, that is dropped by it.
    pub(in crate::broker) buried: Option<(Position, Sequence)>,
    /// How far a pass has come with them, if that is to be noted.
    pub(in crate::broker) passed: Option<Passed>,
    /// How far compaction has come with them, if that is to be noted.
    pub(in crate::broker) compacted: Option<Compacted>,
    /// What it counts for.
    pub(in crate::broker) report: MaintenanceReport,
}

/// One block in the place of its neighbours.
#[derive(Debug)]
pub(in crate::broker) struct Merged {
    pub(in crate::broker) block: Block,
    /// Those whose sequences it spans.
    pub(in crate::broker) replaced: Vec<StoredBlock>,
}

/// How far a pass over the blocks of a topic has come.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Passed {
    /// Blocks below were looked at.
    pub(in crate::broker) rewritten: Sequence,
    /// Whether there may be events below `tail` that are to be dropped once they have an age.
    pub(in crate::broker) may_expire: bool,
    /// Where the topic ended when it was looked at.
    pub(in crate::broker) tail: Sequence,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::broker) struct Done {
    pub(in crate::broker) report: MaintenanceReport,
    /// Whether there may be more to do at once.
    pub(in crate::broker) has_more: bool,
    /// Whether some of what was asked for was not done.
    pub(in crate::broker) is_partial: bool,
    /// When the oldest block gets older than the limit.
    pub(in crate::broker) due: Option<Timestamp>,
    /// How long the committer was busy with it: its share of those that were taken together.
    pub(in crate::broker) took: Duration,
}

/// A step in a group that is not written yet.
struct Placed {
    topic: Arc<Topic>,
    /// As the topic is then, if that is not as it was.
    changed: Option<StoredTopic>,
    done: Done,
    quiet: Quiet,
    /// What the tail must forget, because it is not what is stored any more.
    forgotten: Option<Sequence>,
}

/// Which steps go together.
#[derive(Default)]
struct Turn {
    /// Whether they write blocks; known from the first one on.
    writes: Option<bool>,
    /// The topics of those that were looked at.
    topics: HashSet<*const Topic>,
}

impl Turn {
    /// Whether `step` can go with those before it. One of a topic at a time, for a step is placed
    /// on what the ones of its topic before it have written. And those that write blocks apart: a
    /// disk may be too full for them, and space comes back by the others.
    fn admits(&mut self, step: &Step) -> bool {
        let writes = matches!(step.work, Work::Rewrite(_));
        let is_of_kind = *self.writes.get_or_insert(writes) == writes;
        self.topics.insert(Arc::as_ptr(&step.topic)) && is_of_kind
    }
}

impl Rewrite {
    /// Whether there is nothing to do.
    pub(in crate::broker) fn is_empty(&self) -> bool {
        self.merged.is_empty() && self.passed.is_none() && self.compacted.is_none()
    }
}

impl Committer {
    /// Takes some of the steps that are queued, as one group.
    ///
    /// They take out about as much as the publishes before them have put in, and some: so a publish
    /// waits for twice as long as without them at the most, and they keep up with any load.
    pub(super) fn take_steps(&mut self, appended_blocks: usize) {
        let max_parts = (MIN_STEP_PARTS + appended_blocks).min(MAX_STEP_PARTS);
        let started = Instant::now();
        let mut group = Group::default();
        let mut placed: Vec<(Placed, _)> = Vec::new();
        let (mut turn, mut later) = (Turn::default(), VecDeque::new());
        while let Some(step) = self.steps.pop_front() {
            let removed: usize = group.removed.iter().map(|(_, block)| block.parts).sum();
            if removed >= max_parts || !turn.admits(&step) {
                later.push_back(step);
                continue;
            }
            let Step { topic, work, answer } = step;
            match self.place_step(topic, work, &mut group) {
                Ok(done) => placed.push((done, answer)),
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        self.steps = later;
        let foretold = foretell(placed.iter().map(|(placed, _)| placed));
        let outcome = if placed.is_empty() { Ok(()) } else { self.commit(&mut group) };
        if let Err(error) = &outcome {
            self.failure.note(error);
            foretold.into_iter().for_each(|(topic, state)| topic.set_state(state));
        }
        let took = started.elapsed() / placed.len().max(1) as u32;
        let (mut answers, mut newest_drop) = (Vec::with_capacity(placed.len()), 0);
        for (step, answer) in placed {
            answers.push((answer, Done { took, ..step.done }));
            if outcome.is_ok() {
                let extent = step.changed.as_ref().map(|topic| topic.extent);
                newest_drop = extent.map_or(0, |extent| extent.newest_drop()).max(newest_drop);
                self.take_over_step(step);
            }
        }
        // In this order: whoever knows of a drop sees all that went with it, and whoever asked for
        // it knows of it.
        self.drops.fetch_max(newest_drop, Ordering::Release);
        for (answer, done) in answers {
            let _nobody_waits = answer.send(outcome.clone().map(|()| done));
        }
    }

    /// Adds what is to be done to `group`.
    fn place_step(&mut self, topic: Arc<Topic>, work: Work, group: &mut Group) -> Result<Placed> {
        let mut stored = stored(&topic)?;
        let before = stored.extent;
        let (mut done, mut own) = (Done::default(), Group::default());
        let (mut quiet, mut forgotten) = (Quiet::default(), None);
        match work {
            Work::Retain => {
                let Retained { removed, report, has_more, quiet: found } =
                    self.retain(&topic, &mut stored)?;
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
            // What a backup has read already may be superseded by what would go here.
            Work::Rewrite(rewrite)
                if rewrite.buried.is_some() && self.horizons.are_held(stored.id) =>
            {
                done.is_partial = true;
            }
            Work::Rewrite(rewrite) => {
                forgotten = rewrite.merged.last().map(|merged| merged.block.last_sequence());
                done.report = rewrite.report;
                done.is_partial = !place_rewrite(&mut stored, rewrite, &mut own, self.next_drop());
                let dropped = stored.extent.dropped_bytes.saturating_sub(before.dropped_bytes);
                done.report.reclaimed_bytes += dropped;
            }
        }
        stored.extent.number_trim(&before, self.next_drop());
        let changed = (stored.extent != before).then_some(stored);
        own.topics.extend(changed.clone());
        self.log.check_writable(&own)?; // The others go on without it.
        group.topics.append(&mut own.topics);
        group.removed.append(&mut own.removed);
        group.rewritten.append(&mut own.rewritten);
        group.ids.append(&mut own.ids);
        Ok(Placed { topic, changed, done, quiet, forgotten })
    }

    fn retain(&mut self, topic: &Topic, stored: &mut StoredTopic) -> Result<Retained> {
        let now = self.read_clock();
        stored.extent.note_ahead(now);
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

    fn take_over_step(&mut self, step: Placed) {
        let Placed { topic, changed, done, quiet, forgotten } = step;
        let Some(id) = topic.state().id else { return };
        if let Some(last) = forgotten {
            // Nobody sees again what is dropped now.
            topic.tail.forget_through(last);
            self.replays.forget(&topic, id);
        }
        if let Some(stored) = changed {
            self.forget_purged_ids(&topic.state().extent, id, &stored.extent);
            self.show(&topic, TopicState { extent: stored.extent, ..topic.state() });
        }
        if done.has_more {
            topic.upkeep.has_front(); // Whoever asked for it may not come back for the rest.
        }
        self.note_quiet(id, quiet);
        self.count(&done.report);
    }
}

/// Lets readers see which deletions of keys go, before they do: who reads the log meanwhile looks
/// again afterwards, and must not take what it has read for all there was. Returns what the topics
/// were before.
fn foretell<'a>(placed: impl Iterator<Item = &'a Placed>) -> Vec<(Arc<Topic>, TopicState)> {
    let foretell = |placed: &Placed| {
        let Extent { buried_position, buried_sequence, buried_drop, .. } =
            placed.changed.as_ref()?.extent;
        let state = placed.topic.state();
        if state.extent.buried_drop == buried_drop {
            return None;
        }
        let extent = Extent { buried_position, buried_sequence, buried_drop, ..state.extent };
        placed.topic.set_state(TopicState { extent, ..state });
        Some((placed.topic.clone(), state))
    };
    placed.filter_map(foretell).collect()
}

/// Puts blocks in the place of those that were read to make them. None of these has changed since:
/// one at a time rewrites a topic. But they may be gone, for those in front of a topic are removed
/// when they are below its `earliest`; then what is left of them must not come back.
/// Returns whether all was placed. `drop` is the number of the drop that it is, if it buries.
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
    // A deletion before the first event was trimmed, and readers are told of that.
    if let Some((position, sequence)) = rewrite.buried.filter(|(_, of)| *of >= earliest) {
        // Also where a later one went before: who has come since then may hold the key of this one.
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
    use super::*;
    use crate::broker::topic::topics::{TopicDefaults, Topics};
    use crate::event::NewEvent;
    use crate::log::{BlockBuilder, NewRecords};

    /// Goal: a disk that is too full to write to does not keep anything from being removed.
    #[test]
    fn steps_that_write_go_apart_and_those_of_a_topic_one_at_a_time() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let [a, b] = ["a", "b"].map(|name| topics.open(&name.parse().unwrap()).unwrap());
        let step = |topic: &Arc<Topic>, work| {
            let (answer, _answered) = oneshot::channel();
            Step { topic: topic.clone(), work, answer }
        };
        let rewrite = || Work::Rewrite(Rewrite::default());
        let steps = [
            (step(&a, Work::Retain), true),
            (step(&b, rewrite()), false),
            (step(&b, Work::Retain), false), // After the one before it.
            (step(&a, Work::Retain), false),
        ];
        let mut turn = Turn::default();
        steps.iter().for_each(|(step, admitted)| assert_eq!(turn.admits(step), *admitted));
        let mut turn = Turn::default();
        assert!(turn.admits(&step(&b, rewrite())) && turn.admits(&step(&a, rewrite())));
    }

    /// Goal: what was trimmed while it was merged does not come back, nothing is taken for looked
    /// at that was not, and what came meanwhile expires all the same.
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
            Passed { rewritten, may_expire: false, tail }
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
        assert_eq!(place(1, 8), (true, vec![1, 2], 1, true), "one came meanwhile");
        assert_eq!(place(2, 9), (false, vec![2], 0, false), "the first was trimmed");
        assert_eq!(place(3, 9), (false, vec![], 0, false));
    }

    /// Goal: whoever came after a deletion was dropped is told of an older one that goes later, for
    /// its id was remembered longer.
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
        assert_eq!(bury(3, 3), (70, 7, 2), "it was trimmed before");
        assert_eq!(bury(8, 4), (80, 8, 4));
    }
}
