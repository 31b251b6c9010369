//! What hooks are told of acts of administration and of refusals, for an audit.

use super::peer_address::PeerAddress;
use crate::error::Error;
use crate::topic::TopicName;

/// The kind of an act of administration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ActKind {
    /// A topic was created with settings, or given other ones.
    SetTopic,
    /// Some settings of a topic were changed.
    UpdateTopic,
    /// A topic was deleted.
    DeleteTopic,
    /// Events of a topic were purged.
    PurgeTopic,
    /// Maintenance was done on request.
    Maintain,
    /// A backup was begun.
    Backup,
    /// A webhook was created, or given other settings.
    SetWebhook,
    /// Some settings of a webhook were changed.
    UpdateWebhook,
    /// A webhook was deleted.
    DeleteWebhook,
    /// A webhook was paused.
    PauseWebhook,
    /// A webhook was resumed.
    ResumeWebhook,
    /// A webhook was given another key.
    RotateWebhook,
    /// A request was sent to the receiver of a webhook, to test it.
    TestWebhook,
}

impl ActKind {
    /// Returns the word for the kind, such as `topic.purge`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SetTopic => "topic.set",
            Self::UpdateTopic => "topic.update",
            Self::DeleteTopic => "topic.delete",
            Self::PurgeTopic => "topic.purge",
            Self::Maintain => "maintain",
            Self::Backup => "backup",
            Self::SetWebhook => "webhook.set",
            Self::UpdateWebhook => "webhook.update",
            Self::DeleteWebhook => "webhook.delete",
            Self::PauseWebhook => "webhook.pause",
            Self::ResumeWebhook => "webhook.resume",
            Self::RotateWebhook => "webhook.rotate",
            Self::TestWebhook => "webhook.test",
        }
    }
}

/// The outcome of an act of administration.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum ActOutcome<'a> {
    /// The act is done.
    Done,
    /// The act failed.
    Failed(&'a Error),
    /// The client went away, or its deadline passed: the act may have been done.
    GivenUp,
}

/// An act of administration that a caller was permitted to do.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AdminAct<'a> {
    /// The kind of the act.
    pub kind: ActKind,
    /// The topic; `None` for all of them, and for acts that are not about topics.
    pub topic: Option<&'a TopicName>,
    /// The name of the webhook; `None` for acts that are not about webhooks.
    pub webhook: Option<&'a str>,
    /// The address of the client; `None` in a server of the host's own without guards.
    pub address: Option<PeerAddress>,
    /// The outcome.
    pub outcome: ActOutcome<'a>,
}
