//! The console: its files and their size, and its views in a real browser, at three sizes.
//!
//! The file is long, because each test is one way of a person through the pages.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{Process, Server, Sse, get, lasting_address, post, send, soon, text, to};
use crate::webdriver::Browser;

/// The most that a browser loads for all views together, compressed.
const MAX_BYTES: usize = 60 * 1024;

/// The longest time from a click until the page shows something, in milliseconds. One of a few
/// loads must keep it: while others use the processor, a load waits for them, and seldom do all of
/// them.
const FIRST_PAINT_MS: f64 = 200.0;
const LOADS: usize = 20;

const SECRET: &str = "a secret of the tests, long enough for HS256";

/// The time limit of each wait: longer than any takes, also on a busy machine.
const WAIT: Duration = Duration::from_secs(60);
/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// The sizes of a telephone, a computer and a wall, in pixels, and the colours that are tried
/// there.
const SIZES: [(u32, u32, &str); 3] =
    [(360, 740, "dark"), (1280, 800, "light"), (3840, 2160, "dark")];

/// The views: a name, the fragment of the address, and what is seen when they are loaded.
const VIEWS: [(&str, &str, &str); 14] = [
    ("overview", "", "main h2"),
    ("topics", "topics", ".row a"),
    ("events", "topic/orders.new/events", ".events > li"),
    ("sought", "topic/orders.new/events/2", ".events > li[aria-current]"),
    ("publish", "topic/orders.new/publish", "main textarea"),
    ("consumers", "topic/orders.new/consumers", "main .card .card"),
    ("letters", "topic/orders.dead/consumers", ".events > li"),
    ("presence", "topic/orders.new/presence", "main ul"),
    ("settings", "topic/orders.new/settings", "[name=max_events]"),
    ("connections", "connections", "main table button"),
    ("webhooks", "webhooks", "main section.card"),
    ("access", "access", "main code"),
    ("maintenance", "maintenance", "main button"),
    ("proxy", "proxy", "main h2"),
];

/// Returns whether an element is there whose text includes the second argument.
const HAS: &str = r#"
    const [selector, words] = arguments;
    return [...document.querySelectorAll(selector)].some((it) => it.innerText.includes(words));
"#;

/// Clicks the first element whose text begins with the second argument.
const CLICK: &str = r#"
    const [selector, words] = arguments;
    const all = [...document.querySelectorAll(selector)];
    all.find((it) => it.innerText.startsWith(words)).click();
"#;

/// Writes a text into a field, as people do.
const TYPE: &str = r#"
    const [selector, text] = arguments;
    const field = document.querySelector(selector);
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
"#;

/// Clicks the button in the row whose text includes the first argument.
const CLICK_IN_ROW: &str = r#"
    const rows = [...document.querySelectorAll("main tbody tr")];
    rows.find((it) => it.innerText.includes(arguments[0])).querySelector("button").click();
"#;

/// Returns what axe-core finds in the page, as `rule: elements`.
const AXE: &str = r#"
    const places = ({ nodes }) => nodes.map(({ target }) => target.join(" ")).join(", ");
    return axe.run().then(({ violations }) => violations.map((it) => `${it.id}: ${places(it)}`));
"#;

/// A browser that shows the console of a broker.
struct Shown {
    browser: Browser,
    address: SocketAddr,
}

impl Shown {
    /// Opens a view from another page, and waits until `selector` is seen.
    async fn open(&self, fragment: &str, selector: &str) {
        self.browser.go_to("about:blank").await; // A fragment alone loads nothing anew.
        self.browser.go_to(&format!("http://{}/console#/{fragment}", self.address)).await;
        self.until(selector, "").await;
    }

    /// Changes the view as a link does, and waits until `selector` is seen.
    async fn turn_to(&self, fragment: &str, selector: &str) {
        // The same fragment once more is no change by itself.
        let script = "document.querySelector('main').replaceChildren(); \
                      if (location.hash === arguments[0]) { \
                          dispatchEvent(new Event('hashchange')); \
                      } \
                      location.hash = arguments[0];";
        self.browser.run(script, json!([format!("#/{fragment}")])).await;
        self.until(selector, "").await;
    }

    /// Waits until an element is there whose text includes `words`.
    async fn until(&self, selector: &str, words: &str) {
        let started = Instant::now();
        while self.browser.run(HAS, json!([selector, words])).await != json!(true) {
            if started.elapsed() > WAIT {
                let page = "return document.body.innerText;";
                let page = self.browser.run(page, json!([])).await;
                panic!("{selector} with {words:?} never comes: {page}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn click(&self, selector: &str, words: &str) {
        self.browser.run(CLICK, json!([selector, words])).await;
    }

    async fn write(&self, selector: &str, text: &str) {
        self.browser.run(TYPE, json!([selector, text])).await;
    }

    /// Loads the page until it shows something soon enough, and returns the shortest time from the
    /// beginning of a load until then, in milliseconds.
    async fn first_paint_ms(&self) -> f64 {
        let script = "const paints = performance.getEntriesByName('first-contentful-paint'); \
                      return paints[0]?.startTime ?? null;";
        let mut best = f64::MAX;
        for _ in 0..LOADS {
            self.open("", ".wrong li").await;
            let started = Instant::now();
            // The browser tells it some time after it is seen.
            let painted = loop {
                match self.browser.run(script, json!([])).await.as_f64() {
                    Some(painted) => break painted,
                    None => assert!(started.elapsed() < WAIT, "nothing is painted"),
                }
                tokio::time::sleep(PAUSE).await;
            };
            best = painted.min(best);
            if best < FIRST_PAINT_MS {
                break;
            }
        }
        best
    }

    /// Returns the first cells of the events that are listed: their sequences.
    async fn sequences(&self) -> Value {
        let script = "return [...document.querySelectorAll('.events summary')] \
                      .map((it) => Number(it.firstChild.textContent));";
        self.browser.run(script, json!([])).await
    }
}

/// Starts a broker on `directory` with these arguments, and a browser that shows its console;
/// `None` if no browser is installed.
async fn shown_in(directory: &Path, arguments: &[&str]) -> Option<(Shown, Process)> {
    let browser = Browser::start().await?;
    let mut process = Process::serve(directory, arguments);
    process.until_ready().await;
    Some((Shown { browser, address: process.address }, process))
}

/// Fills a broker with something for each view: events, a dead letter, and a webhook that rests.
async fn fill(address: SocketAddr) {
    for number in 1..=3 {
        let path = format!("/v1/topics/orders.new/events?type=order&key=k{number}");
        let request = to(address, "POST", &path).header("content-type", "application/json");
        let answer = send(request, json!({ "number": number }).to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let consumer = "/v1/consumers/mailers";
    let settings = json!({"shared": {"max_tries": 1, "dead_letter": "orders.dead"}});
    let path = format!("{consumer}?topic=orders.new&shared=true");
    let made = send(to(address, "PUT", &path), settings.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let pull = json!({"worker": "w", "limit": 1, "wait_ms": 1_000}).to_string();
    let pulled = post(address, &format!("{consumer}/pull?topic=orders.new"), pull).await.json();
    let lease = &pulled["leases"][0]["lease"];
    let failed = json!({"nack": [{"lease": lease, "reason": "no such address"}]}).to_string();
    let answer = post(address, &format!("{consumer}/settle?topic=orders.new"), failed).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let webhook = json!({"topic": "orders.new", "url": "https://receiver.example/hook"});
    let request = to(address, "PUT", "/v1/webhooks/billing");
    let request = request.header("content-type", "application/json");
    assert_eq!(send(request, webhook.to_string()).await.status, 201);
    assert_eq!(post(address, "/v1/webhooks/billing/pause", "").await.status, 200);
}

/// Returns the script of axe-core, if it is installed.
fn axe() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules");
    let script = std::fs::read_to_string(root.join("axe-core/axe.min.js")).ok();
    if script.is_none() {
        println!("axe-core is not in target/clients, run tests/clients/install");
    }
    script
}

/// Goal: each view fits on a telephone, a computer and a wall, in light and dark, has nothing that
/// axe-core finds, and loads without an error. The screenshots are left in `target/console`.
#[tokio::test]
async fn each_view_fits_at_each_size_and_axe_finds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let listing = ["--set", "follow.list_connections=true"];
    let Some((shown, process)) = shown_in(directory.path(), &listing).await else { return };
    let best = shown.first_paint_ms().await;
    assert!(best < FIRST_PAINT_MS, "the first paint comes after {best} ms");
    println!("first paint after {best} ms");
    fill(shown.address).await;
    let axe = axe();
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/console");
    std::fs::create_dir_all(&pictures).unwrap();
    for (width, height, scheme) in SIZES {
        shown.browser.resize(width, height).await;
        shown.browser.prefer_scheme(scheme).await;
        shown.open("", ".wrong li").await;
        if let Some(axe) = &axe {
            shown.browser.run(axe, json!([])).await;
        }
        for (name, fragment, selector) in VIEWS {
            shown.turn_to(fragment, selector).await;
            let place = format!("{name} at {width}x{height}, {scheme}");
            let wide = "const page = document.documentElement; \
                        return page.scrollWidth - page.clientWidth;";
            assert_eq!(shown.browser.run(wide, json!([])).await, 0, "{place} is too wide");
            if axe.is_some() {
                assert_eq!(shown.browser.run(AXE, json!([])).await, json!([]), "{place}");
            }
            let picture: PathBuf = pictures.join(format!("{name}-{width}-{scheme}.png"));
            shown.browser.take_picture(&picture).await;
        }
    }
    drop(shown.browser);
    process.kill();
}

/// Goal: what the console shows and does is what the broker has: live events with a pause, a jump,
/// a publish, a dead letter that is put back once, settings with what they drop, and a purge that
/// wants the topic's name.
#[tokio::test]
async fn what_is_done_in_the_console_is_done_in_the_broker() {
    let directory = tempfile::tempdir().unwrap();
    let Some((shown, process)) = shown_in(directory.path(), &[]).await else { return };
    let address = shown.address;
    fill(address).await;
    shown.open("topic/orders.new/events", ".events > li").await;
    assert_eq!(shown.sequences().await, json!([3, 2, 1]));

    // Publishing by the form, with digits that JavaScript's own numbers do not have.
    shown.turn_to("topic/orders.new/publish", "main textarea").await;
    let is_ready = "return document.querySelector('main form').checkValidity();";
    assert_eq!(
        shown.browser.run(is_ready, json!([])).await,
        false,
        "nothing is published by itself"
    );
    shown.write("[name=data]", "{id: 1}").await;
    shown.click("main button", "Publish").await;
    shown.until("main .error", "✕ The payload is no JSON: ").await;
    shown.write("[name=data]", r#"{"id":12345678901234567890}"#).await;
    shown.write("[name=headers]", "region: eu").await;
    shown.click("main button", "Publish").await;
    shown.until("main p", "Event 4 is stored.").await;
    let page = get(address, "/v1/topics/orders.new/events?after=3").await;
    assert!(text(&page.body).contains(r#"{"id":12345678901234567890}"#), "{page:?}");
    assert_eq!(page.json()["events"][0]["headers"]["region"], "eu");

    // Live, with a pause; a filter by a header.
    shown.turn_to("topic/orders.new/events", ".events > li").await;
    shown.click("main button", "Pause").await;
    post(address, "/v1/topics/orders.new/events", "five").await;
    shown.until("main button", "Go on (1 new)").await;
    assert_eq!(shown.sequences().await, json!([4, 3, 2, 1]));
    shown.click("main button", "Go on").await;
    shown.until(".events summary", "five").await;
    assert_eq!(shown.sequences().await, json!([5, 4, 3, 2, 1]));
    shown.write("[name=header]", "region: eu").await;
    let filter = "document.querySelector('form.stacked').requestSubmit();";
    shown.browser.run(filter, json!([])).await;
    let is_filtered = async || shown.sequences().await == json!([4]);
    let started = Instant::now();
    while !is_filtered().await {
        assert!(started.elapsed() < WAIT, "the filter never holds: {}", shown.sequences().await);
        tokio::time::sleep(PAUSE).await;
    }
    shown.click(".events summary", "4").await;
    shown.until(".events pre", "12345678901234567890").await;

    // A jump beyond the newest event shows the newest, and follows.
    shown.turn_to("topic/orders.new/events/99", ".events > li").await;
    shown.until("main .note", "There is no event 99 yet: the next one is 6.").await;
    shown.until("main button", "Pause").await;

    // The busiest topics are those that have events while one looks.
    shown.turn_to("", "main h2").await;
    let is_listed = json!(["main td a", "orders.busy"]);
    let started = Instant::now();
    while shown.browser.run(HAS, is_listed.clone()).await != json!(true) {
        assert!(started.elapsed() < WAIT, "a topic with events is never among the busiest");
        post(address, "/v1/topics/orders.busy/events", "now").await;
        tokio::time::sleep(PAUSE).await;
    }

    // A dead letter is put back, and is dealt with.
    shown.turn_to("topic/orders.dead/consumers", ".events > li").await;
    shown.click(".events summary", "1").await;
    shown.until(".body button", "Put back into orders.new").await;
    shown.click(".body button", "Put back").await;
    shown.until("main .note", "is in orders.new again").await;
    let back = get(address, "/v1/topics/orders.new/events?after=5").await.json();
    assert_eq!(back["events"][0]["data"], json!({"number": 1}), "{back}");
    let letter = get(address, "/v1/topics/orders.dead/events").await.json();
    let id = format!("put-back-{}", letter["events"][0]["position"]);
    assert_eq!(back["events"][0]["id"], id, "{back}");
    let counts = get(address, "/v1/consumers/console/counts?topic=orders.dead").await.json();
    assert_eq!(counts["archived"], 1, "{counts}");

    // Settings say what they drop before they are saved.
    shown.turn_to("topic/orders.new/settings", "[name=max_events]").await;
    shown.write("[name=max_events]", "2").await;
    shown.click("main button", "Check").await;
    shown.until("main button", "Save, and drop 4 events").await;
    assert_eq!(get(address, "/v1/topics/orders.new").await.json()["config"], json!({}));
    shown.click("main button", "Save, and drop").await;
    shown.until("main .note", "The settings are saved.").await;
    let config = &get(address, "/v1/topics/orders.new").await.json()["config"];
    assert_eq!(config, &json!({"max_events": 2}));

    // A purge wants the name.
    let purge = "return [...document.querySelectorAll('main button')] \
                 .find((it) => it.innerText === 'Purge').disabled;";
    shown.until("main p", "2 events, ").await;
    shown.turn_to("topic/orders.new/settings", "[name=before]").await; // What is kept by now.
    shown.write("[name=before]", "7").await;
    shown.until("main p", "This drops all 2 events for good.").await;
    shown.write("[name=confirmed]", "orders").await;
    assert_eq!(shown.browser.run(purge, json!([])).await, true);
    shown.write("[name=confirmed]", "orders.new").await;
    assert_eq!(shown.browser.run(purge, json!([])).await, false);
    shown.click("main button", "Purge").await;
    shown.until("main .note", "The events are dropped.").await;
    shown.until("main p", "There is nothing to drop.").await;
    shown.until("main p", "0 events, 0 B; the next one is 7").await;
    let topic = get(address, "/v1/topics/orders.new").await.json();
    assert_eq!((&topic["events"], &topic["earliest"]), (&json!(0), &json!(7)), "{topic}");
    drop(shown.browser);
    process.kill();
}

/// Goal: all that waits among dead letters is listed and can be dropped, also what others published
/// there; and an event that deletes its key still deletes it when it is put back, or published
/// again.
#[tokio::test]
async fn all_that_waits_as_a_dead_letter_is_listed_and_a_deletion_stays_one() {
    let directory = tempfile::tempdir().unwrap();
    let Some((shown, process)) = shown_in(directory.path(), &[]).await else { return };
    let address = shown.address;
    let asked = async |method: &str, path: &str, body: Value| {
        let request = to(address, method, path).header("content-type", "application/json");
        let answer = send(request, body.to_string()).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
        answer.json()
    };
    let publish = async |topic: &str, event: Value| {
        asked("POST", "/v1/publish", json!({"topics": [topic], "event": event})).await
    };
    publish("jobs", json!({"key": "k", "data": 1})).await;
    publish("jobs", json!({"key": "k"})).await;
    let shared = json!({"shared": {"max_tries": 1}});
    asked("PUT", "/v1/consumers/m?topic=jobs&shared=true", shared).await;
    for _ in 0..2 {
        let pull = json!({"worker": "w", "limit": 1, "wait_ms": 1_000});
        let pulled = asked("POST", "/v1/consumers/m/pull?topic=jobs", pull).await;
        let failed = json!({"nack": [{"lease": pulled["leases"][0]["lease"], "reason": "no"}]});
        asked("POST", "/v1/consumers/m/settle?topic=jobs", failed).await;
    }
    // An event that failed for the last time becomes a dead letter soon, and not at once.
    let started = Instant::now();
    while get(address, "/v1/topics/jobs.dead").await.json()["tail"] != json!(3) {
        assert!(started.elapsed() < WAIT, "what failed never becomes a dead letter");
        tokio::time::sleep(PAUSE).await;
    }
    for number in 3..=27 {
        publish("jobs.dead", json!({ "data": number })).await;
    }

    shown.open("topic/jobs.dead/consumers", ".events > li:nth-child(20)").await;
    shown.click("main button", "Show older").await;
    shown.until(".events > li:nth-child(27)", "").await;
    shown.until(".events > li:nth-child(26)", "deletes its key").await;
    assert_eq!(shown.sequences().await, json!((1..=27).rev().collect::<Vec<_>>()));
    shown.click(".events summary", "27").await;
    shown.until(".events .body", "This is no dead letter").await;
    shown.click(".body button", "Drop").await;
    shown.until("main .note", "27 is dealt with.").await;

    shown.click(".events summary", "2\n").await;
    shown.until(".body p", "No payload: this event deletes its key.").await;
    let listen = "navigator.clipboard.writeText = async (text) => (window.copied = text);";
    shown.browser.run(listen, json!([])).await;
    shown.click(".body button", "Copy as curl: publish it again").await;
    shown.until(".body button", "Copied").await;
    let command = shown.browser.run("return window.copied;", json!([])).await;
    let command = command.as_str().unwrap();
    assert!(command.contains(r#""key":"k""#) && !command.contains(r#""data"#), "{command}");
    shown.click(".body button", "Put back into jobs").await;
    shown.until("main .note", "2 is in jobs again.").await;
    let back = get(address, "/v1/topics/jobs/events?after=2").await.json();
    assert_eq!(back["events"][0]["content_type"], Value::Null, "{back}");
    let state = get(address, "/v1/topics/jobs/state").await.json();
    assert_eq!(state["events"], json!([]), "{state}");
    drop(shown.browser);
    process.kill();
}

/// Goal: a broker that was killed is not shown as if it were well, what is left of it is called
/// old, and nobody says that it has refused something; once it is back, so is the page.
#[tokio::test]
async fn a_killed_broker_is_not_shown_as_well() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = Process::serve_at(address, directory.path(), &[]);
    process.until_ready().await;
    let shown = Shown { browser, address };
    shown.open("", ".wrong li").await;
    shown.until(".card", "accepted").await;
    process.crash();
    // The next look is at once.
    let look = "document.dispatchEvent(new Event('visibilitychange'));";
    shown.browser.run(look, json!([])).await;
    shown.until(".wrong .error", "The broker does not answer since").await;
    shown.until(".wrong .error", "What follows is old").await;
    shown.until("main .note.error", "no answer").await; // In place of the busiest topics.
    let page = shown.browser.run("return document.body.innerText;", json!([])).await;
    for wrong in ["Nothing is wrong", "accepted", "Refused"] {
        assert!(!page.as_str().unwrap().contains(wrong), "{wrong}: {page}");
    }
    let mut process = Process::serve_at(address, directory.path(), &[]);
    process.until_ready().await;
    shown.browser.run(look, json!([])).await;
    shown.until(".card", "accepted").await;
    let page = shown.browser.run("return document.body.innerText;", json!([])).await;
    assert!(!page.as_str().unwrap().contains("does not answer"), "{page}");
    drop(shown.browser);
    process.kill();
}

/// Goal: the page that measures the proxy goes by the broker's own heartbeat.
#[tokio::test]
async fn a_stream_is_measured_by_the_heartbeat_of_the_broker() {
    let directory = tempfile::tempdir().unwrap();
    let Some((shown, process)) =
        shown_in(directory.path(), &["--set", "follow.heartbeat_ms=400"]).await
    else {
        return;
    };
    shown.open("proxy", "main button").await;
    shown.click("main button", "Measure").await;
    shown.until("main .good", "the first message came at once, and heartbeats come.").await;
    drop(shown.browser);
    process.kill();
}

/// A receiver of webhooks that wants no request for an hour until it is well.
async fn receiver() -> (SocketAddr, Arc<AtomicBool>) {
    let (listener, is_well) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::default());
    let (address, told) = (listener.local_addr().unwrap(), Arc::<AtomicBool>::clone(&is_well));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut begin = [0; 4_096];
            let _all_of_it = socket.read(&mut begin).await;
            let status = match told.load(Ordering::SeqCst) {
                true => "204 Well",
                false => "503 Ill\r\nretry-after: 3600",
            };
            let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
            let _gone = socket.write_all(answer.as_bytes()).await;
        }
    });
    (address, is_well)
}

/// Goal: whoever operates the broker mends what is wrong: dead letters are a problem until the last
/// one was dealt with, a webhook that failed is tried again at once, and a connection is ended.
#[tokio::test]
async fn what_is_wrong_is_mended_in_the_console() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [
        "--set",
        "follow.list_connections=true",
        "--set",
        "webhooks.allow_http=true",
        "--set",
        "webhooks.allowed_networks=[\"127.0.0.1\"]",
    ];
    let Some((shown, process)) = shown_in(directory.path(), &settings).await else { return };
    let address = shown.address;
    fill(address).await;

    // The one dead letter is dropped where the problem leads.
    shown.open("", ".wrong .warning").await;
    shown.until(".wrong li", "1 dead letter waits for somebody in orders.dead.").await;
    shown.until(".wrong li", "The oldest has waited for").await;
    shown.click(".wrong a", "Look at them").await;
    shown.until(".events summary", "no such address").await;
    shown.click(".events summary", "1").await;
    shown.until(".body button", "Drop").await;
    shown.click(".body button", "Drop").await;
    shown.until("main .note", "1 is dealt with.").await;
    shown.turn_to("", ".wrong li").await;
    let started = Instant::now();
    let script = "return document.querySelector('.wrong').innerText.includes('dead letter');";
    while shown.browser.run(script, json!([])).await != json!(false) {
        assert!(started.elapsed() < WAIT, "the dead letter stays a problem");
        tokio::time::sleep(PAUSE).await;
    }

    // A receiver that is well again gets what failed at once: the next try is in an hour.
    let (receiver, is_well) = receiver().await;
    let webhook = json!({"topic": "orders.paid", "url": format!("http://{receiver}/")});
    let request = to(address, "PUT", "/v1/webhooks/shipping");
    let made = send(request.header("content-type", "application/json"), webhook.to_string()).await;
    assert_eq!(made.status, 201, "{made:?}");
    post(address, "/v1/topics/orders.paid/events", "one").await;
    shown.turn_to("webhooks", "#test-shipping").await;
    shown.until("main .error", "1 failure. The next try is in 59 min").await;
    is_well.store(true, Ordering::SeqCst);
    shown.click("#resume-shipping", "Try again now").await;
    shown.until("main .good", "shipping goes on, and what failed is sent now.").await;
    let started = Instant::now();
    while get(address, "/v1/webhooks/shipping").await.json()["state"]["delivered"] != 1 {
        assert!(started.elapsed() < WAIT, "the event is not sent again");
        tokio::time::sleep(PAUSE).await;
    }
    shown.until("section[aria-label='Webhook shipping'] .good", "It gets on.").await;

    // One is made, which shows its secret, and deleted, which wants its name.
    let details = "document.querySelectorAll('main details').forEach((it) => (it.open = true));";
    shown.browser.run(details, json!([])).await;
    let fields = [("name", "audit"), ("topic", "orders.paid"), ("url", "https://a.example/")];
    for (name, text) in fields {
        shown.write(&format!("[name={name}]"), text).await;
    }
    shown.click("main button", "Make it").await;
    shown.until("main pre", "whsec_").await;
    shown.until("section[aria-label='Webhook audit'] dd", "https://a.example/").await;
    shown.click("main button", "Make it").await;
    shown.until("main .error", "There is a webhook audit.").await;
    shown.browser.run(details, json!([])).await;
    shown.write("#delete-audit [name=confirmed]", "audit").await;
    shown.click("#delete-audit button", "Delete audit").await;
    shown.until("main .note", "audit is deleted.").await;
    assert_eq!(get(address, "/v1/webhooks/audit").await.status, 404);

    // A connection is ended at the second press, and no other one with it.
    let mut stream = Sse::follow(address, "orders.paid", "").await;
    soon(stream.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    let mut other = Sse::follow(address, "orders.new", "").await;
    soon(other.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    shown.turn_to("connections", "main table button").await;
    shown.until("main td", "orders.paid").await;
    shown.browser.run(CLICK_IN_ROW, json!(["orders.paid"])).await;
    shown.until("main button", "Really end it").await;
    shown.browser.run(CLICK_IN_ROW, json!(["orders.paid"])).await;
    shown.until("main .note", "is ended. Its client may come back.").await;
    soon(async { while stream.next().await.is_some() {} }).await;
    post(address, "/v1/topics/orders.new/events", "goes on").await;
    soon(other.find(|frame| frame.data.as_deref() == Some("goes on"))).await;
    drop(shown.browser);
    process.kill();
}

/// Returns a token of `sub` that lives for a minute, with these rights.
fn token(sub: &str, rights: Value) -> String {
    let end = SystemTime::now() + WAIT;
    let end = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://id.example", "aud": "leftoff", "sub": sub, "exp": end,
        "leftoff": rights,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// Goal: with access control the console asks who is there, refuses whoever does not administer,
/// explains credentials, shows the consumers of others, and keeps the token nowhere: after a reload
/// it asks again.
#[tokio::test]
async fn with_access_control_the_console_is_for_administrators() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("broker.toml");
    let text = format!(
        r#"
        [access]
        mode = "required"

        [[access.issuers]]
        issuer = "https://id.example"
        audience = ["leftoff"]
        algorithms = ["HS256"]
        secret = "{SECRET}"
        "#
    );
    std::fs::write(&settings, text).unwrap();
    let arguments = ["--config", settings.to_str().unwrap()];
    let Some((shown, process)) = shown_in(&directory.path().join("data"), &arguments).await else {
        return;
    };
    let field = "[name=credential]";
    shown.open("topics", field).await;
    shown.write(field, &token("ann", json!({"subscribe": [">"]}))).await;
    shown.click("main button", "Log in").await;
    shown.until("main .error", "Refused").await;
    shown.write(field, "mistyped").await;
    shown.click("main button", "Log in").await;
    shown.until("main .error", "this is neither a key (`lok_…`) nor a token (a JWT)").await;
    let administrator = token("zoe", json!({"admin": true, "subscribe": [">"]}));
    shown.write(field, &administrator).await;
    shown.click("main button", "Log in").await;
    shown.until("main p", "topics").await;
    shown.turn_to("access", field).await;
    shown.write(field, &administrator).await;
    shown.click("main button", "Explain").await;
    shown.until("main .good", "The broker takes it.").await;
    shown.write("[name=sub]", "bob").await;
    shown.click("main button", "Revoke").await;
    shown.until("main td", "bob").await;
    shown.write(field, &token("bob", json!({"publish": ["a"]}))).await;
    shown.click("main button", "Explain").await;
    shown.until("main .error", "The broker refuses it.").await;
    shown.until("main .card li", "refused: the credential is revoked: those of bob up to").await;

    // The consumers of others are shown, too.
    let ann = token("ann", json!({"publish": [">"], "subscribe": [">"], "manage": [">"]}));
    let asked = async |method: &str, path: &str, body: &str| {
        let request = to(shown.address, method, path).header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {ann}"));
        let answer = send(request, body.to_owned()).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
    };
    asked("POST", "/v1/topics/orders/events", "1").await;
    asked("POST", "/v1/topics/orders/events", "2").await;
    asked("POST", "/v1/consumers/phone/checkpoint?topic=orders", r#"{"cursor":"1"}"#).await;
    asked("PUT", "/v1/consumers/mailers?topic=orders&shared=true", r#"{"shared":{}}"#).await;
    shown.turn_to("topic/orders/consumers", "main .card").await;
    shown.until("section[aria-label='Consumer phone of orders'] dd", "ann").await;
    shown.until("section[aria-label='Consumer mailers of orders']", "shared by workers").await;

    // Whoever may only administer sees a topic's settings, and none of its events.
    shown.open("topic/orders/settings", field).await;
    shown.write(field, &token("joe", json!({"admin": true}))).await;
    shown.click("main button", "Log in").await;
    shown.until("main button", "Check").await;
    shown.until("main p", "2 events, ").await;
    shown.turn_to("topic/orders/events", "main .error").await;
    shown.until("main .error", "Refused: joe may not subscribe to").await;
    let kept = "return localStorage.length + sessionStorage.length + document.cookie.length;";
    assert_eq!(shown.browser.run(kept, json!([])).await, 0);
    shown.open("", field).await;
    shown.until("main button", "Log in").await;
    drop(shown.browser);
    process.kill();
}

/// Goal: all files of the console, with those of the client that it uses, are small, and have no
/// code or style within the page.
#[tokio::test]
async fn the_console_is_small_and_has_nothing_inline() {
    let server = Server::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/console");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut paths: Vec<String> = names
        .map(|name| match name.to_str().unwrap() {
            "index.html" => "/console".to_owned(),
            name => format!("/console/{name}"),
        })
        .collect();
    let mut size = 0;
    let mut looked_at = 0;
    while let Some(path) = paths.get(looked_at).cloned() {
        looked_at += 1;
        let answer = get(server.address, &path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'self';"));
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&answer.body).unwrap();
        size += packed.finish().unwrap().len();
        let source = text(&answer.body);
        // What a module imports of the client is loaded, too.
        for (_, rest) in
            source.match_indices("from \"").map(|(at, it)| source.split_at(at + it.len()))
        {
            let name = rest.split('"').next().unwrap().rsplit('/').next().unwrap();
            let of_client = format!("/web/{name}");
            let is_of_client = path.starts_with("/web/") || rest.starts_with("../web/");
            if is_of_client && !paths.contains(&of_client) {
                paths.push(of_client);
            }
        }
        for inline in ["onclick=", "onload=", " style=", "javascript:", "<script>", "<style"] {
            assert!(!source.contains(inline), "{path} has {inline}");
        }
        let is_elsewhere = source.contains("http://") || source.contains("https://");
        assert!(!is_elsewhere || source.contains("www.w3.org/2000/svg"), "{path} names a server");
    }
    assert!(size <= MAX_BYTES, "{} files have {size} bytes, over {MAX_BYTES}", paths.len());
    server.stop().await;
}
