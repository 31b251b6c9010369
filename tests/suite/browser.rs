//! A real browser follows with its own `EventSource` or `WebSocket` through crashes of the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::{Process, Receipt, get, lasting_address, send, soon, text, to, try_post};
use crate::webdriver::Browser;

const KILLS: usize = 3;
const PUBLISHERS: usize = 3;
const TOPICS: [&str; 3] = ["a", "b.x", "b.y"];

/// The time limit of each wait: longer than any takes, also on a busy machine.
const WAIT: Duration = Duration::from_secs(60);
/// The pause between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// A short reconnection time for browsers, so that the tests are quick.
const SOON_BACK: [&str; 2] = ["--set", "follow.retry_ms=200"];

/// A page of the broker's own origin: a script there may talk to the broker without CORS.
const PAGE: &str = "/healthz";
const EVENTS: &str = "/v1/topics/a/events";

/// A request that deletes the events below sequence 8: its method, path and body.
const PURGE: (&str, &str, &str) = ("DELETE", "/v1/topics/a/events?before=8", "");

/// The script of a page that follows the given streams, a URL for each name, and keeps each message
/// in `seen`: a list of [`Seen`] for each name. The other scripts keep the same lists.
const EVENT_SOURCE: &str = r#"
    window.seen = {};
    for (const [name, url] of Object.entries(arguments[0])) {
        seen[name] = [];
        const source = new EventSource(url);
        const keep = (event) => seen[name].push([event.type, event.lastEventId, event.data]);
        for (const type of ["message", "leftoff.gap", "leftoff.error"]) {
            source.addEventListener(type, keep);
        }
    }
"#;

/// The code that a page needs to follow over a WebSocket for as long as the page is open: it hands
/// each message to `take`, and resumes each subscription after the last message that was handed
/// over.
const FOLLOW: &str = r#"
    function follow(url, subscriptions, take) {
        const socket = new WebSocket(url, "leftoff.v1.json");
        socket.onopen = () => {
            for (const [subscription, asked] of Object.entries(subscriptions)) {
                socket.send(JSON.stringify({ type: "subscribe", subscription, ...asked }));
            }
        };
        socket.onmessage = ({ data }) => {
            const message = JSON.parse(data);
            take(message);
            if (message.cursor) {
                subscriptions[message.subscription].from = message.cursor;
            }
        };
        // An end of any kind calls this. With these codes, a page must not reconnect.
        socket.onclose = ({ code }) => {
            const isForGood = code === 1008 || (code >= 4000 && code < 4100);
            if (!isForGood) {
                setTimeout(() => follow(url, subscriptions, take), 100);
            }
        };
    }
"#;

/// The script of a page that follows the given subscriptions with [`FOLLOW`], and keeps lists as
/// [`EVENT_SOURCE`] does.
const WEB_SOCKET: &str = r#"
    window.seen = {};
    for (const name of Object.keys(arguments[0])) {
        seen[name] = [];
    }
    follow(`ws://${location.host}/v1/ws`, arguments[0], (message) => {
        const told = message.event ?? message.gap ?? message.error;
        if (told) {
            const { type, subscription, cursor = "" } = message;
            seen[subscription].push([type, cursor, JSON.stringify(told)]);
        }
    });
"#;

/// A message as a page received it: its type, id and data.
type Seen = (String, String, String);

/// An acknowledged event.
#[derive(Debug, Clone)]
struct Published {
    topic: &'static str,
    sequence: u64,
    position: u64,
    payload: String,
}

impl Published {
    /// Returns the event with this number, in a log whose events are all in one topic.
    fn numbered(number: u64) -> Self {
        Self { topic: "a", sequence: number, position: number, payload: number.to_string() }
    }
}

/// The acknowledged events, by position.
type Acknowledged = Arc<Mutex<BTreeMap<u64, Published>>>;

/// A way for a page to follow: the script, its arguments, and the two lists that it fills: one of a
/// single topic, and one of many topics.
struct Way {
    script: String,
    asked: Value,
    one: List,
    many: List,
}

/// A list in a page.
struct List {
    name: &'static str,
    /// The topics whose events are in the list.
    topics: &'static [&'static str],
    /// The types of an event and of a gap.
    event: &'static str,
    gap: &'static str,
    /// Whether ids are positions; otherwise they are sequences.
    is_placed: bool,
    /// Whether data is the whole envelope of an event; otherwise it is the payload alone.
    is_whole: bool,
}

fn event_source() -> Way {
    let (event, gap) = ("message", "leftoff.gap");
    Way {
        script: EVENT_SOURCE.to_owned(),
        asked: json!({
            "one": format!("{EVENTS}?from=earliest"),
            "many": "/v1/events?topic=a&topic=b.*&from=earliest",
        }),
        one: List { name: "one", topics: &["a"], event, gap, is_placed: false, is_whole: false },
        many: List { name: "many", topics: &TOPICS, event, gap, is_placed: true, is_whole: true },
    }
}

fn web_socket() -> Way {
    let (event, gap, is_whole) = ("event", "gap", true);
    Way {
        script: format!("{FOLLOW}{WEB_SOCKET}"),
        asked: json!({
            "one": {"topic": "a", "from": "earliest"},
            "many": {"topics": ["b.*"], "from": "earliest"},
        }),
        one: List { name: "one", topics: &["a"], event, gap, is_placed: false, is_whole },
        many: List { name: "many", topics: &["b.x", "b.y"], event, gap, is_placed: true, is_whole },
    }
}

impl Way {
    /// Makes the page of the broker at `address` follow.
    async fn follow(&self, browser: &Browser, address: SocketAddr) {
        browser.go_to(&format!("http://{address}{PAGE}")).await;
        browser.run(&self.script, json!([self.asked])).await;
    }
}

impl List {
    /// Returns the beginning of the event's id.
    fn place(&self, event: &Published) -> String {
        match self.is_placed {
            true => format!("@{}-", event.position),
            false => format!("{}-", event.sequence),
        }
    }

    /// Returns what the page receives of these events, in the form of [`Self::seen_through`].
    fn expected<'a>(
        &self,
        events: impl IntoIterator<Item = &'a Published>,
        epoch: &str,
    ) -> Vec<Seen> {
        let of_these = events.into_iter().filter(|event| self.topics.contains(&event.topic));
        let told = of_these.map(|event| {
            let Published { topic, sequence, position, payload } = event;
            let data = match self.is_whole {
                true => json!([topic, sequence, position, payload]).to_string(),
                false => payload.clone(),
            };
            (self.event.to_owned(), format!("{}{epoch}", self.place(event)), data)
        });
        told.collect()
    }

    /// Returns the same as [`Self::expected`] for the events with these numbers.
    fn numbers(&self, numbers: RangeInclusive<u64>, epoch: &str) -> Vec<Seen> {
        let events: Vec<Published> = numbers.map(Published::numbered).collect();
        self.expected(&events, epoch)
    }

    /// Waits until `event` is in the list, and returns the whole list. Only topic, sequence,
    /// position and payload of an envelope are kept.
    async fn seen_through(&self, browser: &Browser, event: &Published) -> Vec<Seen> {
        let started = Instant::now();
        let place = self.place(event);
        loop {
            let seen = browser.run("return seen[arguments[0]]", json!([self.name])).await;
            let seen: Vec<Seen> = serde_json::from_value(seen).unwrap();
            if seen.iter().any(|(kind, id, _)| kind == self.event && id.starts_with(&place)) {
                return seen.into_iter().map(|told| self.without_rest(told)).collect();
            }
            assert!(started.elapsed() < WAIT, "{event:?} is not among {seen:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn without_rest(&self, (kind, id, data): Seen) -> Seen {
        if !self.is_whole || kind != self.event {
            return (kind, id, data);
        }
        let envelope: Value = serde_json::from_str(&data).unwrap();
        let kept = ["topic", "sequence", "position", "data"].map(|key| &envelope[key]);
        (kind, id, json!(kept).to_string())
    }
}

/// Starts the real binary at `address`, or at any free port.
fn serve(address: Option<SocketAddr>, directory: &Path) -> Process {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Process::serve_at(address.unwrap_or(anywhere), directory, &SOON_BACK)
}

/// Publishes an event, and repeats the request until the event is acknowledged.
async fn publish(
    address: SocketAddr,
    topic: &'static str,
    payload: String,
    acknowledged: &Acknowledged,
) -> Published {
    let started = Instant::now();
    loop {
        // With its payload as its id, an event is stored once, however often it is published.
        let path = format!("/v1/topics/{topic}/events?id={payload}");
        let receipt = try_post(to(address, "POST", &path), payload.clone()).await;
        if let Some(Receipt { sequence, position }) = receipt {
            let event = Published { topic, sequence, position, payload };
            let earlier = acknowledged.lock().unwrap().insert(position, event.clone());
            assert!(earlier.is_none(), "{position} was given to {earlier:?}, and to {event:?}");
            return event;
        }
        assert!(started.elapsed() < WAIT, "{payload} is never acknowledged");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Publishes the events whose payloads are these numbers, and checks that each number is also the
/// event's sequence and position.
async fn publish_numbers(address: SocketAddr, numbers: RangeInclusive<u64>) {
    for number in numbers {
        let acknowledged = Acknowledged::default();
        let event = publish(address, "a", number.to_string(), &acknowledged).await;
        assert_eq!((event.sequence, event.position), (number, number));
    }
}

/// Publishes to all topics in turn until `enough` is set.
async fn publish_on(
    address: SocketAddr,
    name: usize,
    acknowledged: Acknowledged,
    enough: Arc<AtomicBool>,
) {
    for (number, topic) in TOPICS.iter().cycle().enumerate() {
        if enough.load(Ordering::Relaxed) {
            return;
        }
        publish(address, topic, format!("{name}/{number}"), &acknowledged).await;
    }
}

/// Returns the log's epoch, which is part of every id.
async fn epoch(address: SocketAddr) -> String {
    let cursor = get(address, EVENTS).await.json()["cursor"].take();
    cursor.as_str().unwrap().split_once('-').unwrap().1.to_owned()
}

/// Publishes one more event to each topic, waits until the page has them, and returns both lists.
async fn seen_with_one_more(
    browser: &Browser,
    way: &Way,
    address: SocketAddr,
    name: &str,
    acknowledged: &Acknowledged,
) -> [Vec<Seen>; 2] {
    let mut published = Vec::new();
    for topic in TOPICS {
        let payload = format!("{name}/{topic}");
        published.push(publish(address, topic, payload, acknowledged).await);
    }
    let last = |list: &List| {
        let of_these = published.iter().rfind(|event| list.topics.contains(&event.topic));
        of_these.expect("a list has a topic")
    };
    [
        way.one.seen_through(browser, last(&way.one)).await,
        way.many.seen_through(browser, last(&way.many)).await,
    ]
}

/// Kills the broker each time that the page follows it again, while events are published all the
/// time. Checks that the page gets each acknowledged event once and in order.
async fn follows_through_crashes(browser: &Browser, way: &Way) {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = serve(Some(address), directory.path());
    let acknowledged = Acknowledged::default();
    let enough = Arc::new(AtomicBool::new(false));
    let publishers: JoinSet<()> = (0..PUBLISHERS)
        .map(|name| publish_on(address, name, acknowledged.clone(), enough.clone()))
        .collect();
    way.follow(browser, address).await;
    for kill in 0..KILLS {
        // These events are of this start of the broker: once the page has them, it has reconnected.
        let name = format!("kill/{kill}");
        seen_with_one_more(browser, way, address, &name, &acknowledged).await;
        process.kill();
        process = serve(Some(address), directory.path());
    }
    enough.store(true, Ordering::Relaxed);
    publishers.join_all().await;
    let [one, many] = seen_with_one_more(browser, way, address, "last", &acknowledged).await;
    let epoch = epoch(address).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    println!("{} events through {KILLS} kills", acknowledged.len());
    let (ours, least) = ((KILLS + 1) * TOPICS.len(), KILLS * PUBLISHERS);
    assert!(acknowledged.len() > ours + least, "nothing was published");
    let places: BTreeSet<_> = acknowledged.values().map(|e| (e.topic, e.sequence)).collect();
    assert_eq!(places.len(), acknowledged.len(), "a sequence was given twice");
    assert_eq!(one, way.one.expected(acknowledged.values(), &epoch));
    assert_eq!(many, way.many.expected(acknowledged.values(), &epoch));
}

/// Goal: a page gets each acknowledged event once and in order, however often the broker is killed,
/// both of a single topic and of a topic together with a pattern.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_follows_through_crashes_gets_each_event_once_and_in_order() {
    let Some(browser) = Browser::start().await else { return };
    follows_through_crashes(&browser, &event_source()).await;
}

/// Goal: a page also gets each event once and in order over a WebSocket, with the few lines of code
/// that it needs for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_websocket_gets_each_event_once_and_in_order_through_crashes() {
    let Some(browser) = Browser::start().await else { return };
    follows_through_crashes(&browser, &web_socket()).await;
}

/// Stands in for the broker at `to`, and returns after it has passed on the first block of a
/// stream.
async fn pass_on_first_block(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(pass_on(accepted.unwrap().0, to));
            }
            Some(passed) = connections.join_next() => {
                if passed.unwrap().is_some() {
                    return;
                }
            }
        }
    }
}

/// Passes the first block of a stream on, and cuts the connection. Returns `None` for any other
/// connection: a browser also asks for an icon, and opens connections that it may need later.
async fn pass_on(mut page: TcpStream, to: SocketAddr) -> Option<()> {
    let request = read_through(&mut page, |read| read.ends_with(b"\r\n\r\n")).await?;
    if !text(&request).contains("text/event-stream") {
        return None;
    }
    let mut broker = TcpStream::connect(to).await.unwrap();
    broker.write_all(&request).await.unwrap();
    let has_id = |read: &[u8]| text(read).contains("\nid: ") && read.ends_with(b"\n\n");
    let begun = text(&read_through(&mut broker, has_id).await.unwrap());
    let blocks = begun.split_once("\r\n\r\n").unwrap().1.matches("\n\n").count();
    let is_first = begun.contains("\nevent: leftoff.caught-up\n");
    assert!(is_first && blocks == 1, "more than the first block: {begun}");
    page.write_all(begun.as_bytes()).await.unwrap();
    Some(())
}

/// Reads up to the first byte at which `is_enough` holds. Returns `None` if the connection ends
/// before.
async fn read_through(from: &mut TcpStream, is_enough: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    while !is_enough(&read) {
        read.push(from.read_u8().await.ok()?);
    }
    Some(read)
}

/// Goal: a page that lost its connection before its first event resumes from where it began, not
/// from the newest event.
/// Method: the page follows from the latest event. Only the id of the first block, which is no
/// event to the page, can lead it back to the events that were published while it was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_had_got_no_event_before_the_crash_misses_none() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let process = serve(Some(address), directory.path());
    publish_numbers(address, 1..=3).await;
    let epoch = epoch(address).await;
    browser.go_to(&format!("http://{address}{PAGE}")).await;
    process.kill();
    let listener = TcpListener::bind(address).await.unwrap();
    let process = serve(None, directory.path());
    let cut = tokio::spawn(soon(pass_on_first_block(listener, process.address)));
    browser.run(EVENT_SOURCE, json!([{"one": EVENTS}])).await;
    cut.await.unwrap();
    publish_numbers(process.address, 4..=6).await;
    process.kill();
    let _process = serve(Some(address), directory.path());
    let list = event_source().one;
    let seen = list.seen_through(&browser, &Published::numbered(6)).await;
    assert_eq!(seen, list.numbers(4..=6, &epoch));
}

/// Takes a page through a crash, and through a `trim`: a request that deletes the events below 8 of
/// 9. Checks what the page is told. The page has 5 events before, and finds no broker until the
/// trim is done.
async fn told_after(browser: &Browser, way: &Way, trim: (&str, &str, &str), reason: &str) {
    let list = &way.one;
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let process = serve(Some(address), directory.path());
    publish_numbers(address, 1..=5).await;
    let epoch = epoch(address).await;
    way.follow(browser, address).await;
    let mut expected = list.numbers(1..=5, &epoch);
    assert_eq!(list.seen_through(browser, &Published::numbered(5)).await, expected);
    process.kill();
    let process = serve(None, directory.path());
    publish_numbers(process.address, 6..=8).await;
    let (method, path, body) = trim;
    let trimmed = send(to(process.address, method, path), body.to_owned()).await;
    assert_eq!(trimmed.status, 200, "{}", text(&trimmed.body));
    publish_numbers(process.address, 9..=9).await;
    process.kill();
    let _process = serve(Some(address), directory.path());
    let mut seen = list.seen_through(browser, &Published::numbered(9)).await;
    let (kind, id, data) = seen.remove(5);
    assert_eq!((kind.as_str(), id), (list.gap, format!("7-{epoch}")));
    let gap = json!({
        "topic": "a", "requested": 6, "earliest": 8, "tail": 10, "lost": 2, "reason": reason,
        "resume": 8,
    });
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), gap);
    expected.extend(list.numbers(8..=9, &epoch));
    assert_eq!(seen, expected);
}

/// Goal: a page that reconnects after its next events were deleted is told of the gap, with the
/// right numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_comes_back_after_a_trim_is_told_what_it_has_lost_and_goes_on() {
    let Some(browser) = Browser::start().await else { return };
    let retain = ("PATCH", "/v1/topics/a", r#"{"max_events":2}"#);
    told_after(&browser, &event_source(), PURGE, "purged").await;
    told_after(&browser, &event_source(), retain, "retention").await;
}

/// Goal: a page is told of the gap over a WebSocket, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_websocket_that_comes_back_after_a_trim_is_told_what_it_has_lost() {
    let Some(browser) = Browser::start().await else { return };
    told_after(&browser, &web_socket(), PURGE, "purged").await;
}
