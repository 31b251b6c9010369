//! The settings of a node of a fleet: the section `[fleet]`. The file is long, because each setting
//! stands beside its check.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize};

use super::nats::{NatsConfig, NatsCredentials, NatsTls, check_fleet_name};
use super::node::NodeConfig;
use super::record::{MAX_NODE_ADDRESS_BYTES, MAX_NODE_NAME_BYTES};
use crate::broker::all_within;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// The least bytes of a secret of the fleet.
const LEAST_SECRET_BYTES: usize = 16;

/// The least bytes that a bounded stream keeps: some of the largest records.
const LEAST_STREAM_BYTES: u64 = 64 << 20;

/// The longest time for which records are kept: 30 days.
const MAX_KEEP_MS: u64 = 30 * 24 * 60 * 60 * 1_000;

/// The largest file with a secret, in bytes.
const MAX_SECRET_FILE_BYTES: u64 = 64 << 10;

/// The settings of a node of a fleet. Without `servers` the broker is alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FleetConfig {
    /// The servers of NATS, each like `nats://host:4222` or `tls://host:4222`. Default: none, and
    /// the broker is alone.
    pub servers: Vec<String>,
    /// The name of the fleet, the same on all its nodes: up to 64 letters (a to z), digits, `-` and
    /// `_`. Required in a fleet.
    pub name: String,
    /// The name of this node, another one on each: up to 128 bytes. Required in a fleet.
    pub node: String,
    /// The URL at which the other nodes reach this one, like `https://n1:4280`. Required in a
    /// fleet.
    pub advertise: String,
    /// The silence of the leader, in milliseconds, after which another node leads. 100 to 60,000.
    /// Default: 3,000.
    pub lease_ms: u64,
    /// The least time, in milliseconds, for which the stream keeps a record: a node that was away
    /// for less catches up without a backup of another node. Up to 2,592,000,000, which is 30
    /// days. Default: 3,600,000, an hour.
    pub keep_ms: u64,
    /// The secret by which the nodes know each other, the same on all: 16 bytes or more. Required
    /// in a fleet with `access.mode = "required"`. Default: none.
    pub secret: Option<Secret>,
    /// A file with the secret. White space at its end does not count. Default: none.
    pub secret_file: Option<PathBuf>,
    /// A file of certificates in PEM by which the other nodes are trusted where they are reached by
    /// `https://`. Default: none, and those of the system count.
    pub nodes_ca: Option<PathBuf>,
    /// The user of NATS, with `nats_password`. Default: none.
    pub nats_user: String,
    /// The password of `nats_user`. Default: none.
    pub nats_password: Option<Secret>,
    /// A token for NATS. Default: none.
    pub nats_token: Option<Secret>,
    /// A file with a key for NATS: its seed, which begins with `SU`. Default: none.
    pub nats_nkey_file: Option<PathBuf>,
    /// A file of credentials for NATS (`.creds`), with a token and a key. Default: none.
    pub nats_creds_file: Option<PathBuf>,
    /// A file of certificates in PEM by which the servers of NATS are trusted. With it, TLS is
    /// spoken with all of them. Default: none, and those of the system count.
    pub nats_ca: Option<PathBuf>,
    /// A file with the certificate in PEM that is shown to NATS. Needs `nats_key`. Default: none.
    pub nats_cert: Option<PathBuf>,
    /// A file with the key of `nats_cert` in PEM. Default: none.
    pub nats_key: Option<PathBuf>,
    /// Whether TLS with NATS begins before the server has said a word (`handshake_first` there).
    /// Default: false.
    pub nats_tls_first: bool,
    /// The replicas of a new stream: 1, 3 or 5. Default: 3.
    pub replicas: u64,
    /// The bytes that a new stream keeps at the most; the oldest go first. A node that was away
    /// longer than they last loads a backup of another node. 0 for no bound, or at least 64 MiB.
    /// Default: 0.
    pub max_stream_bytes: u64,
    /// The most members of other nodes that this one shows among those who are present. 0 to
    /// 10,000,000; each takes about 4 KiB with long texts. Default: 100,000.
    pub max_members_elsewhere: u64,
    /// The bytes of its log that the node reads in a second to find damage before somebody needs
    /// the events, up to 1 TiB; 0 for no search. The search begins anew a day after its end.
    /// Default: 4,194,304, which is 4 MiB.
    pub search_bytes_per_second: u64,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            name: String::new(),
            node: String::new(),
            advertise: String::new(),
            lease_ms: 3_000,
            keep_ms: 60 * 60 * 1_000,
            secret: None,
            secret_file: None,
            nodes_ca: None,
            nats_user: String::new(),
            nats_password: None,
            nats_token: None,
            nats_nkey_file: None,
            nats_creds_file: None,
            nats_ca: None,
            nats_cert: None,
            nats_key: None,
            nats_tls_first: false,
            replicas: 3,
            max_stream_bytes: 0,
            max_members_elsewhere: 100_000,
            search_bytes_per_second: 4 << 20,
        }
    }
}

impl FleetConfig {
    /// Whether the broker is alone.
    pub fn is_alone(&self) -> bool {
        self.servers.is_empty()
    }

    /// Whether a secret of the fleet is named.
    pub fn has_secret(&self) -> bool {
        self.secret.is_some() || self.secret_file.is_some()
    }

    /// Checks each setting. Files are read later.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the value and the bounds.
    pub fn validate(&self) -> Result<()> {
        all_within(&[
            ("fleet.lease_ms", self.lease_ms, 100, 60_000),
            ("fleet.keep_ms", self.keep_ms, 0, MAX_KEEP_MS),
            ("fleet.max_stream_bytes", self.max_stream_bytes, 0, 1 << 50),
            ("fleet.max_members_elsewhere", self.max_members_elsewhere, 0, 10_000_000),
            ("fleet.search_bytes_per_second", self.search_bytes_per_second, 0, 1 << 40),
        ])?;
        if !matches!(self.replicas, 1 | 3 | 5) {
            let problem = format!("{} is not 1, 3 or 5", self.replicas);
            return Err(Error::invalid("fleet.replicas", problem));
        }
        if (1..LEAST_STREAM_BYTES).contains(&self.max_stream_bytes) {
            let problem =
                format!("{} is below {LEAST_STREAM_BYTES}; 0 is no bound", self.max_stream_bytes);
            return Err(Error::invalid("fleet.max_stream_bytes", problem));
        }
        self.check_secrets()?;
        if self.is_alone() {
            return self.check_alone();
        }
        self.check_node()?;
        self.servers.iter().try_for_each(|url| check_server(url))
    }

    /// Checks that nobody believes to have a fleet.
    fn check_alone(&self) -> Result<()> {
        let named = [
            ("fleet.name", &self.name),
            ("fleet.node", &self.node),
            ("fleet.advertise", &self.advertise),
        ];
        match named.into_iter().find(|(_, value)| !value.is_empty()) {
            Some((name, value)) => {
                let problem = format!(
                    "is {value:?}, and fleet.servers is empty: name the servers of NATS (--fleet), \
                     or leave it out"
                );
                Err(Error::invalid(name, problem))
            }
            None => Ok(()),
        }
    }

    fn check_node(&self) -> Result<()> {
        check_fleet_name(&self.name).map_err(|problem| Error::invalid("fleet.name", problem))?;
        let bytes = self.node.len();
        if !(1..=MAX_NODE_NAME_BYTES).contains(&bytes) {
            let problem = format!(
                "{:?} has {bytes} bytes; give each node a name of its own of 1 to \
                 {MAX_NODE_NAME_BYTES}",
                self.node
            );
            return Err(Error::invalid("fleet.node", problem));
        }
        check_advertised(&self.advertise)
    }

    /// Checks that no secret is given in two ways, or by half.
    fn check_secrets(&self) -> Result<()> {
        if self.secret.is_some() && self.secret_file.is_some() {
            let problem = "is given, and fleet.secret_file, too: give one of them";
            return Err(Error::invalid("fleet.secret", problem));
        }
        if let Some(secret) = &self.secret {
            check_secret("fleet.secret", secret)?;
        }
        match (&*self.nats_user, &self.nats_password) {
            ("", Some(_)) => {
                return Err(Error::invalid("fleet.nats_password", "needs fleet.nats_user"));
            }
            (user, None) if !user.is_empty() => {
                return Err(Error::invalid("fleet.nats_user", "needs fleet.nats_password"));
            }
            _ => {}
        }
        let ways = [
            ("fleet.nats_user", !self.nats_user.is_empty()),
            ("fleet.nats_token", self.nats_token.is_some()),
            ("fleet.nats_nkey_file", self.nats_nkey_file.is_some()),
            ("fleet.nats_creds_file", self.nats_creds_file.is_some()),
        ];
        let mut given = ways.into_iter().filter(|(_, is_given)| *is_given);
        if let (Some((first, _)), Some((second, _))) = (given.next(), given.next()) {
            let problem = format!("is given, and {second}, too: NATS takes one of them");
            return Err(Error::invalid(first, problem));
        }
        match (&self.nats_cert, &self.nats_key) {
            (Some(_), None) => Err(Error::invalid("fleet.nats_cert", "needs fleet.nats_key")),
            (None, Some(_)) => Err(Error::invalid("fleet.nats_key", "needs fleet.nats_cert")),
            _ => Ok(()),
        }
    }

    /// Returns the settings of the node. Reads the files of the secret and of the certificates.
    ///
    /// # Errors
    ///
    /// As [`Self::nats_config`]; or the secret is too short.
    pub fn node_config(&self) -> Result<NodeConfig> {
        Ok(NodeConfig {
            fleet: self.name.clone(),
            advertise: self.advertise.clone(),
            secret: self.node_secret()?,
            ca_pem: self.nodes_ca.as_deref().map(read_certificates).transpose()?,
            lease: Duration::from_millis(self.lease_ms),
            keep: Duration::from_millis(self.keep_ms),
            max_members_elsewhere: self.max_members_elsewhere as usize,
            search_bytes_per_second: self.search_bytes_per_second,
            ..NodeConfig::new(self.node.clone())
        })
    }

    /// Returns how NATS is reached. Reads the files of credentials.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the file, and why it is not read.
    pub fn nats_config(&self) -> Result<NatsConfig> {
        let credentials = if let Some(password) = &self.nats_password {
            NatsCredentials::Password { user: self.nats_user.clone(), password: password.clone() }
        } else if let Some(token) = &self.nats_token {
            NatsCredentials::Token(token.clone())
        } else if let Some(file) = &self.nats_nkey_file {
            NatsCredentials::Nkey(read_secret("fleet.nats_nkey_file", file)?)
        } else if let Some(file) = &self.nats_creds_file {
            NatsCredentials::File(read_secret("fleet.nats_creds_file", file)?)
        } else {
            NatsCredentials::None
        };
        Ok(NatsConfig {
            credentials,
            tls: NatsTls {
                trusted: self.nats_ca.clone(),
                identity: self.nats_cert.clone().zip(self.nats_key.clone()),
                first: self.nats_tls_first,
            },
            replicas: u8::try_from(self.replicas).unwrap_or(u8::MAX),
            max_bytes: Some(self.max_stream_bytes).filter(|bytes| *bytes > 0),
            ..NatsConfig::new(self.servers.clone())
        })
    }

    /// Returns the secret of the fleet, if there is one. Reads its file.
    ///
    /// # Errors
    ///
    /// As [`Self::nats_config`]; or the secret is too short.
    fn node_secret(&self) -> Result<Option<Secret>> {
        let Some(file) = &self.secret_file else { return Ok(self.secret.clone()) };
        let secret = read_secret("fleet.secret_file", file)?;
        check_secret("fleet.secret_file", &secret)?;
        Ok(Some(secret))
    }
}

fn check_secret(name: &str, secret: &Secret) -> Result<()> {
    let bytes = secret.expose().len();
    if bytes < LEAST_SECRET_BYTES {
        let problem = format!("has {bytes} bytes; give {LEAST_SECRET_BYTES} or more");
        return Err(Error::invalid(name, problem));
    }
    // Other signs may be written in several ways, and would differ between nodes unseen.
    if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(name, "has other signs than those of ASCII, or white space"));
    }
    Ok(())
}

/// Checks the URL of a server of NATS.
fn check_server(url: &str) -> Result<()> {
    let refused = |problem: String| Err(Error::invalid("fleet.servers", problem));
    let Some((scheme @ ("nats" | "tls"), rest)) = url.split_once("://") else {
        return refused(format!("{url:?} is no URL of NATS; write nats://host:4222"));
    };
    if let Some((_, host)) = rest.rsplit_once('@') {
        return refused(format!(
            "{scheme}://***@{host} has who connects in it, which would be shown with the settings: \
             set fleet.nats_user and fleet.nats_password, or fleet.nats_token"
        ));
    }
    if rest.is_empty() || rest.contains(|c: char| c.is_whitespace() || "/,?#".contains(c)) {
        return refused(format!("{url:?} is no URL of NATS; write {scheme}://host:4222"));
    }
    Ok(())
}

/// Checks the URL at which other nodes reach this one.
fn check_advertised(url: &str) -> Result<()> {
    let refused = |problem: &str| {
        let expected = "the URL at which the other nodes reach this one, like https://n1:4280";
        Err(Error::invalid("fleet.advertise", format!("{url:?} {problem}; give {expected}")))
    };
    if url.len() > MAX_NODE_ADDRESS_BYTES {
        let bytes = url.len();
        let problem = format!("has {bytes} bytes; {MAX_NODE_ADDRESS_BYTES} are the most");
        return Err(Error::invalid("fleet.advertise", problem));
    }
    let Ok(parsed) = url.parse::<Uri>() else { return refused("is no URL") };
    let is_plain = matches!(parsed.path(), "" | "/") && parsed.query().is_none();
    match (parsed.scheme_str(), parsed.authority()) {
        (Some("http" | "https"), Some(_)) if !is_plain => refused("has a path"),
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            refused("has who connects in it")
        }
        (Some("http" | "https"), Some(authority)) if matches!(authority.host(), "" | "*") => {
            refused("names no host")
        }
        (Some("http" | "https"), Some(_)) => Ok(()),
        _ => refused("is no URL of HTTP"),
    }
}

/// Reads the file of certificates of `fleet.nodes_ca`.
fn read_certificates(file: &Path) -> Result<Vec<u8>> {
    let refused = |error| Error::invalid("fleet.nodes_ca", format!("{}: {error}", file.display()));
    std::fs::read(file).map_err(refused)
}

/// Reads a file with a secret, without white space at its end.
fn read_secret(name: &str, file: &Path) -> Result<Secret> {
    let refused = |problem: String| Error::invalid(name, format!("{}: {problem}", file.display()));
    let meta = std::fs::metadata(file).map_err(|error| refused(error.to_string()))?;
    if meta.len() > MAX_SECRET_FILE_BYTES {
        return Err(refused(format!(
            "has {} bytes; {MAX_SECRET_FILE_BYTES} are the most",
            meta.len()
        )));
    }
    let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    match text.trim_end() {
        "" => Err(refused("is empty".to_owned())),
        text => Ok(Secret::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> FleetConfig {
        FleetConfig {
            servers: vec!["nats://a:4222".to_owned(), "tls://b".to_owned()],
            name: "orders".to_owned(),
            node: "n1".to_owned(),
            advertise: "https://n1:4280".to_owned(),
            ..FleetConfig::default()
        }
    }

    /// Asserts that `change` makes the settings wrong, and that the message has all the words.
    fn refused(words: &[&str], change: impl FnOnce(&mut FleetConfig)) {
        let mut config = fleet();
        change(&mut config);
        let problem = config.validate().unwrap_err().to_string();
        for word in words {
            assert!(problem.contains(word), "{word:?} is not in: {problem}");
        }
    }

    #[test]
    fn a_broker_is_alone_unless_servers_are_named() {
        let alone = FleetConfig::default();
        assert!(alone.is_alone());
        alone.validate().unwrap();
        fleet().validate().unwrap();
        assert!(!fleet().is_alone());
        refused(&["fleet.name", "\"orders\"", "fleet.servers", "--fleet"], |it| it.servers.clear());
    }

    #[test]
    fn wrong_settings_are_refused_with_the_name_the_value_and_the_bound() {
        refused(&["fleet.name", "\"a.b\"", "64"], |it| it.name = "a.b".to_owned());
        refused(&["fleet.name", "\"\""], |it| it.name.clear());
        refused(&["fleet.node", "0 bytes", "128"], |it| it.node.clear());
        refused(&["fleet.node", "129 bytes"], |it| it.node = "n".repeat(129));
        refused(&["fleet.lease_ms", "99", "100 and 60000"], |it| it.lease_ms = 99);
        refused(&["fleet.keep_ms", "2592000001", "0 and 2592000000"], |it| {
            it.keep_ms = 2_592_000_001;
        });
        refused(&["fleet.search_bytes_per_second", "0 and 1099511627776"], |it| {
            it.search_bytes_per_second = (1 << 40) + 1;
        });
        refused(&["fleet.replicas", "2 is not 1, 3 or 5"], |it| it.replicas = 2);
        refused(&["fleet.max_stream_bytes", "1 is below 67108864"], |it| it.max_stream_bytes = 1);
        for url in
            ["", "n1:4280", "ftp://n1", "http://", "https://n1:4280/x", "http://a@n1", "http://*"]
        {
            refused(&["fleet.advertise", url, "https://n1:4280"], |it| {
                it.advertise = url.to_owned()
            });
        }
        refused(&["fleet.advertise", "513 bytes"], |it| {
            it.advertise = format!("http://{}", "n".repeat(506));
        });
        for url in ["", "a:4222", "http://a", "nats://", "nats://a,nats://b", "nats://a/x"] {
            refused(&["fleet.servers", url, "://host:4222"], |it| it.servers.push(url.to_owned()));
        }
    }

    #[test]
    fn secrets_are_given_in_one_way_and_never_shown() {
        let secret = |text: &str| Some(Secret::from(text));
        refused(&["fleet.secret", "has 15 bytes; give 16"], |it| {
            it.secret = secret("123456789012345")
        });
        refused(&["fleet.secret", "ASCII"], |it| it.secret = secret("12345678 12345678"));
        refused(&["fleet.secret", "fleet.secret_file"], |it| {
            (it.secret, it.secret_file) = (secret("1234567890123456"), Some("s".into()));
        });
        refused(&["fleet.nats_user", "fleet.nats_password"], |it| it.nats_user = "u".to_owned());
        refused(&["fleet.nats_user"], |it| it.nats_password = secret("p"));
        refused(&["fleet.nats_token", "fleet.nats_creds_file"], |it| {
            (it.nats_token, it.nats_creds_file) = (secret("t"), Some("c".into()));
        });
        refused(&["fleet.nats_cert"], |it| it.nats_cert = Some("c".into()));
        refused(&["fleet.nats_key"], |it| it.nats_key = Some("k".into()));
        let mut config = fleet();
        config.servers.push("nats://ann:hunter2@a:4222".to_owned());
        let problem = config.validate().unwrap_err().to_string();
        assert!(problem.contains("nats://***@a:4222") && !problem.contains("hunter2"), "{problem}");
    }

    #[test]
    fn files_of_secrets_are_read_without_the_end_of_their_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let mut config = FleetConfig { secret_file: Some(file.clone()), ..fleet() };
        let problem = |config: &FleetConfig| config.node_secret().unwrap_err().to_string();
        assert!(problem(&config).starts_with("fleet.secret_file: "), "{}", problem(&config));
        std::fs::write(&file, "short\n").unwrap();
        assert!(problem(&config).contains("has 5 bytes"), "{}", problem(&config));
        std::fs::write(&file, " \n").unwrap();
        assert!(problem(&config).contains("is empty"), "{}", problem(&config));
        std::fs::write(&file, "1234567890123456\r\n").unwrap();
        assert_eq!(config.node_secret().unwrap(), Some(Secret::from("1234567890123456")));
        std::fs::write(&file, "x".repeat(MAX_SECRET_FILE_BYTES as usize + 1)).unwrap();
        assert!(problem(&config).contains("65537 bytes; 65536"), "{}", problem(&config));
        config.nats_nkey_file = Some(directory.path().join("seed"));
        std::fs::write(directory.path().join("seed"), "SUAB\n").unwrap();
        let NatsCredentials::Nkey(seed) = config.nats_config().unwrap().credentials else {
            panic!("a key is given");
        };
        assert_eq!(seed.expose(), "SUAB");
    }

    #[test]
    fn the_settings_reach_the_node_and_nats() {
        let mut config = fleet();
        config.keep_ms = 7_000;
        assert_eq!(config.node_config().unwrap().keep, Duration::from_secs(7));
        config.nats_password = Some(Secret::from("p"));
        config.nats_user = "u".to_owned();
        (config.nats_cert, config.nats_key) = (Some("c".into()), Some("k".into()));
        (config.replicas, config.lease_ms) = (5, 500);
        let nats = config.nats_config().unwrap();
        assert_eq!((nats.replicas, nats.max_bytes, nats.urls), (5, None, config.servers.clone()));
        assert_eq!(nats.tls.identity, Some(("c".into(), "k".into())));
        assert!(matches!(nats.credentials, NatsCredentials::Password { user, .. } if user == "u"));
        config.max_stream_bytes = LEAST_STREAM_BYTES;
        config.validate().unwrap();
        assert_eq!(config.nats_config().unwrap().max_bytes, Some(LEAST_STREAM_BYTES));
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca.pem");
        config.nodes_ca = Some(ca.clone());
        let problem = config.node_config().unwrap_err().to_string();
        assert!(problem.starts_with("fleet.nodes_ca: ") && problem.contains("ca.pem"), "{problem}");
        std::fs::write(ca, "pem").unwrap();
        config.secret = Some(Secret::from("1234567890123456"));
        let node = config.node_config().unwrap();
        assert_eq!((node.secret, node.ca_pem), (config.secret, Some(b"pem".to_vec())));
        assert_eq!((&*node.name, &*node.advertise), ("n1", "https://n1:4280"));
        assert_eq!(node.lease, Duration::from_millis(500));
    }
}
