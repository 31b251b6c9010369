//! A publish with the sequences of its events, and the topic to which the group appends them.
//! `draft.rs` gives out the sequences and the positions. Here repeated events are found, events are
//! put into blocks, and the acknowledgement is made.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::maintenance::retention::{Added, Retained};
use crate::broker::report::{Ack, Duplicate, Receipt};
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::{Position, Sequence};
use crate::event::{Durability, Timestamp};
use crate::log::{Block, BlockBuilder, NewRecords, StoredTopic};
use crate::topic::TopicId;

/// A topic that the group appends to, with what the group adds to it.
pub(super) struct DraftTopic {
    pub(super) topic: Arc<Topic>,
    pub(super) id: TopicId,
    /// The state of the topic before the group appends to it. The group's trimming is in it, once
    /// that is decided.
    pub(super) state: TopicState,
    /// The blocks that the group drops because of the topic's limits, if it has looked at them.
    pub(super) retained: Option<Retained>,
    /// The ids of removed events that must still be recognised.
    pub(super) dropped_ids: Vec<(TopicId, Block)>,
    /// The sequence that the next event gets.
    pub(super) next: Sequence,
    /// The index of the topic's last run in the draft.
    pub(super) run: Option<usize>,
    /// The first sequence and the first position of each of the topic's runs. Empty until the draft
    /// has numbered its runs.
    pub(super) places: Vec<(Sequence, Position)>,
    /// The blocks that are being built, each with the position of its first event.
    pub(super) builders: Vec<(Position, BlockBuilder)>,
    /// The position after that of the event that was added to a block last.
    pub(super) next_position: Position,
    /// The durability that acknowledgements of this topic promise.
    pub(super) durability: Durability,
    /// The ids of the topic's events in this group.
    pub(super) ids: HashMap<Box<str>, Sequence>,
}

impl DraftTopic {
    /// Returns the events that the group adds to the topic so far.
    pub(super) fn added(&self) -> Added {
        Added {
            events: self.next.get() - self.state.extent.tail.get(),
            bytes: self.builders.iter().map(|(_, builder)| builder.size_bytes() as u64).sum(),
        }
    }

    /// Returns the topic's record for the log.
    pub(super) fn stored(&self) -> StoredTopic {
        let TopicState { extent, config, .. } = self.state;
        let name = self.topic.name.clone();
        StoredTopic { id: self.id, name, extent, config, is_deleted: false }
    }

    pub(super) fn receipt(&self, sequence: Sequence, now: Timestamp) -> Receipt {
        Receipt { sequence, position: self.position(sequence), time: self.time(now) }
    }

    /// Returns the time of the topic's events in a group of the time `now`.
    pub(super) fn time(&self, now: Timestamp) -> Timestamp {
        now.max(self.state.extent.last_time)
    }

    /// Returns the position of an event of the group.
    pub(super) fn position(&self, sequence: Sequence) -> Position {
        let run = self.places.partition_point(|(first, _)| *first <= sequence);
        let (first, position) = self.places[run - 1];
        position.plus(sequence.get() - first.get())
    }

    pub(super) fn build(&mut self, placed: &Placed, max_block_bytes: usize) {
        let records = &placed.records;
        let mut ids = records.ids().iter().map(|(index, _)| *index).peekable();
        let mut sequence = placed.first;
        let mut position = self.position(sequence);
        for index in 0..records.len() {
            let has_id = ids.next_if_eq(&index).is_some();
            if !placed.duplicates.is_empty() && placed.is_duplicate(index) {
                continue;
            }
            let record = records.record(index);
            let is_full = |(_, builder): &(Position, BlockBuilder)| {
                builder.size_bytes() + record.len() > max_block_bytes
            };
            if self.builders.last().is_none_or(is_full) {
                self.builders.push((position, BlockBuilder::new(sequence)));
                self.next_position = position;
            }
            if let Some((_, builder)) = self.builders.last_mut() {
                let skip = position.get() - self.next_position.get();
                builder.push_apart(record, skip, has_id, records.has_ttl());
            }
            (sequence, position) = (sequence.next(), position.next());
            self.next_position = position;
        }
    }
}

/// The events of a publish for one topic, with their sequences.
pub(super) struct Placed {
    /// The index of the topic in the draft; `None` if every event was stored before.
    pub(super) topic: Option<usize>,
    pub(super) records: Arc<NewRecords>,
    /// The last sequence that the publisher expected of the topic.
    pub(super) expected_sequence: Option<u64>,
    pub(super) first: Sequence,
    /// The events that are not appended, by index: each was stored before, or comes earlier in this
    /// group.
    pub(super) duplicates: Vec<(usize, KnownId)>,
    /// The durability that is promised if no event had to be appended.
    pub(super) durability: Durability,
}

/// The event in which a repeated id was found.
#[derive(Clone, Copy)]
pub(super) enum KnownId {
    Stored(Receipt),
    InGroup(Sequence),
}

/// Returns the events of `records` whose id `find` knows, or an earlier event of `records` has.
pub(super) fn find_duplicates(
    records: &NewRecords,
    next: Sequence,
    find: impl Fn(&str) -> Option<KnownId>,
) -> Vec<(usize, KnownId)> {
    let mut duplicates: Vec<(usize, KnownId)> = Vec::new();
    let mut own: HashMap<&str, Sequence> = HashMap::with_capacity(records.ids().len());
    for (index, id) in records.ids() {
        let repeated = own.get(&**id).map(|sequence| KnownId::InGroup(*sequence));
        match repeated.or_else(|| find(id)) {
            Some(known) => duplicates.push((*index, known)),
            None => {
                own.insert(id, next.plus((index - duplicates.len()) as u64));
            }
        }
    }
    duplicates
}

impl Placed {
    /// Returns the number of events that are appended.
    pub(super) fn appended(&self) -> u64 {
        (self.records.len() - self.duplicates.len()) as u64
    }

    pub(super) fn is_duplicate(&self, index: usize) -> bool {
        self.duplicates.binary_search_by_key(&index, |(index, _)| *index).is_ok()
    }

    /// Returns the sequence of an event that is no duplicate.
    pub(super) fn sequence(&self, index: usize) -> Sequence {
        let skipped = self.duplicates.partition_point(|(duplicate, _)| *duplicate < index);
        self.first.plus((index - skipped) as u64)
    }

    pub(super) fn new_ids<'a>(
        &'a self,
        records: &'a NewRecords,
    ) -> impl Iterator<Item = (usize, &'a str)> {
        let ids = records.ids().iter().map(|(index, id)| (*index, &**id));
        ids.filter(|(index, _)| !self.is_duplicate(*index))
    }

    /// Whether the acknowledgement must wait for the group: one of the events was not durable
    /// before it.
    pub(super) fn depends_on_group(&self) -> bool {
        let stored = |(_, known): &(usize, KnownId)| matches!(known, KnownId::Stored(_));
        self.duplicates.len() < self.records.len() || !self.duplicates.iter().all(stored)
    }

    /// Returns the acknowledgement. `synced` is the durability of the group that was committed, if
    /// one was: a sync also makes earlier events durable.
    pub(super) fn ack(
        &self,
        topic: Option<&DraftTopic>,
        synced: Option<Durability>,
        now: Timestamp,
    ) -> Ack {
        let in_group = |sequence| {
            topic.expect("what the group appends has a topic in it").receipt(sequence, now)
        };
        let duplicate = |(index, known): &(usize, KnownId)| Duplicate {
            index: *index,
            receipt: match *known {
                KnownId::Stored(receipt) => receipt,
                KnownId::InGroup(sequence) => in_group(sequence),
            },
        };
        let appended = self.duplicates.len() < self.records.len();
        Ack {
            count: self.records.len(),
            first_appended: appended.then(|| in_group(self.first)),
            duplicates: self.duplicates.iter().map(duplicate).collect(),
            durability: synced.max(Some(self.durability)).unwrap_or(self.durability),
        }
    }
}
