//! Keys and signatures of webhooks, by the Standard Webhooks specification.
//!
//! | | HMAC | Ed25519 |
//! |---|---|---|
//! | the key | 32 random bytes, `whsec_` and base64 | a seed of 32 bytes, `whsk_` and base64 |
//! | the receiver has | the same secret | the public key, `whpk_` and base64 |
//! | a signature | `v1,` and base64 of HMAC-SHA256 | `v1a,` and base64 |
//!
//! Signed is `{webhook-id}.{webhook-timestamp}.{body}`. While keys are changed a request has the
//! signatures of both, separated by a blank: a receiver takes whichever it can check.
//!
//! Source: Standard Webhooks 1.0.0, "Signature scheme" and "Webhook headers"; the libraries for
//! JavaScript and Go, from which the tests have their values.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::error::{Error, Result};

/// The prefixes of a secret, of a private key, and of a public key.
const SECRET: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// The bytes of a secret that is made here, and those that one of a host's own may have. Source:
/// Standard Webhooks, "Signature scheme": 192 to 512 bits.
const NEW_SECRET_BYTES: usize = 32;
const MIN_SECRET_BYTES: usize = 24;
const MAX_SECRET_BYTES: usize = 64;

/// The bytes of the seed of an Ed25519 key.
const SEED_BYTES: usize = 32;

/// The kind of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignatureKind {
    /// HMAC with SHA-256: the receiver has the same secret. All libraries of the specification
    /// check it.
    #[default]
    Hmac,
    /// Ed25519: the receiver has a public key, and cannot sign.
    Ed25519,
}

/// A key with which webhooks are signed. Debug output does not show it; serde has its text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) enum WebhookKey {
    Hmac(Vec<u8>),
    Ed25519(Box<SigningKey>),
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl TryFrom<String> for WebhookKey {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<WebhookKey> for String {
    fn from(key: WebhookKey) -> Self {
        key.to_text()
    }
}

impl WebhookKey {
    /// Makes a random key.
    pub(super) fn random(kind: SignatureKind) -> Self {
        match kind {
            SignatureKind::Hmac => {
                Self::Hmac(rand::rng().random::<[u8; NEW_SECRET_BYTES]>().to_vec())
            }
            SignatureKind::Ed25519 => {
                let seed = rand::rng().random::<[u8; SEED_BYTES]>();
                Self::Ed25519(Box::new(SigningKey::from_bytes(&seed)))
            }
        }
    }

    /// Reads a key from its text.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the expected form. The message does not have the text.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bytes_of = |text: &str| {
            let bytes = BASE64.decode(text);
            bytes.map_err(|_| Error::invalid("secret", "is not base64 after its prefix"))
        };
        if let Some(text) = text.strip_prefix(SECRET) {
            let bytes = bytes_of(text)?;
            if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
                let problem = format!(
                    "has {} bytes, and must have {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}",
                    bytes.len()
                );
                return Err(Error::invalid("secret", problem));
            }
            return Ok(Self::Hmac(bytes));
        }
        if let Some(text) = text.strip_prefix(PRIVATE) {
            let bytes = bytes_of(text)?;
            let seed = <[u8; SEED_BYTES]>::try_from(bytes).map_err(|bytes| {
                let problem = format!("has {} bytes, and must have {SEED_BYTES}", bytes.len());
                Error::invalid("secret", problem)
            })?;
            return Ok(Self::Ed25519(Box::new(SigningKey::from_bytes(&seed))));
        }
        let problem = format!("does not begin with {SECRET:?} or {PRIVATE:?}");
        Err(Error::invalid("secret", problem))
    }

    /// Returns the text of the key.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Hmac(bytes) => format!("{SECRET}{}", BASE64.encode(bytes)),
            Self::Ed25519(key) => format!("{PRIVATE}{}", BASE64.encode(key.as_bytes())),
        }
    }

    /// Returns the text of the public key; `None` for a secret, which both sides have.
    pub(super) fn public_text(&self) -> Option<String> {
        match self {
            Self::Hmac(_) => None,
            Self::Ed25519(key) => {
                Some(format!("{PUBLIC}{}", BASE64.encode(key.verifying_key().as_bytes())))
            }
        }
    }

    /// Returns the kind of the key's signatures.
    pub(super) fn kind(&self) -> SignatureKind {
        match self {
            Self::Hmac(_) => SignatureKind::Hmac,
            Self::Ed25519(_) => SignatureKind::Ed25519,
        }
    }

    /// Returns the signature of a request that is sent at `seconds` since 1970.
    ///
    /// # Panics
    ///
    /// If the id has a point: another id with another time could be signed alike.
    pub(super) fn sign(&self, id: &str, seconds: u64, body: &[u8]) -> String {
        assert!(!id.contains('.'), "an id without points: {id}");
        let head = format!("{id}.{seconds}.");
        match self {
            Self::Hmac(secret) => {
                let mac = Hmac::<Sha256>::new_from_slice(secret);
                let mut mac = mac.expect("HMAC takes keys of any length");
                mac.update(head.as_bytes());
                mac.update(body);
                format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
            }
            Self::Ed25519(key) => {
                let signed = [head.as_bytes(), body].concat();
                format!("v1a,{}", BASE64.encode(key.sign(&signed).to_bytes()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: u64 = 1_614_265_330;
    const BODY: &[u8] = b"{\"test\": 2432232314}";

    /// Source: the libraries for JavaScript and Go, `webhook.test.ts` and
    /// `webhook_asymmetric_test.go`.
    #[test]
    fn signatures_are_those_of_the_official_libraries() {
        let key = WebhookKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(key.sign(ID, SECONDS, BODY), signature);
        let key = WebhookKey::parse("whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=").unwrap();
        let signature = "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7\
                         KaaBRdM5WqyeFiL8Ag==";
        assert_eq!(key.sign(ID, SECONDS, BODY), signature);
        let public = key.public_text().unwrap();
        assert!(public.starts_with("whpk_") && public.len() == 5 + 44, "{public}");
    }

    #[test]
    fn a_key_is_read_as_it_is_written_and_never_shown() {
        for kind in [SignatureKind::Hmac, SignatureKind::Ed25519] {
            let (key, other) = (WebhookKey::random(kind), WebhookKey::random(kind));
            assert_eq!(WebhookKey::parse(&key.to_text()).unwrap(), key);
            assert!(key != other && key.kind() == kind);
            assert_eq!(format!("{key:?}"), "***");
        }
        let text =
            |prefix: &str, bytes: usize| format!("{prefix}{}", BASE64.encode(vec![7; bytes]));
        for bytes in [MIN_SECRET_BYTES, MAX_SECRET_BYTES] {
            WebhookKey::parse(&text(SECRET, bytes)).unwrap();
        }
        for (wrong, word) in [
            (text(SECRET, MIN_SECRET_BYTES - 1), "has 23 bytes, and must have 24 to 64"),
            (text(SECRET, MAX_SECRET_BYTES + 1), "has 65 bytes"),
            (text(PRIVATE, 31), "has 31 bytes, and must have 32"),
            (text("", 32), "does not begin with"),
            ("whsec_?hunter2?".to_owned(), "is not base64"),
        ] {
            let refused = WebhookKey::parse(&wrong).unwrap_err().to_string();
            assert!(refused.contains(word) && !refused.contains("hunter2"), "{refused}");
        }
    }
}
