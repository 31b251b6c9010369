//! The form of failures between nodes: a caller is told the same as if it had asked the leader.

use std::fmt;

use crate::cluster::proto::CommandFailure;
use crate::error::{Error, with_causes};
use crate::told_error::ToldError;

/// Returns the form of an error for another node.
pub(super) fn failure(error: &Error) -> CommandFailure {
    let told = serde_json::to_vec(&ToldError::from(error)).unwrap_or_default();
    CommandFailure {
        may_be_done: error.outcome_unknown(),
        message: with_causes(error),
        error: told.into(),
    }
}

/// Returns the error that another node tells.
pub(super) fn error_of(failure: CommandFailure) -> Error {
    let CommandFailure { may_be_done, message, error } = failure;
    match serde_json::from_slice::<ToldError>(&error) {
        Ok(told) => told.into(),
        Err(_of_another_version) if may_be_done => unknown(message),
        Err(_of_another_version) => Error::NotWritten(std::io::Error::other(message).into()),
    }
}

/// Returns the error of a command whose outcome nobody knows, with what is known.
pub(super) fn unknown(why: impl fmt::Display) -> Error {
    Error::LeaderLost(std::io::Error::other(why.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an error of a version that this one does not know says what is stored.
    #[test]
    fn an_error_of_a_later_version_says_whether_something_may_be_stored() {
        for error in [Error::NotLeading, unknown("x"), Error::DeadlineExceeded { limit_ms: 1 }] {
            let told = failure(&error);
            assert_eq!(with_causes(&error_of(told.clone())), with_causes(&error));
            let later = CommandFailure { error: "{\"later\":1}".into(), ..told };
            assert_eq!(error_of(later).outcome_unknown(), error.outcome_unknown(), "{error:?}");
        }
    }
}
