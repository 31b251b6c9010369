//! Crashes of the broker: readers with tickets go on, and revocations hold.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::credentials::{Sent, all_of, own_token};
use super::logs::serve;
use super::{SECRET, config, revoke};
use crate::common::{Sse, lasting_address, send, soon, try_post};

const KILLS: usize = 3;

fn owner() -> Sent {
    Sent::Bearer(own_token("owner", all_of("secret.>"), 3_600))
}

/// What a page with an `EventSource` has got.
#[derive(Default)]
struct Page {
    sequences: Mutex<Vec<u64>>,
    tickets: AtomicU64,
    connections: AtomicU64,
}

impl Page {
    fn count(&self) -> usize {
        self.sequences.lock().unwrap().len()
    }

    /// Asks for a ticket, as the code of a page does, until the broker is there.
    async fn ticket(&self, address: SocketAddr) -> Sent {
        loop {
            if let Some(ticket) = try_ticket(address).await {
                self.tickets.fetch_add(1, Ordering::Relaxed);
                return Sent::ticket(&ticket);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Follows as an `EventSource` does: it comes back to the same URL with the last id, and gives
    /// up at a status other than 200. Then the page makes another one, with a new ticket.
    async fn follow(&self, address: SocketAddr, is_over: &AtomicBool) {
        let path = format!("/v1/topics/{SECRET}/events?from=earliest");
        let (mut ticket, mut last_id) = (self.ticket(address).await, None::<String>);
        while !is_over.load(Ordering::Relaxed) {
            let mut request = ticket.to(address, "GET", &path);
            if let Some(id) = &last_id {
                request = request.header("last-event-id", id);
            }
            let Ok(mut stream) = Sse::open(request).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            self.connections.fetch_add(1, Ordering::Relaxed);
            if stream.status == 401 {
                ticket = self.ticket(address).await;
                continue;
            }
            assert_eq!(stream.status, 200);
            while let Some(frame) = stream.next_within(Duration::from_secs(5)).await {
                if frame.is_event() {
                    self.sequences.lock().unwrap().push(frame.sequence());
                }
                last_id = stream.last_id.clone();
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    }
}

/// Asks for a ticket for streams; the broker may be gone.
async fn try_ticket(address: SocketAddr) -> Option<String> {
    tokio::net::TcpStream::connect(address).await.ok()?;
    let request = owner().to(address, "POST", "/v1/tickets");
    let request = request.header("content-type", "application/json");
    let body = json!({"kind": "stream", "subscribe": [SECRET]}).to_string();
    let request = request.body(http_body_util::Full::new(bytes::Bytes::from(body))).unwrap();
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    let answer = soon(client.request(request)).await.ok()?;
    let is_made = answer.status().is_success();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.ok()?.to_bytes();
    assert!(is_made, "{body:?}");
    let json: Value = serde_json::from_slice(&body).unwrap();
    Some(json["ticket"].as_str().unwrap().to_owned())
}

/// Publishes one event after another, and remembers the sequences of those that were acknowledged.
async fn publish(address: SocketAddr, acknowledged: &Mutex<Vec<u64>>, is_over: &AtomicBool) {
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let path = format!("/v1/topics/{SECRET}/events");
        let request = owner().to(address, "POST", &path).header("content-type", "text/plain");
        match try_post(request, format!("event {number}")).await {
            Some(receipt) => acknowledged.lock().unwrap().push(receipt.sequence),
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Goal: a page whose `EventSource` has a ticket gets each acknowledged event exactly once through
/// three kills of the broker.
#[tokio::test]
async fn an_event_source_with_a_ticket_loses_nothing_through_three_kills() {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = serve(address, directory.path(), &config(), "error").await;
    let (page, acknowledged, is_over) =
        (Page::default(), Mutex::new(Vec::new()), AtomicBool::new(false));
    let kills = async {
        for kill in 0..=KILLS {
            let heard = page.count();
            soon(async {
                while page.count() < heard + 30 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
            if kill < KILLS {
                process.crash();
                process = serve(address, directory.path(), &config(), "error").await;
            }
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let follows = page.follow(address, &is_over);
    tokio::join!(publish(address, &acknowledged, &is_over), follows, kills);
    let sequences = page.sequences.into_inner().unwrap();
    let last = *sequences.last().unwrap();
    let expected: Vec<u64> = (1..=last).collect();
    assert_eq!(sequences, expected, "each event once, and in order");
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.iter().filter(|it| **it <= last).count() > 100, "{acknowledged:?}");
    assert!(page.connections.into_inner() > KILLS as u64, "the page came back after each kill");
    let tickets = page.tickets.into_inner();
    assert_eq!(tickets, 1, "one ticket is enough for all of its life");
}

/// Goal: a revocation holds after a crash: it is durable when it is answered.
#[tokio::test]
async fn a_revoked_caller_is_refused_after_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let mut process = serve(address, directory.path(), &config(), "error").await;
    let other = Sent::Bearer(own_token("other", all_of("secret.>"), 3_600));
    let gone = owner();
    let statuses = async || {
        let path = format!("/v1/topics/{SECRET}/events");
        let ask = async |sent: &Sent| {
            let request = sent.to(address, "GET", &path).header("accept", "application/json");
            send(request, "").await.status.as_u16()
        };
        (ask(&gone).await, ask(&other).await)
    };
    let path = format!("/v1/topics/{SECRET}/events");
    let request = other.to(address, "POST", &path).header("content-type", "text/plain");
    try_post(request, "an event").await.unwrap();
    assert_eq!(statuses().await, (200, 200));
    revoke(address, "owner").await;
    process.crash();
    for _ in 0..2 {
        let mut process = serve(address, directory.path(), &config(), "error").await;
        assert_eq!(statuses().await, (401, 200));
        process.crash();
    }
}
