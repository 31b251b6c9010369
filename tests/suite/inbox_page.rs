//! The example of an inbox: its files, and the page in a real browser, in two tabs, while the
//! broker crashes and comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Process, Server, get, lasting_address, send, text, to, try_post};
use crate::webdriver::{Browser, Tab};

const PAGE: &str = "/examples/inbox?topic=users.42.%3E&consumer=inbox";
const TOPIC: &str = "users.42.notes";
/// The consumer whose marks the page shows.
const INBOX: &str = "/v1/consumers/inbox";
const SELECTION: &str = "topic=users.42.%3E";

/// The time limit of each wait: longer than any takes, also on a busy machine.
const WAIT: Duration = Duration::from_secs(60);
/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// The key "Escape". Source: W3C WebDriver, 17.4.2.
const ESCAPE: &str = "\u{e00c}";

/// Returns what a page shows: the badge, the label of the bell, and each entry of the list with its
/// title and whether it is unread. Before the element is there, nothing.
const SHOWN: &str = r##"
    const root = document.querySelector("leftoff-inbox").shadowRoot;
    if (!root) return { badge: null, items: [] };
    const badge = root.querySelector(".badge");
    const items = [...root.querySelectorAll("li")].map((item) => ({
        title: item.querySelector(".title").textContent,
        unread: item.classList.contains("unread"),
    }));
    return {
        badge: badge.hidden ? "" : badge.textContent,
        label: root.querySelector(".bell").getAttribute("aria-label"),
        items,
    };
"##;

/// Presses a button of the entry with this title, as a click does, and gives it the focus.
const CLICK: &str = r##"
    const [title, words] = arguments;
    const root = document.querySelector("leftoff-inbox").shadowRoot;
    const item = [...root.querySelectorAll("li")]
        .find((item) => item.querySelector(".title").textContent === title);
    const button = [...item.querySelectorAll("button:not([hidden])")]
        .find((button) => button.textContent === words);
    button.focus();
    button.click();
"##;

/// Clicks the button of the element with this selector.
const CLICK_PART: &str = r##"
    document.querySelector("leftoff-inbox").shadowRoot.querySelector(arguments[0]).click();
"##;

/// The two tabs of a browser, and the broker that they show.
struct Tabs {
    browser: Browser,
    tabs: [Tab; 2],
    address: SocketAddr,
}

impl Tabs {
    /// Runs a script in one of the tabs.
    async fn run(&self, tab: usize, script: &str, arguments: Value) -> Value {
        self.browser.switch_to(&self.tabs[tab]).await;
        self.browser.run(script, arguments).await
    }

    /// Waits until both tabs show what `is_it` expects, and returns what the first shows.
    async fn both_show(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let mut first = Value::Null;
        for tab in [0, 1] {
            let started = Instant::now();
            loop {
                let shown = self.run(tab, SHOWN, json!([])).await;
                if is_it(&shown) {
                    first = if tab == 0 { shown } else { first };
                    break;
                }
                assert!(started.elapsed() < WAIT, "tab {tab} never shows {what}: {shown}");
                tokio::time::sleep(PAUSE).await;
            }
        }
        first
    }

    /// Publishes a notification, and repeats that until it is acknowledged.
    async fn notify(&self, title: &str) {
        let path = format!("/v1/topics/{TOPIC}/events?id={title}&type=note");
        let started = Instant::now();
        loop {
            let request = to(self.address, "POST", &path);
            let request = request.header("content-type", "application/json");
            if try_post(request, json!({"title": title}).to_string()).await.is_some() {
                return;
            }
            assert!(started.elapsed() < WAIT, "{title} is never acknowledged");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the counts of the inbox, as the broker has them.
    async fn counts(&self) -> Value {
        get(self.address, &format!("{INBOX}/counts?{SELECTION}")).await.json()
    }
}

fn titles(shown: &Value) -> Vec<&str> {
    let items = shown["items"].as_array().unwrap();
    items.iter().map(|item| item["title"].as_str().unwrap()).collect()
}

fn unread(shown: &Value) -> Vec<&str> {
    let items = shown["items"].as_array().unwrap();
    let unread = items.iter().filter(|item| item["unread"] == true);
    unread.map(|item| item["title"].as_str().unwrap()).collect()
}

/// Goal: two tabs show the same entries, marks and badge, whatever either of them does, also while
/// the broker is killed, twice: what a click asked for while the broker was away is done when it is
/// back, nothing is lost, and nothing comes back.
#[tokio::test]
async fn two_tabs_of_the_inbox_stay_in_step_through_two_kills() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let serve = || Process::serve_at(address, directory.path(), &[]);
    let mut process = serve();
    process.until_ready().await;
    let tabs = [browser.tab().await, browser.new_tab().await];
    let tabs = Tabs { browser, tabs, address };
    for title in ["one", "two", "three"] {
        tabs.notify(title).await;
    }
    for tab in &tabs.tabs {
        tabs.browser.switch_to(tab).await;
        tabs.browser.go_to(&format!("http://{address}{PAGE}")).await;
    }
    let is = |badge: &'static str, all: &'static [&str], new: &'static [&str]| {
        move |shown: &Value| shown["badge"] == badge && titles(shown) == all && unread(shown) == new
    };
    let all = &["three", "two", "one"];
    let shown = tabs.both_show("three entries", is("3", all, all)).await;
    assert_eq!(shown["label"], "Notifications, 3 new, 3 unread");

    tabs.run(0, CLICK_PART, json!([".bell"])).await;
    tabs.both_show("that the entries were seen", is("", all, all)).await;
    tabs.run(1, CLICK_PART, json!([".bell"])).await;
    tabs.run(1, CLICK, json!(["two", "Mark as read"])).await;
    tabs.both_show("that one was read", is("", all, &["three", "one"])).await;

    process.crash();
    tabs.run(1, CLICK, json!(["three", "Archive"])).await;
    process = serve();
    tabs.both_show("that one was archived", is("", &["two", "one"], &["one"])).await;
    tabs.notify("four").await;
    let (four, new) = (&["four", "two", "one"], &["four", "one"]);
    tabs.both_show("the new one", is("1", four, new)).await;
    tabs.run(0, CLICK, json!(["one", "Snooze 1 h"])).await;
    tabs.both_show("that one was snoozed", is("1", &["four", "two"], &["four"])).await;

    process.crash();
    tabs.run(0, CLICK, json!(["two", "Mark as unread"])).await;
    process = serve();
    tabs.notify("five").await;
    let all = &["five", "four", "two"];
    tabs.both_show("the newest", is("2", all, all)).await;
    tabs.run(0, CLICK_PART, json!(["[part=read-all]"])).await;
    tabs.both_show("that all were read", is("", all, &[])).await;

    let archived = json!([".views > :last-child"]);
    tabs.run(0, CLICK_PART, archived.clone()).await;
    tabs.run(1, CLICK_PART, archived).await;
    tabs.both_show("what was archived", is("", &["three"], &[])).await;
    tabs.run(0, CLICK, json!(["three", "To the inbox"])).await;
    tabs.both_show("that nothing is archived", |shown| titles(shown).is_empty()).await;
    let counts = tabs.counts().await;
    for (count, expected) in
        [("total", 5), ("inbox", 4), ("unseen", 0), ("unread", 0), ("archived", 0), ("snoozed", 1)]
    {
        assert_eq!(counts[count], expected, "{count}: {counts}");
    }
    drop(tabs.browser);
    process.kill();
}

/// Goal: an entry that is snoozed comes back by itself as a new one, in both tabs, and one that
/// another device marked meanwhile is shown as marked.
#[tokio::test]
async fn a_snoozed_entry_comes_back_by_itself() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let tabs = [browser.tab().await, browser.new_tab().await];
    let tabs = Tabs { browser, tabs, address: process.address };
    tabs.notify("sleepy").await;
    for tab in &tabs.tabs {
        tabs.browser.switch_to(tab).await;
        tabs.browser.go_to(&format!("http://{}{PAGE}", process.address)).await;
    }
    tabs.both_show("the entry", |shown| shown["badge"] == "1").await;
    let until = std::time::SystemTime::now() + Duration::from_secs(3);
    let until_ms = until.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let until = leftoff::Timestamp::from_ms(until_ms).to_string();
    let change = json!({
        "mark": ["snoozed"], "snooze_until": until,
        "events": [{"topic": TOPIC, "sequence": 1}],
    });
    let path = format!("{INBOX}/marks?{SELECTION}");
    let request = to(process.address, "POST", &path).header("content-type", "application/json");
    let answer = send(request, change.to_string()).await;
    assert_eq!(answer.status, 200, "{}", text(&answer.body));
    let is_away = |shown: &Value| shown["badge"] == "" && titles(shown).is_empty();
    tabs.both_show("that it is snoozed", is_away).await;
    let is_back = |shown: &Value| shown["badge"] == "1" && unread(shown) == ["sleepy"];
    tabs.both_show("that it is back", is_back).await;
    drop(tabs.browser);
    process.kill();
}

/// Goal: the page can be used with the keyboard alone, tells readers of screens what each button
/// does, and fits on a narrow screen.
#[tokio::test]
async fn the_page_is_for_keyboards_and_for_narrow_screens() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    process.until_ready().await;
    let tabs = [browser.tab().await, browser.new_tab().await];
    let tabs = Tabs { browser, tabs, address: process.address };
    let long = "x".repeat(200); // There is no place to break it.
    for title in ["one", "two", &long] {
        tabs.notify(title).await;
    }
    for tab in &tabs.tabs {
        tabs.browser.switch_to(tab).await;
        tabs.browser.resize(360, 640).await;
        tabs.browser.go_to(&format!("http://{}{PAGE}", process.address)).await;
    }
    tabs.both_show("the entries", |shown| titles(shown).len() == 3).await;
    let bell = "document.querySelector('leftoff-inbox').shadowRoot.querySelector('.bell').focus();";
    tabs.run(0, bell, json!([])).await;
    tabs.browser.press(" ").await;
    let state = r#"
        const root = document.querySelector("leftoff-inbox").shadowRoot;
        const { scrollWidth, clientWidth } = document.documentElement;
        const { left, right } = root.querySelector(".panel").getBoundingClientRect();
        const named = [...root.querySelectorAll("button:not([hidden])")].map((button) => {
            const parts = (button.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
            const texts = parts.map((id) => root.getElementById(id).textContent);
            return (button.getAttribute("aria-label") ?? texts.join(" ")) || button.textContent;
        });
        return {
            isOpen: !root.querySelector(".panel").hidden,
            expanded: root.querySelector(".bell").getAttribute("aria-expanded"),
            width: innerWidth,
            overflow: scrollWidth - clientWidth,
            isWithin: left >= 0 && right <= clientWidth,
            named,
            focused: root.activeElement?.className,
        };
    "#;
    let open = tabs.run(0, state, json!([])).await;
    assert_eq!((&open["isOpen"], &open["expanded"]), (&json!(true), &json!("true")), "{open}");
    assert_eq!((&open["width"], &open["overflow"]), (&json!(360), &json!(0)), "{open}");
    assert_eq!(open["isWithin"], true, "{open}");
    let named: Vec<&str> =
        open["named"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(named.iter().all(|name| !name.is_empty()), "{named:?}");
    assert!(named.contains(&"Archive two") && named.contains(&"Mark as read one"), "{named:?}");

    // The entry that takes the place of an archived one gets the focus.
    tabs.run(0, CLICK, json!(["two", "Archive"])).await;
    tabs.both_show("two entries", |shown| titles(shown).len() == 2).await;
    let focused = r#"
        const { activeElement } = document.querySelector("leftoff-inbox").shadowRoot;
        return activeElement.getAttribute("aria-labelledby");
    "#;
    assert_eq!(tabs.run(0, focused, json!([])).await, "archive-1 title-1");
    tabs.browser.press(ESCAPE).await;
    let closed = tabs.run(0, state, json!([])).await;
    assert_eq!(
        (&closed["isOpen"], &closed["focused"]),
        (&json!(false), &json!("bell")),
        "{closed}"
    );
    drop(tabs.browser);
    process.kill();
}

/// Goal: the files of the page may be kept and asked about again, say what they are, and allow no
/// script but the broker's own.
#[tokio::test]
async fn the_files_of_the_page_have_a_tag_and_a_policy_and_nothing_inline() {
    let server = Server::start().await;
    let page = get(server.address, "/examples/inbox").await;
    let html = text(&page.body);
    let mut files = vec!["/examples/inbox".to_owned()];
    for begin in ["src=\"", "href=\""] {
        files.extend(
            html.split(begin)
                .skip(1)
                .map(|rest| format!("/examples/{}", rest.split('"').next().unwrap())),
        );
    }
    let modules = std::fs::read_dir("src/web/inbox").unwrap().map(|entry| entry.unwrap());
    let modules = modules.map(|entry| entry.file_name().into_string().unwrap());
    files.extend(
        modules.filter(|name| name != "index.html").map(|it| format!("/examples/inbox/{it}")),
    );
    files.sort();
    files.dedup();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        let answer = get(server.address, file).await;
        let kind = answer.header("content-type").to_owned();
        assert_eq!(answer.status, 200, "{file}");
        let expected = match file.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(kind, expected, "{file}");
        assert!(answer.header("content-security-policy").starts_with("default-src 'self';"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{file}");
        assert_eq!(answer.header("cache-control"), "no-cache", "{file}");
        let held = to(server.address, "GET", file).header("if-none-match", answer.header("etag"));
        let held = send(held, "").await;
        assert_eq!((held.status.as_u16(), held.body.len()), (304, 0), "{file}");
        let source = text(&answer.body);
        let has_handlers = ["onclick=", "onload=", "style=", "javascript:", "<script>", "<style"];
        for inline in has_handlers {
            assert!(!source.contains(inline), "{file} has {inline}");
        }
        assert!(
            !source.contains("http://") || file.ends_with(".svg"),
            "{file} loads from elsewhere"
        );
    }
    server.stop().await;
}

/// Goal: each module of the client for browsers is served with its type and a tag, for pages of any
/// origin; nothing else of its folder is, and no folder is listed. The core is one module.
#[tokio::test]
async fn the_modules_of_the_client_are_served_to_pages_of_any_origin() {
    const PARTS: [&str; 6] =
        ["limits.js", "transports.js", "subscription.js", "outbox.js", "connection.js", "tabs.js"];
    fn find(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() { find(&path, found) } else { found.push(path) }
        }
    }
    let server = Server::start().await;
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/client");
    let mut files = Vec::new();
    find(&root, &mut files);
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let path = format!("/web/{name}");
        let request = to(server.address, "GET", &path);
        let request = request.header("origin", "https://shop.example");
        let answer = send(request.header("sec-fetch-site", "cross-site"), "").await;
        let content_type = match name.rsplit_once('.').unwrap().1 {
            "js" if !PARTS.contains(&name) => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "ts" => "text/plain; charset=utf-8",
            _ => {
                assert_eq!(answer.status, 404, "{path}: {answer:?}");
                continue;
            }
        };
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        if name == "leftoff.js" {
            let core = std::str::from_utf8(&answer.body).unwrap();
            assert!(core.contains("\nexport function connect("), "{core}");
            assert!(!core.contains("\nimport "), "{core}");
        } else {
            assert_eq!(answer.body, std::fs::read(&file).unwrap(), "{path}");
        }
        assert_eq!(answer.header("content-type"), content_type, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert_eq!(answer.header("cache-control"), "no-cache", "{path}");
        let tag = answer.header("etag").to_owned();
        let again = to(server.address, "GET", &path).header("if-none-match", tag);
        assert_eq!(send(again, "").await.status, 304, "{path}");
    }
    for path in ["/web", "/web/", "/web/nothing.js", "/web/%2e%2e/inbox/main.js"] {
        assert_eq!(get(server.address, path).await.status, 404, "{path}");
    }
    server.stop().await;
}
