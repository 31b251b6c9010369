//! A page of the topics that its caller may read.

use super::permit::Permit;
use crate::broker::{Page, PageReader, Run};
use crate::error::Result;

/// The reader of a page, which passes over topics that the caller may not read.
#[derive(Debug)]
pub(super) struct PermittedPage {
    reader: PageReader,
    permit: Permit,
    /// Whether each topic of the page must be asked about.
    asks_about_each: bool,
    /// The gaps of the page that were looked at, and those of them that are another's.
    gaps_seen: usize,
    hidden: Vec<usize>,
}

impl PermittedPage {
    /// Returns the reader of a page for the caller with this permit.
    pub(super) fn new(reader: PageReader, permit: Permit) -> Self {
        let asks_about_each = reader.is_of_many() && permit.asks_about_each();
        Self { reader, permit, asks_about_each, gaps_seen: 0, hidden: Vec::new() }
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
            if !self.asks_about_each {
                run.iter().for_each(|run| self.permit.delivered(run));
                return Ok(run);
            }
            let gaps = self.reader.gaps();
            for (at, gap) in gaps.iter().enumerate().skip(self.gaps_seen) {
                if let Some(topic) = &gap.topic
                    && !self.permit.may_read(topic).await
                {
                    self.hidden.push(at);
                }
            }
            self.gaps_seen = gaps.len();
            match &run {
                Some(run) if !self.permit.may_read(run.topic()).await => {}
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
