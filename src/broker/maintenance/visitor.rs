//! The visits of one thread, one topic after the other. The thread begins the next visit while the
//! last steps of earlier ones are on their way, so that the committer takes steps of many topics in
//! one go. What a visit does is in `rewriting.rs`.

use std::collections::VecDeque;

use super::maintainer::{RETRY_MS, cannot_maintain};
use super::visit::Visit;
use crate::broker::report::MaintenanceReport;
use crate::error::Result;

/// The most visits of a thread whose last step is on its way.
const MAX_UNSETTLED: usize = 8;

/// The visits of a thread whose last step is on its way, and the outcome of those that have ended.
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
    /// Does all that is worth it in one topic. The visit ends later, when its last step is done.
    pub(super) fn visit(&mut self, mut visit: Visit<'a>) {
        match visit.look() {
            Ok(()) => self.unsettled.push_back(visit),
            failed => self.ended(&visit, failed),
        }
        if self.unsettled.len() > MAX_UNSETTLED {
            self.settle_oldest();
        }
    }

    /// Notes the outcome of other work of the thread.
    pub(super) fn keep_outcome(&mut self, outcome: Result<()>) {
        self.outcome = std::mem::replace(&mut self.outcome, Ok(())).and(outcome);
    }

    /// Ends all visits that are under way, and returns the outcome and the report of all.
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
