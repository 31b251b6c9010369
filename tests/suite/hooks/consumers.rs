//! Consumers of callers that hooks know: each has its own.

use leftoff::edge::hooks::{Grant, Revoker};
use leftoff::permission::{Action, Permission};
use serde_json::{Value, json};

use super::{Host, Way, by, to_be_asked};
use crate::common::{Sse, send};

/// Goal: consumers of one caller are invisible to another, who has its own of the same name; an
/// owner is named by administrators alone; a part of a selection is not enough.
#[tokio::test]
async fn each_caller_has_its_own_consumers_and_sees_nothing_of_others() {
    for way in [Way::Mounted, Way::Served] {
        let host = Host::by(way).await;
        host.publish("u.one", "x").await;
        let reads = |patterns: [&'static str; 1]| {
            Permission::default().with(Action::Subscribe, patterns).unwrap()
        };
        host.decisions.grant(Grant::new("ann", reads(["u.>"])));
        host.decisions.grant(Grant::new("bob", reads(["u.>"])));
        host.decisions.grant(Grant::new("part", reads(["u.one"])));
        host.decisions.grant(Grant::new("boss", reads(["u.>"]).administering()));
        let ask = async |caller: &str, method: &str, path: &str, body: Value| {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            send(by(caller, &host, method, path), body).await
        };
        let marks = "/v1/consumers/inbox/marks?topic=u.%3E";
        let body = json!({"mark": ["read"], "events": [{"topic": "u.one", "sequence": 1}]});
        let marked = ask("ann", "POST", marks, body.clone()).await;
        assert_eq!(marked.status, 200, "{marked:?}");
        let unread = async |caller: &str, query: &str| {
            let path = format!("/v1/consumers/inbox/counts?topic=u.%3E{query}");
            let counts = ask(caller, "GET", &path, Value::Null).await;
            (counts.status.as_u16(), counts.json()["unread"].as_u64())
        };
        assert_eq!(unread("ann", "").await, (200, Some(0)));
        assert_eq!(unread("bob", "").await, (200, Some(1)), "bob has read nothing");
        assert_eq!(unread("ann", "&owner=ann").await, (200, Some(0)));
        assert_eq!(unread("bob", "&owner=ann").await.0, 403);
        assert_eq!(unread("bob", "&owner=nobody").await.0, 403, "whether there is one or not");
        assert_eq!(unread("boss", "&owner=ann").await, (200, Some(0)));
        let list = async |caller: &str, query: &str| {
            let listed = ask(caller, "GET", &format!("/v1/consumers{query}"), Value::Null).await;
            let count = listed.json()["consumers"].as_array().map(Vec::len);
            (listed.status.as_u16(), count)
        };
        assert_eq!(list("ann", "").await, (200, Some(1)));
        assert_eq!(list("bob", "").await, (200, Some(0)));
        assert_eq!(list("bob", "?owner=ann").await.0, 403);
        assert_eq!(list("boss", "?owner=ann").await, (200, Some(1)));
        let part = ask("part", "POST", marks, body).await;
        assert_eq!(part.status, 403, "{part:?}");
        let events = "/v1/events?topic=u.%3E&consumer=inbox";
        assert_eq!(ask("part", "GET", events, Value::Null).await.status, 403);
        // What a caller may not read any more is not listed.
        host.decisions.grant(Grant::new("ann", reads(["v.>"])));
        assert_eq!(list("ann", "").await, (200, Some(0)));
        host.stop().await;
    }
}

/// Goal: a stream of a consumer ends when its caller may not name it any more, and goes on while it
/// may: with the same rights after a renewal, the marks go on without a gap.
#[tokio::test]
async fn a_stream_of_a_consumer_lives_as_long_as_its_caller_may_name_it() {
    let host = Host::by(Way::Served).await;
    host.publish("u.one", "x").await;
    let reads = || Permission::default().with(Action::Subscribe, ["u.>"]).unwrap();
    let granted = |permission: Permission| {
        let revoker = Revoker::default();
        host.decisions.grant(Grant::new("boss", permission).revoked_by(revoker.clone()));
        revoker
    };
    host.decisions.grant(Grant::new("ann", reads()));
    let first = granted(reads().administering());
    let path = "/v1/events?topic=u.%3E&consumer=inbox&owner=ann";
    let mut stream = Sse::open(by("boss", &host, "GET", path)).await.unwrap();
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let second = granted(reads().administering());
    first.revoke();
    let marks = by("ann", &host, "POST", "/v1/consumers/inbox/marks?topic=u.%3E");
    let body = json!({"mark": ["read"], "events": [{"topic": "u.one", "sequence": 1}]});
    assert_eq!(send(marks, body.to_string()).await.status, 200);
    let marked = stream.find(|frame| frame.is_control("leftoff.marked")).await.json();
    assert_eq!((&marked["by"], &marked["events"]["u.one"]), (&json!("ann"), &json!("1")));
    granted(reads()); // It reads the topics as before, and administers no more.
    second.revoke();
    let end = stream.find(|frame| frame.is_control("leftoff.error")).await.json();
    assert_eq!(end["status"], json!(403), "{end}");
    assert!(stream.next().await.is_none());
    host.stop().await;
}

/// Goal: nobody is told counts of topics that are refused to it one by one: from the moment on at
/// which each topic is to be asked about, a stream of a consumer ends.
#[tokio::test]
async fn a_stream_of_a_consumer_ends_when_its_topics_are_to_be_asked_about() {
    let host = Host::by(Way::Served).await;
    host.publish("u.one", "x").await;
    let revoker = Revoker::default();
    let reads = Permission::default().with(Action::Subscribe, ["u.>"]).unwrap();
    host.decisions.grant(Grant::new("ann", reads).revoked_by(revoker.clone()));
    let path = "/v1/events?topic=u.%3E&consumer=inbox&counts=true";
    let mut stream = Sse::open(by("ann", &host, "GET", path)).await.unwrap();
    stream.find(|frame| frame.is_control("leftoff.counts")).await;
    host.decisions.grant(Grant::new("ann", to_be_asked()));
    revoker.revoke();
    let end = stream.find(|frame| frame.is_control("leftoff.error")).await.json();
    assert_eq!(end["status"], json!(400), "{end}");
    assert!(stream.next().await.is_none());
    host.stop().await;
}
