//! The task that tells the other nodes which members this one has, and hears of theirs.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::members_message::MembersMessage;
use super::other_members::OtherMembers;
use super::own_members::{MemberKey, OwnMembers};
use crate::broker::Broker;
use crate::cluster::clock::SteadyClock;
use crate::cluster::messages::{FleetMessages, ListenedMessage, MessageKind, MessageListener};

/// The least time between two messages: changes of this time go together.
const PAUSE: Duration = Duration::from_millis(20);

/// The least time between the beginnings of two passes. In a fleet with a longer lease it is that.
const PASS_EVERY: Duration = Duration::from_secs(1);

/// A node that has said nothing for the time of this many passes has no members any more.
const SILENT_PASSES: u32 = 3;

/// The counts of members at other nodes.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct PresenceCounts(Arc<PresenceCounters>);

#[derive(Debug, Default)]
struct PresenceCounters {
    elsewhere: AtomicU64,
    cut: AtomicU64,
}

impl PresenceCounts {
    /// Returns the members that other nodes have now.
    pub(in crate::cluster) fn elsewhere(&self) -> u64 {
        self.0.elsewhere.load(Ordering::Relaxed)
    }

    /// Returns how often a member of another node was not shown, because there was no room.
    pub(in crate::cluster) fn cut(&self) -> u64 {
        self.0.cut.load(Ordering::Relaxed)
    }
}

/// The task that tells and hears of members.
pub(in crate::cluster) struct MembersTask {
    pub(in crate::cluster) incarnation: u64,
    pub(in crate::cluster) broker: Broker,
    pub(in crate::cluster) own: OwnMembers,
    pub(in crate::cluster) messages: Arc<dyn FleetMessages>,
    pub(in crate::cluster) clock: Arc<dyn SteadyClock>,
    pub(in crate::cluster) lease: Duration,
    /// The most members of other nodes that are shown.
    pub(in crate::cluster) max_members: usize,
    pub(in crate::cluster) counts: PresenceCounts,
}

/// How far the telling of all members is.
#[derive(Debug)]
struct MembersTelling {
    /// The number of the next message, and of the pass.
    number: u64,
    pass: u64,
    progress: MembersPass,
    /// The time of the last message, and that from which the next pass may begin.
    last: Duration,
    next_pass: Duration,
}

#[derive(Debug)]
enum MembersPass {
    Ended,
    /// Members up to this one were told.
    After(MemberKey),
}

impl MembersTelling {
    /// Whether a pass is under way.
    fn is_telling(&self) -> bool {
        matches!(self.progress, MembersPass::After(_))
    }
}

impl MembersTask {
    /// Tells and hears for ever.
    pub(in crate::cluster) async fn run(self) -> Infallible {
        let mut others = OtherMembers::new(self.broker.clone(), self.max_members);
        let now = self.clock.now();
        let progress = MembersPass::Ended;
        let mut telling =
            MembersTelling { number: 0, pass: 0, progress, last: now, next_pass: now };
        loop {
            match self.messages.listen(MessageKind::Members).await {
                Ok(listener) => self.listen(listener, &mut others, &mut telling).await,
                Err(error) => tracing::debug!(%error, "members at other nodes are not heard of"),
            }
            let now = self.clock.now();
            self.forget_silent(&mut others, now).await;
            self.clock.sleep_until(now + self.lease).await;
        }
    }

    /// Tells and hears until the connection has ended for good.
    async fn listen(
        &self,
        mut listener: MessageListener,
        others: &mut OtherMembers,
        telling: &mut MembersTelling,
    ) {
        loop {
            let due = self.due(telling);
            if self.clock.now() >= due {
                self.forget_silent(others, due).await;
                self.tell(telling);
                continue;
            }
            tokio::select! {
                heard = listener.next() => match heard {
                    None => return,
                    Some(ListenedMessage::OfStranger(_counted)) => {}
                    // By the next pass, what was lost is known.
                    Some(ListenedMessage::Lost(lost)) => {
                        tracing::debug!(lost, "messages with members of other nodes were lost");
                    }
                    Some(ListenedMessage::Message(message)) => {
                        if self.hear(&message, others).await {
                            telling.next_pass = self.clock.now(); // A new node knows nobody.
                        }
                    }
                },
                () = self.own.changed() => {}
                () = self.clock.sleep_until(due) => {}
            }
        }
    }

    /// Returns when the next message is due.
    fn due(&self, telling: &MembersTelling) -> Duration {
        let soon = telling.last + PAUSE;
        let is_soon = telling.is_telling() || self.own.has_changes();
        if is_soon { soon } else { soon.max(telling.next_pass) }
    }

    /// Tells changes, and the next members of a pass. What cannot be told now is told by a later
    /// pass.
    fn tell(&self, telling: &mut MembersTelling) {
        let now = self.clock.now();
        telling.last = now;
        let mut message = MembersMessage::new(self.incarnation, telling.number, telling.pass);
        self.own.put_changes(&self.broker, &mut message);
        if telling.is_telling() || now >= telling.next_pass {
            self.put_page(telling, now, &mut message);
        }
        telling.number += 1;
        if let Err(error) = self.messages.tell(MessageKind::Members, message.encode()) {
            tracing::debug!(%error, "the other nodes are not told of members");
        }
    }

    /// Puts the next page of a pass into a message; begins a pass if none is under way.
    fn put_page(&self, telling: &mut MembersTelling, now: Duration, message: &mut MembersMessage) {
        let after = match std::mem::replace(&mut telling.progress, MembersPass::Ended) {
            MembersPass::After(last) => Some(last),
            MembersPass::Ended => {
                telling.pass += 1;
                telling.next_pass = now + self.lease.max(PASS_EVERY);
                (message.begins, message.pass) = (true, telling.pass);
                None
            }
        };
        match self.own.put_page(&self.broker, after, message) {
            Some(last) => telling.progress = MembersPass::After(last),
            None => message.ends = true,
        }
    }

    /// Takes a message. Returns whether a node is new.
    async fn hear(&self, message: &[u8], others: &mut OtherMembers) -> bool {
        let Some(message) = MembersMessage::decode(message) else { return false };
        if message.incarnation == self.incarnation {
            return false;
        }
        let is_new = others.hear(message, self.clock.now()).await;
        self.count(others);
        is_new
    }

    /// Takes out the members of nodes that have not been heard for long, at the time `now`.
    async fn forget_silent(&self, others: &mut OtherMembers, now: Duration) {
        let patience = self.lease.max(PASS_EVERY) * SILENT_PASSES;
        if let Some(since) = now.checked_sub(patience) {
            others.forget_silent(since).await;
            self.count(others);
        }
    }

    fn count(&self, others: &OtherMembers) {
        self.counts.0.elsewhere.store(others.count() as u64, Ordering::Relaxed);
        self.counts.0.cut.store(others.cut(), Ordering::Relaxed);
    }
}
