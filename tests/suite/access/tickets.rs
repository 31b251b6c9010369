//! Tickets: for one use, or for the streams of a browser; never more than what they were made with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::credentials::{Sent, all_of, key_of, now_s, own_token};
use super::{CANARY, OWNER_KEY, SECRET, ask_ticket, config, problem, ticket};
use crate::common::{Answer, Server, Sse, post, send, soon};
use crate::websocket::Client;

fn owner() -> Sent {
    Sent::Bearer(own_token("owner", all_of("secret.>"), 3_600))
}

async fn read(server: &Server, sent: &Sent) -> Answer {
    let path = format!("/v1/topics/{SECRET}/events");
    let request = sent.to(server.address, "GET", &path).header("accept", "application/json");
    send(request, "").await
}

/// Goal: of many uses of a ticket for one use, at the same time and on all protocols, exactly one
/// wins.
#[tokio::test]
async fn a_ticket_for_one_use_is_used_once_by_whoever_comes_first() {
    let server = Server::with(config()).await;
    server.publish(SECRET, CANARY).await;
    for round in 0..8 {
        let once = ticket(&server, &owner(), json!({"kind": "once"})).await;
        let once = Sent::ticket(&once);
        let pages = (0..6).map(|_| async { u16::from(read(&server, &once).await.status == 200) });
        let sockets = (0..6).map(|_| async {
            let opened = Client::try_connect(server.address, &once.path("/v1/ws"), None).await;
            u16::from(opened.is_ok())
        });
        let pages = futures_util::future::join_all(pages);
        let sockets = futures_util::future::join_all(sockets);
        let (pages, sockets) = soon(async { tokio::join!(pages, sockets) }).await;
        let wins: u16 = pages.iter().chain(&sockets).sum();
        assert_eq!(wins, 1, "round {round}: {pages:?} {sockets:?}");
        let late = read(&server, &once).await;
        assert_eq!((late.status.as_u16(), &*problem(&late)), (401, "unauthenticated"));
    }
    server.stop().await;
}

/// Goal: a ticket for streams is used again and again, by the same path; it reads what it was made
/// for, and nothing else; it neither publishes, nor administers, nor makes tickets.
#[tokio::test]
async fn a_ticket_for_streams_reads_what_it_was_made_for_and_does_nothing_else() {
    let server = Server::with(config()).await;
    server.publish(SECRET, "one").await;
    server.publish("secret.two", CANARY).await;
    let wanted = json!({"kind": "stream", "subscribe": [SECRET]});
    let stream = Sent::ticket(&ticket(&server, &owner(), wanted).await);
    for _ in 0..3 {
        let path = format!("/v1/topics/{SECRET}/events?from=earliest");
        let mut sse = Sse::open(stream.to(server.address, "GET", &path)).await.unwrap();
        assert_eq!(sse.events(1).await, [(1, "one".to_owned())]);
    }
    for (method, path, body) in [
        ("GET", "/v1/topics/secret.two/events", ""),
        ("GET", "/v1/topics/secret.two", ""),
        ("GET", "/v1/events?topic=secret.two", ""),
        ("POST", "/v1/topics/secret.one/events", "1"),
        ("DELETE", "/v1/topics/secret.one", ""),
        ("POST", "/v1/maintenance", ""),
        ("GET", "/v1/connections", ""),
        ("POST", "/v1/tickets", r#"{"kind":"stream"}"#),
    ] {
        let request = stream.to(server.address, method, path);
        let request = request.header("accept", "application/json");
        let answer = send(request.header("content-type", "application/json"), body).await;
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(CANARY), "{answer:?}");
    }
    let page = stream.to(server.address, "GET", "/v1/events?topic=%3E&from=earliest");
    let page = send(page.header("accept", "application/json"), "").await;
    assert_eq!(page.header("leftoff-topics"), "\"secret.one\"");
    assert!(!String::from_utf8_lossy(&page.body).contains(CANARY), "{page:?}");
    server.stop().await;
}

/// Goal: nobody gets a ticket for more than it may, without a credential, or with what is no
/// request.
#[tokio::test]
async fn nobody_gets_a_ticket_for_more_than_it_may() {
    let server = Server::with(config()).await;
    assert_eq!(post(server.address, "/v1/tickets", "{}").await.status, 401);
    for wanted in [
        json!({"kind": "twice"}),
        json!({"kind": "once", "publish": [">"]}),
        json!({"kind": "once", "admin": true}),
        json!({"kind": "stream", "subscribe": ["a..b"]}),
        json!({"kind": "stream", "subscribe": "secret.one"}),
        json!(["once"]),
    ] {
        let answer = ask_ticket(&server, &owner(), wanted.clone()).await;
        assert_eq!(answer.status, 400, "{wanted}: {answer:?}");
    }
    let wanted = json!({"kind": "stream", "subscribe": ["other.one"]});
    let answer = ask_ticket(&server, &owner(), wanted).await;
    assert_eq!((answer.status.as_u16(), &*problem(&answer)), (403, "denied"), "{answer:?}");
    let wanted = json!({"kind": "stream", "subscribe": ["*.one"]});
    let cut = Sent::ticket(&ticket(&server, &owner(), wanted).await);
    assert_eq!(read(&server, &cut).await.status, 200);
    let other = cut.to(server.address, "GET", "/v1/topics/other.one/events");
    assert_eq!(send(other.header("accept", "application/json"), "").await.status, 403);
    server.stop().await;
}

/// Goal: a ticket does not outlive the credential that it was made with, and neither do its streams.
#[tokio::test]
async fn a_ticket_ends_with_the_credential_that_it_was_made_with() {
    let server = Server::with(config()).await;
    let end = now_s() + 2;
    let short = Sent::Bearer(own_token("owner", all_of("secret.>"), 2));
    let stream = Sent::ticket(&ticket(&server, &short, json!({"kind": "stream"})).await);
    let path = format!("/v1/topics/{SECRET}/events");
    let mut sse = Sse::open(stream.to(server.address, "GET", &path)).await.unwrap();
    sse.find(|frame| frame.is_control("leftoff.expired")).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = Duration::from_secs(end);
    assert!(now >= end && now < end + Duration::from_secs(3), "{now:?} {end:?}");
    assert_eq!(read(&server, &stream).await.status, 401);
    server.stop().await;
}

/// Goal: tickets end by themselves after their time, and their number is bounded, for a caller and
/// in all; what is over makes room again.
#[tokio::test]
async fn tickets_end_after_their_time_and_their_number_is_bounded() {
    let mut config = config();
    config.access.tickets.once_s = 1;
    config.access.tickets.max_tickets_per_caller = 3;
    config.access.tickets.max_tickets = 5;
    let server = Server::with(config).await;
    let once = json!({"kind": "once"});
    let ask = async |sent: &Sent| ask_ticket(&server, sent, once.clone()).await;
    let first = Sent::ticket(&ticket(&server, &owner(), once.clone()).await);
    for number in 2..=3 {
        assert!(ask(&owner()).await.status.is_success(), "ticket {number}");
    }
    let refused = ask(&owner()).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    let key = Sent::Bearer(key_of(OWNER_KEY));
    for number in 4..=5 {
        assert!(ask(&key).await.status.is_success(), "ticket {number} is of another caller");
    }
    let refused = ask(&key).await;
    assert!([429, 503].contains(&refused.status.as_u16()), "{refused:?}");
    soon(async {
        while !ask(&owner()).await.status.is_success() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(read(&server, &first).await.status, 401, "its time is over");
    server.stop().await;
}
