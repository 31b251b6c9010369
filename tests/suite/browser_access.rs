//! A real browser and a broker that asks who its callers are: cookies, tokens and tickets, from the
//! broker's own pages, from pages that it allows, and from pages that it does not.
//!
//! The scripts that follow by tickets are those of the page on access, as they are written there.
//! The file is long, because all tests share the broker, the tokens and the pages at its top.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::response::Html;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::common::{Process, lasting_address, send, text, to, try_post};
use crate::documents::document;
use crate::webdriver::Browser;

const KILLS: usize = 3;

/// The time limit of each wait: longer than any takes, also on a busy machine.
const WAIT: Duration = Duration::from_secs(60);
/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

const SECRET: &str = "a secret of the tests, long enough for HS256";

/// A page of the broker's own origin that needs no credential.
const OWN_PAGE: &str = "/healthz";
const NEWS: &str = "/v1/topics/news/events";

/// A broker that asks for credentials, and the directory of its log and its settings.
struct Guarded {
    directory: TempDir,
    address: SocketAddr,
    scheme: &'static str,
    process: Process,
}

impl Guarded {
    /// Starts a broker that pages of `origins` may use, besides its own.
    fn start(origins: &[&str]) -> Self {
        Self::start_with("", origins, tempfile::tempdir().unwrap())
    }

    /// Starts a broker with TLS.
    fn start_with_tls() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
        std::fs::write(&cert, signed.cert.pem()).unwrap();
        std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
        let tls = format!("server.tls_cert = {cert:?}\nserver.tls_key = {key:?}\n");
        Self { scheme: "https", ..Self::start_with(&tls, &[], directory) }
    }

    fn start_with(settings: &str, origins: &[&str], directory: TempDir) -> Self {
        let settings = format!(
            r#"
            {settings}
            follow.retry_ms = 200

            [access]
            mode = "required"
            allowed_origins = {origins:?}
            cookie = "session"

            [[access.issuers]]
            issuer = "https://id.example"
            audience = ["leftoff"]
            algorithms = ["HS256"]
            secret = "{SECRET}"
            leeway_s = 0

            [[access.roles]]
            claim = "groups"
            contains = "customers"
            subscribe = ["news", "users.{{sub}}.>"]
            "#
        );
        std::fs::write(directory.path().join("broker.toml"), settings).unwrap();
        let address = lasting_address();
        let process = Self::serve(address, directory.path());
        Self { directory, address, scheme: "http", process }
    }

    fn serve(address: SocketAddr, directory: &Path) -> Process {
        let settings = directory.join("broker.toml");
        let settings = settings.to_str().unwrap();
        Process::serve_at(address, &directory.join("data"), &["--config", settings])
    }

    fn start_again(&mut self) {
        self.process.crash();
        self.process = Self::serve(self.address, self.directory.path());
    }

    fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Publishes an event whose payload is its id, and repeats that until it is acknowledged.
    async fn publish(&self, topic: &str, payload: &str) {
        let started = Instant::now();
        let token = token("publisher", WAIT * 10, json!({"leftoff": {"publish": [">"]}}));
        let path = format!("/v1/topics/{topic}/events?id={payload}");
        let request = || {
            let request = to(self.address, "POST", &path);
            request.header("authorization", format!("Bearer {token}"))
        };
        while try_post(request(), payload.to_owned()).await.is_none() {
            assert!(started.elapsed() < WAIT, "{payload} is never acknowledged");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Returns the payloads of all events of `news`.
    async fn news(&self) -> Vec<String> {
        let token = customer(WAIT);
        let request = to(self.address, "GET", &format!("{NEWS}?from=earliest"));
        let page = send(request.header("authorization", format!("Bearer {token}")), "").await;
        assert_eq!(page.status, 200, "{}", text(&page.body));
        let page = page.json();
        let payload = |event: &Value| event["data"].as_str().unwrap().to_owned();
        page["events"].as_array().unwrap().iter().map(payload).collect()
    }
}

/// Returns a token for `sub` that lives for so long, with more claims.
fn token(sub: &str, life: Duration, more: Value) -> String {
    let end = SystemTime::now() + life;
    let end = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({
        "iss": "https://id.example", "aud": "leftoff", "sub": sub, "exp": end,
    });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// Returns a token of a customer, by the role in the settings.
fn customer(life: Duration) -> String {
    token("user-42", life, json!({"groups": ["customers"]}))
}

/// Serves an empty page at an origin of its own, and returns the origin.
async fn other_origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let page = Router::new().fallback(async || Html("<!doctype html><title>A page</title>"));
    tokio::spawn(async move { axum::serve(listener, page).await });
    origin
}

/// Returns the scripts of the page on access.
fn scripts() -> String {
    let page = document("src/docs/access.md");
    let blocks = page.split("```js\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.collect()
}

/// Waits until the list `seen` of the page has so many entries, and returns it.
async fn seen(browser: &Browser, count: usize) -> Vec<Value> {
    let started = Instant::now();
    loop {
        let Value::Array(seen) = browser.run("return seen", json!([])).await else {
            panic!("the page has no list");
        };
        if seen.len() >= count {
            return seen;
        }
        assert!(started.elapsed() < WAIT, "{count} were to come: {seen:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Goal: a page of the broker's own origin publishes and follows with nothing but a cookie that no
/// script can read and that is sent over TLS alone, and does nothing without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_the_brokers_origin_publishes_and_follows_by_its_cookie() {
    const FOLLOW: &str = r#"
        window.seen = [];
        const source = new EventSource(arguments[0]);
        source.onmessage = ({ data }) => seen.push(data);
        source.onerror = () => {
            if (source.readyState === EventSource.CLOSED) {
                seen.push("refused");
            }
        };
    "#;
    const PUBLISH: &str = r#"
        const [events, body] = arguments;
        return fetch(events, { method: "POST", body }).then((answer) => answer.status);
    "#;
    let Some(browser) = Browser::start().await else { return };
    let broker = Guarded::start_with_tls();
    let news = json!([format!("{NEWS}?from=earliest")]);
    browser.go_to(&format!("{}{OWN_PAGE}", broker.url())).await;
    browser.run(FOLLOW, news.clone()).await;
    assert_eq!(seen(&browser, 1).await, ["refused"], "without the cookie");
    assert_eq!(browser.run(PUBLISH, json!([NEWS, "stray"])).await, 401);
    let more = json!({"groups": ["customers"], "leftoff": {"publish": ["news"]}});
    browser.keep_cookie("session", &token("user-42", WAIT * 10, more), true).await;
    assert_eq!(browser.run("return document.cookie", json!([])).await, "", "a script sees it");
    assert_eq!(browser.run(PUBLISH, json!([NEWS, "first"])).await, 201);
    browser.run(FOLLOW, news).await;
    assert_eq!(seen(&browser, 1).await, ["first"]);
    assert_eq!(browser.run(PUBLISH, json!([NEWS, "second"])).await, 201);
    assert_eq!(seen(&browser, 2).await, ["first", "second"]);
    let other = "/v1/topics/users.7.inbox/events";
    assert_eq!(browser.run(PUBLISH, json!([other, "stray"])).await, 403);
    browser.run(FOLLOW, json!([format!("{other}?from=earliest")])).await;
    assert_eq!(seen(&browser, 1).await, ["refused"], "the topic of another user");
}

/// Goal: a page of an allowed origin publishes and follows with `fetch` and a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_allowed_origin_publishes_and_follows_with_fetch_and_a_token() {
    /// Reads the stream for as long as the page is open, and keeps the data of each block.
    const FOLLOW: &str = r#"
        const [broker, token] = arguments;
        window.seen = [];
        const headers = { Authorization: `Bearer ${token}` };
        const events = `${broker}/v1/topics/news/events`;
        return fetch(events, { method: "POST", headers, body: "from the page" }).then(
            async (published) => {
                headers.Accept = "text/event-stream";
                const stream = await fetch(`${events}?from=earliest`, { headers });
                const read = async () => {
                    let text = "";
                    for await (const part of stream.body.pipeThrough(new TextDecoderStream())) {
                        text += part;
                        const blocks = text.split("\n\n");
                        text = blocks.pop();
                        const own = blocks.filter((block) => !block.includes("event: leftoff."));
                        const data = own.map((block) => block.match(/^data: (.*)$/m));
                        seen.push(...data.filter((found) => found).map((found) => found[1]));
                    }
                };
                read();
                return [published.status, stream.status];
            },
        );
    "#;
    let Some(browser) = Browser::start().await else { return };
    let origin = other_origin().await;
    let broker = Guarded::start(&[&origin]);
    browser.go_to(&origin).await;
    let more = json!({"groups": ["customers"], "leftoff": {"publish": ["news"]}});
    let token = token("user-42", WAIT * 10, more);
    let statuses = browser.run(FOLLOW, json!([broker.url(), token])).await;
    assert_eq!(statuses, json!([201, 200]));
    assert_eq!(seen(&browser, 1).await, ["from the page"]);
    broker.publish("news", "second").await;
    assert_eq!(seen(&browser, 2).await, ["from the page", "second"]);
}

/// The script of a page that follows `news` with the script of the page on access, and counts the
/// tokens that it needs: the first one for the first ticket, the second for all others.
const FOLLOW_BY_TICKETS: &str = r#"
    const [broker, ...tokens] = arguments;
    window.seen = [];
    window.asked = 0;
    const token = async () => tokens[Math.min(asked++, tokens.length - 1)];
    const take = (event) => seen.push([event.lastEventId, JSON.parse(event.data).data]);
    follow(broker, ["news"], token, take);
"#;

/// Checks that the page has got these events, each once and in order, and how many tickets it took.
async fn assert_followed(browser: &Browser, published: &[String], tickets: u64) {
    let seen = seen(browser, published.len()).await;
    let data: Vec<&str> = seen.iter().map(|told| told[1].as_str().unwrap()).collect();
    assert_eq!(data, published);
    let position = |told: &Value| -> u64 {
        let id = told[0].as_str().unwrap();
        id[1..].split(['-', '~']).next().unwrap().parse().unwrap()
    };
    let positions: Vec<u64> = seen.iter().map(position).collect();
    assert!(positions.is_sorted_by(|one, next| one < next), "{positions:?}");
    assert_eq!(browser.run("return asked", json!([])).await, tickets, "tickets");
}

/// Goal: an `EventSource` with one ticket for streams gets each event once and in order, however
/// often the broker is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_follows_by_a_ticket_through_crashes_gets_each_event_once_and_in_order() {
    let Some(browser) = Browser::start().await else { return };
    let origin = other_origin().await;
    let mut broker = Guarded::start(&[&origin]);
    browser.go_to(&origin).await;
    let script = format!("{}{FOLLOW_BY_TICKETS}", scripts());
    browser.run(&script, json!([broker.url(), customer(WAIT * 10)])).await;
    let mut published = Vec::new();
    for kill in 0..=KILLS {
        if kill > 0 {
            broker.start_again();
        }
        for number in 0..20 {
            let payload = format!("{kill}-{number}");
            broker.publish("news", &payload).await;
            published.push(payload);
        }
        // The page has the last event of each start of the broker: it has come back.
        seen(&browser, published.len()).await;
    }
    assert_followed(&browser, &published, 1).await;
}

/// Goal: a page whose ticket is over takes another one, and misses nothing in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_ticket_is_over_takes_another_one_and_goes_on_where_it_was() {
    let Some(browser) = Browser::start().await else { return };
    let origin = other_origin().await;
    let broker = Guarded::start(&[&origin]);
    let brief = Duration::from_secs(10);
    let ends = Instant::now() + brief;
    let tokens = [customer(brief), customer(WAIT * 10)];
    browser.go_to(&origin).await;
    let script = format!("{}{FOLLOW_BY_TICKETS}", scripts());
    browser.run(&script, json!([broker.url(), tokens[0], tokens[1]])).await;
    let mut published = vec!["first".to_owned()];
    broker.publish("news", "first").await;
    seen(&browser, 1).await;
    while Instant::now() < ends + Duration::from_secs(1) {
        let payload = published.len().to_string();
        broker.publish("news", &payload).await;
        published.push(payload);
        tokio::time::sleep(PAUSE).await;
    }
    assert_followed(&browser, &published, 2).await;
}

/// Goal: a WebSocket that was opened by a ticket for one use lives on past the token that the
/// ticket was made with, when it was refreshed before; without a refresh it closes with 4001. The
/// ticket opens no second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_by_a_ticket_lives_on_when_it_is_refreshed_and_ends_when_it_is_not() {
    const CONNECT: &str = r#"
        const [broker, brief, long] = arguments;
        window.seen = [];
        return ticketFor(broker, brief, { kind: "once" }).then((ticket) => {
            const url = `${broker.replace("http", "ws")}/v1/ws?ticket=${ticket}`;
            const open = () => new WebSocket(url, "leftoff.v1.json");
            window.socket = open();
            socket.onopen = () => {
                seen.push("open");
                socket.send(JSON.stringify(
                    { type: "subscribe", subscription: "n", topic: "news", from: "earliest" }));
                open().onclose = () => seen.push("used");
            };
            socket.onmessage = ({ data }) => {
                const { type, event, until } = JSON.parse(data);
                if (type === "event" || type === "refreshed") {
                    seen.push(event?.data ?? type);
                }
            };
            socket.onclose = ({ code }) => seen.push(code);
        });
    "#;
    const REFRESH: &str = r#"
        socket.send(JSON.stringify({ type: "refresh", token: arguments[0], ref: 1 }));
    "#;
    let Some(browser) = Browser::start().await else { return };
    let origin = other_origin().await;
    let broker = Guarded::start(&[&origin]);
    broker.publish("news", "first").await;
    browser.go_to(&origin).await;
    let brief = Duration::from_secs(10);
    let script = format!("{}{CONNECT}", scripts());
    let ends = Instant::now() + brief;
    browser.run(&script, json!([broker.url(), customer(brief)])).await;
    let mut begun = seen(&browser, 3).await;
    begun.sort_by_key(Value::to_string);
    assert_eq!(begun, ["first", "open", "used"]);
    browser.run(REFRESH, json!([customer(brief * 2)])).await;
    let mut refreshed = seen(&browser, 4).await.split_off(3);
    assert_eq!(refreshed, ["refreshed"]);
    tokio::time::sleep_until((ends + Duration::from_secs(1)).into()).await;
    broker.publish("news", "after-the-first-token").await;
    let told = seen(&browser, 6).await;
    refreshed = told[4..].to_vec();
    assert_eq!(refreshed, [json!("after-the-first-token"), json!(4001)]);
}

/// Goal: a page of an origin that is not allowed gets nothing and changes nothing, whatever it has:
/// a token, a ticket, or the user's cookie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_origin_that_is_not_allowed_gets_nothing_with_any_credential() {
    const TRY_ALL: &str = r#"
        const [broker, token, ticket] = arguments;
        const events = `${broker}/v1/topics/news/events`;
        const headers = { Authorization: `Bearer ${token}` };
        const outcome = (promise) => promise.then(
            async (answer) => [answer.type, answer.status, await answer.text()],
            (error) => error.name,
        );
        const ended = (target) => new Promise((done) => {
            target.onmessage = ({ data }) => done(data);
            target.onopen = () => done("open");
            target.onerror = () => done("refused");
        });
        const socket = `${broker.replace("http", "ws")}/v1/ws?ticket=${ticket}`;
        return Promise.all([
            outcome(fetch(`${events}?from=earliest`, { headers })),
            outcome(fetch(`${events}?from=earliest`, { credentials: "include" })),
            outcome(fetch(`${events}?from=earliest`, { mode: "no-cors", credentials: "include" })),
            outcome(fetch(`${events}?from=earliest&ticket=${ticket}`)),
            outcome(fetch(events, { method: "POST", headers, body: "stray" })),
            outcome(fetch(events, { method: "POST", credentials: "include", mode: "no-cors",
                body: "stray" })),
            outcome(fetch(`${broker}/v1/tickets`, { method: "POST", headers,
                body: '{"kind":"once"}' })),
            ended(new EventSource(`${events}?from=earliest&ticket=${ticket}`)),
            ended(new EventSource(`${events}?from=earliest`, { withCredentials: true })),
            ended(new WebSocket(socket, "leftoff.v1.json")),
        ]);
    "#;
    const TICKET: &str = "return ticketFor(...arguments)";
    let Some(browser) = Browser::start().await else { return };
    let (allowed, stranger) = (other_origin().await, other_origin().await);
    let broker = Guarded::start(&[&allowed]);
    broker.publish("news", "first").await;
    let more = json!({"groups": ["customers"], "leftoff": {"publish": ["news"]}});
    let token = token("user-42", WAIT * 10, more);
    browser.go_to(&format!("{}{OWN_PAGE}", broker.url())).await;
    browser.keep_cookie("session", &token, false).await;
    browser.go_to(&allowed).await;
    let script = format!("{}{TICKET}", scripts());
    let asked = json!({"kind": "stream", "subscribe": ["news"]});
    let ticket = browser.run(&script, json!([broker.url(), token, asked])).await;
    browser.go_to(&stranger).await;
    let outcomes = browser.run(TRY_ALL, json!([broker.url(), token, ticket])).await;
    let (nothing, unread) = (json!("TypeError"), json!(["opaque", 0, ""]));
    let refused = json!("refused");
    let expected = json!([
        nothing, nothing, unread, nothing, nothing, unread, nothing, refused, refused, refused,
    ]);
    assert_eq!(outcomes, expected);
    assert_eq!(broker.news().await, ["first"], "the page has published");
}
