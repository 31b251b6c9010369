//! A caller who is known: its id, how it was proved, until when, and what it may do.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use super::verification::VerificationKey;
use crate::edge::hooks::Grant;
use crate::permission::Permission;

/// The longest id of a caller, in bytes: it is also the id of a member.
const MAX_ID_BYTES: usize = 255;

/// The id of callers without credentials. No credential has it.
pub(super) const ANONYMOUS: &str = "anonymous";

/// How a caller was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// No credential; `access.anonymous` permits something.
    Anonymous,
    /// A static key.
    Key,
    /// A token of the issuer at this place of `access.issuers`.
    Token { issuer: usize },
    /// A client certificate.
    Certificate,
    /// A ticket, which was made with another proof.
    Ticket,
}

/// What a credential proves, before it is asked whether the caller is revoked.
#[derive(Debug, Clone)]
pub(super) struct Proved {
    pub(super) id: Arc<str>,
    pub(super) proof: Proof,
    pub(super) issued: Option<SystemTime>,
    pub(super) expires: Option<SystemTime>,
    pub(super) permission: Permission,
    /// The key by which a token was verified. What the key has proved is forgotten with the key.
    pub(super) key: Option<Weak<VerificationKey>>,
}

/// A caller who is known. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CallerIdentity {
    /// The id of the caller: the `sub` of a token, the name of a key, the SAN of a certificate.
    pub(crate) id: Arc<str>,
    pub(crate) proof: Proof,
    /// When the credential was issued: a revocation refuses those from before it. `None` if the
    /// credential does not say so; then any revocation of the caller refuses it.
    pub(crate) issued: Option<SystemTime>,
    /// The end of the credential.
    pub(crate) expires: Option<SystemTime>,
    /// What the caller may do, with the end in it. The same grant for each use of a credential.
    pub(crate) grant: Grant,
}

/// Returns the problem of an id that no caller may have; `None` if there is none.
///
/// An id is shown in log lines, in presence and in the audit. So the characters that break a line
/// are refused.
pub(super) fn problem_of_id(id: &str) -> Option<&'static str> {
    match id {
        "" => Some("is empty"),
        ANONYMOUS => Some("is the id of callers without credentials"),
        id if id.len() > MAX_ID_BYTES => Some("is longer than 255 bytes"),
        id if id.chars().any(char::is_control) => Some("holds a control character"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_fits_into_one_line_and_is_bounded() {
        for id in ["u", "user 42", "a.b", "auth0|5f", "*", "$x", "ü", &"x".repeat(MAX_ID_BYTES)] {
            assert_eq!(problem_of_id(id), None, "{id}");
        }
        for id in ["", ANONYMOUS, "a\nb", "a\0", "\u{85}", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(problem_of_id(id).is_some(), "{id:?}");
        }
    }
}
