//! A real browser and the blocks that carry no publisher's event, and event types that a browser
//! uses for events of its own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Process, get, lasting_address, post, send, to};
use crate::webdriver::Browser;

/// The time limit of each wait: longer than any takes, also on a busy machine.
const WAIT: Duration = Duration::from_secs(60);

/// The script of a page that keeps each message: its type, its id and its data.
const FOLLOW: &str = r#"
    window.seen = [];
    const source = new EventSource(arguments[0]);
    const keep = (event) => seen.push([event.type, event.lastEventId, event.data]);
    const own = ["leftoff.caught-up", "leftoff.cursor", "leftoff.gap"];
    const types = ["message", "wanted", "type:error", ...own];
    types.forEach((type) => source.addEventListener(type, keep));
    for (const handler of ["onerror", "onopen"]) {
        source[handler] = (event) => {
            if (event instanceof MessageEvent) {
                seen.push([handler, event.lastEventId, event.data]);
            }
        };
    }
"#;

/// Waits until the page has a message of this type with this id, and returns all its messages.
async fn seen_through(browser: &Browser, kind: &str, id: &str) -> Vec<(String, String, String)> {
    let started = Instant::now();
    loop {
        let seen = browser.run("return seen", json!([])).await;
        let seen: Vec<(String, String, String)> = serde_json::from_value(seen).unwrap();
        if seen.iter().any(|told| told.0 == kind && told.1 == id) {
            return seen;
        }
        assert!(started.elapsed() < WAIT, "no {kind} at {id}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Goal: a cursor that moves without an event also moves the browser's last id, and an event that a
/// publisher names `error` or `open` calls no handler of the browser's own.
/// Method: purge the events that the cursor moved over, and kill the broker. A browser whose id had
/// not moved would be told of a gap when it reconnects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_moves_without_an_event_is_where_a_browser_comes_back_to() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let quick = ["--set", "follow.retry_ms=200", "--set", "follow.heartbeat_ms=100"];
    let process = Process::serve_at(address, directory.path(), &quick);
    let events = "/v1/topics/a/events";
    let publish = async |kind: &str| {
        let answer = post(address, &format!("{events}?type={kind}"), "1").await;
        assert_eq!(answer.status, 201);
    };
    publish("other").await;
    let cursor: Value = get(address, events).await.json()["cursor"].take();
    let epoch = cursor.as_str().unwrap().split_once('-').unwrap().1.to_owned();
    browser.go_to(&format!("http://{address}/healthz")).await;
    let url = format!("{events}?from=earliest&type=wanted&type=error&type=open&type=message");
    browser.run(FOLLOW, json!([url])).await;
    // A stream that begins after the events tells its place as caught up, and no cursor follows.
    seen_through(&browser, "leftoff.caught-up", &format!("1-{epoch}")).await;
    for kind in ["other", "other", "other"] {
        publish(kind).await;
    }
    seen_through(&browser, "leftoff.cursor", &format!("4-{epoch}")).await;
    let purge = to(address, "DELETE", &format!("{events}?before=5"));
    assert_eq!(send(purge, "").await.status, 200);
    process.kill();
    let _process = Process::serve_at(address, directory.path(), &quick);
    for kind in ["error", "open", "message", "wanted"] {
        publish(kind).await;
    }
    let seen = seen_through(&browser, "wanted", &format!("8-{epoch}")).await;
    let kinds: Vec<&str> = seen.iter().map(|told| &*told.0).collect();
    let places = ["leftoff.caught-up", "leftoff.cursor"];
    let of_events: Vec<_> = kinds.iter().filter(|kind| !places.contains(kind)).collect();
    assert_eq!(of_events, [&"type:error", &"wanted"], "a gap, or a handler was called: {seen:?}");
}
