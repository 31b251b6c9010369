//! A real browser, with nothing but its own `EventSource`, follows through crashes of the broker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::{Process, get, send, soon, text, to, try_post};
use crate::webdriver::Browser;

const KILLS: usize = 3;
const PUBLISHERS: usize = 3;

/// Longer than anything here lasts, on a busy machine, too.
const WAIT: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// Browsers come back soon, so that the tests do.
const SOON_BACK: [&str; 2] = ["--set", "follow.retry_ms=200"];

/// A page of the broker's own: what runs there needs no leave to talk to the broker.
const PAGE: &str = "/healthz";
const EVENTS: &str = "/v1/topics/a/events";

/// Follows the stream at the URL that it is given, and keeps all that it is told in `seen`, a
/// [`Seen`] each. A page that follows in another way keeps the same list.
const EVENT_SOURCE: &str = r#"
    window.seen = [];
    window.source = new EventSource(arguments[0]);
    const keep = (event) => seen.push([event.type, event.lastEventId, event.data]);
    for (const type of ["message", "leftoff.gap", "leftoff.error"]) {
        source.addEventListener(type, keep);
    }
"#;

/// What a page was told: the type, the id and the data of an event.
type Seen = (String, String, String);

/// What was acknowledged: the payload of each sequence.
type Acknowledged = Arc<Mutex<BTreeMap<u64, String>>>;

/// An address for a broker that comes and goes. It is out of the range of which systems give ports
/// to clients: while nobody listens there, one of these could be given it.
fn lasting_address() -> SocketAddr {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::random_range(20_000..30_000)));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// The real binary at `address`, or anywhere.
fn serve(address: Option<SocketAddr>, directory: &Path) -> Process {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Process::serve_at(address.unwrap_or(anywhere), directory, &SOON_BACK)
}

/// Publishes an event as often as it takes until it is acknowledged; its sequence.
async fn publish(address: SocketAddr, payload: String, acknowledged: &Acknowledged) -> u64 {
    let started = Instant::now();
    loop {
        // With its payload as its id, it is stored once, however often it is published.
        let request = to(address, "POST", &format!("{EVENTS}?id={payload}"));
        if let Some(sequence) = try_post(request, payload.clone()).await {
            let earlier = acknowledged.lock().unwrap().insert(sequence, payload);
            assert_eq!(earlier, None, "{sequence} was given twice");
            return sequence;
        }
        assert!(started.elapsed() < WAIT, "{payload} is never acknowledged");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Publishes events whose payloads are these numbers.
async fn publish_numbers(address: SocketAddr, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let sequence = publish(address, number.to_string(), &Acknowledged::default()).await;
        assert_eq!(sequence, number);
    }
}

/// The log's epoch, which is in every id.
async fn epoch(address: SocketAddr) -> String {
    let cursor = get(address, EVENTS).await.json()["cursor"].take();
    cursor.as_str().unwrap().split_once('-').unwrap().1.to_owned()
}

fn message(sequence: u64, epoch: &str, payload: impl ToString) -> Seen {
    ("message".to_owned(), format!("{sequence}-{epoch}"), payload.to_string())
}

/// All that the page was told, once it has the event of this sequence.
async fn seen_through(browser: &Browser, sequence: u64) -> Vec<Seen> {
    let started = Instant::now();
    let id = format!("{sequence}-");
    loop {
        let seen = browser.run("return seen", json!([])).await;
        let seen: Vec<Seen> = serde_json::from_value(seen).unwrap();
        if seen.iter().any(|(kind, at, _)| kind == "message" && at.starts_with(&id)) {
            return seen;
        }
        assert!(started.elapsed() < WAIT, "{sequence} is not among {seen:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Goal: a page gets each acknowledged event once and in order, however often the broker dies.
/// Method: kill it as soon as the page follows it again, while events are published all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_follows_through_crashes_gets_each_event_once_and_in_order() {
    let Some(browser) = Browser::start().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = serve(Some(address), directory.path());
    let acknowledged = Acknowledged::default();
    let enough = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|name| {
            let (acknowledged, enough) = (acknowledged.clone(), enough.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    if enough.load(Ordering::Relaxed) {
                        return;
                    }
                    publish(address, format!("{name}/{number}"), &acknowledged).await;
                }
            })
        })
        .collect();
    browser.go_to(&format!("http://{address}{PAGE}")).await;
    browser.run(EVENT_SOURCE, json!([format!("{EVENTS}?from=earliest")])).await;
    for kill in 0..KILLS {
        // An event of this life of the broker: the page has it, so it has come back.
        let sequence = publish(address, format!("kill/{kill}"), &acknowledged).await;
        seen_through(&browser, sequence).await;
        process.kill();
        process = serve(Some(address), directory.path());
    }
    enough.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let last = publish(address, "last".to_owned(), &acknowledged).await;
    let seen = seen_through(&browser, last).await;
    let epoch = epoch(address).await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > KILLS * PUBLISHERS, "nothing was published");
    println!("{} events through {KILLS} kills", acknowledged.len());
    let expected: Vec<Seen> = acknowledged
        .iter()
        .map(|(sequence, payload)| message(*sequence, &epoch, payload))
        .collect();
    assert_eq!(seen, expected);
    browser.close().await;
}

/// Stands in for the broker at `to` until it has passed on the beginning of a stream.
async fn pass_on_priming(listener: TcpListener, to: SocketAddr) {
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

/// Passes a stream on up to the end of the priming frame, and cuts it. `None` if it is none: a
/// browser also asks for an icon, and opens connections that it may need.
async fn pass_on(mut page: TcpStream, to: SocketAddr) -> Option<()> {
    let request = read_through(&mut page, |read| read.ends_with(b"\r\n\r\n")).await?;
    if !text(&request).contains("text/event-stream") {
        return None;
    }
    let mut broker = TcpStream::connect(to).await.unwrap();
    broker.write_all(&request).await.unwrap();
    let has_id = |read: &[u8]| text(read).contains("\nid: ") && read.ends_with(b"\n\n");
    let begun = read_through(&mut broker, has_id).await.unwrap();
    assert!(!text(&begun).contains("\ndata: "), "more than an id: {}", text(&begun));
    page.write_all(&begun).await.unwrap();
    Some(())
}

/// What comes, up to the first byte with which `is_enough` holds; `None` if it ends before.
async fn read_through(from: &mut TcpStream, is_enough: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    while !is_enough(&read) {
        read.push(from.read_u8().await.ok()?);
    }
    Some(read)
}

/// Goal: a page that had got nothing yet comes back to where it was, not to the end.
/// Method: it follows from the end, so that only the id of the priming frame, a frame without data,
/// can bring it back to what was published while it was away. Nothing but that frame reaches it.
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
    let cut = tokio::spawn(soon(pass_on_priming(listener, process.address)));
    browser.run(EVENT_SOURCE, json!([EVENTS])).await;
    cut.await.unwrap();
    publish_numbers(process.address, 4..=6).await;
    process.kill();
    let _process = serve(Some(address), directory.path());
    let expected: Vec<Seen> = (4..=6).map(|number| message(number, &epoch, number)).collect();
    assert_eq!(seen_through(&browser, 6).await, expected);
    browser.close().await;
}

/// Follows through a crash and a `trim`, a request, of what is below 8 of 9 events; checks what the
/// page is told. It has 5 of them then, and does not find the broker until the trim is done.
async fn told_after(browser: &Browser, trim: (&str, &str, &str), reason: &str) {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let process = serve(Some(address), directory.path());
    publish_numbers(address, 1..=5).await;
    let epoch = epoch(address).await;
    browser.go_to(&format!("http://{address}{PAGE}")).await;
    browser.run(EVENT_SOURCE, json!([format!("{EVENTS}?from=earliest")])).await;
    let mut expected: Vec<Seen> = (1..=5).map(|number| message(number, &epoch, number)).collect();
    assert_eq!(seen_through(browser, 5).await, expected);
    process.kill();
    let process = serve(None, directory.path());
    publish_numbers(process.address, 6..=8).await;
    let (method, path, body) = trim;
    let trimmed = send(to(process.address, method, path), body.to_owned()).await;
    assert_eq!(trimmed.status, 200, "{}", text(&trimmed.body));
    publish_numbers(process.address, 9..=9).await;
    process.kill();
    let _process = serve(Some(address), directory.path());
    let mut seen = seen_through(browser, 9).await;
    let (kind, id, data) = seen.remove(5);
    assert_eq!((kind.as_str(), id), ("leftoff.gap", format!("7-{epoch}")));
    let gap = json!({
        "topic": "a", "requested": 6, "earliest": 8, "tail": 10, "lost": 2, "reason": reason,
        "resume": 8,
    });
    assert_eq!(serde_json::from_str::<Value>(&data).unwrap(), gap);
    expected.extend((8..=9).map(|number| message(number, &epoch, number)));
    assert_eq!(seen, expected);
}

/// Goal: a page whose next events are gone when it comes back is told so, with the right numbers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_comes_back_after_a_trim_is_told_what_it_has_lost_and_goes_on() {
    let Some(browser) = Browser::start().await else { return };
    told_after(&browser, ("DELETE", "/v1/topics/a/events?before=8", ""), "purged").await;
    told_after(&browser, ("PATCH", "/v1/topics/a", r#"{"max_events":2}"#), "retention").await;
    browser.close().await;
}
