//! What a node of a fleet asks of the one that leads, about consumers: the requests, the answers,
//! and the way there.
//!
//! Both are JSON. Fields that a node does not know are passed over, so nodes of neighbouring
//! versions understand each other.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::act_form::ActForm;
use super::deciding::{Act, Changeable};
use super::id::ConsumerId;
use super::keeper_command::KeeperCommand;
use super::name::ConsumerName;
use super::work::WorkRequest;
use crate::broker::{Answering, Broker};
use crate::error::{Error, Result};
use crate::told_error::ToldError;
use crate::topic::TopicPattern;

/// The longest wait for a leader that takes a request, and the longest pause between two tries.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// The way to the node that leads. Cheap to clone.
#[derive(Clone)]
pub(super) struct ToLeader(Arc<dyn Fn(Bytes) -> Answering + Send + Sync>);

impl fmt::Debug for ToLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToLeader").finish_non_exhaustive()
    }
}

impl ToLeader {
    /// Returns the way that `ask` goes. It answers with [`Error::NotLeading`] if the request was
    /// surely not dealt with.
    pub(super) fn new(ask: impl Fn(Bytes) -> Answering + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Asks the leader once.
    pub(super) fn ask(&self, request: Bytes) -> Answering {
        (self.0)(request)
    }

    /// Asks the leader; if none takes the request, again, for as long as `broker` does not lead
    /// itself, and not too long.
    pub(super) fn ask_patiently(&self, broker: &Broker, request: Bytes) -> Answering {
        let (way, broker, since) = (self.clone(), broker.clone(), Instant::now());
        Box::pin(async move {
            loop {
                if broker.leads() {
                    return Err(Error::NotLeading); // It would be asked itself.
                }
                match way.ask(request.clone()).await {
                    Err(Error::NotLeading) if since.elapsed() < MAX_WAIT => {
                        let pause = rand::rng().random_range(0.1..1.0);
                        tokio::time::sleep(MAX_PAUSE.mul_f64(pause)).await;
                    }
                    outcome => return outcome,
                }
            }
        })
    }
}

/// A request to the leader.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LeaderRequest {
    /// Decide on these commands in their order.
    Change(Vec<ChangeForm>),
    /// Give away work of a consumer, or take it back.
    Work(IdForm, WorkRequest),
}

/// The identity of a consumer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct IdForm {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    owner: String,
    selection: TopicPattern,
    name: ConsumerName,
}

/// A command.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChangeForm {
    id: IdForm,
    act: ActForm,
    /// Whether the caller may not change consumers that share their events.
    #[serde(default)]
    unshared: bool,
}

/// The answers to commands.
#[derive(Debug, Serialize, Deserialize)]
struct ChangesForm {
    reached: u64,
    answers: Vec<ChangedForm>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangedForm {
    Changed(bool),
    Refused(ToldError),
}

/// The answers to the commands of one request.
#[derive(Debug)]
pub(super) struct ChangeAnswers {
    /// The sequence of the last record on which the answers rest.
    pub(super) reached: u64,
    /// Whether each command changed something.
    pub(super) answers: Vec<Result<bool>>,
}

impl From<&ConsumerId> for IdForm {
    fn from(id: &ConsumerId) -> Self {
        let ConsumerId { owner, selection, name } = id.clone();
        Self { owner, selection, name }
    }
}

impl From<IdForm> for ConsumerId {
    fn from(form: IdForm) -> Self {
        let IdForm { owner, selection, name } = form;
        Self { owner, selection, name }
    }
}

impl ChangeForm {
    /// Returns the consumer, what is asked for, and what the caller may change.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a text in it is none.
    pub(super) fn parts(self) -> Result<(ConsumerId, Act, Changeable)> {
        let changeable = if self.unshared { Changeable::Unshared } else { Changeable::All };
        Ok((self.id.into(), self.act.try_into()?, changeable))
    }
}

impl ChangeAnswers {
    /// Returns the bytes of the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(super) fn to_bytes(&self) -> Result<Bytes> {
        let form = |answer: &Result<bool>| match answer {
            Ok(changed) => ChangedForm::Changed(*changed),
            Err(error) => ChangedForm::Refused(error.into()),
        };
        let answers = self.answers.iter().map(form).collect();
        to_json(&ChangesForm { reached: self.reached, answers })
    }
}

/// Returns the request for the leader to decide on these commands.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn change_request(commands: &[KeeperCommand]) -> Result<Bytes> {
    let form = |command: &KeeperCommand| {
        let (id, act) = ((&command.id).into(), (&command.act).into());
        ChangeForm { id, act, unshared: command.changeable == Changeable::Unshared }
    };
    to_json(&LeaderRequest::Change(commands.iter().map(form).collect()))
}

/// Returns the answers to `count` commands.
///
/// # Errors
///
/// [`Error::OutcomeUnknown`]: the bytes are no such answers.
pub(super) fn changes_of(answer: &[u8], count: usize) -> Result<ChangeAnswers> {
    let form: ChangesForm = from_answer(answer)?;
    if form.answers.len() != count {
        let problem = format!("the leader gave {} answers to {count}", form.answers.len());
        return Err(Error::OutcomeUnknown(std::io::Error::other(problem).into()));
    }
    let read = |form| match form {
        ChangedForm::Changed(changed) => Ok(changed),
        ChangedForm::Refused(told) => Err(told.into()),
    };
    Ok(ChangeAnswers {
        reached: form.reached,
        answers: form.answers.into_iter().map(read).collect(),
    })
}

/// Returns the request that another node has sent.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn request_of(bytes: &[u8]) -> Result<LeaderRequest> {
    let invalid = |problem: serde_json::Error| Error::invalid("request", problem.to_string());
    serde_json::from_slice(bytes).map_err(invalid)
}

/// Returns the bytes of a request or an answer.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn to_json(form: &impl Serialize) -> Result<Bytes> {
    let invalid = |problem: serde_json::Error| Error::invalid("request", problem.to_string());
    serde_json::to_vec(form).map(Bytes::from).map_err(invalid)
}

/// Returns what an answer of the leader says.
///
/// # Errors
///
/// [`Error::OutcomeUnknown`]: it says nothing that this version can read.
pub(super) fn from_answer<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T> {
    serde_json::from_slice(answer).map_err(|problem| {
        let problem = format!("the leader's answer cannot be read: {problem}");
        Error::OutcomeUnknown(std::io::Error::other(problem).into())
    })
}
