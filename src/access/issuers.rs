//! The issuers of tokens: what their tokens must say, and the keys by which these are verified.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::Uri;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use tokio::time::Instant;

use super::config::IssuerConfig;
use super::jwks::{FetchTimes, PublishedKeys, fitting};
use super::verification::{VerificationKey, algorithm_names, algorithm_of};
use crate::error::{Error, Result};

/// The most issuers in the settings: a token is tried with each that it may be of.
const MAX_ISSUERS: usize = 32;

/// The largest tolerance of times, in seconds.
const MAX_LEEWAY_S: u64 = 60;

/// The largest file with a key, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 64 << 10;

/// What the tokens of an issuer must say, and where its keys come from.
#[derive(Debug, Clone)]
pub(super) struct IssuerRules {
    pub(super) config: IssuerConfig,
    pub(super) algorithms: Vec<Algorithm>,
    source: KeySource,
    /// The place in the settings, like `access.issuers[0]`.
    place: String,
}

#[derive(Debug, Clone)]
enum KeySource {
    Secret,
    SecretFile,
    Pem,
    PemFile,
    Url(Uri),
}

/// An issuer, with its keys.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) rules: IssuerRules,
    keys: IssuerKeys,
}

#[derive(Debug)]
enum IssuerKeys {
    Fixed(Arc<VerificationKey>),
    Published(PublishedKeys),
}

/// Reads the issuers of the settings, without the files.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::OverLimit`] with the setting, the value and the expected form.
pub(super) fn parse(configs: &[IssuerConfig]) -> Result<Vec<IssuerRules>> {
    if configs.len() > MAX_ISSUERS {
        return Err(Error::over("access.issuers", configs.len(), MAX_ISSUERS));
    }
    let issuers = configs.iter().enumerate();
    issuers
        .map(|(number, it)| IssuerRules::parse(it, format!("access.issuers[{number}]")))
        .collect()
}

impl IssuerRules {
    fn parse(config: &IssuerConfig, place: String) -> Result<Self> {
        let invalid =
            |name: &str, problem: String| Err(Error::invalid(format!("{place}.{name}"), problem));
        if config.issuer.as_deref() == Some("") {
            return invalid("issuer", "is empty; leave it out for any issuer".to_owned());
        }
        if config.audience.iter().any(String::is_empty) {
            return invalid("audience", "holds an empty text".to_owned());
        }
        if config.leeway_s > MAX_LEEWAY_S {
            let problem = format!("{} is not from 0 to {MAX_LEEWAY_S} seconds", config.leeway_s);
            return invalid("leeway_s", problem);
        }
        let algorithms = algorithms_of(&config.algorithms)
            .map_err(|problem| Error::invalid(format!("{place}.algorithms"), problem))?;
        let source = source_of(config)
            .map_err(|(name, problem)| Error::invalid(format!("{place}.{name}"), problem))?;
        let is_published = matches!(source, KeySource::Url(_));
        if is_published && algorithms.contains(&Algorithm::HS256) {
            // A set of keys is public.
            let problem = "HS256 comes from no jwks_url: its key must be secret";
            return invalid("algorithms", problem.to_owned());
        }
        let is_secret = matches!(source, KeySource::Secret | KeySource::SecretFile);
        let is_hmac = algorithms[0].family() == AlgorithmFamily::Hmac;
        if is_secret != is_hmac {
            let problem = "HS256 goes with secret or secret_file, and all others with key, \
                           key_file or jwks_url";
            return invalid("algorithms", problem.to_owned());
        }
        if config.jwks_ca.is_some() && !is_published {
            return invalid("jwks_ca", "is for jwks_url alone".to_owned());
        }
        let is_family = |it: &Algorithm| it.family() == algorithms[0].family();
        if !is_published && !algorithms.iter().all(is_family) {
            return invalid("algorithms", "are for keys of two kinds, and there is one".to_owned());
        }
        let rules = Self { config: config.clone(), algorithms, source, place };
        match &rules.source {
            // What needs no file is checked at once.
            KeySource::Secret | KeySource::Pem => rules.fixed(None).map(drop)?,
            _ => {}
        }
        Ok(rules)
    }

    /// Returns the key of the settings, or that in the text of a file.
    fn fixed(&self, file: Option<&str>) -> Result<VerificationKey> {
        let Self { config, algorithms, place, .. } = self;
        let (name, key) = match &self.source {
            KeySource::Secret => {
                let secret = config.secret.as_ref().map(|it| it.expose()).unwrap_or_default();
                ("secret", VerificationKey::secret(secret))
            }
            KeySource::SecretFile => {
                ("secret_file", VerificationKey::secret(file.unwrap_or_default().trim_end()))
            }
            KeySource::Pem => {
                let pem = config.key.as_deref().unwrap_or_default();
                ("key", VerificationKey::pem(pem, algorithms))
            }
            KeySource::PemFile => {
                ("key_file", VerificationKey::pem(file.unwrap_or_default(), algorithms))
            }
            KeySource::Url(_) => ("jwks_url", Err("has no key of its own".to_owned())),
        };
        key.map_err(|problem| Error::invalid(format!("{place}.{name}"), problem))
    }

    /// Returns the issuer with its keys: reads the file, or begins to fetch them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the setting, the file and the problem.
    pub(super) async fn open(self) -> Result<Issuer> {
        let file = match &self.source {
            KeySource::SecretFile => self.config.secret_file.as_deref(),
            KeySource::PemFile => self.config.key_file.as_deref(),
            _ => None,
        };
        let text = match file {
            Some(file) => Some(read_key_file(file).await.map_err(|problem| {
                let problem = format!("{}: {problem}", file.display());
                Error::invalid(format!("{}.key", self.place), problem)
            })?),
            None => None,
        };
        let keys = match &self.source {
            KeySource::Url(url) => IssuerKeys::Published(self.published(url)?),
            _ => IssuerKeys::Fixed(Arc::new(self.fixed(text.as_deref())?)),
        };
        Ok(Issuer { rules: self, keys })
    }

    #[cfg(feature = "tls")]
    fn published(&self, url: &Uri) -> Result<PublishedKeys> {
        let trusted = self.config.jwks_ca.as_deref();
        let fetch = super::fetching::keys_at(url.clone(), trusted)
            .map_err(|problem| Error::invalid(format!("{}.jwks_url", self.place), problem))?;
        let times = FetchTimes::default();
        Ok(PublishedKeys::start(url.to_string(), self.algorithms.clone(), times, fetch))
    }

    #[cfg(not(feature = "tls"))]
    fn published(&self, _url: &Uri) -> Result<PublishedKeys> {
        Err(Error::invalid(format!("{}.jwks_url", self.place), WITHOUT_TLS))
    }

    /// Returns whether a token that says this `iss` may be of the issuer.
    pub(super) fn may_have_issued(&self, issuer: Option<&str>) -> bool {
        self.config.issuer.is_none() || self.config.issuer.as_deref() == issuer
    }
}

#[cfg(not(feature = "tls"))]
const WITHOUT_TLS: &str = "needs a build with the feature `tls`";

impl Issuer {
    /// Waits for the first keys, until `deadline`.
    pub(super) async fn started(&self, deadline: Instant) {
        if let IssuerKeys::Published(keys) = &self.keys {
            keys.started(deadline).await;
        }
    }

    /// Returns the keys that may have verified a token with this algorithm and key id, as they are
    /// known now.
    pub(super) fn keys(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<Arc<VerificationKey>> {
        match &self.keys {
            // The one key is bound to the issuer, whatever the token calls it.
            IssuerKeys::Fixed(key) => fitting(std::slice::from_ref(key), algorithm, None),
            IssuerKeys::Published(keys) => fitting(&keys.keys(), algorithm, id),
        }
    }

    /// Asks the issuer for keys that are not known. Returns whether it was asked.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn ask(&self) -> bool {
        match &self.keys {
            IssuerKeys::Fixed(_) => false,
            IssuerKeys::Published(keys) => keys.ask().await,
        }
    }

    /// Returns whether the issuer's keys could never be fetched until now.
    pub(super) fn is_without_keys(&self) -> bool {
        matches!(&self.keys, IssuerKeys::Published(keys) if !keys.has_set())
    }

    /// Returns the name of the issuer for people: its place in the settings, and its `iss`.
    pub(super) fn shown(&self) -> String {
        match &self.rules.config.issuer {
            Some(name) => format!("{} ({name})", self.rules.place),
            None => self.rules.place.clone(),
        }
    }

    /// Returns where the issuer's keys come from, for people.
    pub(super) fn shown_keys(&self) -> String {
        match &self.keys {
            IssuerKeys::Fixed(_) => "one key of the settings".to_owned(),
            IssuerKeys::Published(keys) => {
                format!("keys of jwks_url: {}", super::jwks::ids(&keys.keys()).join(", "))
            }
        }
    }
}

fn algorithms_of(names: &[String]) -> std::result::Result<Vec<Algorithm>, String> {
    let mut algorithms = Vec::new();
    for name in names {
        let Some(algorithm) = algorithm_of(name) else {
            let why = match name.to_ascii_lowercase().as_str() {
                "none" => ": a token without a signature proves nothing",
                _ => "",
            };
            return Err(format!("{name:?} is not one of {}{why}", algorithm_names()));
        };
        if algorithms.contains(&algorithm) {
            return Err(format!("{name:?} is named twice"));
        }
        algorithms.push(algorithm);
    }
    if algorithms.is_empty() {
        return Err(format!("is empty; name those of the issuer, of {}", algorithm_names()));
    }
    Ok(algorithms)
}

/// Returns the one place from which the keys come.
fn source_of(config: &IssuerConfig) -> std::result::Result<KeySource, (&'static str, String)> {
    let mut sources = Vec::new();
    sources.extend(config.secret.as_ref().map(|_| KeySource::Secret));
    sources.extend(config.secret_file.as_ref().map(|_| KeySource::SecretFile));
    sources.extend(config.key.as_ref().map(|_| KeySource::Pem));
    sources.extend(config.key_file.as_ref().map(|_| KeySource::PemFile));
    if let Some(url) = &config.jwks_url {
        sources.push(KeySource::Url(url_of(url).map_err(|problem| ("jwks_url", problem))?));
    }
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Ok(source),
        (last, _) => {
            let count = if last.is_none() { "no key" } else { "several keys" };
            let names = "secret, secret_file, key, key_file and jwks_url";
            Err(("key", format!("there is {count}; one of {names} is set")))
        }
    }
}

/// Returns the URL of a set of keys.
fn url_of(text: &str) -> std::result::Result<Uri, String> {
    // The text may hold a password, and is not repeated.
    let expected = "is no URL like https://issuer.example/jwks.json";
    let url: Uri = text.parse().map_err(|_| expected.to_owned())?;
    let host = url.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("has a user name in it".to_owned());
    }
    match url.scheme_str() {
        _ if host.is_empty() => Err(expected.to_owned()),
        Some("https") => Ok(url),
        Some("http") if is_loopback => Ok(url),
        Some("http") => {
            let problem = "whoever is between would choose the keys: write https (http is accepted \
                           on the loopback device)";
            Err(format!("{text:?}: {problem}"))
        }
        _ => Err(expected.to_owned()),
    }
}

/// Reads a file with a key.
async fn read_key_file(file: &Path) -> std::result::Result<String, String> {
    let metadata = tokio::fs::metadata(file).await.map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("is no file".to_owned());
    }
    if metadata.len() > MAX_KEY_FILE_BYTES {
        return Err(format!("is over the limit of {MAX_KEY_FILE_BYTES} bytes"));
    }
    // The contents are not repeated in the message.
    tokio::fs::read_to_string(file).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a secret of tests, which is long enough";
    const RSA: &str = include_str!("../../data/keys/rsa.pub.pem");

    fn config(algorithms: &[&str]) -> IssuerConfig {
        let algorithms = algorithms.iter().map(|name| (*name).to_owned()).collect();
        IssuerConfig { algorithms, ..IssuerConfig::default() }
    }

    fn hs256() -> IssuerConfig {
        IssuerConfig { secret: Some(SECRET.into()), ..config(&["HS256"]) }
    }

    fn refused(config: IssuerConfig) -> String {
        parse(&[config]).unwrap_err().to_string()
    }

    #[test]
    fn an_issuer_has_one_source_of_keys_that_fits_its_algorithms() {
        parse(&[hs256()]).unwrap();
        let pem = |names: &[&str]| IssuerConfig { key: Some(RSA.to_owned()), ..config(names) };
        parse(&[pem(&["RS256", "PS256"])]).unwrap();
        let url = |url: &str| IssuerConfig {
            jwks_url: Some(url.to_owned()),
            ..config(&["RS256", "ES256", "EdDSA"])
        };
        let https = "https://issuer.example/keys";
        for good in [https, "http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost/k"] {
            parse(&[url(good)]).unwrap();
        }
        let secret = Some(SECRET.into());
        for (config, field) in [
            (config(&["HS256"]), "key: there is no key"),
            (IssuerConfig { key: Some(RSA.to_owned()), ..hs256() }, "key: there is several keys"),
            (IssuerConfig { algorithms: Vec::new(), ..hs256() }, "algorithms: is empty"),
            (pem(&["none"]), "algorithms: \"none\" is not one of"),
            (pem(&["None"]), "algorithms: \"None\" is not one of"),
            (pem(&["HS512"]), "algorithms: \"HS512\" is not one of"),
            (pem(&["rs256"]), "algorithms: \"rs256\" is not one of"),
            (pem(&["RS256", "RS256"]), "algorithms: \"RS256\" is named twice"),
            (pem(&["HS256"]), "algorithms: HS256 goes with"),
            (pem(&["HS256", "RS256"]), "algorithms: HS256 goes with"),
            (pem(&["RS256", "HS256"]), "algorithms: are for keys of two kinds"),
            (pem(&["RS256", "ES256"]), "algorithms: are for keys of two kinds"),
            (pem(&["ES256"]), "key: is no public key for ES256"),
            (IssuerConfig { secret, ..config(&["RS256"]) }, "algorithms: HS256 goes with"),
            (IssuerConfig { secret: Some(RSA.into()), ..hs256() }, "secret: is a key in PEM"),
            (IssuerConfig { secret: Some("short".into()), ..hs256() }, "secret: has 5 bytes"),
            (IssuerConfig { jwks_ca: Some("x".into()), ..hs256() }, "jwks_ca: is for"),
            (
                IssuerConfig { algorithms: vec!["RS256".into(), "HS256".into()], ..url(https) },
                "algorithms: HS256 comes from no jwks_url",
            ),
            (url("http://issuer.example/k"), "jwks_url: \"http://issuer.example/k\": whoever"),
            (url("http://127.0.0.1.example/k"), "jwks_url: "),
            (url("http://localhost.example/k"), "jwks_url: "),
            (url("ftp://issuer.example/k"), "jwks_url: is no URL"),
            (url("issuer.example"), "jwks_url: is no URL"),
            (url("https://u:pw@issuer.example"), "jwks_url: has a user name"),
            (IssuerConfig { issuer: Some(String::new()), ..hs256() }, "issuer: is empty"),
            (IssuerConfig { audience: vec![String::new()], ..hs256() }, "audience: holds"),
            (IssuerConfig { leeway_s: 61, ..hs256() }, "leeway_s: 61 is not from 0 to 60"),
        ] {
            let refused = refused(config);
            let expected = format!("access.issuers[0].{field}");
            assert!(refused.starts_with(&expected), "{expected}: {refused}");
            assert!(!refused.contains("a secret of") && !refused.contains("pw"), "{refused}");
        }
        for leeway_s in [0, 60] {
            parse(&[IssuerConfig { leeway_s, ..hs256() }]).unwrap();
        }
        parse(&vec![hs256(); MAX_ISSUERS]).unwrap();
        parse(&vec![hs256(); MAX_ISSUERS + 1]).unwrap_err();
    }

    #[tokio::test]
    async fn keys_are_read_from_files_when_a_server_is_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(path(name), text).unwrap();
        write("secret", &format!("{SECRET} \n\n"));
        write("pem", RSA);
        write("large", &"x".repeat(MAX_KEY_FILE_BYTES as usize + 1));
        let open = async |config: IssuerConfig| {
            let rules = parse(&[config]).unwrap().remove(0);
            rules.open().await.map_err(|error| error.to_string())
        };
        let secret =
            |name: &str| IssuerConfig { secret_file: Some(path(name)), ..config(&["HS256"]) };
        let issuer = open(secret("secret")).await.unwrap();
        let key = issuer.keys(Algorithm::HS256, Some("any")).remove(0);
        assert!(key.is_same(&VerificationKey::secret(SECRET).unwrap()), "without the white space");
        let pem = IssuerConfig { key_file: Some(path("pem")), ..config(&["RS256"]) };
        open(pem).await.unwrap();
        for (name, problem) in [
            ("none", "No such file"),
            ("large", "over the limit"),
            ("pem", "a key in PEM"),
            ("", "no file"),
        ] {
            let refused = open(secret(name)).await.unwrap_err();
            assert!(refused.contains(problem), "{refused}");
        }
    }
}
