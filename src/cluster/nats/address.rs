//! Where the stream is, and what its leader says of it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::api::{self, ApiError, EMPTY, NO_MESSAGE, StoredAnswer, StreamInfo};
use super::connection::NatsConnection;
use super::settings::StreamNames;
use crate::cluster::stream::{StreamError, StreamSequence};

/// Where the stream is, and which one it is; shared with its readers.
pub(super) struct StreamAddress {
    pub(super) connection: NatsConnection,
    pub(super) names: StreamNames,
    /// When the stream was created, as its server writes it. Another time is another stream.
    pub(super) created: String,
    pub(super) answer_timeout: Duration,
}

impl StreamAddress {
    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        body: &Value,
        wait: Duration,
    ) -> Result<T, ApiError> {
        api::ask(&self.connection, &format!("{what}.{}", self.names.stream), body, wait).await
    }

    /// Asks the stream's leader for the stream's state.
    pub(super) async fn info(&self, wait: Duration) -> Result<StreamInfo, StreamError> {
        let info: StreamInfo = self.ask("STREAM.INFO", &EMPTY, wait).await.map_err(away)?;
        if info.created != self.created {
            return Err(StreamError::Broken(format!(
                "{} was created anew at {}; it was the one of {} before",
                self.names.stream, info.created, self.created
            )));
        }
        Ok(info)
    }

    /// Asks the stream's leader for one record.
    pub(super) async fn get(
        &self,
        at: StreamSequence,
        wait: Duration,
    ) -> Result<Option<Bytes>, StreamError> {
        let body = json!({ "seq": at.get() });
        let stored: StoredAnswer = match self.ask("STREAM.MSG.GET", &body, wait).await {
            Ok(stored) => stored,
            Err(error) if error.is(NO_MESSAGE) => return Ok(None),
            Err(error) => return Err(away(error)),
        };
        let record = STANDARD.decode(&stored.message.data);
        match record {
            Ok(record) if stored.message.seq == at.get() => Ok(Some(Bytes::from(record))),
            _ => Err(StreamError::Away(format!("NATS answers another record than {at}"))),
        }
    }
}

/// Returns what a caller is told of an error of the API.
pub(super) fn away(error: ApiError) -> StreamError {
    StreamError::Away(error.into_text())
}

/// Returns the first sequence that is stored, or the one after the last.
pub(super) fn first_of(info: &StreamInfo) -> StreamSequence {
    StreamSequence::new(info.state.first_seq.max(1))
}
