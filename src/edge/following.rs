//! A live reader on any edge: opened, present, listed, waited for, and ended in its turn.
//!
//! ```text
//! Wanted ─▶ open: present as a member, listed among the connections
//!             │
//!             ├─▶ next: events, gap, caught up, ephemeral, silence, stopping ─▶ the edge writes
//!             └─▶ stopping: this stream's turn to end ─▶ the edge says when to come back
//! ```
//!
//! An edge decides in which form each of these is written, and nothing else.

use super::clients::{ListEntry, Peer, share};
use super::config::FollowConfig;
use super::selection::{Kept, Wanted};
use crate::broker::{Broker, Patience, Reader, Run, Waited};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::polls;

/// One live reader of one client.
pub(super) struct Following {
    reader: Reader,
    /// The silence that is waited for before [`Waited::Silence`].
    patience: Patience,
    /// The last place that the client was told.
    told: Cursor,
    listed: ListEntry,
    _kept: Kept,
}

impl Following {
    /// Begins to read what is `wanted`, for a client of this protocol.
    ///
    /// # Errors
    ///
    /// As [`Wanted::open`]. Nobody is present, and nothing is listed then.
    pub(super) async fn open(
        wanted: Wanted,
        protocol: &'static str,
        broker: &Broker,
        config: &FollowConfig,
        peer: Option<&Peer>,
    ) -> Result<Self> {
        let opened = wanted.open(broker, &share(peer)).await?;
        Ok(Self::new(opened, protocol, config.patience(), peer))
    }

    /// A reader that is open, with what it keeps.
    pub(super) fn new(
        (reader, kept): (Reader, Kept),
        protocol: &'static str,
        patience: Patience,
        peer: Option<&Peer>,
    ) -> Self {
        let (listed, told) = (ListEntry::new(peer, protocol, &reader), reader.cursor());
        Self { reader, patience, told, listed, _kept: kept }
    }

    /// The reader, for its cursors, bounds and gap.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Sets the silence that is waited for from now on.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_within`].
    pub(super) async fn next(&mut self) -> Result<Waited> {
        polls::rest().await; // Writing what came before may have been a lot of work.
        self.reader.next_within(&mut self.patience).await
    }

    /// The events that follow and are in memory already, if there are any.
    pub(super) fn next_in_memory(&mut self) -> Option<Run> {
        self.reader.next_in_memory()
    }

    /// The last place that the client was told.
    pub(super) fn told(&self) -> Cursor {
        self.told
    }

    /// Whether the reader is at another place than the client was told.
    pub(super) fn has_moved(&self) -> bool {
        self.told != self.reader.cursor()
    }

    /// The reader's place, which the client is told now.
    pub(super) fn tell(&mut self) -> Cursor {
        self.told = self.reader.cursor();
        self.told
    }

    /// Notes that the client is told the places of the events of `run`.
    pub(super) fn tell_events(&mut self, run: &Run) {
        if let Some(last) = run.events().last() {
            self.told = self.reader.cursor_after(&last);
        }
    }

    /// Has the list of connections show the reader's place, after a write.
    pub(super) fn show_place(&self) {
        self.listed.show_place(&self.reader);
    }

    /// Waits for this stream's turn to end, once the broker stops.
    pub(super) async fn turn_to_end(&self, config: &FollowConfig) {
        config.turn_to_end(self.listed.connections()).await;
    }
}
