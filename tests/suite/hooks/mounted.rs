//! What depends on how the routes and services are served: what is open to everybody, who is shown,
//! and a service that is mounted alone.

use std::time::{Duration, SystemTime};

use leftoff::edge::hooks::Grant;
use leftoff::edge::proto::{NewEvent, PublishRequest};
use leftoff::edge::{Edge, grpc};
use leftoff::permission::{Action, Permission};
use leftoff::{Broker, OpenConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;
use tonic::transport::Endpoint;

use super::{CALLER, Deciding, Decisions, Host, Way, by, call, everything};
use crate::common::{Sse, get, send, soon};

/// Goal: health and reflection, and the paths that say whether the broker works, are for everybody.
#[tokio::test]
async fn health_and_reflection_ask_nobody() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

    let host = Host::by(Way::Served).await;
    let channel = Endpoint::new(format!("http://{}", host.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let health = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(channel.clone()).check(health).await.unwrap();
    assert_eq!(health.into_inner().status, 1);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let list = futures_util::stream::iter([list]);
    let mut services = ServerReflectionClient::new(channel).server_reflection_info(list).await;
    let services = soon(services.as_mut().unwrap().get_mut().message()).await.unwrap().unwrap();
    assert!(format!("{services:?}").contains("leftoff.v1.PublisherService"), "{services:?}");
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(get(host.address, path).await.status, 200, "{path}");
    }
    assert_eq!(host.decisions.told(), [""; 0]);
    host.stop().await;
}

/// Goal: a host may keep `/readyz` for its callers. Any grant is enough.
#[tokio::test]
async fn a_host_may_guard_readyz() {
    for way in [Way::Mounted, Way::Served] {
        let host = Host::by(way).await;
        host.decisions.grant(Grant::new("anybody", Permission::default()));
        host.decisions.guards_readyz.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(get(host.address, "/readyz").await.status, 401);
        assert_eq!(send(by("anybody", &host, "GET", "/readyz"), "").await.status, 200);
        assert_eq!(get(host.address, "/healthz").await.status, 200);
        host.stop().await;
    }
}

/// Goal: a ticket in the query is known on every route, and no answer and no list repeats it.
#[tokio::test]
async fn a_ticket_is_known_on_every_route_and_repeated_nowhere() {
    const TICKET: &str = "ticket=secret-7c1d&ticket";
    let host = Host::by(Way::Served).await;
    host.decisions.grant(Grant::new("administrator", Permission::all()));
    host.publish("t", "1").await;
    let document = get(host.address, "/openapi.json").await.json();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            host.publish("t", "1").await; // A method may have deleted the topic.
            let described = operation["parameters"].as_array().unwrap();
            assert!(described.iter().any(|it| it["name"] == "ticket"), "{method} {path}");
            if ["/pull", "/settle", "/work"].iter().any(|end| path.ends_with(end)) {
                continue; // There is no shared work here.
            }
            if path.contains("{webhook}") || path.contains("{connection}") {
                continue; // There is none here.
            }
            let of_consumer = path.contains("{consumer}");
            let of_topic =
                ["/v1/events", "/v1/overview/consumers", "/v1/digests"].contains(&&**path);
            let needs_topic = of_consumer || (method == "get" && of_topic);
            let topic = if needs_topic { "&topic=t" } else { "" };
            let plain = path.replace("{topic}", "t").replace("{consumer}", "c");
            let (named, path) = (&**path, format!("{plain}?{TICKET}{topic}"));
            let request = || by("administrator", &host, &method.to_uppercase(), &path);
            let body = match (method, named) {
                ("post", "/v1/counts") => "[]",
                ("post", "/v1/follow") => {
                    "{\"subscriptions\":[{\"subscription\":\"s\",\"topic\":\"t\"}]}"
                }
                ("post", "/v1/publish") => "{\"topics\":[\"t\"],\"event\":{}}",
                ("post", "/v1/consumers/{consumer}/checkpoint") => "{\"cursor\":\"0\"}",
                ("post", _) if of_consumer => "{\"mark\":[\"seen\"],\"events\":[1]}",
                ("post", _) => "{\"topics\":[\"t\"]}",
                _ => "",
            };
            let answer = send(request().header("accept", "application/json"), body).await;
            let told = format!("{:?}{}", answer.headers, String::from_utf8_lossy(&answer.body));
            assert!(
                answer.status.as_u16() < 400 || answer.status == 426,
                "{method} {path}: {told}"
            );
            assert!(!told.contains("secret-7c1d"), "{told}");
            if method == "get" && path.contains("/events") {
                let mut stream = Sse::open(request()).await.unwrap();
                let frame = stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
                let told = format!("{:?}{frame:?}", stream.headers);
                assert!(!told.contains("secret-7c1d") && !told.contains("ignored"), "{told}");
            }
        }
    }
    let wrong = by("administrator", &host, "GET", &format!("/v1/topics?{TICKET}&limt=5"));
    let wrong = send(wrong, "").await;
    let text = String::from_utf8_lossy(&wrong.body).into_owned();
    assert!(wrong.status == 400 && text.contains("limt") && !text.contains("secret"), "{text}");
    let path = format!("/v1/events?topic=t&{TICKET}");
    let _following = Sse::open(by("administrator", &host, "GET", &path)).await.unwrap();
    let list = send(by("administrator", &host, "GET", "/v1/connections"), "").await;
    assert!(!String::from_utf8_lossy(&list.body).contains("secret"), "{list:?}");
    host.stop().await;
}

/// Goal: the list of connections shows who the caller of each is.
#[tokio::test]
async fn the_list_of_connections_shows_the_caller_of_each() {
    let host = Host::by(Way::Served).await;
    let administrator = Permission::default().administering();
    host.decisions.grant(Grant::new("administrator", administrator));
    let list = by("administrator", &host, "GET", "/v1/connections");
    let list = send(list, "").await.json();
    assert_eq!(list["connections"][0]["user"], "administrator", "{list}");
    host.stop().await;
}

/// Goal: a service that is mounted by itself asks for each call.
#[tokio::test]
async fn a_service_that_is_mounted_alone_asks_the_hooks() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let decisions = std::sync::Arc::new(Decisions::default());
    let publish = Permission::default().with(Action::Publish, ["a"]).unwrap();
    decisions.grant(Grant::new("publisher", publish));
    let edge = Edge::new(broker.clone()).hooks(Deciding(decisions.clone()));
    let services = tonic::service::Routes::new(grpc::publisher(&edge));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = services.prepare().into_axum_router();
    let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut client = crate::common::grpc(address).await;
    let request = |topic: &str| PublishRequest {
        topic: topic.to_owned(),
        events: vec![NewEvent::default()],
        ..Default::default()
    };
    let refused = client.publish(call("nobody", request("a"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    let refused = client.publish(call("publisher", request("b"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    client.publish(call("publisher", request("a"))).await.unwrap();
    let tail = |name: &str| broker.topic(&name.parse().unwrap()).map(|it| it.extent.tail.get());
    assert_eq!((tail("a").unwrap(), tail("b").is_err()), (2, true));
    serving.abort();
    broker.close().await;
}

/// Goal: a caller whom nobody knows is refused before the body of its call is read.
#[tokio::test]
async fn nobody_reads_the_body_of_a_caller_that_is_refused() {
    let host = Host::start().await;
    let (sender, body) = tokio::sync::mpsc::channel::<Result<bytes::Bytes, std::io::Error>>(1);
    let body =
        futures_util::stream::unfold(
            body,
            |mut body| async move { Some((body.recv().await?, body)) },
        );
    let request = by("nobody", &host, "POST", "/leftoff.v1.PublisherService/Publish");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http();
    let answer = client.request(request.body(axum::body::Body::from_stream(body)).unwrap());
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "16", "{answer:?}");
    drop(sender);
    host.stop().await;
}

/// Goal: a publish whose body comes in after the end of its sender's grant is not stored.
#[tokio::test]
async fn a_body_that_takes_longer_than_the_grant_is_not_stored() {
    let host = Host::start().await;
    let until = SystemTime::now() + Duration::from_millis(500);
    let end = tokio::time::Instant::now() + Duration::from_millis(500);
    host.decisions.grant(Grant::new("guest", everything(">")).until(until));
    let mut upload = TcpStream::connect(host.address).await.unwrap();
    let head = format!(
        "POST /v1/topics/t/events HTTP/1.1\r\nhost: localhost\r\n{CALLER}: guest\r\n\
         content-length: 2\r\n\r\na"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep_until(end).await;
    host.decisions.refuse("guest");
    upload.write_all(b"b").await.unwrap();
    let mut bytes = [0; 4096];
    let count = soon(upload.read(&mut bytes)).await.unwrap();
    let answer = String::from_utf8_lossy(&bytes[..count]);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let topic = host.broker.topic(&"t".parse().unwrap());
    assert!(topic.is_err(), "{}", json!(topic.unwrap().extent.tail.get()));
    host.stop().await;
}
