//! The connection of a client: made at the first use, shared by all, made again after it broke.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use super::backoff::Backoff;
use super::config::ClientConfig;
use super::credential::Credential;
use super::error::{ClientError, root_cause};
use super::state::{ClientState, ClientStates};

/// A connection whose calls carry the credential.
pub type ClientChannel = InterceptedService<Channel, Credential>;

/// The bytes that HTTP/2 lets the broker send ahead.
const WINDOW_BYTES: u32 = 4 << 20;

/// The connection, or what is needed to make it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) config: ClientConfig,
    endpoint: Endpoint,
    live: Mutex<LiveLink>,
    /// Held by the one who dials, for at most the time of one try: the others want its result.
    dialing: tokio::sync::Mutex<()>,
    states: watch::Sender<ClientState>,
}

#[derive(Debug, Default)]
struct LiveLink {
    link: Option<Link>,
    /// The number of connections that were made.
    made: u64,
}

/// One connection that was made, for the calls of one user.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) channel: ClientChannel,
    credential: Credential,
    number: u64,
}

/// The mark of a dial or a pause in the state, taken back if the caller is dropped meanwhile.
struct Trying<'a> {
    connection: &'a Connection,
    is_done: bool,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let is_live = self.connection.live().link.is_some();
            let state = if is_live { ClientState::Connected } else { ClientState::Idle };
            self.connection.states.send_replace(state);
        }
    }
}

impl Connection {
    pub(super) fn new(config: ClientConfig) -> Result<Self, ClientError> {
        if config.window == 0 {
            let problem = "is 0; write 1 or more".to_owned();
            return Err(ClientError::Setting { field: "window", problem });
        }
        let endpoint = endpoint(&config)?;
        let (states, _) = watch::channel(ClientState::Idle);
        let (live, dialing) = Default::default();
        Ok(Self { config, endpoint, live, dialing, states })
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.config.backoff, self.config.retry_for)
    }

    pub(super) fn state(&self) -> ClientState {
        self.states.borrow().clone()
    }

    pub(super) fn states(&self) -> ClientStates {
        ClientStates { states: self.states.subscribe(), is_new: true }
    }

    fn live(&self) -> MutexGuard<'_, LiveLink> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection, and makes it if there is none: one try.
    pub(super) async fn link(&self) -> Result<Link, ClientError> {
        let _turn = self.dialing.lock().await;
        if let Some(link) = &self.live().link {
            return Ok(link.clone());
        }
        let mut trying = Trying { connection: self, is_done: false };
        self.states.send_replace(ClientState::Connecting);
        let credential = self.config.credential.read().await?;
        let channel = self.dial().await?;
        let channel = InterceptedService::new(channel, credential.clone());
        let mut live = self.live();
        live.made += 1;
        let link = Link { channel, credential, number: live.made };
        live.link = Some(link.clone());
        drop(live);
        trying.is_done = true;
        self.states.send_replace(ClientState::Connected);
        Ok(link)
    }

    async fn dial(&self) -> Result<Channel, ClientError> {
        let ClientConfig { server, connect_timeout, .. } = &self.config;
        let unreachable = |problem| ClientError::Unreachable { server: server.clone(), problem };
        // The endpoint's own limit ends before the handshakes of TLS and HTTP/2.
        let dialed = tokio::time::timeout(*connect_timeout, self.endpoint.connect()).await;
        let dialed = dialed.map_err(|_| {
            unreachable(format!("no answer within {} ms", connect_timeout.as_millis()))
        })?;
        dialed.map_err(|error| {
            let problem = root_cause(&error);
            match is_distrusted(&error) {
                true => ClientError::Distrusted { server: server.clone(), problem },
                false => unreachable(problem),
            }
        })
    }

    /// Forgets a connection that broke, so that the next use makes another one.
    fn forget(&self, link: &Link) {
        let mut live = self.live();
        if live.link.as_ref().is_some_and(|live| live.number == link.number) {
            live.link = None;
            drop(live);
            self.states.send_replace(ClientState::Idle);
        }
    }

    /// Forgets a connection that broke while nobody waited for anything on it.
    pub(super) fn broke(&self, link: &Link, error: &ClientError) {
        if !error.is_of_load() {
            self.forget(link);
        }
    }

    /// Whether the source of the credential has another one than that of `link`.
    async fn has_new_credential(&self, link: &Link) -> bool {
        let present = self.config.credential.read().await;
        present.is_ok_and(|present| present != link.credential)
    }

    /// Waits after a failure, if another try may succeed and the time to retry is not over.
    ///
    /// # Errors
    ///
    /// `error`, if there is to be no other try.
    pub(super) async fn after(
        &self,
        link: Option<&Link>,
        error: ClientError,
        backoff: &mut Backoff,
    ) -> Result<(), ClientError> {
        let may_succeed = error.is_transient()
            || match link {
                Some(link) if error.is_of_credential() => self.has_new_credential(link).await,
                _ => false,
            };
        if !may_succeed {
            return Err(error);
        }
        if let Some(link) = link {
            self.broke(link, &error);
        }
        let now = Instant::now();
        let Some(pause) = backoff.pause(error.retry_after(), now, rand::random()) else {
            return Err(error);
        };
        tracing::debug!(%error, pause_ms = pause.as_millis() as u64, "trying again");
        let is_live = self.live().link.is_some();
        let mut trying = Trying { connection: self, is_done: is_live };
        if !is_live {
            let (failures, reason) = (backoff.failures(), Arc::from(error.to_string()));
            let next_try = now + pause;
            self.states.send_replace(ClientState::Waiting { failures, reason, next_try });
        }
        tokio::time::sleep(pause).await;
        trying.is_done = true;
        Ok(())
    }
}

/// Returns the broker's address, checked, with the settings of a connection.
pub(crate) fn endpoint(config: &ClientConfig) -> Result<Endpoint, ClientError> {
    let refused =
        |problem: &str| ClientError::Setting { field: "server", problem: problem.to_owned() };
    let endpoint = Endpoint::from_shared(config.server.clone());
    let endpoint = endpoint.map_err(|_| refused("is not a URL; write http://127.0.0.1:4280"))?;
    let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().authority()) {
        (Some("http"), Some(_)) if config.ca_pem.is_some() => {
            return Err(refused("has no TLS, for which the certificates are; write https://"));
        }
        (Some("http"), Some(_)) => endpoint,
        (Some("https"), Some(_)) => secured(endpoint, config)?,
        _ => return Err(refused("is not a URL of a server; write http://127.0.0.1:4280")),
    };
    Ok(endpoint
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(config.keep_alive)
        .keep_alive_timeout(config.keep_alive)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

#[cfg(not(feature = "client-tls"))]
fn secured(_endpoint: Endpoint, _config: &ClientConfig) -> Result<Endpoint, ClientError> {
    let problem = "is https://, for which the cargo feature client-tls is".to_owned();
    Err(ClientError::Setting { field: "server", problem })
}

#[cfg(not(feature = "client-tls"))]
fn is_distrusted(_error: &(dyn std::error::Error + 'static)) -> bool {
    false
}

#[cfg(feature = "client-tls")]
use self::tls::{is_distrusted, secured};

/// TLS, with the cryptography of `ring`.
#[cfg(feature = "client-tls")]
mod tls {
    use tokio_rustls::rustls;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

    use crate::client::config::ClientConfig;
    use crate::client::error::{ClientError, root_cause};

    /// Returns the endpoint with TLS.
    pub(super) fn secured(
        endpoint: Endpoint,
        config: &ClientConfig,
    ) -> Result<Endpoint, ClientError> {
        let tls = match &config.ca_pem {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(pem) => ClientTlsConfig::new().ca_certificate(certificates(pem)?),
        };
        let host = endpoint.uri().host().unwrap_or_default().to_owned();
        // An address of IPv6 is in brackets in a URL, and has none in a certificate.
        let tls = tls.domain_name(host.trim_matches(['[', ']']));
        endpoint.tls_config(tls).map_err(|error| ClientError::Setting {
            field: "server",
            problem: format!("cannot have TLS: {}", root_cause(&error)),
        })
    }

    /// Checks certificates in PEM.
    fn certificates(pem: &[u8]) -> Result<Certificate, ClientError> {
        let refused = |problem: String| ClientError::Setting { field: "ca_pem", problem };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match found {
            Err(error) => Err(refused(format!("is not PEM: {error}"))),
            Ok(found) if found.is_empty() => Err(refused("has no certificate in PEM".to_owned())),
            Ok(_) => Ok(Certificate::from_pem(pem)),
        }
    }

    /// Whether the client refused the broker's certificate: another try would bring the same.
    pub(super) fn is_distrusted(error: &(dyn std::error::Error + 'static)) -> bool {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_not_made_is_told_and_tried_no_longer_than_asked() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let mut config = ClientConfig::new(format!("http://{address}"));
        config.retry_for = Some(std::time::Duration::from_millis(50));
        let client = crate::client::Client::connect(config).unwrap();
        let mut states = client.states();
        assert_eq!(states.next().await, Some(ClientState::Idle), "nothing is dialed unused");
        let ready = client.ready();
        tokio::pin!(ready);
        let waiting = async {
            loop {
                if let Some(ClientState::Waiting { failures, reason, .. }) = states.next().await {
                    return (failures, reason);
                }
            }
        };
        let (ended, (failures, reason)) = tokio::join!(ready, waiting);
        assert!(failures >= 1 && reason.contains("cannot reach"), "{failures} {reason}");
        let error = ended.unwrap_err();
        assert!(error.is_transient() && !error.outcome_unknown(), "{error}");
        assert_eq!(client.state(), ClientState::Idle, "nobody tries any more");
    }

    #[test]
    fn wrong_settings_are_refused_before_anything_is_dialed() {
        for (server, words) in [
            ("a b", "is not a URL; write"),
            ("127.0.0.1:4280", "is not a URL of a server"),
            ("ftp://a", "is not a URL of a server"),
        ] {
            let refused = Connection::new(ClientConfig::new(server)).unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
            assert!(!refused.is_transient());
        }
        let mut config = ClientConfig::new("http://a");
        config.ca_pem = Some(Vec::new());
        assert!(Connection::new(config).unwrap_err().to_string().contains("has no TLS"));
        let mut config = ClientConfig::new("http://a");
        config.window = 0;
        assert!(Connection::new(config).unwrap_err().to_string().contains("window is 0"));
    }
}
