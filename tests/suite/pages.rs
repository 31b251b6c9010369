//! The rights of a web page at a broker: a page of the broker's own, of an allowed origin, and of
//! any other.

use std::net::SocketAddr;

use http::StatusCode;
use leftoff::Config;
use leftoff::edge::proto;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::common::{Server, get, post, publish, send, send_h2c, soon, to};
use crate::webdriver::Browser;

const EVENTS: &str = "/v1/topics/a/events";

/// Serves an empty page on a free port of the loopback device.
async fn empty_page() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _head = socket.read(&mut [0; 16 << 10]).await;
                let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\
                              content-length: 0\r\nconnection: close\r\n\r\n";
                let _gone = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

/// The script of a page that tries everything at the broker of its first argument, step by step. It
/// returns what the page itself learns of each step: `true` where it succeeded.
const TRY_ALL: &str = r#"
    const [broker, frame] = arguments;
    const events = `${broker}/v1/topics/a/events`;
    const post = (path, body, more) => fetch(broker + path, { method: "POST", body, ...more });
    const reads = (promise) => promise.then((answer) => answer.ok, () => false);
    const outcome = {};
    // Requests that need no permission of the broker: the page does not learn their outcome.
    await post("/v1/topics/a/events", "blind", { mode: "no-cors" }).catch(() => {});
    await post("/v1/maintenance", "", { mode: "no-cors" }).catch(() => {});
    navigator.sendBeacon(events, "beacon");
    const bytes = Uint8Array.from(frame);
    await post("/leftoff.v1.AdminService/DeleteTopic", bytes, { mode: "no-cors" }).catch(() => {});
    // Requests whose answers the page may read, if it is allowed to.
    outcome.page = await reads(fetch(events));
    outcome.etag = await fetch(events).then((it) => it.headers.has("etag"), () => false);
    const cursor = { "Last-Event-ID": "0", accept: "application/json" };
    outcome.resume = await reads(fetch(events, { headers: cursor, credentials: "include" }));
    const type = { "content-type": "application/json" };
    outcome.publish = await reads(post("/v1/topics/a/events", "{}", { headers: type }));
    outcome.put = await reads(fetch(`${broker}/v1/topics/put`, { method: "PUT" }));
    outcome.sse = await new Promise((resolve) => {
        const source = new EventSource(`${events}?from=earliest`, { withCredentials: true });
        source.onmessage = () => { source.close(); resolve(true); };
        source.onerror = () => { source.close(); resolve(false); };
    });
    outcome.websocket = await new Promise((resolve) => {
        const socket = new WebSocket(`${broker.replace("http", "ws")}/v1/ws`, "leftoff.v1.json");
        socket.onopen = () => { socket.close(); resolve(true); };
        socket.onclose = () => resolve(false);
    });
    return outcome;
"#;

/// Returns a call of `DeleteTopic`, as gRPC frames it.
fn delete_call() -> Vec<u8> {
    let message = proto::DeleteTopicRequest { topic: "a".to_owned() };
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

async fn payloads(server: &Server) -> Vec<Value> {
    let page = get(server.address, EVENTS).await.json();
    page["events"].as_array().unwrap().iter().map(|event| event["data"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_reads_nothing_and_changes_nothing() {
    let (allowed, foreign) = (empty_page().await, empty_page().await);
    let mut config = Config::default();
    config.access.allowed_origins = vec![format!("http://{allowed}")];
    let server = Server::with(config).await;
    let event =
        leftoff::NewEvent { content_type: "text/plain".into(), ..leftoff::NewEvent::new("one") };
    publish(&server.broker, "a", event).await;
    let Some(browser) = Browser::start().await else { return };
    let broker = format!("http://{}", server.address);
    let script = format!("return (async function () {{ {TRY_ALL} }}).apply(null, arguments)");
    let arguments = json!([broker, delete_call()]);
    let all = |may: bool| {
        json!({"page": may, "etag": may, "resume": may, "publish": may, "put": may, "sse": may,
               "websocket": may})
    };
    // A page of another site, and a page of the same site at another port.
    for origin in [format!("http://localhost:{}", foreign.port()), format!("http://{foreign}")] {
        browser.go_to(&origin).await;
        let outcome = browser.run(&script, arguments.clone()).await;
        assert_eq!(outcome, all(false), "{origin}");
        assert_eq!(payloads(&server).await, ["one"], "{origin}");
        assert_eq!(get(server.address, "/v1/topics/put").await.status, StatusCode::NOT_FOUND);
    }
    for origin in [format!("http://{allowed}"), format!("{broker}/healthz")] {
        browser.go_to(&origin).await;
        let outcome = browser.run(&script, arguments.clone()).await;
        assert_eq!(outcome, all(true), "{origin}");
    }
    // A form's media type is not gRPC, so the topic was not deleted.
    let published = payloads(&server).await;
    assert_eq!(published.len(), 7, "{published:?}");
    drop(browser);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_made_to_point_at_the_broker_gets_nothing() {
    let mut config = Config::default();
    config.access.allowed_hosts = vec!["broker.example".to_owned()];
    let server = Server::with(config).await;
    let paths = [EVENTS, "/v1/topics", "/v1/ws", "/healthz", "/metrics", "/nothing"];
    for path in paths {
        for (host, is_refused) in [("evil.example", true), ("broker.example:80", false)] {
            let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            soon(socket.read_to_string(&mut answer)).await.unwrap();
            let status = answer.split(' ').nth(1).unwrap();
            assert_eq!(status == "421", is_refused, "{path} {host}: {answer}");
            let says_what_to_do = answer.contains("access.allowed_hosts");
            assert_eq!(says_what_to_do, is_refused, "{answer}");
        }
    }
    server.stop().await;
}

/// Goal: gRPC is no way around the rules for pages.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_served_as_grpc_alone() {
    let server = Server::start().await;
    server.publish("a", "one").await;
    let method = "/leftoff.v1.AdminService/DeleteTopic";
    let call = |media: Option<&str>, origin: Option<&str>| {
        let mut request = to(server.address, "POST", method);
        for (name, value) in [("content-type", media), ("origin", origin)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        request
    };
    let grpc = Some("application/grpc");
    let over_http1 = send(call(grpc, None), delete_call()).await;
    assert_eq!(over_http1.status, StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    let as_text = send(call(Some("text/plain"), None), delete_call()).await;
    assert_eq!(as_text.status, StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    for media in [None, Some("text/plain"), Some("application/grpcx"), Some("application/json")] {
        let refused = send_h2c(call(media, None), delete_call()).await;
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{media:?}");
    }
    let foreign = send_h2c(call(grpc, Some("http://evil.example")), delete_call()).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    assert_eq!(get(server.address, "/v1/topics/a").await.status, StatusCode::OK);
    let done = send_h2c(call(Some("application/grpc+proto"), None), delete_call()).await;
    assert_eq!((done.status, done.trailers["grpc-status"].as_bytes()), (StatusCode::OK, &b"0"[..]));
    assert_eq!(get(server.address, "/v1/topics/a").await.status, StatusCode::NOT_FOUND);
    assert_eq!(post(server.address, EVENTS, "two").await.status, StatusCode::CREATED);
    server.stop().await;
}
