//! The calls by which the other nodes of a fleet use this broker, and by which it shows what they
//! have.

use bytes::Bytes;

use super::{MAINTAIN, STORED_THROUGH, unreadable};
use crate::broker::Broker;
use crate::broker::backup::{self, Backup, BackupTaker};
use crate::broker::command::{Append, Change};
use crate::broker::ephemeral::EphemeralRelay;
use crate::broker::forward_queue::ForwardedAppend;
use crate::broker::handing_in::hand_in_records;
use crate::broker::presence::MemberElsewhere;
use crate::broker::publish::{InOrder, PendingAll};
use crate::broker::questions::{AnsweredBy, Answerer, LeaderAsker};
use crate::broker::queue::{AskedBy, Queued, QueuedChange};
use crate::broker::reading_through::{ReadStep, ReadThrough, damage_at};
use crate::broker::topic::members::{MemberRelay, Present};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::topic::TopicName;

impl Broker {
    /// Waits until the broker stores nothing more: it has failed, or it is closed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    pub(crate) async fn ended(&self) {
        tokio::select! {
            () = self.0.failure.happened() => {}
            () = self.0.closing.ended() => {}
        }
    }

    /// Has `answerer` answer the questions of a kind that other nodes of the fleet ask this one
    /// about itself.
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

    /// Has the node that leads be asked with `asker`, if it is another one.
    pub(crate) fn ask_leader_with(&self, asker: LeaderAsker) {
        self.0.questions.set_leader(asker);
    }

    /// Has ephemeral events that are published here handed on to the other nodes of the fleet. Only
    /// the first call counts.
    pub(crate) fn relay_ephemeral(&self, relay: Box<dyn EphemeralRelay>) {
        let _is_the_first = self.0.relay.set(relay);
    }

    /// Gives the followers of `topic` an ephemeral event that was published at another node.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: no topic may have this name.
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
    pub(crate) fn relay_members(&self, relay: Box<dyn MemberRelay>) {
        let _is_the_first = self.0.members.set(relay);
    }

    /// Returns a member of `topic` with its subscriptions at this node, if it has some.
    pub(crate) fn member_here(&self, topic: &TopicName, id: &str) -> Option<Present> {
        self.0.topics.known(topic)?.members.here(id)
    }

    /// Makes a member present in `topic` as long as the returned value lives, with what it has at
    /// another node.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: nothing is changed.
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
    pub(crate) async fn purge_forwarded(&self, name: &TopicName, earliest: Sequence) -> Result<()> {
        self.purge_for(name, earliest, AskedBy::Node).await
    }

    /// Answers another node what [`Self::stored_through`] asks for.
    fn stored_for_node(&self, question: &[u8]) -> Result<Bytes> {
        let topic = serde_json::from_slice(question).map_err(|error| unreadable(&error))?;
        Ok(self.last_sequence(&topic).to_string().into())
    }

    /// Runs maintenance as another node asks for it.
    async fn maintain_for_node(&self, question: &[u8]) -> Result<Bytes> {
        let topic: Option<TopicName> =
            serde_json::from_slice(question).map_err(|error| unreadable(&error))?;
        let report = self.maintain(topic.as_ref()).await?;
        let answer = serde_json::to_vec(&report.to_numbers());
        answer.map(Bytes::from).map_err(|error| unreadable(&error))
    }

    /// Reads the next blocks of all, to find those that are damaged: at least one, then as many as
    /// fit `max_bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`], [`Error::DamagedLog`], [`Error::ShuttingDown`]. The next step reads
    /// the same again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the next step reads the same again.
    pub(crate) async fn read_step(
        &self,
        through: &mut ReadThrough,
        max_bytes: usize,
    ) -> Result<ReadStep> {
        through.step(&self.0, max_bytes).await
    }

    /// Returns the damage at a place where a reader has met some, if it is really there.
    ///
    /// # Errors
    ///
    /// As [`Self::read_step`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub(crate) async fn damage_at(
        &self,
        topic: &TopicName,
        first: Sequence,
    ) -> Result<Option<Error>> {
        damage_at(&self.0, topic, first).await
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
    pub(crate) async fn backup_for_node(&self) -> Result<Backup> {
        backup::start(self.0.clone(), None, BackupTaker::Node).await
    }
}
