//! Event streams, followed with clients from npm and PyPI.

use super::client::{Client, Installed};
use super::story::{EVENTS, Story};
use crate::webdriver::Browser;

/// Clients by the names that the programs use. `eventsource` is an `EventSource` as in browsers, in
/// the versions that are in use.
pub(super) const NPM: [&str; 7] = [
    "eventsource-2",
    "eventsource-3",
    "eventsource-4",
    "eventsource-5",
    "event-source-polyfill",
    "reconnecting-eventsource",
    "fetch-event-source",
];
/// Clients that are made for pages, and the browser's own.
const IN_A_PAGE: [&str; 4] =
    ["EventSource", "event-source-polyfill", "reconnecting-eventsource", "fetch-event-source"];
pub(super) const PYPI: [&str; 2] = ["httpx-sse", "sseclient-py"];

/// Goal: each client in Node gets every acknowledged event once and in order, is told of the gap,
/// and gets no message without data, which `JSON.parse` would refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_in_node_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::begin().await;
    let url = format!("http://{}{EVENTS}?from=earliest", story.address);
    let start = |name: &&str| installed.node(name, "event_stream.cjs", &[name, &url]);
    let clients: Vec<Client> = NPM.iter().map(start).collect();
    story.tell(&clients).await;
}

/// Goal: the same holds for clients whose callers must reconnect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_in_python_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::begin().await;
    let url = format!("http://{}{EVENTS}?from=earliest", story.address);
    let start = |name: &&str| installed.python(name, "event_stream.py", &[name, &url]);
    let clients: Vec<Client> = PYPI.iter().map(start).collect();
    story.tell(&clients).await;
}

/// Goal: the same holds for the clients of pages, in a real browser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_in_a_browser_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let Some(browser) = Browser::start().await else { return };
    let story = Story::begin().await;
    // A page of the broker's own origin.
    browser.go_to(&format!("http://{}/healthz", story.address)).await;
    let url = format!("{EVENTS}?from=earliest");
    let clients = installed.page(browser, &IN_A_PAGE, &url).await;
    story.tell(&clients).await;
}
