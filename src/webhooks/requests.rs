//! What administrators send over HTTP, as plain data.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::settings::{PutWebhook, RotateWebhook, WebhookSettings};
use super::signing::SignatureKind;
use crate::cursor::StartPoint;
use crate::edge::json_problem;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// The members of a webhook that count only when it is made.
const OF_CREATION: [&str; 3] = ["from", "signature", "secret"];

/// A new key.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct NewKey {
    signature: Option<SignatureKind>,
    secret: Option<Secret>,
    keep_old_ms: Option<u64>,
}

/// What is said of a webhook only when it is made.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Creation {
    from: Option<StartPoint>,
    signature: Option<SignatureKind>,
    secret: Option<Secret>,
}

/// Reads a body: an object, or nothing for an empty one.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>> {
    match body.is_empty() {
        true => Ok(Map::new()),
        false => serde_json::from_slice(body).map_err(invalid),
    }
}

fn invalid(error: serde_json::Error) -> Error {
    Error::invalid("body", json_problem::words(&error))
}

fn read<T: DeserializeOwned>(members: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(members)).map_err(invalid)
}

/// Reads a webhook that is to be made or changed.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn put(mut members: Map<String, Value>) -> Result<PutWebhook> {
    let mut of_creation = Map::new();
    for name in OF_CREATION {
        of_creation.extend(members.remove_entry(name));
    }
    let Creation { from, signature, secret } = read(of_creation)?;
    let settings: WebhookSettings = read(members)?;
    Ok(PutWebhook { settings, from, signature, secret })
}

/// Reads the wish for another key.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn rotate(members: Map<String, Value>) -> Result<RotateWebhook> {
    let NewKey { signature, secret, keep_old_ms } = read(members)?;
    Ok(RotateWebhook { signature, secret, keep_old: keep_old_ms.map(Duration::from_millis) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Map<String, Value> {
        object(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_wrong_is_refused_by_name_and_no_refusal_has_a_secret() {
        let good = json!({
            "topic": "orders.>", "url": "https://a.example", "format": "cloudevents",
            "filter": { "types": ["paid"] }, "max_batch_events": 10, "from": "earliest",
            "signature": "ed25519", "secret": "whsk_x",
        });
        let wanted = put(members(good)).unwrap();
        assert_eq!(wanted.from, Some(StartPoint::Earliest));
        assert_eq!(wanted.signature, Some(SignatureKind::Ed25519));
        assert_eq!(wanted.settings.max_in_flight, 4);
        for (body, word) in [
            (json!({ "url": "https://a.example" }), "topic"),
            (json!({ "topic": "a", "url": "https://a.example", "colour": 1 }), "colour"),
            (json!({ "topic": "a", "url": "x", "secret": 815 }), "text"),
            (json!({ "topic": "a", "url": "x", "signature": "rsa" }), "rsa"),
            (json!({ "topic": "a", "url": "x", "format": "xml" }), "xml"),
        ] {
            let refused = put(members(body)).unwrap_err().to_string();
            assert!(refused.starts_with("body: ") && refused.contains(word), "{refused}");
            assert!(!refused.contains("815"), "{refused}");
        }
        let wanted = rotate(members(json!({ "keep_old_ms": 5 }))).unwrap();
        assert_eq!(wanted.keep_old, Some(Duration::from_millis(5)));
        assert_eq!(rotate(object(b"").unwrap()).unwrap(), RotateWebhook::default());
        assert!(object(b"[]").is_err());
    }
}
