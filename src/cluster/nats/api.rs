//! The requests of JetStream's API and their answers, as far as they are used.
//!
//! JetStream answers in JSON, with an `error` that has a number of its own. The numbers below are
//! those of `errors.json` of the NATS server; they do not change from version to version.

use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connection::NatsConnection;
use super::pending::NoAnswer;

/// The fence refused a message: the stream's last sequence is another one.
pub(super) const WRONG_LAST_SEQUENCE: u64 = 10071;
/// A message is larger than the stream or the server takes.
pub(super) const MESSAGE_TOO_LARGE: u64 = 10054;
/// The message named another stream.
pub(super) const OTHER_STREAM: u64 = 10060;
/// The stream is sealed: it takes no messages ever again.
pub(super) const SEALED: u64 = 10109;
/// There is no such stream.
pub(super) const NO_STREAM: u64 = 10059;
/// There is no such message in the stream.
pub(super) const NO_MESSAGE: u64 = 10037;
/// A stream of this name is there, with other settings.
pub(super) const NAME_IN_USE: u64 = 10058;
/// Replicas were asked of a server that is in no cluster.
pub(super) const NOT_IN_A_CLUSTER: u64 = 10074;
/// Too few servers can take a replica now.
pub(super) const TOO_FEW_SERVERS: u64 = 10005;

/// An error that JetStream answered with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ApiRefusal {
    /// Like HTTP's: 503 when something is away for the moment.
    #[serde(default)]
    pub(super) code: u64,
    /// What exactly.
    #[serde(default)]
    pub(super) err_code: u64,
    /// For people.
    #[serde(default)]
    pub(super) description: String,
}

impl ApiRefusal {
    /// Returns the error for messages.
    pub(super) fn text(&self) -> String {
        format!("{} (JetStream's error {})", self.description, self.err_code)
    }
}

/// Why a request was not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ApiError {
    /// No answer, or none that can be read.
    NoAnswer(NoAnswer),
    /// JetStream refuses.
    Refused(ApiRefusal),
}

impl ApiError {
    /// Returns the error for messages.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::NoAnswer(no_answer) => no_answer.into_text(),
            Self::Refused(refusal) => refusal.text(),
        }
    }

    /// Returns whether JetStream refused with this error.
    pub(super) fn is(&self, err_code: u64) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.err_code == err_code)
    }
}

#[derive(Deserialize)]
struct ApiAnswer {
    error: Option<ApiRefusal>,
}

/// Reads an answer.
pub(super) fn parse<T: DeserializeOwned>(message: &Message) -> Result<T, ApiError> {
    let unreadable = |error: serde_json::Error| {
        let problem = format!("NATS answers what is no answer of JetStream: {error}");
        ApiError::NoAnswer(NoAnswer::Unknown(problem))
    };
    let refused: ApiAnswer = serde_json::from_slice(&message.payload).map_err(unreadable)?;
    match refused.error {
        Some(refusal) => Err(ApiError::Refused(refusal)),
        None => serde_json::from_slice(&message.payload).map_err(unreadable),
    }
}

/// The body of a request that says nothing but its subject.
pub(super) const EMPTY: Value = Value::Null;

/// Makes a request of the API, of which `what` is the subject after `$JS.API.`; [`EMPTY`] sends no
/// body.
pub(super) async fn call<T: DeserializeOwned>(
    connection: &NatsConnection,
    what: String,
    body: &Value,
    wait: Duration,
) -> Result<T, ApiError> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let deadline = Instant::now() + wait;
    let answer = connection.request(format!("$JS.API.{what}"), body, deadline).await;
    parse(&answer.map_err(ApiError::NoAnswer)?)
}

/// How long one question waits for its answer before it is asked again.
const ATTEMPT: Duration = Duration::from_millis(700);

/// The pause before it is asked again.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(25);

/// Asks for something that changes nothing, until there is an answer or the time is over.
///
/// While a leader is being elected nobody answers, and a question is not answered later either: so
/// it is asked again and again.
pub(super) async fn ask<T: DeserializeOwned>(
    connection: &NatsConnection,
    what: &str,
    body: &Value,
    wait: Duration,
) -> Result<T, ApiError> {
    let deadline = Instant::now() + wait;
    loop {
        let attempt = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
        match call(connection, what.to_owned(), body, attempt).await {
            Err(ApiError::NoAnswer(_)) if Instant::now() + ATTEMPT_PAUSE < deadline => {}
            answered => return answered,
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
}

/// The acknowledgement of a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct PubAck {
    #[serde(default)]
    pub(super) stream: String,
    #[serde(default)]
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) duplicate: bool,
}

/// A stream's settings, state and replicas.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: StreamSettings,
    /// When the stream was created: another time is another stream.
    #[serde(default)]
    pub(super) created: String,
    pub(super) state: StreamState,
    /// None on a server that is in no cluster.
    pub(super) cluster: Option<StreamCluster>,
}

/// What a stream is told to be. What is left out in an answer has its default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamSettings {
    pub(super) name: String,
    #[serde(default)]
    pub(super) subjects: Vec<String>,
    #[serde(default)]
    pub(super) retention: String,
    #[serde(default)]
    pub(super) storage: String,
    #[serde(default)]
    pub(super) discard: String,
    #[serde(default)]
    pub(super) num_replicas: u64,
    #[serde(default = "no_limit")]
    pub(super) max_consumers: i64,
    #[serde(default = "no_limit")]
    pub(super) max_msgs: i64,
    #[serde(default = "no_limit")]
    pub(super) max_msgs_per_subject: i64,
    #[serde(default = "no_limit")]
    pub(super) max_bytes: i64,
    #[serde(default)]
    pub(super) max_age: u64,
    #[serde(default = "no_limit")]
    pub(super) max_msg_size: i64,
    #[serde(default)]
    pub(super) deny_delete: bool,
    #[serde(default)]
    pub(super) deny_purge: bool,
    #[serde(default)]
    pub(super) sealed: bool,
    #[serde(default)]
    pub(super) no_ack: bool,
    /// Features that store messages of their own, or change those that come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mirror: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sources: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject_transform: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject_delete_marker_ttl: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) allow_msg_ttl: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) allow_msg_schedules: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) allow_msg_counter: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) allow_rollup_hdrs: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) persist_mode: Option<String>,
}

fn no_limit() -> i64 {
    -1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What a stream holds, as the one has it that answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct StreamState {
    #[serde(default)]
    pub(super) bytes: u64,
    #[serde(default)]
    pub(super) first_seq: u64,
    #[serde(default)]
    pub(super) last_seq: u64,
    /// Messages missing between the first and the last.
    #[serde(default)]
    pub(super) num_deleted: u64,
}

/// Where a stream's replicas are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct StreamCluster {
    /// Empty for a server that is in no cluster: NATS 2.10 and newer then tell a leader all the
    /// same.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) leader: String,
    /// Those besides the leader.
    #[serde(default)]
    pub(super) replicas: Vec<StreamReplica>,
}

/// A replica of a stream that is not its leader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct StreamReplica {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) current: bool,
    #[serde(default)]
    pub(super) offline: bool,
    /// How many operations it is behind.
    #[serde(default)]
    pub(super) lag: u64,
}

/// A message, asked for by its sequence.
#[derive(Debug, Deserialize)]
pub(super) struct StoredAnswer {
    pub(super) message: StoredMessage,
}

#[derive(Debug, Deserialize)]
pub(super) struct StoredMessage {
    pub(super) seq: u64,
    /// In base64.
    #[serde(default)]
    pub(super) data: String,
}

/// An answer that says that something was done.
#[derive(Debug, Deserialize)]
pub(super) struct ApiDone {
    #[serde(default)]
    pub(super) success: bool,
}

/// What an account may use.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct AccountInfo {
    #[serde(default)]
    pub(super) limits: AccountLimits,
}

/// The limits of an account; -1 is none.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AccountLimits {
    #[serde(default = "no_limit")]
    pub(super) max_storage: i64,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self { max_storage: no_limit() }
    }
}

/// Returns the request for a consumer that gives each message from `from` on, in order, and says
/// each `heartbeat` that it is there. It is kept in the memory of one server, and goes by itself
/// when nobody listens.
pub(super) fn consumer(
    stream: &str,
    name: &str,
    inbox: &str,
    from: u64,
    heartbeat: Duration,
) -> Value {
    json!({
        "stream_name": stream,
        "config": {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": true,
            "idle_heartbeat": u64::try_from(heartbeat.as_nanos()).unwrap_or(u64::MAX),
            "inactive_threshold": 5_000_000_000_u64,
            "num_replicas": 1,
            "mem_storage": true,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_a_server_leaves_out_are_no_limits() {
        let text = r#"{"config":{"name":"S","max_bytes":5},"created":"x",
            "state":{"messages":0,"first_seq":0,"last_seq":0}}"#;
        let info: StreamInfo = serde_json::from_str(text).unwrap();
        assert_eq!((info.config.max_bytes, info.config.max_msgs), (5, -1));
        assert!(info.cluster.is_none() && !info.config.allow_msg_ttl);
    }
}
