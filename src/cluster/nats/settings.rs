//! How the engine is reached, and what its stream is to be like.

use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::messages::MessageKind;
use crate::cluster::stream::MAX_RECORD_BYTES;
use crate::secret::Secret;

/// The largest message, with the headers: what servers take by default.
pub(super) const LARGEST_MESSAGE_BYTES: usize = MAX_RECORD_BYTES + (4 << 10);

/// The longest name of a fleet, in bytes.
const MAX_FLEET_NAME_BYTES: usize = 64;

/// How NATS is reached, and what the fleet's stream is to be like.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// The servers, each like `nats://host:4222` or `tls://host:4222`. One that answers is enough:
    /// a cluster's servers name the others, unless they are told not to.
    pub urls: Vec<String>,
    /// Who connects.
    pub credentials: NatsCredentials,
    /// How TLS is spoken. It is spoken with servers that ask for it, and with each `tls://`.
    pub tls: NatsTls,
    /// The replicas that a new stream gets: 1, 3 or 5. Default: 3. A server that is in no cluster
    /// can have only 1, and is given that.
    pub replicas: u8,
    /// The bytes that a new stream keeps at the most; the oldest records go first. Default: no
    /// bound, so that only what all nodes have applied is removed.
    pub max_bytes: Option<u64>,
    /// How long an append waits for its acknowledgement, and for a connection. What was sent to a
    /// server that died is never answered, so it is short: to append again with the same fence is
    /// safe. Default: 1.5 s, twice what as many of the largest records take as may be in flight.
    pub append_timeout: Duration,
    /// How long any other call waits for its answer, and for a connection. Default: 4 s.
    pub answer_timeout: Duration,
}

/// Who connects to NATS.
#[derive(Debug, Clone, Default)]
pub enum NatsCredentials {
    /// Nobody in particular; a name and a password in a URL count.
    #[default]
    None,
    /// A user with a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Token(Secret),
    /// A key: the seed, which begins with `SU`.
    Nkey(Secret),
    /// The text of a file of credentials (`.creds`), with a token and a key.
    File(Secret),
}

/// How TLS is spoken with NATS.
#[derive(Debug, Clone, Default)]
pub struct NatsTls {
    /// The file with the certificates that sign those of the servers, in PEM. Default: those that
    /// the system trusts.
    pub trusted: Option<PathBuf>,
    /// The file with the certificate that the node shows, and the one with its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins before the server has said a word (`handshake_first` there).
    pub first: bool,
}

impl NatsConfig {
    /// Returns the settings for these servers; everything else has its default.
    pub fn new(urls: Vec<String>) -> Self {
        Self {
            urls,
            credentials: NatsCredentials::None,
            tls: NatsTls::default(),
            replicas: 3,
            max_bytes: None,
            append_timeout: Duration::from_millis(1500),
            answer_timeout: Duration::from_secs(4),
        }
    }
}

/// Checks the name of a fleet.
///
/// # Errors
///
/// What is wrong with it.
pub(in crate::cluster) fn check_fleet_name(fleet: &str) -> Result<(), String> {
    StreamNames::of(fleet).map(drop)
}

/// The names that a fleet's stream has in NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StreamNames {
    /// Of the stream.
    pub(super) stream: String,
    /// Of the one subject that its records are published to.
    pub(super) subject: String,
    /// The beginning of all subjects of the fleet, with the dot.
    prefix: String,
}

impl StreamNames {
    /// Returns the names for this fleet.
    ///
    /// # Errors
    ///
    /// What is wrong with the fleet's name.
    pub(super) fn of(fleet: &str) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if fleet.is_empty() || fleet.len() > MAX_FLEET_NAME_BYTES || !fleet.bytes().all(known) {
            return Err(format!(
                "{fleet:?} names no fleet: give 1 to {MAX_FLEET_NAME_BYTES} letters (a to z), \
                 digits, - and _"
            ));
        }
        let stream = format!("LEFTOFF_{fleet}");
        let prefix = format!("leftoff.fleet.{fleet}.");
        Ok(Self { stream, subject: format!("{prefix}records"), prefix })
    }

    /// Returns the subject of messages of this kind.
    pub(super) fn subject_of(&self, kind: MessageKind) -> String {
        format!("{}{}", self.prefix, kind.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleets_name_that_nats_would_read_otherwise_is_refused() {
        for name in ["", "a.b", "a b", "a*", ">", "ä", "a/b", &"x".repeat(65)] {
            StreamNames::of(name).unwrap_err();
        }
        let names = StreamNames::of("orders-1").unwrap();
        assert_eq!(names.stream, "LEFTOFF_orders-1");
        assert_eq!(names.subject, "leftoff.fleet.orders-1.records");
        assert_eq!(names.subject_of(MessageKind::Peers), "leftoff.fleet.orders-1.peers");
    }
}
