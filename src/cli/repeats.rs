//! A filter for repeated log lines: each is written once a second, with the number of repeats.
//!
//! # Why
//!
//! The cause of a warning decides how often it comes: a refused client may come back at once, and a
//! system without free descriptors refuses connections many times a second. One line would fill the
//! disk. A client may also choose a part of the text, so the number of different lines from one
//! place in the code is bounded, too.

use std::collections::HashMap;
use std::fmt::{Debug, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use super::diagnostics::say;

/// The time for which the same line is not written again.
const PAUSE: Duration = Duration::from_secs(1);

/// The different lines that one place in the code may write in that time; more are left out.
const MAX_LINES: usize = 32;

/// A filter that lets a line through unless it was written within [`PAUSE`].
#[derive(Debug, Default)]
pub(super) struct Repeats {
    places: Mutex<HashMap<Identifier, RepeatedLines>>,
}

/// The lines of one place in the code since `since`.
#[derive(Debug)]
struct RepeatedLines {
    since: Instant,
    /// The hashes of the lines' texts, at most [`MAX_LINES`].
    seen: Vec<u64>,
    left_out: u64,
}

impl RepeatedLines {
    fn new(since: Instant) -> Self {
        Self { since, seen: Vec::new(), left_out: 0 }
    }

    /// Returns the number of lines that were left out before this one; `None` if this one is left
    /// out, too.
    fn admit(&mut self, line: u64, now: Instant) -> Option<u64> {
        let mut left_out = 0;
        if now.duration_since(self.since) >= PAUSE {
            left_out = self.left_out;
            *self = Self::new(now);
        }
        if self.seen.len() >= MAX_LINES || self.seen.contains(&line) {
            self.left_out += 1;
            return None;
        }
        self.seen.push(line);
        Some(left_out)
    }
}

impl<S> Filter<S> for Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO {
            return true; // Debug lines are requested on purpose, so all are written.
        }
        let mut text = Text::default();
        event.record(&mut text);
        let mut hasher = DefaultHasher::new();
        text.0.hash(&mut hasher);
        let now = Instant::now();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = places.entry(metadata.callsite()).or_insert_with(|| RepeatedLines::new(now));
        let admitted = lines.admit(hasher.finish(), now);
        drop(places);
        if let Some(left_out @ 1..) = admitted {
            say(format_args!("leftoff: {left_out} lines like the next one were left out"));
        }
        admitted.is_some()
    }
}

/// The text of an event.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _never_fails = write!(self.0, "{field}={value:?} ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_once_a_second_and_then_with_how_many_were_left_out() {
        let start = Instant::now();
        let mut lines = RepeatedLines::new(start);
        let admitted = |lines: &mut RepeatedLines, line, ms| {
            lines.admit(line, start + Duration::from_millis(ms))
        };
        assert_eq!(admitted(&mut lines, 1, 0), Some(0));
        for ms in 1..1_000 {
            assert_eq!(admitted(&mut lines, 1, ms), None);
        }
        assert_eq!(admitted(&mut lines, 2, 999), Some(0), "another line is not held back");
        assert_eq!(admitted(&mut lines, 1, 1_000), Some(999));
        assert_eq!(admitted(&mut lines, 1, 2_000), Some(0));
    }

    #[test]
    fn however_a_line_changes_only_so_many_are_written() {
        let start = Instant::now();
        let mut lines = RepeatedLines::new(start);
        let written = (0..10_000).filter(|line| lines.admit(*line, start).is_some()).count();
        assert_eq!(written, MAX_LINES);
        let left_out = 10_000 - MAX_LINES as u64;
        assert_eq!(lines.admit(0, start + PAUSE), Some(left_out));
    }
}
