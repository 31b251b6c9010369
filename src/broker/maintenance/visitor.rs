//! A thread's way through the topics that are looked at: it goes on to the next while the last step
//! of the one before is on its way, so that the committer takes the steps of many in one go.

use std::collections::VecDeque;

use super::maintainer::{RETRY_MS, cannot_maintain};
use super::visit::Visit;
use crate::broker::report::MaintenanceReport;
use crate::error::Result;

/// Visits whose last step is on its way.
const MAX_UNSETTLED: usize = 8;

/// The visits that a thread has under way, and the outcome of those that have ended.
pub(super) struct Visitor<'a> {
    unsettled: VecDeque<Visit<'a>>,
    pub(super) report: MaintenanceReport,
    /// The first failure.
    pub(super) outcome: Result<()>,
}

impl Default for Visitor<'_> {
    fn default() -> Self {
        let (unsettled, report) = (VecDeque::new(), MaintenanceReport::default());
        Self { unsettled, report, outcome: Ok(()) }
    }
}

impl<'a> Visitor<'a> {
    /// Does what is worth it in one topic.
    pub(super) fn visit(&mut self, mut visit: Visit<'a>) {
        match visit.look() {
            Ok(()) => self.unsettled.push_back(visit),
            failed => self.ended(&visit, failed),
        }
        if self.unsettled.len() > MAX_UNSETTLED {
            self.settle_oldest();
        }
    }

    /// Notes what came of something else.
    pub(super) fn keep_outcome(&mut self, outcome: Result<()>) {
        self.outcome = std::mem::replace(&mut self.outcome, Ok(())).and(outcome);
    }

    /// Waits for all that is under way.
    pub(super) fn end(mut self) -> (Result<()>, MaintenanceReport) {
        while !self.unsettled.is_empty() {
            self.settle_oldest();
        }
        (self.outcome, self.report)
    }

    fn settle_oldest(&mut self) {
        if let Some(mut visit) = self.unsettled.pop_front() {
            let ended = visit.end();
            self.ended(&visit, ended);
        }
    }

    fn ended(&mut self, visit: &Visit<'_>, outcome: Result<()>) {
        if let Err(error) = &outcome {
            cannot_maintain(visit.topic, error);
            let later = (visit.maintenance.now)().plus_ms(RETRY_MS);
            visit.topic.upkeep.rewriting.set(later);
        }
        self.report.add(&visit.report);
        self.keep_outcome(outcome);
    }
}
