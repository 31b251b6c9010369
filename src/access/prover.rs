//! The proof of callers: what a credential says, without a look at who is revoked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::claims::Claims;
use super::config::{AccessConfig, AnonymousConfig};
use super::credentials::CredentialPlaces;
use super::identity::{ANONYMOUS, Proof, Proved, problem_of_id};
use super::issuers::{self, Issuer};
use super::jwks::MAX_START;
use super::keys::StaticKeys;
use super::rights::{Rights, WrittenRights};
use super::roles::{RoleRights, Roles};
use super::tokens::{self, TokenProblem, VerifiedToken};
use crate::edge::hooks::Refusal;
use crate::error::Result;

/// The means to prove callers: the static keys, the issuers of tokens, the roles.
#[derive(Debug)]
pub(super) struct Prover {
    pub(super) places: CredentialPlaces,
    pub(super) issuers: Vec<Issuer>,
    keys: StaticKeys,
    roles: Roles,
    anonymous: Option<Proved>,
}

/// The rights of a caller, and where each of them comes from.
#[derive(Debug, Default)]
pub(super) struct FoundRights {
    /// Those of the claim `leftoff`; `None` if there is none, or it does not count.
    pub(super) own: Option<Rights>,
    pub(super) roles: RoleRights,
}

impl FoundRights {
    /// Returns all of them together.
    ///
    /// # Errors
    ///
    /// The problem: they are more than one caller may have.
    pub(super) fn all(self) -> Result<Rights, String> {
        let mut rights = self.own.unwrap_or_default();
        rights.add(self.roles.rights);
        rights.check_counts().map_err(|error| error.to_string())?;
        Ok(rights)
    }
}

impl Prover {
    /// Reads the settings, and the files that they name, and begins to fetch the keys of issuers.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::OverLimit`](crate::Error::OverLimit)
    /// with the setting, the value and the expected form.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(super) async fn open(config: &AccessConfig) -> Result<Self> {
        config.validate()?;
        let mut issuers = Vec::new();
        for rules in issuers::parse(&config.issuers)? {
            issuers.push(rules.open().await?);
        }
        let deadline = Instant::now() + MAX_START;
        for issuer in &issuers {
            issuer.started(deadline).await; // All of them are fetching already.
        }
        Ok(Self {
            places: config.places(),
            issuers,
            keys: StaticKeys::parse(&config.keys)?,
            roles: Roles::parse(&config.roles)?,
            anonymous: config.anonymous.as_ref().map(anonymous).transpose()?,
        })
    }

    /// Returns whether no credential and nobody without one can get in.
    pub(super) fn lets_nobody_in(&self) -> bool {
        self.keys.is_empty()
            && self.issuers.is_empty()
            && self.anonymous.is_none()
            && !self.roles.has_certificates()
    }

    /// Returns what a static key proves.
    ///
    /// # Errors
    ///
    /// A refusal that does not tell whether there is such a key.
    pub(super) fn key(&self, key: &str) -> Result<Proved, Refusal> {
        let known = self.keys.prove(key).cloned();
        known.ok_or_else(|| Refusal::unauthenticated("the key is not known"))
    }

    /// Returns what a token proves at `now`.
    ///
    /// # Errors
    ///
    /// A refusal that tells nothing of the keys.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn token(&self, token: &str, now: SystemTime) -> Result<Proved, Refusal> {
        let proved = match tokens::verify(&self.issuers, token, now).await {
            Ok(verified) => self.proved(verified),
            Err(problem) => Err(problem),
        };
        proved.map_err(|problem| Refusal::unauthenticated(problem.told()))
    }

    /// Returns what a verified token proves.
    ///
    /// # Errors
    ///
    /// [`TokenProblem::Claim`]: the claim `leftoff` is wrong, or there are too many rights.
    fn proved(&self, token: VerifiedToken) -> Result<Proved, TokenProblem> {
        let rights = self.rights_of_token(&token)?.all().map_err(TokenProblem::Claim)?;
        Ok(Proved {
            id: token.id.into(),
            proof: Proof::Token { issuer: token.issuer },
            issued: token.issued,
            expires: Some(token.expires),
            permission: rights.permission(),
            key: token.key.as_ref().map(Arc::downgrade),
        })
    }

    /// Returns the rights of the caller of a verified token, and where they come from.
    ///
    /// # Errors
    ///
    /// [`TokenProblem::Claim`]: the claim `leftoff` is wrong.
    pub(super) fn rights_of_token(
        &self,
        token: &VerifiedToken,
    ) -> Result<FoundRights, TokenProblem> {
        let issuer = &self.issuers[token.issuer].rules.config;
        let own = match issuer.permits {
            true => token.claims.own_rights().map_err(TokenProblem::Claim)?,
            false => None,
        };
        Ok(FoundRights {
            own,
            roles: self.roles.of(&token.id, &token.claims, issuer.issuer.as_deref()),
        })
    }

    /// Returns what a client certificate proves at `now`. The handshake has verified it; its dates
    /// are looked at again, because a connection may outlive them.
    ///
    /// # Errors
    ///
    /// A refusal: the certificate names no caller, is over, or gives more rights than one may have.
    #[cfg(feature = "tls")]
    pub(super) fn certificate(&self, der: &[u8], now: SystemTime) -> Result<Proved, Refusal> {
        let caller = super::certificates::caller_of(der).map_err(Refusal::unauthenticated)?;
        if let Some(problem) = problem_of_id(&caller.id) {
            let problem = format!("the name in the client certificate {problem}");
            return Err(Refusal::unauthenticated(problem));
        }
        // The last second of the validity counts whole.
        let end = caller.not_after.checked_add(Duration::from_secs(1)).unwrap_or(caller.not_after);
        if now < caller.not_before || now >= end {
            return Err(Refusal::unauthenticated("the client certificate is not valid now"));
        }
        let roles = self.roles.of(&caller.id, &Claims::of_certificate(&caller.sans), None);
        let rights = FoundRights { own: None, roles }.all().map_err(Refusal::unauthenticated)?;
        Ok(Proved {
            id: caller.id.into(),
            proof: Proof::Certificate,
            issued: Some(caller.not_before),
            expires: Some(end),
            permission: rights.permission(),
            key: None,
        })
    }

    /// Returns what is proved of a caller without a credential.
    ///
    /// # Errors
    ///
    /// A refusal: a credential is needed.
    pub(super) fn anonymous(&self) -> Result<Proved, Refusal> {
        self.anonymous.clone().ok_or_else(|| {
            Refusal::unauthenticated(
                "send `Authorization: Bearer`, with a key or a token behind it",
            )
        })
    }
}

/// Returns what callers without credentials may do.
///
/// # Errors
///
/// As [`Prover::open`].
pub(super) fn anonymous(config: &AnonymousConfig) -> Result<Proved> {
    let (publish, subscribe) = (&config.publish, &config.subscribe);
    let written = WrittenRights { publish, subscribe, ..WrittenRights::default() };
    let permission = written.parse("access.anonymous")?.permission_without_presence();
    Ok(Proved {
        id: ANONYMOUS.into(),
        proof: Proof::Anonymous,
        issued: None,
        expires: None,
        permission,
        key: None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::{Value, json};

    use super::super::config::{IssuerConfig, RoleConfig};
    use super::super::minting::{SECRET, hs256};
    use super::*;
    use crate::permission::{Action, Permission, Verdict};
    use crate::topic::TopicName;

    fn config() -> AccessConfig {
        let issuer = IssuerConfig {
            algorithms: vec!["HS256".to_owned()],
            secret: Some(SECRET.into()),
            ..IssuerConfig::default()
        };
        let role = |claim: &str, contains: &str, subscribe: &str| RoleConfig {
            claim: claim.to_owned(),
            contains: Some(contains.to_owned()),
            subscribe: vec![subscribe.to_owned()],
            ..RoleConfig::default()
        };
        AccessConfig {
            issuers: vec![issuer],
            roles: vec![
                role("groups", "customers", "users.{sub}.>"),
                role("san", "svc.example", "services.>"),
            ],
            ..AccessConfig::default()
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    async fn proved(config: &AccessConfig, more: Value) -> Result<Proved, Refusal> {
        let mut claims = json!({"sub": "user-42", "exp": 1_800_000_060});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        Prover::open(config).await.unwrap().token(&hs256(&claims), now()).await
    }

    fn may(proved: &Proved, action: Action, topic: &str) -> bool {
        let topic = TopicName::new(topic).unwrap();
        proved.permission.of(action).verdict(&topic) == Verdict::Yes
    }

    #[tokio::test]
    async fn the_claim_of_rights_and_roles_are_added() {
        let more = json!({
            "groups": ["customers"], "san": "svc.example",
            "leftoff": {"publish": ["feedback"], "subscribe": ["news"]},
        });
        let caller = proved(&config(), more.clone()).await.unwrap();
        assert_eq!((&*caller.id, &caller.proof), ("user-42", &Proof::Token { issuer: 0 }));
        for (action, topic, expected) in [
            (Action::Publish, "feedback", true),
            (Action::Publish, "news", false),
            (Action::Subscribe, "news", true),
            (Action::Subscribe, "users.user-42.inbox", true),
            (Action::Presence, "users.user-42.inbox", true),
            (Action::Subscribe, "users.user-43.inbox", false),
            (Action::Subscribe, "services.a", false),
            (Action::Manage, "news", false),
        ] {
            assert_eq!(may(&caller, action, topic), expected, "{action:?} {topic}");
        }
        let mut strict = config();
        strict.issuers[0].permits = false;
        let caller = proved(&strict, more).await.unwrap();
        assert!(
            !may(&caller, Action::Publish, "feedback") && !may(&caller, Action::Subscribe, "news")
        );
        assert!(may(&caller, Action::Subscribe, "users.user-42.inbox"));

        let wrong = json!({"groups": ["customers"], "leftoff": {"publish": ["a"], "admin": 1}});
        let refused = proved(&config(), wrong.clone()).await.unwrap_err();
        assert!(
            refused.is_unauthenticated() && refused.reason().contains("\"leftoff\""),
            "{refused}"
        );
        proved(&strict, wrong).await.unwrap();

        let nothing = proved(&config(), json!({})).await.unwrap();
        assert_eq!(nothing.permission, Permission::default());
        let admin = proved(&config(), json!({"leftoff": {"admin": true}})).await.unwrap();
        assert!(admin.permission.administers() && may(&admin, Action::Manage, "any.topic"));
        assert!(may(&admin, Action::Subscribe, "$consumers"), "what is kept for readers");
        for topic in ["any", "any.topic", "$audit", "$revocations"] {
            assert!(!may(&admin, Action::Subscribe, topic), "{topic}");
        }
    }

    #[tokio::test]
    async fn the_rights_of_all_rules_together_are_bounded() {
        let many: Vec<String> = (0..600).map(|n| format!("a{n}")).collect();
        let mut config = config();
        let role = |claim: &str| RoleConfig {
            claim: claim.to_owned(),
            subscribe: many.clone(),
            ..RoleConfig::default()
        };
        config.roles = vec![role("a"), role("b")];
        proved(&config, json!({"a": 1})).await.unwrap();
        let refused = proved(&config, json!({"a": 1, "b": 1})).await.unwrap_err();
        assert!(refused.reason().contains("1200 is over the limit of 1024"), "{refused}");
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn a_certificate_has_the_roles_of_its_names() {
        let prover = Prover::open(&config()).await.unwrap();
        let der = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let mut params = rcgen::CertificateParams::new(names).unwrap();
            params.not_before = rcgen::date_time_ymd(2026, 1, 1);
            params.not_after = rcgen::date_time_ymd(2026, 1, 2);
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let begin = UNIX_EPOCH + Duration::from_secs(1_767_225_600); // 2026-01-01
        let end = begin + Duration::from_secs(86_400 + 1);
        let tick = Duration::from_nanos(1);
        let service = der(&["first.example", "svc.example"]);
        let caller = prover.certificate(&service, begin).unwrap();
        assert_eq!((&*caller.id, &caller.proof), ("first.example", &Proof::Certificate));
        assert_eq!((caller.issued, caller.expires), (Some(begin), Some(end)));
        assert!(may(&caller, Action::Subscribe, "services.a"), "by its second name");
        prover.certificate(&service, end - tick).unwrap();
        for time in [begin - tick, end] {
            let refused = prover.certificate(&service, time).unwrap_err();
            assert!(refused.reason().contains("not valid now"), "{refused}");
        }
        let other = prover.certificate(&der(&["other.example"]), begin).unwrap();
        assert_eq!(other.permission, Permission::default());
        let refused = prover.certificate(&der(&["anonymous"]), begin).unwrap_err();
        assert!(refused.is_unauthenticated(), "{refused}");
        assert!(prover.certificate(b"x", begin).unwrap_err().is_unauthenticated());
    }

    #[tokio::test]
    async fn callers_without_credentials_have_their_own_patterns_and_are_present_nowhere() {
        let closed = Prover::open(&config()).await.unwrap();
        let refused = closed.anonymous().unwrap_err();
        assert!(refused.is_unauthenticated() && refused.reason().contains("Bearer"), "{refused}");
        let anonymous = AnonymousConfig {
            publish: vec!["feedback".to_owned()],
            subscribe: vec!["news.>".to_owned()],
        };
        let open = AccessConfig { anonymous: Some(anonymous), ..AccessConfig::default() };
        let prover = Prover::open(&open).await.unwrap();
        let caller = prover.anonymous().unwrap();
        assert_eq!(caller.proof, Proof::Anonymous);
        assert!(may(&caller, Action::Publish, "feedback"));
        assert!(may(&caller, Action::Subscribe, "news.a"));
        assert!(!may(&caller, Action::Presence, "news.a"));
        assert!(!prover.lets_nobody_in() && !closed.lets_nobody_in());
        assert!(Prover::open(&AccessConfig::default()).await.unwrap().lets_nobody_in());
    }
}
