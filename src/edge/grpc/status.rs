//! An error as a gRPC status, with the details of `google.rpc`. `edge/status.rs` chooses the codes.

use std::collections::HashMap;

use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::cursor::Cursor;
use crate::edge::status::{codes, numbers};
use crate::error::{Error, with_causes};

/// The domain in gRPC's ErrorInfo.
const DOMAIN: &str = "leftoff";

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        with(&error, None)
    }
}

/// Returns the status of a stream that ends with its caller's grant. The metadata of its
/// `ErrorInfo` has the cursor from which the client goes on with another credential, if there is
/// one.
pub(super) fn expired(error: &Error, told: Option<Cursor>) -> Status {
    with(error, told.map(|cursor| ("cursor".to_owned(), cursor.to_string())))
}

/// Returns an error with one more entry of the metadata.
fn with(error: &Error, more: Option<(String, String)>) -> Status {
    let codes = codes(error);
    let mut details = ErrorDetails::new();
    match error {
        Error::Invalid { field, problem } => {
            details.add_bad_request_violation(field, problem);
        }
        Error::OverLimit { name, value, limit } => {
            let problem = format!("{value} is over the limit of {limit}");
            details.add_bad_request_violation(name, problem);
        }
        Error::UnknownTopic(topic) | Error::TopicExists(topic) | Error::TopicDeleted(topic) => {
            details.set_resource_info("topic", topic.as_str(), "", error.to_string());
        }
        _ => {}
    }
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let metadata: HashMap<String, String> =
        numbers(error).into_iter().map(|(name, value)| (name, text(value))).chain(more).collect();
    details.set_error_info(codes.reason, DOMAIN, metadata);
    if codes.retry_after.is_some() {
        details.set_retry_info(codes.retry_after);
    }
    let code = Code::from_i32(codes.grpc as i32);
    Status::with_error_details(code, with_causes(error), details)
}

/// Returns the `google.rpc` details of an error.
pub(super) fn details(status: &Status) -> Vec<prost_types::Any> {
    let decoded = <tonic_types::Status as prost::Message>::decode(status.details());
    decoded.map(|status| status.details).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::header;

    use super::*;
    use crate::edge::status::problem_json;
    use crate::error::{Cause, RateLimit};
    use crate::topic::TopicName;

    #[test]
    fn an_error_means_the_same_on_both_protocols_and_says_when_to_come_back() {
        let topic = TopicName::new("a").expect("a name");
        let cause = Cause::from(std::io::Error::other("the cause"));
        let limit = RateLimit {
            rate: "bytes",
            per_second: 10,
            burst: 30,
            remaining: 4,
            retry_after_ms: 3_000,
        };
        let cases = [
            (Error::invalid("id", "is odd"), Code::InvalidArgument, 400, None),
            (Error::over("id bytes", 256, 255), Code::InvalidArgument, 413, None),
            (Error::UnknownTopic(topic), Code::NotFound, 404, None),
            (Error::Busy { waited_ms: 5 }, Code::ResourceExhausted, 429, Some(1)),
            (Error::RateLimited(limit), Code::ResourceExhausted, 429, Some(3)),
            (Error::ShuttingDown, Code::Unavailable, 503, Some(2)),
            (Error::NoRuntime, Code::Internal, 500, None),
            (Error::NotLeading, Code::Unavailable, 503, Some(1)),
            (Error::NoLeader(cause.clone()), Code::Unavailable, 503, Some(1)),
            (Error::NotCaughtUp { waited_ms: 5 }, Code::Unavailable, 503, Some(1)),
            (Error::LeaderLost(cause.clone()), Code::Unknown, 504, None),
            (Error::NotWritten(cause.clone()), Code::Unavailable, 503, Some(2)),
            (Error::OutcomeUnknown(cause.clone()), Code::Unknown, 500, None),
            (Error::ReadOnly(cause), Code::Unavailable, 503, Some(30)),
            (
                Error::DiskFull { free_bytes: 1, needed_bytes: 2 },
                Code::ResourceExhausted,
                507,
                Some(30),
            ),
        ];
        for (error, code, http, retry_seconds) in cases {
            let status = Status::from(error.clone());
            assert_eq!(status.code(), code, "{error}");
            let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(retry.map(|delay| delay.as_secs()), retry_seconds, "{error}");
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!(info.domain, DOMAIN);
            let response = error.clone().into_response();
            assert_eq!(response.status().as_u16(), http, "{error}");
            let header = response.headers().get(header::RETRY_AFTER);
            let header = header.map(|value| value.to_str().expect("a number").to_owned());
            assert_eq!(header, retry_seconds.map(|seconds| seconds.to_string()), "{error}");
            let detail = problem_json(&error)["detail"].clone();
            assert_eq!(detail, status.message(), "the same message on both");
        }
    }
}
