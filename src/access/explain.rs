//! What a credential proves, what it permits with a topic, and why: for those who configure it.

use std::fmt;
use std::time::SystemTime;

use super::claims::Claims;
use super::config::AccessConfig;
use super::keys::KEY_PREFIX;
use super::prover::Prover;
use super::revocations::Revocations;
use super::rights::Rights;
use super::tokens::{self, TokenProblem, VerifiedToken};
use crate::error::Result;
use crate::permission::{Action, Permission, Permitted, Verdict};
use crate::timestamp::Timestamp;
use crate::topic::TopicName;

/// The actions on topics, in the order in which they are told.
const ACTIONS: [Action; 4] = [Action::Publish, Action::Subscribe, Action::Presence, Action::Manage];

/// What a caller presents, to be explained.
#[derive(Clone)]
#[non_exhaustive]
pub enum Presented {
    /// A static key.
    Key(String),
    /// A token (JWT).
    Token(String),
    /// The claims of a token in JSON, as if an issuer had made a token of them.
    Claims(String),
    /// No credential.
    Nothing,
}

impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(***)",
            Self::Token(_) => "Token(***)",
            Self::Claims(_) => "Claims(***)",
            Self::Nothing => "Nothing",
        })
    }
}

/// The explanation of a credential. Written as lines for people, without the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    is_refused: bool,
    lines: Vec<String>,
}

impl Presented {
    /// Returns a credential as callers send it; claims are a JSON object.
    pub(super) fn of(credential: Option<String>) -> Self {
        match credential {
            None => Self::Nothing,
            Some(text) if text.is_empty() => Self::Nothing,
            Some(text) if text.starts_with('{') => Self::Claims(text),
            Some(text) if text.starts_with(KEY_PREFIX) => Self::Key(text),
            Some(text) => Self::Token(text),
        }
    }
}

impl Explanation {
    /// Returns the lines.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Returns whether the caller is refused as a whole.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    fn refused(problem: impl fmt::Display) -> Self {
        Self { is_refused: true, lines: vec![format!("refused: {problem}")] }
    }

    /// Returns the explanation of a credential of `caller`, which is refused if it is revoked. What
    /// it would permit stays told.
    fn unless_revoked(
        mut self,
        revocations: Option<&Revocations>,
        caller: &str,
        issued: Option<SystemTime>,
    ) -> Self {
        let revoked = revocations.and_then(|all| all.moment_of(caller, issued));
        if let Some(before) = revoked {
            let own = match issued {
                Some(issued) => format!("this one is of {}", Timestamp::from(issued)),
                None => "this one does not say when it was issued".to_owned(),
            };
            let told = format!(
                "refused: the credential is revoked: those of {caller} up to {before} are \
                 refused, and {own}"
            );
            self.is_refused = true;
            self.lines.insert(0, told);
        }
        self
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Explains whom a credential proves by these settings, what it permits with `topic`, and which
/// rule says so. Revocations are not looked at: they are in the broker.
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid), [`Error::OverLimit`](crate::Error::OverLimit): the
/// settings are wrong, or a file that they name.
///
/// # Cancel safety
///
/// Nothing is left behind.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub async fn explain(
    config: &AccessConfig,
    presented: &Presented,
    topic: &TopicName,
) -> Result<Explanation> {
    let prover = Prover::open(config).await?;
    Ok(explain_by(&prover, None, presented, Some(topic)).await)
}

/// Explains as [`explain`] does, by means of proof that are there. With `revocations`, a credential
/// that is revoked is refused, as the broker refuses it. Without a topic, all patterns are told.
///
/// # Cancel safety
///
/// Nothing is left behind.
pub(super) async fn explain_by(
    prover: &Prover,
    revocations: Option<&Revocations>,
    presented: &Presented,
    topic: Option<&TopicName>,
) -> Explanation {
    let now = SystemTime::now();
    match presented {
        Presented::Key(key) => match prover.key(key) {
            Ok(proved) => {
                let who = format!("caller: {}, by a key of access.keys", proved.id);
                permitted(vec![who], &[("access.keys".to_owned(), proved.permission)], topic)
                    .unless_revoked(revocations, &proved.id, proved.issued)
            }
            Err(refusal) => Explanation::refused(refusal),
        },
        Presented::Nothing => match prover.anonymous() {
            Ok(proved) => {
                let who = format!("caller: {}, without a credential", proved.id);
                permitted(vec![who], &[("access.anonymous".to_owned(), proved.permission)], topic)
            }
            Err(refusal) => Explanation::refused(refusal),
        },
        Presented::Token(token) => {
            let verified = tokens::verify(&prover.issuers, token, now).await;
            of_token(prover, revocations, verified, topic)
        }
        Presented::Claims(claims) => {
            let claims = Claims::parse(claims.as_bytes()).map_err(TokenProblem::Malformed);
            let checked = claims.and_then(|claims| as_if_verified(prover, &claims, now));
            of_token(prover, revocations, checked, topic)
        }
    }
}

/// Checks claims as if each issuer that they may be of had verified them.
fn as_if_verified(
    prover: &Prover,
    claims: &Claims,
    now: SystemTime,
) -> std::result::Result<VerifiedToken, TokenProblem> {
    let named = tokens::named_issuer(claims)?;
    let mut problem = TokenProblem::Issuer(named.map(str::to_owned));
    for (number, issuer) in prover.issuers.iter().enumerate() {
        if issuer.rules.may_have_issued(named) {
            match tokens::checked_claims(issuer, number, claims.clone(), now) {
                Ok(token) => return Ok(token),
                Err(other) => problem = other,
            }
        }
    }
    Err(problem)
}

fn of_token(
    prover: &Prover,
    revocations: Option<&Revocations>,
    verified: std::result::Result<VerifiedToken, TokenProblem>,
    topic: Option<&TopicName>,
) -> Explanation {
    let found = verified.and_then(|token| {
        // Too many of them together are refused by the broker.
        prover.rights_of_token(&token)?.all().map_err(TokenProblem::Claim)?;
        let rights = prover.rights_of_token(&token)?;
        Ok((token, rights))
    });
    let (token, rights) = match found {
        Ok(found) => found,
        Err(problem) => return Explanation::refused(problem),
    };
    let issuer = &prover.issuers[token.issuer];
    let mut lines = vec![
        format!("caller: {}, by a token of {}", token.id, issuer.shown()),
        format!("issuer: {}", issuer.shown_keys()),
        format!("until: {}", Timestamp::from(token.expires)),
    ];
    for role in &rights.roles.without_own {
        lines.push(format!(
            "access.roles[{role}]: {:?} is no plain token, so patterns with {{sub}} are left out",
            token.id
        ));
    }
    let own = rights.own.map(|own| ("the claim leftoff".to_owned(), own.permission()));
    let of_role = |(number, rights): (usize, Rights)| {
        (format!("access.roles[{number}]"), rights.permission())
    };
    let roles = rights.roles.applied.into_iter().map(of_role);
    let sources: Vec<_> = own.into_iter().chain(roles).collect();
    permitted(lines, &sources, topic).unless_revoked(revocations, &token.id, token.issued)
}

/// Adds what each of the sources permits with a topic; without one, all that it permits.
fn permitted(
    mut lines: Vec<String>,
    sources: &[(String, Permission)],
    topic: Option<&TopicName>,
) -> Explanation {
    if sources.is_empty() {
        lines.push("no claim and no role gives rights to the caller".to_owned());
    }
    for action in ACTIONS {
        let Some(topic) = topic else {
            lines.push(all_patterns(action, sources));
            continue;
        };
        let what = format!("{} {topic}", action.as_str());
        let is_written = matches!(action, Action::Publish | Action::Manage);
        if is_written && topic.is_own() {
            lines.push(format!("{what}: no, nobody but the broker writes its own topics"));
            continue;
        }
        let giving = sources.iter().filter(|(_, it)| it.of(action).verdict(topic) == Verdict::Yes);
        let reason = |(source, permission): &(String, Permission)| {
            format!("{source} ({})", matching(permission.of(action), topic))
        };
        let reasons: Vec<_> = giving.map(reason).collect();
        lines.push(match reasons.is_empty() {
            true => format!("{what}: no, no pattern matches"),
            false => format!("{what}: yes, by {}", reasons.join(" and ")),
        });
    }
    let admins = sources.iter().filter(|(_, it)| it.administers()).map(|(source, _)| &**source);
    let admins: Vec<_> = admins.collect();
    lines.push(match admins.is_empty() {
        true => "administer the broker: no".to_owned(),
        false => format!("administer the broker: yes, by {}", admins.join(" and ")),
    });
    Explanation { is_refused: false, lines }
}

/// Returns what the sources permit of an action, with all of their patterns.
fn all_patterns(action: Action, sources: &[(String, Permission)]) -> String {
    let of_source = |(source, permission): &(String, Permission)| {
        let patterns = match permission.of(action) {
            Permitted::None => return None,
            Permitted::Patterns(patterns) if patterns.is_empty() => return None,
            Permitted::Patterns(patterns) => {
                let patterns = patterns.iter().map(|pattern| pattern.as_str());
                patterns.collect::<Vec<_>>().join(", ")
            }
            Permitted::All | Permitted::Ask => "all topics".to_owned(),
        };
        Some(format!("{patterns} by {source}"))
    };
    let told: Vec<_> = sources.iter().filter_map(of_source).collect();
    match told.is_empty() {
        true => format!("{}: nothing", action.as_str()),
        false => format!("{}: {}", action.as_str(), told.join(" and ")),
    }
}

/// Returns the patterns that match a topic.
fn matching(permitted: &Permitted, topic: &TopicName) -> String {
    let Permitted::Patterns(patterns) = permitted else { return "all topics".to_owned() };
    let matching = patterns.iter().filter(|pattern| pattern.matches(topic));
    matching.map(|pattern| pattern.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::config::{IssuerConfig, KeyConfig, RoleConfig};
    use super::super::minting::{SECRET, hs256};
    use super::*;

    async fn explained(config: &AccessConfig, presented: Presented, topic: &str) -> Explanation {
        explain(config, &presented, &TopicName::new(topic).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn the_rule_that_gives_a_right_is_named_and_the_credential_is_not_told() {
        let issuer = IssuerConfig {
            issuer: Some("idp".to_owned()),
            algorithms: vec!["HS256".to_owned()],
            secret: Some(SECRET.into()),
            ..IssuerConfig::default()
        };
        let role = RoleConfig {
            claim: "groups".to_owned(),
            contains: Some("customers".to_owned()),
            subscribe: vec!["users.{sub}.>".to_owned()],
            ..RoleConfig::default()
        };
        let key = KeyConfig {
            name: "orders-svc".to_owned(),
            publish: vec!["orders.>".to_owned()],
            admin: true,
            ..KeyConfig::default()
        };
        let (key, key_config) = key.with_new_key().unwrap();
        let config = AccessConfig {
            keys: vec![key_config],
            issuers: vec![issuer],
            roles: vec![role],
            ..AccessConfig::default()
        };
        let claims = json!({
            "iss": "idp", "sub": "user-42", "exp": 4_000_000_000_u64, "groups": ["customers"],
            "leftoff": {"publish": ["feedback"]},
        });
        let token = Presented::Token(hs256(&claims));
        assert_eq!(format!("{token:?}"), "Token(***)");
        let of_token = explained(&config, token, "users.user-42.inbox").await;
        let text = of_token.to_string();
        assert!(!of_token.is_refused());
        for part in [
            "caller: user-42, by a token of access.issuers[0] (idp)",
            "until: 2096-10-02T07:07:10.000Z",
            "publish to users.user-42.inbox: no, no pattern matches",
            "subscribe to users.user-42.inbox: yes, by access.roles[0] (users.user-42.>)",
            "administer the broker: no",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let by_claims = explained(&config, Presented::Claims(claims.to_string()), "feedback").await;
        let text = by_claims.to_string();
        assert!(
            text.contains("publish to feedback: yes, by the claim leftoff (feedback)"),
            "{text}"
        );

        let of_key =
            explained(&config, Presented::Key(key.clone()), "orders.new").await.to_string();
        assert!(
            of_key.contains("publish to orders.new: yes, by access.keys (orders.>)"),
            "{of_key}"
        );
        assert!(of_key.contains("administer the broker: yes, by access.keys"), "{of_key}");
        assert!(!of_key.contains(&key), "{of_key}");
        let prover = Prover::open(&config).await.unwrap();
        let presented = Presented::of(Some(key.clone()));
        let all = explain_by(&prover, None, &presented, None).await.to_string();
        assert!(all.contains("publish to: orders.> by access.keys"), "{all}");
        assert!(all.contains("subscribe to: $consumers, $webhooks.status by"), "{all}");
        assert!(!all.contains(&key), "{all}");
        let own = explained(&config, Presented::Key(key), "$audit").await.to_string();
        assert!(own.contains("manage $audit: no, nobody but the broker"), "{own}");

        let many: Vec<String> = (0..1_024).map(|number| format!("a{number}")).collect();
        let mut too_many = claims.clone();
        too_many["leftoff"] = json!({"subscribe": many});
        for (presented, reason) in [
            (Presented::Claims(too_many.to_string()), "1025 is over the limit of 1024"),
            (Presented::Nothing, "refused: send `Authorization: Bearer`"),
            (Presented::Key("lok_x".to_owned()), "refused: the key is not known"),
            (Presented::Token("a.b".to_owned()), "refused: the token is malformed"),
            (Presented::Claims("{\"iss\":\"x\"}".to_owned()), "refused: no issuer \"x\""),
            (Presented::Claims("{\"iss\":\"idp\"}".to_owned()), "\"exp\" is missing"),
        ] {
            let explained = explained(&config, presented, "a").await;
            assert!(explained.is_refused());
            assert!(explained.to_string().contains(reason), "{explained}");
        }
    }
}
