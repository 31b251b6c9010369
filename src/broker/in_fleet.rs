//! The broker as a node of a fleet: who decides, what other nodes ask of it, and what it shows of
//! theirs. A broker alone leads always.

use bytes::Bytes;

use super::Broker;
#[cfg(feature = "fleet")]
use super::backup::{self, Backup, BackupTaker};
#[cfg(feature = "fleet")]
use super::command::{Append, Change};
#[cfg(feature = "fleet")]
use super::ephemeral::EphemeralRelay;
#[cfg(feature = "fleet")]
use super::forward_queue::ForwardedAppend;
#[cfg(feature = "fleet")]
use super::handing_in::hand_in_records;
use super::leadership::{LeadTerm, Leadership, LeadershipWatch};
#[cfg(feature = "fleet")]
use super::presence::MemberElsewhere;
#[cfg(feature = "fleet")]
use super::publish::{InOrder, PendingAll};
#[cfg(feature = "fleet")]
use super::questions::LeaderAsker;
use super::questions::{AnsweredBy, Answerer};
use super::queue::Queued;
#[cfg(feature = "fleet")]
use super::queue::{AskedBy, QueuedChange};
use super::report::MaintenanceReport;
#[cfg(feature = "fleet")]
use super::topic::members::{MemberRelay, Present};
#[cfg(feature = "fleet")]
use crate::cursor::Sequence;
use crate::error::{Error, Result};
#[cfg(feature = "fleet")]
use crate::event::{NewEvent, Timestamp};
use crate::log::Group;
use crate::topic::TopicName;

/// The kinds of questions that each broker answers as the leader of a fleet: run maintenance; tell
/// the last sequence of a topic.
const MAINTAIN: &str = "maintain";
#[cfg(feature = "server")]
const STORED_THROUGH: &str = "stored_through";

impl Broker {
    /// Waits until the broker stores nothing more: it has failed, or it is closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    #[cfg(feature = "fleet")]
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.0.failure.happened() => {}
            () = self.0.closing.ended() => {}
        }
    }

    /// Writes a group that the fleet's leader has decided, and makes it visible as the leader did.
    /// Call it for one group after the other, in the order of the stream: each when the one before
    /// it is answered.
    ///
    /// # Errors
    ///
    /// - [`Error::NotWritten`]: this node leads. Or, as [`Error::DiskFull`] and [`Error::Damaged`],
    ///   the log refused the group. Nothing was written.
    /// - [`Error::DamagedLog`]: the group does not follow what the log has; nothing was written.
    /// - [`Error::OutcomeUnknown`], [`Error::ReadOnly`]: as for a publish.
    ///
    /// # Cancel safety
    ///
    /// The group may be written all the same.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "a fleet's node calls it"))]
    pub(crate) async fn apply(&self, group: Group) -> Result<()> {
        let group = Box::new(group);
        self.0.ask(|reply| Queued::Apply { group, reply }).await?
    }

    /// Leads from now on, or follows. What was handed in before is decided by whoever led then, or
    /// refused.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`], [`Error::ReadOnly`].
    ///
    /// # Cancel safety
    ///
    /// The leadership may change all the same.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "a fleet's node calls it"))]
    pub(crate) async fn lead(&self, leadership: Leadership) -> Result<()> {
        self.0.ask(|reply| Queued::Lead { leadership, reply }).await
    }

    /// Whether this broker decides what is written: it is alone, or leads its fleet.
    pub(crate) fn leads(&self) -> bool {
        !self.0.leadership.follows()
    }

    /// Whether this broker is alone: a node of a fleet, also one that leads, is not.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.leadership.is_alone()
    }

    /// Returns the term in which this broker leads; `None` if another node decides.
    pub(crate) fn lead_term(&self) -> Option<LeadTerm> {
        self.0.leadership.term()
    }

    /// Notes that one of the broker's own topics has records that cannot be read, and why; `None`
    /// if all can be read.
    pub(crate) fn note_unread(&self, topic: &TopicName, problem: Option<String>) {
        self.0.unread.note(topic, problem);
    }

    /// Returns the broker's own topics with records that cannot be read, each with the problem.
    pub(crate) fn unread_topics(&self) -> Vec<(TopicName, String)> {
        self.0.unread.list()
    }

    /// Returns the leadership, whose changes can be waited for.
    pub(crate) fn leadership(&self) -> LeadershipWatch {
        self.0.leadership.watch()
    }

    /// Has `answerer` answer the questions of a kind that other nodes of the fleet ask this one
    /// while it leads.
    pub(crate) fn answer_questions(&self, kind: &'static str, answerer: Answerer) {
        self.0.questions.set_answerer(kind, AnsweredBy::Leader, answerer);
    }

    /// Has `answerer` answer the questions of a kind that other nodes of the fleet ask this one
    /// about itself.
    #[cfg(feature = "fleet")]
    pub(crate) fn answer_for_node(&self, kind: &'static str, answerer: Answerer) {
        self.0.questions.set_answerer(kind, AnsweredBy::EachNode, answerer);
    }

    /// Answers a question of another node.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`]: this node does not lead, and the question is for the one that does.
    /// [`Error::Invalid`]: nobody answers questions of this kind. As the answerer.
    ///
    /// # Cancel safety
    ///
    /// As the answerer.
    #[cfg(feature = "fleet")]
    pub(crate) async fn answer_question(&self, kind: &str, question: Bytes) -> Result<Bytes> {
        if !self.leads() && !self.0.questions.are_for_each_node(kind) {
            return Err(Error::NotLeading);
        }
        match kind {
            MAINTAIN => self.maintain_for_node(&question).await,
            STORED_THROUGH => self.stored_for_node(&question),
            kind => self.0.questions.answer(kind, question).await,
        }
    }

    /// Asks the node that leads a question of a kind. If that is this one, it answers itself.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`]: nobody leads for now, or not any more; nothing was done.
    /// [`Error::LeaderLost`]: the leader was lost meanwhile. As the answerer.
    ///
    /// # Cancel safety
    ///
    /// What was asked for may be done all the same.
    pub(crate) async fn ask_leader(&self, kind: &'static str, question: Bytes) -> Result<Bytes> {
        match self.leads() {
            true => self.0.questions.answer(kind, question).await,
            false => self.0.questions.ask_leader(kind, question).await,
        }
    }

    /// Has the node that leads be asked with `asker`, if it is another one.
    #[cfg(feature = "fleet")]
    pub(crate) fn ask_leader_with(&self, asker: LeaderAsker) {
        self.0.questions.set_leader(asker);
    }

    /// Has ephemeral events that are published here handed on to the other nodes of the fleet. Only
    /// the first call counts.
    #[cfg(feature = "fleet")]
    pub(crate) fn relay_ephemeral(&self, relay: Box<dyn EphemeralRelay>) {
        let _is_the_first = self.0.relay.set(relay);
    }

    /// Gives the followers of `topic` an ephemeral event that was published at another node.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: no topic may have this name.
    #[cfg(feature = "fleet")]
    pub(crate) fn deliver_relayed(
        &self,
        topic: &TopicName,
        time: Timestamp,
        event: NewEvent,
    ) -> Result<()> {
        let topic = self.0.topics.open_briefly(topic)?;
        self.0.deliver_ephemeral_of(&topic, time, event);
        Ok(())
    }

    /// Has `relay` hear which members are present here, for the other nodes of the fleet. Only the
    /// first call counts.
    #[cfg(feature = "fleet")]
    pub(crate) fn relay_members(&self, relay: Box<dyn MemberRelay>) {
        let _is_the_first = self.0.members.set(relay);
    }

    /// Returns a member of `topic` with its subscriptions at this node, if it has some.
    #[cfg(feature = "fleet")]
    pub(crate) fn member_here(&self, topic: &TopicName, id: &str) -> Option<Present> {
        self.0.topics.known(topic)?.members.here(id)
    }

    /// Makes a member present in `topic` as long as the returned value lives, with what it has at
    /// another node.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: nothing is changed.
    #[cfg(feature = "fleet")]
    pub(crate) fn member_elsewhere(
        &self,
        topic: &TopicName,
        told: Present,
    ) -> Result<MemberElsewhere> {
        MemberElsewhere::join(self.0.clone(), topic, told)
    }

    /// Stores the events of a publish that a caller of another node has handed in there, as
    /// [`Self::submit_all_in_order`] does, and waits for room in the queue without a bound.
    ///
    /// # Errors
    ///
    /// As [`Self::submit_all_in_order`]. The publish ends with [`Error::NotLeading`] if this node
    /// does not lead: it is not handed on once more.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::submit_in_order`].
    #[cfg(feature = "fleet")]
    pub(crate) async fn submit_forwarded(
        &self,
        appends: Vec<ForwardedAppend>,
        order: &InOrder,
    ) -> Result<PendingAll> {
        let turn = order.next();
        let memory_bytes = appends.iter().map(|append| append.records.size_bytes()).sum();
        let named = appends.into_iter().map(|append| {
            let ForwardedAppend { topic, expected_sequence, records } = append;
            (topic, Append { records, expected_sequence })
        });
        let asked_by = AskedBy::Node;
        self.0.admit()?;
        let named = named.collect();
        let submitted = hand_in_records(&self.0, named, memory_bytes, turn.clone(), asked_by).await;
        submitted.map(PendingAll).inspect_err(|_refused| turn.fail())
    }

    /// Changes a topic as a caller of another node wants it. The space of a deleted one is freed
    /// after that, in the background.
    ///
    /// # Errors
    ///
    /// As [`Self::set_topic`] and [`Self::delete_topic`]; [`Error::NotLeading`].
    ///
    /// # Cancel safety
    ///
    /// The topic may be changed all the same.
    #[cfg(feature = "fleet")]
    pub(crate) async fn change_forwarded(&self, name: &TopicName, change: Change) -> Result<()> {
        self.0.admit()?;
        let (topic, asked_by) = (self.0.topics.open(name)?, AskedBy::Node);
        let queued = |reply| Queued::Change(QueuedChange { topic, change, asked_by, reply });
        self.0.ask(queued).await?
    }

    /// Purges events as a caller of another node wants it.
    ///
    /// # Errors
    ///
    /// As [`Self::purge`]; [`Error::NotLeading`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::purge`].
    #[cfg(feature = "fleet")]
    pub(crate) async fn purge_forwarded(&self, name: &TopicName, earliest: Sequence) -> Result<()> {
        self.purge_for(name, earliest, AskedBy::Node).await
    }

    /// Returns the last sequence of a topic that is stored in the whole fleet, whatever this node
    /// has applied; 0 if there is no such topic.
    ///
    /// # Errors
    ///
    /// As [`Self::ask_leader`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    #[cfg(feature = "server")]
    pub(crate) async fn stored_through(&self, topic: &TopicName) -> Result<u64> {
        if self.leads() {
            return Ok(self.last_sequence(topic));
        }
        let question = serde_json::to_vec(topic).map_err(|error| unreadable(&error))?;
        let answer = self.0.questions.ask_leader(STORED_THROUGH, question.into()).await?;
        serde_json::from_slice(&answer).map_err(|error| unreadable(&error))
    }

    #[cfg(feature = "server")]
    fn last_sequence(&self, topic: &TopicName) -> u64 {
        self.extent(topic).map_or(0, |extent| extent.tail.previous().get())
    }

    /// Answers another node what [`Self::stored_through`] asks for.
    #[cfg(feature = "fleet")]
    fn stored_for_node(&self, question: &[u8]) -> Result<Bytes> {
        let topic = serde_json::from_slice(question).map_err(|error| unreadable(&error))?;
        Ok(self.last_sequence(&topic).to_string().into())
    }

    /// Has the node that leads run maintenance.
    pub(super) async fn maintain_at_leader(
        &self,
        topic: Option<&TopicName>,
    ) -> Result<MaintenanceReport> {
        let question = serde_json::to_vec(&topic).map_err(|error| unreadable(&error))?;
        let answer = self.0.questions.ask_leader(MAINTAIN, question.into()).await?;
        let numbers: Vec<u64> =
            serde_json::from_slice(&answer).map_err(|error| unreadable(&error))?;
        Ok(MaintenanceReport::from_numbers(&numbers))
    }

    /// Runs maintenance as another node asks for it.
    #[cfg(feature = "fleet")]
    async fn maintain_for_node(&self, question: &[u8]) -> Result<Bytes> {
        let topic: Option<TopicName> =
            serde_json::from_slice(question).map_err(|error| unreadable(&error))?;
        let report = self.maintain(topic.as_ref()).await?;
        let answer = serde_json::to_vec(&report.to_numbers());
        answer.map(Bytes::from).map_err(|error| unreadable(&error))
    }

    /// Begins a backup of everything for another node of the fleet. It has the place in the stream
    /// from which that node goes on, and cannot be restored as a log of its own.
    ///
    /// # Errors
    ///
    /// As [`Self::backup`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::backup`].
    #[cfg(any(test, feature = "fleet"))]
    pub(crate) async fn backup_for_node(&self) -> Result<Backup> {
        backup::start(self.0.clone(), None, BackupTaker::Node).await
    }
}

/// Returns the error for a message of another node that cannot be read.
fn unreadable(error: &serde_json::Error) -> Error {
    Error::invalid("message", format!("of another node cannot be read: {error}"))
}
