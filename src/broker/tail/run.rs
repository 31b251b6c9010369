//! Runs: neighbouring events of one topic, as a reader gets them.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use super::block::{Encoded, Picked, SharedBlock};
use super::form::WireForm;
use crate::broker::filter::Conditions;
use crate::cursor::Sequence;
use crate::error::Result;
use crate::event::Event;
use crate::log::{Ages, EventRef};
use crate::topic::TopicName;

/// Returns a stored event as a reader gets it at these ages, with whether it has expired and is
/// read as a tombstone. `None` if no reader gets it.
pub(crate) fn as_read(
    mut event: EventRef<'_>,
    ages: Ages,
    deletes_keys: bool,
) -> Option<(EventRef<'_>, bool)> {
    match ages.has_expired(&event) {
        false => Some((event, false)),
        true if deletes_keys && !event.key.is_empty() => {
            event.payload = &[];
            Some((event, true))
        }
        true => None,
    }
}

/// Neighbouring events of one topic, as a reader gets them: a part of a block, or all of it.
///
/// Expired events are not in a run, with one exception. In a compacted topic, an event with a key
/// deletes that key when it expires. Until maintenance drops such an event, it is delivered as a
/// tombstone: the same event without its payload. Otherwise an earlier value of the key, which may
/// still be stored, would be the last one that a reader gets.
#[derive(Debug, Clone)]
pub struct Run {
    topic: TopicName,
    shared: Arc<SharedBlock>,
    from: Sequence,
    below: Sequence,
    /// The ages of events when the run was read. They decide which events have expired.
    ages: Ages,
    /// Whether an event with a key deletes the key when it expires: the topic is compacted.
    deletes_keys: bool,
    /// The sequences that the reader's filter picks, if it has one.
    picked: Option<Picked>,
}

impl Run {
    /// Returns the events of `shared`, a block of `topic`, that are in `sequences`, have not
    /// expired at these ages, and are picked by `filter`. `None` if there are none.
    pub(crate) fn new(
        topic: &TopicName,
        deletes_keys: bool,
        shared: Arc<SharedBlock>,
        sequences: Range<Sequence>,
        ages: Ages,
        filter: Option<&Arc<Conditions>>,
    ) -> Option<Self> {
        let picked = filter.map(|filter| shared.picked(filter));
        let Range { start: from, end: below } = sequences;
        let topic = topic.clone();
        Self { topic, shared, from, below, ages, deletes_keys, picked }.non_empty()
    }

    /// Returns the topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Returns the events, in order; at least one.
    pub fn events(&self) -> impl Iterator<Item = EventRef<'_>> {
        self.seen().map(|(event, _has_expired)| event)
    }

    /// Returns the events as a reader gets them, each with whether it has expired and is delivered
    /// as a tombstone.
    fn seen(&self) -> impl Iterator<Item = (EventRef<'_>, bool)> {
        let events = self.shared.block.events();
        events
            .skip_while(|event| event.sequence < self.from)
            .take_while(|event| event.sequence < self.below)
            .filter(|event| self.picks(event.sequence))
            .filter_map(|event| as_read(event, self.ages, self.deletes_keys))
    }

    fn picks(&self, sequence: Sequence) -> bool {
        self.picked.as_ref().is_none_or(|picked| picked.binary_search(&sequence).is_ok())
    }

    /// Returns about how many events there are, without looking at them: expired ones and holes
    /// that compaction has left are counted, too.
    pub(crate) fn about_count(&self) -> u64 {
        let Self { from, below, .. } = self;
        if let Some(picked) = &self.picked {
            let before = |end: &Sequence| picked.partition_point(|sequence| sequence < end);
            return before(below).saturating_sub(before(from)) as u64;
        }
        let block = &self.shared.block;
        let end = (*below).min(block.last_sequence().next());
        let first = (*from).max(block.first_sequence());
        end.get().saturating_sub(first.get()).min(block.count() as u64)
    }

    /// Returns the bytes that the run keeps in memory: those of its whole block.
    pub(crate) fn held_bytes(&self) -> usize {
        self.shared.size_bytes()
    }

    /// Returns `part`, a part of one of the run's events such as a payload, without copying it.
    ///
    /// # Panics
    ///
    /// If `part` is not within the run's block.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.shared.block.bytes().slice_ref(part)
    }

    /// Returns the payloads, each read as JSON, in the order of the events.
    ///
    /// # Errors
    ///
    /// Each item may be an error, as of [`EventRef::json`]; the items after it follow all the same.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> impl Iterator<Item = Result<T>> {
        self.events().map(|event| event.json())
    }

    /// Returns copies of the events, which do not keep the block in memory.
    pub fn to_events(&self) -> Vec<Event> {
        self.events().map(|event| self.shared.block.to_event(&event)).collect()
    }

    /// Returns the run with its first events only, `count` at the most.
    pub(crate) fn first(mut self, count: usize) -> Self {
        let next = self.events().nth(count).map(|event| event.sequence);
        self.below = next.unwrap_or(self.below);
        self
    }

    /// Returns the run with its events below `before` only; `None` if there are none.
    pub(crate) fn below(mut self, before: Option<Sequence>) -> Option<Self> {
        self.below = before.map_or(self.below, |before| before.min(self.below));
        self.non_empty()
    }

    fn non_empty(self) -> Option<Self> {
        let holds_one = self.events().next().is_some();
        holds_one.then_some(self)
    }

    /// Returns the sequence of the last event.
    pub fn last_sequence(&self) -> Sequence {
        let block = &self.shared.block;
        if self.below > block.last_sequence() {
            return block.last_sequence();
        }
        self.events().last().map_or(self.from, |event| event.sequence)
    }

    /// Returns the events in a wire form. `encode` appends one event to the bytes. It is called for
    /// each event of the block when the form is first asked for, so its output must depend on the
    /// event alone.
    pub(crate) fn encoded(
        &self,
        form: WireForm,
        encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> Bytes {
        self.with_encoded(form, encode, |encoded, encode| self.cut(encoded, encode))
    }

    /// Returns the events in a form that only this reader uses, each by itself. The bytes are not
    /// kept for others.
    pub(crate) fn encoded_alone(
        &self,
        mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> impl Iterator<Item = Vec<u8>> {
        self.events().map(move |event| {
            let mut bytes = Vec::new();
            encode(&event, &mut bytes);
            bytes
        })
    }

    /// As [`Self::encoded`], with each event by itself.
    pub(crate) fn encoded_each(
        &self,
        form: WireForm,
        encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> Vec<Bytes> {
        self.with_encoded(form, encode, |encoded, encode| self.cut_each(encoded, encode))
    }

    fn with_encoded<T, E: FnMut(&EventRef<'_>, &mut Vec<u8>)>(
        &self,
        form: WireForm,
        mut encode: E,
        cut: impl FnOnce(&Encoded, E) -> T,
    ) -> T {
        let kept = &self.shared.forms[form.slot()];
        if kept.get().is_none() && self.shared.charge.is_refused() {
            let encoded = Encoded::new(&self.shared.block, &mut encode);
            return cut(&encoded, encode);
        }
        let encoded = kept.get_or_init(|| {
            let encoded = Encoded::new(&self.shared.block, &mut encode);
            self.shared.charge.add(encoded.size_bytes());
            Box::new(encoded)
        });
        cut(encoded, encode)
    }

    /// Returns the part of a block's wire form that belongs to this run.
    fn cut(&self, encoded: &Encoded, encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>)) -> Bytes {
        if !self.shared.block.has_ttl() && self.picked.is_none() {
            return encoded
                .bytes
                .slice(encoded.offset_of(self.from)..encoded.offset_of(self.below));
        }
        let is_whole = self.seen().filter(|(_, has_expired)| !has_expired).count()
            == self.shared.block.count();
        if is_whole {
            return encoded.bytes.clone();
        }
        let mut events = self.cut_each(encoded, encode);
        match events.len() {
            1 => events.remove(0),
            _ => events.concat().into(),
        }
    }

    /// As [`Self::cut`], with each event by itself. An event that is delivered as a tombstone is
    /// encoded here, because the block's wire form holds it with its payload.
    fn cut_each(
        &self,
        encoded: &Encoded,
        mut encode: impl FnMut(&EventRef<'_>, &mut Vec<u8>),
    ) -> Vec<Bytes> {
        let cut = self.seen().map(|(event, has_expired)| {
            if !has_expired {
                return encoded.of(event.sequence);
            }
            let mut bytes = Vec::new();
            encode(&event, &mut bytes);
            bytes.into()
        });
        cut.collect()
    }
}
