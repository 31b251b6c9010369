//! Why a node plays its role no longer.

use super::chain::ChainBreak;
use super::record::RecordProblem;
use super::stream::StreamSequence;
use crate::error::{Error, with_causes};

/// Why a node plays its role no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RoleEnd {
    /// The node was told to stop, or its broker was closed.
    Closed,
    /// The node cannot go on, for this reason.
    Stopped(String),
    /// The node cannot go on until it is opened again, for this reason.
    NeedsOpening(String),
    /// What the node has does not fit the stream from this record on, for this reason.
    Breaks(StreamSequence, String),
    /// The stream does not have the records any more that the node needs, for this reason.
    Behind(String),
}

impl RoleEnd {
    /// Returns the end of a role whose log cannot apply the group that ends with the record `at`.
    pub(super) fn cannot_apply(at: StreamSequence, error: Error) -> Self {
        match error {
            // A node that has not applied this record either may have the same problem with it.
            Error::Damaged { .. } | Error::DamagedLog { .. } => {
                Self::Breaks(at, with_causes(&error))
            }
            error => error.into(),
        }
    }
}

impl From<Error> for RoleEnd {
    fn from(error: Error) -> Self {
        match error {
            Error::ShuttingDown => Self::Closed,
            // The log, or the storage below it, has failed for good.
            Error::ReadOnly(_) | Error::OutcomeUnknown(_) => {
                Self::NeedsOpening(with_causes(&error))
            }
            error => Self::Stopped(with_causes(&error)),
        }
    }
}

impl From<ChainBreak> for RoleEnd {
    fn from(broken: ChainBreak) -> Self {
        match broken.problem {
            // Another log would not help: it is this version that is too old.
            RecordProblem::LaterVersion(_) => Self::Stopped(broken.to_string()),
            RecordProblem::Unfit(_) => Self::Breaks(broken.at, broken.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only a record of a later version stops a node without a repair, whatever words the
    /// reason for another break has.
    #[test]
    fn a_log_that_does_not_fit_is_told_from_a_node_that_is_too_old() {
        let (at, problem) = (StreamSequence::new(4), "no number: update this node".to_owned());
        let unfit = ChainBreak { at, problem: RecordProblem::Unfit(problem) };
        let told = "the stream breaks at its record 4: no number: update this node".to_owned();
        assert_eq!(RoleEnd::from(unfit), RoleEnd::Breaks(at, told.clone()));
        let problem = RecordProblem::LaterVersion("no number".to_owned());
        assert_eq!(RoleEnd::from(ChainBreak { at, problem }), RoleEnd::Stopped(told));
    }
}
