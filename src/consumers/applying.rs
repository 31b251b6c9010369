//! Applying the records that another node has written, as they come.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tracing::warn;

use super::changes::{Changed, MarksChange, StateChange};
use super::entry::ConsumerEntry;
use super::keeper::{Keeper, MAX_APPLIED, with_epoch};
use super::loading::{ReadRecord, read_record};
use super::records::marks_change_of;
use super::view::View;
use crate::broker::{EventRef, Run};
use crate::cursor::Position;
use crate::error::Result;
use crate::event::Timestamp;
use crate::polls;

/// A change of a consumer that another node has made: its text, and what its followers are told.
type ToldChange = (Arc<str>, Position, Timestamp, Vec<(Arc<str>, Changed)>);

impl Keeper {
    /// Applies records that another node has written, up to one that cannot be read. That is never
    /// passed over: this node would decide on less than there is, and would not start any more.
    ///
    /// # Errors
    ///
    /// As [`read_record`].
    pub(super) async fn apply_run(&mut self, run: &Run) -> Result<()> {
        let mut events = run.events();
        loop {
            let some: Vec<_> = events.by_ref().take(MAX_APPLIED).collect();
            let Some(last) = some.last().map(|event| event.sequence) else { break };
            let read = some.iter().filter_map(|event| self.read_one(event).transpose());
            let read = read.collect::<Result<Vec<_>>>()?;
            let told: Vec<ToldChange> = {
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                let applied = read.into_iter().filter_map(|(record, change, event)| {
                    let (text, changes) = self.apply_one(&mut view, record, change, event)?;
                    Some((text, event.position, event.time, changes))
                });
                applied.collect()
            };
            self.reached.store(last.get(), Ordering::Release);
            let epoch = self.broker.epoch();
            for (text, revision, time, changes) in told {
                let changes = changes.into_iter().map(|(by, what)| {
                    let what = with_epoch(what, epoch);
                    StateChange { revision, time, by, what }
                });
                self.followers.tell(&text, changes.collect());
            }
            polls::rest().await;
        }
        Ok(())
    }

    /// Reads a record, and, where somebody is told of it, the change of marks in it.
    #[allow(clippy::type_complexity, reason = "it is taken apart at once")]
    fn read_one<'a, 'b>(
        &self,
        event: &'a EventRef<'b>,
    ) -> Result<Option<(ReadRecord, Option<(Arc<str>, MarksChange)>, &'a EventRef<'b>)>> {
        let Some(record) = read_record(event)? else { return Ok(None) };
        let change = match &record {
            ReadRecord::Marks(number, _) => {
                let view = self.read();
                let entry = view.numbered(*number);
                let is_followed = entry.is_some_and(|entry| self.followers.follows(entry.text()));
                is_followed.then(|| marks_change_of(event.payload).ok()).flatten()
            }
            _ => None,
        };
        Ok(Some((record, change, event)))
    }

    /// Applies a record to the view. Returns the consumer's text, and what changed.
    fn apply_one(
        &self,
        view: &mut View,
        record: ReadRecord,
        change: Option<(Arc<str>, MarksChange)>,
        event: &EventRef<'_>,
    ) -> Option<(Arc<str>, ChangesBy)> {
        match record {
            ReadRecord::Consumer(entry) => {
                let before = view.numbered(entry.number).cloned();
                let (entry, changes) = succeeding(before.as_deref(), entry);
                let text = entry.text().into();
                view.put(Arc::new(entry));
                Some((text, changes.into_iter().map(|what| (Arc::default(), what)).collect()))
            }
            ReadRecord::ConsumerGone(number) => {
                let text = view.numbered(number).map(|entry| entry.text().into());
                view.remove(number);
                self.work.forget(number);
                Some((text?, vec![(Arc::default(), Changed::Deleted)]))
            }
            ReadRecord::Marks(number, marks) => {
                let entry = view.numbered(number)?;
                let entry = marks.given_to(ConsumerEntry::clone(entry));
                let text = entry.text().into();
                view.put(Arc::new(entry));
                let many = || (Arc::default(), MarksChange::of_many());
                let (by, change) = change.unwrap_or_else(many);
                Some((text, vec![(by, Changed::Marks(change))]))
            }
            ReadRecord::MarksGone(_) => None, // The consumer is gone, too.
            ReadRecord::Work { key, payload } => {
                if !self.work.with_records(|records| records.apply(&key, &payload)) {
                    warn!(key, sequence = %event.sequence, "a record of no shared work");
                }
                None
            }
        }
    }
}

/// Changes, each with the caller who made it.
type ChangesBy = Vec<(Arc<str>, Changed)>;

/// Returns a consumer of a record with the marks that it had before, and what changed.
fn succeeding(
    before: Option<&ConsumerEntry>,
    entry: ConsumerEntry,
) -> (ConsumerEntry, Vec<Changed>) {
    let Some(before) = before else {
        let checkpoint = entry.checkpoint().map(|cursor| Changed::Checkpoint(Some(cursor)));
        return (entry, [Changed::Settings].into_iter().chain(checkpoint).collect());
    };
    let mut changes = Vec::new();
    if before.settings() != entry.settings() {
        changes.push(Changed::Settings);
    }
    if before.checkpoint() != entry.checkpoint() {
        changes.push(Changed::Checkpoint(entry.checkpoint()));
    }
    (entry.with_marks(before.marks()), changes)
}
