//! Pages of events behind nginx as a shared cache: events that are gone are gone for its readers,
//! too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::proxy::Proxy;
use crate::common::{Answer, PATIENCE, Process, get, post, send, text, to};

/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// The time to live of the events of one topic, in milliseconds.
const TTL_MS: u64 = 3_000;

/// Edits of nginx's configuration: the place of the cache, and its use for all answers, which say
/// in `x-cache` how it was used.
const CACHE: (&str, &str) =
    ("upstream leftoff {", "proxy_cache_path cache keys_zone=pages:1m;\nupstream leftoff {");
const OBEYS: (&str, &str) = (
    "location / {",
    "location / {
        proxy_cache pages;
        proxy_cache_revalidate on;
        add_header x-cache $upstream_cache_status always;",
);
/// An edit with which the cache keeps pages for a second, whatever they say, and then revalidates
/// them by their entity tags.
const KEEPS: (&str, &str) = (
    "location / {",
    "location / {
        proxy_cache pages;
        proxy_cache_revalidate on;
        proxy_cache_valid 200 1s;
        proxy_ignore_headers Cache-Control Expires;
        add_header x-cache $upstream_cache_status always;",
);

/// A request: its method, its path and its body.
type Asked = (&'static str, &'static str, &'static str);

/// The requests that change the topic of each name.
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
    // They are removed a little later than they expire, and the page changes once more.
    while !is_empty(&get(broker, &page("expired")).await) {
        assert!(started.elapsed() < PATIENCE, "events do not expire");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns the number of events on a page, which is 0 without the topic.
fn count(answer: &Answer) -> usize {
    let page: Value = answer.json();
    page["events"].as_array().map_or(0, Vec::len)
}

/// Whether a page says that its topic has no event any more.
fn is_empty(answer: &Answer) -> bool {
    let page: Value = answer.json();
    page["earliest"] == page["tail"]
}

fn is_same(one: &Answer, other: &Answer) -> bool {
    one.status == other.status && one.body == other.body
}

/// Goal: a cache that obeys the headers shows each change at once.
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

/// Goal: a cache that keeps pages all the same is never told by a 304 that lost events are still
/// there.
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
        assert_eq!((count(&kept), kept.header("x-cache")), (3, "HIT"), "{topic} is not cached");
    }
    change(broker).await;
    for (topic, _) in CHANGES {
        let started = Instant::now();
        let asked = loop {
            let shown = get(cache.address, &page(topic)).await;
            if shown.header("x-cache") != "HIT" {
                break shown;
            }
            assert!(started.elapsed() < PATIENCE, "{topic} is kept for more than a second");
            tokio::time::sleep(PAUSE).await;
        };
        let told = get(broker, &page(topic)).await;
        assert!(is_same(&asked, &told), "{topic}: {asked:?}, and the broker says {told:?}");
    }
    // A page that did not change is not sent again.
    let path = page("recreated");
    let started = Instant::now();
    while get(cache.address, &path).await.header("x-cache") != "REVALIDATED" {
        assert!(started.elapsed() < PATIENCE, "no page is revalidated");
        tokio::time::sleep(PAUSE).await;
    }
}
