//! What a batch of commands changes, before it is stored.

use std::collections::HashMap;
use std::sync::Arc;

use super::changes::Changed;
use super::entry::ConsumerEntry;
use super::keeper_command::KeeperCommand;
use super::records::RecordPiece;
use super::work::QueueEnding;
use crate::error::{Error, Result};
use crate::event::NewEvent;

/// What a batch changes, before it is stored.
#[derive(Default)]
pub(super) struct KeptBatch {
    /// The consumers that the batch changes, by the texts of their identities.
    pub(super) drafts: HashMap<Arc<str>, ConsumerDraft>,
    /// The texts in the order in which they were changed first.
    pub(super) order: Vec<Arc<str>>,
    /// The highest number that the batch has given to a new consumer.
    pub(super) last_number: u64,
    /// The consumers that the batch adds.
    pub(super) added: usize,
    pub(super) bytes: usize,
    pub(super) answers: Vec<WaitingAnswer>,
    /// The queues of consumers that the batch deletes. Nothing is written for these meanwhile.
    pub(super) endings: Vec<QueueEnding>,
}

/// A command that was decided on, and waits until the batch is durable.
pub(super) struct WaitingAnswer {
    pub(super) command: KeeperCommand,
    /// The text of the consumer's identity.
    pub(super) text: Arc<str>,
    /// Whether the command changes something.
    pub(super) outcome: Result<bool>,
}

/// One consumer as it will be.
pub(super) struct ConsumerDraft {
    /// The consumer; `None` if it is deleted.
    pub(super) entry: Option<ConsumerEntry>,
    pub(super) consumer: Option<NewEvent>,
    pub(super) marks: Option<NewEvent>,
    /// The keys of the consumers that are deleted.
    pub(super) tombstones: Vec<String>,
    pub(super) changes: Vec<(Arc<str>, Changed)>,
}

impl KeptBatch {
    pub(super) fn draft(&mut self, text: &Arc<str>) -> &mut ConsumerDraft {
        self.drafts.entry(text.clone()).or_insert_with(|| {
            self.order.push(text.clone());
            ConsumerDraft {
                entry: None,
                consumer: None,
                marks: None,
                tombstones: Vec::new(),
                changes: Vec::new(),
            }
        })
    }

    /// Takes the records out of the batch. Returns them with the index of the last one of each
    /// consumer.
    pub(super) fn take_events(&mut self) -> (Vec<NewEvent>, Vec<Option<usize>>) {
        let mut events = Vec::new();
        let mut last_of = Vec::with_capacity(self.order.len());
        for text in &self.order {
            let draft = self.drafts.get_mut(text).expect("each changed consumer has a draft");
            events.extend(draft.tombstones.drain(..).map(NewEvent::tombstone));
            events.extend(draft.consumer.take().into_iter().chain(draft.marks.take()));
            last_of.push(events.len().checked_sub(1));
        }
        (events, last_of)
    }

    /// Deletes a consumer. What the batch would have written of it is not written.
    pub(super) fn delete(&mut self, text: &Arc<str>, number: u64, work: Vec<String>) {
        let draft = self.draft(text);
        (draft.entry, draft.consumer, draft.marks) = (None, None, None);
        let pieces = [RecordPiece::Consumer(number), RecordPiece::Marks(number)];
        draft.tombstones.extend(pieces.map(RecordPiece::key).into_iter().chain(work));
        draft.changes.push((Arc::default(), Changed::Deleted));
    }

    /// Answers all that rests on the batch with the error for which it is not stored.
    pub(super) fn refuse(self, error: &Error) {
        for waiting in self.answers {
            waiting.command.refuse(error.clone());
        }
    }
}

impl ConsumerDraft {
    pub(super) fn is_new_of(&self, owner: &str) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.revision == 0 && entry.owner() == owner)
    }
}
