//! Steps of maintenance: what drops or rewrites some of what a topic holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::maintenance::MaintenanceReport;
use super::super::retention::{Added, Quiet, Retained, Retention};
use super::super::topics::{Topic, TopicState};
use super::{Command, Committer, stored};
use crate::cursor::{Sequence, TrimReason};
use crate::error::Result;
use crate::event::Timestamp;
use crate::log::{Block, Group, MAX_REMOVED_PARTS, StoredTopic};

/// Most steps that are taken in one go, so that a publish waits for a bounded time.
const MAX_STEPS: usize = 64;

/// Something to do for a topic.
#[derive(Debug)]
pub(in super::super) struct Step {
    pub(in super::super) topic: Arc<Topic>,
    pub(in super::super) work: Work,
    pub(in super::super) answer: oneshot::Sender<Result<Done>>,
}

/// What is to be done.
#[derive(Debug)]
pub(in super::super) enum Work {
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
    Rewrite {
        blocks: Vec<Block>,
        /// How far a pass has come with them, if that is to be noted.
        passed: Option<Passed>,
        /// What it counts for.
        report: MaintenanceReport,
    },
}

/// How far a pass over the blocks of a topic has come.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Passed {
    /// Blocks below were looked at.
    pub(in super::super) rewritten: Sequence,
    /// Whether there may be events that are to be dropped once they have an age.
    pub(in super::super) may_expire: bool,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Done {
    pub(in super::super) report: MaintenanceReport,
    /// Whether there may be more to do at once.
    pub(in super::super) has_more: bool,
    /// When the oldest block gets older than the limit.
    pub(in super::super) due: Option<Timestamp>,
    /// How long the committer was busy with it, and with the steps that it took along.
    pub(in super::super) took: Duration,
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

impl Committer {
    /// Takes the steps that are queued, from `first` on, as one group. Returns the command that
    /// came after them.
    pub(super) fn take_steps(&mut self, first: Step) -> Option<Command> {
        let started = Instant::now();
        let (mut group, mut placed) = (Group::default(), Vec::new());
        let mut step = first;
        let next = loop {
            let Step { topic, work, answer } = step;
            match self.place_step(topic, work, &mut group) {
                Ok(done) => placed.push((done, answer)),
                Err(error) => drop(answer.send(Err(error))),
            }
            let removed: usize = group.removed.iter().map(|(_, block)| block.parts).sum();
            if placed.len() >= MAX_STEPS || removed >= MAX_REMOVED_PARTS / 2 {
                break None;
            }
            // The steps of one topic are placed on what the ones before have written.
            let is_placed = |topic| placed.iter().any(|(step, _)| Arc::ptr_eq(&step.topic, topic));
            match self.commands.try_recv().ok() {
                Some(Command::Step(next)) if !is_placed(&next.topic) => step = next,
                other => break other,
            }
        };
        let outcome = if group.is_empty() { Ok(()) } else { self.log.commit(&group) };
        if let Err(error) = &outcome {
            self.failure.note(error);
        }
        for (step, answer) in placed {
            let done = Done { took: started.elapsed(), ..step.done };
            let _nobody_waits = answer.send(outcome.clone().map(|()| {
                self.take_over_step(step);
                done
            }));
        }
        next
    }

    /// Adds what is to be done to `group`.
    fn place_step(&mut self, topic: Arc<Topic>, work: Work, group: &mut Group) -> Result<Placed> {
        let mut stored = stored(&topic)?;
        let before = stored.extent;
        let mut done = Done::default();
        let (mut quiet, mut forgotten) = (Quiet::default(), None);
        match work {
            Work::Retain => {
                let Retained { removed, report, has_more, quiet: found } =
                    self.retain(&topic, &mut stored)?;
                (done.report, done.has_more, quiet) = (report, has_more, found);
                done.due = found.due();
                group.removed.extend(removed.into_iter().map(|block| (stored.id, block)));
            }
            Work::Trim { earliest, reason, report } => {
                let earliest = earliest.min(before.tail);
                if earliest > before.earliest {
                    stored.extent.trimmed_position = self.log.position_below(&stored, earliest)?;
                    (stored.extent.earliest, stored.extent.trim_reason) = (earliest, reason);
                    (done.report, done.has_more) = (report, true);
                }
            }
            Work::Rewrite { blocks, passed, report } => {
                for block in &blocks {
                    self.rewrite(&mut stored, block, group)?;
                }
                forgotten = blocks.last().map(Block::last_sequence);
                if let Some(Passed { rewritten, may_expire }) = passed {
                    (stored.extent.rewritten, stored.extent.may_expire) = (rewritten, may_expire);
                }
                done.report = report;
                let dropped = stored.extent.dropped_bytes.saturating_sub(before.dropped_bytes);
                done.report.reclaimed_bytes += dropped;
            }
        }
        let changed = (stored.extent != before).then_some(stored);
        group.topics.extend(changed.clone());
        Ok(Placed { topic, changed, done, quiet, forgotten })
    }

    fn retain(&self, topic: &Topic, stored: &mut StoredTopic) -> Result<Retained> {
        let now = (self.now)();
        let quiet = self.quiet.get(&stored.id).copied();
        if let Some(quiet) = quiet.filter(|q| q.holds(&stored.extent, Added::default(), now)) {
            return Ok(Retained { quiet, ..Retained::default() });
        }
        let limits = topic.effective_config();
        let published = stored.extent.earliest;
        let max_parts = MAX_REMOVED_PARTS / 2;
        let retention = Retention { log: &*self.log, limits, published, now, max_parts };
        retention.apply(stored, Added::default())
    }

    /// Puts `block` in the place of those whose sequences it spans, unless they are gone meanwhile:
    /// then it must not come back.
    fn rewrite(&self, topic: &mut StoredTopic, block: &Block, group: &mut Group) -> Result<()> {
        let spanned = block.first_sequence()..block.last_sequence().next();
        let old = self.log.stored_blocks(topic.id, spanned, usize::MAX)?;
        if old.first().is_none_or(|old| old.first != block.first_sequence()) {
            return Ok(());
        }
        for old in old {
            topic.extent.drop_block(&old);
            group.removed.push((topic.id, old));
        }
        topic.extent.keep_block(block);
        group.rewritten.push((topic.id, block.clone()));
        Ok(())
    }

    fn take_over_step(&mut self, step: Placed) {
        let Placed { topic, changed, done, quiet, forgotten } = step;
        let Some(id) = topic.state().id else { return };
        if let Some(last) = forgotten {
            topic.tail.forget_through(last); // Nobody sees again what is dropped now.
        }
        if let Some(stored) = changed {
            topic.set_state(TopicState { extent: stored.extent, ..topic.state() });
        }
        self.note_quiet(id, quiet);
        self.count(&done.report);
    }
}
