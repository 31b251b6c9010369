//! New tokens of a WebSocket's client: what goes on, what ends, and what they cannot do.

use std::time::{Duration, SystemTime};

use leftoff::edge::hooks::{Grant, Revoker};
use leftoff::permission::Permission;
use serde_json::{Value, json};

use super::{Host, everything, filter_of};
use crate::common::{Server, soon};
use crate::websocket::Client;

/// The time of a grant: long enough for what comes before its end.
const GRANTED: Duration = Duration::from_secs(2);

/// A connection of `guest`, whose grant is final and ends after [`GRANTED`].
async fn connected(host: &Host, permission: Permission) -> (Client, SystemTime) {
    let end = SystemTime::now() + GRANTED;
    let grant = Grant::new("guest", permission).until(end).without_renewal();
    host.decisions.grant(grant);
    (Client::connect_as(host.address, "guest").await, end)
}

async fn subscribe(client: &mut Client, name: &str, topics: &[&str]) {
    client.say(json!({"type": "subscribe", "subscription": name, "topics": topics})).await;
    while client.find("caught_up").await["subscription"] != name {}
}

/// Returns the answer to a new token.
async fn refresh(client: &mut Client, token: &str) -> Value {
    client.say(json!({"type": "refresh", "ref": token, "token": token})).await;
    loop {
        let answer = client.hear().await;
        if answer["ref"] == token {
            return answer;
        }
    }
}

async fn until(end: SystemTime) {
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left).await;
}

fn in_an_hour() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3_600)
}

/// Goal: with a new token the connection outlives the former grant, its subscriptions go on, and
/// the hooks see the token as the one credential of the same request.
#[tokio::test]
async fn a_connection_lives_as_long_as_its_last_token() {
    let host = Host::start().await;
    let (mut client, end) = connected(&host, everything(">")).await;
    subscribe(&mut client, "s", &["t"]).await;
    let later = in_an_hour();
    host.decisions.take_token("new", Grant::new("guest", everything(">")).until(later));
    let refreshed = refresh(&mut client, "new").await;
    assert_eq!(refreshed["type"], "refreshed", "{refreshed}");
    let told = humantime::parse_rfc3339(refreshed["until"].as_str().unwrap()).unwrap();
    assert!(later.duration_since(told).unwrap() < Duration::from_millis(2), "{refreshed}");
    until(end + Duration::from_millis(50)).await;
    host.publish("t", "after the former end").await;
    assert_eq!(client.find("event").await["event"]["data"], "after the former end");
    assert_eq!(host.decisions.told().iter().filter(|it| it.starts_with("renewal")).count(), 1);
    // The end of the new grant counts as well.
    let soon_over = SystemTime::now() + Duration::from_millis(300);
    let brief = Grant::new("guest", everything(">")).until(soon_over).without_renewal();
    host.decisions.take_token("brief", brief);
    assert_eq!(refresh(&mut client, "brief").await["type"], "refreshed");
    assert_eq!(soon(client.closed()).await.0, 4001);
    host.stop().await;
}

/// Goal: permissions are checked anew at once: a subscription that lost topics ends and says so,
/// the others go on, and none of them grows.
#[tokio::test]
async fn subscriptions_that_lost_topics_end_and_the_others_go_on() {
    let host = Host::start().await;
    let (mut client, _end) = connected(&host, everything(">")).await;
    for (name, topics) in
        [("kept", &["a.one"][..]), ("lost", &["b.>"]), ("part", &["a.one", "c.one"])]
    {
        subscribe(&mut client, name, topics).await;
    }
    host.decisions.take_token("less", Grant::new("guest", everything("a.>")).until(in_an_hour()));
    client.say(json!({"type": "refresh", "token": "less"})).await;
    let (mut ended, mut is_refreshed) = (Vec::new(), false);
    while ended.len() < 2 || !is_refreshed {
        let message = client.hear().await;
        match message["type"].as_str().unwrap() {
            "refreshed" => is_refreshed = message.get("ref").is_none(),
            "ended" => {
                assert_eq!(message["error"]["type"], "urn:leftoff:problem:denied", "{message}");
                assert_eq!(message["error"]["status"], 403, "{message}");
                ended.push(message["subscription"].as_str().unwrap().to_owned());
            }
            _ => panic!("{message}"),
        }
    }
    ended.sort();
    assert_eq!(ended, ["lost", "part"]);
    // What is permitted of a pattern is read; more of it needs a new subscription.
    subscribe(&mut client, "cut", &[">"]).await;
    host.decisions.take_token("more", Grant::new("guest", everything(">")).until(in_an_hour()));
    assert_eq!(refresh(&mut client, "more").await["type"], "refreshed");
    for topic in ["b.one", "c.one", "a.one"] {
        host.publish(topic, "x").await;
    }
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let event = client.find("event").await;
        assert_eq!(event["event"]["topic"], "a.one", "{event}");
        heard.push(event["subscription"].as_str().unwrap().to_owned());
    }
    heard.sort();
    assert_eq!(heard, ["cut", "kept"]);
    subscribe(&mut client, "new", &["b.>"]).await;
    host.publish("b.one", "x").await;
    assert_eq!(client.find("event").await["subscription"], "new");
    // Another filter would be another stream.
    let filtered = Grant::new("guest", everything(">")).filter(filter_of("mine"));
    host.decisions.take_token("filtered", filtered);
    client.say(json!({"type": "refresh", "token": "filtered"})).await;
    for _ in ["kept", "cut", "new"] {
        assert_eq!(client.find("ended").await["error"]["status"], 403);
    }
    host.stop().await;
}

/// Goal: a token that is refused, or is of another caller, changes nothing; one without an end does
/// not take the end away.
#[tokio::test]
async fn no_token_takes_the_end_of_a_grant_away() {
    let host = Host::start().await;
    let (mut client, end) = connected(&host, everything("a.>")).await;
    subscribe(&mut client, "s", &["a.one"]).await;
    host.decisions.take_token("other", Grant::new("other", everything(">")).until(in_an_hour()));
    let past = SystemTime::now() - Duration::from_secs(1);
    host.decisions.take_token("expired", Grant::new("guest", everything(">")).until(past));
    let revoker = Revoker::default();
    revoker.revoke();
    let revoked = Grant::new("guest", everything(">")).until(in_an_hour()).revoked_by(revoker);
    host.decisions.take_token("revoked", revoked);
    for (token, status) in [("unknown", 401), ("other", 403), ("expired", 401), ("revoked", 401)] {
        let refused = refresh(&mut client, token).await;
        assert_eq!(
            (&refused["type"], &refused["error"]["status"]),
            (&json!("error"), &json!(status))
        );
    }
    let topics = json!({"type": "subscribe", "subscription": "b", "topic": "b.one"});
    client.say(topics).await;
    assert_eq!(client.find("ended").await["error"]["status"], 403, "the permission is as before");
    host.publish("a.one", "still read").await;
    assert_eq!(client.find("event").await["event"]["data"], "still read");
    let endless = Grant::new("guest", everything(">")).without_renewal();
    host.decisions.take_token("endless", endless);
    let refreshed = refresh(&mut client, "endless").await;
    let told = humantime::parse_rfc3339(refreshed["until"].as_str().unwrap()).unwrap();
    assert!(end.duration_since(told).unwrap() < Duration::from_millis(2), "{refreshed}");
    assert_eq!(soon(client.closed()).await.0, 4001);
    assert!(SystemTime::now() >= end);
    host.stop().await;
}

/// Goal: whatever is no token is refused by its name and never shown, and a client that tries
/// tokens without an end is closed as with other refused messages.
#[tokio::test]
async fn what_is_no_token_is_refused_and_too_many_of_them_close_the_connection() {
    let host = Host::start().await;
    let (mut client, _end) = connected(&host, everything(">")).await;
    for (token, status) in [
        (json!(""), 400),
        (json!("two words"), 400),
        (json!("secret\r\nx-caller: root"), 400),
        (json!(5), 400),
        (json!("x".repeat((8 << 10) + 1)), 413),
        (json!("x".repeat(8 << 10)), 401),
    ] {
        client.say(json!({"type": "refresh", "ref": 1, "token": token})).await;
        let refused = client.find("error").await;
        assert_eq!((&refused["ref"], &refused["error"]["status"]), (&json!(1), &json!(status)));
        let text = refused.to_string();
        assert!(!text.contains("secret") && !text.contains("xxx") && text.len() < 600, "{text}");
    }
    for _ in 6..16 {
        client.say(json!({"type": "refresh", "token": "unknown"})).await;
    }
    let (code, reason) = soon(client.closed()).await;
    assert_eq!(code, 1008, "{reason}");
    host.stop().await;
}

/// Goal: two tokens are taken in the order in which they came, and what is asked for meanwhile
/// waits for them.
#[tokio::test]
async fn tokens_and_subscriptions_are_taken_in_their_order() {
    let host = Host::start().await;
    let (mut client, _end) = connected(&host, everything("a.>")).await;
    let hour = in_an_hour();
    host.decisions.take_token("slow", Grant::new("guest", everything("b.>")).until(hour));
    host.decisions.take_token("fast", Grant::new("guest", everything("c.>")).until(hour));
    client.say(json!({"type": "refresh", "ref": 1, "token": "slow"})).await;
    host.decisions.until_told("renewal").await;
    client.say(json!({"type": "subscribe", "subscription": "b", "topic": "b.one"})).await;
    client.say(json!({"type": "refresh", "ref": 2, "token": "fast"})).await;
    client.say(json!({"type": "subscribe", "subscription": "c", "topic": "c.one"})).await;
    host.decisions.gate.send_replace(true);
    let (mut refreshed, mut ended) = (Vec::new(), Vec::new());
    // The subscription to `b.one` may have begun under the first token, or find the second.
    loop {
        let message = client.hear().await;
        match message["type"].as_str().unwrap() {
            "refreshed" => refreshed.push(message["ref"].as_u64().unwrap()),
            "ended" => ended.push(message["subscription"].as_str().unwrap().to_owned()),
            "subscribed" | "caught_up" => {}
            _ => panic!("{message}"),
        }
        if message["type"] == "caught_up" && message["subscription"] == "c" {
            break;
        }
    }
    while ended.is_empty() {
        ended.push(client.find("ended").await["subscription"].as_str().unwrap().to_owned());
    }
    assert_eq!((refreshed, ended), (vec![1, 2], vec!["b".to_owned()]));
    host.publish("b.one", "not any more").await;
    host.publish("c.one", "permitted").await;
    assert_eq!(client.find("event").await["event"]["topic"], "c.one");
    host.stop().await;
}

/// Goal: a token that is being checked keeps no connection alive: not past the end of a final
/// grant, and not past a revocation.
#[tokio::test]
async fn a_token_that_is_being_checked_keeps_nothing_alive() {
    let host = Host::start().await;
    host.decisions.take_token("slow", Grant::new("guest", everything(">")).until(in_an_hour()));
    let (mut client, end) = connected(&host, everything(">")).await;
    client.say(json!({"type": "refresh", "token": "slow"})).await;
    host.decisions.until_told("renewal").await;
    assert_eq!(soon(client.closed()).await.0, 4001);
    assert!(SystemTime::now() >= end);

    host.decisions.told();
    let revoker = Revoker::default();
    let grant = Grant::new("guest", everything(">")).revoked_by(revoker.clone());
    host.decisions.grant(grant.clone().without_renewal());
    let mut client = Client::connect_as(host.address, "guest").await;
    client.say(json!({"type": "refresh", "token": "slow"})).await;
    host.decisions.until_told("renewal").await;
    revoker.revoke();
    assert_eq!(soon(client.closed()).await.0, 4001);

    // The token itself is revoked while the host says yes to it.
    host.decisions.told();
    host.decisions.grant(Grant::new("guest", everything(">")).until(in_an_hour()));
    let revoker = Revoker::default();
    let of_token = Grant::new("guest", everything(">")).revoked_by(revoker.clone());
    host.decisions.take_token("slow-2", of_token);
    let mut client = Client::connect_as(host.address, "guest").await;
    client.say(json!({"type": "refresh", "token": "slow-2"})).await;
    host.decisions.until_told("renewal").await;
    revoker.revoke();
    host.decisions.gate.send_replace(true);
    assert_eq!(client.find("error").await["error"]["status"], 401);
    subscribe(&mut client, "s", &["t"]).await;
    host.stop().await;
}

/// Goal: a token that was taken is revoked like any other, and the connection is asked about again
/// with the token, and not with the credential that it was opened with.
#[tokio::test]
async fn a_taken_token_is_what_counts_from_then_on() {
    let host = Host::start().await;
    let revoker = Revoker::default();
    let (mut client, _end) = connected(&host, everything(">")).await;
    let of_token = Grant::new("guest", everything(">")).until(in_an_hour());
    host.decisions.take_token("new", of_token.clone().revoked_by(revoker.clone()));
    assert_eq!(refresh(&mut client, "new").await["type"], "refreshed");
    subscribe(&mut client, "s", &["t"]).await;
    host.decisions.take_token("new", of_token);
    host.decisions.refuse("guest");
    revoker.revoke();
    host.decisions.until_told("renewal /v1/ws").await;
    host.publish("t", "renewed by the token").await;
    assert_eq!(client.find("event").await["event"]["data"], "renewed by the token");
    host.stop().await;
}

/// Goal: a client need not know whether the broker knows callers.
#[tokio::test]
async fn without_hooks_every_token_is_taken_and_has_no_end() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let refreshed = refresh(&mut client, "any").await;
    assert_eq!(refreshed, json!({"type": "refreshed", "ref": "any", "until": null}));
    server.stop().await;
}
