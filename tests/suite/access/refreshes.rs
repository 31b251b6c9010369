//! Refreshes of a WebSocket: a new token takes the place of the one before, or nothing changes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::credentials::{Sent, all_of, claims, now_s, own_token, signed_by_another};
use super::{SECRET, config, revoke};
use crate::common::Server;
use crate::websocket::Client;

/// The time before the end of a token that is enough for a refresh, on a busy machine, too.
const EARLY: Duration = Duration::from_millis(600);

async fn open(server: &Server, token: &str) -> Client {
    let header = Sent::bearer(token).header();
    Client::try_connect(server.address, "/v1/ws", header).await.unwrap()
}

async fn refresh(client: &mut Client, reference: u64, token: &str) {
    client.say(json!({"type": "refresh", "ref": reference, "token": token})).await;
}

/// Returns the answer to a refresh.
async fn answer_to(client: &mut Client, reference: u64) -> Value {
    loop {
        let message = client.hear().await;
        let is_answer = matches!(message["type"].as_str(), Some("refreshed" | "error"));
        if is_answer && message["ref"] == reference {
            return message;
        }
    }
}

async fn until(second: u64) {
    let end = UNIX_EPOCH + Duration::from_secs(second);
    tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await;
}

/// Checks that a connection lives: it still publishes.
async fn lives(client: &mut Client) {
    let publish = json!({"type": "publish", "ref": "lives", "topic": SECRET, "event": {}});
    client.say(publish).await;
    while client.find("ack").await["ref"] != "lives" {}
}

/// Returns the code with which a connection ends.
async fn code(client: &mut Client) -> u16 {
    loop {
        if let Err(code) = client.hear_or_close().await {
            return code;
        }
    }
}

fn mine(seconds: u64) -> String {
    own_token("owner", all_of("secret.>"), seconds)
}

/// Goal: a refresh lets a connection live on with the end of the new token: a later one, and also
/// an earlier one. Its subscriptions miss nothing and repeat nothing.
#[tokio::test]
async fn a_refresh_gives_the_connection_the_end_of_the_new_token() {
    let server = Server::with(config()).await;
    let first_end = now_s() + 3;
    let mut client = open(&server, &mine(3)).await;
    client.say(json!({"type": "subscribe", "subscription": "s", "topic": SECRET})).await;
    client.find("caught_up").await;
    refresh(&mut client, 1, &mine(600)).await;
    let refreshed = answer_to(&mut client, 1).await;
    assert_eq!(refreshed["type"], "refreshed", "{refreshed}");
    let until_s: leftoff::Timestamp = refreshed["until"].as_str().unwrap().parse().unwrap();
    let until_s = SystemTime::from(until_s).duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(until_s.abs_diff(now_s() + 600) < 30, "{refreshed}");
    server.publish(SECRET, "before").await;
    until(first_end).await;
    server.publish(SECRET, "after").await;
    for payload in ["before", "after"] {
        assert_eq!(client.find("event").await["event"]["data"], payload);
    }
    lives(&mut client).await;
    let last_end = now_s() + 2;
    refresh(&mut client, 2, &mine(2)).await;
    assert_eq!(answer_to(&mut client, 2).await["type"], "refreshed");
    assert_eq!(code(&mut client).await, 4001);
    assert!(now_s() >= last_end, "not before the end");
    server.stop().await;
}

/// Goal: a refresh that is refused changes nothing: the connection lives on until the end that it
/// had, and no longer.
#[tokio::test]
async fn a_refused_refresh_leaves_the_end_as_it_was() {
    let server = Server::with(config()).await;
    revoke(server.address, "gone").await;
    let gone = with_time("gone");
    let wrong = [
        own_token("owner", all_of("secret.>"), 0),
        signed_by_another(&claims("owner", all_of("secret.>"))),
        own_token("another", all_of("secret.>"), 600),
        "not.a-token".to_owned(),
        String::new(),
        gone,
    ];
    let end = now_s() + 3;
    let mut client = open(&server, &mine(3)).await;
    client.say(json!({"type": "subscribe", "subscription": "s", "topic": SECRET})).await;
    client.find("caught_up").await;
    for (reference, token) in (1..).zip(&wrong) {
        refresh(&mut client, reference, token).await;
        let answer = answer_to(&mut client, reference).await;
        assert_eq!(answer["type"], "error", "{token}: {answer}");
        assert!(!answer.to_string().contains("not.a-token"), "{answer}");
    }
    lives(&mut client).await;
    server.publish(SECRET, "still here").await;
    while client.find("event").await["event"]["data"] != "still here" {}
    assert_eq!(code(&mut client).await, 4001);
    let late = now_s();
    assert!(late >= end && late <= end + 3, "the end was {end}, and it ended at {late}");
    server.stop().await;
}

/// Returns a token of a caller from before a revocation of it.
fn with_time(sub: &str) -> String {
    own_token(sub, all_of("secret.>"), 600)
}

/// Goal: a refresh is checked at once: subscriptions of topics that the new token does not permit
/// end and say so, others go on, and what was not permitted before is.
#[tokio::test]
async fn a_refresh_ends_the_subscriptions_that_it_does_not_permit() {
    let server = Server::with(config()).await;
    let mut client = open(&server, &mine(600)).await;
    for (name, topics) in
        [("one", json!(["secret.one"])), ("two", json!(["secret.two"])), ("all", json!(["*.two"]))]
    {
        client.say(json!({"type": "subscribe", "subscription": name, "topics": topics})).await;
        client.find("caught_up").await;
    }
    let narrower = own_token("owner", all_of("secret.two"), 600);
    refresh(&mut client, 1, &narrower).await;
    assert_eq!(answer_to(&mut client, 1).await["type"], "refreshed");
    server.publish("secret.one", "of nobody").await;
    server.publish("secret.two", "still permitted").await;
    let (mut ended, mut heard) = (Vec::new(), Vec::new());
    while ended.is_empty() || heard.len() < 2 {
        let message = client.hear().await;
        match message["type"].as_str().unwrap() {
            "ended" => {
                assert_eq!(message["error"]["status"], 403, "{message}");
                ended.push(message["subscription"].clone());
            }
            "event" => {
                assert_eq!(message["event"]["data"], "still permitted", "{message}");
                heard.push(message["subscription"].clone());
            }
            _ => {}
        }
    }
    assert_eq!(ended, ["one"]);
    heard.sort_by_key(Value::to_string);
    assert_eq!(heard, ["all", "two"]);
    client.say(json!({"type": "publish", "ref": 2, "topic": "secret.one", "event": {}})).await;
    assert_eq!(client.find("error").await["error"]["status"], 403);
    let wider = own_token("owner", all_of("other.>"), 600);
    refresh(&mut client, 3, &wider).await;
    assert_eq!(answer_to(&mut client, 3).await["type"], "refreshed");
    client.say(json!({"type": "publish", "ref": 4, "topic": "other.one", "event": {}})).await;
    client.find("ack").await;
    server.stop().await;
}

/// Goal: refreshes that follow each other without a pause are answered in their order, and the last
/// one holds.
#[tokio::test]
async fn of_refreshes_that_race_the_last_one_holds() {
    let server = Server::with(config()).await;
    let race = async |last_is_short: bool| {
        let mut client = open(&server, &mine(600)).await;
        let end = now_s() + 3;
        let (mut one, mut other) = (mine(300), mine(3));
        if !last_is_short {
            std::mem::swap(&mut one, &mut other);
        }
        for reference in 0..6 {
            let token = if reference % 2 == 0 { &one } else { &other };
            refresh(&mut client, reference, token).await;
        }
        for reference in 0..6 {
            let message = client.hear().await;
            assert_eq!(
                (&message["type"], &message["ref"]),
                (&json!("refreshed"), &json!(reference))
            );
        }
        if last_is_short {
            assert_eq!(code(&mut client).await, 4001);
            assert!(now_s() >= end);
        } else {
            until(end).await;
            lives(&mut client).await;
        }
    };
    tokio::join!(race(true), race(false));
    server.stop().await;
}

/// Goal: a refresh at the very end of the token either holds, and the connection lives, or comes
/// too late, and the connection is closed. There is nothing between.
#[tokio::test]
async fn a_refresh_at_the_very_end_holds_or_comes_too_late() {
    let server = Server::with(config()).await;
    let end = now_s() + 3;
    let (token, fresh) = (mine(3), mine(600));
    let mut clients = Vec::new();
    for _ in 0..24 {
        clients.push(open(&server, &token).await);
    }
    let spread = clients.into_iter().enumerate().map(|(number, mut client)| {
        let fresh = fresh.clone();
        async move {
            let end = UNIX_EPOCH + Duration::from_secs(end);
            // From 36 ms before the end to 33 ms after it, and one a good while before.
            let before_ms = if number == 0 { 900 } else { 36 };
            let moment = end + Duration::from_millis(3 * number as u64);
            let moment = moment - Duration::from_millis(before_ms);
            let left = moment.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left).await;
            let is_early = end.duration_since(SystemTime::now()).is_ok_and(|it| it > EARLY);
            if !client.try_say(json!({"type": "refresh", "ref": 1, "token": fresh})).await {
                assert!(!is_early, "it was early enough");
                return;
            }
            loop {
                match client.hear_or_close().await {
                    Ok(message) if message["type"] == "refreshed" => {
                        lives(&mut client).await;
                        return;
                    }
                    Ok(_) => {}
                    Err(code) => {
                        assert_eq!((code, is_early), (4001, false));
                        return;
                    }
                }
            }
        }
    });
    futures_util::future::join_all(spread).await;
    server.stop().await;
}
