//! Every operation of HTTP and every call of gRPC, by callers that may do it and callers that may
//! not.

use bytes::{BufMut, BytesMut};
use leftoff::edge::hooks::Grant;
use leftoff::edge::{grpc, proto};
use leftoff::permission::{Action, Permission};
use prost::Message;
use serde_json::{Value, json};

use super::{CANARY, Host, Way, by, everything, to_be_asked};
use crate::common::{Answer, get, send, send_h2c, soon};

const SECRET: &str = "secret.one";

/// What an operation needs, and what a caller without it gets.
enum Rule {
    /// The permission for the action on the topic. Without it: 403.
    Needs(Action),
    /// The permission to subscribe to the topic, or to manage it. Without both: 403.
    Shows,
    /// The permission to administer. Without it: 403.
    Administers,
    /// The permission to subscribe, without which the answer has no topics.
    Lists,
    /// The messages inside are checked, and not the request.
    Inside,
    /// Everybody who is known may do it, and is told of itself alone.
    Own,
    /// Everybody may do it.
    Everybody,
}

impl Rule {
    /// Returns whether a caller is refused who may not do it.
    fn is_checked(&self) -> bool {
        matches!(self, Self::Needs(_) | Self::Shows | Self::Administers)
    }

    /// Returns whether a caller may do it, as `permitted` may.
    fn permits(&self, caller: &str, permitted: &str) -> bool {
        caller == permitted || matches!(self, Self::Shows) && caller == "manager"
    }
}

/// Returns the rule of an operation of HTTP, its query, and its body.
fn http_rule(method: &str, path: &str) -> (Rule, &'static str, Value) {
    use Action::{Manage, Presence, Publish, Subscribe};
    use Rule::{Administers, Everybody, Inside, Lists, Needs, Own, Shows};
    match (method, path) {
        ("get", "/v1/topics/{topic}/events") => (Needs(Subscribe), "", Value::Null),
        ("post", "/v1/topics/{topic}/events") => (Needs(Publish), "", json!("said")),
        ("delete", "/v1/topics/{topic}/events") => (Needs(Manage), "?before=1", Value::Null),
        ("get", "/v1/events") => {
            (Needs(Subscribe), "?topic=secret.%3E&topic=secret.one", Value::Null)
        }
        ("post", "/v1/events") => {
            (Needs(Subscribe), "?from=earliest", json!({"topics": ["secret.*"]}))
        }
        ("post", "/v1/publish") => {
            (Needs(Publish), "", json!({"topics": ["secret.two", SECRET], "event": {}}))
        }
        ("post", "/v1/follow") => {
            let asked = json!({"subscription": "s", "topic": SECRET, "from": "earliest"});
            (Inside, "", json!({"subscriptions": [asked]}))
        }
        ("get", "/v1/ws") => (Inside, "", Value::Null),
        ("get", "/v1/topics") => (Lists, "", Value::Null),
        ("get", "/v1/topics/{topic}") => (Shows, "", Value::Null),
        ("put" | "patch", "/v1/topics/{topic}") => (Needs(Manage), "", json!({"max_events": 9})),
        ("delete", "/v1/topics/{topic}") => (Needs(Manage), "", Value::Null),
        ("get", "/v1/topics/{topic}/state") => (Needs(Subscribe), "", Value::Null),
        ("get", "/v1/topics/{topic}/presence") => (Needs(Presence), "", Value::Null),
        ("get", "/v1/consumers") => (Own, "", Value::Null),
        ("get" | "delete", "/v1/consumers/{consumer}") => {
            (Needs(Subscribe), "?topic=secret.one", Value::Null)
        }
        ("put" | "patch", "/v1/consumers/{consumer}") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"filter": {}}))
        }
        ("post", "/v1/consumers/{consumer}/checkpoint") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"cursor": "1"}))
        }
        ("post", "/v1/consumers/{consumer}/marks") => {
            let marks = json!({"mark": ["seen"], "events": [1]});
            (Needs(Subscribe), "?topic=secret.one", marks)
        }
        ("get", "/v1/consumers/{consumer}/marks" | "/v1/consumers/{consumer}/counts") => {
            (Needs(Subscribe), "?topic=secret.one", Value::Null)
        }
        ("post", "/v1/consumers/{consumer}/pull") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"worker": "w"}))
        }
        ("post", "/v1/consumers/{consumer}/settle") => {
            (Needs(Subscribe), "?topic=secret.one", json!({"ack": ["1-1-1-1"]}))
        }
        ("get", "/v1/consumers/{consumer}/work") => {
            (Needs(Subscribe), "?topic=secret.one", Value::Null)
        }
        ("post", "/v1/counts") => {
            (Needs(Subscribe), "", json!([{"consumer": "c", "topic": "secret.one"}]))
        }
        ("post", "/v1/maintenance") => (Administers, "?topic=secret.one", Value::Null),
        ("delete", "/v1/connections/{connection}") => (Administers, "", Value::Null),
        ("get", "/v1/cluster" | "/v1/connections" | "/metrics") => (Administers, "", Value::Null),
        ("get", "/v1/overview" | "/v1/overview/topics") => (Administers, "", Value::Null),
        ("get", "/v1/digests") => (Administers, "?topic=secret.one", Value::Null),
        ("get", "/v1/overview/consumers") => (Administers, "?topic=secret.one", Value::Null),
        ("get", "/v1/webhooks" | "/v1/webhooks/{webhook}") => (Administers, "", Value::Null),
        ("put", "/v1/webhooks/{webhook}") => {
            let wanted = json!({"topic": SECRET, "url": "https://localhost:1/"});
            (Administers, "", wanted)
        }
        ("patch", "/v1/webhooks/{webhook}") => (Administers, "", json!({})),
        ("delete", "/v1/webhooks/{webhook}") => (Administers, "", Value::Null),
        ("post", "/v1/webhooks/{webhook}/rotate") => (Administers, "", json!({})),
        (
            "post",
            "/v1/webhooks/{webhook}/pause"
            | "/v1/webhooks/{webhook}/resume"
            | "/v1/webhooks/{webhook}/test",
        ) => (Administers, "", Value::Null),
        ("get", "/healthz" | "/readyz" | "/openapi.json") => (Everybody, "", Value::Null),
        _ => panic!("{method} {path} has no rule"),
    }
}

/// Grants every caller of the matrix its permission.
async fn host(way: Way) -> Host {
    let host = Host::by(way).await;
    host.publish(SECRET, CANARY).await;
    host.publish("other.one", "public").await;
    let decisions = &host.decisions;
    decisions.grant(Grant::new("nothing", Permission::default()));
    decisions.grant(Grant::new("stranger", everything("other.>")));
    decisions.grant(Grant::new("asked", to_be_asked()));
    decisions.grant(Grant::new("administrator", Permission::default().administering()));
    for (caller, action) in OWNERS {
        host.grant_one(caller, action, "secret.>");
    }
    host
}

/// The callers that may do one thing each.
const OWNERS: [(&str, Action); 4] = [
    ("publisher", Action::Publish),
    ("subscriber", Action::Subscribe),
    ("member", Action::Presence),
    ("manager", Action::Manage),
];

fn owner(action: Action) -> &'static str {
    OWNERS.iter().find(|(_, its)| *its == action).unwrap().0
}

/// Returns the kind of problem of an answer of HTTP: `denied`, for example.
fn problem(answer: &Answer) -> String {
    let json = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
    let kind = json["type"].as_str().unwrap_or_default();
    kind.strip_prefix("urn:leftoff:problem:").unwrap_or_default().to_owned()
}

fn shows(answer: &Answer, text: &str) -> bool {
    format!("{:?}{}", answer.headers, String::from_utf8_lossy(&answer.body)).contains(text)
}

/// Goal: each operation of HTTP does what its rule says, for every kind of caller.
#[tokio::test]
async fn every_operation_of_http_is_for_those_who_may_do_it() {
    for way in [Way::Mounted, Way::Served] {
        ask_every_operation_of_http(way).await;
    }
}

async fn ask_every_operation_of_http(way: Way) {
    let host = host(way).await;
    let document = get(host.address, "/openapi.json").await.json();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = ["get", "post", "put", "patch", "delete"];
        operations
            .extend(methods.iter().filter(|it| item.get(**it).is_some()).map(|it| (*it, path)));
    }
    // Deletions come last, and that of the topic at the very end.
    operations.sort_by_key(|(method, path)| match *method {
        "delete" => (true, usize::MAX - path.len()),
        _ => (false, path.len()),
    });
    assert!(operations.len() >= 20, "{operations:?}");
    if document["paths"].get("/v1/webhooks/{webhook}").is_some() {
        let (_, _, wanted) = http_rule("put", "/v1/webhooks/{webhook}");
        let request = by("administrator", &host, "PUT", "/v1/webhooks/w");
        let made = send(request, wanted.to_string()).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    for (method, path) in operations {
        let (rule, query, body) = http_rule(method, path);
        let url = format!("{}{query}", path.replace("{topic}", SECRET).replace("{consumer}", "c"));
        let url = url.replace("{webhook}", "w").replace("{connection}", "999999999");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let ask = async |caller: &str| {
            let request = by(caller, &host, &method.to_uppercase(), &url);
            let answer = send(request.header("accept", "application/json"), body.clone()).await;
            (problem(&answer), answer)
        };
        let (kind, unknown) = ask("unknown").await;
        if matches!(rule, Rule::Everybody) {
            assert_eq!(unknown.status, 200, "{method} {path}");
            continue;
        }
        let challenge = unknown.header("www-authenticate");
        assert_eq!((&*kind, challenge), ("unauthenticated", "Bearer"), "{method} {path}");
        for caller in ["nothing", "stranger", "asked"] {
            let (kind, answer) = ask(caller).await;
            let expected = if rule.is_checked() { "denied" } else { "" };
            assert_eq!(kind, expected, "{method} {path} by {caller}: {answer:?}");
            let told = |text| shows(&answer, text);
            assert!(!told(CANARY), "{method} {path} by {caller}: {answer:?}");
            let is_named = matches!(rule, Rule::Lists) && told("secret");
            assert!(!is_named, "{method} {path} by {caller}: {answer:?}");
            // A topic that does not exist looks the same as one that does.
            if matches!(rule, Rule::Needs(_) | Rule::Shows) {
                let other =
                    url.replace("secret.one", "secret.not").replace("secret.%3E", "secret.n");
                let request = by(caller, &host, &method.to_uppercase(), &other);
                let unknown =
                    send(request.header("accept", "application/json"), body.clone()).await;
                assert_eq!((unknown.status, problem(&unknown)), (answer.status, kind), "{other}");
            }
        }
        let permitted = match rule {
            Rule::Needs(action) => owner(action),
            Rule::Administers => "administrator",
            _ => "subscriber",
        };
        let others = OWNERS.iter().map(|(caller, _)| *caller).chain(["administrator"]);
        for caller in others.filter(|caller| !rule.permits(caller, permitted)) {
            let (kind, answer) = ask(caller).await;
            let is_refused = kind == "denied" && !shows(&answer, CANARY);
            let is_checked = rule.is_checked();
            assert!(is_refused || !is_checked, "{method} {path} by {caller}: {answer:?}");
        }
        if matches!(rule, Rule::Shows) {
            let (kind, answer) = ask("manager").await;
            assert_eq!(kind, "", "{method} {path} by a manager: {answer:?}");
        }
        let (kind, answer) = ask(permitted).await;
        // There is nobody's work, which is told to those who may know.
        let has_work = ["/pull", "/settle", "/work"].iter().any(|end| path.ends_with(end));
        let done = if has_work { "unknown-consumer" } else { "" };
        assert_eq!(kind, done, "{method} {path} by {permitted}: {answer:?}");
        let reads = path.ends_with("events") && method != "delete" || path.ends_with("state");
        if matches!(rule, Rule::Needs(Action::Subscribe)) && reads {
            assert!(shows(&answer, CANARY), "{method} {path}: {answer:?}");
        }
        if matches!(rule, Rule::Lists) {
            assert!(shows(&answer, SECRET) && !shows(&answer, "other"), "{answer:?}");
        }
    }
    host.stop().await;
}

/// Returns the rule of a call of gRPC, and its message.
fn grpc_rule(call: &str) -> (Rule, Vec<u8>) {
    use Action::{Manage, Presence, Publish, Subscribe};
    use Rule::{Administers, Inside, Lists, Needs, Own, Shows};
    let topic = || SECRET.to_owned();
    let events = vec![proto::NewEvent::default()];
    let config = || Some(proto::TopicConfig::default());
    let consumer = || {
        let (topic, consumer) = (topic(), "c".to_owned());
        Some(proto::ConsumerRef { topic, consumer, ..proto::ConsumerRef::default() })
    };
    let work = || Some(proto::WorkRef { topic: topic(), consumer: "c".to_owned() });
    let first = || proto::EventRef { sequence: 1, ..proto::EventRef::default() };
    macro_rules! message {
        ($message:ident { $($field:ident: $value:expr),* }) => {{
            #[allow(unused_mut, reason = "some messages have no field")]
            let mut message = proto::$message::default();
            $(message.$field = $value;)*
            message.encode_to_vec()
        }};
    }
    match call {
        "Publish" => (Needs(Publish), message!(PublishRequest { topic: topic(), events: events })),
        "PublishStream" => {
            (Inside, message!(PublishStreamRequest { topic: topic(), events: events }))
        }
        "Subscribe" => (
            Needs(Subscribe),
            message!(SubscribeRequest { topic: topic(), from: "earliest".to_owned() }),
        ),
        "Read" => (Needs(Subscribe), message!(ReadRequest { topics: vec!["secret.>".to_owned()] })),
        "ReadState" => (Needs(Subscribe), message!(ReadStateRequest { topic: topic() })),
        "GetTopic" => (Shows, message!(GetTopicRequest { topic: topic() })),
        "ListTopics" => (Lists, message!(ListTopicsRequest {})),
        "ListMembers" => (Needs(Presence), message!(ListMembersRequest { topic: topic() })),
        "CreateTopic" => {
            (Needs(Manage), message!(CreateTopicRequest { topic: topic(), config: config() }))
        }
        "UpdateTopic" => {
            (Needs(Manage), message!(UpdateTopicRequest { topic: topic(), config: config() }))
        }
        "PurgeTopic" => {
            (Needs(Manage), message!(PurgeTopicRequest { topic: topic(), before: Some(1) }))
        }
        "DeleteTopic" => (Needs(Manage), message!(DeleteTopicRequest { topic: topic() })),
        "PutConsumer" => (Needs(Subscribe), message!(PutConsumerRequest { consumer: consumer() })),
        "UpdateConsumer" => {
            (Needs(Subscribe), message!(UpdateConsumerRequest { consumer: consumer() }))
        }
        "GetConsumer" => (Needs(Subscribe), message!(GetConsumerRequest { consumer: consumer() })),
        "ListConsumers" => (Own, message!(ListConsumersRequest {})),
        "DeleteConsumer" => {
            (Needs(Subscribe), message!(DeleteConsumerRequest { consumer: consumer() }))
        }
        "SetCheckpoint" => {
            let cursor = "1".to_owned();
            let message = message!(SetCheckpointRequest { consumer: consumer(), cursor: cursor });
            (Needs(Subscribe), message)
        }
        "CheckpointStream" => (Own, message!(CheckpointStreamRequest {})),
        "MarkEvents" => {
            let (mark, events) = (vec!["seen".to_owned()], vec![first()]);
            let message =
                message!(MarkEventsRequest { consumer: consumer(), mark: mark, events: events });
            (Needs(Subscribe), message)
        }
        "GetMarks" => (Needs(Subscribe), message!(GetMarksRequest { consumer: consumer() })),
        "CountEvents" => {
            let asked = proto::ConsumerCounts { consumer: consumer(), filters: Vec::new() };
            (Needs(Subscribe), message!(CountEventsRequest { consumers: vec![asked] }))
        }
        "ReadInbox" => (Needs(Subscribe), message!(ReadInboxRequest { consumer: consumer() })),
        "ReadGroups" => {
            let by = "key".to_owned();
            let message = message!(ReadGroupsRequest { consumer: consumer(), group_by: by });
            (Needs(Subscribe), message)
        }
        "Pull" => {
            let message = message!(PullRequest { of: work(), worker: "w".to_owned() });
            (Needs(Subscribe), message)
        }
        "Settle" => {
            let message = message!(SettleRequest { of: work(), ack: vec!["1-1-1-1".to_owned()] });
            (Needs(Subscribe), message)
        }
        "Work" => {
            let start = proto::WorkStart {
                of: work(),
                worker: "w".to_owned(),
                ..proto::WorkStart::default()
            };
            let start = Some(proto::work_request::Request::Start(start));
            (Needs(Subscribe), message!(WorkRequest { request: start }))
        }
        "GetWork" => (Needs(Subscribe), message!(GetWorkRequest { of: work() })),
        "Maintain" => (Administers, message!(MaintainRequest { topic: topic() })),
        "Backup" => (Administers, message!(BackupRequest {})),
        _ => panic!("{call} has no rule"),
    }
}

/// Calls a method, and returns its status and its answer. Endless calls end by their deadline.
async fn called(caller: &str, host: &Host, path: &str, message: &[u8]) -> (u32, Answer) {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    let request = by(caller, host, "POST", path).header("content-type", "application/grpc");
    let request = request.header("te", "trailers").header("grpc-timeout", "400m");
    let answer = soon(send_h2c(request, body.freeze())).await;
    let status = answer.trailers.get("grpc-status").or(answer.headers.get("grpc-status"));
    let status = status.unwrap_or_else(|| panic!("{path}: {answer:?}")).to_str().unwrap();
    (status.parse().unwrap(), answer)
}

/// Goal: each call of gRPC does what its rule says, for every kind of caller.
#[tokio::test]
async fn every_call_of_grpc_is_for_those_who_may_do_it() {
    for way in [Way::Mounted, Way::Served] {
        ask_every_call_of_grpc(way).await;
    }
}

async fn ask_every_call_of_grpc(way: Way) {
    const UNAUTHENTICATED: u32 = 16;
    const DENIED: u32 = 7;
    let host = host(way).await;
    let files = prost_types::FileDescriptorSet::decode(grpc::DESCRIPTORS).unwrap().file;
    let mut calls = Vec::new();
    for file in files.iter().filter(|file| file.package() == "leftoff.v1") {
        for service in &file.service {
            let path = |call: &str| format!("/leftoff.v1.{}/{call}", service.name());
            let names = service.method.iter().map(|method| method.name().to_owned());
            calls.extend(names.map(|name| (path(&name), name)));
        }
    }
    calls.sort_by_key(|(_, name)| name.starts_with("Delete"));
    assert!(calls.len() >= 14, "{calls:?}");
    for (path, name) in calls {
        let (rule, message) = grpc_rule(&name);
        let ask = async |caller: &str| called(caller, &host, &path, &message).await;
        assert_eq!(ask("unknown").await.0, UNAUTHENTICATED, "{name}");
        let last = host.broker.topic(&SECRET.parse().unwrap()).map(|topic| topic.extent.tail);
        for caller in ["nothing", "stranger", "asked"] {
            let (status, answer) = ask(caller).await;
            let is_checked = rule.is_checked();
            assert_eq!(status, if is_checked { DENIED } else { 0 }, "{name} by {caller}");
            assert!(!shows(&answer, CANARY), "{name} by {caller}: {answer:?}");
            let names_it = matches!(rule, Rule::Lists) && shows(&answer, "secret");
            assert!(!names_it, "{name} by {caller}: {answer:?}");
            if matches!(rule, Rule::Inside) {
                let is_told =
                    shows(&answer, "may not publish to") || shows(&answer, "not this one");
                assert!(is_told, "{name}: {answer:?}");
            }
        }
        let now = host.broker.topic(&SECRET.parse().unwrap()).map(|topic| topic.extent.tail);
        assert_eq!(now.ok(), last.ok(), "{name} of a stranger changed the topic");
        let permitted = match (&rule, name.as_str()) {
            (Rule::Needs(action), _) => owner(*action),
            (Rule::Administers, _) => "administrator",
            (_, "PublishStream") => "publisher",
            _ => "subscriber",
        };
        let others = OWNERS.iter().map(|(caller, _)| *caller).chain(["administrator"]);
        for caller in others.filter(|caller| !rule.permits(caller, permitted)) {
            let (status, answer) = ask(caller).await;
            let is_checked = rule.is_checked();
            assert!(status == DENIED || !is_checked, "{name} by {caller}: {answer:?}");
        }
        if matches!(rule, Rule::Shows) {
            let (status, answer) = ask("manager").await;
            assert_eq!(status, 0, "{name} by a manager: {answer:?}");
        }
        let (status, answer) = ask(permitted).await;
        assert!(![UNAUTHENTICATED, DENIED].contains(&status), "{name}: {answer:?}");
        let reads = ["Subscribe", "Read", "ReadState", "ReadInbox", "ReadGroups"];
        if reads.contains(&name.as_str()) {
            assert!(shows(&answer, CANARY), "{name}: {answer:?}");
        }
    }
    host.stop().await;
}
