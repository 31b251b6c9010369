//! The shared part of the client commands: the server's address, the connection, errors for people.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use leftoff::Gap;
use leftoff::client::{BackoffConfig, Client, ClientChannel, ClientConfig, ClientError};
use leftoff::edge::proto;
use leftoff::edge::proto::access_service_client::AccessServiceClient;
use leftoff::edge::proto::admin_service_client::AdminServiceClient;
use leftoff::edge::proto::consumer_service_client::ConsumerServiceClient;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use tonic::{Code, Status};

use super::credential::{CredentialArgs, warn_if_exposed};
use super::failure::{CliError, CliResult, ExitReason};

/// Largest message that is taken from the server, in bytes: a page, or a block with a large event.
const MAX_MESSAGE_BYTES: usize = 96 << 20;

/// The ceilings of the pauses between tries: somebody waits at the terminal.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The options that name the server of a client command.
#[derive(Debug, Clone, Args)]
pub(super) struct ServerArgs {
    /// The address of the broker
    #[arg(
        long,
        value_name = "URL",
        env = "LEFTOFF_SERVER",
        default_value = "http://127.0.0.1:4280"
    )]
    server: String,
    /// A file with the certificates in PEM that an https:// server is trusted by [default: those
    /// of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    credential: CredentialArgs,
    /// The time to retry while the broker cannot be reached, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub retry_seconds: u64,
}

/// A client of the broker: one of each service, over one connection.
#[derive(Debug, Clone)]
pub(super) struct ServerClient {
    pub(super) publisher: PublisherServiceClient<ClientChannel>,
    pub(super) subscriber: SubscriberServiceClient<ClientChannel>,
    pub(super) admin: AdminServiceClient<ClientChannel>,
    pub(super) access: AccessServiceClient<ClientChannel>,
    pub(super) consumers: ConsumerServiceClient<ClientChannel>,
}

impl ServerArgs {
    /// Returns the options for the server at `url`, without retries.
    pub(super) fn at(url: String, credential: &CredentialArgs) -> Self {
        Self { server: url, ca: None, credential: credential.clone(), retry_seconds: 0 }
    }

    /// Returns the options with a file of certificates that an `https://` server is trusted by.
    pub(super) fn trusting(self, ca: Option<PathBuf>) -> Self {
        Self { ca, ..self }
    }

    /// Returns a client of the server, which connects when it is used. Warns once if the credential
    /// goes to another machine without TLS.
    ///
    /// # Errors
    ///
    /// The address, the certificates or the credential are wrong.
    pub(super) async fn client(&self) -> CliResult<Client> {
        let mut config = ClientConfig::new(&self.server)
            .with_backoff(BackoffConfig::between(FIRST_PAUSE, LONGEST_PAUSE))
            .with_retry_for(Duration::from_secs(self.retry_seconds))
            .with_credential(self.credential.source()?);
        if let Some(file) = &self.ca {
            if self.server.starts_with("http://") {
                return Err(self.refused("has no TLS, for which --ca is; write https://"));
            }
            let pem = std::fs::read(file).map_err(|error| ca_refused(file, &error.to_string()))?;
            config.ca_pem = Some(pem);
        }
        let client = Client::connect(config).map_err(|error| self.in_words(error))?;
        warn_if_exposed(&self.credential.read().await?, &self.server);
        Ok(client)
    }

    /// Connects once.
    ///
    /// # Errors
    ///
    /// [`ExitReason::Unreachable`] if another try may succeed; another reason if none can.
    pub(super) async fn connect(&self) -> CliResult<ServerClient> {
        let channel = self.client().await?.channel().await.map_err(|error| self.in_words(error))?;
        Ok(client(channel))
    }

    /// Turns an error of the client into the failure of the command.
    pub(super) fn in_words(&self, error: ClientError) -> CliError {
        match error {
            ClientError::Setting { field: "ca_pem", problem } => match &self.ca {
                Some(file) => ca_refused(file, &problem),
                None => self.refused(&problem),
            },
            ClientError::Setting { problem, .. } => self.refused(&problem),
            ClientError::Credential(problem) => self.credential.refused(&problem),
            ClientError::Distrusted { .. } => {
                let message = format!("{error}; --ca names the file of a certificate to trust");
                CliError::new(ExitReason::Refused, message)
            }
            ClientError::Status(status) => failed(&status),
            ClientError::Unreachable { .. } | ClientError::Ended => {
                CliError::new(ExitReason::Unreachable, error.to_string())
            }
            _ => CliError::new(ExitReason::Other, error.to_string()),
        }
    }

    fn refused(&self, problem: &str) -> CliError {
        CliError::new(ExitReason::Refused, format!("--server {:?} {problem}", self.server))
    }
}

fn ca_refused(file: &Path, problem: &str) -> CliError {
    CliError::new(ExitReason::Refused, format!("--ca {}: {problem}", file.display()))
}

/// Returns a client over `channel`.
fn client(channel: ClientChannel) -> ServerClient {
    ServerClient {
        publisher: PublisherServiceClient::new(channel.clone())
            .max_encoding_message_size(MAX_MESSAGE_BYTES),
        subscriber: SubscriberServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES),
        admin: AdminServiceClient::new(channel.clone()),
        access: AccessServiceClient::new(channel.clone()),
        consumers: ConsumerServiceClient::new(channel),
    }
}

/// Turns a gRPC status into the failure of the command.
pub(super) fn failed(status: &Status) -> CliError {
    let failure = match status.code() {
        Code::Unavailable | Code::Cancelled => ExitReason::Unreachable,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated
        | Code::PermissionDenied => ExitReason::Refused,
        _ => ExitReason::Other,
    };
    let message = ClientError::from(status.clone()).to_string();
    CliError::new(failure, message)
}

/// Returns a line about a gap, for people.
pub(super) fn gap_line(gap: &Gap) -> String {
    let Gap { earliest, tail, reason, .. } = gap;
    line_of_gap(reason.as_str(), gap.requested.number(), earliest.number(), tail.number(), gap.lost)
}

/// Returns a line about a gap in a page, for people.
pub(super) fn page_gap_line(gap: &proto::Gap) -> String {
    line_of_gap(&gap.reason, gap.requested, gap.earliest, gap.tail, gap.lost)
}

fn line_of_gap(
    reason: &str,
    requested: u64,
    earliest: u64,
    tail: u64,
    lost: Option<u64>,
) -> String {
    let lost = lost.map_or_else(|| "unknown".to_owned(), |lost| lost.to_string());
    format!(
        "gap ({reason}): wanted {requested}, readable is {earliest} up to, not including, {tail}; \
         lost {lost}"
    )
}
