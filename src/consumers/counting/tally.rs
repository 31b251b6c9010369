//! The counter of one consumer: how many events of each class there are, for each filter.

use std::ops::Range;
use std::sync::Arc;

use super::classes::{ARCHIVED, Class, Classes, FINISHED, READ, SEEN, SNOOZED};
use super::count::{CountFilter, EventCounts};
use crate::broker::{EventCounter, EventRef, SeekAfter, SelectedTopic};
use crate::consumers::requests::ConsumerState;
use crate::consumers::work::FinishedWork;
use crate::cursor::Sequence;
use crate::error::Result;
use crate::event::Timestamp;

/// The number of classes of events.
pub(super) const CLASSES: usize = 32;

/// The numbers of events, by their classes.
pub(super) type ClassCounts = [u64; CLASSES];

/// The counter of one consumer.
#[derive(Debug)]
pub(super) struct MarkTally {
    state: ConsumerState,
    finished: Arc<FinishedWork>,
    now: Timestamp,
    /// The filters; none to count all events, which then need not be decoded.
    filters: Vec<CountFilter>,
    /// The classes of the topic that is counted, and what was counted of it.
    classes: Classes,
    current: Vec<ClassCounts>,
    current_until: Option<Timestamp>,
    counted: Vec<ClassCounts>,
    until: Option<Timestamp>,
}

impl MarkTally {
    pub(super) fn new(
        (state, finished): (ConsumerState, Arc<FinishedWork>),
        now: Timestamp,
        filters: Vec<CountFilter>,
    ) -> Self {
        let counted = vec![[0; CLASSES]; filters.len().max(1)];
        let current = counted.clone();
        let (classes, current_until, until) = (Classes::default(), None, None);
        Self { state, finished, now, filters, classes, current, current_until, counted, until }
    }

    /// Returns the numbers for each filter.
    pub(super) fn counted(&self) -> &[ClassCounts] {
        &self.counted
    }

    /// Returns the first time at which one of the events that were decoded expires.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

impl EventCounter for MarkTally {
    fn needs_events(&self) -> bool {
        !self.filters.is_empty()
    }

    fn begin(&mut self, topic: &SelectedTopic, seek: &mut SeekAfter<'_>) -> Result<bool> {
        self.current.fill([0; CLASSES]);
        self.current_until = None;
        let classes = Classes::of(topic, (&self.state, &self.finished), self.now, seek)?;
        let is_found = classes.is_some();
        self.classes = classes.unwrap_or_default();
        Ok(is_found)
    }

    fn span(&mut self, sequences: Range<Sequence>, events: Option<u64>) -> bool {
        let Some(current) = self.current.first_mut() else { return false };
        match events {
            None => {
                for (count, class) in self.classes.parts(sequences) {
                    current[usize::from(class)] += count;
                }
                true
            }
            Some(events) => match self.classes.class_of_all(sequences) {
                Some(class) => {
                    current[usize::from(class)] += events;
                    true
                }
                None => false,
            },
        }
    }

    fn event(&mut self, event: &EventRef<'_>, expires: Option<Timestamp>) {
        let class = usize::from(self.classes.class(event.sequence));
        if self.filters.is_empty() {
            self.current[0][class] += 1;
        }
        for (counted, of) in self.current.iter_mut().zip(&self.filters) {
            if of.filter.picks(event) && of.permitted.picks(event) {
                counted[class] += 1;
            }
        }
        self.current_until = self.current_until.into_iter().chain(expires).min();
    }

    fn end(&mut self) {
        for (counted, current) in self.counted.iter_mut().zip(&self.current) {
            for (all, of_topic) in counted.iter_mut().zip(current) {
                *all += of_topic;
            }
        }
        self.until = self.until.into_iter().chain(self.current_until).min();
    }
}

/// Returns the count of events of these classes, without what is lost.
pub(super) fn count_of(events: &ClassCounts) -> EventCounts {
    let classes = (0..).zip(events);
    let sum = |is_of: &dyn Fn(Class) -> bool| -> u64 {
        classes.clone().filter(|(class, _)| is_of(*class)).map(|(_, events)| events).sum()
    };
    let has = |class: Class, bits: Class| class & bits != 0;
    let in_inbox = |class: Class| !has(class, ARCHIVED | SNOOZED);
    EventCounts {
        total: sum(&|_| true),
        unfinished: sum(&|class| !has(class, FINISHED)),
        inbox: sum(&in_inbox),
        unseen: sum(&|class| in_inbox(class) && !has(class, SEEN)),
        unread: sum(&|class| in_inbox(class) && !has(class, READ)),
        archived: sum(&|class| has(class, ARCHIVED)),
        snoozed: sum(&|class| has(class, SNOOZED) && !has(class, ARCHIVED)),
        ..EventCounts::default()
    }
}
