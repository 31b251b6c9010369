//! Static keys of services: 32 random bytes each, of which the settings hold the hash alone.
//!
//! ```text
//! lok_ + 43 characters of base64url        the key, which its service keeps
//! sha256: + 64 hexadecimal digits          the hash of the key's text, in access.keys
//! ```
//!
//! # Why
//!
//! A key is random and long, so its plain SHA-256 cannot be turned back by trying keys. A slow hash
//! of passwords would cost a publisher milliseconds for nothing.

use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::config::KeyConfig;
use super::identity::{Proof, Proved, problem_of_id};
use super::rights::WrittenRights;
use crate::error::{Error, Result};
use crate::timestamp::Timestamp;

/// The beginning of every key, by which a key is told from a token, and found where it leaked.
pub(super) const KEY_PREFIX: &str = "lok_";

/// The random bytes of a key, and the length of its text.
const KEY_BYTES: usize = 32;
const KEY_TEXT_BYTES: usize = KEY_PREFIX.len() + 43;

/// The beginning of the hash of a key in the settings.
const HASH_PREFIX: &str = "sha256:";

/// The most keys in the settings.
const MAX_KEYS: usize = 10_000;

/// The SHA-256 of a credential.
pub(super) type CredentialHash = [u8; 32];

/// Returns the SHA-256 of a credential, under which what it proves is remembered.
pub(super) fn hash_of(credential: impl AsRef<[u8]>) -> CredentialHash {
    Sha256::digest(credential).into()
}

/// The static keys that are accepted.
#[derive(Default)]
pub(super) struct StaticKeys {
    keys: Vec<StaticKey>,
    /// The places in `keys` of the hashes that begin with these bytes: a first look that compares
    /// no whole hash.
    places: HashMap<[u8; 8], Vec<usize>>,
}

struct StaticKey {
    hash: CredentialHash,
    proved: Proved,
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKeys").field("count", &self.keys.len()).finish_non_exhaustive()
    }
}

impl StaticKeys {
    /// Reads the keys of the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`] with the setting, the value and the expected form.
    pub(super) fn parse(configs: &[KeyConfig]) -> Result<Self> {
        if configs.len() > MAX_KEYS {
            return Err(Error::over("access.keys", configs.len(), MAX_KEYS));
        }
        let mut all = Self::default();
        for (number, config) in configs.iter().enumerate() {
            let place = format!("access.keys[{number}]");
            let key = StaticKey::parse(config, &place)?;
            if all.find(&key.hash).is_some() {
                let problem = format!("{:?} is the hash of two keys; make one more", config.hash);
                return Err(Error::invalid(format!("{place}.hash"), problem));
            }
            all.places.entry(first_of(&key.hash)).or_default().push(all.keys.len());
            all.keys.push(key);
        }
        Ok(all)
    }

    /// Returns whether there are no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns what a key proves; `None` if it is not known.
    pub(super) fn prove(&self, key: &str) -> Option<&Proved> {
        if key.len() != KEY_TEXT_BYTES {
            return None;
        }
        self.find(&hash_of(key)).map(|key| &key.proved)
    }

    /// Returns the key with this hash. The time that this takes does not depend on how many bytes
    /// after the first eight are equal.
    fn find(&self, hash: &CredentialHash) -> Option<&StaticKey> {
        let places = self.places.get(&first_of(hash))?;
        let keys = places.iter().filter_map(|place| self.keys.get(*place));
        // All of them are compared.
        keys.fold(None, |found, key| if key.hash.ct_eq(hash).into() { Some(key) } else { found })
    }
}

fn first_of(hash: &CredentialHash) -> [u8; 8] {
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    first
}

impl StaticKey {
    fn parse(config: &KeyConfig, place: &str) -> Result<Self> {
        if let Some(problem) = problem_of_id(&config.name) {
            let problem = format!("{:?} {problem}", config.name);
            return Err(Error::invalid(format!("{place}.name"), problem));
        }
        let hash = parse_hash(&config.hash).ok_or_else(|| {
            let problem = format!(
                "{:?} is not {HASH_PREFIX} and 64 hexadecimal digits, as `leftoff key create` \
                 prints them",
                config.hash
            );
            Error::invalid(format!("{place}.hash"), problem)
        })?;
        let issued = match config.created.as_str() {
            "" => None,
            text => {
                let time = text.parse::<Timestamp>();
                let field = || format!("{place}.created");
                Some(time.map_err(|error| Error::invalid(field(), error.to_string()))?)
            }
        };
        let permission = WrittenRights::from(config).parse(place)?.permission();
        let proved = Proved {
            id: config.name.as_str().into(),
            proof: Proof::Key,
            issued: issued.map(SystemTime::from),
            expires: None,
            permission,
            key: None,
        };
        Ok(Self { hash, proved })
    }
}

impl<'a> From<&'a KeyConfig> for WrittenRights<'a> {
    fn from(config: &'a KeyConfig) -> Self {
        Self {
            publish: &config.publish,
            subscribe: &config.subscribe,
            manage: &config.manage,
            admin: config.admin,
            audit: config.audit,
        }
    }
}

fn parse_hash(text: &str) -> Option<CredentialHash> {
    let digits = text.strip_prefix(HASH_PREFIX).filter(|digits| digits.len() == 64)?;
    let mut hash = CredentialHash::default();
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(hash)
}

impl KeyConfig {
    /// Makes a new key. Returns its text, which is kept nowhere else, and these settings with its
    /// hash and the time.
    ///
    /// ```
    /// use leftoff::access::KeyConfig;
    ///
    /// let mut orders = KeyConfig::default();
    /// orders.name = "orders-svc".to_owned();
    /// orders.publish = vec!["orders.>".to_owned()];
    /// let (key, orders) = orders.with_new_key()?;
    /// assert!(key.starts_with("lok_") && orders.hash.starts_with("sha256:"));
    /// # Ok::<(), leftoff::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: the name or a pattern is none.
    pub fn with_new_key(mut self) -> Result<(String, Self)> {
        let key: [u8; KEY_BYTES] = rand::random();
        let text = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(key));
        let hash = hash_of(&text).map(|byte| format!("{byte:02x}")).concat();
        self.hash = format!("{HASH_PREFIX}{hash}");
        self.created = Timestamp::now().to_string();
        StaticKey::parse(&self, "key")?;
        Ok((text, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::{Action, Permitted};

    fn new_key(name: &str) -> (String, KeyConfig) {
        let publish = vec!["orders.>".to_owned()];
        KeyConfig { name: name.to_owned(), publish, ..<_>::default() }.with_new_key().unwrap()
    }

    #[test]
    fn a_key_is_known_by_its_hash_alone_and_several_have_one_name() {
        let ((old, first), (new, second)) = (new_key("orders"), new_key("orders"));
        assert_ne!(old, new);
        assert_eq!(old.len(), KEY_TEXT_BYTES);
        assert!(!format!("{first:?}").contains(&old[KEY_PREFIX.len()..]));
        let keys = StaticKeys::parse(&[first, second]).unwrap();
        for key in [&old, &new] {
            let proved = keys.prove(key).unwrap();
            assert_eq!((&*proved.id, &proved.proof), ("orders", &Proof::Key));
            assert!(proved.issued.is_some() && proved.expires.is_none());
            assert_ne!(proved.permission.of(Action::Publish), &Permitted::None);
            assert_eq!(proved.permission.of(Action::Subscribe), &Permitted::None);
        }
        let mut changed = old.clone();
        changed.pop();
        let other = if old.ends_with('A') { 'E' } else { 'A' };
        for wrong in ["", "lok_", &changed, &format!("{changed}{other}"), &format!("{old}A")] {
            assert!(keys.prove(wrong).is_none(), "{wrong}");
        }
        assert!(keys.prove(&new_key("orders").0).is_none());
    }

    #[test]
    fn only_the_whole_hash_counts() {
        let (key, config) = new_key("orders");
        let last = if config.hash.ends_with('0') { "1" } else { "0" };
        let hash = format!("{}{last}", &config.hash[..config.hash.len() - 1]);
        let keys = StaticKeys::parse(&[KeyConfig { hash, ..config }]).unwrap();
        assert!(keys.prove(&key).is_none());
    }

    #[test]
    fn the_settings_of_keys_are_checked_by_name() {
        let (_, key) = new_key("orders");
        let hash = |hash: &str| KeyConfig { hash: hash.to_owned(), ..key.clone() };
        let cases = [
            (KeyConfig { name: "a\nb".to_owned(), ..key.clone() }, "access.keys[0].name"),
            (hash(""), "access.keys[0].hash"),
            (hash(&key.hash[7..]), "access.keys[0].hash"),
            (hash(&key.hash[..70]), "access.keys[0].hash"),
            (hash(&format!("{}0", key.hash)), "access.keys[0].hash"),
            (hash(&format!("sha256:{}", "g".repeat(64))), "access.keys[0].hash"),
            (hash(&format!("sha256:{}", "é".repeat(32))), "access.keys[0].hash"),
            (KeyConfig { created: "soon".to_owned(), ..key.clone() }, "access.keys[0].created"),
            (KeyConfig { manage: vec!["a..b".into()], ..key.clone() }, "access.keys[0].manage"),
        ];
        for (config, field) in cases {
            let refused = StaticKeys::parse(&[config]).unwrap_err().to_string();
            assert!(refused.starts_with(field), "{refused}");
        }
        let refused = StaticKeys::parse(&[key.clone(), key.clone()]).unwrap_err().to_string();
        assert!(refused.starts_with("access.keys[1].hash"), "{refused}");
        let without_time = KeyConfig { created: String::new(), ..key.clone() };
        let number = |n: usize| hash(&format!("sha256:{n:016x}{}", "0".repeat(48)));
        let many: Vec<_> = (0..=MAX_KEYS).map(number).collect();
        StaticKeys::parse(&many[1..]).unwrap();
        let refused = StaticKeys::parse(&many).unwrap_err().to_string();
        assert!(refused.contains("10001 is over the limit of 10000"), "{refused}");
        StaticKeys::parse(&[without_time]).unwrap();
    }
}
