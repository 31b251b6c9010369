//! A fleet's stream that may not be there yet: a node can start while NATS is away, serve its
//! readers, and join in when NATS answers.

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::messages::{FleetMessages, MessageKind, MessageListener, NotTold};
use super::nats::{
    EngineFinding, FindingGrade, NatsConfig, NatsOpenError, NatsStream, check_fleet_name,
};
use super::stream::{AppendError, Stream, StreamError, StreamFuture, StreamReader, StreamSequence};

/// A fleet's stream in NATS JetStream, which is opened as soon as NATS answers. Each call tries to
/// open it until one has.
pub struct AwaitedNatsStream {
    config: NatsConfig,
    fleet: String,
    opened: OnceCell<NatsStream>,
}

impl AwaitedNatsStream {
    /// Opens the stream of `fleet`, as [`NatsStream::open`] does, and warns of what is unsafe about
    /// the engine. If NATS is away, the stream is opened later.
    ///
    /// # Errors
    ///
    /// [`NatsOpenError::Settings`], [`NatsOpenError::Unusable`]. A stream that was created stays.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the stream may have been created.
    pub async fn open(config: NatsConfig, fleet: &str) -> Result<Self, NatsOpenError> {
        check_fleet_name(fleet).map_err(NatsOpenError::Settings)?;
        let fleet = fleet.to_owned();
        let stream = Self { config, fleet, opened: OnceCell::new() };
        match stream.try_open().await {
            Ok(_) => {}
            Err(NatsOpenError::Away(problem)) => {
                tracing::warn!(problem, "the fleet's stream is away; it is tried again");
            }
            Err(error) => return Err(error),
        }
        Ok(stream)
    }

    /// Returns the stream, if it is open.
    pub fn opened(&self) -> Option<&NatsStream> {
        self.opened.get()
    }

    async fn try_open(&self) -> Result<&NatsStream, NatsOpenError> {
        let open = async || {
            let stream = NatsStream::open(&self.config, &self.fleet).await?;
            tracing::info!(fleet = self.fleet, "opened the fleet's stream");
            stream.findings().iter().for_each(tell);
            Ok(stream)
        };
        self.opened.get_or_try_init(open).await
    }

    async fn stream(&self) -> Result<&NatsStream, StreamError> {
        self.try_open().await.map_err(|error| match error {
            NatsOpenError::Away(problem) => StreamError::Away(problem),
            error => StreamError::Broken(error.to_string()),
        })
    }
}

/// Tells an operator what was found.
fn tell(finding: &EngineFinding) {
    let EngineFinding { grade, found, meaning, .. } = finding;
    match grade {
        FindingGrade::Unsafe => tracing::warn!(found, meaning, "the engine is unsafe"),
        FindingGrade::Weak => tracing::warn!(found, meaning, "the engine is weak"),
        FindingGrade::Note => tracing::info!(found, meaning, "a note on the engine"),
    }
}

impl Stream for AwaitedNatsStream {
    fn append(
        &self,
        after: StreamSequence,
        record: Bytes,
    ) -> StreamFuture<'_, Result<StreamSequence, AppendError>> {
        if let Some(stream) = self.opened() {
            return stream.append(after, record); // Sent in the order of the calls.
        }
        Box::pin(async move {
            let stream = self.stream().await;
            let stream = stream.map_err(|error| match error {
                StreamError::Away(problem) => AppendError::Away(problem),
                error => AppendError::Refused(error.to_string()),
            })?;
            stream.append(after, record).await
        })
    }

    fn get(&self, at: StreamSequence) -> StreamFuture<'_, Result<Option<Bytes>, StreamError>> {
        Box::pin(async move { self.stream().await?.get(at).await })
    }

    fn tail(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        Box::pin(async move { self.stream().await?.tail().await })
    }

    fn first(&self) -> StreamFuture<'_, Result<StreamSequence, StreamError>> {
        Box::pin(async move { self.stream().await?.first().await })
    }

    fn read(
        &self,
        from: StreamSequence,
    ) -> StreamFuture<'_, Result<Box<dyn StreamReader>, StreamError>> {
        Box::pin(async move { self.stream().await?.read(from).await })
    }

    fn trim(&self, below: StreamSequence) -> StreamFuture<'_, Result<(), StreamError>> {
        Box::pin(async move { self.stream().await?.trim(below).await })
    }
}

impl FleetMessages for AwaitedNatsStream {
    fn tell(&self, kind: MessageKind, body: Bytes) -> Result<(), NotTold> {
        match self.opened() {
            Some(stream) => stream.tell(kind, body),
            None => Err(NotTold::Away("NATS has not answered yet".to_owned())),
        }
    }

    fn listen(&self, kind: MessageKind) -> StreamFuture<'_, Result<MessageListener, NotTold>> {
        Box::pin(async move {
            let stream = self.try_open().await;
            let stream = stream.map_err(|error| NotTold::Away(error.to_string()))?;
            stream.listen(kind).await
        })
    }
}
