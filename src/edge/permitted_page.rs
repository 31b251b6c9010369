//! A page of the topics that its caller may read.

use std::time::SystemTime;

use super::hooks::Grant;
use super::permit::Permit;
use crate::broker::{Page, PageReader, Run};
use crate::error::Result;
use crate::permission::Action;
use crate::topic::TopicPattern;

/// The reader of a page, which passes over topics that the caller may not read.
#[derive(Debug)]
pub(super) struct PermittedPage {
    reader: PageReader,
    permit: Permit,
    /// The grant with which the page was begun; `None` without hooks. The page ends with it.
    grant: Option<Grant>,
    not_read: NotRead,
    /// Whether each topic of the page must be asked about.
    asks_about_each: bool,
    /// The gaps of the page that were looked at, and those of them that are another's.
    gaps_seen: usize,
    hidden: Vec<usize>,
    /// The page before the events about which no more could be asked.
    end: Option<Page>,
}

/// The topics of a page that are not read, although its client asked for them.
#[derive(Debug, Default)]
pub(super) struct NotRead {
    /// The patterns that are read, if they are less than the client asked for.
    pub(super) cut_to: Vec<TopicPattern>,
    /// The topics that were named, and are not permitted.
    pub(super) denied: Vec<TopicPattern>,
}

impl PermittedPage {
    /// Returns the reader of a page for the caller with this permit, which was begun with this
    /// grant.
    pub(super) fn new(
        reader: PageReader,
        (permit, grant): (Permit, Option<Grant>),
        not_read: NotRead,
    ) -> Self {
        let asks_about_each = reader.is_of_many() && permit.asks_about_each();
        let (gaps_seen, hidden, end) = (0, Vec::new(), None);
        Self { reader, permit, grant, not_read, asks_about_each, gaps_seen, hidden, end }
    }

    /// Returns whether the page begins with a gap that is not told yet.
    pub(super) fn has_gap(&self) -> bool {
        self.reader.has_gap()
    }

    /// Returns the patterns that are read, if they are less than the client asked for.
    pub(super) fn cut_to(&self) -> &[TopicPattern] {
        &self.not_read.cut_to
    }

    /// Returns the topics that were named, and are not permitted.
    pub(super) fn denied(&self) -> &[TopicPattern] {
        &self.not_read.denied
    }

    /// Returns the next events of the page, as [`PageReader::next_with`]. If the caller's grant is
    /// over meanwhile, and the hooks grant another one, the page ends: the next page is asked about
    /// anew.
    ///
    /// # Errors
    ///
    /// As [`PageReader::next_with`]; [`Error::Unauthenticated`](crate::Error::Unauthenticated) if
    /// the caller's grant is over. Then [`Self::page`] ends before the events that were not
    /// returned.
    pub(super) async fn next_with(
        &mut self,
        mut take_room: impl FnMut(&Run) -> Result<()>,
    ) -> Result<Option<Run>> {
        if !self.asks_about_each {
            let run = self.next_granted(&mut take_room).await?;
            run.iter().for_each(|run| self.permit.delivered(run));
            return Ok(run);
        }
        loop {
            let before = self.page();
            let run = self.next_granted(&mut take_room).await?;
            match self.is_shown(run.as_ref()).await {
                Ok(true) => {
                    run.iter().for_each(|run| self.permit.delivered(run));
                    return Ok(run);
                }
                Ok(false) => {}
                Err(error) => {
                    self.end = Some(Page { caught_up: false, ..before });
                    return Err(error);
                }
            }
        }
    }

    /// Returns the next events, unless the grant is over before they come.
    async fn next_granted(
        &mut self,
        take_room: &mut impl FnMut(&Run) -> Result<()>,
    ) -> Result<Option<Run>> {
        let Some(grant) = &self.grant else { return self.reader.next_with(take_room).await };
        if self.end.is_some() {
            return Ok(None);
        }
        if !grant.is_over(SystemTime::now()) && self.permit.has(Some(grant)) {
            tokio::select! {
                biased;
                () = self.permit.ended() => {}
                run = self.reader.next_with(take_room) => return run,
            }
        }
        self.end = Some(Page { caught_up: false, ..self.page() });
        self.permit.check_current().await.map(|()| None)
    }

    /// Returns whether the caller may read the topic of `run`, and notes the gaps of others.
    async fn is_shown(&mut self, run: Option<&Run>) -> Result<bool> {
        let gaps = self.reader.gaps();
        for (at, gap) in gaps.iter().enumerate().skip(self.gaps_seen) {
            if let Some(topic) = &gap.topic
                && !self.permit.permits(Action::Subscribe, topic).await?
            {
                self.hidden.push(at);
            }
        }
        self.gaps_seen = gaps.len();
        match run {
            Some(run) => self.permit.permits(Action::Subscribe, run.topic()).await,
            None => Ok(true),
        }
    }

    /// Returns the page as it is now, without its events.
    pub(super) fn page(&self) -> Page {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let mut page = self.reader.page();
        if self.asks_about_each {
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
