//! Caches between the broker and its readers: proxies, browsers and libraries may keep answers. No
//! cache ever shows events that are gone, or keeps an answer that must not be kept.

use std::collections::BTreeMap;

use http::StatusCode;
use leftoff::cursor::Sequence;
use leftoff::{Config, NewEvent};
use serde_json::{Value, json};

use crate::common::{Answer, Server, get, name, publish, send, soon, to};
use crate::webdriver::Browser;

const EVENTS: &str = "/v1/topics/a/events";

/// A private cache as in RFC 9111. A repeated request carries the tag of the stored answer, and a
/// 304 makes the cache show the stored answer.
#[derive(Default)]
struct Cache(BTreeMap<String, (String, Value)>);

impl Cache {
    async fn get(&mut self, server: &Server, path: &str) -> Value {
        let mut request = to(server.address, "GET", path);
        if let Some((tag, _)) = self.0.get(path) {
            request = request.header("if-none-match", tag);
        }
        let answer = send(request, "").await;
        if answer.status == StatusCode::NOT_MODIFIED {
            return self.0[path].1.clone();
        }
        let (tag, body) = (answer.header("etag").to_owned(), answer.json());
        if !tag.is_empty() {
            self.0.insert(path.to_owned(), (tag, body.clone()));
        }
        body
    }
}

/// Returns the page that a reader without a cache gets.
async fn true_page(server: &Server, path: &str) -> Value {
    get(server.address, path).await.json()
}

/// Goal: after any change to a page's events, a cache shows the page as it is now.
#[tokio::test]
async fn a_cache_never_shows_what_was_purged_expired_deleted_or_published_anew() {
    let server = Server::start().await;
    let mut cache = Cache::default();
    let paths = ["", "?from=latest", "?after=0&on_gap=resume", "?from=last:1", "?before=3"];
    let paths = paths.map(|query| format!("{EVENTS}{query}"));
    let all = server.broker.clone();
    let short_lived = NewEvent { ttl_ms: Some(1), ..NewEvent::new("gone soon") };
    let expired = async || {
        publish(&all, "a", short_lived.clone()).await;
        soon(async {
            while all.maintain(None).await.unwrap().expired.events == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    };
    for step in 0..6 {
        match step {
            0 => {
                server.publish("a", "one").await;
                server.publish("a", "two").await;
            }
            1 => all.purge(&name("a"), Sequence::new(3)).await.unwrap(),
            2 => expired().await,
            3 => all.delete_topic(&name("a")).await.unwrap(),
            4 => drop(server.publish("a", "three").await),
            _ => all.purge(&name("a"), Sequence::new(u64::MAX)).await.unwrap(),
        }
        for path in &paths {
            let expected = true_page(&server, path).await;
            for _ in 0..2 {
                assert_eq!(cache.get(&server, path).await, expected, "step {step}: {path}");
            }
        }
    }
    assert!(!cache.0.is_empty(), "no page has a tag");
}

/// Goal: each answer says whether it may be cached, and which request headers it depends on.
#[tokio::test]
async fn every_answer_says_what_caches_may_do_with_it() {
    let mut config = Config::default();
    config.follow.list_connections = true;
    let server = Server::with(config).await;
    server.publish("a", "x".repeat(1_000)).await;
    for _ in 0..100 {
        server.publish("long", "x".repeat(1_000)).await;
    }
    let told = |answer: &Answer| {
        let headers = ["cache-control", "vary"].map(|name| answer.header(name).to_owned());
        (answer.status.as_u16(), headers, answer.headers.contains_key("etag"))
    };
    let vary = "accept, accept-encoding, last-event-id".to_owned();
    let kept = |status: u16| (status, ["no-cache".to_owned(), vary.clone()], true);
    let page = get(server.address, EVENTS).await;
    assert_eq!(told(&page), kept(200));
    let request = to(server.address, "GET", EVENTS).header("if-none-match", page.header("etag"));
    assert_eq!(told(&send(request, "").await), kept(304));
    let long = get(server.address, "/v1/topics/long/events").await;
    assert_eq!(told(&long), (200, ["no-store".to_owned(), vary.clone()], false));
    let image = to(server.address, "GET", EVENTS).header("accept", "image/png");
    let refused = send(image, "").await;
    assert_eq!(told(&refused), (406, ["no-store".to_owned(), vary], false));
    let others = [
        ("GET", "/v1/topics/a/events?after=9", 410),
        ("GET", "/v1/topics/a/events?limit=0", 400),
        ("GET", "/v1/topics/none", 404),
        ("GET", "/nothing", 404),
        ("GET", "/v1/topics", 200),
        ("GET", "/v1/topics/a", 200),
        ("GET", "/v1/topics/a/state", 200),
        ("GET", "/v1/topics/a/presence", 200),
        ("GET", "/v1/connections", 200),
        ("GET", "/metrics", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("TRACE", EVENTS, 405),
        ("POST", EVENTS, 201),
        ("PUT", "/v1/topics/b", 201),
    ];
    for (method, path, status) in others {
        let answer = send(to(server.address, method, path), "").await;
        let (told_status, [cache_control, _], has_tag) = told(&answer);
        assert_eq!((told_status, &*cache_control, has_tag), (status, "no-store", false), "{path}");
    }
    server.stop().await;
}

/// Goal: only GET and HEAD are answered with 304, and a 304 states no length, since it has no body.
/// A page that is asked for with POST is sent in full each time.
#[tokio::test]
async fn only_get_and_head_are_told_that_a_client_holds_a_page_already() {
    let server = Server::start().await;
    server.publish("a", "x").await;
    let page = get(server.address, EVENTS).await;
    for method in ["GET", "HEAD"] {
        let asked = to(server.address, method, EVENTS);
        let answer = send(asked.header("if-none-match", page.header("etag")), "").await;
        assert_eq!(answer.status, 304, "{method}");
        assert_eq!(answer.header("content-length"), "", "{method}");
    }
    let asked = r#"{"topics":["a"],"from":"earliest"}"#;
    let held = get(server.address, "/v1/events?topic=a&from=earliest").await;
    assert_ne!(held.header("etag"), "");
    let request = to(server.address, "POST", "/v1/events");
    let answer = send(request.header("if-none-match", held.header("etag")), asked).await;
    assert_eq!((answer.status.as_u16(), answer.header("etag")), (200, ""));
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.json(), held.json());
    server.stop().await;
}

/// The script of a page that polls through the browser's own cache, and returns its answers.
const POLL: &str = r#"
    const [path, times] = arguments;
    return (async () => {
        const pages = [];
        for (let at = 0; at < times; at++) pages.push(await (await fetch(path)).json());
        return pages;
    })();
"#;

/// The script of a page that waits for news at one URL while it publishes at the other, and then
/// polls twice more.
const WAIT: &str = r#"
    const [path, events] = arguments;
    return (async () => {
        const poll = async (wait) => (await (await fetch(`${path}&wait=${wait}`)).json()).events;
        let first = null;
        const polling = poll("20s").then((page) => { first = page; });
        while (first === null) {
            await fetch(events, { method: "POST", body: "news" });
            await Promise.race([polling, new Promise((next) => setTimeout(next, 100))]);
        }
        return [first, await poll("20ms"), await poll("20ms")];
    })();
"#;

/// Goal: polls of one URL return the current events, also through the cache of a real browser.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_polls_is_never_shown_again_what_it_has_seen() {
    let server = Server::start().await;
    let Some(browser) = Browser::start().await else { return };
    browser.go_to(&format!("http://{}/healthz", server.address)).await;
    let poll = async |path: &str, times: u64| -> Vec<Vec<Value>> {
        let pages = browser.run(POLL, json!([path, times])).await;
        let pages = pages.as_array().unwrap().iter();
        pages.map(|page| page["events"].as_array().unwrap().clone()).collect()
    };
    // A poll waits for an event and gets it; later polls find nothing more.
    let waited = browser.run(WAIT, json!([format!("{EVENTS}?from=latest"), EVENTS])).await;
    let [first, later @ ..] = waited.as_array().unwrap().as_slice() else { panic!("{waited}") };
    assert_ne!(first, &json!([]), "the poll ended without the event");
    assert_eq!(later, [json!([]), json!([])], "an event came twice");
    // A purged event is gone from the page, and a new one is there.
    assert_eq!(poll(EVENTS, 2).await, [true_events(&server).await, true_events(&server).await]);
    server.broker.purge(&name("a"), Sequence::new(u64::MAX)).await.unwrap();
    assert_eq!(poll(EVENTS, 2).await, [[], []] as [[Value; 0]; 2]);
    server.publish("a", "two").await;
    let now = true_events(&server).await;
    assert_eq!((poll(EVENTS, 1).await, now.len()), (vec![now], 1));
    drop(browser);
    server.stop().await;
}

/// The script of a page that waits at one URL twice at once, and publishes after both answers have
/// begun. Returns the number of events of each answer.
const WAIT_TWICE: &str = r#"
    const [path, events] = arguments;
    return (async () => {
        const answers = await Promise.all([fetch(path), fetch(path)]);
        await fetch(events, { method: "POST", body: "news" });
        const pages = await Promise.all(answers.map((answer) => answer.json()));
        return pages.map((page) => page.events.length);
    })();
"#;

/// Goal: two polls of one URL wait at the same time. A browser sends the second request only after
/// it has the head of the first one's answer, so the broker sends the head at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_does_not_hold_back_the_second_poll_of_one_url() {
    let server = Server::start().await;
    server.publish("a", "one").await;
    let Some(browser) = Browser::start().await else { return };
    browser.go_to(&format!("http://{}/healthz", server.address)).await;
    let path = format!("{EVENTS}?from=latest&wait=20s");
    let started = std::time::Instant::now();
    let seen = browser.run(WAIT_TWICE, json!([path, EVENTS])).await;
    assert_eq!(seen, json!([1, 1]), "a poll missed the event");
    assert!(started.elapsed() < std::time::Duration::from_secs(15), "{:?}", started.elapsed());
    drop(browser);
    server.stop().await;
}

async fn true_events(server: &Server) -> Vec<Value> {
    true_page(server, EVENTS).await["events"].as_array().unwrap().clone()
}
