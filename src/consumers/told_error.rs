//! Errors as the leader tells them to other nodes, so that a caller is told the same on each node.

use serde::{Deserialize, Serialize};

use crate::error::{Error, with_causes};
use crate::topic::TopicName;

/// The form of an error between nodes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToldError {
    Invalid {
        field: String,
        problem: String,
    },
    OverLimit {
        name: String,
        value: u64,
        limit: u64,
    },
    UnknownTopic(TopicName),
    UnknownConsumer(String),
    UnexpectedCheckpoint {
        consumer: Box<str>,
        expected: Option<Box<str>>,
        actual: Option<Box<str>>,
    },
    Busy {
        waited_ms: u64,
    },
    Crowded {
        what: String,
        limit: u64,
    },
    Full {
        what: String,
        limit: u64,
    },
    Denied {
        reason: String,
    },
    /// The node leads no longer, or is stopping: nothing was stored.
    NotLeading,
    DiskFull {
        free_bytes: u64,
        needed_bytes: u64,
    },
    /// Any other error after which nothing was stored, in words.
    NotWritten(String),
    /// Any other error after which something may be stored, in words.
    OutcomeUnknown(String),
}

impl From<&Error> for ToldError {
    fn from(error: &Error) -> Self {
        match error.clone() {
            Error::Invalid { field, problem } => Self::Invalid { field, problem },
            Error::OverLimit { name, value, limit } => Self::OverLimit { name, value, limit },
            Error::UnknownTopic(topic) => Self::UnknownTopic(topic),
            Error::UnknownConsumer(shown) => Self::UnknownConsumer(shown),
            Error::UnexpectedCheckpoint { consumer, expected, actual } => {
                Self::UnexpectedCheckpoint { consumer, expected, actual }
            }
            Error::Busy { waited_ms } => Self::Busy { waited_ms },
            Error::Crowded { what, limit } => Self::Crowded { what: what.into(), limit },
            Error::Full { what, limit } => Self::Full { what: what.into(), limit },
            Error::Denied { reason } => Self::Denied { reason },
            Error::NotLeading | Error::ShuttingDown => Self::NotLeading,
            Error::DiskFull { free_bytes, needed_bytes } => {
                Self::DiskFull { free_bytes, needed_bytes }
            }
            error if error.outcome_unknown() => Self::OutcomeUnknown(with_causes(&error)),
            error => Self::NotWritten(with_causes(&error)),
        }
    }
}

impl From<ToldError> for Error {
    fn from(told: ToldError) -> Self {
        let cause = |problem: String| std::io::Error::other(problem).into();
        match told {
            ToldError::Invalid { field, problem } => Self::Invalid { field, problem },
            ToldError::OverLimit { name, value, limit } => Self::OverLimit { name, value, limit },
            ToldError::UnknownTopic(topic) => Self::UnknownTopic(topic),
            ToldError::UnknownConsumer(shown) => Self::UnknownConsumer(shown),
            ToldError::UnexpectedCheckpoint { consumer, expected, actual } => {
                Self::UnexpectedCheckpoint { consumer, expected, actual }
            }
            ToldError::Busy { waited_ms } => Self::Busy { waited_ms },
            ToldError::Crowded { what, limit } => Self::Crowded { what: what.into(), limit },
            ToldError::Full { what, limit } => Self::Full { what: what.into(), limit },
            ToldError::Denied { reason } => Self::Denied { reason },
            ToldError::NotLeading => Self::NotLeading,
            ToldError::DiskFull { free_bytes, needed_bytes } => {
                Self::DiskFull { free_bytes, needed_bytes }
            }
            ToldError::NotWritten(problem) => Self::NotWritten(cause(problem)),
            ToldError::OutcomeUnknown(problem) => Self::OutcomeUnknown(cause(problem)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a caller on another node is told what one on the leader is told.
    #[test]
    fn an_error_reads_back_as_it_was_told() {
        let (consumer, expected, actual) = ("c".into(), Some("4".into()), None);
        let errors = [
            Error::invalid("cursor", "is ahead"),
            Error::over("bytes of a consumer's marks", 9, 8),
            Error::UnknownTopic("a".parse().unwrap()),
            Error::UnknownConsumer("x".to_owned()),
            Error::UnexpectedCheckpoint { consumer, expected, actual },
            Error::Busy { waited_ms: 7 },
            Error::Denied { reason: "no".to_owned() },
            Error::NotLeading,
            Error::DiskFull { free_bytes: 1, needed_bytes: 2 },
            Error::full("consumers", 5),
            Error::crowded("events of this consumer", 6),
        ];
        let read_back = |error: &Error| {
            let text = serde_json::to_string(&ToldError::from(error)).unwrap();
            Error::from(serde_json::from_str::<ToldError>(&text).unwrap())
        };
        for error in errors {
            assert_eq!(format!("{:?}", read_back(&error)), format!("{error:?}"));
        }
        let cause = || std::io::Error::other("x").into();
        assert!(read_back(&Error::OutcomeUnknown(cause())).outcome_unknown());
        let told = [Error::NotWritten(cause()), Error::ReadOnly(cause()), Error::NoRuntime];
        for error in told {
            assert!(matches!(read_back(&error), Error::NotWritten(_)), "{error:?}");
        }
        assert!(matches!(read_back(&Error::ShuttingDown), Error::NotLeading));
    }
}
