//! Messages about wrong use of the command line. The parser's own messages name types of Rust.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Returns the error for people: a problem with a number in words, any other error unchanged.
pub(super) fn in_words(error: Error, mut command: Command) -> Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let problem = match error.kind() {
        ErrorKind::ValueValidation => error.source().and_then(|source| {
            let number = source.downcast_ref::<ParseIntError>().map(number);
            number.or_else(|| range(&source.to_string()))
        }),
        _ => None,
    };
    let Some(problem) = problem else { return error };
    let (argument, value) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue));
    let message = format!("invalid value '{value}' for '{argument}': {problem}");
    command.error(ErrorKind::ValueValidation, message)
}

fn number(error: &ParseIntError) -> String {
    let problem = match error.kind() {
        IntErrorKind::PosOverflow => "the number is too large",
        IntErrorKind::NegOverflow => "the number is too small",
        _ => "it is not a whole number, like 42",
    };
    problem.to_owned()
}

/// Returns in words that a number is not in a range, from a text like `0 is not in 1..=9`.
fn range(text: &str) -> Option<String> {
    let (number, range) = text.split_once(" is not in ")?;
    let (first, end) = range.split_once("..")?;
    let last = end.strip_prefix('=').unwrap_or(end);
    Some(match last {
        "" | "18446744073709551615" => format!("{number} is less than {first}"),
        last => format!("{number} is not within {first} and {last}"),
    })
}
