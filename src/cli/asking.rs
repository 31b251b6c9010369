//! Requests of client commands over HTTP whose answers are JSON.

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use leftoff::client::ClientChannel;
use serde_json::Value;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::client::ServerArgs;
use super::failure::{CliError, CliResult, ExitReason};

/// The largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 16 << 20;

impl ServerArgs {
    /// Returns a connection to the server.
    pub(super) async fn channel(&self) -> CliResult<ClientChannel> {
        let channel = self.client().await?.channel().await;
        channel.map_err(|error| self.in_words(error))
    }
}

/// Asks for the JSON at a path.
///
/// # Errors
///
/// The server cannot be reached, refuses the request, or answers something else.
pub(super) async fn get_json(channel: &ClientChannel, path: &str) -> CliResult<Value> {
    let failed = |reason, problem: String| Err(CliError::new(reason, problem));
    let request = match Request::get(path).body(Body::empty()) {
        Ok(request) => request,
        Err(error) => return failed(ExitReason::Other, error.to_string()),
    };
    let answer = match channel.clone().oneshot(request).await {
        Ok(answer) => answer,
        Err(error) => return failed(ExitReason::Unreachable, error.to_string()),
    };
    let status = answer.status();
    let body = match Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await {
        Ok(body) => body,
        Err(error) => return failed(ExitReason::Unreachable, error.to_string()),
    };
    let told: Option<Value> = serde_json::from_slice(&body.to_bytes()).ok();
    match (status, told) {
        (StatusCode::OK, Some(told)) if told.is_object() => Ok(told),
        (status, told) => {
            let detail = told.as_ref().and_then(|it| it["detail"].as_str());
            let path = path.split('?').next().unwrap_or(path);
            let reason = match status.is_client_error() {
                true => ExitReason::Refused,
                false => ExitReason::Other,
            };
            failed(
                reason,
                format!(
                    "the server answers {status} to GET {path}: {}",
                    detail.unwrap_or("it may be no broker, or its address for gRPC")
                ),
            )
        }
    }
}
