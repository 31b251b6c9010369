//! A live reader on any edge: how it is opened, shown as present and listed, read, and ended.
//!
//! ```text
//! Wanted ─▶ open: present as a member, listed among the connections
//!             │
//!             ├─▶ next: events, gap, caught up, ephemeral, silence ─▶ the edge writes it
//!             │         marks and counts of its consumer, if it reads as one
//!             └─▶ stopping: wait for the turn to end ─▶ the edge says when to come back
//! ```
//!
//! An edge decides only in which form each of these is written.

use std::pin::Pin;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::clients::{ListEntry, Peer, share};
use super::config::FollowConfig;
use super::consumers::telling::{self, News, StateTelling};
use super::mounting::Edge;
use super::permit::{LeftOut, Permit};
use super::selection::{Kept, Wanted};
use crate::broker::{Delivery, Patience, Reader, Run, Waited};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::gap::Gap;
use crate::permission::Action;
use crate::polls;
use crate::topic::{RESERVED_PREFIX, TopicPattern};

/// The outcome of waiting for a live reader.
pub(super) enum FollowTurn {
    /// A delivery, silence, or the stop of the broker.
    Waited(Waited),
    /// What has changed in the state of the consumer as which the reader reads.
    News(News),
}

/// One live reader of one client.
pub(super) struct Following {
    reader: Reader,
    /// The time without a delivery after which [`Self::next`] returns [`Waited::Silence`]. Its
    /// timer is that of the end of the caller's grant, too.
    patience: Patience,
    /// The last cursor that the client was sent.
    told: Cursor,
    listed: ListEntry,
    kept: Kept,
    permit: Permit,
    /// Ready when the caller's grant is revoked or replaced, if it may be.
    replaced: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Whether each topic that comes to match the patterns must be asked about.
    asks_about_each: bool,
    /// Whether the client may not be told of the delivery that was read last: the hooks are being
    /// asked about it, or have refused it.
    is_asking: bool,
    /// The time at which [`Self::next`] returned last.
    quiet_since: Instant,
    /// The state of the consumer as which the reader reads. Boxed, because most readers have none.
    telling: Option<Box<StateTelling>>,
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
        let opened = wanted.open(&permit, edge, &share(peer)).await?;
        Ok(Self::new(opened, protocol, edge.config.patience(), (peer, permit)))
    }

    /// Returns a live reader for a reader that is open. `Kept` are the things that it holds as long
    /// as it lives.
    pub(super) fn new(
        (reader, mut kept): (Reader, Kept),
        protocol: &'static str,
        patience: Patience,
        (peer, permit): (Option<&Peer>, Permit),
    ) -> Self {
        let telling = kept.telling.take();
        let (listed, told) = (ListEntry::new(peer, protocol, &reader), reader.cursor());
        let quiet_since = Instant::now();
        let (replaced, asks_about_each) = (None, false);
        let mut following = Self {
            reader,
            patience,
            told,
            listed,
            kept,
            permit,
            replaced,
            asks_about_each,
            is_asking: false,
            quiet_since,
            telling,
        };
        following.watch();
        following
    }

    /// Watches for the end of the grant of the reader.
    fn watch(&mut self) {
        let replaced = self.permit.replaced();
        self.replaced = replaced.map(|token| Box::pin(token.cancelled_owned()));
        self.patience.set_deadline(self.permit.end());
        self.asks_about_each = self.reader.is_of_many() && self.permit.asks_about_each();
    }

    /// Returns what the caller may not read, of the topics that it asked for.
    pub(super) fn left_out(&self) -> Option<&LeftOut> {
        self.kept.left_out.as_deref()
    }

    /// Forgets what is left out, once the client is told.
    pub(super) fn forget_left_out(&mut self) {
        self.kept.left_out = None;
    }

    /// Returns the topics that are read, if they are less than the client asked for.
    pub(super) fn cut_to(&self) -> &[TopicPattern] {
        if self.kept.left_out.is_none() { &[] } else { self.reader.patterns() }
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
        self.patience.set_deadline(self.permit.end());
    }

    /// Waits for the next delivery, for news of the reader's consumer, or for the end of the
    /// patience.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_within`]; as [`StateTelling::news`]; [`Error::Unauthenticated`] when the
    /// caller's grant is over, [`Error::Denied`] if the next one does not permit the same. After
    /// these the reader's cursor may be past events that were not delivered; [`Self::told`] is not.
    ///
    /// # Cancel safety
    ///
    /// None while the hooks are asked about a topic: dropped then, its delivery is lost, and the
    /// reader is not read any more. [`Self::has_moved`] says whether its place may be told.
    pub(super) async fn next(&mut self) -> Result<FollowTurn> {
        polls::rest().await; // Writing the delivery before may have taken a while.
        let next = self.next_permitted().await;
        self.quiet_since = Instant::now();
        next
    }

    async fn next_permitted(&mut self) -> Result<FollowTurn> {
        loop {
            self.recheck().await?;
            let replaced = async {
                match &mut self.replaced {
                    Some(replaced) => replaced.await,
                    None => std::future::pending().await,
                }
            };
            let waited = tokio::select! {
                biased;
                () = replaced => {
                    self.watch(); // For the next grant, if this is not the last one.
                    continue;
                }
                () = telling::due(&mut self.telling) => {
                    let Some(telling) = &mut self.telling else { continue };
                    // Boxed: a stream that waits needs no memory for it.
                    match Box::pin(telling.news()).await? {
                        Some(news) => return Ok(FollowTurn::News(news)),
                        None => continue,
                    }
                }
                waited = self.reader.next_within(&mut self.patience) => waited?,
            };
            if self.patience.is_past_deadline() && !matches!(waited, Waited::Delivery(_)) {
                continue;
            }
            self.is_asking = true;
            let is_told = self.is_told(&waited).await?;
            self.is_asking = false;
            if is_told {
                self.count(&waited);
                self.note(&waited);
                return Ok(FollowTurn::Waited(waited));
            }
            // The place moves past the events of others, and a client of which nothing is heard
            // for long must not take that for a broken connection.
            if self.quiet_since.elapsed() >= self.patience.limit() {
                self.note(&Waited::Silence);
                return Ok(FollowTurn::Waited(Waited::Silence));
            }
        }
    }

    /// Counts a delivery, and tells the hooks of its events.
    fn count(&self, waited: &Waited) {
        match waited {
            Waited::Delivery(Delivery::Events(run)) => {
                self.listed.delivered(run);
                self.permit.delivered(run);
            }
            Waited::Delivery(Delivery::Ephemeral(_)) => self.listed.delivered_one(),
            Waited::Delivery(Delivery::Gap(_)) => self.listed.told_gap(),
            _ => {}
        }
    }

    /// Notes that the counts of the consumer may have changed.
    fn note(&mut self, waited: &Waited) {
        let Some(telling) = &mut self.telling else { return };
        match waited {
            // Any delivery puts the silence off, in which counts are looked at that change without
            // an event: by retention, a purge, or the deletion of a topic.
            Waited::Delivery(_) | Waited::Silence => telling.events_changed(),
            Waited::Stopping => {}
        }
    }

    /// Returns whether the client may be told of a delivery, by the grant of now: it may have
    /// changed since the delivery was returned.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    pub(super) async fn tells(&mut self, turn: &FollowTurn) -> Result<bool> {
        self.recheck().await?;
        match turn {
            FollowTurn::Waited(waited) => self.is_told(waited).await,
            FollowTurn::News(_) => Ok(true), // The consumer is the caller's, as before.
        }
    }

    async fn is_told(&self, waited: &Waited) -> Result<bool> {
        let Waited::Delivery(delivery) = waited else { return Ok(true) };
        let topic = match delivery {
            Delivery::Events(run) => Some(run.topic()),
            Delivery::Gap(gap) => gap.topic.as_ref(),
            Delivery::Ephemeral(event) => Some(&event.topic),
            _ => None,
        };
        let may_read = match topic {
            Some(topic) if self.asks_about_each => {
                self.permit.permits(Action::Subscribe, topic).await?
            }
            _ => true,
        };
        Ok(may_read && self.tells_members(delivery).await?)
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

    /// Returns whether the grant of the reader is over, or another one has taken its place.
    pub(super) fn is_outdated(&self) -> bool {
        let Some(grant) = &self.kept.grant else { return false };
        // The timer alone does not know that the machine slept, or that its clock was set.
        grant.is_over(SystemTime::now())
            || self.patience.is_past_deadline()
            || !self.permit.has(Some(grant))
    }

    /// Has the caller asked about again, if the grant of the reader is over, or another one has
    /// taken its place. The reader goes on if it may read the same topics, through the same filter,
    /// as the same member.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`], [`Error::Denied`].
    async fn recheck(&mut self) -> Result<()> {
        while self.is_outdated() {
            // Boxed: it runs seldom, and a waiting client needs no memory for it.
            Box::pin(self.renew()).await?;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<()> {
        self.permit.check_current().await?;
        let now = self.permit.grant();
        match self.reader.topic() {
            Some(topic) => self.permit.check(Action::Subscribe, topic).await?,
            None => {
                let patterns = self.reader.patterns().to_vec();
                let readable = self.permit.readable(patterns, false).await?;
                if let Some(lost) = readable.left_out.first() {
                    let reason = format!("{:?} may not be read any more", lost.as_str());
                    return Err(Error::Denied { reason });
                }
            }
        }
        for topic in &self.kept.present_in {
            self.permit.check(Action::Presence, topic).await?;
        }
        if let Some((then, now)) = self.kept.grant.as_ref().zip(now.as_ref()) {
            let is_present = !self.kept.present_in.is_empty();
            if then.read_filter() != now.read_filter()
                || is_present && then.member_id() != now.member_id()
            {
                let reason = "the filter or the member of the grant has changed".to_owned();
                return Err(Error::Denied { reason });
            }
            if let Some(telling) = &self.telling {
                telling.check_still(now)?;
                self.permit.check_whole(Action::Subscribe, telling.selection()).await?;
            }
        }
        self.watch();
        // If this is not the grant of now, the caller of this looks again.
        self.kept.grant = now;
        Ok(())
    }

    /// Returns the next events, if they are in memory already.
    pub(super) fn next_in_memory(&mut self) -> Option<Run> {
        if self.asks_about_each || self.is_outdated() {
            return None; // The hooks must be asked first.
        }
        let run = self.reader.next_in_memory()?;
        self.listed.delivered(&run);
        self.permit.delivered(&run);
        if let Some(telling) = &mut self.telling {
            telling.events_changed();
        }
        Some(run)
    }

    /// Returns the last cursor that the client was sent.
    pub(super) fn told(&self) -> Cursor {
        self.told
    }

    /// Returns whether the reader's cursor differs from the last one that the client was sent, and
    /// no delivery before it was lost.
    pub(super) fn has_moved(&self) -> bool {
        self.told != self.reader.cursor() && !self.is_asking
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::hooks::{Connecting, Grant, HookAnswer, Hooks};
    use super::super::selection::TopicSelection;
    use super::*;
    use crate::broker::{Broker, Filter, OpenConfig};
    use crate::cursor::{OnGap, StartPoint};
    use crate::permission::Permission;

    /// Grants everything to everybody, until this time.
    struct Until(SystemTime);

    impl Hooks for Until {
        fn connect<'a>(&'a self, _request: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
            let grant = Grant::new("u", Permission::all()).until(self.0).without_renewal();
            Box::pin(async move { Ok(grant) })
        }
    }

    /// Goal: a grant ends by the clock, also where no timer has counted the time, such as on a
    /// machine that slept.
    #[tokio::test]
    async fn a_reader_ends_by_the_clock_where_no_timer_went_on() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let end = SystemTime::now() + Duration::from_secs(1);
        let edge = Edge::new(broker.clone()).hooks(Until(end));
        let (head, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        let permit = Permit::ask(&edge, &head).await.unwrap();
        let topics = TopicSelection::One("t".parse().unwrap());
        let (start, on_gap) = (StartPoint::Latest, OnGap::Resume);
        let (filter, member, is_strict) = (Filter::default(), None, false);
        let (start, consumer) = (Some(start), None);
        let wanted = Wanted { topics, start, on_gap, filter, member, is_strict, consumer };
        let mut following = Following::open(wanted, "test", &edge, (None, permit)).await.unwrap();
        following.patience.set_deadline(Some(Instant::now() + Duration::from_secs(3_600)));
        assert!(!following.is_outdated());
        while SystemTime::now() < end {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(following.is_outdated());
        let error = following.next().await.map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Unauthenticated { .. }), "{error}");
        broker.close().await;
    }
}
