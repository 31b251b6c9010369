//! The keys of an issuer that publishes them at a URL: cached, refreshed, and kept in an outage.
//!
//! ```text
//! token with a known kid ───────────────────────────▶ keys (a pointer, swapped whole)
//! token with an unknown kid ─▶ asks, once a minute ─▶ task ─▶ fetch ─▶ keys
//!                                                      ▲
//!                                 every five minutes ──┘
//! ```
//!
//! # Why
//!
//! One task fetches, and requests wait for it. A client that goes away does not end a fetch that
//! others wait for, and a thousand tokens with an unknown key cause one fetch. Nothing that a token
//! says (`jku`, `x5u`, `jwk`) chooses where keys come from.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::jwk::parse_set;
use super::verification::VerificationKey;

/// The time between two fetches, and after a fetch that failed.
const REFRESH: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_secs(30);

/// The least time between two fetches for keys that are not known.
const MIN_PAUSE: Duration = Duration::from_secs(60);

/// The longest time of one fetch, and the longest time that the start of a server waits for the
/// first one.
const MAX_FETCH: Duration = Duration::from_secs(10);
pub(super) const MAX_START: Duration = Duration::from_secs(5);

/// A fetch of the document: its bytes, or the problem.
pub(super) type Fetching = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>>;

/// The source of the document.
pub(super) type FetchKeys = Box<dyn Fn() -> Fetching + Send + Sync>;

type Keys = Arc<Vec<Arc<VerificationKey>>>;

/// The keys of an issuer that publishes them. The task that refreshes them ends with this value.
pub(super) struct PublishedKeys {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    url: String,
    algorithms: Vec<Algorithm>,
    keys: Mutex<Keys>,
    asking: Mutex<Asking>,
    /// Wakes the task.
    wake: Notify,
    /// The number of fetches that are over.
    fetches: watch::Sender<u64>,
}

#[derive(Default)]
struct Asking {
    /// The start of the last fetch.
    started: Option<Instant>,
    is_fetching: bool,
    /// Whether a set was ever read.
    has_set: bool,
}

impl fmt::Debug for PublishedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublishedKeys").field("url", &self.shared.url).finish_non_exhaustive()
    }
}

impl PublishedKeys {
    /// Starts the task that fetches the keys from `url`, which the messages name.
    pub(super) fn start(url: String, algorithms: Vec<Algorithm>, fetch: FetchKeys) -> Self {
        let shared = Arc::new(Shared {
            url,
            algorithms,
            keys: Mutex::default(),
            asking: Mutex::default(),
            wake: Notify::new(),
            fetches: watch::Sender::new(0),
        });
        let task = tokio::spawn(run(shared.clone(), fetch));
        Self { shared, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits until the first fetch is over, until `deadline`. A server starts also while the keys
    /// cannot be had: static keys and other issuers do not depend on them.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn started(&self, deadline: Instant) {
        let mut fetches = self.shared.fetches.subscribe();
        let first = timeout_at(deadline, fetches.wait_for(|count| *count > 0)).await;
        if first.is_err() {
            warn!(url = self.shared.url, "the keys of an issuer do not come; they are fetched on");
        }
    }

    /// Returns the keys as they are now.
    pub(super) fn keys(&self) -> Keys {
        self.shared.keys().clone()
    }

    /// Returns whether a set of keys was ever read.
    pub(super) fn has_set(&self) -> bool {
        self.shared.asking().has_set
    }

    /// Asks for the keys because one is not known. Waits until they are fetched, if they may be
    /// asked for: at most once a minute. Returns whether something was fetched.
    ///
    /// # Cancel safety
    ///
    /// The fetch goes on for the others.
    pub(super) async fn ask(&self) -> bool {
        let mut fetches = self.shared.fetches.subscribe();
        let now = Instant::now();
        {
            let asking = self.shared.asking();
            let is_early = asking.started.is_some_and(|started| now < started + MIN_PAUSE);
            if !asking.is_fetching && is_early {
                return false;
            }
        }
        self.shared.wake.notify_one();
        timeout_at(now + MAX_FETCH, fetches.changed()).await.is_ok_and(|told| told.is_ok())
    }
}

impl Shared {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a document. Keys that are the same as before stay the same value, and so does what was
    /// verified by them; what was verified by a key that is not in the set is forgotten.
    fn take(&self, document: &[u8]) -> Result<(), String> {
        let set = parse_set(document, &self.algorithms)?;
        let before = self.keys();
        let kept = |key: Arc<VerificationKey>| {
            before.iter().find(|known| known.is_same(&key)).cloned().unwrap_or(key)
        };
        let keys: Vec<_> = set.keys.into_iter().map(kept).collect();
        let is_same = keys.len() == before.len()
            && keys.iter().zip(before.iter()).all(|(now, before)| Arc::ptr_eq(now, before));
        drop(before);
        if !is_same || !self.asking().has_set {
            let (count, unused) = (keys.len(), set.problems.join("; "));
            info!(url = self.url, count, unused, "the keys of an issuer");
            if keys.is_empty() {
                warn!(url = self.url, "an issuer has no key that can be used");
            }
        }
        let forgotten = std::mem::replace(&mut *self.keys(), Arc::new(keys));
        drop(forgotten);
        self.asking().has_set = true;
        Ok(())
    }
}

/// Fetches the keys at intervals, and when they are asked for. Ends with the value that started it.
async fn run(shared: Arc<Shared>, fetch: FetchKeys) {
    loop {
        {
            let mut asking = shared.asking();
            asking.started = Some(Instant::now());
            asking.is_fetching = true;
        }
        let document = timeout(MAX_FETCH, fetch()).await;
        let document = document.unwrap_or_else(|_| Err("it takes too long".to_owned()));
        let taken = document.and_then(|document| shared.take(&document));
        let pause = match &taken {
            Ok(()) => REFRESH,
            Err(problem) => {
                let kept = shared.keys().len();
                warn!(url = shared.url, problem, kept, "the keys of an issuer cannot be fetched");
                RETRY
            }
        };
        shared.asking().is_fetching = false;
        shared.fetches.send_modify(|count| *count += 1);
        // Issuers are not asked by all brokers in the same second.
        let next = Instant::now() + pause.mul_f64(rand::random_range(0.9..=1.1));
        tokio::select! {
            () = sleep_until(next) => {}
            () = pressed(&shared) => {}
        }
    }
}

/// Waits until the keys are asked for, and may be fetched.
async fn pressed(shared: &Shared) {
    loop {
        shared.wake.notified().await;
        let started = shared.asking().started;
        if started.is_none_or(|started| Instant::now() >= started + MIN_PAUSE) {
            return;
        }
    }
}

/// Returns the keys of `all` that may have verified a token: with its key id, or any for a token
/// without one. At most as many as are worth the work for one token.
pub(super) fn fitting(
    all: &[Arc<VerificationKey>],
    algorithm: Algorithm,
    id: Option<&str>,
) -> Vec<Arc<VerificationKey>> {
    const MAX_TRIED: usize = 4;
    let is_fitting = |key: &&Arc<VerificationKey>| {
        key.is_for(algorithm) && id.is_none_or(|id| key.id() == Some(id))
    };
    all.iter().filter(is_fitting).take(MAX_TRIED).cloned().collect()
}

/// Returns the ids of keys, for people.
pub(super) fn ids(keys: &[Arc<VerificationKey>]) -> Vec<String> {
    let ids: HashSet<_> = keys.iter().map(|key| key.id().unwrap_or("(none)").to_owned()).collect();
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ES256: [Algorithm; 1] = [Algorithm::ES256];

    /// A set with these keys, each of which is one point under an id.
    fn set(ids: &[&str]) -> Result<Vec<u8>, String> {
        let pem = include_str!("../../data/keys/ec.pub.pem");
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64);
        let der = der.unwrap();
        let point = &der[der.len() - 64..];
        let text = |bytes: &[u8]| {
            base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes)
        };
        let (x, y) = (text(&point[..32]), text(&point[32..]));
        let key =
            |id: &&str| serde_json::json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y});
        let keys: Vec<_> = ids.iter().map(key).collect();
        Ok(serde_json::json!({ "keys": keys }).to_string().into_bytes())
    }

    /// An issuer whose answer the test changes, and which counts how often it is asked.
    #[derive(Clone)]
    struct Issuer {
        answer: Arc<Mutex<Result<Vec<u8>, String>>>,
        asked: Arc<AtomicUsize>,
        delay: Duration,
    }

    impl Issuer {
        fn new(answer: Result<Vec<u8>, String>) -> Self {
            let answer = Arc::new(Mutex::new(answer));
            Self { answer, asked: Arc::default(), delay: Duration::from_millis(10) }
        }

        fn answers(&self, answer: Result<Vec<u8>, String>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn start(&self) -> PublishedKeys {
            let issuer = self.clone();
            let fetch: FetchKeys = Box::new(move || {
                let issuer = issuer.clone();
                Box::pin(async move {
                    issuer.asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(issuer.delay).await;
                    issuer.answer.lock().unwrap().clone()
                })
            });
            PublishedKeys::start("https://issuer.example/keys".to_owned(), ES256.into(), fetch)
        }
    }

    fn known(keys: &PublishedKeys) -> Vec<String> {
        ids(&keys.keys())
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_refreshed_and_the_last_good_set_survives_an_outage() {
        let issuer = Issuer::new(set(&["a"]));
        let keys = issuer.start();
        assert!(!keys.has_set());
        keys.started(Instant::now() + MAX_START).await;
        assert_eq!((known(&keys), issuer.asked()), (vec!["a".to_owned()], 1));

        issuer.answers(set(&["a", "b"]));
        tokio::time::sleep(REFRESH * 11 / 10 + Duration::from_secs(1)).await;
        assert_eq!(known(&keys), ["a", "b"]);

        for outage in [Err("refused".to_owned()), Ok(b"<html>".to_vec()), Ok(Vec::new())] {
            issuer.answers(outage);
            let before = issuer.asked();
            tokio::time::sleep(REFRESH * 2).await;
            assert_eq!(known(&keys), ["a", "b"]);
            assert!(issuer.asked() > before + 3, "it is asked sooner than usual");
        }
        issuer.answers(set(&["b"]));
        tokio::time::sleep(RETRY * 2).await;
        assert_eq!(known(&keys), ["b"], "a key that was taken away is gone");
        issuer.answers(set(&[]));
        tokio::time::sleep(REFRESH * 2).await;
        assert_eq!(known(&keys), [""; 0], "the issuer says that it has none");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_is_asked_for_once_a_minute_and_once_for_all() {
        let issuer = Issuer::new(set(&["a"]));
        let keys = Arc::new(issuer.start());
        keys.started(Instant::now() + MAX_START).await;
        assert!(!keys.ask().await, "it was fetched just now");
        assert_eq!(issuer.asked(), 1);

        tokio::time::sleep(MIN_PAUSE).await;
        issuer.answers(set(&["a", "new"]));
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let keys = keys.clone();
                tokio::spawn(async move { (keys.ask().await, known(&keys)) })
            })
            .collect();
        // One of them goes away in the middle. The others get the keys all the same.
        tokio::time::sleep(Duration::from_millis(1)).await;
        asking[0].abort();
        for (number, asking) in asking.into_iter().enumerate() {
            if let Ok((was_fetched, known)) = asking.await {
                assert!(was_fetched && known == ["a", "new"], "{number}: {known:?}");
            } else {
                assert_eq!(number, 0);
            }
        }
        assert_eq!(issuer.asked(), 2);
        for _ in 0..100 {
            assert!(!keys.ask().await);
        }
        tokio::time::sleep(MIN_PAUSE - Duration::from_secs(1)).await;
        assert!(!keys.ask().await);
        assert_eq!(issuer.asked(), 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(keys.ask().await);
        assert_eq!(issuer.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_stays_the_same_value_while_the_issuer_has_it() {
        let issuer = Issuer::new(set(&["a", "b"]));
        let keys = issuer.start();
        keys.started(Instant::now() + MAX_START).await;
        let weak =
            |id: &str| Arc::downgrade(&fitting(&keys.keys(), Algorithm::ES256, Some(id)).remove(0));
        let (a, b) = (weak("a"), weak("b"));
        issuer.answers(set(&["c", "b"]));
        tokio::time::sleep(REFRESH * 2).await;
        assert_eq!(a.strong_count(), 0, "what it verified is forgotten");
        assert!(Arc::ptr_eq(&b.upgrade().unwrap(), &weak("b").upgrade().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_is_bounded_in_time_and_ends_with_the_keys() {
        let mut issuer = Issuer::new(set(&["a"]));
        issuer.delay = MAX_FETCH * 100;
        let begun = Instant::now();
        let keys = issuer.start();
        keys.started(Instant::now() + MAX_START).await;
        assert_eq!(begun.elapsed(), MAX_START, "a server starts without them");
        assert!(!keys.ask().await || !keys.has_set());
        tokio::time::sleep(MAX_FETCH + RETRY * 2).await;
        assert!(issuer.asked() >= 2, "it is given up, and tried again");
        let asked = issuer.asked();
        drop(keys);
        tokio::time::sleep(REFRESH * 10).await;
        assert_eq!(issuer.asked(), asked, "nobody asks when nobody needs it");
        assert_eq!(Arc::strong_count(&issuer.asked), 1, "the task is gone");
    }

    #[test]
    fn a_token_without_a_key_id_tries_a_few_keys_and_one_with_an_id_that_one() {
        let key = |id: &str| {
            let set = parse_set(&set(&[id]).unwrap(), &ES256).unwrap();
            set.keys.into_iter().next().unwrap()
        };
        let all: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(key).into();
        assert_eq!(fitting(&all, Algorithm::ES256, None).len(), 4);
        assert_eq!(ids(&fitting(&all, Algorithm::ES256, Some("f"))), ["f"]);
        assert!(fitting(&all, Algorithm::ES256, Some("g")).is_empty());
        assert!(fitting(&all, Algorithm::RS256, Some("f")).is_empty());
        assert!(fitting(&all, Algorithm::RS256, None).is_empty());
    }
}
