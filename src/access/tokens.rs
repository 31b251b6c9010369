//! Tokens (JWT, RFC 7519): their form, their signature, and what their claims must say.
//!
//! A token counts from `nbf` to `exp`, with the issuer's leeway on both sides: at `exp` and the
//! leeway it is over, for requests, for streams, and for what is remembered of it. One function
//! judges it, and takes the time as an argument.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::Algorithm;
use serde_json::Value;

use super::claims::{Claims, parse_object};
use super::credentials::MAX_CREDENTIAL_BYTES;
use super::identity::problem_of_id;
use super::issuers::Issuer;
use super::verification::{VerificationKey, algorithm_of, decode_base64url};

/// The types of tokens that are taken (RFC 8725, 3.11). Tokens for other purposes, such as those
/// that tell of a logout, name another type.
const TYPES: [&str; 2] = ["jwt", "at+jwt"];

/// The longest id of a key, in bytes.
const MAX_KEY_ID_BYTES: usize = 256;

/// Why a token is refused. For people; clients are told less (see [`Self::told`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TokenProblem {
    /// The text is no token that can be read.
    Malformed(String),
    /// No issuer of the token may use its algorithm.
    Algorithm(String),
    /// No issuer is configured that makes tokens with this `iss`.
    Issuer(Option<String>),
    /// The issuer has no key with this id for the algorithm.
    Key(Option<String>),
    /// The issuer's keys could not be fetched until now.
    NoKeys,
    /// The signature is not the issuer's.
    Signature,
    /// The token is over.
    Expired,
    /// The token does not count yet.
    NotYet(&'static str),
    /// The token is for others.
    Audience,
    /// A claim is missing, or wrong.
    Claim(String),
}

impl fmt::Display for TokenProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(problem) => write!(f, "the token is malformed: {problem}"),
            Self::Algorithm(name) => {
                write!(f, "its algorithm {name:?} is not one of those of its issuer")
            }
            Self::Issuer(Some(name)) => write!(f, "no issuer {name:?} is configured"),
            Self::Issuer(None) => f.write_str("it names no issuer, and every issuer has a name"),
            Self::Key(Some(id)) => write!(f, "its issuer has no key {id:?} for its algorithm"),
            Self::Key(None) => f.write_str("its issuer has no key for its algorithm"),
            Self::NoKeys => f.write_str("the keys of its issuer could not be fetched until now"),
            Self::Signature => f.write_str("its signature is not that of its issuer's key"),
            Self::Expired => f.write_str("the token has expired"),
            Self::NotYet(claim) => write!(f, "the token is not valid yet ({claim:?})"),
            Self::Audience => f.write_str("the token is for another audience (\"aud\")"),
            Self::Claim(problem) => write!(f, "the token's claim {problem}"),
        }
    }
}

impl TokenProblem {
    /// Returns what a client is told. Until a token is verified, nothing that depends on which
    /// issuers and keys there are.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Algorithm(_) | Self::Issuer(_) | Self::Key(_) | Self::Signature => {
                "the token was not made by an issuer that is accepted here, or not with its key"
                    .to_owned()
            }
            Self::NoKeys => {
                "the token cannot be verified at the moment; try again later".to_owned()
            }
            other => other.to_string(),
        }
    }

    /// Returns whether the token was verified before it was refused.
    fn is_of_verified(&self) -> bool {
        matches!(self, Self::Expired | Self::NotYet(_) | Self::Audience | Self::Claim(_))
    }
}

/// A token that can be read. Nothing in it is true yet.
#[derive(Debug)]
pub(super) struct ReadToken<'a> {
    /// The header and the claims as they were sent, which the signature is of.
    message: &'a [u8],
    signature: Vec<u8>,
    algorithm: Result<Algorithm, String>,
    key_id: Option<String>,
    pub(super) claims: Claims,
}

/// What a token says of the caller, once it is verified.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) id: String,
    pub(super) issued: Option<SystemTime>,
    pub(super) expires: SystemTime,
    pub(super) claims: Claims,
    /// The place of the issuer in `access.issuers`.
    pub(super) issuer: usize,
    pub(super) key: Option<Arc<VerificationKey>>,
}

impl<'a> ReadToken<'a> {
    /// Reads the parts of a token.
    ///
    /// # Errors
    ///
    /// [`TokenProblem::Malformed`].
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenProblem> {
        let malformed = |problem: &str| TokenProblem::Malformed(problem.to_owned());
        if token.len() > MAX_CREDENTIAL_BYTES {
            return Err(malformed("it is longer than 16 KiB"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it has not three parts"));
        };
        let message = &token.as_bytes()[..header.len() + 1 + claims.len()];
        let decode = |part: &str, name: &str| {
            decode_base64url(part).ok_or_else(|| malformed(&format!("its {name} is no base64url")))
        };
        let header = decode(header, "header")?;
        let claims = decode(claims, "list of claims")?;
        let signature = decode(signature, "signature")?;
        let (algorithm, key_id) = read_header(&header).map_err(|problem| malformed(&problem))?;
        let claims = Claims::parse(&claims);
        let claims =
            claims.map_err(|problem| malformed(&format!("its list of claims {problem}")))?;
        Ok(Self { message, signature, algorithm, key_id, claims })
    }
}

/// Returns the algorithm and the id of the key. Everything else in a header that would choose a key
/// (`jku`, `x5u`, `jwk`, `x5c`) is not looked at.
fn read_header(header: &[u8]) -> Result<(Result<Algorithm, String>, Option<String>), String> {
    let header = parse_object(header).map_err(|problem| format!("its header {problem}"))?;
    // What is critical must be understood, and nothing is (RFC 7515, 4.1.11).
    if header.contains_key("crit") {
        return Err("its header has \"crit\", of which nothing is known".to_owned());
    }
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("its {name:?} is no text")),
    };
    if let Some(kind) = text("typ")? {
        let kind = kind.to_ascii_lowercase();
        if !TYPES.contains(&kind.strip_prefix("application/").unwrap_or(&kind)) {
            return Err("its \"typ\" is none of a token for callers".to_owned());
        }
    }
    let name = text("alg")?.ok_or("its header has no \"alg\"")?;
    let algorithm = algorithm_of(name).ok_or_else(|| name.chars().take(32).collect());
    let key_id = text("kid")?.map(str::to_owned);
    if key_id.as_ref().is_some_and(|id| id.len() > MAX_KEY_ID_BYTES) {
        return Err("its \"kid\" is longer than 256 bytes".to_owned());
    }
    Ok((algorithm, key_id))
}

/// Verifies a token at `now`.
///
/// # Errors
///
/// The problem of the issuer that comes furthest.
///
/// # Cancel safety
///
/// Nothing is lost.
pub(super) async fn verify(
    issuers: &[Issuer],
    token: &str,
    now: SystemTime,
) -> Result<VerifiedToken, TokenProblem> {
    let read = ReadToken::parse(token)?;
    let named = named_issuer(&read.claims)?;
    let mut problem = TokenProblem::Issuer(named.map(str::to_owned));
    for (number, issuer) in issuers.iter().enumerate() {
        if !issuer.rules.may_have_issued(named) {
            continue;
        }
        let checked = match verified_by(issuer, &read).await {
            Ok(key) => checked_claims(issuer, number, read.claims.clone(), now)
                .map(|token| VerifiedToken { key: Some(key), ..token }),
            Err(other) => Err(other),
        };
        match checked {
            Ok(token) => return Ok(token),
            Err(_) if problem.is_of_verified() => {}
            Err(other) => problem = other,
        }
    }
    Err(problem)
}

/// Returns the `iss` of claims.
///
/// # Errors
///
/// [`TokenProblem::Malformed`]: it is no text.
pub(super) fn named_issuer(claims: &Claims) -> Result<Option<&str>, TokenProblem> {
    claims.text("iss").map_err(TokenProblem::Malformed)
}

/// Returns the key of the issuer that made the token.
///
/// # Errors
///
/// No key did.
async fn verified_by(
    issuer: &Issuer,
    token: &ReadToken<'_>,
) -> Result<Arc<VerificationKey>, TokenProblem> {
    let algorithm = token.algorithm.clone().map_err(TokenProblem::Algorithm)?;
    if !issuer.rules.algorithms.contains(&algorithm) {
        return Err(TokenProblem::Algorithm(format!("{algorithm:?}")));
    }
    let id = token.key_id.as_deref();
    let mut keys = issuer.keys(algorithm, id);
    if keys.is_empty() && issuer.ask().await {
        keys = issuer.keys(algorithm, id);
    }
    if keys.is_empty() {
        return Err(match issuer.is_without_keys() {
            true => TokenProblem::NoKeys,
            false => TokenProblem::Key(token.key_id.clone()),
        });
    }
    let is_its =
        |key: &Arc<VerificationKey>| key.verifies(algorithm, token.message, &token.signature);
    keys.into_iter().find(is_its).ok_or(TokenProblem::Signature)
}

/// Checks the claims of a token that is verified by `issuer`, at `now`.
///
/// # Errors
///
/// The first claim that is missing or wrong.
pub(super) fn checked_claims(
    issuer: &Issuer,
    number: usize,
    claims: Claims,
    now: SystemTime,
) -> Result<VerifiedToken, TokenProblem> {
    let wrong = TokenProblem::Claim;
    let config = &issuer.rules.config;
    let leeway = Duration::from_secs(config.leeway_s);
    let end = claims.time("exp").map_err(wrong)?;
    let end = end.ok_or_else(|| wrong("\"exp\" is missing".to_owned()))?;
    let expires = end.checked_add(leeway).unwrap_or(end);
    if now >= expires {
        return Err(TokenProblem::Expired);
    }
    let begin = claims.time("nbf").map_err(wrong)?;
    let issued = claims.time("iat").map_err(wrong)?;
    // A token from the future would outlive each revocation until then.
    for (name, time) in [("nbf", begin), ("iat", issued)] {
        if time.is_some_and(|time| time > now.checked_add(leeway).unwrap_or(now)) {
            return Err(TokenProblem::NotYet(name));
        }
    }
    let audiences = claims.audiences().map_err(wrong)?;
    let is_for_us = match config.audience.is_empty() {
        true => audiences.is_empty(),
        false => audiences.iter().any(|one| config.audience.iter().any(|ours| ours == one)),
    };
    if !is_for_us {
        return Err(TokenProblem::Audience);
    }
    let id = claims.text("sub").map_err(wrong)?;
    let id = id.ok_or_else(|| wrong("\"sub\" is missing".to_owned()))?.to_owned();
    if let Some(problem) = problem_of_id(&id) {
        return Err(wrong(format!("\"sub\" {problem}")));
    }
    Ok(VerifiedToken { id, issued, expires, claims, issuer: number, key: None })
}
