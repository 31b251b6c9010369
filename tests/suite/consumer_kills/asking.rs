//! A client that outlives the broker: its requests are answered, or the broker is gone.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::common::{soon, to};

/// A client over HTTP with connections of its own.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Asker {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Sends JSON. Returns status and JSON of the answer; `None` if there is no whole answer, or
    /// storage has failed, so that nobody knows the outcome.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let request = to(self.address, method, path).header("content-type", "application/json");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::new(body.into())).unwrap();
        let answer = soon(self.client.request(request)).await.ok()?;
        let status = answer.status().as_u16();
        let body = soon(answer.into_body().collect()).await.ok()?.to_bytes();
        let json =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).ok()? };
        (!is_storage(&json)).then_some((status, json))
    }

    /// Does the same as [`Self::ask`], for a broker that is not killed meanwhile.
    pub(super) async fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, json) = self.ask(method, path, body).await.expect("the broker is there");
        assert!((200..300).contains(&status), "{method} {path}: {status}: {json}");
        json
    }
}

/// Whether a refusal says that storage has failed, as it does when the power is gone.
pub(super) fn is_storage(problem: &Value) -> bool {
    let kind = problem["type"].as_str().unwrap_or_default();
    kind.ends_with(":outcome-unknown") || kind.ends_with(":read-only")
}

/// Returns the time by the wall clock, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Returns the milliseconds since 1970 of a time as the broker writes it.
pub(super) fn ms_of(time: &Value) -> u64 {
    let time = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Returns the number in a cursor: `42-epoch` or `@1042-epoch`; 0 for none.
pub(super) fn number_of(cursor: &Value) -> u64 {
    let Some(text) = cursor.as_str() else { return 0 };
    let digits = text.trim_start_matches('@').split(['-', '~']).next().unwrap();
    digits.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}
