//! The shared part of the client commands: the server's address, the connection, errors for people.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use leftoff::edge::proto;
use leftoff::edge::proto::access_service_client::AccessServiceClient;
use leftoff::edge::proto::admin_service_client::AdminServiceClient;
use leftoff::edge::proto::consumer_service_client::ConsumerServiceClient;
use leftoff::edge::proto::publisher_service_client::PublisherServiceClient;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::rustls;
use leftoff::rustls::pki_types::CertificateDer;
use leftoff::rustls::pki_types::pem::PemObject as _;
use rand::RngExt;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use super::credential::{Credential, CredentialArgs};
use super::failure::{CliError, CliResult, ExitReason};

/// The bytes that HTTP/2 lets the server send ahead.
const WINDOW_BYTES: u32 = 4 << 20;

/// Largest message that is taken from the server, in bytes: a page, or a block with a large event.
const MAX_MESSAGE_BYTES: usize = 96 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The silence after which the server is pinged, and the time for its answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

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

/// A connection whose calls carry the credential.
pub(super) type CliChannel = InterceptedService<Channel, Credential>;

/// A client of the broker: one of each service, over one connection.
#[derive(Debug, Clone)]
pub(super) struct ServerClient {
    pub(super) publisher: PublisherServiceClient<CliChannel>,
    pub(super) subscriber: SubscriberServiceClient<CliChannel>,
    pub(super) admin: AdminServiceClient<CliChannel>,
    pub(super) access: AccessServiceClient<CliChannel>,
    pub(super) consumers: ConsumerServiceClient<CliChannel>,
}

impl ServerArgs {
    /// Returns the options for the server at `url`, without retries.
    pub(super) fn at(url: String, credential: &CredentialArgs) -> Self {
        Self { server: url, ca: None, credential: credential.clone(), retry_seconds: 0 }
    }

    /// Returns the server's address, checked, with the settings of a connection.
    pub(super) fn endpoint(&self) -> CliResult<Endpoint> {
        let refused = |problem: &str| {
            let message = format!("--server {:?} {problem}", self.server);
            CliError::new(ExitReason::Refused, message)
        };
        let endpoint = Endpoint::from_shared(self.server.clone());
        let endpoint =
            endpoint.map_err(|_| refused("is not a URL; write http://127.0.0.1:4280"))?;
        let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().authority()) {
            (Some("http"), Some(_)) if self.ca.is_some() => {
                return Err(refused("has no TLS, for which --ca is; write https://"));
            }
            (Some("http"), Some(_)) => endpoint,
            (Some("https"), Some(_)) => self.secured(endpoint)?,
            _ => return Err(refused("is not a URL of a server; write http://127.0.0.1:4280")),
        };
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES))
    }

    /// Returns the endpoint with TLS.
    fn secured(&self, endpoint: Endpoint) -> CliResult<Endpoint> {
        let tls = match &self.ca {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(file) => ClientTlsConfig::new().ca_certificate(certificates(file)?),
        };
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        // An address of IPv6 is in brackets in a URL, and has none in a certificate.
        let tls = tls.domain_name(host.trim_matches(['[', ']']));
        endpoint.tls_config(tls).map_err(|error| {
            let message = format!("--server {:?}: {}", self.server, root_cause(&error));
            CliError::new(ExitReason::Refused, message)
        })
    }

    /// Connects once.
    ///
    /// # Errors
    ///
    /// [`ExitReason::Unreachable`] if another try may succeed; another reason if none can.
    pub(super) async fn connect(&self) -> CliResult<ServerClient> {
        let credential = self.credential.read()?;
        let endpoint = self.endpoint()?;
        credential.warn_if_bare(endpoint.uri());
        let channel = endpoint.connect().await.map_err(|error| {
            let (server, why) = (&self.server, root_cause(&error));
            if is_distrusted(&error) {
                let message = format!(
                    "{server} is not trusted: {why}; --ca names the file of a certificate to trust"
                );
                return CliError::new(ExitReason::Refused, message);
            }
            CliError::new(ExitReason::Unreachable, format!("cannot reach {server}: {why}"))
        })?;
        Ok(client(channel, credential))
    }
}

/// Reads a file of certificates in PEM.
fn certificates(file: &Path) -> CliResult<Certificate> {
    let refused = |problem: &str| {
        CliError::new(ExitReason::Refused, format!("--ca {}: {problem}", file.display()))
    };
    let pem = std::fs::read(file).map_err(|error| refused(&error.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Err(error) => Err(refused(&format!("is not PEM: {error}"))),
        Ok(found) if found.is_empty() => Err(refused("has no certificate in PEM")),
        Ok(_) => Ok(Certificate::from_pem(pem)),
    }
}

/// Whether the client refused the certificate of the server: another try would bring the same.
fn is_distrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = error
            .downcast_ref::<rustls::Error>()
            .or_else(|| inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()));
        if let Some(error) = found {
            return matches!(error, rustls::Error::InvalidCertificate(_));
        }
        cause = error.source();
    }
    false
}

/// Returns a client over `channel`.
fn client(channel: Channel, credential: Credential) -> ServerClient {
    let channel = InterceptedService::new(channel, credential);
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

/// Returns the last cause of an error: the causes above it name layers of libraries, and repeat it.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
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
    // A status with a cause was made by this client, not by the server.
    let message = match std::error::Error::source(status) {
        Some(cause) => format!("the connection to the server broke: {}", root_cause(cause)),
        None => status.message().to_owned(),
    };
    CliError::new(failure, message)
}

/// Whether the same call can succeed later.
pub(super) fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
    )
}

/// The pauses between tries: each is longer, with jitter, until the time to retry is over.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    limit: Duration,
    failing_since: Option<std::time::Instant>,
}

impl Backoff {
    pub(super) fn new(args: &ServerArgs) -> Self {
        let limit = Duration::from_secs(args.retry_seconds);
        Self { pause: FIRST_PAUSE, limit, failing_since: None }
    }

    /// Notes a success: the next failure begins with the shortest pause.
    pub(super) fn reset(&mut self) {
        (self.pause, self.failing_since) = (FIRST_PAUSE, None);
    }

    /// Waits before the next try.
    ///
    /// # Errors
    ///
    /// `error`, when the time to retry is over.
    pub(super) async fn wait(&mut self, error: CliError) -> CliResult {
        let since = *self.failing_since.get_or_insert_with(std::time::Instant::now);
        if since.elapsed() + self.pause > self.limit {
            return Err(error);
        }
        tracing::debug!(error = error.message, "trying again");
        let jittered = self.pause.mul_f64(rand::rng().random_range(0.5..1.5));
        tokio::time::sleep(jittered).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Ok(())
    }
}

/// Returns a line about a gap, for people.
pub(super) fn gap_line(gap: &proto::Gap) -> String {
    let lost = gap.lost.map_or_else(|| "unknown".to_owned(), |lost| lost.to_string());
    format!(
        "gap ({}): wanted {}, readable is {} up to, not including, {}; lost {lost}",
        gap.reason, gap.requested, gap.earliest, gap.tail
    )
}
