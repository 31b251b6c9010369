//! A set of keys of an issuer, as it publishes it (JWKS, RFC 7517).

use std::sync::Arc;

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde_json::{Map, Value};

use super::verification::{VerificationKey, algorithm_of, decode_base64url};

/// The largest set, in bytes and in keys.
pub(super) const MAX_SET_BYTES: usize = 256 << 10;
const MAX_SET_KEYS: usize = 100;

/// The longest id of a key, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

/// The keys of a set that can be used, and the problems of the others.
#[derive(Debug, Default)]
pub(super) struct ReadKeySet {
    pub(super) keys: Vec<Arc<VerificationKey>>,
    pub(super) problems: Vec<String>,
}

/// Reads a set of keys for an issuer with these algorithms. One key that is of no use does not
/// spoil the set: issuers publish keys for other purposes beside these.
///
/// # Errors
///
/// The problem: the document is no set of keys, or is too large.
pub(super) fn parse_set(json: &[u8], accepted: &[Algorithm]) -> Result<ReadKeySet, String> {
    if json.len() > MAX_SET_BYTES {
        return Err(format!("the set of keys is over the limit of {MAX_SET_BYTES} bytes"));
    }
    let document: Value =
        serde_json::from_slice(json).map_err(|_| "the set of keys is no JSON".to_owned())?;
    let list = document.get("keys").and_then(Value::as_array);
    let list = list.ok_or("the document has no list \"keys\"")?;
    if list.len() > MAX_SET_KEYS {
        return Err(format!("the set has {} keys, over the limit of {MAX_SET_KEYS}", list.len()));
    }
    let mut set = ReadKeySet::default();
    for (number, value) in list.iter().enumerate() {
        let read = value.as_object().ok_or("is no object".to_owned());
        match read.and_then(|jwk| parse_key(jwk, accepted)) {
            Ok(key) => set.keys.push(Arc::new(key)),
            Err(problem) => set.problems.push(format!("key {number} {problem}")),
        }
    }
    Ok(set)
}

/// Reads one key.
///
/// # Errors
///
/// The reason for which it is of no use here.
fn parse_key(jwk: &Map<String, Value>, accepted: &[Algorithm]) -> Result<VerificationKey, String> {
    let text = |name: &str| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("has a {name:?} that is no text")),
    };
    if jwk.contains_key("d") {
        return Err("is a private key, which everybody has who can read the set".to_owned());
    }
    if text("use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures".to_owned());
    }
    if let Some(operations) = jwk.get("key_ops") {
        let mut operations = operations.as_array().into_iter().flatten();
        if !operations.any(|operation| operation.as_str() == Some("verify")) {
            return Err("is not for the verification of signatures".to_owned());
        }
    }
    let id = text("kid")?.map(str::to_owned);
    if id.as_ref().is_some_and(|id| id.len() > MAX_KEY_ID_BYTES) {
        return Err(format!("has a \"kid\" over the limit of {MAX_KEY_ID_BYTES} bytes"));
    }
    let algorithms = algorithms_of(text("kty")?, text("crv")?, text("alg")?, accepted)?;
    let bytes = |name: &str| -> Result<Vec<u8>, String> {
        let decoded = text(name)?.and_then(decode_base64url);
        decoded.ok_or_else(|| format!("has no {name:?} in base64url"))
    };
    match algorithms[0].family() {
        AlgorithmFamily::Rsa => VerificationKey::rsa(id, &algorithms, &bytes("n")?, &bytes("e")?),
        AlgorithmFamily::Ec => VerificationKey::ec(id, &bytes("x")?, &bytes("y")?),
        _ => VerificationKey::ed(id, &bytes("x")?),
    }
}

/// Returns the algorithms that a key is for, which are accepted of its issuer: at least one.
///
/// # Errors
///
/// There is none.
fn algorithms_of(
    kind: Option<&str>,
    curve: Option<&str>,
    named: Option<&str>,
    accepted: &[Algorithm],
) -> Result<Vec<Algorithm>, String> {
    // A set is public, so a symmetric key in it (`oct`) is nobody's secret.
    let possible: &[Algorithm] = match (kind, curve) {
        (Some("RSA"), _) => &[Algorithm::RS256, Algorithm::PS256],
        (Some("EC"), Some("P-256")) => &[Algorithm::ES256],
        (Some("OKP"), Some("Ed25519")) => &[Algorithm::EdDSA],
        _ => return Err("is of a kind that is not accepted (RSA, P-256, Ed25519 are)".to_owned()),
    };
    let is_named = |algorithm: &Algorithm| match named {
        // RFC 9864 names the curve in place of the family.
        Some("Ed25519") => *algorithm == Algorithm::EdDSA,
        Some(name) => algorithm_of(name) == Some(*algorithm),
        None => true,
    };
    let possible = possible.iter().filter(|it| is_named(it) && accepted.contains(it));
    let algorithms = possible.copied().collect::<Vec<_>>();
    if algorithms.is_empty() {
        return Err("is for no algorithm that is accepted of the issuer".to_owned());
    }
    Ok(algorithms)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const ALL: [Algorithm; 4] =
        [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA];

    fn rsa(more: Value) -> Value {
        let n = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let mut jwk = json!({"kty": "RSA", "kid": "a", "n": n, "e": "AQAB"});
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn read(keys: &[Value], accepted: &[Algorithm]) -> ReadKeySet {
        parse_set(json!({"keys": keys}).to_string().as_bytes(), accepted).unwrap()
    }

    #[test]
    fn a_key_is_for_the_algorithms_of_its_kind_and_its_own_and_its_issuers() {
        let of = |more: Value, accepted: &[Algorithm]| {
            let set = read(&[rsa(more)], accepted);
            let is_for = |algorithm: &Algorithm| set.keys.iter().any(|key| key.is_for(*algorithm));
            ALL.into_iter().filter(is_for).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({}), &ALL), [Algorithm::RS256, Algorithm::PS256]);
        assert_eq!(of(json!({"alg": "PS256"}), &ALL), [Algorithm::PS256]);
        assert_eq!(of(json!({}), &[Algorithm::RS256]), [Algorithm::RS256]);
        for alg in ["RS384", "ES256", "HS256", "none", "RSA-OAEP", ""] {
            assert_eq!(of(json!({"alg": alg}), &ALL), [], "{alg}");
        }
        assert_eq!(of(json!({"alg": "PS256"}), &[Algorithm::RS256]), []);
        assert_eq!(of(json!({}), &[Algorithm::ES256, Algorithm::EdDSA]), []);
        assert_eq!(of(json!({"use": "sig", "key_ops": ["verify"]}), &ALL).len(), 2);
    }

    #[test]
    fn a_key_that_is_of_no_use_is_left_out_and_the_others_stay() {
        let secret = URL_SAFE_NO_PAD.encode([7; 64]);
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        let longest = "x".repeat(MAX_KEY_ID_BYTES);
        assert_eq!(read(&[rsa(json!({"kid": longest}))], &ALL).keys.len(), 1);
        for (bad, problem) in [
            (rsa(json!({"use": "enc"})), "not for signatures"),
            (rsa(json!({"use": 1})), "no text"),
            (rsa(json!({"key_ops": ["sign", "encrypt"]})), "verification"),
            (rsa(json!({"key_ops": "verify"})), "verification"),
            (rsa(json!({"d": "AQAB"})), "private"),
            (rsa(json!({"n": "AQAB"})), "17 bits"),
            (rsa(json!({"n": "not base64!"})), "no \"n\""),
            (rsa(json!({"e": null})), "no text"),
            (rsa(json!({"kid": "x".repeat(MAX_KEY_ID_BYTES + 1)})), "\"kid\""),
            (json!({"kty": "oct", "k": secret, "alg": "HS256"}), "not accepted"),
            (json!({"kty": "EC", "crv": "P-384", "x": x, "y": x}), "not accepted"),
            (json!({"kty": "EC", "crv": "P-256", "x": x, "y": x}), "no point"),
            (json!({"kty": "OKP", "crv": "X25519", "x": x}), "not accepted"),
            (json!({"kty": "OKP", "crv": "Ed25519", "x": "AQ"}), "no Ed25519"),
            (json!({"kty": "OKP", "crv": "Ed25519"}), "no \"x\""),
            (json!({}), "not accepted"),
            (json!("x"), "no object"),
        ] {
            let set = read(&[bad.clone(), rsa(json!({}))], &ALL);
            assert_eq!(set.keys.len(), 1, "{bad}");
            assert!(set.problems[0].contains(problem), "{bad}: {}", set.problems[0]);
        }
    }

    #[test]
    fn a_set_is_bounded_in_bytes_and_keys() {
        let set = |keys: usize, spare: usize| {
            let mut text = json!({"keys": vec![rsa(json!({})); keys]}).to_string();
            text.extend(std::iter::repeat_n(' ', spare));
            parse_set(text.as_bytes(), &ALL).map(|set| set.keys.len())
        };
        assert_eq!(set(MAX_SET_KEYS, 0).unwrap(), MAX_SET_KEYS);
        assert!(set(MAX_SET_KEYS + 1, 0).unwrap_err().contains("101 keys"));
        assert!(set(1, MAX_SET_BYTES).unwrap_err().contains("limit"));
        for bad in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
            parse_set(bad.as_bytes(), &ALL).unwrap_err();
        }
        assert!(parse_set(b"{\"keys\":[]}", &ALL).unwrap().keys.is_empty());
    }
}
