//! Roles: rules that give rights to callers by their claims.
//!
//! `{sub}` in a pattern stands for the caller's id as one token. An id that is no single plain
//! token (it holds a `.`, a wildcard, white space or a control character) matches no such pattern:
//! with `users.{sub}.>`, a caller named `*` would read the topics of all users.

use serde_json::Value;

use super::claims::{CERTIFICATE_CLAIM, Claims};
use super::config::RoleConfig;
use super::rights::{Rights, WrittenRights, check_own};
use crate::error::{Error, Result};
use crate::topic::{OWN_PREFIX, TopicPattern};

/// The token that stands for the caller's id.
const PLACEHOLDER: &str = "{sub}";

/// The most rules in the settings.
const MAX_ROLES: usize = 1_000;

/// The rules that give rights to callers by their claims.
#[derive(Debug, Default)]
pub(super) struct Roles(Vec<Role>);

#[derive(Debug)]
struct Role {
    issuer: Option<String>,
    claim: String,
    contains: Option<String>,
    /// The rights that are the same for all callers.
    fixed: Rights,
    /// The patterns with the placeholder.
    own: OwnPatterns,
}

#[derive(Debug, Default)]
struct OwnPatterns {
    publish: Vec<String>,
    subscribe: Vec<String>,
    manage: Vec<String>,
}

/// What the roles give to one caller.
#[derive(Debug, Default)]
pub(super) struct RoleRights {
    pub(super) rights: Rights,
    /// The rules that apply, by their numbers in `access.roles`, and what each of them gives.
    pub(super) applied: Vec<(usize, Rights)>,
    /// The rules whose patterns with the placeholder are left out, because the id is no token.
    pub(super) without_own: Vec<usize>,
}

impl Roles {
    /// Reads the rules of the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`] with the setting, the value and the expected form.
    pub(super) fn parse(configs: &[RoleConfig]) -> Result<Self> {
        if configs.len() > MAX_ROLES {
            return Err(Error::over("access.roles", configs.len(), MAX_ROLES));
        }
        let roles = configs.iter().enumerate();
        let role = |(number, config)| Role::parse(config, &format!("access.roles[{number}]"));
        roles.map(role).collect::<Result<_>>().map(Self)
    }

    /// Returns whether a rule is for client certificates.
    pub(super) fn has_certificates(&self) -> bool {
        self.0.iter().any(|role| role.claim == CERTIFICATE_CLAIM)
    }

    /// Returns what the rules give to the caller with this id and these claims. `issuer` is the
    /// name in the settings of the issuer who says so.
    pub(super) fn of(&self, id: &str, claims: &Claims, issuer: Option<&str>) -> RoleRights {
        let mut all = RoleRights::default();
        for (number, role) in self.0.iter().enumerate() {
            let is_of_issuer = role.issuer.is_none() || role.issuer.as_deref() == issuer;
            if !is_of_issuer || !role.applies_to(claims) {
                continue;
            }
            let mut rights = role.fixed.clone();
            let (own, is_cut) = role.own.of(id);
            rights.add(own);
            if is_cut {
                all.without_own.push(number);
            }
            all.rights.add(rights.clone());
            all.applied.push((number, rights));
        }
        all
    }
}

impl Role {
    fn parse(config: &RoleConfig, place: &str) -> Result<Self> {
        let field = |name: &str| format!("{place}.{name}");
        if config.claim.is_empty() {
            let problem = "is empty; name a claim, like groups or realm_access.roles";
            return Err(Error::invalid(field("claim"), problem));
        }
        if config.contains.as_deref() == Some("") {
            let problem = "is empty; name a text, or leave the setting out for any";
            return Err(Error::invalid(field("contains"), problem));
        }
        let split = |list: &[String]| -> (Vec<String>, Vec<String>) {
            list.iter().cloned().partition(|text| !text.contains(PLACEHOLDER))
        };
        let (publish, own_publish) = split(&config.publish);
        let (subscribe, own_subscribe) = split(&config.subscribe);
        let (manage, own_manage) = split(&config.manage);
        let written = WrittenRights {
            publish: &publish,
            subscribe: &subscribe,
            manage: &manage,
            admin: config.admin,
            audit: config.audit,
        };
        let fixed = written.parse(place)?;
        let own =
            OwnPatterns { publish: own_publish, subscribe: own_subscribe, manage: own_manage };
        for (name, list) in own.lists() {
            list.iter().try_for_each(|text| check_own_pattern(&field(name), text))?;
        }
        if fixed == Rights::default() && own.lists().iter().all(|(_, list)| list.is_empty()) {
            return Err(Error::invalid(place, "gives no rights; write some, or take it away"));
        }
        let RoleConfig { issuer, claim, contains, .. } = config.clone();
        Ok(Self { issuer, claim, contains, fixed, own })
    }

    fn applies_to(&self, claims: &Claims) -> bool {
        let Some(value) = claims.at(&self.claim) else { return false };
        match &self.contains {
            Some(wanted) => {
                let is_it = |value: &Value| value.as_str() == Some(wanted);
                is_it(value) || value.as_array().is_some_and(|list| list.iter().any(is_it))
            }
            // A claim that says no, or has nothing in it, is as none: `"verified": false`.
            None => match value {
                Value::Null | Value::Bool(false) => false,
                Value::String(text) => !text.is_empty(),
                Value::Array(list) => !list.is_empty(),
                Value::Object(members) => !members.is_empty(),
                Value::Bool(true) | Value::Number(_) => true,
            },
        }
    }
}

impl OwnPatterns {
    fn lists(&self) -> [(&'static str, &[String]); 3] {
        [("publish", &self.publish), ("subscribe", &self.subscribe), ("manage", &self.manage)]
    }

    /// Returns the rights to the patterns of the caller with this id, and whether some are left
    /// out, because the id is no plain token there.
    fn of(&self, id: &str) -> (Rights, bool) {
        let mut is_cut = false;
        let mut expand = |list: &[String]| -> Vec<TopicPattern> {
            let patterns: Vec<_> = list.iter().filter_map(|text| expanded(text, id)).collect();
            is_cut |= patterns.len() < list.len();
            patterns
        };
        let (publish, subscribe) = (expand(&self.publish), expand(&self.subscribe));
        let manage = expand(&self.manage);
        (Rights { publish, subscribe, manage, ..Rights::default() }, is_cut)
    }
}

/// Checks a pattern with the placeholder.
///
/// # Errors
///
/// [`Error::Invalid`]: the placeholder is no whole token, or the rest is no pattern.
fn check_own_pattern(field: &str, text: &str) -> Result<()> {
    check_own(field, text)?;
    if text.split('.').any(|token| token.contains(['{', '}']) && token != PLACEHOLDER) {
        let problem =
            format!("{text:?}: {PLACEHOLDER} is a whole token, as in users.{PLACEHOLDER}");
        return Err(Error::invalid(field, problem));
    }
    let tried = TopicPattern::new(&text.replace(PLACEHOLDER, "x"));
    tried.map(drop).map_err(|error| Error::invalid(field, error.to_string()))
}

/// Returns a pattern with the id in it; `None` if the id is no plain token there.
fn expanded(text: &str, id: &str) -> Option<TopicPattern> {
    let is_hostile = |c: char| ".*>".contains(c) || c.is_whitespace() || c.is_control();
    if id.is_empty() || id.contains(is_hostile) {
        return None;
    }
    let tokens = text.split('.').map(|token| if token == PLACEHOLDER { id } else { token });
    let name = tokens.collect::<Vec<_>>().join(".");
    if name.starts_with(OWN_PREFIX) {
        return None;
    }
    // The rest is as for the name of a new topic: its length, the reserved beginning, one spelling
    // (NFC) and no characters that nobody sees. Otherwise two ids would look like one.
    TopicPattern::new(&name).ok().filter(|pattern| pattern.check_new().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    fn role(claim: &str, contains: Option<&str>, subscribe: &[&str]) -> RoleConfig {
        RoleConfig {
            claim: claim.to_owned(),
            contains: contains.map(str::to_owned),
            subscribe: texts(subscribe),
            ..RoleConfig::default()
        }
    }

    fn subscribed(roles: &Roles, id: &str, claims: &str) -> Vec<String> {
        let claims = Claims::parse(claims.as_bytes()).unwrap();
        let rights = roles.of(id, &claims, None).rights;
        rights.subscribe.iter().map(|it| it.as_str().to_owned()).collect()
    }

    #[test]
    fn a_rule_of_one_issuer_gives_nothing_to_the_callers_of_others() {
        let of_one = RoleConfig { issuer: Some("one".to_owned()), ..role("g", None, &["a"]) };
        let roles = Roles::parse(&[of_one]).unwrap();
        let claims = Claims::parse(br#"{"g":"x","iss":"one"}"#).unwrap();
        let applied = |issuer| roles.of("u", &claims, issuer).applied.len();
        assert_eq!([Some("one"), Some("two"), None].map(applied), [1, 0, 0]);
    }

    #[test]
    fn a_rule_applies_to_a_text_and_to_a_member_of_a_list() {
        let roles = Roles::parse(&[
            role("groups", Some("customers"), &["users.{sub}.>", "news.>"]),
            role("realm.roles", Some("admin"), &["admin"]),
            role("verified", None, &["verified"]),
        ])
        .unwrap();
        let of = |claims: &str| subscribed(&roles, "user-42", claims).join(" ");
        assert_eq!(of(r#"{"groups":["a","customers"]}"#), "news.> users.user-42.>");
        assert_eq!(of(r#"{"groups":"customers"}"#), "news.> users.user-42.>");
        for other in [
            r#"{"groups":"customers2"}"#,
            r#"{"groups":"a customers"}"#,
            r#"{"groups":["Customers",["customers"],{"x":"customers"}]}"#,
            r#"{"groups":{"customers":true}}"#,
            r#"{"groups":[]}"#,
            "{}",
        ] {
            assert_eq!(of(other), "", "{other}");
        }
        assert_eq!(of(r#"{"realm":{"roles":["admin"]}}"#), "admin");
        for yes in ["true", "1", "\"x\"", "[0]", "{\"a\":1}"] {
            assert_eq!(of(&format!("{{\"verified\":{yes}}}")), "verified", "{yes}");
        }
        for no in ["false", "null", "\"\"", "[]", "{}"] {
            assert_eq!(of(&format!("{{\"verified\":{no}}}")), "", "{no}");
        }
        let all = r#"{"groups":"customers","realm":{"roles":["admin"]},"verified":true}"#;
        assert_eq!(of(all), "news.> users.user-42.> admin verified");
    }

    /// Goal: an id never widens a pattern, and never reaches a topic of the broker's own.
    #[test]
    fn an_id_that_is_no_plain_token_matches_no_pattern_of_its_own() {
        let patterns = ["users.{sub}.>", "{sub}.inbox", "a.{sub}.{sub}"];
        for pattern in patterns {
            let roles = Roles::parse(&[role("sub", None, &[pattern, "news"])]).unwrap();
            let of = |id: &str| subscribed(&roles, id, r#"{"sub":"x"}"#);
            assert_eq!(of("user-42"), ["news".to_owned(), pattern.replace("{sub}", "user-42")]);
            assert_eq!(of("ü|42"), ["news".to_owned(), pattern.replace("{sub}", "ü|42")]);
            assert_eq!(of("{sub}"), ["news", pattern]);
            let long = "x".repeat(255);
            for id in [
                "",
                "*",
                ">",
                "a.b",
                ".",
                "a.",
                ".a",
                "a*",
                ">a",
                "a b",
                "a\tb",
                "a\nb",
                "a\u{0}",
                "a\u{a0}b",
                "a\u{2028}b",
                "\u{85}",
                "a\u{200b}",
                "a\u{202e}b",
                "u\u{308}",
                &long,
            ] {
                assert_eq!(of(id), ["news"], "{id:?} in {pattern}");
            }
        }
        let roles = Roles::parse(&[role("sub", None, &["{sub}.>", "{sub}"])]).unwrap();
        for id in ["$audit", "$", "$revocations"] {
            assert_eq!(subscribed(&roles, id, r#"{"sub":"x"}"#), [""; 0], "{id}");
        }
        let roles = Roles::parse(&[role("sub", None, &["{sub}.x"])]).unwrap();
        assert_eq!(subscribed(&roles, "leftoff", r#"{"sub":"x"}"#), [""; 0], "a reserved name");
        let roles = Roles::parse(&[role("sub", None, &["users.{sub}"])]).unwrap();
        assert_eq!(subscribed(&roles, "$audit", r#"{"sub":"x"}"#), ["users.$audit"]);
    }

    #[test]
    fn the_settings_of_roles_are_checked_by_name() {
        let with = |publish: &str| RoleConfig {
            claim: "groups".to_owned(),
            publish: texts(&[publish]),
            ..RoleConfig::default()
        };
        let cases = [
            (role("", None, &["a"]), "access.roles[0].claim"),
            (role("a", Some(""), &["a"]), "access.roles[0].contains"),
            (role("a", None, &[]), "access.roles[0]"),
            (with("users.{user}.>"), "access.roles[0].publish"),
            (with("users.u-{sub}"), "access.roles[0].publish"),
            (with("users.{sub}{sub}"), "access.roles[0].publish"),
            (with("{sub}..a"), "access.roles[0].publish"),
            (with("$audit"), "access.roles[0].publish"),
            (with("${sub}.a"), "access.roles[0].publish"),
            (with("$x.{sub}"), "access.roles[0].publish"),
        ];
        for (config, field) in cases {
            let refused = Roles::parse(&[config]).unwrap_err().to_string();
            assert!(refused.starts_with(field), "{refused}");
        }
        Roles::parse(&vec![with("a"); MAX_ROLES]).unwrap();
        Roles::parse(&vec![with("a"); MAX_ROLES + 1]).unwrap_err();
        let admin = RoleConfig { claim: "a".to_owned(), admin: true, ..<_>::default() };
        Roles::parse(&[admin]).unwrap();
    }
}
