//! Clients behind real proxies: when the broker is killed and started again, their streams end and
//! go on, without an error that ends them for good.

use std::path::Path;
use std::time::Duration;

use leftoff::config::Config;
use serde_json::json;
use tokio::task::JoinSet;

use super::client::{Client, Installed};
use super::event_streams::PYPI;
use super::proxy::Proxy;
use super::story::{EVENTS, Story, TOPIC};
use crate::common::{Process, Sse, get, lasting_address, post, send, soon, text, to};
use crate::webdriver::Browser;
use crate::websocket::Client as WebSocket;

/// The time without a broker after a kill: clients reconnect sooner, and reach the proxy alone.
const AWAY: Duration = Duration::from_secs(1);

/// A page of the proxy's origin, which a browser takes for the broker's own.
const PAGE: &str = "/healthz";

/// Returns clients of each kind that reach the broker through `proxy`.
fn clients(installed: &Installed, proxy: &Proxy) -> Vec<Client> {
    let (address, secure) = (proxy.address, proxy.secure_address.to_string());
    let stream = format!("http://{address}{EVENTS}?from=earliest");
    let socket = format!("ws://{address}/v1/ws");
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let node = |name: &str, program: &str, arguments: &[&str]| {
        installed.node(&format!("{name} behind a proxy"), program, arguments)
    };
    let streams = ["eventsource-2", "eventsource-5", "event-source-polyfill", "fetch-event-source"];
    let streams = streams.map(|name| node(name, "event_stream.cjs", &[name, &stream]));
    let python = |name: &str, program: &str, arguments: &[&str]| {
        installed.python(&format!("{name} behind a proxy"), program, arguments)
    };
    let streams_in_python = PYPI.map(|name| python(name, "event_stream.py", &[name, &stream]));
    let certificate = proxy.certificate();
    let grpc = [&secure, TOPIC, protos.to_str().unwrap(), &certificate];
    let others = [
        node("ws", "web_socket.cjs", &["ws", &socket, TOPIC]).rewritten(),
        python("websockets", "web_socket.py", &[&socket, TOPIC]).rewritten(),
        node("grpc-js", "grpc.cjs", &grpc),
        python("grpcio", "grpc_reflected.py", &[&secure, TOPIC, &certificate]),
    ];
    streams.into_iter().chain(streams_in_python).chain(others).collect()
}

/// Goal: behind nginx, over HTTP/1.1 and over HTTP/2, a browser's EventSource and other clients
/// reconnect to a broker that was killed. Each gets every event once, and is told of the gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_nginx_a_browser_and_others_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::with_absences(AWAY).await;
    let Some(proxy) = Proxy::nginx(story.address).await else { return };
    let mut clients = clients(&installed, &proxy);
    for origin in [format!("http://{}", proxy.address), format!("https://{}", proxy.secure_address)]
    {
        let Some(browser) = Browser::start().await else { return };
        browser.go_to(&format!("{origin}{PAGE}")).await;
        let url = format!("{EVENTS}?from=earliest");
        clients.extend(installed.page(browser, &["EventSource"], &url).await);
    }
    story.tell(&clients).await;
    // Both browsers met nginx without a broker, and were told to come back: by 200 in place of 502.
    let answers = proxy.answers();
    for version in ["HTTP/1.1", "HTTP/2.0"] {
        let is_told = |line: &str| {
            line.starts_with("200 502 ") && line.contains(version) && line.contains("Chrome")
        };
        assert!(answers.lines().any(is_told), "over {version}:\n{answers}");
    }
}

/// Goal: the same holds behind HAProxy, without a browser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_clients_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::with_absences(AWAY).await;
    let Some(proxy) = Proxy::haproxy(story.address).await else { return };
    story.tell(&clients(&installed, &proxy)).await;
}

/// Goal: while the broker is away, the proxy tells a stream when to come back, and answers any
/// other request with 503.
#[tokio::test]
async fn behind_a_proxy_a_stream_is_told_to_come_back_while_the_broker_is_away() {
    let nobody = lasting_address();
    let Some(nginx) = Proxy::nginx(nobody).await else { return };
    let Some(haproxy) = Proxy::haproxy(nobody).await else { return };
    for proxy in [&nginx, &haproxy] {
        let request = to(proxy.address, "GET", EVENTS).header("accept", "text/event-stream");
        let told = send(request, "").await;
        assert_eq!(told.status, 200);
        assert!(told.header("content-type").starts_with("text/event-stream"), "{told:?}");
        assert_eq!(told.header("cache-control"), "no-store");
        let body = text(&told.body);
        let retry_ms: u64 = body.strip_prefix("retry: ").unwrap().trim_end().parse().unwrap();
        assert!((2_000..3_000).contains(&retry_ms), "{body:?}");
        assert_eq!(body.matches('\n').count(), 1, "not a single line: {body:?}");
        assert_eq!(get(proxy.address, EVENTS).await.status, 503);
        assert_eq!(post(proxy.address, EVENTS, "1").await.status, 503);
    }
    let page = get(nginx.address, EVENTS).await;
    assert_eq!(page.header("retry-after"), "2");
    assert_eq!(page.json()["status"], 503);
}

/// Goal: names, patterns, long uploads and refusals are the same with a proxy as without.
#[tokio::test]
async fn behind_a_proxy_requests_and_answers_are_what_they_are_without() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let Some(nginx) = Proxy::nginx(process.address).await else { return };
    let Some(haproxy) = Proxy::haproxy(process.address).await else { return };
    for (index, proxy) in [&nginx, &haproxy].into_iter().enumerate() {
        // Names that proxies like to decode, merge or resolve.
        for name in ["a%2Fb", "a%2F%2Fb", "a%2F..%2Fb", "a%25b", "%C3%A9", "a+b", "a%20b"] {
            let path = format!("/v1/topics/{name}.{index}/events");
            let [there, here] = [process.address, proxy.address].map(|at| post(at, &path, "1"));
            let (there, here) = (there.await, here.await);
            assert_eq!(here.status, there.status, "{name}: {here:?}");
            if here.status == 201 {
                assert_eq!(here.json()["sequence"], 2, "{name} is another topic");
            }
        }
        // A body of lines of more than 1 MiB, nginx's default limit.
        let line = json!({"data": "x".repeat(1000)}).to_string();
        let lines = format!("{line}\n").repeat(3000);
        let request = to(proxy.address, "POST", "/v1/topics/large/events");
        let taken = send(request.header("content-type", "application/x-ndjson"), lines).await;
        assert_eq!(taken.status, 201, "{}", text(&taken.body));
        let too_large = post(proxy.address, EVENTS, vec![b'x'; 2 << 20]).await;
        assert_eq!(too_large.status, 413);
        assert_eq!(too_large.header("content-type"), "application/problem+json");
    }
}

/// Goal: silence ends no stream, no WebSocket and no long poll: heartbeats are more frequent, and
/// waits are shorter, than the proxies' time limits.
/// Method: run with a thirtieth of each default time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_silence_ends_nothing() {
    const SHARE: u64 = 30;
    const SILENCE: (&str, &str) = ("90s", "3s");
    let follow = Config::default().follow;
    let wait_ms = follow.max_wait_ms / SHARE;
    let settings = [
        format!("follow.heartbeat_ms={}", follow.heartbeat_ms / SHARE),
        format!("follow.max_wait_ms={wait_ms}"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["--set", &settings[0], "--set", &settings[1]];
    let process = Process::serve(directory.path(), &arguments);
    let Some(nginx) = Proxy::nginx_with(process.address, &[SILENCE]).await else { return };
    let Some(haproxy) = Proxy::haproxy_with(process.address, &[SILENCE]).await else { return };
    let mut silent = JoinSet::new();
    for address in [nginx.address, haproxy.address] {
        let stream = Sse::follow(address, "a", "").await;
        silent.spawn(first_event(stream));
        let mut socket = WebSocket::connect(address).await;
        socket.say(json!({"type": "subscribe", "subscription": "s", "topic": "a"})).await;
        socket.until_subscribed(1).await;
        // The socket must be read meanwhile, so that it answers pings.
        silent.spawn(async move {
            let event = socket.find("event").await["event"].take();
            event["data"].as_str().unwrap().to_owned()
        });
    }
    // Three waits take twice the time after which the proxies end a silent connection.
    for _ in 0..3 {
        for address in [nginx.address, haproxy.address] {
            let path = format!("/v1/topics/a/events?from=latest&wait={wait_ms}ms");
            let page = get(address, &path).await;
            assert_eq!(page.status, 200, "{}", text(&page.body));
        }
    }
    assert_eq!(post(process.address, "/v1/topics/a/events", "1").await.status, 201);
    let told = soon(silent.join_all()).await;
    assert_eq!(told, ["1"; 4]);
}

/// Returns the data of the first event of a stream, which must not end before.
async fn first_event(mut stream: Sse) -> String {
    stream.events(1).await.remove(0).1
}
