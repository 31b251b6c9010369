//! A gRPC service of the host's own, written by hand, beside those of the broker on one port.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http;
use leftoff::edge::proto;
use leftoff::edge::proto::subscriber_service_client::SubscriberServiceClient;
use leftoff::server::{Listener, Protocols, Server, Shutdown};
use leftoff::{Broker, NewEvent, OpenConfig, Publish};
use leftoff_host::{get, soon};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::InterceptorLayer;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tower::Service;

const NAME: &str = "host.v1.GreeterService";
const GREET: &str = "/host.v1.GreeterService/Greet";

/// The only message of the host's service.
#[derive(Clone, PartialEq, prost::Message)]
struct Greeting {
    #[prost(string, tag = "1")]
    text: String,
}

/// The host's service.
#[derive(Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = NAME;
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() != GREET {
                return Ok(Status::unimplemented("the host has no such call").into_http());
            }
            let greet = tower::service_fn(async |request: Request<Greeting>| {
                let text = format!("hello {}", request.into_inner().text);
                Ok::<_, Status>(Response::new(Greeting { text }))
            });
            let codec = ProstCodec::<Greeting, Greeting>::default();
            Ok(tonic::server::Grpc::new(codec).unary(greet, request).await)
        })
    }
}

/// Calls the host's service.
async fn greet(channel: &Channel, key: &str, path: &'static str) -> Result<String, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    soon(client.ready()).await.expect("a connection");
    let codec = ProstCodec::<Greeting, Greeting>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let request = with_key(key, Greeting { text: "world".to_owned() });
    soon(client.unary(request, path, codec)).await.map(|answer| answer.into_inner().text)
}

fn with_key<M>(key: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-key", key.parse().expect("a value"));
    request
}

/// Goal: the host's service and the broker's are on one port, an interceptor is around all of them
/// and around nothing else, and health names them.
#[tokio::test]
async fn a_service_of_the_host_is_beside_those_of_the_broker() {
    let broker = Broker::in_memory(&OpenConfig::default()).expect("a broker");
    let event = Publish::one("orders".parse().expect("a name"), NewEvent::new("one"));
    soon(broker.publish(event)).await.expect("an acknowledgement");
    let interceptor = |request: Request<()>| match request.metadata().get("x-key") {
        Some(key) if key == "secret" => Ok(request),
        _ => Err(Status::unauthenticated("send the key")),
    };
    let server = Server::builder(broker)
        .service(Greeter)
        .grpc_layer(InterceptorLayer::new(interceptor))
        .listen(Listener::bind(([127, 0, 0, 1], 0).into()).expect("a port"));
    let server = soon(server.bind()).await.expect("a server");
    let address = server.address(Protocols::Grpc).expect("an address");
    let shutdown = Shutdown::default();
    let serving = tokio::spawn(server.run(shutdown.clone()));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    let channel = soon(endpoint.connect()).await.expect("a connection");

    assert_eq!(greet(&channel, "secret", GREET).await.expect("a greeting"), "hello world");
    let unknown = greet(&channel, "secret", "/host.v1.GreeterService/Dance").await;
    let unknown = unknown.expect_err("no such call");
    assert_eq!(unknown.message(), "the host has no such call", "the host answers for its service");
    let stranger = greet(&channel, "wrong", GREET).await.expect_err("a wrong key");
    assert_eq!((stranger.code(), stranger.message()), (Code::Unauthenticated, "send the key"));

    let mut events = SubscriberServiceClient::new(channel.clone());
    let read = || proto::ReadRequest { topic: "orders".to_owned(), ..Default::default() };
    let page = soon(events.read(with_key("secret", read()))).await.expect("a page").into_inner();
    assert_eq!(&page.events[0].payload[..], b"one");
    let stranger = soon(events.read(with_key("wrong", read()))).await.expect_err("a wrong key");
    assert_eq!(stranger.code(), Code::Unauthenticated);

    let mut health = HealthClient::new(channel);
    for service in ["", NAME, "leftoff.v1.SubscriberService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = soon(health.check(with_key("secret", request))).await.expect("its health");
        assert_eq!(answer.into_inner().status, 1, "{service:?} serves");
    }
    let request = HealthCheckRequest { service: "host.v1.Other".to_owned() };
    let unknown = soon(health.check(with_key("secret", request))).await.expect_err("no service");
    assert_eq!(unknown.code(), Code::NotFound);

    let socket = soon(TcpStream::connect(address)).await.expect("a connection");
    let page = get(socket, "/v1/topics/orders/events", &[]).await;
    assert!(page.contains("\"one\""), "the interceptor is not around HTTP: {page}");
    shutdown.start();
    soon(serving).await.expect("the server stops");
}
