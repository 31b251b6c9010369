//! The promises of every refusal.

use crate::error::Error;

/// The longest message of a refusal, in bytes: a refusal shows a part of the input, not all of it.
const MAX_MESSAGE_BYTES: usize = 2_048;

/// Checks that a refusal names the field, and that its message is short.
pub(crate) fn check_refusal(error: &Error) {
    match error {
        Error::Invalid { field, problem } => {
            assert!(!field.is_empty() && !problem.is_empty(), "{error:?}");
        }
        Error::OverLimit { name, value, limit } => {
            assert!(!name.is_empty() && value > limit, "{error:?}");
        }
        other => panic!("a parser failed instead of refusing the input: {other:?}"),
    }
    let message = error.to_string();
    assert!(message.len() <= MAX_MESSAGE_BYTES, "{} bytes: {message:.200}…", message.len());
}
