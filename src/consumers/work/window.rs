//! The events between a shared consumer's floor and its reader: which of them may be leased, are
//! leased, wait after a failure, or are finished. Knows no log, no tasks and no clock.
//!
//! ```text
//!   floor              the window, in the order of positions             reader
//!  ........│ leased  finished  waiting  delayed  finished  waiting │ not read yet
//!          └ oldest unfinished: the floor follows it
//! ```
//!
//! # Why
//!
//! One struct holds every index (by position, by place, by key, by time), and only `leave` and
//! `enter` change them, so that they cannot disagree. A change is made at once and its bucket is
//! noted as touched; when the records of the touched buckets cannot be stored, the window is
//! thrown away and read again from what is stored.
//!
//! Ends of leases are judged by the steady clock. The time by the wall clock is what workers are
//! told and what is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::places::{Bucket, WorkPlace};
use super::records::CountedRange;
use super::requests::SettleOutcome;
use super::totals::WorkTotals;
use super::window_entry::{End, EntryState, LeaseBounds, Span, WindowEntry, WorkTime};
use crate::cursor::Sequence;
use crate::event::{Event, Timestamp};
use crate::topic::TopicId;

/// The unfinished events of one key.
#[derive(Debug, Default)]
struct KeyLine {
    positions: BTreeSet<u64>,
    leased: u32,
    /// The event that is in the window's set of those that can be leased.
    ready: Option<u64>,
}

/// The events between floor and reader.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// By position.
    pub(super) entries: BTreeMap<u64, WindowEntry>,
    pub(super) places: BTreeMap<WorkPlace, u64>,
    keys: HashMap<u64, KeyLine>,
    /// The positions of events that can be leased.
    ready: BTreeSet<u64>,
    /// The times of the steady clock at which something ends.
    pub(super) due: BTreeSet<(u64, u64)>,
    dying: BTreeSet<u64>,
    /// The events that become dead letters, now or later.
    dead: BTreeSet<u64>,
    workers: HashMap<Arc<str>, u32>,
    in_flight: u32,
    delayed: u32,
    held_bytes: usize,
    /// The last sequence of each topic that was added.
    pub(super) newest: HashMap<TopicId, Sequence>,
    /// The buckets whose records have to be written.
    pub(super) touched: BTreeSet<Bucket>,
    pub(super) totals: WorkTotals,
    /// The lost events above the floor that are counted, so that a restart does not count them
    /// again.
    pub(super) counted: Vec<CountedRange>,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn delayed(&self) -> u32 {
        self.delayed
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Returns the workers that have leases, with how many.
    pub(super) fn workers(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.workers.iter().map(|(worker, count)| (worker, *count))
    }

    pub(super) fn in_flight_of(&self, worker: &str) -> u32 {
        self.workers.get(worker).copied().unwrap_or(0)
    }

    /// Returns the events that become dead letters now.
    pub(super) fn dying(&self) -> &BTreeSet<u64> {
        &self.dying
    }

    /// Returns the first of these, until they have `max_bytes`; one at the least.
    pub(super) fn next_dying(&self, limit: usize, max_bytes: usize) -> Vec<u64> {
        let size = |position: &u64| self.entries.get(position).map_or(0, |entry| entry.size_bytes);
        let mut bytes = 0;
        let has_room = |position: &&u64| {
            let is_first = bytes == 0;
            bytes += size(position).max(1);
            is_first || bytes <= max_bytes
        };
        self.dying.iter().take(limit).take_while(has_room).copied().collect()
    }

    /// Returns how many events become dead letters, now or later.
    pub(super) fn dead_count(&self) -> usize {
        self.dead.len()
    }

    pub(super) fn has(&self, place: &WorkPlace) -> bool {
        self.places.contains_key(place)
    }

    pub(super) fn entry(&self, position: u64) -> Option<&WindowEntry> {
        self.entries.get(&position)
    }

    /// Returns the oldest event in the window, with its position.
    pub(super) fn first(&self) -> Option<(u64, &WindowEntry)> {
        self.entries.first_key_value().map(|(position, entry)| (*position, entry))
    }

    /// Returns the next time of the steady clock at which something ends.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// Returns the last sequence of a topic that was added.
    pub(super) fn newest(&self, topic: TopicId) -> Option<Sequence> {
        self.newest.get(&topic).copied()
    }

    /// Adds an event.
    pub(super) fn add(&mut self, position: u64, entry: WindowEntry) {
        let (place, key) = (entry.place, entry.key);
        let newest = self.newest.entry(place.topic).or_default();
        *newest = place.sequence.max(*newest);
        if let Some(held) = &entry.held {
            self.held_bytes += held.content.content_bytes();
        }
        if self.entries.insert(position, entry).is_some() {
            return; // No two events have one position.
        }
        self.places.insert(place, position);
        if key != 0 && !self.is_finished(position) {
            self.keys.entry(key).or_default().positions.insert(position);
        }
        self.enter(position);
    }

    fn is_finished(&self, position: u64) -> bool {
        self.entries.get(&position).is_none_or(|entry| entry.state == EntryState::Finished)
    }

    /// Returns the positions of the next events for a worker, in their order.
    pub(super) fn choose(
        &self,
        worker: &str,
        limit: usize,
        max_bytes: usize,
        bounds: LeaseBounds,
    ) -> Vec<u64> {
        let of_worker = bounds.per_worker.saturating_sub(self.in_flight_of(worker));
        let room = bounds.in_all.saturating_sub(self.in_flight).min(of_worker) as usize;
        let (mut chosen, mut bytes) = (Vec::new(), 0_usize);
        for position in self.ready.iter().take(room.min(limit)) {
            bytes += self.entries.get(position).map_or(0, |entry| entry.size_bytes);
            if bytes > max_bytes && !chosen.is_empty() {
                break;
            }
            chosen.push(*position);
        }
        chosen
    }

    /// Leases an event that can be leased. Returns its place, its tries, and the end of the lease.
    pub(super) fn lease(
        &mut self,
        position: u64,
        worker: &Arc<str>,
        length_ms: u64,
        time: WorkTime,
    ) -> Option<(WorkPlace, u32, Timestamp)> {
        let entry = self.entries.get_mut(&position)?;
        entry.tries = entry.tries.saturating_add(1);
        entry.ran_out = false;
        entry.reason = Box::default();
        let (place, tries) = (entry.place, entry.tries);
        let span = Span::from(time, length_ms);
        self.set(position, EntryState::Leased(span, worker.clone()));
        Some((place, tries, Timestamp::from_ms(span.until_ms)))
    }

    /// Takes the event of an entry out of the window's memory.
    pub(super) fn take_held(&mut self, position: u64) -> Option<Arc<Event>> {
        let held = self.entries.get_mut(&position)?.held.take()?;
        self.held_bytes = self.held_bytes.saturating_sub(held.content.content_bytes());
        Some(held)
    }

    /// Ends the leases and the delays whose time is over.
    pub(super) fn run_due(&mut self, time: WorkTime, max_tries: u32) {
        while let Some((due_ms, position)) = self.due.first().copied() {
            if due_ms > time.steady_ms {
                return;
            }
            let Some(entry) = self.entries.get_mut(&position) else {
                self.due.remove(&(due_ms, position));
                continue;
            };
            let was_leased = matches!(entry.state, EntryState::Leased(..));
            let is_last = max_tries > 0 && entry.tries >= max_tries;
            entry.ran_out |= was_leased;
            let next = match entry.state {
                _ if entry.topic.is_none() => {
                    self.finish(position, End::Lost);
                    continue;
                }
                EntryState::Dead(_) => EntryState::Dead(None),
                EntryState::Leased(..) if is_last => EntryState::Dead(None),
                _ => EntryState::Waiting,
            };
            // What is stored says the same at this time, so no record is written for it.
            self.leave(position);
            self.put(position, next);
        }
    }

    /// Has an event wait until it is tried again to make a dead letter of it.
    pub(super) fn die_later(&mut self, position: u64, due_ms: u64) {
        self.leave(position);
        self.put(position, EntryState::Dead(Some(due_ms)));
    }

    /// Has those events wait for a worker again that were to become dead letters, and have tries
    /// left: more are permitted since.
    pub(super) fn revive(&mut self, max_tries: u32) {
        let has_tries = |position: &u64| {
            let entry = self.entries.get(position);
            entry.is_some_and(|entry| max_tries == 0 || entry.tries < max_tries)
        };
        let revived: Vec<u64> = self.dead.iter().copied().filter(has_tries).collect();
        revived.into_iter().for_each(|position| self.set(position, EntryState::Waiting));
    }

    /// Ends an event.
    pub(super) fn finish(&mut self, position: u64, end: End) -> SettleOutcome {
        if self.is_finished(position) {
            return SettleOutcome::Done;
        }
        self.take_held(position);
        match end {
            End::Finished => self.totals.finished += 1,
            End::Dead => self.totals.dead += 1,
            End::Lost => self.totals.lost += 1,
        }
        self.set(position, EntryState::Finished);
        let key = self.entries.get(&position).map_or(0, |entry| entry.key);
        if let Some(line) = self.keys.get_mut(&key) {
            line.positions.remove(&position);
            let is_empty = line.positions.is_empty();
            self.refresh(key);
            if is_empty {
                self.keys.remove(&key);
            }
        }
        SettleOutcome::Done
    }

    /// Removes the finished events at the front, which the floor passes.
    pub(super) fn pass_finished(&mut self) {
        while let Some((_, entry)) = self.first()
            && entry.state == EntryState::Finished
        {
            let Some((_, entry)) = self.entries.pop_first() else { return };
            self.places.remove(&entry.place);
            let bucket = entry.place.bucket();
            let (first, last) = bucket.places();
            if self.places.range(first..=last).next().is_none() {
                self.touched.insert(bucket); // Its record, if there is one, goes.
            }
        }
        if self.entries.is_empty() {
            self.counted.clear(); // The floor is past all of them.
        }
    }

    /// Tells the ends of all spans anew by the wall clock, which has jumped.
    pub(super) fn retime(&mut self, time: WorkTime) {
        for entry in self.entries.values_mut() {
            let (EntryState::Leased(span, _) | EntryState::Delayed(span)) = &mut entry.state else {
                continue;
            };
            let left_ms = span.due_ms.saturating_sub(time.steady_ms);
            span.until_ms = time.wall_ms.saturating_add(left_ms);
            self.touched.insert(entry.place.bucket());
        }
    }

    /// Gives an event a new state, and notes that its record has to be written.
    pub(super) fn set(&mut self, position: u64, state: EntryState) {
        self.leave(position);
        self.put(position, state);
        if let Some(entry) = self.entries.get(&position) {
            self.touched.insert(entry.place.bucket());
        }
    }

    fn put(&mut self, position: u64, state: EntryState) {
        if let Some(entry) = self.entries.get_mut(&position) {
            entry.state = state;
        }
        self.enter(position);
    }

    /// Takes an event out of the indexes that its state has put it in.
    fn leave(&mut self, position: u64) {
        let Some(entry) = self.entries.get(&position) else { return };
        self.dead.remove(&position);
        match &entry.state {
            EntryState::Waiting => {
                self.ready.remove(&position);
            }
            EntryState::Leased(span, worker) => {
                self.due.remove(&(span.due_ms, position));
                self.in_flight -= 1;
                if let Some(count) = self.workers.get_mut(worker) {
                    *count -= 1;
                    if *count == 0 {
                        self.workers.remove(worker);
                    }
                }
                if let Some(line) = self.keys.get_mut(&entry.key) {
                    line.leased -= 1;
                }
            }
            EntryState::Delayed(span) => {
                self.due.remove(&(span.due_ms, position));
                self.delayed -= 1;
            }
            EntryState::Dead(Some(due_ms)) => {
                self.due.remove(&(*due_ms, position));
            }
            EntryState::Dead(None) => {
                self.dying.remove(&position);
            }
            EntryState::Finished => {}
        }
    }

    /// Puts an event into the indexes that its state is found by.
    fn enter(&mut self, position: u64) {
        let Some(entry) = self.entries.get(&position) else { return };
        let key = entry.key;
        match &entry.state {
            EntryState::Waiting if key == 0 => {
                self.ready.insert(position);
            }
            EntryState::Leased(span, worker) => {
                self.due.insert((span.due_ms, position));
                self.in_flight += 1;
                *self.workers.entry(worker.clone()).or_default() += 1;
                if let Some(line) = self.keys.get_mut(&key) {
                    line.leased += 1;
                }
            }
            EntryState::Delayed(span) => {
                self.due.insert((span.due_ms, position));
                self.delayed += 1;
            }
            EntryState::Dead(Some(due_ms)) => {
                self.due.insert((*due_ms, position));
                self.dead.insert(position);
            }
            EntryState::Dead(None) => {
                self.dying.insert(position);
                self.dead.insert(position);
            }
            EntryState::Waiting | EntryState::Finished => {}
        }
        self.refresh(key);
    }

    /// Finds out again which event of a key can be leased: the first one, if none is leased.
    fn refresh(&mut self, key: u64) {
        let Some(line) = self.keys.get_mut(&key) else { return };
        let is_waiting = |position: &u64| {
            self.entries.get(position).is_some_and(|it| it.state == EntryState::Waiting)
        };
        let first = line.positions.first().copied().filter(is_waiting);
        let next = first.filter(|_| line.leased == 0);
        if let Some(before) = std::mem::replace(&mut line.ready, next) {
            self.ready.remove(&before);
        }
        self.ready.extend(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> (Window, WorkPlace) {
        let topic = TopicId::FIRST;
        let place = WorkPlace { topic, sequence: Sequence::new(7) };
        let mut window = Window::default();
        window.add(
            70,
            WindowEntry {
                place,
                topic: Some("jobs".parse().unwrap()),
                key: 0,
                size_bytes: 1,
                tries: 0,
                state: EntryState::Waiting,
                ran_out: false,
                reason: Box::default(),
                held: None,
            },
        );
        (window, place)
    }

    const HOUR_MS: u64 = 3_600_000;

    /// Goal: a wall clock that jumps neither ends a lease early nor keeps it, and the end that is
    /// stored moves with the clock.
    #[test]
    fn a_lease_lasts_as_long_as_the_steady_clock_says_wherever_the_wall_clock_is() {
        for wall_ms in [11 * HOUR_MS, 9 * HOUR_MS] {
            let (mut window, place) = window();
            let start = WorkTime { wall_ms: 10 * HOUR_MS, steady_ms: 5 };
            window.lease(70, &"w".into(), 30_000, start).unwrap();
            let jumped = WorkTime { wall_ms, steady_ms: 20_005 };
            window.run_due(jumped, 10);
            assert_eq!(window.in_flight(), 1);
            window.retime(jumped);
            let record = window.record(place.bucket());
            assert_eq!(record.leased[0].until, wall_ms + 10_000);
            assert_eq!(window.touched.iter().collect::<Vec<_>>(), [&place.bucket()]);
            window.run_due(WorkTime { steady_ms: 30_004, ..jumped }, 10);
            assert_eq!(window.in_flight(), 1);
            window.run_due(WorkTime { steady_ms: 30_005, ..jumped }, 10);
            assert_eq!((window.in_flight(), window.ready_count()), (0, 1));
        }
    }

    #[test]
    fn what_is_left_of_a_stored_lease_is_never_longer_than_the_whole_of_it() {
        let stored = |wall_ms| {
            let time = WorkTime { wall_ms, steady_ms: 100 };
            Span::stored(10 * HOUR_MS, 30_000, time).due_ms - 100
        };
        assert_eq!(stored(10 * HOUR_MS - 12_000), 12_000);
        assert_eq!(stored(9 * HOUR_MS), 30_000, "the clock was set back while the broker was down");
        assert_eq!(stored(10 * HOUR_MS), 0);
        assert_eq!(stored(11 * HOUR_MS), 0);
    }

    /// Goal: a lease of a former leader holds for its whole length from the moment at which this
    /// node began to lead, whatever the two clocks say; one of this node's own holds as it was
    /// given.
    #[test]
    fn a_lease_of_a_former_leader_never_ends_early() {
        let (length_ms, led_since_ms) = (30_000, 5_000);
        let left = |until_ms, wall_ms, steady_ms| {
            let time = WorkTime { wall_ms, steady_ms };
            let lease = Span::stored_lease(until_ms, length_ms, time, Some(led_since_ms));
            assert_eq!(
                (lease.length_ms, lease.until_ms),
                (length_ms, wall_ms + lease.due_ms - steady_ms)
            );
            lease.due_ms - steady_ms
        };
        let until_ms = 10 * HOUR_MS;
        assert_eq!(left(until_ms, 11 * HOUR_MS, 5_000), 30_000, "this clock is an hour ahead");
        assert_eq!(left(until_ms, 9 * HOUR_MS, 5_000), 30_000, "this clock is an hour behind");
        assert_eq!(left(until_ms, 11 * HOUR_MS, 25_000), 10_000, "it has led for a while");
        assert_eq!(left(until_ms, until_ms - 20_000, 90_000), 20_000, "given in this term");
        assert_eq!(left(until_ms, 11 * HOUR_MS, 35_000), 0);
    }
}
