//! Why a client's call failed, divided by what the caller can do.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a client's call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A setting of the client is wrong. Correct it; nothing was sent.
    #[error("{field} {problem}")]
    Setting {
        /// The field of [`ClientConfig`](super::ClientConfig).
        field: &'static str,
        /// The value, and the rule that it breaks.
        problem: String,
    },
    /// There is no usable credential. Correct its source; nothing was sent.
    #[error("the credential: {0}")]
    Credential(String),
    /// The broker's certificate is not trusted. Name the certificate to trust; nothing was sent.
    #[error("{server} is not trusted: {problem}")]
    Distrusted {
        /// The broker's address.
        server: String,
        /// The rule that the certificate breaks.
        problem: String,
    },
    /// No connection was made; nothing was sent. Try again later.
    #[error("cannot reach {server}: {problem}")]
    Unreachable {
        /// The broker's address.
        server: String,
        /// The reason.
        problem: String,
    },
    /// The broker refused the call, or the connection broke during it. The status says which: its
    /// code, its message and the details of `google.rpc`.
    #[error("{}", in_words(.0))]
    Status(Box<Status>),
    /// The broker ended the stream. Try again.
    #[error("the server ended the stream")]
    Ended,
    /// An earlier batch of the same publisher was refused, and nothing after it is stored. Go on
    /// with a new publisher.
    #[error("an earlier batch of the same publisher was refused, and nothing after it is stored")]
    NotStored,
    /// The publisher has ended without an answer: it gave up, or its runtime was stopped. The
    /// events may be stored or not.
    #[error("the publisher has ended")]
    Closed,
    /// The broker sent something that this client cannot read. Use a newer client.
    #[error("the server sent {0}")]
    Unreadable(String),
}

impl ClientError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Ended => true,
            Self::Status(status) => matches!(
                status.code(),
                Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::Unknown
                    | Code::Internal
                    | Code::Cancelled
                    | Code::DeadlineExceeded
            ),
            _ => false,
        }
    }

    /// Whether events of a failed publish may be stored all the same.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Ended | Self::Closed | Self::Unreadable(_) => true,
            Self::Status(status) => {
                let codes = [Code::Unknown, Code::DeadlineExceeded, Code::Cancelled];
                // A status with a cause was made here: the connection broke.
                codes.contains(&status.code()) || std::error::Error::source(&**status).is_some()
            }
            _ => false,
        }
    }

    /// Whether the broker wants another credential.
    pub(super) fn is_of_credential(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::Unauthenticated)
    }

    /// Whether the connection is in order: the broker asks to come back later.
    pub(super) fn is_of_load(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::ResourceExhausted)
    }

    /// Returns the time after which the broker wants to be asked again, if it said so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let Self::Status(status) = self else { return None };
        status.get_details_retry_info()?.retry_delay
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn in_words(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(cause) => format!("the connection to the server broke: {}", root_cause(cause)),
        None if status.code() == Code::Unimplemented => {
            format!("{} (is gRPC at another address? see --grpc-listen)", status.message())
        }
        None => status.message().to_owned(),
    }
}

/// Returns the last cause of an error: the causes above it name layers of libraries, and repeat it.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}
