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

/// The longest time that the start of a server waits for the first fetch.
pub(super) const MAX_START: Duration = Duration::from_secs(5);

/// The times of fetches.
#[derive(Debug, Clone, Copy)]
pub(super) struct FetchTimes {
    /// The time between two fetches.
    refresh: Duration,
    /// The time after a fetch that failed.
    retry: Duration,
    /// The least time between two fetches of which one is for a key that is not known.
    min_pause: Duration,
    /// The longest time of one fetch.
    max_fetch: Duration,
}

impl Default for FetchTimes {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            retry: Duration::from_secs(30),
            min_pause: Duration::from_secs(60),
            max_fetch: Duration::from_secs(10),
        }
    }
}

/// A fetch of the document: its bytes, or the problem.
pub(super) type Fetching = Pin<Box<dyn Future<Output = Result<Vec<u8>, String>> + Send>>;

/// The source of the document.
pub(super) type FetchKeys = Box<dyn Fn() -> Fetching + Send + Sync>;

type KeyList = Arc<Vec<Arc<VerificationKey>>>;

/// The keys of an issuer that publishes them. The task that refreshes them ends with this value.
pub(super) struct PublishedKeys {
    shared: Arc<SharedKeys>,
    _task: AbortOnDropHandle<()>,
}

struct SharedKeys {
    url: String,
    algorithms: Vec<Algorithm>,
    times: FetchTimes,
    keys: Mutex<KeyList>,
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
    pub(super) fn start(
        url: String,
        algorithms: Vec<Algorithm>,
        times: FetchTimes,
        fetch: FetchKeys,
    ) -> Self {
        let shared = Arc::new(SharedKeys {
            url,
            algorithms,
            times,
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
    pub(super) fn keys(&self) -> KeyList {
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
        let is_fetching = self.shared.asking().is_fetching;
        if !is_fetching && !self.shared.may_ask(now) {
            return false;
        }
        self.shared.wake.notify_one();
        timeout_at(now + self.shared.times.max_fetch, fetches.changed())
            .await
            .is_ok_and(|told| told.is_ok())
    }
}

impl SharedKeys {
    fn keys(&self) -> MutexGuard<'_, KeyList> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether keys may be asked for at `now`.
    fn may_ask(&self, now: Instant) -> bool {
        let started = self.asking().started;
        started.is_none_or(|started| now >= started + self.times.min_pause)
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
async fn run(shared: Arc<SharedKeys>, fetch: FetchKeys) {
    loop {
        {
            let mut asking = shared.asking();
            asking.started = Some(Instant::now());
            asking.is_fetching = true;
        }
        let document = timeout(shared.times.max_fetch, fetch()).await;
        let document = document.unwrap_or_else(|_| Err("it takes too long".to_owned()));
        let taken = document.and_then(|document| shared.take(&document));
        let pause = match &taken {
            Ok(()) => shared.times.refresh,
            Err(problem) => {
                let kept = shared.keys().len();
                warn!(url = shared.url, problem, kept, "the keys of an issuer cannot be fetched");
                shared.times.retry
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
async fn pressed(shared: &SharedKeys) {
    loop {
        shared.wake.notified().await;
        if shared.may_ask(Instant::now()) {
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

    use tokio::sync::Semaphore;

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

    /// An issuer whose answer the test changes, which counts how often it is asked, and answers
    /// when the test lets it.
    #[derive(Clone)]
    struct TestIssuer {
        answer: Arc<Mutex<Result<Vec<u8>, String>>>,
        asked: Arc<AtomicUsize>,
        gate: Arc<Semaphore>,
        times: FetchTimes,
    }

    impl TestIssuer {
        /// Returns an issuer that answers at once.
        fn new(answer: Result<Vec<u8>, String>) -> Self {
            let (gate, times) = (Arc::new(Semaphore::new(1)), FetchTimes::default());
            Self { answer: Arc::new(Mutex::new(answer)), asked: Arc::default(), gate, times }
        }

        fn answers(&self, answer: Result<Vec<u8>, String>) {
            *self.answer.lock().unwrap() = answer;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        /// Waits until the issuer was asked this often.
        async fn was_asked(&self, times: usize) {
            let begun = Instant::now();
            while self.asked() < times {
                assert!(begun.elapsed() < Duration::from_secs(30), "asked {}", self.asked());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        fn start(&self) -> PublishedKeys {
            let issuer = self.clone();
            let fetch: FetchKeys = Box::new(move || {
                let issuer = issuer.clone();
                Box::pin(async move {
                    issuer.asked.fetch_add(1, Ordering::SeqCst);
                    let _open = issuer.gate.acquire().await.unwrap();
                    issuer.answer.lock().unwrap().clone()
                })
            });
            let url = "https://issuer.example/keys".to_owned();
            PublishedKeys::start(url, ES256.into(), self.times, fetch)
        }

        async fn started(&self) -> PublishedKeys {
            let keys = self.start();
            keys.started(Instant::now() + MAX_START).await;
            keys
        }
    }

    fn known(keys: &PublishedKeys) -> Vec<String> {
        ids(&keys.keys())
    }

    /// Makes the last fetch older, as if time had passed.
    fn pass(keys: &PublishedKeys, time: Duration) {
        let mut asking = keys.shared.asking();
        asking.started = asking.started.map(|started| started - time);
    }

    #[tokio::test]
    async fn the_last_good_set_survives_an_outage_and_a_new_one_takes_its_place() {
        let issuer = TestIssuer::new(set(&["a"]));
        let keys = issuer.started().await;
        assert!(keys.has_set());
        assert_eq!((known(&keys), issuer.asked()), (vec!["a".to_owned()], 1));
        let fetched = async |answer: Result<Vec<u8>, String>| {
            issuer.answers(answer);
            pass(&keys, issuer.times.min_pause);
            assert!(keys.ask().await);
            known(&keys)
        };
        assert_eq!(fetched(set(&["a", "b"])).await, ["a", "b"]);
        for outage in [Err("refused".to_owned()), Ok(b"<html>".to_vec()), Ok(Vec::new())] {
            assert_eq!(fetched(outage).await, ["a", "b"]);
        }
        assert_eq!(fetched(set(&["b"])).await, ["b"], "a key that was taken away is gone");
        assert_eq!(fetched(set(&[])).await, [""; 0], "the issuer says that it has none");

        let down = TestIssuer::new(Err("refused".to_owned()));
        assert!(!down.started().await.has_set());
    }

    #[tokio::test]
    async fn keys_are_refreshed_at_intervals_and_after_an_outage_until_nobody_needs_them() {
        let short = Duration::from_millis(1);
        let never = Duration::from_secs(100_000);
        let mut issuer = TestIssuer::new(set(&["a"]));
        issuer.times = FetchTimes { refresh: short, retry: never, ..issuer.times };
        let keys = issuer.start();
        issuer.was_asked(3).await;
        drop(keys);
        // The task held the issuer, and is gone.
        let begun = Instant::now();
        while Arc::strong_count(&issuer.asked) > 1 {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(short).await;
        }

        let mut issuer = TestIssuer::new(Err("refused".to_owned()));
        issuer.times = FetchTimes { refresh: never, retry: short, ..issuer.times };
        let keys = issuer.start();
        issuer.was_asked(3).await;
        issuer.answers(set(&["a"]));
        let begun = Instant::now();
        while known(&keys) != ["a"] {
            assert!(begun.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(short).await;
        }
    }

    #[tokio::test]
    async fn a_fetch_that_takes_too_long_is_given_up_and_tried_again() {
        let short = Duration::from_millis(1);
        let mut issuer = TestIssuer::new(set(&["a"]));
        issuer.gate = Arc::new(Semaphore::new(0));
        issuer.times = FetchTimes { retry: short, max_fetch: short, ..issuer.times };
        let keys = issuer.start();
        issuer.was_asked(3).await;
        assert!(!keys.has_set());
        keys.started(Instant::now()).await; // A server does not wait for more than it wants to.
    }

    #[tokio::test]
    async fn an_unknown_key_is_asked_for_once_a_minute_and_once_for_all() {
        let mut issuer = TestIssuer::new(set(&["a"]));
        issuer.times.max_fetch = Duration::from_secs(100);
        let keys = Arc::new(issuer.started().await);
        let minute = issuer.times.min_pause;
        assert_eq!(minute, Duration::from_secs(60));
        let started = keys.shared.asking().started.unwrap();
        assert!(!keys.shared.may_ask(started + minute - Duration::from_nanos(1)));
        assert!(keys.shared.may_ask(started + minute));
        for _ in 0..100 {
            assert!(!keys.ask().await, "it was fetched just now");
        }
        assert_eq!(issuer.asked(), 1);

        pass(&keys, minute);
        issuer.answers(set(&["a", "new"]));
        let closed = issuer.gate.clone().acquire_owned().await.unwrap();
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let keys = keys.clone();
                tokio::spawn(async move { (keys.ask().await, known(&keys)) })
            })
            .collect();
        issuer.was_asked(2).await;
        // The first of them goes away in the middle. The others get the keys all the same.
        asking[0].abort();
        drop(closed);
        for (number, asking) in asking.into_iter().enumerate() {
            match asking.await {
                Ok((was_fetched, known)) => assert!(was_fetched && known == ["a", "new"]),
                Err(_) => assert_eq!(number, 0),
            }
        }
        for _ in 0..100 {
            assert!(!keys.ask().await);
        }
        assert_eq!(issuer.asked(), 2);
    }

    #[tokio::test]
    async fn a_key_stays_the_same_value_while_the_issuer_has_it() {
        let issuer = TestIssuer::new(set(&["a", "b"]));
        let keys = issuer.started().await;
        let weak =
            |id: &str| Arc::downgrade(&fitting(&keys.keys(), Algorithm::ES256, Some(id)).remove(0));
        let (a, b) = (weak("a"), weak("b"));
        issuer.answers(set(&["c", "b"]));
        pass(&keys, issuer.times.min_pause);
        assert!(keys.ask().await);
        assert_eq!(a.strong_count(), 0, "what it verified is forgotten");
        assert!(Arc::ptr_eq(&b.upgrade().unwrap(), &weak("b").upgrade().unwrap()));
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
