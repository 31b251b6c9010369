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
    /// The time without a delivery after which [`Self::next`] returns [`Waited::Silence`].
    patience: Patience,
    /// The last cursor that the client was sent.
    told: Cursor,
    listed: ListEntry,
    _kept: Kept,
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
        broker: &Broker,
        config: &FollowConfig,
        peer: Option<&Peer>,
    ) -> Result<Self> {
        let opened = wanted.open(broker, &share(peer)).await?;
        Ok(Self::new(opened, protocol, config.patience(), peer))
    }

    /// Returns a live reader for a reader that is open. `Kept` are the things that it holds as long
    /// as it lives.
    pub(super) fn new(
        (reader, kept): (Reader, Kept),
        protocol: &'static str,
        patience: Patience,
        peer: Option<&Peer>,
    ) -> Self {
        let (listed, told) = (ListEntry::new(peer, protocol, &reader), reader.cursor());
        Self { reader, patience, told, listed, _kept: kept }
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
    /// As [`Reader::next_within`].
    pub(super) async fn next(&mut self) -> Result<Waited> {
        polls::rest().await; // Writing the delivery before may have taken a while.
        self.reader.next_within(&mut self.patience).await
    }

    /// Returns the next events, if they are in memory already.
    pub(super) fn next_in_memory(&mut self) -> Option<Run> {
        self.reader.next_in_memory()
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
