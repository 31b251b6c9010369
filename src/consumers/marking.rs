//! Changing marks: what each mark means for the others, watermarks that only rise, and events that
//! are gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use roaring::RoaringTreemap;

use super::marks::{Exceptions, Mark, MarkLine, Marks};
use super::requests::MarkRequest;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// A change of marks, whose events are known by their places.
#[derive(Debug, Clone)]
pub(super) struct Marking {
    pub(super) mark: BTreeSet<Mark>,
    pub(super) unmark: BTreeSet<Mark>,
    pub(super) snooze_until: Option<Timestamp>,
    pub(super) by: Arc<str>,
    pub(super) events: MarkedPlaces,
    /// Events that are gone, whose marks are forgotten.
    pub(super) gone: Exceptions,
}

/// The events of a change of marks.
#[derive(Debug, Clone)]
pub(super) enum MarkedPlaces {
    /// These.
    These(Exceptions),
    /// All up to a place that are not snoozed.
    UpTo {
        /// The place, with the log's epoch.
        cursor: Cursor,
        /// The last sequence at or before the place, of each topic that has exceptions.
        ends: Vec<(TopicName, u64)>,
    },
}

/// All events up to a place.
struct Raise<'a> {
    place: u64,
    ends: &'a [(TopicName, u64)],
    /// The events that stay as they are.
    snoozed: &'a Exceptions,
    has_positions: bool,
}

impl Marking {
    /// Returns about how many bytes the marking takes in memory.
    pub(super) fn size_bytes(&self) -> usize {
        let events = match &self.events {
            MarkedPlaces::These(events) => events
                .iter()
                .map(|(topic, set)| topic.as_str().len() + set.serialized_size())
                .sum::<usize>(),
            MarkedPlaces::UpTo { ends, .. } => ends.len() * size_of::<(TopicName, u64)>(),
        };
        events + self.by.len()
    }
}

/// Checks that the marks of a request go together.
///
/// # Errors
///
/// [`Error::Invalid`] with the field that does not fit.
pub(super) fn check(request: &MarkRequest, now: Timestamp) -> Result<()> {
    let MarkRequest { mark, unmark, snooze_until, .. } = request;
    if mark.is_empty() && unmark.is_empty() {
        return Err(Error::invalid("mark", "is empty, and unmark, too: nothing would change"));
    }
    if let Some(both) = mark.intersection(unmark).next() {
        let problem = format!("{:?} is in mark, too", both.as_str());
        return Err(Error::invalid("unmark", problem));
    }
    if mark.contains(&Mark::Read) && unmark.contains(&Mark::Seen) {
        return Err(Error::invalid("unmark", "a read event is seen; unmark read, too"));
    }
    match (mark.contains(&Mark::Snoozed), snooze_until) {
        (true, None) => Err(Error::invalid("snooze_until", "is missing: snoozed needs a time")),
        (true, Some(until)) if *until <= now => {
            let problem = format!("{until} is not after now, {now}");
            Err(Error::invalid("snooze_until", problem))
        }
        (true, Some(until)) if *until > Timestamp::MAX => {
            Err(Error::invalid("snooze_until", "is after the year 9999"))
        }
        (true, Some(_)) if mark.len() > 1 => {
            let problem = "snoozed clears the other marks, and goes with none of them";
            Err(Error::invalid("mark", problem))
        }
        (false, Some(_)) => {
            Err(Error::invalid("snooze_until", "is for the mark snoozed, which is not in mark"))
        }
        _ => Ok(()),
    }
}

impl Marks {
    /// Changes the marks of events.
    pub(super) fn apply(&mut self, marking: &Marking, now: Timestamp) {
        let Marking { mark, unmark, snooze_until, events, gone, .. } = marking;
        self.forget(gone);
        match events {
            MarkedPlaces::These(events) => {
                if let Some(until) = snooze_until {
                    self.snooze(events, *until);
                }
                mark.iter().for_each(|mark| self.mark(*mark, events));
                unmark.iter().for_each(|mark| self.unmark(*mark, events));
            }
            MarkedPlaces::UpTo { cursor, ends } => {
                let snoozed = self.snoozed_events(now);
                let (place, has_positions) = (cursor.after.number(), self.has_positions);
                let up_to = Raise { place, ends, snoozed: &snoozed, has_positions };
                let (is_read, is_seen) = (mark.contains(&Mark::Read), mark.contains(&Mark::Seen));
                if is_read || is_seen {
                    self.seen.raise(&up_to);
                }
                if is_read {
                    self.read.raise(&up_to);
                }
                if mark.contains(&Mark::Archived) {
                    self.archived.raise(&up_to);
                }
            }
        }
    }

    fn mark(&mut self, mark: Mark, events: &Exceptions) {
        let has_positions = self.has_positions;
        match mark {
            Mark::Seen => self.seen.mark(events, has_positions),
            Mark::Read => {
                self.seen.mark(events, has_positions);
                self.read.mark(events, has_positions);
            }
            Mark::Archived => {
                self.archived.mark(events, has_positions);
                self.wake(events);
            }
            Mark::Snoozed => {}
        }
    }

    fn unmark(&mut self, mark: Mark, events: &Exceptions) {
        let has_positions = self.has_positions;
        match mark {
            Mark::Seen => {
                self.seen.unmark(events, has_positions);
                self.read.unmark(events, has_positions);
            }
            Mark::Read => self.read.unmark(events, has_positions),
            Mark::Archived => self.archived.unmark(events, has_positions),
            Mark::Snoozed => self.wake(events),
        }
    }

    fn snooze(&mut self, events: &Exceptions, until: Timestamp) {
        for mark in [Mark::Seen, Mark::Archived] {
            self.unmark(mark, events);
        }
        for (topic, set) in events {
            let times = self.snoozed.entry(topic.clone()).or_default();
            times.extend(set.iter().map(|sequence| (sequence, until.as_ms())));
        }
    }

    /// Forgets the exceptions and the snoozes of events that are gone.
    fn forget(&mut self, gone: &Exceptions) {
        for line in [&mut self.seen, &mut self.read, &mut self.archived] {
            for (topic, set) in gone {
                take_from(&mut line.marked, topic, set);
                take_from(&mut line.unmarked, topic, set);
            }
        }
        self.wake(gone);
    }

    /// Returns all events that have exceptions or snoozes.
    pub(super) fn exceptions(&self) -> Exceptions {
        let mut all = Exceptions::new();
        for line in [&self.seen, &self.read, &self.archived] {
            for (topic, set) in line.marked.iter().chain(&line.unmarked) {
                add_to(&mut all, topic, set.clone());
            }
        }
        for (topic, times) in &self.snoozed {
            add_to(&mut all, topic, times.keys().copied().collect());
        }
        all
    }

    /// Ends the snoozes of events.
    fn wake(&mut self, events: &Exceptions) {
        for (topic, set) in events {
            if let Some(times) = self.snoozed.get_mut(topic) {
                times.retain(|sequence, _| !set.contains(*sequence));
                if times.is_empty() {
                    self.snoozed.remove(topic);
                }
            }
        }
    }

    fn snoozed_events(&self, now: Timestamp) -> Exceptions {
        let of_topic = |topic: &TopicName| {
            let set = self.snoozed_in(topic, now).map(|(sequence, _)| sequence.get());
            (topic.clone(), set.collect::<RoaringTreemap>())
        };
        self.snoozed.keys().map(of_topic).filter(|(_, set)| !set.is_empty()).collect()
    }

    /// Forgets the exceptions of events that are gone, and the snoozes whose time is over.
    /// `earliest` returns the first sequence of a topic that can be read; `None` if the topic does
    /// not exist.
    pub(super) fn prune(&mut self, now: Timestamp, earliest: impl Fn(&TopicName) -> Option<u64>) {
        for line in [&mut self.seen, &mut self.read, &mut self.archived] {
            for sets in [&mut line.marked, &mut line.unmarked] {
                for (topic, set) in sets.iter_mut() {
                    match earliest(topic) {
                        Some(earliest) => drop(set.remove_range(..earliest)),
                        None => set.clear(),
                    }
                }
                sets.retain(|_, set| !set.is_empty());
            }
        }
        self.snoozed.retain(|topic, times| {
            let Some(earliest) = earliest(topic) else { return false };
            times.retain(|sequence, until| *sequence >= earliest && *until > now.as_ms());
            !times.is_empty()
        });
    }
}

impl MarkLine {
    /// Marks events.
    fn mark(&mut self, events: &Exceptions, has_positions: bool) {
        for (topic, set) in events {
            take_from(&mut self.unmarked, topic, set);
            // Where the watermark is a position, the side of an event is not known here.
            let watermark = if has_positions { 0 } else { self.up_to };
            add_to(&mut self.marked, topic, above(set, watermark));
        }
    }

    /// Takes the mark away from events.
    fn unmark(&mut self, events: &Exceptions, has_positions: bool) {
        for (topic, set) in events {
            take_from(&mut self.marked, topic, set);
            match (self.up_to, has_positions) {
                (0, _) => {}
                (_, true) => add_to(&mut self.unmarked, topic, set.clone()),
                (up_to, false) => {
                    let mut below = set.clone();
                    below.remove_range(up_to + 1..);
                    add_to(&mut self.unmarked, topic, below);
                }
            }
        }
    }

    /// Marks all events up to `place` but those that are snoozed.
    fn raise(&mut self, up_to: &Raise<'_>) {
        let &Raise { place, ends, snoozed, has_positions } = up_to;
        let still = self.not_marked(snoozed, has_positions);
        for (topic, end) in ends {
            // Those beyond the end stay, and those up to it are on the watermark's other side.
            keep_beyond(&mut self.unmarked, topic, *end, None);
            // Of a snoozed event whose place is not known, only the exception says that it has the
            // mark.
            let kept = snoozed.get(topic).filter(|_| has_positions);
            keep_beyond(&mut self.marked, topic, *end, kept);
        }
        if place > self.up_to {
            self.up_to = place;
            self.unmarked.clear(); // All of them are below the watermark, or say nothing new.
        }
        for (topic, mut set) in still {
            if !has_positions {
                set.remove_range(self.up_to + 1..);
            }
            add_to(&mut self.unmarked, &topic, set);
        }
    }

    /// Returns those of the snoozed events that do not have the mark. Snoozing took it away, so an
    /// event has it only if it was marked since.
    fn not_marked(&self, snoozed: &Exceptions, has_positions: bool) -> Exceptions {
        let of_topic = |(topic, set): (&TopicName, &RoaringTreemap)| {
            // The place of an event is known where places are sequences.
            let place = |sequence| if has_positions { u64::MAX } else { sequence };
            let is_not = |sequence: &u64| !self.holds(topic, *sequence, place(*sequence));
            (topic.clone(), set.iter().filter(is_not).collect())
        };
        snoozed.iter().map(of_topic).collect()
    }
}

/// Returns the numbers of a set that are above `number`.
fn above(set: &RoaringTreemap, number: u64) -> RoaringTreemap {
    let mut above = set.clone();
    above.remove_range(..=number);
    above
}

/// Removes the sequences up to `end` from the set of a topic, but those that are in `kept`.
fn keep_beyond(sets: &mut Exceptions, topic: &TopicName, end: u64, kept: Option<&RoaringTreemap>) {
    let Some(set) = sets.get_mut(topic) else { return };
    let kept = kept.map(|kept| &*set & kept);
    set.remove_range(..=end);
    if let Some(kept) = kept {
        *set |= kept;
    }
    if set.is_empty() {
        sets.remove(topic);
    }
}

fn add_to(sets: &mut Exceptions, topic: &TopicName, added: RoaringTreemap) {
    if !added.is_empty() {
        *sets.entry(topic.clone()).or_default() |= added;
    }
}

fn take_from(sets: &mut Exceptions, topic: &TopicName, taken: &RoaringTreemap) {
    if let Some(set) = sets.get_mut(topic) {
        *set -= taken;
        if set.is_empty() {
            sets.remove(topic);
        }
    }
}
