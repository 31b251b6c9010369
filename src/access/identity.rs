//! A caller who is known: its id, how it was proved, until when, and what it may do.

use std::sync::Arc;
use std::time::SystemTime;

use crate::edge::hooks::Grant;

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
