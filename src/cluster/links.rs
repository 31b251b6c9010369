//! How a node reaches others, and how nodes know each other: by the secret of their fleet.
//!
//! A call has a proof of the secret for the address that is called, never the secret itself. So
//! whoever has a node call an address of its own learns nothing that another node would take.
//!
//! A node that speaks TLS itself calls no other one without: who answers is then known by its
//! certificate, and nobody reads what is sent.

use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::signature::sign;
use crate::client::{ClientConfig, endpoint};
use crate::secret::Secret;

/// The name of the metadata with the proof of a fleet's secret, in hexadecimal digits.
const PROOF_METADATA: &str = "leftoff-fleet";

/// What is signed for a proof.
const PURPOSE: &str = "leftoff fleet call 1";

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
    /// Whether others are called by `https://` alone.
    pub(super) needs_tls: bool,
}

impl LinkConfig {
    /// Returns how a node reaches others that is reached at `advertise` itself.
    pub(super) fn new(secret: Option<Secret>, ca_pem: Option<Vec<u8>>, advertise: &str) -> Self {
        Self { secret, ca_pem, needs_tls: is_tls(advertise) }
    }
}

fn is_tls(address: &str) -> bool {
    let scheme = address.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// Returns a channel to a node, which connects when it is used.
///
/// # Errors
///
/// What is wrong with the address: it is none, or has no TLS and must have it.
pub(super) fn channel(
    address: &str,
    config: &LinkConfig,
    wait: Duration,
) -> Result<Channel, String> {
    if config.needs_tls && !is_tls(address) {
        return Err(format!(
            "{address} is not called, because it has no TLS, and this node's own address has: give \
             the node there an https:// URL as fleet.advertise"
        ));
    }
    let mut settings = ClientConfig::new(address);
    settings.ca_pem.clone_from(&config.ca_pem);
    (settings.connect_timeout, settings.keep_alive) = (wait, KEEP_ALIVE);
    let endpoint = endpoint(&settings).map_err(|error| format!("{address}: {error}"))?;
    Ok(endpoint.http2_adaptive_window(true).connect_lazy())
}

/// Returns a request to the node at `address`, with the proof that this node knows the secret.
pub(super) fn with_proof<T>(message: T, address: &str, config: &LinkConfig) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(secret) = &config.secret {
        let value = MetadataValue::try_from(proof(secret, address));
        let mut value = value.expect("hexadecimal digits can be sent");
        value.set_sensitive(true);
        request.metadata_mut().insert(PROOF_METADATA, value);
    }
    request
}

/// Checks that a call to this node, which has told others `address`, comes from a node of the
/// fleet, if the fleet has a secret.
///
/// # Errors
///
/// `UNAUTHENTICATED`.
pub(super) fn check_proof(
    metadata: &MetadataMap,
    secret: Option<&Secret>,
    address: &str,
) -> Result<(), Status> {
    let Some(secret) = secret else { return Ok(()) };
    let given = metadata.get(PROOF_METADATA).map(|value| value.as_bytes());
    match given.is_some_and(|given| given.ct_eq(proof(secret, address).as_bytes()).into()) {
        true => Ok(()),
        false => Err(Status::unauthenticated(
            "the secret of the fleet is another one, or another node was called",
        )),
    }
}

fn proof(secret: &Secret, address: &str) -> String {
    sign(secret, PURPOSE, &[address.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(advertise: &str) -> LinkConfig {
        LinkConfig::new(Some("1234567890123456".into()), None, advertise)
    }

    #[test]
    fn a_proof_is_for_one_address_and_never_has_the_secret() {
        let request = with_proof((), "https://n1:4280", &config("https://n2:4280"));
        let secret = Secret::from("1234567890123456");
        let check = |secret, address| check_proof(request.metadata(), secret, address);
        check(Some(&secret), "https://n1:4280").unwrap();
        check(None, "anywhere").unwrap();
        for address in ["https://n2:4280", "https://n1:4281", ""] {
            let refused = check(Some(&secret), address).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{address}");
        }
        assert!(check(Some(&"1234567890123457".into()), "https://n1:4280").is_err());
        let sent = request.metadata().get(PROOF_METADATA).unwrap().as_bytes();
        assert_eq!(sent.len(), 64);
        let without = with_proof((), "https://n1:4280", &LinkConfig::default());
        assert!(check_proof(without.metadata(), Some(&secret), "https://n1:4280").is_err());
    }

    #[tokio::test]
    async fn a_node_with_tls_calls_no_other_one_without() {
        let wait = Duration::from_secs(1);
        for own in ["https://n1:4280", "HTTPS://n1"] {
            let problem = channel("http://n2:4280", &config(own), wait).unwrap_err();
            assert!(
                problem.contains("http://n2:4280") && problem.contains("https://"),
                "{problem}"
            );
        }
        for own in ["http://n1:4280", ""] {
            channel("http://n2:4280", &config(own), wait).unwrap();
        }
    }
}
