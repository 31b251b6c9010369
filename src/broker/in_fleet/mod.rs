//! The broker as a node of a fleet: who decides, and what is asked of the node that does. A broker
//! alone leads always. `for_nodes.rs` has what other nodes ask of this one.

#[cfg(feature = "fleet")]
mod for_nodes;

use bytes::Bytes;

use super::Broker;
use super::leadership::{LeadTerm, Leadership, LeadershipWatch};
use super::questions::{AnsweredBy, Answerer};
use super::queue::Queued;
use super::report::MaintenanceReport;
use crate::error::{Error, Result};
use crate::log::Group;
use crate::topic::TopicName;

/// The kinds of questions that each broker answers as the leader of a fleet: run maintenance; tell
/// the last sequence of a topic.
const MAINTAIN: &str = "maintain";
#[cfg(feature = "server")]
const STORED_THROUGH: &str = "stored_through";

impl Broker {
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
}

/// Returns the error for a message of another node that cannot be read.
fn unreadable(error: &serde_json::Error) -> Error {
    Error::invalid("message", format!("of another node cannot be read: {error}"))
}
