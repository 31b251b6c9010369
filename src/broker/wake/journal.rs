//! The journal: the topics that got something new, in order, for feeds with more new topics than
//! can be marked for them.
//!
//! Up to a few hundred topics with something new are marked for a feed. A feed that follows many
//! topics and does not look for a while may have more. It then reads here which topics had
//! something new since its last look. The cost depends on how much is new, not on the number of
//! topics that the feed follows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::topic::entry::Topic;
use crate::cursor::Position;

/// The entries that are kept, 1 MiB. A feed that needs older ones looks at all topics that it
/// follows.
const MAX_ENTRIES: usize = 65_536;

/// The entries that are written or read while the journal is locked: some microseconds.
const ENTRIES_PER_LOCK: usize = 64;

/// The entries that are read at a time.
const ENTRIES_PER_READ: usize = 4 * ENTRIES_PER_LOCK;

/// The topics that got something new, the oldest entry first.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<JournalEntries>);

#[derive(Debug, Default)]
struct JournalEntries {
    /// Each topic with a position. All topics with something new up to that position are noted by
    /// this entry or earlier ones.
    entries: VecDeque<(Position, Arc<Topic>)>,
    /// The number of the first entry, counted since the start.
    first: u64,
    /// The position of the last entry that is not kept any more.
    dropped: Position,
}

/// A reading of the journal, up to where it ended when the reading began.
#[derive(Debug)]
pub(crate) struct JournalReading {
    next: u64,
    end: u64,
}

impl Journal {
    fn entries(&self) -> MutexGuard<'_, JournalEntries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes topics that have something new up to `position`. Positions never go down from call to
    /// call.
    pub(crate) fn add(&self, position: Position, topics: &[Arc<Topic>]) {
        for some in topics.chunks(ENTRIES_PER_LOCK) {
            let mut entries = self.entries();
            entries.entries.extend(some.iter().map(|topic| (position, topic.clone())));
            while entries.entries.len() > MAX_ENTRIES
                && let Some((position, _)) = entries.entries.pop_front()
            {
                entries.first += 1;
                entries.dropped = position;
            }
        }
    }

    /// Begins to read the entries after `position`; `None` if some of them are not kept any more.
    pub(crate) fn after(&self, position: Position) -> Option<JournalReading> {
        let entries = self.entries();
        if entries.dropped > position {
            return None;
        }
        let index = entries.entries.partition_point(|(noted, _)| *noted <= position) as u64;
        let end = entries.first + entries.entries.len() as u64;
        Some(JournalReading { next: entries.first + index, end })
    }

    /// Returns the next topics; an empty list at the end; `None` if they are not kept any more.
    pub(crate) fn read(&self, reading: &mut JournalReading) -> Option<Vec<Arc<Topic>>> {
        let mut read = Vec::new();
        while read.len() < ENTRIES_PER_READ && reading.next < reading.end {
            let entries = self.entries();
            let from = usize::try_from(reading.next.checked_sub(entries.first)?).ok()?;
            let to = entries.entries.len().min(from + ENTRIES_PER_LOCK);
            let to = to.min(from + (reading.end - reading.next) as usize);
            read.extend(entries.entries.range(from..to).map(|(_, topic)| topic.clone()));
            reading.next += (to - from) as u64;
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::topics::{TopicRef, Topics};

    /// Goal: a reading returns all topics that were noted since, in order, or says that some are
    /// gone.
    #[test]
    fn what_was_noted_after_a_position_is_read_or_known_to_be_dropped() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let opened: Vec<TopicRef> =
            ["a", "b", "c"].map(|name| topics.open(&name.parse().unwrap()).unwrap()).into();
        let named = |indexes: &[usize]| -> Vec<Arc<Topic>> {
            indexes.iter().map(|index| Arc::clone(&opened[*index])).collect()
        };
        let journal = Journal::default();
        let read_after = |position| {
            let mut reading = journal.after(Position::new(position))?;
            let mut names = Vec::new();
            loop {
                let read = journal.read(&mut reading)?;
                if read.is_empty() {
                    return Some(names);
                }
                assert!(read.len() <= ENTRIES_PER_READ);
                names.extend(read.iter().map(|topic| topic.name.to_string()));
            }
        };
        journal.add(Position::new(3), &named(&[0, 1]));
        journal.add(Position::new(4), &named(&[2]));
        assert_eq!(read_after(0).unwrap(), ["a", "b", "c"]);
        assert_eq!(read_after(2).unwrap(), ["a", "b", "c"]);
        assert_eq!(read_after(3).unwrap(), ["c"]);
        assert_eq!(read_after(4).unwrap(), [""; 0]);

        let mut overtaken = journal.after(Position::new(3)).unwrap();
        journal.add(Position::new(5), &named(&vec![0; MAX_ENTRIES]));
        assert_eq!(read_after(3), None, "the entry with position 4 is gone");
        assert!(journal.read(&mut overtaken).is_none());
        assert_eq!(read_after(4).unwrap().len(), MAX_ENTRIES);
        assert_eq!(read_after(5).unwrap(), [""; 0]);
    }
}
