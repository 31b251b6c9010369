//! The credentials of the tests: keys and tokens of all kinds, good and bad, and how they are sent.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use leftoff::access::{IssuerConfig, KeyConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::to;

pub(super) const ISSUER: &str = "https://id.example";
pub(super) const AUDIENCE: &str = "leftoff";
/// An issuer whose tokens have a secret, and no audience.
pub(super) const OWN_ISSUER: &str = "own";
pub(super) const SECRET_OF_OWN: &str = "b64e1c8f55d84f1e-the-secret-of-own-tokens";
/// The cookie that may hold a token.
pub(super) const COOKIE: &str = "leftoff_session";

const RSA: &str = include_str!("keys/rsa.pem");
pub(super) const RSA_PUBLIC: &str = include_str!("keys/rsa.pub.pem");
const OTHER_RSA: &str = include_str!("keys/other_rsa.pem");

static RSA_KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap());
static OTHER_RSA_KEY: LazyLock<EncodingKey> =
    LazyLock::new(|| EncodingKey::from_rsa_pem(OTHER_RSA.as_bytes()).unwrap());

pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the issuers that the tests configure: one with a public key, and one with a secret.
pub(super) fn issuers() -> Vec<IssuerConfig> {
    let mut public = IssuerConfig::default();
    public.issuer = Some(ISSUER.to_owned());
    public.audience = vec![AUDIENCE.to_owned()];
    public.algorithms = vec!["RS256".to_owned()];
    public.key = Some(RSA_PUBLIC.to_owned());
    public.leeway_s = 0;
    let mut own = IssuerConfig::default();
    own.issuer = Some(OWN_ISSUER.to_owned());
    own.algorithms = vec!["HS256".to_owned()];
    own.secret = Some(SECRET_OF_OWN.into());
    own.leeway_s = 0;
    vec![public, own]
}

/// Returns the key whose bytes are all `byte`.
pub(super) fn key_of(byte: u8) -> String {
    format!("lok_{}", URL_SAFE_NO_PAD.encode([byte; 32]))
}

/// Returns the lines of a key, which may publish and subscribe where `pattern` says.
pub(super) fn key_config(name: &str, key: &str, pattern: &str) -> KeyConfig {
    let digest = Sha256::digest(key.as_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut config = KeyConfig::default();
    config.name = name.to_owned();
    config.hash = format!("sha256:{digits}");
    config.created = "2026-01-01T00:00:00Z".to_owned();
    config.publish = vec![pattern.to_owned()];
    config.subscribe = vec![pattern.to_owned()];
    config.manage = vec![pattern.to_owned()];
    config
}

/// Returns the claim that permits everything with topics that match a pattern.
pub(super) fn all_of(pattern: &str) -> Value {
    json!({"publish": [pattern], "subscribe": [pattern], "manage": [pattern]})
}

/// Returns the claims of a token that lasts an hour.
pub(super) fn claims(sub: &str, permission: Value) -> Value {
    let now = now_s();
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": sub, "iat": now - 1, "exp": now + 3_600,
        "leftoff": permission,
    })
}

/// Returns `claims` with others in their place; `null` removes a claim.
pub(super) fn with(mut claims: Value, others: Value) -> Value {
    let fields = claims.as_object_mut().unwrap();
    for (name, value) in others.as_object().unwrap() {
        match value.is_null() {
            true => fields.remove(name),
            false => fields.insert(name.clone(), value.clone()),
        };
    }
    claims
}

/// Returns the token with these claims, signed by the issuer.
pub(super) fn signed(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &RSA_KEY).unwrap()
}

/// Returns the token with these claims, signed by another key of the same kind.
pub(super) fn signed_by_another(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::RS256), claims, &OTHER_RSA_KEY).unwrap()
}

/// Returns the token with these claims that is signed with the text of the public key, as a secret.
pub(super) fn signed_with_the_public_key(claims: &Value) -> String {
    let secret = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &secret).unwrap()
}

/// Returns the token with these claims and the algorithm `none`.
pub(super) fn unsigned(claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "none", "typ": "JWT"});
    format!("{}.{}.{signature}", part(&header), part(claims))
}

/// Returns the token with a key of its own inside of its header, which signed it.
pub(super) fn signed_by_the_key_inside(claims: &Value) -> String {
    let mut header = Header::new(Algorithm::RS256);
    header.jku = Some("http://127.0.0.1:1/jwks.json".to_owned());
    header.x5u = Some("http://127.0.0.1:1/cert.pem".to_owned());
    jsonwebtoken::encode(&header, claims, &OTHER_RSA_KEY).unwrap()
}

/// Returns a token of the issuer whose tokens have a secret, for `seconds` from now.
pub(super) fn own_token(sub: &str, permission: Value, seconds: u64) -> String {
    let others = json!({"iss": OWN_ISSUER, "aud": null, "exp": now_s() + seconds});
    own_signed(&with(claims(sub, permission), others))
}

/// Returns the token with these claims, signed with the secret.
pub(super) fn own_signed(claims: &Value) -> String {
    let secret = EncodingKey::from_secret(SECRET_OF_OWN.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &secret).unwrap()
}

/// A credential, and the place of a request where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    Nothing,
    /// In the header `Authorization`, after `Bearer`.
    Bearer(String),
    /// In the header `Authorization`, as it is.
    Authorization(String),
    /// In the cookie.
    Cookie(String),
    /// In the query, with its name: `ticket=…`.
    Query(String),
}

impl Sent {
    pub(super) fn bearer(token: impl Into<String>) -> Self {
        Self::Bearer(token.into())
    }

    pub(super) fn ticket(ticket: &str) -> Self {
        Self::Query(format!("ticket={ticket}"))
    }

    /// Returns `path` with the credential, if it stands there.
    pub(super) fn path(&self, path: &str) -> String {
        match self {
            Self::Query(pair) if path.contains('?') => format!("{path}&{pair}"),
            Self::Query(pair) => format!("{path}?{pair}"),
            _ => path.to_owned(),
        }
    }

    /// Returns the header with the credential, if it stands there.
    pub(super) fn header(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Bearer(token) => Some(("authorization", format!("Bearer {token}"))),
            Self::Authorization(text) => Some(("authorization", text.clone())),
            Self::Cookie(token) => Some(("cookie", format!("a=b; {COOKIE}={token}; c=d"))),
            Self::Nothing | Self::Query(_) => None,
        }
    }

    /// Returns a request with the credential.
    pub(super) fn to(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
    ) -> http::request::Builder {
        let request = to(address, method, &self.path(path));
        match self.header() {
            Some((name, value)) => request.header(name, value),
            None => request,
        }
    }

    /// Returns a call of gRPC with the credential.
    pub(super) fn call<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some((name, value)) = self.header() {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        request
    }
}
