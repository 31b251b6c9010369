//! Checks of the parsers, each for any input at all. The fuzz targets of `tests/fuzz` call them,
//! and an ordinary test calls them with the inputs that are kept in `data/fuzz`.
//!
//! A check panics when a promise is broken. No parser panics, and each promises that
//! - a value that was read, and is written and read again, is the same;
//! - a refusal names the field, and is short;
//! - the memory is at most a multiple of the input ([`max_memory_bytes`]).
//!
//! Some of the parsers are not public, so each check is in its parser's layer.

#![allow(clippy::missing_panics_doc, reason = "a check panics when a promise is broken")]

pub(crate) mod refusal;

use std::str::FromStr;

use crate::broker::fuzzing::fits_any;
use crate::cursor::{Cursor, Epoch, OnGap, StartPoint};
use crate::error::Error;
use crate::event::Timestamp;
use crate::topic::{TopicName, TopicPattern};
use refusal::check_refusal;

pub use crate::edge::fuzzing::{cloudevents, lines, messages, queries};
pub use crate::log::fuzzing::{backups, blocks};

/// The name of a target, which its directory of inputs has too, and its check.
pub type Target = (&'static str, fn(&[u8]));

/// All checks.
pub const TARGETS: [Target; 8] = [
    ("cursors", cursors),
    ("patterns", patterns),
    ("blocks", blocks),
    ("backups", backups),
    ("queries", queries),
    ("lines", lines),
    ("cloudevents", cloudevents),
    ("messages", messages),
];

/// Returns the most memory that a check may hold for an input of `input_bytes`, with the copies
/// that it makes for comparison.
pub const fn max_memory_bytes(input_bytes: usize) -> usize {
    (64 << 10) + 64 * input_bytes
}

/// Checks start points, and the cursors, times, epochs and gap rules that they may contain.
pub fn cursors(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    reads_back::<StartPoint>(text);
    reads_back::<Cursor>(text);
    reads_back::<Timestamp>(text);
    if let Ok(epoch) = text.parse::<Epoch>() {
        assert_eq!(epoch.to_string(), text.to_ascii_lowercase());
    }
    if let Err(error) = text.parse::<OnGap>() {
        check_refusal(&error);
    }
}

/// Checks topic names and patterns. Each line of the input is parsed as both, and each name is
/// matched with each pattern.
pub fn patterns(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for line in text.split('\n') {
        reads_back::<TopicName>(line);
        reads_back::<TopicPattern>(line);
        let is_name = line.parse::<TopicPattern>().is_ok_and(|pattern| pattern.is_name());
        assert_eq!(is_name, line.parse::<TopicName>().is_ok(), "{line:?}");
    }
    let some = || text.split('\n').take(16);
    let patterns: Vec<TopicPattern> = some().filter_map(|line| line.parse().ok()).collect();
    for name in some().filter_map(|line| line.parse::<TopicName>().ok()) {
        let tokens: Vec<&str> = name.as_str().split('.').collect();
        for pattern in &patterns {
            let wanted: Vec<&str> = pattern.as_str().split('.').collect();
            let fits = pattern.matches(&name);
            let is_hidden = name.is_own() && matches!(wanted.first(), Some(&"*" | &">"));
            assert_eq!(fits, !is_hidden && is_of(&wanted, &tokens), "{pattern} {name}");
            assert!(!fits || name.as_str().starts_with(pattern.literal_prefix()), "{pattern}");
        }
        let fits = patterns.iter().any(|pattern| pattern.matches(&name));
        assert_eq!(fits_any(&patterns, &name), fits, "{patterns:?} {name}");
    }
}

/// Whether a pattern matches a name, token by token.
fn is_of(wanted: &[&str], tokens: &[&str]) -> bool {
    match (wanted, tokens) {
        ([">"], [_, ..]) => true,
        (["*", wanted @ ..], [_, tokens @ ..]) => is_of(wanted, tokens),
        ([one, wanted @ ..], [other, tokens @ ..]) => one == other && is_of(wanted, tokens),
        (wanted, tokens) => wanted.is_empty() && tokens.is_empty(),
    }
}

/// Checks that a value read from `text` is the same after it is written and read again.
fn reads_back<T>(text: &str)
where
    T: FromStr<Err = Error> + PartialEq + std::fmt::Debug + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(read) => {
            let written = read.to_string();
            let again: T = written.parse().unwrap_or_else(|error| panic!("{written:?}: {error}"));
            assert_eq!(again, read, "{text:?} was written as {written:?}");
        }
        Err(error) => check_refusal(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Goal: an input that broke a promise once breaks none again.
    #[test]
    fn every_input_that_is_kept_passes_its_check() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/fuzz");
        let mut too_much = Vec::new();
        for (name, check) in TARGETS {
            let entries = std::fs::read_dir(data.join(name)).unwrap().map(Result::unwrap);
            let paths: Vec<_> = entries.map(|entry| entry.path()).collect();
            assert!(paths.len() >= 10, "{name}: {} inputs", paths.len());
            for path in paths {
                let input = std::fs::read(&path).unwrap();
                println!("{}", path.display());
                let taken = allocation_counter::measure(|| check(&input)).bytes_max;
                let limit = max_memory_bytes(input.len());
                if taken > limit as u64 {
                    let path = path.display();
                    too_much.push(format!("{path}: {taken} bytes, over {limit}"));
                }
            }
        }
        assert!(too_much.is_empty(), "{too_much:#?}");
    }
}
