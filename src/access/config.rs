//! The settings of access: who may do what, by which credentials, and from which web pages.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::edge::origins::Origins;
use crate::error::Result;
use crate::secret::Secret;
use crate::section;

/// The settings of who may reach the broker, and of who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AccessConfig {
    /// Whether callers must prove who they are. Default: `open`.
    pub mode: AccessMode,
    /// Whether `leftoff serve` may listen beyond the machine without access control. Default:
    /// false.
    pub insecure: bool,
    /// Origins whose pages may use the broker, besides its own: `https://app.example`, with the
    /// port if it is not the default of the scheme. Default: none.
    pub allowed_origins: Vec<String>,
    /// Names by which the broker is reached, without ports; `*` allows any. `localhost` and
    /// loopback addresses are always allowed. A broker that listens beyond the loopback device is
    /// reached by any address. Default: none.
    pub allowed_hosts: Vec<String>,
    /// The static keys of services.
    #[serde(deserialize_with = "section::many")]
    pub keys: Vec<KeyConfig>,
    /// The issuers of tokens (JWT).
    #[serde(deserialize_with = "section::many")]
    pub issuers: Vec<IssuerConfig>,
    /// The rules that give permissions to callers by the claims of their tokens, or by the names in
    /// their certificates.
    #[serde(deserialize_with = "section::many")]
    pub roles: Vec<RoleConfig>,
    /// What callers without credentials may do. Default: nothing, and they are refused.
    #[serde(deserialize_with = "section::some")]
    pub anonymous: Option<AnonymousConfig>,
    /// Name of the cookie that may hold a token. Default: none.
    pub cookie: Option<String>,
    /// Whether `?access_token=` is taken. Default: false.
    pub tokens_in_urls: bool,
    /// Whether `/readyz` needs a credential. Default: false.
    pub guarded_readyz: bool,
    /// Whether `/metrics` needs no credential. Default: false.
    pub open_metrics: bool,
    /// The bounds of tickets.
    #[serde(deserialize_with = "section::one")]
    pub tickets: TicketsConfig,
}

/// Whether callers must prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AccessMode {
    /// Everybody who reaches the broker may do everything.
    #[default]
    Open,
    /// Nobody may do anything without a credential, except what `access.anonymous` permits.
    Required,
}

/// One static key, as `leftoff key create` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct KeyConfig {
    /// The id of the caller. Several keys may have the same name, so that they can be rotated.
    pub name: String,
    /// SHA-256 of the key, `sha256:` and 64 hexadecimal digits.
    pub hash: String,
    /// When the key was made, in RFC 3339: a revocation refuses keys from before it.
    pub created: String,
    /// The patterns of topics to publish to.
    pub publish: Vec<String>,
    /// The patterns of topics to follow and read, and to be present in.
    pub subscribe: Vec<String>,
    /// The patterns of topics to create, change, purge and delete.
    pub manage: Vec<String>,
    /// Whether it may administer the broker, and manage all topics.
    pub admin: bool,
    /// Whether it may read the topic of the audit.
    pub audit: bool,
}

/// One issuer of tokens, and the key by which they are verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct IssuerConfig {
    /// The value that `iss` must have. Default: any, or none.
    pub issuer: Option<String>,
    /// The values of which `aud` must have one. Default: none, and `aud` must be absent.
    pub audience: Vec<String>,
    /// The algorithms that are accepted: HS256, RS256, PS256, ES256, EdDSA.
    pub algorithms: Vec<String>,
    /// The secret of HS256, 32 bytes or more.
    pub secret: Option<Secret>,
    /// A file with the secret of HS256. White space at its end does not count.
    pub secret_file: Option<PathBuf>,
    /// The public key in PEM.
    pub key: Option<String>,
    /// A file with the public key in PEM.
    pub key_file: Option<PathBuf>,
    /// The URL of the issuer's keys (JWKS), https, or http on the loopback device.
    pub jwks_url: Option<String>,
    /// A file of certificates in PEM that `jwks_url` is trusted by. Default: those of the system.
    pub jwks_ca: Option<PathBuf>,
    /// Tolerance of `exp` and `nbf`, in seconds. Default: 30.
    pub leeway_s: u64,
    /// Whether the claim `leftoff` gives permissions. Otherwise roles alone do. Default: true.
    pub permits: bool,
}

/// Permissions for the callers whose claims match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RoleConfig {
    /// The `issuer` whose tokens the rule is for. Default: any, and client certificates.
    pub issuer: Option<String>,
    /// The name of the claim; `a.b` is `b` inside of `a`. A client certificate has the claim `san`.
    pub claim: String,
    /// The text that the claim must be, or hold as one of its values. Default: any.
    pub contains: Option<String>,
    /// The patterns of topics to publish to. In all patterns `{sub}` is the caller as one token.
    pub publish: Vec<String>,
    /// The patterns of topics to follow and read, and to be present in.
    pub subscribe: Vec<String>,
    /// The patterns of topics to create, change, purge and delete.
    pub manage: Vec<String>,
    /// Whether these callers may administer the broker, and manage all topics.
    pub admin: bool,
    /// Whether these callers may read the topic of the audit.
    pub audit: bool,
}

/// What callers without credentials may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AnonymousConfig {
    /// The patterns of topics to publish to.
    pub publish: Vec<String>,
    /// The patterns of topics to follow and read.
    pub subscribe: Vec<String>,
}

/// The bounds of tickets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TicketsConfig {
    /// The most tickets that are valid at the same time. 1 to 10,000,000. Default: 100,000.
    pub max_tickets: u64,
    /// The most tickets of one caller that are valid at the same time. 1 to 10,000,000.
    /// Default: 100.
    pub max_tickets_per_caller: u64,
    /// Life of a ticket for one use, in seconds. 1 to 600. Default: 30.
    pub once_s: u64,
    /// Longest life of a ticket for streams, in seconds. It never outlives the credential that it
    /// was made with. 1 to 604,800. Default: 3,600.
    pub stream_s: u64,
}

impl Default for IssuerConfig {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: Vec::new(),
            algorithms: Vec::new(),
            secret: None,
            secret_file: None,
            key: None,
            key_file: None,
            jwks_url: None,
            jwks_ca: None,
            leeway_s: 30,
            permits: true,
        }
    }
}

impl Default for TicketsConfig {
    fn default() -> Self {
        Self { max_tickets: 100_000, max_tickets_per_caller: 100, once_s: 30, stream_s: 3_600 }
    }
}

impl AccessConfig {
    /// Returns the web pages that may use the broker, and the names by which it is reached.
    ///
    /// # Errors
    ///
    /// As [`Self::validate`].
    pub(crate) fn origins(&self) -> Result<Origins> {
        Origins::parse(&self.allowed_origins, &self.allowed_hosts)
    }
}
