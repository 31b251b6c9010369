//! Requests that are refused before they are served, in the form that their client reads.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};

use super::{error_form, sse, status};
use crate::edge::http::accept::{Accepted, accepted};
use crate::error::Error;

/// The form of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalForm {
    Grpc,
    /// An event stream, with status 200: a browser gives up for good on any other status.
    Stream,
    Problem,
}

impl RefusalForm {
    /// Returns the form for a request. Only resources with streams get a stream: a publish that is
    /// refused with 200 would be taken for stored.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        if error_form::is_grpc(request.headers()) {
            return Self::Grpc;
        }
        let path = request.uri().path();
        let is_followed = match (request.method(), path) {
            (&Method::GET | &Method::POST, "/v1/events") => true,
            (&Method::GET, path) => {
                let topic = path.strip_prefix("/v1/topics/");
                let topic = topic.and_then(|rest| rest.strip_suffix("/events"));
                topic.is_some_and(|topic| !topic.is_empty() && !topic.contains('/'))
            }
            _ => false,
        };
        match accepted(request.headers()) {
            Some(Accepted::Stream) if is_followed => Self::Stream,
            _ => Self::Problem,
        }
    }

    /// Returns the refusal. A stream is used only for errors that waiting may solve.
    pub(crate) fn answer(self, error: Error) -> Response {
        let in_a_stream = if self == Self::Stream { sse::refused(&error) } else { None };
        in_a_stream.unwrap_or_else(|| match self {
            Self::Grpc => error_form::of_call(error),
            Self::Stream | Self::Problem => error.into_response(),
        })
    }

    /// Returns a temporary refusal for a reason that no [`Error`] fits.
    pub(crate) fn answer_for(self, after: Duration, status: StatusCode, detail: &str) -> Response {
        let mut response = match self {
            Self::Stream => sse::refused_for(after, &status::plain_problem_json(status, detail)),
            Self::Grpc | Self::Problem => status::plain_problem(status, detail),
        };
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
        response
    }
}

/// Answers requests with an unknown path.
pub(crate) async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    error_form::of_unknown_call(&uri, &headers).unwrap_or_else(|| {
        let detail = format!("there is nothing at {}", uri.path());
        status::plain_problem(StatusCode::NOT_FOUND, &detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(method: &str, path: &str, accept: &str) -> RefusalForm {
        let request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        RefusalForm::of(&request.body(()).expect("a request"))
    }

    #[test]
    fn a_stream_is_the_answer_of_nothing_but_what_is_a_stream() {
        let (events, stream) = ("/v1/topics/a%2Fb/events", "text/event-stream");
        let cases = [
            ("GET", events, stream, RefusalForm::Stream),
            ("GET", events, "application/json;q=0.5, Text/Event-Stream", RefusalForm::Stream),
            ("GET", events, "text/event-stream;q=0.5, application/json", RefusalForm::Problem),
            ("GET", events, "text/event-stream;q=0", RefusalForm::Problem),
            ("GET", "/v1/events", stream, RefusalForm::Stream),
            ("POST", "/v1/events", stream, RefusalForm::Stream),
            ("POST", events, stream, RefusalForm::Problem),
            ("DELETE", events, stream, RefusalForm::Problem),
            ("GET", "/v1/topics/events", stream, RefusalForm::Problem),
            ("GET", "/v1/topics/a", stream, RefusalForm::Problem),
            ("PUT", "/v1/topics/a", stream, RefusalForm::Problem),
            ("POST", "/v1/maintenance", stream, RefusalForm::Problem),
        ];
        for (method, path, accept, expected) in cases {
            assert_eq!(form(method, path, accept), expected, "{method} {path} {accept}");
        }
        let no_room = || Error::NoRoom { needed_bytes: 2, limit_bytes: 1 };
        assert_eq!(RefusalForm::Stream.answer(no_room()).status(), StatusCode::OK);
        assert_eq!(
            RefusalForm::Problem.answer(no_room()).status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        let lasting = RefusalForm::Stream.answer(Error::invalid("from", "is odd"));
        assert_eq!(lasting.status(), StatusCode::BAD_REQUEST, "waiting does not help");
    }
}
