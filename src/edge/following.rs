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

use tokio::time::{Instant, Sleep};

use super::clients::{ListEntry, Peer, share};
use super::config::FollowConfig;
use super::hooks::Grant;
use super::mounting::Edge;
use super::permit::Permit;
use super::selection::{Kept, Wanted};
use crate::broker::{Delivery, Patience, Reader, Run, Waited};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::gap::Gap;
use crate::permission::Action;
use crate::polls;
use crate::topic::{RESERVED_PREFIX, TopicPattern};

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
    /// The time at which [`Self::next`] returned last.
    quiet_since: Instant,
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
        let mut end = permit.end();
        let is_same = |(one, other): (&Grant, Grant)| one.is_same(&other);
        if !kept.grant.as_ref().zip(permit.grant()).is_none_or(is_same) {
            end = Some(Instant::now()); // The reader was opened with a grant that is over by now.
        }
        let grant_end = end.map(|end| Box::pin(tokio::time::sleep_until(end)));
        let asks_about_each = reader.is_of_many() && permit.asks_about_each();
        let quiet_since = Instant::now();
        Self {
            reader,
            patience,
            told,
            listed,
            kept,
            permit,
            grant_end,
            asks_about_each,
            quiet_since,
        }
    }

    /// Returns the patterns of which the caller may not read all.
    pub(super) fn cut(&self) -> &[TopicPattern] {
        &self.kept.cut
    }

    /// Returns the patterns that are read, if they are less than the client asked for.
    pub(super) fn cut_to(&self) -> &[TopicPattern] {
        if self.kept.cut.is_empty() { &[] } else { self.reader.patterns() }
    }

    /// Returns the gap that is delivered next, for the head of an answer. A gap of a topic that is
    /// to be asked about is not told there.
    pub(super) fn gap(&self) -> Option<&Gap> {
        self.reader.gap().filter(|gap| !self.asks_about_each || gap.topic.is_none())
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
    /// As [`Reader::next_within`]; [`Error::Unauthenticated`] when the caller's grant is over,
    /// [`Error::Denied`] if the next one does not permit the same. After these the reader's cursor
    /// may be past events that were not delivered; [`Self::told`] is not.
    ///
    /// # Cancel safety
    ///
    /// None while the hooks are asked about a topic: dropped then, its delivery is lost. Edges drop
    /// this together with the reader.
    pub(super) async fn next(&mut self) -> Result<Waited> {
        polls::rest().await; // Writing the delivery before may have taken a while.
        let next = self.next_permitted().await;
        self.quiet_since = Instant::now();
        next
    }

    async fn next_permitted(&mut self) -> Result<Waited> {
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
            let is_told = match topic {
                Some(topic) if self.asks_about_each => {
                    self.permit.permits(Action::Subscribe, topic).await?
                }
                _ => true,
            };
            if is_told && self.tells_members(delivery).await? {
                if let Delivery::Events(run) = delivery {
                    self.permit.delivered(run);
                }
                return Ok(waited);
            }
            // The place moves past the events of others, and a client of which nothing is heard
            // for long must not take that for a broken connection.
            if self.quiet_since.elapsed() >= self.patience.limit() {
                return Ok(Waited::Silence);
            }
        }
    }

    /// Returns whether the client is told of a delivery as far as it names members.
    async fn tells_members(&self, delivery: &Delivery) -> Result<bool> {
        match delivery {
            Delivery::Ephemeral(event)
                if self.permit.has_hooks()
                    && event.event.event_type.starts_with(RESERVED_PREFIX) =>
            {
                self.permit.permits(Action::Presence, &event.topic).await
            }
            _ => Ok(true),
        }
    }

    /// Has the caller asked about again. The reader goes on if it may read the same topics, through
    /// the same filter, as the same member.
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
        for topic in &self.kept.present_in {
            self.permit.check(Action::Presence, topic).await?;
        }
        if let Some((then, now)) = self.kept.grant.as_ref().zip(self.permit.grant()) {
            let is_present = !self.kept.present_in.is_empty();
            if then.read_filter() != now.read_filter()
                || is_present && then.member_id() != now.member_id()
            {
                let reason = "the filter or the member of the grant has changed".to_owned();
                return Err(Error::Denied { reason });
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
