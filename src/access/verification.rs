//! One key by which tokens are verified, bound to the algorithms that it is for.

use jsonwebtoken::Algorithm;

/// A key by which tokens are verified. Its algorithms are part of it: a token says which algorithm
/// it was made with, and nothing that a token says chooses how a key is used.
#[derive(Debug)]
pub(super) struct VerificationKey {
    pub(super) algorithms: Vec<Algorithm>,
}

#[cfg(test)]
impl VerificationKey {
    pub(super) fn for_tests() -> Self {
        Self { algorithms: Vec::new() }
    }
}
