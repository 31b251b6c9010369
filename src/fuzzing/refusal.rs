//! What every refusal promises.

use crate::error::Error;

/// Longest message of a refusal, in bytes: a refusal shows a part of what was sent, not all of it.
const MAX_MESSAGE_BYTES: usize = 2_048;

/// A refusal names the field, and says in few words what is wrong.
pub(crate) fn check_refusal(error: &Error) {
    match error {
        Error::Invalid { field, problem } => {
            assert!(!field.is_empty() && !problem.is_empty(), "{error:?}");
        }
        Error::OverLimit { name, value, limit } => {
            assert!(!name.is_empty() && value > limit, "{error:?}");
        }
        other => panic!("a parser refuses the input, and does not fail: {other:?}"),
    }
    let message = error.to_string();
    assert!(message.len() <= MAX_MESSAGE_BYTES, "{} bytes: {message:.200}…", message.len());
}
