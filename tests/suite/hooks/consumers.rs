//! Consumers of callers that hooks know: each has its own.

use leftoff::edge::hooks::Grant;
use leftoff::permission::{Action, Permission};
use serde_json::{Value, json};

use super::{Host, Way, by};
use crate::common::send;

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
