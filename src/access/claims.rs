//! The claims of a token. Until the token is verified they are what somebody says.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::rights::{Rights, WrittenRights};
use crate::lists;
use crate::timestamp::Timestamp;

/// The claim with the rights themselves.
pub(super) const OWN_CLAIM: &str = "leftoff";

/// The claim with the name in a client certificate. A token has no such claim, whatever its issuer
/// writes into it.
pub(super) const CERTIFICATE_CLAIM: &str = "san";

/// The claims of a token, or what is known of a client certificate.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Map<String, Value>);

/// The claim `leftoff`. Names that are not known are refused: a restriction that a later version
/// knows must not be passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OwnClaim {
    publish: Vec<String>,
    subscribe: Vec<String>,
    manage: Vec<String>,
    admin: bool,
    audit: bool,
}

/// Reads an object of JSON. A name that comes twice, in it or deeper, is refused: two readers could
/// take it for two things (RFC 8725, 2.4).
///
/// # Errors
///
/// The problem.
pub(super) fn parse_object(json: &[u8]) -> Result<Map<String, Value>, String> {
    const PROBLEM: &str = "is no object of JSON, or has a name twice in one object";
    let mut input = serde_json::Deserializer::from_slice(json);
    let list = lists::members::<_, PlainValue>(&mut input).map_err(|_| PROBLEM)?;
    input.end().map_err(|_| PROBLEM)?;
    let members = list.members("claims").map_err(|error| error.to_string())?;
    Ok(members.into_iter().map(|(name, PlainValue(value))| (name, value)).collect())
}

/// A value of JSON, none of whose objects has a name twice.
struct PlainValue(Value);

impl<'de> Deserialize<'de> for PlainValue {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        value.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut sequence: S) -> Result<Value, S::Error> {
        let mut list = Vec::new();
        while let Some(PlainValue(value)) = sequence.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Value, M::Error> {
        let mut members = Map::new();
        while let Some((name, PlainValue(value))) = map.next_entry::<String, _>()? {
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("a name comes twice"));
            }
        }
        Ok(members.into())
    }
}

impl Claims {
    /// Reads the claims of a token.
    ///
    /// # Errors
    ///
    /// The problem.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let mut claims = parse_object(json)?;
        claims.remove(CERTIFICATE_CLAIM);
        Ok(Self(claims))
    }

    /// Returns the claims of a client certificate with these names.
    pub(super) fn of_certificate(names: &[String]) -> Self {
        Self(Map::from_iter([(CERTIFICATE_CLAIM.to_owned(), Value::from(names))]))
    }

    /// Returns a claim that is a text; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The problem: it is no text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name:?} is no text")),
        }
    }

    /// Returns a claim that is a time, in seconds since 1970 (RFC 7519, 2); `None` without it.
    ///
    /// # Errors
    ///
    /// The problem: it is no time from 1970 to the year 9999.
    pub(super) fn time(&self, name: &str) -> Result<Option<SystemTime>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let since = match (value.as_u64(), value.as_f64()) {
            (Some(seconds), _) => Some(Duration::from_secs(seconds)),
            (None, Some(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            (None, None) => None,
        };
        let last = Duration::from_millis(Timestamp::MAX.as_ms());
        let time = since.filter(|since| *since <= last).map(|since| UNIX_EPOCH + since);
        time.map(Some).ok_or_else(|| format!("{name:?} is no time in seconds since 1970"))
    }

    /// Returns the audiences; none if the claim is absent.
    ///
    /// # Errors
    ///
    /// The problem: the claim is neither a text nor a list of texts.
    pub(super) fn audiences(&self) -> Result<Vec<&str>, String> {
        let wrong = || "\"aud\" is neither a text nor a list of texts".to_owned();
        match self.0.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(list)) => {
                let texts = list.iter().map(Value::as_str);
                texts.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()).ok_or_else(wrong)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Returns the rights of the claim `leftoff`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// The problem. No part of a claim that is wrong is applied.
    pub(super) fn own_rights(&self) -> Result<Option<Rights>, String> {
        let Some(value) = self.0.get(OWN_CLAIM) else { return Ok(None) };
        // A list would be read as the members in their order.
        if !value.is_object() {
            return Err(format!("{OWN_CLAIM:?} is no object"));
        }
        let claim =
            OwnClaim::deserialize(value).map_err(|error| format!("{OWN_CLAIM:?}: {error}"))?;
        let written = WrittenRights {
            publish: &claim.publish,
            subscribe: &claim.subscribe,
            manage: &claim.manage,
            admin: claim.admin,
            audit: claim.audit,
        };
        written.parse(OWN_CLAIM).map(Some).map_err(|error| error.to_string())
    }

    /// Returns the claim at a path: `a.b` is the claim of that name, or else `b` inside of `a`.
    pub(super) fn at(&self, path: &str) -> Option<&Value> {
        if let Some(found) = self.0.get(path) {
            return Some(found); // Some issuers name their claims by URLs, which have dots.
        }
        let mut names = path.split('.');
        let first = self.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.as_object()?.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        Claims::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn claims_are_one_object_without_repeats() {
        for bad in [
            "",
            "[]",
            "\"a\"",
            "{}{}",
            "{\"a\":}",
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"leftoff":{"admin":false,"admin":true}}"#,
            r#"{"a":[{"b":1,"\u0062":2}]}"#,
        ] {
            Claims::parse(bad.as_bytes()).unwrap_err();
        }
        let json = r#"{"a":[{"b":-1},null,true,1.5,"x",{"b":18446744073709551615}],"c":{}}"#;
        let read = parse_object(json.as_bytes()).unwrap();
        assert_eq!(Value::Object(read), serde_json::from_str::<Value>(json).unwrap());
        let found = claims(r#"{"a":"x","n":1}"#);
        assert_eq!(found.text("a").unwrap(), Some("x"));
        assert_eq!(found.text("b").unwrap(), None);
        assert!(claims(r#"{"san":"a"}"#).at("san").is_none(), "certificates alone have it");
        assert_eq!(Claims::of_certificate(&["a".to_owned()]).at("san").unwrap()[0], "a");
        found.text("n").unwrap_err();
    }

    #[test]
    fn times_are_seconds_up_to_the_year_9999() {
        let of = |text: &str| claims(&format!("{{\"exp\":{text}}}")).time("exp");
        let at = |ms: u64| Some(UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(of("1700000000").unwrap(), at(1_700_000_000_000));
        assert_eq!(of("1700000000.5").unwrap(), at(1_700_000_000_500));
        assert_eq!(of("0").unwrap(), at(0));
        assert_eq!(of("253402300799").unwrap(), at(253_402_300_799_000));
        for bad in ["-1", "1e300", "253402300800", "18446744073709551615", "\"1\"", "null", "[1]"] {
            of(bad).unwrap_err();
        }
        assert_eq!(claims("{}").time("exp").unwrap(), None);
    }

    #[test]
    fn audiences_are_a_text_or_a_list_of_texts() {
        let of = |text: &str| {
            let claims = claims(&format!("{{\"aud\":{text}}}"));
            claims.audiences().map(|all| all.join("|"))
        };
        assert_eq!(of("\"a\"").unwrap(), "a");
        assert_eq!(of("[\"a\",\"b\"]").unwrap(), "a|b");
        for bad in ["1", "null", "[]", "[\"a\",1]", "{\"a\":1}"] {
            of(bad).unwrap_err();
        }
        assert!(claims("{}").audiences().unwrap().is_empty());
    }

    #[test]
    fn the_claim_of_rights_is_taken_whole_or_refused() {
        let of = |text: &str| claims(&format!("{{\"leftoff\":{text}}}")).own_rights();
        let rights = of(r#"{"publish":["a"],"subscribe":["b.>"],"manage":["c"],"admin":true}"#);
        let rights = rights.unwrap().unwrap();
        let texts = |list: &[crate::topic::TopicPattern]| {
            list.iter().map(|it| it.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(&rights.publish), "a");
        assert_eq!(texts(&rights.subscribe), "b.>");
        assert_eq!(texts(&rights.manage), "c");
        assert!(rights.admin && !rights.audit);
        assert_eq!(of("{}").unwrap().unwrap(), Rights::default());
        assert_eq!(claims("{}").own_rights().unwrap(), None);
        for (bad, problem) in [
            ("null", "no object"),
            ("[[\"a\"],[\">\"],[],true]", "no object"),
            ("\"a\"", "no object"),
            (r#"{"publish":"a"}"#, "invalid type"),
            (r#"{"publish":["a",1]}"#, "invalid type"),
            (r#"{"publish":["a"],"subscribe":["b..c"]}"#, "empty token"),
            (r#"{"subscribe":["$audit"]}"#, "begins with '$'"),
            (r#"{"subscribe":["users.{sub}"]}"#, "brace"),
            (r#"{"admin":"true"}"#, "invalid type"),
            (r#"{"admin":null}"#, "invalid type"),
            (r#"{"publish":["a"],"filter":"x"}"#, "unknown field"),
        ] {
            let refused = of(bad).unwrap_err();
            assert!(refused.contains(problem) && refused.contains("leftoff"), "{refused}");
        }
    }

    #[test]
    fn a_path_is_a_name_or_names_inside_of_objects() {
        let found = claims(
            r#"{"groups":["x"],"realm":{"roles":["r"],"a.b":1},"https://a.example/roles":"u"}"#,
        );
        assert_eq!(found.at("groups").unwrap()[0], "x");
        assert_eq!(found.at("realm.roles").unwrap()[0], "r");
        assert_eq!(found.at("https://a.example/roles").unwrap(), "u");
        for none in ["", "x", "realm.x", "realm.roles.0", "groups.0", "realm.", ".realm"] {
            assert!(found.at(none).is_none(), "{none}");
        }
    }
}
