//! A page of the topics that its caller may read.

use std::collections::HashMap;

use super::permit::Permit;
use crate::broker::{Page, PageReader, Run};
use crate::error::Result;
use crate::permission::Action;
use crate::topic::TopicName;

/// The most topics of one reader of many about which the answers of the hooks are remembered.
const MAX_KNOWN_TOPICS: usize = 1_024;

/// The topics that came to match a reader's patterns, and whether the caller may read them. Each is
/// asked about once.
#[derive(Debug)]
pub(super) struct KnownTopics {
    permit: Permit,
    known: HashMap<TopicName, bool>,
}

impl KnownTopics {
    /// Returns the topics of a reader of many; `None` if none of them need be asked about.
    pub(super) fn of(permit: &Permit, is_of_many: bool) -> Option<Self> {
        let new = || Self { permit: permit.clone(), known: HashMap::new() };
        (is_of_many && permit.asks_each()).then(new)
    }

    /// Returns whether the caller may read `topic`.
    pub(super) async fn may_read(&mut self, topic: &TopicName) -> bool {
        if let Some(may_read) = self.known.get(topic) {
            return *may_read;
        }
        let may_read = self.permit.check(Action::Subscribe, topic).await.is_ok();
        if self.known.len() >= MAX_KNOWN_TOPICS {
            self.known.clear();
        }
        self.known.insert(topic.clone(), may_read);
        may_read
    }
}

/// The reader of a page, which passes over topics that the caller may not read.
#[derive(Debug)]
pub(super) struct PermittedPage {
    reader: PageReader,
    permit: Permit,
    known: Option<KnownTopics>,
    /// The gaps of the page that were looked at, and those of them that are another's.
    gaps_seen: usize,
    hidden: Vec<usize>,
}

impl PermittedPage {
    /// Returns the reader of a page for the caller with this permit.
    pub(super) fn new(reader: PageReader, permit: Permit) -> Self {
        let known = KnownTopics::of(&permit, reader.is_of_many());
        Self { reader, permit, known, gaps_seen: 0, hidden: Vec::new() }
    }

    /// Returns whether the page begins with a gap that is not told yet.
    pub(super) fn has_gap(&self) -> bool {
        self.reader.has_gap()
    }

    /// Returns the next events of the page, as [`PageReader::next_with`].
    ///
    /// # Errors
    ///
    /// As [`PageReader::next_with`].
    pub(super) async fn next_with(
        &mut self,
        mut take_room: impl FnMut(&Run) -> Result<()>,
    ) -> Result<Option<Run>> {
        loop {
            let run = self.reader.next_with(&mut take_room).await?;
            let Some(known) = &mut self.known else {
                run.iter().for_each(|run| self.permit.delivered(run));
                return Ok(run);
            };
            let gaps = self.reader.gaps();
            for (at, gap) in gaps.iter().enumerate().skip(self.gaps_seen) {
                if let Some(topic) = &gap.topic
                    && !known.may_read(topic).await
                {
                    self.hidden.push(at);
                }
            }
            self.gaps_seen = gaps.len();
            match &run {
                Some(run) if !known.may_read(run.topic()).await => {}
                run_or_end => {
                    run_or_end.iter().for_each(|run| self.permit.delivered(run));
                    return Ok(run);
                }
            }
        }
    }

    /// Returns the page as it is now, without its events.
    pub(super) fn page(&self) -> Page {
        let mut page = self.reader.page();
        if self.known.is_some() {
            let mut at = 0;
            page.gaps.retain(|gap| {
                let is_shown = match at < self.gaps_seen {
                    true => !self.hidden.contains(&at),
                    false => gap.topic.is_none(),
                };
                at += 1;
                is_shown
            });
        }
        page
    }
}
