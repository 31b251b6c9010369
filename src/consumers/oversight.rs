//! What those who operate the broker look at: who is how far behind, and which dead letters wait.
//!
//! # Why
//!
//! There may be a million consumers, of which each overview asks for the lag. Nothing is kept for
//! that: all of them are walked through, some at a time under the lock, on a thread that may be
//! busy for long.
//!
//! A dead letter is handled when somebody has archived it for [`OPERATOR`], or when workers of the
//! topic of dead letters have finished it. What has read it otherwise, such as a webhook that tells
//! of it, has not handled it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::entry::ConsumerEntry;
use super::id::ConsumerId;
use super::inbox::page::InboxRequest;
use super::marks::MarkFilter;
use super::name::{ConsumerName, OF_WEBHOOKS};
use super::requests::{ConsumerList, TopicReader, UnhandledLetters};
use super::{Consumers, EventCounts};
use crate::broker::EventOrder;
use crate::error::Result;
use crate::event::Timestamp;
use crate::topic::{TopicName, TopicPattern};

/// The name of the consumer, common to all callers, whose archived events are the dead letters that
/// were dealt with. `src/web/console/consumers.js` marks them.
pub(crate) const OPERATOR: &str = "console";

/// The consumers that are looked at under the lock.
const LOOKED_AT_ONCE: usize = 1_024;

/// The consumers of a topic of dead letters that may be of workers who handle them.
const WORKERS: usize = 16;

impl Consumers {
    /// Calls `look` with the topic and the checkpoint of each consumer that reads one topic and has
    /// finished something. Walks through all consumers.
    pub(crate) fn each_checkpoint(&self, mut look: impl FnMut(&str, u64)) {
        self.each_entry(|entry| {
            if let Some(after) = self.finished_up_to(entry) {
                look(entry.selection(), after);
            }
        });
    }

    fn each_entry(&self, mut look: impl FnMut(&Arc<ConsumerEntry>)) {
        let mut last = None;
        loop {
            let some = self.view().some_after(last.as_ref(), LOOKED_AT_ONCE);
            some.iter().for_each(&mut look);
            match some.last() {
                Some(entry) => last = Some(entry.clone()),
                None => return,
            }
        }
    }

    /// Returns the sequence of the checkpoint of a consumer of one topic, if it has one.
    fn finished_up_to(&self, entry: &ConsumerEntry) -> Option<u64> {
        if entry.has_positions() {
            return None;
        }
        let shared = entry.settings().shared.as_ref();
        let floor = shared.and_then(|_| self.0.work.floor(entry.number));
        floor.or(entry.checkpoint()).map(|cursor| cursor.after.number())
    }

    /// Returns the consumers of all owners that read `topic`, alone or with others: the number of
    /// them, and `limit` of them from the `offset`th on. The one that is behind most comes first.
    /// Walks through all consumers.
    pub(crate) fn readers_of(
        &self,
        topic: &TopicName,
        (offset, limit): (usize, usize),
    ) -> (usize, Vec<TopicReader>) {
        let extent = self.0.broker.topic(topic).map(|topic| topic.extent).ok();
        let mut readers: Vec<(Option<u64>, Arc<ConsumerEntry>)> = Vec::new();
        self.each_entry(|entry| {
            let reads = match entry.has_positions() {
                true => TopicPattern::new(entry.selection()).is_ok_and(|it| it.matches(topic)),
                false => entry.selection() == topic.as_str(),
            };
            if reads {
                let after = self.finished_up_to(entry);
                let lag = after.zip(extent).map(|(after, extent)| extent.behind(after));
                readers.push((lag, entry.clone()));
            }
        });
        readers.sort_by_key(|(lag, _)| std::cmp::Reverse(*lag)); // Stable.
        let shown = readers.iter().skip(offset).take(limit);
        let shown = shown.map(|(lag, entry)| TopicReader { info: self.shown(entry), lag: *lag });
        (readers.len(), shown.collect())
    }

    /// Returns whether `topic` is one of [`Self::letter_topics`].
    pub(crate) fn has_letters_in(&self, topic: &TopicName) -> bool {
        self.letter_topics().contains(topic)
    }

    /// Returns the topics of the dead letters of all consumers that have some.
    pub(crate) fn letter_topics(&self) -> BTreeSet<TopicName> {
        let having = self.0.work.with_dead_letters();
        let view = self.view();
        let entries = having.into_iter().filter_map(|number| view.numbered(number));
        let topic = |entry: &Arc<ConsumerEntry>| {
            let shared = entry.settings().shared.as_ref()?;
            let selection = TopicPattern::new(entry.selection()).ok()?;
            shared.dead_letter_of(&selection).ok().flatten()
        };
        entries.filter_map(topic).collect()
    }

    /// Returns the dead letters in a topic that nobody has handled, if there are some. Whatever
    /// else was published to the topic counts as one: the console lists it, too, so that it can be
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::counts`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::counts`].
    pub(crate) async fn unhandled_letters(
        &self,
        topic: &TopicName,
    ) -> Result<Option<UnhandledLetters>> {
        let Ok(held) = self.0.broker.topic(topic) else { return Ok(None) };
        let selection = TopicPattern::from(topic.clone());
        let operator = ConsumerId::new(selection.clone(), ConsumerName::new(OPERATOR)?);
        let (mut count, mut more_than) = (held.extent.events(), false);
        if count > 0 && self.exists(&operator) {
            let EventCounts { total, archived, more_than: is_least, .. } =
                self.count_of(&operator).await?;
            (count, more_than) = (total.saturating_sub(archived), is_least);
        }
        let mut list = ConsumerList::default();
        (list.owner, list.selection, list.limit) = (Some(String::new()), Some(selection), WORKERS);
        for info in self.list(&list) {
            let is_of_webhook = info.id.name.as_str().starts_with(OF_WEBHOOKS);
            if count > 0 && info.settings.shared.is_some() && !is_of_webhook {
                count = self.count_of(&info.id).await?.unfinished.min(count);
            }
        }
        if count == 0 {
            return Ok(None);
        }
        let oldest = self.oldest_letter(&operator).await;
        Ok(Some(UnhandledLetters { topic: topic.clone(), count, more_than, oldest }))
    }

    async fn count_of(&self, id: &ConsumerId) -> Result<EventCounts> {
        Ok(self.counts(id, &[]).await?.counts.first().copied().unwrap_or_default())
    }

    /// Returns the time of the first event that the operator has not archived.
    async fn oldest_letter(&self, operator: &ConsumerId) -> Option<Timestamp> {
        let marks = MarkFilter { archived: Some(false), ..MarkFilter::default() };
        let request = InboxRequest::default().order(EventOrder::Oldest).limit(1).marks(marks);
        let page = self.inbox(operator, request).await.ok()?;
        page.events.first().map(|letter| letter.event.time)
    }
}
