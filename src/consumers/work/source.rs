//! The source of a shared consumer's events: the reader that goes on from its floor, and what was
//! stored of the events that come.
//!
//! # Why
//!
//! After a start, what is stored names events by their sequences, and the reader brings the events
//! themselves. A lease is put into the window when its event comes. When an event at a later
//! position comes first, the event of the lease is gone; the lease holds all the same, so that it
//! can be ended, and holds back later events of its key.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::places::{Bucket, WorkPlace};
use super::records::{BucketRecord, ConsumerRecords, CountedRange};
use super::shared::SharedConsumer;
use super::window::Window;
use super::window_entry::{EntryState, Span, WindowEntry, WorkTime};
use crate::broker::{Broker, Delivery, Reader};
use crate::cursor::{Cursor, Gap, OnGap, Place, Position, Requested, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::topic::{TopicId, TopicName};

/// The longest step of a search for events that the filter picks, while commands may wait.
const MAX_STEP: Duration = Duration::from_millis(5);

/// The longest wait for a reader of many topics to be told of what was published before, and the
/// longest while stored leases wait for their events.
const MAX_BEHIND: Duration = Duration::from_millis(20);
const MAX_LOADING: Duration = Duration::from_secs(5);

/// The most ranges of lost events above the floor that are remembered. Beyond them, a restart
/// counts some again.
const MAX_COUNTED: usize = 256;

/// The time between two looks at what the reader was told.
const TOLD_STEP: Duration = Duration::from_millis(1);

/// How much of the source is wanted in the window.
#[derive(Debug, Clone, Copy)]
pub(super) struct WantedWork {
    /// The number of events that can be leased.
    pub(super) ready: usize,
    /// The most events in the window.
    pub(super) max_ahead: usize,
    /// The most bytes of events that the window holds.
    pub(super) max_held_bytes: usize,
    /// Whether somebody waits no longer, so that it must be known that nothing more is there.
    pub(super) is_exact: bool,
}

/// The source of a shared consumer's events.
#[derive(Debug)]
pub(super) struct WorkSource {
    reader: Reader,
    /// The events that were read, and have no room in the window yet.
    unread: VecDeque<(WorkPlace, TopicName, Event)>,
    /// The stored leases and failures whose events did not come yet, by position.
    stored: BTreeMap<u64, WindowEntry>,
    /// The events that are stored as finished and did not come yet.
    finished: BTreeSet<WorkPlace>,
    /// Whether the reader had nothing more when it was asked last.
    pub(super) is_at_tail: bool,
}

impl WorkSource {
    /// Begins to read after the floor. A node of a fleet has led since `led_since_ms`.
    pub(super) async fn open(
        broker: &Broker,
        consumer: &SharedConsumer,
        records: &ConsumerRecords,
        time: WorkTime,
        led_since_ms: Option<u64>,
    ) -> Result<Self> {
        let start = match (&records.floor, consumer.start) {
            // The floor was stored after the events that it covers, so it holds in each epoch of
            // the log that has it.
            (Some(floor), _) => StartPoint::After(Cursor { epoch: None, ..floor.cursor }),
            (None, Some(start)) => StartPoint::After(start),
            (None, None) => StartPoint::Earliest,
        };
        let reader = open_reader(broker, consumer, start).await?;
        let (mut stored, mut finished) = (BTreeMap::new(), BTreeSet::new());
        for (bucket, record) in records.read() {
            let place =
                |sequence| WorkPlace { topic: bucket.topic, sequence: Sequence::new(sequence) };
            finished.extend(record.finished_sequences().map(place));
            stored.extend(entries_of(bucket, record, time, led_since_ms));
        }
        Ok(Self { reader, unread: VecDeque::new(), stored, finished, is_at_tail: false })
    }

    /// Returns the events of a bucket that are stored as finished and did not come yet.
    pub(super) fn finished_in(&self, bucket: Bucket) -> impl Iterator<Item = Sequence> {
        let (first, last) = bucket.places();
        self.finished.range(first..=last).map(|place| place.sequence)
    }

    /// Returns whether an event is stored as finished and did not come yet.
    pub(super) fn is_finished(&self, place: &WorkPlace) -> bool {
        self.finished.contains(place)
    }

    /// Returns whether the reader, if it is of one topic, has not come to this place.
    pub(super) fn is_ahead(&self, place: &WorkPlace) -> bool {
        let reached = self.reader.cursor().after;
        matches!(reached, Place::Sequence(reached) if place.sequence > reached)
    }

    /// Returns the cursor of the floor: all events up to it are finished.
    pub(super) fn floor(&self, window: &Window) -> Cursor {
        let before = |sequence: Sequence, position: u64| {
            self.reader.cursor_past(sequence.previous(), Position::new(position).previous())
        };
        let unread = self.unread.front();
        match (window.first(), unread) {
            (Some((position, entry)), _) => before(entry.place.sequence, position),
            (None, Some((place, _, event))) => before(place.sequence, event.position.get()),
            (None, None) => self.reader.cursor(),
        }
    }

    /// Whether stored leases are left whose events did not come yet.
    pub(super) fn is_loading(&self) -> bool {
        !self.stored.is_empty()
    }

    /// Reads on until the window has what is wanted, or nothing more is there, or the search takes
    /// too long. Then all stored leases are in the window.
    ///
    /// # Errors
    ///
    /// As [`Reader::next`]; what was read before is in the window.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn fill(
        &mut self,
        broker: &Broker,
        consumer: &SharedConsumer,
        window: &mut Window,
        wanted: WantedWork,
    ) -> Result<()> {
        let (last, started) = (broker.last_position(), Instant::now());
        let patience = if self.is_loading() { MAX_LOADING } else { MAX_BEHIND };
        loop {
            self.take_unread(window, wanted);
            let is_full = window.len() >= wanted.max_ahead || !self.unread.is_empty();
            if !self.is_loading() && (is_full || window.ready_count() >= wanted.ready) {
                return Ok(());
            }
            let next = match self.is_loading() {
                true => Ok(self.reader.next_ready().await),
                false => tokio::time::timeout(MAX_STEP, self.reader.next_ready()).await,
            };
            let Ok(next) = next else {
                self.is_at_tail = false;
                return Ok(()); // The search goes on from here.
            };
            if !self.took(next, broker, consumer, window).await? {
                let needs_all = wanted.is_exact || self.is_loading();
                if needs_all && self.is_behind(last) && started.elapsed() < patience {
                    tokio::time::sleep(TOLD_STEP).await;
                    continue;
                }
                self.is_at_tail = !self.is_behind(last);
                self.pass_stored(u64::MAX, window);
                self.pass_finished(None, window);
                return Ok(());
            }
        }
    }

    /// Returns whether the reader is still to be told of events up to `last`. A reader of many
    /// topics is told of new events a moment later than their publishers.
    fn is_behind(&self, last: Position) -> bool {
        self.reader.is_of_many() && self.reader.cursor().after.number() < last.get()
    }

    /// Waits for the next delivery.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`]; [`Error::ShuttingDown`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn arrival(&mut self) -> Result<Option<Delivery>> {
        self.reader.next().await
    }

    /// Takes what the reader has given. Returns whether it has given something.
    ///
    /// # Errors
    ///
    /// The error that it has given, unless the topic was deleted: then the reader begins anew.
    pub(super) async fn took(
        &mut self,
        next: Result<Option<Delivery>>,
        broker: &Broker,
        consumer: &SharedConsumer,
        window: &mut Window,
    ) -> Result<bool> {
        match next {
            Ok(Some(Delivery::Events(run))) => {
                // An event that is there was published, so its topic has an id.
                let Some(topic) = broker.topic_id(run.topic()) else { return Ok(true) };
                let events = run.to_events().into_iter().map(|event| {
                    let place = WorkPlace { topic, sequence: event.sequence };
                    (place, run.topic().clone(), event)
                });
                self.unread.extend(events);
            }
            Ok(Some(Delivery::Gap(gap))) => self.lose(&gap, broker, window),
            Ok(Some(Delivery::CaughtUp | Delivery::Ephemeral(_))) => {}
            Ok(None) => return Ok(false),
            Err(Error::TopicDeleted(_)) => {
                let cursor = Cursor { epoch: None, ..self.reader.cursor() };
                self.reader = open_reader(broker, consumer, StartPoint::After(cursor)).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Counts the events of a gap, without those that were finished before.
    fn lose(&mut self, gap: &Gap, broker: &Broker, window: &mut Window) {
        let topic = gap.topic.as_ref().and_then(|topic| broker.topic_id(topic));
        let (Some(topic), Place::Sequence(resume)) = (topic, gap.earliest) else { return };
        // What was read last may wait for room in the window.
        let unread = self.unread.iter().rev().find(|(place, ..)| place.topic == topic);
        let newest = unread.map(|(place, ..)| place.sequence).or_else(|| window.newest(topic));
        let known_to = newest.map(|newest| newest.next().get());
        let first = match gap.requested {
            Requested::Place(Place::Sequence(requested)) => Some(requested.get()),
            // A reader of many topics tells no number for a topic that it has read nothing of.
            _ => known_to,
        };
        let (Some(first), end) = (first, resume.get()) else { return };
        // What was counted before a restart is not counted again.
        let (before, others): (Vec<_>, Vec<_>) = std::mem::take(&mut window.counted)
            .into_iter()
            .partition(|range| range.topic == topic.get() && range.overlaps(first, end));
        let is_new = |place: &WorkPlace| {
            let sequence = place.sequence.get();
            let is_in = place.topic == topic && (first..end).contains(&sequence);
            is_in && !before.iter().any(|range| (range.first..range.end).contains(&sequence))
        };
        let known = self.finished.iter().filter(|place| is_new(place)).count();
        let stored = self.stored.values().filter(|entry| is_new(&entry.place)).count();
        let counted = before.iter().map(|range| range.end.min(end) - range.first.max(first));
        let counted = counted.sum::<u64>() + (known + stored) as u64;
        window.totals.lost += end.saturating_sub(first).saturating_sub(counted);
        window.counted = others;
        if first < end && window.counted.len() < MAX_COUNTED {
            let firsts = before.iter().map(|range| range.first).chain([first]);
            let ends = before.iter().map(|range| range.end).chain([end]);
            let (first, end) = (firsts.min().unwrap_or(first), ends.max().unwrap_or(end));
            window.counted.push(CountedRange { topic: topic.get(), first, end });
        }
    }

    /// Puts the events that were read into the window, as far as there is room.
    fn take_unread(&mut self, window: &mut Window, wanted: WantedWork) {
        while let Some((place, topic, event)) = self.unread.pop_front() {
            let position = event.position.get();
            if window.len() >= wanted.max_ahead && !self.is_loading() {
                self.unread.push_front((place, topic, event));
                return;
            }
            let mine = self.stored.remove(&position);
            self.pass_stored(position, window);
            let is_finished = self.finished.remove(&place);
            self.pass_finished(Some(place), window);
            let size_bytes = event.content.content_bytes();
            let key = key_hash(place.topic, &event.content.key);
            let is_held = !is_finished && window.held_bytes() + size_bytes <= wanted.max_held_bytes;
            let held = is_held.then(|| Arc::new(event));
            let new = WindowEntry {
                place,
                topic: Some(topic.clone()),
                key,
                size_bytes,
                tries: 0,
                state: if is_finished { EntryState::Finished } else { EntryState::Waiting },
                ran_out: false,
                reason: Box::default(),
                held: held.clone(),
            };
            let entry = match mine.filter(|stored| stored.place == place) {
                Some(stored) => WindowEntry { topic: Some(topic), key, size_bytes, held, ..stored },
                None => new,
            };
            window.add(position, entry);
        }
    }

    /// Takes the stored leases before a position, whose events are gone, into the window. Events
    /// that are not leased are lost.
    fn pass_stored(&mut self, position: u64, window: &mut Window) {
        while let Some(first) = self.stored.first_entry()
            && *first.key() < position
        {
            let (position, entry) = first.remove_entry();
            match entry.state {
                EntryState::Leased(..) => window.add(position, entry),
                _ => {
                    window.touched.insert(entry.place.bucket());
                    window.totals.lost += 1;
                }
            }
        }
    }

    /// Forgets the finished events of a topic before `place`, which are gone; without a place, all
    /// of them.
    fn pass_finished(&mut self, place: Option<WorkPlace>, window: &mut Window) {
        let passed: Vec<WorkPlace> = match place {
            None => self.finished.iter().copied().collect(),
            Some(place) => {
                let first = WorkPlace { sequence: Sequence::BEFORE_ALL, ..place };
                self.finished.range(first..place).copied().collect()
            }
        };
        for place in passed {
            self.finished.remove(&place);
            window.touched.insert(place.bucket());
        }
    }
}

async fn open_reader(
    broker: &Broker,
    consumer: &SharedConsumer,
    start: StartPoint,
) -> Result<Reader> {
    let selection = &consumer.selection;
    let reader = match selection.is_name() {
        true => {
            let topic = TopicName::new(selection.as_str())?;
            broker.subscribe(&topic, start, OnGap::Resume).await?
        }
        false => broker.feed(vec![selection.clone()], start, OnGap::Resume).await?,
    };
    reader.filtered(consumer.filter.clone())
}

/// Returns the entries of a stored record, without their events, by position.
fn entries_of(
    bucket: Bucket,
    record: BucketRecord,
    time: WorkTime,
    led_since_ms: Option<u64>,
) -> impl Iterator<Item = (u64, WindowEntry)> {
    let entry = move |sequence, tries, key: &str, state, reason: String| WindowEntry {
        place: WorkPlace { topic: bucket.topic, sequence: Sequence::new(sequence) },
        topic: None,
        key: u64::from_str_radix(key, 36).unwrap_or(0),
        size_bytes: 0,
        tries,
        state,
        ran_out: false,
        reason: reason.into(),
        held: None,
    };
    let leased = record.leased.into_iter().map(move |it| {
        let lease = Span::stored_lease(it.until, it.length, time, led_since_ms);
        let state = EntryState::Leased(lease, it.worker.as_str().into());
        (it.position, entry(it.sequence, it.tries, &it.key, state, String::new()))
    });
    let failed = record.failed.into_iter().map(move |it| {
        let state = match it.dead {
            true => EntryState::Dead(None),
            false if it.length == 0 => EntryState::Waiting,
            false => EntryState::Delayed(Span::stored(it.from, it.length, time)),
        };
        let entry = entry(it.sequence, it.tries, &it.key, state, it.reason);
        (it.position, WindowEntry { ran_out: it.ran_out, ..entry })
    });
    leased.chain(failed)
}

/// Returns the hash of a topic's key, which is stored; 0 for no key. Two keys of one hash are never
/// in flight together, which costs time and nothing else.
///
/// Source: FNV-1a, 64 bits.
fn key_hash(topic: TopicId, key: &str) -> u64 {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    if key.is_empty() {
        return 0;
    }
    let id = topic.get().to_be_bytes();
    let bytes = id.iter().chain(key.as_bytes());
    let hash = bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    hash.max(1)
}
