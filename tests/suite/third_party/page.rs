//! Pages with the client of `src/web/client`, in a real browser behind nginx, and the broker that
//! they read and publish to. At the end, each page shows the acknowledged events: each one once, in
//! order, and those that pages published, too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::proxy::Proxy;
use crate::common::{Process, Receipt, get, lasting_address, to, try_post};
use crate::webdriver::{Browser, Tab};

/// The program of a page: it follows the topic [`TOPIC`], and notes all that it is told.
const PROGRAM: &str = include_str!("../../web/page.js");
const TOPIC: &str = "pages";

/// The settings of every broker here.
const SETTINGS: &str = "follow.retry_ms = 200\nfollow.list_connections = true\n";

/// An edit of nginx's configuration: an empty page, which no policy keeps from running scripts.
pub(super) const EMPTY_PAGE: (&str, &str) = (
    "location / {",
    "location /page {
        default_type text/html;
        return 200 '<!doctype html><title>A page</title>';
    }

    location / {",
);

/// The pause between two publishes of the test itself.
const PUBLISH_PAUSE: Duration = Duration::from_millis(50);

/// The time limit of each wait. A client that failed again and again pauses for up to 30 seconds.
const WAIT: Duration = Duration::from_secs(60);

/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// An acknowledged event. Its time is that of the acknowledgement to the test; a page does not tell
/// that time.
#[derive(Debug, Clone)]
struct Published {
    data: String,
    at_ms: Option<u64>,
}

/// The acknowledged events, by sequence.
#[derive(Clone, Default)]
struct Acknowledged(Arc<Mutex<BTreeMap<u64, Published>>>);

impl Acknowledged {
    fn add(&self, sequence: u64, data: &str, at_ms: Option<u64>) {
        let event = Published { data: data.to_owned(), at_ms };
        let earlier = self.0.lock().unwrap().insert(sequence, event);
        assert!(earlier.is_none(), "{sequence} was given to {earlier:?}, and to {data}");
    }

    /// Returns the times of the test's own events.
    fn times(&self) -> BTreeMap<u64, u64> {
        let all = self.0.lock().unwrap();
        all.iter().filter_map(|(sequence, event)| Some((*sequence, event.at_ms?))).collect()
    }

    fn all(&self) -> Vec<(u64, String)> {
        let all = self.0.lock().unwrap();
        all.iter().map(|(sequence, event)| (*sequence, event.data.clone())).collect()
    }
}

/// A broker that is killed and started again, and to which the test publishes all the time, past
/// all proxies.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    directory: TempDir,
    process: Process,
    acknowledged: Acknowledged,
    enough: Arc<AtomicBool>,
    publishing: JoinHandle<()>,
}

impl Site {
    pub(super) fn start() -> Self {
        Self::with("", None)
    }

    /// Starts a broker with these settings, to which the test publishes with `token`.
    pub(super) fn with(settings: &str, token: Option<String>) -> Self {
        let (address, directory) = (lasting_address(), tempfile::tempdir().unwrap());
        std::fs::write(directory.path().join("toml"), format!("{SETTINGS}{settings}")).unwrap();
        let process = serve(address, &directory);
        let (acknowledged, enough) = (Acknowledged::default(), Arc::<AtomicBool>::default());
        let publishing =
            tokio::spawn(publish_on(address, token, acknowledged.clone(), enough.clone()));
        Self { address, directory, process, acknowledged, enough, publishing }
    }

    /// Starts nginx in front of the broker, with [`EMPTY_PAGE`] and more edits of its settings.
    pub(super) async fn nginx(&self, changes: &[(&str, &str)]) -> Option<Proxy> {
        Proxy::nginx_with(self.address, &[&[EMPTY_PAGE], changes].concat()).await
    }

    /// Kills the broker, and starts it again after `away`.
    pub(super) async fn restart(&mut self, away: Duration) {
        self.process.crash();
        tokio::time::sleep(away).await;
        self.process = serve(self.address, &self.directory);
    }

    /// Returns the sequence of the newest event of the test itself.
    pub(super) fn newest(&self) -> u64 {
        self.acknowledged.times().keys().next_back().copied().unwrap_or(0)
    }

    /// Waits until the test has published `count` more events.
    pub(super) async fn publishes(&self, count: usize) {
        let published = || self.acknowledged.times().len();
        let before = published();
        until("the test publishes", async || published() >= before + count).await;
    }

    /// Waits until each page shows an event that was published after this call.
    pub(super) async fn is_seen_by(&self, pages: &[Page<'_>]) {
        self.publishes(1).await;
        let newest = self.newest();
        for page in pages {
            page.until_shown(newest).await;
        }
    }

    /// Notes what was published by a page that will be gone at the end.
    pub(super) fn were_published(&self, receipts: &[(u64, String)]) {
        for (sequence, data) in receipts {
            self.acknowledged.add(*sequence, data, None);
        }
    }

    /// Ends the test's publishing, and checks that each page shows what was acknowledged.
    pub(super) async fn ends_with(mut self, pages: &[Page<'_>]) {
        let mut own = Vec::new();
        for page in pages {
            own.push(page.receipts().await);
        }
        self.is_seen_by(pages).await;
        self.enough.store(true, Ordering::Relaxed);
        (&mut self.publishing).await.unwrap();
        let own = own.concat();
        self.were_published(&own);
        let expected = self.acknowledged.all();
        let count = u64::try_from(expected.len()).unwrap();
        assert_eq!(expected.last().unwrap().0, count, "an event is stored without a word");
        for (index, page) in pages.iter().enumerate() {
            page.until_shown(count).await;
            let shown = page.shown().await;
            let differs = expected.iter().zip(&shown).find(|(one, other)| one != other);
            assert_eq!(differs, None, "page {index}: acknowledged, and shown");
            assert_eq!(shown.len(), expected.len(), "page {index} shows others, too");
            assert_eq!(page.ask("page.gaps").await, json!([]), "page {index}");
        }
        let (here, there) = (own.len(), pages.len());
        println!("{count} events, {here} of them by the pages, are shown by each of {there}");
    }

    /// Returns the longest time from the acknowledgement of an event to the test until the page
    /// showed it, among the events after the sequence `after`.
    pub(super) async fn longest_delay(&self, page: &Page<'_>, after: u64) -> Duration {
        let shown = page.ask("page.shown").await;
        let shown: Vec<(u64, String, u64)> = serde_json::from_value(shown).unwrap();
        let times = self.acknowledged.times();
        let delays = shown.iter().filter(|(sequence, ..)| *sequence > after);
        let delays = delays
            .filter_map(|(sequence, _, at_ms)| Some(at_ms.saturating_sub(*times.get(sequence)?)));
        Duration::from_millis(delays.max().expect("the page showed something"))
    }

    /// Returns the number of subscriptions of each connection that has any.
    pub(super) async fn subscriptions(&self) -> Vec<usize> {
        let listed = get(self.address, "/v1/connections").await.json();
        let connections = listed["connections"].as_array().unwrap();
        let counts = connections.iter().map(|it| it["streams"].as_array().unwrap().len());
        counts.filter(|count| *count > 0).collect()
    }
}

fn serve(address: SocketAddr, directory: &TempDir) -> Process {
    let settings = directory.path().join("toml");
    let arguments = ["--config", settings.to_str().unwrap()];
    Process::serve_at(address, &directory.path().join("data"), &arguments)
}

/// Publishes one event after the other until `enough` is set. Each request is repeated until it is
/// acknowledged.
async fn publish_on(
    address: SocketAddr,
    token: Option<String>,
    acknowledged: Acknowledged,
    enough: Arc<AtomicBool>,
) {
    for number in 0.. {
        let data = format!("test-{number}");
        let path = format!("/v1/topics/{TOPIC}/events?id={data}");
        let receipt = loop {
            let mut request = to(address, "POST", &path);
            if let Some(token) = &token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Some(receipt) = try_post(request, data.clone()).await {
                break receipt;
            }
            tokio::time::sleep(PAUSE).await;
        };
        let Receipt { sequence, .. } = receipt;
        acknowledged.add(sequence, &data, Some(now_ms()));
        if enough.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < WAIT, "in vain: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// A page with the client.
pub(super) struct Page<'b> {
    browser: &'b Browser,
    tab: Tab,
    published: Mutex<Vec<String>>,
}

impl<'b> Page<'b> {
    /// Opens a page of `origin` in a window of its own. Its client connects with these options.
    pub(super) async fn open(browser: &'b Browser, origin: &str, options: Value) -> Self {
        Self::open_with(browser, origin, "/web/leftoff.js", options).await
    }

    /// Does the same as [`Self::open`], with the client's module from this URL.
    pub(super) async fn open_with(
        browser: &'b Browser,
        origin: &str,
        module: &str,
        options: Value,
    ) -> Self {
        let tab = browser.new_window().await;
        Self::open_in(browser, tab, origin, (module, options)).await
    }

    /// Does the same as [`Self::open`], in a tab.
    pub(super) async fn open_tab(browser: &'b Browser, origin: &str) -> Self {
        let tab = browser.new_tab().await;
        Self::open_in(browser, tab, origin, ("/web/leftoff.js", json!({}))).await
    }

    async fn open_in(
        browser: &'b Browser,
        tab: Tab,
        origin: &str,
        (module, options): (&str, Value),
    ) -> Self {
        let page = Self { browser, tab, published: Mutex::default() };
        page.choose().await;
        browser.go_to(&format!("{origin}/page")).await;
        browser.run(PROGRAM, json!([module, options])).await;
        page
    }

    /// Sends the browser's next commands to this page.
    pub(super) async fn choose(&self) {
        self.browser.switch_to(&self.tab).await;
    }

    /// Returns the value of an expression in the page.
    pub(super) async fn ask(&self, expression: &str) -> Value {
        self.choose().await;
        self.browser.run(&format!("return {expression}"), json!([])).await
    }

    /// Waits until a condition holds in the page.
    pub(super) async fn until(&self, condition: &str) {
        let started = Instant::now();
        while self.ask(condition).await != json!(true) {
            if started.elapsed() > WAIT {
                let about = "window.page && [page.states, page.refusals, page.unsettled, \
                             page.shown.at(-1)]";
                panic!("in vain: {condition}; {}", self.ask(about).await);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the page shows an event with this or a later sequence.
    pub(super) async fn until_shown(&self, sequence: u64) {
        self.until(&format!("page.shown.length > 0 && page.shown.at(-1)[0] >= {sequence}")).await;
    }

    /// Publishes ten events in the page, and does not wait for their acknowledgements.
    pub(super) async fn publish(&self) {
        let more: Vec<String> =
            (0..10).map(|_| format!("page-{}", rand::random::<u64>())).collect();
        self.published.lock().unwrap().extend(more.clone());
        self.choose().await;
        self.browser.run("page.publish(arguments[0])", json!([more])).await;
    }

    /// Waits until all that the page published is acknowledged, and returns it. The sequences must
    /// have the order in which it was published.
    pub(super) async fn receipts(&self) -> Vec<(u64, String)> {
        self.until("page.unsettled === 0").await;
        assert_eq!(self.ask("page.refusals").await, json!([]));
        let receipts = self.ask("page.receipts").await;
        let receipts: Vec<(u64, String)> = serde_json::from_value(receipts).unwrap();
        let data: Vec<String> = receipts.iter().map(|(_, data)| data.clone()).collect();
        assert_eq!(data, *self.published.lock().unwrap(), "published, and acknowledged");
        assert!(receipts.is_sorted_by(|one, next| one.0 < next.0), "{receipts:?}");
        receipts
    }

    /// Returns the sequences and the data of all events that the page shows.
    async fn shown(&self) -> Vec<(u64, String)> {
        let shown = self.ask("page.shown.map(([sequence, data]) => [sequence, data])").await;
        serde_json::from_value(shown).unwrap()
    }

    /// Has the tab with the connection do nothing else for so long. This page is in front then.
    pub(super) async fn hang_leader(&self, ms: u64) {
        self.choose().await;
        self.browser.run("page.hangLeader(arguments[0])", json!([ms])).await;
    }

    /// Whether this page has the connection of all tabs.
    pub(super) async fn is_leader(&self) -> bool {
        self.ask("page.isLeader()").await == json!(true)
    }
}
