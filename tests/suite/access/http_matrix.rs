//! Every operation of HTTP, by every kind of credential.

use leftoff::permission::Action;
use serde_json::{Value, json};

use super::credentials::Sent;
use super::kinds::{Credentials, KINDS, Kind, Use};
use super::{CANARY, Outcome, Rule, SECRET, all_of_answer, config, problem};
use crate::common::{Answer, Server, get, name, send};

/// The operation as it is asked for: its rule, its query, its body, and the status of success.
struct Operation {
    rule: Rule,
    query: &'static str,
    body: Value,
    status: u16,
}

/// Returns a webhook whose receiver is found, and never reached.
fn webhook() -> Value {
    json!({"topic": SECRET, "url": "https://localhost:1/"})
}

/// Returns an operation of HTTP.
fn operation(method: &str, path: &str) -> Operation {
    use Action::{Manage, Presence, Publish, Subscribe};
    use Rule::{Administers, Inside, Lists, Needs, Nothing, Shows};
    let (rule, query, body, status) = match (method, path) {
        ("get", "/v1/topics/{topic}/events") => (Needs(Subscribe), "", Value::Null, 200),
        ("post", "/v1/topics/{topic}/events") => (Needs(Publish), "", json!("said"), 201),
        ("delete", "/v1/topics/{topic}/events") => (Needs(Manage), "?before=1", Value::Null, 200),
        ("get", "/v1/events") => {
            (Needs(Subscribe), "?topic=secret.one&topic=secret.one.%3E", Value::Null, 200)
        }
        ("post", "/v1/events") => {
            (Needs(Subscribe), "?from=earliest", json!({"topics": ["secret.*"]}), 200)
        }
        ("post", "/v1/publish") => {
            (Needs(Publish), "", json!({"topics": [SECRET], "event": {}}), 201)
        }
        ("post", "/v1/follow") => {
            let asked = json!({"subscription": "s", "topic": SECRET, "from": "earliest"});
            (Inside, "", json!({"subscriptions": [asked]}), 200)
        }
        ("get", "/v1/ws") => (Inside, "", Value::Null, 426),
        ("get", "/v1/topics") => (Lists, "", Value::Null, 200),
        ("get", "/v1/topics/{topic}") => (Shows, "", Value::Null, 200),
        ("put", "/v1/topics/{topic}") => (Needs(Manage), "", json!({"max_events": 9}), 200),
        ("patch", "/v1/topics/{topic}") => (Needs(Manage), "", json!({"max_events": 9}), 200),
        ("delete", "/v1/topics/{topic}") => (Needs(Manage), "", Value::Null, 204),
        ("get", "/v1/topics/{topic}/state") => (Needs(Subscribe), "", Value::Null, 200),
        ("get", "/v1/topics/{topic}/presence") => (Needs(Presence), "", Value::Null, 200),
        ("get", "/v1/consumers") => (Inside, "", Value::Null, 200),
        ("get" | "delete", "/v1/consumers/{consumer}") => {
            let status = if method == "get" { 200 } else { 204 };
            (Needs(Subscribe), "?topic=secret.one", Value::Null, status)
        }
        ("put", "/v1/consumers/{consumer}") => {
            (Needs(Subscribe), "?topic=secret.one", json!({}), 201)
        }
        ("patch", "/v1/consumers/{consumer}") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"filter": null}), 200)
        }
        ("post", "/v1/consumers/{consumer}/checkpoint") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"cursor": "1"}), 200)
        }
        ("post", "/v1/consumers/{consumer}/marks") => {
            let marks = json!({"mark": ["seen"], "events": [1]});
            (Needs(Subscribe), "?topic=secret.one", marks, 200)
        }
        ("get", "/v1/consumers/{consumer}/marks" | "/v1/consumers/{consumer}/counts") => {
            (Needs(Subscribe), "?topic=secret.one", Value::Null, 200)
        }
        ("post", "/v1/consumers/{consumer}/pull") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"worker": "w"}), 404)
        }
        ("post", "/v1/consumers/{consumer}/settle") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"ack": ["1-1-1-1"]}), 404)
        }
        ("get", "/v1/consumers/{consumer}/work") => {
            (Needs(Subscribe), "?topic=secret.one", Value::Null, 404)
        }
        ("post", "/v1/counts") => {
            (Needs(Subscribe), "", json!([{"consumer": "c", "topic": SECRET}]), 200)
        }
        ("post", "/v1/maintenance") => (Administers, "?topic=secret.one", Value::Null, 200),
        ("delete", "/v1/connections/{connection}") => (Administers, "", Value::Null, 404),
        ("get", "/v1/cluster" | "/v1/connections" | "/metrics") => {
            (Administers, "", Value::Null, 200)
        }
        ("get", "/v1/overview" | "/v1/overview/topics") => (Administers, "", Value::Null, 200),
        ("get", "/v1/digests") => (Administers, "?topic=secret.one", Value::Null, 200),
        ("get", "/v1/overview/consumers") => (Administers, "?topic=secret.one", Value::Null, 200),
        ("get", "/v1/webhooks" | "/v1/webhooks/{webhook}") => (Administers, "", Value::Null, 200),
        ("put", "/v1/webhooks/{webhook}") => (Administers, "", webhook(), 200),
        ("patch", "/v1/webhooks/{webhook}") => (Administers, "", json!({}), 200),
        ("delete", "/v1/webhooks/{webhook}") => (Administers, "", Value::Null, 204),
        ("post", "/v1/webhooks/{webhook}/rotate") => (Administers, "", json!({}), 200),
        (
            "post",
            "/v1/webhooks/{webhook}/pause"
            | "/v1/webhooks/{webhook}/resume"
            | "/v1/webhooks/{webhook}/test",
        ) => (Administers, "", Value::Null, 200),
        ("post", "/v1/tickets") => (Inside, "", json!({"kind": "once"}), 201),
        ("post", "/v1/access/explain") => (Administers, "", json!({"credential": "lok_x"}), 200),
        ("get", "/v1/access/revocations") => (Administers, "", Value::Null, 200),
        ("post", "/v1/access/revocations") => {
            (Administers, "", json!({"sub": "somebody-else"}), 200)
        }
        ("get", "/healthz" | "/readyz" | "/openapi.json") => (Nothing, "", Value::Null, 200),
        _ => panic!("{method} {path} has no rule"),
    };
    Operation { rule, query, body, status }
}

/// Returns the operations that the OpenAPI document names.
async fn operations(server: &Server) -> Vec<(&'static str, String)> {
    let document = get(server.address, "/openapi.json").await.json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = ["get", "post", "put", "patch", "delete", "head", "options", "trace"];
        let methods = methods.iter().filter(|method| item.get(**method).is_some());
        operations.extend(methods.map(|method| (*method, path.clone())));
    }
    assert!(operations.len() >= 23, "{operations:?}");
    operations
}

async fn ask(server: &Server, sent: &Sent, method: &str, url: &str, body: &Value) -> Answer {
    let request = sent.to(server.address, &method.to_uppercase(), url);
    let request = request.header("accept", "application/json");
    match body {
        Value::Null => send(request, "").await,
        _ => send(request.header("content-type", "application/json"), body.to_string()).await,
    }
}

/// Publishes the canary if the topic is gone, and returns what the topic is.
async fn topic_of(server: &Server) -> String {
    if server.broker.topic(&name(SECRET)).is_err() {
        server.publish(SECRET, CANARY).await;
    }
    format!("{:?}", server.broker.topic(&name(SECRET)).unwrap())
}

/// Goal: each operation of HTTP does what its rule says, for every kind of credential; a refusal
/// changes nothing, shows nothing, and is the same for a topic that does not exist.
#[tokio::test]
async fn every_operation_of_http_by_every_kind_of_credential() {
    let server = Server::with(config()).await;
    server.publish(SECRET, CANARY).await;
    let credentials = Credentials::make(&server).await;
    for (method, path) in operations(&server).await {
        let operation = operation(method, &path);
        for kind in KINDS {
            check(&server, &credentials, method, &path, &operation, kind).await;
        }
    }
    server.stop().await;
}

async fn check(
    server: &Server,
    credentials: &Credentials,
    method: &str,
    path: &str,
    operation: &Operation,
    kind: Kind,
) {
    let Operation { rule, query, body, status } = operation;
    let url = format!("{}{query}", path.replace("{topic}", SECRET).replace("{consumer}", "c"));
    let url = url.replace("{webhook}", "w").replace("{connection}", "999999999");
    if path.contains("{webhook}") {
        // An operation before this one may have deleted it.
        let admin = credentials.one(server, Kind::AdminKey).await;
        let made = ask(server, &admin, "put", "/v1/webhooks/w", &webhook()).await;
        assert!(made.status.is_success(), "{made:?}");
    }
    let before = topic_of(server).await;
    let sent = credentials.one(server, kind).await;
    let answer = ask(server, &sent, method, &url, body).await;
    let context = format!("{method} {path} by {kind:?}: {answer:?}");
    let reads = method == "get" && path.ends_with("/events");
    let standing = kind.standing(if reads { Use::Reads } else { Use::Other });
    let outcome = rule.outcome(standing);
    let expected = match outcome {
        Outcome::Unauthenticated => (401, "unauthenticated"),
        Outcome::Denied => (403, "denied"),
        // Several kinds of credential are of one caller, who has the consumer then.
        Outcome::Done if path == "/v1/consumers/{consumer}" && answer.status == 200 => (200, ""),
        Outcome::Done => (*status, if *status < 400 { "" } else { &problem(&answer) }),
    };
    assert_eq!((answer.status.as_u16(), &*problem(&answer)), expected, "{context}");
    if outcome == Outcome::Unauthenticated {
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{context}");
    }
    if outcome != Outcome::Done {
        assert_eq!(before, topic_of(server).await, "changed by {context}");
        let shown = all_of_answer(&answer);
        assert!(!shown.contains(CANARY), "{context}");
        assert_eq!(answer.header("cache-control"), "no-store", "{context}");
        same_without_topic(server, credentials, kind, (method, &url, body), &answer).await;
    }
    let is_listed = all_of_answer(&answer).contains("secret");
    if *rule == Rule::Lists && outcome == Outcome::Done {
        let may_see = Rule::Needs(Action::Subscribe).outcome(standing);
        assert_eq!(is_listed, may_see == Outcome::Done, "{context}");
    }
}

/// Checks that a topic that does not exist is refused in the same words.
async fn same_without_topic(
    server: &Server,
    credentials: &Credentials,
    kind: Kind,
    (method, url, body): (&str, &str, &Value),
    refused: &Answer,
) {
    if !url.contains(SECRET) {
        return;
    }
    let other = url.replace(SECRET, "secret.not");
    let sent = credentials.one(server, kind).await;
    let unknown = ask(server, &sent, method, &other, body).await;
    let text =
        |answer: &Answer| String::from_utf8_lossy(&answer.body).replace("secret.not", SECRET);
    assert_eq!(unknown.status, refused.status, "{method} {other} by {kind:?}");
    assert_eq!(text(&unknown), text(refused), "{method} {other} by {kind:?}");
    let names = |answer: &Answer| {
        let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(names(&unknown), names(refused), "{method} {other} by {kind:?}");
}

/// Goal: event streams are refused as pages are, and in the same words: the form of the answer
/// gives no right.
#[tokio::test]
async fn every_stream_by_every_kind_of_credential() {
    let server = Server::with(config()).await;
    server.publish(SECRET, CANARY).await;
    let credentials = Credentials::make(&server).await;
    let streams = [
        format!("/v1/topics/{SECRET}/events?from=earliest"),
        format!("/v1/events?topic={SECRET}&topic={SECRET}.%3E&from=earliest"),
    ];
    for (path, kind) in streams.iter().flat_map(|path| KINDS.map(|kind| (path, kind))) {
        let sent = credentials.one(&server, kind).await;
        let request = sent.to(server.address, "GET", path);
        let mut stream = crate::common::Sse::open(request).await.unwrap();
        let rule = Rule::Needs(Action::Subscribe);
        let outcome = rule.outcome(kind.standing(Use::Reads));
        let expected = match outcome {
            Outcome::Unauthenticated => 401,
            Outcome::Denied => 403,
            Outcome::Done => 200,
        };
        assert_eq!(stream.status, expected, "{path} by {kind:?}");
        if outcome == Outcome::Done {
            let frame = stream.find(|frame| frame.is_event()).await;
            assert!(frame.data.unwrap().contains(CANARY), "{path} by {kind:?}");
        }
    }
    server.stop().await;
}
