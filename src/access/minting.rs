//! Tokens for tests, right and wrong ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

pub(super) const SECRET: &str = "a secret of tests, which is long enough";
pub(super) const RSA_PUBLIC: &str = include_str!("../../data/keys/rsa.pub.pem");
pub(super) const EC_PUBLIC: &str = include_str!("../../data/keys/ec.pub.pem");
pub(super) const ED_PUBLIC: &str = include_str!("../../data/keys/ed.pub.pem");

/// The private keys that are the other halves of those above.
pub(super) fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("../../data/keys/rsa.pem")).unwrap()
}

pub(super) fn ec() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../../data/keys/ec.pem")).unwrap()
}

pub(super) fn ed() -> EncodingKey {
    EncodingKey::from_ed_pem(include_bytes!("../../data/keys/ed.pem")).unwrap()
}

/// Returns a token with this header and these claims, signed by `algorithm`, whatever they say.
pub(super) fn signed(
    header: &Value,
    claims: &Value,
    key: &EncodingKey,
    algorithm: Algorithm,
) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Returns a token of HS256 with the secret of tests.
pub(super) fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, &key, Algorithm::HS256)
}
