//! Finding or creating the stream.

use serde_json::json;
use thiserror::Error;

use super::api::{
    self, ApiError, EMPTY, NAME_IN_USE, NO_STREAM, NOT_IN_A_CLUSTER, StreamInfo, StreamSettings,
    TOO_FEW_SERVERS,
};
use super::connection::NatsConnection;
use super::settings::{LARGEST_MESSAGE_BYTES, NatsConfig, StreamNames};

/// Why a fleet's stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NatsOpenError {
    /// The settings are wrong: mend them.
    #[error("{0}")]
    Settings(String),
    /// No server answers, or JetStream is away: try again later.
    #[error("{0}")]
    Away(String),
    /// The stream is there, but cannot be used: mend or remove it.
    #[error("the stream {stream} cannot be used: {problem}")]
    Unusable {
        /// The stream's name.
        stream: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Returns the stream as it is, and creates it before if it is not there.
pub(super) async fn find_or_create(
    connection: &NatsConnection,
    names: &StreamNames,
    config: &NatsConfig,
) -> Result<StreamInfo, NatsOpenError> {
    let stream = &names.stream;
    let wait = config.answer_timeout;
    let what = format!("STREAM.INFO.{stream}");
    let find = || api::ask(connection, &what, &EMPTY, wait);
    match find().await {
        Ok(info) => return Ok(info),
        Err(error) if error.is(NO_STREAM) => {}
        Err(error) => return Err(NatsOpenError::Away(error.into_text())),
    }
    let mut replicas = config.replicas;
    loop {
        let settings = json!(settings_of_new(names, replicas, config.max_bytes));
        let created: Result<StreamInfo, _> =
            api::call(connection, format!("STREAM.CREATE.{stream}"), &settings, wait).await;
        return match created {
            // Nodes that create it at once are each told a time of their own (2.9.10): which one
            // holds is asked afterwards.
            Ok(_) => find().await.map_err(|error| NatsOpenError::Away(error.into_text())),
            Err(error) if error.is(NOT_IN_A_CLUSTER) && replicas > 1 => {
                replicas = 1;
                continue;
            }
            // Another node created it in this moment, with settings of its own; or JetStream was
            // asked before it had a leader, or created it without saying so.
            Err(error) if error.is(NAME_IN_USE) || matches!(error, ApiError::NoAnswer(_)) => {
                find().await.map_err(|error| NatsOpenError::Away(error.into_text()))
            }
            Err(error) if error.is(TOO_FEW_SERVERS) => Err(NatsOpenError::Away(format!(
                "{replicas} replicas need as many servers with JetStream that are up: start them, \
                 or ask for fewer replicas: {}",
                error.into_text()
            ))),
            Err(error) => Err(NatsOpenError::Away(error.into_text())),
        };
    }
}

/// Returns the settings of a new stream.
///
/// The oldest records go when `max_bytes` is reached, and none is refused: a node that misses them
/// loads a backup of another node. Single records cannot be deleted, by nobody: the fleet takes a
/// hole for damage. All that stores messages by itself is left out, so that only the fleet's
/// appends take sequences.
pub(super) fn settings_of_new(
    names: &StreamNames,
    replicas: u8,
    max_bytes: Option<u64>,
) -> StreamSettings {
    let no_limit = -1;
    StreamSettings {
        name: names.stream.clone(),
        subjects: vec![names.subject.clone()],
        retention: "limits".to_owned(),
        storage: "file".to_owned(),
        discard: "old".to_owned(),
        num_replicas: u64::from(replicas),
        max_consumers: no_limit,
        max_msgs: no_limit,
        max_msgs_per_subject: no_limit,
        max_bytes: max_bytes.map_or(no_limit, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_age: 0,
        max_msg_size: i64::try_from(LARGEST_MESSAGE_BYTES).unwrap_or(i64::MAX),
        deny_delete: true,
        deny_purge: false,
        sealed: false,
        no_ack: false,
        mirror: None,
        sources: None,
        subject_transform: None,
        subject_delete_marker_ttl: None,
        allow_msg_ttl: false,
        allow_msg_schedules: false,
        allow_msg_counter: false,
        allow_rollup_hdrs: false,
        persist_mode: None,
    }
}
