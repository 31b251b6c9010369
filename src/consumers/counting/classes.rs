//! The marks of one topic's events, as ranges of sequences whose events have equal marks.
//!
//! ```text
//! sequences   1 ──── 6 │ 7 │ 8 ──── 20 │ 21 ────
//! class       read     │   │ read      │            7 is an exception; the watermark is at 20
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use crate::broker::{SeekAfter, SelectedTopic};
use crate::consumers::marks::{Mark, MarkLine};
use crate::consumers::ranges::ranges;
use crate::consumers::requests::ConsumerState;
use crate::consumers::work::{FinishedWork, is_in};
use crate::cursor::{Place, Position, Sequence};
use crate::error::Result;
use crate::event::Timestamp;

/// The class of an event: which of these hold for it, one bit each.
pub(super) type Class = u8;

/// The event is at or before the checkpoint, or a worker has finished it.
pub(super) const FINISHED: Class = 1;
pub(super) const SEEN: Class = 2;
pub(super) const READ: Class = 4;
pub(super) const ARCHIVED: Class = 8;
/// The event is snoozed now.
pub(super) const SNOOZED: Class = 16;

/// The classes of a topic's events.
#[derive(Debug, Default)]
pub(super) struct Classes {
    /// The first sequence of each range, in order. The ranges have no hole between them.
    starts: Vec<(u64, Class)>,
}

/// The bit of a mark, the last sequence up to which all events have it, and the exceptions.
type ClassLine<'a> = (Class, u64, Option<&'a MarkLine>);

impl Classes {
    /// Returns the classes of a topic's events for a consumer; `None` if `seek` has nothing for a
    /// position that is needed.
    ///
    /// # Errors
    ///
    /// Those of `seek`.
    pub(super) fn of(
        topic: &SelectedTopic,
        (state, finished): (&ConsumerState, &FinishedWork),
        now: Timestamp,
        seek: &mut SeekAfter<'_>,
    ) -> Result<Option<Self>> {
        let mut lines: Vec<ClassLine<'_>> = Vec::new();
        let marks = [(SEEN, Mark::Seen), (READ, Mark::Read), (ARCHIVED, Mark::Archived)];
        let marks = marks.map(|(class, mark)| {
            let place = state.marks.watermark(mark);
            (class, place, state.marks.line(mark))
        });
        let checkpoint = state.info.checkpoint.map(|cursor| cursor.after);
        for (class, place, line) in marks.into_iter().chain([(FINISHED, checkpoint, None)]) {
            let up_to = match place {
                None => 0,
                Some(Place::Sequence(sequence)) => sequence.get(),
                Some(Place::Position(Position::BEFORE_ALL)) => 0,
                Some(Place::Position(position)) => match seek(position)? {
                    Some(after) => after.previous().get(),
                    None => return Ok(None),
                },
            };
            lines.push((class, up_to, line));
        }
        Ok(Some(Self::of_lines(topic, &lines, (state, finished.of(topic.id())), now)))
    }

    fn of_lines(
        topic: &SelectedTopic,
        lines: &[ClassLine<'_>],
        (state, finished): (&ConsumerState, &[(u64, u64)]),
        now: Timestamp,
    ) -> Self {
        let name = topic.name();
        let snoozed: BTreeMap<u64, Timestamp> =
            state.marks.snoozed_in(name, now).map(|(of, until)| (of.get(), until)).collect();
        let (first, tail) = (topic.extent.earliest.get(), topic.extent.tail.get());
        let mut starts = vec![first];
        let mut add = |at: u64| {
            if first < at && at < tail {
                starts.push(at);
            }
        };
        for (_, up_to, line) in lines {
            add(up_to.saturating_add(1));
            let exceptions = line.map(|line| [&line.marked, &line.unmarked]);
            for set in exceptions.into_iter().flatten().filter_map(|of| of.get(name)) {
                for (from, to) in ranges(set) {
                    add(from);
                    add(to.saturating_add(1));
                }
            }
        }
        for (from, to) in finished {
            add(*from);
            add(to.saturating_add(1));
        }
        for sequence in snoozed.keys() {
            add(*sequence);
            add(sequence.saturating_add(1));
        }
        starts.sort_unstable();
        starts.dedup();
        let class = |sequence: u64| {
            let of_line = |(class, up_to, line): &ClassLine<'_>| {
                let is_below = sequence <= *up_to;
                // Any place at or below the watermark says the same, and so does any above it.
                let place = if is_below { 0 } else { u64::MAX };
                let holds = line.map_or(is_below, |line| line.holds(name, sequence, place));
                if holds { *class } else { 0 }
            };
            let snoozed = if snoozed.contains_key(&sequence) { SNOOZED } else { 0 };
            let ahead = if is_in(finished, sequence) { FINISHED } else { 0 };
            lines.iter().map(of_line).fold(snoozed | ahead, |all, class| all | class)
        };
        Self { starts: starts.into_iter().map(|start| (start, class(start))).collect() }
    }

    /// Returns the class of an event.
    pub(super) fn class(&self, sequence: Sequence) -> Class {
        let index = self.starts.partition_point(|(start, _)| *start <= sequence.get());
        self.starts.get(index.saturating_sub(1)).map_or(0, |(_, class)| *class)
    }

    /// Returns the parts of `sequences` whose events have equal classes: the number of sequences in
    /// each, and the class.
    pub(super) fn parts(&self, sequences: Range<Sequence>) -> impl Iterator<Item = (u64, Class)> {
        let (from, below) = (sequences.start.get(), sequences.end.get());
        let index = self.starts.partition_point(|(start, _)| *start <= from).saturating_sub(1);
        let ends = self.starts[index.min(self.starts.len())..].iter().skip(1);
        let ends = ends.map(|(start, _)| *start).chain([u64::MAX]);
        let parts = self.starts[index.min(self.starts.len())..].iter().zip(ends);
        let parts = parts.take_while(move |((start, _), _)| *start < below);
        parts.map(move |((start, class), end)| (end.min(below) - (*start).max(from), *class))
    }

    /// Returns the class that all events of `sequences` have, if it is one.
    pub(super) fn class_of_all(&self, sequences: Range<Sequence>) -> Option<Class> {
        let mut parts = self.parts(sequences);
        let (_, class) = parts.next()?;
        parts.next().is_none().then_some(class)
    }
}
