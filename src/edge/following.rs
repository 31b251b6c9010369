//! A live reader on any edge: how it is opened, shown as present and listed, read, and ended.
//!
//! ```text
//! Wanted ─▶ open: present as a member, listed among the connections
//!             │
//!             ├─▶ next: events, gap, caught up, ephemeral, silence ─▶ the edge writes it
//!             └─▶ stopping: wait for the turn to end ─▶ the edge says when to come back
//! ```
//!
//! An edge decides only in which form each of these is written.

use std::pin::Pin;

use tokio::time::Sleep;

use super::clients::{ListEntry, Peer, share};
use super::config::FollowConfig;
use super::mounting::Edge;
use super::permit::Permit;
use super::selection::{Kept, Wanted};
use crate::broker::{Delivery, Patience, Reader, Run, Waited};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::polls;
use crate::topic::TopicPattern;

/// One live reader of one client.
pub(super) struct Following {
    reader: Reader,
    /// The time without a delivery after which [`Self::next`] returns [`Waited::Silence`].
    patience: Patience,
    /// The last cursor that the client was sent.
    told: Cursor,
    listed: ListEntry,
    kept: Kept,
    permit: Permit,
    /// The wait for the end of the caller's grant, if it has an end.
    grant_end: Option<Pin<Box<Sleep>>>,
    /// Whether each topic that comes to match the patterns must be asked about.
    asks_about_each: bool,
}

impl Following {
    /// Opens the reader that is `wanted`, for a client of this protocol.
    ///
    /// # Errors
    ///
    /// As [`Wanted::open`]. Then no member is present, and no connection is listed.
    pub(super) async fn open(
        wanted: Wanted,
        protocol: &'static str,
        edge: &Edge,
        (peer, permit): (Option<&Peer>, Permit),
    ) -> Result<Self> {
        let opened = wanted.open(&permit, &edge.broker, &share(peer)).await?;
        Ok(Self::new(opened, protocol, edge.config.patience(), (peer, permit)))
    }

    /// Returns a live reader for a reader that is open. `Kept` are the things that it holds as long
    /// as it lives.
    pub(super) fn new(
        (reader, kept): (Reader, Kept),
        protocol: &'static str,
        patience: Patience,
        (peer, permit): (Option<&Peer>, Permit),
    ) -> Self {
        let (listed, told) = (ListEntry::new(peer, protocol, &reader), reader.cursor());
        let grant_end = permit.end().map(|end| Box::pin(tokio::time::sleep_until(end)));
        let asks_about_each = reader.is_of_many() && permit.asks_about_each();
        Self { reader, patience, told, listed, kept, permit, grant_end, asks_about_each }
    }

    /// Returns the patterns of which the caller may not read all.
    pub(super) fn cut(&self) -> &[TopicPattern] {
        &self.kept.cut
    }

    /// Returns the reader, for its cursors, bounds and gap.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Sets the time after which silence is returned from now on.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Waits for the next delivery, or for the end of the patience.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_within`]; [`Error::Unauthenticated`] and [`Error::Denied`] when the
    /// caller's grant is over, and the next one does not permit the same topics.
    ///
    /// # Cancel safety
    ///
    /// None while the hooks are asked about a topic: dropped then, its delivery is lost. Edges drop
    /// this together with the reader.
    pub(super) async fn next(&mut self) -> Result<Waited> {
        polls::rest().await; // Writing the delivery before may have taken a while.
        loop {
            let waited = match &mut self.grant_end {
                None => self.reader.next_within(&mut self.patience).await?,
                Some(end) => {
                    tokio::select! {
                        biased;
                        () = end => {
                            self.renew().await?;
                            continue;
                        }
                        waited = self.reader.next_within(&mut self.patience) => waited?,
                    }
                }
            };
            let Waited::Delivery(delivery) = &waited else { return Ok(waited) };
            let topic = match delivery {
                Delivery::Events(run) => Some(run.topic()),
                Delivery::Gap(gap) => gap.topic.as_ref(),
                Delivery::Ephemeral(event) => Some(&event.topic),
                _ => None,
            };
            if let Some(topic) = topic.filter(|_| self.asks_about_each)
                && !self.permit.may_read(topic).await
            {
                continue; // The place moves past the events of others.
            }
            if let Delivery::Events(run) = delivery {
                self.permit.delivered(run);
            }
            return Ok(waited);
        }
    }

    /// Has the caller asked about again. The reader goes on if it may read the same topics.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`], [`Error::Denied`].
    async fn renew(&mut self) -> Result<()> {
        match self.reader.topic() {
            Some(topic) => self.permit.check(Action::Subscribe, topic).await?,
            None => {
                let readable = self.permit.readable(self.reader.patterns().to_vec()).await?;
                if let Some(lost) = readable.cut.first() {
                    let reason = format!("{:?} may not be read any more", lost.as_str());
                    return Err(Error::Denied { reason });
                }
            }
        }
        self.grant_end = self.permit.end().map(|end| Box::pin(tokio::time::sleep_until(end)));
        self.asks_about_each = self.reader.is_of_many() && self.permit.asks_about_each();
        Ok(())
    }

    /// Returns the next events, if they are in memory already.
    pub(super) fn next_in_memory(&mut self) -> Option<Run> {
        if self.asks_about_each {
            return None; // The hooks must be asked about the topic first.
        }
        let run = self.reader.next_in_memory()?;
        self.permit.delivered(&run);
        Some(run)
    }

    /// Returns the last cursor that the client was sent.
    pub(super) fn told(&self) -> Cursor {
        self.told
    }

    /// Returns whether the reader's cursor differs from the last one that the client was sent.
    pub(super) fn has_moved(&self) -> bool {
        self.told != self.reader.cursor()
    }

    /// Returns the reader's cursor, and notes that the client is sent it.
    pub(super) fn tell(&mut self) -> Cursor {
        self.told = self.reader.cursor();
        self.told
    }

    /// Notes that the client is sent the cursors of the events of `run`.
    pub(super) fn tell_events(&mut self, run: &Run) {
        if let Some(last) = run.events().last() {
            self.told = self.reader.cursor_after(&last);
        }
    }

    /// Updates the reader's place in the list of connections, after a write.
    pub(super) fn show_place(&self) {
        self.listed.show_place(&self.reader);
    }

    /// Waits for this stream's turn to end, once the broker stops.
    pub(super) async fn turn_to_end(&self, config: &FollowConfig) {
        config.turn_to_end(self.listed.connections()).await;
    }
}
