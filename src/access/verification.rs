//! One key by which tokens are verified, bound to the algorithms that it is for.
//!
//! # Why
//!
//! The algorithm is never taken from the token alone: a token that says HS256 and was made with the
//! text of a public RSA key as its secret, or says `none`, fits no key here (RFC 8725, 3.1).
//! The provider of cryptography is named, because a host may have chosen another one for itself.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};

/// The shortest secret of HS256, in bytes. Source: RFC 7518, 3.2.
const MIN_SECRET_BYTES: usize = 32;

/// The sizes of RSA keys, in bits. Source: RFC 7518, 3.3; more than the upper one is not verified
/// by the crate.
const MIN_RSA_BITS: usize = 2_048;
const MAX_RSA_BITS: usize = 4_096;

/// The bytes of an Ed25519 key, and of one coordinate of a P-256 key.
const COORDINATE_BYTES: usize = 32;

/// The algorithms that an issuer may have, by the names that tokens have for them.
const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("HS256", Algorithm::HS256),
    ("RS256", Algorithm::RS256),
    ("PS256", Algorithm::PS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

/// Returns the algorithm with a name; `None` for any other, `none` included.
pub(super) fn algorithm_of(name: &str) -> Option<Algorithm> {
    ALGORITHMS.into_iter().find(|(known, _)| *known == name).map(|(_, algorithm)| algorithm)
}

/// Returns the names of the algorithms that an issuer may have.
pub(super) fn algorithm_names() -> String {
    ALGORITHMS.map(|(name, _)| name).join(", ")
}

/// A key by which tokens are verified. Its algorithms are part of it: nothing that a token says
/// chooses how a key is used.
pub(super) struct VerificationKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    /// The public part, or the secret, to tell whether two keys are one.
    material: Vec<u8>,
    key: DecodingKey,
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl VerificationKey {
    /// Returns the key of HS256 with this secret.
    ///
    /// # Errors
    ///
    /// The problem, without the secret: it is too short, or the text of a public or private key.
    pub(super) fn secret(secret: &str) -> Result<Self, String> {
        // A public key is known to everybody, so whoever has it would make tokens.
        if secret.contains("-----BEGIN") || secret.starts_with("ssh-") {
            return Err("is a key in PEM; HS256 needs a secret that nobody else knows".to_owned());
        }
        if secret.len() < MIN_SECRET_BYTES {
            return Err(format!(
                "has {} bytes; HS256 needs {MIN_SECRET_BYTES} or more (RFC 7518), like those of \
                 `openssl rand -base64 48`",
                secret.len()
            ));
        }
        let (material, key) =
            (secret.as_bytes().to_vec(), DecodingKey::from_secret(secret.as_bytes()));
        Ok(Self { id: None, algorithms: vec![Algorithm::HS256], material, key })
    }

    /// Returns the public key in a text of PEM, for these algorithms of one family.
    ///
    /// # Errors
    ///
    /// The problem: no such key, a private one, or one that is not safe.
    pub(super) fn pem(text: &str, algorithms: &[Algorithm]) -> Result<Self, String> {
        if text.contains("PRIVATE KEY") {
            return Err("is a private key; tokens are verified with the public one".to_owned());
        }
        if !text.contains("PUBLIC KEY-----") {
            return Err("is no public key in PEM (-----BEGIN PUBLIC KEY-----)".to_owned());
        }
        let family = algorithms.first().map(|algorithm| algorithm.family());
        let read = match family {
            Some(AlgorithmFamily::Rsa) => DecodingKey::from_rsa_pem(text.as_bytes()),
            Some(AlgorithmFamily::Ec) => DecodingKey::from_ec_pem(text.as_bytes()),
            Some(AlgorithmFamily::Ed) => DecodingKey::from_ed_pem(text.as_bytes()),
            _ => return Err("is a public key, and HS256 needs a secret".to_owned()),
        };
        let name = |algorithm: &Algorithm| format!("{algorithm:?}");
        let names = || algorithms.iter().map(name).collect::<Vec<_>>().join(" and ");
        let key = read.map_err(|_| format!("is no public key for {}", names()))?;
        let bytes = key.try_get_as_bytes().map_err(|error| error.to_string())?.to_vec();
        match family {
            Some(AlgorithmFamily::Rsa) => {
                let (n, e) = rsa_of_der(&bytes).ok_or("is no RSA key of PKCS #1")?;
                Self::rsa(None, algorithms, n, e)
            }
            Some(AlgorithmFamily::Ec) => Self::point(None, &bytes),
            _ => Self::ed(None, &bytes),
        }
    }

    /// Returns the RSA key with this modulus and exponent, in big-endian.
    ///
    /// # Errors
    ///
    /// The problem: the key is not safe.
    pub(super) fn rsa(
        id: Option<String>,
        algorithms: &[Algorithm],
        modulus: &[u8],
        exponent: &[u8],
    ) -> Result<Self, String> {
        let modulus = without_zeros(modulus);
        let exponent = without_zeros(exponent);
        let leading = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let bits = modulus.len() * 8 - leading;
        if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
            return Err(format!(
                "is an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
            ));
        }
        let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        // The exponents in use are 3 and 65537; larger ones only cost time.
        if exponent.len() > 4 || exponent == [1] || !is_odd(exponent) || !is_odd(modulus) {
            return Err("is no RSA key: its modulus or its exponent is none".to_owned());
        }
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Ok(Self {
            id,
            algorithms: algorithms.to_vec(),
            material: [modulus, exponent].join(&0),
            key,
        })
    }

    /// Returns the P-256 key with these coordinates.
    ///
    /// # Errors
    ///
    /// The problem: there is no such point.
    pub(super) fn ec(id: Option<String>, x: &[u8], y: &[u8]) -> Result<Self, String> {
        if x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
            return Err("is no point of P-256".to_owned());
        }
        Self::point(id, &[&[4], x, y].concat())
    }

    fn point(id: Option<String>, point: &[u8]) -> Result<Self, String> {
        let key = DecodingKey::from_ec_der(point);
        let is_point = point.len() == 1 + 2 * COORDINATE_BYTES
            && (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::ES256, &key).is_ok();
        if !is_point {
            return Err("is no point of P-256".to_owned());
        }
        Ok(Self { id, algorithms: vec![Algorithm::ES256], material: point.to_vec(), key })
    }

    /// Returns the Ed25519 key with these bytes.
    ///
    /// # Errors
    ///
    /// The problem: there is no such point.
    pub(super) fn ed(id: Option<String>, bytes: &[u8]) -> Result<Self, String> {
        let key = DecodingKey::from_ed_der(bytes);
        // The crate takes the first bytes of any number, and panics where there are fewer.
        let is_point = bytes.len() == COORDINATE_BYTES
            && (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::EdDSA, &key).is_ok();
        if !is_point {
            return Err("is no Ed25519 key".to_owned());
        }
        Ok(Self { id, algorithms: vec![Algorithm::EdDSA], material: bytes.to_vec(), key })
    }

    /// Returns the id by which tokens name the key.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns whether the key is for tokens of `algorithm`.
    pub(super) fn is_for(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Returns whether this is the same key as `other`, for the same algorithms.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
            && self.algorithms == other.algorithms
            && self.material == other.material
    }

    /// Returns whether `signature` is this key's, of `message`, by `algorithm`.
    pub(super) fn verifies(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        let verifier = (DEFAULT_PROVIDER.verifier_factory)(&algorithm, &self.key);
        verifier.is_ok_and(|verifier| verifier.verify(message, signature).is_ok())
    }
}

/// Decodes the parts of tokens and of JWK.
pub(super) fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Returns the modulus and the exponent of `RSAPublicKey` (RFC 8017, A.1.1) in DER.
fn rsa_of_der(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, after) = der_value(der, 0x30)?;
    let (modulus, rest) = der_value(sequence, 0x02)?;
    let (exponent, rest) = der_value(rest, 0x02)?;
    (after.is_empty() && rest.is_empty()).then_some((modulus, exponent))
}

/// Returns the contents of the value with this tag, and the bytes behind the value.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    (*first == tag).then_some((value, rest))
}

/// Returns the text of PEM around DER.
#[cfg(test)]
pub(super) fn pem_of(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

#[cfg(test)]
impl VerificationKey {
    pub(super) fn for_tests() -> Self {
        Self::secret("a secret of tests, which is long enough").unwrap()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;

    use super::*;

    const RSA: &str = include_str!("../../data/keys/rsa.pem");
    const RSA_PUBLIC: &str = include_str!("../../data/keys/rsa.pub.pem");
    const RSA_PKCS1: &str = include_str!("../../data/keys/rsa.pkcs1.pem");
    const EC_PUBLIC: &str = include_str!("../../data/keys/ec.pub.pem");
    const ED_PUBLIC: &str = include_str!("../../data/keys/ed.pub.pem");

    fn signed(key: &EncodingKey, algorithm: Algorithm) -> Vec<u8> {
        let text = jsonwebtoken::crypto::sign(b"message", key, algorithm).unwrap();
        decode_base64url(&text).unwrap()
    }

    #[test]
    fn a_key_verifies_by_its_own_algorithms_alone() {
        let secret = "0123456789abcdef0123456789abcdef";
        let pem = |text: &str| text.as_bytes().to_vec();
        let (ec, ed) = (
            pem(include_str!("../../data/keys/ec.pem")),
            pem(include_str!("../../data/keys/ed.pem")),
        );
        let rsa = EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap();
        let pairs = [
            (Algorithm::HS256, EncodingKey::from_secret(secret.as_bytes())),
            (Algorithm::RS256, rsa.clone()),
            (Algorithm::PS256, rsa),
            (Algorithm::ES256, EncodingKey::from_ec_pem(&ec).unwrap()),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(&ed).unwrap()),
        ];
        let keys = [
            VerificationKey::secret(secret).unwrap(),
            VerificationKey::pem(RSA_PUBLIC, &[Algorithm::RS256]).unwrap(),
            VerificationKey::pem(RSA_PKCS1, &[Algorithm::PS256]).unwrap(),
            VerificationKey::pem(EC_PUBLIC, &[Algorithm::ES256]).unwrap(),
            VerificationKey::pem(ED_PUBLIC, &[Algorithm::EdDSA]).unwrap(),
        ];
        for (signer, (algorithm, pair)) in pairs.iter().enumerate() {
            let signature = signed(pair, *algorithm);
            let mut changed = signature.clone();
            *changed.last_mut().unwrap() ^= 1;
            for (verifier, key) in keys.iter().enumerate() {
                for (claimed, _) in &pairs {
                    let is_right = signer == verifier && claimed == algorithm;
                    let verified = key.verifies(*claimed, b"message", &signature);
                    assert_eq!(verified, is_right, "{algorithm:?} {claimed:?} {key:?}");
                }
                assert!(!key.verifies(*algorithm, b"message", &changed));
                assert!(!key.verifies(*algorithm, b"massage", &signature));
                assert!(!key.verifies(*algorithm, b"message", &Vec::new()));
            }
        }
        let both = [Algorithm::RS256, Algorithm::PS256];
        let key = VerificationKey::pem(RSA_PUBLIC, &both).unwrap();
        for (algorithm, pair) in &pairs[1..3] {
            assert!(key.verifies(*algorithm, b"message", &signed(pair, *algorithm)));
        }
    }

    #[test]
    fn keys_that_are_not_safe_or_of_another_kind_are_refused() {
        let rs256 = [Algorithm::RS256];
        for (text, algorithms, problem) in [
            (RSA, &rs256[..], "is a private key"),
            (EC_PUBLIC, &rs256, "is no public key for RS256"),
            (RSA_PUBLIC, &[Algorithm::ES256], "is no public key for ES256"),
            (ED_PUBLIC, &[Algorithm::ES256], "is no public key for ES256"),
            (RSA_PUBLIC, &[Algorithm::EdDSA], "is no public key for EdDSA"),
            (RSA_PUBLIC, &[Algorithm::HS256], "HS256 needs a secret"),
            (
                include_str!("../../data/keys/p384.pub.pem"),
                &[Algorithm::ES256],
                "no point of P-256",
            ),
            (include_str!("../../data/keys/rsa1024.pub.pem"), &rs256, "1024 bits"),
            ("nothing", &rs256, "is no public key in PEM"),
            (&pem_of("CERTIFICATE", b"x"), &rs256, "is no public key in PEM"),
            (&pem_of("PUBLIC KEY", b"x"), &rs256, "is no public key for RS256"),
        ] {
            let refused = VerificationKey::pem(text, algorithms).unwrap_err();
            assert!(refused.contains(problem), "{refused}");
        }
        for (secret, problem) in [
            (RSA_PUBLIC, "is a key in PEM"),
            (&format!("\n {EC_PUBLIC}"), "is a key in PEM"),
            ("0123456789abcdef0123456789abcde", "has 31 bytes"),
            ("", "has 0 bytes"),
        ] {
            let refused = VerificationKey::secret(secret).unwrap_err();
            assert!(refused.contains(problem), "{refused}");
            assert!(!refused.contains("abcde"), "{refused}");
        }
        VerificationKey::secret("0123456789abcdef0123456789abcdef").unwrap();
        for bytes in [0, 31, 33] {
            VerificationKey::ed(None, &vec![7; bytes]).unwrap_err();
            VerificationKey::ec(None, &vec![7; bytes], &[7; 32]).unwrap_err();
        }
        VerificationKey::ec(None, &[7; 32], &[7; 32]).unwrap_err();
    }

    #[test]
    fn the_size_of_an_rsa_key_is_counted_in_bits() {
        let modulus = |bits: usize| {
            let mut bytes = vec![0xff; bits.div_ceil(8)];
            bytes[0] >>= bytes.len() * 8 - bits;
            bytes
        };
        let rsa = |n: &[u8], e: &[u8]| VerificationKey::rsa(None, &[Algorithm::RS256], n, e);
        let e = [1, 0, 1];
        rsa(&modulus(2_048), &e).unwrap();
        rsa(&[&[0, 0], &modulus(2_048)[..]].concat(), &[0, 3]).unwrap();
        rsa(&modulus(4_096), &e).unwrap();
        for n in [modulus(2_047), modulus(4_097), Vec::new(), vec![0; 300], vec![0xfe; 256]] {
            rsa(&n, &e).unwrap_err();
        }
        for e in [&[][..], &[1], &[2], &[1, 0, 0, 0, 1]] {
            rsa(&modulus(2_048), e).unwrap_err();
        }
        assert_eq!(rsa_of_der(&[0x30, 6, 2, 1, 5, 2, 1, 3]), Some((&[5][..], &[3][..])));
        for bad in [&[0x30, 6, 2, 1, 5, 2, 1][..], &[0x31, 6, 2, 1, 5, 2, 1, 3], &[0x30, 0x84], &[]]
        {
            assert_eq!(rsa_of_der(bad), None);
        }
    }
}
