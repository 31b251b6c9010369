//! The settings of a client.

use std::time::Duration;

use super::backoff::BackoffConfig;
use super::credential::CredentialSource;

/// The settings of a client. Begin with [`ClientConfig::new`], and change the fields that you want
/// to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The address of the broker, such as `http://127.0.0.1:4280`, or `https://` with the cargo
    /// feature `client-tls`.
    pub server: String,
    /// The certificates in PEM by which an `https://` broker is trusted. `None`: those of the
    /// system.
    pub ca_pem: Option<Vec<u8>>,
    /// The credential of each call. Default: none.
    pub credential: CredentialSource,
    /// The pauses between tries.
    pub backoff: BackoffConfig,
    /// The time for which a call, a reader or a publisher tries again while the broker does not
    /// answer. Zero: there is one try. `None`, the default: there is no end.
    pub retry_for: Option<Duration>,
    /// The time for one try to connect. Default: 5 s.
    pub connect_timeout: Duration,
    /// The silence after which the broker is asked for a sign of life, and the time in which the
    /// sign must come. Default: 20 s.
    pub keep_alive: Duration,
    /// The time for one try to publish one event. Default: 30 s.
    pub deadline: Duration,
    /// The batches of a publisher that wait for their acknowledgement, at most. When they are so
    /// many, the publisher takes no more. 1 or more. Default: 64.
    pub window: usize,
    /// The bytes of these batches, at most; one batch is taken however large it is. Default: 8 MiB.
    pub window_bytes: usize,
}

impl ClientConfig {
    /// Returns the default settings for the broker at `server`.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            ca_pem: None,
            credential: CredentialSource::None,
            backoff: BackoffConfig::default(),
            retry_for: None,
            connect_timeout: Duration::from_secs(5),
            keep_alive: Duration::from_secs(20),
            deadline: Duration::from_secs(30),
            window: 64,
            window_bytes: 8 << 20,
        }
    }

    /// Returns these settings with a credential.
    #[must_use]
    pub fn with_credential(self, credential: impl Into<CredentialSource>) -> Self {
        Self { credential: credential.into(), ..self }
    }

    /// Returns these settings with an end of retrying: see [`ClientConfig::retry_for`].
    #[must_use]
    pub fn with_retry_for(self, limit: Duration) -> Self {
        Self { retry_for: Some(limit), ..self }
    }

    /// Returns these settings with other pauses between tries.
    #[must_use]
    pub fn with_backoff(self, backoff: BackoffConfig) -> Self {
        Self { backoff, ..self }
    }
}
