//! Errors as one node of a fleet tells them to another, so that a caller is told the same on every
//! node.
//!
//! Causes are told as texts. An error that no command has is told in words, with whether something
//! may be stored.

use serde::{Deserialize, Serialize};

use crate::error::{Cause, Error, with_causes};
use crate::topic_name::TopicName;

/// The form of an error between nodes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToldError {
    Invalid { field: String, problem: String },
    OverLimit { name: String, value: u64, limit: u64 },
    UnknownTopic(TopicName),
    TopicExists(TopicName),
    UnexpectedSequence { topic: TopicName, expected: u64, actual: u64 },
    UnknownConsumer(String),
    UnknownWebhook(String),
    UnexpectedCheckpoint { consumer: String, expected: Option<String>, actual: Option<String> },
    Busy { waited_ms: u64 },
    Crowded { what: String, limit: u64 },
    Full { what: String, limit: u64 },
    Denied { reason: String },
    AfterFailure,
    ShuttingDown,
    DeadlineExceeded { limit_ms: u64 },
    NotLeading,
    LeaderLost { cause: String },
    DiskFull { free_bytes: u64, needed_bytes: u64 },
    NotWritten { cause: String },
    OutcomeUnknown { cause: String },
    ReadOnly { cause: String },
    ReadFailed { cause: String },
    DamagedEnd(TopicName),
    DamagedLog { problem: String },
}

impl ToldError {
    fn of(error: &Error) -> Self {
        let told = |cause: &Cause| with_causes(&**cause);
        match error.clone() {
            Error::Invalid { field, problem } => Self::Invalid { field, problem },
            Error::OverLimit { name, value, limit } => Self::OverLimit { name, value, limit },
            Error::UnknownTopic(topic) => Self::UnknownTopic(topic),
            Error::TopicExists(topic) => Self::TopicExists(topic),
            Error::UnexpectedSequence { topic, expected, actual } => {
                Self::UnexpectedSequence { topic, expected, actual }
            }
            Error::UnknownConsumer(name) => Self::UnknownConsumer(name),
            Error::UnknownWebhook(name) => Self::UnknownWebhook(name),
            Error::UnexpectedCheckpoint { consumer, expected, actual } => {
                let [expected, actual] = [expected, actual].map(|text| text.map(String::from));
                Self::UnexpectedCheckpoint { consumer: consumer.into(), expected, actual }
            }
            Error::Busy { waited_ms } => Self::Busy { waited_ms },
            Error::Crowded { what, limit } => Self::Crowded { what: what.into_owned(), limit },
            Error::Full { what, limit } => Self::Full { what: what.into_owned(), limit },
            Error::Denied { reason } => Self::Denied { reason },
            Error::AfterFailure => Self::AfterFailure,
            Error::ShuttingDown => Self::ShuttingDown,
            Error::DeadlineExceeded { limit_ms } => Self::DeadlineExceeded { limit_ms },
            // The reason is for the callers of the node that has it.
            Error::NotLeading | Error::NoLeader(_) => Self::NotLeading,
            Error::LeaderLost(cause) => Self::LeaderLost { cause: told(&cause) },
            Error::DiskFull { free_bytes, needed_bytes } => {
                Self::DiskFull { free_bytes, needed_bytes }
            }
            Error::NotWritten(cause) => Self::NotWritten { cause: told(&cause) },
            Error::OutcomeUnknown(cause) => Self::OutcomeUnknown { cause: told(&cause) },
            Error::ReadOnly(cause) => Self::ReadOnly { cause: told(&cause) },
            Error::ReadFailed(cause) => Self::ReadFailed { cause: told(&cause) },
            Error::DamagedEnd(topic) => Self::DamagedEnd(topic),
            Error::DamagedLog { problem } => Self::DamagedLog { problem },
            error if error.outcome_unknown() => Self::OutcomeUnknown { cause: with_causes(&error) },
            error => Self::NotWritten { cause: with_causes(&error) },
        }
    }

    fn into_error(self) -> Error {
        let cause = |text: String| Cause::from(std::io::Error::other(text));
        match self {
            Self::Invalid { field, problem } => Error::Invalid { field, problem },
            Self::OverLimit { name, value, limit } => Error::OverLimit { name, value, limit },
            Self::UnknownTopic(topic) => Error::UnknownTopic(topic),
            Self::TopicExists(topic) => Error::TopicExists(topic),
            Self::UnexpectedSequence { topic, expected, actual } => {
                Error::UnexpectedSequence { topic, expected, actual }
            }
            Self::UnknownConsumer(name) => Error::UnknownConsumer(name),
            Self::UnknownWebhook(name) => Error::UnknownWebhook(name),
            Self::UnexpectedCheckpoint { consumer, expected, actual } => {
                let [expected, actual] = [expected, actual].map(|text| text.map(Into::into));
                Error::UnexpectedCheckpoint { consumer: consumer.into(), expected, actual }
            }
            Self::Busy { waited_ms } => Error::Busy { waited_ms },
            Self::Crowded { what, limit } => Error::Crowded { what: what.into(), limit },
            Self::Full { what, limit } => Error::Full { what: what.into(), limit },
            Self::Denied { reason } => Error::Denied { reason },
            Self::AfterFailure => Error::AfterFailure,
            Self::ShuttingDown => Error::ShuttingDown,
            Self::DeadlineExceeded { limit_ms } => Error::DeadlineExceeded { limit_ms },
            Self::NotLeading => Error::NotLeading,
            Self::LeaderLost { cause: text } => Error::LeaderLost(cause(text)),
            Self::DiskFull { free_bytes, needed_bytes } => {
                Error::DiskFull { free_bytes, needed_bytes }
            }
            Self::NotWritten { cause: text } => Error::NotWritten(cause(text)),
            Self::OutcomeUnknown { cause: text } => Error::OutcomeUnknown(cause(text)),
            Self::ReadOnly { cause: text } => Error::ReadOnly(cause(text)),
            Self::ReadFailed { cause: text } => Error::ReadFailed(cause(text)),
            Self::DamagedEnd(topic) => Error::DamagedEnd(topic),
            Self::DamagedLog { problem } => Error::DamagedLog { problem },
        }
    }
}

impl From<&Error> for ToldError {
    fn from(error: &Error) -> Self {
        Self::of(error)
    }
}

impl From<ToldError> for Error {
    fn from(told: ToldError) -> Self {
        told.into_error()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an error reads the same after its way between nodes, and says the same of what is
    /// stored; one of another version still says that.
    #[test]
    fn an_error_is_the_same_after_its_way() {
        let topic: TopicName = "orders".parse().unwrap();
        let cause = || Cause::from(std::io::Error::other("the stream is full"));
        let (expected, actual) = (Some("3".into()), None);
        for error in [
            Error::invalid("field", "is wrong"),
            Error::over("bytes", 2, 1),
            Error::UnknownTopic(topic.clone()),
            Error::TopicExists(topic.clone()),
            Error::UnexpectedSequence { topic: topic.clone(), expected: 1, actual: 2 },
            Error::UnknownConsumer("c".to_owned()),
            Error::UnknownWebhook("w".to_owned()),
            Error::UnexpectedCheckpoint { consumer: "c".into(), expected, actual },
            Error::Busy { waited_ms: 1 },
            Error::crowded("maintenance", 8),
            Error::full("consumers", 8),
            Error::Denied { reason: "no".to_owned() },
            Error::AfterFailure,
            Error::ShuttingDown,
            Error::DeadlineExceeded { limit_ms: 5 },
            Error::NotLeading,
            Error::LeaderLost(cause()),
            Error::DiskFull { free_bytes: 1, needed_bytes: 2 },
            Error::NotWritten(cause()),
            Error::OutcomeUnknown(cause()),
            Error::ReadOnly(cause()),
            Error::ReadFailed(cause()),
            Error::DamagedEnd(topic),
            Error::DamagedLog { problem: "here".to_owned() },
        ] {
            let told = serde_json::to_string(&ToldError::from(&error)).unwrap();
            let read = Error::from(serde_json::from_str::<ToldError>(&told).unwrap());
            assert_eq!(with_causes(&read), with_causes(&error));
            assert_eq!(
                std::mem::discriminant(&read),
                std::mem::discriminant(&error),
                "{read:?} {error:?}"
            );
        }
        // An error that a leader does not have for a command is told all the same.
        let other = Error::from(ToldError::from(&Error::NoRuntime));
        assert!(with_causes(&other).contains("tokio runtime"), "{other:?}");
    }
}
