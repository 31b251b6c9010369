//! Clients behind real proxies: a broker that is killed and started again is for them a stream that
//! ends and goes on, and no error for good.

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

/// So long nobody listens after a kill: clients come back sooner, and find the proxy alone.
const AWAY: Duration = Duration::from_secs(1);

/// A page whose origin is the proxy's, and the broker's own as far as a browser can tell.
const PAGE: &str = "/healthz";

/// Clients of each kind that reach the broker through `proxy`.
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

/// Goal: a browser's EventSource comes back to a broker that was killed behind nginx, over HTTP/1.1
/// and over HTTP/2, and so do other clients: each gets every event once, and is told of what is
/// gone.
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
    // Both browsers met nginx alone, and were told to come back: 200 in place of 502.
    let answers = proxy.answers();
    for version in ["HTTP/1.1", "HTTP/2.0"] {
        let is_told = |line: &str| {
            line.starts_with("200 502 ") && line.contains(version) && line.contains("Chrome")
        };
        assert!(answers.lines().any(is_told), "over {version}:\n{answers}");
    }
}

/// Goal: the same behind HAProxy, without a browser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_haproxy_clients_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::with_absences(AWAY).await;
    let Some(proxy) = Proxy::haproxy(story.address).await else { return };
    story.tell(&clients(&installed, &proxy)).await;
}

/// Goal: while the broker is away, a stream is told when to come back, and all else that it is
/// away.
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
        assert_eq!(body.matches('\n').count(), 1, "one line, and no empty one: {body:?}");
        assert_eq!(get(proxy.address, EVENTS).await.status, 503);
        assert_eq!(post(proxy.address, EVENTS, "1").await.status, 503);
    }
    let page = get(nginx.address, EVENTS).await;
    assert_eq!(page.header("retry-after"), "2");
    assert_eq!(page.json()["status"], 503);
}

/// Goal: names, patterns, long uploads and refusals are the same with a proxy and without.
#[tokio::test]
async fn behind_a_proxy_requests_and_answers_are_what_they_are_without() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let Some(nginx) = Proxy::nginx(process.address).await else { return };
    let Some(haproxy) = Proxy::haproxy(process.address).await else { return };
    for (index, proxy) in [&nginx, &haproxy].into_iter().enumerate() {
        // What proxies like to decode, to merge and to resolve.
        for name in ["a%2Fb", "a%2F%2Fb", "a%2F..%2Fb", "a%25b", "%C3%A9", "a+b", "a%20b"] {
            let path = format!("/v1/topics/{name}.{index}/events");
            let [there, here] = [process.address, proxy.address].map(|at| post(at, &path, "1"));
            let (there, here) = (there.await, here.await);
            assert_eq!(here.status, there.status, "{name}: {here:?}");
            if here.status == 201 {
                assert_eq!(here.json()["sequence"], 2, "{name} is the same topic");
            }
        }
        // More than the megabyte that nginx takes by default, in lines.
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

/// Goal: silence ends neither streams nor WebSockets nor long-polls: heartbeats come more often,
/// and waits are shorter, than what the proxies take for dead.
/// Method: all times are a thirtieth of what they are without being set.
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
        // It has to be read meanwhile, so that it answers pings.
        silent.spawn(async move {
            let event = socket.find("event").await["event"].take();
            event["data"].as_str().unwrap().to_owned()
        });
    }
    // Twice the time after which the proxies end what is silent.
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

/// The data of the first event of a stream, which does not end before.
async fn first_event(mut stream: Sse) -> String {
    stream.events(1).await.remove(0).1
}
