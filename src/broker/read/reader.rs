//! A live reader: the one loop that replays, follows, waits, and tells gaps.
//!
//! ```text
//!                  ┌─ events ──────────────────────────▶ delivery
//!  look (memory) ──┼─ gap ─────────────────────────────▶ delivery; the place goes on after it
//!       ▲          ├─ passed: events of others ───▶ pause ─┐
//!       │          ├─ slow step: log, list of topics ──────┤
//!       │          └─ idle ─▶ caught up, ephemeral, wait ──┤
//!       └──────────────────────────────────────────────────┘
//! ```
//!
//! # Why
//!
//! A reader holds a place and no queue that publishers fill. Replay and follow are one loop, so
//! there is no hand-over from one to the other in which an event could be lost. A reader that
//! stalls holds nothing but the blocks of one read. The scope tells what comes next: in one topic
//! by sequences (`subscription.rs`), or in many topics by positions (`feed/`).

use std::sync::Arc;
use std::time::Duration;

use super::common::{Common, SlowStep, Step};
use super::delivery::{Delivery, Patience, Waited};
use super::feed::Feed;
use super::searching::{Search, Searches};
use super::subscription::Subscription;
use crate::broker::arrivals::Deposit;
use crate::broker::filter::Filter;
use crate::broker::shared::Shared;
use crate::broker::tail::run::Run;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::broker::topic::topics::TopicRef;
use crate::cursor::{Cursor, Epoch, Gap, OnGap, Place, Position, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::log::EventRef;
use crate::topic::{TopicName, TopicPattern};

/// A live reader, of one topic or of many.
///
/// Places are sequences of the topic, or positions of the broker where many topics are read.
#[derive(Debug)]
pub struct Reader {
    scope: Scope,
    is_caught_up: bool,
}

/// The topic or the topics that are read, and the place in them.
#[derive(Debug)]
enum Scope {
    One(Box<Subscription>),
    Many(Box<Feed>),
}

/// The outcome of reading on without waiting for events.
enum Ready {
    /// The next delivery.
    Delivery(Delivery),
    /// The events that were read are not for this reader; there may be more.
    Passed,
    /// Everything that is there was delivered, or the broker is stopping.
    Idle,
}

impl Reader {
    /// Begins to read one topic.
    pub(crate) async fn of_one(
        shared: Arc<Shared>,
        topic: TopicRef,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Self> {
        let common = Common::new(shared, on_gap);
        let scope = Scope::One(Subscription::start(common, topic, start).await?.into());
        Ok(Self { scope, is_caught_up: false })
    }

    /// Begins to read all topics whose names fit any of the patterns.
    pub(crate) async fn of_many(
        shared: Arc<Shared>,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
        deposit: Option<Deposit>,
    ) -> Result<Self> {
        let common = Common::new(shared, on_gap);
        let scope = Scope::Many(Feed::start(common, patterns, start, deposit).await?.into());
        Ok(Self { scope, is_caught_up: false })
    }

    /// Returns this reader with one more filter: it delivers only the events that `filter` picks,
    /// and all filters before it. The place moves past the other events, too.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`]: the filter has too many values.
    pub fn filtered(mut self, filter: Filter) -> Result<Self> {
        let common = self.common_mut();
        let before = common.filter.as_deref().cloned().unwrap_or_default();
        common.filter = common.shared.filters.share(before.and(filter)?);
        Ok(self)
    }

    /// Returns the one topic that is read; `None` for a reader of many.
    pub fn topic(&self) -> Option<&TopicName> {
        match &self.scope {
            Scope::One(one) => Some(one.topic()),
            Scope::Many(_) => None,
        }
    }

    /// Returns whether this is a reader of many topics, by positions.
    pub fn is_of_many(&self) -> bool {
        matches!(self.scope, Scope::Many(_))
    }

    /// Returns the patterns of the topics of a reader of many; none for a reader of one.
    pub fn patterns(&self) -> &[TopicPattern] {
        match &self.scope {
            Scope::One(_) => &[],
            Scope::Many(many) => many.patterns(),
        }
    }

    /// Returns the cursor of the reader's place. A client that comes back with it goes on there.
    /// While a gap is not delivered, this is the cursor before the gap, so that such a client is
    /// told the gap.
    pub fn cursor(&self) -> Cursor {
        self.common().gaps.cursor().unwrap_or_else(|| match &self.scope {
            Scope::One(one) => one.cursor(),
            Scope::Many(many) => many.cursor(),
        })
    }

    /// Returns the cursor after `event`, which the reader delivers.
    pub fn cursor_after(&self, event: &EventRef<'_>) -> Cursor {
        self.cursor_past(event.sequence, event.position)
    }

    /// Returns the cursor after the event with these places, which the reader delivers.
    pub(crate) fn cursor_past(&self, sequence: Sequence, position: Position) -> Cursor {
        match &self.scope {
            Scope::One(one) => one.cursor_after(sequence),
            Scope::Many(many) => many.cursor_after(position),
        }
    }

    /// Returns the cursor after `event` without the number of a drop: most readers share it.
    pub(crate) fn shared_cursor_after(&self, event: &EventRef<'_>) -> Cursor {
        Cursor { since: None, ..self.cursor_after(event) }
    }

    /// Returns whether cursors after events of `run` carry the number of a drop, which is this
    /// reader's own. Wire forms with such cursors cannot be shared with other readers. Cursors
    /// carry the number as long as the reader's place is below dropped events that are no loss to
    /// it.
    pub(crate) fn has_own_cursors(&self, run: &Run) -> bool {
        let first = run.events().next();
        first.is_some_and(|event| self.cursor_after(&event).since.is_some())
    }

    /// Returns the incarnation of the log that is read.
    pub fn epoch(&self) -> Epoch {
        self.common().epoch()
    }

    /// Returns the first place that can be read, and the place that the next event gets, as they
    /// are now. For many topics these are position 1, and the position after all that the reader
    /// knows.
    pub fn bounds(&self) -> (Place, Place) {
        match &self.scope {
            Scope::One(one) => one.bounds(),
            Scope::Many(many) => many.bounds(),
        }
    }

    /// Returns the number of sequences of the one topic, or the number of positions, between the
    /// reader's place and the tail.
    pub fn lag(&self) -> u64 {
        let ((earliest, tail), next) = (self.bounds(), self.cursor().after.next());
        // A reader of one topic may come with a position. Until its gap is told, it is behind all.
        let lag = next.distance_to(tail).or_else(|| earliest.distance_to(tail));
        lag.unwrap_or_default()
    }

    /// Returns whether the reader's place is at the tail, and no gap is left to be delivered.
    pub fn is_at_tail(&self) -> bool {
        self.gap().is_none() && self.lag() == 0
    }

    /// Returns the gap that is delivered next, if the reader has found one.
    pub fn gap(&self) -> Option<&Gap> {
        self.common().gaps.first()
    }

    /// Returns the turns in which readers search for events that their filters pick.
    pub(crate) fn searches(&self) -> &Searches {
        &self.common().shared.searches
    }

    /// Returns the next delivery; waits for one at the tail. `None` when the broker is stopping.
    ///
    /// # Errors
    ///
    /// - [`Error::Damaged`], [`Error::ReadFailed`]: the place stays where it is.
    /// - [`Error::Gap`]: with [`OnGap::Fail`], events or deletions of keys that come next are gone.
    /// - [`Error::TopicDeleted`]: a reader of one topic ends with it; later calls return it again.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not returned is delivered by the next call.
    pub async fn next(&mut self) -> Result<Option<Delivery>> {
        let mut endless = Patience::new(Duration::MAX);
        loop {
            match self.next_within(&mut endless).await? {
                Waited::Delivery(delivery) => return Ok(Some(delivery)),
                Waited::Silence => {}
                Waited::Stopping => return Ok(None),
            }
        }
    }

    /// Returns the next delivery; waits for one at the tail until `patience` is over. A delivery
    /// that is there is returned however long its reading takes. A search for events that the
    /// filter picks ends when `patience` is over, too: then the place is after the events looked
    /// through.
    ///
    /// # Errors
    ///
    /// As [`Self::next`]; [`Error::NoRuntime`] for a wait with an end outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next`].
    pub async fn next_within(&mut self, patience: &mut Patience) -> Result<Waited> {
        let (mut search, mut is_last_look) = (Search::default(), false);
        loop {
            match self.next_there().await? {
                Ready::Delivery(delivery) => {
                    patience.renew();
                    return Ok(Waited::Delivery(delivery));
                }
                Ready::Idle if self.common().is_stopping() => return Ok(Waited::Stopping),
                Ready::Passed | Ready::Idle if is_last_look => {
                    patience.renew();
                    return Ok(Waited::Silence);
                }
                Ready::Passed if patience.is_over() => {} // The caller has its own turns.
                Ready::Passed => search.pause(self.searches(), self.holds_blocks()).await,
                Ready::Idle => {
                    search = Search::default();
                    patience.check_runtime()?;
                    tokio::select! {
                        biased;
                        () = self.scope.changed() => {}
                        () = patience.ended() => {}
                    }
                }
            }
            // The last look moves the place past events of others.
            is_last_look = patience.is_over();
        }
    }

    /// Returns the next delivery, or `None` at the tail or when the broker is stopping. The call
    /// may read the disk, but does not wait for events.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next`].
    pub async fn next_ready(&mut self) -> Result<Option<Delivery>> {
        let mut search = Search::default();
        loop {
            match self.next_there().await? {
                Ready::Delivery(delivery) => return Ok(Some(delivery)),
                Ready::Passed => search.pause(self.searches(), self.holds_blocks()).await,
                Ready::Idle => return Ok(None),
            }
        }
    }

    /// Returns whether the broker is stopping, so that there are no more deliveries.
    pub(super) fn is_stopping(&self) -> bool {
        self.common().is_stopping()
    }

    /// Waits until there may be something new, after [`Self::next_ready`] has returned nothing.
    pub(super) async fn changed(&mut self) {
        self.scope.changed().await;
    }

    /// Returns the next events if they are in memory, so that several runs go out in one write.
    pub fn next_in_memory(&mut self) -> Option<Run> {
        if self.gap().is_some() {
            return None;
        }
        match self.scope.look() {
            Ok(Step::Events(run)) => Some(run),
            // The next call finds anything else again, an error too.
            _ => None,
        }
    }

    /// Returns whether the reader of one topic holds blocks that were not looked through, so that
    /// its search may take a while. Returns `false` for a reader of many.
    fn holds_blocks(&self) -> bool {
        match &self.scope {
            Scope::One(one) => one.holds_blocks(),
            Scope::Many(_) => false,
        }
    }

    /// Reads on to the next delivery, or to the end of what can be read without waiting for events.
    async fn next_there(&mut self) -> Result<Ready> {
        loop {
            if self.common().is_stopping() {
                return Ok(Ready::Idle);
            }
            if let Some(gap) = self.common_mut().gaps.take() {
                return self.tell(gap).map(Ready::Delivery);
            }
            match self.scope.look()? {
                Step::Events(run) => return Ok(Ready::Delivery(Delivery::Events(run))),
                Step::Gap => {}
                Step::Passed => return Ok(Ready::Passed),
                // Slow steps are rare: their future is boxed, and takes no room while a reader
                // waits.
                Step::Slow(step) => Box::pin(self.scope.take_slow(step)).await?,
                Step::Idle if !self.is_caught_up => {
                    self.is_caught_up = true;
                    return Ok(Ready::Delivery(Delivery::CaughtUp));
                }
                Step::Idle => {
                    let event = self.scope.next_ephemeral().map(Delivery::Ephemeral);
                    return Ok(event.map_or(Ready::Idle, Ready::Delivery));
                }
            }
        }
    }

    /// Returns the delivery of `gap`, and moves the place to where the reader goes on after it.
    fn tell(&mut self, gap: Gap) -> Result<Delivery> {
        if self.common().on_gap == OnGap::Fail {
            return Err(Error::Gap(gap.into()));
        }
        self.scope.go_on_after(&gap);
        Ok(Delivery::Gap(gap))
    }

    /// Returns the feed of a reader of many, so that tests see its parts.
    #[cfg(test)]
    pub(super) fn as_feed(&self) -> &Feed {
        match &self.scope {
            Scope::One(_) => panic!("a reader of one topic"),
            Scope::Many(feed) => feed,
        }
    }

    fn common(&self) -> &Common {
        match &self.scope {
            Scope::One(one) => &one.common,
            Scope::Many(many) => &many.common,
        }
    }

    fn common_mut(&mut self) -> &mut Common {
        match &mut self.scope {
            Scope::One(one) => &mut one.common,
            Scope::Many(many) => &mut many.common,
        }
    }
}

impl Scope {
    fn look(&mut self) -> Result<Step> {
        match self {
            Self::One(one) => one.look(),
            Self::Many(many) => Ok(many.look()),
        }
    }

    async fn take_slow(&mut self, step: SlowStep) -> Result<()> {
        match self {
            Self::One(one) => one.read_log().await, // One topic has no other slow step.
            Self::Many(many) => many.take_slow(step).await,
        }
    }

    fn next_ephemeral(&mut self) -> Option<Arc<Ephemeral>> {
        match self {
            Self::One(one) => one.next_ephemeral(),
            Self::Many(many) => many.next_ephemeral(),
        }
    }

    fn go_on_after(&mut self, gap: &Gap) {
        match self {
            Self::One(one) => one.go_on_after(gap),
            Self::Many(many) => many.go_on_after(gap),
        }
    }

    /// Waits until there may be something new.
    async fn changed(&mut self) {
        match self {
            Self::One(one) => drop(one.signal().changed().await),
            Self::Many(many) => many.signal().notified().await,
        }
    }
}
