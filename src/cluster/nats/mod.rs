//! The engine in NATS JetStream: one plain stream for each fleet, replicated by JetStream's Raft.
//!
//! | file | what |
//! |---|---|
//! | `settings.rs` | how NATS is reached, the names in it |
//! | `connection.rs` | the connection: comes back by itself, tells callers in a bounded time |
//! | `pending.rs` | who waits for which answer |
//! | `api.rs` | JetStream's requests and answers |
//! | `opening.rs` | finding or creating the stream |
//! | `address.rs` | where the stream is, and what its leader says of it |
//! | `appends.rs` | appending with the fence, and what each answer means |
//! | `messages.rs` | messages between nodes that need not be kept, over core NATS |
//! | `stuck_fence.rs` | a fence that refuses the right record for ever, and how it is freed |
//! | `reader.rs` | reading in order, without holes, whatever happens to the consumer |
//! | `checks.rs` | what of this engine is unsafe, and what that means |
//!
//! # What is promised
//!
//! What an append acknowledges is stored by a majority of the stream's replicas, and synced as far
//! as the servers do that (`checks.rs`). A record's place never changes.
//!
//! [`Stream::tail`] is what the stream's leader says without asking its replicas. It never says
//! more than is stored for good. It may say less: a leader that was cut off goes on answering, for
//! up to 10 s after another was elected, and a new one may not have read all its records yet. Who
//! must know that a tail is the tail appends behind it: the fence accepts only the true one.
//!
//! # What a lost server costs
//!
//! A server that ends in order (SIGTERM, lame duck) hands over what it leads: well below a second.
//! One that dies is missed by the others only after 4 to 9 s, by chance (`raft.go`; no setting
//! changes it), if it led this stream; else appends do not notice. Reading does not wait for that:
//! while no consumer can be made, records are got one by one from the stream's leader.

mod address;
mod api;
mod appends;
mod checks;
mod connection;
mod messages;
mod opening;
mod pending;
mod reader;
mod settings;
mod stuck_fence;
#[cfg(test)]
pub(in crate::cluster) mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::stream::{
    AppendError, Stream, StreamError, StreamFuture, StreamReader, StreamSequence,
};
use address::{StreamAddress, away, first_of};
use api::{AccountInfo, ApiDone, EMPTY};
use appends::Appends;
pub use checks::{EngineFinding, FindingGrade, FindingKind};
use connection::NatsConnection;
pub use opening::NatsOpenError;
use reader::NatsReader;
use settings::StreamNames;
pub(in crate::cluster) use settings::check_fleet_name;
pub use settings::{NatsConfig, NatsCredentials, NatsTls};
use stuck_fence::StuckFence;

/// A fleet's stream in NATS JetStream.
pub struct NatsStream {
    at: Arc<StreamAddress>,
    appends: Appends,
    append_timeout: Duration,
    fence: StuckFence,
    /// What was found when the stream was opened.
    findings: Vec<EngineFinding>,
}

impl NatsStream {
    /// Connects, and finds or creates the stream of `fleet`. The settings of a stream that is there
    /// are left as they are.
    ///
    /// # Errors
    ///
    /// See [`NatsOpenError`]. A stream that was created stays.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stream may have been created.
    pub async fn open(config: &NatsConfig, fleet: &str) -> Result<Self, NatsOpenError> {
        let names = StreamNames::of(fleet).map_err(NatsOpenError::Settings)?;
        if !matches!(config.replicas, 1 | 3 | 5) {
            let problem = format!("{} replicas: give 1, 3 or 5", config.replicas);
            return Err(NatsOpenError::Settings(problem));
        }
        let connection = NatsConnection::open(config).await.map_err(NatsOpenError::Away)?;
        checks::server_is_usable(&connection.server()).map_err(NatsOpenError::Settings)?;
        let info = opening::find_or_create(&connection, &names, config).await?;
        if let Some(problem) = checks::unusable(&info.config, &names.subject) {
            return Err(NatsOpenError::Unusable { stream: names.stream, problem });
        }
        // Who may not ask for its limits is not told them.
        let account = api::call(&connection, "INFO".to_owned(), &EMPTY, config.answer_timeout);
        let account: Option<AccountInfo> = account.await.ok();
        let findings = checks::findings(&connection.server(), &info, account.as_ref());
        let appends = Appends::start(connection.clone(), names.clone());
        let created = info.created;
        let at =
            StreamAddress { connection, names, created, answer_timeout: config.answer_timeout };
        Ok(Self {
            at: Arc::new(at),
            appends,
            append_timeout: config.append_timeout,
            fence: StuckFence::default(),
            findings,
        })
    }

    /// Returns what was unsafe about the engine when the stream was opened, the worst first.
    pub fn findings(&self) -> &[EngineFinding] {
        &self.findings
    }

    /// Looks anew at what is unsafe about the engine, the worst first.
    ///
    /// # Errors
    ///
    /// [`StreamError::Away`], [`StreamError::Broken`].
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is changed.
    pub async fn check(&self) -> Result<Vec<EngineFinding>, StreamError> {
        let info = self.at.info(self.at.answer_timeout).await?;
        let wait = self.at.answer_timeout;
        let account = api::call(&self.at.connection, "INFO".to_owned(), &EMPTY, wait).await.ok();
        Ok(checks::findings(&self.at.connection.server(), &info, account.as_ref()))
    }
}

impl Stream for NatsStream {
    fn append(
        &self,
        after: StreamSequence,
        record: Bytes,
    ) -> StreamFuture<'_, Result<StreamSequence, AppendError>> {
        // Handed over here and not when the future is polled first: so that records go out in the
        // order of the calls.
        let deadline = Instant::now() + self.append_timeout;
        let appending = self.appends.append(after, record, deadline);
        Box::pin(async move {
            let outcome = appending.outcome().await;
            match outcome {
                Ok(_) => self.fence.moved(),
                Err(AppendError::Fenced) => self.fence.refused(after, &self.at).await,
                Err(_) => {}
            }
            outcome
        })
    }

    fn get(&self, at: StreamSequence) -> StreamFuture<'_, Result<Option<Bytes>, StreamError>> {
        Box::pin(async move {
            if at == StreamSequence::BEFORE_ALL {
                return Ok(None);
            }
            self.at.get(at, self.at.answer_timeout).await
        })
    }

    fn tail(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        Box::pin(async {
            Ok(StreamSequence::new(self.at.info(self.at.answer_timeout).await?.state.last_seq))
        })
    }

    fn first(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        Box::pin(async { Ok(first_of(&self.at.info(self.at.answer_timeout).await?)) })
    }

    fn read(
        &self,
        from: StreamSequence,
    ) -> StreamFuture<'_, Result<Box<dyn StreamReader>, StreamError>> {
        Box::pin(async move {
            let first = first_of(&self.at.info(self.at.answer_timeout).await?);
            if from < first {
                return Err(StreamError::Trimmed { first });
            }
            let reader: Box<dyn StreamReader> =
                Box::new(NatsReader::new(Arc::clone(&self.at), from));
            Ok(reader)
        })
    }

    fn trim(&self, below: StreamSequence) -> StreamFuture<'_, Result<(), StreamError>> {
        Box::pin(async move {
            let state = self.at.info(self.at.answer_timeout).await?.state;
            // JetStream moves the tail itself when asked for more than there is.
            let below = below.get().min(state.last_seq + 1);
            if below <= state.first_seq.max(1) {
                return Ok(());
            }
            let what = format!("STREAM.PURGE.{}", self.at.names.stream);
            let body = json!({ "seq": below });
            let wait = self.at.answer_timeout;
            let done: ApiDone =
                api::call(&self.at.connection, what, &body, wait).await.map_err(away)?;
            if done.success {
                Ok(())
            } else {
                Err(StreamError::Away("NATS did not trim the stream, and says not why".to_owned()))
            }
        })
    }
}
