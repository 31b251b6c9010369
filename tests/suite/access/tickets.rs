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

/// Goal: of many uses of a ticket for one use, at the same time, exactly one wins. A use that the
/// ticket is not for does not use it up.
#[tokio::test]
async fn a_ticket_for_one_use_is_used_once_by_whoever_comes_first() {
    let server = Server::with(config()).await;
    server.publish(SECRET, CANARY).await;
    for round in 0..8 {
        let once = Sent::ticket(&ticket(&server, &owner(), json!({"kind": "once"})).await);
        let page = read(&server, &once).await;
        assert_eq!(page.status, 401, "a ticket of this kind opens a WebSocket: {page:?}");
        let opened = (0..12).map(|_| async {
            Client::try_connect(server.address, &once.path("/v1/ws"), None).await
        });
        let opened = soon(futures_util::future::join_all(opened)).await;
        let refused: Vec<u16> = opened.iter().filter_map(|it| it.as_ref().err().copied()).collect();
        assert_eq!(refused, [401; 11], "round {round}: one wins");
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
    for (method, path, body, status) in [
        ("GET", "/v1/topics/secret.two/events", "", 403),
        ("GET", "/v1/events?topic=secret.two", "", 403),
        ("GET", "/v1/topics/secret.two", "", 401),
        ("GET", "/v1/topics/secret.one", "", 401),
        ("GET", "/v1/topics", "", 401),
        ("POST", "/v1/topics/secret.one/events", "1", 401),
        ("DELETE", "/v1/topics/secret.one", "", 401),
        ("POST", "/v1/maintenance", "", 401),
        ("GET", "/v1/connections", "", 401),
        ("POST", "/v1/tickets", r#"{"kind":"stream","subscribe":["secret.one"]}"#, 401),
    ] {
        let request = stream.to(server.address, method, path);
        let request = request.header("accept", "application/json");
        let answer = send(request.header("content-type", "application/json"), body).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
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
    server.publish(SECRET, "one").await;
    assert_eq!(post(server.address, "/v1/tickets", "{}").await.status, 401);
    for wanted in [
        json!({"kind": "twice"}),
        json!({"kind": "stream"}),
        json!({"kind": "stream", "subscribe": [SECRET], "publish": [SECRET]}),
        json!({"kind": "once", "expires_s": 0}),
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

/// Goal: a ticket does not outlive the credential that it was made with, and neither do its
/// streams.
#[tokio::test]
async fn a_ticket_ends_with_the_credential_that_it_was_made_with() {
    let server = Server::with(config()).await;
    let end = now_s() + 3;
    let short = Sent::Bearer(own_token("owner", all_of("secret.>"), 3));
    let wanted = json!({"kind": "stream", "subscribe": [SECRET]});
    let stream = Sent::ticket(&ticket(&server, &short, wanted).await);
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
    let late = Client::try_connect(server.address, &first.path("/v1/ws"), None).await;
    assert_eq!(late.err(), Some(401), "its time is over");
    server.stop().await;
}
