//! A host that keeps a server of its own, that of axum or that of tonic, with the guards of the
//! crate.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::routing::get as on_get;
use leftoff::access::AccessConfig;
use leftoff::edge::proto;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::edge::{Edge, FollowConfig, grpc, http};
use leftoff::server::{GuardedClient, HostGuard, Listener, ServerConfig};
use leftoff::{Broker, Error, NewEvent, OpenConfig, Publish};
use leftoff_host::ways::Client;
use leftoff_host::{ask, get, read_through, soon};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Endpoint;

const SSE: (&str, &str) = ("accept", "text/event-stream");

/// The state of the host's own routes.
#[derive(Clone)]
struct App(&'static str);

fn config(write_timeout_ms: u64, shutdown_ms: u64) -> ServerConfig {
    let mut config = ServerConfig::default();
    (config.write_timeout_ms, config.shutdown_ms) = (write_timeout_ms, shutdown_ms);
    config
}

async fn broker_with_large_events() -> Broker {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    for _ in 0..40 {
        let large = NewEvent::new(vec![b'x'; 512 << 10]);
        let publish = Publish::one("large".parse().expect("a name"), large);
        soon(broker.publish(publish)).await.expect("an acknowledgement");
    }
    broker
}

/// Waits until the topic of large events has a member, and then until it has none.
async fn comes_and_goes(broker: &Broker) {
    let large = "large".parse().expect("a name");
    for is_there in [true, false] {
        soon(async {
            while broker.presence(&large, "", 9).is_empty() == is_there {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Serves the broker, and routes of the host, by axum's own server, which stops when the broker
/// drains.
fn serve(broker: &Broker, config: &ServerConfig) -> (SocketAddr, JoinHandle<()>) {
    let mut follow = FollowConfig::default();
    follow.list_connections = true;
    let edge = Edge::new(broker.clone()).follow(follow).expect("settings");
    let guard = HostGuard::new(&edge, config, &Default::default()).expect("guards");
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = listener.address().expect("an address");
    let app = Router::<App>::new()
        .route("/own", on_get(async |State(App(name)): State<App>| name))
        .merge(http::router(&edge))
        .nest("/broker", http::router(&edge))
        .with_state(App("the host's"))
        .layer(guard.layer(&AccessConfig::default(), &listener).expect("a layer"));
    let app = app.into_make_service_with_connect_info::<GuardedClient>();
    let (guarded, stop) = (guard.listener(listener), broker.clone());
    let serving = tokio::spawn(async move {
        let stop = async move { stop.draining().await };
        let served = axum::serve(guarded, app).with_graceful_shutdown(stop).await;
        served.expect("the server ends in order");
    });
    (address, serving)
}

/// Goal: the broker's routes are merged into the host's and nested under a path, whatever state the
/// host has; connections are listed.
#[tokio::test]
async fn routes_are_merged_and_nested_beside_those_of_the_host() {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    let publish = Publish::one("orders".parse().expect("a name"), NewEvent::new("one"));
    soon(broker.publish(publish)).await.expect("an acknowledgement");
    let (address, serving) = serve(&broker, &ServerConfig::default());
    let get =
        async |path| get(TcpStream::connect(address).await.expect("a connection"), path, &[]).await;
    assert!(get("/own").await.ends_with("the host's"));
    for path in ["/v1/topics/orders/events", "/broker/v1/topics/orders/events"] {
        assert!(get(path).await.contains("\"one\""), "{path}");
    }
    assert!(get("/broker/v1/topics/orders").await.contains("\"tail\":2"));
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    ask(&mut stream, "/broker/v1/topics/orders/events?from=earliest", &[SSE]).await;
    read_through(&mut stream, "data: one").await;
    let listed = get("/v1/connections").await;
    let local = stream.local_addr().expect("an address").to_string();
    assert!(listed.contains(&local) && listed.contains("\"sse\""), "{listed}");
    assert!(get("/metrics").await.contains("leftoff_client_bytes "));
    broker.drain();
    soon(serving).await.expect("no panic");
    soon(broker.close()).await;
}

/// Goal: in axum's own server, too, a client that takes nothing is cut in time, and delays no stop.
#[tokio::test]
async fn stalled_readers_of_the_hosts_server_are_cut_and_delay_no_stop() {
    let broker = broker_with_large_events().await;
    let (address, serving) = serve(&broker, &config(1_000, 60_000));
    let stall = async |address| {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let path = "/v1/topics/large/events?from=earliest&member=stalled";
        ask(&mut socket, path, &[SSE]).await;
        read_through(&mut socket, "HTTP/1.1 200").await;
        socket
    };
    let stalled = stall(address).await;
    comes_and_goes(&broker).await;
    drop(stalled);
    broker.drain();
    soon(serving).await.expect("no panic");
    soon(broker.close()).await;

    // With a longest stall of a minute, the bound of the stop cuts.
    let broker = broker_with_large_events().await;
    let (address, serving) = serve(&broker, &config(60_000, 1_500));
    let _stalled = [stall(address).await, stall(address).await];
    let started = Instant::now();
    broker.drain();
    soon(serving).await.expect("no panic");
    let took = started.elapsed();
    assert!((1_000..4_000).contains(&took.as_millis()), "they stalled until the bound: {took:?}");
    soon(broker.close()).await;
}

/// Goal: the memory that clients hold is bounded: who needs more is refused, and served once others
/// have given it back.
#[tokio::test]
async fn a_request_without_room_is_refused_until_there_is_room() {
    let mut open = OpenConfig::default();
    (open.limits.max_payload_bytes, open.limits.max_batch_bytes) = (256 << 10, 256 << 10);
    let broker = Broker::in_memory(&open).expect("a broker");
    let edge = Edge::new(broker.clone());
    let mut least = ServerConfig::default();
    least.max_client_bytes = 1;
    let refused = HostGuard::new(&edge, &least, &Default::default()).map(drop);
    let Err(Error::Invalid { field, problem }) = refused else { panic!("{refused:?}") };
    assert_eq!(field, "server.max_client_bytes");
    let numbers = problem.split(' ').filter_map(|word| word.parse::<u64>().ok());
    least.max_client_bytes = numbers.max_by_key(|it| (*it < 1 << 40, *it)).expect("a bound");

    let (address, serving) = serve(&broker, &least);
    let (client, payload) = (Client { address, token: None }, "x".repeat(200 << 10));
    let publish = async || {
        let body = format!("\"{payload}\"");
        client.http("POST", "/v1/topics/a/events", "application/json", &body).await
    };
    assert!(publish().await.starts_with("HTTP/1.1 201"));
    let mut holders = Vec::new();
    for _ in 0..64 {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let head = format!(
            "POST /v1/topics/a/events HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n",
            payload.len() + 1
        );
        soon(socket.write_all(format!("{head}{payload}").as_bytes())).await.expect("a body");
        holders.push(socket);
    }
    let refused = soon(async {
        loop {
            let answer = publish().await;
            if !answer.starts_with("HTTP/1.1 201") {
                break answer;
            }
        }
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("memory for clients"), "{refused}");
    drop(holders);
    soon(async {
        while !publish().await.starts_with("HTTP/1.1 201") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    broker.drain();
    soon(serving).await.expect("no panic");
    soon(broker.close()).await;
}

/// Forwards connections to `to`, and takes only the first 64 KiB of what comes back.
async fn stalling_proxy(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(to).await.expect("a connection");
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.split();
                let (from_server, mut to_server) = server.split();
                let asking = tokio::io::copy(&mut from_client, &mut to_server);
                let mut first = from_server.take(64 << 10);
                let answering = async {
                    tokio::io::copy(&mut first, &mut to_client).await.expect("the client is there");
                    std::future::pending::<()>().await;
                };
                tokio::join!(asking, answering)
            });
        }
    });
    address
}

/// Goal: the guards hold for tonic's own server: a connection that takes nothing is cut, and delays
/// no stop.
#[tokio::test]
async fn tonics_own_server_is_guarded() {
    for (write_timeout_ms, shutdown_ms) in [(1_000, 60_000), (60_000, 1_500)] {
        let broker = broker_with_large_events().await;
        let edge = Edge::new(broker.clone());
        let config = config(write_timeout_ms, shutdown_ms);
        let guard = HostGuard::new(&edge, &config, &Default::default()).expect("guards");
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.address().expect("an address");
        let layer = guard.layer(&AccessConfig::default(), &listener).expect("a layer");
        let routes = Routes::from(grpc::routes(&edge).into_axum_router().layer(layer));
        let (incoming, stop) = (guard.incoming(listener), broker.clone());
        let serving = tokio::spawn(async move {
            let stop = async move { stop.draining().await };
            let server = tonic::transport::Server::builder().add_routes(routes);
            server.serve_with_incoming_shutdown(incoming, stop).await.expect("an end in order");
        });
        let follow = async |address: SocketAddr| {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
            let endpoint = endpoint.initial_stream_window_size(Some(64 << 20));
            let endpoint = endpoint.initial_connection_window_size(Some(64 << 20));
            let channel = soon(endpoint.connect()).await.expect("a connection");
            let mut client = SubscriberServiceClient::new(channel);
            let member = proto::Member { id: "stalled".to_owned(), ..Default::default() };
            let request = proto::SubscribeRequest {
                topic: "large".to_owned(),
                from: "earliest".to_owned(),
                member: Some(member),
                ..Default::default()
            };
            soon(client.subscribe(request)).await.expect("a stream").into_inner()
        };
        drop(guard); // The sockets keep what guards them.
        let mut stream = follow(address).await;
        soon(stream.message()).await.expect("a message").expect("a beginning");
        drop(stream);
        let stalled = follow(stalling_proxy(address).await).await;
        if write_timeout_ms < shutdown_ms {
            comes_and_goes(&broker).await;
        }
        let started = Instant::now();
        broker.drain();
        soon(serving).await.expect("no panic");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?}");
        drop(stalled);
        soon(broker.close()).await;
    }
}
