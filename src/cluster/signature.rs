//! What proves that somebody knows the secret of a fleet: HMAC-SHA256 with it as the key. The
//! secret itself never leaves a node.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::secret::Secret;

/// The size of a signature, in bytes.
pub(super) const SIGNATURE_BYTES: usize = 32;

/// Returns the signature of `parts`, of which each is preceded by its length: two lists of parts
/// never have the same bytes. `what` names what is signed, so that no signature is taken for one
/// of something else.
pub(super) fn sign(secret: &Secret, what: &str, parts: &[&[u8]]) -> [u8; SIGNATURE_BYTES] {
    mac(secret, what, parts).finalize().into_bytes().into()
}

/// Whether `signature` is the one of `parts`. Takes the same time whichever byte is wrong.
pub(super) fn is_signed(secret: &Secret, what: &str, parts: &[&[u8]], signature: &[u8]) -> bool {
    mac(secret, what, parts).verify_slice(signature).is_ok()
}

fn mac(secret: &Secret, what: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes());
    let mut mac = mac.expect("HMAC takes keys of any length");
    for part in [what.as_bytes()].iter().chain(parts) {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_secret_one_purpose_and_one_list_of_parts() {
        let secret = Secret::from("1234567890123456");
        let parts: [&[u8]; 2] = [b"ab", b"c"];
        let signature = sign(&secret, "x", &parts);
        assert!(is_signed(&secret, "x", &parts, &signature));
        assert!(!is_signed(&Secret::from("1234567890123457"), "x", &parts, &signature));
        assert!(!is_signed(&secret, "y", &parts, &signature));
        assert!(!is_signed(&secret, "x", &[b"a", b"bc"], &signature));
        assert!(!is_signed(&secret, "x", &parts, &signature[..31]));
        assert!(!is_signed(&secret, "x", &parts, b""));
    }
}
