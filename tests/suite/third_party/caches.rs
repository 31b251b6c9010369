//! Pages of events behind a shared cache, nginx's: whatever is gone is gone for its readers, too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::proxy::Proxy;
use crate::common::{Answer, PATIENCE, Process, get, post, send, text, to};

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// So long the events of one topic live, in milliseconds.
const TTL_MS: u64 = 3_000;

/// Where the cache is; what it did about an answer is in the head of that.
const CACHE: (&str, &str) =
    ("upstream leftoff {", "proxy_cache_path cache keys_zone=pages:1m;\nupstream leftoff {");
const OBEYS: (&str, &str) = (
    "location / {",
    "location / {
        proxy_cache pages;
        proxy_cache_revalidate on;
        add_header x-cache $upstream_cache_status always;",
);
/// It keeps pages for a second, whatever they say, and asks the broker about these by their tags.
const KEEPS: (&str, &str) = (
    "location / {",
    "location / {
        proxy_cache pages;
        proxy_cache_revalidate on;
        proxy_cache_valid 200 1s;
        proxy_ignore_headers Cache-Control Expires;
        add_header x-cache $upstream_cache_status always;",
);

/// A request: its method, path and body.
type Asked = (&'static str, &'static str, &'static str);

/// What happens to a topic that is called so.
const CHANGES: [(&str, &[Asked]); 4] = [
    ("purged", &[("DELETE", "/v1/topics/purged/events?before=4", "")]),
    ("deleted", &[("DELETE", "/v1/topics/deleted", "")]),
    (
        "recreated",
        &[
            ("DELETE", "/v1/topics/recreated", ""),
            ("POST", "/v1/topics/recreated/events", "another"),
        ],
    ),
    ("expired", &[]),
];

fn page(topic: &str) -> String {
    format!("/v1/topics/{topic}/events?from=earliest")
}

/// Publishes three events to each topic.
async fn fill(broker: SocketAddr) {
    for (topic, _) in CHANGES {
        for number in 1..=3 {
            let ttl = if topic == "expired" { format!("?ttl_ms={TTL_MS}") } else { String::new() };
            let path = format!("/v1/topics/{topic}/events{ttl}");
            assert_eq!(post(broker, &path, number.to_string()).await.status, 201);
        }
    }
}

async fn change(broker: SocketAddr) {
    for (method, path, body) in CHANGES.iter().flat_map(|(_, requests)| *requests) {
        let answer = send(to(broker, method, path), *body).await;
        assert!(answer.status.is_success(), "{method} {path}: {}", text(&answer.body));
    }
    let started = Instant::now();
    while count(&get(broker, &page("expired")).await) > 0 {
        assert!(started.elapsed() < PATIENCE, "events do not expire");
        tokio::time::sleep(PAUSE).await;
    }
}

/// How many events are on a page; none are where there is no topic.
fn count(answer: &Answer) -> usize {
    let page: Value = answer.json();
    page["events"].as_array().map_or(0, Vec::len)
}

fn is_same(one: &Answer, other: &Answer) -> bool {
    one.status == other.status && one.body == other.body
}

/// Goal: a cache that does what it is told shows each change at once.
#[tokio::test]
async fn a_shared_cache_that_does_as_told_shows_at_once_what_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let broker = process.address;
    let Some(cache) = Proxy::nginx_with(broker, &[CACHE, OBEYS]).await else { return };
    fill(broker).await;
    for (topic, _) in CHANGES {
        assert_eq!(count(&get(cache.address, &page(topic)).await), 3, "{topic}");
    }
    change(broker).await;
    for (topic, _) in CHANGES {
        let shown = get(cache.address, &page(topic)).await;
        let told = get(broker, &page(topic)).await;
        assert!(is_same(&shown, &told), "{topic}: {shown:?}, and the broker says {told:?}");
    }
}

/// Goal: a cache that keeps pages all the same is told by no 304 that what is gone is there.
#[tokio::test]
async fn a_shared_cache_that_asks_by_tags_goes_on_showing_only_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let broker = process.address;
    let Some(cache) = Proxy::nginx_with(broker, &[CACHE, KEEPS]).await else { return };
    fill(broker).await;
    for (topic, _) in CHANGES {
        assert_eq!(count(&get(cache.address, &page(topic)).await), 3, "{topic}");
        let kept = get(cache.address, &page(topic)).await;
        assert_eq!((count(&kept), kept.header("x-cache")), (3, "HIT"), "{topic} is in the cache");
    }
    change(broker).await;
    for (topic, _) in CHANGES {
        let started = Instant::now();
        let asked = loop {
            let shown = get(cache.address, &page(topic)).await;
            if shown.header("x-cache") != "HIT" {
                break shown;
            }
            assert!(started.elapsed() < PATIENCE, "{topic} is kept for a second, and not for good");
            tokio::time::sleep(PAUSE).await;
        };
        let told = get(broker, &page(topic)).await;
        assert!(is_same(&asked, &told), "{topic}: {asked:?}, and the broker says {told:?}");
    }
    // What did not change is not sent again.
    let path = page("recreated");
    let started = Instant::now();
    while get(cache.address, &path).await.header("x-cache") != "REVALIDATED" {
        assert!(started.elapsed() < PATIENCE, "a page is never held to be the same");
        tokio::time::sleep(PAUSE).await;
    }
}
