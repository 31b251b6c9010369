//! What does a broker do as a notification store, when 100,000 users have 50 notifications each?
//! The real binary over HTTP: publishing to an inbox and elsewhere, marks from 64 callers, counts,
//! badges that poll, memory, and opening again. The clients share both cores with the broker.
//! `cargo bench --bench inbox` measures, and `cargo test --benches` runs it tiny.

mod served;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use served::Served;

/// The threads that send requests, each over several connections.
const THREADS: usize = 2;

/// The connections of all threads, each with one request at a time.
const CALLERS: usize = 64;

/// The topics of one publish.
const TOPICS_AT_ONCE: usize = 1_000;

/// The events for each topic of one publish.
const EVENTS_AT_ONCE: usize = 10;

/// The topics of one request for counts.
const COUNTED_AT_ONCE: usize = 100;

/// The times that publishing to an inbox and elsewhere are measured, in turn.
const ROUNDS: usize = 5;

/// The size of a run.
struct Size {
    users: usize,
    notifications: usize,
    /// The requests that are measured one at a time, and for how long those of many callers are.
    requests: usize,
    time: Duration,
    /// The topics that are published to, of inboxes and of others.
    published: usize,
}

const MEASURED: Size = Size {
    users: 100_000,
    notifications: 50,
    requests: 10_000,
    time: Duration::from_secs(3),
    published: 1_000,
};

const TINY: Size =
    Size { users: 200, notifications: 20, requests: 20, time: Duration::ZERO, published: 20 };

fn main() {
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let size = if measuring { MEASURED } else { TINY };
    let directory =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
    let data = directory.path().join("data");
    let served = Served::start(&data);
    let address = served.address;

    let seconds = load(address, &size);
    let (users, events) = (size.users, size.users * size.notifications);
    println!("loaded       {events} events of {users} users in {seconds:.1} s");
    let name = |user: usize| format!("users.{user}.notifications");

    // Each user reads a notification, so that each has a consumer with marks.
    let next = AtomicU64::new(0);
    let rate = requests_per_second(address, |_| {
        let user = next.fetch_add(1, Ordering::Relaxed) as usize;
        let body = format!(r#"{{"mark":["read"],"events":[{}]}}"#, 1 + user % size.notifications);
        let path = format!("/v1/consumers/inbox/marks?topic={}", name(user));
        (user < users).then(|| request("POST", &path, "", &body))
    });
    told("marks", rate, 20_000, "a second");

    publishing(address, &size);
    counts(address, &size);
    badges(address, &size);

    println!(
        "memory       {:.0} MB now, {:.0} MB at its peak (target 600)",
        served.memory_mb(),
        served.peak_memory_mb()
    );
    drop(served); // It is killed.
    let started = Instant::now();
    let served = Served::start(&data);
    let (status, body) = Connection::to(served.address).ask(&counts_of(&name(users - 1)));
    println!("opened       in {:.2} s after a kill (target 3)", started.elapsed().as_secs_f64());
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(&format!("\"unread\":{}", size.notifications - 1)), "{body}");
    println!("memory       {:.0} MB when it is open (target 600)", served.memory_mb());
}

fn told(what: &str, rate: f64, target: u64, unit: &str) {
    println!("{what:<12} {rate:.0} {unit} (target {target})");
}

/// Publishes the notifications of all users, and as many events to other topics. Returns the
/// seconds that the users' took.
fn load(address: SocketAddr, size: &Size) -> f64 {
    let mut connection = Connection::to(address);
    let mut publish = |names: &[String]| {
        let topics = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(",");
        for first in (0..size.notifications).step_by(EVENTS_AT_ONCE) {
            let numbers = first..size.notifications.min(first + EVENTS_AT_ONCE);
            let events = numbers.map(|number| {
                format!(r#"{{"type":"mention","key":"post-{number}","data":{}}}"#, payload(number))
            });
            let events = events.collect::<Vec<_>>().join(",");
            let body = format!(r#"{{"topics":[{topics}],"events":[{events}]}}"#);
            let (status, body) = connection.ask(&request("POST", "/v1/publish", "", &body));
            assert!(status == 200 || status == 201, "{status} {body}");
        }
    };
    let others: Vec<_> = (0..size.published).map(|other| format!("plain.{other}.events")).collect();
    others.chunks(TOPICS_AT_ONCE).for_each(&mut publish);
    let started = Instant::now();
    let users: Vec<_> = (0..size.users).map(|user| format!("users.{user}.notifications")).collect();
    users.chunks(TOPICS_AT_ONCE).for_each(&mut publish);
    started.elapsed().as_secs_f64()
}

/// Returns a payload as notifications have it, of about 100 bytes.
fn payload(number: usize) -> String {
    let body = format!("Have a look at this, please: it is number {number}");
    format!(r#"{{"title":"Ann mentioned you","body":"{body}","post":{number}}}"#)
}

/// Compares publishes of one event to inboxes with those to topics that no consumer is of.
fn publishing(address: SocketAddr, size: &Size) {
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (rates, prefix) in rates.iter_mut().zip(["users.", "plain."]) {
            let rest = if prefix == "users." { "notifications" } else { "events" };
            let (started, next) = (Instant::now(), AtomicU64::new(0));
            rates.push(requests_per_second(address, |_| {
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                let path = format!("/v1/topics/{prefix}{}.{rest}/events", number % size.published);
                let is_over = number >= CALLERS && started.elapsed() >= size.time / 3;
                (!is_over).then(|| request("POST", &path, "", &payload(number)))
            }));
        }
    }
    let [inboxes, others] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    let part = inboxes / others;
    println!(
        "publishes    {inboxes:.0} a second to inboxes, {others:.0} elsewhere: {part:.2} (target 1)"
    );
}

/// Measures counts of one user, and of many at once, one request at a time.
fn counts(address: SocketAddr, size: &Size) {
    let mut connection = Connection::to(address);
    // Neighbouring requests are of users that lie far apart.
    let user = |number: usize| number * 7_919 % size.users;
    let one = |number| counts_of(&format!("users.{}.notifications", user(number)));
    let mut measure = |what: &str, requests: usize, of: &dyn Fn(usize) -> String| {
        let mut times: Vec<Duration> = Vec::new();
        for number in 0..requests {
            let asked = of(number);
            let started = Instant::now();
            let (status, body) = connection.ask(&asked);
            times.push(started.elapsed());
            assert_eq!(status, 200, "{body}");
        }
        times.sort_unstable();
        let at = |part: usize| times[times.len() * part / 100].as_secs_f64() * 1e3;
        println!("{what:<12} {:.2} ms, p99 {:.2} ms (target 5)", at(50), at(99));
    };
    measure("counts", size.requests, &one);
    measure("of 100", size.requests / 10, &|number| {
        let consumers = (0..COUNTED_AT_ONCE).map(|other| {
            let user = user(number * COUNTED_AT_ONCE + other);
            format!(r#"{{"consumer":"inbox","topic":"users.{user}.notifications"}}"#)
        });
        let consumers = consumers.collect::<Vec<_>>().join(",");
        request("POST", "/v1/counts", "", &format!("[{consumers}]"))
    });
}

/// Measures badges that poll, of users whose counts do not change.
fn badges(address: SocketAddr, size: &Size) {
    let mut connection = Connection::to(address);
    let polled = size.users.min(size.requests);
    let tags: Vec<String> = (0..polled)
        .map(|user| {
            let (status, _) = connection.ask(&counts_of(&format!("users.{user}.notifications")));
            assert_eq!(status, 200, "the first counts of user {user}");
            connection.tag.clone()
        })
        .collect();
    let (started, next, counted) = (Instant::now(), AtomicU64::new(0), AtomicU64::new(0));
    let rate = requests_per_second(address, |status| {
        // Maintenance of the topics changes tags, too.
        counted.fetch_add(u64::from(status == Some(200)), Ordering::Relaxed);
        let number = next.fetch_add(1, Ordering::Relaxed) as usize;
        let user = number % polled;
        let path = format!("/v1/consumers/inbox/counts?topic=users.{user}.notifications");
        let known = format!("if-none-match: {}\r\n", tags[user]);
        let is_over = number >= CALLERS && started.elapsed() >= size.time;
        (!is_over).then(|| request("GET", &path, &known, ""))
    });
    let unchanged = 1.0 - counted.into_inner() as f64 / next.into_inner() as f64;
    assert!(unchanged > 0.5, "most badges were counted, and nothing has changed");
    told("badges", rate * unchanged, 15_000, "polls a second answered 304");
}

fn counts_of(topic: &str) -> String {
    request("GET", &format!("/v1/consumers/inbox/counts?topic={topic}"), "", "")
}

/// Returns a request as it is sent.
fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}");
    if method == "POST" {
        let length = body.len();
        write!(text, "content-type: application/json\r\ncontent-length: {length}\r\n")
            .expect("a text takes all");
    }
    text + "\r\n" + body
}

/// Sends requests over [`CALLERS`] connections, on each as soon as the one before is answered,
/// until `next` has none. `next` is told the status of the answer before. Returns the requests a
/// second.
fn requests_per_second(
    address: SocketAddr,
    next: impl Fn(Option<u16>) -> Option<String> + Sync,
) -> f64 {
    let (next, done) = (&next, AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut callers: Vec<_> =
                    (0..CALLERS / THREADS).map(|_| (Connection::to(address), next(None))).collect();
                for (connection, request) in &mut callers {
                    request.iter().for_each(|request| connection.send(request));
                }
                while callers.iter().any(|(_, request)| request.is_some()) {
                    for (connection, request) in &mut callers {
                        if request.is_none() {
                            continue;
                        }
                        let (status, body) = connection.answer();
                        assert!(status < 400, "{status} {body}");
                        done.fetch_add(1, Ordering::Relaxed);
                        *request = next(Some(status));
                        request.iter().for_each(|request| connection.send(request));
                    }
                }
            });
        }
    });
    done.into_inner() as f64 / started.elapsed().as_secs_f64()
}

/// A connection that is kept.
struct Connection {
    stream: BufReader<TcpStream>,
    /// The tag of the last answer that had one.
    tag: String,
}

impl Connection {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: BufReader::new(stream), tag: String::new() }
    }

    fn send(&mut self, request: &str) {
        self.stream.get_mut().write_all(request.as_bytes()).expect("the broker reads");
    }

    /// Returns the status and the body of the next answer.
    fn answer(&mut self) -> (u16, String) {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("an answer");
            let line = line.trim_end();
            if line.is_empty() && status > 0 {
                break;
            }
            match line.split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().expect("a length");
                }
                Some((name, value)) if name.eq_ignore_ascii_case("etag") => {
                    self.tag = value.trim().to_owned();
                }
                Some(_) => {}
                None => {
                    let word = line.split(' ').nth(1).expect("the broker answers");
                    status = word.parse().expect("a status");
                }
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("a body");
        (status, String::from_utf8(body).expect("text"))
    }

    fn ask(&mut self, request: &str) -> (u16, String) {
        self.send(request);
        self.answer()
    }
}
