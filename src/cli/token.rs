//! `leftoff token`: makes a token for development.

use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use super::failure::{CliError, CliResult, ExitReason};

/// Makes a token (JWT) for development, and prints it
///
/// In production, tokens come from an identity provider, or from the service that knows the users.
#[derive(Debug, Args)]
pub(super) struct TokenCommand {
    /// The id of the caller
    #[arg(long, value_name = "ID")]
    sub: String,
    /// A pattern of topics to publish to; can be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<String>,
    /// A pattern of topics to follow, to read, and to be present in; can be repeated
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<String>,
    /// A pattern of topics to create, change, purge and delete; can be repeated
    #[arg(long, value_name = "PATTERN")]
    manage: Vec<String>,
    /// Let the caller administer the broker, and manage all topics
    #[arg(long)]
    admin: bool,
    /// Let the caller read the topic of the audit
    #[arg(long)]
    audit: bool,
    /// The life of the token, such as `1h` or `30m`
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    expires: humantime::Duration,
    /// The file with the secret of HS256, or with the private key in PEM (PKCS #8)
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// HS256, RS256, PS256, ES256 or EdDSA
    #[arg(long, value_name = "NAME", default_value = "HS256")]
    algorithm: String,
    /// The claim `iss`
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// The claim `aud`
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// The id of the key, for issuers with several
    #[arg(long, value_name = "TEXT")]
    key_id: Option<String>,
}

impl TokenCommand {
    pub(super) fn run(self) -> CliResult {
        let name = self.key_file.display();
        let text = std::fs::read_to_string(&self.key_file).map_err(|error| {
            CliError::new(ExitReason::Other, format!("--key-file {name}: {error}"))
        })?;
        let (algorithm, key) = key_of(&self.algorithm, &text)
            .map_err(|problem| CliError::new(ExitReason::Refused, problem))?;
        let mut header = Header::new(algorithm);
        header.kid.clone_from(&self.key_id);
        let token = jsonwebtoken::encode(&header, &self.claims(SystemTime::now()), &key);
        let token = token.map_err(|error| {
            CliError::new(ExitReason::Refused, format!("--key-file {name}: {error}"))
        })?;
        writeln!(std::io::stdout(), "{token}")?;
        Ok(())
    }

    fn claims(&self, now: SystemTime) -> Value {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut own = Map::new();
        let lists =
            [("publish", &self.publish), ("subscribe", &self.subscribe), ("manage", &self.manage)];
        for (name, patterns) in lists {
            if !patterns.is_empty() {
                own.insert(name.to_owned(), json!(patterns));
            }
        }
        for (name, is_set) in [("admin", self.admin), ("audit", self.audit)] {
            if is_set {
                own.insert(name.to_owned(), json!(true));
            }
        }
        let end = now.saturating_add(*self.expires);
        let mut claims = json!({"sub": self.sub, "iat": now.as_secs(), "exp": end.as_secs()});
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        if !own.is_empty() {
            claims["leftoff"] = Value::Object(own);
        }
        claims
    }
}

/// Returns the algorithm with a name, and the key that signs by it.
fn key_of(name: &str, text: &str) -> Result<(Algorithm, EncodingKey), String> {
    let pem = text.as_bytes();
    let (algorithm, key) = match name {
        "HS256" if text.contains("-----BEGIN") => {
            return Err("the key file is a key in PEM; name its --algorithm".to_owned());
        }
        "HS256" => (Algorithm::HS256, Ok(EncodingKey::from_secret(text.trim_end().as_bytes()))),
        "RS256" => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
        "PS256" => (Algorithm::PS256, EncodingKey::from_rsa_pem(pem)),
        "ES256" => (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
        "EdDSA" => (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
        other => {
            return Err(format!("{other:?} is not one of HS256, RS256, PS256, ES256, EdDSA"));
        }
    };
    // The crate's message may repeat a part of the file.
    key.map(|key| (algorithm, key))
        .map_err(|_| format!("the key file has no private key in PEM (PKCS #8) for {name}"))
}
