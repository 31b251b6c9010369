//! Tokens (JWT, RFC 7519): their form, their signature, and what their claims must say.
//!
//! A token counts from `nbf` to `exp`, with the issuer's leeway on both sides: at `exp` and the
//! leeway it is over, for requests, for streams, and for what is remembered of it. One function
//! judges it, and takes the time as an argument.
//!
//! Half of the file is tests; it is long because each way to forge a token has one.

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
    /// The text is of no kind of credential. Keys are told apart before.
    Neither,
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
            Self::Neither => f.write_str("this is neither a key (`lok_…`) nor a token (a JWT)"),
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
    /// [`TokenProblem::Neither`], [`TokenProblem::Malformed`].
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenProblem> {
        let malformed = |problem: &str| TokenProblem::Malformed(problem.to_owned());
        if token.len() > MAX_CREDENTIAL_BYTES {
            return Err(malformed("it is longer than 16 KiB"));
        }
        if !token.contains('.') {
            return Err(TokenProblem::Neither);
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use jsonwebtoken::EncodingKey;
    use serde_json::json;

    use super::super::config::IssuerConfig;
    use super::super::issuers;
    use super::super::minting::{
        EC_PUBLIC, ED_PUBLIC, RSA_PUBLIC, SECRET, ec, ed, hs256, rsa, signed,
    };
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const LEEWAY: u64 = 30;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn issuer() -> IssuerConfig {
        IssuerConfig {
            algorithms: vec!["HS256".to_owned()],
            secret: Some(SECRET.into()),
            leeway_s: LEEWAY,
            ..IssuerConfig::default()
        }
    }

    fn of_pem(names: &[&str], pem: &str) -> IssuerConfig {
        let algorithms = names.iter().map(|name| (*name).to_owned()).collect();
        IssuerConfig { algorithms, key: Some(pem.to_owned()), ..IssuerConfig::default() }
    }

    async fn verified(
        configs: &[IssuerConfig],
        token: &str,
        now: SystemTime,
    ) -> Result<VerifiedToken, TokenProblem> {
        let mut opened = Vec::new();
        for rules in issuers::parse(configs).unwrap() {
            opened.push(rules.open().await.unwrap());
        }
        verify(&opened, token, now).await
    }

    async fn problem(configs: &[IssuerConfig], token: &str) -> TokenProblem {
        verified(configs, token, at(NOW)).await.unwrap_err()
    }

    fn claims() -> Value {
        json!({"sub": "user-42", "exp": NOW + 60})
    }

    fn claims_with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[tokio::test]
    async fn a_token_of_each_algorithm_is_taken_from_its_own_issuer_alone() {
        let secret = EncodingKey::from_secret(SECRET.as_bytes());
        let all = [
            (issuer(), "HS256", Algorithm::HS256, secret),
            (of_pem(&["RS256"], RSA_PUBLIC), "RS256", Algorithm::RS256, rsa()),
            (of_pem(&["PS256"], RSA_PUBLIC), "PS256", Algorithm::PS256, rsa()),
            (of_pem(&["ES256"], EC_PUBLIC), "ES256", Algorithm::ES256, ec()),
            (of_pem(&["EdDSA"], ED_PUBLIC), "EdDSA", Algorithm::EdDSA, ed()),
        ];
        for (config, name, algorithm, key) in &all {
            let header = json!({"alg": name, "kid": "any"});
            let token = signed(&header, &claims(), key, *algorithm);
            for (other, other_name, ..) in &all {
                let found = verified(std::slice::from_ref(other), &token, at(NOW)).await;
                match other_name == name {
                    true => assert_eq!(found.unwrap().id, "user-42"),
                    false => {
                        assert_eq!(found.unwrap_err(), TokenProblem::Algorithm((*name).to_owned()));
                    }
                }
            }
            let both = [all[0].0.clone(), config.clone()];
            let token = verified(&both, &token, at(NOW)).await.unwrap();
            assert_eq!(token.issuer, usize::from(*name != "HS256"));
        }
    }

    /// Goal: the attacks of RFC 8725 on the algorithm and the key come to nothing.
    #[tokio::test]
    async fn a_token_does_not_choose_how_it_is_verified() {
        let public = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
        let confused = signed(&json!({"alg": "HS256"}), &claims(), &public, Algorithm::HS256);
        let strict = [of_pem(&["RS256", "PS256"], RSA_PUBLIC)];
        assert_eq!(problem(&strict, &confused).await, TokenProblem::Algorithm("HS256".into()));
        let both = [strict[0].clone(), issuer()];
        assert_eq!(problem(&both, &confused).await, TokenProblem::Signature);

        let good = hs256(&claims());
        let (message, signature) = good.rsplit_once('.').unwrap();
        let claims_part = message.split_once('.').unwrap().1;
        for alg in ["none", "None", "", "HS512", "hs256"] {
            let header = json!({"alg": alg}).to_string();
            let header = base64::Engine::encode(
                &base64::engine::general_purpose::URL_SAFE_NO_PAD,
                header.as_bytes(),
            );
            for signature in ["", signature] {
                let token = format!("{header}.{claims_part}.{signature}");
                assert_eq!(problem(&[issuer()], &token).await, TokenProblem::Algorithm(alg.into()));
            }
        }
        assert_eq!(problem(&[issuer()], &format!("{message}.")).await, TokenProblem::Signature);

        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let with = |more: Value| {
            let mut header = json!({"alg": "HS256"});
            for (name, value) in more.as_object().unwrap() {
                header[name] = value.clone();
            }
            signed(&header, &claims(), &key, Algorithm::HS256)
        };
        for more in [
            json!({"crit": ["exp"]}),
            json!({"crit": []}),
            json!({"crit": null}),
            json!({"typ": "logout+jwt"}),
            json!({"typ": "application/secevent+jwt"}),
            json!({"typ": 1}),
            json!({"kid": 1}),
            json!({"kid": "x".repeat(MAX_KEY_ID_BYTES + 1)}),
            json!({"alg": null}),
        ] {
            let problem = problem(&[issuer()], &with(more.clone())).await;
            assert!(matches!(problem, TokenProblem::Malformed(_)), "{more}: {problem}");
        }
        for more in [
            json!({"typ": "JWT"}),
            json!({"kid": "x".repeat(MAX_KEY_ID_BYTES)}),
            json!({"typ": "application/at+JWT"}),
            // They are not looked at: the key is that of the settings.
            json!({"jku": "https://evil.example", "x5u": "https://evil.example", "jwk": {}}),
        ] {
            verified(&[issuer()], &with(more), at(NOW)).await.unwrap();
        }
        let wrong = EncodingKey::from_secret(&[SECRET.as_bytes(), b"."].concat());
        let token = signed(&json!({"alg": "HS256"}), &claims(), &wrong, Algorithm::HS256);
        assert_eq!(problem(&[issuer()], &token).await, TokenProblem::Signature);
    }

    #[tokio::test]
    async fn what_is_no_token_is_malformed_and_a_long_one_is_not_read() {
        let good = hs256(&claims());
        let parts: Vec<&str> = good.split('.').collect();
        let [header, claims, signature] = parts[..] else { panic!("three parts") };
        for bad in [
            "..".to_owned(),
            "a.b".to_owned(),
            format!("{header}.{claims}"),
            format!("{good}.{signature}"),
            format!("{header}.{claims}.{signature}.a.b"),
            format!("{header}=.{claims}.{signature}"),
            format!("{header}.{claims}.{signature}+"),
            format!("{claims}.{claims}.{signature}"),
            format!("{header}.{signature}.{signature}"),
            "x".repeat(MAX_CREDENTIAL_BYTES + 1),
        ] {
            let problem = problem(&[issuer()], &bad).await;
            assert!(matches!(problem, TokenProblem::Malformed(_)), "{bad}: {problem}");
            assert!(!problem.to_string().contains(signature), "{problem}");
        }
        for mistyped in ["", "a", "LOK_a", header] {
            let problem = problem(&[issuer()], mistyped).await;
            let told = "this is neither a key (`lok_…`) nor a token (a JWT)";
            assert_eq!((problem.told().as_str(), problem), (told, TokenProblem::Neither));
        }
        let spare = "x".repeat(MAX_CREDENTIAL_BYTES);
        let long = hs256(&claims_with("spare", json!(spare)));
        let TokenProblem::Malformed(problem) = problem(&[issuer()], &long).await else {
            panic!("a long token is malformed")
        };
        assert!(problem.contains("16 KiB"), "{problem}");
    }

    /// Goal: the times count exactly to the leeway's edge, on both sides.
    #[tokio::test]
    async fn a_token_counts_from_its_beginning_to_its_end_and_the_leeway() {
        let tick = Duration::from_nanos(1);
        let edge = |claims: Value, now: SystemTime| async move {
            verified(&[issuer()], &hs256(&claims), now).await.map(|token| token.expires)
        };
        let end = at(NOW + 60 + LEEWAY);
        assert_eq!(edge(claims(), end - tick).await, Ok(end));
        assert_eq!(edge(claims(), end).await, Err(TokenProblem::Expired));
        for name in ["nbf", "iat"] {
            let claims = claims_with(name, json!(NOW));
            let begin = at(NOW - LEEWAY);
            edge(claims.clone(), begin).await.unwrap();
            assert_eq!(edge(claims, begin - tick).await, Err(TokenProblem::NotYet(name)));
        }
        let strict = IssuerConfig { leeway_s: 0, ..issuer() };
        let token = hs256(&claims());
        let end = at(NOW + 60);
        verified(std::slice::from_ref(&strict), &token, end - tick).await.unwrap();
        let over = verified(&[strict], &token, end).await.unwrap_err();
        assert_eq!(over, TokenProblem::Expired);
        let issued = verified(&[issuer()], &hs256(&claims_with("iat", json!(NOW))), at(NOW)).await;
        assert_eq!(issued.unwrap().issued, Some(at(NOW)));
    }

    #[tokio::test]
    async fn claims_that_are_missing_or_wrong_are_refused() {
        let without = |name: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(name);
            claims
        };
        for (claims, part) in [
            (without("exp"), "\"exp\" is missing"),
            (without("sub"), "\"sub\" is missing"),
            (claims_with("exp", json!("soon")), "\"exp\" is no time"),
            (claims_with("exp", json!(null)), "\"exp\" is no time"),
            (claims_with("nbf", json!("x")), "\"nbf\" is no time"),
            (claims_with("iat", json!({})), "\"iat\" is no time"),
            (claims_with("sub", json!(42)), "\"sub\" is no text"),
            (claims_with("sub", json!("")), "\"sub\" is empty"),
            (claims_with("sub", json!("a\nb")), "control character"),
            (claims_with("sub", json!("anonymous")), "without credentials"),
            (claims_with("sub", json!("x".repeat(256))), "longer than 255"),
            (claims_with("aud", json!(1)), "\"aud\" is neither"),
        ] {
            let refused = problem(&[issuer()], &hs256(&claims)).await;
            assert!(matches!(refused, TokenProblem::Claim(_)), "{claims}");
            assert!(refused.to_string().contains(part), "{refused}");
        }
        let refused = problem(&[issuer()], &hs256(&claims_with("iss", json!(1)))).await;
        assert!(matches!(refused, TokenProblem::Malformed(_)), "{refused}");
    }

    #[tokio::test]
    async fn a_token_is_for_one_of_the_audiences_or_names_none() {
        let strict = IssuerConfig { audience: vec!["a".into(), "b".into()], ..issuer() };
        let is_taken = |config: IssuerConfig, audience: Option<Value>| async move {
            let claims = audience.map_or(claims(), |audience| claims_with("aud", audience));
            match verified(&[config], &hs256(&claims), at(NOW)).await {
                Ok(_) => true,
                Err(problem) => {
                    assert_eq!(problem, TokenProblem::Audience);
                    false
                }
            }
        };
        for (audience, with_list, without) in [
            (None, false, true),
            (Some(json!("a")), true, false),
            (Some(json!(["x", "b"])), true, false),
            (Some(json!(["x"])), false, false),
            (Some(json!("A")), false, false),
            (Some(json!("a b")), false, false),
        ] {
            assert_eq!(is_taken(strict.clone(), audience.clone()).await, with_list, "{audience:?}");
            assert_eq!(is_taken(issuer(), audience.clone()).await, without, "{audience:?}");
        }
    }

    #[tokio::test]
    async fn a_token_is_tried_with_the_issuers_whose_name_it_has() {
        let named = |name: &str| IssuerConfig { issuer: Some(name.to_owned()), ..issuer() };
        let token = |name: &str| hs256(&claims_with("iss", json!(name)));
        let (a, b) = (named("a"), IssuerConfig { audience: vec!["x".into()], ..named("b") });
        let two = [a.clone(), b.clone()];
        assert_eq!(verified(&two, &token("a"), at(NOW)).await.unwrap().issuer, 0);
        assert_eq!(problem(&two, &token("b")).await, TokenProblem::Audience);
        assert_eq!(problem(&two, &token("c")).await, TokenProblem::Issuer(Some("c".into())));
        assert_eq!(problem(&two, &hs256(&claims())).await, TokenProblem::Issuer(None));
        let any = [a, issuer()];
        assert_eq!(verified(&any, &token("c"), at(NOW)).await.unwrap().issuer, 1);

        // Two keys of one issuer, while the one takes the place of the other.
        let old = IssuerConfig { secret: Some("x".repeat(40).into()), ..named("b") };
        let rotated = [old, named("b")];
        assert_eq!(verified(&rotated, &token("b"), at(NOW)).await.unwrap().issuer, 1);
        let expired = hs256(&json!({"sub": "u", "exp": 1, "iss": "b"}));
        for issuers in [[b.clone(), rotated[0].clone()], [rotated[0].clone(), b]] {
            assert_eq!(problem(&issuers, &expired).await, TokenProblem::Expired, "it says more");
        }
    }

    #[test]
    fn a_client_is_not_told_which_issuers_and_keys_there_are() {
        let unverified = [
            TokenProblem::Algorithm("HS256".into()),
            TokenProblem::Issuer(Some("secret-issuer".into())),
            TokenProblem::Issuer(None),
            TokenProblem::Key(Some("secret-key".into())),
            TokenProblem::Key(None),
            TokenProblem::Signature,
        ];
        let told: Vec<_> = unverified.iter().map(TokenProblem::told).collect();
        assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
        assert!(!told[0].contains("secret-"));
        assert!(TokenProblem::Expired.told().contains("expired"));
        assert!(TokenProblem::Audience.told().contains("aud"));
        for problem in [TokenProblem::NoKeys, TokenProblem::Malformed("x".into())] {
            assert!(!problem.is_of_verified() && !problem.told().contains("secret"));
        }
    }
}
