//! How a node reaches others, and how nodes know each other: by the secret of their fleet.

use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::client::{ClientConfig, endpoint};
use crate::secret::Secret;

/// The name of the metadata with the secret of a fleet.
const SECRET_METADATA: &str = "leftoff-fleet";

/// The silence after which a node is asked for a sign of life, and the time in which it must come.
/// The stream tells of another leader sooner.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How a node reaches others.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkConfig {
    /// The secret that the nodes of a fleet share.
    pub(super) secret: Option<Secret>,
    /// The certificates in PEM that sign those of the nodes. `None`: those that the system trusts.
    pub(super) ca_pem: Option<Vec<u8>>,
}

/// Returns a channel to a node, which connects when it is used.
///
/// # Errors
///
/// What is wrong with the address.
pub(super) fn channel(
    address: &str,
    config: &LinkConfig,
    wait: Duration,
) -> Result<Channel, String> {
    let mut settings = ClientConfig::new(address);
    settings.ca_pem.clone_from(&config.ca_pem);
    (settings.connect_timeout, settings.keep_alive) = (wait, KEEP_ALIVE);
    let endpoint = endpoint(&settings).map_err(|error| format!("{address}: {error}"))?;
    Ok(endpoint.http2_adaptive_window(true).connect_lazy())
}

/// Returns a request with the secret of the fleet.
///
/// # Errors
///
/// The secret cannot be sent.
pub(super) fn with_secret<T>(message: T, config: &LinkConfig) -> Result<Request<T>, String> {
    let mut request = Request::new(message);
    if let Some(secret) = &config.secret {
        let value = MetadataValue::try_from(secret.expose());
        let mut value = value.map_err(|_| "the secret of the fleet has other signs than ASCII")?;
        value.set_sensitive(true);
        request.metadata_mut().insert(SECRET_METADATA, value);
    }
    Ok(request)
}

/// Checks that a call comes from a node of the fleet, if the fleet has a secret.
///
/// # Errors
///
/// `UNAUTHENTICATED`.
pub(super) fn check_secret(metadata: &MetadataMap, secret: Option<&Secret>) -> Result<(), Status> {
    let Some(secret) = secret else { return Ok(()) };
    let given = metadata.get(SECRET_METADATA).map(|value| value.as_bytes());
    match given.is_some_and(|given| given.ct_eq(secret.expose().as_bytes()).into()) {
        true => Ok(()),
        false => Err(Status::unauthenticated("the secret of the fleet is another one")),
    }
}
