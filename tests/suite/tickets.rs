//! Tickets, revocations and the audit of a broker whose callers must prove who they are.

use std::path::Path;

use leftoff::config::Config;
use leftoff::edge::proto;
use leftoff::edge::proto::access_service_client::AccessServiceClient;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::common::{
    Answer, Frame, Process, Server, Sse, get, lasting_address, leftoff, output_of, send, soon, to,
};

/// A caller with a key: its name, and its rights in the settings.
const CALLERS: [(&str, &str); 4] = [
    ("u", "publish = ['orders.>']\nsubscribe = ['orders.>']"),
    ("v", "subscribe = ['news']"),
    ("ops", "admin = true"),
    ("auditor", "audit = true"),
];

/// Returns the key of a caller.
fn key(name: &str) -> String {
    format!("lok_{name:x>43}")
}

/// Returns the settings of a broker with these callers.
fn settings() -> String {
    let of = |(name, rights): &(&str, &str)| {
        let hash: String =
            Sha256::digest(key(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "[[access.keys]]\nname = '{name}'\nhash = 'sha256:{hash}'\n\
             created = '2026-01-01T00:00:00Z'\n{rights}\n"
        )
    };
    let keys: String = CALLERS.iter().map(of).collect();
    format!("[access]\nmode = 'required'\n[access.tickets]\nmax_tickets_per_caller = 3\n{keys}")
}

async fn server() -> Server {
    let config: Config = toml::from_str(&settings()).unwrap();
    Server::with(config).await
}

/// Asks for something with the key of a caller; without one if the name is empty.
async fn ask(server: &Server, caller: &str, (method, path): (&str, &str), body: Value) -> Answer {
    let mut request = to(server.address, method, path);
    if !caller.is_empty() {
        request = request.header("authorization", format!("Bearer {}", key(caller)));
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(request, body).await
}

const TICKETS: (&str, &str) = ("POST", "/v1/tickets");
const REVOKE: (&str, &str) = ("POST", "/v1/access/revocations");
const REVOCATIONS: (&str, &str) = ("GET", "/v1/access/revocations");

async fn ticket(server: &Server, caller: &str, asked: Value) -> String {
    let answer = ask(server, caller, TICKETS, asked).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

/// Asks to open a WebSocket, and returns the status.
async fn web_socket(server: &Server, ticket: &str) -> u16 {
    let request = to(server.address, "GET", &format!("/v1/ws?ticket={ticket}"));
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.header("sec-websocket-version", "13");
    let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    send(request.header("sec-websocket-protocol", "leftoff.v1.json"), "").await.status.as_u16()
}

/// Goal: a ticket is made for whoever has a credential, for no more than the caller may; it is told
/// once, and no cache keeps it.
#[tokio::test]
async fn a_ticket_is_made_for_a_caller_with_a_credential() {
    let server = server().await;
    let wanted = json!({"kind": "stream", "subscribe": ["orders.*", "news"], "expires_s": 60});
    let answer = ask(&server, "u", TICKETS, wanted.clone()).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (201, "no-store"));
    let made = answer.json();
    assert_eq!(made["subscribe"], json!(["orders.*"]), "{made}");
    assert_eq!((&made["kind"], &made["publish"]), (&json!("stream"), &json!([])));
    assert!(made["expires"].as_str().unwrap().ends_with('Z'), "{made}");
    let refusals = [
        ("", wanted.clone(), 401),
        ("v", json!({"kind": "stream", "subscribe": ["orders.*"]}), 403),
        ("u", json!({"kind": "stream"}), 400),
        ("u", json!({"kind": "other"}), 400),
        ("u", json!({"kind": "once", "more": 1}), 400),
        ("u", json!("once"), 400),
        ("u", json!({"kind": "once", "subscribe": ["x".repeat(70_000)]}), 413),
    ];
    for (caller, asked, status) in refusals {
        let answer = ask(&server, caller, TICKETS, asked).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let once = json!({"kind": "once"});
    let (one, two) = (ticket(&server, "u", once.clone()).await, ticket(&server, "u", once).await);
    assert_ne!(one, two);
    let full = ask(&server, "u", TICKETS, wanted).await;
    assert_eq!((full.status.as_u16(), full.header("retry-after")), (429, "5"), "{full:?}");
    let by_ticket = to(server.address, "POST", &format!("/v1/tickets?ticket={one}"));
    assert_eq!(send(by_ticket, "{}").await.status, 401, "a ticket makes no ticket");
    server.stop().await;
}

/// Goal: a ticket for one use opens one WebSocket, and one for streams reads its topics alone.
#[tokio::test]
async fn a_ticket_is_for_what_it_was_made_for() {
    let server = server().await;
    for topic in ["orders.new", "news"] {
        server.publish(topic, format!("\"{topic}\"")).await;
    }
    let once = ticket(&server, "u", json!({"kind": "once"})).await;
    let stream = json!({"kind": "stream", "subscribe": ["orders.new"]});
    let stream = ticket(&server, "u", stream).await;
    assert_eq!(web_socket(&server, &stream).await, 401);
    let with = |ticket: &str| format!("?from=earliest&ticket={ticket}");
    assert_eq!(Sse::follow(server.address, "orders.new", &with(&once)).await.status, 401);
    assert_eq!(web_socket(&server, &once).await, 101, "what was tried has not used it up");
    assert_eq!(web_socket(&server, &once).await, 401);
    for _ in 0..2 {
        let mut events = Sse::follow(server.address, "orders.new", &with(&stream)).await;
        assert_eq!(events.events(1).await[0].1, "\"orders.new\"");
    }
    for other in ["news", "orders.old", "unknown"] {
        let refused = Sse::follow(server.address, other, &with(&stream)).await;
        assert_eq!(refused.status, 403, "{other}");
    }
    for (method, path) in [
        ("POST", "/v1/topics/orders.new/events"),
        ("GET", "/v1/topics"),
        ("GET", "/v1/topics/orders.new"),
        ("DELETE", "/v1/topics/orders.new"),
        ("GET", "/metrics"),
    ] {
        let request = to(server.address, method, &format!("{path}?ticket={stream}"));
        assert_eq!(send(request, "").await.status, 401, "{method} {path}");
    }
    server.stop().await;
}

/// Goal: a revocation ends what the caller has open at once, and refuses its keys and tickets; it
/// is for administrators, and is listed.
#[tokio::test]
async fn a_revocation_ends_connections_and_refuses_credentials() {
    let server = server().await;
    let path = "/v1/topics/orders.new/events";
    let request = to(server.address, "GET", path);
    let bearer = format!("Bearer {}", key("u"));
    let mut open = Sse::open(request.header("authorization", bearer)).await.unwrap();
    assert_eq!(open.status, 200);
    let stream = json!({"kind": "stream", "subscribe": ["orders.>"]});
    let stream = ticket(&server, "u", stream).await;
    let mut by_ticket =
        Sse::follow(server.address, "orders.new", &format!("?ticket={stream}")).await;
    assert_eq!(by_ticket.status, 200);
    for (caller, status) in [("", 401), ("u", 403), ("auditor", 403)] {
        let answer = ask(&server, caller, REVOKE, json!({"sub": "u"})).await;
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(ask(&server, caller, REVOCATIONS, Value::Null).await.status, status);
    }
    let ahead = json!({"sub": "u", "before": "2999-01-01T00:00:00Z"});
    for wrong in [ahead, json!({"sub": ""}), json!({"sub": "anonymous"}), json!({})] {
        assert_eq!(ask(&server, "ops", REVOKE, wrong).await.status, 400);
    }
    let before_key = json!({"sub": "u", "before": "2025-12-31T23:59:59Z"});
    assert_eq!(ask(&server, "ops", REVOKE, before_key).await.status, 200);
    assert_eq!(ask(&server, "u", ("GET", "/v1/topics"), Value::Null).await.status, 200);
    let revoked = ask(&server, "ops", REVOKE, json!({"sub": "u"})).await;
    assert_eq!((revoked.status.as_u16(), &revoked.json()["sub"]), (200, &json!("u")));
    open.rest().await;
    by_ticket.rest().await;
    assert_eq!(ask(&server, "u", ("GET", "/v1/topics"), Value::Null).await.status, 401);
    let again = Sse::follow(server.address, "orders.new", &format!("?ticket={stream}")).await;
    assert_eq!(again.status, 401);
    assert_eq!(ask(&server, "v", ("GET", "/v1/topics"), Value::Null).await.status, 200);
    ask(&server, "ops", REVOKE, json!({"sub": "a"})).await;
    let page = |query: &'static str| ("GET", query);
    let listed = ask(&server, "ops", page("/v1/access/revocations?limit=1"), Value::Null).await;
    assert_eq!(listed.json()["revocations"][0]["sub"], "a");
    let rest =
        ask(&server, "ops", page("/v1/access/revocations?after=a"), Value::Null).await.json();
    assert_eq!(rest, json!({"revocations": [revoked.json()]}));
    server.stop().await;
}

/// Goal: the same over gRPC.
#[tokio::test]
async fn the_service_of_grpc_makes_tickets_and_revokes() {
    let server = server().await;
    let url = format!("http://{}", server.grpc_address);
    let mut client = AccessServiceClient::connect(url).await.unwrap();
    fn by<T>(caller: &str, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if !caller.is_empty() {
            let bearer = format!("Bearer {}", key(caller)).parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }
    let asked = |kind: proto::TicketKind| {
        let subscribe = vec!["orders.>".to_owned()];
        proto::CreateTicketRequest { kind: kind.into(), subscribe, ..Default::default() }
    };
    let stream = proto::TicketKind::Stream;
    let made = client.create_ticket(by("u", asked(stream))).await.unwrap().into_inner();
    assert_eq!((made.kind(), made.subscribe), (stream, vec!["orders.>".to_owned()]));
    let events = format!("?ticket={}", made.ticket);
    assert_eq!(Sse::follow(server.address, "orders.new", &events).await.status, 200);
    let refused = client.create_ticket(by("", asked(stream))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = client.create_ticket(by("v", asked(stream))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut long = asked(stream);
    long.subscribe = vec!["x".repeat(250); 300];
    let refused = client.create_ticket(by("u", long)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("65536"), "{refused:?}");
    let none = asked(proto::TicketKind::Unspecified);
    let refused = client.create_ticket(by("u", none)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let revoke = || proto::RevokeRequest { sub: "u".to_owned(), before_ms: None };
    let refused = client.revoke(by("u", revoke())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let done = client.revoke(by("ops", revoke())).await.unwrap().into_inner();
    assert_eq!(done.sub, "u");
    let list = || proto::ListRevocationsRequest { page_size: 1, page_token: String::new() };
    let refused = client.list_revocations(by("v", list())).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let listed = client.list_revocations(by("ops", list())).await.unwrap().into_inner();
    assert_eq!(listed.revocations[0].before_ms, done.before_ms);
    assert_eq!(listed.next_page_token, "u");
    assert_eq!(Sse::follow(server.address, "orders.new", &events).await.status, 401);
    server.stop().await;
}

/// Goal: what access control adds is described where it is, and is nowhere without it.
#[tokio::test]
async fn the_operations_are_described_and_exist_only_with_access_control() {
    let server = server().await;
    let document = get(server.address, "/openapi.json").await.json();
    for (path, methods) in
        [("/v1/tickets", vec!["post"]), ("/v1/access/revocations", vec!["get", "post"])]
    {
        let item = document["paths"][path].as_object().unwrap();
        assert_eq!(item.keys().collect::<Vec<_>>(), methods);
        let answer = ask(&server, "ops", ("PATCH", path), Value::Null).await;
        assert_eq!(answer.status, 405, "{path}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    server.stop().await;
    let open = Server::start().await;
    let document = get(open.address, "/openapi.json").await.json();
    for path in ["/v1/tickets", "/v1/access/revocations"] {
        assert!(document["paths"].get(path).is_none());
        assert_eq!(get(open.address, path).await.status, 404);
    }
    let own = open.broker.topics(None, 10).into_iter().filter(|it| it.name.is_own()).count();
    assert_eq!(own, 0, "an open broker has none of the topics");
    open.stop().await;
}

/// Goal: clients cannot write, change, purge or delete what access control remembers, and read of
/// it only what they may.
#[tokio::test]
async fn the_topics_of_access_control_are_the_brokers_own() {
    let server = server().await;
    for topic in ["$tickets", "$revocations", "$audit"] {
        for (method, path) in [
            ("POST", format!("/v1/topics/{topic}/events")),
            ("PUT", format!("/v1/topics/{topic}")),
            ("PATCH", format!("/v1/topics/{topic}")),
            ("DELETE", format!("/v1/topics/{topic}")),
            ("DELETE", format!("/v1/topics/{topic}/events")),
        ] {
            let answer = ask(&server, "ops", (method, &path), json!({})).await;
            assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        }
        for caller in ["u", "ops", "auditor"] {
            let path = format!("/v1/topics/{topic}/events");
            let expected = if (caller, topic) == ("auditor", "$audit") { 200 } else { 403 };
            let answer = ask(&server, caller, ("GET", &path), Value::Null).await;
            assert_eq!(answer.status, expected, "{caller} {topic}");
        }
        let info = server.broker.topic(&topic.parse().unwrap()).unwrap();
        assert_eq!(info.effective_config.durability, Some(leftoff::Durability::Fsync));
    }
    server.stop().await;
}

/// Goal: acts of administration and refusals are in the audit, with who and what and from where; no
/// credential and no ticket is.
#[tokio::test]
async fn the_audit_tells_acts_and_refusals_and_no_credential() {
    let server = server().await;
    let stream = json!({"kind": "stream", "subscribe": ["orders.>"]});
    let ticket = ticket(&server, "u", stream).await;
    ask(&server, "ops", ("PUT", "/v1/topics/orders.new"), json!({"max_events": 5})).await;
    ask(&server, "ops", ("DELETE", "/v1/topics/unknown"), Value::Null).await;
    ask(&server, "v", ("GET", "/v1/topics/orders.new/events"), Value::Null).await;
    let unknown = format!("/v1/topics/orders.new/events?ticket=lot_unknown{ticket}");
    assert_eq!(get(server.address, &unknown).await.status, 401);
    ask(&server, "ops", REVOKE, json!({"sub": "u"})).await;
    let request = to(server.address, "GET", "/v1/topics/$audit/events?from=earliest");
    let bearer = format!("Bearer {}", key("auditor"));
    let mut audit = Sse::open(request.header("authorization", bearer)).await.unwrap();
    let mut found = Vec::new();
    while found.len() < 6 {
        let frame = audit.find(Frame::is_event).await;
        found.push((frame.event.clone().unwrap(), frame.json()));
    }
    let of = |event_type: &str| -> Vec<&Value> {
        found.iter().filter(|(it, _)| it == event_type).map(|(_, entry)| entry).collect()
    };
    let refused = of("access.refused");
    assert_eq!(refused.len(), 2, "{found:?}");
    assert_eq!((&refused[0]["who"], &refused[0]["outcome"]), (&json!("v"), &json!("refused")));
    assert!(refused[0]["reason"].as_str().unwrap().contains("orders.new"), "{found:?}");
    assert_eq!(refused[1]["what"], "/v1/topics/orders.new/events");
    assert_eq!(of("access.ticket")[0]["who"], "u");
    assert_eq!(of("admin.topic.set")[0]["topic"], "orders.new");
    assert_eq!(of("admin.topic.delete")[0]["outcome"], "failed");
    let revoked = of("access.revoked")[0];
    assert_eq!((&revoked["who"], &revoked["what"]), (&json!("ops"), &json!("revoke")));
    for (_, entry) in &found {
        assert!(entry["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{entry}");
        let text = entry.to_string();
        for (caller, _) in CALLERS {
            assert!(!text.contains(&key(caller)), "{text}");
        }
        assert!(!text.contains("lot_") && !text.contains(&ticket), "{text}");
    }
    server.stop().await;
}

/// Starts a broker with access control on a directory.
fn serve(address: std::net::SocketAddr, directory: &Path) -> Process {
    let settings_file = directory.join("settings.toml");
    std::fs::write(&settings_file, settings()).unwrap();
    let arguments = ["--config", settings_file.to_str().unwrap()];
    Process::serve_at(address, &directory.join("data"), &arguments)
}

/// Goal: a page with a ticket in the URL of its `EventSource` goes on through kills of the broker,
/// without an event lost or repeated; and a revocation before a kill holds after it. Both are in a
/// backup, too.
#[tokio::test]
async fn a_ticket_for_streams_and_a_revocation_hold_through_three_kills() {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let as_caller = |name: &str, method: &str, path: &str| {
        to(address, method, path).header("authorization", format!("Bearer {}", key(name)))
    };
    let mut broker = serve(address, directory.path());
    let made = async |caller: &str, topic: &str| {
        let wanted = json!({"kind": "stream", "subscribe": [topic]}).to_string();
        let answer = send(as_caller(caller, "POST", "/v1/tickets"), wanted).await.json();
        answer["ticket"].as_str().unwrap().to_owned()
    };
    let (kept, revoked) = (made("u", "orders.new").await, made("v", "news").await);
    let server = format!("http://{address}");
    let by = |token: &str, arguments: &[&str]| {
        let mut command = leftoff();
        command.args(arguments).args(["--server", &server]).env("LEFTOFF_TOKEN", token);
        output_of(&mut command)
    };
    let revoke = ["access", "revoke", "--sub", "v"];
    for token in ["", &key("u")] {
        assert!(
            !by(token, &revoke).status.success(),
            "it needs the credential of an administrator"
        );
    }
    let done = by(&key("ops"), &revoke);
    assert!(done.status.success() && done.stdout.starts_with(b"v: credentials"), "{done:?}");
    let (mut last_id, mut next) = (String::new(), 1);
    for round in 0..4 {
        for _ in 0..3 {
            let path = "/v1/topics/orders.new/events";
            assert_eq!(send(as_caller("u", "POST", path), "x").await.status, 201);
        }
        let path = format!("/v1/topics/orders.new/events?from=earliest&ticket={kept}");
        let request = to(address, "GET", &path).header("last-event-id", &last_id);
        let mut events = Sse::open(request).await.unwrap();
        assert_eq!(events.status, 200, "round {round}");
        for (sequence, _) in soon(events.events(3)).await {
            assert_eq!(sequence, next, "round {round}");
            next += 1;
        }
        last_id = events.last_id.clone().unwrap();
        let news = to(address, "GET", &format!("/v1/topics/news/events?ticket={revoked}"));
        assert_eq!(Sse::open(news).await.unwrap().status, 401, "round {round}");
        assert_eq!(send(as_caller("v", "GET", "/v1/topics"), "").await.status, 401);
        if round == 3 {
            break;
        }
        broker.crash();
        broker = serve(address, directory.path());
    }
    let (backup, data) = (directory.path().join("backup"), directory.path().join("data"));
    let made = by(&key("ops"), &["backup", backup.to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    broker.crash();
    std::fs::remove_dir_all(&data).unwrap();
    let restore = ["restore", backup.to_str().unwrap(), "--data-dir", data.to_str().unwrap()];
    assert!(output_of(leftoff().args(restore)).status.success());
    broker = serve(address, directory.path());
    let events = format!("?from=earliest&ticket={kept}");
    assert_eq!(Sse::follow(address, "orders.new", &events).await.events(1).await[0].0, 1);
    assert_eq!(send(as_caller("v", "GET", "/v1/topics"), "").await.status, 401);
    broker.crash();
}

/// Goal: the name of the publisher is in the header where the topic's settings want it, on HTTP and
/// gRPC alike.
#[tokio::test]
async fn a_topic_that_wants_it_names_the_publisher_of_each_event() {
    let server = server().await;
    let wanted = json!({"stamp_publisher": true});
    let set = ask(&server, "ops", ("PUT", "/v1/topics/orders.named"), wanted).await;
    assert_eq!(set.json()["config"]["stamp_publisher"], true, "{set:?}");
    for topic in ["orders.named", "orders.plain"] {
        let path = format!("/v1/topics/{topic}/events");
        assert_eq!(ask(&server, "u", ("POST", &path), json!("one")).await.status, 201);
        let lines =
            to(server.address, "POST", &path).header("content-type", "application/x-ndjson");
        let lines = lines.header("authorization", format!("Bearer {}", key("u")));
        assert_eq!(send(lines, "{\"data\":2}\n{\"data\":3}\n").await.status, 201);
        let page = ask(&server, "u", ("GET", &format!("{path}?from=earliest")), Value::Null).await;
        let events = page.json()["events"].as_array().unwrap().clone();
        assert_eq!(events.len(), 3, "{page:?}");
        for event in events {
            let expected = if topic == "orders.named" { json!("u") } else { Value::Null };
            assert_eq!(event["headers"]["leftoff-publisher"], expected, "{topic}: {event}");
        }
    }
    server.stop().await;
}
