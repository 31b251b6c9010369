//! The faults in the deliveries to followers: gaps, repeats and missing events.

use super::report::{Goal, Report};
use crate::cli::bench::measuring::subscribers::Followers;
use crate::cli::failure::{CliError, CliResult, ExitReason};

/// The number of faults of each kind.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::cli::bench) struct Faults {
    gaps: u64,
    repeats: u64,
    missing: u64,
}

impl Faults {
    /// Adds the faults of a group that lacks `missing` deliveries.
    pub(in crate::cli::bench) fn add(&mut self, group: &Followers, missing: u64) {
        let (gaps, repeats) = group.look(|tally| (tally.gaps, tally.repeats));
        self.gaps += gaps;
        self.repeats += repeats;
        self.missing += missing;
    }

    pub(in crate::cli::bench) fn report(self, report: &mut Report) {
        let none = Some(Goal::AtMost(0.0));
        report.add_with(("gaps", "gaps"), Ok(self.gaps as f64), "", none);
        report.add_with(("repeats", "repeats"), Ok(self.repeats as f64), "", none);
        report.add_with(("missing", "missing deliveries"), Ok(self.missing as f64), "", none);
    }

    /// Returns an error if there are faults, or if a connection of `groups` failed.
    pub(in crate::cli::bench) fn judge(self, groups: &[&Followers]) -> CliResult {
        if let Some(problem) = groups.iter().find_map(|group| group.problem()) {
            return Err(CliError::new(ExitReason::Unreachable, problem));
        }
        let Self { gaps, repeats, missing } = self;
        if gaps + repeats + missing == 0 {
            return Ok(());
        }
        let message = format!("{gaps} gaps, {repeats} repeats, {missing} missing deliveries");
        Err(CliError::new(ExitReason::Other, message))
    }
}
