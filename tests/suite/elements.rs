//! The custom elements in a real browser, in a page whose policy allows no style or script within
//! it: what they say, how they are used with the keyboard, and that all of them, in all tabs of the
//! browser, share one connection.
//!
//! The file is long, because the tests share the page that they prepare, and what they ask of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use leftoff::Config;

use crate::common::{Process, Server, get, lasting_address, send, to};
use crate::webdriver::{Browser, Tab};

/// The page that defines the elements for its client. The tests put elements of their own there.
const PAGE: &str = "/examples/inbox";

/// The time limit of each wait: longer than any takes, also on a busy machine.
const WAIT: Duration = Duration::from_secs(60);
/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

// Keys. Source: W3C WebDriver, 17.4.2.
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";
const UP: &str = "\u{e013}";
const DOWN: &str = "\u{e015}";

/// Empties the page, and gives it what the tests call: each element by its id, what an inbox shows,
/// and what broke the policy.
const PREPARE: &str = r#"
    window.broken = [];
    addEventListener("securitypolicyviolation", ({ violatedDirective: it }) => broken.push(it));
    document.body.replaceChildren(document.createElement("main"));
    const heading = document.createElement("h1");
    heading.textContent = "Elements";
    document.querySelector("main").append(heading);
    window.put = (name, id, attributes = {}) => {
        const element = document.createElement(name);
        Object.entries({ id, ...attributes }).forEach((it) => element.setAttribute(...it));
        document.querySelector("main").append(element);
        return element;
    };
    window.by = (id, selector) => document.getElementById(id).shadowRoot.querySelector(selector);
    window.all = (id, selector) =>
        [...document.getElementById(id).shadowRoot.querySelectorAll(selector)];
    window.inbox = (id) => {
        const items = all(id, "li");
        const unread = items.filter((item) => item.classList.contains("unread"));
        const titles = (list) => list.map((item) => item.querySelector(".title").textContent);
        const badge = by(id, "[part=badge]");
        return {
            badge: badge.hidden ? "" : badge.textContent,
            bell: by(id, "[part=bell]").getAttribute("aria-label"),
            titles: titles(items),
            unread: titles(unread),
            isOpen: !by(id, "[part=panel]").hidden,
            expanded: by(id, "[part=bell]").getAttribute("aria-expanded"),
            said: by(id, "[role=status]").textContent,
            isEmpty: !by(id, "[part=empty]").hidden,
        };
    };
    window.focused = (id) => {
        const { activeElement: it } = document.getElementById(id).shadowRoot;
        const title = it?.closest("li")?.querySelector(".title").textContent;
        return it && (title ? `${it.textContent}: ${title}` : it.getAttribute("part"));
    };
"#;

/// Returns what axe-core finds in the page, as `rule: elements`.
const AXE: &str = r#"
    const places = ({ nodes }) => nodes.map(({ target }) => target.join(" ")).join(", ");
    return axe.run().then(({ violations }) => violations.map((it) => `${it.id}: ${places(it)}`));
"#;

/// A browser with two tabs of the page.
struct Tabs {
    browser: Browser,
    tabs: [Tab; 2],
    address: SocketAddr,
}

impl Tabs {
    async fn open(browser: Browser, address: SocketAddr) -> Self {
        let tabs = [browser.tab().await, browser.new_tab().await];
        let opened = Self { browser, tabs, address };
        for tab in [0, 1] {
            opened.browser.switch_to(&opened.tabs[tab]).await;
            opened.browser.go_to(&format!("http://{address}{PAGE}")).await;
            let is_defined = "return Boolean(document.querySelector('leftoff-status').shadowRoot);";
            opened.until(tab, is_defined, |it| it == true).await;
            opened.run(tab, PREPARE).await;
        }
        opened
    }

    /// Runs a script in one of the tabs.
    async fn run(&self, tab: usize, script: &str) -> Value {
        self.browser.switch_to(&self.tabs[tab]).await;
        self.browser.run(script, json!([])).await
    }

    /// Runs a script until its result is as `is_it` expects, and returns it.
    async fn until(&self, tab: usize, script: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let result = self.run(tab, script).await;
            if is_it(&result) {
                return result;
            }
            assert!(started.elapsed() < WAIT, "tab {tab}: {script} stays {result}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the inbox with the id "bell" shows this badge, these titles, these as unread.
    async fn shows(&self, tab: usize, badge: &str, titles: &[&str], unread: &[&str]) -> Value {
        let is_it = |it: &Value| {
            it["badge"] == badge && it["titles"] == json!(titles) && it["unread"] == json!(unread)
        };
        self.until(tab, "return inbox('bell')", is_it).await
    }

    /// Presses a key in a tab, and returns what has the focus in the inbox then.
    async fn press(&self, tab: usize, key: &str) -> Value {
        self.browser.switch_to(&self.tabs[tab]).await;
        self.browser.press(key).await;
        self.run(tab, "return focused('bell')").await
    }

    async fn notify(&self, topic: &str, title: &str) {
        let request = to(self.address, "POST", &format!("/v1/topics/{topic}/events"));
        let request = request.header("content-type", "application/json");
        let answer = send(request, json!({"title": title}).to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }

    /// Asserts that nothing broke the policy, and that something would.
    async fn assert_policy(&self, tab: usize) {
        assert_eq!(self.run(tab, "return broken").await, json!([]));
        let style = "const style = document.createElement('style'); \
                     style.textContent = 'main { color: red }'; document.head.append(style);";
        self.run(tab, style).await;
        self.until(tab, "return broken.length", |it| it == 1).await;
    }
}

/// Returns the topics that are followed by each connection that follows any.
async fn followed(address: SocketAddr) -> Vec<Vec<String>> {
    let listed = get(address, "/v1/connections").await.json();
    let connections = listed["connections"].as_array().unwrap().iter();
    let streams = connections.map(|connection| connection["streams"].as_array().unwrap());
    let topics = |streams: &Vec<Value>| {
        let topics = streams.iter().map(|stream| stream["topics"].as_str().unwrap().to_owned());
        topics.collect::<Vec<_>>()
    };
    streams.filter(|streams| !streams.is_empty()).map(topics).collect()
}

async fn listing_server() -> Server {
    let mut config = Config::default();
    config.follow.list_connections = true;
    Server::with(config).await
}

/// Returns the script of axe-core, if it is installed.
fn axe() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients/node_modules");
    std::fs::read_to_string(root.join("axe-core/axe.min.js")).ok()
}

/// Goal: the status says nothing of a trouble that is over within two seconds, says what lasts, in
/// the page's words, and lets people try again at once.
#[tokio::test]
async fn the_status_is_silent_for_a_blink_and_tells_what_lasts() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = Process::serve_at(address, directory.path(), &[]);
    process.until_ready().await;
    let tabs = Tabs::open(browser, address).await;
    // The times are those of the page. A timer may be late, and of two the one that is due first
    // comes first: so a busy machine changes nothing.
    let blink = r#"
        const client = Object.assign(new EventTarget(), { connection: { state: "connected" } });
        const status = put("leftoff-status", "status", { reconnecting: "One moment" });
        status.leftoff = client;
        const text = by("status", "[part=text]");
        const told = [];
        new MutationObserver(() => told.push([performance.now(), text.textContent]))
            .observe(text, { childList: true });
        const be = (state) => {
            client.connection = { state };
            client.dispatchEvent(new Event("state"));
        };
        const wait = (ms) => new Promise((done) => setTimeout(done, ms));
        return (async () => {
            be("reconnecting");
            await wait(1000);
            be("offline"); // Another trouble goes on with the first one's time.
            await wait(500);
            be("connected");
            await wait(1000);
            const silent = [...told];
            const began = performance.now();
            be("reconnecting");
            const inTime = wait(2500).then(() => told.length);
            await wait(1000);
            be("offline"); // The time still counts from the beginning.
            be("reconnecting");
            while (told.length === 0) await wait(10);
            const isInTime = (await inTime) === 1;
            const after = told[0][0] - began;
            be("offline"); // What is told is told on, without a pause.
            status.setAttribute("offline", "No way");
            await wait(0);
            const words = told.map(([, words]) => words);
            const retry = by("status", "[part=retry]");
            const isSeen = !retry.hidden;
            let retries = 0;
            client.retryNow = () => retries++;
            retry.click();
            be("connected");
            return { silent, after, isInTime, words, isSeen, end: text.textContent, role: text.role,
                     live: text.ariaLive, isHidden: retry.hidden, retries };
        })();
    "#;
    let seen = tabs.run(0, blink).await;
    assert_eq!(seen["silent"], json!([]), "{seen}");
    assert!((1_999.0..).contains(&seen["after"].as_f64().unwrap()), "{seen}");
    assert_eq!((&seen["isInTime"], &seen["retries"]), (&json!(true), &json!(1)), "{seen}");
    assert_eq!(seen["words"], json!(["One moment", "No network.", "No way"]), "{seen}");
    assert_eq!((&seen["role"], &seen["live"]), (&json!("status"), &json!("polite")), "{seen}");
    assert_eq!((&seen["isSeen"], &seen["isHidden"]), (&json!(true), &json!(true)), "{seen}");
    assert_eq!(seen["end"], "", "{seen}");

    // The client of the page, and a broker that is away.
    let put = "put('leftoff-status', 'real', { reconnecting: 'Away', retry: 'Now' });";
    tabs.run(0, put).await;
    process.crash();
    let shown = "return [by('real', '[part=text]').textContent, \
                         by('real', '[part=retry]').hidden || by('real', 'button').textContent];";
    tabs.until(0, shown, |it| *it == json!(["Away", "Now"])).await;
    if let Some(axe) = axe() {
        tabs.run(0, &axe).await;
        assert_eq!(tabs.run(0, AXE).await, json!([]));
    }
    process = Process::serve_at(address, directory.path(), &[]);
    process.until_ready().await;
    tabs.run(0, "by('real', '[part=retry]').click()").await;
    tabs.until(0, shown, |it| *it == json!(["", true])).await;
    tabs.assert_policy(0).await;
    drop(tabs.browser);
    process.kill();
}

/// Goal: the inbox is used with the keyboard alone, names what it has for screen readers, says what
/// is new and what is refused, and is the same in two tabs.
#[tokio::test]
async fn the_inbox_is_used_with_the_keyboard_and_is_the_same_in_two_tabs() {
    let Some(browser) = Browser::start().await else { return };
    let server = listing_server().await;
    let tabs = Tabs::open(browser, server.address).await;
    for title in ["one", "two", "three"] {
        tabs.notify("users.7.notes", title).await;
    }
    for tab in [0, 1] {
        let put = "put('leftoff-inbox', 'bell', { topic: 'users.7.>', label: 'News' });";
        tabs.run(tab, put).await;
        let all = &["three", "two", "one"];
        let shown = tabs.shows(tab, "3", all, all).await;
        assert_eq!(shown["bell"], "News, 3 new, 3 unread");
        assert_eq!((&shown["isOpen"], &shown["expanded"]), (&json!(false), &json!("false")));
    }
    // Two elements in each of two tabs, and one connection.
    let other = "put('leftoff-inbox', 'other', { topic: 'users.8.notes' });";
    tabs.run(0, other).await;
    tabs.run(1, other).await;
    let started = Instant::now();
    loop {
        let mut connections = followed(server.address).await;
        connections.iter_mut().for_each(|topics| topics.sort());
        if let [topics] = &connections[..]
            && *topics == ["users.7.>", "users.7.>", "users.8.notes", "users.8.notes"]
        {
            break;
        }
        assert!(started.elapsed() < WAIT, "{connections:?}");
        tokio::time::sleep(PAUSE).await;
    }

    // Enter opens, and marks as seen, in both tabs.
    tabs.run(0, "by('bell', '[part=bell]').focus()").await;
    assert_eq!(tabs.press(0, ENTER).await, "bell");
    let all = &["three", "two", "one"];
    assert_eq!(tabs.shows(0, "", all, all).await["expanded"], "true");
    assert_eq!(tabs.shows(1, "", all, all).await["isOpen"], false);
    if let Some(axe) = axe() {
        tabs.run(0, &axe).await;
        assert_eq!(tabs.run(0, AXE).await, json!([]));
    }
    // The arrows go from entry to entry; the focus stays in an entry whose button has gone.
    assert_eq!(tabs.press(0, DOWN).await, "Mark as read: three");
    assert_eq!(tabs.press(0, DOWN).await, "Mark as read: two");
    assert_eq!(tabs.press(0, DOWN).await, "Mark as read: one");
    assert_eq!(tabs.press(0, UP).await, "Mark as read: two");
    tabs.press(0, ENTER).await;
    for tab in [0, 1] {
        tabs.shows(tab, "", all, &["three", "one"]).await;
    }
    assert_eq!(tabs.run(0, "return focused('bell')").await, "Mark as unread: two");
    // A new entry takes the focus from nobody, and is told.
    tabs.notify("users.7.orders", "four").await;
    let all = &["four", "three", "two", "one"];
    let shown = tabs.shows(0, "1", all, &["four", "three", "one"]).await;
    assert_eq!(shown["said"], "New: four");
    assert_eq!(tabs.run(0, "return focused('bell')").await, "Mark as unread: two");
    // The entry that takes the place of an archived one has the focus, on the same button.
    tabs.run(0, "all('bell', '[data-action=archive]')[2].focus()").await;
    assert_eq!(tabs.run(0, "return focused('bell')").await, "Archive: two");
    tabs.press(0, ENTER).await;
    let rest = &["four", "three", "one"];
    tabs.shows(1, "1", rest, rest).await;
    tabs.shows(0, "1", rest, rest).await;
    assert_eq!(tabs.run(0, "return focused('bell')").await, "Archive: one");
    assert_eq!(tabs.press(0, ESCAPE).await, "bell");
    assert_eq!(tabs.run(0, "return inbox('bell').isOpen").await, false);

    // What the broker refuses is shown at once, and taken back.
    let refused = r#"
        const { inbox: held } = document.getElementById("bell");
        const change = { mark: ["archived", "nonsense"] };
        held.mark(held.entries[0], change).catch(({ status }) => (window.status = status));
        return inbox("bell").titles;
    "#;
    assert_eq!(tabs.run(1, refused).await, json!(["three", "one"]));
    let shown = tabs.shows(1, "1", rest, rest).await;
    assert!(shown["said"].as_str().unwrap().starts_with("Refused: body: \"nonsense\""), "{shown}");
    assert_eq!(tabs.run(1, "return window.status").await, "400");
    tabs.assert_policy(0).await;
    drop(tabs.browser);
    server.stop().await;
}

/// Goal: an inbox may be moved, taken out and put back, its attributes may change at any time, a
/// page may set its properties before it is defined, and its parts and colours are the page's.
#[tokio::test]
async fn the_inbox_follows_its_attributes_and_its_place_in_the_page() {
    let Some(browser) = Browser::start().await else { return };
    let server = listing_server().await;
    let tabs = Tabs::open(browser, server.address).await;
    tabs.notify("users.1", "one").await;
    tabs.notify("users.2", "two").await;
    // Set after the element is in the page, one after the other: it begins once.
    let late = "const bell = put('leftoff-inbox', 'bell'); \
                bell.setAttribute('consumer', 'phone'); bell.setAttribute('topic', 'users.1');";
    tabs.run(0, late).await;
    tabs.shows(0, "1", &["one"], &["one"]).await;
    let moved = r#"
        const bell = document.getElementById("bell");
        const { inbox: held } = bell;
        document.body.append(bell);
        return Promise.resolve().then(() => [bell.inbox === held, inbox("bell").titles]);
    "#;
    assert_eq!(tabs.run(0, moved).await, json!([true, ["one"]]), "a move begins nothing anew");
    // Taken out, it follows nothing; put back, it shows what came meanwhile.
    tabs.run(0, "window.bell = document.getElementById('bell'); bell.remove()").await;
    let started = Instant::now();
    while !followed(server.address).await.is_empty() {
        assert!(started.elapsed() < WAIT, "{:?}", followed(server.address).await);
        tokio::time::sleep(PAUSE).await;
    }
    tabs.notify("users.1", "meanwhile").await;
    tabs.run(0, "document.querySelector('main').append(bell)").await;
    tabs.shows(0, "2", &["meanwhile", "one"], &["meanwhile", "one"]).await;
    // Another topic, another consumer, none, and one without entries.
    tabs.run(0, "bell.inbox.markAll('read')").await;
    tabs.shows(0, "", &["meanwhile", "one"], &[]).await;
    tabs.run(0, "bell.removeAttribute('consumer')").await;
    tabs.shows(0, "2", &["meanwhile", "one"], &["meanwhile", "one"]).await;
    tabs.run(0, "bell.setAttribute('topic', 'users.2')").await;
    tabs.shows(0, "1", &["two"], &["two"]).await;
    tabs.run(0, "bell.removeAttribute('topic')").await;
    let shown = tabs.shows(0, "", &[], &[]).await;
    assert_eq!((&shown["bell"], &shown["isEmpty"]), (&json!("Notifications"), &json!(false)));
    tabs.run(0, "bell.setAttribute('topic', 'users.3')").await;
    tabs.until(0, "return inbox('bell').isEmpty", |it| it == true).await;

    let styled = r##"
        const sheet = new CSSStyleSheet();
        sheet.replaceSync(`
            main { --leftoff-line: rgb(1, 2, 3); }
            leftoff-inbox { --leftoff-alarm: rgb(4, 5, 6); }
            leftoff-inbox::part(bell) { border-radius: 7px; }
        `);
        document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
        const of = (part, name) => getComputedStyle(by("bell", `[part=${part}]`))[name];
        return [of("panel", "borderTopColor"), of("badge", "backgroundColor"),
                of("bell", "borderTopLeftRadius")];
    "##;
    let expected = json!(["rgb(1, 2, 3)", "rgb(4, 5, 6)", "7px"]);
    assert_eq!(tabs.run(0, styled).await, expected);

    let early = r#"
        const own = put("own-inbox", "own", { topic: "users.2" });
        own.titleOf = ({ sequence }) => `Number ${sequence}`;
        own.words = { read: "Gelesen" };
        own.leftoff = bell.leftoff;
        return import("/web/elements.js").then(({ InboxElement }) => {
            customElements.define("own-inbox", InboxElement);
        });
    "#;
    tabs.run(0, early).await;
    let own = "const [item] = all('own', 'li'); \
               return item && [item.querySelector('.title').textContent, \
                               item.querySelector('button').textContent];";
    tabs.until(0, own, |it| *it == json!(["Number 1", "Gelesen"])).await;

    // Whoever may publish chooses titles and addresses.
    tabs.run(0, "bell.setAttribute('topic', 'users.4')").await;
    let strange = r#"
        const urls = ["https://a.example/", "/b?c", "//d.example", "/\\e.example", "/\t/f.example",
                      "https://", "javascript:alert(1)", ["/g"], { toString: 1 }];
        const events = urls.map((url) => ({ data: { url, title: { toString: 1 }, text: "t" } }));
        events.push({ data: "x".repeat(100_000) });
        return Promise.all(events.map((event) => bell.leftoff.publish("users.4", event)))
            .then(() => events.length);
    "#;
    assert_eq!(tabs.run(0, strange).await, 10);
    let shown = r#"
        return all("bell", ".title").map((it) => it.querySelector("a")?.getAttribute("href")
            ?? (it.textContent.length > 9 ? it.textContent.length : it.textContent));
    "#;
    let expected = json!([301, "t", "t", "t", "t", "t", "t", "t", "/b?c", "https://a.example/"]);
    tabs.until(0, shown, |it| *it == expected).await;
    tabs.assert_policy(0).await;
    drop(tabs.browser);
    server.stop().await;
}

/// Goal: all of the open list is inside of the window, wherever the bell stands in a page, also in
/// small windows and when the window changes.
#[tokio::test]
async fn the_list_opens_inside_of_the_window_wherever_its_bell_stands() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start().await;
    let tabs = Tabs::open(browser, server.address).await;
    for number in 0..20 {
        tabs.notify("users.7", &format!("Number {number}")).await;
    }
    tabs.run(0, "window.bell = put('leftoff-inbox', 'bell', { topic: 'users.7' })").await;
    tabs.until(0, "return inbox('bell').titles.length", |it| it == 20).await;
    // The sides of the list that are outside of the window; the first place is that of the text.
    let opened = r#"
        const outside = () => {
            const list = by("bell", "[part=panel]").getBoundingClientRect();
            const sides = { left: list.left, top: list.top,
                            right: innerWidth - list.right, bottom: innerHeight - list.bottom };
            return Object.keys(sides).filter((side) => sides[side] < 0);
        };
        const places = ["", "left: 0; top: 0", "right: 0; top: 0", "left: 40%; top: 45%",
                        "left: 0; bottom: 0", "right: 0; bottom: 0"];
        return places.map((place) => {
            bell.style.cssText = place && `position: fixed; ${place}`;
            bell.toggle();
            const { isOpen, titles } = inbox("bell");
            const seen = [isOpen, titles.length, outside()];
            bell.toggle();
            return seen;
        });
    "#;
    for (width, height) in [(1280, 800), (360, 640), (320, 256)] {
        tabs.browser.resize(width, height).await;
        tabs.until(0, "return [innerWidth, innerHeight]", |it| *it == json!([width, height])).await;
        let seen = tabs.run(0, opened).await;
        assert_eq!(seen, json!(vec![json!([true, 20, []]); 6]), "{width} x {height}");
    }
    // The list that is open is moved when the window becomes smaller.
    tabs.browser.resize(1280, 800).await;
    tabs.run(0, "bell.style.cssText = 'position: fixed; right: 0; top: 45%'; bell.toggle();").await;
    tabs.browser.resize(360, 640).await;
    let seen = "const list = by('bell', '[part=panel]').getBoundingClientRect(); \
                return innerWidth === 360 && list.left >= 0 && list.right <= 360 \
                    && list.bottom <= 640;";
    tabs.until(0, seen, |it| it == true).await;
    tabs.assert_policy(0).await;
    drop(tabs.browser);
    server.stop().await;
}

/// Goal: who is present is seen in all tabs: who joins, who leaves, and who takes another name.
#[tokio::test]
async fn the_presence_shows_who_joins_and_who_leaves() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start().await;
    let tabs = Tabs::open(browser, server.address).await;
    let members = "return all('room', '[part=member]').map((it) => it.textContent)";
    let room = "put('leftoff-presence', 'room', { topic: 'room.7', member: 'ann', info: 'Ann' });";
    tabs.run(0, room).await;
    tabs.until(0, members, |it| *it == json!(["Ann"])).await;
    tabs.run(1, "put('leftoff-presence', 'room', { topic: 'room.7', member: 'bob' });").await;
    for tab in [0, 1] {
        tabs.until(tab, members, |it| *it == json!(["Ann", "bob"])).await;
    }
    let room = "const room = document.getElementById('room');";
    tabs.run(1, &format!("{room} room.setAttribute('member', 'cid')")).await;
    for tab in [0, 1] {
        tabs.until(tab, members, |it| *it == json!(["Ann", "cid"])).await;
    }
    tabs.run(1, "window.room = document.getElementById('room'); room.remove()").await;
    tabs.until(0, members, |it| *it == json!(["Ann"])).await;
    // Without a member the page looks on, and is not seen.
    tabs.run(1, "room.removeAttribute('member'); document.querySelector('main').append(room)")
        .await;
    tabs.until(1, members, |it| *it == json!(["Ann"])).await;
    tabs.run(0, &format!("{room} room.nameOf = ({{ id }}) => `I am ${{id}}`; room.restart()"))
        .await;
    tabs.until(0, members, |it| *it == json!(["I am ann"])).await;
    if let Some(axe) = axe() {
        tabs.run(0, &axe).await;
        assert_eq!(tabs.run(0, AXE).await, json!([]));
    }
    tabs.assert_policy(1).await;
    drop(tabs.browser);
    server.stop().await;
}
