//! The console: its files and their size, and its views in a real browser, at three sizes.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::common::{Process, Server, get, post, send, text, to};
use crate::webdriver::Browser;

/// The most that a browser loads for all views together, compressed.
const MAX_BYTES: usize = 60 * 1024;

/// The longest time from a click to the first paint, on a busy machine. Alone it takes a tenth.
const FIRST_PAINT_MS: f64 = 2_000.0;

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
const VIEWS: [(&str, &str, &str); 13] = [
    ("overview", "", "main table a"),
    ("topics", "topics", ".row a"),
    ("events", "topic/orders.new/events", ".events > li"),
    ("sought", "topic/orders.new/events/2", ".events > li[aria-current]"),
    ("publish", "topic/orders.new/publish", "main textarea"),
    ("consumers", "topic/orders.new/consumers", "main .card .card"),
    ("letters", "topic/orders.dead/consumers", ".events > li"),
    ("presence", "topic/orders.new/presence", "main ul"),
    ("settings", "topic/orders.new/settings", "[name=max_events]"),
    ("connections", "connections", "main .note"),
    ("webhooks", "webhooks", "main section.card"),
    ("access", "access", "main code"),
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

    /// Returns the first cells of the events that are listed: their sequences.
    async fn sequences(&self) -> Value {
        let script = "return [...document.querySelectorAll('.events summary')] \
                      .map((it) => Number(it.firstChild.textContent));";
        self.browser.run(script, json!([])).await
    }
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
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let shown = Shown { browser, address: process.address };
    fill(shown.address).await;
    let axe = axe();
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/console");
    std::fs::create_dir_all(&pictures).unwrap();
    for (width, height, scheme) in SIZES {
        shown.browser.resize(width, height).await;
        shown.browser.prefer_scheme(scheme).await;
        shown.open("", ".wrong li").await;
        let script = "return performance.getEntriesByType('paint')[0].startTime";
        let painted = shown.browser.run(script, json!([])).await;
        assert!(painted.as_f64().unwrap() < FIRST_PAINT_MS, "first paint after {painted} ms");
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
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let shown = Shown { browser, address: process.address };
    let address = shown.address;
    fill(address).await;
    shown.open("topic/orders.new/events", ".events > li").await;
    assert_eq!(shown.sequences().await, json!([3, 2, 1]));

    // Publishing by the form, with digits that JavaScript's own numbers do not have.
    shown.turn_to("topic/orders.new/publish", "main textarea").await;
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

    // A dead letter is put back, and is dealt with.
    shown.turn_to("topic/orders.dead/consumers", ".events > li").await;
    shown.click(".events summary", "1").await;
    shown.until(".body button", "Put back into orders.new").await;
    shown.click(".body button", "Put back").await;
    shown.until("main .note", "is in orders.new again").await;
    let back = get(address, "/v1/topics/orders.new/events?after=5").await.json();
    assert_eq!(back["events"][0]["data"], json!({"number": 1}), "{back}");
    assert_eq!(back["events"][0]["id"], "put-back-orders.dead-1", "{back}");
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
    shown.write("[name=confirmed]", "orders").await;
    assert_eq!(shown.browser.run(purge, json!([])).await, true);
    shown.write("[name=confirmed]", "orders.new").await;
    assert_eq!(shown.browser.run(purge, json!([])).await, false);
    shown.click("main button", "Purge").await;
    shown.until("main .note", "The events are dropped.").await;
    let topic = get(address, "/v1/topics/orders.new").await.json();
    assert_eq!((&topic["events"], &topic["earliest"]), (&json!(0), &json!(7)), "{topic}");
    drop(shown.browser);
    process.kill();
}

/// Returns a token that lives for a minute, with these rights.
fn token(rights: Value) -> String {
    let end = SystemTime::now() + WAIT;
    let end = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://id.example", "aud": "leftoff", "sub": "ann", "exp": end,
        "leftoff": rights,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// Goal: with access control the console asks who is there, refuses whoever does not administer,
/// explains credentials, and keeps the token nowhere: after a reload it asks again.
#[tokio::test]
async fn with_access_control_the_console_is_for_administrators() {
    let Some(browser) = Browser::start().await else { return };
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
    let mut process = Process::serve(&directory.path().join("data"), &arguments);
    process.until_ready().await;
    let shown = Shown { browser, address: process.address };
    let field = "[name=credential]";
    shown.open("topics", field).await;
    shown.write(field, &token(json!({"subscribe": [">"]}))).await;
    shown.click("main button", "Log in").await;
    shown.until("main .error", "Refused").await;
    let administrator = token(json!({"admin": true}));
    shown.write(field, &administrator).await;
    shown.click("main button", "Log in").await;
    shown.until("main p", "topics").await;
    shown.turn_to("access", field).await;
    shown.write(field, &administrator).await;
    shown.click("main button", "Explain").await;
    shown.until("main .good", "The broker takes it.").await;
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
    paths.extend(["/web/leftoff.js", "/web/presence.js"].map(str::to_owned));
    let mut size = 0;
    for path in &paths {
        let answer = get(server.address, path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'self';"));
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(&answer.body).unwrap();
        size += packed.finish().unwrap().len();
        let source = text(&answer.body);
        for inline in ["onclick=", "onload=", " style=", "javascript:", "<script>", "<style"] {
            assert!(!source.contains(inline), "{path} has {inline}");
        }
        let is_elsewhere = source.contains("http://") || source.contains("https://");
        assert!(!is_elsewhere || source.contains("www.w3.org/2000/svg"), "{path} names a server");
    }
    assert!(size <= MAX_BYTES, "{} files have {size} bytes, over {MAX_BYTES}", paths.len());
    server.stop().await;
}
